// SPDX-License-Identifier: Apache-2.0

package routeconfig

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"sidecar/dataplane/route"
	"sidecar/xds/registry"
)

func (s *state) pathTemplate(c *registry.Ctx, e *corev3.TypedExtensionConfig, p *route.PathMatch) {
	s.fail(c.Errorf("path_match_policy", "%w (URI templates)", registry.ErrLater))
}

func (s *state) rewriteTemplate(c *registry.Ctx, x *corev3.TypedExtensionConfig, e *route.Entry) *route.Template {
	s.fail(c.Errorf("path_rewrite_policy", "%w (URI templates)", registry.ErrLater))
	return nil
}
