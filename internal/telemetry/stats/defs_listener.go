// SPDX-License-Identifier: Apache-2.0

package stats

// The ids of ListenerDef.
const (
	ListenerDownstreamCxDestroy = iota
	ListenerDownstreamCxOverflow
	ListenerDownstreamCxOverloadReject
	ListenerDownstreamCxTotal
	ListenerDownstreamCxTransportSocketConnectTimeout
	ListenerDownstreamGlobalCxOverflow
	ListenerDownstreamListenerFilterError
	ListenerDownstreamListenerFilterRemoteClose
	ListenerDownstreamPreCxTimeout
	ListenerExtensionConfigMissing
	ListenerNetworkExtensionConfigMissing
	ListenerNoFilterChainMatch
	ListenerDownstreamCxActive
	ListenerDownstreamPreCxActive
	ListenerConnectionsAcceptedPerSocketEvent
	ListenerDownstreamCxLengthMs
)

// ListenerDef is one listener, under "listener.ADDR." (ADDR or stat_prefix, with ':' as '_').
var ListenerDef = &Def{Name: "listener", Stats: []Stat{
	{Name: "downstream_cx_destroy", Kind: Counter},
	{Name: "downstream_cx_overflow", Kind: Counter},
	{Name: "downstream_cx_overload_reject", Kind: Counter},
	{Name: "downstream_cx_total", Kind: Counter},
	{Name: "downstream_cx_transport_socket_connect_timeout", Kind: Counter},
	{Name: "downstream_global_cx_overflow", Kind: Counter},
	{Name: "downstream_listener_filter_error", Kind: Counter},
	{Name: "downstream_listener_filter_remote_close", Kind: Counter},
	{Name: "downstream_pre_cx_timeout", Kind: Counter},
	{Name: "extension_config_missing", Kind: Counter},
	{Name: "network_extension_config_missing", Kind: Counter},
	{Name: "no_filter_chain_match", Kind: Counter},
	{Name: "downstream_cx_active", Kind: Gauge},
	{Name: "downstream_pre_cx_active", Kind: Gauge},
	{Name: "connections_accepted_per_socket_event", Kind: Histogram},
	{Name: "downstream_cx_length_ms", Kind: Histogram, Unit: Milliseconds},
}}

// The ids of ListenerWorkerDef.
const (
	ListenerWorkerDownstreamCxTotal = iota
	ListenerWorkerDownstreamCxActive
)

// ListenerWorkerDef is one worker's share of a listener, under "listener.ADDR.worker_N.".
var ListenerWorkerDef = &Def{Name: "listener worker", Stats: []Stat{
	{Name: "downstream_cx_total", Kind: Counter},
	{Name: "downstream_cx_active", Kind: Gauge},
}}

// The ids of TCPDef.
const (
	TCPDownstreamCxDrainClose = iota
	TCPDownstreamCxNoRoute
	TCPDownstreamCxOverloadClose
	TCPDownstreamCxRxBytesTotal
	TCPDownstreamCxTotal
	TCPDownstreamCxTxBytesTotal
	TCPDownstreamFlowControlPausedReadingTotal
	TCPDownstreamFlowControlResumedReadingTotal
	TCPEarlyDataReceivedCountTotal
	TCPIdleTimeout
	TCPMaxDownstreamConnectionDuration
	TCPRouteDelayedTotal
	TCPUpstreamFlushTotal
	TCPDownstreamCxRxBytesBuffered
	TCPDownstreamCxTxBytesBuffered
	TCPUpstreamFlushActive
)

// TCPDef is one tcp_proxy, under "tcp.STAT_PREFIX.".
var TCPDef = &Def{Name: "tcp", Stats: []Stat{
	{Name: "downstream_cx_drain_close", Kind: Counter},
	{Name: "downstream_cx_no_route", Kind: Counter},
	{Name: "downstream_cx_overload_close", Kind: Counter},
	{Name: "downstream_cx_rx_bytes_total", Kind: Counter},
	{Name: "downstream_cx_total", Kind: Counter},
	{Name: "downstream_cx_tx_bytes_total", Kind: Counter},
	{Name: "downstream_flow_control_paused_reading_total", Kind: Counter},
	{Name: "downstream_flow_control_resumed_reading_total", Kind: Counter},
	{Name: "early_data_received_count_total", Kind: Counter},
	{Name: "idle_timeout", Kind: Counter},
	{Name: "max_downstream_connection_duration", Kind: Counter},
	{Name: "route_delayed_total", Kind: Counter},
	{Name: "upstream_flush_total", Kind: Counter},
	{Name: "downstream_cx_rx_bytes_buffered", Kind: Gauge},
	{Name: "downstream_cx_tx_bytes_buffered", Kind: Gauge},
	{Name: "upstream_flush_active", Kind: Gauge},
}}

// The ids of TCPDemandDef.
const (
	TCPOnDemandClusterAttempt = iota
	TCPOnDemandClusterMissing
	TCPOnDemandClusterSuccess
	TCPOnDemandClusterTimeout
)

// TCPDemandDef is one tcp_proxy with on_demand, under "tcp.STAT_PREFIX.".
var TCPDemandDef = &Def{Name: "tcp on demand", Stats: []Stat{
	{Name: "on_demand_cluster_attempt", Kind: Counter},
	{Name: "on_demand_cluster_missing", Kind: Counter},
	{Name: "on_demand_cluster_success", Kind: Counter},
	{Name: "on_demand_cluster_timeout", Kind: Counter},
}}

// The ids of TLSInspectorDef.
const (
	TLSInspectorAlpnFound = iota
	TLSInspectorAlpnNotFound
	TLSInspectorClientHelloTooLarge
	TLSInspectorSniFound
	TLSInspectorSniNotFound
	TLSInspectorTlsFound
	TLSInspectorTlsNotFound
	TLSInspectorBytesProcessed
)

// TLSInspectorDef is under "tls_inspector.".
var TLSInspectorDef = &Def{Name: "tls_inspector", Stats: []Stat{
	{Name: "alpn_found", Kind: Counter},
	{Name: "alpn_not_found", Kind: Counter},
	{Name: "client_hello_too_large", Kind: Counter},
	{Name: "sni_found", Kind: Counter},
	{Name: "sni_not_found", Kind: Counter},
	{Name: "tls_found", Kind: Counter},
	{Name: "tls_not_found", Kind: Counter},
	{Name: "bytes_processed", Kind: Histogram, Unit: Bytes},
}}

// The ids of HTTPInspectorDef.
const (
	HTTPInspectorHttp10Found = iota
	HTTPInspectorHttp11Found
	HTTPInspectorHTTP2Found
	HTTPInspectorHttpNotFound
	HTTPInspectorReadError
)

// HTTPInspectorDef is under "http_inspector.".
var HTTPInspectorDef = &Def{Name: "http_inspector", Stats: []Stat{
	{Name: "http10_found", Kind: Counter},
	{Name: "http11_found", Kind: Counter},
	{Name: "http2_found", Kind: Counter},
	{Name: "http_not_found", Kind: Counter},
	{Name: "read_error", Kind: Counter},
}}

// The ids of ProxyProtocolDef.
const (
	ProxyProtocolNotFoundAllowed = iota
	ProxyProtocolNotFoundDisallowed
	ProxyProtocolVersionsV1Disallowed
	ProxyProtocolVersionsV1Error
	ProxyProtocolVersionsV1Found
	ProxyProtocolVersionsV2Disallowed
	ProxyProtocolVersionsV2Error
	ProxyProtocolVersionsV2Found
)

// ProxyProtocolDef is under "proxy_proto.", or "proxy_proto.STAT_PREFIX.".
var ProxyProtocolDef = &Def{Name: "proxy_proto", Stats: []Stat{
	{Name: "not_found_allowed", Kind: Counter},
	{Name: "not_found_disallowed", Kind: Counter},
	{Name: "versions.v1.disallowed", Kind: Counter},
	{Name: "versions.v1.error", Kind: Counter},
	{Name: "versions.v1.found", Kind: Counter},
	{Name: "versions.v2.disallowed", Kind: Counter},
	{Name: "versions.v2.error", Kind: Counter},
	{Name: "versions.v2.found", Kind: Counter},
}}

// The ids of ProxyProtoErrorDef.
const (
	ProxyProtoErrorTotal = iota
)

// ProxyProtoErrorDef has the empty prefix; Envoy's older name.
var ProxyProtoErrorDef = &Def{Name: "proxy_proto error", Stats: []Stat{
	{Name: "downstream_cx_proxy_proto_error", Kind: Counter},
}}
