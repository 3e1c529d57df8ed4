// SPDX-License-Identifier: Apache-2.0

// Package proc runs the sidecar binary for the tests of real processes: it builds the program once, starts it on a bootstrap, waits until it is live, and reads
// what its admin server and the kernel say of it.
package proc

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

// Binary is the program under test: $SIDECAR_BIN (one with the race detector, or Envoy), or what Run has built.
var Binary = os.Getenv("SIDECAR_BIN")

// Patience bounds every wait.
const Patience = 20 * time.Second

// Run is TestMain: it builds the program, prepares what all tests share in a directory that goes afterwards, and runs the tests. prepare may be nil.
func Run(m *testing.M, prepare func(dir string) error) {
	dir, err := os.MkdirTemp("", "sidecar")
	code := 1
	if err == nil {
		err = build(dir)
	}
	if err == nil && prepare != nil {
		err = prepare(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		code = m.Run()
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

func build(dir string) error {
	if Binary != "" {
		return nil
	}
	Binary = filepath.Join(dir, "sidecar")
	if out, err := exec.Command("go", "build", "-o", Binary, "sidecar/cmd/sidecar").CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

// Output is a concurrent buffer.
type Output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// Command makes a process that does not run yet, in a directory of its own, with what it writes.
func Command(t *testing.T, args ...string) (*exec.Cmd, *Output) {
	t.Helper()
	cmd, out := exec.Command(Binary, args...), &Output{}
	cmd.Stdout, cmd.Stderr, cmd.Dir = out, out, t.TempDir()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd, out
}

// Configured is Command with a bootstrap, which is written to a file.
func Configured(t *testing.T, bootstrap string, args ...string) (*exec.Cmd, *Output) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "bootstrap.yaml")
	if err := os.WriteFile(file, []byte(bootstrap), 0o600); err != nil {
		t.Fatal(err)
	}
	return Command(t, append([]string{"-c", file}, args...)...)
}

// Proxy is one running process. It is killed when its test ends.
type Proxy struct {
	T     *testing.T // whose test it is; subtests may put themselves here
	Cmd   *exec.Cmd
	Admin string // address of the admin server
	Log   *Output
	Done  chan struct{}     // closed when the process has ended
	Addr  map[string]string // of listeners, by name
}

// Launch starts a process of Command or Configured. Admin is not known yet.
func Launch(t *testing.T, cmd *exec.Cmd, out *Output) *Proxy {
	t.Helper()
	p := &Proxy{T: t, Cmd: cmd, Log: out, Done: make(chan struct{}), Addr: map[string]string{}}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = cmd.Wait(); close(p.Done) }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-p.Done
		if t.Failed() {
			t.Logf("log of the process:\n%s", out)
		}
	})
	return p
}

// Start runs the program until it is live.
func Start(t *testing.T, bootstrap string, args ...string) *Proxy {
	t.Helper()
	cmd, out := Configured(t, bootstrap, args...)
	file := filepath.Join(cmd.Dir, "admin")
	cmd.Args = append(cmd.Args, "--admin-address-path", file)
	p := Launch(t, cmd, out)
	p.Until("live", func() bool {
		b, _ := os.ReadFile(file)
		p.Admin = strings.TrimSpace(string(b))
		return p.Admin != "" && p.Get("/ready") == "LIVE\n"
	})
	p.Refresh()
	return p
}

// Refresh reads the addresses of the listeners.
func (p *Proxy) Refresh() {
	clear(p.Addr)
	for _, l := range strings.Split(strings.TrimSpace(p.Get("/listeners")), "\n") {
		if name, addr, ok := strings.Cut(l, "::"); ok {
			p.Addr[name] = addr
		}
	}
}

// Until waits for cond.
func (p *Proxy) Until(what string, cond func() bool) {
	p.T.Helper()
	for end := time.Now().Add(Patience); !cond(); time.Sleep(5 * time.Millisecond) {
		if p.Ended() {
			p.T.Fatalf("the process ended while waiting for: %s", what)
		}
		if time.Now().After(end) {
			p.T.Fatalf("never happened: %s", what)
		}
	}
}

// Get is Request with GET.
func (p *Proxy) Get(path string) string { return p.Request("GET", path) }

// Post is an admin request that must be answered with OK.
func (p *Proxy) Post(path string) {
	p.T.Helper()
	if s := p.Request("POST", path); s != "OK\n" {
		p.T.Fatalf("POST %s: %q", path, s)
	}
}

// Request is an admin request; an error gives "".
func (p *Proxy) Request(method, path string) string {
	r, err := http.NewRequest(method, "http://"+p.Admin+path, nil)
	if err != nil {
		p.T.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return string(b)
}

// Stats reads all counters and gauges.
func (p *Proxy) Stats() map[string]int64 {
	m := map[string]int64{}
	for _, line := range strings.Split(p.Get("/stats"), "\n") {
		if k, v, ok := strings.Cut(line, ": "); ok {
			if n, err := strconv.ParseInt(v, 10, 64); err == nil {
				m[k] = n
			}
		}
	}
	return m
}

// Signal sends a signal to the process.
func (p *Proxy) Signal(s syscall.Signal) {
	p.T.Helper()
	if err := p.Cmd.Process.Signal(s); err != nil {
		p.T.Fatal(err)
	}
}

// Ended tells whether the process is gone.
func (p *Proxy) Ended() bool {
	select {
	case <-p.Done:
		return true
	default:
		return false
	}
}

// Exits waits for the end and checks the code and how long it took.
func (p *Proxy) Exits(code int, atLeast, atMost time.Duration) {
	p.T.Helper()
	from := time.Now()
	select {
	case <-p.Done:
	case <-time.After(atMost + time.Second):
		p.T.Fatalf("still runs after %v", atMost+time.Second)
	}
	if took := time.Since(from); took < atLeast || took > atMost {
		p.T.Errorf("ended after %v, want %v to %v", took.Round(time.Millisecond), atLeast, atMost)
	}
	if got := p.Cmd.ProcessState.ExitCode(); got != code {
		p.T.Errorf("exit code %d, want %d", got, code)
	}
}

// Alive checks that the process runs, answers, and has not recovered from a panic.
func (p *Proxy) Alive(t *testing.T) {
	t.Helper()
	if p.Ended() {
		t.Fatalf("the process ended: %v\n%s", p.Cmd.ProcessState, p.Log)
	}
	if s := p.Get("/ready"); s != "LIVE\n" {
		t.Errorf("/ready answers %q", s)
	}
	if log := p.Log.String(); strings.Contains(log, "panic") {
		t.Errorf("the log has a panic:\n%s", log)
	}
}

// RSS is the resident memory of the process in bytes, 0 when it is gone.
func (p *Proxy) RSS() int64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Cmd.Process.Pid))
	for _, line := range strings.Split(string(b), "\n") {
		var kb int64
		if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kb); n == 1 {
			return kb << 10
		}
	}
	return 0
}
