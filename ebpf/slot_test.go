// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"testing"
	"unsafe"
)

func TestSlot_WhenComparedWithTheProgram_ThenTheLayoutIsTheSame(t *testing.T) {
	var s Slot
	var c steerWorkerLoad
	if unsafe.Sizeof(s) != 128 || unsafe.Sizeof(c) != 128 {
		t.Fatalf("sizes %d and %d, want 128", unsafe.Sizeof(s), unsafe.Sizeof(c))
	}
	for _, f := range []struct {
		name      string
		goOff, c  uintptr
		goLen, cl uintptr
	}{
		{"connections", unsafe.Offsetof(s.connections), unsafe.Offsetof(c.Connections), unsafe.Sizeof(s.connections), unsafe.Sizeof(c.Connections)},
		{"busy_since", unsafe.Offsetof(s.busySince), unsafe.Offsetof(c.BusySince), unsafe.Sizeof(s.busySince), unsafe.Sizeof(c.BusySince)},
		{"resync_mark", unsafe.Offsetof(s.resyncMark), unsafe.Offsetof(c.ResyncMark), unsafe.Sizeof(s.resyncMark), unsafe.Sizeof(c.ResyncMark)},
		{"resync_armed", unsafe.Offsetof(s.resyncArmed), unsafe.Offsetof(c.ResyncArmed), unsafe.Sizeof(s.resyncArmed), unsafe.Sizeof(c.ResyncArmed)},
		{"resync_at", unsafe.Offsetof(s.resyncAt), unsafe.Offsetof(c.ResyncAt), unsafe.Sizeof(s.resyncAt), unsafe.Sizeof(c.ResyncAt)},
		{"flags", unsafe.Offsetof(s.flags), unsafe.Offsetof(c.Flags), unsafe.Sizeof(s.flags), unsafe.Sizeof(c.Flags)},
		{"rescued", unsafe.Offsetof(s.rescued), unsafe.Offsetof(c.Rescued), unsafe.Sizeof(s.rescued), unsafe.Sizeof(c.Rescued)},
		{"picked", unsafe.Offsetof(s.picked), unsafe.Offsetof(c.Picked), unsafe.Sizeof(s.picked), unsafe.Sizeof(c.Picked)},
		{"skipped", unsafe.Offsetof(s.skipped), unsafe.Offsetof(c.Skipped), unsafe.Sizeof(s.skipped), unsafe.Sizeof(c.Skipped)},
	} {
		if f.goOff != f.c || f.goLen != f.cl {
			t.Errorf("%s: %d bytes at %d, in C %d at %d", f.name, f.goLen, f.goOff, f.cl, f.c)
		}
	}
	// What the program writes must not share a line with what workers write.
	if unsafe.Offsetof(s.rescued)/64 == unsafe.Offsetof(s.picked)/64 {
		t.Error("both sides write to one cache line")
	}
}

func TestSlot_WhenConnectionsComeAndGo_ThenLoadShowsThem(t *testing.T) {
	var s Slot
	s.picked.Store(5)
	check := func(step string, active, pending uint32) {
		t.Helper()
		if l := s.Load(); l.Active != active || l.Pending != pending {
			t.Errorf("%s: active %d, pending %d; want %d, %d", step, l.Active, l.Pending, active, pending)
		}
	}
	check("picked", 0, 5)
	s.Accepted(1)
	check("accepted", 0, 4)
	s.Active(1)
	check("active", 1, 4)
	s.Admitted(1)
	check("admitted", 2, 3)
	s.Active(-1)
	check("closed", 1, 3)
	s.Rescued(1)
	check("rescued", 1, 2)
	s.Active(-5)
	check("closed too often", 0, 2)
	s.Active(1 << 40)
	check("bounded", 1<<31, 2)
	s.Active(-1 << 40)
	s.Admitted(2)
	check("all accepted", 2, 0)
	s.Admitted(3)
	check("more than picked", 5, 0)
	s.BusySince(42)
	s.setDraining(true)
	want := Load{Active: 5, Accepted: 7, Rescued: 1, Picked: 5, Draining: true, BusySince: 42}
	if got := s.Load(); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	s.setDraining(false)
	if s.Load().Draining {
		t.Error("still draining")
	}
}

func TestSlot_WhenTheAcceptedCounterWraps_ThenActiveIsUntouched(t *testing.T) {
	var s Slot
	s.connections.Store(7<<32 | 0xffffffff)
	s.picked.Store(2)
	s.Admitted(2)
	if l := s.Load(); l.Active != 9 || l.Accepted != 1 || l.Pending != 1 {
		t.Errorf("%+v", l)
	}
	s.connections.Store(7<<32 | 0xffffffff)
	s.Accepted(2)
	if l := s.Load(); l.Active != 7 || l.Accepted != 1 || l.Pending != 1 {
		t.Errorf("%+v", l)
	}
}

func TestSlotResync_WhenConnectionsNeverCome_ThenForgottenAfterASecond(t *testing.T) {
	const ms = int64(1e6)
	var s Slot
	resync := func(at int64, pending uint32) {
		t.Helper()
		s.BusySince(at)
		s.Resync()
		s.BusySince(0)
		if got := s.Load().Pending; got != pending {
			t.Errorf("at %d ms: pending %d, want %d", at/ms, got, pending)
		}
	}
	s.picked.Store(3) // one will be accepted, two never
	resync(1000*ms, 3)
	s.Admitted(1)
	resync(1500*ms, 2)
	s.picked.Store(4) // a late one, in its handshake
	resync(1999*ms, 3)
	resync(2000*ms, 1) // the two are given up, the late one is not
	s.Admitted(1)
	resync(2100*ms, 0)
	if l := s.Load(); l.Active != 2 {
		t.Errorf("active %d, want 2", l.Active)
	}
	// Everything was accepted: a new wait begins from nothing.
	s.picked.Store(5)
	resync(9000*ms, 1)
	resync(9500*ms, 1)
	resync(10000*ms, 0)
}

func TestSlotResync_WhenCalledBeforeAccepted_ThenNothingIsForgotten(t *testing.T) {
	var s Slot
	for i := range int64(20) {
		s.BusySince(1 + i*3e8)
		s.picked.Add(2) // the second one is still in its handshake
		s.Resync()
		s.Accepted(1)
		if l := s.Load(); l.Pending != 1 || l.Accepted != uint32(2*i+1) {
			t.Fatalf("turn %d: %+v", i, l)
		}
		s.Resync()
		s.Accepted(1)
		if l := s.Load(); l.Pending != 0 {
			t.Fatalf("turn %d: %+v", i, l)
		}
	}
}

func TestSlotResync_WhenConnectionsCameByOtherWays_ThenForgottenAtOnce(t *testing.T) {
	var s Slot
	s.BusySince(1)
	s.Admitted(5)
	s.Rescued(2)
	s.Resync()
	s.picked.Store(1)
	if l := s.Load(); l.Pending != 1 || l.Active != 5 {
		t.Errorf("%+v: want the new connection pending", l)
	}
}

func TestSlot_WhenUsedOnTheRequestPath_ThenNothingIsAllocated(t *testing.T) {
	s := New(2, Options{Force: new(ModePlain)}).Slot(1)
	if n := testing.AllocsPerRun(100, func() {
		s.BusySince(1)
		s.Admitted(1)
		s.Resync()
		s.Active(-1)
		s.BusySince(0)
		_ = s.Load()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkSlotTurn(b *testing.B) {
	s := New(1, Options{Force: new(ModePlain)}).Slot(0)
	for b.Loop() {
		s.BusySince(1)
		s.Admitted(1)
		s.Resync()
		s.Active(-1)
		s.BusySince(0)
	}
}

func TestSlotCarries_WhenComparedWithTheProgram_ThenTheSameCostAndClass(t *testing.T) {
	const now = int64(1e12)
	for _, tc := range []struct {
		name string
		state
		cost int
		open bool
	}{
		{"idle", state{}, 0, true},
		{"active and pending", state{active: 3, picked: 7, accepted: 5}, 5, true},
		{"pending is bounded", state{picked: 5000}, defaultBacklog, true},
		{"busy at the limit", state{active: 1, busy: now - defaultStallNanos}, 1, true},
		{"stalled", state{active: 1, busy: now - defaultStallNanos - 1}, 1, false},
		{"draining", state{active: 2, draining: true}, 2, false},
	} {
		var s Slot
		s.set(tc.state)
		if cost, open := s.Carries(now); cost != tc.cost || open != tc.open {
			t.Errorf("%s: %d, %v; want %d, %v", tc.name, cost, open, tc.cost, tc.open)
		}
	}
}
