// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// binary is the program under test: $SIDECAR_BIN, or built once.
var binary = os.Getenv("SIDECAR_BIN")

// envoy tells that the program under test is Envoy: what it answers is shown, and what only holds for ours is not asked for.
var envoy = filepath.Base(binary) == "envoy"

// patience bounds every wait of the tests.
const patience = 20 * time.Second

func TestMain(m *testing.M) {
	if code, played := play(); played {
		os.Exit(code)
	}
	dir, err := os.MkdirTemp("", "http2")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := 1
	if err := prepare(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		code = m.Run()
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// prepare makes what all tests share: the program and the certificates.
func prepare(dir string) error {
	if err := makeCerts(dir); err != nil {
		return err
	}
	if binary != "" {
		return nil
	}
	binary = filepath.Join(dir, "sidecar")
	if out, err := exec.Command("go", "build", "-o", binary, "sidecar/cmd/sidecar").CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

// output is a concurrent buffer.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// proxy is one running process.
type proxy struct {
	t     *testing.T
	cmd   *exec.Cmd
	admin string
	log   *output
	done  chan struct{}
	addr  map[string]string // of listeners, by name
	told  map[string]int    // lines of access logs that logged returned, by file and key
}

// start runs the program until it is live, with two workers unless args say otherwise.
func start(t *testing.T, config string, args ...string) *proxy {
	t.Helper()
	dir := t.TempDir()
	file, admin := filepath.Join(dir, "bootstrap.yaml"), filepath.Join(dir, "admin")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, log: &output{}, done: make(chan struct{}), addr: map[string]string{}}
	if len(args) == 0 {
		args = []string{"--concurrency", "2"}
	}
	p.cmd = exec.Command(binary, append([]string{"-c", file, "--admin-address-path", admin, "--use-dynamic-base-id", "--file-flush-interval-msec", "50"}, args...)...)
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.Dir = p.log, p.log, dir
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = p.cmd.Wait(); close(p.done) }()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
		if t.Failed() {
			t.Logf("log of the process:\n%s", p.log)
		}
	})
	p.until("live", func() bool {
		b, _ := os.ReadFile(admin)
		p.admin = strings.TrimSpace(string(b))
		return p.admin != "" && p.get("/ready") == "LIVE\n"
	})
	for _, l := range strings.Split(strings.TrimSpace(p.get("/listeners")), "\n") {
		if name, addr, ok := strings.Cut(l, "::"); ok {
			p.addr[name] = addr
		}
	}
	return p
}

// until waits for cond.
func (p *proxy) until(what string, cond func() bool) {
	p.t.Helper()
	for end := time.Now().Add(patience); !cond(); time.Sleep(5 * time.Millisecond) {
		if p.ended() {
			p.t.Fatalf("the process ended while waiting for: %s", what)
		}
		if time.Now().After(end) {
			p.t.Fatalf("never happened: %s", what)
		}
	}
}

// get is an admin request; an error gives "".
func (p *proxy) get(path string) string {
	resp, err := http.Get("http://" + p.admin + path)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return string(b)
}

// stats reads all counters and gauges.
func (p *proxy) stats() map[string]int64 {
	m := map[string]int64{}
	for _, line := range strings.Split(p.get("/stats"), "\n") {
		if k, v, ok := strings.Cut(line, ": "); ok {
			if n, err := strconv.ParseInt(v, 10, 64); err == nil {
				m[k] = n
			}
		}
	}
	return m
}

// ended tells whether the process is gone.
func (p *proxy) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// alive checks that the process runs, answers, and has not recovered from a panic.
func (p *proxy) alive(t *testing.T) {
	t.Helper()
	if p.ended() {
		t.Fatalf("the process ended: %v\n%s", p.cmd.ProcessState, p.log)
	}
	if s := p.get("/ready"); s != "LIVE\n" {
		t.Errorf("/ready answers %q", s)
	}
	if log := p.log.String(); strings.Contains(log, "panic") {
		t.Errorf("the log has a panic:\n%s", log)
	}
}

// rss is the resident memory of the process in bytes.
func (p *proxy) rss() int64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	for _, line := range strings.Split(string(b), "\n") {
		var kb int64
		if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kb); n == 1 {
			return kb << 10
		}
	}
	return 0
}
