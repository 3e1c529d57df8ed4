// SPDX-License-Identifier: Apache-2.0

package conn

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"sidecar/dataplane/loop"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/accesslog"
)

// owner counts wake-ups.
type owner struct {
	task loop.Task
	runs int
}

func (o *owner) Advance(sys.Nanos) loop.Step { o.runs++; return loop.Idle }

type rig struct {
	t *testing.T
	l *loop.Loop
}

func newRig(t *testing.T) *rig {
	l, err := loop.New(loop.Config{Kernel: sys.NewLinux()}, func(loop.Msg) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return &rig{t, l}
}

// turns lets the loop see what the kernel has.
func (r *rig) turns() {
	for range 5 {
		time.Sleep(time.Millisecond)
		r.l.Turn(false)
	}
}

// pair is a connection of the worker and the raw descriptor of its peer; TCP over loopback, or a Unix socket pair.
func (r *rig) pair(tcp bool, limit int) (*Conn, *owner, int) {
	r.t.Helper()
	var mine, peer int
	if tcp {
		ln, err := sys.Listen(sys.Addr{IP: loopback}, &sys.ListenOpts{})
		if err != nil {
			r.t.Fatal(err)
		}
		defer sys.CloseFD(ln)
		a := sys.BoundAddr(ln, sys.Addr{IP: loopback})
		fd, e := r.l.K.Connect(a, nil)
		if e != 0 {
			r.t.Fatal(e)
		}
		peer = int(fd)
		for end := time.Now().Add(5 * time.Second); ; {
			x, _, e := r.l.K.Accept(ln)
			if e == 0 {
				mine = int(x)
				break
			}
			if time.Now().After(end) {
				r.t.Fatal(e)
			}
		}
	} else {
		p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			r.t.Fatal(err)
		}
		mine, peer = p[0], p[1]
	}
	r.t.Cleanup(func() { unix.Close(peer) })
	o := &owner{}
	o.task.Init(o)
	c, e := Adopt(r.l, sys.FD(mine), limit, &o.task)
	if e != 0 {
		r.t.Fatal(e)
	}
	return c, o, peer
}

func write(t *testing.T, fd int, s string) {
	t.Helper()
	if n, err := unix.Write(fd, []byte(s)); n != len(s) {
		t.Fatal(n, err)
	}
}

// drain reads what the peer has got: bytes, and whether the end was seen ("" or an errno text).
func drain(fd int) (got []byte, end string) {
	b := make([]byte, 64<<10)
	for {
		n, err := unix.Read(fd, b)
		switch {
		case err == unix.EAGAIN:
			return got, "open"
		case err != nil:
			return got, err.Error()
		case n == 0:
			return got, "eof"
		}
		got = append(got, b[:n]...)
	}
}

func TestConn_WhenIdle_ThenSmall(t *testing.T) {
	for _, x := range []struct {
		name string
		size uintptr
		max  uintptr
	}{{"Conn", unsafe.Sizeof(Conn{}), 64}, {"Member", unsafe.Sizeof(Member{}), 56}} {
		if x.size > x.max {
			t.Errorf("%s has %d bytes, budget %d: the idle connection of the issue's figures", x.name, x.size, x.max)
		}
	}
}

func TestFill_WhenBytesArrive_ThenReadOnceAndBlockedAfterwards(t *testing.T) {
	for _, tcp := range []bool{false, true} {
		r := newRig(t)
		c, o, peer := r.pair(tcp, 1<<20)
		r.turns()
		if st := c.Fill(); st != Blocked || c.Readable() || o.runs != 0 {
			t.Fatalf("fresh: %v, readable %v, %d runs", st, c.Readable(), o.runs)
		}
		write(t, peer, "hello")
		r.turns()
		if o.runs != 1 || !c.Readable() || len(c.In()) != 0 {
			t.Fatalf("%d runs, readable %v", o.runs, c.Readable())
		}
		if st := c.Fill(); st != More || string(c.In()) != "hello" {
			t.Fatalf("%v %q", st, c.In())
		}
		if c.MayRead() || c.Fill() != Blocked {
			t.Error("a short read means drained")
		}
		c.Discard(2)
		if string(c.In()) != "llo" || !c.Readable() {
			t.Errorf("In %q", c.In())
		}
		c.Discard(3)
		if c.Readable() || c.BytesIn != 5 || r.l.Bufs.Flights() != 0 || r.l.Bufs.Outstanding() != 0 {
			t.Error("an idle connection holds something")
		}
		c.Close()
	}
}

func TestFill_WhenOtherConnectionsRead_ThenUnreadInputIsKept(t *testing.T) {
	r := newRig(t)
	a, _, pa := r.pair(false, 1<<20)
	b, _, pb := r.pair(false, 1<<20)
	write(t, pa, "aaaa1")
	write(t, pb, "bbbb1")
	r.turns()
	a.Fill()
	a.Discard(1)
	b.Fill() // takes the scratch
	if string(a.In()) != "aaa1" || string(b.In()) != "bbbb1" {
		t.Fatalf("%q %q", a.In(), b.In())
	}
	write(t, pa, "aaaa2")
	write(t, pb, "bbbb2")
	r.turns()
	b.Discard(4)
	if a.Fill() != More || b.Fill() != More || string(a.In()) != "aaa1aaaa2" || string(b.In()) != "1bbbb2" {
		t.Fatalf("%q %q", a.In(), b.In())
	}
	b.Unread([]byte("zz"))
	if string(b.In()) != "zz1bbbb2" {
		t.Errorf("after Unread %q", b.In())
	}
	a.Close()
	b.Close()
	if r.l.Bufs.Outstanding() != 0 || r.l.Bufs.Flights() != 0 {
		t.Errorf("%d bytes, %d flights left", r.l.Bufs.Outstanding(), r.l.Bufs.Flights())
	}
}

func TestFill_WhenInputIsNotConsumed_ThenBoundedAndResumed(t *testing.T) {
	r := newRig(t)
	c, _, peer := r.pair(false, 1<<20)
	chunk := bytes.Repeat([]byte("x"), 64<<10)
	sent := 0
	for len(c.In()) < maxInput {
		for {
			n, err := unix.Write(peer, chunk)
			if err != nil {
				break
			}
			sent += n
		}
		r.l.Turn(false)
		for c.Fill() == More {
		}
	}
	if len(c.In()) > maxInput+loop.ScratchSize {
		t.Errorf("%d bytes held", len(c.In()))
	}
	if n, err := unix.Write(peer, chunk); err == nil {
		sent += n
	}
	r.turns()
	if c.Fill() != Blocked || !c.MayRead() {
		t.Error("at the bound Fill must refuse and keep the edge")
	}
	got := 0
	for got < sent {
		got += len(c.In())
		c.Discard(len(c.In()))
		if c.Fill() != More {
			break
		}
	}
	if got != sent {
		t.Errorf("%d of %d bytes", got, sent)
	}
	c.Close()
}

func TestFill_WhenThePeerFinishes_ThenBytesFirstAndEOFAfter(t *testing.T) {
	for _, tcp := range []bool{false, true} {
		r := newRig(t)
		c, o, peer := r.pair(tcp, 1<<20)
		write(t, peer, "last")
		_ = unix.Shutdown(peer, unix.SHUT_WR)
		r.turns()
		if !c.PeerClosed() || c.EOF() || o.runs == 0 {
			t.Error("RDHUP must show before it is read")
		}
		if c.Fill() != More || string(c.In()) != "last" || c.EOF() {
			t.Errorf("%q", c.In())
		}
		if c.Fill() != EOF || c.EOF() || string(c.In()) != "last" {
			t.Error("end of input with unread bytes")
		}
		c.Discard(4)
		if !c.EOF() || c.Fill() != EOF {
			t.Error("EOF must last")
		}
		// Half-closed: the other way still works, and finishes by itself.
		c.Send([]byte("re"), []byte("ply"))
		c.CloseWrite()
		c.Send([]byte("dropped"), nil)
		r.turns()
		if got, end := drain(peer); string(got) != "reply" || end != "eof" {
			t.Errorf("peer got %q, %s", got, end)
		}
		c.Close()
	}
}

func TestSend_WhenThePeerDoesNotRead_ThenQueuedFlushedAndTheOwnerWoken(t *testing.T) {
	for _, tcp := range []bool{false, true} {
		r := newRig(t)
		const limit = 256 << 10
		c, o, peer := r.pair(tcp, limit)
		r.turns()
		o.runs = 0
		sent := 0
		chunk := bytes.Repeat([]byte("0123456789abcdef"), 4<<10)
		for c.Room() > 0 {
			c.Send(chunk[:len(chunk)/2], chunk[len(chunk)/2:])
			sent += len(chunk)
		}
		if c.Queued() < limit || c.Queued() > limit+len(chunk) {
			t.Errorf("%d queued, limit %d", c.Queued(), limit)
		}
		c.CloseWrite()
		r.turns()
		if o.runs != 0 {
			t.Error("woken without room")
		}
		var got []byte
		end := ""
		woken := -1
		for i := 0; i < 10000 && end != "eof"; i++ {
			b, e := drain(peer)
			got, end = append(got, b...), e
			r.l.Turn(false)
			if o.runs > 0 && woken < 0 {
				woken = c.Queued()
			}
		}
		if len(got) != sent || end != "eof" || int(c.BytesOut) != sent {
			t.Errorf("peer got %d of %d, %s", len(got), sent, end)
		}
		for i := range got {
			if got[i] != chunk[i%len(chunk)] {
				t.Fatalf("byte %d differs", i)
			}
		}
		if woken < 0 || woken > limit/2 {
			t.Errorf("woken at %d queued bytes, want at most half the limit", woken)
		}
		if r.l.Bufs.Outstanding() != 0 {
			t.Errorf("%d bytes left", r.l.Bufs.Outstanding())
		}
		c.Close()
	}
}

func TestSend_WhenThePeerIsGone_ThenFailedAndTheOwnerWoken(t *testing.T) {
	r := newRig(t)
	c, o, peer := r.pair(true, 1<<20)
	l := unix.Linger{Onoff: 1}
	_ = unix.SetsockoptLinger(peer, unix.SOL_SOCKET, unix.SO_LINGER, &l)
	_ = unix.Shutdown(peer, unix.SHUT_RD)
	unix.Close(peer)
	r.turns()
	if !c.HungUp() || o.runs == 0 {
		t.Error("a reset must wake and show")
	}
	if c.Fill() != Failed || c.Err() != sys.ECONNRESET || !c.Broken() {
		t.Errorf("%v %v", c.Fill(), c.Err())
	}
	c.Send([]byte("x"), nil) // must not queue
	if c.Queued() != 0 {
		t.Error("queued on a broken connection")
	}
	c.Close()
	c.Close()
	r.turns()
}

func TestClose_WhenAsked_ThenFINOrRST(t *testing.T) {
	for _, rst := range []bool{false, true} {
		r := newRig(t)
		c, _, peer := r.pair(true, 1<<20)
		c.Send([]byte("x"), nil)
		want := "eof"
		if rst {
			c.Reset()
			want = "connection reset by peer"
		} else {
			c.Close()
		}
		r.turns()
		if _, end := drain(peer); end != want {
			t.Errorf("reset %v: peer saw %s", rst, end)
		}
	}
}

func TestCloseAfterFlush_WhenThePeerReads_ThenEverythingAndFIN(t *testing.T) {
	r := newRig(t)
	c, o, peer := r.pair(false, 64<<10)
	sent := 0
	for c.Room() > 0 {
		c.Send(bytes.Repeat([]byte("y"), 32<<10), nil)
		sent += 32 << 10
	}
	o.runs = 0
	c.CloseAfterFlush()
	got, end := 0, ""
	for i := 0; i < 1000 && end != "eof"; i++ {
		b, e := drain(peer)
		got, end = got+len(b), e
		r.l.Turn(false)
	}
	if got != sent || end != "eof" || o.runs != 0 || !c.Closed() {
		t.Errorf("%d of %d, %s, %d wake-ups", got, sent, end, o.runs)
	}
}

// slowClock makes the deadline of CloseAfterFlush testable.
type slowClock struct {
	*sys.Linux
	add sys.Nanos
}

func (k *slowClock) Now() sys.Nanos { return k.Linux.Now() + k.add }

func TestCloseAfterFlush_WhenThePeerNeverReads_ThenClosedAtTheDeadline(t *testing.T) {
	k := &slowClock{Linux: sys.NewLinux()}
	l, err := loop.New(loop.Config{Kernel: k}, func(loop.Msg) {})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r := &rig{t, l}
	c, _, _ := r.pair(false, 64<<10)
	for c.Room() > 0 {
		c.Send(bytes.Repeat([]byte("y"), 32<<10), nil)
	}
	c.CloseAfterFlush()
	k.add = lingerDeadline - sys.Second
	r.turns()
	if c.Closed() {
		t.Fatal("closed before the deadline")
	}
	k.add = lingerDeadline + sys.Second
	r.turns()
	if !c.Closed() || l.Bufs.Outstanding() != 0 {
		t.Error("not closed at the deadline")
	}
}

func TestCloseAfterFlush_WhenInputIsUnread_ThenItsBufferIsNotHeldUntilTheDeadline(t *testing.T) {
	r := newRig(t)
	c, _, peer := r.pair(false, 64<<10)
	if _, err := unix.Write(peer, make([]byte, 20<<10)); err != nil {
		t.Fatal(err)
	}
	r.turns()
	if st := c.Fill(); st != More {
		t.Fatal(st)
	}
	c.Spill()
	held := r.l.Bufs.Outstanding()
	for c.Room() > 0 {
		c.Send(bytes.Repeat([]byte("y"), 32<<10), nil)
	}
	out := r.l.Bufs.Outstanding() - held
	c.CloseAfterFlush()
	if n := r.l.Bufs.Outstanding(); held == 0 || n != out || c.Closed() {
		t.Errorf("%d bytes of input before; %d bytes held, %d are output", held, n, out)
	}
	c.Close()
	if n := r.l.Bufs.Outstanding(); n != 0 {
		t.Errorf("%d bytes left", n)
	}
}

func TestDial_WhenTheOutcomeIsThere_ThenConnectedTells(t *testing.T) {
	r := newRig(t)
	ln, err := sys.Listen(sys.Addr{IP: loopback}, &sys.ListenOpts{})
	if err != nil {
		t.Fatal(err)
	}
	a := sys.BoundAddr(ln, sys.Addr{IP: loopback})
	dial := func() (*Conn, *owner) {
		o := &owner{}
		o.task.Init(o)
		c, e := Dial(r.l, a, nil, 1<<20, &o.task)
		if e != 0 {
			t.Fatal(e)
		}
		return c, o
	}
	c, o := dial()
	if done, _ := c.Connected(); done {
		t.Error("done before any event")
	}
	c.Send([]byte("early"), nil) // waits for the connection
	c.CloseWrite()
	r.turns()
	if done, e := c.Connected(); !done || e != 0 || o.runs == 0 || c.Remote() != a {
		t.Fatalf("%v %v %d %v", done, e, o.runs, c.Remote())
	}
	fd, remote, e := r.l.K.Accept(ln)
	if e != 0 || remote != c.Local() {
		t.Fatal(e, remote, c.Local())
	}
	if got, end := drain(int(fd)); string(got) != "early" || end != "eof" {
		t.Errorf("server got %q %s", got, end)
	}
	sys.CloseFD(fd)
	c.Close()
	sys.CloseFD(ln)
	c, o = dial()
	r.turns()
	if done, e := c.Connected(); !done || e != sys.ECONNREFUSED || c.Fill() != Failed || o.runs == 0 {
		t.Errorf("%v %v", done, e)
	}
	c.Close()
}

func TestDial_WhenNobodyAnswers_ThenNotDone(t *testing.T) {
	r := newRig(t)
	ln, err := sys.Listen(sys.Addr{IP: loopback}, &sys.ListenOpts{Backlog: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer sys.CloseFD(ln)
	a := sys.BoundAddr(ln, sys.Addr{IP: loopback})
	var last *Conn
	for range 5 { // the accept queue is full after two
		o := &owner{}
		o.task.Init(o)
		c, e := Dial(r.l, a, nil, 1<<20, &o.task)
		if e != 0 {
			t.Fatal(e)
		}
		defer c.Close()
		last = c
	}
	r.turns()
	if done, e := last.Connected(); done || e != 0 {
		t.Errorf("%v %v", done, e)
	}
}

func TestConn_WhenClosedInTheSameBatch_ThenLateEventsAreDropped(t *testing.T) {
	r := newRig(t)
	var c [2]*Conn
	var o [2]*owner
	var p [2]int
	for i := range c {
		c[i], o[i], p[i] = r.pair(false, 1<<20)
	}
	k := &killer{victim: c[1]}
	k.task.Init(k)
	c[0].SetOwner(&k.task)
	write(t, p[0], "x")
	write(t, p[1], "x")
	r.turns()
	d, od, pd := r.pair(false, 1<<20) // reuses the slot and perhaps the descriptor
	runs := o[1].runs
	r.turns()
	if o[1].runs != runs || od.runs != 0 {
		t.Error("an event of a closed connection reached somebody")
	}
	write(t, pd, "y")
	r.turns()
	if od.runs != 1 || d.Fill() != More {
		t.Error("the new connection misses events")
	}
}

type killer struct {
	task   loop.Task
	victim *Conn
}

func (k *killer) Advance(sys.Nanos) loop.Step { k.victim.Close(); return loop.Done }

func TestRelease_WhenHandedOut_ThenTheDescriptorLivesOutsideTheWorker(t *testing.T) {
	r := newRig(t)
	c, o, peer := r.pair(false, 1<<20)
	fd := c.Release()
	write(t, peer, "x")
	o.runs = 0
	r.turns()
	if got, _ := drain(int(fd)); string(got) != "x" || o.runs != 0 {
		t.Errorf("got %q, %d wake-ups", got, o.runs)
	}
	sys.CloseFD(fd)
}

func TestSetOwner_WhenSomethingIsThereAlready_ThenTheNewOwnerIsWoken(t *testing.T) {
	r := newRig(t)
	c, _, peer := r.pair(false, 1<<20)
	c.SetOwner(nil)
	write(t, peer, "x")
	r.turns()
	o := &owner{}
	o.task.Init(o)
	c.SetOwner(&o.task)
	r.l.Turn(false)
	if o.runs != 1 {
		t.Errorf("%d runs", o.runs)
	}
	c.Close()
}

func TestConn_WhenRelaying_ThenNothingIsAllocated(t *testing.T) {
	r := newRig(t)
	a, _, pa := r.pair(false, 1<<20)
	b, _, pb := r.pair(false, 1<<20)
	msg, buf := []byte("0123456789"), make([]byte, 64)
	n := testing.AllocsPerRun(200, func() {
		_, _ = unix.Write(pa, msg)
		r.l.Turn(false)
		if a.Fill() != More {
			t.Fatal("nothing to read")
		}
		b.Send(a.In(), nil)
		a.Discard(len(a.In()))
		_, _ = unix.Read(pb, buf)
	})
	if n != 0 {
		t.Errorf("%v allocations per chunk", n)
	}
}

type handler struct{ drained []DrainMode }

func (h *handler) Drain(m DrainMode)            { h.drained = append(h.drained, m) }
func (h *handler) Chain() *snapshot.FilterChain { return nil }

func TestMembers_WhenTheyJoinSwapAndLeave_ThenTheListHoldsTheLiving(t *testing.T) {
	var left []string
	var s Members
	names := map[*Member]string{}
	s.OnLeave = func(m *Member) { left = append(left, names[m]) }
	list := func() string {
		out := ""
		s.Each(func(m *Member) { out += names[m] })
		return fmt.Sprint(out, s.Len())
	}
	m := make([]Member, 5)
	for i := range m {
		names[&m[i]] = string(rune('a' + i))
	}
	for i := range 4 {
		m[i].Info = &accesslog.ConnInfo{Start: int64(i + 1)}
		s.Join(&m[i])
	}
	if list() != "dcba4" {
		t.Fatal(list())
	}
	m[1].Swap(&m[4])
	if list() != "dcea4" || m[4].Info.Start != 2 {
		t.Fatal(list(), m[4].Info.Start)
	}
	m[1].Leave() // swapped out: nothing
	m[3].Leave()
	m[0].Leave()
	m[0].Leave()
	if list() != "ce2" || fmt.Sprint(left) != "[d a]" {
		t.Fatal(list(), left)
	}
	s.Each(func(x *Member) { x.Leave() })
	if list() != "0" {
		t.Error(list())
	}
}

var loopback = netip.MustParseAddrPort("127.0.0.1:0")

func TestRoom_WhenTheLimitIsZeroOrHuge_ThenThereIsRoom(t *testing.T) {
	for _, limit := range []int{0, 1<<32 - 1} { // per_connection_buffer_limit_bytes: 0 is no limit, and it is a uint32
		r := newRig(t)
		c, _, _ := r.pair(false, limit)
		if c.Room() < 1<<30 {
			t.Errorf("limit %d leaves room for %d bytes", limit, c.Room())
		}
		c.SetLimit(limit)
		if c.Room() < 1<<30 {
			t.Errorf("SetLimit(%d) leaves room for %d bytes", limit, c.Room())
		}
		c.Close()
	}
}
