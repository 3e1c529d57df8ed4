// SPDX-License-Identifier: Apache-2.0

// Package listener is one worker's face of one listener: accepting, listener filters, choosing the filter chain, handing over to the protocol, and
// draining. The configuration behind it may be swapped at a turn boundary without touching the sockets.
package listener

import (
	"maps"

	"sidecar/dataplane/conn"
	"sidecar/dataplane/fault"
	"sidecar/dataplane/loop"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/accesslog"
	"sidecar/internal/telemetry/stats"
)

// maxEmpty bounds the connections that a socket hands out when it leaves service: the largest backlog.
const maxEmpty = 65536

// pause is how long a socket rests when the process has no descriptors left.
const pause = 100 * sys.Millisecond

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
	// TLS shakes hands for filter chains with a TLS context.
	TLS() *conn.TLS
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
	pendings loop.Slab[pending]
	sides    sides
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
	id    uint64   // identity of the fleet's socket set
	local sys.Addr // of every connection; zero when connections must be asked (wildcard address, transparent)
	level bool     // level-triggered: one socket that all workers wait for
	ready bool
	gone  bool
	out   bool // not in epoll: waiting for descriptors
}

// New makes the worker's face of cfg.
func New(l *loop.Loop, h Host, cfg *snapshot.Listener) *Listener {
	x := &Listener{L: l, host: h}
	x.Members.OnLeave = x.left
	x.SetConfig(cfg)
	return x
}

// SetConfig swaps the configuration for connections accepted from now on. It returns the filter chains of live connections that are gone or changed;
// those connections are told to close with their next response. With another SocketKey (anything beyond filter chains changed) it leaves the
// draining to the caller.
func (x *Listener) SetConfig(cfg *snapshot.Listener) (gone map[*snapshot.FilterChain]bool) {
	old, wasBlock, wasPer := x.Cfg, x.block, x.perW
	x.Cfg = cfg
	if cfg.Scope != nil {
		x.block = cfg.Scope.Block(x.L.Worker() + 1)
	}
	x.perW = nil
	if x.L.Worker() < len(cfg.WorkerScopes) {
		x.perW = cfg.WorkerScopes[x.L.Worker()].Block(x.L.Worker() + 1)
	}
	n := int64(x.Members.Len())
	carry(wasBlock, x.block, stats.ListenerDownstreamCxActive, n)
	carry(wasPer, x.perW, stats.ListenerWorkerDownstreamCxActive, n)
	if old == nil || old == cfg || old.SocketKey != cfg.SocketKey {
		return nil
	}
	keep := map[uint64]bool{}
	for _, c := range cfg.Chains {
		keep[c.DrainKey] = true
	}
	if cfg.Default != nil {
		keep[cfg.Default.DrainKey] = true
	}
	x.Members.Each(func(m *conn.Member) {
		if c := m.H.Chain(); c != nil && !keep[c.DrainKey] {
			m.H.Drain(conn.DrainSoft)
			if gone == nil {
				gone = map[*snapshot.FilterChain]bool{}
			}
			gone[c] = true
		}
	})
	return gone
}

// carry moves what live connections count for from one block to another: with another address or stat_prefix a listener has other statistics, and it
// is those that the connections leave.
func carry(from, to *stats.Block, id int, n int64) {
	if from == to || n == 0 {
		return
	}
	if from != nil {
		from.Add(id, -n)
	}
	if to != nil {
		to.Add(id, n)
	}
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
		s := &socket{l: x, fd: fd, id: ids[i], level: shared}
		s.task.Init(s)
		s.timer.Init(&s.task)
		if a, e := x.L.K.LocalAddr(fd); e == 0 && !x.Cfg.Transparent && (a.IsUnix() || a.IP.IsValid() && !a.IP.Addr().IsUnspecified()) {
			s.local = a
		}
		if s.register() {
			x.socks = append(x.socks, s)
		}
	}
	live := x.socks[:0]
	for _, s := range x.socks {
		if !s.gone {
			live = append(live, s)
			continue
		}
		s.empty()
		s.close()
	}
	clear(x.socks[len(live):])
	x.socks = live
}

// register puts the socket into epoll. One Unix socket for all workers is level-triggered, so that whoever wakes may leave the rest to others.
func (s *socket) register() bool {
	ev := sys.EventIn | sys.EventET
	if s.level {
		ev = sys.EventIn | sys.EventExclusive
	}
	var e sys.Errno
	s.token, e = s.l.L.Register(s.fd, s, ev)
	s.out = e != 0
	return e == 0
}

// empty accepts what waits. Connections that keep coming cannot hold it up for ever: the bound is what the queue can hold.
func (s *socket) empty() {
	s.ready = true
	for n := 0; n < maxEmpty && s.accept(acceptBound); n += acceptBound {
	}
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
	s.leave()
}

// leave takes the socket out of epoll.
func (s *socket) leave() {
	if !s.out {
		s.out = true
		s.l.L.Detach(s.fd)
		s.l.L.Unregister(s.token)
	}
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
		s.l.L.Disarm(&s.timer)
		s.ready = true
		if s.out && !s.gone && !s.register() {
			s.l.L.Arm(&s.timer, s.l.L.Now()+pause)
		}
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
			x.accepted(s, fd, remote)
			continue
		case sys.EINTR, sys.ECONNABORTED:
			continue
		case sys.EAGAIN:
			x.host.Resync()
		case sys.EMFILE, sys.ENFILE, sys.ENOBUFS, sys.ENOMEM:
			s.rest()
		}
		s.ready = false
		break
	}
	if got > 0 {
		x.block.Record(stats.ListenerConnectionsAcceptedPerSocketEvent, uint64(got))
	}
	return s.ready
}

// rest waits for descriptors. An edge is spent, so a timer looks again; a level would be reported for ever, so the socket leaves epoll meanwhile.
// Connections stay in the accept queue.
func (s *socket) rest() {
	if s.gone {
		return
	}
	s.l.L.Arm(&s.timer, s.l.L.Now()+pause)
	if s.level {
		s.leave()
	}
}

func (x *Listener) accepted(s *socket, fd sys.FD, remote sys.Addr) {
	if !x.admit() {
		x.L.K.Close(fd)
		return
	}
	c, e := conn.Adopt(x.L, fd, x.Cfg.BufferLimit, nil)
	if e != 0 {
		x.host.Released(x.Cfg)
		return
	}
	local := s.local
	if local.IsZero() {
		local = c.Local()
	}
	info := &accesslog.ConnInfo{ID: x.host.NextConnID(), Start: x.L.Wall(), Remote: remote, ConnSide: x.sides.of(x, nil, local)}
	x.begin(c, info)
}

// AcceptInternal takes a connection to this internal listener; false when it is not in service. meta is what the client's transport socket passed on.
func (x *Listener) AcceptInternal(c *conn.Conn, meta map[string]any) bool {
	if x.closing {
		return false
	}
	if !x.admit() {
		c.Close()
		return true
	}
	c.SetLimit(x.Cfg.BufferLimit)
	info := &accesslog.ConnInfo{ID: x.host.NextConnID(), Start: x.L.Wall(), Remote: c.Remote(), ConnSide: newSide(x, nil, c.Local())}
	if len(meta) > 0 {
		info.Own().DynamicMeta = maps.Clone(meta)
	}
	x.begin(c, info)
	return true
}

// sides shares the proxy's side among connections: nearly all of a listener's connections have one of very few.
type sides struct {
	cfg *snapshot.Listener
	m   map[sideKey]*accesslog.ConnSide
}

type sideKey struct {
	fc    *snapshot.FilterChain // nil before one is chosen
	local sys.Addr
}

// maxSides bounds the shared sides of one listener; beyond it (a wildcard listener on a host with very many addresses) sharing starts anew.
const maxSides = 64

// of returns the side of connections with this filter chain and local address.
func (t *sides) of(x *Listener, fc *snapshot.FilterChain, local sys.Addr) *accesslog.ConnSide {
	if t.cfg != x.Cfg || len(t.m) >= maxSides {
		t.cfg, t.m = x.Cfg, map[sideKey]*accesslog.ConnSide{}
	}
	k := sideKey{fc, local}
	s := t.m[k]
	if s == nil {
		s = newSide(x, fc, local)
		t.m[k] = s
	}
	return s
}

func newSide(x *Listener, fc *snapshot.FilterChain, local sys.Addr) *accesslog.ConnSide {
	s := &accesslog.ConnSide{Local: local, DirectLocal: local, Listener: x.Cfg.Name, ListenerMeta: x.Cfg.Metadata}
	if fc != nil {
		s.FilterChain, s.FilterChainMeta = fc.Name, fc.Metadata
	}
	return s
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

// active is the listener's connections over all workers, those that are being sniffed included.
func (x *Listener) active() int64 {
	n, _ := x.Cfg.Scope.Value(stats.ListenerDownstreamCxActive)
	m, _ := x.Cfg.Scope.Value(stats.ListenerDownstreamPreCxActive)
	return n + m
}

// begin runs the listener filters or goes straight to the chain.
func (x *Listener) begin(c *conn.Conn, info *accesslog.ConnInfo) {
	p := x.pendings.Get()
	if !p.bound {
		p.bound = true
		p.task.Init(p)
		p.timer.Init(&p.task)
	}
	p.home, p.l, p.c, p.info, p.next, p.hops, p.counted = x, x, c, info, 0, 0, false
	p.member = conn.Member{H: p, Info: info}
	x.Members.Join(&p.member)
	c.SetOwner(&p.task)
	p.start()
}

// enter counts a connection whose protocol starts: as in Envoy, one that its listener filters or its addresses end before never counts.
func (x *Listener) enter() {
	x.block.Inc(stats.ListenerDownstreamCxTotal)
	x.block.Inc(stats.ListenerDownstreamCxActive)
	if x.perW != nil {
		x.perW.Inc(stats.ListenerWorkerDownstreamCxTotal)
		x.perW.Inc(stats.ListenerWorkerDownstreamCxActive)
	}
}

// left is called when a connection of this listener is over.
func (x *Listener) left(m *conn.Member) {
	if m.Info != nil && len(x.Cfg.AccessLogs) > 0 {
		x.log(m.Info, 0, "")
	}
	if _, sniffing := m.H.(*pending); sniffing {
		x.host.Released(x.Cfg)
		return
	}
	x.gone(m.Info.Start)
}

// log writes the listener's own access log.
func (x *Listener) log(info *accesslog.ConnInfo, f fault.Flags, details string) {
	var r accesslog.Record
	r.Reset()
	r.Conn, r.Start, r.End = info, info.Start, x.L.Wall()-info.Start
	r.Flags, r.Details, r.DynamicMeta = f, details, info.Extra().DynamicMeta
	x.host.Log(x.Cfg.AccessLogs, &r)
}

func (x *Listener) gone(start int64) {
	x.exit(start)
	x.host.Released(x.Cfg)
}

// exit is the opposite of enter.
func (x *Listener) exit(start int64) {
	x.block.Dec(stats.ListenerDownstreamCxActive)
	x.block.Inc(stats.ListenerDownstreamCxDestroy)
	x.block.Record(stats.ListenerDownstreamCxLengthMs, uint64(max(x.L.Wall()-start, 0)/1e6))
	if x.perW != nil {
		x.perW.Dec(stats.ListenerWorkerDownstreamCxActive)
	}
}

// Name is the listener's name.
func (x *Listener) Name() string { return x.Cfg.Name }

// Draining tells whether new connections are to be drained at once, and how.
func (x *Listener) Draining() (conn.DrainMode, bool) { return x.drainAs, x.draining }
