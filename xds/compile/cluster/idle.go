// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"

	"sidecar/dataplane/lb"
	"sidecar/xds/registry"
)

// idle warns about fields that are fine by themselves but have no effect beside the others of this cluster, which Envoy ignores in silence.
func (s *state) idle() {
	cl := s.cl
	warn := func(set bool, field registry.Path, why string) {
		if set {
			s.c.Warnf(field, "has no effect: %s", why)
		}
	}
	s.idleBalance(warn)
	if kind := s.out.Balance; kind != nil && kind.Kind != lb.RoundRobin && kind.Kind != lb.Random {
		warn(s.out.Preconnect.Predictive > 1, "preconnect_policy.predictive_preconnect_ratio", "the next picks of "+kind.Name()+" cannot be told")
	}
	if _, typed := cl.GetTypedExtensionProtocolOptions()[httpOptionsName]; typed {
		const why = "typed_extension_protocol_options is set"
		warn(cl.GetCommonHttpProtocolOptions() != nil, "common_http_protocol_options", why)
		warn(cl.GetUpstreamHttpProtocolOptions() != nil, "upstream_http_protocol_options", why)
		warn(cl.GetHttpProtocolOptions() != nil, "http_protocol_options", why)
		warn(cl.GetHttp2ProtocolOptions() != nil, "http2_protocol_options", why)
		warn(cl.GetProtocolSelection() != clusterv3.Cluster_USE_CONFIGURED_PROTOCOL, "protocol_selection", why)
	}
	dns := s.kind == clusterv3.Cluster_STRICT_DNS || s.kind == clusterv3.Cluster_LOGICAL_DNS
	if !dns || s.dnsExt != nil {
		why := "the cluster has no names to resolve"
		if dns {
			why = "cluster_type has the DNS settings"
		}
		warn(cl.GetDnsRefreshRate() != nil, "dns_refresh_rate", why)
		warn(cl.GetDnsJitter() != nil, "dns_jitter", why)
		warn(cl.GetDnsFailureRefreshRate() != nil, "dns_failure_refresh_rate", why)
		warn(cl.GetRespectDnsTtl(), "respect_dns_ttl", why)
		warn(cl.GetDnsLookupFamily() != clusterv3.Cluster_AUTO, "dns_lookup_family", why)
		warn(len(cl.GetDnsResolvers()) > 0, "dns_resolvers", why)
		warn(cl.GetUseTcpForDnsLookups(), "use_tcp_for_dns_lookups", why)
		warn(cl.GetDnsResolutionConfig() != nil, "dns_resolution_config", why)
		warn(cl.GetTypedDnsResolverConfig() != nil, "typed_dns_resolver_config", why)
	}
	if s.kind != clusterv3.Cluster_ORIGINAL_DST {
		warn(cl.GetCleanupInterval() != nil, "cleanup_interval", "hosts are not made on demand")
		warn(cl.GetOriginalDstLbConfig() != nil, "original_dst_lb_config", "the cluster type is not ORIGINAL_DST")
	}
}

func (s *state) idleBalance(warn func(set bool, field registry.Path, why string)) {
	cl := s.cl
	p := cl.GetLbPolicy()
	why := "lb_policy is " + p.String()
	typed := cl.GetLoadBalancingPolicy() != nil
	if typed {
		why = "load_balancing_policy is set"
	}
	warn(cl.GetRoundRobinLbConfig() != nil && (typed || p != clusterv3.Cluster_ROUND_ROBIN), "round_robin_lb_config", why)
	warn(cl.GetLeastRequestLbConfig() != nil && (typed || p != clusterv3.Cluster_LEAST_REQUEST), "least_request_lb_config", why)
	warn(cl.GetRingHashLbConfig() != nil && (typed || p != clusterv3.Cluster_RING_HASH), "ring_hash_lb_config", why)
	warn(cl.GetMaglevLbConfig() != nil && (typed || p != clusterv3.Cluster_MAGLEV), "maglev_lb_config", why)
	common := cl.GetCommonLbConfig()
	hashing := p == clusterv3.Cluster_RING_HASH || p == clusterv3.Cluster_MAGLEV
	warn(common.GetConsistentHashingLbConfig() != nil && (typed || !hashing), "common_lb_config.consistent_hashing_lb_config", why)
	warn(common.GetLocalityWeightedLbConfig() != nil && typed, "common_lb_config.locality_weighted_lb_config", why)
	warn(common.GetZoneAwareLbConfig() != nil && typed, "common_lb_config.zone_aware_lb_config", why)
}
