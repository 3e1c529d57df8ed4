// SPDX-License-Identifier: Apache-2.0

package stats

import (
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

	shapes promShapes
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

// scopes lists the live scopes by prefix, those with the same prefix in creation order.
func (v *View) scopes() []*Scope {
	list := v.reg.list()
	slices.SortStableFunc(list, func(a, b *Scope) int { return strings.Compare(a.Prefix, b.Prefix) })
	return list
}

// Each calls fn for every metric that q selects, sorted by name. Only the metrics of scopes whose names interleave are in memory at once.
func (v *View) Each(q *Query, fn func(*Metric)) {
	var open []*scopeCursor // those with metrics left; few, since prefixes rarely hold each other
	least := func() int {
		at := 0
		for i := range open {
			if open[i].list[0].Name < open[at].list[0].Name {
				at = i
			}
		}
		return at
	}
	drain := func(until *Scope) {
		for len(open) > 0 {
			i := least()
			c := open[i]
			if until != nil && c.list[0].Name >= until.Prefix {
				return
			}
			fn(&c.list[0])
			if c.list = c.list[1:]; len(c.list) == 0 {
				open = slices.Delete(open, i, i+1)
			}
		}
	}
	var free []Metric
	for _, s := range v.scopes() {
		drain(s)
		var buf []Metric
		if len(open) == 0 {
			buf = free[:0]
		}
		list := v.scope(buf, s, q)
		if len(open) == 0 {
			free = list
		}
		if len(list) > 0 {
			slices.SortFunc(list, func(a, b Metric) int { return strings.Compare(a.Name, b.Name) })
			open = append(open, &scopeCursor{list})
		}
	}
	drain(nil)
}

// scopeCursor is what is left of a scope's metrics, sorted by name.
type scopeCursor struct{ list []Metric }

// Collect lists the metrics that q selects, sorted by name.
func (v *View) Collect(q *Query) []Metric {
	var out []Metric
	v.Each(q, func(m *Metric) { out = append(out, *m) })
	return out
}

func (v *View) scope(out []Metric, s *Scope, q *Query) []Metric {
	if s.Def.Lazy && !s.Touched() {
		return out
	}
	allowed := v.allowed(s)
	for id := range s.Def.Stats {
		if m, ok := v.metric(s, id, allowed, q); ok {
			m.Name = s.Prefix + s.Def.Stats[id].Name
			out = append(out, m)
		}
	}
	return v.codes(out, s, q)
}

// metric reads one stat; false when q or the stats_matcher (allowed) leaves it out. The name is not filled in: joining it costs more than the rest.
func (v *View) metric(s *Scope, id int, allowed []uint64, q *Query) (Metric, bool) {
	st := &s.Def.Stats[id]
	if allowed != nil && allowed[id>>6]&(1<<(id&63)) == 0 {
		return Metric{}, false
	}
	if !q.wants(st.Kind) || (st.Hidden && q.Hidden == HiddenExclude) || (!st.Hidden && q.Hidden == HiddenOnly) {
		return Metric{}, false
	}
	m := Metric{Kind: st.Kind, Unit: st.Unit}
	switch st.Kind {
	case Text:
		m.Text, m.Used = s.Text(id), true // Envoy counts text readouts as used
	case Histogram:
		if _, made := s.histMade(id); st.Lazy && !made {
			return Metric{}, false
		}
		if total, interval, used := s.Histogram(id); used {
			m.Hist, m.Used = &Summary{Total: total, Interval: interval}, true
		}
	default:
		n, used := s.Value(id)
		if st.Lazy && !used {
			return Metric{}, false
		}
		m.Used = used
		m.Value = uint64(n)
		if n < 0 && !st.Wide && !strings.HasSuffix(st.Name, "version") {
			m.Value = 0 // a gauge read while one shard had given back what another had not yet taken
		}
	}
	if q.UsedOnly && !m.Used || q.Filter != nil && !q.matches(s.Prefix+st.Name) {
		return Metric{}, false
	}
	if m.Hist != nil {
		m.Hist.Bounds = DefaultBuckets
		if len(v.cfg.Buckets) > 0 {
			m.Hist.Bounds = v.bounds(s.Prefix + st.Name)
		}
	}
	return m, true
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
	v.eachCode(s, q, func(set, code string, n uint64) {
		out = append(out, Metric{Name: s.Prefix + set + code, Kind: Counter, Used: true, Value: n})
	})
	return out
}

// codeNames are the status codes in decimal.
var codeNames = func() (out [600]string) {
	for c := range out {
		out[c] = strconv.Itoa(c)
	}
	return out
}()

var classNames = [...]string{1: "1xx", "2xx", "3xx", "4xx", "5xx"}

// eachCode calls fn for the counters that Block.Code makes: each is named by the scope's prefix, that of its set, and its code.
func (v *View) eachCode(s *Scope, q *Query, fn func(set, code string, n uint64)) {
	if !q.wants(Counter) || q.Hidden == HiddenOnly {
		return
	}
	for i, set := range s.Def.Codes {
		var byCode [600]int64
		total := int64(0)
		s.eachCode(i, func(code int, n int64) { byCode[code] += n; total += n })
		if total == 0 {
			continue
		}
		add := func(code string, n int64) {
			if n <= 0 {
				return
			}
			if q.Filter != nil || v.cfg.Allow != nil {
				if name := s.Prefix + set + code; !q.matches(name) || v.cfg.Allow != nil && !v.cfg.Allow(name) {
					return
				}
			}
			fn(set, code, uint64(n))
		}
		for class := 1; class <= 5; class++ {
			sum := int64(0)
			for c := class * 100; c < class*100+100; c++ {
				sum += byCode[c]
				add(codeNames[c], byCode[c])
			}
			add(classNames[class], sum)
		}
		add("unknown", byCode[0])
		if !slices.ContainsFunc(s.Def.Stats, func(st Stat) bool { return st.FromCodes == i+1 }) {
			add("completed", total)
		}
	}
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
