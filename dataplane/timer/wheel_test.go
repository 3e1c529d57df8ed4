// SPDX-License-Identifier: Apache-2.0

package timer

import (
	"math/rand/v2"
	"testing"
)

// TestWheel_WhenDrivenAtRandom_ThenFiresExactlyLikeANaiveList compares the wheel with a list that is searched in full.
func TestWheel_WhenDrivenAtRandom_ThenFiresExactlyLikeANaiveList(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 1))
		var w Wheel[int]
		now := int64(r.IntN(1 << 40))
		w.Init(now)
		es := make([]Entry[int], 40)
		due := make([]int64, len(es)) // tick, 0 = disarmed
		for range 3000 {
			switch i := r.IntN(len(es)); r.IntN(4) {
			case 0, 1:
				span := int64(1) << (r.IntN(30) + 10)
				at := now + r.Int64N(span)
				w.Arm(&es[i], at)
				due[i] = max((at+Tick-1)/Tick, now/Tick+1)
			case 2:
				w.Disarm(&es[i])
				due[i] = 0
			default:
				step := r.Int64N(int64(1) << (r.IntN(26) + 12))
				before := now / Tick
				now += step
				got := map[*Entry[int]]bool{}
				for _, e := range w.Advance(now, nil) {
					got[e] = true
				}
				for i := range es {
					want := due[i] != 0 && due[i] <= now/Tick && now/Tick > before
					if want != got[&es[i]] {
						t.Fatalf("seed %d: entry %d due %d at tick %d: fired %v", seed, i, due[i], now/Tick, got[&es[i]])
					}
					if want {
						due[i] = 0
					}
				}
			}
			n := 0
			first := int64(-1)
			for _, d := range due {
				if d != 0 {
					n++
					if first < 0 || d < first {
						first = d
					}
				}
			}
			if w.Len() != n {
				t.Fatalf("seed %d: %d armed, want %d", seed, w.Len(), n)
			}
			if nx := w.Next(); n > 0 && (nx < 0 || nx > first*Tick) {
				t.Fatalf("seed %d: next %d is after the first deadline %d", seed, nx, first*Tick)
			}
		}
	}
}

func TestWheel_WhenRearmed_ThenAllocatesNothing(t *testing.T) {
	var w Wheel[int]
	w.Init(0)
	var e Entry[int]
	now := int64(0)
	out := make([]*Entry[int], 0, 4)
	if n := testing.AllocsPerRun(1000, func() {
		now += Tick
		w.Arm(&e, now+5*Tick)
		out = w.Advance(now, out[:0])
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}
