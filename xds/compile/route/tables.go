// SPDX-License-Identifier: Apache-2.0

package routeconfig

import "sidecar/xds/registry"

// Reasons that several fields share.
const (
	noRateLimit = "there is no rate limit filter that would use it"
	noCORS      = "there is no CORS filter that would use it"
	noTracer    = "there is no tracer that would use it"
)

// Messages are the field tables of RouteConfiguration and all below it.
var Messages = registry.Messages{
	"envoy.config.route.v3.RouteConfiguration": {
		"name": registry.Supported, "virtual_hosts": registry.Supported, "vhds": registry.Supported.Note("not in a listener's route_config"),
		"internal_only_headers": registry.Supported, "response_headers_to_add": registry.Whole, "response_headers_to_remove": registry.Supported,
		"request_headers_to_add": registry.Whole, "request_headers_to_remove": registry.Supported,
		"most_specific_header_mutations_wins": registry.Supported, "validate_clusters": registry.Supported,
		"max_direct_response_body_size_bytes": registry.Supported,
		"cluster_specifier_plugins":           registry.Refuse("cluster specifier plugins are not supported"),
		"request_mirror_policies":             registry.Supported, "ignore_port_in_host_matching": registry.Supported,
		"vhost_header": registry.Supported, "ignore_path_parameters_in_path_matching": registry.Supported,
		"typed_per_filter_config": registry.Whole, "metadata": registry.Whole,
		"route_specifiers": registry.Refuse("route specifiers are not supported"),
	},
	"envoy.config.route.v3.Vhds": {"config_source": registry.Whole},
	"envoy.config.route.v3.VirtualHost": {
		"name": registry.Supported, "domains": registry.Supported, "routes": registry.Supported,
		"matcher": registry.Refuse("matcher trees are not supported; use routes"), "require_tls": registry.Supported,
		"virtual_clusters": registry.Supported, "rate_limits": registry.Warn(noRateLimit), "request_headers_to_add": registry.Whole,
		"request_headers_to_remove": registry.Supported, "response_headers_to_add": registry.Whole,
		"response_headers_to_remove": registry.Supported, "cors": registry.Warn(noCORS), "typed_per_filter_config": registry.Whole,
		"include_request_attempt_count": registry.Supported, "include_attempt_count_in_response": registry.Supported,
		"retry_policy":                    registry.Supported,
		"retry_policy_typed_config":       registry.Refuse("retry policy extensions are not supported; use retry_policy"),
		"hedge_policy":                    registry.Refuse("hedging is not supported"),
		"include_is_timeout_retry_header": registry.Refuse("x-envoy-is-timeout-retry is not sent"),
		"per_request_buffer_limit_bytes":  registry.Supported, "request_body_buffer_limit": registry.Supported,
		"request_mirror_policies": registry.Supported, "metadata": registry.Whole,
		"route_specifiers": registry.Refuse("route specifiers are not supported"),
	},
	"envoy.config.route.v3.Route": {
		"name": registry.Supported, "match": registry.Supported, "route": registry.Supported, "redirect": registry.Supported,
		"direct_response": registry.Supported, "filter_action": registry.Refuse("filter_action is not supported"),
		"non_forwarding_action": registry.Whole, "metadata": registry.Whole, "decorator": registry.Supported,
		"typed_per_filter_config": registry.Whole, "request_headers_to_add": registry.Whole, "request_headers_to_remove": registry.Supported,
		"response_headers_to_add": registry.Whole, "response_headers_to_remove": registry.Supported, "tracing": registry.Warn(noTracer),
		"per_request_buffer_limit_bytes": registry.Supported, "stat_prefix": registry.Supported,
		"request_body_buffer_limit": registry.Supported, "route_specifiers": registry.Refuse("route specifiers are not supported"),
	},
	"envoy.config.route.v3.RouteMatch": {
		"prefix": registry.Supported, "path": registry.Supported, "safe_regex": registry.Whole, "connect_matcher": registry.Whole,
		"path_separated_prefix": registry.Supported, "path_match_policy": registry.Whole, "case_sensitive": registry.Supported,
		"runtime_fraction": registry.Whole, "headers": registry.Whole, "query_parameters": registry.Whole, "cookies": registry.Whole,
		"grpc": registry.Whole, "tls_context": registry.Whole, "dynamic_metadata": registry.Whole, "filter_state": registry.Whole,
	},
	"envoy.config.route.v3.RouteAction": {
		"cluster": registry.Supported, "cluster_header": registry.Supported, "weighted_clusters": registry.Supported,
		"cluster_specifier_plugin":        registry.Refuse("cluster specifier plugins are not supported"),
		"inline_cluster_specifier_plugin": registry.Refuse("cluster specifier plugins are not supported"),
		"cluster_not_found_response_code": registry.Supported,
		"metadata_match":                  registry.Whole.Note("has effect only on clusters with lb_subset_config, which are refused"),
		"prefix_rewrite":                  registry.Supported, "regex_rewrite": registry.Whole, "path_rewrite_policy": registry.Whole,
		"path_rewrite": registry.Supported, "host_rewrite_literal": registry.Supported, "auto_host_rewrite": registry.Supported,
		"host_rewrite_header": registry.Supported, "host_rewrite_path_regex": registry.Whole, "host_rewrite": registry.Supported,
		"append_x_forwarded_host": registry.Supported, "timeout": registry.Supported, "idle_timeout": registry.Supported,
		"flush_timeout": registry.Warn("the idle timeout of the stream bounds flushing too"), "early_data_policy": registry.Warn("there is no TLS early data to decide about"),
		"retry_policy":              registry.Supported,
		"retry_policy_typed_config": registry.Refuse("retry policy extensions are not supported; use retry_policy"),
		"request_mirror_policies":   registry.Supported, "priority": registry.Supported, "rate_limits": registry.Warn(noRateLimit),
		"include_vh_rate_limits": registry.Warn(noRateLimit), "hash_policy": registry.Supported, "cors": registry.Warn(noCORS),
		"max_grpc_timeout": registry.Supported, "grpc_timeout_offset": registry.Supported, "upgrade_configs": registry.Supported,
		"internal_redirect_policy": registry.Supported, "internal_redirect_action": registry.Supported,
		"max_internal_redirects": registry.Supported, "hedge_policy": registry.Refuse("hedging is not supported"),
		"max_stream_duration": registry.Supported,
	},
	"envoy.config.route.v3.WeightedCluster": {
		"clusters": registry.Supported, "total_weight": registry.Warn("the sum of the weights counts, as in Envoy"),
		"runtime_key_prefix": registry.Supported, "header_name": registry.Supported, "use_hash_policy": registry.Supported,
	},
	"envoy.config.route.v3.WeightedCluster.ClusterWeight": {
		"name": registry.Supported, "cluster_header": registry.Supported, "weight": registry.Supported, "metadata_match": registry.Whole,
		"request_headers_to_add": registry.Whole, "request_headers_to_remove": registry.Supported,
		"response_headers_to_add": registry.Whole, "response_headers_to_remove": registry.Supported,
		"typed_per_filter_config": registry.Whole, "host_rewrite_literal": registry.Supported,
	},
	"envoy.config.route.v3.RetryPolicy": {
		"retry_on": registry.Supported, "num_retries": registry.Supported, "per_try_timeout": registry.Supported,
		"per_try_idle_timeout": registry.Supported, "retry_priority": registry.Refuse("retry priorities are not supported"),
		"retry_host_predicate":              registry.Whole,
		"retry_options_predicates":          registry.Refuse("retry options predicates are not supported"),
		"host_selection_retry_max_attempts": registry.Supported, "retriable_status_codes": registry.Supported,
		"retry_back_off": registry.Supported, "rate_limited_retry_back_off": registry.Supported, "retriable_headers": registry.Whole,
		"retriable_request_headers": registry.Whole,
		"refresh_cluster_on_retry":  registry.Refuse("a retry stays with the cluster that was chosen"),
	},
	"envoy.config.route.v3.RetryPolicy.RetryBackOff": {"base_interval": registry.Supported, "max_interval": registry.Supported},
	"envoy.config.route.v3.RetryPolicy.RateLimitedRetryBackOff": {
		"reset_headers": registry.Supported, "max_interval": registry.Supported,
	},
	"envoy.config.route.v3.RetryPolicy.ResetHeader": {"name": registry.Supported, "format": registry.Supported},
	"envoy.config.route.v3.RouteAction.RequestMirrorPolicy": {
		"cluster": registry.Supported, "cluster_header": registry.Supported, "runtime_fraction": registry.Whole,
		"trace_sampled": registry.Warn(noTracer), "disable_shadow_host_suffix_append": registry.Supported,
		"request_headers_mutations": registry.Whole, "host_rewrite_literal": registry.Supported,
	},
	"envoy.config.route.v3.RouteAction.HashPolicy": {
		"header": registry.Supported, "cookie": registry.Supported, "connection_properties": registry.Supported,
		"query_parameter": registry.Supported, "filter_state": registry.Refuse("no filter keeps hashable filter state"),
		"terminal": registry.Supported,
	},
	"envoy.config.route.v3.RouteAction.HashPolicy.Header": {"header_name": registry.Supported, "regex_rewrite": registry.Whole},
	"envoy.config.route.v3.RouteAction.HashPolicy.Cookie": {
		"name": registry.Supported, "ttl": registry.Supported, "path": registry.Supported, "attributes": registry.Supported,
	},
	"envoy.config.route.v3.RouteAction.HashPolicy.CookieAttribute":      {"name": registry.Supported, "value": registry.Supported},
	"envoy.config.route.v3.RouteAction.HashPolicy.ConnectionProperties": {"source_ip": registry.Supported},
	"envoy.config.route.v3.RouteAction.HashPolicy.QueryParameter":       {"name": registry.Supported},
	"envoy.config.route.v3.RouteAction.UpgradeConfig": {
		"upgrade_type": registry.Supported, "enabled": registry.Supported, "connect_config": registry.Supported,
	},
	"envoy.config.route.v3.RouteAction.UpgradeConfig.ConnectConfig": {
		"proxy_protocol_config": registry.Supported, "allow_post": registry.Supported,
	},
	"envoy.config.core.v3.ProxyProtocolConfig": {
		"version":           registry.Supported,
		"pass_through_tlvs": registry.Refuse("the header in front of a tunnel has no TLVs; Envoy leaves them out in silence"),
		"added_tlvs":        registry.Refuse("the header in front of a tunnel has no TLVs; Envoy leaves them out in silence"),
	},
	"envoy.config.route.v3.RouteAction.MaxStreamDuration": {
		"max_stream_duration": registry.Supported, "grpc_timeout_header_max": registry.Supported,
		"grpc_timeout_header_offset": registry.Supported,
	},
	"envoy.config.route.v3.InternalRedirectPolicy": {
		"max_internal_redirects": registry.Supported, "redirect_response_codes": registry.Supported, "predicates": registry.Whole,
		"allow_cross_scheme_redirect": registry.Supported, "response_headers_to_copy": registry.Supported,
	},
	"envoy.config.route.v3.RedirectAction": {
		"https_redirect": registry.Supported, "scheme_redirect": registry.Supported, "host_redirect": registry.Supported,
		"port_redirect": registry.Supported, "path_redirect": registry.Supported, "prefix_rewrite": registry.Supported,
		"regex_rewrite": registry.Whole, "path_rewrite": registry.Supported, "response_code": registry.Supported,
		"strip_query": registry.Supported,
	},
	"envoy.config.route.v3.DirectResponseAction": {
		"status": registry.Supported, "body": registry.Whole, "body_format": registry.Whole,
	},
	"envoy.config.route.v3.Decorator":      {"operation": registry.Supported, "propagate": registry.Supported},
	"envoy.config.route.v3.VirtualCluster": {"headers": registry.Whole, "name": registry.Supported},
}
