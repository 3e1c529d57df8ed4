// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"bytes"
	"encoding/json"
	"io"
	"math"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
)

func render(t testing.TB, fn func(io.Writer, *Query) error, q *Query) string {
	var b bytes.Buffer
	if err := fn(&b, q); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestQuantile_WhenEnvoyHadTheSameBuckets_ThenValuesAreEqual(t *testing.T) {
	raw, err := os.ReadFile("testdata/histograms.json")
	if err != nil {
		t.Fatal(err)
	}
	var recorded []struct {
		Name              string
		Totals, Intervals []struct {
			LowerBound float64 `json:"lower_bound"`
			Width      float64
			Count      uint64
		}
		Percentiles []struct{ Cumulative, Interval *float64 }
	}
	if err := json.Unmarshal(raw, &recorded); err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, h := range recorded {
		var total HistData
		for _, b := range h.Totals {
			total = append(total, Bucket{b.LowerBound, b.Width, b.Count})
		}
		for i, p := range h.Percentiles {
			got := total.Quantile(Quantiles[i])
			if p.Cumulative == nil {
				if !math.IsNaN(got) {
					t.Errorf("%s: %v", h.Name, got)
				}
				continue
			}
			checked++
			if math.Abs(got-*p.Cumulative) > 1e-9*math.Abs(got) {
				t.Errorf("%s P%s: got %v, Envoy %v", h.Name, quantileNames[i], got, *p.Cumulative)
			}
		}
	}
	if checked < 50 {
		t.Errorf("only %d quantiles compared", checked)
	}
}

// bodySizes are the samples behind the recorded lines of cluster.b1.upstream_rq_body_size below.
func bodySizes(s *Scope) {
	for v, n := range map[uint64]int{0: 532, 1: 4, 2: 1, 5: 3, 7: 4, 10: 1, 11: 5, 77: 2, 101: 5, 777: 4, 999: 3, 1001: 6, 99999: 2} {
		for range n {
			s.Block(1).Record(ClusterSizeUpstreamRqBodySize, v)
		}
	}
}

func TestView_WhenHistogramIsRendered_ThenEveryFormIsEnvoys(t *testing.T) {
	r := NewRegistry(1)
	s := r.Scope("cluster.b1.", ClusterSizeDef)
	v := NewView(r, nil, Config{})
	q := &Query{Filter: regexp.MustCompile("b1.upstream_rq_body")}
	bodySizes(s)
	if got := render(t, v.Text, q); got != "cluster.b1.upstream_rq_body_size: No recorded values\n" {
		t.Errorf("before the flush: %s", got)
	}
	r.Flush()
	r.Flush()
	const name = "cluster.b1.upstream_rq_body_size: "
	const sum = "P0(nan,0) P25(nan,0) P50(nan,0) P75(nan,0) P90(nan,0) P95(nan,7.08) P99(nan,1042.857142857143) P99.5(nan,1085.7142857142858) P99.9(nan,99666.66666666667) P100(nan,99666.66666666667)\n"
	for mode, want := range map[BucketMode]string{
		BucketsDefault:    name + sum,
		BucketsCumulative: name + "B0.5(0,532) B1(0,536) B5(0,540) B10(0,545) B25(0,550) B50(0,550) B100(0,557) B250(0,557) B500(0,557) B1000(0,570) B2500(0,570) B5000(0,570) B10000(0,570) B30000(0,570) B60000(0,570) B300000(0,572) B600000(0,572) B1.8e+06(0,572) B3.6e+06(0,572)\n",
		BucketsDisjoint:   name + "B0.5(0,532) B1(0,4) B5(0,4) B10(0,5) B25(0,5) B50(0,0) B100(0,7) B250(0,0) B500(0,0) B1000(0,13) B2500(0,0) B5000(0,0) B10000(0,0) B30000(0,0) B60000(0,0) B300000(0,2) B600000(0,0) B1.8e+06(0,0) B3.6e+06(0,0)\n",
		BucketsDetailed:   "cluster.b1.upstream_rq_body_size:\n  totals=0,0:532, 1,0.1:4, 2,0.1:1, 5,0.1:3, 7,0.1:4, 10,1:1, 11,1:5, 77,1:2, 100,10:5, 770,10:4, 990,10:3, 1000,100:6, 99000,1000:2\n  intervals=\n  summary=" + sum,
	} {
		q.Buckets = mode
		if got := render(t, v.Text, q); got != want {
			t.Errorf("mode %d:\ngot  %swant %s", mode, got, want)
		}
		if out := render(t, v.JSON, q); !json.Valid([]byte(out)) {
			t.Errorf("mode %d: invalid JSON %s", mode, out)
		}
	}
	q.Buckets = BucketsDefault
	const js = `{"stats":[{"histograms":{"supported_quantiles":[0,25,50,75,90,95,99,99.5,99.9,100],"computed_quantiles":[{"name":"cluster.b1.upstream_rq_body_size","values":[{"cumulative":0,"interval":null},{"cumulative":0,"interval":null},{"cumulative":0,"interval":null},{"cumulative":0,"interval":null},{"cumulative":0,"interval":null},{"cumulative":7.08,"interval":null},{"cumulative":1042.857142857143,"interval":null},{"cumulative":1085.7142857142858,"interval":null},{"cumulative":99666.66666666667,"interval":null},{"cumulative":99666.66666666667,"interval":null}]}]}}]}`
	if got := render(t, v.JSON, q); got != js {
		t.Errorf("JSON:\n%s\n%s", got, js)
	}
	prom := render(t, v.Prometheus, q)
	for _, line := range []string{"# TYPE envoy_cluster_upstream_rq_body_size histogram\n", `envoy_cluster_upstream_rq_body_size_bucket{envoy_cluster_name="b1",le="0.5"} 532` + "\n",
		`le="1000"} 570` + "\n", `le="3600000"} 572` + "\n", `le="+Inf"} 572` + "\n", `envoy_cluster_upstream_rq_body_size_count{envoy_cluster_name="b1"} 572` + "\n",
		`envoy_cluster_upstream_rq_body_size_sum{envoy_cluster_name="b1"} 212161.741671054`} {
		if !strings.Contains(prom, line) {
			t.Errorf("no %q in\n%s", line, prom)
		}
	}
}

func TestTags_WhenNamesAreEnvoys_ThenPrometheusNamesAndLabelsAreEqual(t *testing.T) {
	names, err := os.ReadFile("testdata/names.txt")
	if err != nil {
		t.Fatal(err)
	}
	recorded, err := os.ReadFile("testdata/prometheus.txt")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{}
	for _, l := range strings.Split(strings.TrimSpace(string(recorded)), "\n") {
		want[l] = true
	}
	tags, err := NewTags(TagsConfig{UseDefaults: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range strings.Split(strings.TrimSpace(string(names)), "\n") {
		name, kind, _ := strings.Cut(l, " ")
		if strings.Contains(name, "overload_") || strings.HasPrefix(name, "listener.admin.http.") {
			continue // left out of the recording
		}
		n, tg := tags.Extract(name)
		line := promName(n)
		if kind == "Histograms" {
			line += "_count"
		}
		line += "{" + promLabels(tg) + "}"
		if !want[line] {
			t.Errorf("%s gives %s, which Envoy does not have", name, line)
		}
		delete(want, line)
	}
	for l := range want {
		t.Errorf("missing %s", l)
	}
}

func TestDefs_WhenComparedWithEnvoysList_ThenNoNameIsMissing(t *testing.T) {
	names, err := os.ReadFile("testdata/names.txt")
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, d := range Defs() {
		for _, s := range d.Stats {
			have[s.Name] = true
		}
		for _, c := range d.Codes {
			for _, x := range []string{"200", "2xx", "501", "503", "5xx", "completed"} {
				have[c+x] = true
			}
		}
	}
	for _, l := range strings.Split(strings.TrimSpace(string(names)), "\n") {
		name, _, _ := strings.Cut(l, " ")
		found := false
		for rest := name; !found && rest != ""; {
			found = have[rest]
			_, rest, _ = strings.Cut(rest, ".")
		}
		if !found {
			t.Errorf("no Def has %s", name)
		}
	}
}

func TestNewTags_WhenRegexHasLookAhead_ThenOnlyTheKnownFormIsTaken(t *testing.T) {
	tags, err := NewTags(TagsConfig{Rules: []TagRule{
		{"http_conn_manager_listener_prefix", `^listener(?=\.).*?\.http\.(((?:[_.[:digit:]]*|[_\[\]aAbBcCdDeEfF[:digit:]]*))\.)`},
		{"cluster_name", `^cluster\.((.+?(\..+?\.svc\.cluster\.local)?)\.)`},
		{"component", `(component\.(.*?);\.)`},
	}, Fixed: []Tag{{"fix", "ed"}}})
	if err != nil {
		t.Fatal(err)
	}
	n, tg := tags.Extract("listener.0.0.0.0_15006.http.10.0.0.1_80.downstream_rq_total")
	if n != "listener.0.0.0.0_15006.http.downstream_rq_total" || len(tg) != 2 || tg[1].Value != "10.0.0.1_80" || tg[0].Name != "fix" {
		t.Errorf("%s %v", n, tg)
	}
	for _, bad := range []string{"a(?=b)(c)", "(?!x)(y)", "nogroup", "((", "(?<=a)(b)"} {
		if _, err := NewTags(TagsConfig{Rules: []TagRule{{"t", bad}}}); err == nil || !strings.Contains(err.Error(), "stats_tags[0]: t") {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if _, err := NewTags(TagsConfig{Rules: []TagRule{{Name: "nope"}}}); err == nil {
		t.Error("a rule without regex must name a default tag")
	}
}

func TestLiterals_WhenRegexIsGiven_ThenOnlyWhatEveryMatchHasIsUsed(t *testing.T) {
	for src, want := range map[string][2]string{
		`^cluster\.((x)\.)`: {"cluster.", ""}, `_rq(_(\d{3}))$`: {"", "_rq_"}, `^listener(?=\.).*?\.http(x)`: {"listener", ""}, `^ab?c(d)`: {"a", ""},
		`^a\.(b)|^c(d)`: {"a. c", ""}, `^(a|)b(c)`: {"", ""}, `^a(b)|c(d)`: {"", ""}, `x(a|b)`: {"", "x"}, `^a[)]b|c(d)`: {"", ""}, `(component\.(.*?);\.)`: {"", "component."}, `^a\.*(b)`: {"a", ""}, `(?i)abc(d)`: {"", ""},
	} {
		p, q := literals(src)
		if strings.Join(p, " ") != want[0] || q != want[1] {
			t.Errorf("%s: %q %q, want %q", src, p, q, want)
		}
	}
}

func TestView_WhenFiltered_ThenOnlyMatchingStatsAreListed(t *testing.T) {
	r := NewRegistry(2)
	s := r.Scope("cluster.x.", ClusterDef)
	s.Block(1).Code(ClusterCodes, 503)
	s.Block(2).Inc(ClusterUpstreamRqTotal)
	s.Control().Add(ClusterUpstreamRqActive, -1)
	v := NewView(r, nil, Config{Allow: func(n string) bool { return !strings.Contains(n, "cx_") }})
	if got := render(t, v.Text, &Query{UsedOnly: true}); got != "cluster.x.upstream_rq_503: 1\ncluster.x.upstream_rq_5xx: 1\ncluster.x.upstream_rq_active: 0\ncluster.x.upstream_rq_completed: 1\ncluster.x.upstream_rq_total: 1\n" {
		t.Errorf("%s", got)
	}
	all := render(t, v.Text, &Query{Kinds: [4]bool{Counter: true}})
	if strings.Contains(all, "cx_") || strings.Contains(all, "rq_active:") || !strings.Contains(all, "cluster.x.upstream_rq_cancelled: 0\n") || strings.Contains(all, "drop_overload") {
		t.Errorf("%s", all)
	}
	if got := render(t, v.Text, &Query{Hidden: HiddenOnly}); got != "cluster.x.upstream_rq_drop_overload: 0\ncluster.x.upstream_rq_dropped: 0\n" {
		t.Errorf("hidden: %s", got)
	}
	r.ResetCounters()
	if got := render(t, v.Text, &Query{Filter: regexp.MustCompile(`_total$|5xx`)}); strings.Contains(got, ": 1\n") {
		t.Errorf("after reset: %s", got)
	}
}

func TestView_WhenScrapedWhileShardsAreWritten_ThenTotalsNeverGoBack(t *testing.T) {
	const workers = 4
	r := NewRegistry(workers)
	s := r.Scope("cluster.x.", ClusterDef)
	v := NewView(r, nil, Config{})
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for w := range workers {
		wg.Go(func() {
			b := s.Block(w + 1)
			for i := uint64(0); ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				b.Inc(ClusterUpstreamRqTotal)
				b.Code(ClusterCodes, uint16(200+i%300))
				b.Record(ClusterUpstreamRqTime, i%100000)
			}
		})
	}
	last := uint64(0)
	for range 8 {
		r.Flush()
		for _, m := range v.Collect(&Query{Filter: regexp.MustCompile(`upstream_rq_total$`)}) {
			if m.Value < last {
				t.Errorf("%d after %d", m.Value, last)
			}
			last = m.Value
		}
		render(t, v.Prometheus, &Query{})
		if !json.Valid([]byte(render(t, v.JSON, &Query{}))) {
			t.Error("invalid JSON")
		}
	}
	close(stop)
	wg.Wait()
}
