// SPDX-License-Identifier: Apache-2.0

package routeconfig

import (
	"errors"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"sidecar/dataplane/route"
	"sidecar/xds/registry"
)

// Headers compiles a list of response header additions outside of a route configuration: those of local reply mappers. c.Path is the list's own
// place without index.
func Headers(c *registry.Ctx, in []*corev3.HeaderValueOption) (route.Mutations, error) {
	var m route.Mutations
	var errs []error
	for i, h := range in {
		op, err := headerOp(c, registry.Path("").Index("", i), h, true)
		errs = append(errs, err)
		m.Response.Add = append(m.Response.Add, op)
	}
	return m, errors.Join(errs...)
}
