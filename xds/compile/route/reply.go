// SPDX-License-Identifier: Apache-2.0

package routeconfig

import (
	"errors"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"sidecar/dataplane/route"
	"sidecar/xds/registry"
)

// Headers compiles a list of header additions outside of a route configuration: those of local reply mappers (response) and of tunnels. c.Path is the
// list's own place without index.
func Headers(c *registry.Ctx, in []*corev3.HeaderValueOption, response bool) (route.HeaderOps, error) {
	var ops route.HeaderOps
	var errs []error
	for i, h := range in {
		op, err := headerOp(c, registry.Path("").Index("", i), h, response)
		errs = append(errs, err)
		ops.Add = append(ops.Add, op)
	}
	return ops, errors.Join(errs...)
}
