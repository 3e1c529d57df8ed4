// SPDX-License-Identifier: Apache-2.0

// Package demo is `sidecar demo`: an embedded control plane, three small backends, and the real sidecar as a process of its own beside them, which
// gets everything by delta ADS. `--once` is a self-check.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"sidecar/internal/testctl"
)

// stage is everything that runs.
type stage struct {
	out     io.Writer
	ctl     *testctl.Server
	back    []*backend
	world   world
	version int
	admin   int
	side    *process
	dir     string
	mu      sync.Mutex // world and version
}

// Main runs the demo and returns its exit code.
func Main(args []string, stdout, stderr io.Writer) int {
	fs := pflag.NewFlagSet("sidecar demo", pflag.ContinueOnError)
	fs.SetOutput(stderr)
	once := fs.Bool("once", false, "self-check: start, change the configuration under load, verify, exit 0 or 1")
	load := fs.Bool("load", false, "generate traffic and show a live line")
	mtls := fs.Bool("mtls", false, "two sidecars that talk mutual TLS and HTTP/2 with rotating certificates")
	rotations := fs.Int("rotations", meshRotations, "how many rotations --mtls --once makes")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return 0
		}
		fmt.Fprintln(stderr, err)
		return 1
	}
	if *rotations < 1 {
		fmt.Fprintln(stderr, "--rotations must be at least 1")
		return 1
	}
	if *mtls {
		return meshMain(*once, *load, *rotations, stdout, stderr)
	}
	s := &stage{out: stdout}
	defer s.close()
	if err := s.start(); err != nil {
		fmt.Fprintln(stderr, "demo:", err)
		return 1
	}
	if *once {
		return s.once()
	}
	return s.play(*load)
}

// start brings everything up and waits until the sidecar serves.
func (s *stage) start() error {
	var err error
	if s.dir, err = os.MkdirTemp("", "sidecar-demo-"); err != nil {
		return err
	}
	if s.ctl, err = testctl.NewServer(testctl.Config{}); err != nil {
		return err
	}
	for _, name := range []string{"blue", "green", "canary"} {
		b, err := newBackend(name)
		if err != nil {
			return err
		}
		s.back = append(s.back, b)
	}
	ports, err := freePorts(2)
	if err != nil {
		return err
	}
	s.admin = ports[1]
	s.world = world{port: ports[0], backends: []int{s.back[0].port, s.back[1].port}, canary: []int{s.back[2].port}, weight: 10}
	if err := s.push(); err != nil {
		return err
	}
	return s.spawn()
}

// spawn starts the sidecar.
func (s *stage) spawn() error {
	var err error
	s.side, err = startSidecar(s.dir, "sidecar", bootstrap("demo", s.admin, s.ctl.Addr()), s.admin)
	return err
}

// push serves the present world as a new version.
func (s *stage) push() error {
	s.version++
	return s.ctl.Set("demo", strconv.Itoa(s.version), s.world.resources())
}

// change edits the world and pushes it.
func (s *stage) change(fn func(w *world)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	fn(&s.world)
	return s.push()
}

// close ends everything; the sidecar drains.
func (s *stage) close() {
	s.side.stop()
	if s.ctl != nil {
		s.ctl.Close()
	}
	for _, b := range s.back {
		b.close()
	}
	if s.dir != "" {
		_ = os.RemoveAll(s.dir)
	}
}

// play runs until Ctrl-C: every few seconds the canary weight moves or an endpoint comes or goes.
func (s *stage) play(load bool) int {
	base := fmt.Sprintf("http://127.0.0.1:%d", s.world.port)
	fmt.Fprintf(s.out, "sidecar    %s   (pid %d, configured by delta ADS from %s)\nadmin      http://127.0.0.1:%d\nbackends   ", base, s.side.cmd.Process.Pid, s.ctl.Addr(), s.admin)
	for _, b := range s.back {
		fmt.Fprintf(s.out, "%s=127.0.0.1:%d ", b.name, b.port)
	}
	fmt.Fprintf(s.out, "\n\ntry:\n  curl -i %s/\n  curl -i %s/canary\n  curl http://127.0.0.1:%d/clusters\n\nCtrl-C drains and ends.\n\n", base, base, s.admin)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var g *generator
	if load {
		g = newGenerator(base, 8)
		defer g.stop()
	}
	moves := time.NewTicker(3 * time.Second)
	defer moves.Stop()
	lines := time.NewTicker(time.Second)
	defer lines.Stop()
	for step := 0; ; {
		select {
		case <-ctx.Done():
			fmt.Fprintln(s.out, "\ndraining…")
			return 0
		case <-s.side.exited:
			fmt.Fprintf(s.out, "the sidecar ended: %s\n", s.side.tail())
			return 1
		case <-moves.C:
			step++
			what := ""
			if err := s.change(func(w *world) { what = s.move(w, step) }); err != nil {
				fmt.Fprintln(s.out, err)
				return 1
			}
			if !load {
				fmt.Fprintf(s.out, "version %d: %s\n", s.version, what)
			}
		case <-lines.C:
			if g != nil {
				fmt.Fprintf(s.out, "\r%s  config version %d  \x1b[K", g.line(), s.version)
			}
		}
	}
}

// move is one change of the endless demo.
func (s *stage) move(w *world, step int) string {
	if step%2 == 1 {
		w.weight = (w.weight + 20) % 100
		w.routes++
		return fmt.Sprintf("canary weight %d %%", w.weight)
	}
	if len(w.backends) == 2 {
		w.backends = w.backends[:1:1]
		return fmt.Sprintf("endpoint %s removed", s.back[1].name)
	}
	w.backends = []int{s.back[0].port, s.back[1].port}
	return fmt.Sprintf("endpoint %s added", s.back[1].name)
}

// backend is one small HTTP server that says its name.
type backend struct {
	name string
	port int
	srv  *http.Server
}

func newBackend(name string) (*backend, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	b := &backend{name: name, port: l.Addr().(*net.TCPAddr).Port}
	b.srv = &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ws" {
			echo(w, r)
			return
		}
		w.Header().Set("x-demo-backend", name)
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%s answers %s %s (%d bytes received)\n", name, r.Method, r.URL.Path, n)
	})}
	go func() { _ = b.srv.Serve(l) }()
	return b, nil
}

func (b *backend) close() { _ = b.srv.Close() }

func freePorts(n int) ([]int, error) {
	var ls []net.Listener
	defer func() {
		for _, l := range ls {
			_ = l.Close()
		}
	}()
	var out []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		ls = append(ls, l)
		out = append(out, l.Addr().(*net.TCPAddr).Port)
	}
	return out, nil
}

func splitAddr(a string) (host, port string) {
	host, port, _ = net.SplitHostPort(a)
	return host, port
}
