// SPDX-License-Identifier: Apache-2.0

// Package codec compiles the options of codecs that listeners and clusters share.
package codec

import (
	"fmt"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"sidecar/dataplane/http2"
	"sidecar/dataplane/sys"
	"sidecar/xds/registry"
)

// HTTP2Messages are the tables of Http2ProtocolOptions and what is in it.
var HTTP2Messages = registry.Messages{
	"envoy.config.core.v3.Http2ProtocolOptions": {
		"hpack_table_size": registry.Supported, "max_concurrent_streams": registry.Supported, "initial_stream_window_size": registry.Supported,
		"initial_connection_window_size": registry.Supported, "allow_connect": registry.Supported,
		"allow_metadata":      registry.Only("false").Note("METADATA frames are an extension of Envoy's own"),
		"max_outbound_frames": registry.Supported, "max_outbound_control_frames": registry.Supported,
		"max_consecutive_inbound_frames_with_empty_payload":    registry.Supported,
		"max_inbound_priority_frames_per_stream":               registry.Supported,
		"max_inbound_window_update_frames_per_data_frame_sent": registry.Supported,
		"stream_error_on_invalid_http_messaging":               registry.Supported, "override_stream_error_on_invalid_http_message": registry.Supported,
		"custom_settings_parameters": registry.Refuse("SETTINGS are those of RFC 9113"),
		"connection_keepalive":       registry.Supported,
		"use_oghttp2_codec":          registry.Warn("there is one codec"),
		"max_metadata_size":          registry.Warn("METADATA frames are not taken"),
		"enable_huffman_encoding":    registry.Warn("literals are compressed where that makes them shorter"),
		"max_header_field_size_kb":   registry.Warn("the size of all fields together is limited"),
		"disallow_obs_text":          registry.Only("false"),
	},
	"envoy.config.core.v3.KeepaliveSettings": {
		"interval": registry.Supported, "timeout": registry.Supported, "interval_jitter": registry.Whole, "connection_idle_interval": registry.Supported,
	},
}

// HTTP2 compiles Http2ProtocolOptions into x, which has the defaults of its role; at is the path of the message, fail takes what is wrong with it.
func HTTP2(o *corev3.Http2ProtocolOptions, x *http2.Options, at registry.Path, fail func(error)) {
	number := func(v *wrapperspb.UInt32Value, field string, least, most uint32, to *uint32) {
		switch n := v.GetValue(); {
		case v == nil:
		case n < least || n > most:
			fail(fmt.Errorf("%s: must be between %d and %d", at.Field(field), least, most))
		default:
			*to = n
		}
	}
	const most = 1<<32 - 1
	number(o.GetHpackTableSize(), "hpack_table_size", 0, most, &x.HpackTableSize)
	number(o.GetMaxConcurrentStreams(), "max_concurrent_streams", 1, 1<<31-1, &x.MaxConcurrentStreams)
	var n uint32
	if v := o.GetInitialStreamWindowSize(); v != nil {
		number(v, "initial_stream_window_size", 65535, 1<<31-1, &n)
		x.StreamWindow, x.MaxStreamWindow = int32(n), int32(n)
	}
	if v := o.GetInitialConnectionWindowSize(); v != nil {
		number(v, "initial_connection_window_size", 65535, 1<<31-1, &n)
		x.ConnWindow, x.MaxConnWindow = int32(n), int32(n)
	}
	x.AllowConnect = o.GetAllowConnect()
	number(o.GetMaxOutboundFrames(), "max_outbound_frames", 1, most, &x.MaxOutboundFrames)
	number(o.GetMaxOutboundControlFrames(), "max_outbound_control_frames", 1, most, &x.MaxOutboundControl)
	number(o.GetMaxConsecutiveInboundFramesWithEmptyPayload(), "max_consecutive_inbound_frames_with_empty_payload", 0, most, &x.MaxEmptyFrames)
	number(o.GetMaxInboundPriorityFramesPerStream(), "max_inbound_priority_frames_per_stream", 0, most, &x.MaxPriorityPerStream)
	number(o.GetMaxInboundWindowUpdateFramesPerDataFrameSent(), "max_inbound_window_update_frames_per_data_frame_sent", 1, most,
		&x.MaxWindowUpdatePerData)
	x.StreamErrors = o.GetStreamErrorOnInvalidHttpMessaging() //nolint:staticcheck // deprecated, and still Envoy's
	if v := o.GetOverrideStreamErrorOnInvalidHttpMessage(); v != nil {
		x.StreamErrors = v.GetValue()
	}
	k := o.GetConnectionKeepalive()
	if k == nil {
		return
	}
	x.KeepaliveInterval, x.KeepaliveTimeout, x.KeepaliveIdle = nanos(k.GetInterval()), nanos(k.GetTimeout()), nanos(k.GetConnectionIdleInterval())
	if v := k.GetIntervalJitter(); v != nil {
		x.KeepaliveJitter = uint32(v.GetValue())
	}
	if x.KeepaliveTimeout < sys.Millisecond {
		fail(fmt.Errorf("%s: must be at least 1ms", at.Field("connection_keepalive").Field("timeout")))
	}
}

func nanos(d *durationpb.Duration) sys.Nanos {
	if d == nil {
		return 0
	}
	return sys.Nanos(min(d.AsDuration(), 1<<62*time.Nanosecond))
}
