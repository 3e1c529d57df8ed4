// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/dataplane/worker"
	"sidecar/internal/telemetry/stats"
)

const workers = 2

// fakeSteering checks the order of calls: sockets listen at Attach and are closed at Detach.
type fakeSteering struct {
	t    *testing.T
	mu   sync.Mutex
	fds  map[string][]int
	gone []string
}

func (s *fakeSteering) Attach(key string, fds []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fds[key] = append([]int(nil), fds...)
	if len(fds) != workers {
		s.t.Errorf("Attach(%s): %d sockets, want %d", key, len(fds), workers)
	}
	for _, fd := range fds {
		if v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || v != 1 {
			s.t.Errorf("Attach(%s): socket %d does not listen (%d, %v)", key, fd, v, err)
		}
	}
}

func (s *fakeSteering) Detach(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, fd := range s.fds[key] {
		if v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err == nil && v == 1 {
			s.t.Errorf("Detach(%s): socket %d is still open", key, fd)
		}
	}
	s.gone = append(s.gone, key)
}

func (s *fakeSteering) Slot(int) worker.LoadSlot { return nil }

type bench struct {
	*Fleet
	t     *testing.T
	steer *fakeSteering
	reg   *stats.Registry
	epoch uint64
}

func newBench(t *testing.T) *bench {
	shared := &worker.Shared{}
	b := &bench{t: t, steer: &fakeSteering{t: t, fds: map[string][]int{}}, reg: stats.NewRegistry(workers)}
	f, err := New(Config{Workers: workers, Shared: shared, Steering: b.steer, OnError: func(err error) { t.Error(err) },
		Worker: func(i int, k sys.Kernel) (*worker.Worker, error) {
			return worker.New(worker.Config{Index: i, Kernel: k, Shared: shared})
		}})
	if err != nil {
		t.Fatal(err)
	}
	b.Fleet = f
	t.Cleanup(f.Stop)
	return b
}

func (b *bench) listener(name, addr string) *snapshot.Listener {
	a := sys.Addr{Path: addr}
	if ip, err := netip.ParseAddrPort(addr); err == nil {
		a = sys.AddrOf(ip)
	}
	return &snapshot.Listener{Name: name, Bind: true, Addrs: []snapshot.ListenAddr{{Addr: a, Opts: sys.ListenOpts{ReusePort: true}}},
		Scope: b.reg.Scope("listener."+name+".", stats.ListenerDef)}
}

func (b *bench) prepare(l *snapshot.Listener) {
	b.t.Helper()
	if err := b.Prepare(l); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) publish(l ...*snapshot.Listener) {
	b.t.Helper()
	b.epoch++
	b.Publish(&snapshot.Snapshot{Epoch: b.epoch, Listeners: l})
	if b.started && !b.Settle(b.epoch, 5*time.Second) {
		b.t.Fatal("not adopted")
	}
}

func (b *bench) addr(name string) sys.Addr {
	b.t.Helper()
	l := b.Bound()[name]
	if len(l) != 1 {
		b.t.Fatalf("%s is bound to %v", name, l)
	}
	return l[0]
}

// serves tells whether a connection is accepted (listeners without filter chains close it then).
func serves(a sys.Addr) bool {
	network := "tcp"
	if a.IsUnix() {
		network = "unix"
	}
	c, err := net.DialTimeout(network, a.String(), 5*time.Second)
	if err != nil {
		return false
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	_, err = c.Read(make([]byte, 1))
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)
}

func TestPrepare_WhenNotPublished_ThenBoundAndConnectionsRefused(t *testing.T) {
	b := newBench(t)
	b.Start()
	l := b.listener("l", "127.0.0.1:0")
	b.prepare(l)
	a := b.addr("l")
	if serves(a) {
		t.Error("a warming listener accepts")
	}
	b.publish(l)
	for range 4 * workers {
		if !serves(a) {
			t.Fatal("a published listener refuses")
		}
	}
}

func TestPublish_WhenWorkersHaveNotStarted_ThenRefusedUntilStart(t *testing.T) {
	b := newBench(t)
	l := b.listener("l", "127.0.0.1:0")
	b.prepare(l)
	b.publish(l)
	if serves(b.addr("l")) || len(b.steer.fds) > 0 {
		t.Error("accepts before Start")
	}
	b.Start()
	if !serves(b.addr("l")) || len(b.steer.fds) != 1 {
		t.Error("refuses after Start, or is not steered")
	}
}

func TestPrepare_WhenTheAddressIsTaken_ThenErrorAsEnvoys(t *testing.T) {
	for _, reuse := range []bool{false, true} {
		b := newBench(t)
		lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) {
				if reuse {
					_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
				}
			})
		}}
		other, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		addr := other.Addr().String()
		err = b.Prepare(b.listener("l", addr))
		if want := "cannot bind '" + addr + "': Address already in use"; err == nil || err.Error() != want {
			t.Errorf("reuse %v: %v, want %s", reuse, err, want)
		}
		if n := len(b.sets) + len(b.retired); n != 0 {
			t.Errorf("reuse %v: %d sets left", reuse, n)
		}
	}
}

func TestPublish_WhenAnotherListenerIsWarming_ThenItsSocketsStay(t *testing.T) {
	b := newBench(t)
	b.Start()
	one, two := b.listener("one", "127.0.0.1:0"), b.listener("two", "127.0.0.1:0")
	b.prepare(one)
	b.prepare(two)
	b.publish(one)
	a := b.addr("two")
	b.publish(one, two)
	if b.addr("two") != a || !serves(a) || !serves(b.addr("one")) {
		t.Error("the sockets of a warming listener were lost")
	}
}

func TestDiscard_WhenANewerVersionHasTheSameAddress_ThenItsSocketsStay(t *testing.T) {
	b := newBench(t)
	b.Start()
	v1, v2 := b.listener("l", "127.0.0.1:0"), b.listener("l", "127.0.0.1:0")
	b.prepare(v1)
	b.prepare(v2)
	a := b.addr("l")
	b.Discard(v1)
	b.publish(v2)
	if b.addr("l") != a || !serves(a) {
		t.Error("discarding one version closed the other's sockets")
	}
	v3 := b.listener("l", "127.0.0.1:0")
	b.prepare(v3)
	b.Discard(v3)
	if !serves(a) {
		t.Error("discarding a warming version closed the active one's sockets")
	}
	b.Discard(v2)
	if !serves(a) {
		t.Error("discarding an active version must do nothing")
	}
}

func TestPublish_WhenAListenerIsRemoved_ThenClosedAndDetachedOnceAdopted(t *testing.T) {
	b := newBench(t)
	b.Start()
	l := b.listener("l", "127.0.0.1:0")
	b.prepare(l)
	b.publish(l)
	a := b.addr("l")
	b.publish()
	if serves(a) {
		t.Error("a removed listener accepts")
	}
	b.mu.Lock() // the reaper may be at it
	if len(b.retired) != 0 || len(b.sets) != 0 || len(b.steer.gone) != 1 {
		t.Errorf("left: %d retired, %d sets; detached %v", len(b.retired), len(b.sets), b.steer.gone)
	}
	b.mu.Unlock()
	again := b.listener("l", a.String())
	b.prepare(again)
	b.publish(again)
	if !serves(a) {
		t.Error("the address cannot be used again")
	}
}

func TestPrepare_WhenARemovedListenerComesBackBeforeAdoption_ThenItsSocketsAreUsed(t *testing.T) {
	b := newBench(t)
	b.Start()
	l := b.listener("l", "127.0.0.1:0")
	b.prepare(l)
	b.publish(l)
	a := b.addr("l")
	b.mu.Lock()
	ids := b.sets[keyOf(l, 0)].id
	b.mu.Unlock()
	// Both publications in one breath: the workers may or may not see the first.
	b.epoch++
	b.Publish(&snapshot.Snapshot{Epoch: b.epoch})
	if err := b.Prepare(l); err != nil {
		t.Fatal(err)
	}
	b.publish(l)
	if now := b.addr("l"); now == a {
		b.mu.Lock()
		if got := b.sets[keyOf(l, 0)].id; got != ids {
			t.Errorf("set %d, want %d", got, ids)
		}
		b.mu.Unlock()
	}
	for range 2 * workers {
		if !serves(b.addr("l")) {
			t.Fatal("refused")
		}
	}
}

func TestStopListeners_WhenAConfigurationFollows_ThenItIsAdoptedAndNothingOpens(t *testing.T) {
	b := newBench(t)
	b.Start()
	in, out := b.listener("in", "127.0.0.1:0"), b.listener("out", "127.0.0.1:0")
	in.Direction, out.Direction = snapshot.Inbound, snapshot.Outbound
	b.prepare(in)
	b.prepare(out)
	b.publish(in, out)
	a, o := b.addr("in"), b.addr("out")
	b.StopListeners(true)
	for end := time.Now().Add(5 * time.Second); serves(a) && time.Now().Before(end); {
	}
	if serves(a) || !serves(o) {
		t.Error("inbound must be closed and outbound open")
	}
	later := b.listener("later", "127.0.0.1:0")
	later.Direction = snapshot.Inbound
	b.prepare(later)
	b.publish(in, out, later) // Settle inside: the plan of StopListeners must not hide this one
	if len(b.Bound()["later"]) != 0 || serves(a) || !serves(o) {
		t.Error("a drained direction opened again")
	}
}

func TestPublish_WhenUnixSocket_ThenOneSocketForAllWorkers(t *testing.T) {
	for _, path := range []string{t.TempDir() + "/s", "@sidecar-fleet-test"} {
		b := newBench(t)
		b.Start()
		l := b.listener("l", path)
		b.prepare(l)
		if serves(l.Addrs[0].Addr) {
			t.Errorf("%s: accepts before publication", path)
		}
		b.publish(l)
		for range 8 {
			if !serves(l.Addrs[0].Addr) {
				t.Fatalf("%s: refused", path)
			}
		}
		if len(b.steer.fds) != 0 {
			t.Errorf("%s: steered", path)
		}
	}
}

func TestStart_WhenAnotherProcessListensMeanwhile_ThenReported(t *testing.T) {
	shared := &worker.Shared{}
	var got []string
	f, err := New(Config{Workers: 1, Shared: shared, OnError: func(err error) { got = append(got, err.Error()) },
		Worker: func(i int, k sys.Kernel) (*worker.Worker, error) {
			return worker.New(worker.Config{Index: i, Kernel: k, Shared: shared})
		}})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Stop()
	b := &bench{Fleet: f, t: t, reg: stats.NewRegistry(1)}
	l := b.listener("l", "127.0.0.1:0")
	l.Addrs[0].Opts.ReusePort = false
	b.prepare(l)
	fd, err := sys.Listen(b.addr("l"), &sys.ListenOpts{}) // SO_REUSEADDR lets it bind because ours does not listen yet
	if err != nil {
		t.Skip("this kernel refuses the second bind")
	}
	defer sys.CloseFD(fd)
	b.publish(l)
	b.Start()
	if len(got) != 1 || !strings.Contains(got[0], "listener l: cannot listen on '127.0.0.1:") {
		t.Errorf("reported %q", got)
	}
}
