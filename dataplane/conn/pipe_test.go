// SPDX-License-Identifier: Apache-2.0

package conn

import (
	"bytes"
	"testing"

	"sidecar/dataplane/loop"
	"sidecar/dataplane/sys"
)

// side is an owner that keeps what its connection brings.
type side struct {
	task loop.Task
	c    *Conn
	got  []byte
	st   Status
	hold bool // does not read
	runs int
}

func (s *side) Advance(sys.Nanos) loop.Step {
	s.runs++
	if s.c == nil || s.hold {
		return loop.Idle
	}
	if done, e := s.c.Connected(); !done || e != 0 {
		return loop.Idle
	}
	for {
		if s.st = s.c.FillUpTo(1 << 10); s.st != More {
			return loop.Idle
		}
		s.got = append(s.got, s.c.In()...)
		s.c.Discard(len(s.c.In()))
	}
}

type pipeRig struct {
	t         *testing.T
	l         *loop.Loop
	near, far *side
	meta      map[string]any
	in        *Internal
}

func newPipe(t *testing.T, buffer, limit int) *pipeRig {
	l, err := loop.New(loop.Config{Kernel: sys.NewLinux(), Seed: 1}, func(loop.Msg) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	r := &pipeRig{t: t, l: l, near: &side{}, far: &side{}}
	r.near.task.Init(r.near)
	r.far.task.Init(r.far)
	r.in = &Internal{Buffer: buffer, Accept: func(c *Conn, meta map[string]any) bool {
		if name, _, _ := c.Local().Internal(); name != "there" {
			return false
		}
		r.far.c, r.meta = c, meta
		c.SetLimit(limit)
		c.SetOwner(&r.far.task)
		return true
	}}
	r.dial("there", limit)
	return r
}

func (r *pipeRig) dial(name string, limit int) {
	r.near.c = DialInternal(r.l, r.in, sys.InternalAddr(name, "e"), map[string]any{"n": 1}, limit, &r.near.task)
}

func (r *pipeRig) turn() {
	for range 6 {
		r.l.Turn(false)
	}
}

func (r *pipeRig) empty() {
	r.t.Helper()
	r.near.c.Close()
	r.far.c.Close()
	r.turn()
	if n, f := r.l.Bufs.Outstanding(), r.l.Bufs.Flights(); n != 0 || f != 0 {
		r.t.Errorf("%d bytes and %d flights are left", n, f)
	}
}

func TestPipe_WhenDialled_ThenBothEndsAreThere(t *testing.T) {
	r := newPipe(t, 64<<10, 1<<20)
	if done, _ := r.near.c.Connected(); done {
		t.Error("connected before its turn")
	}
	r.near.c.Send([]byte("early"), nil)
	r.turn()
	if done, e := r.near.c.Connected(); !done || e != 0 {
		t.Fatal(done, e)
	}
	r.turn()
	if string(r.far.got) != "early" || r.meta["n"] != 1 {
		t.Errorf("%q %v", r.far.got, r.meta)
	}
	for _, a := range [][2]string{{r.near.c.Remote().String(), "envoy://there/e"}, {r.near.c.Local().String(), "envoy://internal_client_address/"},
		{r.far.c.Remote().String(), "envoy://internal_client_address/"}, {r.far.c.Local().String(), "envoy://there/e"}} {
		if a[0] != a[1] {
			t.Errorf("%s, want %s", a[0], a[1])
		}
	}
	r.far.c.Send([]byte("an"), []byte("swer"))
	r.turn()
	if string(r.near.got) != "answer" || r.near.c.BytesIn != 6 || r.far.c.BytesOut != 6 {
		t.Errorf("%q", r.near.got)
	}
	r.empty()
}

func TestPipe_WhenThereIsNoListener_ThenTheConnectFails(t *testing.T) {
	r := newPipe(t, 0, 1<<20)
	r.turn()
	r.near.c.Close()
	r.dial("nowhere", 1<<20)
	r.near.c.Send([]byte("lost"), nil)
	r.turn()
	if done, e := r.near.c.Connected(); !done || e != sys.EINVAL {
		t.Error(done, e)
	}
	if why := r.near.c.FailureText(); why != "immediate_connect_error:_Invalid_argument|remote_address:envoy://nowhere/e" {
		t.Error(why)
	}
	r.empty()
}

func TestPipe_WhenTheReaderStops_ThenTheBufferIsTheBound(t *testing.T) {
	r := newPipe(t, 4<<10, 8<<10)
	r.turn()
	r.far.hold = true
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<10) // 16 KiB
	r.near.c.Send(big, nil)
	r.turn()
	if n := len(r.far.c.x.pipe.buf); n != 4<<10 {
		t.Errorf("%d bytes in the pipe", n)
	}
	if q := r.near.c.Queued(); q != 12<<10 || r.near.c.Room() > 0 {
		t.Errorf("%d bytes queued", q)
	}
	r.near.c.CloseWrite()
	runs := r.near.runs
	r.far.hold = false
	r.l.Ready(&r.far.task)
	r.turn()
	if !bytes.Equal(r.far.got, big) || r.far.st != EOF {
		t.Errorf("%d bytes, %v", len(r.far.got), r.far.st)
	}
	if r.near.runs == runs {
		t.Error("the writer was not told of the room")
	}
	r.far.c.Send([]byte("late"), nil) // half-closed
	r.far.c.CloseWrite()
	r.turn()
	if string(r.near.got) != "late" || r.near.st != EOF || !r.near.c.HungUp() {
		t.Errorf("%q %v", r.near.got, r.near.st)
	}
	r.empty()
}

func TestPipe_WhenAnEndCloses_ThenTheOtherSeesWhatASocketShows(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(r *pipeRig)
		got  string
		st   Status
		errn sys.Errno
	}{
		"close":                     {func(r *pipeRig) { r.near.c.Send([]byte("x"), nil); r.near.c.Close() }, "x", EOF, 0},
		"reset":                     {func(r *pipeRig) { r.near.c.Send([]byte("x"), nil); r.near.c.Reset() }, "x", Failed, sys.ECONNRESET},
		"close with unread bytes":   {func(r *pipeRig) { r.near.hold = true; r.far.c.Send([]byte("y"), nil); r.near.c.Close() }, "", Failed, sys.ECONNRESET},
		"close behind queued bytes": {func(r *pipeRig) { r.near.c.Send(make([]byte, 9<<10), nil); r.near.c.CloseAfterFlush() }, string(make([]byte, 9<<10)), EOF, 0},
	} {
		r := newPipe(t, 4<<10, 1<<20)
		r.turn()
		c.end(r)
		r.turn()
		if string(r.far.got) != c.got || r.far.st != c.st || r.far.c.Err() != c.errn {
			t.Errorf("%s: %d bytes, %v, %v", name, len(r.far.got), r.far.st, r.far.c.Err())
		}
		if r.far.c.Send([]byte("z"), nil); !r.far.c.Broken() {
			t.Errorf("%s: a send did not fail", name)
		}
		r.empty()
	}
}

func TestPipe_WhenClosedBeforeItIsAccepted_ThenTheListenerSeesItsEnd(t *testing.T) {
	r := newPipe(t, 0, 1<<20)
	r.near.c.Close()
	r.turn()
	if r.far.c == nil || r.far.st != EOF {
		t.Error(r.far.st)
	}
	r.empty()
}

func TestPipe_WhenBytesGo_ThenNothingIsAllocated(t *testing.T) {
	r := newPipe(t, 64<<10, 1<<20)
	r.turn()
	p := make([]byte, 4<<10)
	r.far.got = make([]byte, 0, 1<<20)
	if n := testing.AllocsPerRun(100, func() {
		r.far.got = r.far.got[:0]
		r.near.c.Send(p, nil)
		r.l.Turn(false)
	}); n != 0 && !raced {
		t.Errorf("%v allocations", n)
	}
	r.empty()
}

func TestPipe_WhenTLSRunsOverIt_ThenBytesGoBothWays(t *testing.T) {
	for _, k := range kinds {
		r := newPipe(t, 3<<10, 16<<10) // less than a record
		w := NewTLS(r.l, nil)
		srv, cli := configs(k.vers, k.key, k.mutual)
		msg := pattern(300 << 10)
		far := &relay{l: r.l}
		far.task.Init(far)
		accept := r.in.Accept
		r.in.Accept = func(c *Conn, meta map[string]any) bool {
			accept(c, meta)
			far.c = c
			c.SetOwner(&far.task)
			c.StartTLS(w, w.Engine.Server(srv), 0)
			return true
		}
		r.near.c.StartTLS(w, w.Engine.Client(cli), 0)
		sent := 0
		for turns := 0; len(r.near.got) < len(msg); turns++ {
			if turns > 10000 {
				t.Fatalf("%s: %d of %d bytes came back, %d sent", k.name, len(r.near.got), len(msg), sent)
			}
			r.l.Turn(false)
			if n := min(len(msg)-sent, r.near.c.Room()); n > 0 {
				r.near.c.Send(msg[sent:sent+n], nil)
				sent += n
			}
		}
		if !bytes.Equal(r.near.got, msg) {
			t.Errorf("%s: other bytes came back", k.name)
		}
		r.near.c.CloseWrite()
		r.turn()
		if far.end != EOF || far.c.Truncated() || r.near.st != EOF {
			t.Errorf("%s: the ends saw %v and %v", k.name, far.end, r.near.st)
		}
		r.far.c = far.c
		r.empty()
		w.Close()
	}
}
