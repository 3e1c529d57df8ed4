// SPDX-License-Identifier: Apache-2.0

package parity

import (
	"fmt"
	"io"
	"net/http"
	"sort"
	"strconv"
	"strings"
	"time"
)

// ignoredStats are name prefixes left out of every comparison.
var ignoredStats = []struct{ prefix, why string }{
	{"http.admin.", "moved by the harness's own admin requests"},
	{"listener.admin.", "moved by the harness's own admin requests"},
	{"server.uptime", "wall time"},
	{"server.memory_", "allocator"},
	{"server.parent_connections", "hot restart"},
	{"server.total_connections", "counts the harness's admin connections"},
	{"server.stats_recent_lookups", "implementation of the stats store"},
	{"server.compilation_settings", "build"},
	{"server.version", "build"},
	{"server.worker_", "watchdog timing"},
	{"server.main_thread", "watchdog timing"},
	{"server.dropped_stat_flushes", "flush timing"},
	{"server.days_until_first_cert_expiring", "wall time"},
	{"main_thread.", "watchdog timing"},
	{"workers.", "watchdog timing"},
	{"filesystem.", "flush timing of log files"},
	{"cluster_manager.update_merge", "timer of the main thread"},
	{"overload.", "poll timer"},
	{"sidecar.", "our own additions"},
}

// ignoredSuffixes are name endings left out of every comparison.
var ignoredSuffixes = []struct{ suffix, why string }{
	{"_flow_control_paused_reading_total", "how often a large body meets a full buffer depends on timing"},
	{"_flow_control_resumed_reading_total", "how often a large body meets a full buffer depends on timing"},
	{"_flow_control_backed_up_total", "how often a large body meets a full buffer depends on timing"},
	{"_flow_control_drained_total", "how often a large body meets a full buffer depends on timing"},
	{"_bytes_buffered", "the fill of a buffer at one moment: how a proxy reads, not what it serves"},
}

// ignoredInfixes are parts of names left out of every comparison.
var ignoredInfixes = []struct{ infix, why string }{
	{".ssl.sigalgs.", "crypto/tls does not tell the algorithm (docs/differences.md)"},
	{".ssl.certificate.", "expiries are in /certs (docs/differences.md)"},
}

// statSnapshot maps a normalised name to its value.
type statSnapshot map[string]int64

var adminClient = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

func adminGet(port int, method, target string) (int, string, error) {
	req, err := http.NewRequest(method, fmt.Sprintf("http://127.0.0.1:%d%s", port, target), nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := adminClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	return resp.StatusCode, string(b), err
}

// readStats takes counters and gauges (not histograms, not text readouts) that were ever used.
func readStats(port int, n *normaliser) (statSnapshot, error) {
	code, text, err := adminGet(port, "GET", "/stats?usedonly")
	if err != nil {
		return nil, err
	}
	if code != 200 {
		return nil, fmt.Errorf("/stats answers %d", code)
	}
	out := statSnapshot{}
	for _, line := range strings.Split(text, "\n") {
		name, value, ok := strings.Cut(line, ": ")
		if !ok {
			continue
		}
		v, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			continue // A histogram or a text readout.
		}
		out[n.ports.Replace(name)] = v // Names hold nothing else that changes.
	}
	return out, nil
}

// moved renders the difference of two snapshots, one "name +n" or "name -n" a line.
// Names with one of the suffixes in wire are shown without a number.
func (after statSnapshot) moved(before statSnapshot, ignore, wire []string) string {
	var lines []string
	add := func(name string, d int64) {
		if d == 0 || ignoredStat(name, ignore) {
			return
		}
		for _, w := range wire {
			if strings.HasSuffix(name, w) {
				lines = append(lines, name+" moved\n")
				return
			}
		}
		lines = append(lines, fmt.Sprintf("%s %+d\n", name, d))
	}
	for name, v := range after {
		add(name, v-before[name])
	}
	for name, v := range before {
		if _, ok := after[name]; !ok {
			add(name, -v)
		}
	}
	sort.Strings(lines)
	return strings.Join(lines, "")
}

func ignoredStat(name string, extra []string) bool {
	for _, i := range ignoredStats {
		if strings.HasPrefix(name, i.prefix) {
			return true
		}
	}
	for _, i := range ignoredSuffixes {
		if strings.HasSuffix(name, i.suffix) {
			return true
		}
	}
	for _, i := range ignoredInfixes {
		if strings.Contains(name, i.infix) {
			return true
		}
	}
	for _, p := range extra {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

// busy returns the connection and request gauges of the data plane that stand above what base has, one "name value" a line.
func (s statSnapshot) busy(base statSnapshot) string {
	var lines []string
	for name, v := range s {
		if v <= base[name] || ignoredStat(name, nil) {
			continue
		}
		for _, suffix := range []string{"_cx_active", "_rq_active", "_cx_http1_active", "_cx_http2_active", "_cx_ssl_active", "streams_active"} {
			if strings.HasSuffix(name, suffix) {
				lines = append(lines, fmt.Sprintf("%s %d\n", name, v))
			}
		}
	}
	sort.Strings(lines)
	return strings.Join(lines, "")
}

// downstreamOpen reports whether a listener of the data plane has a connection.
func (s statSnapshot) downstreamOpen() bool {
	for name, v := range s {
		if v != 0 && strings.HasPrefix(name, "listener.") && strings.HasSuffix(name, ".downstream_cx_active") && !ignoredStat(name, nil) {
			return true
		}
	}
	return false
}

// plus returns the sum of two snapshots.
func (s statSnapshot) plus(more statSnapshot) statSnapshot {
	out := statSnapshot{}
	for n, v := range s {
		out[n] = v
	}
	for n, v := range more {
		out[n] += v
	}
	return out
}
