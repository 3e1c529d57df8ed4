// SPDX-License-Identifier: Apache-2.0

// Package worker assembles one worker: loop, listeners, HTTP servers, tunnels, upstream state. It adopts snapshots at a turn boundary and obeys drain
// orders. Everything in it belongs to the worker's thread, except the words listed as Atomic.
package worker

import (
	"runtime"
	"sync/atomic"

	"sidecar/dataplane/conn"
	"sidecar/dataplane/filter"
	"sidecar/dataplane/listener"
	"sidecar/dataplane/loop"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
)

// The kinds of messages.
const (
	MsgAdopt    uint8 = iota + 1 // *Plan
	MsgDrain                     // DrainOrder
	MsgStop                      // nil
	MsgCall                      // func(*Worker): runs on the worker between two runnables
	MsgSequence                  // DrainSequence
	MsgSigned                    // *conn.Signature that comes back
	MsgMove                      // *parcel: a connection of another worker
	MsgAnswer                    // []filter.Demand: the control side knows what it is going to know
)

// Plan is a snapshot with the sockets that go with it. Immutable.
type Plan struct {
	Snap    *snapshot.Snapshot
	Seq     uint64              // strictly increasing over all plans; one snapshot may be planned again with other sockets
	Sockets map[string]*Sockets // by listener name; absent = not bound
}

// Sockets is the listening sockets of one listener.
type Sockets struct{ Sets []SocketSet }

// SocketSet is the sockets of one address.
type SocketSet struct {
	ID     uint64
	FDs    []sys.FD // one for each worker, or a single shared one
	Shared bool
}

// DrainOrder asks connections to end.
type DrainOrder struct {
	Mode        conn.DrainMode
	InboundOnly bool
	Sticky      bool // connections accepted later are drained too
}

// LoadSlot is a worker's account with the steering program.
type LoadSlot interface {
	Accepted(n int)
	Active(delta int)
	BusySince(nanos int64)
	Resync()
	// Carries is what Active and pending connections have come to; open tells whether the worker is neither stalled nor draining at the time now. Any thread.
	Carries(now int64) (n int, open bool)
}

// Shared is the words that all workers and the control side share. Atomic.
type Shared struct {
	ConnIDs     atomic.Uint64
	Connections atomic.Int64 // downstream connections that count for the global limit
	MaxConns    atomic.Int64 // global limit, 0 = none
	CloseAll    atomic.Bool  // /healthcheck/fail: every response says Connection: close
	Panics      atomic.Uint64
}

// Offloader makes signatures on threads of its own and posts them back as MsgSigned; implemented by fleet. False when it is full.
type Offloader interface {
	Offload(w *Worker, s *conn.Signature) bool
}

// Post hands a message to the worker. Any thread. A full mailbox is impossible for control messages in practice (4096); false says so.
func (w *Worker) Post(m loop.Msg) bool { return w.Loop.Mailbox().Post(m) }

// Epoch is the last adopted epoch. Any thread.
func (w *Worker) Epoch() uint64 { return w.epoch.Load() }

// Seq is the number of the last adopted plan. Any thread.
func (w *Worker) Seq() uint64 { return w.seq.Load() }

// Run drives the loop on a locked thread until MsgStop.
func (w *Worker) Run() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_ = sys.Brisk()
	for !w.stopping {
		w.Turn(true)
	}
	w.shutdown()
}

// Turn is one turn with its boundary work; Run and the simulation call it.
func (w *Worker) Turn(block bool) {
	w.Loop.Turn(block)
	if n := w.tls.Begun(); n != w.told {
		w.told = n
		w.begun.Store(n)
	}
	w.boundary()
	w.even.look(w.Loop.Now())
}

func (w *Worker) handle(m loop.Msg) {
	switch m.Kind {
	case MsgAdopt:
		p := m.Payload.(*Plan)
		if w.next == nil || p.Seq > w.next.Seq {
			w.next = p
		}
	case MsgDrain:
		w.drain(m.Payload.(DrainOrder))
	case MsgStop:
		w.stopping = true
	case MsgCall:
		m.Payload.(func(*Worker))(w)
	case MsgSigned:
		m.Payload.(*conn.Signature).Signed()
	case MsgSequence:
		w.sequence(m.Payload.(DrainSequence))
	case MsgMove:
		w.tally.coming.Add(-1)
		w.takeOver(m.Payload.(*parcel))
	case MsgAnswer:
		w.answers = append(w.answers, m.Payload.([]filter.Demand)...)
	}
}

// boundary is step 8 of the turn: adopting a newer plan, then telling the requests and connections that waited for something in it.
func (w *Worker) boundary() {
	w.adoptNext()
	for _, d := range w.answers {
		w.http.Answered(d)
		w.tcp.Answered(d)
	}
	clear(w.answers)
	w.answers = w.answers[:0]
}

func (w *Worker) adoptNext() {
	if w.next == nil {
		return
	}
	p := w.next
	w.next = nil
	if w.plan != nil && p.Seq <= w.plan.Seq {
		return
	}
	w.adopt(p)
	w.seq.Store(p.Seq)
	w.epoch.Store(p.Snap.Epoch)
}

func (w *Worker) adopt(p *Plan) {
	old := w.plan
	w.plan = p
	w.swap(old, p)
	seen := make(map[string]bool, len(p.Snap.Listeners))
	for _, cfg := range p.Snap.Listeners {
		seen[cfg.Name] = true
	}
	// Removals first: a new listener may take over the very sockets of one that is gone.
	for name, l := range w.listeners {
		if seen[name] {
			continue
		}
		l.Stop()
		delete(w.listeners, name)
		if l.Members.Len() > 0 {
			w.end(l, chainsOf(l), false)
		}
	}
	for _, cfg := range p.Snap.Listeners {
		l := w.listeners[cfg.Name]
		if l == nil {
			l = listener.New(w.Loop, w, cfg)
			w.listeners[cfg.Name] = l
		} else if l.Cfg != cfg {
			w.reconfigure(l, cfg)
		}
		w.sockets(l, p.Sockets[cfg.Name])
	}
	w.forgetLeft()
	w.index()
}

// reconfigure swaps a listener's configuration. Connections of chains that changed in place hear so with their next response, those of a listener
// that changed beyond its chains drain as those of a removed one.
func (w *Worker) reconfigure(l *listener.Listener, cfg *snapshot.Listener) {
	old, had := l.Cfg, chainsOf(l)
	gone := l.SetConfig(cfg)
	if l.Members.Len() == 0 {
		return
	}
	if old.SocketKey != cfg.SocketKey {
		w.end(l, had, false)
	} else if len(gone) > 0 {
		w.end(l, gone, true)
	}
}

func (w *Worker) sockets(l *listener.Listener, s *Sockets) {
	var fds []sys.FD
	var ids []uint64
	shared := false
	if s != nil {
		for _, set := range s.Sets {
			i := w.Loop.Worker()
			if set.Shared {
				i, shared = 0, true
			}
			fds = append(fds, set.FDs[i])
			ids = append(ids, set.ID)
		}
	}
	l.SetSockets(fds, ids, shared)
}

// index rebuilds the table of destinations for use_original_dst.
func (w *Worker) index() {
	clear(w.byDst)
	for _, l := range w.listeners {
		for _, a := range l.Cfg.Addrs {
			if a.Addr.IP.IsValid() {
				w.byDst[a.Addr] = l
			}
		}
	}
}

// ByDestination finds the listener of a restored destination: its exact address first, then the wildcard address of the port (RFC: Envoy's
// getBalancedHandlerByAddress).
func (w *Worker) ByDestination(dst sys.Addr) *listener.Listener {
	if l := w.byDst[dst]; l != nil {
		return l
	}
	return w.byDst[wildcard(dst)]
}

// acceptInternal brings a connection to the internal listener of its local address.
func (w *Worker) acceptInternal(c *conn.Conn, meta map[string]any) bool {
	name, _, _ := c.Local().Internal()
	l := w.listeners[name]
	return l != nil && l.Cfg.Internal && l.AcceptInternal(c, meta)
}

// NextConnID numbers connections.
func (w *Worker) NextConnID() uint64 { return w.shared.ConnIDs.Add(1) - 1 }

// AdmitConn counts a connection against the global limit.
func (w *Worker) AdmitConn(l *snapshot.Listener) bool {
	if w.load != nil {
		w.load.Active(1)
		w.even.due = true
	}
	if l.IgnoreGlobalLimit {
		return true
	}
	if n := w.shared.Connections.Add(1); w.shared.MaxConns.Load() > 0 && n > w.shared.MaxConns.Load() {
		w.shared.Connections.Add(-1)
		if w.load != nil {
			w.load.Active(-1)
		}
		return false
	}
	return true
}

// Released gives a connection's place back.
func (w *Worker) Released(l *snapshot.Listener) {
	if w.load != nil {
		w.load.Active(-1)
		w.even.due = true
	}
	if !l.IgnoreGlobalLimit {
		w.shared.Connections.Add(-1)
	}
}

// Accepted tells steering how many connections were taken from the accept queue.
func (w *Worker) Accepted(n int) {
	if w.load != nil {
		w.load.Accepted(n)
	}
}

// Resync tells steering that the accept queue is empty.
func (w *Worker) Resync() {
	if w.load != nil {
		w.load.Resync()
	}
}
