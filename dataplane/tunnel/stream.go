// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"strconv"

	"sidecar/dataplane/conn"
	"sidecar/dataplane/fault"
	"sidecar/dataplane/http2"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/loop"
	"sidecar/dataplane/mux"
	"sidecar/dataplane/pool"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/stats"
)

// Over HTTP/2 a tunnel is a stream: its content are the bytes, END_STREAM is FIN, RST_STREAM is RST. The stream's events run the tunnel inside the
// connection's task; the client's run it in its own.

// needsHTTP2 is what the log says about POST to a host that speaks HTTP/1.
const needsHTTP2 = "post_tunnel_needs_http2"

// attachStream asks for the target on a stream of m.
func (t *Tunnel) attachStream(m *pool.Member, h *httpmsg.Head) {
	s := m.Open(h, false, t)
	if s == nil { // the peer has said GOAWAY meanwhile
		m.ReleaseStream(false)
		t.m = nil
		t.again()
		return
	}
	t.s = s
	s.S.Head, s.S.Trailers = &t.env.http.head, &t.env.http.tr // what comes is taken at once
}

// Run takes an event of the stream.
func (t *Tunnel) Run(now sys.Nanos) {
	if s := t.s; s != nil && s.Trailers {
		s.Trailers = false
		t.keepTrailers(&t.env.http.tr)
		t.env.http.reset()
	}
	switch t.st {
	case stAnswer:
		t.streamAnswer(now)
	case stRelay:
		if t.relayStream(now) == loop.Again {
			t.env.L.Ready(&t.task)
		}
	}
}

// streamAnswer looks for the answer to CONNECT or POST.
func (t *Tunnel) streamAnswer(now sys.Nanos) {
	s, h := t.s, &t.env.http.head
	switch {
	case s.Reset != fault.None && s.Unprocessed:
		t.releaseMember(endClosed)
		t.again()
		return
	case s.Reset != fault.None:
		t.refused("")
		return
	case !s.HeadIn:
		return
	}
	s.HeadIn = false
	status := h.Status
	if status >= 200 {
		t.keepHead(h)
	}
	t.env.http.reset()
	switch {
	case status < 200:
		return
	case status != 200: // as Envoy; over HTTP/1 any 2xx will do
		t.refused("tunnel_response:" + strconv.Itoa(int(status)))
		return
	}
	t.rec.UpstreamLocal, t.rec.UpstreamRemote = t.m.Local(), t.m.C.Remote()
	t.established(now)
	t.env.L.Ready(&t.task) // for what the client has sent meanwhile
}

// again repeats an attempt that its host provably did nothing about.
func (t *Tunnel) again() {
	if t.reopened++; t.reopened > maxReopened {
		t.rec.Flags |= fault.FlagUF
		t.exceeded()
		return
	}
	t.attempts--
	t.forget()
	t.connect()
}

// maxReopened bounds how often that happens to one tunnel.
const maxReopened = 8

// relayStream is relay with a stream on the upstream side.
func (t *Tunnel) relayStream(now sys.Nanos) loop.Step {
	more := t.toStream()
	if t.st == stDone {
		return loop.Done
	}
	more = t.fromStream() || more
	if t.st == stDone {
		return loop.Done
	}
	if n := t.downUp.bytes + t.upDown.bytes + t.down.BytesOut; n != t.moved {
		t.moved = n
		t.touch(now)
		t.countBytes()
	}
	switch s := t.s; {
	case t.down.Broken():
		t.brokenClient()
		return loop.Done
	case s.Reset != fault.None:
		if resetByPeer(s) {
			t.rec.Flags |= fault.FlagUR
			t.rec.UpstreamDetectedClose = detectedRemoteReset
			t.info.Own().DetectedClose = detectedLocalReset
		}
		t.finish(endUpReset)
		return loop.Done
	case t.downUp.ended && t.upDown.ended && t.down.Queued() == 0:
		t.finish(t.last)
		return loop.Done
	case more:
		return loop.Again
	}
	return loop.Idle
}

// toStream passes what the client sent, as far as the stream has room; true when the bound of one Advance was reached.
func (t *Tunnel) toStream() bool {
	if t.downUp.ended {
		return false
	}
	for left := maxMove; left > 0; {
		room := t.s.Room()
		if room <= 0 || t.s.Reset != fault.None {
			return false
		}
		if len(t.down.In()) == 0 {
			switch t.down.FillUpTo(max(room, minRead)) {
			case conn.More:
			case conn.EOF:
				t.downUp.ended, t.last = true, endClosed
				t.s.End(nil)
				return false
			default:
				return false
			}
		}
		p := t.down.In()
		p = p[:min(len(p), room)]
		t.s.Data(p, false)
		t.downUp.count(len(p))
		left -= len(p)
		t.down.Discard(len(p))
	}
	return true
}

// fromStream passes what came on the stream, as far as the client has room; it gets its window back as it leaves.
func (t *Tunnel) fromStream() bool {
	if t.upDown.ended {
		return false
	}
	for left := maxMove; left > 0; {
		room := t.down.Room()
		if room <= 0 {
			return false
		}
		p, end := t.s.In(room)
		if len(p) > 0 {
			n := len(p)
			t.down.Send(p, nil)
			t.upDown.count(n)
			left -= n
			t.s.Discard(n)
		}
		switch {
		case end && t.s.Reset == fault.None:
			t.upDown.ended, t.last = true, endUpstream
			t.down.CloseWrite()
			return false
		case len(p) == 0 || t.down.Broken():
			return false
		}
	}
	return true
}

// brokenClient ends a tunnel whose client broke.
func (t *Tunnel) brokenClient() {
	if t.downUp.ended || t.down.Err() != sys.ECONNRESET {
		t.finish(endClosed)
		return
	}
	t.info.Own().DetectedClose = detectedRemoteReset
	t.finish(endDownReset)
}

// releaseStream ends what the tunnel has of its stream; one that is not complete is reset.
func (t *Tunnel) releaseStream() {
	m, s := t.m, t.s
	complete := t.downUp.ended && t.upDown.ended && s.Reset == fault.None
	t.m, t.s, t.far = nil, nil, nil
	if complete {
		s.Finish()
	} else {
		s.S.Head, s.S.Trailers = nil, nil
		t.countReset(s)
		s.Abort(http2.CodeCancel)
	}
	m.ReleaseStream(true)
}

// resetByPeer tells whether the peer has reset the stream, and not its connection ended. PROTOCOL_ERROR counts as an error of ours, as in Envoy.
func resetByPeer(s *mux.Stream) bool {
	return s.Remote && s.Reset != fault.ConnectionTerminate && s.Reset != fault.H2Timeout && s.Code != http2.CodeProtocol && !s.Unprocessed
}

// countReset counts how a stream ended that was not complete.
func (t *Tunnel) countReset(s *mux.Stream) {
	switch {
	case s.Unprocessed:
	case s.Reset == fault.ConnectionTerminate || s.Reset == fault.H2Timeout:
		t.cl.Block.Inc(stats.ClusterUpstreamRqPendingFailureEject) // as in Envoy, though nothing was pending
	case resetByPeer(s):
		t.cl.Block.Inc(stats.ClusterUpstreamRqRxReset)
	default:
		t.cl.Block.Inc(stats.ClusterUpstreamRqTxReset)
	}
}
