// SPDX-License-Identifier: Apache-2.0

package stats

// The ids of SubscriptionDef.
const (
	SubscriptionInitFetchTimeout = iota
	SubscriptionUpdateAttempt
	SubscriptionUpdateFailure
	SubscriptionUpdateRejected
	SubscriptionUpdateSuccess
	SubscriptionUpdateTime
	SubscriptionVersion
	SubscriptionUpdateDuration
	SubscriptionVersionText
)

// SubscriptionDef is one xDS subscription without further counters, for example "listener_manager.lds.".
var SubscriptionDef = &Def{Name: "subscription", Stats: []Stat{
	{Name: "init_fetch_timeout", Kind: Counter},
	{Name: "update_attempt", Kind: Counter},
	{Name: "update_failure", Kind: Counter},
	{Name: "update_rejected", Kind: Counter},
	{Name: "update_success", Kind: Counter},
	{Name: "update_time", Kind: Gauge},
	{Name: "version", Kind: Gauge},
	{Name: "update_duration", Kind: Histogram, Unit: Milliseconds},
	{Name: "version_text", Kind: Text},
}}

// The ids of ReloadDef.
const (
	ReloadConfigReload = iota
	ReloadConfigReloadTimeMs
)

// ReloadDef is what "cluster_manager.cds." and "http.PREFIX.rds.NAME." have besides SubscriptionDef.
var ReloadDef = &Def{Name: "cds reload", Stats: []Stat{
	{Name: "config_reload", Kind: Counter},
	{Name: "config_reload_time_ms", Kind: Gauge},
}}

// The ids of RDSDef.
const (
	RDSUpdateEmpty = iota
)

// RDSDef is what "http.PREFIX.rds.NAME." has besides SubscriptionDef and ReloadDef.
var RDSDef = &Def{Name: "rds", Stats: []Stat{
	{Name: "update_empty", Kind: Counter},
}}

// The ids of VHDSDef.
const (
	VHDSConfigReload = iota
	VHDSUpdateEmpty
)

// VHDSDef is what "http.PREFIX.rds.vhds.NAME." has besides SubscriptionDef.
var VHDSDef = &Def{Name: "vhds", Stats: []Stat{
	{Name: "config_reload", Kind: Counter},
	{Name: "update_empty", Kind: Counter},
}}

// The ids of ECDSDef.
const (
	ECDSConfigReload = iota
	ECDSConfigFail
	ECDSConfigConflict
)

// ECDSDef is what "extension_config_discovery.http_filter.NAME." has besides SubscriptionDef.
var ECDSDef = &Def{Name: "ecds", Stats: []Stat{
	{Name: "config_reload", Kind: Counter},
	{Name: "config_fail", Kind: Counter},
	{Name: "config_conflict", Kind: Counter},
}}

// The ids of SRDSDef.
const (
	SRDSUpdateEmpty = iota
	SRDSActiveScopes
	SRDSAllScopes
	SRDSOnDemandScopes
)

// SRDSDef is what "http.PREFIX.scoped_rds.NAME." has besides SubscriptionDef and ReloadDef.
var SRDSDef = &Def{Name: "scoped_rds", Stats: []Stat{
	{Name: "update_empty", Kind: Counter},
	{Name: "active_scopes", Kind: Gauge},
	{Name: "all_scopes", Kind: Gauge},
	{Name: "on_demand_scopes", Kind: Gauge},
}}

// The ids of SDSDef.
const (
	SDSKeyRotationFailed = iota
)

// SDSDef is what "sds.NAME." has besides SubscriptionDef.
var SDSDef = &Def{Name: "sds", Stats: []Stat{
	{Name: "key_rotation_failed", Kind: Counter},
}}

// The ids of SSLSocketFactoryDef.
const (
	SSLSocketFactoryDownstreamNotReady = iota
	SSLSocketFactoryContextUpdateBySDS
	SSLSocketFactoryUpstreamNotReady
)

// SSLSocketFactoryDef is "listener.ADDRESS.server_ssl_socket_factory." and "cluster.NAME.client_ssl_socket_factory.".
var SSLSocketFactoryDef = &Def{Name: "ssl socket factory", Stats: []Stat{
	{Name: "downstream_context_secrets_not_ready", Kind: Counter},
	{Name: "ssl_context_update_by_sds", Kind: Counter},
	{Name: "upstream_context_secrets_not_ready", Kind: Counter},
}}

// The ids of ClusterManagerDef.
const (
	ClusterManagerClusterAdded = iota
	ClusterManagerClusterModified
	ClusterManagerClusterRemoved
	ClusterManagerClusterUpdated
	ClusterManagerClusterUpdatedViaMerge
	ClusterManagerUpdateMergeCancelled
	ClusterManagerUpdateOutOfMergeWindow
	ClusterManagerActiveClusters
	ClusterManagerWarmingClusters
)

// ClusterManagerDef is under "cluster_manager.".
var ClusterManagerDef = &Def{Name: "cluster_manager", Stats: []Stat{
	{Name: "cluster_added", Kind: Counter},
	{Name: "cluster_modified", Kind: Counter},
	{Name: "cluster_removed", Kind: Counter},
	{Name: "cluster_updated", Kind: Counter},
	{Name: "cluster_updated_via_merge", Kind: Counter},
	{Name: "update_merge_cancelled", Kind: Counter},
	{Name: "update_out_of_merge_window", Kind: Counter},
	{Name: "active_clusters", Kind: Gauge},
	{Name: "warming_clusters", Kind: Gauge},
}}

// The ids of ListenerManagerDef.
const (
	ListenerManagerListenerAdded = iota
	ListenerManagerListenerCreateFailure
	ListenerManagerListenerCreateSuccess
	ListenerManagerListenerInPlaceUpdated
	ListenerManagerListenerModified
	ListenerManagerListenerRemoved
	ListenerManagerListenerStopped
	ListenerManagerTotalFilterChainsDraining
	ListenerManagerTotalListenersActive
	ListenerManagerTotalListenersDraining
	ListenerManagerTotalListenersWarming
	ListenerManagerWorkersPinned
	ListenerManagerWorkersStarted
)

// ListenerManagerDef is under "listener_manager.".
var ListenerManagerDef = &Def{Name: "listener_manager", Stats: []Stat{
	{Name: "listener_added", Kind: Counter},
	{Name: "listener_create_failure", Kind: Counter},
	{Name: "listener_create_success", Kind: Counter},
	{Name: "listener_in_place_updated", Kind: Counter},
	{Name: "listener_modified", Kind: Counter},
	{Name: "listener_removed", Kind: Counter},
	{Name: "listener_stopped", Kind: Counter},
	{Name: "total_filter_chains_draining", Kind: Gauge},
	{Name: "total_listeners_active", Kind: Gauge},
	{Name: "total_listeners_draining", Kind: Gauge},
	{Name: "total_listeners_warming", Kind: Gauge},
	{Name: "workers_pinned", Kind: Gauge},
	{Name: "workers_started", Kind: Gauge},
}}

// The ids of ServerDef.
const (
	ServerDebugAssertionFailures = iota
	ServerDroppedStatFlushes
	ServerDynamicUnknownFields
	ServerEnvoyBugFailures
	ServerEnvoyNotifications
	ServerStaticUnknownFields
	ServerWipProtos
	ServerCompilationSettingsFipsMode
	ServerConcurrency
	ServerDaysUntilFirstCertExpiring
	ServerHotRestartEpoch
	ServerHotRestartGeneration
	ServerLive
	ServerMemoryAllocated
	ServerMemoryHeapSize
	ServerMemoryPhysicalSize
	ServerParentConnections
	ServerSecondsUntilFirstOcspResponseExpiring
	ServerState
	ServerStatsRecentLookups
	ServerTotalConnections
	ServerUptime
	ServerVersion
	ServerInitializationTimeMs
)

// ServerDef is under "server.".
var ServerDef = &Def{Name: "server", Stats: []Stat{
	{Name: "debug_assertion_failures", Kind: Counter},
	{Name: "dropped_stat_flushes", Kind: Counter},
	{Name: "dynamic_unknown_fields", Kind: Counter},
	{Name: "envoy_bug_failures", Kind: Counter},
	{Name: "envoy_notifications", Kind: Counter},
	{Name: "static_unknown_fields", Kind: Counter},
	{Name: "wip_protos", Kind: Counter},
	{Name: "compilation_settings.fips_mode", Kind: Gauge},
	{Name: "concurrency", Kind: Gauge},
	{Name: "days_until_first_cert_expiring", Kind: Gauge},
	{Name: "hot_restart_epoch", Kind: Gauge},
	{Name: "hot_restart_generation", Kind: Gauge},
	{Name: "live", Kind: Gauge},
	{Name: "memory_allocated", Kind: Gauge},
	{Name: "memory_heap_size", Kind: Gauge},
	{Name: "memory_physical_size", Kind: Gauge},
	{Name: "parent_connections", Kind: Gauge},
	{Name: "seconds_until_first_ocsp_response_expiring", Kind: Gauge},
	{Name: "state", Kind: Gauge},
	{Name: "stats_recent_lookups", Kind: Gauge},
	{Name: "total_connections", Kind: Gauge},
	{Name: "uptime", Kind: Gauge},
	{Name: "version", Kind: Gauge},
	{Name: "initialization_time_ms", Kind: Histogram, Unit: Milliseconds},
}}

// The ids of WatchdogDef.
const (
	WatchdogWatchdogMegaMiss = iota
	WatchdogWatchdogMiss
)

// WatchdogDef is under "server.main_thread.", "server.worker_N.", "main_thread." and "workers.".
var WatchdogDef = &Def{Name: "watchdog", Stats: []Stat{
	{Name: "watchdog_mega_miss", Kind: Counter},
	{Name: "watchdog_miss", Kind: Counter},
}}

// The ids of RuntimeDef.
const (
	RuntimeDeprecatedFeatureUse = iota
	RuntimeLoadError
	RuntimeLoadSuccess
	RuntimeOverrideDirExists
	RuntimeOverrideDirNotExists
	RuntimeAdminOverridesActive
	RuntimeDeprecatedFeatureSeenSinceProcessStart
	RuntimeNumKeys
	RuntimeNumLayers
)

// RuntimeDef is under "runtime.".
var RuntimeDef = &Def{Name: "runtime", Stats: []Stat{
	{Name: "deprecated_feature_use", Kind: Counter},
	{Name: "load_error", Kind: Counter},
	{Name: "load_success", Kind: Counter},
	{Name: "override_dir_exists", Kind: Counter},
	{Name: "override_dir_not_exists", Kind: Counter},
	{Name: "admin_overrides_active", Kind: Gauge},
	{Name: "deprecated_feature_seen_since_process_start", Kind: Gauge},
	{Name: "num_keys", Kind: Gauge},
	{Name: "num_layers", Kind: Gauge},
}}

// The ids of ControlPlaneDef.
const (
	ControlPlaneRateLimitEnforced = iota
	ControlPlaneConnectedState
	ControlPlanePendingRequests
	ControlPlaneIdentifier
)

// ControlPlaneDef is under "control_plane.", or below the subscription's own prefix outside ADS.
var ControlPlaneDef = &Def{Name: "control_plane", Stats: []Stat{
	{Name: "rate_limit_enforced", Kind: Counter},
	{Name: "connected_state", Kind: Gauge},
	{Name: "pending_requests", Kind: Gauge},
	{Name: "identifier", Kind: Text},
}}

// The ids of FilesystemDef.
const (
	FilesystemFlushedByTimer = iota
	FilesystemReopenFailed
	FilesystemWriteBuffered
	FilesystemWriteCompleted
	FilesystemWriteDropped
	FilesystemWriteFailed
	FilesystemWriteTotalBuffered
)

// FilesystemDef is every file sink together, under "filesystem.". write_dropped is ours: log bytes that found no room (Envoy blocks instead); it is listed once it happened.
var FilesystemDef = &Def{Name: "filesystem", Stats: []Stat{
	{Name: "flushed_by_timer", Kind: Counter},
	{Name: "reopen_failed", Kind: Counter},
	{Name: "write_buffered", Kind: Counter},
	{Name: "write_completed", Kind: Counter},
	{Name: "write_dropped", Kind: Counter, Lazy: true},
	{Name: "write_failed", Kind: Counter},
	{Name: "write_total_buffered", Kind: Gauge},
}}

// The ids of ThreadLocalClusterDef.
const (
	ThreadLocalClusterClustersInflated = iota
)

// ThreadLocalClusterDef is under "thread_local_cluster_manager.worker_N.".
var ThreadLocalClusterDef = &Def{Name: "thread_local_cluster_manager", Stats: []Stat{
	{Name: "clusters_inflated", Kind: Gauge},
}}

// The ids of DNSDef.
const (
	DNSGetAddrFailure = iota
	DNSNotFound
	DNSReinits
	DNSResolveTotal
	DNSTimeouts
	DNSPendingResolutions
)

// DNSDef is the resolver, under "dns.cares.": the names that dashboards know.
var DNSDef = &Def{Name: "dns", Stats: []Stat{
	{Name: "get_addr_failure", Kind: Counter},
	{Name: "not_found", Kind: Counter},
	{Name: "reinits", Kind: Counter},
	{Name: "resolve_total", Kind: Counter},
	{Name: "timeouts", Kind: Counter},
	{Name: "pending_resolutions", Kind: Gauge},
}}

// The ids of GRPCAccessLogDef.
const (
	GRPCAccessLogEntriesFlushFailed = iota
	GRPCAccessLogEntriesFlushed
	GRPCAccessLogDropped
	GRPCAccessLogWritten
)

// GRPCAccessLogDef is under "access_logs.grpc_access_log.".
var GRPCAccessLogDef = &Def{Name: "grpc access log", Stats: []Stat{
	{Name: "grpc_entries_flush_failed", Kind: Counter},
	{Name: "grpc_entries_flushed", Kind: Counter},
	{Name: "logs_dropped", Kind: Counter},
	{Name: "logs_written", Kind: Counter},
}}
