// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"sidecar/dataplane/fault"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/lb"
	"sidecar/dataplane/loop"
	"sidecar/dataplane/match"
	"sidecar/dataplane/pool"
	"sidecar/dataplane/route"
	"sidecar/dataplane/sys"
	"sidecar/dataplane/upstream"
	"sidecar/internal/telemetry/stats"
)

// shadowTimeout bounds a mirrored request whose route has no timeout.
const shadowTimeout = 60 * sys.Second

// maxShadows bounds the mirrored requests in flight on one worker; further ones are dropped and counted as abandoned.
const maxShadows = 1024

// mirrors are the mirror policies of the request's route, or of its virtual host or table.
func (x *Exchange) mirrors() []route.Mirror {
	if f := x.entry.Forward; len(f.Mirrors) > 0 {
		return f.Mirrors
	}
	if len(x.vh.Mirrors) > 0 {
		return x.vh.Mirrors
	}
	return x.table.Mirrors
}

// startMirrors sends copies of the complete request to the mirror clusters and forgets them.
func (x *Exchange) startMirrors(now sys.Nanos) {
	if x.entry == nil || x.entry.Kind != route.ActionForward || x.cl == nil || x.has(xUpgrade) {
		return
	}
	list := x.mirrors()
	if len(list) == 0 {
		return
	}
	if x.req.Body != httpmsg.BodyNone && !x.has(xKeepBody) && !x.has(xPrebuf) {
		return // the body grew over the limit: abandoned and counted
	}
	for i := range list {
		m := &list[i]
		if m.Fraction != nil && !x.rec.Runtime.Fraction(*m.Fraction).Hit(x.env.L.Rand()) {
			continue
		}
		row := x.env.Snap.Cluster(m.Cluster)
		if m.ClusterHeader != nil {
			if v, ok := match.FieldValue(&x.req, *m.ClusterHeader); ok {
				row = x.env.Snap.ClusterByName(v)
			}
		}
		cl := x.env.Up.Get(row)
		if cl == nil {
			continue
		}
		if x.env.shadows.Live() >= maxShadows {
			cl.Block.Inc(stats.ClusterRetryOrShadowAbandoned)
			continue
		}
		x.env.shadows.Get().begin(x, cl, m, now)
	}
}

// shadow is one mirrored request: sent once, its answer read and thrown away.
type shadow struct {
	// Worker
	env   *Env
	task  loop.Task
	timer loop.Timer
	bound bool
	w     pool.Waiter
	q     lb.Query
	m     *pool.Member
	in    source
	cl    *upstream.Cluster
	req   httpmsg.Head
	tr    httpmsg.Fields
	resp  httpmsg.Head
	a     httpmsg.Arena
	respA httpmsg.Arena
	body  []byte
	start sys.Nanos
	head  bool
}

func (h *shadow) begin(x *Exchange, cl *upstream.Cluster, m *route.Mirror, now sys.Nanos) {
	if !h.bound {
		h.bound = true
		h.task.Init(h)
		h.timer.Init(&h.task)
	}
	h.env, h.cl, h.start, h.head, h.m = x.env, cl, now, false, nil
	h.w.Init(&h.task)
	h.a.Reset(arenaKeep)
	h.respA.Reset(arenaKeep)
	h.resp.Reset(&h.respA)
	h.req.CopyHead(&x.req, &h.a)
	m.Finalize(&h.req, &x.rec)
	if s := x.table.AsyncClient; s != nil {
		s.Block(x.env.Shard).Inc(stats.AsyncClientRqTotal)
	}
	h.req.SetString(keyInternal, "true")
	if ip := x.env.LocalIP; ip.IsValid() {
		var t [64]byte
		b := h.a.Tail()
		if i := h.req.Find(httpmsg.IDForwardedFor, 0); i >= 0 {
			b = append(append(b, h.req.Value(i)...), ',')
		}
		b = append(b, ip.AppendTo(t[:0])...)
		h.req.SetSpan(keyXFF, h.a.Take(b))
	}
	h.body = nil
	if len(x.body) > 0 {
		h.body = append(x.env.takeBuf(), x.body...)
	}
	if h.req.Body == httpmsg.BodyLength {
		h.req.Length = int64(len(h.body))
	}
	h.tr.CopyFrom(&x.reqTr, &h.a)
	d := x.limits.Global
	if d <= 0 {
		d = shadowTimeout
	}
	x.env.L.Arm(&h.timer, now+d)
	h.pick(x, now)
}

func (h *shadow) pick(x *Exchange, now sys.Nanos) {
	h.q = lb.Query{Rand: h.env.L.Rand(), Hash: x.hash, HasHash: x.hasHash, Now: now}
	host := h.cl.Pick(&h.q, x.rec.Conn.Local)
	if host == nil {
		h.cl.Block.Inc(stats.ClusterUpstreamCxNoneHealthy)
		h.end(false)
		return
	}
	p := h.cl.Pool(host, 0, h.cl.Codec(x.reqIn.s != nil), h.a.Bytes(h.cl.ServerName(&h.req)))
	if p == nil { // upstream_cx_pool_overflow
		h.end(false)
		return
	}
	switch p.Get(&h.w) {
	case pool.Ready:
		h.env.L.Ready(&h.task) // not here: whoever copies its request may be using the encode scratch
	case pool.Failed:
		h.w.Take()
		h.end(false)
	}
}

// send sends the request; false means that the connection took none.
func (h *shadow) send(m *pool.Member) bool {
	if m.HTTP2() {
		return h.sendStream(m)
	}
	h.m, h.in = m, source{c: m.C, dec: &m.Dec}
	m.Dec.BeginResponse(h.req.Method, false)
	out := sender{c: m.C, enc: h.env.L.Enc(), chunked: h.req.Body == httpmsg.BodyChunked}
	out.requestHead(&h.req, &h.cl.Cfg.H1)
	h.content(&out, h.cl.Cfg.H1.EnableTrailers)
	out.flush()
	m.CountBytes() // the answer may never come
	h.env.L.SetEnc(out.enc)
	return true
}

// sendStream is send over HTTP/2: what the peer's window does not cover of the body waits in the stream.
func (h *shadow) sendStream(m *pool.Member) bool {
	empty := h.req.Body == httpmsg.BodyNone
	st := m.Open(&h.req, empty, h)
	if st == nil { // the peer has said GOAWAY meanwhile
		m.ReleaseStream(false)
		return false
	}
	st.S.Head = &h.resp
	h.m, h.in = m, source{s: st}
	if !empty {
		h.content(&sender{s: st}, true)
	}
	return true
}

// content sends the body, and the trailers if the connection takes any.
func (h *shadow) content(out *sender, trailers bool) {
	if !trailers || len(h.tr.List) == 0 {
		out.data(h.body, true)
		out.end(nil)
		return
	}
	out.data(h.body, false)
	out.end(&h.tr)
}

// Run implements mux.User.
func (h *shadow) Run(sys.Nanos) {
	if h.read() == loop.Again {
		h.env.L.Ready(&h.task)
	}
}

// Advance reads the answer to its end.
func (h *shadow) Advance(now sys.Nanos) loop.Step {
	if h.env == nil {
		return loop.Done
	}
	if h.timer.Fired() {
		h.end(false)
		return loop.Done
	}
	if h.m == nil {
		m, k, _ := h.w.Take()
		switch {
		case m != nil:
			if !h.send(m) {
				h.count(503)
				h.end(false)
				return loop.Done
			}
		case k != fault.None:
			h.count(503)
			h.end(false)
			return loop.Done
		default:
			return loop.Idle
		}
	}
	return h.read()
}

func (h *shadow) read() loop.Step {
	for moved := 0; moved < maxMove; {
		switch h.in.fill(unbounded) {
		case gotNothing:
			return loop.Idle
		case gotEOF, gotBroken:
			if !h.head {
				h.count(503)
			}
			if m := h.m; !m.HTTP2() {
				h.m, h.in = nil, source{}
				m.ReleaseBroken()
			}
			h.end(false)
			return loop.Done
		}
		if !h.head {
			moved += minHead
			if ok, k := h.in.head(&h.resp); k != fault.None {
				h.end(false)
				return loop.Done
			} else if !ok {
				continue
			}
			if h.resp.Status < 200 {
				h.resp.Reset(&h.respA)
				h.respA.Reset(arenaKeep)
				continue
			}
			h.head = true
			h.count(h.resp.Status)
		}
		n, _, end, k := h.in.body(unbounded, nil)
		h.in.discard(n)
		moved += n
		if end || k != fault.None {
			h.end(end && h.resp.KeepAlive)
			return loop.Done
		}
	}
	return loop.Again
}

// count counts the answer of a mirrored request; one that does not come is a 503.
func (h *shadow) count(status uint16) {
	h.cl.Block.Code(stats.ClusterCodes, status)
	h.cl.Block.Code(stats.ClusterCodesInternal, status)
}

// Poison ends a mirrored request whose Advance panicked.
func (h *shadow) Poison(any) {
	if h.env != nil {
		h.env.Panicked++
		h.end(false)
	}
}

func (h *shadow) end(reuse bool) {
	e := h.env
	h.w.Cancel()
	if m, st := h.m, h.in.s; m != nil {
		h.m, h.in = nil, source{}
		if st != nil {
			endStream(h.cl, m, st)
		} else {
			m.Release(reuse)
		}
	}
	e.giveBuf(h.body)
	h.body = nil
	e.L.Disarm(&h.timer)
	e.L.Cancel(&h.task)
	h.env, h.cl = nil, nil
	e.shadows.Put(h)
}
