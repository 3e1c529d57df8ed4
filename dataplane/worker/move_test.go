// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sidecar/dataplane/conn"
	"sidecar/dataplane/http2"
	"sidecar/dataplane/loop"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/stats"
)

// two are workers that the test drives; all connections come to the first.
type two struct {
	t    *testing.T
	k    *clock
	reg  *stats.Registry
	in   *snapshot.Interner
	w    [2]*Worker
	slot [2]account
	port int
	set  SocketSet
	seq  uint64
}

func newTwo(t *testing.T) *two {
	r := &two{t: t, k: &clock{sys.NewLinux(), sys.Second}, reg: stats.NewRegistry(2), in: snapshot.NewInterner(), set: SocketSet{ID: 1}}
	shared := &Shared{}
	for i := range r.w {
		w, err := New(Config{Index: i, Kernel: r.k, Shared: shared, Load: &r.slot[i], DrainTime: 10 * sys.Second})
		if err != nil {
			t.Fatal(err)
		}
		r.w[i] = w
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			t.Cleanup(func() { unix.Close(fd) })
			err = unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
		}
		if err == nil && i == 0 {
			err = unix.Listen(fd, 16)
		}
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			name, _ := unix.Getsockname(fd)
			r.port = name.(*unix.SockaddrInet4).Port
		}
		r.set.FDs = append(r.set.FDs, sys.FD(fd))
	}
	for _, w := range r.w {
		w.SetPeers(r.w[:])
	}
	return r
}

// listener is "l" with one filter chain.
func (r *two) listener(sockets, chain uint64) *snapshot.Listener {
	h := &snapshot.HCM{StatPrefix: "t", Routes: r.in.Table("none"), DrainTimeout: sys.Second, Scope: r.reg.Scope("http.t.", stats.HCMDef)}
	h.H2.SetDefaults(http2.Server)
	l := &snapshot.Listener{Name: "l", SocketKey: sockets, BufferLimit: 1 << 20, Default: &snapshot.FilterChain{HTTP: h, DrainKey: chain},
		Scope: r.reg.Scope("listener.l.", stats.ListenerDef)}
	for i := range r.w {
		l.WorkerScopes = append(l.WorkerScopes, r.reg.Scope(fmt.Sprintf("listener.l.worker_%d.", i), stats.ListenerWorkerDef))
	}
	return l
}

// adopt has workers take a configuration over.
func (r *two) adopt(seq uint64, ls []*snapshot.Listener, workers ...int) {
	r.t.Helper()
	s := snapshot.NewBuilder(nil, r.in).Freeze()
	s.Listeners, s.Epoch = ls, seq
	p := &Plan{Snap: s, Seq: seq, Sockets: map[string]*Sockets{}}
	for _, l := range ls {
		p.Sockets[l.Name] = &Sockets{Sets: []SocketSet{r.set}}
	}
	for _, i := range workers {
		r.w[i].Post(loop.Msg{Kind: MsgAdopt, Payload: p})
		r.turn(i)
		if got := r.w[i].Seq(); got != seq {
			r.t.Fatalf("worker %d has plan %d, want %d", i, got, seq)
		}
	}
}

func (r *two) turn(workers ...int) {
	for range 4 {
		for _, i := range workers {
			r.w[i].Turn(false)
		}
	}
}

// dial opens a connection to worker 0 and has a request answered: there is no route.
func (r *two) dial() *bufio.ReadWriter {
	r.t.Helper()
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", r.port))
	if err != nil {
		r.t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	r.t.Cleanup(func() { c.Close() })
	x := bufio.NewReadWriter(bufio.NewReader(c), bufio.NewWriterSize(c, 0))
	r.ask(x, 0, false)
	return x
}

// ask checks that a worker answers on the connection, and whether it announces its end.
func (r *two) ask(x *bufio.ReadWriter, worker int, closes bool) {
	r.t.Helper()
	_, _ = x.WriteString("GET / HTTP/1.1\r\nhost: a\r\n\r\n")
	_ = x.Flush()
	done := make(chan struct{})
	var resp *http.Response
	var err error
	go func() {
		defer close(done)
		if resp, err = http.ReadResponse(x.Reader, nil); err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
		}
	}()
	for run := true; run; {
		r.turn(worker)
		select {
		case <-done:
			run = false
		default:
		}
	}
	if err != nil || resp.StatusCode != http.StatusNotFound || resp.Close != closes {
		r.t.Fatalf("%v, %+v", err, resp)
	}
}

// gauges are the connections of the listener by worker.
func (r *two) gauges() (n [2]int64) {
	for i := range n {
		s := r.reg.Scope(fmt.Sprintf("listener.l.worker_%d.", i), stats.ListenerWorkerDef)
		n[i], _ = s.Value(stats.ListenerWorkerDownstreamCxActive)
		s.Release()
	}
	return n
}

// move hands the only connection of worker 0 over.
func (r *two) move() bool {
	r.t.Helper()
	w := r.w[0]
	l := w.listeners["l"]
	var m *conn.Member
	l.Members.Each(func(x *conn.Member) { m = x })
	if m == nil {
		r.t.Fatal("there is no connection")
	}
	return w.handOver(m, l, r.w[1])
}

func (r *two) end() {
	for _, w := range r.w {
		w.shutdown()
	}
	for _, w := range r.w {
		w.Abandon()
	}
}

func TestTakeOver_WhenTheConfigurationHasChangedMeanwhile_ThenTheConnectionEndsAsItsFellowsDo(t *testing.T) {
	for _, tc := range []struct {
		name   string
		next   func(r *two) []*snapshot.Listener // worker 1 has it before the parcel; nil: nothing new
		drain  bool                              // it drains
		closes bool                              // the next response says so
		ends   bool                              // it ends after the drain time
	}{
		{"nothing has", nil, false, false, false},
		{"the chain is the same", func(r *two) []*snapshot.Listener { return []*snapshot.Listener{r.listener(1, 1)} }, false, false, false},
		{"the chain has", func(r *two) []*snapshot.Listener { return []*snapshot.Listener{r.listener(1, 2)} }, false, true, true},
		{"more than the chain has", func(r *two) []*snapshot.Listener { return []*snapshot.Listener{r.listener(2, 1)} }, false, false, true},
		{"the listener is gone", func(*two) []*snapshot.Listener { return nil }, false, false, true},
		{"the worker drains", nil, true, true, true},
	} {
		for _, asks := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/asks=%v", tc.name, asks), func(t *testing.T) {
				r := newTwo(t)
				defer r.end()
				r.adopt(1, []*snapshot.Listener{r.listener(1, 1)}, 0, 1)
				c := r.dial()
				if r.gauges() != [2]int64{1, 0} || r.slot[0].active != 1 {
					t.Fatalf("gauges %v, carried %d", r.gauges(), r.slot[0].active)
				}
				if tc.next != nil {
					r.adopt(2, tc.next(r), 1)
				}
				if tc.drain {
					r.w[1].Post(loop.Msg{Kind: MsgDrain, Payload: DrainOrder{Mode: conn.DrainSoft, Sticky: true}})
					r.turn(1)
				}
				if !r.move() || r.w[0].Connections() != 0 || r.w[1].tally.coming.Load() != 1 {
					t.Fatal("it is not on its way")
				}
				r.turn(1)
				if n := r.w[1].Connections(); n != 1 || r.w[1].tally.coming.Load() != 0 || r.slot[0].active != 0 || r.slot[1].active != 1 {
					t.Errorf("worker 1 has %d connections, %d on their way, carries %d; worker 0 carries %d", n, r.w[1].tally.coming.Load(), r.slot[1].active,
						r.slot[0].active)
				}
				if r.gauges() != [2]int64{0, 1} {
					t.Errorf("gauges %v", r.gauges())
				}
				if asks {
					r.ask(c, 1, tc.closes)
				}
				r.k.now += 11 * sys.Second
				r.w[1].even.parked -= 11 * sys.Second // it was not busy meanwhile
				r.turn(1)
				if ended := r.w[1].Connections() == 0; ended != (tc.ends && (asks || !tc.drain)) {
					t.Errorf("after the drain time: ended %v", ended)
				}
				if tc.ends && !tc.drain && (r.gauges() != [2]int64{} || r.slot[1].active != 0) {
					t.Errorf("after the end: gauges %v, carried %d", r.gauges(), r.slot[1].active)
				}
			})
		}
	}
}

func TestHandOver_WhenTheMailboxIsFull_ThenTheConnectionStays(t *testing.T) {
	r := newTwo(t)
	defer r.end()
	r.adopt(1, []*snapshot.Listener{r.listener(1, 1)}, 0, 1)
	c := r.dial()
	for r.w[1].Post(loop.Msg{Kind: MsgCall, Payload: func(*Worker) {}}) {
	}
	if r.move() {
		t.Error("there was room")
	}
	if r.gauges() != [2]int64{1, 0} || r.slot[0].active != 1 || r.w[1].tally.coming.Load() != 0 {
		t.Errorf("gauges %v, carried %d, %d on their way", r.gauges(), r.slot[0].active, r.w[1].tally.coming.Load())
	}
	if out, in := r.w[0].Moves(); out != in {
		t.Errorf("%d out, %d in", out, in)
	}
	r.ask(c, 0, false)
}

func TestAbandon_WhenTheOtherWorkerHasEnded_ThenTheConnectionIsClosed(t *testing.T) {
	r := newTwo(t)
	r.adopt(1, []*snapshot.Listener{r.listener(1, 1)}, 0, 1)
	c := r.dial()
	r.move()
	r.end()
	if b, err := c.ReadByte(); err == nil {
		t.Errorf("byte %q", b)
	}
}
