// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"sidecar/dataplane/http1"
	"sidecar/dataplane/sys"
)

// Defaults of Http2ProtocolOptions, and of what belongs to a connection elsewhere in Envoy's API. The windows are ours: they start small and grow with the measured
// bandwidth-delay product up to Envoy's defaults.
const (
	DefaultMaxConcurrentStreams   = 1024
	DefaultStreamWindow           = 64<<10 - 1
	DefaultConnWindow             = 1 << 20
	DefaultMaxStreamWindow        = 16 << 20
	DefaultMaxConnWindow          = 24 << 20
	DefaultMaxOutboundFrames      = 10000
	DefaultMaxOutboundControl     = 1000
	DefaultMaxEmptyFrames         = 1
	DefaultMaxPriorityPerStream   = 100
	DefaultMaxWindowUpdatePerData = 10
	DefaultPrematureResets        = 500
	DefaultPrematureLifetime      = sys.Second
	DefaultKeepaliveJitter        = 15
	DefaultOutputLimit            = 256 << 10
	DefaultSettingsTimeout        = 30 * sys.Second
)

// Options is the compiled form of Http2ProtocolOptions and of the fields of HttpConnectionManager and HttpProtocolOptions that concern the codec. One
// value is shared by all connections of a listener or cluster. SetDefaults fills it; after that zero means zero.
type Options struct {
	// Immutable

	HpackTableSize       uint32 // hpack_table_size: bounds the tables of both directions
	MaxConcurrentStreams uint32 // max_concurrent_streams: of the peer, and of ours in the client role
	StreamWindow         int32  // initial_stream_window_size
	ConnWindow           int32  // initial_connection_window_size
	MaxStreamWindow      int32  // the stream window grows up to this; StreamWindow when that was configured
	MaxConnWindow        int32  // the connection window grows up to this; ConnWindow when that was configured
	AllowConnect         bool   // allow_connect

	MaxOutboundFrames      uint32 // max_outbound_frames
	MaxOutboundControl     uint32 // max_outbound_control_frames
	MaxEmptyFrames         uint32 // max_consecutive_inbound_frames_with_empty_payload
	MaxPriorityPerStream   uint32 // max_inbound_priority_frames_per_stream
	MaxWindowUpdatePerData uint32 // max_inbound_window_update_frames_per_data_frame_sent

	StreamErrors bool // override_stream_error_on_invalid_http_message

	MaxHeaderBytes int // max_request_headers_kb or max_response_headers_kb, in bytes of decoded names and values
	MaxHeaders     int // max_headers_count, pseudo-headers and every cookie crumb included
	Underscores    http1.Underscore
	Lax            bool // takes what Envoy takes (docs/differences.md)

	PrematureResets   uint32    // overload.premature_reset_total_stream_count; server role; 0 = off
	PrematureLifetime sys.Nanos // overload.premature_reset_min_stream_lifetime_seconds

	KeepaliveInterval sys.Nanos // connection_keepalive.interval; 0 = no PING
	KeepaliveTimeout  sys.Nanos // connection_keepalive.timeout
	KeepaliveJitter   uint32    // connection_keepalive.interval_jitter, percent
	KeepaliveIdle     sys.Nanos // connection_keepalive.connection_idle_interval: a stream opened after so much silence goes behind a PING; 0 = off

	SettingsTimeout sys.Nanos // how long the peer may take to acknowledge SETTINGS
	OutputLimit     int       // bytes of output that SendData may fill: at most per_connection_buffer_limit_bytes; what goes out in one turn needs no more than the default
}

// SetDefaults sets every field to its default for the role.
func (o *Options) SetDefaults(r Role) {
	*o = Options{
		HpackTableSize: 4096, MaxConcurrentStreams: DefaultMaxConcurrentStreams,
		StreamWindow: DefaultStreamWindow, ConnWindow: DefaultConnWindow, MaxStreamWindow: DefaultMaxStreamWindow, MaxConnWindow: DefaultMaxConnWindow,
		MaxOutboundFrames: DefaultMaxOutboundFrames, MaxOutboundControl: DefaultMaxOutboundControl, MaxEmptyFrames: DefaultMaxEmptyFrames,
		MaxPriorityPerStream: DefaultMaxPriorityPerStream, MaxWindowUpdatePerData: DefaultMaxWindowUpdatePerData,
		MaxHeaderBytes: http1.DefaultMaxHeadBytes, MaxHeaders: http1.DefaultMaxHeaders,
		PrematureResets: DefaultPrematureResets, PrematureLifetime: DefaultPrematureLifetime,
		KeepaliveJitter: DefaultKeepaliveJitter, SettingsTimeout: DefaultSettingsTimeout, OutputLimit: DefaultOutputLimit,
	}
	if r == Client {
		o.MaxHeaderBytes = http1.DefaultMaxResponseHeadBytes
	}
}

// Bounds that are nobody's to configure.
const (
	// maxFrame is the longest payload we take, and send: SETTINGS_MAX_FRAME_SIZE stays at its initial value (RFC 9113 section 4.2), as Envoy's does.
	maxFrame = 1 << 14

	// maxSettings bounds the entries of one SETTINGS frame; there are eight names. The number is Envoy's.
	maxSettings = 32
	// strayResets is how many RST_STREAM for streams that are over a peer may send, beyond one for each stream.
	strayResets = 100
	// manyStreams make a SETTINGS frame that visits all of them an event, so that it counts in its owner's bounds.
	manyStreams = 64

	// bombFactor times the header limits ends the connection: a block that is over them is decoded on, as both ends' tables must stay equal, but not for ever.
	bombFactor = 4

	// minContinuations is how many CONTINUATION frames a block may have at least; see maxContinuations.
	minContinuations = 64

	// headRoom is how much output beyond OutputLimit a server takes before it stops reading: heads, which no flow control holds back.
	headRoom = 1 << 20

	// closedRing is how many closed streams a connection remembers.
	closedRing = 32
)

// maxBlock bounds the compressed octets of one header block.
func (o *Options) maxBlock() int { return o.MaxHeaderBytes + maxFrame }

// maxContinuations bounds the CONTINUATION frames of one header block: twice what full frames would need.
func (o *Options) maxContinuations() uint32 {
	return uint32(minContinuations + o.MaxHeaderBytes/(maxFrame/2))
}
