// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// serve is a worker: it accepts what its socket gets, on a thread of its own,
// until stop is closed. It returns the number of connections.
func serve(g *group, s *Steerer, worker int, stop <-chan struct{}) (n int, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	slot := s.Slot(worker)
	for {
		slot.BusySince(0)
		poll := []unix.PollFd{{Fd: int32(g.fds[worker]), Events: unix.POLLIN}}
		if _, err := unix.Poll(poll, 5); err != nil && err != unix.EINTR {
			return n, err
		}
		slot.BusySince(monotonic())
		for {
			fd, _, err := unix.Accept4(g.fds[worker], unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
			if err == unix.EAGAIN {
				slot.Resync()
				break
			}
			if err != nil {
				return n, err
			}
			defer unix.Close(fd) // long-lived
			slot.Admitted(1)
			n++
		}
		select {
		case <-stop:
			return n, nil
		default:
		}
	}
}

func TestSteer_WhenWorkersAcceptAtTheSameTime_ThenStillExact(t *testing.T) {
	needBPF(t)
	const workers, conns = 4, 8
	for round := range 20 {
		// A machine that takes the CPU away for longer is not this test's matter.
		s := newSteerer(t, workers, ModeEBPF, Options{StallNanos: -1})
		g := newGroup(t, workers)
		attach(t, s, "a", g, ModeEBPF)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		var got [workers]int
		var errs [workers]error
		for w := range workers {
			wg.Go(func() { got[w], errs[w] = serve(g, s, w, stop) })
		}
		for range conns {
			g.dial(t)
		}
		close(stop)
		wg.Wait()
		for w := range workers {
			must(t, "worker", errs[w])
			got[w] += len(g.accept(t, w))
		}
		if want := [workers]int{2, 2, 2, 2}; got != want {
			t.Fatalf("round %d: connections by worker %v, want %v", round, got, want)
		}
	}
}

func TestSteer_WhenThereAreSeveralListeners_ThenTheyShareTheLoad(t *testing.T) {
	needBPF(t)
	s := newSteerer(t, 4, ModeEBPF, Options{})
	a, b := newGroup(t, 4), newGroup(t, 4)
	attach(t, s, "a", a, ModeEBPF)
	attach(t, s, "b", b, ModeEBPF)
	first := acceptAll(t, s, a, 2)
	second := acceptAll(t, s, b, 2)
	for w := range first {
		if first[w]+second[w] != 1 {
			t.Fatalf("two connections on each listener: %v and %v, want one on each worker", first, second)
		}
	}
	want := []ListenerReport{{Key: "a", Mode: ModeEBPF}, {Key: "b", Mode: ModeEBPF}}
	if got := s.Listeners(); !slices.Equal(got, want) {
		t.Errorf("listeners %+v, want %+v", got, want)
	}
}

func TestSteer_WhenAWorkerHasNoSocket_ThenTheOthersShareItsPart(t *testing.T) {
	needBPF(t)
	for _, workers := range []int{4, 20} {
		s := newSteerer(t, workers, ModeEBPF, Options{})
		g := newGroup(t, workers)
		g.close(1)
		attach(t, s, "a", g, ModeEBPF)
		n := 4 * (workers - 1)
		got := acceptAll(t, s, g, n)
		if workers <= 16 && !slices.Equal(got, []int{4, 0, 4, 4}) {
			t.Errorf("accepted %v", got)
		}
		stats, err := s.Stats()
		must(t, "Stats", err)
		if stats.Selected != uint64(n) || stats.Fallback != 0 || stats.Empty == 0 {
			t.Errorf("%d workers: stats %+v, want %d selected and some empty", workers, stats, n)
		}
	}
}

func TestSteer_WhenASocketClosesLater_ThenNothingIsLost(t *testing.T) {
	needBPF(t)
	s := newSteerer(t, 3, ModeEBPF, Options{})
	g := newGroup(t, 3)
	attach(t, s, "a", g, ModeEBPF)
	acceptAll(t, s, g, 6)
	g.close(0)
	if got := acceptAll(t, s, g, 6); !slices.Equal(got, []int{0, 3, 3}) {
		t.Errorf("accepted %v", got)
	}
}

func TestSteer_WhenAWorkerDrains_ThenItIsLeftAloneUntilItIsBack(t *testing.T) {
	needBPF(t)
	s := newSteerer(t, 3, ModeEBPF, Options{})
	g := newGroup(t, 3)
	attach(t, s, "a", g, ModeEBPF)
	s.SetDraining(0, true)
	if got := acceptAll(t, s, g, 4); !slices.Equal(got, []int{0, 2, 2}) {
		t.Errorf("while worker 0 drains: %v", got)
	}
	s.SetDraining(1, true)
	s.SetDraining(2, true)
	acceptAll(t, s, g, 3) // all drain: nothing is refused
	stats, err := s.Stats()
	must(t, "Stats", err)
	if stats.Unhealthy != 3 || stats.Selected != 7 {
		t.Errorf("stats %+v: want 3 unhealthy of 7", stats)
	}
	s.SetDraining(0, false)
	if got := acceptAll(t, s, g, 2); got[0] != 2 {
		t.Errorf("after worker 0 is back: %v", got)
	}
}

func TestSteer_WhenSixtyFourWorkers_ThenNearlyEven(t *testing.T) {
	needBPF(t)
	s := newSteerer(t, MaxWorkers, ModeEBPF, Options{})
	g := newGroup(t, MaxWorkers)
	attach(t, s, "a", g, ModeEBPF)
	got := acceptAll(t, s, g, 4*MaxWorkers)
	// The better of two stays within ln ln n of the mean; a hash would give
	// some worker 9 or more.
	if slices.Max(got) > 7 {
		t.Errorf("accepted %v", got)
	}
}

func TestDetach_WhenTheSocketsAreOpen_ThenTheKernelDecides(t *testing.T) {
	needBPF(t)
	s := newSteerer(t, 2, ModeEBPF, Options{})
	g := newGroup(t, 2)
	attach(t, s, "a", g, ModeEBPF)
	s.Detach("a")
	acceptAll(t, s, g, 8)
	if stats, err := s.Stats(); err != nil || stats.Selected != 0 || stats.Fallback != 8 {
		t.Errorf("stats %+v, %v: want 8 left to the kernel", stats, err)
	}
	// The same sockets can be steered again.
	attach(t, s, "again", g, ModeEBPF)
	for w := range 2 {
		s.Slot(w).Active(-100)
		s.Slot(w).Resync()
	}
	if got := acceptAll(t, s, g, 8); !slices.Equal(got, []int{4, 4}) {
		t.Errorf("accepted %v", got)
	}
}

func TestDetach_WhenListenersComeAndGo_ThenNoDescriptorLeaks(t *testing.T) {
	needBPF(t)
	s := newSteerer(t, 2, ModeEBPF, Options{})
	cycle := func(open bool) {
		g := newGroup(t, 2)
		attach(t, s, "a", g, ModeEBPF)
		if got := acceptAll(t, s, g, 2); !slices.Equal(got, []int{1, 1}) {
			t.Fatalf("accepted %v", got)
		}
		for w := range 2 {
			s.Slot(w).Active(-1)
			if !open {
				g.close(w)
			}
		}
		s.Detach("a")
		if !open {
			return
		}
		for w := range 2 {
			g.close(w)
		}
	}
	maps := func() (n int) {
		entries, err := os.ReadDir("/proc/self/fd")
		must(t, "reading the descriptors", err)
		for _, e := range entries {
			if link, _ := os.Readlink("/proc/self/fd/" + e.Name()); strings.Contains(link, "bpf") {
				n++
			}
		}
		return n
	}
	cycle(false)
	before := maps()
	for range 20 {
		cycle(false)
	}
	if after := maps(); after != before || before == 0 {
		t.Errorf("%d descriptors of maps and programs, %d before", after, before)
	}
	// A program whose group may live on is given up.
	cycle(true)
	if after := maps(); after != before-2 {
		t.Errorf("%d descriptors after an early Detach, want %d", after, before-2)
	}
	s.Close()
	if after := maps(); after != 0 {
		t.Errorf("%d descriptors after Close", after)
	}
}

func TestClose_WhenListenersAreAttached_ThenTheyAreSteeredOn(t *testing.T) {
	needBPF(t)
	s := newSteerer(t, 4, ModeEBPF, Options{})
	g := newGroup(t, 4)
	attach(t, s, "a", g, ModeEBPF)
	s.Close()
	if got := acceptAll(t, s, g, 8); !slices.Equal(got, []int{2, 2, 2, 2}) {
		t.Errorf("accepted %v", got)
	}
	s.Detach("a")
	late := newGroup(t, 4)
	if mode, err := s.Attach("late", late.fds); mode.eBPF() || err == nil {
		t.Errorf("Attach after Close = %s, %v", mode, err)
	}
	acceptAll(t, s, late, 4)
	s.Close()
}

// inNamespace runs f on a thread of its own in a new network namespace whose
// loopback is up.
func inNamespace(t *testing.T, f func()) {
	t.Helper()
	if !hasCapability(capSysAdmin) {
		skip(t, "missing CAP_SYS_ADMIN for a network namespace")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with f
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("unshare: %v", err)
			return
		}
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Errorf("socket: %v", err)
			return
		}
		defer unix.Close(fd)
		ifr, err := unix.NewIfreq("lo")
		if err == nil {
			ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
			err = unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
		}
		if err != nil {
			t.Errorf("setting lo up: %v", err)
			return
		}
		f()
	}()
	<-done
}

func TestSlotResync_WhenSYNCookiesRunTheProgramTwice_ThenTheDriftIsForgotten(t *testing.T) {
	needBPF(t)
	inNamespace(t, func() {
		// The thread's namespace decides whose setting this is.
		err := os.WriteFile("/proc/sys/net/ipv4/tcp_syncookies", []byte("2"), 0)
		if err != nil {
			t.Errorf("tcp_syncookies: %v", err)
			return
		}
		const workers, conns = 2, 20
		s := newSteerer(t, workers, ModeEBPF, Options{})
		g := newGroup(t, workers)
		attach(t, s, "a", g, ModeEBPF)
		acceptAll(t, s, g, conns)
		pending := func(at int64) (sum uint32) {
			for w := range workers {
				s.Slot(w).BusySince(at)
				s.Slot(w).Resync()
				s.Slot(w).BusySince(0)
				sum += s.Slot(w).Load().Pending
			}
			return sum
		}
		now := monotonic()
		if got := pending(now); got != conns {
			t.Errorf("pending %d, want %d: one for each cookie", got, conns)
		}
		if got := pending(now + int64(time.Second)); got != 0 {
			t.Errorf("pending %d after a second, want 0", got)
		}
	})
}
