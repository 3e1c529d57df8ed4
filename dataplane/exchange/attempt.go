// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"sidecar/dataplane/conn"
	"sidecar/dataplane/fault"
	"sidecar/dataplane/filter"
	"sidecar/dataplane/hostset"
	"sidecar/dataplane/http2"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/lb"
	"sidecar/dataplane/match"
	"sidecar/dataplane/mux"
	"sidecar/dataplane/pool"
	"sidecar/dataplane/route"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/dataplane/upstream"
	"sidecar/internal/telemetry/accesslog"
	"sidecar/internal/telemetry/stats"
)

// connectTries is how many hosts a request may try to connect to, with or without a retry policy: nothing was sent, so nothing can happen twice.
const connectTries = 3

// maxTried bounds the hosts remembered by one request.
const maxTried = 16

// act is the router's first step, once the filters are through: redirects and direct responses are answered, requests that go upstream get
// their cluster. False means that the request was answered.
func (x *Exchange) act(now sys.Nanos) bool {
	b := x.ch.hcm
	e := x.entry
	allowed := x.allowUpgrade(e)
	if allowed || e == nil {
		b.Inc(stats.HCMRqTotal) // an upgrade that is not enabled does not get to Envoy's router
	}
	if !allowed {
		return false
	}
	if x.local.tls {
		b.Inc(stats.HCMRqDirectResponse)
		x.redirectTLS()
		return false
	}
	if len(x.router.StrictCheck) > 0 && !x.strict() {
		return false
	}
	if e == nil {
		b.Inc(stats.HCMNoRoute)
		x.replyKind(fault.RouteNotFound)
		return false
	}
	switch e.Kind {
	case route.ActionRedirect:
		b.Inc(stats.HCMRqDirectResponse)
		x.redirect(e)
		return false
	case route.ActionDirect:
		b.Inc(stats.HCMRqDirectResponse)
		x.direct(e)
		return false
	case route.ActionNonForwarding:
		b.Inc(stats.HCMNoCluster)
		x.replyKind(fault.ClusterNotFound)
		return false
	}
	return x.chooseCluster(now, e.Forward)
}

// strict is strict_check_headers: an x-envoy-* header with a value that makes no sense is answered with 400.
func (x *Exchange) strict() bool {
	for _, k := range x.router.StrictCheck {
		v, ok := x.req.GetKey(k)
		if !ok {
			continue
		}
		switch k.ID {
		case httpmsg.IDEnvoyRetryOn:
			_, ok = route.ParseRetryOn(v)
		case httpmsg.IDEnvoyRetryGrpcOn:
			_, ok = route.ParseRetryGrpcOn(v)
		default:
			_, ok = match.ParseUint(v)
		}
		if ok {
			continue
		}
		b := append(x.reqA.Tail(), "invalid header '"...)
		b = append(b, k.Name...)
		b = append(b, "' value"...)
		x.local = localReply{status: 400, body: x.reqA.Bytes(x.reqA.Take(b)), flags: fault.FlagIH, details: "request_headers_failed_strict_check"}
		x.to(stReply)
		return false
	}
	return true
}

// chooseCluster draws the cluster and prepares the head for it; once per request (and per internal redirect).
func (x *Exchange) chooseCluster(now sys.Nanos, f *route.Forward) bool {
	snap := x.env.Snap
	var ok bool
	x.choice, ok = f.Choose(&x.q)
	x.row = nil
	if ok {
		if x.choice.Ref != nil {
			x.row = snap.Cluster(x.choice.Ref)
			x.rec.ClusterRaw = x.choice.Ref.Name
		} else {
			x.row = snap.ClusterByName(x.choice.Name)
		}
	}
	if x.row == nil {
		x.ch.hcm.Inc(stats.HCMNoCluster)
		x.replyKind(fault.ClusterNotFound)
		if f.NotFoundStatus != 0 {
			x.local.status = f.NotFoundStatus
		}
		return false
	}
	x.cl = x.env.Up.Get(x.row)
	x.rec.Cluster, x.rec.ClusterRaw, x.rec.ClusterMeta = x.row.StatName, x.row.Name, x.row.Metadata
	x.prio = 0
	if f.HighPriority {
		x.prio = 1
	}
	if x.refused(snap) {
		return false
	}
	if len(f.Hash) > 0 {
		x.hash, x.hasHash, x.cookie = route.HashOf(f.Hash, &x.q, x.rec.Conn.Remote)
	}
	x.limits = f.Timeouts(&x.req)
	if x.has(xCallerSays) {
		if i := x.req.Find(httpmsg.IDEnvoyTimeoutAlt, 0); i >= 0 {
			x.fl |= xAltTimeout
			x.req.List[i].Dead = true
		}
	}
	if f.Retry != nil || x.has(xCallerSays) {
		f.Retry.FromHeaders(&x.req, &x.plan)
		x.planned = true
	}
	if (x.has(xReqEnd) || x.has(xUpgrade)) && x.limits.Global > 0 {
		x.routeAt = now + x.limits.Global // filters and internal redirects have taken their time before
	}
	x.tellDuration(f)
	x.entry.FinalizeRequest(&x.choice, &x.req, &x.q)
	x.authority = x.req.Authority
	x.upName = x.cl.ServerName(&x.req)
	x.tellTimeout(f)
	if !x.has(xReqEnd) && !x.has(xPrebuf) && (x.plan.On != 0 || f.InternalRedirect != nil || len(x.mirrors()) > 0) && x.req.Body != httpmsg.BodyNone {
		x.fl |= xKeepBody
	}
	if x.has(xReqEnd) {
		x.startMirrors(now)
	}
	return true
}

// expected is what x-envoy-expected-rq-timeout-ms says: the per-try timeout, or what is left of the route timeout.
func (x *Exchange) expected() sys.Nanos {
	t := x.limits.PerTry
	if g := x.limits.Global; g > 0 {
		left := g
		if x.routeAt > 0 && x.attempts > 0 {
			left = max(x.routeAt-x.env.L.Now(), sys.Millisecond)
		}
		if t == 0 || left < t {
			t = left
		}
	}
	return t
}

func (x *Exchange) setNumber(k httpmsg.Key, n uint64) { setNumber(&x.req, k, n) }

// setNumber sets a field to n. It is formatted elsewhere first, so that the arena has no gap between this field and its neighbours: lines that lie
// one behind the other are sent with one copy.
func setNumber(h *httpmsg.Head, k httpmsg.Key, n uint64) {
	var t [20]byte
	i := len(t)
	for {
		i--
		t[i] = byte('0' + n%10)
		if n /= 10; n == 0 {
			h.Set(k, t[i:])
			return
		}
	}
}

// refused answers requests that a cluster does not take at all: maintenance mode and drop_overloads.
func (x *Exchange) refused(snap *snapshot.Snapshot) bool {
	row := x.row
	if row.MaintenanceKey != "" && snap.Runtime != nil {
		if n := snap.Runtime.Number(row.MaintenanceKey, 0); n > 0 && float64(x.q.Rand%100) < n {
			x.cl.Block.Inc(stats.ClusterUpstreamRqMaintenanceMode)
			x.replyKind(fault.MaintenanceMode)
			x.local.overloaded = true
			x.chargeCode(x.local.status, false)
			return true
		}
	}
	for i := range row.Hosts.DropOverload {
		if d := &row.Hosts.DropOverload[i]; d.Den > 0 && x.env.L.Rand()%uint64(d.Den) < uint64(d.Num) {
			x.cl.Block.Inc(stats.ClusterUpstreamRqDropOverload)
			x.replyKind(fault.DropOverload)
			x.local.headers = dropOverloadHeaders
			x.chargeCode(x.local.status, false)
			return true
		}
	}
	return false
}

// dropOverloadHeaders go with the answer to a request that drop_overloads refuses.
var dropOverloadHeaders = []filter.Header{{Key: httpmsg.KeyOf("x-envoy-unconditional-drop-overload"), Value: "true"}}

// pick runs the router up to a connection: action, host, pool.
func (x *Exchange) pick(now sys.Nanos) {
	if x.cl == nil && !x.act(now) {
		return
	}
	x.attempts++
	x.rec.Attempts = x.attempts
	h := x.pickHost()
	if h == nil {
		x.host = nil
		x.cl.Block.Inc(stats.ClusterUpstreamCxNoneHealthy)
		x.upstreamFailed(now, fault.NoHealthyUpstream)
		return
	}
	x.useHost(h)
	if x.vh.IncludeAttempts {
		x.setNumber(keyAttempts, uint64(x.attempts))
	}
	if x.attempts > 1 {
		x.tellTimeout(x.entry.Forward)
	}
	x.tryStart = now
	x.fl &^= xHeadSent | xReqSent | xRespHead | xRespEnd | xReplayed | xInterim
	if x.has(xTerminate) {
		x.connectRaw(now)
		return
	}
	p := x.cl.Pool(h, x.prio, x.cl.Codec(x.reqIn.s != nil), x.req.A.Bytes(x.upName))
	if p == nil { // upstream_cx_pool_overflow
		x.unhost()
		x.upstreamFailed(now, fault.NoHealthyUpstream)
		return
	}
	switch p.Get(&x.w) {
	case pool.Ready:
		m, _, _ := x.w.Take()
		x.attach(m, now)
	case pool.Queued:
		x.to(stWaitPool)
	default:
		_, k, e := x.w.Take()
		x.errno, x.why = e, x.w.Why()
		if idle, _, _, _ := p.Counts(); k == fault.Overflow && idle == 0 {
			x.unhost() // max_pending_requests: Envoy names the host only once a connection is there for the request
		}
		x.poolFailed(now, k)
	}
}

// unhost takes back useHost for the log.
func (x *Exchange) unhost() {
	x.host = nil
	x.rec.UpstreamHost, x.rec.UpstreamHostName, x.rec.HostMeta = sys.Addr{}, "", nil
}

func (x *Exchange) pickHost() *hostset.Host {
	q := &x.lbq // not on the stack: Pick is an interface call
	*q = lb.Query{Rand: x.env.L.Rand(), Now: x.env.L.Now(), Hash: x.hash, HasHash: x.hasHash}
	if r := x.entry.Forward.Retry; x.attempts > 1 {
		q.Tried = x.tried
		q.AvoidTried = x.retries == 0
		if r != nil && x.retries > 0 {
			q.OmitCanary, q.MaxTries = r.OmitCanary, r.MaxSelect
			if !r.PreviousHosts {
				q.Tried = nil
			}
		}
	}
	h := x.cl.Pick(q, x.originalDst())
	if q.InPanic {
		x.cl.Block.Inc(stats.ClusterLbHealthyPanic)
	}
	return h
}

// originalDst is where an ORIGINAL_DST cluster connects to: the restored destination, or the address that a trusted header names.
func (x *Exchange) originalDst() sys.Addr {
	o := x.row.OrigDst
	if x.row.Type != snapshot.ClusterOriginalDst {
		return sys.Addr{}
	}
	a := x.side.OriginalDst()
	if o == nil {
		return a
	}
	if o.UseHeader {
		name := o.HeaderName
		if name == "" {
			name = "x-envoy-original-dst-host"
		}
		if i := x.req.FindName(name, 0); i >= 0 {
			if ap, ok := parseHostPort(x.req.Value(i)); ok {
				a = sys.AddrOf(ap)
			}
		}
	}
	if o.PortOverride != 0 {
		a = withPort(a, o.PortOverride)
	}
	return a
}

// useHost notes the host of this try.
func (x *Exchange) useHost(h *hostset.Host) {
	x.host = h
	if len(x.tried) < maxTried {
		x.tried = append(x.tried, h)
	}
	x.rec.UpstreamHost, x.rec.UpstreamHostName, x.rec.HostMeta = h.Addr, h.Hostname, h.Metadata
	x.rec.UpstreamConnID, x.rec.UpstreamDetectedClose = 0, "Normal" // as Envoy, which learns of no other kind before it logs
	if len(x.rec.Tried) < maxTried {
		x.rec.Tried = append(x.rec.Tried, accesslog.Attempt{Host: h.Addr, Name: h.Hostname})
	}
	if f := x.entry.Forward; f.HostAuto {
		x.req.Authority = x.authority // each try starts from the client's
		f.SetAutoHost(&x.req, &x.q, h.Hostname)
	}
}

// poolAnswer takes the pool's answer; false while there is none.
func (x *Exchange) poolAnswer(now sys.Nanos) bool {
	if x.has(xTerminate) {
		return x.rawAnswer(now)
	}
	m, k, e := x.w.Take()
	switch {
	case m != nil:
		x.attach(m, now)
	case k != fault.None:
		x.errno, x.why = e, x.w.Why()
		x.poolFailed(now, k)
	default:
		return false
	}
	return true
}

// poolFailed: no connection for this try. Nothing was sent, so another host is tried at once.
func (x *Exchange) poolFailed(now sys.Nanos, k fault.Kind) {
	if (k == fault.ConnectFailed || k == fault.ConnectTimeout) && x.connectAgain() {
		x.logUnconnected(k)
		if x.st != stPick {
			x.to(stPick)
		}
		return
	}
	x.upstreamFailed(now, k)
}

// connectAgain tells whether a failed connect may go to another host.
func (x *Exchange) connectAgain() bool {
	x.connTries++
	if x.connTries >= connectTries || x.row.Type == snapshot.ClusterOriginalDst {
		return false
	}
	for i := range x.row.Hosts.Priorities {
		for j := range x.row.Hosts.Priorities[i].Hosts {
			if !x.wasTried(x.row.Hosts.Priorities[i].Hosts[j].Host) {
				return true
			}
			if j >= maxTried {
				return true
			}
		}
	}
	return false
}

func (x *Exchange) wasTried(h *hostset.Host) bool {
	for _, t := range x.tried {
		if t == h {
			return true
		}
	}
	return false
}

// attach starts the try on a connection: the request head goes out, with as much of the body as is here.
func (x *Exchange) attach(m *pool.Member, now sys.Nanos) {
	x.m = m
	x.to(stRelay)
	x.fl |= xHeadSent
	x.requestFraming()
	r := &x.rec
	if m.HTTP2() {
		r.UpstreamProtocol = "HTTP/2"
		st := m.Open(&x.req, x.requestEmpty(), x)
		if st == nil { // the peer has said GOAWAY meanwhile
			x.notTaken(now)
			return
		}
		st.S.Head, st.S.Trailers = &x.resp, &x.respTr
		x.respIn = source{s: st}
	} else {
		r.UpstreamProtocol = "HTTP/1.1"
		x.webSocketKey()
		m.Dec.BeginResponse(x.req.Method, x.has(xUpgrade))
		x.respIn = source{c: m.C, dec: &m.Dec}
	}
	x.inSeen, x.outSeen, x.tryIn, x.tryOut = m.C.BytesIn, m.C.BytesOut, 0, 0
	r.UpstreamConnID, r.UpstreamRequests = m.ID(), uint64(m.Requests())
	r.UpstreamRemote = m.C.Remote()
	if n := int(x.attempts); n <= len(r.Tried) {
		r.Tried[n-1].ConnID = m.ID()
	}
	r.PoolReady = int64(now - x.tryStart)
	r.UpConnStart, r.UpConnDone = accesslog.Unset, accesslog.Unset
	if !m.Reused() {
		a, b := m.Connect()
		r.UpConnStart, r.UpConnDone = x.since(a), x.since(b)
	}
	x.upstreamTLS(m.C, !m.Reused())
	if x.needsLocal() {
		r.UpstreamLocal = m.Local()
	}
	if r.FirstUpTx < 0 {
		r.FirstUpTx = x.since(now)
	}
	if d := x.limits.UpstreamStream(x.cl.Cfg.MaxStreamDuration); d > 0 {
		x.upstreamMaxAt = now + d
	}
	out := x.toUpstream()
	n := out.requestHead(&x.req, &x.cl.Cfg.H1)
	if x.ch.logsHeads {
		r.Up.HeadOut += n
		r.Up.PlainOut += n
	}
	r.LastUpTx = x.since(now)
	if !x.has(xUpgrade) {
		x.requestBody(now, &out)
	} else {
		x.fl |= xReqSent // the bytes behind an upgrade wait for the answer
	}
	x.sent(&out)
}

// upstreamTLS notes the session of the upstream connection, and when a new one was made.
func (x *Exchange) upstreamTLS(c *conn.Conn, fresh bool) {
	r := &x.rec
	r.UpTLSDone = accesslog.Unset
	if r.UpstreamTLS = c.Session(); r.UpstreamTLS != nil && fresh {
		up, done := c.HandshakeTimes()
		r.UpConnDone, r.UpTLSDone = x.since(up), x.since(done)
	}
}

// notTaken gives a loan back that came to nothing and looks for another; nothing was sent, so nothing can happen twice.
func (x *Exchange) notTaken(now sys.Nanos) {
	m := x.m
	x.m = nil
	m.ReleaseStream(false)
	if x.connTries++; x.connTries >= connectTries {
		x.upstreamFailed(now, fault.StreamRefused)
		return
	}
	x.to(stPick)
}

// requestEmpty tells whether no request body follows the head.
func (x *Exchange) requestEmpty() bool {
	return x.req.Body == httpmsg.BodyNone && !x.has(xUpgrade) || x.has(xReqEnd) && len(x.body) == 0 && len(x.reqTr.List) == 0
}

// requestFraming decides how the body goes upstream.
func (x *Exchange) requestFraming() {
	x.fl &^= xReqChunked
	switch {
	case x.req.Body == httpmsg.BodyChunked:
		x.fl |= xReqChunked
	case x.has(xPrebuf):
		x.req.Body, x.req.Length = httpmsg.BodyLength, int64(len(x.body))
	}
}

// release gives the connection of the try back. reuse says that both messages were complete.
func (x *Exchange) release(reuse bool) {
	m := x.m
	x.upstreamMaxAt = 0
	if m == nil {
		x.releaseRaw()
		return
	}
	if st := x.respIn.s; st != nil {
		x.releaseStream(m, st)
		return
	}
	x.meterTry()
	x.upstreamLog()
	x.m, x.respIn = nil, source{}
	switch {
	case m.HTTP2(): // a panic while the stream was opened
		m.ReleaseStream(false)
	case reuse:
		m.Release(true)
	case x.has(xReqSent|xRespEnd) && !x.has(xUpgrade):
		m.ReleaseDone(x.has(xTillClose))
	case m.C.PeerClosed() && !x.has(xPeerFirst):
		m.ReleaseBroken()
	default:
		m.Release(false)
	}
}

// meterTry adds to the record what the try under way has taken of its connection.
func (x *Exchange) meterTry() {
	up := &x.rec.Up
	switch st := x.respIn.s; {
	case st != nil:
		b := accesslog.Bytes(st.Meter())
		up.Add(&b)
	case x.m != nil:
		up.WireIn += x.m.C.BytesIn - x.inSeen
		up.WireOut += x.m.C.BytesOut - x.outSeen
	case x.tcp.C != nil:
		up.WireIn += x.tcp.C.BytesIn
		up.WireOut += x.tcp.C.BytesOut
	}
}

// releaseStream gives the stream of the try back; one whose messages are not complete is reset.
func (x *Exchange) releaseStream(m *pool.Member, st *mux.Stream) {
	x.meterTry()
	x.upstreamLog()
	x.m, x.respIn = nil, source{}
	endStream(x.cl, m, st)
}

// endStream counts how a stream to cl ended and gives it back.
func endStream(cl *upstream.Cluster, m *pool.Member, st *mux.Stream) {
	switch {
	case st.Reset == fault.None:
		if !st.S.Closed() {
			cl.Block.Inc(stats.ClusterUpstreamRqTxReset)
		}
	default:
		switch streamKind(st) {
		case fault.ConnectionTerminate:
			cl.Block.Inc(stats.ClusterUpstreamRqPendingFailureEject) // as in Envoy, though nothing was pending
		case fault.UpstreamProtocol:
			cl.Block.Inc(stats.ClusterUpstreamRqTxReset)
		case fault.StreamReset:
			cl.Block.Inc(stats.ClusterUpstreamRqRxReset)
		}
	}
	st.Abort(http2.CodeCancel)
	m.ReleaseStream(true)
}

// upstreamDone ends the try after a complete response.
func (x *Exchange) upstreamDone(now sys.Nanos) {
	if !x.resp.KeepAlive && !x.has(xTillClose) {
		x.cl.Block.Inc(stats.ClusterUpstreamCxCloseNotify)
	}
	x.release(x.has(xReqSent|xRespEnd) && x.resp.KeepAlive && !x.has(xUpgrade)) // a refused upgrade is not complete for Envoy
	x.chargeTime(now)
}
