// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"os"
	"strings"
	"testing"
	"time"

	"sidecar/integration/proc"
)

func TestIdle_WhenOneStaticListener_ThenResidentMemoryIsSmall(t *testing.T) {
	t.Parallel()
	p := start(t, simple(newBackend(t, false)), "--concurrency", "2")
	p.dial("l").want("hello", false)
	const limit = 25 << 20
	for end := time.Now().Add(patience); ; time.Sleep(250 * time.Millisecond) {
		n := p.RSS()
		if n <= limit {
			t.Logf("idle: %d KiB", n>>10)
			break
		}
		if time.Now().After(end) {
			t.Fatalf("resident memory %d KiB, want at most %d", n>>10, limit>>10)
		}
	}
	time.Sleep(2 * time.Second) // it stays there
	p.dial("l").want("hello", false)
	if n := p.RSS(); n > limit {
		t.Errorf("resident memory %d KiB, want at most %d", n>>10, limit>>10)
	}
}

func TestRuntime_WhenTheEnvironmentIsForAnotherProgram_ThenItIsOverriddenAndSaid(t *testing.T) {
	t.Parallel()
	cmd, out := proc.Configured(t, simple(newBackend(t, false)), "--mode", "init_only", "--concurrency", "2")
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
