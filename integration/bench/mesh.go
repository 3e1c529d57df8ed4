// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// client is the load tool's mode that can talk to the scenario's listener.
func (sc *scenario) client() string {
	if sc.cfg.h2 {
		return "h2"
	}
	return "http"
}

// handshakeClients keep one worker busy; stormClients are few, as a storm's damage is not its rate but how long one signature holds the worker.
const (
	handshakeClients = "8"
	stormClients     = "3"
	// stormLead is how much longer the storm lasts than what it is measured with takes to start.
	stormLead = 500 * time.Millisecond
)

// tlsScenarios are TLS 1.3 with X25519 and AES-128-GCM everywhere.
func tlsScenarios() []*scenario {
	out := []*scenario{
		{name: "tls-sat-log", what: "h1-sat-log over TLS", cfg: config{log: true, body: 13, key: "ecdsa"}, metrics: h1Metrics, measure: httpLoad("-conns", "64")},
		{name: "tls-surcharge", what: "keep-alive GET over TLS less the same without, back to back in one process, 64 connections",
			cfg: config{log: true, body: 13, key: "ecdsa", plain: true}, metrics: []string{"surcharge_us", "tls_cpu_us", "plain_cpu_us"}, measure: surcharge},
	}
	for _, key := range keyKinds {
		for _, mutual := range []bool{false, true} {
			for _, resume := range []bool{false, true} {
				name, what := "tls-full-", "one request per connection, full handshake, "
				var args []string
				if resume {
					name, what, args = "tls-resumed-", "one request per connection, resumed session, ", []string{"-resume"}
				}
				if mutual {
					name, what = "m"+name, what+"mutual TLS, "
				}
				out = append(out, &scenario{name: name + key, what: what + strings.ToUpper(key), cfg: config{body: 13, key: key, mutual: mutual},
					metrics: handshakeMetrics, measure: handshakes(args...)})
			}
		}
	}
	return append(out,
		&scenario{name: "tls-bulk", what: "1 MiB bodies over TLS, 4 connections", cfg: config{body: 1 << 20, key: "ecdsa"}, metrics: bulkMetrics,
			measure: func(s *settings, c *cell) (map[string]float64, error) { return bulk(s, c, "http") }},
		&scenario{name: "mtls-idle-conn", what: "idle-conn over mutual TLS", cfg: config{log: true, body: 13, key: "ecdsa", mutual: true},
			metrics: []string{"bytes_per_conn"}, fresh: true, measure: idleConnections},
		&scenario{name: "tls-rsa-storm", what: "fixed 1,000 plain requests/s while 3 clients make full RSA handshakes with the same worker",
			cfg: config{body: 13, key: "rsa", plain: true}, metrics: []string{"p99_us", "p50_us", "handshakes_per_s"}, measure: rsaStorm})
}

var (
	handshakeMetrics = []string{"cpu_us", "rps"}
	bulkMetrics      = []string{"cpu_s_per_gb", "gb_per_s"}
)

func handshakes(args ...string) func(*settings, *cell) (map[string]float64, error) {
	return func(s *settings, c *cell) (map[string]float64, error) {
		w, err := s.window(c, append([]string{"handshakes", "-conns", handshakeClients}, args...)...)
		if err != nil {
			return nil, err
		}
		return w.requestMetrics()
	}
}

// plainArgs lead the load tool to the listener without TLS.
func (c *cell) plainArgs() []string {
	return []string{"-addr", "127.0.0.1:" + strconv.Itoa(c.cfg.plainPort), "-tls", ""}
}

// surcharge measures both listeners of one process back to back, so that the difference is not that of two hours.
func surcharge(s *settings, c *cell) (map[string]float64, error) {
	kinds := []struct {
		name string
		args []string
	}{{"tls", nil}, {"plain", c.plainArgs()}}
	if c.round%2 == 1 {
		slices.Reverse(kinds)
	}
	out := map[string]float64{}
	for _, k := range kinds {
		m, err := httpLoad(append([]string{"-conns", "64"}, k.args...)...)(s, c)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", k.name, err)
		}
		out[k.name+"_cpu_us"] = m["cpu_us"]
	}
	out["surcharge_us"] = out["tls_cpu_us"] - out["plain_cpu_us"]
	return out, nil
}

// rsaStorm measures the latency of plain requests at a fixed rate while clients make full handshakes as fast as they can. The storm's clients run when
// nobody else does: they share a core with the client that measures, and their own signatures' checks must not show in its latencies. (The lowest nice value is not
// enough: the scheduler lets it finish its slice, several milliseconds, before a thread that wakes up.)
func rsaStorm(s *settings, c *cell) (map[string]float64, error) {
	length := s.warmup + s.duration + stormLead
	cmd, out, _, err := s.client(c, "handshakes", "-conns", stormClients, "-background", "-warmup", "0s", "-duration", length.String())
	if err != nil {
		return nil, err
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	if line, err := out.ReadString('\n'); err != nil || line != "start\n" {
		return nil, fmt.Errorf("the storm did not start: %q %v", line, err)
	}
	w, err := s.window(c, append([]string{"http", "-path", "/", "-conns", "16", "-rate", "1000"}, c.plainArgs()...)...)
	if err != nil {
		return nil, err
	}
	var storm loadResult
	if err := json.NewDecoder(out).Decode(&storm); err != nil {
		return nil, fmt.Errorf("the storm's result: %w", err)
	}
	if storm.Errors > 0 || storm.Requests == 0 {
		return nil, fmt.Errorf("the storm had %d handshakes and %d errors", storm.Requests, storm.Errors)
	}
	return map[string]float64{"p99_us": w.res.P99, "p50_us": w.res.P50, "rps": float64(w.res.Requests) / w.res.Seconds,
		"handshakes_per_s": float64(storm.Requests) / storm.Seconds}, nil
}

// shapes are connections × streams.
var shapes = []struct{ conns, streams int }{{16, 1}, {8, 10}, {1, 100}}

// h2Scenarios are HTTP/2 from the client: to an HTTP/1 backend (GET), and to a gRPC backend without TLS, with it on the client's side and on both (one message of 100 bytes
// each way and trailers). No access log.
func h2Scenarios() []*scenario {
	var out []*scenario
	for _, kind := range []struct {
		name, what string
		cfg        config
		args       []string
	}{
		{"h2c-h1", "GET over h2c to an HTTP/1 backend", config{body: 13, h2: true}, nil},
		{"h2c-h2c", "unary gRPC over h2c to h2c", config{h2: true, grpc: true}, nil},
		{"tls-h2-h2c", "unary gRPC over TLS to h2c", config{h2: true, grpc: true, key: "ecdsa"}, nil},
		{"mtls-h2", "unary gRPC, HTTP/2 and mutual TLS on both sides", config{h2: true, grpc: true, key: "ecdsa", mutual: true, upstreamTLS: true}, nil},
		{"grpc-stream", "gRPC streams over h2c to h2c, one message in flight each way per stream", config{h2: true, grpc: true}, []string{"-stream"}},
	} {
		for _, shape := range shapes {
			conns, streams := strconv.Itoa(shape.conns), strconv.Itoa(shape.streams)
			out = append(out, &scenario{name: kind.name + "-" + conns + "x" + streams, what: kind.what + ", " + conns + " connections × " + streams + " streams", cfg: kind.cfg,
				metrics: h1Metrics, measure: h2Load(append([]string{"-conns", conns, "-streams", streams}, kind.args...)...)})
		}
	}
	return out
}

func h2Load(args ...string) func(*settings, *cell) (map[string]float64, error) {
	return func(s *settings, c *cell) (map[string]float64, error) {
		w, err := s.window(c, append([]string{"h2"}, args...)...)
		if err != nil {
			return nil, err
		}
		return w.requestMetrics()
	}
}
