// SPDX-License-Identifier: Apache-2.0

package ebpf

import "sync/atomic"

// resyncGrace is how long a connection that was sent to a worker may take until
// it can be accepted (its handshake needs a round trip, or several when packets
// are lost) before Resync stops to wait for it.
const resyncGrace = int64(1e9)

// drainingFlag is WORKER_DRAINING in bpf/steer_policy.h.
const drainingFlag = 1

// Slot is the load of one worker, as the steering program sees it. In the eBPF
// modes it lies in memory shared with the kernel (struct worker_load in
// bpf/steer_policy.h, whose layout it repeats), otherwise on the heap; its
// methods are the same, cost a few nanoseconds, and never allocate or block.
//
// Admitted, Accepted, Active, BusySince and Resync belong to the worker's thread. Rescued,
// Carries and Load may be called from any thread.
type Slot struct {
	// Worker: written by the worker's thread, read by the program.

	// connections is active<<32 | accepted: in one word, so that Admitted can
	// move a connection from pending to active in one store.
	connections atomic.Uint64
	busySince   atomic.Int64

	// Worker: resync state, see Resync.
	resyncMark  uint32
	resyncArmed uint32
	resyncAt    int64

	// Atomic: written by any thread.
	flags   atomic.Uint32
	rescued atomic.Uint32
	_       [24]byte

	// Atomic: written by the program; a cache line of its own.
	picked  atomic.Uint32
	skipped atomic.Uint32
	_       [56]byte
}

// Admitted says that n connections have been accepted by this worker and are
// active from now on. It is Accepted(n) and Active(n) in one step, so that a
// decision at this very moment sees each connection exactly once.
func (s *Slot) Admitted(n int) {
	v := s.connections.Load()
	s.connections.Store(uint64(addActive(v, n))<<32 | uint64(uint32(v)+uint32(n)))
}

// Accepted says that accept4 has returned n connections: they are no longer
// pending. Call Active(n) for those that stay, or Admitted instead of both.
// With several connections at once, call both for each: between the two a
// connection counts twice or not at all.
func (s *Slot) Accepted(n int) {
	v := s.connections.Load()
	s.connections.Store(v&^0xffffffff | uint64(uint32(v)+uint32(n)))
}

// Active changes what the worker carries: 1 for each connection that stays, -1
// when it is closed, and any other weight that should steer connections
// elsewhere. It never falls below 0.
func (s *Slot) Active(delta int) {
	v := s.connections.Load()
	s.connections.Store(uint64(addActive(v, delta))<<32 | v&0xffffffff)
}

func addActive(connections uint64, delta int) uint32 {
	return uint32(min(max(int64(connections>>32)+int64(delta), 0), 1<<31))
}

// BusySince says when epoll_wait returned with events: CLOCK_MONOTONIC in
// nanoseconds. 0 says that the worker is about to park in epoll_wait. A worker
// that is busy for longer than Options.StallNanos gets no new connections.
func (s *Slot) BusySince(nanos int64) { s.busySince.Store(nanos) }

// Rescued says that another thread has accepted n connections from this
// worker's listening socket. The worker that gets them calls Active(n).
func (s *Slot) Rescued(n int) { s.rescued.Add(uint32(n)) }

// Resync corrects the number of pending connections. Call it whenever accept4
// has returned EAGAIN, between BusySince(now) and BusySince(0); before or after
// Accepted for the connections that came first.
//
// Connections sent here and not accepted, although the accept queue is empty,
// are either still in their handshake, which must go on counting, or will never
// come: the program also runs for a SYN that is answered by a cookie, for one
// whose client gives up, and for a connection refused by a full queue. So what
// is missing now is forgotten by the first call that comes one second later, if
// it is missing then. A surplus (connections that came by other ways than the
// program) is forgotten at once.
func (s *Slot) Resync() {
	v := s.connections.Load()
	picked := s.picked.Load()
	accepted := uint32(v) + s.rescued.Load()
	if int32(picked-accepted) <= 0 {
		s.resyncArmed = 0
		s.forget(v, picked-accepted)
		return
	}
	now := s.busySince.Load()
	if s.resyncArmed == 0 {
		s.resyncMark, s.resyncAt, s.resyncArmed = picked, now, 1
		return
	}
	if now-s.resyncAt < resyncGrace {
		return
	}
	// Connections are accepted roughly in the order in which they were sent.
	if old := s.resyncMark - accepted; int32(old) > 0 {
		s.forget(v, old)
	}
	s.resyncMark, s.resyncAt = picked, now
}

// forget counts n pending connections (modulo 2^32) as accepted without making
// them active.
func (s *Slot) forget(v uint64, n uint32) {
	if n != 0 {
		s.connections.Store(v&^0xffffffff | uint64(uint32(v)+n))
	}
}

// Load is a snapshot of a slot for the admin port. Its fields are read one
// after another and need not belong to the same instant. Counters wrap at 2^32.
type Load struct {
	Active    uint32 // connections, or what Active made of them
	Pending   uint32 // sent to the worker, not yet accepted; eBPF modes only
	Accepted  uint32 // includes those that Resync gave up
	Rescued   uint32 // accepted by other threads
	Picked    uint32 // sent to the worker; eBPF modes only
	Skipped   uint32 // decisions that found it stalled or draining; eBPF modes only
	Draining  bool
	BusySince int64 // CLOCK_MONOTONIC in nanoseconds, 0 while parked
}

// Load returns the slot's present values.
func (s *Slot) Load() Load {
	v := s.connections.Load()
	l := Load{
		Active: uint32(v >> 32), Accepted: uint32(v), Rescued: s.rescued.Load(),
		Picked: s.picked.Load(), Skipped: s.skipped.Load(),
		Draining: s.flags.Load()&drainingFlag != 0, BusySince: s.busySince.Load(),
	}
	if pending := int32(l.Picked - l.Accepted - l.Rescued); pending > 0 {
		l.Pending = uint32(pending)
	}
	return l
}

// Carries is the cost of the worker, as the program reckons it: what Active has made of it and what is pending. open tells whether the program would
// send connections there at the time now (CLOCK_MONOTONIC in nanoseconds) although there are others: the worker is not draining, and not busy for longer
// than the default of Options.StallNanos. Any thread.
func (s *Slot) Carries(now int64) (cost int, open bool) {
	l := s.Load()
	return int(l.Active) + int(min(l.Pending, defaultBacklog)), !l.Draining && (l.BusySince == 0 || now-l.BusySince <= defaultStallNanos)
}

func (s *Slot) setDraining(draining bool) {
	if draining {
		s.flags.Or(drainingFlag)
	} else {
		s.flags.And(^uint32(drainingFlag))
	}
}
