// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"net/netip"
	"strconv"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	caresv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/network/dns_resolver/cares/v3"
	gaiv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/network/dns_resolver/getaddrinfo/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"sidecar/dataplane/snapshot"
	"sidecar/xds/compile/endpoint"
	"sidecar/xds/registry"
)

// DNS says what to resolve, and how often. Assignment.Targets are the names; Assignment.Input makes host set input of the answers.
type DNS struct {
	Assignment *endpoint.DNS
	Options    DNSOptions
}

// DNSOptions are the settings of a cluster's resolver. It has the fields of resolve.Options, to which it converts.
type DNSOptions struct {
	Servers    []netip.AddrPort // nil: those of the system
	Fallback   bool             // Servers only count when the system has none (use_resolvers_as_fallback)
	TCP        bool             // use_tcp_for_dns_lookups
	NoSearch   bool             // no_default_search_domain
	Rotate     bool             // rotate_nameservers
	Timeout    time.Duration    // of one query; 0 = the system's
	Tries      int              // 0 = the system's
	EDNS       uint16           // edns0_max_payload_size; 0 = none
	Family     uint8            // dns_lookup_family, with its numbers
	Refresh    time.Duration    // dns_refresh_rate, default 5 s
	FailBase   time.Duration    // dns_failure_refresh_rate; 0 = Refresh
	FailMax    time.Duration
	Jitter     time.Duration // dns_jitter
	RespectTTL bool          // respect_dns_ttl
	MinTTL     time.Duration // dns_min_refresh_rate: shorter TTLs count as this
}

// dnsSettings are the fields that a cluster's own DNS settings and a DnsCluster extension have in common.
type dnsSettings interface {
	GetDnsRefreshRate() *durationpb.Duration
	GetDnsJitter() *durationpb.Duration
	GetRespectDnsTtl() bool
	GetTypedDnsResolverConfig() *corev3.TypedExtensionConfig
}

// dns compiles the settings of the cluster itself, or of its DnsCluster extension, which then replaces all of them.
func (s *state) dns() {
	logical := s.kind == clusterv3.Cluster_LOGICAL_DNS
	s.out.Type = snapshot.ClusterStrictDNS
	if logical {
		s.out.Type = snapshot.ClusterLogicalDNS
	}
	a, err := endpoint.CompileDNS(s.cl.GetLoadAssignment(), logical, s.c.Path.Field("load_assignment"), s.c.Unknown, s.c.Report)
	s.fail(err)
	o := DNSOptions{Refresh: 5 * time.Second, Family: uint8(s.cl.GetDnsLookupFamily())}
	from, at := dnsSettings(s.cl), registry.Path("")
	base, top := s.cl.GetDnsFailureRefreshRate().GetBaseInterval(), s.cl.GetDnsFailureRefreshRate().GetMaxInterval()
	if x := s.dnsExt; x != nil {
		from, at = x, "cluster_type.typed_config"
		base, top = x.GetDnsFailureRefreshRate().GetBaseInterval(), x.GetDnsFailureRefreshRate().GetMaxInterval()
		o.Family = uint8(max(x.GetDnsLookupFamily(), 1)) - 1 // the extension's numbers begin with UNSPECIFIED, which means AUTO
		o.MinTTL = x.GetDnsMinRefreshRate().AsDuration()
	}
	if o.Family > uint8(clusterv3.Cluster_ALL) {
		s.failf(at.Field("dns_lookup_family"), "unknown value %d", o.Family)
	}
	o.RespectTTL = from.GetRespectDnsTtl()
	if d := from.GetDnsRefreshRate(); d != nil {
		o.Refresh = d.AsDuration()
	}
	o.Jitter = max(from.GetDnsJitter().AsDuration(), 0)
	if base != nil {
		o.FailBase = base.AsDuration()
		o.FailMax = 10 * o.FailBase
		if top != nil {
			o.FailMax = top.AsDuration()
		}
		if o.FailMax < o.FailBase {
			s.failf(at.Field("dns_failure_refresh_rate"), "max_interval must not be less than base_interval")
		}
	}
	s.resolver(&o, from.GetTypedDnsResolverConfig(), at.Field("typed_dns_resolver_config"))
	s.res.DNS = &DNS{Assignment: a, Options: o}
}

// Resolvers is the table of DNS resolver extensions; each changes the options.
var Resolvers = registry.MustTable("DNS resolvers", []registry.Row[func(*state, *DNSOptions)]{
	{
		Name: "envoy.network.dns_resolver.cares", Message: &caresv3.CaresDnsResolverConfig{}, Status: registry.StatusStable, Trust: registry.TrustRobustBoth,
		Compile: func(c *registry.Ctx, m proto.Message) (func(*state, *DNSOptions), error) {
			return func(s *state, o *DNSOptions) { s.cares(m.(*caresv3.CaresDnsResolverConfig), c.Path, o) }, nil
		},
	},
	{
		Name: "envoy.network.dns_resolver.getaddrinfo", Message: &gaiv3.GetAddrInfoDnsResolverConfig{}, Status: registry.StatusStable,
		Trust: registry.TrustRobustBoth, Notes: "the system's servers, hosts file and search domains",
		Compile: func(_ *registry.Ctx, m proto.Message) (func(*state, *DNSOptions), error) {
			return func(_ *state, o *DNSOptions) {
				if n := m.(*gaiv3.GetAddrInfoDnsResolverConfig).GetNumRetries(); n != nil {
					o.Tries = int(min(n.GetValue(), 100)) + 1
				}
			}, nil
		},
	},
}, map[string]string{
	"type.googleapis.com/envoy.extensions.network.dns_resolver.apple.v3.AppleDnsResolverConfig":     "it is for macOS",
	"type.googleapis.com/envoy.extensions.network.dns_resolver.hickory.v3.HickoryDnsResolverConfig": "DNS over TLS and HTTPS",
})

// resolver picks the first of typed_dns_resolver_config, dns_resolution_config and dns_resolvers that is set, as Envoy does.
func (s *state) resolver(o *DNSOptions, ext *corev3.TypedExtensionConfig, at registry.Path) {
	o.TCP = s.cl.GetUseTcpForDnsLookups()
	switch {
	case ext != nil:
		set, err := Resolvers.Compile(s.c, at.Field("typed_config"), ext.GetName(), ext.GetTypedConfig())
		if err != nil {
			s.fail(err)
			return
		}
		set(s, o)
	case s.dnsExt != nil:
		o.TCP = false
	case s.cl.GetDnsResolutionConfig() != nil:
		c := s.cl.GetDnsResolutionConfig()
		o.Servers = s.servers(c.GetResolvers(), s.c.Path.Join("dns_resolution_config.resolvers"))
		o.TCP = c.GetDnsResolverOptions().GetUseTcpForDnsLookups()
		o.NoSearch = c.GetDnsResolverOptions().GetNoDefaultSearchDomain()
	default:
		o.Servers = s.servers(s.cl.GetDnsResolvers(), s.c.Path.Join("dns_resolvers"))
	}
}

func (s *state) cares(m *caresv3.CaresDnsResolverConfig, at registry.Path, o *DNSOptions) {
	o.Servers = s.servers(m.GetResolvers(), at.Field("resolvers"))
	o.Fallback = m.GetUseResolversAsFallback()
	o.TCP = m.GetDnsResolverOptions().GetUseTcpForDnsLookups()
	o.NoSearch = m.GetDnsResolverOptions().GetNoDefaultSearchDomain()
	o.Rotate = m.GetRotateNameservers()
	u64 := func(v *wrapperspb.UInt64Value, limit uint64) uint64 { return min(v.GetValue(), limit) }
	o.Timeout = time.Duration(u64(m.GetQueryTimeoutSeconds(), 3600)) * time.Second
	o.Tries = int(min(m.GetQueryTries().GetValue(), 100))
	o.EDNS = uint16(min(m.GetEdns0MaxPayloadSize().GetValue(), 65535))
}

// servers compiles server addresses; at is the full path of the list.
func (s *state) servers(list []*corev3.Address, at registry.Path) []netip.AddrPort {
	var out []netip.AddrPort
	for i, a := range list {
		here := at + registry.Path("["+strconv.Itoa(i)+"]")
		addr, err := endpoint.Address(a, here)
		if err != nil {
			s.fail(err)
			continue
		}
		if addr.IsUnix() {
			s.fail(&registry.FieldError{Path: here, Err: errors.New("a DNS server needs an IP address")})
			continue
		}
		ip := addr.IP
		if ip.Port() == 0 {
			ip = netip.AddrPortFrom(ip.Addr(), 53)
		}
		out = append(out, ip)
	}
	return out
}
