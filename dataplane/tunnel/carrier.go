// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"strconv"

	"sidecar/dataplane/conn"
	"sidecar/dataplane/fault"
	"sidecar/dataplane/hostset"
	"sidecar/dataplane/http1"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/pool"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/accesslog"
	"sidecar/internal/telemetry/stats"
)

// A tunnel with tunneling_config asks an upstream proxy for its connection: a CONNECT request on a connection of the host's HTTP pool, or on a stream of
// one (see stream.go). With a 2xx the connection becomes that to the target, and the relay is as over a raw one; any other answer is a failed attempt.

// requestIDNamespace is where Envoy keeps the request id of a tunnel among the dynamic metadata.
const requestIDNamespace = "envoy.filters.network.tcp_proxy"

// scratch is the head that is being written or read; no tunnel keeps one.
type scratch struct {
	head  httpmsg.Head
	tr    httpmsg.Fields
	arena httpmsg.Arena
}

func (s *scratch) reset() *httpmsg.Head {
	s.arena.Reset(4 << 10)
	s.head.Reset(&s.arena)
	s.tr.Reset(&s.arena)
	return &s.head
}

// open starts the next attempt at h: a raw connection, or one of the host's pool, which may be there at once.
func (t *Tunnel) open(h *hostset.Host) (*pool.Member, fault.Kind, sys.Errno) {
	if t.cfg.Tunneling == nil {
		k, e := t.cl.ConnectTCP(&t.up, h, nil, &t.task)
		return nil, k, e
	}
	codec := t.cl.Codec(false)
	if t.cfg.Tunneling.PostPath != "" && codec == pool.HTTP1 {
		t.rec.UpstreamFailure = needsHTTP2
		return nil, fault.ConnectFailed, 0
	}
	p := t.cl.Unnamed(h, codec)
	if p == nil {
		return nil, fault.Overflow, 0
	}
	if p.Get(&t.wait) == pool.Queued {
		return nil, fault.None, 0
	}
	return t.wait.Take()
}

// why is what the transport says about a failed attempt.
func (t *Tunnel) why() string {
	if t.cfg.Tunneling == nil {
		return t.up.Why()
	}
	return t.wait.Why()
}

// onPool takes what the pool has.
func (t *Tunnel) onPool() {
	m, k, e := t.wait.Take()
	switch {
	case m != nil:
		t.attach(m)
	case k == fault.Overflow:
		t.giveUp(fault.FlagUO, closeOverflow)
	case k != fault.None:
		if !t.failed(k, e) {
			t.connect()
		}
	}
}

// attach asks for the target on m.
func (t *Tunnel) attach(m *pool.Member) {
	t.m, t.st = m, stAnswer
	t.inSeen, t.outSeen = m.C.BytesIn, m.C.BytesOut
	if !m.Reused() {
		t.rec.UpConnDone = t.since()
	}
	t.touch(t.env.L.Now())
	h := t.env.http.reset()
	t.request(h)
	if !httpmsg.ValidAuthority(h.Host(), true) {
		t.refused("") // what a client put into its SNI must not become header lines
		return
	}
	if m.HTTP2() {
		t.attachStream(m, h)
		return
	}
	if t.cfg.Tunneling.PostPath != "" {
		t.refused(needsHTTP2)
		return
	}
	m.Dec.BeginResponse(httpmsg.MethodConnect, true)
	b := http1.AppendRequestHead(t.env.L.Enc(), h, &t.cl.Cfg.H1)
	m.C.Send(b, nil)
	n := http1.SentHead(b)
	t.rec.Up.HeadOut, t.rec.Up.PlainOut = n, n
	t.env.L.SetEnc(b)
}

// request fills in the CONNECT request.
func (t *Tunnel) request(h *httpmsg.Head) {
	cfg := t.cfg.Tunneling
	if h.SetMethod("CONNECT"); cfg.PostPath != "" {
		h.SetMethod("POST")
		h.Target = h.A.PutString(cfg.PostPath)
	}
	h.Version, h.Body = httpmsg.HTTP11, httpmsg.BodyNone
	h.Authority = h.A.Take(cfg.Hostname.Append(h.A.Tail(), &t.rec))
	if cfg.RequestIDHeader.Name != "" {
		h.SetString(cfg.RequestIDHeader, t.requestID(cfg.RequestIDKey))
	}
	cfg.Headers.Apply(h, &t.rec)
}

// requestID makes the request id, one for all attempts, and keeps it among the dynamic metadata.
func (t *Tunnel) requestID(key string) string {
	ns, _ := t.rec.DynamicMeta[requestIDNamespace].(map[string]any)
	if id, ok := ns[key].(string); ok {
		return id
	}
	id := uuid(t.env.L.Rand(), t.env.L.Rand())
	m := map[string]any{requestIDNamespace: map[string]any{key: id}}
	for k, v := range t.rec.DynamicMeta { // the connection's own stays as it is
		if k != requestIDNamespace {
			m[k] = v
		}
	}
	t.rec.DynamicMeta = m
	return id
}

// onAnswer reads the answer to CONNECT; once it is there the relay starts or the attempt has failed.
func (t *Tunnel) onAnswer(now sys.Nanos) {
	m := t.m
	c := m.C
	for {
		if len(c.In()) > 0 {
			h := t.env.http.reset()
			n, st, k := m.Dec.Head(c.In(), h)
			switch {
			case k != fault.None:
				t.cl.Block.Inc(stats.ClusterUpstreamCxProtocolError)
				t.refused("")
				return
			case st == http1.Done:
				c.Discard(n)
				t.rec.Up.HeadIn += http1.ReceivedHead(h)
				t.rec.Up.PlainIn += t.rec.Up.HeadIn
				if h.Status < 200 && h.Status != 101 {
					continue
				}
				t.answered(h, now)
				return
			}
		}
		switch c.Fill() {
		case conn.Blocked:
			return
		case conn.More:
		default:
			t.silent()
			return
		}
	}
}

// answered acts on the answer to CONNECT.
func (t *Tunnel) answered(h *httpmsg.Head, now sys.Nanos) {
	m := t.m
	if h.Status != 101 {
		t.keepHead(h)
	}
	switch {
	case h.Status == 101: // not an answer to CONNECT
		t.cl.Block.Inc(stats.ClusterUpstreamCxProtocolError)
		fallthrough
	case h.Status < 200 || h.Status > 299:
		t.refused("tunnel_response:" + strconv.Itoa(int(h.Status)))
		return
	}
	if !h.KeepAlive {
		t.cl.Block.Inc(stats.ClusterUpstreamCxCloseNotify)
	}
	t.far = m.C
	t.rec.UpstreamLocal, t.rec.UpstreamRemote = m.Local(), m.C.Remote()
	t.established(now)
}

// keepHead keeps the head of the answer for the log.
func (t *Tunnel) keepHead(h *httpmsg.Head) {
	if t.cfg.Tunneling.KeepHead {
		t.rec.Tunnel = &accesslog.TunnelAnswer{Head: accesslog.HeadFields(h)}
	}
}

// keepTrailers keeps the trailers of the answer for the log.
func (t *Tunnel) keepTrailers(tr *httpmsg.Fields) {
	if !t.cfg.Tunneling.KeepTrailers {
		return
	}
	if t.rec.Tunnel == nil {
		t.rec.Tunnel = &accesslog.TunnelAnswer{}
	}
	t.rec.Tunnel.Trailers = accesslog.TrailerFields(tr)
}

// silent ends an attempt whose connection ended before the answer. A pooled connection may have been closed by its peer before the request came: that
// says nothing about the host.
func (t *Tunnel) silent() {
	if stale := t.m.Reused() && t.m.C.BytesIn == t.inSeen; stale {
		t.releaseMember(endUpstream)
		t.attempts--
		t.forget()
		t.connect()
		return
	}
	t.refused("")
}

// forget takes back the last entry of the attempts.
func (t *Tunnel) forget() {
	if n := len(t.rec.Tried); n > 0 && int(t.attempts) < maxTried {
		t.rec.Tried = t.rec.Tried[:n-1]
	}
}

// refused ends an attempt that came as far as a connection: the proxy there does not want to, or is none. Unlike after a failed connect, other hosts
// are asked only if the configuration says so.
func (t *Tunnel) refused(why string) {
	o := endClosed
	if t.s == nil && t.m.C.Broken() {
		o = endUpstream
	}
	t.releaseMember(o)
	t.rec.Flags |= fault.FlagUF
	t.rec.PoolReady = t.since()
	t.rec.UpstreamFailure = why
	if t.attempts >= max(t.cfg.MaxConnectAttempts, 1) {
		t.exceeded()
	} else if !t.backoff() {
		t.connect()
	}
}

// releaseMember ends what the tunnel has of a pool: its place in the line, or the connection, which no other request can use after CONNECT.
func (t *Tunnel) releaseMember(o outcome) {
	t.wait.Cancel()
	m := t.m
	if m == nil {
		return
	}
	t.upstreamBytes(&t.rec)
	switch {
	case t.s != nil:
		t.releaseStream()
		return
	case m.HTTP2():
		t.m = nil
		m.ReleaseStream(false)
		return
	}
	t.m, t.far = nil, nil
	switch {
	case o == endDownReset:
		m.ReleaseReset()
	case o == endUpReset || o == endUpstream && m.C.Broken():
		m.ReleaseBroken()
	default:
		m.Release(false)
	}
}

// upstreamBytes completes the record with what went over the upstream connection. As in Envoy the content of a tunnel through a proxy counts twice, as that of
// the tunnel and as that of the connection.
func (t *Tunnel) upstreamBytes(r *accesslog.Record) {
	switch {
	case t.s != nil:
		r.Up = accesslog.Bytes(t.s.Meter())
	case t.m != nil && !t.m.HTTP2():
		r.Up.WireIn, r.Up.WireOut = t.m.C.BytesIn-t.inSeen, t.m.C.BytesOut-t.outSeen
	case t.up.C != nil:
		r.Up.WireIn, r.Up.WireOut = t.up.C.BytesIn, t.up.C.BytesOut
		return
	default:
		return
	}
	r.Up.WireIn += t.upDown.bytes
	r.Up.WireOut += t.downUp.bytes
}
