// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"sidecar/xds/compile/codec"
	"sidecar/xds/compile/endpoint"
	"sidecar/xds/compile/lbpolicy"
	"sidecar/xds/registry"
)

const (
	zoneText = "zone-aware routing needs cluster_manager.local_cluster_name; without it Envoy does not do it either"
)

// Messages says what is honoured of clusters.
var Messages = registry.Messages{
	"envoy.config.cluster.v3.Cluster": {
		"name": registry.Supported, "alt_stat_name": registry.Supported,
		"type":                              registry.Only("STATIC", "EDS", "STRICT_DNS", "LOGICAL_DNS", "ORIGINAL_DST"),
		"cluster_type":                      registry.Whole.Note("envoy.clusters.dns, envoy.clusters.original_dst, and the names of the built-in types"),
		"eds_cluster_config":                registry.Supported,
		"connect_timeout":                   registry.Supported,
		"per_connection_buffer_limit_bytes": registry.Supported,
		"per_connection_buffer_high_watermark_timeout": registry.Warn("a connection whose buffers are full is bounded by the other timeouts"),
		"lb_policy":             registry.Supported,
		"load_assignment":       registry.Whole.Note("as for EDS"),
		"load_balancing_policy": registry.Whole.Note("each policy is looked up by its type; the first known one counts"),
		"lb_subset_config":      registry.Refuse("subset load balancing is not supported; use a cluster for each subset"),
		"ring_hash_lb_config":   registry.Supported, "maglev_lb_config": registry.Supported,
		"original_dst_lb_config": registry.Supported, "least_request_lb_config": registry.Supported,
		"round_robin_lb_config": registry.Supported, "common_lb_config": registry.Supported,
		"health_checks":     registry.Later("active health checks"),
		"outlier_detection": registry.WarnLater("outlier detection, until then no host is ejected"),
		"circuit_breakers":  registry.Supported, "max_requests_per_connection": registry.Supported,
		"upstream_http_protocol_options": registry.Supported,
		"common_http_protocol_options":   registry.Supported, "http_protocol_options": registry.Supported,
		"http2_protocol_options":           registry.Supported,
		"typed_extension_protocol_options": registry.Whole.Note("envoy.extensions.upstreams.http.v3.HttpProtocolOptions"),
		"protocol_selection":               registry.Supported,
		"dns_refresh_rate":                 registry.Supported, "dns_jitter": registry.Supported, "dns_failure_refresh_rate": registry.Supported,
		"respect_dns_ttl": registry.Supported, "dns_lookup_family": registry.Supported, "dns_resolvers": registry.Supported,
		"use_tcp_for_dns_lookups": registry.Supported, "dns_resolution_config": registry.Supported, "typed_dns_resolver_config": registry.Whole,
		"wait_for_warm_on_init":                     registry.Supported,
		"cleanup_interval":                          registry.Supported.Note("of ORIGINAL_DST clusters"),
		"upstream_bind_config":                      registry.Supported,
		"transport_socket":                          registry.Whole.Note("see the upstream transport sockets"),
		"transport_socket_matches":                  registry.Whole.Note("as transport_socket"),
		"transport_socket_matcher":                  registry.Refuse("matcher trees are not supported; use transport_socket_matches"),
		"metadata":                                  registry.Whole,
		"upstream_connection_options":               registry.Supported,
		"close_connections_on_host_health_failure":  registry.Only("false"),
		"ignore_health_on_host_removal":             registry.Supported.Note("hosts are always removed at once: there are no active health checks"),
		"filters":                                   registry.Later("network filters of clusters"),
		"lrs_server":                                registry.Refuse("load reports (LRS) are not supported"),
		"lrs_report_endpoint_metrics":               registry.Refuse("load reports (LRS) are not supported"),
		"track_timeout_budgets":                     registry.Warn("timeout budgets are not counted yet"),
		"upstream_config":                           registry.Refuse("custom connection pools are not supported"),
		"track_cluster_stats":                       registry.Supported,
		"preconnect_policy":                         registry.Supported,
		"connection_pool_per_downstream_connection": registry.Only("false"),
		"queuing_policies":                          registry.Refuse("pending requests wait in order"),
		"stats_matcher":                             registry.Warn("stats_config of the bootstrap decides which stats are shown"),
	},
	"envoy.config.cluster.v3.Cluster.EdsClusterConfig":   {"eds_config": registry.Supported, "service_name": registry.Supported},
	"envoy.config.cluster.v3.Cluster.RoundRobinLbConfig": {"slow_start_config": registry.Supported},
	"envoy.config.cluster.v3.Cluster.LeastRequestLbConfig": {
		"choice_count": registry.Supported, "active_request_bias": registry.Supported, "slow_start_config": registry.Supported,
	},
	"envoy.config.cluster.v3.Cluster.SlowStartConfig": {
		"slow_start_window": registry.Supported, "aggression": registry.Supported, "min_weight_percent": registry.Whole,
	},
	"envoy.config.cluster.v3.Cluster.RingHashLbConfig": {
		"minimum_ring_size": registry.Supported, "maximum_ring_size": registry.Supported, "hash_function": registry.Supported,
	},
	"envoy.config.cluster.v3.Cluster.MaglevLbConfig": {"table_size": registry.Supported},
	"envoy.config.cluster.v3.Cluster.OriginalDstLbConfig": {
		"use_http_header": registry.Supported, "http_header_name": registry.Supported, "upstream_port_override": registry.Supported,
		"metadata_key": registry.Later("original destination from metadata"),
	},
	"envoy.config.cluster.v3.Cluster.CommonLbConfig": {
		"healthy_panic_threshold": registry.Whole, "zone_aware_lb_config": registry.Supported, "locality_weighted_lb_config": registry.Whole,
		"update_merge_window":                  registry.Warn("every update takes effect at once"),
		"ignore_new_hosts_until_first_hc":      registry.Warn("there are no active health checks"),
		"close_connections_on_host_set_change": registry.Only("false"),
		"consistent_hashing_lb_config":         registry.Supported,
		"override_host_status":                 registry.Warn("there are no stateful sessions"),
	},
	"envoy.config.cluster.v3.Cluster.CommonLbConfig.ZoneAwareLbConfig": {
		"fail_traffic_on_panic": registry.Supported, "routing_enabled": registry.Warn(zoneText), "min_cluster_size": registry.Warn(zoneText),
	},
	"envoy.config.cluster.v3.Cluster.CommonLbConfig.ConsistentHashingLbConfig": {
		"use_hostname_for_hashing": registry.Supported.Note("STRICT_DNS only, as in Envoy"), "hash_balance_factor": registry.Supported,
	},
	"envoy.config.cluster.v3.Cluster.RefreshRate": {"base_interval": registry.Supported, "max_interval": registry.Supported},
	"envoy.config.cluster.v3.Cluster.PreconnectPolicy": {
		"per_upstream_preconnect_ratio": registry.Supported.Note("of HTTP connections"),
		"predictive_preconnect_ratio":   registry.Supported.Note("of HTTP connections; by ROUND_ROBIN and RANDOM, as in Envoy"),
		"preconnect_enabled_metadata":   registry.Whole,
	},
	"envoy.config.cluster.v3.CircuitBreakers": {"thresholds": registry.Supported, "per_host_thresholds": registry.Supported},
	"envoy.config.cluster.v3.CircuitBreakers.Thresholds": {
		"priority": registry.Supported, "max_connections": registry.Supported, "max_pending_requests": registry.Supported, "max_requests": registry.Supported,
		"max_retries": registry.Supported, "retry_budget": registry.Supported, "track_remaining": registry.Supported,
		"max_connection_pools": registry.Supported,
	},
	"envoy.config.cluster.v3.CircuitBreakers.Thresholds.RetryBudget": {
		"budget_percent": registry.Whole, "min_retry_concurrency": registry.Supported,
		"budget_interval": registry.Refuse("the budget counts requests in flight"),
	},
	"envoy.config.cluster.v3.UpstreamConnectionOptions": {
		"tcp_keepalive": registry.Supported,
		"set_local_interface_name_on_upstream_connections": registry.Warn("nothing reads the interface name"),
		"happy_eyeballs_config":                            registry.Warn("addresses are tried in their order"),
	},
	"envoy.config.cluster.v3.TrackClusterStats": {
		"timeout_budgets": registry.Warn("timeout budgets are not counted yet"), "request_response_sizes": registry.Warn("sizes are not counted yet"),
		"per_endpoint_stats": registry.Warn("hosts are shown at /clusters"),
	},
	"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
		"common_http_protocol_options": registry.Supported, "upstream_http_protocol_options": registry.Supported,
		"explicit_http_config": registry.Supported, "use_downstream_protocol_config": registry.Supported,
		"auto_config":              registry.Supported,
		"http_filters":             registry.Whole.Note("only envoy.filters.http.upstream_codec"),
		"header_validation_config": registry.Refuse("header validation is not pluggable"),
		"outlier_detection":        registry.WarnLater("outlier detection"),
		"request_mirror_policies":  registry.Refuse("give mirror policies in the route"),
		"hash_policy":              registry.Refuse("give the hash policy in the route"),
		"retry_policy":             registry.Refuse("give the retry policy in the route"),
	},
	"envoy.extensions.upstreams.http.v3.HttpProtocolOptions.ExplicitHttpConfig": {
		"http_protocol_options": registry.Supported, "http2_protocol_options": registry.Supported,
		"http3_protocol_options": registry.Refuse("HTTP/3 is not supported"),
	},
	"envoy.extensions.upstreams.http.v3.HttpProtocolOptions.AutoHttpConfig": {
		"http_protocol_options": registry.Supported, "http2_protocol_options": registry.Supported,
		"http3_protocol_options":            registry.Refuse("HTTP/3 is not supported"),
		"alternate_protocols_cache_options": registry.Refuse("HTTP/3 is not supported"),
	},
	"envoy.extensions.upstreams.http.v3.HttpProtocolOptions.UseDownstreamHttpConfig": {
		"http_protocol_options": registry.Supported, "http2_protocol_options": registry.Supported, "http3_protocol_options": registry.Refuse("HTTP/3 is not supported"),
	},
}

// shared are tables of messages that other rooms list too, as this room uses them.
var shared = registry.Messages{
	"envoy.config.core.v3.ConfigSource": {
		"path": registry.Supported, "path_config_source": registry.Whole, "api_config_source": registry.Whole, "ads": registry.Whole,
		"initial_fetch_timeout": registry.Supported, "resource_api_version": registry.Only("V3", "AUTO"),
		"self":        registry.Refuse("there is no server to refer to"),
		"authorities": registry.Refuse("xdstp resource names are not supported"),
	},
	"envoy.config.core.v3.HttpProtocolOptions": {
		"idle_timeout": registry.Supported, "max_connection_duration": registry.Supported, "max_headers_count": registry.Supported,
		"max_connection_duration_jitter":  registry.Warn("connections live for max_connection_duration, in Envoy too"),
		"max_response_headers_kb":         registry.Supported,
		"max_stream_duration":             registry.Supported,
		"headers_with_underscores_action": registry.Warn("only applies to downstream connections"),
		"max_requests_per_connection":     registry.Supported,
	},
	"envoy.config.core.v3.UpstreamHttpProtocolOptions": {
		"auto_sni": registry.Supported, "auto_san_validation": registry.Supported,
		"override_auto_sni_header": registry.Supported.Note("any header; of the pseudo-headers only :authority"),
	},
	"envoy.config.core.v3.Http2ProtocolOptions": codec.HTTP2Messages["envoy.config.core.v3.Http2ProtocolOptions"],
	"envoy.config.core.v3.KeepaliveSettings":    codec.HTTP2Messages["envoy.config.core.v3.KeepaliveSettings"],
	"envoy.config.core.v3.Http1ProtocolOptions": {
		"allow_absolute_url":       registry.Warn("only applies to downstream connections"),
		"accept_http_10":           registry.Warn("only applies to downstream connections"),
		"default_host_for_http_10": registry.Warn("only applies to downstream connections"),
		"ignore_http_11_upgrade":   registry.Warn("only applies to downstream connections"),
		"header_key_format":        registry.Whole, "enable_trailers": registry.Supported, "allow_chunked_length": registry.Supported,
		"override_stream_error_on_invalid_http_message": registry.Only("false").Note("a connection whose framing is in doubt is always closed"),
		"send_fully_qualified_url":                      registry.Supported,
		"use_balsa_parser":                              registry.Warn("there is one parser"),
		"allow_custom_methods":                          registry.Warn("only applies to downstream connections"),
	},
	"envoy.config.core.v3.TcpKeepalive": {
		"keepalive_probes": registry.Supported, "keepalive_time": registry.Supported, "keepalive_interval": registry.Supported,
	},
	"envoy.config.core.v3.BindConfig": {
		"source_address": registry.Supported, "freebind": registry.Supported, "socket_options": registry.Supported,
		"extra_source_addresses": registry.Supported, "additional_source_addresses": registry.Supported,
		"local_address_selector": registry.Refuse("the source address is chosen by the family of the destination"),
	},
	"envoy.config.core.v3.ExtraSourceAddress": {
		"address":        registry.Supported,
		"socket_options": registry.Refuse("give the socket options of the bind config itself"),
	},
	"envoy.config.core.v3.SocketOption": {
		"description": registry.Supported, "level": registry.Supported, "name": registry.Supported, "int_value": registry.Supported,
		"buf_value": registry.Supported, "state": registry.Only("STATE_PREBIND").Note("options of upstream sockets are set before they are bound"),
		"type":       registry.Refuse("give the option without a socket type: upstream sockets are streams"),
		"ip_version": registry.Refuse("options apply to both families"),
	},
	"envoy.config.core.v3.DnsResolutionConfig": {"resolvers": registry.Supported, "dns_resolver_options": registry.Supported},
	"envoy.config.core.v3.DnsResolverOptions":  {"use_tcp_for_dns_lookups": registry.Supported, "no_default_search_domain": registry.Supported},
	"envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig": {
		"resolvers": registry.Supported, "use_resolvers_as_fallback": registry.Supported, "dns_resolver_options": registry.Supported,
		"filter_unroutable_families": registry.Warn("addresses of both families are kept"),
		"udp_max_queries":            registry.Warn("each query has a socket of its own"),
		"query_timeout_seconds":      registry.Supported, "query_tries": registry.Supported, "rotate_nameservers": registry.Supported,
		"edns0_max_payload_size":    registry.Supported,
		"max_udp_channel_duration":  registry.Warn("each query has a socket of its own"),
		"reinit_channel_on_timeout": registry.Warn("each query has a socket of its own"),
		"qcache_max_ttl":            registry.Warn("answers are not cached beyond the refresh"),
	},
	"envoy.extensions.network.dns_resolver.getaddrinfo.v3.GetAddrInfoDnsResolverConfig": {
		"num_retries": registry.Supported, "num_resolver_threads": registry.Warn("the resolver has its own pool"),
	},
	"envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer": {},
	"envoy.extensions.clusters.dns.v3.DnsCluster": {
		"dns_refresh_rate": registry.Supported, "dns_failure_refresh_rate": registry.Supported, "respect_dns_ttl": registry.Supported,
		"dns_jitter": registry.Supported, "typed_dns_resolver_config": registry.Whole, "dns_lookup_family": registry.Supported,
		"all_addresses_in_single_endpoint": registry.Supported, "dns_min_refresh_rate": registry.Supported,
	},
	"envoy.extensions.clusters.dns.v3.DnsCluster.RefreshRate": {"base_interval": registry.Supported, "max_interval": registry.Supported},
	"envoy.extensions.clusters.original_dst.v3.OriginalDstCluster": {
		"use_http_header": registry.Supported, "http_header_name": registry.Supported, "upstream_port_override": registry.Supported,
		"metadata_key": registry.Later("original destination from metadata"),
	},
}

var schema = registry.MustSchema(Messages, shared, endpoint.Messages, endpoint.Shared, lbpolicy.Messages, lbpolicy.Shared)

// Schema is the set of field tables that Compile checks clusters with. Other rooms list some of the same messages differently, so it stands
// for itself in the documentation.
func Schema() *registry.Schema { return schema }
