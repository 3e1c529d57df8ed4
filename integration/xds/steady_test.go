// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"
)

// loadTool is internal/cmd/load, built once: clients and a backend that cost little beside the proxy.
var loadTool = sync.OnceValues(func() (string, error) {
	tool := filepath.Join(tools, "load")
	if out, err := exec.Command("go", "build", "-o", tool, "sidecar/internal/cmd/load").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w: %s", err, out)
	}
	return tool, nil
})

// churnRate is XDS_CHURN_RATE, the requests per second of the steady load; 0 = none.
func churnRate() int {
	n, _ := strconv.Atoi(os.Getenv("XDS_CHURN_RATE"))
	return n
}

// steadyBackend starts the load tool's backend on all loopback addresses.
func steadyBackend(t *testing.T) *backend {
	t.Helper()
	tool, err := loadTool()
	if err != nil {
		t.Fatal(err)
	}
	b := &backend{name: "load", port: port(t)}
	cmd := exec.Command(tool, "backend", "-addr", fmt.Sprintf("0.0.0.0:%d", b.port))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", b.port)); err == nil {
			_ = c.Close()
			return b
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// steady is an open loop over 32 connections to one listener. Every answer is checked, no connection may end.
type steady struct {
	cmd  *exec.Cmd
	done chan error
	out  []byte
}

func startSteady(t *testing.T, port, rate int, span time.Duration) *steady {
	t.Helper()
	tool, err := loadTool()
	if err != nil {
		t.Fatal(err)
	}
	s := &steady{done: make(chan error, 1)}
	s.cmd = exec.Command(tool, "http", "-addr", fmt.Sprintf("127.0.0.1:%d", port), "-conns", "32", "-rate", strconv.Itoa(rate), "-path", "/c1/x",
		"-duration", span.String())
	s.cmd.Stderr = os.Stderr
	go func() {
		var err error
		s.out, err = s.cmd.Output()
		s.done <- err
	}()
	return s
}

// check waits for the end and reports what failed.
func (s *steady) check(t *testing.T) {
	t.Helper()
	var r struct {
		Requests, Errors int64
		P50              float64 `json:"p50_us"`
		P99              float64 `json:"p99_us"`
		Seconds          float64
	}
	err := <-s.done
	if err == nil {
		err = json.Unmarshal(s.out[len("start\n"):], &r)
	}
	if err != nil {
		t.Fatalf("steady load: %v: %s", err, s.out)
	}
	t.Logf("steady load: %d requests (%.0f/s), %d failed or cut, p50 %.0f µs, p99 %.0f µs", r.Requests, float64(r.Requests)/r.Seconds, r.Errors, r.P50, r.P99)
	if r.Errors > 0 || r.Requests == 0 {
		t.Error("the steady load failed")
	}
}
