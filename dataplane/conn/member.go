// SPDX-License-Identifier: Apache-2.0

package conn

import (
	"sidecar/dataplane/snapshot"
	"sidecar/internal/telemetry/accesslog"
)

// DrainMode says how insistently a downstream connection is asked to go.
type DrainMode uint8

// The modes.
const (
	// DrainSoft: say goodbye with the next response (Connection: close) and close when it is out; idle connections stay.
	DrainSoft DrainMode = iota
	// DrainIdle: like DrainSoft, and close at once if nothing is in flight.
	DrainIdle
	// DrainNow: close at once whatever is in flight.
	DrainNow
	// DrainEnd: the drain time is over. Like DrainIdle, and tunnels, which have no end of their own to wait for, close at once.
	DrainEnd
)

// Handler is whoever serves a downstream connection: an HTTP server, a tunnel, or the sniffing stage.
type Handler interface {
	// Drain asks the connection to end.
	Drain(m DrainMode)
	// Chain is the filter chain that the connection was made with; nil while it is not known.
	Chain() *snapshot.FilterChain
}

// Member is a connection's place in its listener's list; embedded in the handler. The handler calls Leave exactly once, when the connection is
// over.
type Member struct {
	next, prev *Member
	list       *Members
	H          Handler
	// Info is what the listener logs when the member leaves; nil logs nothing.
	Info *accesslog.ConnInfo
}

// Members is the live connections of one listener on one worker. OnLeave is called for every member that leaves.
type Members struct {
	first   *Member
	last    *Member
	n       int
	OnLeave func(*Member)
}

// Join adds m.
func (s *Members) Join(m *Member) {
	m.list = s
	m.prev, m.next = nil, s.first
	if s.first != nil {
		s.first.prev = m
	} else {
		s.last = m
	}
	s.first = m
	s.n++
}

// Leave takes m out; a second call does nothing.
func (m *Member) Leave() {
	if s := m.Part(); s != nil && s.OnLeave != nil {
		s.OnLeave(m)
	}
}

// Part takes m out without calling OnLeave, and returns where it was: the connection goes on elsewhere.
func (m *Member) Part() *Members {
	s := m.list
	if s == nil {
		return nil
	}
	if m.prev != nil {
		m.prev.next = m.next
	} else {
		s.first = m.next
	}
	if m.next != nil {
		m.next.prev = m.prev
	}
	if m.next == nil {
		s.last = m.prev
	}
	m.next, m.prev, m.list = nil, nil, nil
	s.n--
	return s
}

// Swap puts n in m's place (the sniffing stage hands over to the protocol).
func (m *Member) Swap(n *Member) {
	n.next, n.prev, n.list, n.Info = m.next, m.prev, m.list, m.Info
	if n.prev != nil {
		n.prev.next = n
	} else if n.list != nil {
		n.list.first = n
	}
	if n.next != nil {
		n.next.prev = n
	} else if n.list != nil {
		n.list.last = n
	}
	m.next, m.prev, m.list = nil, nil, nil
}

// Len is the number of live connections.
func (s *Members) Len() int { return s.n }

// Each calls fn for every member; fn may make that member leave.
func (s *Members) Each(fn func(*Member)) {
	for m := s.first; m != nil; {
		n := m.next
		fn(m)
		m = n
	}
}

// Sample calls fn for the n members that have not been sampled for longest; fn may make that member leave, and ends the sampling with false.
func (s *Members) Sample(n int, fn func(*Member) bool) {
	for range min(n, s.n) {
		m := s.last
		if m != s.first { // to the front: Join puts new ones there too, which the others then come before
			s.last, m.prev.next = m.prev, nil
			m.prev, m.next, s.first.prev = nil, s.first, m
			s.first = m
		}
		if !fn(m) {
			return
		}
	}
}
