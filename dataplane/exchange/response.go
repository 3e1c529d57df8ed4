// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"sidecar/dataplane/fault"
	"sidecar/dataplane/http1"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
)

// informational handles a 1xx head: swallowed, unless proxy_100_continue is set. As in Envoy the first one of a try is counted, and of several 100
// only the first is passed on.
func (x *Exchange) informational(out *sender) {
	again := x.has(xInterim)
	x.fl |= xInterim
	if st := x.resp.Status; !again && (st == 100 || st == 102 || st == 103) && x.router.DynamicStats {
		x.countUpstream(x.resp.Status)
	}
	if !x.ch.h.Proxy100Continue || x.req.Version < httpmsg.HTTP11 || x.has(xRespStarted) || again && x.resp.Status == 100 {
		return
	}
	http1.StripHopByHop(&x.resp, true)
	x.resp.Body = httpmsg.BodyNone
	out.responseHead(&x.resp, x.req.Version, &x.ch.h.H1, false)
	x.countCode(x.resp.Status)
}

// onResponseHead handles the final head of a try: retry, router headers, filters, and out it goes.
func (x *Exchange) onResponseHead(now sys.Nanos, out *sender) {
	if x.has(xUpgrade) && x.agreed() {
		if k := x.acceptUpgrade(); k != fault.None {
			x.upstreamFault(now, k)
			return
		}
		x.startTunnel(now, out)
		return
	}
	if x.has(xUpgrade) {
		if x.misleading() {
			x.upstreamFault(now, fault.UpstreamProtocol)
			return
		}
		// Refused: the answer is an ordinary one, and as the client may already speak the other protocol the connection ends with it. Envoy
		// drops the body of such an answer; it is passed on here.
		x.c.closeAfter()
		x.early()
	}
	if x.retryResponse(now) {
		return
	}
	if f := x.entry.Forward; f.InternalRedirect != nil && x.internalRedirect(now) {
		return
	}
	x.rec.Details = "via_upstream"
	if x.has(xUpgrade) && x.req.Method != httpmsg.MethodConnect && x.resp.Status/100 == 2 {
		x.rec.Details = "websocket_handshake_unsuccessful"
	} else {
		x.chargeCode(x.resp.Status, true)
	}
	x.rec.Code, x.rec.Resp = x.resp.Status, &x.resp // mutations may use them
	x.routerHeaders(now)
	x.rec.Code = x.resp.Status
	if len(x.filters) > 0 && !x.filterResponseHead(now) {
		return
	}
	x.sendHead(now, out, x.responseEmpty())
}

// routerHeaders adds what the router says of its work, and the route's response mutations.
func (x *Exchange) routerHeaders(now sys.Nanos) {
	resp := &x.resp
	http1.StripHopByHop(resp, true)
	if !x.router.SuppressEnvoyHeaders && x.reqDone > 0 {
		setNumber(resp, keyServiceTime, clockMillis(now-x.reqDone))
	}
	if x.vh.IncludeAttemptsResp {
		setNumber(resp, keyAttempts, uint64(x.attempts))
	}
	if x.cookie != nil {
		resp.AddSpan(keySetCookie, x.respA.Take(x.cookie.Append(x.respA.Tail())))
	}
	x.entry.FinalizeResponse(&x.choice, resp, &x.q)
}

// sendHead finishes a response head, whoever made it, and puts it into out: connection manager headers, framing, connection handling. empty tells that
// no body follows.
func (x *Exchange) sendHead(now sys.Nanos, out *sender, empty bool) {
	resp := &x.resp
	x.managerHeaders()
	x.responseFraming()
	x.c.answer(x)
	out.chunked = x.has(xRespChunked)
	n := out.responseHead(resp, x.req.Version, &x.ch.h.H1, empty || x.has(xNoBody))
	if x.ch.logsHeads {
		x.rec.Down.HeadOut, x.rec.Down.PlainOut = n, n
	}
	x.rec.Code = resp.Status
	x.rec.Resp = resp
	x.fl |= xRespStarted
	x.rec.LastDownTx = x.since(now)
	if x.rec.FirstDownTx < 0 {
		x.rec.FirstDownTx = x.since(now)
	}
}

// managerHeaders adds what the connection manager adds to every response.
func (x *Exchange) managerHeaders() {
	h, resp := x.ch.h, &x.resp
	if resp.Find(httpmsg.IDDate, 0) < 0 {
		resp.Add(keyDate, x.env.L.Date())
	}
	switch h.ServerHeader {
	case snapshot.ServerOverwrite:
		resp.SetString(keyServer, h.ServerName)
	case snapshot.ServerAppendIfAbsent:
		if resp.Find(httpmsg.IDServer, 0) < 0 {
			resp.AddString(keyServer, h.ServerName)
		}
	}
	if h.AlwaysSetRequestIDInResponse && len(x.rec.RequestID) > 0 {
		resp.Set(keyRequestID, x.rec.RequestID)
	}
	if h.Via != "" {
		appendJoined(resp, keyVia, h.Via, ", ")
	}
}

// responseFraming decides how the body goes downstream.
func (x *Exchange) responseFraming() {
	resp := &x.resp
	x.fl &^= xRespChunked | xNoBody
	if resp.Body == httpmsg.BodyUntilClose {
		x.fl |= xTillClose
	}
	switch {
	case x.req.Method == httpmsg.MethodHead:
		x.fl |= xNoBody
		if resp.Body == httpmsg.BodyNone && resp.Status != 204 && resp.Status != 304 && resp.Find(httpmsg.IDContentLength, 0) < 0 &&
			x.req.Version == httpmsg.HTTP11 {
			resp.Body = httpmsg.BodyChunked // as Envoy, which says what a GET would have
		}
		return
	case resp.Status == 204, resp.Status == 304, resp.Status < 200:
		x.fl |= xNoBody
		resp.Body = httpmsg.BodyNone
		if resp.Status == 204 {
			resp.Remove(keyCL)
		}
		return
	}
	switch resp.Body {
	case httpmsg.BodyNone:
		if resp.Find(httpmsg.IDContentLength, 0) < 0 && x.req.Version != httpmsg.HTTP2 {
			resp.Body, resp.Length = httpmsg.BodyLength, 0
		}
	case httpmsg.BodyChunked, httpmsg.BodyUntilClose:
		if x.req.Version == httpmsg.HTTP10 {
			resp.Body = httpmsg.BodyUntilClose
			x.c.closeAfter()
			return
		}
		resp.Body = httpmsg.BodyChunked
		x.fl |= xRespChunked
	}
}
