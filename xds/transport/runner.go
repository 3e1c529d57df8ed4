// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"time"

	"sidecar/xds/ads"
)

// Runner feeds one session. Its methods do not block and are called by the owner of the session only.
type Runner interface {
	// Start opens the first stream.
	Start()
	// Do carries out an action of the session: Send, Read and Reconnect. Other actions are ignored.
	Do(a ads.Action)
	// Close ends the stream and waits until no event will be reported any more. Safe to call twice. It must not be called from the sink.
	Close()
}

// Sink takes events of one Runner, in order, from its goroutines. It may block: the stream then simply stands still. It must return when
// the receiver is gone, or Close would wait for it.
type Sink func(ads.Event)

// Stats observes a control-plane connection. Methods are called from the Runner's goroutines and must not block.
type Stats interface {
	// Connected: control_plane.connected_state changed.
	Connected(up bool)
	// Sent: a request of this type was written (update_attempt, for first requests and subscription changes; acks too).
	Sent(typeURL string, nack bool)
	// Received: a response of this type and encoded size arrived.
	Received(typeURL string, bytes int)
	// Failed: a stream could not be opened or ended, or a file could not be read (update_failure).
	Failed(err error)
}

// noStats is used when no Stats are given.
type noStats struct{}

func (noStats) Connected(bool)       {}
func (noStats) Sent(string, bool)    {}
func (noStats) Received(string, int) {}
func (noStats) Failed(error)         {}

// Clock returns the time since a fixed origin, the one ads.Tick is given.
type Clock func() time.Duration
