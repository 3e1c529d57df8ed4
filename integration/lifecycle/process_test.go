// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// binary is the program under test: $SIDECAR_BIN (for one with the race detector), or built once.
var binary = os.Getenv("SIDECAR_BIN")

func TestMain(m *testing.M) {
	if binary != "" {
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", "lifecycle")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary = filepath.Join(dir, "sidecar")
	code := 1
	if out, err := exec.Command("go", "build", "-o", binary, "sidecar/cmd/sidecar").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
	} else {
		code = m.Run()
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// patience bounds every wait of the tests.
const patience = 20 * time.Second

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
	dir   string
	admin string
	log   *output
	done  chan struct{}
	addr  map[string]string // of listeners, by name
}

// command makes a process that does not run yet; the configuration is written beside it.
func command(t *testing.T, config string, args ...string) (*exec.Cmd, *output, string) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "bootstrap.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, append([]string{"-c", file}, args...)...)
	out := &output{}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Dir = dir
	return cmd, out, dir
}

// start runs the program until it is live.
func start(t *testing.T, config string, args ...string) *proxy {
	t.Helper()
	cmd, out, dir := command(t, config, args...)
	file := filepath.Join(dir, "admin")
	cmd.Args = append(cmd.Args, "--admin-address-path", file)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, cmd: cmd, dir: dir, log: out, done: make(chan struct{})}
	go func() { _ = cmd.Wait(); close(p.done) }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-p.done
		if t.Failed() {
			t.Logf("log of the process:\n%s", out)
		}
	})
	p.until("live", func() bool {
		b, _ := os.ReadFile(file)
		p.admin = string(b)
		return p.admin != "" && p.try("GET", "/ready") == "LIVE\n"
	})
	p.refresh()
	return p
}

// refresh reads the addresses of the listeners.
func (p *proxy) refresh() {
	p.addr = map[string]string{}
	for _, l := range strings.Split(strings.TrimSpace(p.get("/listeners")), "\n") {
		if name, addr, ok := strings.Cut(l, "::"); ok {
			p.addr[name] = addr
		}
	}
}

// until waits for cond.
func (p *proxy) until(what string, cond func() bool) {
	p.t.Helper()
	for end := time.Now().Add(patience); !cond(); time.Sleep(5 * time.Millisecond) {
		select {
		case <-p.done:
			p.t.Fatalf("the process ended while waiting for: %s", what)
		default:
		}
		if time.Now().After(end) {
			p.t.Fatalf("never happened: %s", what)
		}
	}
}

// try is an admin request; an error gives "".
func (p *proxy) try(method, path string) string {
	r, err := http.NewRequest(method, "http://"+p.admin+path, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return string(b)
}

func (p *proxy) get(path string) string {
	p.t.Helper()
	s := p.try("GET", path)
	if s == "" {
		p.t.Fatalf("GET %s: no answer", path)
	}
	return s
}

func (p *proxy) post(path string) {
	p.t.Helper()
	if s := p.try("POST", path); s != "OK\n" {
		p.t.Fatalf("POST %s: %q", path, s)
	}
}

func (p *proxy) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
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

// exits waits for the end and checks the code and how long it took.
func (p *proxy) exits(code int, atLeast, atMost time.Duration) {
	p.t.Helper()
	from := time.Now()
	select {
	case <-p.done:
	case <-time.After(atMost + time.Second):
		p.t.Fatalf("still runs after %v", atMost+time.Second)
	}
	if took := time.Since(from); took < atLeast || took > atMost {
		p.t.Errorf("ended after %v, want %v to %v", took.Round(time.Millisecond), atLeast, atMost)
	}
	if got := p.cmd.ProcessState.ExitCode(); got != code {
		p.t.Errorf("exit code %d, want %d", got, code)
	}
}

// client is one HTTP/1.1 connection.
type client struct {
	t *testing.T
	c net.Conn
	r *bufio.Reader
}

func (p *proxy) dial(name string) *client {
	p.t.Helper()
	c, err := net.Dial("tcp", p.addr[name])
	if err != nil {
		p.t.Fatalf("%s: %v", name, err)
	}
	p.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return &client{p.t, c, bufio.NewReader(c)}
}

func (c *client) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c.c, s); err != nil {
		c.t.Fatal(err)
	}
}

const request = "GET / HTTP/1.1\r\nhost: a.test\r\n\r\n"

// answer reads a response; closes tells whether it announced the end of the connection.
func (c *client) answer() (body string, closes bool, err error) {
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return "", false, err
	}
	b, err := io.ReadAll(resp.Body)
	return string(b), resp.Close, err
}

// want asks for / and checks the answer.
func (c *client) want(body string, closes bool) {
	c.t.Helper()
	c.send(request)
	c.answered(body, closes)
}

func (c *client) answered(body string, closes bool) {
	c.t.Helper()
	got, cl, err := c.answer()
	if err != nil || got != body || cl != closes {
		c.t.Fatalf("answer %q, close %v, error %v; want %q, close %v", got, cl, err, body, closes)
	}
}

// eof waits for the end of the connection, which must come without a byte and without a reset.
func (c *client) eof() {
	c.t.Helper()
	if b, err := c.r.ReadByte(); err != io.EOF {
		c.t.Fatalf("byte %q, error %v; want the end of the connection", b, err)
	}
}

// refused tells whether the listener takes no connections any more.
func (p *proxy) refused(name string) bool {
	c, err := net.DialTimeout("tcp", p.addr[name], 50*time.Millisecond) // a socket about to close drops what opens connections
	if err == nil {
		c.Close()
	}
	return err != nil
}

// backend is an HTTP server whose answers can be held back.
type backend struct {
	addr string
	hold chan struct{} // nil answers at once; else one receive for each request
	seen chan struct{} // gets one value for each request
}

func newBackend(t *testing.T, hold bool) *backend {
	t.Helper()
	b := &backend{seen: make(chan struct{}, 1<<16)}
	if hold {
		b.hold = make(chan struct{})
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.addr = ln.Addr().String()
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case b.seen <- struct{}{}:
		default:
		}
		if b.hold != nil {
			select {
			case <-b.hold:
			case <-r.Context().Done():
				return
			}
		}
		_, _ = io.WriteString(w, "hello")
	})}
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() { srv.Close() })
	return b
}

// newEcho is a TCP server that sends back what it gets; with an HTTP/1.1 upgrade first if the connection begins with one.
func newEcho(t *testing.T, upgrade bool) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				r := bufio.NewReader(c)
				if upgrade {
					if _, err := http.ReadRequest(r); err != nil {
						return
					}
					_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
				}
				_, _ = io.Copy(c, r)
			}()
		}
	}()
	return ln.Addr().String()
}

func newClient(t *testing.T, c net.Conn) *client { return &client{t, c, bufio.NewReader(c)} }
