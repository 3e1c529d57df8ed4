// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"fmt"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hiv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/http_inspector/v3"
	odv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	ppv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/proxy_protocol/v3"
	tiv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	"google.golang.org/protobuf/proto"

	"sidecar/dataplane/snapshot"
	"sidecar/internal/telemetry/stats"
	"sidecar/xds/registry"
)

var (
	tlsInspectorDef  = stats.TLSInspectorDef
	httpInspectorDef = stats.HTTPInspectorDef
)

// ListenerFilters is the table of listener filters.
var ListenerFilters = registry.MustTable("listener filters", []registry.Row[snapshot.ListenerFilter]{
	{Name: "envoy.filters.listener.original_dst", Message: &odv3.OriginalDst{}, Compile: func(*registry.Ctx, proto.Message) (snapshot.ListenerFilter, error) {
		return snapshot.ListenerFilter{Kind: snapshot.FilterOriginalDst}, nil
	}},
	{Name: "envoy.filters.listener.tls_inspector", Message: &tiv3.TlsInspector{}, Compile: func(c *registry.Ctx, _ proto.Message) (snapshot.ListenerFilter, error) {
		env := registry.EnvOf[*Env](c)
		return snapshot.ListenerFilter{Kind: snapshot.FilterTLSInspector, Scope: env.Stats.Scope("tls_inspector.", tlsInspectorDef)}, nil
	}},
	{Name: "envoy.filters.listener.http_inspector", Message: &hiv3.HttpInspector{}, Compile: func(c *registry.Ctx, _ proto.Message) (snapshot.ListenerFilter, error) {
		env := registry.EnvOf[*Env](c)
		return snapshot.ListenerFilter{Kind: snapshot.FilterHTTPInspector, Scope: env.Stats.Scope("http_inspector.", httpInspectorDef)}, nil
	}},
	{Name: "envoy.filters.listener.proxy_protocol", Message: &ppv3.ProxyProtocol{}, Compile: func(c *registry.Ctx, m proto.Message) (snapshot.ListenerFilter, error) {
		return proxyProtocol(c, m.(*ppv3.ProxyProtocol))
	}},
}, map[string]string{
	"type.googleapis.com/envoy.extensions.filters.listener.original_src.v3.OriginalSrc":       "original source addresses",
	"type.googleapis.com/envoy.extensions.filters.listener.local_ratelimit.v3.LocalRateLimit": "policies",
})

func proxyProtocol(c *registry.Ctx, p *ppv3.ProxyProtocol) (snapshot.ListenerFilter, error) {
	env := registry.EnvOf[*Env](c)
	prefix := "proxy_proto."
	if p.GetStatPrefix() != "" {
		prefix += p.GetStatPrefix() + "."
	}
	out := snapshot.ListenerFilter{Kind: snapshot.FilterProxyProtocol, AllowRequestsWithoutProxy: p.GetAllowRequestsWithoutProxyProtocol(),
		StatPrefix: p.GetStatPrefix(), Scope: env.Stats.Scope(prefix, stats.ProxyProtocolDef),
		ErrScope: env.Stats.Scope("", stats.ProxyProtoErrorDef)}
	for _, v := range p.GetDisallowedVersions() {
		out.DisallowV1 = out.DisallowV1 || v == corev3.ProxyProtocolConfig_V1
		out.DisallowV2 = out.DisallowV2 || v == corev3.ProxyProtocolConfig_V2
	}
	for i, r := range p.GetRules() {
		if r.GetTlvType() > 255 {
			return out, c.Errorf(registry.Path(fmt.Sprintf("rules[%d].tlv_type", i)), "value must be less than 256")
		}
		if r.GetOnTlvPresent() == nil {
			continue
		}
		ns := r.GetOnTlvPresent().GetMetadataNamespace()
		if ns == "" {
			ns = "envoy.filters.listener.proxy_protocol"
		}
		out.Rules = append(out.Rules, snapshot.TLVRule{Type: byte(r.GetTlvType()), Namespace: ns, Key: r.GetOnTlvPresent().GetKey()})
	}
	return out, nil
}

func (s *state) listenerFilters(c *registry.Ctx, l *listenerv3.Listener) {
	if l.GetUseOriginalDst().GetValue() {
		// The deprecated field implies the filter, unless it is configured.
		s.l.Filters = append(s.l.Filters, snapshot.ListenerFilter{Kind: snapshot.FilterOriginalDst, Name: "envoy.filters.listener.original_dst"})
	}
	for i, f := range l.GetListenerFilters() {
		at := registry.Path(fmt.Sprintf("listener_filters[%d]", i))
		lf := snapshot.ListenerFilter{Kind: snapshot.FilterMissing}
		var err error
		if f.GetConfigDiscovery() == nil {
			if lf, err = ListenerFilters.Compile(c, at.Field("typed_config"), f.GetName(), f.GetTypedConfig()); err != nil {
				s.fail(err)
				continue
			}
		}
		lf.Name = f.GetName()
		if f.GetFilterDisabled() != nil {
			lf.Disabled, err = predicate(c.At(at.Field("filter_disabled")), f.GetFilterDisabled(), 0)
			s.fail(err)
		}
		if lf.Kind == snapshot.FilterOriginalDst && hasFilter(s.l, snapshot.FilterOriginalDst) {
			continue
		}
		s.l.Filters = append(s.l.Filters, lf)
		if d := f.GetConfigDiscovery(); d != nil {
			n := len(s.l.Filters) - 1
			s.discoveredPlace(c.At(at.Field("config_discovery")), DiscoveredListener, f.GetName(), d, func(w *DiscoveredPlace) { w.Index = n })
		}
	}
	if len(s.l.Addrs) > 0 {
		s.l.StatName = clean(s.l.Addrs[0].Addr.String())
	}
	if s.l.Internal {
		s.l.StatName = clean("envoy_internal_" + s.l.Name)
	}
	if p := l.GetStatPrefix(); p != "" {
		s.l.StatName = clean(p)
	}
}

// predicateDepth bounds the nesting of filter_disabled.
const predicateDepth = 32

func predicate(c *registry.Ctx, p *listenerv3.ListenerFilterChainMatchPredicate, depth int) (*snapshot.ListenerPredicate, error) {
	if depth > predicateDepth {
		return nil, c.Errorf("", "nested too deeply (limit %d)", predicateDepth)
	}
	out := &snapshot.ListenerPredicate{}
	set := func(in []*listenerv3.ListenerFilterChainMatchPredicate, field string) ([]*snapshot.ListenerPredicate, error) {
		r := []*snapshot.ListenerPredicate{}
		for i, q := range in {
			x, err := predicate(c.At(registry.Path(fmt.Sprintf("%s.rules[%d]", field, i))), q, depth+1)
			if err != nil {
				return nil, err
			}
			r = append(r, x)
		}
		return r, nil
	}
	var err error
	switch r := p.GetRule().(type) {
	case *listenerv3.ListenerFilterChainMatchPredicate_OrMatch:
		out.Or, err = set(r.OrMatch.GetRules(), "or_match")
	case *listenerv3.ListenerFilterChainMatchPredicate_AndMatch:
		out.And, err = set(r.AndMatch.GetRules(), "and_match")
	case *listenerv3.ListenerFilterChainMatchPredicate_NotMatch:
		out.Not, err = predicate(c.At("not_match"), r.NotMatch, depth+1)
	case *listenerv3.ListenerFilterChainMatchPredicate_AnyMatch:
		out.Any = true
	case *listenerv3.ListenerFilterChainMatchPredicate_DestinationPortRange:
		a, b := r.DestinationPortRange.GetStart(), r.DestinationPortRange.GetEnd()
		if a < 0 || b < a || b > 65536 {
			return nil, c.Errorf("destination_port_range", "invalid range [%d, %d)", a, b)
		}
		out.IsPort, out.PortStart, out.PortEnd = true, uint16(a), uint16(min(b, 65535))
	default:
		return nil, c.Errorf("", "a predicate needs a rule")
	}
	return out, err
}
