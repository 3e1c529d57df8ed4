// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"cmp"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Config is what bootstrap's stats_config says beyond tags. The zero value lists everything with the default buckets.
type Config struct {
	// Allow is stats_matcher: it tells whether a name exists at all. nil allows everything.
	Allow func(name string) bool
	// Buckets are histogram_bucket_settings; the first match wins.
	Buckets []BucketRule
}

// BucketRule gives histograms whose names match their own upper bounds.
type BucketRule struct {
	Match  func(name string) bool
	Bounds []float64
}

// View renders a registry. Safe for concurrent use; it reads shards while their owners write.
type View struct {
	reg  *Registry
	tags *Tags
	cfg  Config
}

// NewView makes a view; tags nil means Envoy's defaults.
func NewView(r *Registry, tags *Tags, cfg Config) *View {
	if tags == nil {
		t, err := NewTags(TagsConfig{UseDefaults: true})
		if err != nil {
			panic(err) // a mistake in DefaultTags
		}
		tags = t
	}
	return &View{reg: r, tags: tags, cfg: cfg}
}

// HiddenMode is the hidden= parameter.
type HiddenMode uint8

// The modes.
const (
	HiddenExclude HiddenMode = iota
	HiddenInclude
	HiddenOnly
)

// BucketMode is the histogram_buckets= parameter.
type BucketMode uint8

// The modes; Summary for text and JSON and cumulative buckets for Prometheus are the default.
const (
	BucketsDefault BucketMode = iota
	BucketsSummary
	BucketsCumulative
	BucketsDisjoint
	BucketsDetailed
)

// Query selects what is listed.
type Query struct {
	UsedOnly     bool
	Filter       *regexp.Regexp // matches anywhere in the name
	Invert       bool           // invert_filter: list what Filter does not match
	Kinds        [4]bool        // by Kind; all false lists all
	Hidden       HiddenMode
	Buckets      BucketMode
	TextReadouts bool // Prometheus only: text readouts as gauges
}

func (q *Query) wants(k Kind) bool {
	return q.Kinds == [4]bool{} || q.Kinds[k]
}

// Metric is one stat at one moment.
type Metric struct {
	Name  string
	Kind  Kind
	Unit  Unit
	Used  bool
	Value uint64
	Text  string
	Hist  *Summary // nil when nothing was recorded before the last flush
}

// Collect lists the metrics that q selects, sorted by name.
func (v *View) Collect(q *Query) []Metric {
	var out []Metric
	v.reg.Each(func(s *Scope) { out = v.scope(out, s, q) })
	slices.SortFunc(out, func(a, b Metric) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func (v *View) scope(out []Metric, s *Scope, q *Query) []Metric {
	if s.Def.Lazy && !s.Touched() {
		return out
	}
	allowed := v.allowed(s)
	for id := range s.Def.Stats {
		st := &s.Def.Stats[id]
		if allowed != nil && allowed[id>>6]&(1<<(id&63)) == 0 {
			continue
		}
		if !q.wants(st.Kind) || (st.Hidden && q.Hidden == HiddenExclude) || (!st.Hidden && q.Hidden == HiddenOnly) {
			continue
		}
		m := Metric{Kind: st.Kind, Unit: st.Unit}
		switch st.Kind {
		case Text:
			m.Text, m.Used = s.Text(id), true // Envoy counts text readouts as used
		case Histogram:
			if _, made := s.histMade(id); st.Lazy && !made {
				continue
			}
			if total, interval, used := s.Histogram(id); used {
				m.Hist, m.Used = &Summary{Total: total, Interval: interval}, true
			}
		default:
			n, used := s.Value(id)
			if st.Lazy && !used {
				continue
			}
			m.Used = used
			m.Value = uint64(n)
			if n < 0 && !st.Wide && !strings.HasSuffix(st.Name, "version") {
				m.Value = 0 // a gauge read while one shard had given back what another had not yet taken
			}
		}
		if q.UsedOnly && !m.Used {
			continue
		}
		m.Name = s.Prefix + st.Name
		if q.matches(m.Name) {
			if m.Hist != nil {
				m.Hist.Bounds = v.bounds(m.Name)
			}
			out = append(out, m)
		}
	}
	return v.codes(out, s, q)
}

func (q *Query) matches(name string) bool {
	return q.Filter == nil || q.Filter.MatchString(name) != q.Invert
}

// allowSet remembers what stats_matcher says of a scope's stats: with 10,000 clusters a million names would have to be matched each scrape.
type allowSet struct {
	view *View
	bits []uint64
}

// allowed returns the set of allowed stats of s, nil when all are.
func (v *View) allowed(s *Scope) []uint64 {
	if v.cfg.Allow == nil {
		return nil
	}
	if a := s.allow.Load(); a != nil && a.view == v {
		return a.bits
	}
	a := &allowSet{view: v, bits: make([]uint64, (len(s.Def.Stats)+63)/64)}
	for id := range s.Def.Stats {
		if v.cfg.Allow(s.Prefix + s.Def.Stats[id].Name) {
			a.bits[id>>6] |= 1 << (id & 63)
		}
	}
	s.allow.Store(a)
	return a.bits
}

func (v *View) bounds(name string) []float64 {
	for i := range v.cfg.Buckets {
		if v.cfg.Buckets[i].Match(name) {
			return v.cfg.Buckets[i].Bounds
		}
	}
	return DefaultBuckets
}

// codes lists the counters that Block.Code makes.
func (v *View) codes(out []Metric, s *Scope, q *Query) []Metric {
	if !q.wants(Counter) || q.Hidden == HiddenOnly {
		return out
	}
	for set, prefix := range s.Def.Codes {
		var byCode [600]int64
		total := int64(0)
		s.eachCode(set, func(code int, n int64) { byCode[code] += n; total += n })
		if total == 0 {
			continue
		}
		add := func(name string, n int64) {
			if n > 0 && q.matches(name) && (v.cfg.Allow == nil || v.cfg.Allow(name)) {
				out = append(out, Metric{Name: name, Kind: Counter, Used: true, Value: uint64(n)})
			}
		}
		for class := 1; class <= 5; class++ {
			sum := int64(0)
			for c := class * 100; c < class*100+100; c++ {
				sum += byCode[c]
				add(s.Prefix+prefix+strconv.Itoa(c), byCode[c])
			}
			add(s.Prefix+prefix+strconv.Itoa(class)+"xx", sum)
		}
		add(s.Prefix+prefix+"unknown", byCode[0])
		if !slices.ContainsFunc(s.Def.Stats, func(st Stat) bool { return st.FromCodes == set+1 }) {
			add(s.Prefix+prefix+"completed", total)
		}
	}
	return out
}

// histMade tells whether any shard has the histogram.
func (s *Scope) histMade(id int) (*Hist, bool) {
	for i := range s.blocks {
		if h := s.Hist(id, i); h != nil {
			return h, true
		}
	}
	return nil, false
}

// ResetCounters sets all counters to 0 (POST /reset_counters). Increments that happen meanwhile may survive or go, as in Envoy.
func (r *Registry) ResetCounters() {
	for _, s := range r.list() {
		for i := range s.blocks {
			b := s.blocks[i].Load()
			if b == nil {
				continue
			}
			for id := range s.Def.Stats {
				if s.Def.Stats[id].Kind == Counter {
					b.cells[id].Store(0)
				}
			}
			for set := range b.codes {
				b.codes[set].Store(nil)
			}
		}
	}
}

// kindOrder sorts as Envoy's text and JSON lists do: text readouts, then counters and gauges together, then histograms.
func kindOrder(k Kind) int {
	switch k {
	case Text:
		return 0
	case Histogram:
		return 2
	}
	return 1
}

func sortForLists(m []Metric) {
	slices.SortStableFunc(m, func(a, b Metric) int { return cmp.Compare(kindOrder(a.Kind), kindOrder(b.Kind)) })
}
