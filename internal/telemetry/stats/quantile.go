// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"math"
	"slices"
)

// Quantiles are the ones that Envoy prints, as fractions.
var Quantiles = [...]float64{0, 0.25, 0.5, 0.75, 0.90, 0.95, 0.99, 0.995, 0.999, 1}

// quantileNames are the same in percent as Envoy spells them.
var quantileNames = [...]string{"0", "25", "50", "75", "90", "95", "99", "99.5", "99.9", "100"}

// DefaultBuckets are the upper bounds that histograms have unless histogram_bucket_settings say otherwise.
var DefaultBuckets = []float64{0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 600000, 1800000, 3600000}

// HistData is the content of a histogram at one moment: non-empty buckets in ascending order.
type HistData []Bucket

// merge adds two histories.
func (h HistData) merge(o HistData) HistData { return combine(h, o, 1) }

// minus is what h has more than o, which is an earlier state of the same histogram.
func (h HistData) minus(o HistData) HistData { return combine(h, o, -1) }

func combine(h, o HistData, sign int64) HistData {
	out := make(HistData, 0, len(h)+len(o))
	for len(h) > 0 || len(o) > 0 {
		var b Bucket
		switch {
		case len(o) == 0 || len(h) > 0 && h[0].Low < o[0].Low:
			b, h = h[0], h[1:]
		case len(h) == 0 || o[0].Low < h[0].Low:
			b, o = o[0], o[1:]
			b.Count = uint64(sign * int64(b.Count))
		default:
			b = h[0]
			b.Count += uint64(sign * int64(o[0].Count))
			h, o = h[1:], o[1:]
		}
		if int64(b.Count) > 0 {
			out = append(out, b)
		}
	}
	return out
}

// Count is the number of samples.
func (h HistData) Count() (n uint64) {
	for _, b := range h {
		n += b.Count
	}
	return n
}

// Sum is the estimated sum of all samples: each counts as the harmonic mean of its bucket's bounds.
func (h HistData) Sum() (s float64) {
	for _, b := range h {
		if top := b.Low + b.Width; b.Low+top > 0 {
			s += 2 * b.Low * top / (b.Low + top) * float64(b.Count)
		}
	}
	return s
}

// Quantile estimates the q-quantile: the n samples of a bucket are taken as spread evenly inside it, at k/(n+1). NaN without samples.
func (h HistData) Quantile(q float64) float64 {
	total := h.Count()
	if total == 0 {
		return math.NaN()
	}
	rank := uint64(max(math.Ceil(q*float64(total)), 1))
	for _, b := range h {
		if rank <= b.Count {
			return b.Low + b.Width*float64(rank)/float64(b.Count+1)
		}
		rank -= b.Count
	}
	last := h[len(h)-1]
	return last.Low + last.Width
}

// AtMost counts the samples of all buckets that begin at or below bound, which is what Envoy's "le" buckets hold.
func (h HistData) AtMost(bound float64) (n uint64) {
	for _, b := range h {
		if b.Low > bound*(1+1e-12) {
			break
		}
		n += b.Count
	}
	return n
}

// histMerged is a histogram as of the last flush.
type histMerged struct {
	total, interval HistData
}

// Flush ends a statistics interval (stats_flush_interval, 5 s by default): the cumulative and interval values of all histograms change only
// here, as in Envoy. One caller at a time; readers see the old or the new value of each histogram.
func (r *Registry) Flush() {
	for _, s := range r.list() {
		for id := range s.Def.Stats {
			if s.Def.Stats[id].Kind != Histogram {
				continue
			}
			total := s.histTotal(id)
			old, _ := s.merged.Load(id)
			if len(total) == 0 && old == nil {
				continue
			}
			m := &histMerged{total: total}
			if o, ok := old.(*histMerged); ok {
				m.interval = total.minus(o.total)
			} else {
				m.interval = total
			}
			s.merged.Store(id, m)
		}
	}
	r.flushed.Store(true)
}

func (s *Scope) histTotal(id int) HistData {
	var out HistData
	for i := range s.blocks {
		if h := s.Hist(id, i); h != nil {
			d := HistData(h.AppendBuckets(nil))
			if out == nil {
				out = d
			} else {
				out = out.merge(d)
			}
		}
	}
	return out
}

// Histogram returns the values as of the last flush; used is false when nothing was recorded before it.
func (s *Scope) Histogram(id int) (total, interval HistData, used bool) {
	if m, ok := s.merged.Load(id); ok {
		x := m.(*histMerged)
		return x.total, x.interval, len(x.total) > 0
	}
	return nil, nil, false
}

// Summary is a histogram ready to print.
type Summary struct {
	Total, Interval HistData
	Bounds          []float64
}

func (s *Summary) quantiles(d HistData) (out [len(Quantiles)]float64) {
	for i, q := range Quantiles {
		out[i] = d.Quantile(q)
	}
	return out
}

// disjoint turns cumulative counts into counts per bucket.
func disjoint(c []uint64) []uint64 {
	c = slices.Clone(c)
	for i := len(c) - 1; i > 0; i-- {
		c[i] -= min(c[i], c[i-1])
	}
	return c
}

func (s *Summary) cumulative(d HistData) []uint64 {
	return s.appendCumulative(make([]uint64, 0, len(s.Bounds)), d)
}

func (s *Summary) appendCumulative(out []uint64, d HistData) []uint64 {
	for _, b := range s.Bounds {
		out = append(out, d.AtMost(b))
	}
	return out
}
