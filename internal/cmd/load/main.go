// SPDX-License-Identifier: Apache-2.0

// Command load is the load generator, the backend and the small helpers of integration/bench. It is one epoll loop on one thread, without
// allocation once running (TLS and HPACK apart, which are crypto/tls and x/net), so that it costs little on the core it shares, and it is strict: every response's
// status and length and every handshake's parameters are checked, and anything unexpected is counted as an error.
//
//	load exec -cpu 0 -- nginx -c nginx.conf         run a program pinned to a core
//	load backend -addr 127.0.0.1:9000 -body 16384   HTTP/1.1 backend with a fixed answer
//	load h2backend -addr 127.0.0.1:9000             gRPC backend that echoes every message; -tls serves TLS
//	load echo -addr 127.0.0.1:9000                  TCP echo
//	load source -addr 127.0.0.1:9000                TCP source: sends for ever
//	load relay -addr 127.0.0.1:8000 -to HOST:PORT   TCP relay with Go's io.Copy (splice)
//	load http -addr 127.0.0.1:8000 -conns 64        closed loop; with -rate an open loop, latency from the scheduled time
//	load http -addr 127.0.0.1:8443 -tls DIR         the same over TLS 1.3 with the certificates in DIR; -mutual shows one
//	load h2 -addr 127.0.0.1:8000 -conns 8 -streams 10   HTTP/2, closed loop: GET, or gRPC with -grpc; -tls as above
//	load handshakes -addr 127.0.0.1:8443 -tls DIR   one request per connection; -resume resumes sessions
//	load idle -addr 127.0.0.1:8000 -conns 5000      one request per connection, then idle until standard input closes
//	load sink -addr 127.0.0.1:8000 -conns 4         reads for ever, counts bytes
//	load pingpong -addr 127.0.0.1:8000 -conns 64    64-byte messages back and forth
//
// A measuring client prints "start" when its warm-up is over and then one line of JSON (Result) when the window closes.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Result is what a measuring client prints at the end of its window.
type Result struct {
	// Requests is the number of responses (or echoes) completed in the window.
	Requests int64 `json:"requests"`
	// Errors counts connections that ended, wrong statuses and responses that could not be read.
	Errors int64 `json:"errors"`
	// Bytes is the number of payload bytes received in the window.
	Bytes int64 `json:"bytes"`
	// Seconds is the length of the window.
	Seconds float64 `json:"seconds"`
	// Backlog is how many scheduled requests had not been sent when the window closed (open loop).
	Backlog int64 `json:"backlog"`
	// P50, P99 and Max are latencies in microseconds; in an open loop from the scheduled time.
	P50 float64 `json:"p50_us"`
	P99 float64 `json:"p99_us"`
	Max float64 `json:"max_us"`
}

type options struct {
	addr, to, host, path string
	cpu                  int
	background           bool
	conns, body          int
	rate                 float64
	warmup, duration     time.Duration
	count                int64
	tls                  tlsOptions
	resume               bool
	streams              int
	grpc, stream         bool
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: load exec|backend|h2backend|echo|source|relay|http|h2|handshakes|idle|sink|pingpong [flags]")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "load "+os.Args[1]+":", err)
		os.Exit(1)
	}
}

// parse reads the flags of a mode; rest is what follows them.
func parse(mode string, args []string) (o options, rest []string) {
	fs := flag.NewFlagSet("load "+mode, flag.ExitOnError)
	fs.StringVar(&o.addr, "addr", "127.0.0.1:9000", "address to listen on or to connect to")
	fs.StringVar(&o.to, "to", "", "relay: upstream address")
	fs.StringVar(&o.host, "host", "bench.test", "http: Host header")
	fs.StringVar(&o.path, "path", "/", "http: request target")
	fs.IntVar(&o.cpu, "cpu", -1, "core to run on, -1 any")
	fs.IntVar(&o.conns, "conns", 64, "connections")
	fs.IntVar(&o.body, "body", 13, "backend: length of the body")
	fs.Float64Var(&o.rate, "rate", 0, "http: requests per second of an open loop; 0 is a closed loop")
	fs.DurationVar(&o.warmup, "warmup", 500*time.Millisecond, "time before the window")
	fs.DurationVar(&o.duration, "duration", 3*time.Second, "length of the window")
	fs.Int64Var(&o.count, "count", 0, "http: end the window after this many responses instead")
	fs.StringVar(&o.tls.dir, "tls", "", "http, h2, idle, handshakes, h2backend: directory of certificates; empty is no TLS")
	fs.StringVar(&o.tls.key, "key", "ecdsa", "with -tls: ecdsa or rsa")
	fs.BoolVar(&o.tls.mutual, "mutual", false, "with -tls: show a client certificate, or ask for it")
	fs.BoolVar(&o.resume, "resume", false, "handshakes: resume the last session")
	fs.IntVar(&o.streams, "streams", 1, "h2: streams per connection")
	fs.BoolVar(&o.grpc, "grpc", false, "h2: gRPC calls with a message of 100 bytes each way instead of GET")
	fs.BoolVar(&o.stream, "stream", false, "h2: with -grpc, one call per stream that never ends, one message in flight")
	fs.BoolVar(&o.background, "background", false, "run when nobody else does (SCHED_IDLE), for load that must not delay who measures")
	fs.Parse(args) // Exits when it fails.
	o.tls.serverName = o.host
	return o, fs.Args()
}

func run(mode string, args []string) error {
	o, rest := parse(mode, args)
	if o.background {
		attr := &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}
		if err := eachThread(func(tid int) error { return unix.SchedSetAttr(tid, attr, 0) }); err != nil {
			return fmt.Errorf("background: %w", err)
		}
	}
	if o.cpu >= 0 {
		if err := pin(o.cpu); err != nil {
			return err
		}
	}
	raiseFileLimit()
	if mode == "exec" {
		return execProgram(rest)
	}
	if mode == "relay" {
		runtime.GOMAXPROCS(1)
		return relay(o)
	}
	if mode == "handshakes" {
		return runHandshakes(o)
	}
	runtime.LockOSThread()
	debug.SetGCPercent(-1) // Nothing is allocated while running,
	if o.tls.dir != "" || mode == "h2" || mode == "h2backend" {
		debug.SetGCPercent(400) // but by crypto/tls and for literals in header blocks.
	}
	switch mode {
	case "backend":
		return serve(o, newHTTPBackend(o.body))
	case "h2backend":
		return serve(o, grpcBackend{})
	case "echo":
		return serve(o, echoBackend{})
	case "source":
		return serve(o, newSourceBackend())
	case "http":
		return runHTTP(o)
	case "h2":
		return runH2(o)
	case "idle":
		return runIdle(o)
	case "sink":
		return runRaw(o, 0)
	case "pingpong":
		return runRaw(o, 64)
	}
	return fmt.Errorf("unknown mode %q", mode)
}

// pin binds every thread of the process, present and future, to one core.
func pin(cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	if err := eachThread(func(tid int) error { return unix.SchedSetaffinity(tid, &set) }); err != nil {
		return fmt.Errorf("pin to core %d: %w", cpu, err)
	}
	return nil
}

// eachThread calls f for every thread of the process. Threads made later inherit what it sets.
func eachThread(f func(tid int) error) error {
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, e := range entries {
		var tid int
		if _, err := fmt.Sscan(e.Name(), &tid); err != nil {
			return err
		}
		if err := f(tid); err != nil && err != unix.ESRCH {
			return err
		}
	}
	return nil
}

func raiseFileLimit() {
	var lim unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &lim) == nil && lim.Cur < lim.Max {
		lim.Cur = lim.Max
		unix.Setrlimit(unix.RLIMIT_NOFILE, &lim)
	}
}

func execProgram(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("no program")
	}
	path, err := exec.LookPath(args[0])
	if err != nil {
		return err
	}
	env := os.Environ()
	kept := env[:0]
	for _, e := range env {
		// What tunes this helper's runtime must not tune the program's.
		if !strings.HasPrefix(e, "GOMAXPROCS=") && !strings.HasPrefix(e, "GOGC=") && !strings.HasPrefix(e, "GODEBUG=") && !strings.HasPrefix(e, "GOMEMLIMIT=") {
			kept = append(kept, e)
		}
	}
	// The Go runtime raised the soft limit of open files for itself; leave it raised: every peer needs it.
	return syscall.Exec(path, args, kept)
}

// fail counts an error; the first is told on standard error.
func (r *Result) fail(why error) {
	if r.Errors++; r.Errors == 1 {
		fmt.Fprintln(os.Stderr, "load:", why)
	}
}

func printJSON(r Result) error { return json.NewEncoder(os.Stdout).Encode(r) }
