// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"net/netip"
	"strconv"

	"sidecar/dataplane/fault"
	"sidecar/dataplane/filter"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/match"
	"sidecar/dataplane/route"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/stats"
)

// localReply is a response that the proxy makes itself.
type localReply struct {
	status      uint16
	body        []byte
	details     string
	flags       fault.Flags
	location    httpmsg.Span // in the request arena
	contentType string
	headers     []filter.Header
	hasLocation bool
	formatted   bool // body and contentType come from local_reply_config
	tls         bool // the redirect of require_tls, decided at route matching
	close       bool
	overloaded  bool // x-envoy-overloaded
	mutate      bool // the route's response mutations apply
	grpc        uint8
}

// replyKind answers with the row of a fault.
func (x *Exchange) replyKind(k fault.Kind) {
	row := k.Row()
	x.fault = k
	x.local = localReply{status: row.Status, details: row.Details, flags: row.Flags, close: row.Close, mutate: x.entry != nil}
	if row.Body != "" {
		x.local.body = kindBodies[k]
	}
	if k == fault.UpgradeFailed {
		x.early()
	}
	x.to(stReply)
}

// early counts an answer to a request that Envoy does not regard as complete at this point, whatever its body is.
func (x *Exchange) early() {
	if x.has(xEarly) {
		return
	}
	x.fl |= xEarly
	x.ch.hcm.Inc(stats.HCMDownstreamRqResponseBeforeRqComplete)
	x.ch.hcm.Inc(stats.HCMDownstreamRqRxReset)
}

// kindBodies are the rows' bodies as bytes, made once: replies do not allocate.
var kindBodies = func() (t [256][]byte) {
	for k := fault.None + 1; k <= fault.Bug; k++ {
		if b := k.Row().Body; b != "" {
			t[k] = []byte(b)
		}
	}
	return t
}()

// requestFault: the request body is malformed. An answer is possible only if none has begun.
func (x *Exchange) requestFault(now sys.Nanos, k fault.Kind) {
	x.ch.hcm.Inc(stats.HCMDownstreamCxProtocolError)
	x.refusedName(k)
	x.c.closeAfter()
	if x.has(xRespStarted) {
		x.rec.Flags |= fault.FlagDPE
		x.rec.Details = k.Row().Details
		x.release(false)
		x.to(stDone)
		x.over(now, garbled)
		return
	}
	x.leaveUpstream()
	x.early()
	x.replyKind(k)
}

// dropped counts the fields of an HTTP/1 request that headers_with_underscores_action: DROP_HEADER took out.
func (x *Exchange) dropped(n int) {
	if sc := x.ch.h.H1Scope; n > 0 && sc != nil {
		sc.Block(x.env.Shard).Add(stats.H1DroppedHeadersWithUnderscores, int64(n))
	}
}

// refusedName counts an HTTP/1 request that headers_with_underscores_action: REJECT_REQUEST refuses.
func (x *Exchange) refusedName(k fault.Kind) {
	if sc := x.ch.h.H1Scope; k == fault.UnexpectedUnderscore && sc != nil {
		sc.Block(x.env.Shard).Inc(stats.H1RequestsRejectedWithUnderscoresInHeaders)
	}
}

// leaveUpstream gives up the try, wherever it is.
func (x *Exchange) leaveUpstream() {
	x.w.Cancel()
	x.release(false)
}

// redirectTLS is the 301 of require_tls.
func (x *Exchange) redirectTLS() {
	x.local = localReply{status: 301, location: x.reqA.Take(route.TLSLocation(x.reqA.Tail(), &x.req, &x.q)), hasLocation: true,
		details: "direct_response"}
	x.to(stReply)
}

func (x *Exchange) redirect(e *route.Entry) {
	r := e.Redirect
	x.local = localReply{status: r.Code, hasLocation: true, mutate: true, details: "direct_response"}
	x.local.location = x.reqA.Take(r.Location(x.reqA.Tail(), &x.req, &x.q))
	x.to(stReply)
}

func (x *Exchange) direct(e *route.Entry) {
	d := e.Direct
	x.local = localReply{status: d.Status, body: d.Body, mutate: true, details: "direct_response", contentType: d.ContentType}
	if d.Format != nil {
		x.rec.LocalReplyBody = d.Body // for %LOCAL_REPLY_BODY%
		x.local.body = x.reqA.Bytes(x.reqA.Take(d.Format.Append(x.reqA.Tail(), &x.rec)))
	}
	if b, ok := d.Location(x.reqA.Tail(), &x.req, &x.q); ok {
		x.local.location, x.local.hasLocation = x.reqA.Take(b), true
	}
	x.to(stReply)
}

// upstreamReply is the router's answer to a try that failed for good.
func (x *Exchange) upstreamReply(now sys.Nanos, k fault.Kind) {
	x.replyKind(k)
	l := &x.local
	row := k.Row()
	switch k {
	case fault.Overflow:
		l.overloaded = true
	case fault.RouteTimeout, fault.PerTryTimeout, fault.PerTryIdleTimeout:
		if x.has(xAltTimeout) {
			l.status, l.body = 204, nil
		}
	case fault.ConnectFailed:
		if l.details = connectDetails(x.errno); x.why != "" {
			l.details = "upstream_reset_before_response_started{remote_connection_failure|" + x.why + "}"
		}
	}
	if x.retries > 0 && len(row.Body) > len(resetPrefix) && row.Body[:len(resetPrefix)] == resetPrefix {
		b := append(x.reqA.Tail(), "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: "...)
		const mark = "reset reason: "
		for i := 0; i+len(mark) <= len(row.Body); i++ {
			if row.Body[i:i+len(mark)] == mark {
				b = append(b, row.Body[i+len(mark):]...)
				break
			}
		}
		l.body = x.reqA.Bytes(x.reqA.Take(b))
	}
	if k != fault.UpstreamMaxDuration { // not counted by Envoy
		x.chargeCode(l.status, x.host != nil)
	}
}

const resetPrefix = "upstream connect error or disconnect/reset before headers. "

// replyCloses tells whether the connection of an HTTP/1 client ends with the local reply. A 400 says that the message is in doubt: where it ends, if the
// codec refused it, and else what it means, which stream_error_on_invalid_http_message leaves to the client.
func (x *Exchange) replyCloses() bool {
	if l := &x.local; l.status != 400 || l.flags&fault.FlagDPE != 0 {
		return l.close || l.status == 400
	}
	return !x.ch.h.StreamErrors
}

// sendReply writes the local reply: Envoy's form, after local_reply_config, through the response filters.
func (x *Exchange) sendReply(now sys.Nanos) {
	l := &x.local
	x.resp.Reset(&x.respA)
	resp := &x.resp
	resp.Version, resp.KeepAlive = httpmsg.HTTP11, true
	resp.Status = l.status
	x.rec.Flags |= l.flags
	x.rec.Details = l.details
	if l.hasLocation {
		resp.Add(keyLocation, x.reqA.Bytes(l.location))
	}
	if l.overloaded {
		resp.AddString(keyOverloaded, "true")
	}
	for i := range l.headers {
		resp.AddString(l.headers[i].Key, l.headers[i].Value)
	}
	grpc := x.has(xGrpc)
	x.rec.Code, x.rec.Resp = resp.Status, resp // mutations may use them
	if l.mutate && x.entry != nil {
		x.entry.FinalizeResponse(&x.choice, resp, &x.q)
	}
	x.rec.Code = resp.Status
	x.mapReply(now)
	body := l.body
	if grpc {
		body = nil
		x.grpcReply()
	} else {
		x.replyBody(body)
	}
	if x.replyCloses() {
		x.c.closeAfter()
	}
	if len(x.filters) > 0 {
		body = x.filterLocal(body)
	}
	x.rec.LocalReplyBody = nil // only the reply's own formats see it, not the log
	out := x.toClient()
	x.sendHead(now, &out, len(body) == 0)
	if len(body) > 0 {
		x.putResponse(&out, body, true)
	}
	x.sent(&out)
	x.to(stDone)
}

func (x *Exchange) replyBody(body []byte) {
	resp := &x.resp
	if len(body) == 0 {
		resp.Remove(keyContentType)
		return // the framing depends on the method
	}
	resp.Body, resp.Length = httpmsg.BodyLength, int64(len(body))
	if x.local.formatted {
		resp.Remove(keyContentType) // the format's own counts
	}
	if resp.Find(httpmsg.IDContentType, 0) < 0 {
		ct := x.local.contentType
		if ct == "" {
			ct = "text/plain"
		}
		resp.AddString(keyContentType, ct)
	}
	resp.AddSpan(keyCL, x.respA.Take(strconv.AppendUint(x.respA.Tail(), uint64(len(body)), 10)))
	// Envoy has these two in front.
	n := len(resp.List)
	for i := n - 1; i > 0; i-- {
		resp.List[i], resp.List[i-1] = resp.List[i-1], resp.List[i]
	}
	x.rec.LocalReplyBody = body
}

// mapReply applies local_reply_config: the first mapper whose filter matches, then the overall body format.
func (x *Exchange) mapReply(sys.Nanos) {
	c := x.ch.h.LocalReply
	if c == nil {
		return
	}
	l, resp := &x.local, &x.resp
	x.rec.LocalReplyBody = l.body
	format, ct := c.Body, c.ContentType
	for i := range c.Mappers {
		m := &c.Mappers[i]
		if m.Filter != nil && !m.Filter.Match(&x.rec, x.q.Rand) {
			continue
		}
		if m.HasBody {
			l.body = m.Body
			x.rec.LocalReplyBody = l.body
		}
		m.Headers.Response.Apply(resp, &x.rec)
		if m.Status != 0 {
			resp.Status, x.rec.Code = m.Status, m.Status
		}
		if m.Format != nil {
			format, ct = m.Format, m.ContentType
		}
		break
	}
	if format != nil {
		l.body = x.respA.Bytes(x.respA.Take(format.Append(x.respA.Tail(), &x.rec)))
		if ct == "" {
			ct = "text/plain"
			if format.IsJSON() {
				ct = "application/json"
			}
		}
		l.contentType, l.formatted = ct, true
	}
}

// parseHostPort reads "ip:port" without allocating.
func parseHostPort(v []byte) (netip.AddrPort, bool) {
	i := httpmsg.PortStart(v)
	if i < 0 {
		return netip.AddrPort{}, false
	}
	host := v[:i]
	if len(host) > 2 && host[0] == '[' && host[len(host)-1] == ']' {
		host = host[1 : len(host)-1]
	}
	a, ok := httpmsg.ParseAddr(host)
	p, ok2 := match.ParseUint(v[i+1:])
	if !ok || !ok2 || p > 65535 {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(a, uint16(p)), true
}

func withPort(a sys.Addr, port uint16) sys.Addr {
	if a.IsUnix() {
		return a
	}
	return sys.AddrOf(netip.AddrPortFrom(a.IP.Addr(), port))
}

// connectReason and connectDetails name the errno of a refused connect as Envoy does; the usual ones are constants, so that a dead upstream costs no
// garbage.
func connectReason(e sys.Errno) string {
	switch e {
	case sys.ECONNREFUSED:
		return "delayed_connect_error:_Connection_refused"
	case sys.EHOSTUNREACH:
		return "delayed_connect_error:_No_route_to_host"
	case sys.ENETUNREACH:
		return "delayed_connect_error:_Network_is_unreachable"
	case sys.ETIMEDOUT:
		return "delayed_connect_error:_Connection_timed_out"
	}
	return ""
}

func connectDetails(e sys.Errno) string {
	switch e {
	case sys.ECONNREFUSED:
		return "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}"
	case sys.EHOSTUNREACH:
		return "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_No_route_to_host}"
	case sys.ENETUNREACH:
		return "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Network_is_unreachable}"
	case sys.ETIMEDOUT:
		return "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_timed_out}"
	}
	return "upstream_reset_before_response_started{remote_connection_failure}"
}
