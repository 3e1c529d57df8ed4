// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"sidecar/dataplane/conn"
	"sidecar/dataplane/http2"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/accesslog"
	"sidecar/internal/telemetry/stats"
)

// Mover is a connection that can change its worker while it is idle.
type Mover interface {
	// Rest tells since when nothing was in flight, now if something is, and whether Pack may be called.
	Rest(now sys.Nanos) (since sys.Nanos, movable bool)
	// Served is the number of requests so far; it may wrap.
	Served() uint32
	// Pack takes the connection out of its worker; the caller has taken it out of its listener. The Mover must not be used any more.
	Pack() *Parcel
}

// Parcel is an idle connection between two workers. Whoever has it owns it.
type Parcel struct {
	C     *conn.Conn
	Chain *snapshot.FilterChain

	l        *snapshot.Listener
	info     *accesslog.ConnInfo
	since    sys.Nanos
	requests uint32      // HTTP/1
	fl       uint16      // HTTP/1
	h2       *http2.Conn // nil: HTTP/1, or nothing yet
}

// Secure is the listener's TLS statistics when the connection speaks TLS, nil otherwise.
func (p *Parcel) Secure(shard int) *stats.Block {
	if !p.C.Secure() {
		return nil
	}
	return p.l.TLSStats.Block(shard)
}

// Rest implements Mover.
func (s *Server) Rest(now sys.Nanos) (since sys.Nanos, movable bool) {
	if s.st != sIdle {
		return now, false
	}
	return s.since, s.fl&^(fBound|fUsed|fHTTP) == 0 && s.c.Movable()
}

// Served implements Mover.
func (s *Server) Served() uint32 { return s.requests }

// Pack implements Mover.
func (s *Server) Pack() *Parcel {
	s.countBytes()
	p := &Parcel{C: s.c, Chain: s.ch.fc, l: s.ch.l, info: s.Place.Info, since: s.since, requests: s.requests, fl: s.fl &^ fBound}
	s.ch.carries(p, -1)
	s.recycle()
	p.C.Pack()
	return p
}

// Rest implements Mover.
func (s *h2Server) Rest(now sys.Nanos) (since sys.Nanos, movable bool) {
	if s.st != h2Open || s.k.H2.Active() > 0 {
		return now, false
	}
	return s.since, !s.gone && s.k.Resting()
}

// Served implements Mover.
func (s *h2Server) Served() uint32 { return (s.k.H2.LastStream() + 1) / 2 }

// Pack implements Mover.
func (s *h2Server) Pack() *Parcel {
	s.count()
	p := &Parcel{C: s.k.C, Chain: s.ch.fc, l: s.ch.l, info: s.Place.Info, since: s.since}
	p.h2 = s.k.Pack()
	s.ch.carries(p, -1)
	s.recycle()
	p.C.Pack()
	return p
}

// Unpack serves p on this worker from now on. The caller lets the member join its listener before the next turn.
func Unpack(e *Env, p *Parcel, t *conn.TLS) *conn.Member {
	ch := e.chainOf(p.l, p.Chain)
	ch.carries(p, 1)
	now := e.L.Now()
	if p.h2 != nil {
		h := e.newH2Server(ch, p.since)
		h.Place.Info = p.info
		p.C.Unpack(e.L, &h.task, t, p.Secure(e.Shard))
		h.k.Unpack(e.Mux, p.C, &h.task, p.h2)
		h.rearm(now)
		e.L.Ready(&h.task)
		return &h.Place
	}
	s := e.newServer(ch, p.C, p.info)
	s.since, s.requests = p.since, p.requests
	s.fl |= p.fl
	p.C.Unpack(e.L, &s.task, t, p.Secure(e.Shard))
	s.rearm(now)
	e.L.Ready(&s.task)
	return &s.Place
}

// carries counts a connection that comes from another worker, or goes there with n = -1, among the active ones of this one.
func (ch *chain) carries(p *Parcel, n int64) {
	b := ch.hcm
	b.Add(stats.HCMDownstreamCxActive, n)
	if p.C.Secure() {
		b.Add(stats.HCMDownstreamCxSSLActive, n)
	}
	switch {
	case p.h2 != nil:
		b.Add(stats.HCMDownstreamCxHTTP2Active, n)
	case p.fl&fHTTP != 0:
		b.Add(stats.HCMDownstreamCxHTTP1Active, n)
	}
}
