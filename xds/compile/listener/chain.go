// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"fmt"
	"net/netip"
	"strconv"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/proto"

	"sidecar/dataplane/snapshot"
	"sidecar/xds/compile/transportsocket"
	"sidecar/xds/registry"
)

// network is what a network filter row compiles to: it fills its part of the chain.
type network func(s *state, c *registry.Ctx, fc *snapshot.FilterChain)

// NetworkFilters is the table of network filters.
var NetworkFilters = registry.MustTable("network filters", []registry.Row[network]{
	{Name: "envoy.filters.network.http_connection_manager", Message: &hcmv3.HttpConnectionManager{}, Status: registry.StatusStable,
		Compile: func(_ *registry.Ctx, m proto.Message) (network, error) {
			h := m.(*hcmv3.HttpConnectionManager)
			return func(s *state, c *registry.Ctx, fc *snapshot.FilterChain) { fc.HTTP = s.hcm(c, h) }, nil
		}},
	{Name: "envoy.filters.network.tcp_proxy", Message: &tcpv3.TcpProxy{}, Status: registry.StatusStable,
		Compile: func(_ *registry.Ctx, m proto.Message) (network, error) {
			t := m.(*tcpv3.TcpProxy)
			return func(s *state, c *registry.Ctx, fc *snapshot.FilterChain) { fc.TCP = s.tcp(c, t) }, nil
		}},
}, map[string]string{
	"type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC":                              "policies",
	"type.googleapis.com/envoy.extensions.filters.network.ext_authz.v3.ExtAuthz":                     "policies",
	"type.googleapis.com/envoy.tcp.metadataexchange.config.MetadataExchange":                         "Istio's filters",
	"type.googleapis.com/stats.PluginConfig":                                                         "Istio's filters",
	"type.googleapis.com/envoy.extensions.filters.network.mongo_proxy.v3.MongoProxy":                 "Istio's filters",
	"type.googleapis.com/envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit":         "policies",
	"type.googleapis.com/envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit":       "policies",
	"type.googleapis.com/envoy.extensions.filters.network.set_filter_state.v3.Config":                "Istio's filters",
	"type.googleapis.com/envoy.extensions.filters.network.sni_dynamic_forward_proxy.v3.FilterConfig": "dynamic forward proxy",
})

func (s *state) chains(c *registry.Ctx, l *listenerv3.Listener) {
	x := s.l
	if len(l.GetFilterChains()) == 0 && l.GetDefaultFilterChain() == nil {
		s.fail(c.Errorf("filter_chains", "no filter chains specified"))
		return
	}
	for i, fc := range l.GetFilterChains() {
		at := registry.Path(fmt.Sprintf("filter_chains[%d]", i))
		x.Chains = append(x.Chains, s.chain(c.At(at), fc, i))
	}
	if fc := l.GetDefaultFilterChain(); fc != nil {
		x.Default = s.chain(c.At("default_filter_chain"), fc, -1)
	}
	idx, err := snapshot.NewChainIndex(x.Chains)
	if err != nil {
		s.fail(c.Errorf("filter_chains", "%w", err))
	}
	x.Match = idx
	if chain := needsTLS(x); chain != "" && !hasFilter(x, snapshot.FilterTLSInspector) && !hasFilter(x, snapshot.FilterHTTPInspector) && !x.Missing() {
		// Envoy 1.40 does not add the inspector by itself any more, and says nothing.
		c.Warnf("listener_filters", "filter chain %q asks for facts of TLS, which only envoy.filters.listener.tls_inspector finds out", chain)
	}
}

// needsTLS names a chain that asks for what only the TLS inspector knows; one that asks for raw_buffer does not.
func needsTLS(x *snapshot.Listener) string {
	for _, c := range x.Chains {
		if m := &c.Match; m.Transport == "tls" || m.Transport == "" && (len(m.ServerNames) > 0 || len(m.ALPN) > 0) {
			return c.Name
		}
	}
	return ""
}

func hasFilter(x *snapshot.Listener, k snapshot.ListenerFilterKind) bool {
	for i := range x.Filters {
		if x.Filters[i].Kind == k {
			return true
		}
	}
	return false
}

func (s *state) chain(c *registry.Ctx, fc *listenerv3.FilterChain, i int) *snapshot.FilterChain {
	out := &snapshot.FilterChain{Name: fc.GetName(), Metadata: plainMetadata(fc.GetMetadata()),
		ConnectTimeout: nanos(fc.GetTransportSocketConnectTimeout(), 0)}
	out.DrainKey = mixHash(hashProto(fc), s.l.Name)
	s.chainMatch(c.At("filter_chain_match"), fc.GetFilterChainMatch(), &out.Match)
	s.transportSocket(c.At("transport_socket"), fc.GetTransportSocket(), out, i)
	for j, f := range fc.GetFilters() {
		at := registry.Path(fmt.Sprintf("filters[%d]", j))
		if d := f.GetConfigDiscovery(); d != nil {
			if at = at.Field("config_discovery"); j != len(fc.GetFilters())-1 {
				s.fail(c.Errorf(at, "every network filter that is supported must be the last one"))
				continue
			}
			out.Discovered = true
			s.discoveredPlace(c.At(at), DiscoveredNetwork, f.GetName(), d, func(w *DiscoveredPlace) { w.Chain = out })
			continue
		}
		n, err := NetworkFilters.Compile(c, at.Field("typed_config"), f.GetName(), f.GetTypedConfig())
		if err != nil {
			s.fail(err)
			continue
		}
		if j != len(fc.GetFilters())-1 {
			s.fail(c.Errorf(at, "Error: terminal filter named %s of type %s must be the last filter in a network filter chain.", f.GetName(), f.GetName()))
			continue
		}
		n(s, c.At(at.Field("typed_config")), out)
	}
	return out
}

// transportSocket compiles the transport socket of chain i (-1: the default chain). Sessions are kept apart by listener and chain.
func (s *state) transportSocket(c *registry.Ctx, ts *corev3.TransportSocket, fc *snapshot.FilterChain, i int) {
	scope := s.l.Name + "\x00" + fc.Name
	if fc.Name == "" {
		scope += strconv.Itoa(i)
	}
	out, err := transportsocket.Downstream(c, s.env.Secrets, ts, scope)
	s.fail(err)
	if fc.TLS = out.TLS; fc.TLS != nil {
		s.out.TLS = append(s.out.TLS, out)
	}
}

func (s *state) chainMatch(c *registry.Ctx, m *listenerv3.FilterChainMatch, out *snapshot.ChainMatch) {
	if m == nil {
		return
	}
	out.DestPort = uint16(m.GetDestinationPort().GetValue())
	out.DestRanges = s.cidrs(c, "prefix_ranges", m.GetPrefixRanges())
	out.SourceRanges = s.cidrs(c, "source_prefix_ranges", m.GetSourcePrefixRanges())
	out.DirectSourceRanges = s.cidrs(c, "direct_source_prefix_ranges", m.GetDirectSourcePrefixRanges())
	out.SourceType = uint8(m.GetSourceType())
	for _, p := range m.GetSourcePorts() {
		out.SourcePorts = append(out.SourcePorts, uint16(p))
	}
	out.ServerNames = m.GetServerNames()
	out.Transport = m.GetTransportProtocol()
	out.ALPN = m.GetApplicationProtocols()
}

func (s *state) cidrs(c *registry.Ctx, field string, in []*corev3.CidrRange) []netip.Prefix {
	var out []netip.Prefix
	for i, r := range in {
		p, err := CIDR(r)
		if err != nil {
			s.fail(c.Errorf(registry.Path(fmt.Sprintf("%s[%d]", field, i)), "%w", err))
			continue
		}
		out = append(out, p)
	}
	return out
}

// CIDR compiles a CidrRange; host bits are cleared, as Envoy does.
func CIDR(r *corev3.CidrRange) (netip.Prefix, error) {
	a, err := netip.ParseAddr(r.GetAddressPrefix())
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("malformed IP address: %s", r.GetAddressPrefix())
	}
	n := int(r.GetPrefixLen().GetValue())
	if n > a.BitLen() {
		return netip.Prefix{}, fmt.Errorf("invalid ip/mask combo '%s/%d'", r.GetAddressPrefix(), n)
	}
	return netip.PrefixFrom(a.WithZone(""), n).Masked(), nil
}
