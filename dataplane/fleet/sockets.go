// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"fmt"
	"sort"

	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/dataplane/worker"
)

// setKey is what makes sockets interchangeable: two listeners (or two versions of one) with the same key share them.
type setKey struct {
	addr sys.Addr
	opts uint64
	name string // of the listener, for port 0 only: each gets a port of its own
}

// socketSet is one address with its sockets: one for each worker, or a single one for all (Unix sockets, which have no SO_REUSEPORT).
// Life: bound → listening (a published plan uses it while the fleet runs) → retired (no plan uses it; workers may) → closed.
type socketSet struct {
	key       setKey
	opts      *sys.ListenOpts
	fds       []sys.FD
	id        uint64
	shared    bool
	listening bool
	quiet     bool           // takes no new connections: about to be closed
	file      sys.SocketFile // of a Unix socket with a path
	steer     string         // key at the steering program; empty = not attached
	// names are the listeners of the present plan that use the set.
	names map[string]bool
	// claims are the prepared listeners that are not published yet. Keyed by pointer: two versions of one listener may claim one set, and one of
	// them may be discarded.
	claims map[*snapshot.Listener]bool
	// lastUse is the first plan without the set, 0 when no plan had it: the sockets are closed when every worker has adopted that plan.
	lastUse uint64
}

// Prepare binds the sockets of a listener that are not bound yet, so that a bind failure is part of the verdict on the resource. They do not listen
// before the listener is published while the workers run: a warming listener refuses connections. It may be called again for the same listener;
// the sockets are held until the listener is published or discarded.
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
		if err := f.claim(l, i); err != nil {
			f.discard(l)
			return err
		}
	}
	return nil
}

// Discard gives back what Prepare bound for a listener that is not going to be published.
func (f *Fleet) Discard(l *snapshot.Listener) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.discard(l)
}

func (f *Fleet) discard(l *snapshot.Listener) {
	for i := range l.Addrs {
		if s := f.sets[keyOf(l, i)]; s != nil {
			delete(s.claims, l)
			f.release(s)
		}
	}
	f.closeRetired()
}

func keyOf(l *snapshot.Listener, i int) setKey {
	k := setKey{addr: l.Addrs[i].Addr, opts: optsHash(&l.Addrs[i].Opts)}
	if k.addr.IP.IsValid() && k.addr.IP.Port() == 0 {
		k.name = l.Name
	}
	return k
}

func optsHash(o *sys.ListenOpts) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range []byte(fmt.Sprintf("%+v", *o)) {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h
}

// claim finds or binds the set of one address for a listener that is going to be published.
func (f *Fleet) claim(l *snapshot.Listener, i int) error {
	k := keyOf(l, i)
	s := f.sets[k]
	if s == nil {
		s = f.revive(k)
	}
	if s == nil {
		var err error
		if s, err = f.bind(k, &l.Addrs[i]); err != nil {
			return err
		}
	}
	f.sets[k] = s
	s.claims[l] = true
	return nil
}

// revive takes a retired set back that is not closed yet: the listener came back before all workers had let it go.
func (f *Fleet) revive(k setKey) *socketSet {
	for i, s := range f.retired {
		if s.key == k && s.resume() {
			f.retired = append(f.retired[:i], f.retired[i+1:]...)
			return s
		}
	}
	return nil
}

func (f *Fleet) bind(k setKey, a *snapshot.ListenAddr) (*socketSet, error) {
	f.nextID++
	s := &socketSet{key: k, opts: &a.Opts, id: f.nextID, shared: a.Addr.IsUnix() || !a.Opts.ReusePort, names: map[string]bool{},
		claims: map[*snapshot.Listener]bool{}}
	if err := f.probe(a); err != nil {
		return nil, err
	}
	n := len(f.workers)
	if s.shared {
		n = 1
	}
	addr := a.Addr
	for range n {
		fd, err := sys.Bind(addr, &a.Opts)
		if err != nil {
			s.closeFDs()
			return nil, err
		}
		s.fds = append(s.fds, fd)
		s.file = sys.SocketFileOf(addr)
		if addr.IP.IsValid() && addr.IP.Port() == 0 {
			addr = sys.BoundAddr(fd, addr) // the first socket picks the port, the others join
		}
	}
	return s, nil
}

// probe finds out whether somebody else listens on the address: SO_REUSEPORT alone would let two processes of one user share it unnoticed.
func (f *Fleet) probe(a *snapshot.ListenAddr) error {
	if a.Addr.IsUnix() || a.Addr.IP.Port() == 0 || !a.Opts.ReusePort {
		return nil
	}
	for k := range f.sets {
		if k.addr == a.Addr {
			return nil // ours, with other options
		}
	}
	for _, s := range f.retired {
		if s.key.addr == a.Addr {
			return nil
		}
	}
	o := a.Opts
	o.ReusePort = false
	fd, err := sys.Bind(a.Addr, &o)
	if err != nil {
		return err
	}
	sys.CloseFD(fd)
	return nil
}

// planOf makes the next plan for a snapshot. While the fleet runs its sockets listen from here on; sets that it does not use retire.
func (f *Fleet) planOf(snap *snapshot.Snapshot) *worker.Plan {
	f.seq++
	p := &worker.Plan{Snap: snap, Seq: f.seq, Sockets: map[string]*worker.Sockets{}}
	for _, s := range f.sets {
		clear(s.names)
	}
	for _, l := range snap.Listeners {
		if !l.Bind {
			continue
		}
		closed := f.allStop || f.stopped[l.Direction]
		ws := &worker.Sockets{}
		for i := range l.Addrs {
			s := f.sets[keyOf(l, i)]
			if s == nil {
				continue
			}
			delete(s.claims, l)
			if closed || f.started && !f.open(s, l.Name) {
				continue
			}
			s.names[l.Name] = true
			s.lastUse = 0
			ws.Sets = append(ws.Sets, worker.SocketSet{ID: s.id, FDs: s.fds, Shared: s.shared})
		}
		p.Sockets[l.Name] = ws
	}
	for _, s := range f.sets {
		f.release(s)
	}
	return p
}

// open makes a set listen and attaches steering, which needs listening sockets. A failure here is rare (another process of the same user bound the
// address in the same moment and listened first); it is reported, and the next plan tries again.
func (f *Fleet) open(s *socketSet, name string) bool {
	if s.listening {
		return true
	}
	for _, fd := range s.fds {
		if err := sys.StartListening(fd, s.key.addr, s.opts); err != nil {
			if f.cfg.OnError != nil {
				f.cfg.OnError(fmt.Errorf("listener %s: %w", name, err))
			}
			return false
		}
	}
	s.listening = true
	if !s.shared && f.cfg.Steering != nil {
		s.steer = fmt.Sprintf("%s#%d", s.key.addr, s.id)
		fds := make([]int, len(s.fds))
		for i, fd := range s.fds {
			fds[i] = int(fd)
		}
		f.cfg.Steering.Attach(s.steer, fds)
	}
	return true
}

// release retires a set that neither the plan nor a warming listener needs.
func (f *Fleet) release(s *socketSet) {
	if len(s.claims) > 0 || len(s.names) > 0 || f.sets[s.key] != s {
		return
	}
	delete(f.sets, s.key)
	if s.lastUse == 0 && s.listening {
		s.lastUse = f.seq
		if !s.key.addr.IsUnix() {
			s.quiesce() // a Unix socket could not come back if the listener does
		}
	}
	f.retired = append(f.retired, s)
}

// only tells whether all listeners that use the set are among names.
func (s *socketSet) only(names map[string]bool) bool {
	for n := range s.names {
		if !names[n] {
			return false
		}
	}
	return len(s.names) > 0
}

// quiesce stops the kernel from queueing more connections; what it could not do ends as without it: late connections are reset.
func (s *socketSet) quiesce() {
	if s.listening && !s.quiet {
		s.quiet = true
		for _, fd := range s.fds {
			_ = sys.Quiesce(fd, s.key.addr)
		}
	}
}

// resume undoes quiesce; false means that the set is of no use any more.
func (s *socketSet) resume() bool {
	if !s.quiet {
		return true
	}
	for _, fd := range s.fds {
		if sys.Resume(fd, s.key.addr) != nil {
			return false
		}
	}
	s.quiet = false
	return true
}

// closeRetired closes the sockets that no worker can use any more.
func (f *Fleet) closeRetired() {
	seen := f.adoptedSeq()
	keep := f.retired[:0]
	for _, s := range f.retired {
		if s.lastUse > seen && f.started {
			keep = append(keep, s)
			continue
		}
		// Descriptors first: while the program is attached, connections that wait on one socket can still move to another.
		s.closeFDs()
		if s.steer != "" {
			f.cfg.Steering.Detach(s.steer)
		}
	}
	clear(f.retired[len(keep):])
	f.retired = keep
}

func (s *socketSet) closeFDs() {
	s.file.Remove()
	s.file = sys.SocketFile{}
	for _, fd := range s.fds {
		sys.CloseFD(fd)
	}
	s.fds = nil
}

func (f *Fleet) adoptedSeq() uint64 {
	low := ^uint64(0)
	for _, w := range f.workers {
		low = min(low, w.Seq())
	}
	return low
}

// Bound lists the bound addresses by listener name, with real ports, sorted; for /listeners.
func (f *Fleet) Bound() map[string][]sys.Addr {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := map[string][]sys.Addr{}
	for _, s := range f.sets {
		a := sys.BoundAddr(s.fds[0], s.key.addr)
		names := map[string]bool{}
		for n := range s.names {
			names[n] = true
		}
		for l := range s.claims {
			names[l.Name] = true
		}
		for n := range names {
			out[n] = append(out[n], a)
		}
	}
	for _, l := range out {
		sort.Slice(l, func(i, j int) bool { return l[i].String() < l[j].String() })
	}
	return out
}
