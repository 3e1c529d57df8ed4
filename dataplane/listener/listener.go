// SPDX-License-Identifier: Apache-2.0

// Package listener is one worker's face of one listener: accepting, listener filters, choosing the filter chain, handing over to the protocol, and
// draining. The configuration behind it may be swapped at a turn boundary without touching the sockets.
package listener

import (
	"sidecar/dataplane/conn"
	"sidecar/dataplane/loop"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/accesslog"
	"sidecar/internal/telemetry/stats"
)

// acceptBound is how many connections one socket event takes at most, so that an accept storm cannot starve the connections that are there.
const acceptBound = 64

// Host is what a listener needs from its worker.
type Host interface {
	// Serve starts the protocol of fc on c. The handler joins through m.Swap or members.Join.
	Serve(c *conn.Conn, l *Listener, fc *snapshot.FilterChain, info *accesslog.ConnInfo, place *conn.Member)
	// ByDestination finds the listener that a restored destination belongs to (use_original_dst); nil = stay.
	ByDestination(dst sys.Addr) *Listener
	// NextConnID numbers connections over all workers.
	NextConnID() uint64
	// AdmitConn asks the global limits; Released gives the place back.
	AdmitConn(l *snapshot.Listener) bool
	Released(l *snapshot.Listener)
	// Log writes an access-log record of a connection that no protocol took over.
	Log(loggers []*accesslog.Logger, r *accesslog.Record)
	// Accepted counts for steering.
	Accepted(n int)
	// Idle tells steering that an accept queue was seen empty.
	Resync()
}

// Listener is worker-owned.
type Listener struct {
	// Immutable
	L    *loop.Loop
	host Host

	// Worker
	Cfg      *snapshot.Listener
	block    *stats.Block
	perW     *stats.Block
	socks    []*socket
	Members  conn.Members
	closing  bool // removed or stopped: nothing is accepted any more
	draining bool // new connections are told to close too
	drainAs  conn.DrainMode
}

// socket is one listening descriptor of this worker.
type socket struct {
	task  loop.Task
	timer loop.Timer
	l     *Listener
	fd    sys.FD
	token uint64
	id    uint64 // identity of the fleet's socket set
	ready bool
	gone  bool
}

// New makes the worker's face of cfg.
func New(l *loop.Loop, h Host, cfg *snapshot.Listener) *Listener {
	x := &Listener{L: l, host: h}
	x.Members.OnLeave = x.left
	x.SetConfig(cfg)
	return x
}

// SetConfig swaps the configuration for connections accepted from now on. Those of filter chains that are gone or changed drain softly; with
// another SocketKey (anything beyond filter chains changed) all of them do.
func (x *Listener) SetConfig(cfg *snapshot.Listener) {
	old := x.Cfg
	x.Cfg = cfg
	if cfg.Scope != nil {
		x.block = cfg.Scope.Block(x.L.Worker() + 1)
	}
	x.perW = nil
	if x.L.Worker() < len(cfg.WorkerScopes) {
		x.perW = cfg.WorkerScopes[x.L.Worker()].Block(x.L.Worker() + 1)
	}
	if old == nil || old == cfg {
		return
	}
	keep := map[uint64]bool{}
	if old.SocketKey == cfg.SocketKey {
		for _, c := range cfg.Chains {
			keep[c.DrainKey] = true
		}
		if cfg.Default != nil {
			keep[cfg.Default.DrainKey] = true
		}
	}
	x.Members.Each(func(m *conn.Member) {
		if c := m.H.Chain(); c != nil && !keep[c.DrainKey] {
			m.H.Drain(conn.DrainSoft)
		}
	})
}

// SetSockets makes fds the listening descriptors: known ids stay registered, new ones are added, others are emptied (accept until nothing waits) and
// taken out of epoll. The fleet closes descriptors when all workers have adopted.
func (x *Listener) SetSockets(fds []sys.FD, ids []uint64, shared bool) {
	for _, s := range x.socks {
		s.gone = true
	}
	for i, fd := range fds {
		if s := x.find(ids[i]); s != nil {
			s.gone = false
			continue
		}
		s := &socket{l: x, fd: fd, id: ids[i]}
		s.task.Init(s)
		s.timer.Init(&s.task)
		ev := sys.EventIn | sys.EventET
		if shared {
			ev = sys.EventIn | sys.EventExclusive // one Unix socket for all workers: levels, so that whoever wakes may leave the rest to others
		}
		var e sys.Errno
		if s.token, e = x.L.Register(fd, s, ev); e == 0 {
			x.socks = append(x.socks, s)
		}
	}
	live := x.socks[:0]
	for _, s := range x.socks {
		if !s.gone {
			live = append(live, s)
			continue
		}
		s.ready = true
		for s.accept(acceptBound) {
		}
		s.close()
	}
	x.socks = live
}

func (x *Listener) find(id uint64) *socket {
	for _, s := range x.socks {
		if s.id == id {
			return s
		}
	}
	return nil
}

func (s *socket) close() {
	s.l.L.Disarm(&s.timer)
	s.l.L.Cancel(&s.task)
	s.l.L.Detach(s.fd)
	s.l.L.Unregister(s.token)
}

// Stop takes all sockets out of service after emptying them.
func (x *Listener) Stop() {
	x.closing = true
	x.SetSockets(nil, nil, false)
}

// SetDraining makes connections accepted from now on drain as well.
func (x *Listener) SetDraining(m conn.DrainMode) { x.draining, x.drainAs = true, m }

// Drain asks every connection to end.
func (x *Listener) Drain(m conn.DrainMode) {
	x.Members.Each(func(c *conn.Member) { c.H.Drain(m) })
}

// Notify records that connections wait.
func (s *socket) Notify(sys.Events) {
	s.ready = true
	s.l.L.Ready(&s.task)
}

// Advance accepts up to the bound.
func (s *socket) Advance(sys.Nanos) loop.Step {
	if s.timer.Fired() {
		s.ready = true
		s.l.L.Disarm(&s.timer)
	}
	if s.gone || !s.ready {
		return loop.Idle
	}
	bound := acceptBound
	if n := s.l.Cfg.MaxAccept; n > 0 && n < bound {
		bound = n
	}
	if s.accept(bound) {
		return loop.Again
	}
	return loop.Idle
}

// accept takes at most n connections; true means more may wait.
func (s *socket) accept(n int) bool {
	x := s.l
	got := 0
	for range n {
		fd, remote, e := x.L.K.Accept(s.fd)
		switch e {
		case 0:
			got++
			x.host.Accepted(1) // before it counts as active, so that steering never sees it twice or not at all
			x.accepted(fd, remote)
			continue
		case sys.EINTR, sys.ECONNABORTED:
			continue
		case sys.EAGAIN:
			s.ready = false
			x.host.Resync()
		case sys.EMFILE, sys.ENFILE:
			// Out of descriptors: the edge is spent, so look again soon instead of spinning.
			x.L.Arm(&s.timer, x.L.Now()+100*sys.Millisecond)
			s.ready = false
		default:
			s.ready = false
		}
		break
	}
	if got > 0 {
		x.block.Record(stats.ListenerConnectionsAcceptedPerSocketEvent, uint64(got))
	}
	return s.ready
}

func (x *Listener) accepted(fd sys.FD, remote sys.Addr) {
	x.block.Inc(stats.ListenerDownstreamCxTotal)
	if !x.admit() {
		x.L.K.Close(fd)
		return
	}
	x.enter()
	if x.perW != nil {
		x.perW.Inc(stats.ListenerWorkerDownstreamCxTotal)
	}
	c, e := conn.Adopt(x.L, fd, remote, x.Cfg.BufferLimit, nil)
	if e != 0 {
		x.gone(x.L.Wall())
		return
	}
	local := c.Local()
	if !local.IsUnix() {
		x.L.K.SetOpt(fd, sys.NoDelay)
	}
	info := &accesslog.ConnInfo{ID: x.host.NextConnID(), Remote: remote, DirectRemote: remote, Local: local, DirectLocal: local,
		Start: x.L.Wall(), Listener: x.Cfg.Name, Transport: "raw_buffer"}
	x.begin(c, info)
}

func (x *Listener) admit() bool {
	if x.Cfg.MaxConns > 0 && uint64(x.active()) >= x.Cfg.MaxConns {
		x.block.Inc(stats.ListenerDownstreamCxOverflow)
		return false
	}
	if !x.host.AdmitConn(x.Cfg) {
		x.block.Inc(stats.ListenerDownstreamGlobalCxOverflow)
		return false
	}
	return true
}

// active is the listener's connections over all workers.
func (x *Listener) active() int64 {
	n, _ := x.Cfg.Scope.Value(stats.ListenerDownstreamCxActive)
	return n
}

// begin runs the listener filters or goes straight to the chain.
func (x *Listener) begin(c *conn.Conn, info *accesslog.ConnInfo) {
	p := &pending{l: x, c: c, info: info}
	p.member.H = p
	p.member.Start = info.Start
	x.Members.Join(&p.member)
	p.task.Init(p)
	p.timer.Init(&p.task)
	c.SetOwner(&p.task)
	p.start()
}

// enter counts an admitted connection as active.
func (x *Listener) enter() {
	x.block.Inc(stats.ListenerDownstreamCxActive)
	if x.perW != nil {
		x.perW.Inc(stats.ListenerWorkerDownstreamCxActive)
	}
}

// left is called when a connection of this listener is over.
func (x *Listener) left(m *conn.Member) { x.gone(m.Start) }

func (x *Listener) gone(start int64) {
	x.block.Dec(stats.ListenerDownstreamCxActive)
	x.block.Inc(stats.ListenerDownstreamCxDestroy)
	x.block.Record(stats.ListenerDownstreamCxLengthMs, uint64(max(x.L.Wall()-start, 0)/1e6))
	if x.perW != nil {
		x.perW.Dec(stats.ListenerWorkerDownstreamCxActive)
	}
	x.host.Released(x.Cfg)
}

// Name is the listener's name.
func (x *Listener) Name() string { return x.Cfg.Name }

// Draining tells whether new connections are to be drained at once, and how.
func (x *Listener) Draining() (conn.DrainMode, bool) { return x.drainAs, x.draining }
