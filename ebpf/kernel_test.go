// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// needBPF skips a test where CAP_BPF is missing. With the capability a program
// that does not load is a failure: the verifier never skips a test.
func needBPF(t testing.TB) {
	t.Helper()
	if !hasCapability(capBPF) && !hasCapability(capSysAdmin) {
		skip(t, "missing CAP_BPF")
	}
}

// skip ends a test for want of rights, in one line; or fails it if REQUIRE_EBPF
// is set, as it is where the rights must be present.
func skip(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("REQUIRE_EBPF") != "" {
		t.Fatalf("REQUIRE_EBPF is set: %s", why)
	}
	t.Skipf("SKIP-EBPF %s: %s", t.Name(), why)
}

// newSteerer opens a Steerer and checks its mode.
func newSteerer(t testing.TB, workers int, want Mode, opts Options) *Steerer {
	t.Helper()
	if opts.Logf == nil {
		opts.Logf = t.Logf
	}
	s := New(workers, opts)
	t.Cleanup(s.Close)
	if s.Mode() != want {
		t.Fatalf("mode %s, want %s: %s", s.Mode(), want, s.Reason())
	}
	return s
}

// group is the reuseport group of one address: a socket for each worker.
type group struct {
	fds  []int
	addr unix.SockaddrInet4
}

// newGroup opens a listening socket for each worker on a free port of loopback.
func newGroup(t testing.TB, workers int) *group {
	t.Helper()
	g := &group{addr: unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}}
	for range workers {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		must(t, "socket", err)
		must(t, "SO_REUSEPORT", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
		must(t, "bind", unix.Bind(fd, &g.addr))
		must(t, "listen", unix.Listen(fd, 512))
		name, err := unix.Getsockname(fd)
		must(t, "getsockname", err)
		g.addr.Port = name.(*unix.SockaddrInet4).Port
		g.fds = append(g.fds, fd)
	}
	t.Cleanup(func() {
		for i := range g.fds {
			g.close(i)
		}
	})
	return g
}

func (g *group) close(worker int) {
	if g.fds[worker] >= 0 {
		unix.Close(g.fds[worker])
		g.fds[worker] = -1
	}
}

// dial opens a connection to the group.
func (g *group) dial(t testing.TB) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, "socket", err)
	t.Cleanup(func() { unix.Close(fd) })
	must(t, "connect", unix.Connect(fd, &g.addr))
	return fd
}

// accept takes all connections that wait for a worker.
func (g *group) accept(t testing.TB, worker int) (fds []int) {
	t.Helper()
	for {
		fd, _, err := unix.Accept4(g.fds[worker], unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		if err == unix.EAGAIN {
			return fds
		}
		must(t, "accept", err)
		t.Cleanup(func() { unix.Close(fd) })
		fds = append(fds, fd)
	}
}

func must(t testing.TB, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// monotonic is the clock of Slot.BusySince.
func monotonic() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}

// attach attaches the group and checks the mode.
func attach(t testing.TB, s *Steerer, key string, g *group, want Mode) {
	t.Helper()
	mode, err := s.Attach(key, g.fds)
	if mode != want || err != nil {
		t.Fatalf("Attach(%q) = %s, %v; want %s", key, mode, err, want)
	}
}

func TestSteer_WhenConnectionsLiveLong_ThenEachWorkerHasTheSame(t *testing.T) {
	needBPF(t)
	for _, mode := range []Mode{ModeEBPF, ModeEBPFSelect} {
		t.Run(mode.String(), func(t *testing.T) {
			for round := range 20 {
				const workers = 4
				s := newSteerer(t, workers, mode, Options{Force: &mode})
				g := newGroup(t, workers)
				attach(t, s, "a", g, mode)
				var got [workers]int
				for range 8 {
					g.dial(t)
					// Connections wait unaccepted or not: both count the same.
					if round%2 == 0 {
						for w := range workers {
							n := len(g.accept(t, w))
							s.Slot(w).Admitted(n)
							got[w] += n
						}
					}
				}
				for w := range workers {
					got[w] += len(g.accept(t, w))
				}
				if want := [workers]int{2, 2, 2, 2}; got != want {
					t.Fatalf("round %d: connections by worker %v, want %v", round, got, want)
				}
			}
		})
	}
}

func TestSteer_WhenOneWorkerStalls_ThenItGetsNothingUntilItParks(t *testing.T) {
	needBPF(t)
	const workers, stalled = 4, 2
	s := newSteerer(t, workers, ModeEBPF, Options{StallNanos: int64(time.Millisecond)})
	g := newGroup(t, workers)
	attach(t, s, "a", g, ModeEBPF)
	spread := func(n int) (got [workers]int) {
		for range n {
			g.dial(t)
		}
		for w := range workers {
			got[w] = len(g.accept(t, w))
			s.Slot(w).Admitted(got[w])
		}
		return got
	}
	s.Slot(stalled).BusySince(monotonic() - int64(time.Second))
	if got, want := spread(9), [workers]int{3, 3, 0, 3}; got != want {
		t.Fatalf("while worker %d is stalled: %v, want %v", stalled, got, want)
	}
	if got := s.Slot(stalled).Load().Skipped; got != 9 {
		t.Errorf("worker %d was skipped %d times, want 9", stalled, got)
	}
	s.Slot(stalled).BusySince(0)
	if got, want := spread(3), [workers]int{0, 0, 3, 0}; got != want {
		t.Fatalf("after worker %d has parked: %v, want %v", stalled, got, want)
	}
	// Busy, but not for long: not stalled.
	s.Slot(stalled).BusySince(monotonic() + int64(time.Minute))
	if got, want := spread(4), [workers]int{1, 1, 1, 1}; got != want {
		t.Fatalf("while worker %d is busy: %v, want %v", stalled, got, want)
	}
}

func TestSteer_WhenASocketIsClosed_ThenItsConnectionsMove(t *testing.T) {
	needBPF(t)
	const workers, conns = 4, 100
	for _, test := range []struct {
		mode Mode
		lost bool
	}{{ModeEBPF, false}, {ModeEBPFSelect, true}} {
		t.Run(test.mode.String(), func(t *testing.T) {
			s := newSteerer(t, workers, test.mode, Options{Force: &test.mode})
			g := newGroup(t, workers)
			attach(t, s, "a", g, test.mode)
			for range conns {
				g.dial(t)
			}
			g.close(1)
			got := 0
			for _, w := range []int{0, 2, 3} {
				got += len(g.accept(t, w))
			}
			if migrates(t) || !test.lost {
				if got != conns {
					t.Errorf("%d of %d connections accepted after a socket was closed", got, conns)
				}
			} else if got != conns*3/4 {
				t.Errorf("without migration %d of %d were accepted: the test proves nothing", got, conns)
			}
			stats, err := s.Stats()
			must(t, "Stats", err)
			if !test.lost && stats.Migrated != conns/workers {
				t.Errorf("stats %+v: want %d migrated", stats, conns/workers)
			}
		})
	}
}

// migrates reports whether net.ipv4.tcp_migrate_req does the same for everyone.
func migrates(t testing.TB) bool {
	value, err := os.ReadFile("/proc/sys/net/ipv4/tcp_migrate_req")
	must(t, "tcp_migrate_req", err)
	return fmt.Sprintf("%s", value) != "0\n"
}
