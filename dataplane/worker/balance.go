// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"sync/atomic"

	"sidecar/dataplane/conn"
	"sidecar/dataplane/exchange"
	"sidecar/dataplane/listener"
	"sidecar/dataplane/loop"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
)

// Evenness. A worker publishes what it carries to the steering program: connections at once, and every lookEvery what weighs more than their number: the
// requests in flight, and how busy it is. When it carries much more than another one, it hands idle connections over; what is in flight never moves.
// docs/decisions/0007-evenness.md has the reasons and the measurements.

const (
	// lookEvery is how often a worker that runs looks at itself and at the others. One that sleeps wakes for it while its load changes, and each calm while
	// it has something to give.
	lookEvery = 100 * sys.Millisecond
	// full is the share of a worker that is always busy.
	full = 1000
	// scarce is the share above which being busy weighs: below, there is time for any connection, and numbers decide.
	scarce = 200
	// fullWeight is how many connections a busy worker counts for in addition to the mean of all workers: so busy workers are avoided when there are few
	// connections, and when there are many.
	fullWeight = 16
	// minGap and 1/gapPart of its own load is by how much a worker must carry more than another one before it moves anything. It then goes on until they
	// are even.
	minGap  = 4
	gapPart = 4
	// cold is for how long a connection has been idle that moves for evenness. The others are warm. They move one by one, each after a pause of warmPause, so
	// that what it does shows before the next one, and only from a worker that is busy for hotShare to one that is less busy by hotGap.
	cold      = sys.Second
	warmPause = 2 * sys.Second
	hotShare  = 500
	hotGap    = 300
	// maxWarm bounds the warm connections whose requests are compared from one look to the next. Among more of them none is so heavy that it would matter.
	maxWarm = 64
	// calm is the pause between two rounds of moving cold connections.
	calm = 2 * sys.Second
	// maxSample and maxMoves bound one look: connections looked at, and moved.
	maxSample = 256
	maxMoves  = 64
)

// smooth is a number that follows its samples in about eight of them, in units of 1/1024.
type smooth int64

// add takes n samples of v.
func (s *smooth) add(v int64, n int) {
	for range min(n, 64) {
		*s += (smooth(v)<<10 - *s) / 8
	}
}

func (s smooth) value() int { return int((s + 512) >> 10) }

// pressure is how many connections a worker counts for because it is busy for a share of the time; mean is the mean of connections of all workers.
func pressure(share, mean int) int {
	return max(share-scarce, 0) * (fullWeight + mean) / (full - scarce)
}

// Tally is what a worker tells of its load. Any thread may read it. The numbers are up to lookEvery old, or as old as its last turn.
type Tally struct {
	// Atomic: written by the worker
	busy     atomic.Int32 // thousandths
	requests atomic.Int32 // in flight, smoothed
	weight   atomic.Int32 // what both add to the connections
	out, in  atomic.Uint64
	// Atomic: written by any worker
	coming atomic.Int32 // connections in the mailbox
}

// Load is a worker's tally for the admin server.
type Load struct {
	Score       int // what the steering program compares, with connections that are on their way
	Connections int
	Requests    int // in flight, smoothed over about a second
	BusyPercent int
	MovedOut    uint64 // connections handed over to other workers
	MovedIn     uint64
}

// Tally is the worker's load; false without steering. Any thread.
func (w *Worker) Tally() (Load, bool) {
	if w.load == nil {
		return Load{}, false
	}
	t := &w.tally
	n, _ := w.carries(w.Loop.K.Now())
	return Load{Score: n, Connections: max(n-int(t.weight.Load()), 0), Requests: int(t.requests.Load()), BusyPercent: int(t.busy.Load()) / 10,
		MovedOut: t.out.Load(), MovedIn: t.in.Load()}, true
}

// Moves are the connections that the worker has handed over and those that it has taken, since the start. Any thread.
func (w *Worker) Moves() (out, in uint64) { return w.tally.out.Load(), w.tally.in.Load() }

// SetPeers names all workers, this one included, so that connections can move; before Run.
func (w *Worker) SetPeers(all []*Worker) {
	b := &w.even
	b.peers, b.costs = all, make([]int, len(all))
	b.before, b.after = make([]warm, 0, maxWarm), make([]warm, 0, maxWarm)
}

// carries is the worker's load; open tells whether it takes more. Any thread.
func (w *Worker) carries(now sys.Nanos) (n int, open bool) {
	n, open = w.load.Carries(int64(now))
	return n + int(w.tally.coming.Load()), open
}

// balance looks after a worker's share of the load.
type balance struct {
	// Immutable
	w     *Worker
	peers []*Worker

	// Worker
	task     loop.Task
	timer    loop.Timer
	at       sys.Nanos // of the last look
	parked   sys.Nanos // the loop's, at that time
	busy     smooth
	requests smooth
	weight   int
	due      bool  // connections have come or gone since
	costs    []int // of the peers, during a look; -1 takes nothing
	moving   bool  // a round of moving cold connections is under way
	calmTill sys.Nanos
	warmAt   sys.Nanos // when the next warm connection may move
	before   []warm    // at the last look
	after    []warm
}

// warm is a connection that had something in flight lately, and how many requests it had had when it was looked at.
type warm struct {
	m      *conn.Member
	served uint32
}

func (b *balance) init(w *Worker) {
	b.w, b.at, b.parked = w, w.Loop.Now(), w.Loop.Parked()
	b.task.Init(b)
	b.timer.Init(&b.task)
}

// Advance has nothing to do: the turn that the timer brings is what was wanted.
func (b *balance) Advance(sys.Nanos) loop.Step {
	if b.timer.Fired() {
		b.w.Loop.Disarm(&b.timer)
	}
	return loop.Idle
}

// look is the last step of a turn, if it is time.
func (b *balance) look(now sys.Nanos) {
	switch {
	case b.w.load == nil || b.w.stopping:
		return
	case now-b.at < lookEvery:
		if !b.timer.Armed() && (b.due || b.settling()) {
			b.w.Loop.Arm(&b.timer, b.at+lookEvery)
		}
		return
	}
	b.due = false
	b.measure(now)
	wait := b.spread(now)
	if wait == 0 && b.settling() {
		wait = lookEvery
	}
	if wait > 0 {
		b.w.Loop.Arm(&b.timer, now+wait)
	} else if b.timer.Armed() {
		b.w.Loop.Disarm(&b.timer)
	}
}

// settling tells whether the published numbers are not what they will be if nothing more happens.
func (b *balance) settling() bool {
	return b.busy.value() > scarce || b.requests.value() != b.w.http.Active()
}

// measure brings the published load up to date.
func (b *balance) measure(now sys.Nanos) {
	w, took, parked := b.w, now-b.at, b.w.Loop.Parked()
	n := int(took / lookEvery)
	b.busy.add(int64(full*min(max(took-(parked-b.parked), 0), took)/took), n)
	b.requests.add(int64(w.http.Active()), n)
	b.at, b.parked = now, parked
	sum := 0
	for _, p := range b.peers {
		n, _ := p.carries(now)
		sum += max(n-int(p.tally.weight.Load()), 0)
	}
	was := b.weight
	b.weight = b.requests.value() + pressure(b.busy.value(), sum/max(len(b.peers), 1))
	w.load.Active(b.weight - was)
	w.tally.weight.Store(int32(b.weight))
	w.tally.busy.Store(int32(b.busy.value()))
	w.tally.requests.Store(int32(b.requests.value()))
}

// spread hands connections over if others carry less. It returns when to look again, 0 for whenever there is a turn.
func (b *balance) spread(now sys.Nanos) sys.Nanos {
	w := b.w
	if len(b.peers) < 2 || w.plan == nil {
		return 0
	}
	mine, _ := w.carries(now)
	idler, lowest := b.survey(now)
	low := b.lowest()
	if low < 0 {
		return 0
	}
	gap := mine - b.costs[low]
	uneven := gap >= minGap && gap*gapPart >= mine
	switch {
	case b.moving && gap < 2:
		b.stop(now)
	case uneven && now >= b.calmTill:
		b.moving = true
	}
	if hot := b.busy.value()-lowest >= hotGap && b.busy.value() >= hotShare; !hot {
		b.before = b.before[:0]
	} else if now >= b.warmAt && b.moveWarm(now, idler, b.busy.value()-lowest) {
		b.warmAt = now + warmPause
	}
	if b.moving && b.moveCold(now, mine) > 0 {
		return lookEvery
	}
	b.stop(now)
	if mine >= minGap { // what the others carry may fall without a turn here
		return calm
	}
	return 0
}

// stop ends a round.
func (b *balance) stop(now sys.Nanos) {
	if b.moving {
		b.moving, b.calmTill = false, now+calm
	}
}

// survey notes what the others carry, and finds the least busy of those that take connections.
func (b *balance) survey(now sys.Nanos) (idler *Worker, share int) {
	share = full
	for i, p := range b.peers {
		b.costs[i] = -1
		n, open := p.carries(now)
		if p == b.w || !open || p.Seq() != b.w.plan.Seq { // with another plan its listeners may be others
			continue
		}
		b.costs[i] = n
		if s := int(p.tally.busy.Load()); idler == nil || s < share {
			idler, share = p, s
		}
	}
	return idler, share
}

// lowest is the peer that carries least, -1 if none takes anything.
func (b *balance) lowest() int {
	low := -1
	for i, n := range b.costs {
		if n >= 0 && (low < 0 || n < b.costs[low]) {
			low = i
		}
	}
	return low
}

// sample calls fn for at most maxSample connections that could change their worker, in turn; fn ends it with false.
func (b *balance) sample(fn func(m *conn.Member, x exchange.Mover, l *listener.Listener) bool) {
	left := maxSample
	for _, l := range b.w.listeners {
		if left <= 0 {
			return
		}
		if _, draining := l.Draining(); draining {
			left--
			continue
		}
		n, more := min(left, l.Members.Len()), true
		left -= n + 1
		l.Members.Sample(n, func(m *conn.Member) bool {
			if x, ok := m.H.(exchange.Mover); ok && b.w.drains.chains[m.H.Chain()] == nil {
				more = fn(m, x, l)
			}
			return more
		})
		if !more {
			return
		}
	}
}

// moveCold moves connections that have been idle for long, as far as the others carry less. It returns how many.
func (b *balance) moveCold(now sys.Nanos, mine int) (moved int) {
	b.sample(func(m *conn.Member, x exchange.Mover, l *listener.Listener) bool {
		low := b.lowest()
		if mine-b.costs[low] < 2 {
			return false
		}
		if since, movable := x.Rest(now); !movable || now-since < cold {
			return true
		}
		if !b.w.handOver(m, l, b.peers[low]) {
			b.costs[low] = mine // it takes no more now
			return true
		}
		b.costs[low]++
		mine--
		moved++
		return moved < maxMoves
	})
	return moved
}

// moveWarm moves a connection to a worker that is less busy by gap thousandths: the one with most requests since the last look, of those that do not bring
// more with them than half the gap. The one that keeps this worker busy alone stays, whereas its fellows leave.
func (b *balance) moveWarm(now sys.Nanos, to *Worker, gap int) bool {
	var pick *conn.Member
	var from *listener.Listener
	total, most := 0, 0
	deltas := func(m *conn.Member, served uint32) int {
		for _, o := range b.before {
			if o.m == m {
				return int(int32(served - o.served)) // below zero: another connection took its place
			}
		}
		return -1
	}
	b.after = b.after[:0]
	b.sample(func(m *conn.Member, x exchange.Mover, _ *listener.Listener) bool {
		if since, _ := x.Rest(now); now-since < cold {
			b.after = append(b.after, warm{m, x.Served()})
			total += max(deltas(m, x.Served()), 0)
		}
		return len(b.after) < maxWarm
	})
	if len(b.after) > 1 && total > 0 {
		b.sample(func(m *conn.Member, x exchange.Mover, l *listener.Listener) bool {
			n := deltas(m, x.Served())
			if _, movable := x.Rest(now); movable && n > most && 2*n*b.busy.value() <= gap*total {
				pick, from, most = m, l, n
			}
			return true
		})
	}
	b.before, b.after = b.after, b.before
	return pick != nil && b.w.handOver(pick, from, to)
}

// parcel is MsgMove: a connection that belongs to whoever has the message.
type parcel struct {
	*exchange.Parcel
	l   *snapshot.Listener // the configuration at its old worker
	seq uint64             // and the plan
}

// handOver moves an idle connection of l to another worker; false when its mailbox is full.
func (w *Worker) handOver(m *conn.Member, l *listener.Listener, to *Worker) bool {
	x := m.H.(exchange.Mover)
	l.Depart(m)
	p := &parcel{Parcel: x.Pack(), l: l.Cfg, seq: w.plan.Seq}
	w.load.Active(-1)
	to.tally.coming.Add(1)
	w.tally.out.Add(1)
	if to.Post(loop.Msg{Kind: MsgMove, Payload: p}) {
		return true
	}
	to.tally.coming.Add(-1)
	w.takeOver(p)
	return false
}

// takeOver goes on with a connection of another worker. Its configuration may have changed since: then it drains like its fellows.
func (w *Worker) takeOver(p *parcel) {
	m := exchange.Unpack(w.http, p.Parcel, w.tls)
	w.load.Active(1)
	w.tally.in.Add(1)
	l := w.listeners[p.l.Name]
	fc := map[*snapshot.FilterChain]bool{p.Chain: true}
	switch {
	case l == nil:
		l = listener.New(w.Loop, w, p.l)
		l.Arrive(m)
		w.end(l, fc, false)
		return
	case p.seq != w.plan.Seq && l.Cfg.SocketKey != p.l.SocketKey:
		l.Arrive(m)
		w.end(l, fc, false)
	case p.seq != w.plan.Seq && !l.Keeps(p.Chain):
		l.Arrive(m)
		m.H.Drain(conn.DrainSoft)
		w.end(l, fc, true)
	default:
		l.Arrive(m)
	}
	if how, draining := l.Draining(); draining {
		m.H.Drain(how)
	}
}

// Abandon closes connections that were on their way here when the worker ended; when no worker runs any more.
func (w *Worker) Abandon() {
	w.Loop.Leftover(func(m loop.Msg) {
		if p, ok := m.Payload.(*parcel); ok {
			p.C.Abandon(w.Loop.K)
		}
	})
}
