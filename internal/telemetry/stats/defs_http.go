// SPDX-License-Identifier: Apache-2.0

package stats

// The ids of H1Def.
const (
	H1DroppedHeadersWithUnderscores = iota
	H1MetadataNotSupportedError
	H1RequestsRejectedWithUnderscoresInHeaders
	H1ResponseFlood
)

// H1Def is the HTTP/1 codec, under "http1." for downstream and "cluster.NAME.http1." for upstream connections; listed once a worker used it.
var H1Def = &Def{Name: "http1", Lazy: true, Stats: []Stat{
	{Name: "dropped_headers_with_underscores", Kind: Counter},
	{Name: "metadata_not_supported_error", Kind: Counter},
	{Name: "requests_rejected_with_underscores_in_headers", Kind: Counter},
	{Name: "response_flood", Kind: Counter},
}}

// The ids of HTTP2Def.
const (
	HTTP2CookiesTotalBytesTooLarge = iota
	HTTP2DroppedHeadersWithUnderscores
	HTTP2GoawaySent
	HTTP2HeaderListSizeTooLarge
	HTTP2HeaderOverflow
	HTTP2HeadersCbNoStream
	HTTP2InboundEmptyFramesFlood
	HTTP2InboundPriorityFramesFlood
	HTTP2InboundWindowUpdateFramesFlood
	HTTP2KeepaliveTimeout
	HTTP2MetadataEmptyFrames
	HTTP2Nghttp2DownstreamConnections
	HTTP2Nghttp2UpstreamConnections
	HTTP2Oghttp2DownstreamConnections
	HTTP2Oghttp2UpstreamConnections
	HTTP2OutboundControlFlood
	HTTP2OutboundFlood
	HTTP2RequestsRejectedWithUnderscoresInHeaders
	HTTP2RxMessagingError
	HTTP2RxReset
	HTTP2StreamRefusedErrors
	HTTP2Trailers
	HTTP2TxFlushTimeout
	HTTP2TxReset
	HTTP2DeferredStreamClose
	HTTP2OutboundControlFramesActive
	HTTP2OutboundFramesActive
	HTTP2PendingSendBytes
	HTTP2StreamsActive
)

// HTTP2Def is the HTTP/2 codec, under "http2." for downstream and "cluster.NAME.http2." for upstream connections; listed once a worker used it.
var HTTP2Def = &Def{Name: "http2", Lazy: true, Stats: []Stat{
	{Name: "cookies_total_bytes_too_large", Kind: Counter},
	{Name: "dropped_headers_with_underscores", Kind: Counter},
	{Name: "goaway_sent", Kind: Counter},
	{Name: "header_list_size_too_large", Kind: Counter},
	{Name: "header_overflow", Kind: Counter},
	{Name: "headers_cb_no_stream", Kind: Counter},
	{Name: "inbound_empty_frames_flood", Kind: Counter},
	{Name: "inbound_priority_frames_flood", Kind: Counter},
	{Name: "inbound_window_update_frames_flood", Kind: Counter},
	{Name: "keepalive_timeout", Kind: Counter},
	{Name: "metadata_empty_frames", Kind: Counter},
	{Name: "nghttp2_downstream_connections", Kind: Counter},
	{Name: "nghttp2_upstream_connections", Kind: Counter},
	{Name: "oghttp2_downstream_connections", Kind: Counter},
	{Name: "oghttp2_upstream_connections", Kind: Counter},
	{Name: "outbound_control_flood", Kind: Counter},
	{Name: "outbound_flood", Kind: Counter},
	{Name: "requests_rejected_with_underscores_in_headers", Kind: Counter},
	{Name: "rx_messaging_error", Kind: Counter},
	{Name: "rx_reset", Kind: Counter},
	{Name: "stream_refused_errors", Kind: Counter},
	{Name: "trailers", Kind: Counter},
	{Name: "tx_flush_timeout", Kind: Counter},
	{Name: "tx_reset", Kind: Counter},
	{Name: "deferred_stream_close", Kind: Gauge},
	{Name: "outbound_control_frames_active", Kind: Gauge},
	{Name: "outbound_frames_active", Kind: Gauge},
	{Name: "pending_send_bytes", Kind: Gauge},
	{Name: "streams_active", Kind: Gauge},
}}

// The ids of HCMDef.
const (
	HCMDownstreamCxDelayedCloseTimeout = iota
	HCMDownstreamCxDestroy
	HCMDownstreamCxDestroyActiveRq
	HCMDownstreamCxDestroyLocal
	HCMDownstreamCxDestroyLocalActiveRq
	HCMDownstreamCxDestroyRemote
	HCMDownstreamCxDestroyRemoteActiveRq
	HCMDownstreamCxDrainClose
	HCMDownstreamCxHTTP1Total
	HCMDownstreamCxHTTP2Total
	HCMDownstreamCxHTTP3Total
	HCMDownstreamCxIdleTimeout
	HCMDownstreamCxMaxDurationReached
	HCMDownstreamCxMaxRequestsReached
	HCMDownstreamCxOverloadDisableKeepalive
	HCMDownstreamCxProtocolError
	HCMDownstreamCxRxBytesTotal
	HCMDownstreamCxSSLTotal
	HCMDownstreamCxTotal
	HCMDownstreamCxTxBytesTotal
	HCMDownstreamCxUpgradesTotal
	HCMDownstreamFlowControlPausedReadingTotal
	HCMDownstreamFlowControlResumedReadingTotal
	HCMDownstreamRq1xx
	HCMDownstreamRq2xx
	HCMDownstreamRq3xx
	HCMDownstreamRq4xx
	HCMDownstreamRq5xx
	HCMDownstreamRqCompleted
	HCMDownstreamRqFailedPathNormalization
	HCMDownstreamRqHeaderTimeout
	HCMDownstreamRqHTTP1Total
	HCMDownstreamRqHTTP2Total
	HCMDownstreamRqHTTP3Total
	HCMDownstreamRqIdleTimeout
	HCMDownstreamRqMaxDurationReached
	HCMDownstreamRqNonRelativePath
	HCMDownstreamRqOverloadClose
	HCMDownstreamRqRedirectedWithNormalizedPath
	HCMDownstreamRqRejectedViaIpDetection
	HCMDownstreamRqResponseBeforeRqComplete
	HCMDownstreamRqRxReset
	HCMDownstreamRqTimeout
	HCMDownstreamRqTooLarge
	HCMDownstreamRqTooManyPrematureResets
	HCMDownstreamRqTotal
	HCMDownstreamRqTxReset
	HCMDownstreamRqWsOnNonWsRoute
	HCMNoCluster
	HCMNoRoute
	HCMPassthroughInternalRedirectBadLocation
	HCMPassthroughInternalRedirectNoRoute
	HCMPassthroughInternalRedirectPredicate
	HCMPassthroughInternalRedirectTooManyRedirects
	HCMPassthroughInternalRedirectUnsafeScheme
	HCMRqDirectResponse
	HCMRqOverloadLocalReply
	HCMRqRedirect
	HCMRqResetAfterDownstreamResponseStarted
	HCMRqTotal
	HCMRsTooLarge
	HCMDownstreamCxActive
	HCMDownstreamCxHTTP1Active
	HCMDownstreamCxHTTP1SoftDrain
	HCMDownstreamCxHTTP2Active
	HCMDownstreamCxHTTP3Active
	HCMDownstreamCxRxBytesBuffered
	HCMDownstreamCxSSLActive
	HCMDownstreamCxTxBytesBuffered
	HCMDownstreamCxUpgradesActive
	HCMDownstreamRqActive
	HCMDownstreamCxLengthMs
	HCMDownstreamRqTime
)

// HCMDef is one HTTP connection manager with its router, under "http.STAT_PREFIX.".
var HCMDef = &Def{Name: "http", Stats: []Stat{
	{Name: "downstream_cx_delayed_close_timeout", Kind: Counter},
	{Name: "downstream_cx_destroy", Kind: Counter},
	{Name: "downstream_cx_destroy_active_rq", Kind: Counter},
	{Name: "downstream_cx_destroy_local", Kind: Counter},
	{Name: "downstream_cx_destroy_local_active_rq", Kind: Counter},
	{Name: "downstream_cx_destroy_remote", Kind: Counter},
	{Name: "downstream_cx_destroy_remote_active_rq", Kind: Counter},
	{Name: "downstream_cx_drain_close", Kind: Counter},
	{Name: "downstream_cx_http1_total", Kind: Counter},
	{Name: "downstream_cx_http2_total", Kind: Counter},
	{Name: "downstream_cx_http3_total", Kind: Counter},
	{Name: "downstream_cx_idle_timeout", Kind: Counter},
	{Name: "downstream_cx_max_duration_reached", Kind: Counter},
	{Name: "downstream_cx_max_requests_reached", Kind: Counter},
	{Name: "downstream_cx_overload_disable_keepalive", Kind: Counter},
	{Name: "downstream_cx_protocol_error", Kind: Counter},
	{Name: "downstream_cx_rx_bytes_total", Kind: Counter},
	{Name: "downstream_cx_ssl_total", Kind: Counter},
	{Name: "downstream_cx_total", Kind: Counter},
	{Name: "downstream_cx_tx_bytes_total", Kind: Counter},
	{Name: "downstream_cx_upgrades_total", Kind: Counter},
	{Name: "downstream_flow_control_paused_reading_total", Kind: Counter},
	{Name: "downstream_flow_control_resumed_reading_total", Kind: Counter},
	{Name: "downstream_rq_1xx", Kind: Counter},
	{Name: "downstream_rq_2xx", Kind: Counter},
	{Name: "downstream_rq_3xx", Kind: Counter},
	{Name: "downstream_rq_4xx", Kind: Counter},
	{Name: "downstream_rq_5xx", Kind: Counter},
	{Name: "downstream_rq_completed", Kind: Counter},
	{Name: "downstream_rq_failed_path_normalization", Kind: Counter},
	{Name: "downstream_rq_header_timeout", Kind: Counter},
	{Name: "downstream_rq_http1_total", Kind: Counter},
	{Name: "downstream_rq_http2_total", Kind: Counter},
	{Name: "downstream_rq_http3_total", Kind: Counter},
	{Name: "downstream_rq_idle_timeout", Kind: Counter},
	{Name: "downstream_rq_max_duration_reached", Kind: Counter},
	{Name: "downstream_rq_non_relative_path", Kind: Counter},
	{Name: "downstream_rq_overload_close", Kind: Counter},
	{Name: "downstream_rq_redirected_with_normalized_path", Kind: Counter},
	{Name: "downstream_rq_rejected_via_ip_detection", Kind: Counter},
	{Name: "downstream_rq_response_before_rq_complete", Kind: Counter},
	{Name: "downstream_rq_rx_reset", Kind: Counter},
	{Name: "downstream_rq_timeout", Kind: Counter},
	{Name: "downstream_rq_too_large", Kind: Counter},
	{Name: "downstream_rq_too_many_premature_resets", Kind: Counter},
	{Name: "downstream_rq_total", Kind: Counter},
	{Name: "downstream_rq_tx_reset", Kind: Counter},
	{Name: "downstream_rq_ws_on_non_ws_route", Kind: Counter},
	{Name: "no_cluster", Kind: Counter},
	{Name: "no_route", Kind: Counter},
	{Name: "passthrough_internal_redirect_bad_location", Kind: Counter},
	{Name: "passthrough_internal_redirect_no_route", Kind: Counter},
	{Name: "passthrough_internal_redirect_predicate", Kind: Counter},
	{Name: "passthrough_internal_redirect_too_many_redirects", Kind: Counter},
	{Name: "passthrough_internal_redirect_unsafe_scheme", Kind: Counter},
	{Name: "rq_direct_response", Kind: Counter},
	{Name: "rq_overload_local_reply", Kind: Counter},
	{Name: "rq_redirect", Kind: Counter},
	{Name: "rq_reset_after_downstream_response_started", Kind: Counter},
	{Name: "rq_total", Kind: Counter},
	{Name: "rs_too_large", Kind: Counter},
	{Name: "downstream_cx_active", Kind: Gauge},
	{Name: "downstream_cx_http1_active", Kind: Gauge},
	{Name: "downstream_cx_http1_soft_drain", Kind: Gauge},
	{Name: "downstream_cx_http2_active", Kind: Gauge},
	{Name: "downstream_cx_http3_active", Kind: Gauge},
	{Name: "downstream_cx_rx_bytes_buffered", Kind: Gauge},
	{Name: "downstream_cx_ssl_active", Kind: Gauge},
	{Name: "downstream_cx_tx_bytes_buffered", Kind: Gauge},
	{Name: "downstream_cx_upgrades_active", Kind: Gauge},
	{Name: "downstream_rq_active", Kind: Gauge},
	{Name: "downstream_cx_length_ms", Kind: Histogram, Unit: Milliseconds},
	{Name: "downstream_rq_time", Kind: Histogram, Unit: Milliseconds},
}}

// The ids of AsyncClientDef.
const (
	AsyncClientNoCluster = iota
	AsyncClientNoRoute
	AsyncClientPassthroughInternalRedirectBadLocation
	AsyncClientPassthroughInternalRedirectNoRoute
	AsyncClientPassthroughInternalRedirectPredicate
	AsyncClientPassthroughInternalRedirectTooManyRedirects
	AsyncClientPassthroughInternalRedirectUnsafeScheme
	AsyncClientRqDirectResponse
	AsyncClientRqOverloadLocalReply
	AsyncClientRqRedirect
	AsyncClientRqResetAfterDownstreamResponseStarted
	AsyncClientRqTotal
)

// AsyncClientDef is what the router counts of requests that the proxy makes itself (mirrored ones), under "http.async-client.".
var AsyncClientDef = &Def{Name: "async client", Stats: []Stat{
	{Name: "no_cluster", Kind: Counter},
	{Name: "no_route", Kind: Counter},
	{Name: "passthrough_internal_redirect_bad_location", Kind: Counter},
	{Name: "passthrough_internal_redirect_no_route", Kind: Counter},
	{Name: "passthrough_internal_redirect_predicate", Kind: Counter},
	{Name: "passthrough_internal_redirect_too_many_redirects", Kind: Counter},
	{Name: "passthrough_internal_redirect_unsafe_scheme", Kind: Counter},
	{Name: "rq_direct_response", Kind: Counter},
	{Name: "rq_overload_local_reply", Kind: Counter},
	{Name: "rq_redirect", Kind: Counter},
	{Name: "rq_reset_after_downstream_response_started", Kind: Counter},
	{Name: "rq_total", Kind: Counter},
}}

// The ids of HCMTracingDef.
const (
	HCMTracingClientEnabled = iota
	HCMTracingHealthCheck
	HCMTracingNotTraceable
	HCMTracingRandomSampling
	HCMTracingServiceForced
)

// HCMTracingDef is under "http.STAT_PREFIX.tracing.".
var HCMTracingDef = &Def{Name: "http tracing", Stats: []Stat{
	{Name: "client_enabled", Kind: Counter},
	{Name: "health_check", Kind: Counter},
	{Name: "not_traceable", Kind: Counter},
	{Name: "random_sampling", Kind: Counter},
	{Name: "service_forced", Kind: Counter},
}}

// The ids of HCMListenerDef.
const (
	HCMListenerDownstreamRq1xx = iota
	HCMListenerDownstreamRq2xx
	HCMListenerDownstreamRq3xx
	HCMListenerDownstreamRq4xx
	HCMListenerDownstreamRq5xx
	HCMListenerDownstreamRqCompleted
)

// HCMListenerDef is what one listener counts of an HTTP connection manager, under "listener.ADDR.http.STAT_PREFIX.".
var HCMListenerDef = &Def{Name: "listener http", Stats: []Stat{
	{Name: "downstream_rq_1xx", Kind: Counter},
	{Name: "downstream_rq_2xx", Kind: Counter},
	{Name: "downstream_rq_3xx", Kind: Counter},
	{Name: "downstream_rq_4xx", Kind: Counter},
	{Name: "downstream_rq_5xx", Kind: Counter},
	{Name: "downstream_rq_completed", Kind: Counter},
}}

// The ids of VirtualClusterDef.
const (
	VirtualClusterUpstreamRqRetry = iota
	VirtualClusterUpstreamRqRetryLimitExceeded
	VirtualClusterUpstreamRqRetryOverflow
	VirtualClusterUpstreamRqRetrySuccess
	VirtualClusterUpstreamRqTimeout
	VirtualClusterUpstreamRqTotal
	VirtualClusterUpstreamRqTime
)

// The code sets of VirtualClusterDef, for Block.Code.
const (
	VirtualClusterCodes = iota
)

// VirtualClusterDef is under "vhost.NAME.vcluster.NAME." and, for routes with a stat_prefix, "vhost.NAME.route.STAT_PREFIX.".
var VirtualClusterDef = &Def{Name: "vcluster", Stats: []Stat{
	{Name: "upstream_rq_retry", Kind: Counter},
	{Name: "upstream_rq_retry_limit_exceeded", Kind: Counter},
	{Name: "upstream_rq_retry_overflow", Kind: Counter},
	{Name: "upstream_rq_retry_success", Kind: Counter},
	{Name: "upstream_rq_timeout", Kind: Counter},
	{Name: "upstream_rq_total", Kind: Counter},
	{Name: "upstream_rq_time", Kind: Histogram, Unit: Milliseconds, Lazy: true},
}, Codes: []string{"upstream_rq_"}}
