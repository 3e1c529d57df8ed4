// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// Every source of the admin server is wired: each endpoint tells something about this very process.
func TestAdmin_WhenAsked_ThenEveryEndpointKnowsTheProcess(t *testing.T) {
	t.Parallel()
	b := newBackend(t, false)
	p := start(t, "node: {id: node, cluster: me}\nlayered_runtime: {layers: [{name: s, static_layer: {a: {b: 7}}}, {name: adm, admin_layer: {}}]}\n"+simple(b),
		"--concurrency", "2", "--stats-tag", "zone:here")
	c := p.dial("l")
	c.want("hello", false)
	for _, tc := range []struct {
		path  string
		json  bool
		wants []string
	}{
		{"/", false, []string{"<"}},
		{"/help", false, []string{"/drain_listeners"}},
		{"/ready", false, []string{"LIVE"}},
		{"/server_info", true, []string{`"state": "LIVE"`, `"concurrency": 2`, `"id": "node"`}},
		{"/listeners", false, []string{"l::" + p.Addr["l"]}},
		{"/listeners?format=json", true, []string{`"name": "l"`}},
		{"/clusters", false, []string{"b::" + b.addr + "::rq_total::1"}},
		{"/clusters?format=json", true, []string{`"name": "b"`}},
		{"/config_dump", true, []string{"BootstrapConfigDump", "ClustersConfigDump", "ListenersConfigDump", "RoutesConfigDump", "SecretsConfigDump"}},
		{"/config_dump?include_eds", true, []string{"EndpointsConfigDump"}},
		{"/stats", false, []string{"server.state: 0\n", "server.concurrency: 2\n", "listener_manager.workers_started: 1\n", "cluster.b.upstream_rq_total: 1\n",
			"sidecar.steering_mode: ", "runtime.num_layers: 2\n", "http.l.downstream_rq_2xx: 1\n"}},
		{"/stats?format=json", true, []string{"server.live"}},
		{"/stats/prometheus", false, []string{`envoy_cluster_upstream_rq_total{zone="here",envoy_cluster_name="b"} 1`}},
		{"/memory", true, []string{"total_physical_bytes"}},
		{"/certs", true, []string{"certificates"}},
		{"/runtime", true, []string{`"a.b"`, `"final_value": "7"`}},
		{"/init_dump", true, nil},
		{"/steering", true, []string{`"mode"`, "127.0.0.1", `"score": `, `"connections": 1`, `"moved_out": 0`}},
		{"/xds", true, []string{"rejected", "warnings"}},
	} {
		got := p.get(tc.path)
		if tc.json && !json.Valid([]byte(got)) {
			t.Errorf("%s: not JSON: %.300s", tc.path, got)
		}
		for _, w := range tc.wants {
			if !strings.Contains(got, w) {
				t.Errorf("%s: no %q in %.1500s", tc.path, w, got)
			}
		}
	}
	if got := p.Request("POST", "/logging?upstream=debug"); !strings.Contains(got, "  upstream: debug\n") {
		t.Errorf("/logging: %s", got)
	}
	p.Post("/runtime_modify?a.b=8")
	if got := p.get("/runtime"); !strings.Contains(got, `"final_value": "8"`) {
		t.Errorf("/runtime after a change: %s", got)
	}
	p.Post("/reset_counters")
	if got := p.get("/stats?filter=cluster.b.upstream_rq_total"); got != "cluster.b.upstream_rq_total: 0\n" {
		t.Errorf("after /reset_counters: %s", got)
	}
	p.Post("/reopen_logs")
	for _, path := range []string{"/quitquitquit", "/drain_listeners", "/healthcheck/fail"} {
		resp, err := http.Get("http://" + p.Admin + path)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("GET %s: %d", path, resp.StatusCode)
		}
	}
	c.want("hello", false)
}

// A process that drains can still be looked at and scraped.
func TestAdmin_WhenTheProcessDrains_ThenItStillAnswers(t *testing.T) {
	t.Parallel()
	b := newBackend(t, true)
	p := start(t, simple(b))
	c := p.dial("l")
	c.send(request)
	<-b.seen
	p.Post("/quitquitquit")
	p.Until("the listener is closed", func() bool { return p.refused("l") })
	if got := p.get("/stats?filter=downstream_rq_active"); !strings.Contains(got, ": 1\n") {
		t.Errorf("stats while draining: %s", got)
	}
	b.hold <- struct{}{}
	c.answered("hello", true)
	c.c.Close()
	p.Exits(0, 0, 2*time.Second)
}

// TestPrometheus_WhenScraped_ThenPromtoolFindsNothing runs promtool over a scrape with traffic, where promtool is installed.
func TestPrometheus_WhenScraped_ThenPromtoolFindsNothing(t *testing.T) {
	t.Parallel()
	tool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("SKIP: no promtool in PATH")
	}
	b, echo := newBackend(t, false), newEcho(t, false)
	p := start(t, static([]string{httpListener("l", "b", "", ""), tcpListener("t", "echo", "")},
		[]string{cluster("b", b.addr), cluster("echo", echo)}), "--concurrency", "2")
	p.dial("l").want("hello", false)
	tunnel := p.dial("t")
	tunnel.send("x")
	if _, err := tunnel.r.ReadByte(); err != nil {
		t.Fatal(err)
	}
	p.Until("histograms", func() bool { return strings.Contains(p.get("/stats?usedonly"), "cluster.b.upstream_rq_time: P0") })
	cmd := exec.Command(tool, "check", "metrics")
	cmd.Stdin = strings.NewReader(p.get("/stats/prometheus?text_readouts"))
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != lintOnly) {
		t.Fatalf("promtool: %v\n%s", err, out)
	}
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		_, finding, _ := strings.Cut(line, " ")
		if line != "" && !slices.Contains(envoysStyle, finding) {
			t.Error(line)
		}
	}
}

// lintOnly is promtool's exit code when the scrape is valid and only its style is found fault with.
const lintOnly = 3

// envoysStyle is what promtool says of Envoy's own scrape too: the names are Envoy's, since dashboards ask for them, and come without help.
var envoysStyle = []string{
	"no help text",
	`counter metrics should have "_total" suffix`,
	`non-counter metrics should not have "_total" suffix`,
	`non-histogram and non-summary metrics should not have "_count" suffix`,
	"metric names should not contain abbreviated units",
	`use base unit "seconds" instead of "days"`,
}
