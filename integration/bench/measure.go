// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is a started program and all its descendants.
type process struct {
	cmd    *exec.Cmd
	out    *os.File
	pids   []int
	exited chan struct{}
}

// running are the process groups to be killed when the benchmark is interrupted: they are not in its own, and would go on.
var running struct {
	sync.Mutex
	groups map[int]bool
}

// killOnSignal ends what was started, removes dir and exits when the benchmark is told to end.
func killOnSignal(dir string) {
	told := make(chan os.Signal, 1)
	signal.Notify(told, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-told
		running.Lock()
		for pid := range running.groups {
			syscall.Kill(-pid, syscall.SIGKILL)
		}
		os.RemoveAll(dir)
		os.Exit(1)
	}()
}

// startPinned runs a program on one core through the load tool's exec mode.
func startPinned(s *settings, cpu int, args ...string) (*process, error) {
	out, err := os.CreateTemp(s.dir, "out-")
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(s.load, append([]string{"exec", "-cpu", strconv.Itoa(cpu), "--"}, args...)...), out: out, exited: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.Dir = s.dir
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	running.Lock()
	defer running.Unlock()
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	if running.groups == nil {
		running.groups = map[int]bool{}
	}
	running.groups[p.cmd.Process.Pid] = true
	go func() { p.cmd.Wait(); close(p.exited) }()
	return p, nil
}

// stop ends the program and what it started: nginx's worker is in the same process group.
func (p *process) stop() {
	syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.exited
	running.Lock()
	delete(running.groups, p.cmd.Process.Pid)
	running.Unlock()
	p.out.Close()
}

func (p *process) tail() string {
	b, _ := os.ReadFile(p.out.Name())
	return strings.Join(strings.Fields(string(b[max(0, len(b)-400):])), " ")
}

func awaitPort(p *process, port int) error {
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		select {
		case <-p.exited:
			return fmt.Errorf("ended at start: %s", p.tail())
		default:
		}
		if c, err := net.DialTimeout("tcp", "127.0.0.1:"+strconv.Itoa(port), time.Second); err == nil {
			c.Close()
			return nil
		}
	}
	return fmt.Errorf("port %d does not open: %s", port, p.tail())
}

// start runs the cell's proxy and waits until it serves.
func (c *cell) start(s *settings, backendPort int) error {
	dir := filepath.Join(s.dir, c.sc.name+"-"+c.peer.name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	cfg := c.sc.cfg
	cfg.dir, cfg.certs, cfg.port, cfg.admin, cfg.plainPort, cfg.upstream = dir, s.certs, c.port, c.port+1, c.port+2, backendPort
	c.cfg = &cfg
	args, err := c.peer.command(c.peer, c.cfg)
	if err != nil {
		return err
	}
	if args[0] == "" {
		args[0] = s.load
	}
	if c.proc, err = startPinned(s, s.proxyCPU, args...); err != nil {
		return err
	}
	if err := c.ready(s); err != nil {
		c.stop()
		return err
	}
	c.proc.pids = descendants(c.proc.cmd.Process.Pid)
	return nil
}

func (c *cell) stop() {
	if c.proc != nil {
		c.proc.stop()
		c.proc = nil
	}
}

// ready waits for the port and, for HTTP, for an answer of the backend through the proxy that the load generator accepts.
func (c *cell) ready(s *settings) error {
	if err := awaitPort(c.proc, c.port); err != nil || c.cfg.tcp {
		return err
	}
	target, _ := c.cfg.routePaths()
	args := append([]string{c.sc.client(), "-addr", c.addr(), "-path", target, "-conns", "1", "-count", "1", "-warmup", "0s", "-duration", "1s"}, c.cfg.clientArgs()...)
	var last string
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		select {
		case <-c.proc.exited:
			return fmt.Errorf("ended at start: %s", c.proc.tail())
		default:
		}
		why, err := probe(s.load, args)
		if err == nil {
			return nil
		}
		last = strings.Join(strings.Fields(why+" "+err.Error()), " ")
	}
	return fmt.Errorf("never serves: %s; %s", last, c.proc.tail())
}

// probe makes one request with the load tool; why is what it says on standard error.
func probe(load string, args []string) (why string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, load, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stderr.String(), err
	}
	var res loadResult
	if err := json.Unmarshal(bytes.TrimPrefix(stdout.Bytes(), []byte("start\n")), &res); err != nil {
		return stderr.String(), err
	}
	if res.Errors > 0 || res.Requests == 0 {
		return stderr.String(), fmt.Errorf("%d requests, %d errors", res.Requests, res.Errors)
	}
	return "", nil
}

// descendants returns pid and everything below it.
func descendants(pid int) []int {
	parent := map[int]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, f := range stats {
		b, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		child, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		parent[child], _ = strconv.Atoi(fields[1])
	}
	out := []int{pid}
	for i := 0; i < len(out); i++ {
		for child, p := range parent {
			if p == out[i] {
				out = append(out, child)
			}
		}
	}
	return out
}

// cpu is the time all threads of all processes have been running: schedstat where the kernel has it, else utime and stime (in ticks of 10 ms).
func (p *process) cpu() (time.Duration, error) {
	var sum time.Duration
	for _, pid := range p.pids {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		for _, f := range tasks {
			b, err := os.ReadFile(f)
			if err != nil {
				continue // The thread is gone.
			}
			ns, err := strconv.ParseInt(strings.Fields(string(b))[0], 10, 64)
			if err != nil {
				return 0, err
			}
			sum += time.Duration(ns)
		}
		if len(tasks) > 0 {
			continue
		}
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, fmt.Errorf("the proxy ended: %w", err)
		}
		fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		for _, i := range []int{11, 12} {
			ticks, err := strconv.ParseInt(fields[i], 10, 64)
			if err != nil {
				return 0, err
			}
			sum += time.Duration(ticks) * 10 * time.Millisecond
		}
	}
	return sum, nil
}

// rss is the resident memory of all processes in bytes; own is the part that is not pages of files (the program's text, which is mapped whenever
// a function runs for the first time and belongs to no connection).
func (p *process) rss() (all, own int64, err error) {
	for _, pid := range p.pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
		if err != nil {
			return 0, 0, fmt.Errorf("the proxy ended: %w", err)
		}
		var size, resident, shared int64
		if _, err := fmt.Sscan(string(b), &size, &resident, &shared); err != nil {
			return 0, 0, err
		}
		all += resident * int64(os.Getpagesize())
		own += (resident - shared) * int64(os.Getpagesize())
	}
	return all, own, nil
}

// loadResult mirrors what the load tool prints.
type loadResult struct {
	Requests int64   `json:"requests"`
	Errors   int64   `json:"errors"`
	Bytes    int64   `json:"bytes"`
	Seconds  float64 `json:"seconds"`
	Backlog  int64   `json:"backlog"`
	P50      float64 `json:"p50_us"`
	P99      float64 `json:"p99_us"`
}

// window is one measurement: the load generator's result and the proxy's CPU time between its edges.
type window struct {
	res loadResult
	cpu time.Duration
}

func (w *window) requestMetrics() (map[string]float64, error) {
	if w.res.Requests == 0 {
		return nil, errors.New("no request completed")
	}
	return map[string]float64{"cpu_us": w.cpu.Seconds() * 1e6 / float64(w.res.Requests), "rps": float64(w.res.Requests) / w.res.Seconds,
		"p50_us": w.res.P50, "p99_us": w.res.P99, "backlog": float64(w.res.Backlog)}, nil
}

// client starts the load tool against the cell and returns its output.
func (s *settings) client(c *cell, args ...string) (*exec.Cmd, *bufio.Reader, io.WriteCloser, error) {
	mode, rest := args[0], args[1:]
	all := append([]string{mode, "-addr", c.addr(), "-cpu", strconv.Itoa(s.loadCPU), "-warmup", s.warmup.String(),
		"-duration", s.duration.String()}, append(c.cfg.clientArgs(), rest...)...)
	cmd := exec.Command(s.load, all...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, nil, err
	}
	return cmd, bufio.NewReader(out), in, nil
}

// window runs the load generator once. A single error makes the measurement invalid.
func (s *settings) window(c *cell, args ...string) (*window, error) {
	cmd, out, _, err := s.client(c, args...)
	if err != nil {
		return nil, err
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	if line, err := out.ReadString('\n'); err != nil || line != "start\n" {
		return nil, fmt.Errorf("the load generator did not start: %q %v", line, err)
	}
	before, err := c.proc.cpu()
	if err != nil {
		return nil, err
	}
	w := &window{}
	if err := json.NewDecoder(out).Decode(&w.res); err != nil {
		return nil, fmt.Errorf("the load generator's result: %w", err)
	}
	after, err := c.proc.cpu()
	if err != nil {
		return nil, err
	}
	w.cpu = after - before
	if w.res.Errors > 0 {
		return nil, fmt.Errorf("%d of %d requests failed", w.res.Errors, w.res.Requests)
	}
	return w, nil
}

// holdIdle opens the idle connections, calls f, and lets them go.
func (s *settings) holdIdle(c *cell, f func() (int64, error)) (int64, error) {
	cmd, out, in, err := s.client(c, "idle", "-conns", strconv.Itoa(s.idleConns))
	if err != nil {
		return 0, err
	}
	defer cmd.Wait()
	defer in.Close()
	if line, err := out.ReadString('\n'); err != nil || line != "start\n" {
		return 0, fmt.Errorf("the idle connections did not open: %q %v", line, err)
	}
	return f()
}

// syscalls counts system calls per request under strace, which slows the proxy: nothing else is measured meanwhile.
func syscalls(conns string) func(*settings, *cell) (map[string]float64, error) {
	return func(s *settings, c *cell) (map[string]float64, error) {
		if _, err := exec.LookPath("strace"); err != nil {
			return nil, errors.New("strace is not installed")
		}
		// The upstream pool fills before anything is counted.
		if _, err := s.window(c, "http", "-conns", conns, "-warmup", "0s", "-count", "2000"); err != nil {
			return nil, err
		}
		file := filepath.Join(s.dir, "strace.txt")
		args := []string{"-c", "-f", "-o", file}
		for _, pid := range c.proc.pids {
			args = append(args, "-p", strconv.Itoa(pid))
		}
		tracer := exec.Command("strace", args...)
		if err := tracer.Start(); err != nil {
			return nil, err
		}
		time.Sleep(500 * time.Millisecond)
		w, err := s.window(c, "http", "-conns", conns, "-warmup", "0s", "-count", "20000")
		tracer.Process.Signal(os.Interrupt)
		tracer.Wait()
		if err != nil {
			return nil, err
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		calls, err := straceTotal(string(text))
		if err != nil {
			return nil, err
		}
		return map[string]float64{"syscalls": float64(calls) / float64(w.res.Requests)}, nil
	}
}

// straceTotal sums the calls column of strace -c.
func straceTotal(text string) (int64, error) {
	var sum int64
	for _, line := range strings.Split(text, "\n") {
		f := strings.Fields(line)
		if len(f) < 5 || f[len(f)-1] == "total" {
			continue
		}
		if _, err := strconv.ParseFloat(f[0], 64); err != nil {
			continue
		}
		n, err := strconv.ParseInt(f[3], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("strace line %q: %w", line, err)
		}
		sum += n
	}
	if sum == 0 {
		return 0, fmt.Errorf("strace counted nothing: %s", text)
	}
	return sum, nil
}
