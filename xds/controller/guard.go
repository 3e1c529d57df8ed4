// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"runtime/debug"

	"sidecar/xds/ads"
	"sidecar/xds/resource"
)

// panickedMax bounds the different panics whose stacks are logged.
const panickedMax = 64

// guard runs one step that decodes or compiles a resource. A panic in it is a bug of ours that must not take the process down: the resource is refused,
// what there was keeps serving, and the stack is logged once. fn must not change control state.
func (c *Controller) guard(t resource.Type, name string, fn func() error) (err error) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		err = fmt.Errorf("panic while it was compiled, which is a bug in sidecar: %v", p)
		if key := t.String() + "/" + fmt.Sprint(p); !c.panicked[key] && len(c.panicked) < panickedMax {
			c.panicked[key] = true
			c.cfg.Log("critical", "config", "bug: panic while compiling %s %q: %v\n%s", t.What(), name, p, debug.Stack())
		}
	}()
	return fn()
}

// decode is resource.Decode that survives a panic.
func (c *Controller) decode(t resource.Type, raw *ads.Raw) (d *resource.Decoded, err error) {
	err = c.guard(t, raw.Name, func() (err error) {
		d, err = resource.Decode(t, raw.TypeURL, raw.Body, resource.Options{})
		return err
	})
	return d, err
}
