// SPDX-License-Identifier: Apache-2.0

package filter

import "sidecar/dataplane/route"

// Demand is what a request lacks and the control side may find: a virtual host that a route configuration gets over VHDS. It is a value: requests of one
// worker that lack the same wait for one answer.
type Demand struct {
	Routes *route.TableRef // the route configuration
	Name   string          // the host as requested, in lower case, with its port
}
