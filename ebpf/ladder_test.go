// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// rerun runs tests of this binary again as an unprivileged user with only the
// given capabilities, and returns their output.
func rerun(t *testing.T, tests string, caps ...uintptr) string {
	t.Helper()
	if os.Getuid() != 0 {
		skip(t, "only root can take on other capabilities")
	}
	// The binary lies where only root may look; the link needs no look.
	cmd := exec.Command("/proc/self/exe", "-test.run", tests, "-test.v")
	cmd.Dir = "/"
	cmd.Env = []string{rerunEnv + "=1"}
	if len(caps) > 0 {
		cmd.Env = append(cmd.Env, "REQUIRE_EBPF=1")
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential:  &syscall.Credential{Uid: 65534, Gid: 65534},
		AmbientCaps: caps,
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s as nobody with capabilities %v: %v\n%s", tests, caps, err, out)
	}
	return string(out)
}

// rerunEnv is set in the process that rerun starts.
const rerunEnv = "SIDECAR_EBPF_RERUN"

func TestPrivilege_WhenOnlyCapBPF_ThenEverythingWorks(t *testing.T) {
	out := rerun(t, "^Test(Steer|Decision)_", capBPF)
	for _, want := range []string{
		"--- PASS: TestSteer_WhenConnectionsLiveLong_ThenEachWorkerHasTheSame ",
		"--- PASS: TestSteer_WhenASocketIsClosed_ThenItsConnectionsMove ",
		"--- PASS: TestDecision_WhenWorkersDiffer_ThenTheLeastCostlyIsChosen ",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("not in the output: %q\n%s", want, out)
		}
	}
	if strings.Contains(out, "SKIP-EBPF") {
		t.Errorf("tests were skipped:\n%s", out)
	}
}

func TestPrivilege_WhenNoCapability_ThenTheLadderFallsAndSaysWhy(t *testing.T) {
	out := rerun(t, "^TestLadder_WhenCapBPFIsMissing_ThenAnUnprivilegedRung$")
	if !strings.Contains(out, "--- PASS") {
		t.Errorf("the test did not run:\n%s", out)
	}
}

func TestLadder_WhenCapBPFIsMissing_ThenAnUnprivilegedRung(t *testing.T) {
	if hasCapability(capBPF) || hasCapability(capSysAdmin) {
		t.Skip("has CAP_BPF; TestPrivilege_WhenNoCapability runs this test without")
	}
	var logged []string
	s := New(4, Options{Logf: func(format string, args ...any) {
		logged = append(logged, fmt.Sprintf(format, args...))
	}})
	defer s.Close()
	if s.Mode() < ModeIncomingCPU || s.Mode() > ModeClassic {
		t.Fatalf("mode %s: %s", s.Mode(), s.Reason())
	}
	for _, rung := range s.Ladder()[:2] {
		if rung.OK || !strings.Contains(rung.Reason, "CAP_BPF is missing") ||
			!strings.Contains(rung.Reason, "operation not permitted") {
			t.Errorf("%+v: want the missing capability and the kernel's error", rung)
		}
	}
	if len(logged) != 1 || !strings.Contains(logged[0], s.Mode().String()) ||
		!strings.Contains(logged[0], "CAP_BPF") {
		t.Errorf("logged %q, want the mode and the reason once", logged)
	}
	g := newGroup(t, 4)
	attach(t, s, "a", g, s.Mode())
	acceptAll(t, s, g, 16)
}

// acceptAll dials n connections and returns how many each worker got; none may
// be lost.
func acceptAll(t testing.TB, s *Steerer, g *group, n int) []int {
	t.Helper()
	for range n {
		g.dial(t)
	}
	got, sum := make([]int, len(g.fds)), 0
	for w, fd := range g.fds {
		if fd < 0 {
			continue
		}
		got[w] = len(g.accept(t, w))
		s.Slot(w).Admitted(got[w])
		sum += got[w]
	}
	if sum != n {
		t.Fatalf("accepted %v, %d in all; want %d", got, sum, n)
	}
	return got
}

// onCPU runs f on one CPU, where loopback also delivers what f sends.
func onCPU(t testing.TB, cpu int, f func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, set unix.CPUSet
	must(t, "sched_getaffinity", unix.SchedGetaffinity(0, &before))
	set.Set(cpu)
	must(t, "sched_setaffinity", unix.SchedSetaffinity(0, &set))
	defer func() { must(t, "sched_setaffinity", unix.SchedSetaffinity(0, &before)) }()
	f()
}

func TestLadder_WhenAModeIsForced_ThenItIsUsedAndReported(t *testing.T) {
	for mode := ModeEBPF; mode <= ModePlain; mode++ {
		t.Run(mode.String(), func(t *testing.T) {
			if mode.eBPF() {
				needBPF(t)
			}
			s := newSteerer(t, 4, mode, Options{Force: &mode})
			ladder := s.Ladder()
			if len(ladder) != modes {
				t.Fatalf("%d rungs: %+v", len(ladder), ladder)
			}
			for i, rung := range ladder {
				want := ""
				switch {
				case rung.Mode < mode:
					want = "not tried: " + mode.String() + " is forced"
				case rung.Mode > mode:
					want = "not tried: " + mode.String() + " works"
				}
				if rung.Mode != Mode(i) || rung.OK != (want == "") || rung.Reason != want {
					t.Errorf("rung %d: %+v, want reason %q", i, rung, want)
				}
			}
			if (s.Reason() == "") != (mode == ModeEBPF) {
				t.Errorf("reason %q", s.Reason())
			}
			g := newGroup(t, 4)
			attach(t, s, "a", g, mode)
			acceptAll(t, s, g, 32)
			want := []ListenerReport{{Key: "a", Mode: mode}}
			if got := s.Listeners(); !slices.Equal(got, want) {
				t.Errorf("listeners %+v, want %+v", got, want)
			}
			s.Detach("a")
			acceptAll(t, s, g, 32)
			if got := s.Listeners(); len(got) != 0 {
				t.Errorf("after Detach: %+v", got)
			}
		})
	}
}

func TestLadder_WhenSteeredByCPU_ThenTheWorkerOfTheCPUAccepts(t *testing.T) {
	list := cpus()
	for _, mode := range []Mode{ModeIncomingCPU, ModeClassic} {
		for _, workers := range []int{len(list), 2 * len(list)} {
			t.Run(fmt.Sprintf("%s/%d", mode, workers), func(t *testing.T) {
				if major, minor := parseRelease(kernelRelease()); mode == ModeIncomingCPU &&
					(major < 6 || major == 6 && minor < 2) {
					t.Skip("SO_INCOMING_CPU steers since Linux 6.2")
				}
				s := newSteerer(t, workers, mode, Options{Force: &mode})
				for i, cpu := range list {
					g := newGroup(t, workers)
					attach(t, s, fmt.Sprint(cpu), g, mode)
					var got []int
					onCPU(t, cpu, func() { got = acceptAll(t, s, g, 64) })
					for w, n := range got {
						if mine := w%len(list) == i; mine != (n > 0) {
							t.Errorf("from CPU %d (%d of %v): accepted by worker %v", cpu, i, list, got)
							break
						}
					}
				}
			})
		}
	}
}

func TestLadder_WhenThereAreTooManyWorkers_ThenNotEBPF(t *testing.T) {
	s := New(MaxWorkers+1, Options{})
	defer s.Close()
	if s.Mode().eBPF() || !strings.Contains(s.Reason(), "65 workers") {
		t.Errorf("mode %s: %q", s.Mode(), s.Reason())
	}
	s.Slot(MaxWorkers).Admitted(1)
	if s.Workers() != MaxWorkers+1 || s.Slot(MaxWorkers).Load().Active != 1 {
		t.Error("slots are missing")
	}
}

func TestLadder_WhenTheGroupHasAnotherProgram_ThenLowerRungsRemoveIt(t *testing.T) {
	needBPF(t)
	for _, mode := range []Mode{ModeIncomingCPU, ModeClassic, ModePlain} {
		t.Run(mode.String(), func(t *testing.T) {
			above := newSteerer(t, 2, ModeEBPF, Options{})
			g := newGroup(t, 2)
			attach(t, above, "a", g, ModeEBPF)
			below := newSteerer(t, 2, mode, Options{Force: &mode})
			attach(t, below, "a", g, mode)
			acceptAll(t, below, g, 16)
			stats, err := above.Stats()
			must(t, "Stats", err)
			if stats != (Stats{}) {
				t.Errorf("the program still runs: %+v", stats)
			}
		})
	}
}

func TestAttach_WhenTheSocketsCannotBeSteered_ThenPlainAndReported(t *testing.T) {
	const mptcp = unix.IPPROTO_MPTCP
	for _, mode := range []Mode{ModeEBPF, ModeIncomingCPU, ModeClassic} {
		for _, test := range []struct {
			name          string
			domain, kind  int
			protocol      int
			reuse, listen bool
			wantNot       string
		}{
			{name: "unix", domain: unix.AF_UNIX, kind: unix.SOCK_STREAM, wantNot: "not an IP socket"},
			{name: "udp", domain: unix.AF_INET, kind: unix.SOCK_DGRAM, reuse: true, wantNot: "not a TCP socket"},
			{name: "mptcp", domain: unix.AF_INET, kind: unix.SOCK_STREAM, protocol: mptcp, reuse: true, listen: true, wantNot: "an MPTCP socket"},
			{name: "alone", domain: unix.AF_INET, kind: unix.SOCK_STREAM, listen: true, wantNot: "SO_REUSEPORT is not set"},
			{name: "not listening", domain: unix.AF_INET6, kind: unix.SOCK_STREAM, reuse: true, wantNot: "not listening"},
			{name: "closed", wantNot: "bad file descriptor"},
		} {
			t.Run(mode.String()+"/"+test.name, func(t *testing.T) {
				if mode.eBPF() {
					needBPF(t)
				}
				s := newSteerer(t, 2, mode, Options{Force: &mode})
				fd := 1 << 20
				if test.domain != 0 {
					var err error
					fd, err = unix.Socket(test.domain, test.kind|unix.SOCK_CLOEXEC, test.protocol)
					if test.protocol != 0 && err != nil {
						t.Skipf("protocol %d: %v", test.protocol, err)
					}
					must(t, "socket", err)
					defer unix.Close(fd)
				}
				if test.reuse {
					must(t, "SO_REUSEPORT", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
				}
				if test.listen {
					must(t, "bind", unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
					must(t, "listen", unix.Listen(fd, 16))
				}
				got, err := s.Attach("key", []int{-1, fd})
				if got != ModePlain || err == nil || !strings.Contains(err.Error(), test.wantNot) ||
					!strings.Contains(err.Error(), `listener "key": worker 1: `) {
					t.Errorf("Attach = %s, %v; want plain, %q", got, err, test.wantNot)
				}
				if l := s.Listeners(); len(l) != 1 || l[0].Mode != ModePlain || l[0].Reason == "" {
					t.Errorf("report %+v", l)
				}
			})
		}
	}
}

func TestAttach_WhenARungFailsForOneListener_ThenTheNextOne(t *testing.T) {
	needBPF(t)
	s := newSteerer(t, 2, ModeEBPF, Options{})
	other := newSteerer(t, 2, ModeEBPF, Options{})
	taken := newGroup(t, 2)
	attach(t, other, "taken", taken, ModeEBPF)
	// A socket fits into one socket array only.
	mode, err := s.Attach("taken", taken.fds)
	if mode.eBPF() || err == nil || !strings.Contains(err.Error(), "ebpf: worker 0: adding its socket") {
		t.Errorf("Attach = %s, %v", mode, err)
	}
	if l := s.Listeners(); len(l) != 1 || l[0].Mode != mode || !strings.Contains(l[0].Reason, "busy") {
		t.Errorf("report %+v", l)
	}
	acceptAll(t, s, taken, 8)
	// The next listener gets the program that was put back.
	g := newGroup(t, 2)
	attach(t, s, "good", g, ModeEBPF)
	acceptAll(t, s, g, 4)
	stats, err := s.Stats()
	must(t, "Stats", err)
	if stats.Selected != 4 {
		t.Errorf("stats %+v: want 4 selected", stats)
	}
}

func TestAttach_WhenTheArgumentsAreWrong_ThenRefused(t *testing.T) {
	s := newSteerer(t, 2, ModePlain, Options{Force: new(ModePlain)})
	g := newGroup(t, 2)
	attach(t, s, "a", g, ModePlain)
	for _, test := range []struct {
		key  string
		fds  []int
		want string
	}{
		{"a", g.fds, "already attached"},
		{"b", []int{1, 2, 3}, "3 sockets for 2 workers"},
		{"b", []int{-1, -1}, "no socket"},
		{"b", nil, "no socket"},
	} {
		if _, err := s.Attach(test.key, test.fds); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("Attach(%q, %v): %v, want %q", test.key, test.fds, err, test.want)
		}
	}
	if got := s.Listeners(); len(got) != 1 {
		t.Errorf("listeners %+v", got)
	}
	s.Detach("b") // unknown: ignored
}

func TestMode_WhenNamed_ThenParsedBack(t *testing.T) {
	names := []string{"ebpf", "ebpf_select", "incoming_cpu", "classic_bpf", "plain"}
	for i, name := range names {
		m, err := ParseMode(name)
		if m != Mode(i) || err != nil || m.String() != name {
			t.Errorf("%q: %v, %v", name, m, err)
		}
	}
	if _, err := ParseMode("hash"); err == nil {
		t.Error("an unknown name was taken")
	}
	if got := Mode(9).String(); got != "Mode(9)" {
		t.Error(got)
	}
}

func TestRelease_WhenOddlyNamed_ThenItsNumbersAreRead(t *testing.T) {
	for release, want := range map[string][2]int{
		"6.18.44-fc": {6, 18}, "5.4": {5, 4}, "6.2-rc1": {6, 2}, "unknown": {}, "": {}, "7": {},
	} {
		if major, minor := parseRelease(release); [2]int{major, minor} != want {
			t.Errorf("%q: %d.%d, want %v", release, major, minor, want)
		}
	}
}
