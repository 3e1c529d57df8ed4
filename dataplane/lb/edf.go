// SPDX-License-Identifier: Apache-2.0

package lb

import "math"

// edf is an earliest-deadline-first scheduler: each entry is due every 1/weight, the earliest due is picked and put back with the weight it
// has then. Entries with equal deadlines come in the order they were put in. This is what Envoy uses for weighted round robin, weighted least
// request and localities. Worker-owned.
type edf struct {
	heap []edfEntry
	now  float64
	seq  uint64
}

type edfEntry struct {
	deadline float64
	seq      uint64
	index    uint32
}

// newEDF schedules n entries as if picks had been going on for a random time, so that workers and restarts do not all begin with the heaviest
// entry. Entries of weight 0 are left out. unit is a random number in [0, 1).
func newEDF(n int, weight func(i int) float64, unit float64) edf {
	lightest := math.Inf(1)
	count := 0
	for i := range n {
		if w := weight(i); w > 0 {
			lightest = min(lightest, w)
			count++
		}
	}
	if count == 0 {
		return edf{}
	}
	e := edf{heap: make([]edfEntry, 0, count)}
	elapsed := 16 * unit / lightest
	for i := range n {
		w := weight(i)
		if w <= 0 {
			continue
		}
		rounds := math.Floor(elapsed * w)
		e.heap = append(e.heap, edfEntry{deadline: (rounds+1)/w - elapsed, seq: e.seq, index: uint32(i)})
		e.seq++
	}
	for i := len(e.heap)/2 - 1; i >= 0; i-- {
		e.down(i)
	}
	return e
}

// top returns the entry that is due; the scheduler must not be empty.
func (e *edf) top() uint32 { return e.heap[0].index }

// again puts the entry that top returned back with its weight of now. Weights are clamped above 0: a host under any load stays reachable.
func (e *edf) again(weight float64) {
	t := &e.heap[0]
	e.now = max(e.now, t.deadline)
	t.deadline = e.now + 1/max(weight, 1e-9)
	t.seq = e.seq
	e.seq++
	e.down(0)
}

func (e *edf) less(a, b int) bool {
	x, y := &e.heap[a], &e.heap[b]
	return x.deadline < y.deadline || (x.deadline == y.deadline && x.seq < y.seq)
}

func (e *edf) down(i int) {
	for {
		c := 2*i + 1
		if c >= len(e.heap) {
			return
		}
		if c+1 < len(e.heap) && e.less(c+1, c) {
			c++
		}
		if !e.less(c, i) {
			return
		}
		e.heap[i], e.heap[c] = e.heap[c], e.heap[i]
		i = c
	}
}
