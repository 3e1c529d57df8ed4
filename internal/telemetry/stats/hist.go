// SPDX-License-Identifier: Apache-2.0

package stats

import "sync/atomic"

// Hist counts samples in log-linear buckets of two significant decimal digits, the same grid as Envoy's histograms: 0, then 1.0, 1.1 … 9.9
// times a power of ten. Single writer, any number of readers. Decades are made on first use; there are at most maxDecades.
type Hist struct {
	zero    atomic.Uint64
	decades [maxDecades]atomic.Pointer[decade]
}

const maxDecades = 12

type decade [90]atomic.Uint64

// Record adds one sample; values of 10^maxDecades and more count in the last bucket.
func (h *Hist) Record(v uint64) {
	if v == 0 {
		h.zero.Add(1)
		return
	}
	e := 0
	lo := v
	for lo >= 100 {
		lo /= 10
		e++
	}
	// lo is 1..99 with lo*10^e <= v; scale one digit values to the grid 10..99 of the decade below.
	if lo < 10 {
		lo *= 10
	} else {
		e++
	}
	if e >= maxDecades {
		e, lo = maxDecades-1, 99
	}
	p := &h.decades[e]
	d := p.Load()
	if d == nil {
		p.CompareAndSwap(nil, new(decade)) // shard 0 has several writers
		d = p.Load()
	}
	d[lo-10].Add(1)
}

// Bucket is one non-empty bucket: samples in [Low, Low+Width).
type Bucket struct {
	Low, Width float64
	Count      uint64
}

// AppendBuckets appends the non-empty buckets in ascending order.
func (h *Hist) AppendBuckets(out []Bucket) []Bucket {
	if n := h.zero.Load(); n > 0 {
		out = append(out, Bucket{0, 0, n})
	}
	scale := 0.1
	for e := range h.decades {
		if d := h.decades[e].Load(); d != nil {
			for i := range d {
				if n := d[i].Load(); n > 0 {
					out = append(out, Bucket{float64(i+10) * scale, scale, n})
				}
			}
		}
		scale *= 10
	}
	return out
}

// Hist returns the histogram of one shard, nil when the shard never used the scope.
func (s *Scope) Hist(id, shard int) *Hist {
	if b := s.blocks[shard].Load(); b != nil {
		return b.hist(id)
	}
	return nil
}

// Shards is the number of shards.
func (s *Scope) Shards() int { return len(s.blocks) }
