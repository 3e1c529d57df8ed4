// SPDX-License-Identifier: Apache-2.0

package mux

import (
	"sidecar/dataplane/fault"
	"sidecar/dataplane/http2"
	"sidecar/dataplane/sys"
)

// A server may answer before it has the whole request, and may then ask the client to stop sending (RFC 9113 section 8.1). Mostly the rest is on its way
// already; so the stream lingers for a while: what comes is judged as ever and thrown away, and most streams end by themselves. RST_STREAM goes to the
// client that keeps on sending.
const (
	lingerTime    = 100 * sys.Millisecond
	lingerContent = 16 << 10 // bytes
)

// linger tells whether s, whose answer is out, may stay for the rest of its request.
func (k *Link) linger(s *Stream) bool {
	switch {
	case !k.H2.Serves() || s.Reset != fault.None || !s.S.LocalEnded() || s.spare > lingerContent:
		return false
	case s.due > 0:
		return true
	}
	s.due = k.sh.L.Now() + lingerTime
	if s.older = k.last; s.older != nil {
		s.older.newer = s
	} else {
		k.first = s
	}
	k.last = s
	k.idle++
	k.Wake() // to have the timer set
	return true
}

// unlist takes s off the list of those that linger.
func (k *Link) unlist(s *Stream) {
	if s.due == 0 {
		return
	}
	if s.older != nil {
		s.older.newer = s.newer
	} else {
		k.first = s.newer
	}
	if s.newer != nil {
		s.newer.older = s.older
	} else {
		k.last = s.older
	}
	s.due, s.older, s.newer = 0, nil, nil
	k.idle--
}

// Busy tells whether there is a stream that does not only linger.
func (k *Link) Busy() bool { return k.H2.Active() > k.idle }

// Deadline is when OnTime is to be called, 0 for never.
func (k *Link) Deadline() sys.Nanos {
	at := k.H2.Deadline()
	if k.first != nil && (at == 0 || k.first.due < at) {
		at = k.first.due
	}
	return at
}

// OnTime does what is due.
func (k *Link) OnTime(now sys.Nanos) {
	k.H2.OnTime(now)
	for k.first != nil && k.first.due <= now {
		k.first.Abort(http2.CodeNo)
	}
}
