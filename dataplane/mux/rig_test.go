// SPDX-License-Identifier: Apache-2.0

package mux

import (
	"fmt"
	"runtime/debug"
	"strings"
	"testing"

	xh2 "golang.org/x/net/http2"

	"sidecar/dataplane/conn"
	"sidecar/dataplane/fault"
	"sidecar/dataplane/http2"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/loop"
	"sidecar/dataplane/sys"
	"sidecar/internal/nettest"
)

// maxEvents is the owner's bound, as the server and the pool have it.
const maxEvents = 256

// rig is an owner of one link, as the server or a member of a pool is, on a worker of its own; the test is the peer.
type rig struct {
	*nettest.Frames // of the peer
	t               testing.TB
	k               *nettest.Clock
	l               *loop.Loop
	sh              *Shared
	o               http2.Options
	link            Link
	task            loop.Task
	timer           loop.Timer
	p               *nettest.Peer
	users           []*user
	setup           func(*user) // of streams that the peer opens
	events          []string    // that belong to no stream
	runs            int
	over            Got // Failed or Gone
	limit           int // of the connection's buffer
}

// user is an exchange: run is what it does when it is run.
type user struct {
	r               *rig
	s               *Stream
	req             httpmsg.Head
	resp            httpmsg.Head
	a, b, c         httpmsg.Arena
	tr              httpmsg.Fields
	run             func(*user)
	got             strings.Builder // content
	log             []string        // what came but for that
	ended, answered bool
	clings          bool // does not let go of a stream that was reset
}

func (u *user) Run(sys.Nanos) {
	u.note()
	switch {
	case u.s.Reset == fault.None:
		if u.run != nil {
			u.run(u)
		}
	case !u.clings:
		u.s.Abort(http2.CodeNo)
	}
}

// Poison lets go of the stream, as an exchange does.
func (u *user) Poison(reason any) {
	u.log = append(u.log, "poisoned")
	if reason == "twice" {
		panic(reason)
	}
	u.s.Abort(http2.CodeInternal)
}

// note takes down what the stream tells.
func (u *user) note() {
	s := u.s
	if s.HeadIn {
		s.HeadIn = false
		if u.r.link.H2.Serves() {
			u.log = append(u.log, fmt.Sprintf("%s %s", u.req.MethodBytes(), u.req.Path()))
		} else {
			u.log = append(u.log, fmt.Sprint(u.resp.Status))
		}
	}
	if s.Reset != fault.None {
		text := fmt.Sprintf("reset by us %v", s.Code)
		if s.Remote {
			text = fmt.Sprintf("reset by the peer %v", s.Code)
		}
		if s.Unprocessed {
			text += " unprocessed"
		}
		u.log = append(u.log, text)
	}
}

// take consumes at most limit bytes of content.
func (u *user) take(limit int) {
	p, end := u.s.In(limit)
	u.got.Write(p)
	if end && !u.ended {
		u.ended = true
		text := "end"
		if u.s.Trailers {
			text = "trailers " + string(u.tr.Get(httpmsg.IDGrpcStatus))
		}
		u.log = append(u.log, text)
	}
	u.s.Discard(len(p))
}

// answer sends the head of a 200.
func (u *user) answer(end bool) {
	u.answered = true
	u.resp.Reset(&u.b)
	u.resp.Status, u.resp.Body = 200, httpmsg.BodyChunked
	u.s.Head(&u.resp, end)
}

// reads takes all content as it comes.
func reads(u *user) { u.take(1 << 30) }

// echoes sends the content back.
func echoes(u *user) {
	if !u.answered {
		u.answer(false)
	}
	p, end := u.s.In(u.s.Room())
	u.s.Data(p, end)
	u.s.Discard(len(p))
	if end {
		u.s.Finish()
	}
}

// answers sends a short answer at once and does not wait for the rest of the request.
func answers(u *user) {
	u.answer(false)
	u.s.Data([]byte("ok"), true)
	u.s.Finish()
}

// story is all that happened to the user's stream.
func (u *user) story() string {
	return fmt.Sprintf("%s content %q", strings.Join(u.log, ", "), u.got.String())
}

// newRig makes a link in the role; change may be nil.
func newRig(t testing.TB, role http2.Role, change func(*rig)) *rig {
	r := &rig{t: t, k: nettest.NewClock(), limit: 1 << 20}
	r.o.SetDefaults(role)
	if change != nil {
		change(r)
	}
	r.Frames = nettest.NewFrames(t, role == http2.Server)
	l, err := loop.New(loop.Config{Kernel: r.k, Seed: 1}, func(loop.Msg) {})
	nettest.Must(t, err)
	t.Cleanup(l.Close)
	loop.OnPanic = func(_ int, reason any) { t.Errorf("contained panic: %v\n%s", reason, debug.Stack()) }
	r.l, r.sh = l, NewShared(l)
	r.task.Init(r)
	r.timer.Init(&r.task)
	fd, p := nettest.Pair(t)
	r.p = p
	c, e := conn.Adopt(l, fd, r.limit, &r.task)
	if e != 0 {
		t.Fatal(e)
	}
	l.Turn(false) // which tells the time
	r.link.Init(r.sh, c, &r.task, role, &r.o)
	l.Ready(&r.task)
	return r
}

// Advance is what a server and a pool do.
func (r *rig) Advance(now sys.Nanos) loop.Step {
	r.runs++
	k := &r.link
	if k.C == nil {
		return loop.Done
	}
	k.Begin()
	if r.timer.Fired() {
		r.l.Disarm(&r.timer)
		k.OnTime(now)
	}
	step := loop.Again
	for n := 0; n < maxEvents && step == loop.Again && r.over == Nothing; n++ {
		if k.Torn() {
			r.over = Gone
			continue
		}
		spare := &user{r: r}
		spare.req.Reset(&spare.a)
		r.sh.Ev.Head = &spare.req
		switch got := k.Next(now); got {
		case Nothing:
			step = loop.Idle
		case Event:
			r.event(spare, now)
		default:
			r.over = got
		}
	}
	switch r.over {
	case Gone:
		k.FailAll(fault.ConnectionTerminate, now)
		r.close()
		return loop.Done
	case Failed:
		step = loop.Idle
		k.FailAll(r.sh.Ev.Fault, now)
	}
	k.Flush(now)
	if at := k.Deadline(); at > 0 {
		r.l.Arm(&r.timer, max(at, now))
	} else {
		r.l.Disarm(&r.timer)
	}
	return step
}

func (r *rig) event(spare *user, now sys.Nanos) {
	ev := &r.sh.Ev
	switch {
	case ev.Kind == http2.EventHead && r.link.H2.Serves():
		spare.s = r.link.Open(ev.Stream, spare, ev.End)
		spare.tr.Reset(&spare.c)
		ev.Stream.Trailers = &spare.tr
		r.users = append(r.users, spare)
		spare.log = append(spare.log, fmt.Sprintf("%s %s", spare.req.MethodBytes(), spare.req.Path()))
		if r.setup != nil {
			r.setup(spare)
		}
		spare.s.Start(now)
	case ev.Stream != nil:
		r.link.Deliver(ev, now)
	default:
		r.events = append(r.events, fmt.Sprintf("kind %d stream %d", ev.Kind, ev.ID))
	}
}

// open opens a stream of a client; nil when the link takes none.
func (r *rig) open(end bool) *user {
	u := &user{r: r, run: reads}
	u.req.Reset(&u.a)
	u.resp.Reset(&u.b)
	u.tr.Reset(&u.c)
	u.req.SetMethod("POST")
	u.req.SetScheme("http")
	u.req.SetHost([]byte("x.test"))
	u.req.SetPath([]byte("/"))
	u.req.Body = httpmsg.BodyChunked
	if u.s = r.link.Request(&u.req, end, u, r.l.Now()); u.s == nil {
		return nil
	}
	u.s.S.Head, u.s.S.Trailers = &u.resp, &u.tr
	r.users = append(r.users, u)
	return u
}

func (r *rig) close() {
	r.l.Disarm(&r.timer)
	r.l.Cancel(&r.task)
	c := r.link.C
	r.link.Free()
	c.Close()
}

// turn runs the loop until there is nothing left to do now.
func (r *rig) turn() {
	for range 4 {
		r.l.Turn(false)
	}
	for n := 0; r.l.Queued() > 0; n++ {
		if r.l.Turn(false); n > 1000 {
			r.t.Fatal("the loop never comes to rest")
		}
	}
}

// send sends what the peer has written, and lets the worker have it.
func (r *rig) send() {
	r.p.Write(r.Take())
	r.turn()
}

// frames are those that the peer has received since, a line each.
func (r *rig) frames() string {
	s, _ := r.p.Read()
	return r.Names(strings.TrimPrefix(s, xh2.ClientPreface))
}

// wait moves the time.
func (r *rig) wait(d sys.Nanos) {
	r.k.Skew += d
	r.turn()
}

func (r *rig) expect(what, got string, want ...string) {
	r.t.Helper()
	if w := strings.Join(want, "\n"); got != w {
		r.t.Errorf("%s:\n--- got\n%s\n--- want\n%s", what, got, w)
	}
}

// check says what is held although every stream is over.
func (r *rig) check() {
	r.t.Helper()
	if n := r.sh.Streams(); n != 0 {
		r.t.Errorf("%d streams are held", n)
	}
	if r.link.C != nil {
		if n := r.link.H2.Active(); n != 0 {
			r.t.Errorf("the machine has %d streams", n)
		}
		if r.link.Busy() {
			r.t.Error("the link is busy")
		}
	}
	if n, f := r.l.Bufs.Outstanding(), r.l.Bufs.Flights(); n != 0 || f != 0 {
		r.t.Errorf("%d bytes of buffers and %d flights are held", n, f)
	}
}
