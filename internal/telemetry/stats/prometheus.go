// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"cmp"
	"io"
	"maps"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Prometheus renders the text exposition format 0.0.4: counters, gauges, (text readouts as gauges,) histograms, each group sorted by family name
// with one TYPE line and the metrics of a family by their stat name.
//
// It goes family by family, so that of a million metrics only those of one family are in memory. Which family and which labels a stat has is
// remembered per scope (promScope): taking the tags out of a name costs more than all the rest.
func (v *View) Prometheus(w io.Writer, q *Query) error {
	out := &output{w: w}
	p := &promScrape{v: v, byShape: map[*promShape][]promTarget{}}
	for _, s := range v.scopes() {
		ps := v.promScope(s)
		p.byShape[ps.shape] = append(p.byShape[ps.shape], promTarget{s, ps})
	}
	for _, kind := range [...]Kind{Counter, Gauge, Text, Histogram} {
		if q.wants(kind) && (kind != Text || q.TextReadouts) {
			one := *q
			one.Kinds = [4]bool{}
			one.Kinds[kind] = true
			p.kind(out, kind, &one)
		}
	}
	return out.end()
}

// promScope is what the names of a scope's stats say: the shape, which all scopes alike share, and the labels. Immutable.
type promScope struct {
	view   *View
	shape  *promShape
	labels []string // rendered, without braces
}

// promShape holds, per stat of a Def, the family's name and which of the scope's labels it has. Immutable.
type promShape struct {
	def    *Def
	family []string
	label  []uint16
}

// maxShapes bounds the shapes kept for sharing: the forms that names of one Def take are few.
const maxShapes = 256

// promShapes are the shapes in use.
type promShapes struct {
	mu   sync.Mutex
	list []*promShape
}

// share returns a known shape that equals s, else s.
func (x *promShapes) share(s *promShape) *promShape {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, o := range x.list {
		if o.def == s.def && slices.Equal(o.label, s.label) && slices.Equal(o.family, s.family) {
			return o
		}
	}
	if len(x.list) < maxShapes {
		x.list = append(x.list, s)
	}
	return s
}

// promScope returns the labels and families of s, worked out on first use.
func (v *View) promScope(s *Scope) *promScope {
	if ps := s.prom.Load(); ps != nil && ps.view == v {
		return ps
	}
	ps := &promScope{view: v}
	shape := &promShape{def: s.Def, family: make([]string, len(s.Def.Stats)), label: make([]uint16, len(s.Def.Stats))}
	for id := range s.Def.Stats {
		name, tags := v.tags.Extract(s.Prefix + s.Def.Stats[id].Name)
		labels := promLabels(tags)
		i := slices.Index(ps.labels, labels)
		if i < 0 {
			i = len(ps.labels)
			ps.labels = append(ps.labels, labels)
		}
		shape.family[id], shape.label[id] = promName(name), uint16(i)
	}
	ps.shape = v.shapes.share(shape)
	s.prom.Store(ps)
	return ps
}

// promScrape is one scrape.
type promScrape struct {
	v       *View
	byShape map[*promShape][]promTarget // scopes in the order of their prefixes
	group   []promMetric                // one family, reused

	// le are the rendered bounds of the last histogram.
	bounds []float64
	le     []string
	counts []uint64
}

type promTarget struct {
	s  *Scope
	ps *promScope
}

// promMetric is one metric; its stat name is prefix and name together.
type promMetric struct {
	prefix, name string
	labels       string
	m            Metric
}

// promSource is where a family's metrics come from: a stat of all scopes of one shape.
type promSource struct {
	shape *promShape
	id    int
}

func (p *promScrape) kind(out *output, kind Kind, q *Query) {
	families := map[string][]promSource{}
	for shape := range p.byShape {
		for id := range shape.def.Stats {
			if shape.def.Stats[id].Kind == kind {
				families[shape.family[id]] = append(families[shape.family[id]], promSource{shape, id})
			}
		}
	}
	var codes map[string][]promCode
	if kind == Counter {
		codes = p.codes(q)
		for f := range codes {
			families[f] = append(families[f], promSource{})
		}
	}
	for _, f := range slices.Sorted(maps.Keys(families)) {
		group := p.group[:0]
		for _, c := range codes[f] {
			name := c.t.s.Prefix + c.set + c.code
			_, tags := p.v.tags.Extract(name)
			group = append(group, promMetric{prefix: name, labels: promLabels(tags), m: Metric{Kind: Counter, Value: c.n}})
		}
		for _, src := range families[f] {
			if src.shape != nil {
				group = p.collect(group, src, q)
			}
		}
		p.group = group
		if len(group) == 0 {
			continue
		}
		if !slices.IsSortedFunc(group, compareStats) {
			slices.SortStableFunc(group, compareStats)
		}
		out.b = append(append(append(out.b, "# TYPE "...), f...), [...]string{Counter: " counter\n", Gauge: " gauge\n", Histogram: " histogram\n", Text: " gauge\n"}[kind]...)
		for i := range group {
			out.b = p.append(out.b, f, &group[i])
			out.full()
		}
	}
}

// collect appends the metrics of one stat over all scopes of a shape.
func (p *promScrape) collect(group []promMetric, src promSource, q *Query) []promMetric {
	st := &src.shape.def.Stats[src.id]
	for _, t := range p.byShape[src.shape] {
		if t.s.Def.Lazy && !t.s.Touched() {
			continue
		}
		if m, ok := p.v.metric(t.s, src.id, p.v.allowed(t.s), q); ok {
			group = append(group, promMetric{t.s.Prefix, st.Name, t.ps.labels[src.shape.label[src.id]], m})
		}
	}
	return group
}

// promCode is a counter of a status code.
type promCode struct {
	t         *promTarget
	set, code string
	n         uint64
}

// codes lists the counters of status codes by family. Which there are is only known from the values, so their labels are not remembered but taken
// out of their names again when their family's turn comes.
func (p *promScrape) codes(q *Query) map[string][]promCode {
	out := map[string][]promCode{}
	for shape, targets := range p.byShape {
		if len(shape.def.Codes) == 0 {
			continue
		}
		for i := range targets {
			t := &targets[i]
			p.v.eachCode(t.s, q, func(set, code string, n uint64) {
				name, _ := p.v.tags.Extract(t.s.Prefix + set + code)
				f := promName(name)
				out[f] = append(out[f], promCode{t, set, code, n})
			})
		}
	}
	return out
}

// compareStats compares two stat names without joining them.
func compareStats(a, b promMetric) int {
	if a.prefix == b.prefix {
		return cmp.Compare(a.name, b.name)
	}
	n := min(len(a.prefix), len(b.prefix))
	if c := cmp.Compare(a.prefix[:n], b.prefix[:n]); c != 0 {
		return c
	}
	return cmp.Compare(a.prefix[n:]+a.name, b.prefix[n:]+b.name) // one prefix holds the other: rare
}

func (p *promScrape) append(b []byte, family string, g *promMetric) []byte {
	switch g.m.Kind {
	case Histogram:
		return p.appendHistogram(b, family, g)
	case Text:
		b = append(append(append(append(b, family...), '{'), g.labels...), sep(g.labels)...)
		return append(append(append(b, `text_value="`...), promValue(g.m.Text)...), "\"} 0\n"...)
	}
	b = append(append(append(append(b, family...), '{'), g.labels...), "} "...)
	return append(strconv.AppendUint(b, g.m.Value, 10), '\n')
}

// sep is what stands between labels and one more.
func sep(labels string) string {
	if labels == "" {
		return ""
	}
	return ","
}

func (p *promScrape) appendHistogram(b []byte, family string, g *promMetric) []byte {
	s := g.m.Hist
	if s == nil {
		s = &Summary{Bounds: p.v.bounds(g.prefix + g.name)}
	}
	if !slices.Equal(p.bounds, s.Bounds) {
		p.bounds, p.le = s.Bounds, nil
		for _, x := range s.Bounds {
			p.le = append(p.le, strconv.FormatFloat(x, 'f', -1, 64))
		}
	}
	line := func(b []byte, le string, n uint64) []byte {
		b = append(append(append(append(b, family...), "_bucket{"...), g.labels...), sep(g.labels)...)
		b = append(append(append(b, `le="`...), le...), `"} `...)
		return append(strconv.AppendUint(b, n, 10), '\n')
	}
	p.counts = s.appendCumulative(p.counts[:0], s.Total)
	for i, le := range p.le {
		b = line(b, le, p.counts[i])
	}
	n := s.Total.Count()
	b = line(b, "+Inf", n)
	b = append(append(append(append(b, family...), "_sum{"...), g.labels...), "} "...)
	b = append(appendG32(b, s.Total.Sum()), '\n')
	b = append(append(append(append(b, family...), "_count{"...), g.labels...), "} "...)
	return append(strconv.AppendUint(b, n, 10), '\n')
}

// appendG32 is C's %.32g, in which Envoy prints sums.
func appendG32(b []byte, v float64) []byte {
	if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
		return strconv.AppendInt(b, int64(v), 10)
	}
	return append(b, new(big.Float).SetFloat64(v).Text('g', 32)...)
}

// promName makes a metric name: "envoy_" and the name with everything outside [a-zA-Z0-9_] as '_'.
func promName(name string) string { return "envoy_" + promClean(name) }

func promClean(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' {
			return r
		}
		return '_'
	}, s)
}

var promEscape = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

func promValue(s string) string { return promEscape.Replace(strings.ToValidUTF8(s, "�")) }

func promLabels(tags []Tag) string {
	var b strings.Builder
	for i, t := range tags {
		if i > 0 {
			b.WriteByte(',')
		}
		name := promClean(t.Name)
		if name == "" || name[0] >= '0' && name[0] <= '9' {
			name = "_" + name
		}
		b.WriteString(name + `="` + promValue(t.Value) + `"`)
	}
	return b.String()
}
