// SPDX-License-Identifier: Apache-2.0

// Package fault names everything that can go wrong with a connection or a request: a Kind says what happened, and one table maps it to the
// HTTP status, the body, the Envoy response flags and the RESPONSE_CODE_DETAILS string. Values are plain and comparable; nothing allocates.
package fault

// Flags is a set of Envoy response flags (%RESPONSE_FLAGS%). The bit order is Envoy's CoreResponseFlag order, which is also the order in
// which several flags are printed.
type Flags uint64

// The response flags of envoy.data.accesslog.v3.ResponseFlags, with their access-log short names as comment.
const (
	FlagLH    Flags = 1 << iota // FailedLocalHealthCheck
	FlagUH                      // NoHealthyUpstream
	FlagUT                      // UpstreamRequestTimeout
	FlagLR                      // LocalReset
	FlagUR                      // UpstreamRemoteReset
	FlagUF                      // UpstreamConnectionFailure
	FlagUC                      // UpstreamConnectionTermination
	FlagUO                      // UpstreamOverflow
	FlagNR                      // NoRouteFound
	FlagDI                      // DelayInjected
	FlagFI                      // FaultInjected
	FlagRL                      // RateLimited
	FlagUAEX                    // UnauthorizedExternalService
	FlagRLSE                    // RateLimitServiceError
	FlagDC                      // DownstreamConnectionTermination
	FlagURX                     // UpstreamRetryLimitExceeded
	FlagSI                      // StreamIdleTimeout
	FlagIH                      // InvalidEnvoyRequestHeaders
	FlagDPE                     // DownstreamProtocolError
	FlagUMSDR                   // UpstreamMaxStreamDurationReached
	FlagRFCF                    // ResponseFromCacheFilter
	FlagNFCF                    // NoFilterConfigFound
	FlagDT                      // DurationTimeout
	FlagUPE                     // UpstreamProtocolError
	FlagNC                      // NoClusterFound
	FlagOM                      // OverloadManagerTerminated
	FlagDF                      // DnsResolutionFailed
	FlagDO                      // DropOverload
	FlagDR                      // DownstreamRemoteReset
	FlagUDO                     // UnconditionalDropOverload
)

var shortNames = [...]string{"LH", "UH", "UT", "LR", "UR", "UF", "UC", "UO", "NR", "DI", "FI", "RL", "UAEX", "RLSE", "DC", "URX", "SI", "IH",
	"DPE", "UMSDR", "RFCF", "NFCF", "DT", "UPE", "NC", "OM", "DF", "DO", "DR", "UDO"}

var longNames = [...]string{"FailedLocalHealthCheck", "NoHealthyUpstream", "UpstreamRequestTimeout", "LocalReset", "UpstreamRemoteReset",
	"UpstreamConnectionFailure", "UpstreamConnectionTermination", "UpstreamOverflow", "NoRouteFound", "DelayInjected", "FaultInjected",
	"RateLimited", "UnauthorizedExternalService", "RateLimitServiceError", "DownstreamConnectionTermination", "UpstreamRetryLimitExceeded",
	"StreamIdleTimeout", "InvalidEnvoyRequestHeaders", "DownstreamProtocolError", "UpstreamMaxStreamDurationReached", "ResponseFromCacheFilter",
	"NoFilterConfigFound", "DurationTimeout", "UpstreamProtocolError", "NoClusterFound", "OverloadManagerTerminated", "DnsResolutionFailed",
	"DropOverload", "DownstreamRemoteReset", "UnconditionalDropOverload"}

// AppendShort appends the short names joined with ',' (%RESPONSE_FLAGS%); it appends nothing for an empty set.
func (f Flags) AppendShort(b []byte) []byte { return f.append(b, shortNames[:]) }

// AppendLong appends the long names joined with ',' (%RESPONSE_FLAGS_LONG%).
func (f Flags) AppendLong(b []byte) []byte { return f.append(b, longNames[:]) }

func (f Flags) append(b []byte, names []string) []byte {
	first := true
	for i := range names {
		if f&(1<<i) == 0 {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(b, names[i]...)
	}
	return b
}

// ParseFlag returns the flag with the given short name, as response_flag_filter writes it; ok is false for an unknown name.
func ParseFlag(short string) (f Flags, ok bool) {
	for i, n := range shortNames {
		if n == short {
			return 1 << i, true
		}
	}
	return 0, false
}

// Kind is one way to fail. The zero value None means no fault.
type Kind uint8

// The kinds, grouped by who finds them.
const (
	None Kind = iota

	// Found by an HTTP/1 codec in downstream bytes (or, with the same names, in upstream bytes: then the exchange answers 502 UPE).
	CodecError            // anything malformed without a name of its own
	InvalidCharacters     // in a header name or value
	InvalidURL            // request target
	InvalidAuthority      // Host or authority
	BodyDisallowed        // Content-Length on CONNECT
	UnexpectedUnderscore  // underscore in a header name with REJECT_REQUEST
	InvalidTransferCoding // transfer-encoding other than chunked
	LengthAndChunked      // content-length together with transfer-encoding
	HeadersTooLarge       // max_request_headers_kb
	TooManyHeaders        // max_headers_count
	LowVersion            // not HTTP/1.1 (or 1.0 without accept_http_10)
	HTTP2Preface          // an HTTP/2 preface on an HTTP/1 codec
	InvalidScheme         // absolute-form target with a scheme other than http and https
	ConnectionRejected    // Connection names ten fields or more, or one that must not be removed

	// Found by an HTTP/2 codec. None has a local reply: the stream or the connection is reset.
	H2Protocol        // a violation of the framing layer
	H2Connection      // such a one, of which the other streams of the connection hear
	H2Content         // more or less content than content-length says
	H2Messaging       // a malformed message
	H2InvalidField    // a malformed field or pseudo-header
	H2TooManyHeaders  // max_headers_count
	H2HeadersTooLarge // max_request_headers_kb
	H2Underscore      // underscore in a header name with REJECT_REQUEST
	H2EmptyFrames     // max_consecutive_inbound_frames_with_empty_payload
	H2PriorityFlood   // max_inbound_priority_frames_per_stream
	H2WindowFlood     // max_inbound_window_update_frames_per_data_frame_sent
	H2Flood           // another limit on inbound frames
	H2OutboundFlood   // max_outbound_frames, max_outbound_control_frames
	H2PrematureResets // premature_reset_total_stream_count
	H2Timeout         // no answer to PING or SETTINGS
	H2RemoteReset     // RST_STREAM from the peer
	H2RemoteRefuse    // RST_STREAM with REFUSED_STREAM, or a stream that GOAWAY leaves out

	// Found by the HTTP connection manager or the router.
	MissingHost
	MissingPath
	AbsolutePathRejected // OPTIONS * and absolute form without path
	PathNormalization    // bad escape, escaped slash rejected, '#'
	UpgradeFailed        // upgrade or CONNECT not enabled
	RouteNotFound
	ClusterNotFound
	DirectResponse
	NoHealthyUpstream
	Overflow        // circuit breaker
	MaintenanceMode // runtime upstream.maintenance_mode
	DropOverload    // unconditional drop_overloads
	RequestTimeout  // request_timeout
	HeaderTimeout   // request_headers_timeout
	StreamIdle      // stream_idle_timeout
	MaxDuration     // max_stream_duration
	RouteTimeout    // route timeout
	PerTryTimeout
	PerTryIdleTimeout
	UpstreamMaxDuration // max_stream_duration of the cluster
	PayloadTooLarge     // request body over the buffer limit where it had to be buffered

	// Connections.
	ConnectFailed       // refused or unreachable
	ConnectTimeout      // connect_timeout
	RemoteReset         // RST from the peer
	StreamReset         // RST_STREAM from the upstream
	StreamRefused       // the upstream did not take the stream: REFUSED_STREAM, or GOAWAY below it
	ConnectionTerminate // FIN or close while a message was in flight
	UpstreamProtocol    // upstream bytes that are not HTTP
	DownstreamGone      // the client closed
	LocalReset
	Bug // a panic was contained
	numKinds
)

// Row is what a kind means to a user.
type Row struct {
	Status  uint16 // of the local reply; 0 = no reply, the connection is just closed
	Body    string // Envoy's body of the local reply
	Flags   Flags
	Details string // %RESPONSE_CODE_DETAILS%
	Close   bool   // the downstream connection cannot go on
}

var rows = [numKinds]Row{
	CodecError:            {400, "Bad Request", FlagDPE, "http1.codec_error", true},
	InvalidCharacters:     {400, "Bad Request", FlagDPE, "http1.invalid_characters", true},
	InvalidURL:            {400, "Bad Request", FlagDPE, "http1.invalid_url", true},
	InvalidAuthority:      {400, "Bad Request", FlagDPE, "http.invalid_authority", true},
	BodyDisallowed:        {400, "Bad Request", FlagDPE, "http1.body_disallowed", true},
	UnexpectedUnderscore:  {400, "Bad Request", FlagDPE, "http1.unexpected_underscore", true},
	InvalidTransferCoding: {501, "Not Implemented", FlagDPE, "http1.invalid_transfer_encoding", true},
	LengthAndChunked:      {400, "Bad Request", FlagDPE, "http1.content_length_and_chunked_not_allowed", true},
	HeadersTooLarge:       {431, "Request Header Fields Too Large", FlagDPE, "http1.headers_too_large", true},
	TooManyHeaders:        {431, "Request Header Fields Too Large", FlagDPE, "http1.too_many_headers", true},
	LowVersion:            {426, "Upgrade Required", FlagDPE, "low_version", true},
	HTTP2Preface:          {400, "Bad Request", FlagDPE, "http1.codec_error", true},
	InvalidScheme:         {400, "Bad Request", FlagDPE, "http1.invalid_scheme", true},
	ConnectionRejected:    {400, "Bad Request", FlagDPE, "http1.connection_header_rejected", true},

	H2Protocol:        {0, "", FlagDPE, "http2.unknown.nghttp2.error", true},
	H2Connection:      {0, "", FlagDPE, "codec_error:The_user_callback_function_failed", true},
	H2PriorityFlood:   {0, "", FlagDPE, "codec_error:Too_many_PRIORITY_frames", true},
	H2WindowFlood:     {0, "", FlagDPE, "codec_error:Too_many_WINDOW_UPDATE_frames", true},
	H2Messaging:       {0, "", FlagDPE, "http2.violation.of.messaging.rule", true},
	H2InvalidField:    {0, "", FlagDPE, "http2.invalid.header.field", true},
	H2TooManyHeaders:  {0, "", FlagDR, "http2.too_many_headers", false},
	H2HeadersTooLarge: {0, "", FlagDR, "http2.header_list_size_too_large", false},
	H2Content:         {0, "", FlagDPE, "http2.remote_reset", false},
	H2Underscore:      {0, "", FlagDR, "http2.unexpected_underscore", false},
	H2EmptyFrames:     {0, "", FlagDPE, "http2.inbound_empty_frames_flood", true},
	H2Flood:           {0, "", FlagDPE, "http2.unknown.nghttp2.error", true},
	H2OutboundFlood:   {0, "", FlagDPE, "http2.outbound_frames_flood", true},
	H2PrematureResets: {0, "", FlagDC, "downstream_remote_disconnect", true},
	H2Timeout:         {0, "", FlagDC, "downstream_local_disconnect(http2_ping_timeout)", true},
	H2RemoteReset:     {0, "", FlagDR, "http2.remote_reset", false},
	H2RemoteRefuse:    {0, "", FlagDR, "http2.remote_refuse", false},

	MissingHost:          {400, "", 0, "missing_host_header", true},
	MissingPath:          {404, "", 0, "missing_path_rejected", true},
	AbsolutePathRejected: {404, "", 0, "absolute_path_rejected", true},
	PathNormalization:    {400, "", 0, "path_normalization_failed", true},
	UpgradeFailed:        {403, "", 0, "upgrade_failed", true},
	RouteNotFound:        {404, "", FlagNR, "route_not_found", false},
	ClusterNotFound:      {503, "", FlagNC, "cluster_not_found", false},
	DirectResponse:       {0, "", 0, "direct_response", false},
	NoHealthyUpstream:    {503, "no healthy upstream", FlagUH, "no_healthy_upstream", false},
	Overflow:             {503, "upstream connect error or disconnect/reset before headers. reset reason: overflow", FlagUO, "upstream_reset_before_response_started{overflow}", false},
	MaintenanceMode:      {503, "maintenance mode", FlagUO, "maintenance_mode", false},
	DropOverload:         {503, "unconditional drop overload", FlagUDO, "unconditional_drop_overload", false},
	RequestTimeout:       {408, "request timeout", 0, "request_overall_timeout", true},
	HeaderTimeout:        {408, "request header timeout", 0, "request_header_timeout", true},
	StreamIdle:           {504, "stream timeout", FlagSI, "stream_idle_timeout", true},
	MaxDuration:          {504, "downstream duration timeout", 0, "max_duration_timeout", true},
	RouteTimeout:         {504, "upstream request timeout", FlagUT, "response_timeout", false},
	PerTryTimeout:        {504, "upstream request timeout", FlagUT, "upstream_per_try_timeout", false},
	PerTryIdleTimeout:    {504, "upstream request timeout", FlagUT, "upstream_per_try_idle_timeout", false},
	UpstreamMaxDuration:  {504, "upstream max stream duration reached", FlagUMSDR, "upstream_max_stream_duration_reached", false},
	PayloadTooLarge:      {413, "Payload Too Large", 0, "request_payload_too_large", true},

	ConnectFailed:       {503, "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure", FlagUF, "upstream_reset_before_response_started{remote_connection_failure}", false},
	ConnectTimeout:      {503, "upstream connect error or disconnect/reset before headers. reset reason: connection timeout", FlagUF, "upstream_reset_before_response_started{connection_timeout}", false},
	RemoteReset:         {503, "upstream connect error or disconnect/reset before headers. reset reason: connection termination", FlagUC, "upstream_reset_before_response_started{connection_termination}", false},
	StreamReset:         {503, "upstream connect error or disconnect/reset before headers. reset reason: remote reset", FlagUR, "upstream_reset_before_response_started{remote_reset}", false},
	StreamRefused:       {503, "upstream connect error or disconnect/reset before headers. reset reason: remote refused stream reset", FlagUR, "upstream_reset_before_response_started{remote_refused_stream_reset}", false},
	ConnectionTerminate: {503, "upstream connect error or disconnect/reset before headers. reset reason: connection termination", FlagUC, "upstream_reset_before_response_started{connection_termination}", false},
	UpstreamProtocol:    {502, "upstream connect error or disconnect/reset before headers. reset reason: protocol error", FlagUPE, "upstream_reset_before_response_started{protocol_error}", false},
	DownstreamGone:      {0, "", FlagDC, "downstream_remote_disconnect", true},
	LocalReset:          {503, "upstream connect error or disconnect/reset before headers. reset reason: local reset", FlagLR, "upstream_reset_before_response_started{local_reset}", false},
	Bug:                 {500, "", FlagLR, "internal_error", true},
}

// Row returns the table row of k.
func (k Kind) Row() *Row { return &rows[k] }
