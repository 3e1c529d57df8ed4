// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// resident is VmRSS of the process in KiB.
func (p *proxy) resident() int {
	p.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	var n int
	for _, l := range strings.Split(string(b), "\n") {
		if strings.HasPrefix(l, "VmRSS:") {
			if _, err := fmt.Sscanf(l, "VmRSS: %d kB", &n); err != nil {
				p.t.Fatal(err)
			}
		}
	}
	return n
}

func TestIdle_WhenOneStaticListener_ThenResidentMemoryIsSmall(t *testing.T) {
	t.Parallel()
	p := start(t, simple(newBackend(t, false)), "--concurrency", "2")
	p.dial("l").want("hello", false)
	const limit = 25 << 10
	for end := time.Now().Add(patience); ; time.Sleep(250 * time.Millisecond) {
		n := p.resident()
		if n <= limit {
			t.Logf("idle: %d KiB", n)
			break
		}
		if time.Now().After(end) {
			t.Fatalf("resident memory %d KiB, want at most %d", n, limit)
		}
	}
	time.Sleep(2 * time.Second) // it stays there
	p.dial("l").want("hello", false)
	if n := p.resident(); n > limit {
		t.Errorf("resident memory %d KiB, want at most %d", n, limit)
	}
}

func TestRuntime_WhenTheEnvironmentIsForAnotherProgram_ThenItIsOverriddenAndSaid(t *testing.T) {
	t.Parallel()
	cmd, out, _ := command(t, simple(newBackend(t, false)), "--mode", "init_only", "--concurrency", "2")
	cmd.Env = append(os.Environ(), "GOMAXPROCS=7", "GOMEMLIMIT=64MiB")
	if err := cmd.Run(); err != nil {
		t.Fatal(err, out)
	}
	for _, want := range []string{"GOMAXPROCS=7 from the environment is overridden: 3", "GOMEMLIMIT=64MiB from the environment is overridden"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in:\n%s", want, out)
		}
	}
}
