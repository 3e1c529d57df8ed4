// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// settings are the flags of one run.
type settings struct {
	rounds                        int
	proxyCPU, loadCPU, backendCPU int
	duration, warmup              time.Duration
	idleConns                     int
	firstPort                     int
	dir                           string
	certs                         string
	load                          string
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	s := &settings{}
	flag.IntVar(&s.rounds, "rounds", 9, "interleaved rounds")
	flag.IntVar(&s.proxyCPU, "proxy-cpu", 0, "core of the proxies")
	flag.IntVar(&s.loadCPU, "load-cpu", 1, "core of the load generator")
	flag.IntVar(&s.backendCPU, "backend-cpu", -1, "core of the backend (default: 2 when there are three cores, else the load generator's)")
	flag.DurationVar(&s.duration, "duration", 3*time.Second, "length of one measurement")
	flag.DurationVar(&s.warmup, "warmup", 500*time.Millisecond, "load before a measurement")
	flag.IntVar(&s.idleConns, "idle-conns", 5000, "connections of idle-conn")
	flag.IntVar(&s.firstPort, "port", 23000, "first of about 100 ports")
	pattern := flag.String("scenarios", "*", "comma-separated globs of scenario names")
	only := flag.String("peers", "*", "comma-separated globs of peer names")
	ours := flag.String("ours", "", "sidecar binary (default: build ./cmd/sidecar)")
	envoy := flag.String("envoy", "", "Envoy binary (default: $ENVOY_BIN, then PATH)")
	jsonFile := flag.String("json", "", "write every sample to this file")
	svgFile := flag.String("svg", "", "write the plot of ratios to this file")
	list := flag.Bool("list", false, "list scenarios and peers")
	flag.Parse()

	if s.backendCPU < 0 {
		s.backendCPU = s.loadCPU
		if runtime.NumCPU() > 2 {
			s.backendCPU = 2
		}
	}
	if runtime.NumCPU() < 2 {
		return errors.New("two cores are needed: one for the proxy, one for load and backend")
	}
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	killOnSignal(dir)
	s.dir = dir
	peers := findPeers(*ours, *envoy, dir, *list)
	if *list {
		for _, sc := range scenarios {
			fmt.Printf("%-22s %s\n", sc.name, sc.what)
		}
		for _, p := range peers {
			fmt.Printf("peer %-10s %s\n", p.name, p.version)
		}
		return nil
	}
	s.load = filepath.Join(dir, "load")
	if out, err := exec.Command("go", "build", "-o", s.load, "sidecar/internal/cmd/load").CombinedOutput(); err != nil {
		return fmt.Errorf("build the load tool: %w\n%s", err, out)
	}
	s.certs = filepath.Join(dir, "certs")
	if err := makeCertificates(s.certs); err != nil {
		return err
	}
	rep := newReport(s, peers)
	if err := s.runScenarios(rep, peers, *pattern, *only); err != nil {
		return err
	}
	if *jsonFile != "" {
		if err := rep.writeJSON(*jsonFile); err != nil {
			return err
		}
	}
	if *svgFile != "" {
		return os.WriteFile(*svgFile, []byte(rep.svg()), 0o644)
	}
	return nil
}

// runScenarios measures the chosen peers in the chosen scenarios and prints each when it is done.
func (s *settings) runScenarios(rep *report, peers []*peer, pattern, only string) error {
	for _, sc := range scenarios {
		if !matches(pattern, sc.name) {
			continue
		}
		var chosen []*peer
		for _, p := range peers {
			if matches(only, p.name) && sc.takes(p) {
				chosen = append(chosen, p)
			}
		}
		if err := s.runScenario(sc, chosen, rep); err != nil {
			return fmt.Errorf("%s: %w", sc.name, err)
		}
		rep.print(os.Stdout, sc)
	}
	return nil
}

// matches reports whether one of the comma-separated globs takes the name.
func matches(patterns, name string) bool {
	for _, p := range strings.Split(patterns, ",") {
		if ok, _ := path.Match(strings.TrimSpace(p), name); ok {
			return true
		}
	}
	return false
}
