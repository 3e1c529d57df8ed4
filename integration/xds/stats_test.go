// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"fmt"
	"os/exec"
	"sort"
	"strings"
	"testing"
	"time"
)

// compared are the statistics of the control side whose values must equal Envoy's after the same script.
func compared(name string) bool {
	for _, p := range []string{"cluster_manager.", "listener_manager.", "control_plane."} {
		if strings.HasPrefix(name, p) {
			return !strings.Contains(name, "update_time") && !strings.Contains(name, "config_reload_time_ms") && !strings.Contains(name, "total_filter_chains_draining")
		}
	}
	if strings.HasPrefix(name, "http.") && strings.Contains(name, ".rds.") || strings.HasPrefix(name, "cluster.a.") || strings.HasPrefix(name, "cluster.b.") {
		for _, s := range []string{"update_attempt", "update_success", "update_failure", "update_rejected", "update_empty", "update_no_rebuild", "init_fetch_timeout",
			"version", "config_reload", "membership_change", "membership_total", "membership_healthy", "max_host_weight"} {
			if strings.HasSuffix(name, "."+s) {
				return true
			}
		}
	}
	return false
}

// play runs the script and returns what it moved.
func play(t *testing.T, delta, envoy bool) map[string]int64 {
	w := live(t, delta, func(o *options) { o.envoy = envoy; o.drain = 1 })
	l2 := port(t)
	w.p.acked(w.p.push(cdsURL, "2", of(edsCluster("a", 0), staticCluster("s", w.b.port))))
	w.p.acked(w.p.push(cdsURL, "2b", of(edsCluster("a", 0), staticCluster("s", w.b.port))))
	w.p.nacked(w.p.push(cdsURL, "3", of(edsCluster("a", 0), staticCluster("s", w.b.port), badCluster("x"))))
	w.p.push(cdsURL, "4", of(edsCluster("a", 0), staticCluster("s", w.a.port), edsCluster("b", 0)))
	w.p.asked(edsURL, "b")
	w.p.acked(w.p.push(edsURL, "4", of(assignment("a", w.a.port, w.b.port), assignment("b"))))
	w.p.acked(w.p.push(edsURL, "5", of(assignment("a", w.a.port, w.b.port))))
	w.p.acked(w.p.push(edsURL, "6", of(assignment("a", w.a.port))))
	w.p.nacked(w.p.push(edsURL, "7", of(badAssignment("a"))))
	w.p.acked(w.p.push(ldsURL, "2", of(rdsListener("l", w.port, "r", 0), inlineListener("m", l2, "a"))))
	newClient(t, l2).answers(t, 200, "A")
	w.p.acked(w.p.push(ldsURL, "3", of(rdsListener("l", w.port, "r", 0), inlineListener("m", l2, "s"))))
	w.p.nacked(w.p.push(ldsURL, "4", of(rdsListener("l", w.port, "r", 0), inlineListener("m", l2, "s"), badListener("bad", port(t)))))
	w.p.acked(w.p.push(rdsURL, "2", of(routes("r", "s"))))
	w.p.acked(w.p.push(rdsURL, "3", of(routes("r", "s"))))
	w.p.nacked(w.p.push(rdsURL, "4", of(badRoutes("r"))))
	w.p.acked(w.p.push(ldsURL, "5", of(rdsListener("l", w.port, "r", 0)), "m"))
	w.p.acked(w.p.push(cdsURL, "5", of(edsCluster("a", 0), edsCluster("b", 0), staticCluster("s", w.a.port))))
	time.Sleep(2500 * time.Millisecond) // listeners have drained
	w.p.conv.End(nil)
	p := w.s.accept()
	p.asked(ldsURL)
	time.Sleep(300 * time.Millisecond)
	out := map[string]int64{}
	for k, v := range w.proxy.stats() {
		if compared(k) {
			out[k] = v
		}
	}
	return out
}

// differences are where we mean to differ, by the end of the name.
var differences = map[string]string{
	"cluster.b.update_rejected": "Envoy also refuses the good assignments beside a bad one",
	"cluster.b.update_attempt":  "the same",
}

func TestStats_WhenTheSameScriptRuns_ThenTheControlSideCountsAsEnvoyDoes(t *testing.T) {
	if _, err := exec.LookPath("envoy"); err != nil {
		t.Skip("SKIP: no envoy in PATH")
	}
	variants(t, func(t *testing.T, delta bool) {
		ours, theirs := play(t, delta, false), play(t, delta, true)
		var names []string
		for k := range theirs {
			names = append(names, k)
		}
		for k := range ours {
			if _, ok := theirs[k]; !ok {
				names = append(names, k)
			}
		}
		sort.Strings(names)
		for _, k := range names {
			a, inOurs := ours[k]
			b, inTheirs := theirs[k]
			if a == b && inOurs == inTheirs {
				continue
			}
			if differences[k] != "" {
				continue
			}
			show := func(v int64, ok bool) string {
				if !ok {
					return "absent"
				}
				return fmt.Sprint(v)
			}
			t.Errorf("%s: ours %s, Envoy's %s", k, show(a, inOurs), show(b, inTheirs))
		}
	})
}
