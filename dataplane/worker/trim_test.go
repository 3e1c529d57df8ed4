// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"testing"

	"sidecar/dataplane/sys"
)

// clock is the kernel with a clock that the test turns.
type clock struct {
	*sys.Linux
	now sys.Nanos
}

func (c *clock) Now() sys.Nanos { return c.now }

func TestWorker_WhenABurstIsOver_ThenItsBuffersGoBackInTime(t *testing.T) {
	k := &clock{sys.NewLinux(), sys.Second}
	w, err := New(Config{Kernel: k, Shared: &Shared{}})
	if err != nil {
		t.Fatal(err)
	}
	defer w.shutdown()
	bufs := &w.Loop.Bufs
	var all [][]byte
	for range 64 {
		all = append(all, bufs.Get(16<<10))
	}
	for _, b := range all {
		bufs.Put(b)
	}
	turn := func(at sys.Nanos) {
		k.now = at
		w.Turn(false)
	}
	turn(2 * sys.Second)
	if b := bufs.Get(16 << 10); &b[:1][0] != &all[63][:1][0] {
		t.Error("trimmed before the interval was over")
	} else {
		bufs.Put(b)
	}
	for i := range sys.Nanos(8) {
		turn((2 + i) * trimEvery)
	}
	b := bufs.Get(16 << 10)
	for i := range all {
		if &b[:1][0] == &all[i][:1][0] {
			t.Errorf("buffer %d of the burst is still kept", i)
		}
	}
	if n := testing.AllocsPerRun(10, func() { turn(k.now + trimEvery) }); n != 0 {
		t.Errorf("%v allocations in a turn that trims", n)
	}
}
