// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"io"
	"net"
	"net/netip"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sidecar/dataplane/conn"
	"sidecar/dataplane/hostset"
	"sidecar/dataplane/http2"
	"sidecar/dataplane/lb"
	"sidecar/dataplane/loop"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/dataplane/upstream"
	"sidecar/internal/telemetry/accesslog"
	"sidecar/internal/telemetry/stats"
)

// rig is one worker with tunnels to real sockets: tests play the client and the backend.
type rig struct {
	t     testing.TB
	l     *loop.Loop
	env   *Env
	reg   *stats.Registry
	in    *snapshot.Interner
	b     *snapshot.Builder
	lis   *snapshot.Listener
	fc    *snapshot.FilterChain
	left  conn.Members
	stop  atomic.Bool
	done  chan struct{}
	http2 bool         // of clusters
	sni   string       // of the connections that dial makes
	cpu   atomic.Int64 // nanoseconds the worker's thread has used

	mu    sync.Mutex
	lines []string
}

const logFormat = "%ACCESS_LOG_TYPE% %RESPONSE_FLAGS% rx=%BYTES_RECEIVED% tx=%BYTES_SENT% att=%UPSTREAM_REQUEST_ATTEMPT_COUNT% " +
	"local=%DOWNSTREAM_LOCAL_CLOSE_REASON% detected=%DOWNSTREAM_DETECTED_CLOSE_TYPE%/%UPSTREAM_DETECTED_CLOSE_TYPE% " +
	"fail=%UPSTREAM_TRANSPORT_FAILURE_REASON%"

func newRig(t testing.TB, change func(*snapshot.TCPProxy)) *rig {
	l, err := loop.New(loop.Config{Kernel: sys.NewLinux(), Seed: 1}, func(m loop.Msg) { m.Payload.(func())() })
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, l: l, reg: stats.NewRegistry(1), in: snapshot.NewInterner(), done: make(chan struct{})}
	r.env = &Env{L: l, Up: upstream.NewManager(l, 1), Shard: 1, Logs: r, Snap: &snapshot.Snapshot{}}
	r.b = snapshot.NewBuilder(nil, r.in)
	r.lis = &snapshot.Listener{Name: "l", BufferLimit: 1 << 20}
	p := &snapshot.TCPProxy{StatPrefix: "t", Cluster: r.in.Cluster("c"), Scope: r.reg.Scope("tcp.t.", stats.TCPDef)}
	if change != nil {
		change(p)
	}
	f, err := accesslog.Compile(logFormat)
	if err != nil {
		t.Fatal(err)
	}
	p.AccessLogs = append(p.AccessLogs, &accesslog.Logger{Format: f})
	r.fc = &snapshot.FilterChain{Name: "fc", TCP: p}
	return r
}

// Log keeps the line.
func (r *rig) Log(loggers []*accesslog.Logger, rec *accesslog.Record) {
	line := string(loggers[0].Format.Append(nil, rec))
	r.mu.Lock()
	r.lines = append(r.lines, line)
	r.mu.Unlock()
}

// cluster adds a cluster with hosts at addrs.
func (r *rig) cluster(name string, limit int, max uint32, addrs ...sys.Addr) {
	spec := lb.Default(lb.RoundRobin)
	var eps []hostset.Endpoint
	for _, a := range addrs {
		eps = append(eps, hostset.Endpoint{Addr: a, Weight: 1})
	}
	hosts := spec.Build(nil, hostset.Input{Localities: []hostset.LocalityInput{{Endpoints: eps}}})
	cfg := &snapshot.ClusterConfig{Name: name, StatName: name, Ref: r.in.Cluster(name), ConnectTimeout: 300 * sys.Millisecond, BufferLimit: limit,
		LB: spec.Factory(), Limits: &snapshot.Usage{}, Traffic: r.reg.Scope("cluster."+name+".", stats.ClusterDef)}
	cfg.Breakers[0] = snapshot.Breaker{MaxConnections: max, MaxPending: 1024, MaxRequests: 1024, MaxPools: 1024}
	cfg.H2.SetDefaults(http2.Client)
	cfg.H2.MaxStreamWindow = cfg.H2.StreamWindow // so that tests know their bounds
	if r.http2 {
		cfg.Protocol = snapshot.UpstreamHTTP2
	}
	r.b.SetCluster(cfg.Ref, &snapshot.Cluster{ClusterConfig: cfg, Hosts: hosts})
}

func (r *rig) start() {
	r.env.Snap = r.b.Freeze()
	go func() {
		defer close(r.done)
		runtime.LockOSThread()
		for !r.stop.Load() {
			r.l.Turn(true)
			var u unix.Rusage
			if unix.Getrusage(unix.RUSAGE_THREAD, &u) == nil {
				r.cpu.Store(u.Utime.Nano() + u.Stime.Nano())
			}
		}
	}()
	r.t.Cleanup(func() {
		r.stop.Store(true)
		r.l.Mailbox().Wake()
		r.call(func() {})
		<-r.done
		r.env.Close()
		r.l.Close()
	})
}

// call runs fn on the worker and waits for it.
func (r *rig) call(fn func()) {
	c := make(chan struct{})
	r.l.Mailbox().Post(loop.Msg{Payload: func() { fn(); close(c) }})
	select {
	case <-c:
	case <-r.done:
	}
}

// dial makes a client connection whose other end is a new tunnel.
func (r *rig) dial() *net.TCPConn {
	r.t.Helper()
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		r.t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.DialTCP("tcp", nil, ln.Addr().(*net.TCPAddr))
	if err != nil {
		r.t.Fatal(err)
	}
	s, err := ln.AcceptTCP()
	if err != nil {
		r.t.Fatal(err)
	}
	raw, _ := s.SyscallConn()
	var fd int
	_ = raw.Control(func(x uintptr) { fd, err = unix.FcntlInt(x, unix.F_DUPFD_CLOEXEC, 0) })
	if err != nil {
		r.t.Fatal(err)
	}
	s.Close()
	_ = unix.SetNonblock(fd, true)
	r.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	r.call(func() {
		dc, e := conn.Adopt(r.l, sys.FD(fd), r.lis.BufferLimit, nil)
		if e != 0 {
			r.t.Error(e)
			return
		}
		remote := sys.AddrOf(c.LocalAddr().(*net.TCPAddr).AddrPort())
		info := accesslog.NewConnInfo(1, r.l.Wall(), remote, sys.AddrOf(netip.MustParseAddrPort("192.0.2.1:80")))
		if r.sni != "" {
			info.Own().SNI = r.sni
		}
		place := &conn.Member{Info: info}
		r.left.Join(place)
		New(r.env, dc, r.lis, r.fc, info, place)
	})
	return c
}

// backend listens; serve gets every connection.
func (r *rig) backend(serve func(*net.TCPConn)) sys.Addr {
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.AcceptTCP()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c)
			}()
		}
	}()
	return sys.AddrOf(ln.Addr().(*net.TCPAddr).AddrPort())
}

// dead is an address where nothing listens.
func (r *rig) dead() sys.Addr {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	defer ln.Close()
	return sys.AddrOf(ln.Addr().(*net.TCPAddr).AddrPort())
}

// log waits for the n-th log line.
func (r *rig) log(n int) string {
	r.t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		r.mu.Lock()
		if len(r.lines) >= n {
			defer r.mu.Unlock()
			return r.lines[n-1]
		}
		r.mu.Unlock()
	}
	r.t.Fatalf("no log line %d", n)
	return ""
}

// idle closes the pooled connections and checks that nothing is left.
func (r *rig) idle() {
	r.t.Helper()
	r.call(r.env.Up.CloseIdle)
	r.empty()
}

// empty checks that nothing is left of the tunnels.
func (r *rig) empty() {
	r.t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		var live, members, out, flights, timers, pipes, lent int
		r.call(func() {
			live, members, out, flights, timers = r.env.Active(), r.left.Len(), r.l.Bufs.Outstanding(), r.l.Bufs.Flights(), r.l.Timers()
			pipes, lent = r.env.pipes.n, r.env.pipes.n-len(r.env.pipes.free)
		})
		if live+members+out+flights+timers+lent == 0 && pipes <= keepPipes {
			return
		}
		if time.Now().After(end) {
			r.t.Fatalf("left: %d tunnels, %d members, %d buffer bytes, %d flights, %d timers, %d pipes (%d lent)", live, members, out, flights, timers, pipes, lent)
		}
	}
}

func readAll(t testing.TB, c net.Conn) string {
	t.Helper()
	b, err := io.ReadAll(c)
	if err != nil {
		return string(b) + "<" + errno(err) + ">"
	}
	return string(b)
}

func errno(err error) string {
	for e := err; e != nil; {
		if x, ok := e.(unix.Errno); ok {
			return x.Error()
		}
		u, ok := e.(interface{ Unwrap() error })
		if !ok {
			return err.Error()
		}
		e = u.Unwrap()
	}
	return strconv.Quote(err.Error())
}

func mustAddr(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
