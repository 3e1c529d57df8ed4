// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"unsafe"

	cebpf "github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// probe runs the decision of bpf/steer_policy.h with time, randomness and load
// of the test's choice.
type probe struct {
	probeObjects
	slots []Slot
}

// Constants of bpf/steer_policy.h.
const (
	noWorker     = MaxWorkers
	costStalled  = uint64(1) << 40
	costDraining = uint64(1) << 41
	costNone     = uint64(1) << 42
)

const (
	probeStall   = int64(1000)
	probeBacklog = uint32(100)
)

func newProbe(t testing.TB, workers int) *probe {
	t.Helper()
	needBPF(t)
	spec, err := loadProbe()
	must(t, "loadProbe", err)
	must(t, "nworkers", spec.Variables["nworkers"].Set(uint32(workers)))
	must(t, "backlog", spec.Variables["backlog"].Set(probeBacklog))
	must(t, "stall_ns", spec.Variables["stall_ns"].Set(probeStall))
	p := &probe{}
	must(t, "loading the probe", spec.LoadAndAssign(&p.probeObjects, nil))
	t.Cleanup(func() { p.Close() })
	size := MaxWorkers * int(unsafe.Sizeof(Slot{}))
	mem, err := unix.Mmap(p.Load.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, "mmap", err)
	t.Cleanup(func() { unix.Munmap(mem) })
	p.slots = unsafe.Slice((*Slot)(unsafe.Pointer(&mem[0])), MaxWorkers)
	return p
}

// choose returns the worker chosen and its cost.
func (p *probe) choose(t testing.TB, tried uint64, now int64, rnd uint32) (worker int, cost uint64) {
	t.Helper()
	must(t, "tried", p.ProbeTried.Set(tried))
	must(t, "now", p.ProbeNow.Set(uint64(now)))
	must(t, "rnd", p.ProbeRnd.Set(rnd))
	ret, err := p.SteerProbe.Run(&cebpf.RunOptions{Data: make([]byte, 14)})
	must(t, "running the probe", err)
	must(t, "cost", p.ProbeCost.Get(&cost))
	return int(ret), cost
}

// state is what the table sets of one worker.
type state struct {
	active, picked, accepted, rescued uint32
	busy                              int64
	draining                          bool
}

func (s *Slot) set(st state) {
	s.connections.Store(uint64(st.active)<<32 | uint64(st.accepted))
	s.picked.Store(st.picked)
	s.rescued.Store(st.rescued)
	s.busySince.Store(st.busy)
	s.setDraining(st.draining)
}

func TestDecision_WhenWorkersDiffer_ThenTheLeastCostlyIsChosen(t *testing.T) {
	needBPF(t)
	const now = int64(1e12)
	const stalled, busy = now - probeStall - 1, now - probeStall
	idle := state{}
	load := func(active uint32) state { return state{active: active} }
	for _, test := range []struct {
		name    string
		workers []state
		tried   uint64
		rnd     uint32 // the share of 2^32 is the first worker compared
		want    int
		cost    uint64
	}{
		{"one worker", []state{load(7)}, 0, 0, 0, 7},
		{"least active", []state{load(3), load(1), load(2)}, 0, 0, 1, 1},
		{"last of sixteen", append(slices.Repeat([]state{load(2)}, 15), load(1)), 0, 0, 15, 1},
		{"fifth", []state{load(2), load(2), load(2), load(2), load(1)}, 0, 0, 4, 1},
		{"tie goes to the start", []state{idle, idle, idle, idle}, 0, 1 << 31, 2, 0},
		{"tie goes on after the start", []state{idle, load(1), load(1), load(1)}, 0, 1 << 31, 0, 0},
		{"highest start", []state{idle, idle, idle}, 0, math.MaxUint32, 2, 0},
		{"pending counts", []state{{picked: 5, accepted: 3}, load(1)}, 0, 0, 1, 1},
		{"rescued does not", []state{{picked: 5, accepted: 3, rescued: 2}, load(1)}, 0, 0, 0, 0},
		{"surplus is nothing", []state{load(1), {active: 0, picked: 3, accepted: 9}}, 0, 0, 1, 0},
		{"counters wrap", []state{{picked: 1, accepted: math.MaxUint32}, load(1)}, 0, 0, 1, 1},
		{"pending is bounded", []state{{picked: 5000}, load(probeBacklog + 1)}, 0, 0, 0, uint64(probeBacklog)},
		{"huge load", []state{load(1 << 31), load(1<<31 - 1)}, 0, 0, 1, 1<<31 - 1},
		{"stalled", []state{{busy: stalled}, load(9)}, 0, 0, 1, 9},
		{"busy at the limit", []state{{busy: busy}, load(9)}, 0, 0, 0, 0},
		{"busy since later than now", []state{{busy: now + 1e9}, load(9)}, 0, 0, 0, 0},
		{"draining", []state{{draining: true}, load(9)}, 0, 0, 1, 9},
		{"all stalled", []state{{active: 4, busy: stalled}, {active: 3, busy: 1}}, 0, 0, 1, costStalled | 3},
		{"stalled before draining", []state{{draining: true}, {active: 9, busy: 1}}, 0, 0, 1, costStalled | 9},
		{"all draining", []state{{active: 2, draining: true}, {active: 1, draining: true}}, 0, 0, 1, costDraining | 1},
		{"tried", []state{idle, load(1), load(2)}, 0b011, 0, 2, 2},
		{"all tried", []state{idle, idle}, 0b11, 0, noWorker, costNone},
		{"healthy one tried", []state{idle, {busy: 1}}, 0b01, 0, 1, costStalled},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := newProbe(t, len(test.workers))
			for i, st := range test.workers {
				p.slots[i].set(st)
			}
			// Beyond the last worker lies one that must never be chosen, though
			// nothing is cheaper.
			worker, cost := p.choose(t, test.tried, now, test.rnd)
			if worker != test.want || cost != test.cost {
				t.Errorf("chose %d at %#x, want %d at %#x", worker, cost, test.want, test.cost)
			}
		})
	}
}

func TestDecision_WhenAllAreEqual_ThenTiesAreSpreadEvenly(t *testing.T) {
	for _, workers := range []int{3, 4, 7, 16, 17, 64} {
		p := newProbe(t, workers)
		got := make([]int, workers)
		const rounds = 4096
		for i := range rounds {
			// Even steps through all random numbers, in both halves.
			rnd := uint32(i)<<20 | uint32(i*40503)&0xffff
			w, _ := p.choose(t, 0, 1, rnd)
			got[w]++
		}
		mean := rounds / workers
		if slices.Min(got) < mean*3/4 || slices.Max(got) > mean*5/4 {
			t.Errorf("%d workers: chosen %v, want about %d each", workers, got, mean)
		}
	}
}

func TestDecision_WhenMoreThanSixteen_ThenTheBetterOfTwo(t *testing.T) {
	const workers = 64
	p := newProbe(t, workers)
	for i := range workers {
		p.slots[i].set(state{active: uint32(i)})
	}
	// The high bits give worker a = 32; the low ones 10 of the other 63.
	rnd := uint32(1)<<31 | (10*65536/63 + 100)
	if w, cost := p.choose(t, 0, 1, rnd); w != 10 || cost != 10 {
		t.Errorf("of 32 and 10: chose %d at %d", w, cost)
	}
	if w, _ := p.choose(t, 1<<10, 1, rnd); w != 32 {
		t.Errorf("of 32 and 10, which was tried: chose %d", w)
	}
	// Those of the first pair are stalled: another pair is drawn.
	p.slots[10].set(state{busy: 1})
	p.slots[32].set(state{busy: 1})
	if w, cost := p.choose(t, 0, 1e9, rnd); w == 10 || w == 32 || cost >= costStalled {
		t.Errorf("with the first pair stalled: chose %d at %#x", w, cost)
	}
	// All are stalled: still the best of those drawn.
	for i := range workers {
		p.slots[i].set(state{busy: 1, active: uint32(i)})
	}
	if w, cost := p.choose(t, 0, 1e9, rnd); w >= workers || cost != costStalled|uint64(w) {
		t.Errorf("with all stalled: chose %d at %#x", w, cost)
	}
	if w, _ := p.choose(t, math.MaxUint64, 1, rnd); w != noWorker {
		t.Errorf("with all tried: chose %d", w)
	}
}

func TestDecision_WhenWorkersArePassedOver_ThenItIsCounted(t *testing.T) {
	p := newProbe(t, 3)
	p.slots[0].set(state{busy: 1})
	p.slots[1].set(state{draining: true})
	for range 5 {
		p.choose(t, 0, 1e9, 0)
	}
	for i, want := range []uint32{5, 5, 0} {
		if got := p.slots[i].Load().Skipped; got != want {
			t.Errorf("worker %d: skipped %d, want %d", i, got, want)
		}
	}
}

// BenchmarkDecision measures one decision in the kernel; compare with the frame
// that decides nothing.
func BenchmarkDecision(b *testing.B) {
	run := func(b *testing.B, prog *cebpf.Program) {
		// The first call compiles; the kernel then repeats on its own.
		_, err := prog.Run(&cebpf.RunOptions{Data: make([]byte, 14), Repeat: uint32(b.N)})
		must(b, "running the probe", err)
	}
	for _, workers := range []int{1, 2, 4, 8, 16, 17, 64} {
		p := newProbe(b, workers)
		must(b, "live", p.ProbeLive.Set(uint32(1)))
		if workers == 1 {
			b.Run("frame", func(b *testing.B) { run(b, p.SteerNothing) })
		}
		b.Run(fmt.Sprintf("workers=%d", workers), func(b *testing.B) { run(b, p.SteerProbe) })
		for i := range p.slots {
			p.slots[i].set(state{draining: true})
		}
		b.Run(fmt.Sprintf("workers=%d/none-healthy", workers), func(b *testing.B) { run(b, p.SteerProbe) })
	}
}
