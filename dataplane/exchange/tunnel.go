// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"sidecar/dataplane/conn"
	"sidecar/dataplane/fault"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/mux"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/stats"
)

// tunnelEnd is one end of a tunnel: a connection, or an HTTP/2 stream, where END_STREAM is FIN and RST_STREAM is RST (RFC 9113 section 8.5, RFC 8441
// section 5).
type tunnelEnd struct {
	c  *conn.Conn
	s  *mux.Stream
	tr *httpmsg.Fields // with which it has ended, if it has; for a stream

	post *Exchange  // the bytes are content of HTTP/1 messages: a POST and its answer
	used int        // post: how much of the input next returned, framing included
	bad  fault.Kind // post: what is wrong with the framing
}

// downEnd is the client's end.
func (x *Exchange) downEnd() tunnelEnd {
	e := tunnelEnd{c: x.reqIn.c, s: x.reqIn.s, tr: &x.reqTr}
	if x.postHTTP1() {
		e.post = x
	}
	return e
}

// upEnd is the upstream end.
func (x *Exchange) upEnd() tunnelEnd {
	if x.m == nil {
		return tunnelEnd{c: x.tcp.C}
	}
	return tunnelEnd{c: x.m.C, s: x.respIn.s, tr: &x.respTr}
}

// room is how much it takes now; 0 means that it will wake us.
func (e *tunnelEnd) room() int {
	if e.s != nil {
		return e.s.Room()
	}
	if e.c.Room() <= 0 {
		return 0
	}
	return unbounded
}

func (e *tunnelEnd) broken() bool {
	if e.s != nil {
		return e.s.Reset != fault.None
	}
	return e.c.Broken()
}

// waiting tells whether bytes have not left yet.
func (e *tunnelEnd) waiting() bool {
	if e.s != nil {
		return e.s.Waiting()
	}
	return e.c.Queued() > 0
}

// next brings at most limit bytes that were received, until discard.
func (e *tunnelEnd) next(limit int) (p []byte, g got) {
	if e.s != nil {
		p, end := e.s.In(limit)
		switch {
		case len(p) > 0:
			return p, gotBytes
		case e.s.Reset != fault.None:
			return nil, gotBroken
		case end:
			return nil, gotEOF
		}
		return nil, gotNothing
	}
	if e.post != nil {
		return e.nextContent(limit)
	}
	if len(e.c.In()) == 0 {
		switch e.c.FillUpTo(max(limit, mux.Slack)) {
		case conn.Blocked:
			return nil, gotNothing
		case conn.More:
		case conn.EOF:
			return nil, gotEOF
		default:
			return nil, gotBroken
		}
	}
	p = e.c.In()
	return p[:min(len(p), limit)], gotBytes
}

// nextContent is next for the content of an HTTP/1 request. That the client is gone is found out by its connection.
func (e *tunnelEnd) nextContent(limit int) ([]byte, got) {
	in := &e.post.reqIn
	for in.dec.HasBody() {
		if g := in.fill(limit); g != gotBytes && g != gotMore {
			return nil, gotNothing
		}
		n, data, end, k := in.body(limit, e.tr)
		if k != fault.None {
			e.bad = k
			return nil, gotNothing
		}
		if e.used = n; len(data) > 0 {
			return data, gotBytes
		}
		in.discard(n)
		if end {
			break
		}
	}
	e.post.fl |= xReqEnd
	return nil, gotEOF
}

func (e *tunnelEnd) discard(n int) {
	switch {
	case e.s != nil:
		e.s.Discard(n)
		return
	case e.post != nil:
		n = e.used
	}
	e.c.Discard(n)
}

func (e *tunnelEnd) send(p []byte) {
	if e.s != nil {
		e.s.Data(p, false)
		return
	}
	if e.post != nil {
		out := e.post.toClient()
		out.data(p, false)
		e.post.sent(&out)
		return
	}
	e.c.Send(p, nil)
}

// closeWrite passes the end of from on; trailers only from stream to stream.
func (e *tunnelEnd) closeWrite(from *tunnelEnd) {
	if e.s != nil {
		var tr *httpmsg.Fields
		if from.s != nil && from.s.Trailers {
			tr = from.tr
		}
		e.s.End(tr)
		return
	}
	if e.post != nil {
		out := e.post.toClient()
		out.end(nil)
		e.post.sent(&out)
		return
	}
	e.c.CloseWrite()
}

// startTunnel: the upstream has agreed. Its head goes out and both connections become byte streams.
func (x *Exchange) startTunnel(now sys.Nanos, out *sender) {
	x.chargeCode(x.resp.Status, true)
	if x.retries > 0 {
		x.cl.Block.Inc(stats.ClusterUpstreamRqRetrySuccess)
	}
	if x.postHTTP1() {
		x.startPost(now, out)
		return
	}
	if s := x.reqIn.s; x.has(xTerminate) && x.req.Method == httpmsg.MethodPost {
		if s.S.RemoteEnded() {
			x.reqDone = now // it has an end, as any request
		}
		x.routerHeaders(now)
	} else if x.has(xTerminate) {
		x.entry.FinalizeResponse(&x.choice, &x.resp, &x.q)
	} else {
		x.routerHeaders(now)
	}
	x.rec.Details = "via_upstream"
	x.managerHeaders()
	x.resp.Body = httpmsg.BodyNone
	n := out.responseHead(&x.resp, httpmsg.HTTP11, &x.ch.h.H1, false)
	x.rec.Down.HeadOut, x.rec.Down.PlainOut = n, n
	x.rec.Code, x.rec.Resp = x.resp.Status, &x.resp
	x.fl |= xRespStarted | xReqEnd
	if x.reqDone == 0 {
		x.reqDone = now
	}
	x.rec.FirstDownTx = x.since(now)
	x.c.closeAfter()
	x.to(stTunnel)
}

// startPost is startTunnel for a POST in HTTP/1. An answer that begins before all of the request is here ends its connection: the two go at the same time.
func (x *Exchange) startPost(now sys.Nanos, out *sender) {
	if x.reqIn.whole() {
		x.fl |= xReqEnd
		x.reqDone = now
	}
	x.routerHeaders(now)
	x.rec.Details = "via_upstream"
	x.resp.Body = httpmsg.BodyChunked
	x.fl |= xRespHead
	if !x.has(xReqEnd) {
		x.fl |= xEarly // counted here: the request may still be completed
		x.ch.hcm.Inc(stats.HCMDownstreamRqResponseBeforeRqComplete)
	}
	x.sendHead(now, out, false)
	if x.reqDone == 0 {
		x.reqDone = now
	}
	x.to(stTunnel)
}

// skipPost throws away a POST in HTTP/1 that is all here and did not become a tunnel, so that its connection can go on.
func (x *Exchange) skipPost() {
	if x.st != stReply || !x.reqIn.whole() {
		return
	}
	n, _ := x.reqIn.malformed(nil)
	x.rec.BytesIn += uint64(n)
	x.reqIn.drain()
	x.fl |= xReqEnd
}

// tunnel relays bytes both ways. The end of one side is passed on; when both have ended, or one side breaks, it is over.
func (x *Exchange) tunnel(now sys.Nanos) outcome {
	down, up := x.downEnd(), x.upEnd()
	o1, end1 := x.copyBytes(now, &down, &up, &x.rec.BytesIn)
	o2, end2 := x.copyBytes(now, &up, &down, &x.rec.BytesOut)
	if end1 && len(x.reqTr.List) > 0 {
		x.rec.ReqTrailers = &x.reqTr
	}
	if end2 && len(x.respTr.List) > 0 {
		x.rec.RespTrailers = &x.respTr
	}
	if end1 && !x.has(xUpFirst) {
		x.fl |= xPeerFirst
	}
	if end2 && !x.has(xPeerFirst) {
		x.fl |= xUpFirst
	}
	if x.lastActive == now {
		x.countLive()
	}
	if down.bad != fault.None {
		x.ch.hcm.Inc(stats.HCMDownstreamRqRxReset)
		x.requestFault(now, down.bad)
		return ended
	}
	broken := down.broken() || up.broken()
	// A WebSocket whose server has closed is over; only a CONNECT tunnel may live on in one direction from there.
	over := end1 && end2 || end2 && x.req.Method != httpmsg.MethodConnect
	if broken || over && !down.waiting() && !up.waiting() {
		x.endTunnel(now, over && !broken)
		return ended
	}
	if o1 == again || o2 == again {
		return again
	}
	return waits
}

// copyBytes moves bytes from one side to the other; end tells that from has ended and that this was passed on.
func (x *Exchange) copyBytes(now sys.Nanos, from, to *tunnelEnd, count *uint64) (o outcome, end bool) {
	for moved := 0; ; {
		room := to.room()
		if room <= 0 {
			return waits, false
		}
		if moved > maxMove {
			return again, false
		}
		p, g := from.next(room)
		switch g {
		case gotNothing:
			return waits, false
		case gotEOF:
			to.closeWrite(from)
			return waits, true
		case gotBroken:
			if to.s == nil && to.post == nil { // a stream is reset instead, an answer is cut short
				to.closeWrite(from)
			}
			return waits, true
		}
		to.send(p)
		*count += uint64(len(p))
		moved += len(p)
		from.discard(len(p))
		x.lastActive = now
	}
}

// endTunnel ends a tunnel; complete tells that no side broke.
func (x *Exchange) endTunnel(now sys.Nanos, complete bool) {
	up, down := x.upEnd(), x.downEnd()
	if down.post != nil && !x.has(xReqEnd) {
		x.ch.hcm.Inc(stats.HCMDownstreamRqRxReset)
	}
	switch {
	case up.s != nil && up.s.Reset != fault.None:
		x.resetStarted(now, streamKind(up.s))
	case complete && down.post != nil:
		x.reqIn.drain() // what the upstream did not wait for
		x.completeTunnel(now, false)
	case complete && down.s != nil && (up.s != nil || x.has(xTerminate)), complete && up.s != nil && !x.has(xPeerFirst):
		x.completeTunnel(now, down.s == nil)
	default:
		x.cutTunnel(now, complete)
	}
}

// completeTunnel: the upstream has ended like any answer; short says that the client's half is cut off there.
func (x *Exchange) completeTunnel(now sys.Nanos, short bool) {
	if short {
		x.early()
	}
	x.chargeTime(now)
	if x.reqIn.s != nil && x.has(xPeerFirst) {
		x.releaseBehind()
	}
	x.release(false)
	x.to(stDone)
	x.over(now, answered)
}

// cutTunnel logs with the flag of the side that ended first, as Envoy does; the end of a client's stream is no such end.
func (x *Exchange) cutTunnel(now sys.Nanos, complete bool) {
	up, s, end := x.upEnd(), x.reqIn.s, cut
	if s != nil || x.has(xUpFirst) || up.broken() && !x.has(xPeerFirst) {
		x.rec.Flags |= fault.FlagUC
		x.rec.Details = startedDetails(fault.ConnectionTerminate)
	} else {
		x.rec.Flags |= fault.FlagDC
		x.rec.Details = fault.DownstreamGone.Row().Details
		end = hungUp
	}
	if s == nil || !s.S.RemoteEnded() {
		x.early() // Envoy does not regard the request as complete
	}
	if end == cut {
		x.ch.hcm.Inc(stats.HCMDownstreamRqTxReset)
	}
	if complete && s != nil {
		end = answered // the stream has ended, whatever is logged
	}
	x.chargeTime(now)
	x.release(false)
	x.to(stDone)
	x.over(now, end)
}
