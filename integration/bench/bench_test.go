// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

func TestStraceTotal_WhenErrorsColumnVaries_ThenCallsAreSummed(t *testing.T) {
	const text = `% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 60.00    0.010000           5      2000           sendto
 40.00    0.008000           4      2100        12 recvfrom
------ ----------- ----------- --------- --------- ----------------
100.00    0.018000           4      4100        12 total
`
	if n, err := straceTotal(text); err != nil || n != 4100 {
		t.Errorf("straceTotal = %d, %v", n, err)
	}
	if _, err := straceTotal("strace: attach: denied"); err == nil {
		t.Error("nothing counted is not an error")
	}
}

func TestConfig_WhenManyRoutes_ThenEveryProxyHasThemAll(t *testing.T) {
	for _, kind := range []string{"prefix", "exact", "mixed", "regex"} {
		c := &config{routes: kind, log: true, dir: "d", port: 1, admin: 2, upstream: 3}
		n := c.routeCount()
		if got := strings.Count(c.envoy(), "route: {cluster: backend}"); got != n {
			t.Errorf("%s: envoy has %d routes of %d", kind, got, n)
		}
		var doc map[string]any
		if err := yaml.Unmarshal([]byte(c.envoy()), &doc); err != nil {
			t.Errorf("%s: the bootstrap is not YAML: %v", kind, err)
		}
		if got := strings.Count(c.nginx("none"), "    location "); got != n {
			t.Errorf("%s: nginx has %d locations of %d", kind, got, n)
		}
		lines := 0
		_, maps := c.haproxy()
		for _, m := range maps {
			lines += strings.Count(m, "\n")
		}
		if lines != n {
			t.Errorf("%s: haproxy has %d map entries of %d", kind, lines, n)
		}
	}
}

func TestReport_WhenRoundsAreIncomplete_ThenRatiosPairWithinRounds(t *testing.T) {
	r := &report{Environment: map[string]string{"rounds": "3", "command": "a <b> & c"}, Ratios: map[string]map[string]map[string]spread{}}
	add := func(round int, peer string, v float64) {
		r.add(sample{Scenario: "h1-sat-log", Round: round, Peer: peer, Metrics: map[string]float64{"cpu_us": v}})
	}
	add(1, "sidecar", 10)
	add(1, "nginx", 20)
	add(2, "sidecar", 30)
	add(3, "sidecar", 12)
	add(3, "nginx", 16)
	r.skip("h1-sat-log", "envoy", errors.New("not there"))
	var out strings.Builder
	r.print(&out, scenarios[0])
	q := r.Ratios["h1-sat-log"]["cpu_us"]["nginx"]
	if q.N != 2 || q.Min != 0.5 || q.Max != 0.75 || q.Median != 0.625 {
		t.Errorf("ratio = %+v", q)
	}
	if !strings.Contains(out.String(), "left out: h1-sat-log envoy: not there") {
		t.Errorf("the table does not say what is missing:\n%s", out.String())
	}
	d := xml.NewDecoder(strings.NewReader(r.svg()))
	for {
		if _, err := d.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatalf("the plot is not XML: %v", err)
		}
	}
}
