// SPDX-License-Identifier: Apache-2.0

// Package fleet is all workers together: it binds listening sockets ahead of publication, publishes snapshots, knows which epoch every worker has
// adopted, closes what is no longer needed, and drains. It never touches worker memory: everything crosses by message or by atomic word.
// This package runs on control-side goroutines; it is the one room of the data plane that may use locks and goroutines.
package fleet

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"sidecar/dataplane/filter"
	"sidecar/dataplane/loop"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/dataplane/worker"
)

// Steering places accepted connections; implemented by ebpf.Steerer behind an adapter in internal/app.
type Steering interface {
	// Attach is given the listening sockets of one address, one for each worker in order.
	Attach(key string, fds []int)
	Detach(key string)
	Slot(worker int) worker.LoadSlot
}

// Config makes a Fleet.
type Config struct {
	Workers  int
	Shared   *worker.Shared
	Steering Steering // nil = none
	Worker   func(i int, k sys.Kernel) (*worker.Worker, error)
	// OnError is told about workers that could not start or died.
	OnError func(error)
}

// Fleet owns the workers and the listening sockets.
type Fleet struct {
	// Immutable
	cfg     Config
	workers []*worker.Worker

	// Control, under mu
	mu      sync.Mutex
	sets    map[setKey]*socketSet // every set that a plan uses or a warming listener claims
	nextID  uint64
	seq     uint64 // of the last plan
	retired []*socketSet
	stopped map[snapshot.Direction]bool // directions whose listeners are closed for good (drain_listeners)
	allStop bool
	plan    *worker.Plan
	behind  []bool            // workers whose mailbox had no room for the last plan
	owed    [][]filter.Demand // by worker: answers that its mailbox had no room for
	started bool
	off     *offload      // makes slow signatures
	kick    chan struct{} // wakes the reaper; closed by Stop
	done    sync.WaitGroup
}

// New makes the workers; they do not run yet.
func New(cfg Config) (*Fleet, error) {
	f := &Fleet{cfg: cfg, sets: map[setKey]*socketSet{}, stopped: map[snapshot.Direction]bool{}, behind: make([]bool, cfg.Workers), owed: make([][]filter.Demand, cfg.Workers)}
	for i := range cfg.Workers {
		w, err := cfg.Worker(i, sys.NewLinux())
		if err != nil {
			return nil, fmt.Errorf("worker %d: %w", i, err)
		}
		f.workers = append(f.workers, w)
	}
	f.off = newOffload()
	for _, w := range f.workers {
		w.SetOffloader(f.off)
		w.SetPeers(f.workers)
	}
	return f, nil
}

// Start runs the workers, each on a thread of its own.
func (f *Fleet) Start() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.started {
		return
	}
	f.started = true
	if f.plan != nil {
		f.plan = f.planOf(f.plan.Snap) // opens the sockets
	}
	f.kick = make(chan struct{}, 1)
	f.off.start(len(f.workers))
	f.done.Go(func() { f.reaper(f.kick) })
	for _, w := range f.workers {
		f.done.Add(1)
		go func() {
			defer f.done.Done()
			w.Run()
		}()
	}
	if f.plan != nil {
		f.post(f.plan)
	}
}

// Workers is the number of workers.
func (f *Fleet) Workers() int { return len(f.workers) }

// Handshakes is how many TLS handshakes all workers have begun so far. Any thread.
func (f *Fleet) Handshakes() uint64 {
	n := uint64(0)
	for _, w := range f.workers {
		n += w.Handshakes()
	}
	return n
}

// Publish makes s the current snapshot. Sockets of listeners that are gone are closed once every worker has adopted it.
func (f *Fleet) Publish(s *snapshot.Snapshot) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.publish(s)
}

func (f *Fleet) publish(s *snapshot.Snapshot) {
	f.plan = f.planOf(s)
	if f.started {
		f.post(f.plan)
	}
	f.reap()
}

func (f *Fleet) post(p *worker.Plan) {
	for i := range f.workers {
		f.behind[i] = !f.workers[i].Post(loop.Msg{Kind: worker.MsgAdopt, Payload: p})
	}
}

// reap closes retired sockets that no worker uses any more, and gives the plan again to workers whose mailbox was full.
func (f *Fleet) reap() {
	for i, late := range f.behind {
		if late {
			f.behind[i] = !f.workers[i].Post(loop.Msg{Kind: worker.MsgAdopt, Payload: f.plan})
		}
	}
	f.settleOwed()
	f.closeRetired()
	if f.pending() {
		select {
		case f.kick <- struct{}{}:
		default:
		}
	}
}

// pending tells whether reap has work left that only waits for the workers.
func (f *Fleet) pending() bool {
	return f.started && (len(f.retired) > 0 || slices.Contains(f.behind, true) || slices.ContainsFunc(f.owed, func(o []filter.Demand) bool { return len(o) > 0 }))
}

// Answer tells every worker that the control side has answered demands: what was found is in the last snapshot.
func (f *Fleet) Answer(list []filter.Demand) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.started {
		return // nobody has asked
	}
	for i := range f.owed {
		f.owed[i] = append(f.owed[i], list...)
	}
	f.reap()
}

// settleOwed posts answers to the workers that have been given the last plan.
func (f *Fleet) settleOwed() {
	for i, list := range f.owed {
		if len(list) > 0 && !f.behind[i] && f.workers[i].Post(loop.Msg{Kind: worker.MsgAnswer, Payload: list}) {
			f.owed[i] = nil
		}
	}
}

// reaper closes retired sockets as soon as the workers have let them go: a connection that comes in between is not served any more and must hear so
// soon. It sleeps while nothing is retired.
func (f *Fleet) reaper(kick <-chan struct{}) {
	for range kick {
		for wait, again := time.Millisecond, true; again; wait = min(2*wait, 50*time.Millisecond) {
			time.Sleep(wait)
			f.mu.Lock()
			f.reap()
			again = f.pending()
			f.mu.Unlock()
		}
	}
}

// Adopted is the lowest epoch over all workers.
func (f *Fleet) Adopted() uint64 { return f.adopted() }

func (f *Fleet) adopted() uint64 {
	low := ^uint64(0)
	for _, w := range f.workers {
		low = min(low, w.Epoch())
	}
	return low
}

// Settle waits until every worker has adopted epoch, or the timeout; then it closes retired sockets. Control side.
func (f *Fleet) Settle(epoch uint64, timeout time.Duration) bool {
	end := time.Now().Add(timeout)
	for f.adopted() < epoch {
		f.Reap()
		if time.Now().After(end) {
			return false
		}
		time.Sleep(200 * time.Microsecond)
	}
	f.mu.Lock()
	f.reap()
	f.mu.Unlock()
	return true
}

// Reap closes what is no longer used; called now and then by the controller.
func (f *Fleet) Reap() {
	f.mu.Lock()
	f.reap()
	f.mu.Unlock()
}

// Drain sends a drain order to every worker.
func (f *Fleet) Drain(o worker.DrainOrder) {
	for _, w := range f.workers {
		w.Post(loop.Msg{Kind: worker.MsgDrain, Payload: o})
	}
}

// Sequence starts a server-wide drain sequence on every worker.
func (f *Fleet) Sequence(d worker.DrainSequence) {
	for _, w := range f.workers {
		w.Post(loop.Msg{Kind: worker.MsgSequence, Payload: d})
	}
}

// Call runs fn once on every worker's thread, soon, without waiting for it; fn must be quick and touch only its worker.
func (f *Fleet) Call(fn func(*worker.Worker)) {
	for _, w := range f.workers {
		w.Post(loop.Msg{Kind: worker.MsgCall, Payload: fn})
	}
}

// Connections asks every worker for its downstream connections; false when one did not answer in time. Connections that change their worker meanwhile
// could be missed: then it asks again.
func (f *Fleet) Connections(timeout time.Duration) (n int, ok bool) {
	end := time.Now().Add(timeout)
	for {
		out, in := f.moves()
		if n, ok = f.connections(time.Until(end)); !ok {
			return n, false
		}
		if now, _ := f.moves(); out == in && out == now {
			return n, true
		}
	}
}

// moves are the connections that workers have handed over and those that workers have taken.
func (f *Fleet) moves() (out, in uint64) {
	for _, w := range f.workers { // those taken first: what moves in between counts as on its way
		_, n := w.Moves()
		in += n
	}
	for _, w := range f.workers {
		n, _ := w.Moves()
		out += n
	}
	return out, in
}

func (f *Fleet) connections(timeout time.Duration) (n int, ok bool) {
	got := make(chan int, len(f.workers))
	f.Call(func(w *worker.Worker) { got <- w.Connections() })
	end := time.NewTimer(timeout)
	defer end.Stop()
	for range f.workers {
		select {
		case v := <-got:
			n += v
		case <-end.C:
			return n, false
		}
	}
	return n, true
}

// Loads is what every worker carries, in order; nil without steering.
func (f *Fleet) Loads() []worker.Load {
	var all []worker.Load
	for _, w := range f.workers {
		if l, ok := w.Tally(); ok {
			all = append(all, l)
		}
	}
	return all
}

// handshakes is how long handshakes that were under way get to finish before their socket closes.
const handshakes = 20 * time.Millisecond

// StopListeners closes the listening sockets of a direction (or of all) for good; connections live on, and those that wait in an accept queue are
// taken first. Later listeners of that direction are accepted but never opened. It returns the number of listeners that it stopped, when the
// workers have let go of them.
func (f *Fleet) StopListeners(inboundOnly bool) (stopped int) {
	f.mu.Lock()
	if f.plan == nil || f.allStop || inboundOnly && f.stopped[snapshot.Inbound] {
		f.allStop = f.allStop || !inboundOnly
		f.stopped[snapshot.Inbound] = f.stopped[snapshot.Inbound] || inboundOnly
		f.mu.Unlock()
		return 0
	}
	hit := map[string]bool{}
	for _, l := range f.plan.Snap.Listeners {
		if !f.stopped[l.Direction] && (!inboundOnly || l.Direction == snapshot.Inbound) {
			hit[l.Name] = true
		}
	}
	for _, s := range f.sets {
		if s.only(hit) {
			s.quiesce()
		}
	}
	if inboundOnly {
		f.stopped[snapshot.Inbound] = true
	} else {
		f.allStop = true
	}
	f.mu.Unlock()
	time.Sleep(handshakes)
	f.mu.Lock()
	if f.plan == nil {
		f.mu.Unlock()
		return 0
	}
	f.publish(f.plan.Snap)
	seq, started := f.seq, f.started
	f.mu.Unlock()
	for end := time.Now().Add(2 * time.Second); started && f.adoptedSeq() < seq && time.Now().Before(end); {
		time.Sleep(200 * time.Microsecond)
	}
	f.Reap()
	return len(hit)
}

// Stop ends the workers and closes the listening sockets; connections that are left are closed.
func (f *Fleet) Stop() {
	f.mu.Lock()
	started := f.started
	f.started = false
	f.mu.Unlock()
	if started {
		for _, w := range f.workers {
			for !w.Post(loop.Msg{Kind: worker.MsgStop}) {
				time.Sleep(time.Millisecond)
			}
		}
		close(f.kick)
		f.done.Wait()
		f.off.stop()
		for _, w := range f.workers {
			w.Abandon()
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for k, s := range f.sets {
		delete(f.sets, k)
		f.retired = append(f.retired, s)
	}
	f.allStop, f.plan = true, nil
	clear(f.behind)
	f.closeRetired()
}
