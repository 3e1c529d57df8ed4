// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"sidecar/dataplane/sys"
)

// clock is the real kernel with a clock that tests move.
type clock struct {
	*sys.Linux
	t sys.Nanos
}

func (c *clock) Now() sys.Nanos { return c.t }

func newLoop(t testing.TB, k sys.Kernel, handle func(Msg)) *Loop {
	if handle == nil {
		handle = func(Msg) {}
	}
	l, err := New(Config{Kernel: k, Seed: 7}, handle)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// runner is a Runnable from a function.
type runner struct {
	task  Task
	timer Timer
	runs  int
	fn    func(now sys.Nanos) Step
	why   any
}

func (r *runner) Advance(now sys.Nanos) Step {
	r.runs++
	if r.fn == nil {
		return Idle
	}
	return r.fn(now)
}

func (r *runner) Poison(why any) { r.why = why }

func newRunner(fn func(sys.Nanos) Step) *runner {
	r := &runner{fn: fn}
	r.task.Init(r)
	r.timer.Init(&r.task)
	return r
}

type sourceFunc func(sys.Events)

func (f sourceFunc) Notify(ev sys.Events) { f(ev) }

func pipe(t *testing.T) (r, w int) {
	p := make([]int, 2)
	if err := unix.Pipe2(p, unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(p[0]); unix.Close(p[1]) })
	return p[0], p[1]
}

func TestTurn_WhenEverythingIsReady_ThenEventsMessagesTimersAndTasksInThisOrder(t *testing.T) {
	k := &clock{sys.NewLinux(), sys.Second}
	var order []string
	var l *Loop
	note := func(s string) { order = append(order, s) }
	l = newLoop(t, k, func(m Msg) { note("message") })
	task := newRunner(func(sys.Nanos) Step { note("task"); return Done })
	timed := newRunner(func(sys.Nanos) Step { note("timer"); return Done })
	r, w := pipe(t)
	if _, e := l.Register(sys.FD(r), sourceFunc(func(sys.Events) { note("event"); l.Ready(&task.task) }), sys.EventIn|sys.EventET); e != 0 {
		t.Fatal(e)
	}
	l.Arm(&timed.timer, k.t+5*sys.Millisecond)
	_, _ = unix.Write(w, []byte("x"))
	l.Mailbox().Post(Msg{Kind: 1})
	k.t += 10 * sys.Millisecond
	l.Turn(false)
	if got := strings.Join(order, " "); got != "event message task timer" || !timed.timer.Fired() {
		t.Errorf("order %q, fired %v", got, timed.timer.Fired())
	}
	if l.Now() != k.t || l.Wall() == 0 {
		t.Errorf("now %d", l.Now())
	}
}

func TestReady_WhenQueuedTwice_ThenRunOnceInOrderAndNeverInside(t *testing.T) {
	l := newLoop(t, sys.NewLinux(), nil)
	var order []int
	var rs [3]*runner
	for i := range rs {
		rs[i] = newRunner(func(sys.Nanos) Step {
			order = append(order, i)
			if i == 0 && len(order) == 1 {
				l.Ready(&rs[0].task) // itself: runs again later
				l.Ready(&rs[2].task) // queued already
				if len(order) != 1 {
					t.Error("ran inside another Advance")
				}
			}
			return Idle
		})
		l.Ready(&rs[i].task)
		l.Ready(&rs[i].task)
	}
	l.Ready(nil)
	l.Ready(&Task{})
	l.Turn(false)
	if fmt.Sprint(order) != "[0 1 2 0]" {
		t.Errorf("order %v", order)
	}
}

func TestCancel_WhenQueued_ThenNotRun(t *testing.T) {
	l := newLoop(t, sys.NewLinux(), nil)
	var rs [100]*runner
	for i := range rs {
		rs[i] = newRunner(nil)
		l.Ready(&rs[i].task)
	}
	for i := 0; i < len(rs); i += 3 {
		l.Cancel(&rs[i].task)
		l.Cancel(&rs[i].task)
	}
	l.Turn(false)
	for i, r := range rs {
		if want := min(i%3, 1); r.runs != want {
			t.Errorf("task %d ran %d times", i, r.runs)
		}
	}
	l.Ready(&rs[0].task)
	l.Turn(false)
	if rs[0].runs != 1 {
		t.Error("a cancelled task cannot be queued again")
	}
}

func TestTurn_WhenATaskNeverStops_ThenOthersRunAndTheTurnEnds(t *testing.T) {
	l := newLoop(t, sys.NewLinux(), nil)
	greedy := newRunner(func(sys.Nanos) Step { return Again })
	l.Ready(&greedy.task)
	other := newRunner(nil)
	l.Ready(&other.task)
	l.Turn(true) // must not block: work is left
	if other.runs != 1 || greedy.runs != 1 || l.Queued() != 1 {
		t.Errorf("greedy ran %d times, the other %d, %d queued", greedy.runs, other.runs, l.Queued())
	}
	l.Turn(true)
	if greedy.runs != 2 || l.Queued() != 1 {
		t.Errorf("greedy ran %d times in two turns, %d queued", greedy.runs, l.Queued())
	}
	l.Cancel(&greedy.task)
	if l.Queued() != 0 {
		t.Error("it is still queued")
	}
}

func TestTurn_WhenATaskHasHadItsShare_ThenWhatCameMeanwhileGoesFirst(t *testing.T) {
	l := newLoop(t, sys.NewLinux(), nil)
	r, w := pipe(t)
	order := ""
	other := newRunner(func(sys.Nanos) Step { order += "o"; return Idle })
	if _, e := l.Register(sys.FD(r), sourceFunc(func(sys.Events) { l.Ready(&other.task) }), sys.EventIn|sys.EventET); e != 0 {
		t.Fatal(e)
	}
	greedy := newRunner(func(sys.Nanos) Step {
		if order += "g"; order == "g" {
			_, _ = unix.Write(w, []byte("x"))
		}
		return Again
	})
	l.Ready(&greedy.task)
	l.Turn(true)
	l.Turn(true)
	if order != "gog" {
		t.Errorf("order %q", order)
	}
}

func TestTurn_WhenTasksTakeLong_ThenTheClockIsSeenAfterEach(t *testing.T) {
	k := &clock{sys.NewLinux(), sys.Second}
	l := newLoop(t, k, nil)
	var rs [8]*runner
	total := 0
	for i := range rs {
		rs[i] = newRunner(func(sys.Nanos) Step { k.t += maxTurn; total++; return Again })
		l.Ready(&rs[i].task)
	}
	for turn := 1; turn <= len(rs)/2; turn++ {
		if l.Turn(true); total != 2*turn {
			t.Errorf("%d runs in %d turns, of %v each", total, turn, maxTurn)
		}
	}
}

func TestTurn_WhenTheBudgetIsUsedUp_ThenTheRestWaits(t *testing.T) {
	k := &clock{sys.NewLinux(), sys.Second}
	l := newLoop(t, k, nil)
	var rs [4 * clockEvery]*runner
	total := 0
	for i := range rs {
		rs[i] = newRunner(func(sys.Nanos) Step { k.t += maxTurn / (clockEvery - 1); total++; return Idle })
		l.Ready(&rs[i].task)
	}
	l.Turn(false)
	if total == 0 || total > 2*clockEvery {
		t.Errorf("%d runs in a turn of %v", total, maxTurn)
	}
	for range 8 {
		l.Turn(false)
	}
	if total != len(rs) {
		t.Errorf("%d of %d ran", total, len(rs))
	}
}

func TestRegister_WhenASlotIsReused_ThenOldTokensAreStale(t *testing.T) {
	l := newLoop(t, sys.NewLinux(), nil)
	r, w := pipe(t)
	hits := 0
	src := sourceFunc(func(sys.Events) { hits++ })
	old, e := l.Register(sys.FD(r), src, sys.EventIn|sys.EventET)
	if e != 0 {
		t.Fatal(e)
	}
	_, _ = unix.Write(w, []byte("x"))
	l.Detach(sys.FD(r))
	l.Unregister(old)
	l.Unregister(old) // stale: nothing
	token, e := l.Register(sys.FD(r), src, sys.EventIn|sys.EventET)
	if e != 0 || uint32(token) != uint32(old) || token == old {
		t.Fatalf("token %x after %x: the slot must be reused under another generation", token, old)
	}
	l.Unregister(old)
	l.record(&sys.Event{Token: old})
	l.record(&sys.Event{Token: 1 << 20})
	if hits != 0 || l.Stats().Stale != 2 {
		t.Errorf("%d hits, %d stale", hits, l.Stats().Stale)
	}
	l.Turn(false)
	if hits != 1 {
		t.Errorf("%d hits", hits)
	}
	if _, e := l.Register(-1, src, sys.EventIn); e == 0 {
		t.Error("a bad descriptor was registered")
	}
}

func TestTurn_WhenARunnablePanics_ThenItIsPoisonedAndTheRestRuns(t *testing.T) {
	was := OnPanic
	defer func() { OnPanic = was }()
	var reported []any
	OnPanic = func(_ int, why any) { reported = append(reported, why) }
	l := newLoop(t, sys.NewLinux(), nil)
	a, bad, b := newRunner(nil), newRunner(func(sys.Nanos) Step { panic("boom") }), newRunner(nil)
	worse := &doublePanic{}
	worse.task.Init(worse)
	for _, x := range []*Task{&a.task, &bad.task, &worse.task, &b.task} {
		l.Ready(x)
	}
	l.Turn(false)
	if a.runs != 1 || b.runs != 1 || bad.why != "boom" || l.Stats().Panics != 2 || len(reported) != 2 {
		t.Errorf("a %d, b %d, poisoned with %v, %d panics, reported %v", a.runs, b.runs, bad.why, l.Stats().Panics, reported)
	}
	l.Ready(&a.task)
	l.Turn(false)
	if a.runs != 2 {
		t.Error("the loop is stuck")
	}
}

type doublePanic struct{ task Task }

func (*doublePanic) Advance(sys.Nanos) Step { panic("first") }
func (*doublePanic) Poison(any)             { panic("second") }

func TestTimer_WhenMovedAndDisarmed_ThenFiresOnceAtTheLastTime(t *testing.T) {
	k := &clock{sys.NewLinux(), sys.Second}
	l := newLoop(t, k, nil)
	r := newRunner(nil)
	l.Arm(&r.timer, k.t+10*sys.Millisecond)
	l.Arm(&r.timer, k.t+30*sys.Millisecond)
	k.t += 20 * sys.Millisecond
	l.Turn(false)
	if r.runs != 0 || !r.timer.Armed() {
		t.Fatal("fired at the old time")
	}
	k.t += 11 * sys.Millisecond
	l.Turn(false)
	l.Turn(false)
	if r.runs != 1 || !r.timer.Fired() || r.timer.Armed() {
		t.Errorf("%d runs", r.runs)
	}
	l.Arm(&r.timer, k.t+5*sys.Millisecond)
	if r.timer.Fired() {
		t.Error("arming must clear Fired")
	}
	l.Disarm(&r.timer)
	k.t += sys.Second
	l.Turn(false)
	if r.runs != 1 || l.Timers() != 0 {
		t.Error("a disarmed timer fired")
	}
}

func TestTurn_WhenBlocking_ThenWokenByTimerMessageAndWake(t *testing.T) {
	var got atomic.Int32
	l := newLoop(t, sys.NewLinux(), func(Msg) { got.Add(1) })
	r := newRunner(nil)
	start := time.Now()
	l.Arm(&r.timer, l.Now()+20*sys.Millisecond)
	for r.runs == 0 {
		l.Turn(true)
	}
	if d := time.Since(start); d < 15*time.Millisecond || d > 5*time.Second {
		t.Errorf("timer after %v", d)
	}
	go func() {
		time.Sleep(10 * time.Millisecond)
		l.Mailbox().Post(Msg{})
	}()
	for got.Load() == 0 {
		l.Turn(true)
	}
	go func() {
		time.Sleep(10 * time.Millisecond)
		l.Mailbox().Wake()
	}()
	l.Turn(true)
	if l.Stats().Turns > 20 {
		t.Errorf("%d turns: a blocking turn must block", l.Stats().Turns)
	}
}

func TestMailbox_WhenFull_ThenRefusedAndNothingIsLost(t *testing.T) {
	n := 0
	l := newLoop(t, sys.NewLinux(), func(m Msg) {
		if m.Payload.(int) != n {
			t.Errorf("message %v, want %d", m.Payload, n)
		}
		n++
	})
	posted := 0
	for l.Mailbox().Post(Msg{Payload: posted}) {
		posted++
	}
	if posted != mailboxSize {
		t.Errorf("%d fit, want %d", posted, mailboxSize)
	}
	l.Turn(true)
	if n != maxMessages {
		t.Errorf("%d messages in a turn, want %d", n, maxMessages)
	}
	if !l.Mailbox().Post(Msg{Payload: posted}) {
		t.Error("no room after a turn")
	}
	for n < posted+1 {
		l.Turn(true) // blocks for ever if the rest is forgotten
	}
}

func TestMailbox_WhenManyPostToASleepingWorker_ThenEveryMessageWakes(t *testing.T) {
	const producers, each = 4, 3000
	var next [producers]int
	total := 0
	l := newLoop(t, sys.NewLinux(), func(m Msg) {
		p := int(m.Kind)
		if m.Payload.(int) != next[p] {
			t.Errorf("producer %d: message %v, want %d", p, m.Payload, next[p])
		}
		next[p]++
		total++
	})
	var wg sync.WaitGroup
	for p := range producers {
		wg.Go(func() {
			for i := range each {
				for !l.Mailbox().Post(Msg{Kind: uint8(p), Payload: i}) {
					time.Sleep(time.Microsecond)
				}
				if i%64 == 0 {
					time.Sleep(50 * time.Microsecond) // lets the worker fall asleep
				}
			}
		})
	}
	deadline := time.AfterFunc(20*time.Second, func() { panic("a wake-up was lost") })
	for total < producers*each {
		l.Turn(true)
	}
	deadline.Stop()
	wg.Wait()
}

// load records what steering would see.
type load struct{ seen []int64 }

func (s *load) BusySince(n int64) { s.seen = append(s.seen, n) }

func TestTurn_WhenItParks_ThenSteeringSeesParkedAndBusy(t *testing.T) {
	s := &load{}
	k := sys.NewLinux()
	l, err := New(Config{Kernel: k, Load: s}, func(Msg) {})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r := newRunner(nil)
	l.Arm(&r.timer, l.Now()+3*sys.Millisecond)
	l.Turn(true)
	if len(s.seen) < 2 || s.seen[0] != 0 || s.seen[len(s.seen)-1] == 0 {
		t.Errorf("steering saw %v", s.seen)
	}
}

type spill struct{ n int }

func (s *spill) Spill() { s.n++ }

func TestScratch_WhenAnotherTakesIt_ThenTheHolderSpills(t *testing.T) {
	l := newLoop(t, sys.NewLinux(), nil)
	a, b := &spill{}, &spill{}
	l.Scratch(a)
	l.Scratch(a)
	if len(l.Scratch(b)) != ScratchSize || a.n != 1 || b.n != 0 {
		t.Errorf("spills: a %d, b %d", a.n, b.n)
	}
	l.DropScratch(a) // not the holder
	l.DropScratch(b)
	l.Scratch(a)
	if b.n != 0 {
		t.Error("who gave the scratch up must not be asked")
	}
}

func TestEnc_WhenItGrew_ThenKeptWithinTheBound(t *testing.T) {
	l := newLoop(t, sys.NewLinux(), nil)
	l.SetEnc(append(l.Enc(), make([]byte, 100<<10)...))
	if cap(l.Enc()) < 100<<10 || len(l.Enc()) != 0 {
		t.Errorf("capacity %d", cap(l.Enc()))
	}
	was := cap(l.Enc())
	l.SetEnc(make([]byte, 0, 2<<20))
	if cap(l.Enc()) != was {
		t.Error("a huge buffer was kept")
	}
}

func TestSlab_WhenObjectsComeBack_ThenReusedAndAddressesStay(t *testing.T) {
	var s Slab[[4]int]
	seen := map[*[4]int]bool{}
	var all []*[4]int
	for range 3 * slabChunk {
		x := s.Get()
		if seen[x] {
			t.Fatal("one object handed out twice")
		}
		seen[x] = true
		all = append(all, x)
	}
	for _, x := range all {
		s.Put(x)
	}
	if s.Live() != 0 || !seen[s.Get()] || s.Live() != 1 {
		t.Error("not reused")
	}
}

func TestDate_WhenTheSecondChanges_ThenRewritten(t *testing.T) {
	l := newLoop(t, sys.NewLinux(), nil)
	l.wall = 784111777e9
	if got := string(l.Date()); got != "Sun, 06 Nov 1994 08:49:37 GMT" {
		t.Error(got)
	}
	first := &l.Date()[0]
	l.wall += 999e6 - 1
	if &l.Date()[0] != first {
		t.Error("rewritten within a second")
	}
	l.wall += 1e9
	if got := string(l.Date()); got != "Sun, 06 Nov 1994 08:49:38 GMT" {
		t.Error(got)
	}
}

func TestSizes_WhenEmbedded_ThenSmall(t *testing.T) {
	if n := unsafe.Sizeof(Task{}); n > 24 {
		t.Errorf("Task has %d bytes", n)
	}
	if n := unsafe.Sizeof(Timer{}); n > 56 {
		t.Errorf("Timer has %d bytes", n)
	}
	if n := unsafe.Sizeof(slot{}); n > 24 {
		t.Errorf("slot has %d bytes", n)
	}
}

func TestTurn_WhenSteady_ThenNothingIsAllocated(t *testing.T) {
	l := newLoop(t, sys.NewLinux(), nil)
	r, w := pipe(t)
	task := newRunner(nil)
	var one [1]byte
	_, _ = l.Register(sys.FD(r), sourceFunc(func(sys.Events) { l.Ready(&task.task) }), sys.EventIn|sys.EventET)
	n := testing.AllocsPerRun(500, func() {
		_, _ = unix.Write(w, one[:])
		l.Arm(&task.timer, l.Now()+sys.Second)
		l.Turn(false)
		_, _ = unix.Read(r, one[:])
	})
	if n != 0 || task.runs == 0 {
		t.Errorf("%v allocations per turn, %d runs", n, task.runs)
	}
}

// flusher writes down that it was flushed, and with what.
type flusher struct{ log *[]string }

func (f *flusher) Flush(p []byte) { *f.log = append(*f.log, "flush:"+string(p)) }

func (f *flusher) say(l *Loop, what string) { l.Staged(f, append(l.Stage(len(what)), what...)) }

func TestStage_WhenTasksHaveRun_ThenFlushedBehindThemOrEarlierAtTheBounds(t *testing.T) {
	for _, tc := range []struct {
		name string
		run  func(l *Loop, f, g *flusher) Step
		want string
	}{
		{"two in turns", func(l *Loop, f, g *flusher) Step { f.say(l, "a"); g.say(l, "b"); f.say(l, "c"); return Idle }, "run flush:a flush:b flush:c"},
		{"one after the other", func(l *Loop, f, g *flusher) Step { f.say(l, "a"); f.say(l, "b"); g.say(l, "c"); return Idle }, "run flush:ab flush:c"},
		{"a long run", func(l *Loop, f, _ *flusher) Step { f.say(l, "a"); return Again }, "run flush:a"},
		{"hurry", func(l *Loop, f, _ *flusher) Step { f.say(l, "a"); l.Hurry(); l.Hurry(); return Idle }, "flush:a run"},
		{"a panic", func(l *Loop, f, _ *flusher) Step { f.say(l, "a"); panic("x") }, "flush:a"},
		{"many bytes", func(l *Loop, f, _ *flusher) Step { f.say(l, strings.Repeat("a", stageSize+1)); return Idle },
			"flush:" + strings.Repeat("a", stageSize+1) + " run"},
	} {
		var log []string
		l := newLoop(t, sys.NewLinux(), nil)
		r := newRunner(func(sys.Nanos) Step {
			s := tc.run(l, &flusher{&log}, &flusher{&log})
			log = append(log, "run")
			return s
		})
		l.Ready(&r.task)
		l.Turn(false)
		if got := strings.Join(log, " "); got != tc.want {
			t.Errorf("%s: %.60s, want %.60s", tc.name, got, tc.want)
		}
		if n := l.Bufs.Outstanding(); n != 0 {
			t.Errorf("%s: %d bytes left", tc.name, n)
		}
	}
	var log []string
	l := newLoop(t, sys.NewLinux(), nil)
	for range maxStaged + 1 {
		(&flusher{&log}).say(l, "a")
	}
	if len(log) != maxStaged {
		t.Errorf("%d flushed before the end of the turn, want %d", len(log), maxStaged)
	}
	if l.Turn(false); len(log) != maxStaged+1 {
		t.Errorf("%d flushed, want %d", len(log), maxStaged+1)
	}
}
