// SPDX-License-Identifier: Apache-2.0

package routeconfig

import (
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"sidecar/dataplane/route"
	"sidecar/internal/telemetry/stats"
	"sidecar/xds/compile/matcher"
	"sidecar/xds/registry"
)

// defaultDirectBody is max_direct_response_body_size_bytes when it is not set.
const defaultDirectBody = 4096

func (s *state) table(c *registry.Ctx, rc *routev3.RouteConfiguration) *route.Table {
	t := &route.Table{
		Name: rc.GetName(), MostSpecificWins: rc.GetMostSpecificHeaderMutationsWins(), IgnorePort: rc.GetIgnorePortInHostMatching(),
		IgnorePathParameters: rc.GetIgnorePathParametersInPathMatching(), MaxDirectBody: defaultDirectBody,
		Metadata: s.metadata(c, "metadata", rc.GetMetadata()),
	}
	s.t = t
	s.validate = s.ctx.Static
	if v := rc.GetValidateClusters(); v != nil {
		s.validate = v.GetValue()
	}
	t.ValidateClusters = s.validate
	if s.ctx.Static && rc.GetVhds() != nil {
		s.fail(c.Errorf("vhds", "only a route configuration of RDS may take virtual hosts from xDS"))
	}
	if m := rc.GetMaxDirectResponseBodySizeBytes(); m != nil {
		t.MaxDirectBody = m.GetValue()
	}
	if n := rc.GetVhostHeader(); n != "" {
		t.VHostHeader = s.key(c, "vhost_header", n)
	}
	for i, n := range rc.GetInternalOnlyHeaders() {
		if k := s.key(c, registry.Path("").Index("internal_only_headers", i), n); k != nil {
			t.InternalOnly = append(t.InternalOnly, k.Name)
		}
	}
	t.Mutations = s.mutations(c, rc)
	t.PerFilter = s.perFilter(c, rc.GetTypedPerFilterConfig())
	t.Mirrors = s.mirrors(c, rc.GetRequestMirrorPolicies())
	domains := map[string]bool{}
	for i, vh := range rc.GetVirtualHosts() {
		t.VHosts = append(t.VHosts, s.virtualHost(c.At(registry.Path("").Index("virtual_hosts", i)), vh, domains))
	}
	return t
}

func (s *state) virtualHost(c *registry.Ctx, vh *routev3.VirtualHost, domains map[string]bool) *route.VirtualHost {
	v := &route.VirtualHost{
		Name: vh.GetName(), Domains: vh.GetDomains(), Table: s.t, Metadata: s.metadata(c, "metadata", vh.GetMetadata()),
		IncludeAttempts: vh.GetIncludeRequestAttemptCount(), IncludeAttemptsResp: vh.GetIncludeAttemptCountInResponse(),
	}
	if len(v.Domains) == 0 {
		s.fail(c.Errorf("domains", "value must contain at least 1 item(s)"))
	}
	for i, d := range v.Domains {
		s.domain(c, i, d, domains)
	}
	switch r := vh.GetRequireTls(); r {
	case routev3.VirtualHost_NONE:
	case routev3.VirtualHost_EXTERNAL_ONLY:
		v.RequireTLS = route.RequireTLSExternalOnly
	case routev3.VirtualHost_ALL:
		v.RequireTLS = route.RequireTLSAll
	default:
		s.fail(c.Errorf("require_tls", "value must be one of the defined enum values"))
	}
	v.Mutations = s.mutations(c, vh)
	v.PerFilter = s.perFilter(c, vh.GetTypedPerFilterConfig())
	if vh.GetRetryPolicy() != nil {
		v.Retry = s.retry(c.At("retry_policy"), vh.GetRetryPolicy())
	}
	if v.Mirrors = s.mirrors(c, vh.GetRequestMirrorPolicies()); len(v.Mirrors) == 0 {
		v.Mirrors = s.t.Mirrors
	}
	s.virtualClusters(c, v, vh)
	limit := s.bodyLimit(c, -1, vh.GetPerRequestBufferLimitBytes(), vh.GetRequestBodyBufferLimit())
	for i, r := range vh.GetRoutes() {
		e := s.route(c.At(registry.Path("").Index("routes", i)), r, v)
		e.RequestBodyLimit = s.bodyLimit(c.At(registry.Path("").Index("routes", i)), limit, r.GetPerRequestBufferLimitBytes(), r.GetRequestBodyBufferLimit())
		v.Routes = append(v.Routes, e)
	}
	return v
}

// domain checks one domain against those of all virtual hosts before.
func (s *state) domain(c *registry.Ctx, i int, d string, seen map[string]bool) {
	low := strings.ToLower(d)
	if !seen[low] {
		seen[low] = true
		return
	}
	at := registry.Path("").Index("domains", i)
	if d == "*" {
		s.fail(c.Errorf(at, "Only a single wildcard domain (\"*\") is permitted in route %s", s.t.Name))
		return
	}
	s.fail(c.Errorf(at, "Only unique values for domains are permitted. Duplicate entry of domain %s in route %s", low, s.t.Name))
}

// bodyLimit is the body buffer limit of a route or virtual host: the newer field, else the older, else def.
func (s *state) bodyLimit(c *registry.Ctx, def int64, old *wrapperspb.UInt32Value, now *wrapperspb.UInt64Value) int64 {
	switch {
	case now != nil && now.GetValue() > 1<<62:
		s.fail(c.Errorf("request_body_buffer_limit", "is too large"))
	case now != nil:
		return int64(now.GetValue())
	case old != nil:
		return int64(old.GetValue())
	}
	return def
}

func (s *state) virtualClusters(c *registry.Ctx, v *route.VirtualHost, vh *routev3.VirtualHost) {
	scope := func(name string) *stats.Scope {
		if s.ctx.Stats == nil {
			return nil
		}
		return s.ctx.Stats.Scope("vhost."+v.Name+".vcluster."+name+".", stats.VirtualClusterDef)
	}
	for i, vc := range vh.GetVirtualClusters() {
		at := registry.Path("").Index("virtual_clusters", i)
		if len(vc.GetHeaders()) == 0 {
			s.fail(c.Errorf(at, "virtual clusters must define 'headers'"))
		}
		out := route.VirtualCluster{Name: vc.GetName(), Scope: scope(vc.GetName())}
		for j, h := range vc.GetHeaders() {
			m, err := matcher.Header(c, at.Index("headers", j), h)
			s.fail(err)
			out.Headers = append(out.Headers, m)
		}
		v.VirtualClusters = append(v.VirtualClusters, out)
	}
	if len(v.VirtualClusters) > 0 {
		v.VirtualClusters = append(v.VirtualClusters, route.VirtualCluster{Name: "other", Scope: scope("other")})
	}
}

// metadata converts filter_metadata to plain values.
func (s *state) metadata(c *registry.Ctx, field registry.Path, m *corev3.Metadata) map[string]any {
	if len(m.GetTypedFilterMetadata()) > 0 {
		c.Warnf(field.Field("typed_filter_metadata"), "nothing reads typed metadata")
	}
	if len(m.GetFilterMetadata()) == 0 {
		return nil
	}
	out := make(map[string]any, len(m.GetFilterMetadata()))
	for k, st := range m.GetFilterMetadata() {
		out[k] = st.AsMap()
	}
	return out
}
