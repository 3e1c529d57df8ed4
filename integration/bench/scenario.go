// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"
)

// routeCount is the number of routes of the routes-* scenarios; regexRoutes of those with regular expressions, which no proxy indexes.
const (
	routeCount  = 10_000
	regexRoutes = 1_000
)

// scenario is one workload. measure returns metrics of one peer in one round; the first of metrics is the one ratios are plotted for.
type scenario struct {
	name, what string
	cfg        config
	metrics    []string
	// higher says that more is better for the first metric.
	higher bool
	// relay tells that a relay that reads no byte is a peer too.
	relay bool
	// fresh starts the proxy anew for every measurement.
	fresh   bool
	measure func(s *settings, c *cell) (map[string]float64, error)
}

// takes reports whether the peer can run the scenario.
func (sc *scenario) takes(p *peer) bool {
	switch {
	case p.relay:
		return sc.relay
	case sc.cfg.tcp:
		return p.tcp
	}
	return p.http && (sc.cfg.routes == "" || p.routes[sc.cfg.routes])
}

// cell is one running peer in one scenario.
type cell struct {
	sc   *scenario
	peer *peer
	proc *process
	// cfg is the scenario's with the cell's ports and directories.
	cfg  *config
	port int
	// round counts from 0.
	round int
}

func (c *cell) addr() string { return "127.0.0.1:" + strconv.Itoa(c.port) }

var h1Metrics = []string{"cpu_us", "rps", "p50_us", "p99_us"}

var scenarios = slices.Concat(plainScenarios, tlsScenarios(), h2Scenarios())

var plainScenarios = []*scenario{
	{name: "h1-sat-log", relay: true, what: "keep-alive GET, 64 connections, saturated, access log on", cfg: config{log: true, body: 13}, metrics: h1Metrics,
		measure: httpLoad("-conns", "64")},
	{name: "h1-sat", relay: true, what: "the same without access log", cfg: config{body: 13}, metrics: h1Metrics, measure: httpLoad("-conns", "64")},
	{name: "h1-16k", relay: true, what: "16 KiB bodies, 64 connections, saturated, access log on", cfg: config{log: true, body: 16 << 10}, metrics: h1Metrics,
		measure: httpLoad("-conns", "64")},
	{name: "h1-10k-log", relay: true, what: "fixed 10,000 requests/s, 64 connections, access log on; latency from the scheduled time", cfg: config{log: true, body: 13},
		metrics: h1Metrics, measure: httpLoad("-conns", "64", "-rate", "10000")},
	{name: "sys-c16", what: "system calls per request, 16 connections (under strace)", cfg: config{body: 13}, metrics: []string{"syscalls"}, measure: syscalls("16")},
	{name: "idle-conn", what: "bytes of resident memory, pages of files apart, per idle keep-alive connection", cfg: config{log: true, body: 13}, metrics: []string{"bytes_per_conn"},
		fresh: true, measure: idleConnections},
	{name: "idle-rss", what: "resident memory of the idle proxy", cfg: config{log: true, body: 13}, metrics: []string{"rss_kib"}, fresh: true, measure: idleRSS},
	{name: "routes-prefix", what: "first and last of 10,000 prefix routes", cfg: config{body: 13, routes: "prefix"}, metrics: routeMetrics, higher: true, measure: routeEnds},
	{name: "routes-exact", what: "first and last of 10,000 exact routes", cfg: config{body: 13, routes: "exact"}, metrics: routeMetrics, higher: true, measure: routeEnds},
	{name: "routes-mixed", what: "first and last of 10,000 prefix and exact routes by turns", cfg: config{body: 13, routes: "mixed"}, metrics: routeMetrics, higher: true,
		measure: routeEnds},
	{name: "routes-regex", what: "first and last of 1,000 regular expressions", cfg: config{body: 13, routes: "regex"}, metrics: routeMetrics, higher: true,
		measure: routeEnds},
	{name: "tcp-bulk", what: "4 connections, upstream sends for ever", cfg: config{tcp: true, backend: "source"}, metrics: bulkMetrics,
		measure: func(s *settings, c *cell) (map[string]float64, error) { return bulk(s, c, "sink") }},
	{name: "tcp-pingpong", what: "64-byte messages back and forth, 64 connections", cfg: config{tcp: true, backend: "echo"}, metrics: h1Metrics, measure: pingpong},
}

var routeMetrics = []string{"last_over_first", "first_rps", "last_rps", "first_cpu_us", "last_cpu_us"}

// runScenario measures every peer once a round; the order rotates.
func (s *settings) runScenario(sc *scenario, peers []*peer, rep *report) error {
	fmt.Fprintf(os.Stderr, "%s: %s\n", sc.name, sc.what)
	backendPort := s.firstPort
	kind := sc.cfg.backend
	switch {
	case kind == "" && sc.cfg.grpc:
		kind = "h2backend"
	case kind == "":
		kind = "backend"
	}
	cfg := sc.cfg
	cfg.certs = s.certs
	backend, err := startPinned(s, s.backendCPU, append([]string{s.load, kind, "-addr", "127.0.0.1:" + strconv.Itoa(backendPort)}, cfg.backendArgs()...)...)
	if err != nil {
		return err
	}
	defer backend.stop()
	if err := awaitPort(backend, backendPort); err != nil {
		return err
	}
	var cells []*cell
	defer func() {
		for _, c := range cells {
			c.stop()
		}
	}()
	for i, p := range peers {
		c := &cell{sc: sc, peer: p, port: s.firstPort + 10 + 4*i}
		if !sc.fresh {
			if err := c.start(s, backendPort); err != nil {
				fmt.Fprintf(os.Stderr, "  %s left out: %v\n", p.name, err)
				rep.skip(sc.name, p.name, err)
				continue
			}
		}
		cells = append(cells, c)
	}
	for round := 0; round < s.rounds; round++ {
		for i := range cells {
			c := cells[(i+round)%len(cells)]
			c.round = round
			m, err := c.once(s, backendPort)
			if err != nil {
				fmt.Fprintf(os.Stderr, "  round %d %s: %v\n", round+1, c.peer.name, err)
				rep.skip(sc.name, c.peer.name, err)
				continue
			}
			rep.add(sample{Scenario: sc.name, Round: round + 1, Peer: c.peer.name, Metrics: m})
		}
		fmt.Fprintf(os.Stderr, "  round %d of %d\n", round+1, s.rounds)
	}
	return nil
}

func (c *cell) once(s *settings, backendPort int) (map[string]float64, error) {
	if c.sc.fresh {
		if err := c.start(s, backendPort); err != nil {
			return nil, err
		}
		defer c.stop()
	}
	return c.sc.measure(s, c)
}

// httpLoad measures CPU per request, rate and latency under the HTTP load generator.
func httpLoad(args ...string) func(*settings, *cell) (map[string]float64, error) {
	return func(s *settings, c *cell) (map[string]float64, error) {
		w, err := s.window(c, append([]string{"http", "-path", "/"}, args...)...)
		if err != nil {
			return nil, err
		}
		return w.requestMetrics()
	}
}

func pingpong(s *settings, c *cell) (map[string]float64, error) {
	w, err := s.window(c, "pingpong", "-conns", "64")
	if err != nil {
		return nil, err
	}
	return w.requestMetrics()
}

// bulk measures CPU per byte; mode is the load tool's.
func bulk(s *settings, c *cell, mode string) (map[string]float64, error) {
	w, err := s.window(c, mode, "-conns", "4")
	if err != nil {
		return nil, err
	}
	if w.res.Bytes < 1<<20 {
		return nil, fmt.Errorf("only %d bytes came through", w.res.Bytes)
	}
	gb := float64(w.res.Bytes) / 1e9
	return map[string]float64{"cpu_s_per_gb": w.cpu.Seconds() / gb, "gb_per_s": gb / w.res.Seconds}, nil
}

// routeEnds measures the first and the last route back to back, so that their ratio is not blurred by what happens between rounds.
func routeEnds(s *settings, c *cell) (map[string]float64, error) {
	out := map[string]float64{}
	first, last := c.sc.cfg.routePaths()
	ends := []struct{ name, path string }{{"first", first}, {"last", last}}
	if c.round%2 == 1 {
		ends[0], ends[1] = ends[1], ends[0] // Neither end is always the one measured on a colder machine.
	}
	for _, end := range ends {
		w, err := s.window(c, "http", "-conns", "64", "-path", end.path)
		if err != nil {
			return nil, err
		}
		m, err := w.requestMetrics()
		if err != nil {
			return nil, err
		}
		out[end.name+"_rps"], out[end.name+"_cpu_us"] = m["rps"], m["cpu_us"]
	}
	out["last_over_first"] = out["last_rps"] / out["first_rps"]
	return out, nil
}

func idleRSS(_ *settings, c *cell) (map[string]float64, error) {
	time.Sleep(time.Second)
	rss, _, err := c.proc.rss()
	return map[string]float64{"rss_kib": float64(rss) / 1024}, err
}

// alone is how long a proxy is left without traffic before idle-conn reads its memory; ours looks every 5 s for something to give back.
const alone = 20 * time.Second

func idleConnections(s *settings, c *cell) (map[string]float64, error) {
	// The first connections make a proxy touch memory that does not belong to any of them. Both readings are taken when the proxy has been left
	// alone for the same time: what traffic leaves behind is given back by then, or counts.
	if _, err := s.window(c, "http", "-conns", "16", "-warmup", "0s", "-count", "2000"); err != nil {
		return nil, err
	}
	reading := func() (int64, error) {
		time.Sleep(alone)
		_, own, err := c.proc.rss()
		return own, err
	}
	before, err := reading()
	if err != nil {
		return nil, err
	}
	during, err := s.holdIdle(c, reading)
	if err != nil {
		return nil, err
	}
	return map[string]float64{"bytes_per_conn": float64(during-before) / float64(s.idleConns)}, nil
}
