// SPDX-License-Identifier: Apache-2.0

package mux

import (
	"sidecar/dataplane/http2"
	"sidecar/internal/telemetry/stats"
)

// Count moves what the machine counted, and how many streams it has, to the codec's statistics (stats.HTTP2Def); sc may be nil.
func (k *Link) Count(sc *stats.Scope, shard int) { k.count(sc, shard, k.H2.Active()) }

// CountEnd is the last Count of a link: its streams are over.
func (k *Link) CountEnd(sc *stats.Scope, shard int) { k.count(sc, shard, 0) }

func (k *Link) count(sc *stats.Scope, shard, streams int) {
	if d := streams - k.active; d != 0 && sc != nil {
		sc.Block(shard).Add(stats.HTTP2StreamsActive, int64(d))
	}
	k.active = streams
	for {
		c, n, ok := k.Counts.Take()
		if !ok {
			return
		}
		if id := statOf[c]; id > 0 && sc != nil {
			sc.Block(shard).Add(id-1, int64(n))
		}
	}
}

// statOf are the statistics of the machine's counters, plus one; 0 for those that Envoy does not have.
var statOf = [...]int{
	http2.CountDroppedUnderscores:   stats.HTTP2DroppedHeadersWithUnderscores + 1,
	http2.CountGoawaySent:           stats.HTTP2GoawaySent + 1,
	http2.CountHeaderOverflow:       stats.HTTP2HeaderOverflow + 1,
	http2.CountEmptyFramesFlood:     stats.HTTP2InboundEmptyFramesFlood + 1,
	http2.CountPriorityFlood:        stats.HTTP2InboundPriorityFramesFlood + 1,
	http2.CountWindowUpdateFlood:    stats.HTTP2InboundWindowUpdateFramesFlood + 1,
	http2.CountKeepaliveTimeout:     stats.HTTP2KeepaliveTimeout + 1,
	http2.CountOutboundControlFlood: stats.HTTP2OutboundControlFlood + 1,
	http2.CountOutboundFlood:        stats.HTTP2OutboundFlood + 1,
	http2.CountRejectedUnderscores:  stats.HTTP2RequestsRejectedWithUnderscoresInHeaders + 1,
	http2.CountRxMessagingError:     stats.HTTP2RxMessagingError + 1,
	http2.CountRxReset:              stats.HTTP2RxReset + 1,
	http2.CountStreamRefused:        stats.HTTP2StreamRefusedErrors + 1,
	http2.CountTrailers:             stats.HTTP2Trailers + 1,
	http2.CountTxReset:              stats.HTTP2TxReset + 1,
	http2.CountHeaderListTooLarge:   stats.HTTP2HeaderListSizeTooLarge + 1,
	http2.CountHeaderBomb:           stats.HTTP2HeaderOverflow + 1,
	http2.CountContinuationFlood:    stats.HTTP2HeaderOverflow + 1,
	http2.CountProtocolError:        0,
}
