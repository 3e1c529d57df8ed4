// SPDX-License-Identifier: Apache-2.0

// Package loop is the turn of one worker: epoll, run queue, timers, mailbox. It is owned by one thread; every registered object is touched only
// inside a turn. Readiness is data: an event sets bits on a Source and queues its owner Task, which runs later in the same turn, to completion,
// never re-entrantly.
package loop

import (
	"slices"

	"sidecar/dataplane/buf"
	"sidecar/dataplane/sys"
	"sidecar/dataplane/timer"
)

// Bounds of one turn.
const (
	maxEvents   = 512
	maxMessages = 256
	// maxRuns and maxTurn bound step 5; what is left runs in the next turn, whose epoll_wait then does not block.
	maxRuns = 512
	maxTurn = 2 * sys.Millisecond
	// busyEvents in one turn mean that more have come by its end: the next turn looks for them without the scheduler's part in a blocking wait.
	// With fewer the look would mostly find nothing and be a system call in vain.
	busyEvents = 4
	// clockEvery is how many runs pass between two looks at the clock; one that has had its share is followed by a look in any case.
	clockEvery = 32
	// maxStaged is how many pieces of output wait for the end of the turn: a system call each, that is less than half a millisecond of sending. More than
	// stageSize bytes do not wait either.
	maxStaged = 64
	stageSize = 32 << 10
	// ScratchSize is the shared read buffer: 256 KiB halves the cost of bulk transfer against 16 KiB and costs nothing per connection.
	ScratchSize = 256 << 10
)

// Step is what a Runnable asks for.
type Step uint8

// The steps.
const (
	Idle  Step = iota // nothing to do until the next wake-up
	Again             // it has had its share of this turn: run me again in the next, after what has come meanwhile
	Done              // finished; the same as Idle to the loop
)

// Runnable is a state machine that the loop drives.
type Runnable interface {
	// Advance runs to completion, never blocks, never calls another Runnable's Advance.
	Advance(now sys.Nanos) Step
}

// Poisoner is a Runnable that can be told that its Advance panicked; it must release what it holds (close its connections).
type Poisoner interface{ Poison(reason any) }

// Task is a Runnable's membership in the run queue. It is embedded in what it runs.
type Task struct {
	run    Runnable
	queued bool
	later  bool
}

// Init binds the task; once per object lifetime, because the interface value is what gets stored.
func (t *Task) Init(r Runnable) { t.run = r }

// Timer is a deadline of one Task: on expiry Fired turns true and the task is queued.
type Timer struct{ e timer.Entry[Task] }

// Init binds the timer to the task it wakes.
func (t *Timer) Init(task *Task) { t.e.Owner = task }

// Fired tells whether the timer expired since it was last armed or disarmed.
func (t *Timer) Fired() bool { return t.e.Fired() }

// Armed tells whether the timer runs.
func (t *Timer) Armed() bool { return t.e.Armed() }

// Source is something epoll reports on. Notify is called while events are recorded and must only set bits, flush and queue tasks.
type Source interface{ Notify(ev sys.Events) }

type slot struct {
	src Source
	gen uint32
}

// Flusher is whose output leaves at the end of the turn, see Stage. Flush must only write p, set bits and queue tasks.
type Flusher interface{ Flush(p []byte) }

// staged is n bytes of the stage that are f's.
type staged struct {
	f Flusher
	n int
}

// LoadSlot is where the worker publishes its state for steering; implemented by ebpf.Slot through fleet. BusySince(0) means parked.
type LoadSlot interface{ BusySince(nanos int64) }

// Config makes a Loop.
type Config struct {
	Kernel sys.Kernel
	Worker int
	Seed   uint64
	Load   LoadSlot // may be nil
}

// Loop is one worker's engine.
type Loop struct {
	// Immutable
	K      sys.Kernel
	worker int
	load   LoadSlot
	ep     sys.FD
	wake   sys.FD

	// Worker
	Bufs    buf.Pool
	now     sys.Nanos
	wall    int64
	rng     rng
	slots   []slot
	free    []uint32
	events  []sys.Event
	queue   taskRing
	later   []*Task   // for the next turn
	stage   []byte    // output for the end of this turn, from Bufs; nil without any
	staged  []staged  // whose, in this order
	busy    bool      // the last turn brought busyEvents
	slept   sys.Nanos // when this turn's wait began; 0 without one
	parked  sys.Nanos // spent waiting in all
	wheel   timer.Wheel[Task]
	expired []*timer.Entry[Task]
	scratch []byte
	holder  Spiller
	enc     []byte
	date    []byte
	dateSec int64
	current *Task
	handle  func(Msg)
	stats   Counts

	// Atomic
	box Mailbox
}

// Counts are the loop's own numbers, read by the owner thread.
type Counts struct {
	Turns, Events, Stale, Runs, Panics, Messages uint64
}

// Spiller is a holder of the shared read scratch: Spill moves its unread bytes to a buffer of its own.
type Spiller interface{ Spill() }

// New makes a loop. handle receives mailbox messages inside the turn.
func New(c Config, handle func(Msg)) (*Loop, error) {
	l := &Loop{K: c.Kernel, worker: c.Worker, load: c.Load, handle: handle}
	l.rng.seed(c.Seed)
	var e sys.Errno
	if l.ep, e = l.K.EpollCreate(); e != 0 {
		return nil, e
	}
	if l.wake, e = l.K.WakeFD(); e != 0 {
		return nil, e
	}
	l.box.init(l.wake)
	if e = l.K.EpollAdd(l.ep, l.wake, wakeToken, sys.EventIn|sys.EventET); e != 0 {
		return nil, e
	}
	l.events = make([]sys.Event, maxEvents)
	l.scratch = make([]byte, ScratchSize)
	l.enc = make([]byte, 0, 32<<10)
	l.slots = make([]slot, 1, 64) // slot 0 is never used, so that no token is zero
	l.tick()
	l.wheel.Init(int64(l.now))
	return l, nil
}

const wakeToken = ^uint64(0)

// Worker is the worker's index.
func (l *Loop) Worker() int { return l.worker }

// Now is the monotonic time, read once per turn.
func (l *Loop) Now() sys.Nanos { return l.now }

// Wall is the Unix time in nanoseconds that belongs to Now.
func (l *Loop) Wall() int64 { return l.wall }

// Rand returns fresh random bits of the worker's generator.
func (l *Loop) Rand() uint64 { return l.rng.next() }

// Mailbox is how other threads reach this loop.
func (l *Loop) Mailbox() *Mailbox { return &l.box }

// Stats returns the loop's numbers.
func (l *Loop) Stats() Counts { return l.stats }

// Parked is how long the worker has waited for events since it was made: the rest of the time it was busy, or other threads had its CPU.
func (l *Loop) Parked() sys.Nanos { return l.parked }

func (l *Loop) tick() {
	l.now = l.K.Now()
	l.wall = l.K.WallNanos()
}

// Register adds fd to epoll, edge-triggered, once for its whole life, and returns its token.
func (l *Loop) Register(fd sys.FD, src Source, ev sys.Events) (token uint64, e sys.Errno) {
	var i uint32
	if n := len(l.free); n > 0 {
		i = l.free[n-1]
		l.free = l.free[:n-1]
	} else {
		i = uint32(len(l.slots))
		l.slots = append(l.slots, slot{})
	}
	s := &l.slots[i]
	s.src = src
	token = uint64(i) | uint64(s.gen)<<32
	if e = l.K.EpollAdd(l.ep, fd, token, ev); e != 0 {
		l.Unregister(token)
		return 0, e
	}
	return token, 0
}

// Unregister forgets a token: events that are still in the current batch are dropped by generation. The caller closes the descriptor, which takes
// it out of epoll; a descriptor that stays open must be given to Detach first.
func (l *Loop) Unregister(token uint64) {
	i := uint32(token)
	if uint32(token>>32) == l.slots[i].gen && l.slots[i].src != nil {
		l.Free(i)
	}
}

// Free is Unregister for an owner that keeps only the slot, the lower half of its token, and calls it exactly once.
func (l *Loop) Free(slot uint32) {
	s := &l.slots[slot]
	s.src = nil
	s.gen++
	l.free = append(l.free, slot)
}

// Detach takes an open descriptor out of epoll.
func (l *Loop) Detach(fd sys.FD) { l.K.EpollDel(l.ep, fd) }

// Ready queues t once.
func (l *Loop) Ready(t *Task) {
	if t == nil || t.queued || t.run == nil {
		return
	}
	t.queued = true
	l.queue.push(t)
}

// Later queues t for the next turn, which then does not block: for work that has had its share of this one.
func (l *Loop) Later(t *Task) {
	if !t.later {
		t.later = true
		l.later = append(l.later, t)
	}
}

// Cancel makes a queued task a no-op; needed before its object is reused.
func (l *Loop) Cancel(t *Task) {
	if t.later {
		t.later = false
		l.later = slices.DeleteFunc(l.later, func(x *Task) bool { return x == t })
	}
	if t.queued {
		l.queue.remove(t)
		t.queued = false
	}
}

// Arm sets t to fire at the absolute time at.
func (l *Loop) Arm(t *Timer, at sys.Nanos) { l.wheel.Arm(&t.e, int64(at)) }

// Disarm stops t.
func (l *Loop) Disarm(t *Timer) { l.wheel.Disarm(&t.e) }

// Scratch lends the shared read buffer to s; the previous holder spills what it has not consumed.
func (l *Loop) Scratch(s Spiller) []byte {
	if l.holder != nil && l.holder != s {
		l.holder.Spill()
	}
	l.holder = s
	return l.scratch
}

// DropScratch ends s's hold without spilling.
func (l *Loop) DropScratch(s Spiller) {
	if l.holder == s {
		l.holder = nil
	}
}

// Enc is the shared encode buffer at length 0; valid within one Advance. SetEnc keeps it after it grew (bounded: larger ones are dropped).
func (l *Loop) Enc() []byte { return l.enc[:0] }

// SetEnc gives a grown encode buffer back.
func (l *Loop) SetEnc(b []byte) {
	if cap(b) > cap(l.enc) && cap(b) <= 1<<20 {
		l.enc = b
	}
}

// Turn runs one turn. With block it may wait for events or the next deadline.
func (l *Loop) Turn(block bool) {
	l.stats.Turns++
	block = block && l.queue.n == 0 && len(l.later) == 0
	n, e := 0, sys.Errno(0)
	if l.busy || !block {
		n, e = l.K.EpollWait(l.ep, l.events, 0)
	}
	if n == 0 && e == 0 && block {
		n = l.park()
	}
	l.busy = n >= busyEvents
	l.tick()
	if l.slept != 0 {
		l.parked += l.now - l.slept
		l.slept = 0
	}
	if l.load != nil {
		l.load.BusySince(int64(l.now))
	}
	for i := range n {
		l.record(&l.events[i])
	}
	l.stats.Events += uint64(n)
	l.messages()
	l.expired = l.wheel.Advance(int64(l.now), l.expired[:0])
	for _, x := range l.expired {
		l.Ready(x.Owner)
	}
	for _, t := range l.later {
		t.later = false
		l.Ready(t)
	}
	clear(l.later)
	l.later = l.later[:0]
	l.runQueue()
	l.Hurry()
}

// Stage returns the output that waits for the end of the turn, with room for n bytes behind it. Append to it and give it back with Staged.
func (l *Loop) Stage(n int) []byte {
	if l.stage == nil {
		l.stage = l.Bufs.Get(max(n, stageSize))
	}
	l.stage = l.Bufs.Grow(l.stage, n)
	return l.stage
}

// Staged takes the output back, with what f has appended. f gets that at the end of the turn, or when maxStaged wait or more than stageSize bytes.
func (l *Loop) Staged(f Flusher, b []byte) {
	n := len(b) - len(l.stage)
	l.stage = b
	if i := len(l.staged) - 1; i >= 0 && l.staged[i].f == f {
		l.staged[i].n += n
	} else {
		l.staged = append(l.staged, staged{f, n})
	}
	if len(l.staged) >= maxStaged || len(b) > stageSize {
		l.Hurry()
	}
}

// Hurry flushes what waits for the end of the turn now: before work that takes long, or when a connection's output must not wait any more.
func (l *Loop) Hurry() {
	if l.stage == nil {
		return
	}
	rest := l.stage
	for i, x := range l.staged {
		l.staged[i] = staged{}
		x.f.Flush(rest[:x.n])
		rest = rest[x.n:]
	}
	l.staged = l.staged[:0]
	l.Bufs.Put(l.stage)
	l.stage = nil
}

// park blocks until an event or the next deadline. The mailbox is checked after the sleeping flag is up, so a message cannot be missed.
func (l *Loop) park() int {
	timeout, now := sys.Nanos(-1), l.K.Now()
	if next := l.wheel.Next(); next >= 0 {
		timeout = max(sys.Nanos(next)-now, 0)
		if timeout == 0 {
			return 0
		}
	}
	if !l.box.sleep() {
		return 0
	}
	l.slept = now
	if l.load != nil {
		l.load.BusySince(0)
	}
	n := 0
	if timeout < 0 || timeout > sys.BriefWait { // under traffic the next event is not far
		n, _ = l.K.EpollWait(l.ep, l.events, sys.BriefWait)
		timeout = max(timeout-sys.BriefWait, -1)
	}
	if n == 0 {
		n, _ = l.K.EpollWait(l.ep, l.events, timeout)
	}
	l.box.awake()
	return n
}

func (l *Loop) record(ev *sys.Event) {
	if ev.Token == wakeToken {
		l.K.DrainWake(l.wake)
		return
	}
	i := uint32(ev.Token)
	if int(i) >= len(l.slots) || l.slots[i].gen != uint32(ev.Token>>32) || l.slots[i].src == nil {
		l.stats.Stale++
		return
	}
	l.slots[i].src.Notify(ev.Events)
}

func (l *Loop) messages() {
	for range maxMessages {
		m, ok := l.box.take()
		if !ok {
			return
		}
		l.stats.Messages++
		l.handle(m)
	}
}

// Leftover hands the messages to fn that came after the last turn; when nobody posts any more.
func (l *Loop) Leftover(fn func(Msg)) {
	for m, ok := l.box.take(); ok; m, ok = l.box.take() {
		fn(m)
	}
}

// runQueue is step 5. A panic in one Advance poisons that task and the queue goes on.
func (l *Loop) runQueue() {
	left, deadline := maxRuns, l.now+maxTurn
	for left > 0 && l.queue.n > 0 {
		left = l.runSome(left, deadline)
	}
}

func (l *Loop) runSome(left int, deadline sys.Nanos) (rest int) {
	rest = left
	defer func() {
		if r := recover(); r != nil {
			l.contain(r)
		}
	}()
	for rest > 0 && l.queue.n > 0 {
		t := l.queue.pop()
		t.queued = false
		l.current = t
		rest--
		l.stats.Runs++
		again := t.run.Advance(l.now) == Again
		if again {
			l.Later(t)
			l.Hurry()
		}
		if (again || rest%clockEvery == 0) && l.K.Now() > deadline {
			rest = 0
		}
	}
	l.current = nil
	return rest
}

// OnPanic is called with every contained panic, for the log and the counter; set by the worker before the first turn.
var OnPanic func(worker int, reason any)

// Contained counts and reports a panic that somebody within an Advance has recovered from.
func (l *Loop) Contained(r any) {
	l.stats.Panics++
	if OnPanic != nil {
		OnPanic(l.worker, r)
	}
}

func (l *Loop) contain(r any) {
	t := l.current
	l.current = nil
	l.Contained(r)
	if t == nil {
		return
	}
	if p, ok := t.run.(Poisoner); ok {
		defer func() { _ = recover() }() // a poisoned object that panics again is leaked rather than fatal
		p.Poison(r)
	}
}

// Queued is how many tasks wait for the next turn.
func (l *Loop) Queued() int { return l.queue.n + len(l.later) }

// Timers is the number of armed timers.
func (l *Loop) Timers() int { return l.wheel.Len() }

// Close releases the loop's descriptors.
func (l *Loop) Close() {
	l.K.Close(l.ep)
	l.K.Close(l.wake)
}
