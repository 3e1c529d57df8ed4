// SPDX-License-Identifier: Apache-2.0

package bootstrap

import "sidecar/xds/registry"

// Messages is the field table of the bootstrap: what is honoured, what only warns, what is refused. Static listeners and clusters are
// walked by their compilers. It is part of the schema behind docs/xds-support.md.
var Messages = registry.Messages{
	"envoy.config.bootstrap.v3.Bootstrap": {
		"node":                             registry.Whole.Note("sent unchanged to the control plane"),
		"static_resources":                 registry.Supported,
		"dynamic_resources":                registry.Supported,
		"cluster_manager":                  registry.Supported,
		"layered_runtime":                  registry.Supported,
		"admin":                            registry.Supported,
		"stats_config":                     registry.Supported,
		"stats_flush_interval":             registry.Supported,
		"stats_flush_on_admin":             registry.Warn("stats are always current on the admin port"),
		"stats_eviction_interval":          registry.Warn("unused stats are not evicted"),
		"overload_manager":                 registry.Supported,
		"deferred_stat_options":            registry.Warn("stats are always created when first used"),
		"application_log_config":           registry.Supported,
		"watchdog":                         registry.Warn("the watchdog has its own limits"),
		"watchdogs":                        registry.Warn("the watchdog has its own limits"),
		"bootstrap_extensions":             registry.Whole.Note("each extension is looked up by its type"),
		"stats_sinks":                      registry.Later("stats sinks"),
		"tracing":                          registry.Later("tracing"),
		"hds_config":                       registry.Later("health discovery service"),
		"fatal_actions":                    registry.Warn("a crash has no extra actions"),
		"enable_dispatcher_stats":          registry.Warn("there are no dispatcher stats"),
		"enable_worker_cpu_affinity":       registry.Warn("workers are placed by the steering mode"),
		"stats_server_version_override":    registry.Supported,
		"flags_path":                       registry.Warn("flag files are not read"),
		"inline_headers":                   registry.Warn("only tunes Envoy's header map"),
		"perf_tracing_file_path":           registry.Warn("no performance traces are written"),
		"memory_allocator_manager":         registry.Warn("memory is managed by the Go runtime"),
		"grpc_async_client_manager_config": registry.Warn("only tunes Envoy's gRPC client cache"),
		"node_context_params":              registry.Refuse("xdstp resource names are not supported"),
		"config_sources":                   registry.Refuse("xdstp resource names are not supported"),
		"default_config_source":            registry.Refuse("xdstp resource names are not supported"),
		"certificate_provider_instances":   registry.Refuse("certificate provider plugins are not supported; use SDS"),
	},
	"envoy.config.bootstrap.v3.Bootstrap.StaticResources": {
		"listeners": registry.Whole.Note("as for LDS"), "clusters": registry.Whole.Note("as for CDS"), "secrets": registry.Whole.Note("as for SDS; their files are read once, or watched with a watched_directory"),
	},
	"envoy.config.bootstrap.v3.Bootstrap.DynamicResources": {
		"lds_config": registry.Supported, "cds_config": registry.Supported, "ads_config": registry.Supported,
		"lds_resources_locator": registry.Refuse("collections (globs of xdstp names) are not supported"),
		"cds_resources_locator": registry.Refuse("collections (globs of xdstp names) are not supported"),
	},
	"envoy.config.core.v3.ConfigSource": {
		"path": registry.Supported, "path_config_source": registry.Supported, "api_config_source": registry.Supported, "ads": registry.Whole,
		"initial_fetch_timeout": registry.Supported.Note("0 waits for ever"), "resource_api_version": registry.Only("V3", "AUTO"),
		"self":        registry.Refuse("there is no server to refer to"),
		"authorities": registry.Refuse("xdstp resource names are not supported"),
	},
	"envoy.config.core.v3.PathConfigSource": {
		"path": registry.Supported, "watched_directory": registry.Whole, "poll_interval": registry.Warn("the file is looked at every 100 ms"),
	},
	"envoy.config.core.v3.ApiConfigSource": {
		"api_type":              registry.Only("GRPC", "DELTA_GRPC", "AGGREGATED_GRPC", "AGGREGATED_DELTA_GRPC", "REST"),
		"transport_api_version": registry.Only("V3"), "grpc_services": registry.Supported,
		"set_node_on_first_message_only": registry.Supported,
		"request_timeout":                registry.Supported.Note("of REST requests"),
		"refresh_delay":                  registry.Supported.Note("of REST requests"),
		"rate_limit_settings":            registry.Warn("discovery requests are batched, not rate-limited"),
		"config_validators":              registry.Refuse("there are no config validators"),
		"cluster_names":                  registry.Supported.Note("of REST: exactly one"),
	},
	"envoy.config.core.v3.GrpcService": {
		"envoy_grpc": registry.Supported, "google_grpc": registry.Supported,
		"timeout":          registry.Warn("discovery streams have no timeout"),
		"initial_metadata": registry.Whole.Note("value only, without formatter operators"),
		"retry_policy":     registry.Warn("streams are opened again with jittered backoff"),
	},
	"envoy.config.core.v3.GrpcService.EnvoyGrpc": {
		"cluster_name": registry.Supported, "authority": registry.Supported, "max_receive_message_length": registry.Supported,
		"retry_policy":       registry.Warn("streams are opened again with jittered backoff"),
		"skip_envoy_headers": registry.Warn("no x-envoy headers are sent"),
	},
	"envoy.config.core.v3.GrpcService.GoogleGrpc": {
		"target_uri": registry.Supported, "stat_prefix": registry.Supported,
		"channel_credentials":           registry.Supported,
		"call_credentials":              registry.Refuse("call credentials are not supported; use initial_metadata"),
		"channel_credentials_plugin":    registry.Refuse("credential plugins are not supported; use channel_credentials"),
		"call_credentials_plugin":       registry.Refuse("credential plugins are not supported; use initial_metadata"),
		"credentials_factory_name":      registry.Refuse("credential factories are not supported; use channel_credentials"),
		"config":                        registry.Warn("only for credential factories"),
		"per_stream_buffer_limit_bytes": registry.Warn("the response is held until it was applied"),
		"channel_args":                  registry.Whole.Note("`grpc.ssl_target_name_override` and `grpc.default_authority`; others, which tune Envoy's gRPC library, are warned about"),
	},
	"envoy.config.core.v3.GrpcService.GoogleGrpc.ChannelCredentials": {
		"local_credentials": registry.Whole.Note("plaintext"), "ssl_credentials": registry.Supported, "google_default": registry.Refuse("Google's default credentials are not supported; use ssl_credentials"),
	},
	"envoy.config.core.v3.GrpcService.GoogleGrpc.SslCredentials": {
		"root_certs": registry.Whole.Note("required"), "private_key": registry.Whole, "cert_chain": registry.Whole,
	},
	"envoy.config.bootstrap.v3.ClusterManager": {
		"local_cluster_name":               registry.WarnLater("zone-aware routing"),
		"outlier_detection":                registry.WarnLater("outlier detection log"),
		"upstream_bind_config":             registry.Whole,
		"load_stats_config":                registry.Later("load reporting"),
		"enable_deferred_cluster_creation": registry.Warn("clusters are always created per worker when first used"),
	},
	"envoy.config.bootstrap.v3.LayeredRuntime": {"layers": registry.Supported},
	"envoy.config.bootstrap.v3.RuntimeLayer": {
		"name": registry.Supported, "static_layer": registry.Whole, "admin_layer": registry.Whole,
		"disk_layer": registry.Later("runtime from disk"), "rtds_layer": registry.Supported,
	},
	"envoy.config.bootstrap.v3.RuntimeLayer.RtdsLayer": {"name": registry.Supported, "rtds_config": registry.Supported},
	"envoy.config.bootstrap.v3.Admin": {
		"access_log": registry.Whole, "access_log_path": registry.Supported, "address": registry.Whole, "allow_paths": registry.Whole,
		"profile_path":             registry.Warn("profiles are not written to a file"),
		"socket_options":           registry.Refuse("the admin socket takes no options"),
		"ignore_global_conn_limit": registry.Warn("admin connections never count"),
	},
	"envoy.config.bootstrap.v3.Bootstrap.ApplicationLogConfig": {"log_format": registry.Whole},
	"envoy.config.metrics.v3.StatsConfig": {
		"stats_tags": registry.Whole, "use_all_default_tags": registry.Whole, "stats_matcher": registry.Whole,
		"histogram_bucket_settings": registry.Whole,
	},
	"envoy.config.overload.v3.OverloadManager": {
		"refresh_interval":      registry.Warn("limits act at once"),
		"resource_monitors":     registry.Whole.Note("envoy.resource_monitors.global_downstream_max_connections"),
		"actions":               registry.Later("overload actions"),
		"loadshed_points":       registry.Later("overload actions"),
		"buffer_factory_config": registry.Warn("buffers have fixed limits"),
	},
}

// laterExtensions are bootstrap extensions that do nothing by themselves until something uses them; they are warned about.
var laterExtensions = map[string]string{
	"type.googleapis.com/istio.workload.BootstrapExtension": "workload metadata discovery",
}
