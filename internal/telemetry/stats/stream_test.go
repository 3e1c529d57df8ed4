// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// populate makes scopes of several kinds, also with prefixes that hold each other, and writes to them.
func populate(r *Registry, clusters int) {
	name := func(i int) string { return fmt.Sprintf("outbound|%d||service-%d.default.svc.cluster.local", 80+i%3, i) }
	for i := range clusters {
		for _, d := range []*Def{ClusterDef, ClusterSizeDef} {
			b := r.Scope("cluster."+name(i)+".", d).Block(1)
			for id := range d.Stats {
				switch d.Stats[id].Kind {
				case Counter, Gauge:
					b.Add(id, int64(id+i))
				case Histogram:
					for v := uint64(1); v < 100_000; v *= 3 {
						b.Record(id, v+uint64(i))
					}
				}
			}
			if len(d.Codes) > 0 {
				for _, c := range []uint16{200, 404, 503} {
					b.Code(0, c)
				}
			}
		}
	}
	r.Flush()
}

func mixed() *Registry {
	r := NewRegistry(2)
	populate(r, 30)
	for _, p := range []string{"cluster.a.", "cluster.a.b.", "cluster.a.b.c.", "cluster.a-b.", "cluster.aa.", "cluster.a.upstream_rq_active.", "cluster.outbound|80||service-0."} {
		r.Scope(p, ClusterDef).Block(2).Inc(ClusterUpstreamRqTotal)
	}
	r.Scope("", ProxyProtoErrorDef).Control()
	r.Scope("listener.127.0.0.1_80.", ListenerDef).Control().Inc(0)
	r.Scope("listener.[__1]_80.", ListenerDef).Control().Inc(1)
	r.Scope("http.in.", HCMDef).Control().Inc(0)
	r.Scope("control_plane.", ControlPlaneDef).SetText(ControlPlaneIdentifier, `a"b`)
	return r
}

// TestLists_WhenStreamed_ThenTheyAreWhatTheDefinitionSays holds the streamed lists against their definition: collect everything, sort, print.
func TestLists_WhenStreamed_ThenTheyAreWhatTheDefinitionSays(t *testing.T) {
	v := NewView(mixed(), nil, Config{Buckets: []BucketRule{{Match: func(n string) bool { return strings.Contains(n, "service-7.") }, Bounds: []float64{1, 10, 100}}}})
	for i, q := range []*Query{{}, {UsedOnly: true}, {TextReadouts: true}, {Hidden: HiddenInclude}, {Hidden: HiddenOnly}, {Kinds: [4]bool{Gauge: true}},
		{Filter: regexp.MustCompile(`a\.|rq_5`)}, {Filter: regexp.MustCompile(`cluster`), Invert: true}, {Buckets: BucketsDisjoint}} {
		all := v.Collect(q)
		if len(all) == 0 || !slices.IsSortedFunc(all, func(a, b Metric) int { return cmp.Compare(a.Name, b.Name) }) {
			t.Errorf("query %d: %d metrics, not sorted", i, len(all))
		}
		rank := func(k Kind) int { return [...]int{Text: 0, Counter: 1, Gauge: 1, Histogram: 2}[k] }
		list := slices.Clone(all)
		slices.SortStableFunc(list, func(a, b Metric) int { return cmp.Compare(rank(a.Kind), rank(b.Kind)) })
		var want []byte
		for j := range list {
			want = list[j].appendText(want, q)
		}
		if got := render(t, v.Text, q); got != string(want) {
			t.Errorf("query %d: text differs: %s", i, firstDifference(got, string(want)))
		}
		if got, want := render(t, v.Prometheus, q), defined(v, all, q); got != want {
			t.Errorf("query %d: Prometheus differs: %s", i, firstDifference(got, want))
		}
	}
}

// defined renders the Prometheus text from a list that is in memory as a whole.
func defined(v *View, all []Metric, q *Query) string {
	p := &promScrape{v: v}
	var b []byte
	for _, kind := range []Kind{Counter, Gauge, Text, Histogram} {
		if kind == Text && !q.TextReadouts {
			continue
		}
		type row struct {
			family string
			promMetric
		}
		var rows []row
		for _, m := range all {
			if m.Kind == kind {
				name, tags := v.tags.Extract(m.Name)
				rows = append(rows, row{promName(name), promMetric{prefix: m.Name, labels: promLabels(tags), m: m}})
			}
		}
		slices.SortStableFunc(rows, func(x, y row) int { return cmp.Compare(x.family, y.family) })
		for i := range rows {
			if i == 0 || rows[i-1].family != rows[i].family {
				b = fmt.Appendf(b, "# TYPE %s %s\n", rows[i].family, [...]string{Counter: "counter", Gauge: "gauge", Histogram: "histogram", Text: "gauge"}[kind])
			}
			b = p.append(b, rows[i].family, &rows[i].promMetric)
		}
	}
	return string(b)
}

func firstDifference(a, b string) string {
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(x), len(y)) {
		if x[i] != y[i] {
			return fmt.Sprintf("line %d: %q, want %q", i, x[i], y[i])
		}
	}
	return fmt.Sprintf("%d lines, want %d", len(x), len(y))
}

// peak remembers the largest piece.
type peak struct{ total, largest int }

func (p *peak) Write(b []byte) (int, error) {
	p.total += len(b)
	p.largest = max(p.largest, len(b))
	return len(b), nil
}

func TestLists_WhenThereAreManyClusters_ThenPiecesAndMemoryAreSmall(t *testing.T) {
	const clusters = 1000
	r := NewRegistry(1)
	populate(r, clusters)
	v := NewView(r, nil, Config{})
	for name, list := range map[string]struct {
		fn    func(io.Writer, *Query) error
		bytes uint64 // allocated per cluster
	}{"prometheus": {v.Prometheus, 15000}, "text": {v.Text, 20000}, "json": {v.JSON, 20000}} {
		_ = list.fn(io.Discard, &Query{}) // what is remembered
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		p := &peak{}
		start := time.Now()
		if err := list.fn(p, &Query{}); err != nil {
			t.Fatal(err)
		}
		took := time.Since(start)
		runtime.ReadMemStats(&after)
		each := (after.TotalAlloc - before.TotalAlloc) / clusters
		t.Logf("%s: %d bytes, %v, %d bytes allocated per cluster", name, p.total, took, each)
		if p.largest > outputChunk+4096 {
			t.Errorf("%s: a piece of %d bytes", name, p.largest)
		}
		if each > list.bytes {
			t.Errorf("%s: %d bytes allocated per cluster, bound is %d", name, each, list.bytes)
		}
	}
}

var errGone = errors.New("gone")

type gone struct{}

func (gone) Write([]byte) (int, error) { return 0, errGone }

func TestLists_WhenTheReaderIsGone_ThenTheErrorIsTold(t *testing.T) {
	v := NewView(mixed(), nil, Config{})
	for _, fn := range []func(io.Writer, *Query) error{v.Text, v.JSON, v.Prometheus, v.HTML} {
		if err := fn(gone{}, &Query{}); err != errGone {
			t.Error(err)
		}
	}
}
