// SPDX-License-Identifier: Apache-2.0

package http2

import "math/bits"

// Counter numbers what a Conn counts. String is Envoy's name under "http2.", or ours where Envoy has none.
type Counter uint8

// The counters.
const (
	CountDroppedUnderscores Counter = iota
	CountGoawaySent
	CountHeaderOverflow
	CountHeaderListTooLarge
	CountEmptyFramesFlood
	CountPriorityFlood
	CountWindowUpdateFlood
	CountKeepaliveTimeout
	CountOutboundControlFlood
	CountOutboundFlood
	CountRejectedUnderscores
	CountRxMessagingError
	CountRxReset
	CountStreamRefused
	CountTrailers
	CountTxReset
	CountPrematureResets   // connections ended for premature resets; downstream_rq_too_many_premature_resets
	CountContinuationFlood // connections ended for too many CONTINUATION frames or octets in one block
	CountHeaderBomb        // connections ended for a block that decodes to a multiple of the limits
	CountSettingsFlood     // connections ended for too many entries in SETTINGS
	CountSettingsTimeout   // connections ended for SETTINGS without acknowledgement
	CountProtocolError     // connections ended for any other violation
	numCounters
)

var counterNames = [numCounters]string{
	"dropped_headers_with_underscores", "goaway_sent", "header_overflow", "header_list_size_too_large", "inbound_empty_frames_flood", "inbound_priority_frames_flood",
	"inbound_window_update_frames_flood", "keepalive_timeout", "outbound_control_flood", "outbound_flood", "requests_rejected_with_underscores_in_headers",
	"rx_messaging_error", "rx_reset", "stream_refused_errors", "trailers", "tx_reset", "premature_resets", "inbound_continuation_flood", "header_bomb",
	"inbound_settings_flood", "settings_timeout", "protocol_error",
}

// String returns the name.
func (k Counter) String() string { return counterNames[k] }

// Counters collects what happened on connections until the owner takes it. The zero value is ready; one may serve many connections of a worker.
type Counters struct {
	n     [numCounters]uint32
	dirty uint32
}

func (c *Counters) inc(k Counter) { c.add(k, 1) }

func (c *Counters) add(k Counter, n uint32) {
	c.n[k] += n
	c.dirty |= 1 << k
}

// Take hands out one counter that is not zero, and clears it; ok is false when there is none.
func (c *Counters) Take() (k Counter, n uint32, ok bool) {
	if c.dirty == 0 {
		return 0, 0, false
	}
	k = Counter(bits.TrailingZeros32(c.dirty))
	c.dirty &= c.dirty - 1
	n, c.n[k] = c.n[k], 0
	return k, n, true
}
