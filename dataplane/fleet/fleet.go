// SPDX-License-Identifier: Apache-2.0

// Package fleet is all workers together: it binds listening sockets ahead of publication, publishes snapshots, knows which epoch every worker has
// adopted, closes what is no longer needed, and drains. It never touches worker memory: everything crosses by message or by atomic word.
// This package runs on control-side goroutines; it is the one room of the data plane that may use locks and goroutines.
package fleet

import (
	"fmt"
	"sort"
	"sync"
	"sync/atomic"
	"time"

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

// socketSet is one address with its sockets: one for each worker, or a single shared one for Unix sockets.
type socketSet struct {
	addr   sys.Addr
	key    uint64 // hash of the options
	fds    []sys.FD
	id     uint64
	owner  map[string]bool // listener names
	shared bool
	steer  string
}

// Fleet owns the workers and the listening sockets.
type Fleet struct {
	// Immutable
	cfg     Config
	workers []*worker.Worker

	mu      sync.Mutex
	sets    map[setKey]*socketSet
	nextID  uint64
	retired []retired
	stopped map[snapshot.Direction]bool // directions whose listeners are closed for good (drain_listeners)
	allStop bool
	plan    *worker.Plan
	started bool

	// Atomic
	current atomic.Pointer[worker.Plan]
	done    sync.WaitGroup
}

type setKey struct {
	addr sys.Addr
	opts uint64
}

type retired struct {
	epoch uint64
	set   *socketSet
}

// New makes the workers; they do not run yet.
func New(cfg Config) (*Fleet, error) {
	f := &Fleet{cfg: cfg, sets: map[setKey]*socketSet{}, stopped: map[snapshot.Direction]bool{}}
	for i := range cfg.Workers {
		w, err := cfg.Worker(i, sys.NewLinux())
		if err != nil {
			return nil, fmt.Errorf("worker %d: %w", i, err)
		}
		f.workers = append(f.workers, w)
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

// Prepare binds the sockets of a listener that are not bound yet, so that a bind failure is part of the verdict on the resource. It may be called
// again for the same listener.
func (f *Fleet) Prepare(l *snapshot.Listener) error {
	if !l.Bind {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.allStop || f.stopped[l.Direction] {
		return nil // accepted, never opened: a drained direction stays closed
	}
	for i := range l.Addrs {
		if err := f.open(l, &l.Addrs[i]); err != nil {
			f.discard(l.Name, l)
			return err
		}
	}
	return nil
}

func optsHash(o *sys.ListenOpts) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range fmt.Sprintf("%+v", *o) {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h
}

func (f *Fleet) open(l *snapshot.Listener, a *snapshot.ListenAddr) error {
	k := setKey{a.Addr, optsHash(&a.Opts)}
	if s := f.sets[k]; s != nil {
		s.owner[l.Name] = true
		return nil
	}
	f.nextID++
	s := &socketSet{addr: a.Addr, key: k.opts, id: f.nextID, owner: map[string]bool{l.Name: true}, shared: a.Addr.IsUnix()}
	if !s.shared {
		// Another process, or another set of ours with other options, must not share the port silently: the first socket is tried without
		// SO_REUSEPORT unless we hold the address ourselves.
		if err := f.probe(a); err != nil {
			return err
		}
	}
	n := len(f.workers)
	if s.shared {
		n = 1
	}
	bind := a.Addr
	for range n {
		fd, err := sys.Listen(bind, &a.Opts)
		if err != nil {
			for _, x := range s.fds {
				sys.CloseFD(x)
			}
			return err
		}
		s.fds = append(s.fds, fd)
		if bind.IP.IsValid() && bind.IP.Port() == 0 {
			// Port 0: the first socket picks it, the others join.
			if got, e := sys.NewLinux().LocalAddr(fd); e == 0 {
				bind = got
			}
		}
	}
	f.sets[k] = s
	if !s.shared && f.cfg.Steering != nil {
		s.steer = fmt.Sprintf("%s#%d", a.Addr, s.id)
		fds := make([]int, len(s.fds))
		for i, fd := range s.fds {
			fds[i] = int(fd)
		}
		f.cfg.Steering.Attach(s.steer, fds)
	}
	return nil
}

// probe finds out whether somebody else listens on the address: SO_REUSEPORT alone would let two processes of one user share it unnoticed.
func (f *Fleet) probe(a *snapshot.ListenAddr) error {
	if a.Addr.IP.Port() == 0 {
		return nil
	}
	for k := range f.sets {
		if k.addr == a.Addr {
			return nil
		}
	}
	o := a.Opts
	o.ReusePort = false
	fd, err := sys.Listen(a.Addr, &o)
	if err != nil {
		return err
	}
	sys.CloseFD(fd)
	return nil
}

// Discard gives back what Prepare opened for a listener that is not going to be published.
func (f *Fleet) Discard(l *snapshot.Listener) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.discard(l.Name, l)
}

func (f *Fleet) discard(name string, l *snapshot.Listener) {
	live := map[setKey]bool{}
	if f.plan != nil {
		for _, x := range f.plan.Snap.Listeners {
			if x.Name == name {
				for i := range x.Addrs {
					live[setKey{x.Addrs[i].Addr, optsHash(&x.Addrs[i].Opts)}] = true
				}
			}
		}
	}
	for i := range l.Addrs {
		k := setKey{l.Addrs[i].Addr, optsHash(&l.Addrs[i].Opts)}
		if s := f.sets[k]; s != nil && !live[k] {
			delete(s.owner, name)
			if len(s.owner) == 0 {
				f.closeSet(k, s)
			}
		}
	}
}

func (f *Fleet) closeSet(k setKey, s *socketSet) {
	if f.sets[k] == s {
		delete(f.sets, k)
	}
	if s.steer != "" {
		f.cfg.Steering.Detach(s.steer)
	}
	for _, fd := range s.fds {
		sys.CloseFD(fd)
	}
}

// Publish makes s the current snapshot. Sockets of listeners that are gone are closed once every worker has adopted it.
func (f *Fleet) Publish(s *snapshot.Snapshot) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.publish(s)
}

func (f *Fleet) publish(s *snapshot.Snapshot) {
	p := &worker.Plan{Snap: s, Sockets: map[string]*worker.Sockets{}}
	used := map[setKey]bool{}
	for _, l := range s.Listeners {
		if !l.Bind || f.allStop || f.stopped[l.Direction] {
			continue
		}
		ws := &worker.Sockets{}
		for i := range l.Addrs {
			k := setKey{l.Addrs[i].Addr, optsHash(&l.Addrs[i].Opts)}
			set := f.sets[k]
			if set == nil {
				continue
			}
			used[k] = true
			ws.Sets = append(ws.Sets, worker.SocketSet{ID: set.id, FDs: set.fds, Shared: set.shared})
		}
		p.Sockets[l.Name] = ws
	}
	for k, set := range f.sets {
		if !used[k] {
			f.retired = append(f.retired, retired{s.Epoch, set})
			delete(f.sets, k)
		}
	}
	f.plan = p
	f.current.Store(p)
	if f.started {
		f.post(p)
	}
	f.reap()
}

func (f *Fleet) post(p *worker.Plan) {
	for _, w := range f.workers {
		w.Post(loop.Msg{Kind: worker.MsgAdopt, Payload: p})
	}
}

// reap closes retired sockets that no worker uses any more.
func (f *Fleet) reap() {
	e := f.adopted()
	keep := f.retired[:0]
	for _, r := range f.retired {
		if r.epoch <= e || !f.started {
			f.closeSet(setKey{r.set.addr, r.set.key}, r.set)
		} else {
			keep = append(keep, r)
		}
	}
	f.retired = keep
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

// StopListeners closes the listening sockets of a direction (or of all) for good; connections live on. Later listeners of that direction are
// accepted but never opened.
func (f *Fleet) StopListeners(inboundOnly bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if inboundOnly {
		f.stopped[snapshot.Inbound] = true
	} else {
		f.allStop = true
	}
	if f.plan == nil {
		return
	}
	s := *f.plan.Snap
	s.Epoch++
	f.publish(&s)
}

// Stop ends the workers; connections that are left are closed.
func (f *Fleet) Stop() {
	f.mu.Lock()
	started := f.started
	f.mu.Unlock()
	if !started {
		return
	}
	for _, w := range f.workers {
		w.Post(loop.Msg{Kind: worker.MsgStop})
	}
	f.done.Wait()
}

// Bound lists the bound addresses by listener name, with real ports, sorted; for /listeners.
func (f *Fleet) Bound() map[string][]sys.Addr {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := map[string][]sys.Addr{}
	for _, s := range f.sets {
		a := s.addr
		if a.IP.IsValid() && a.IP.Port() == 0 {
			if got, e := sys.NewLinux().LocalAddr(s.fds[0]); e == 0 {
				a = got
			}
		}
		for n := range s.owner {
			out[n] = append(out[n], a)
		}
	}
	for _, l := range out {
		sort.Slice(l, func(i, j int) bool { return l[i].String() < l[j].String() })
	}
	return out
}
