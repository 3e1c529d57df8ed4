// SPDX-License-Identifier: Apache-2.0

package controller

import "maps"

// SetRuntime changes the admin layer of the runtime (POST /runtime_modify): an empty value removes a key. The new generation is in the next
// snapshot. Any goroutine.
func (c *Controller) SetRuntime(values map[string]string) {
	values = maps.Clone(values)
	c.Post(func() {
		for k, v := range values {
			if v == "" {
				delete(c.admin, k)
			} else {
				c.admin[k] = v
			}
		}
		c.runtime = c.cfg.Compile.Runtime(maps.Clone(c.admin))
		c.dirty.runtime = true
	})
}

// AdminRuntime is a copy of the admin layer; control goroutine only (use Call).
func (c *Controller) AdminRuntime() map[string]string { return maps.Clone(c.admin) }
