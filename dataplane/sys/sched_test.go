// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// onThread runs f on a thread that ends with it.
func onThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		f()
	}()
	<-done
}

func TestPolite_WhenCalled_ThenOnlyThisThreadGivesWayAtTheNiceValueItHas(t *testing.T) {
	var before *unix.SchedAttr
	onThread(func() {
		var err error
		if before, err = unix.SchedGetAttr(0, 0); err != nil || before.Policy != unix.SCHED_NORMAL {
			t.Skipf("tests run under another policy: %+v, %v", before, err)
		}
		if err := Polite(); err != nil {
			t.Error(err)
		}
		if a, err := unix.SchedGetAttr(0, 0); err != nil || a.Policy != unix.SCHED_BATCH || a.Nice != before.Nice || a.Runtime != briskSlice && a.Runtime != before.Runtime {
			t.Errorf("%+v, %v; before: %+v", a, err, before)
		}
	})
	onThread(func() {
		if a, err := unix.SchedGetAttr(0, 0); err != nil || a.Policy != before.Policy {
			t.Errorf("another thread: %+v, %v", a, err)
		}
	})
}

func TestBrisk_WhenCalled_ThenSlicesAreShortUnlessThePolicyIsSomebodysChoice(t *testing.T) {
	onThread(func() {
		before, err := unix.SchedGetAttr(0, 0)
		if err != nil || before.Policy != unix.SCHED_NORMAL {
			t.Skipf("tests run under another policy: %+v, %v", before, err)
		}
		if err := Brisk(); err != nil {
			t.Error(err)
		}
		a, err := unix.SchedGetAttr(0, 0)
		if err != nil || a.Policy != before.Policy || a.Nice != before.Nice || a.Runtime != briskSlice && a.Runtime != before.Runtime {
			t.Errorf("%+v, %v", a, err)
		}
	})
	onThread(func() {
		if err := Polite(); err != nil {
			t.Error(err)
		}
		if err := Brisk(); err != nil {
			t.Error(err)
		}
		if a, err := unix.SchedGetAttr(0, 0); err != nil || a.Policy != unix.SCHED_BATCH {
			t.Errorf("%+v, %v", a, err)
		}
	})
}

func TestCPU_WhenAThreadIsPinned_ThenItsProcessorIsTold(t *testing.T) {
	onThread(func() {
		var all unix.CPUSet
		if err := unix.SchedGetaffinity(0, &all); err != nil {
			t.Skip(err)
		}
		for i := range 1024 {
			if !all.IsSet(i) {
				continue
			}
			var one unix.CPUSet
			one.Set(i)
			if err := unix.SchedSetaffinity(0, &one); err != nil {
				t.Skip(err)
			}
			if Yield(); CPU() != i {
				t.Errorf("on %d, want %d", CPU(), i)
			}
		}
	})
}
