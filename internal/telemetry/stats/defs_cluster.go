// SPDX-License-Identifier: Apache-2.0

package stats

// The ids of ClusterDef.
const (
	ClusterBindErrors = iota
	ClusterLbHealthyPanic
	ClusterLbLocalClusterNotOk
	ClusterLbRecalculateZoneStructures
	ClusterLbSubsetsFallback
	ClusterLbSubsetsFallbackPanic
	ClusterLbSubsetsSelected
	ClusterLbZoneClusterTooSmall
	ClusterLbZoneNoCapacityLeft
	ClusterLbZoneRoutingAllDirectly
	ClusterLbZoneRoutingCrossZone
	ClusterLbZoneRoutingSampled
	ClusterRetryOrShadowAbandoned
	ClusterUpstreamCxCloseNotify
	ClusterUpstreamCxConnectAttemptsExceeded
	ClusterUpstreamCxConnectFail
	ClusterUpstreamCxConnectTimeout
	ClusterUpstreamCxConnectWith0Rtt
	ClusterUpstreamCxDestroy
	ClusterUpstreamCxDestroyLocal
	ClusterUpstreamCxDestroyLocalWithActiveRq
	ClusterUpstreamCxDestroyRemote
	ClusterUpstreamCxDestroyRemoteWithActiveRq
	ClusterUpstreamCxDestroyWithActiveRq
	ClusterUpstreamCxHTTP1Total
	ClusterUpstreamCxHTTP2Total
	ClusterUpstreamCxHTTP3Total
	ClusterUpstreamCxIdleTimeout
	ClusterUpstreamCxMaxDurationReached
	ClusterUpstreamCxMaxRequests
	ClusterUpstreamCxNoneHealthy
	ClusterUpstreamCxOverflow
	ClusterUpstreamCxPoolOverflow
	ClusterUpstreamCxPreconnectSkipped
	ClusterUpstreamCxProtocolError
	ClusterUpstreamCxRxBytesTotal
	ClusterUpstreamCxTotal
	ClusterUpstreamCxTxBytesTotal
	ClusterUpstreamFlowControlBackedUpTotal
	ClusterUpstreamFlowControlDrainedTotal
	ClusterUpstreamFlowControlPausedReadingTotal
	ClusterUpstreamFlowControlResumedReadingTotal
	ClusterUpstreamHTTP3Broken
	ClusterUpstreamInternalRedirectFailedTotal
	ClusterUpstreamInternalRedirectSucceededTotal
	ClusterUpstreamRq0rtt
	ClusterUpstreamRqActiveOverflow
	ClusterUpstreamRqCancelled
	ClusterUpstreamRqCompleted
	ClusterUpstreamRqDropOverload
	ClusterUpstreamRqDropped
	ClusterUpstreamRqMaintenanceMode
	ClusterUpstreamRqMaxDurationReached
	ClusterUpstreamRqPendingFailureEject
	ClusterUpstreamRqPendingOverflow
	ClusterUpstreamRqPendingTotal
	ClusterUpstreamRqPerTryIdleTimeout
	ClusterUpstreamRqPerTryTimeout
	ClusterUpstreamRqRetry
	ClusterUpstreamRqRetryBackoffExponential
	ClusterUpstreamRqRetryBackoffRatelimited
	ClusterUpstreamRqRetryLimitExceeded
	ClusterUpstreamRqRetryOverflow
	ClusterUpstreamRqRetrySuccess
	ClusterUpstreamRqRxReset
	ClusterUpstreamRqRxResetNoError
	ClusterUpstreamRqTimeout
	ClusterUpstreamRqTotal
	ClusterUpstreamRqTxReset
	ClusterCircuitBreakersDefaultCxOpen
	ClusterCircuitBreakersDefaultCxPoolOpen
	ClusterCircuitBreakersDefaultRqOpen
	ClusterCircuitBreakersDefaultRqPendingOpen
	ClusterCircuitBreakersDefaultRqRetryOpen
	ClusterCircuitBreakersHighCxOpen
	ClusterCircuitBreakersHighCxPoolOpen
	ClusterCircuitBreakersHighRqOpen
	ClusterCircuitBreakersHighRqPendingOpen
	ClusterCircuitBreakersHighRqRetryOpen
	ClusterUpstreamCxActive
	ClusterUpstreamCxRxBytesBuffered
	ClusterUpstreamCxTxBytesBuffered
	ClusterUpstreamQueueOverloaded
	ClusterUpstreamRqActive
	ClusterUpstreamRqPendingActive
	ClusterCanaryUpstreamRqTime
	ClusterExternalUpstreamRqTime
	ClusterInternalUpstreamRqTime
	ClusterUpstreamCxConnectMs
	ClusterUpstreamCxLengthMs
	ClusterUpstreamRqPerCx
	ClusterUpstreamRqTime
)

// The code sets of ClusterDef, for Block.Code.
const (
	ClusterCodes = iota
	ClusterCodesExternal
	ClusterCodesInternal
	ClusterCodesCanary
	ClusterCodesRetry
)

// ClusterDef is what workers count for one cluster, under "cluster.NAME.". ClusterConfigDef has the rest of Envoy's list.
var ClusterDef = &Def{Name: "cluster", Stats: []Stat{
	{Name: "bind_errors", Kind: Counter},
	{Name: "lb_healthy_panic", Kind: Counter},
	{Name: "lb_local_cluster_not_ok", Kind: Counter},
	{Name: "lb_recalculate_zone_structures", Kind: Counter},
	{Name: "lb_subsets_fallback", Kind: Counter},
	{Name: "lb_subsets_fallback_panic", Kind: Counter},
	{Name: "lb_subsets_selected", Kind: Counter},
	{Name: "lb_zone_cluster_too_small", Kind: Counter},
	{Name: "lb_zone_no_capacity_left", Kind: Counter},
	{Name: "lb_zone_routing_all_directly", Kind: Counter},
	{Name: "lb_zone_routing_cross_zone", Kind: Counter},
	{Name: "lb_zone_routing_sampled", Kind: Counter},
	{Name: "retry_or_shadow_abandoned", Kind: Counter},
	{Name: "upstream_cx_close_notify", Kind: Counter},
	{Name: "upstream_cx_connect_attempts_exceeded", Kind: Counter},
	{Name: "upstream_cx_connect_fail", Kind: Counter},
	{Name: "upstream_cx_connect_timeout", Kind: Counter},
	{Name: "upstream_cx_connect_with_0_rtt", Kind: Counter},
	{Name: "upstream_cx_destroy", Kind: Counter},
	{Name: "upstream_cx_destroy_local", Kind: Counter},
	{Name: "upstream_cx_destroy_local_with_active_rq", Kind: Counter},
	{Name: "upstream_cx_destroy_remote", Kind: Counter},
	{Name: "upstream_cx_destroy_remote_with_active_rq", Kind: Counter},
	{Name: "upstream_cx_destroy_with_active_rq", Kind: Counter},
	{Name: "upstream_cx_http1_total", Kind: Counter},
	{Name: "upstream_cx_http2_total", Kind: Counter},
	{Name: "upstream_cx_http3_total", Kind: Counter},
	{Name: "upstream_cx_idle_timeout", Kind: Counter},
	{Name: "upstream_cx_max_duration_reached", Kind: Counter},
	{Name: "upstream_cx_max_requests", Kind: Counter},
	{Name: "upstream_cx_none_healthy", Kind: Counter},
	{Name: "upstream_cx_overflow", Kind: Counter},
	{Name: "upstream_cx_pool_overflow", Kind: Counter},
	{Name: "upstream_cx_preconnect_skipped", Kind: Counter},
	{Name: "upstream_cx_protocol_error", Kind: Counter},
	{Name: "upstream_cx_rx_bytes_total", Kind: Counter},
	{Name: "upstream_cx_total", Kind: Counter},
	{Name: "upstream_cx_tx_bytes_total", Kind: Counter},
	{Name: "upstream_flow_control_backed_up_total", Kind: Counter},
	{Name: "upstream_flow_control_drained_total", Kind: Counter},
	{Name: "upstream_flow_control_paused_reading_total", Kind: Counter},
	{Name: "upstream_flow_control_resumed_reading_total", Kind: Counter},
	{Name: "upstream_http3_broken", Kind: Counter},
	{Name: "upstream_internal_redirect_failed_total", Kind: Counter},
	{Name: "upstream_internal_redirect_succeeded_total", Kind: Counter},
	{Name: "upstream_rq_0rtt", Kind: Counter},
	{Name: "upstream_rq_active_overflow", Kind: Counter},
	{Name: "upstream_rq_cancelled", Kind: Counter},
	{Name: "upstream_rq_completed", Kind: Counter, FromCodes: 1},
	{Name: "upstream_rq_drop_overload", Kind: Counter, Hidden: true},
	{Name: "upstream_rq_dropped", Kind: Counter, Hidden: true},
	{Name: "upstream_rq_maintenance_mode", Kind: Counter},
	{Name: "upstream_rq_max_duration_reached", Kind: Counter},
	{Name: "upstream_rq_pending_failure_eject", Kind: Counter},
	{Name: "upstream_rq_pending_overflow", Kind: Counter},
	{Name: "upstream_rq_pending_total", Kind: Counter},
	{Name: "upstream_rq_per_try_idle_timeout", Kind: Counter},
	{Name: "upstream_rq_per_try_timeout", Kind: Counter},
	{Name: "upstream_rq_retry", Kind: Counter},
	{Name: "upstream_rq_retry_backoff_exponential", Kind: Counter},
	{Name: "upstream_rq_retry_backoff_ratelimited", Kind: Counter},
	{Name: "upstream_rq_retry_limit_exceeded", Kind: Counter},
	{Name: "upstream_rq_retry_overflow", Kind: Counter},
	{Name: "upstream_rq_retry_success", Kind: Counter},
	{Name: "upstream_rq_rx_reset", Kind: Counter},
	{Name: "upstream_rq_rx_reset_no_error", Kind: Counter},
	{Name: "upstream_rq_timeout", Kind: Counter},
	{Name: "upstream_rq_total", Kind: Counter},
	{Name: "upstream_rq_tx_reset", Kind: Counter},
	{Name: "circuit_breakers.default.cx_open", Kind: Gauge},
	{Name: "circuit_breakers.default.cx_pool_open", Kind: Gauge},
	{Name: "circuit_breakers.default.rq_open", Kind: Gauge},
	{Name: "circuit_breakers.default.rq_pending_open", Kind: Gauge},
	{Name: "circuit_breakers.default.rq_retry_open", Kind: Gauge},
	{Name: "circuit_breakers.high.cx_open", Kind: Gauge},
	{Name: "circuit_breakers.high.cx_pool_open", Kind: Gauge},
	{Name: "circuit_breakers.high.rq_open", Kind: Gauge},
	{Name: "circuit_breakers.high.rq_pending_open", Kind: Gauge},
	{Name: "circuit_breakers.high.rq_retry_open", Kind: Gauge},
	{Name: "upstream_cx_active", Kind: Gauge},
	{Name: "upstream_cx_rx_bytes_buffered", Kind: Gauge},
	{Name: "upstream_cx_tx_bytes_buffered", Kind: Gauge},
	{Name: "upstream_queue_overloaded", Kind: Gauge},
	{Name: "upstream_rq_active", Kind: Gauge},
	{Name: "upstream_rq_pending_active", Kind: Gauge},
	{Name: "canary.upstream_rq_time", Kind: Histogram, Unit: Milliseconds, Lazy: true},
	{Name: "external.upstream_rq_time", Kind: Histogram, Unit: Milliseconds, Lazy: true},
	{Name: "internal.upstream_rq_time", Kind: Histogram, Unit: Milliseconds, Lazy: true},
	{Name: "upstream_cx_connect_ms", Kind: Histogram, Unit: Milliseconds},
	{Name: "upstream_cx_length_ms", Kind: Histogram, Unit: Milliseconds},
	{Name: "upstream_rq_per_cx", Kind: Histogram},
	{Name: "upstream_rq_time", Kind: Histogram, Unit: Milliseconds, Lazy: true},
}, Codes: []string{"upstream_rq_", "external.upstream_rq_", "internal.upstream_rq_", "canary.upstream_rq_", "retry.upstream_rq_"}}

// The ids of ClusterConfigDef.
const (
	ClusterConfigAssignmentStale = iota
	ClusterConfigAssignmentTimeoutReceived
	ClusterConfigAssignmentUseCached
	ClusterConfigDefaultTotalMatchCount
	ClusterConfigLbSubsetsCreated
	ClusterConfigLbSubsetsRemoved
	ClusterConfigMembershipChange
	ClusterConfigOriginalDstHostInvalid
	ClusterConfigUpdateAttempt
	ClusterConfigUpdateEmpty
	ClusterConfigUpdateFailure
	ClusterConfigUpdateNoRebuild
	ClusterConfigUpdateSuccess
	ClusterConfigLbSubsetsActive
	ClusterConfigMaxHostWeight
	ClusterConfigMembershipDegraded
	ClusterConfigMembershipExcluded
	ClusterConfigMembershipHealthy
	ClusterConfigMembershipTotal
	ClusterConfigVersion
	ClusterConfigWarmingState
)

// ClusterConfigDef is what the control side counts for one cluster, under "cluster.NAME.": apart from ClusterDef so that 10,000 idle clusters stay small.
var ClusterConfigDef = &Def{Name: "cluster config", Stats: []Stat{
	{Name: "assignment_stale", Kind: Counter},
	{Name: "assignment_timeout_received", Kind: Counter},
	{Name: "assignment_use_cached", Kind: Counter},
	{Name: "default.total_match_count", Kind: Counter},
	{Name: "lb_subsets_created", Kind: Counter},
	{Name: "lb_subsets_removed", Kind: Counter},
	{Name: "membership_change", Kind: Counter},
	{Name: "original_dst_host_invalid", Kind: Counter},
	{Name: "update_attempt", Kind: Counter},
	{Name: "update_empty", Kind: Counter},
	{Name: "update_failure", Kind: Counter},
	{Name: "update_no_rebuild", Kind: Counter},
	{Name: "update_success", Kind: Counter},
	{Name: "lb_subsets_active", Kind: Gauge},
	{Name: "max_host_weight", Kind: Gauge},
	{Name: "membership_degraded", Kind: Gauge},
	{Name: "membership_excluded", Kind: Gauge},
	{Name: "membership_healthy", Kind: Gauge},
	{Name: "membership_total", Kind: Gauge},
	{Name: "version", Kind: Gauge},
	{Name: "warming_state", Kind: Gauge},
}}

// The ids of ClusterEDSDef.
const (
	ClusterEDSInitFetchTimeout = iota
	ClusterEDSUpdateRejected
	ClusterEDSUpdateTime
	ClusterEDSUpdateDuration
	ClusterEDSVersionText
)

// ClusterEDSDef is what an EDS cluster has besides ClusterConfigDef, under "cluster.NAME.".
var ClusterEDSDef = &Def{Name: "cluster eds", Stats: []Stat{
	{Name: "init_fetch_timeout", Kind: Counter},
	{Name: "update_rejected", Kind: Counter},
	{Name: "update_time", Kind: Gauge},
	{Name: "update_duration", Kind: Histogram, Unit: Milliseconds},
	{Name: "version_text", Kind: Text},
}}

// The ids of ClusterRemainingDef.
const (
	ClusterRemainingCircuitBreakersDefaultRemainingCx = iota
	ClusterRemainingCircuitBreakersDefaultRemainingCxPools
	ClusterRemainingCircuitBreakersDefaultRemainingPending
	ClusterRemainingCircuitBreakersDefaultRemainingRetries
	ClusterRemainingCircuitBreakersDefaultRemainingRq
	ClusterRemainingCircuitBreakersHighRemainingCx
	ClusterRemainingCircuitBreakersHighRemainingCxPools
	ClusterRemainingCircuitBreakersHighRemainingPending
	ClusterRemainingCircuitBreakersHighRemainingRetries
	ClusterRemainingCircuitBreakersHighRemainingRq
)

// ClusterRemainingDef is made for clusters with track_remaining, under "cluster.NAME.".
var ClusterRemainingDef = &Def{Name: "cluster remaining", Stats: []Stat{
	{Name: "circuit_breakers.default.remaining_cx", Kind: Gauge},
	{Name: "circuit_breakers.default.remaining_cx_pools", Kind: Gauge, Wide: true},
	{Name: "circuit_breakers.default.remaining_pending", Kind: Gauge},
	{Name: "circuit_breakers.default.remaining_retries", Kind: Gauge},
	{Name: "circuit_breakers.default.remaining_rq", Kind: Gauge},
	{Name: "circuit_breakers.high.remaining_cx", Kind: Gauge},
	{Name: "circuit_breakers.high.remaining_cx_pools", Kind: Gauge, Wide: true},
	{Name: "circuit_breakers.high.remaining_pending", Kind: Gauge},
	{Name: "circuit_breakers.high.remaining_retries", Kind: Gauge},
	{Name: "circuit_breakers.high.remaining_rq", Kind: Gauge},
}}

// The ids of ClusterSizeDef.
const (
	ClusterSizeUpstreamRqBodySize = iota
	ClusterSizeUpstreamRqHeadersCount
	ClusterSizeUpstreamRqHeadersSize
	ClusterSizeUpstreamRsBodySize
	ClusterSizeUpstreamRsHeadersCount
	ClusterSizeUpstreamRsHeadersSize
)

// ClusterSizeDef is made for clusters with track_cluster_stats.request_response_sizes, under "cluster.NAME.".
var ClusterSizeDef = &Def{Name: "cluster sizes", Stats: []Stat{
	{Name: "upstream_rq_body_size", Kind: Histogram, Unit: Bytes},
	{Name: "upstream_rq_headers_count", Kind: Histogram},
	{Name: "upstream_rq_headers_size", Kind: Histogram, Unit: Bytes},
	{Name: "upstream_rs_body_size", Kind: Histogram, Unit: Bytes},
	{Name: "upstream_rs_headers_count", Kind: Histogram},
	{Name: "upstream_rs_headers_size", Kind: Histogram, Unit: Bytes},
}}

// The ids of ClusterBudgetDef.
const (
	ClusterBudgetUpstreamRqTimeoutBudgetPerTryPercentUsed = iota
	ClusterBudgetUpstreamRqTimeoutBudgetPercentUsed
)

// ClusterBudgetDef is made for clusters with track_cluster_stats.timeout_budgets, under "cluster.NAME.".
var ClusterBudgetDef = &Def{Name: "cluster budgets", Stats: []Stat{
	{Name: "upstream_rq_timeout_budget_per_try_percent_used", Kind: Histogram, Unit: Percent},
	{Name: "upstream_rq_timeout_budget_percent_used", Kind: Histogram, Unit: Percent},
}}

// The ids of InternalUpstreamDef.
const (
	InternalUpstreamNoMetadata = iota
)

// InternalUpstreamDef is the transport socket internal_upstream, under "cluster.NAME.internal_upstream.".
var InternalUpstreamDef = &Def{Name: "internal upstream", Stats: []Stat{
	{Name: "no_metadata", Kind: Counter},
}}

// The ids of ClusterRingHashDef.
const (
	ClusterRingHashMaxHashesPerHost = iota
	ClusterRingHashMinHashesPerHost
	ClusterRingHashSize
)

// ClusterRingHashDef is under "cluster.NAME.ring_hash_lb.".
var ClusterRingHashDef = &Def{Name: "ring hash", Stats: []Stat{
	{Name: "max_hashes_per_host", Kind: Gauge},
	{Name: "min_hashes_per_host", Kind: Gauge},
	{Name: "size", Kind: Gauge},
}}

// The ids of ClusterMaglevDef.
const (
	ClusterMaglevMaxEntriesPerHost = iota
	ClusterMaglevMinEntriesPerHost
)

// ClusterMaglevDef is under "cluster.NAME.maglev_lb.".
var ClusterMaglevDef = &Def{Name: "maglev", Stats: []Stat{
	{Name: "max_entries_per_host", Kind: Gauge},
	{Name: "min_entries_per_host", Kind: Gauge},
}}
