// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"sort"
	"strings"
	"text/tabwriter"
	"time"
)

// sample is one measurement of one peer in one round.
type sample struct {
	Scenario string             `json:"scenario"`
	Round    int                `json:"round"`
	Peer     string             `json:"peer"`
	Metrics  map[string]float64 `json:"metrics"`
}

// spread is the median with the extremes.
type spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	N      int     `json:"n"`
}

// report collects samples; it is what -json writes.
type report struct {
	Environment map[string]string `json:"environment"`
	Peers       map[string]string `json:"peers"`
	Samples     []sample          `json:"samples"`
	// Skipped holds what could not be measured, and why.
	Skipped []string `json:"skipped,omitempty"`
	// Ratios is scenario → metric → peer → sidecar's value divided by the peer's, taken inside each round.
	Ratios map[string]map[string]map[string]spread `json:"ratios"`
}

func newReport(s *settings, peers []*peer) *report {
	r := &report{Environment: map[string]string{
		"date": time.Now().UTC().Format(time.RFC3339), "cpus": fmt.Sprint(runtime.NumCPU()), "kernel": firstLine("/proc/sys/kernel/osrelease"),
		"cpu": cpuModel(), "go": runtime.Version(), "rounds": fmt.Sprint(s.rounds), "window": s.duration.String(), "warmup": s.warmup.String(),
		"pinning": fmt.Sprintf("proxy %d, load %d, backend %d", s.proxyCPU, s.loadCPU, s.backendCPU), "command": "bench " + strings.Join(os.Args[1:], " ")},
		Peers: map[string]string{}, Ratios: map[string]map[string]map[string]spread{}}
	for _, p := range peers {
		r.Peers[p.name] = p.version
	}
	return r
}

func firstLine(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(strings.SplitN(string(b), "\n", 2)[0])
}

func cpuModel() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	for _, line := range strings.Split(string(b), "\n") {
		if name, model, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(model)
		}
	}
	return "unknown"
}

func (r *report) add(s sample) { r.Samples = append(r.Samples, s) }

func (r *report) skip(scenario, peer string, err error) {
	r.Skipped = append(r.Skipped, fmt.Sprintf("%s %s: %v", scenario, peer, err))
}

// values returns a metric's samples of a peer by round.
func (r *report) values(scenario, peer, metric string) map[int]float64 {
	out := map[int]float64{}
	for _, s := range r.Samples {
		if v, ok := s.Metrics[metric]; ok && s.Scenario == scenario && s.Peer == peer {
			out[s.Round] = v
		}
	}
	return out
}

func summarise(values []float64) spread {
	sort.Float64s(values)
	n := len(values)
	if n == 0 {
		return spread{}
	}
	median := values[n/2]
	if n%2 == 0 {
		median = (values[n/2-1] + values[n/2]) / 2
	}
	return spread{Median: median, Min: values[0], Max: values[n-1], N: n}
}

// ratio divides sidecar's value by the peer's in every round that has both.
func (r *report) ratio(scenario, peer, metric string) spread {
	ours, theirs := r.values(scenario, "sidecar", metric), r.values(scenario, peer, metric)
	var quotients []float64
	for round, v := range ours {
		if t, ok := theirs[round]; ok && t != 0 {
			quotients = append(quotients, v/t)
		}
	}
	return summarise(quotients)
}

func (r *report) peersOf(scenario string) []string {
	var names []string
	seen := map[string]bool{}
	for _, s := range r.Samples {
		if s.Scenario == scenario && !seen[s.Peer] {
			seen[s.Peer] = true
			names = append(names, s.Peer)
		}
	}
	sort.Slice(names, func(i, j int) bool {
		if (names[i] == "sidecar") != (names[j] == "sidecar") {
			return names[i] == "sidecar"
		}
		return names[i] < names[j]
	})
	return names
}

// print writes the scenario's table: median [min, max], and sidecar's ratio to each peer with its extremes.
func (r *report) print(w io.Writer, sc *scenario) {
	fmt.Fprintf(w, "\n%s: %s\n", sc.name, sc.what)
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "metric\tpeer\tmedian\tmin\tmax\tn\tsidecar/peer\tmin\tmax")
	for _, m := range sc.metrics {
		for _, p := range r.peersOf(sc.name) {
			var values []float64
			for _, v := range r.values(sc.name, p, m) {
				values = append(values, v)
			}
			v := summarise(values)
			fmt.Fprintf(t, "%s\t%s\t%.4g\t%.4g\t%.4g\t%d", m, p, v.Median, v.Min, v.Max, v.N)
			if q := r.ratio(sc.name, p, m); p != "sidecar" && q.N > 0 {
				fmt.Fprintf(t, "\t%.3f\t%.3f\t%.3f", q.Median, q.Min, q.Max)
				if r.Ratios[sc.name] == nil {
					r.Ratios[sc.name] = map[string]map[string]spread{}
				}
				if r.Ratios[sc.name][m] == nil {
					r.Ratios[sc.name][m] = map[string]spread{}
				}
				r.Ratios[sc.name][m][p] = q
			}
			fmt.Fprintln(t)
		}
	}
	t.Flush()
	for _, s := range r.Skipped {
		if strings.HasPrefix(s, sc.name+" ") {
			fmt.Fprintln(w, "left out:", s)
		}
	}
}

func (r *report) writeJSON(file string) error {
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(b, '\n'), 0o644)
}
