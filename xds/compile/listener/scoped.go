// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"fmt"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"

	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/match"
	"sidecar/dataplane/route"
	"sidecar/dataplane/snapshot"
	"sidecar/xds/registry"
	"sidecar/xds/resource"
)

// defaultFetchTimeout is Envoy's default of initial_fetch_timeout.
const defaultFetchTimeout = 15 * time.Second

// Scoped is the scoped routes of HTTP connection managers. Equal ones of different listeners have the same Key and Ref.
type Scoped struct {
	Key        string
	Ref        *route.ScopesRef
	Name       string // scoped_routes.name
	StatPrefix string // of the connection manager
	// Source is where the scopes come from (SRDS), nil when Inline lists them.
	Source       *corev3.ConfigSource
	FetchTimeout time.Duration
	Inline       []*routev3.ScopedRouteConfiguration
	// Routes is where the route configurations of the scopes come from.
	Routes             *corev3.ConfigSource
	RoutesFetchTimeout time.Duration
}

func fetchTimeout(src *corev3.ConfigSource) time.Duration {
	if d := src.GetInitialFetchTimeout(); d != nil {
		return d.AsDuration()
	}
	return defaultFetchTimeout
}

func (s *state) hcmScoped(c *registry.Ctx, h *hcmv3.HttpConnectionManager, out *snapshot.HCM) {
	r := h.GetScopedRoutes()
	w := Scoped{Name: r.GetName(), StatPrefix: clean(h.GetStatPrefix()), Routes: r.GetRdsConfigSource()}
	w.Key = fmt.Sprintf("%s/%x", w.StatPrefix, resource.HashOf(r))
	c = c.At("scoped_routes")
	frags := r.GetScopeKeyBuilder().GetFragments()
	if len(frags) > route.ScopeFragmentsMax {
		s.fail(c.Errorf("scope_key_builder.fragments", "at most %d are supported, got %d", route.ScopeFragmentsMax, len(frags)))
		return
	}
	ref := &route.ScopesRef{Name: w.Name}
	for i, f := range frags {
		ref.Builders = append(ref.Builders, s.scopeFragment(c.At(registry.Path("scope_key_builder").Index("fragments", i)), f.GetHeaderValueExtractor()))
	}
	if w.Routes == nil {
		s.fail(c.Errorf("rds_config_source", "must be set"))
	}
	w.RoutesFetchTimeout = fetchTimeout(w.Routes)
	if list := r.GetScopedRouteConfigurationsList(); list != nil {
		w.Inline = list.GetScopedRouteConfigurations()
	} else {
		w.Source = r.GetScopedRds().GetScopedRdsConfigSource()
		w.FetchTimeout = fetchTimeout(w.Source)
	}
	for i := range s.out.Scoped {
		if s.out.Scoped[i].Key == w.Key {
			out.Scoped = s.out.Scoped[i].Ref
			return
		}
	}
	if w.Ref = s.env.Scopes(w.Key); w.Ref == nil {
		w.Ref = ref
	}
	out.Scoped = w.Ref
	s.out.Scoped = append(s.out.Scoped, w)
}

func (s *state) scopeFragment(c *registry.Ctx, x *hcmv3.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder_HeaderValueExtractor) route.ScopeFragment {
	k := httpmsg.KeyOf(x.GetName())
	f := route.ScopeFragment{Key: k, Pseudo: match.PseudoOf(k.Name), Separator: x.GetElementSeparator(), Index: int(x.GetIndex())}
	switch e := x.GetElement(); {
	case e != nil:
		f.KeySeparator, f.ElementKey = e.GetSeparator(), e.GetKey()
	case f.Separator == "" && f.Index != 0:
		s.fail(c.Errorf("header_value_extractor.index", "Index > 0 for empty string element separator."))
	}
	return f
}

// ScopeOf checks a scoped route configuration and returns its key.
func ScopeOf(c *registry.Ctx, r *routev3.ScopedRouteConfiguration) ([]string, error) {
	if err := c.Check(r); err != nil {
		return nil, err
	}
	if r.GetRouteConfigurationName() == "" {
		return nil, c.Errorf("route_configuration_name", "must be set")
	}
	key := make([]string, 0, len(r.GetKey().GetFragments()))
	for _, f := range r.GetKey().GetFragments() {
		key = append(key, f.GetStringKey())
	}
	return key, nil
}
