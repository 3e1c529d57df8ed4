// SPDX-License-Identifier: Apache-2.0

package routeconfig

import (
	"regexp"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"sidecar/dataplane/route"
	"sidecar/internal/telemetry/stats"
	"sidecar/xds/compile/matcher"
	"sidecar/xds/registry"
)

func (s *state) route(c *registry.Ctx, r *routev3.Route, vh *route.VirtualHost) *route.Entry {
	e := &route.Entry{Name: r.GetName(), VHost: vh, StatPrefix: r.GetStatPrefix(), Metadata: s.metadata(c, "metadata", r.GetMetadata())}
	if r.GetMatch() == nil {
		s.fail(c.Errorf("match", "value is required"))
	} else {
		m := c.At("match")
		s.path(m, r.GetMatch(), e)
		e.Cond = s.conditions(m, r.GetMatch())
	}
	e.Mutations = s.mutations(c, r)
	e.PerFilter = s.perFilter(c, r.GetTypedPerFilterConfig())
	if d := r.GetDecorator(); d != nil && d.GetOperation() == "" { // it names spans, and nothing traces here
		s.fail(c.Errorf("decorator.operation", "value length must be at least 1 characters"))
	}
	if e.StatPrefix != "" && s.ctx.Stats != nil {
		e.Stats = s.ctx.Stats.Scope("vhost."+vh.Name+".route."+e.StatPrefix+".", stats.VirtualClusterDef)
	}
	switch a := r.GetAction().(type) {
	case *routev3.Route_Route:
		e.Kind = route.ActionForward
		e.Forward = s.forward(c.At("route"), a.Route, e, vh)
	case *routev3.Route_Redirect:
		e.Kind = route.ActionRedirect
		e.Redirect = s.redirect(c.At("redirect"), a.Redirect)
	case *routev3.Route_DirectResponse:
		e.Kind = route.ActionDirect
		e.Direct = s.direct(c.At("direct_response"), a.DirectResponse)
	case *routev3.Route_NonForwardingAction:
		e.Kind = route.ActionNonForwarding
	case *routev3.Route_FilterAction: // refused by the table
	default:
		s.fail(c.Errorf("action", "is required"))
	}
	return e
}

// separatedPrefix is what the API demands of path_separated_prefix.
var separatedPrefix = regexp.MustCompile(`^[^?#]+[^?#/]$`)

func (s *state) path(c *registry.Ctx, m *routev3.RouteMatch, e *route.Entry) {
	p := &e.Path
	insensitive := m.GetCaseSensitive() != nil && !m.GetCaseSensitive().GetValue()
	switch v := m.GetPathSpecifier().(type) {
	case *routev3.RouteMatch_Prefix:
		*p = route.PathMatch{Kind: route.PathPrefix, Text: v.Prefix, IgnoreCase: insensitive}
	case *routev3.RouteMatch_Path:
		*p = route.PathMatch{Kind: route.PathExact, Text: v.Path, IgnoreCase: insensitive}
	case *routev3.RouteMatch_PathSeparatedPrefix:
		*p = route.PathMatch{Kind: route.PathSeparated, Text: v.PathSeparatedPrefix, IgnoreCase: insensitive}
		if !separatedPrefix.MatchString(v.PathSeparatedPrefix) {
			s.fail(c.Errorf("path_separated_prefix", `value does not match regex pattern "^[^?#]+[^?#/]$"`))
		}
	case *routev3.RouteMatch_SafeRegex:
		r, err := matcher.Regex(c, "safe_regex", v.SafeRegex)
		s.fail(err)
		*p = route.PathMatch{Kind: route.PathRegex, Text: v.SafeRegex.GetRegex(), Regex: r}
	case *routev3.RouteMatch_ConnectMatcher_:
		p.Kind = route.PathConnect
	case *routev3.RouteMatch_PathMatchPolicy:
		s.pathTemplate(c, v.PathMatchPolicy, p)
	default:
		s.fail(c.Errorf("path_specifier", "is required"))
	}
}

// conditions compiles everything but the path; nil when there is nothing else.
func (s *state) conditions(c *registry.Ctx, m *routev3.RouteMatch) *route.Conditions {
	if m.GetRuntimeFraction() == nil && len(m.GetHeaders())+len(m.GetQueryParameters())+len(m.GetCookies()) == 0 && m.GetGrpc() == nil &&
		m.GetTlsContext() == nil && len(m.GetDynamicMetadata())+len(m.GetFilterState()) == 0 {
		return nil
	}
	var out route.Conditions
	any := false
	if f := m.GetRuntimeFraction(); f != nil {
		rf, err := matcher.RuntimeFraction(c, "runtime_fraction", f)
		s.fail(err)
		// A fraction that nothing can change and that is always hit is no condition.
		if rf != nil && (rf.Key != "" || rf.Default.Num < rf.Default.Den) {
			out.Fraction, any = rf, true
		}
	}
	for i, h := range m.GetHeaders() {
		out.Headers, any = add(s, out.Headers, c, registry.Path("").Index("headers", i), h, matcher.Header), true
	}
	for i, q := range m.GetQueryParameters() {
		out.Query, any = add(s, out.Query, c, registry.Path("").Index("query_parameters", i), q, matcher.Query), true
	}
	for i, k := range m.GetCookies() {
		out.Cookies, any = add(s, out.Cookies, c, registry.Path("").Index("cookies", i), k, matcher.Cookie), true
	}
	if m.GetGrpc() != nil {
		out.GRPC, any = true, true
	}
	if t := m.GetTlsContext(); t != nil {
		out.Presented, any = boolPtr(t.GetPresented()), true
		out.Validated = boolPtr(t.GetValidated())
	}
	for i, d := range m.GetDynamicMetadata() {
		out.Metadata, any = add(s, out.Metadata, c, registry.Path("").Index("dynamic_metadata", i), d, matcher.Metadata), true
	}
	for i, f := range m.GetFilterState() {
		out.FilterState, any = add(s, out.FilterState, c, registry.Path("").Index("filter_state", i), f, matcher.FilterState), true
	}
	if !any {
		return nil
	}
	return &out
}

func boolPtr(v *wrapperspb.BoolValue) *bool {
	if v == nil {
		return nil
	}
	b := v.GetValue()
	return &b
}

// add compiles m and appends it, or keeps the error.
func add[M, C any](s *state, list []C, c *registry.Ctx, at registry.Path, m M, compile func(*registry.Ctx, registry.Path, M) (C, error)) []C {
	x, err := compile(c, at, m)
	s.fail(err)
	return append(list, x)
}
