// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"sidecar/dataplane/conn"
	"sidecar/dataplane/listener"
	"sidecar/dataplane/loop"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
)

// DrainSequence starts a drain sequence of the whole server (POST /drain_listeners): from now on responses announce the end of their connection, at
// once or with a probability that grows to one over Length. Connections are never cut by it, and listeners go on accepting: closing them is the
// fleet's business.
type DrainSequence struct {
	InboundOnly bool // only listeners with traffic_direction INBOUND
	Length      sys.Nanos
	Immediate   bool // --drain-strategy immediate
}

// sequence is one drain sequence on one worker.
type sequence struct {
	from, length sys.Nanos
	immediate    bool
}

// wants rolls the dice for one response: P = elapsed / length, as Envoy's gradual strategy.
func (s *sequence) wants(l *loop.Loop) bool {
	at := l.Now() - s.from
	return s.immediate || at >= s.length || uint64(at) > l.Rand()%uint64(s.length)
}

// drains is what a worker knows about drain sequences. Worker-owned.
type drains struct {
	all, inbound *sequence                         // server-wide; nil = not draining
	chains       map[*snapshot.FilterChain]*ending // chains whose listener, or which themselves, went away
	leaving      map[*listener.Listener]struct{}   // removed listeners with connections left
	ask          func(*snapshot.Listener, *snapshot.FilterChain) bool
}

// ending is the drain sequence of connections whose configuration is gone: a removed or replaced listener, or changed filter chains. At its end they
// close as soon as nothing is in flight (Envoy cuts requests there); tunnels close at once.
type ending struct {
	sequence
	w      *Worker
	task   loop.Task
	timer  loop.Timer
	l      *listener.Listener
	chains map[*snapshot.FilterChain]bool
}

// end starts the drain time of the connections of l that belong to chains. announced tells that the connections were told to close already.
func (w *Worker) end(l *listener.Listener, chains map[*snapshot.FilterChain]bool, announced bool) {
	e := &ending{sequence: sequence{from: w.Loop.Now(), length: w.drainTime, immediate: announced || w.drainNow || w.drainTime <= 0}, w: w, l: l,
		chains: chains}
	e.task.Init(e)
	e.timer.Init(&e.task)
	for fc := range chains {
		w.drains.chains[fc] = e
	}
	w.drains.leaving[l] = struct{}{}
	w.Loop.Arm(&e.timer, e.from+max(e.length, 1))
	w.askDrains()
}

// Advance ends the drain time.
func (e *ending) Advance(sys.Nanos) loop.Step {
	if !e.timer.Fired() {
		return loop.Idle
	}
	w := e.w
	w.Loop.Disarm(&e.timer)
	e.l.Members.Each(func(m *conn.Member) {
		if fc := m.H.Chain(); fc == nil && w.listeners[e.l.Name()] != e.l || e.chains[fc] {
			m.H.Drain(conn.DrainEnd)
		}
	})
	for fc := range e.chains {
		if w.drains.chains[fc] == e {
			delete(w.drains.chains, fc)
		}
	}
	w.forgetLeft()
	w.askDrains()
	return loop.Done
}

// forgetLeft drops removed listeners whose last connection is gone.
func (w *Worker) forgetLeft() {
	for l := range w.drains.leaving {
		if l.Members.Len() == 0 || w.listeners[l.Name()] == l {
			delete(w.drains.leaving, l)
		}
	}
}

// chainsOf collects the filter chains that connections of l have or may still get.
func chainsOf(l *listener.Listener) map[*snapshot.FilterChain]bool {
	out := map[*snapshot.FilterChain]bool{}
	for _, fc := range l.Cfg.Chains {
		out[fc] = true
	}
	if l.Cfg.Default != nil {
		out[l.Cfg.Default] = true
	}
	l.Members.Each(func(m *conn.Member) {
		if fc := m.H.Chain(); fc != nil {
			out[fc] = true
		}
	})
	return out
}

// sequence starts a server-wide drain sequence; a second one of the same scope changes nothing.
func (w *Worker) sequence(d DrainSequence) {
	at := &w.drains.all
	if d.InboundOnly {
		at = &w.drains.inbound
	}
	if *at == nil {
		*at = &sequence{from: w.Loop.Now(), length: d.Length, immediate: d.Immediate || d.Length <= 0}
	}
	w.askDrains()
}

// askDrains lets the exchanges ask before each response, while there is something to ask.
func (w *Worker) askDrains() {
	d := &w.drains
	if d.all == nil && d.inbound == nil && len(d.chains) == 0 {
		w.http.DrainClose = nil
		return
	}
	w.http.DrainClose = d.ask
}

func (w *Worker) drainClose(l *snapshot.Listener, fc *snapshot.FilterChain) bool {
	d := &w.drains
	switch {
	case d.all != nil && d.all.wants(w.Loop):
		return true
	case d.inbound != nil && l.Direction == snapshot.Inbound && d.inbound.wants(w.Loop):
		return true
	}
	e := d.chains[fc]
	return e != nil && e.wants(w.Loop)
}

// drain obeys a drain order. It says whom it asks, not what a configuration change does to them: drain_type is about health checks and
// drain_listeners, and a process that ends drains every listener.
func (w *Worker) drain(o DrainOrder) {
	for _, l := range w.listeners {
		if o.InboundOnly && l.Cfg.Direction != snapshot.Inbound {
			continue
		}
		if o.Sticky {
			l.SetDraining(o.Mode)
		}
		l.Drain(o.Mode)
	}
	w.forgetLeft()
	for l := range w.drains.leaving {
		if !o.InboundOnly || l.Cfg.Direction == snapshot.Inbound {
			l.Drain(o.Mode)
		}
	}
}

// Connections is the number of downstream connections of this worker, those of removed listeners included; worker thread only (MsgCall).
func (w *Worker) Connections() int {
	n := 0
	for _, l := range w.listeners {
		n += l.Members.Len()
	}
	for l := range w.drains.leaving {
		if w.listeners[l.Name()] != l {
			n += l.Members.Len()
		}
	}
	return n
}
