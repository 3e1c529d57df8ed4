// SPDX-License-Identifier: Apache-2.0

package conn

import (
	"sidecar/dataplane/loop"
	"sidecar/dataplane/sys"
)

// A connection to an internal listener has no socket: its two ends are Conns of the same worker with an in-process pipe between them. An end behaves
// as a socket does: reads and writes are partial, readiness comes as events, later, through the run queue; FIN, RST and a full buffer mean the same.

// noFD is the descriptor of a connection without one.
const noFD sys.FD = -1

// defaultPipeBuffer bounds the bytes on their way in one direction: buffer_size_kb of envoy.bootstrap.internal_listener.
const defaultPipeBuffer = 1 << 20

// internalClient is the address of the dialling end, as in Envoy.
var internalClient = sys.InternalAddr("internal_client_address", "")

// Internal is how the connections of one worker reach its internal listeners.
type Internal struct {
	// Immutable
	// Accept gives the far end of a new connection to the listener of its local address; false when there is none. meta is what the transport socket
	// passes on: filter metadata by namespace, not to be changed.
	Accept func(c *Conn, meta map[string]any) bool
	Buffer int // bytes on their way in one direction; 0 = 1 MiB
}

// end is one end of a pipe.
type end struct {
	// Worker
	task    loop.Task
	c       *Conn
	peer    *end   // nil once that end is closed
	buf     []byte // sent by the peer, from the pool; nil when there is nothing
	off     int    // of buf what was read
	local   sys.Addr
	size    int        // bound of buf
	ev      sys.Events // to be reported
	err     sys.Errno  // ends the stream behind buf
	fin     bool       // the peer has finished
	shut    bool       // this end has finished
	blocked bool       // the peer was refused room
	dial    *dialling  // of the accepting end, until the listener has it
}

type dialling struct {
	in   *Internal
	meta map[string]any
}

// DialInternal starts a connection to the internal address a, as Dial does. There being no such listener is the outcome of the connect.
func DialInternal(l *loop.Loop, in *Internal, a sys.Addr, meta map[string]any, limit int, owner *loop.Task) *Conn {
	size := defaultPipeBuffer
	if in != nil && in.Buffer > 0 {
		size = in.Buffer
	}
	near, far := &end{local: internalClient, size: size}, &end{local: a, size: size, dial: &dialling{in, meta}}
	near.peer, far.peer = far, near
	near.task.Init(near)
	far.task.Init(far)
	near.c = &Conn{l: l, fd: noFD, limit: bounded(limit), x: &extra{remote: a, pipe: near}, owner: owner, fl: fConnecting}
	far.c = &Conn{l: l, fd: noFD, limit: bounded(limit), x: &extra{remote: internalClient, pipe: far}}
	l.Ready(&far.task)
	return near.c
}

// Internal tells whether the connection has no socket: it has no descriptor either.
func (c *Conn) Internal() bool { return c.fd < 0 }

// raise has events reported to e's connection, later in this turn.
func (e *end) raise(ev sys.Events) {
	e.ev |= ev
	e.c.l.Ready(&e.task)
}

// Advance reports what has happened; the first time it brings the connection to its listener.
func (e *end) Advance(sys.Nanos) loop.Step {
	if d := e.dial; d != nil {
		e.dial = nil
		e.accept(d)
		return loop.Idle
	}
	ev := e.ev
	e.ev = 0
	if ev != 0 && e.c.fl&fClosed == 0 {
		e.c.Notify(ev)
	}
	return loop.Idle
}

// Poison breaks a connection whose listener panicked while it took it.
func (e *end) Poison(any) { e.c.Reset() }

func (e *end) accept(d *dialling) {
	near := e.peer
	if d.in == nil || d.in.Accept == nil || !d.in.Accept(e.c, d.meta) {
		e.c.Close()
	}
	switch gone := e.c.fl&fClosed != 0; {
	case gone && near != nil: // nobody there, or nobody who wants it
		near.err = sys.EINVAL // as Envoy's log has it
		near.raise(sys.EventOut | sys.EventHup | sys.EventErr)
	case gone:
	default:
		if near != nil {
			near.raise(sys.EventOut)
		}
		if e.buf != nil || e.fin || e.err != 0 {
			e.raise(sys.EventIn)
		}
	}
}

// recv is recv(2).
func (e *end) recv(b []byte) (int, sys.Errno) {
	if e.buf == nil {
		switch {
		case e.err != 0:
			return 0, e.err
		case e.fin:
			return 0, 0
		}
		return 0, sys.EAGAIN
	}
	n := copy(b, e.buf[e.off:])
	if e.off += n; e.off == len(e.buf) {
		e.drop()
	}
	if e.blocked && e.peer != nil && len(e.buf)-e.off <= e.size/2 {
		e.blocked = false
		e.peer.raise(sys.EventOut)
	}
	return n, 0
}

// send is send(2) of a, then b.
func (e *end) send(a, b []byte) (int, sys.Errno) {
	p := e.peer
	switch {
	case e.err != 0:
		return 0, e.err
	case p == nil || e.shut:
		return 0, sys.EPIPE
	}
	room := e.size - (len(p.buf) - p.off)
	if room < len(a)+len(b) {
		p.blocked = true
	}
	if room <= 0 {
		return 0, sys.EAGAIN
	}
	a = a[:min(len(a), room)]
	b = b[:min(len(b), room-len(a))]
	n := len(a) + len(b)
	pool := &e.c.l.Bufs
	switch {
	case p.buf == nil:
		p.buf = pool.Get(n)
	case p.off > 0 && len(p.buf)+n > cap(p.buf):
		p.buf, p.off = p.buf[:copy(p.buf, p.buf[p.off:])], 0
	}
	p.buf = append(append(pool.Grow(p.buf, n), a...), b...)
	p.raise(sys.EventIn)
	return n, 0
}

// drop forgets what was received.
func (e *end) drop() {
	e.c.l.Bufs.Put(e.buf)
	e.buf, e.off = nil, 0
}

// shutdown sends FIN.
func (e *end) shutdown() {
	e.shut = true
	if e.peer != nil {
		e.peer.ended()
	}
}

// ended is FIN from the peer.
func (e *end) ended() {
	e.fin = true
	ev := sys.EventIn | sys.EventRDHup
	if e.shut {
		ev |= sys.EventHup
	}
	e.raise(ev)
}

// close closes this end. With bytes unread, or with rst, the peer sees a reset behind what it has received, as with TCP.
func (e *end) close(rst bool) {
	e.c.l.Cancel(&e.task)
	p := e.peer
	if e.peer = nil; p != nil {
		p.peer = nil
		switch {
		case rst || e.buf != nil:
			p.err = sys.ECONNRESET
			fallthrough
		case p.err != 0:
			p.raise(sys.EventIn | sys.EventOut | sys.EventRDHup | sys.EventHup | sys.EventErr)
		default:
			p.ended()
		}
	}
	if e.buf != nil {
		e.drop()
	}
}
