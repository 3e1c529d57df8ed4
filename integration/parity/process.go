// SPDX-License-Identifier: Apache-2.0

package parity

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// portPool hands out loopback ports of a fixed five-digit range (so that byte counts do not depend on a port's length).
type portPool struct {
	mu         sync.Mutex
	next       int
	first, end int
}

// newPortPool parses "FIRST-LAST".
func newPortPool(spec string) (*portPool, error) {
	a, b, _ := strings.Cut(spec, "-")
	first, err1 := strconv.Atoi(a)
	last, err2 := strconv.Atoi(b)
	if err1 != nil || err2 != nil || first < 10000 || last > 65535 || last-first < 100 {
		return nil, fmt.Errorf("ports %q: want FIRST-LAST, five digits, at least 100 ports", spec)
	}
	return &portPool{next: first + os.Getpid()%(last-first), first: first, end: last + 1}, nil
}

// take returns a port that nothing listens on now.
func (p *portPool) take() (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for tries := 0; tries < p.end-p.first; tries++ {
		if p.next >= p.end {
			p.next = p.first
		}
		port := p.next
		p.next++
		if ln, err := net.Listen("tcp", "0.0.0.0:"+strconv.Itoa(port)); err == nil {
			ln.Close()
			return port, nil
		}
	}
	return 0, errors.New("no free port in the range")
}

// proxy is one running Envoy or sidecar.
type proxy struct {
	cmd    *exec.Cmd
	admin  int
	output *lockedBuffer
	exited chan struct{}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.b.Len() > 1<<20 {
		return len(p), nil
	}
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// tail is the last few lines, for error messages.
func (l *lockedBuffer) tail() string {
	lines := strings.Split(strings.TrimSpace(l.String()), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "\n")
}

// startProxy runs bin on the bootstrap in dir and waits until its admin port says ready.
func startProxy(bin, dir, bootstrap string, admin int, args []string) (*proxy, error) {
	file := filepath.Join(dir, "bootstrap.yaml")
	if err := os.WriteFile(file, []byte(bootstrap), 0o644); err != nil {
		return nil, err
	}
	all := append([]string{"-c", file, "--concurrency", "1", "--disable-hot-restart", "--file-flush-interval-msec", "10", "-l", "warn"}, args...)
	p := &proxy{cmd: exec.Command(bin, all...), admin: admin, output: &lockedBuffer{}, exited: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	p.cmd.Dir = dir
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { p.cmd.Wait(); close(p.exited) }()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		select {
		case <-p.exited:
			return nil, fmt.Errorf("the proxy ended at start: %s\n%s", p.cmd.ProcessState, p.output.tail())
		default:
		}
		if code, _, err := adminGet(admin, "GET", "/ready"); err == nil && code == 200 {
			return p, nil
		}
	}
	p.stop()
	return nil, fmt.Errorf("the proxy is not ready after 20 s\n%s", p.output.tail())
}

func (p *proxy) alive() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// stop kills the process: a run needs no drain.
func (p *proxy) stop() {
	p.cmd.Process.Kill()
	<-p.exited
}

// FindEnvoy returns the real Envoy binary: explicit, then $ENVOY_BIN, then PATH, looking through the Python wheel's wrapper script, which
// costs 100 ms a start. It returns "" when there is none.
func FindEnvoy(explicit string) string {
	for _, p := range []string{explicit, os.Getenv("ENVOY_BIN")} {
		if p != "" {
			return p
		}
	}
	p, err := exec.LookPath("envoy")
	if err != nil {
		return ""
	}
	head := make([]byte, 2)
	if f, err := os.Open(p); err == nil {
		f.Read(head)
		f.Close()
	}
	if string(head) != "#!" {
		return p
	}
	out, err := exec.Command("python3", "-c", "import envoy,os;print(os.path.join(os.path.dirname(envoy.__file__),'_bin','envoy'))").Output()
	if real := strings.TrimSpace(string(out)); err == nil {
		if _, err := os.Stat(real); err == nil {
			return real
		}
	}
	return p
}
