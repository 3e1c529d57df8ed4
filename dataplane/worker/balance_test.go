// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"slices"
	"testing"

	"sidecar/dataplane/conn"
	"sidecar/dataplane/exchange"
	"sidecar/dataplane/listener"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/stats"
)

// account is a LoadSlot that a test reads.
type account struct {
	active, pending int
	shut            bool
}

func (a *account) Accepted(int)              {}
func (a *account) Active(delta int)          { a.active += delta }
func (a *account) BusySince(int64)           {}
func (a *account) Resync()                   {}
func (a *account) Carries(int64) (int, bool) { return a.active + a.pending, !a.shut }

func TestPressure_WhenBusy_ThenItCountsForMoreThanAnyNumberOfConnections(t *testing.T) {
	for _, tc := range []struct{ share, mean, want int }{
		{0, 0, 0}, {scarce, 1000, 0}, {scarce + 100, 0, 2}, {full, 0, fullWeight}, {full, 1000, fullWeight + 1000}, {600, 84, 50},
	} {
		if got := pressure(tc.share, tc.mean); got != tc.want {
			t.Errorf("busy for %d/1000, %d connections in the mean: %d, want %d", tc.share, tc.mean, got, tc.want)
		}
	}
}

func TestSmooth_WhenSamplesStay_ThenItReachesThem(t *testing.T) {
	var s smooth
	for _, v := range []int64{1000, 0, 7, 1, 0} {
		s.add(v, 1)
		if v == 1000 && s.value() != 125 {
			t.Errorf("%d after the first sample of 1000", s.value())
		}
		for range 64 {
			s.add(v, 1)
		}
		if got := s.value(); int64(got) != v {
			t.Errorf("%d after many samples of %d", got, v)
		}
	}
	s.add(40, 1<<30) // one look after a long sleep
	if s.value() != 40 {
		t.Errorf("%d after a long time of 40", s.value())
	}
}

// A worker that is busy publishes so, and takes it back when it is not, although nothing else wakes it.
func TestMeasure_WhenTheLoadEnds_ThenTheWorkerWakesUntilItHasSaidSo(t *testing.T) {
	k := &clock{sys.NewLinux(), sys.Second}
	slot := &account{active: 3}
	w, err := New(Config{Kernel: k, Shared: &Shared{}, Load: slot})
	if err != nil {
		t.Fatal(err)
	}
	defer w.shutdown()
	w.SetPeers([]*Worker{w})
	for range 20 { // turns that do not wait: always busy
		k.now += lookEvery
		w.Turn(false)
	}
	if l, _ := w.Tally(); l.BusyPercent < 80 || l.Connections != 3 || l.Score < 3+12 {
		t.Errorf("while busy: %+v", l)
	}
	looks := 0
	for ; w.even.timer.Armed() && looks < 100; looks++ {
		w.even.parked -= lookEvery // it waited all the time
		k.now += lookEvery
		w.Turn(false)
	}
	if l, _ := w.Tally(); l.Score != 3 || slot.active != 3 || l.BusyPercent > scarce/10 {
		t.Errorf("after %d looks: %+v", looks, l)
	}
	if looks < 5 || looks > 20 {
		t.Errorf("it took %d looks", looks)
	}
	if n := testing.AllocsPerRun(20, func() { k.now += lookEvery; w.Turn(false) }); n != 0 {
		t.Errorf("%v allocations in a turn that looks", n)
	}
}

// resting is a connection that says of itself what the test wants.
type resting struct {
	conn.Member
	idle    sys.Nanos // for how long; 0: something is in flight
	movable bool
	rate    uint32 // requests from look to look
	gone    *int
	k       *clock
	packed  bool
}

func (r *resting) Drain(conn.DrainMode)         {}
func (r *resting) Chain() *snapshot.FilterChain { return nil }
func (r *resting) Rest(now sys.Nanos) (sys.Nanos, bool) {
	return now - r.idle, r.movable
}

func (r *resting) Pack() *exchange.Parcel {
	*r.gone++
	r.packed = true
	return &exchange.Parcel{}
}

func (r *resting) Served() uint32 { return r.rate * uint32(r.k.now/lookEvery) }

func TestSpread_WhenOneWorkerCarriesMore_ThenIdleConnectionsMoveUntilItDoesNot(t *testing.T) {
	many := func(n int, idle sys.Nanos, movable bool) []resting {
		return slices.Repeat([]resting{{idle: idle, movable: movable}}, n)
	}
	long := func(n int) []resting { return many(n, cold, true) }
	load := func(rates ...uint32) (out []resting) {
		for _, n := range rates {
			out = append(out, resting{idle: 1, movable: true, rate: n})
		}
		return out
	}
	type peer struct {
		account
		busy int // thousandths
		old  bool
	}
	for _, tc := range []struct {
		name  string
		busy  int // of the worker, in thousandths
		conns []resting
		more  int // what else it carries
		peers []peer
		looks [][]int // moved to each peer, look by look
		which int     // the one that moves if it is one
	}{
		{"nothing to do", 0, long(3), 0, []peer{{}, {}}, [][]int{{0, 0}, {0, 0}}, 0},
		{"until even", 0, long(12), 0, []peer{{}, {account: account{active: 3}}}, [][]int{{5, 2}, {0, 0}}, 0},
		{"not for a quarter", 0, long(99), 0, []peer{{account: account{active: 75}}}, [][]int{{0}, {0}}, 0},
		{"more than a quarter", 0, long(100), 0, []peer{{account: account{active: 75}}}, [][]int{{12}, {0}}, 0},
		{"a bounded number at once", 0, long(150), 0, []peer{{}}, [][]int{{maxMoves}, {11}}, 0},
		{"pending connections count", 0, long(8), 0, []peer{{account: account{pending: 6}}, {}}, [][]int{{0, 4}, {0, 0}}, 0},
		{"away from requests", 0, long(6), 20, []peer{{}, {}}, [][]int{{3, 3}, {0, 0}}, 0},
		{"never to one that takes none", 0, long(8), 0, []peer{{account: account{shut: true}}, {}}, [][]int{{0, 4}, {0, 0}}, 0},
		{"nor to one with another plan", 0, long(8), 0, []peer{{}, {old: true}}, [][]int{{4, 0}, {0, 0}}, 0},
		{"not before they are cold", 0, many(8, cold-1, true), 0, []peer{{}}, [][]int{{0}, {0}}, 0},
		{"nor when they cannot", 0, many(8, cold, false), 0, []peer{{}}, [][]int{{0}, {0}}, 0},
		{"a warm one that is not the load", 800, load(90, 10), 0, []peer{{busy: 300}, {busy: 200}}, [][]int{{0, 0}, {0, 1}, {0, 0}}, 1},
		{"the most that fits", 800, load(70, 20, 10, 30), 0, []peer{{}}, [][]int{{0}, {1}, {0}}, 3},
		{"a half fits", 800, load(50, 50), 0, []peer{{}}, [][]int{{0}, {1}, {0}}, 0},
		{"not if none does", 800, load(60, 40), 0, []peer{{busy: 300}}, [][]int{{0}, {0}, {0}}, 0},
		{"also if the others are in flight", 800, append([]resting{{rate: 90}}, load(10)...), 0, []peer{{}}, [][]int{{0}, {1}, {0}}, 1},
		{"not in flight", 800, append([]resting{{rate: 10}}, load(90)...), 0, []peer{{}}, [][]int{{0}, {0}, {0}}, 0},
		{"not the only one", 800, load(100), 0, []peer{{}}, [][]int{{0}, {0}, {0}}, 0},
		{"not when the other is as busy", 800, load(50, 50), 0, []peer{{busy: 501}}, [][]int{{0}, {0}, {0}}, 0},
		{"not when there is time", hotShare - 1, load(50, 50), 0, []peer{{}}, [][]int{{0}, {0}, {0}}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k := &clock{sys.NewLinux(), sys.Second}
			reg := stats.NewRegistry(1)
			gone, mine := 0, &account{active: len(tc.conns) + tc.more}
			w, err := New(Config{Kernel: k, Shared: &Shared{}, Load: mine})
			if err != nil {
				t.Fatal(err)
			}
			defer w.shutdown()
			w.plan = &Plan{Seq: 7}
			all := []*Worker{w}
			for i := range tc.peers {
				x, err := New(Config{Kernel: sys.NewLinux(), Shared: &Shared{}, Load: &tc.peers[i].account})
				if err != nil {
					t.Fatal(err)
				}
				defer x.shutdown()
				if x.seq.Store(7); tc.peers[i].old {
					x.seq.Store(6)
				}
				x.tally.busy.Store(int32(tc.peers[i].busy))
				all = append(all, x)
			}
			w.SetPeers(all)
			w.even.busy = smooth(tc.busy) << 10
			l := listener.New(w.Loop, w, &snapshot.Listener{Name: "l", Scope: reg.Scope("l.", stats.ListenerDef)})
			w.listeners["l"] = l
			for i := range tc.conns {
				r := &tc.conns[i]
				r.gone, r.k = &gone, k
				r.Member = conn.Member{H: r}
				l.Members.Join(&r.Member)
			}
			moved := make([]int, len(tc.peers))
			for look, want := range tc.looks {
				w.even.spread(k.now)
				sum := 0
				for i := range want {
					n := int(all[i+1].tally.coming.Load())
					if n-moved[i] != want[i] {
						t.Errorf("look %d: %d to worker %d, want %d", look+1, n-moved[i], i+1, want[i])
					}
					moved[i] = n
					sum += n
				}
				if l.Members.Len() != len(tc.conns)-sum || gone != sum || mine.active != len(tc.conns)+tc.more-sum {
					t.Errorf("look %d: %d are left, %d were packed, %d are carried; %d have moved", look+1, l.Members.Len(), gone, mine.active, sum)
				}
				k.now += lookEvery
			}
			if gone == 1 && !tc.conns[tc.which].packed {
				t.Errorf("it was not connection %d that moved", tc.which)
			}
		})
	}
}
