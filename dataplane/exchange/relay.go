// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"sidecar/dataplane/fault"
	"sidecar/dataplane/http1"
	"sidecar/dataplane/http2"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/mux"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/stats"
)

// relay moves both directions as far as bytes and room allow.
func (x *Exchange) relay(now sys.Nanos) outcome {
	o := waits
	if !x.has(xReqSent) && x.st == stRelay {
		o = x.pumpRequest(now)
	}
	if x.st == stRelay {
		if r := x.pumpResponse(now); r == again {
			o = again
		}
	}
	if x.st == stRelay && x.lastActive == now && (x.has(xRespStarted) || x.rec.BytesIn > liveAfter) {
		x.countLive()
	}
	return o
}

// pumpRequest moves the request body upstream.
func (x *Exchange) pumpRequest(now sys.Nanos) outcome {
	out := x.toUpstream()
	r := x.requestBody(now, &out)
	x.sent(&out)
	return r
}

// requestBody is pumpRequest without the sender's frame; the first call of an attempt has the request head in out.
func (x *Exchange) requestBody(now sys.Nanos, out *sender) outcome {
	if x.has(xKeepBody) && !x.has(xReplayed) || x.has(xPrebuf) && !x.has(xReplayed) {
		x.fl |= xReplayed
		x.putRequest(out, x.body, x.has(xReqEnd) && len(x.reqTr.List) == 0)
	}
	for moved := 0; !x.has(xReqEnd); {
		if out.full() || x.reqIn.broken() {
			x.pause(xDownPaused)
			return waits
		}
		x.resume(xDownPaused)
		if moved > maxMove {
			return again
		}
		n, data, end, ok := x.requestPiece(now, out.room())
		if !ok {
			return waits
		}
		moved += n
		ok = len(data) == 0 && (!end || len(x.filters) == 0) || x.takeRequestData(now, out, data, end)
		if x.st == stFree {
			return waits
		}
		x.reqIn.discard(n)
		if !ok {
			return waits
		}
		if end {
			x.requestComplete(now)
		}
	}
	x.endRequest(now, out)
	return waits
}

// requestPiece takes the next piece of the request body from the client, of at most limit bytes: n bytes to discard afterwards, with data in them. Not
// ok means that there is none; if the state has changed, the request is malformed or the client is gone.
func (x *Exchange) requestPiece(now sys.Nanos, limit int) (n int, data []byte, end, ok bool) {
	switch x.reqIn.fill(limit) {
	case gotNothing:
		return 0, nil, false, false
	case gotEOF, gotBroken:
		// The client ended inside its message. Its connection would see it next time, but the edge is spent: act now.
		x.clientGone(now)
		return 0, nil, false, false
	}
	n, data, end, k := x.reqIn.body(limit, &x.reqTr)
	if k != fault.None {
		x.requestFault(now, k)
		return 0, nil, false, false
	}
	if len(data) > 0 {
		x.rec.BytesIn += uint64(len(data))
		x.lastActive = now
		x.rec.LastDownRx = x.since(now)
	}
	return n, data, end, true
}

// pause and resume count a direction that stops for want of room on the far side, under the names of Envoy's watermark events.
func (x *Exchange) pause(side uint32) {
	if x.has(side) {
		return
	}
	x.fl |= side
	if side == xUpPaused {
		x.cl.Block.Inc(stats.ClusterUpstreamFlowControlPausedReadingTotal)
		return
	}
	x.cl.Block.Inc(stats.ClusterUpstreamFlowControlBackedUpTotal)
	x.ch.hcm.Inc(stats.HCMDownstreamFlowControlPausedReadingTotal)
}

func (x *Exchange) resume(side uint32) {
	if !x.has(side) {
		return
	}
	x.fl &^= side
	if side == xUpPaused {
		x.cl.Block.Inc(stats.ClusterUpstreamFlowControlResumedReadingTotal)
		return
	}
	x.cl.Block.Inc(stats.ClusterUpstreamFlowControlDrainedTotal)
	x.ch.hcm.Inc(stats.HCMDownstreamFlowControlResumedReadingTotal)
}

// takeRequestData passes one piece of the request body on; false stops the pump.
func (x *Exchange) takeRequestData(now sys.Nanos, out *sender, data []byte, end bool) bool {
	if len(x.filters) > 0 {
		var ok bool
		if data, ok = x.filterRequestData(now, data, end && len(x.reqTr.List) == 0); !ok {
			out.enc = out.enc[:0] // the try is over
			return false
		}
	}
	if x.has(xKeepBody) {
		x.keep(data)
	}
	x.putRequest(out, data, end && len(x.reqTr.List) == 0)
	return true
}

func (x *Exchange) putRequest(out *sender, data []byte, last bool) {
	out.data(data, last)
	x.tryOut += uint64(len(data))
	x.rec.LastUpTx = x.since(x.env.L.Now())
}

// endRequest writes the end of the request upstream.
func (x *Exchange) endRequest(now sys.Nanos, out *sender) {
	if x.has(xReqSent) {
		return
	}
	x.fl |= xReqSent
	var tr *httpmsg.Fields
	if (out.s != nil || x.cl.Cfg.H1.EnableTrailers) && len(x.reqTr.List) > 0 {
		tr = &x.reqTr
		if x.ch.logsHeads && out.chunked {
			n := http1.SentTrailers(tr)
			x.rec.Up.HeadOut += n
			x.rec.Up.PlainOut += n
		}
	}
	out.end(tr)
	x.rec.LastUpTx = x.since(now)
	x.armPerTry(now)
}

// requestComplete is called once, when the last byte of the request was decoded: route timeout and service time count from here.
func (x *Exchange) requestComplete(now sys.Nanos) {
	if x.has(xReqEnd) {
		return
	}
	x.fl |= xReqEnd
	x.reqDone = now
	if x.reqIn.s == nil {
		x.dropped(x.reqIn.dec.TakeDropped())
	}
	if len(x.reqTr.List) > 0 {
		x.rec.ReqTrailers = &x.reqTr
		if x.ch.logsHeads && x.reqIn.s == nil {
			x.rec.Down.HeadIn += http1.ReceivedTrailers(&x.reqTr)
		}
		x.filterRequestTrailers()
	}
	if x.limits.Global > 0 {
		x.routeAt = now + x.limits.Global
	}
	x.startMirrors(now)
}

// keep appends body bytes to the replay buffer; over the limit the request loses its retries and mirrors, as in Envoy.
func (x *Exchange) keep(p []byte) {
	if len(x.body)+len(p) > x.bodyLimit() {
		x.fl &^= xKeepBody
		x.plan.On = 0
		x.env.giveBuf(x.body)
		x.body = nil
		x.cl.Block.Inc(stats.ClusterRetryOrShadowAbandoned)
		return
	}
	if x.body == nil {
		x.body = x.env.takeBuf()
	}
	x.body = append(x.body, p...)
}

// bodyLimit bounds what is kept of a body.
func (x *Exchange) bodyLimit() int {
	if e := x.entry; e != nil && e.RequestBodyLimit >= 0 && e.RequestBodyLimit < 1<<40 {
		return int(e.RequestBodyLimit)
	}
	if n := x.ch.l.BufferLimit; n > 0 {
		return n
	}
	return 1 << 20
}

// liveAfter is how much content of a request makes its bytes count before it is over.
const liveAfter = 64 << 10

// minHead is what one head counts against maxMove at least, so that an upstream that sends 1xx heads without end gets no more than its share.
const minHead = 64

// pumpResponse reads the response and moves it downstream.
func (x *Exchange) pumpResponse(now sys.Nanos) outcome {
	if !x.respIn.readable() {
		return waits
	}
	out := x.toClient()
	r := x.response(now, &out)
	x.sent(&out)
	return r
}

func (x *Exchange) response(now sys.Nanos, out *sender) outcome {
	for moved := 0; x.st == stRelay; {
		if out.full() {
			x.pause(xUpPaused)
			return waits
		}
		x.resume(xUpPaused)
		if moved > maxMove {
			return again
		}
		limit := out.room()
		switch x.respIn.fill(limit) {
		case gotMore:
			if x.rec.FirstUpRx < 0 {
				x.rec.FirstUpRx = x.since(now)
			}
		case gotNothing:
			if !x.respIn.broken() {
				return waits
			}
			fallthrough
		case gotBroken:
			out.flush()
			x.upstreamFault(now, x.brokenKind())
			return waits
		case gotEOF:
			x.responseEOF(now, out)
			return waits
		}
		if !x.has(xRespHead) {
			if !x.responseHead(now, out) {
				moved += minHead
				continue
			}
			if x.st != stRelay {
				return waits
			}
		}
		n, data, end, k := x.respIn.body(limit, &x.respTr)
		if k != fault.None {
			out.flush()
			x.upstreamFault(now, fault.UpstreamProtocol)
			return waits
		}
		moved += n
		if end {
			x.rec.LastUpRx = x.since(now)
		}
		if len(data) > 0 || end && len(x.filters) > 0 {
			x.lastActive = now
			x.takeResponseData(now, out, data, end)
		}
		if x.m == nil {
			return waits // a filter has had enough of it: the connection is gone
		}
		x.respIn.discard(n)
		if end {
			x.endResponse(now, out)
			return waits
		}
	}
	return waits
}

// responseHead decodes one head; false means that the loop goes on reading (or that the state has changed).
func (x *Exchange) responseHead(now sys.Nanos, out *sender) bool {
	ok, k := x.respIn.head(&x.resp)
	if k != fault.None {
		x.upstreamFault(now, fault.UpstreamProtocol)
		return false
	}
	if !ok {
		return false
	}
	if x.ch.logsHeads && x.respIn.s == nil {
		x.rec.Up.HeadIn += http1.ReceivedHead(&x.resp)
		x.rec.Up.PlainIn += x.rec.Up.HeadIn // with each head all of them count again, as in Envoy
	}
	x.lastActive = now
	if x.resp.Status < 200 && !x.agreed() {
		x.informational(out)
		x.resp.Reset(&x.respA)
		x.respA.Reset(arenaKeep) // there is no limit to the number of these
		return false
	}
	x.fl |= xRespHead
	x.onResponseHead(now, out)
	return x.st == stRelay && !x.has(xRespHeld)
}

// responseEOF: the upstream sent FIN.
func (x *Exchange) responseEOF(now sys.Nanos, out *sender) {
	end, k := x.respIn.eof()
	if !end {
		out.flush() // what came before the break belongs to the client
	}
	switch {
	case end:
		x.rec.LastUpRx = x.since(now)
		x.endResponse(now, out)
	case k != fault.None:
		x.upstreamFault(now, k)
	default:
		x.upstreamFault(now, fault.ConnectionTerminate)
	}
}

// takeResponseData passes one piece of the response body on.
func (x *Exchange) takeResponseData(now sys.Nanos, out *sender, data []byte, end bool) {
	x.tryIn += uint64(len(data))
	if len(x.filters) > 0 {
		if data = x.filterResponseData(now, data, end && len(x.respTr.List) == 0); x.has(xRespHeld) {
			return // collected
		}
	}
	x.putResponse(out, data, end && len(x.respTr.List) == 0)
}

func (x *Exchange) putResponse(out *sender, data []byte, last bool) {
	if x.has(xNoBody) {
		return
	}
	x.rec.BytesOut += uint64(len(data))
	out.data(data, last)
	x.rec.LastDownTx = x.since(x.env.L.Now())
}

// endResponse writes the end of the response downstream and ends the exchange.
func (x *Exchange) endResponse(now sys.Nanos, out *sender) {
	x.fl |= xRespEnd
	if x.ch.logsHeads && x.respIn.s == nil {
		x.rec.Up.HeadIn += http1.ReceivedTrailers(&x.respTr)
	}
	if x.has(xRespHeld) {
		x.endBuffered(now, out)
		if x.has(xRespHeld) || x.st != stRelay {
			return
		}
	}
	x.finishResponse(now, out)
}

func (x *Exchange) finishResponse(now sys.Nanos, out *sender) {
	if x.has(xGrpcOpen) {
		x.grpcVerdict(&x.respTr)
	}
	if len(x.filters) > 0 && len(x.respTr.List) > 0 {
		x.putResponse(out, x.filterResponseTrailers(0), false)
	}
	var tr *httpmsg.Fields
	if (out.s != nil || x.ch.h.H1.EnableTrailers) && len(x.respTr.List) > 0 {
		tr = &x.respTr
		if x.ch.logsHeads && out.chunked {
			n := http1.SentTrailers(tr)
			x.rec.Down.HeadOut += n
			x.rec.Down.PlainOut += n
		}
	}
	out.end(tr)
	if len(x.respTr.List) > 0 {
		x.rec.RespTrailers = &x.respTr
	}
	x.rec.LastDownTx = x.since(now)
	x.upstreamDone(now)
	x.to(stDone)
}

// brokenKind names a connection error by what was seen before.
func (x *Exchange) brokenKind() fault.Kind {
	if st := x.respIn.s; st != nil {
		return streamKind(st)
	}
	x.errno = x.m.C.Err()
	if x.has(xRespHead) || x.respIn.begun() {
		return fault.UpstreamProtocol // as Envoy: a reset inside a message reads like one that is malformed
	}
	return fault.RemoteReset
}

// streamKind names the end of an upstream stream.
func streamKind(st *mux.Stream) fault.Kind {
	switch {
	case st.Unprocessed:
		return fault.StreamRefused
	case st.Reset == fault.ConnectionTerminate || st.Reset == fault.H2Timeout:
		return fault.ConnectionTerminate
	case st.Remote && st.Code != http2.CodeProtocol, st.Reset == fault.H2TooManyHeaders, st.Reset == fault.H2HeadersTooLarge:
		return fault.StreamReset // as Envoy's, which sees a head over its limits as a reset by the peer
	}
	return fault.UpstreamProtocol
}
