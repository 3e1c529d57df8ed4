// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"sidecar/dataplane/conn"
	"sidecar/dataplane/route"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/stats"
)

const unlimited = 1 << 20

// echo answers every byte and its FIN with FIN.
func echo(c *net.TCPConn) {
	_, _ = io.Copy(c, c)
	_ = c.CloseWrite()
}

// The lines are what Envoy 1.40 logged in the same situations.
func TestTunnel_WhenItEnds_ThenSocketsAndLogAreEnvoys(t *testing.T) {
	half := make(chan struct{})
	tests := []struct {
		name   string
		serve  func(*net.TCPConn) // nil: nothing listens
		client func(t *testing.T, c *net.TCPConn) string
		cfg    func(*snapshot.TCPProxy)
		got    string
		log    string
	}{
		{"client finishes first", func(c *net.TCPConn) {
			b, _ := io.ReadAll(c)
			_, _ = c.Write([]byte("bye " + string(b)))
		}, func(t *testing.T, c *net.TCPConn) string {
			_, _ = c.Write([]byte("hi"))
			_ = c.CloseWrite()
			return readAll(t, c)
		}, nil, "bye hi", "TcpConnectionEnd - rx=2 tx=6 att=1 local=- detected=Normal/Normal fail=-"},
		{"server finishes first and still reads", func(c *net.TCPConn) {
			_, _ = c.Write([]byte("first"))
			_ = c.CloseWrite()
			b, _ := io.ReadAll(c)
			if string(b) == "late" {
				half <- struct{}{}
			}
		}, func(t *testing.T, c *net.TCPConn) string {
			got := readAll(t, c)
			_, _ = c.Write([]byte("late"))
			_ = c.CloseWrite()
			<-half
			return got
		}, nil, "first", "TcpConnectionEnd - rx=4 tx=5 att=1 local=- detected=Normal/Normal fail=-"},
		{"server resets", func(c *net.TCPConn) {
			_, _ = io.ReadFull(c, make([]byte, 2))
			_ = c.SetLinger(0)
		}, func(t *testing.T, c *net.TCPConn) string {
			_, _ = c.Write([]byte("hi"))
			return readAll(t, c)
		}, nil, "<connection reset by peer>", "TcpConnectionEnd UR rx=2 tx=0 att=1 local=- detected=LocalReset/RemoteReset fail=-"},
		{"client resets", func(c *net.TCPConn) {
			_, _ = io.ReadFull(c, make([]byte, 2))
			if _, err := c.Read(make([]byte, 1)); err != nil && errno(err) == "connection reset by peer" {
				half <- struct{}{}
			}
		}, func(t *testing.T, c *net.TCPConn) string {
			_, _ = c.Write([]byte("hi"))
			_ = c.SetLinger(0)
			time.Sleep(20 * time.Millisecond)
			c.Close()
			<-half
			return ""
		}, nil, "", "TcpConnectionEnd - rx=2 tx=0 att=1 local=- detected=RemoteReset/Normal fail=-"},
		{"client goes away before upstream answers", echo, func(t *testing.T, c *net.TCPConn) string {
			c.Close()
			return ""
		}, nil, "", "TcpConnectionEnd - rx=0 tx=0 att=1 local=- detected=Normal/Normal fail=-"},
		{"nothing listens", nil, func(t *testing.T, c *net.TCPConn) string { return readAll(t, c) }, nil, "",
			"TcpConnectionEnd UF,URX rx=0 tx=0 att=1 local=tcp_initializion_failure:0 detected=Normal/Normal fail=delayed_connect_error:_Connection_refused"},
		{"nothing listens, three attempts", nil, func(t *testing.T, c *net.TCPConn) string { return readAll(t, c) },
			func(p *snapshot.TCPProxy) { p.MaxConnectAttempts = 3 }, "",
			"TcpConnectionEnd UF,URX rx=0 tx=0 att=3 local=tcp_initializion_failure:0 detected=Normal/Normal fail=delayed_connect_error:_Connection_refused"},
		{"nothing listens, with backoff", nil, func(t *testing.T, c *net.TCPConn) string { return readAll(t, c) },
			func(p *snapshot.TCPProxy) {
				p.MaxConnectAttempts, p.BackoffBase, p.BackoffMax = 4, 5*sys.Millisecond, 10*sys.Millisecond
			}, "",
			"TcpConnectionEnd UF,URX rx=0 tx=0 att=4 local=tcp_initializion_failure:0 detected=Normal/Normal fail=delayed_connect_error:_Connection_refused"},
		{"unknown cluster", echo, func(t *testing.T, c *net.TCPConn) string { return readAll(t, c) },
			func(p *snapshot.TCPProxy) { p.Cluster = &route.ClusterRef{Name: "nope", ID: 99} }, "",
			"TcpConnectionEnd NC rx=0 tx=0 att=0 local=tcp_initializion_failure:3 detected=Normal/Normal fail=-"},
		{"idle", echo, func(t *testing.T, c *net.TCPConn) string {
			_, _ = c.Write([]byte("abc"))
			return readAll(t, c)
		}, func(p *snapshot.TCPProxy) { p.IdleTimeout = 100 * sys.Millisecond }, "abc",
			"TcpConnectionEnd - rx=3 tx=3 att=1 local=tcp_session_idle_timeout detected=Normal/Normal fail=-"},
		{"half-closed and idle", func(c *net.TCPConn) { _ = c.CloseWrite(); _, _ = io.ReadAll(c) },
			func(t *testing.T, c *net.TCPConn) string { return readAll(t, c) + readAll(t, c) },
			func(p *snapshot.TCPProxy) { p.IdleTimeout = 100 * sys.Millisecond }, "",
			"TcpConnectionEnd - rx=0 tx=0 att=1 local=tcp_session_idle_timeout detected=Normal/Normal fail=-"},
		{"too old", echo, func(t *testing.T, c *net.TCPConn) string {
			_, _ = c.Write([]byte("abc"))
			return readAll(t, c)
		}, func(p *snapshot.TCPProxy) { p.MaxDuration = 100 * sys.Millisecond }, "abc",
			"TcpConnectionEnd DT rx=3 tx=3 att=1 local=max_connection_duration_reached detected=Normal/Normal fail=-"},
		{"too old, with jitter", echo, func(t *testing.T, c *net.TCPConn) string {
			_, _ = c.Write([]byte("abc"))
			return readAll(t, c)
		}, func(p *snapshot.TCPProxy) {
			p.MaxDuration, p.MaxDurationJitter = 100*sys.Millisecond, 50*sys.Millisecond
		}, "abc",
			"TcpConnectionEnd DT rx=3 tx=3 att=1 local=max_connection_duration_reached detected=Normal/Normal fail=-"},
		{"server speaks first", func(c *net.TCPConn) { _, _ = c.Write([]byte("220 ready")) },
			func(t *testing.T, c *net.TCPConn) string { s := readAll(t, c); c.Close(); return s }, nil, "220 ready",
			"TcpConnectionEnd - rx=0 tx=9 att=1 local=- detected=Normal/Normal fail=-"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t, test.cfg)
			a := r.dead()
			if test.serve != nil {
				a = r.backend(test.serve)
			}
			r.cluster("c", 1<<20, unlimited, a)
			r.start()
			if got := test.client(t, r.dial()); got != test.got {
				t.Errorf("client read %q, want %q", got, test.got)
			}
			if got := r.log(1); got != test.log {
				t.Errorf("log\n%s, want\n%s", got, test.log)
			}
			r.empty()
		})
	}
}

func TestTunnel_WhenTheBreakerIsOpen_ThenUOAndNoHostNoted(t *testing.T) {
	r := newRig(t, nil)
	r.cluster("c", 1<<20, 0, r.backend(echo))
	r.start()
	if got := readAll(t, r.dial()); got != "" {
		t.Errorf("read %q", got)
	}
	if got, want := r.log(1), "TcpConnectionEnd UO rx=0 tx=0 att=0 local=tcp_initializion_failure:2 detected=Normal/Normal fail=-"; got != want {
		t.Errorf("log %s, want %s", got, want)
	}
	r.empty()
}

func TestTunnel_WhenOneHostRefuses_ThenAnotherIsTriedWithoutBeingAsked(t *testing.T) {
	r := newRig(t, nil)
	r.cluster("c", 1<<20, unlimited, r.dead(), r.dead(), r.backend(echo))
	r.start()
	for i := range 6 {
		c := r.dial()
		_, _ = c.Write([]byte("x"))
		_ = c.CloseWrite()
		if got := readAll(t, c); got != "x" {
			t.Fatalf("connection %d: read %q", i, got)
		}
	}
	r.empty()
	if v, _ := r.reg.Scope("cluster.c.", stats.ClusterDef).Value(stats.ClusterUpstreamCxConnectFail); v == 0 {
		t.Error("no attempt failed")
	}
}

func TestTunnel_WhenConnectTimesOut_ThenUFAndClosed(t *testing.T) {
	fd, err := sys.Listen(sys.Addr{IP: mustAddr("127.0.0.1:0")}, &sys.ListenOpts{Backlog: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer sys.CloseFD(fd)
	a := sys.BoundAddr(fd, sys.Addr{IP: mustAddr("127.0.0.1:0")})
	for range 4 { // fills the accept queue: later SYNs are dropped
		if c, err := net.DialTimeout("tcp", a.String(), 50*time.Millisecond); err == nil {
			defer c.Close()
		}
	}
	r := newRig(t, nil)
	r.cluster("c", 1<<20, unlimited, a)
	r.start()
	start := time.Now()
	if got := readAll(t, r.dial()); got != "" {
		t.Errorf("read %q", got)
	}
	if d := time.Since(start); d < 250*time.Millisecond {
		t.Errorf("gave up after %v", d)
	}
	if got, want := r.log(1), "TcpConnectionEnd UF,URX rx=0 tx=0 att=1 local=tcp_initializion_failure:0 detected=Normal/Normal fail=-"; got != want {
		t.Errorf("log %s, want %s", got, want)
	}
	r.empty()
}

func TestTunnel_WhenDrained_ThenOnlyDrainNowCuts(t *testing.T) {
	r := newRig(t, nil)
	r.cluster("c", 1<<20, unlimited, r.backend(echo))
	r.start()
	c := r.dial()
	r.call(func() {
		r.left.Each(func(m *conn.Member) { m.H.Drain(conn.DrainSoft) })
		r.left.Each(func(m *conn.Member) { m.H.Drain(conn.DrainIdle) })
	})
	_, _ = c.Write([]byte("still"))
	if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	r.call(func() { r.left.Each(func(m *conn.Member) { m.H.Drain(conn.DrainNow) }) })
	if got := readAll(t, c); got != "" {
		t.Errorf("read %q", got)
	}
	r.empty()
}

func TestTunnel_WhenRecordsAreAskedFor_ThenStartConnectedPeriodicAndEnd(t *testing.T) {
	r := newRig(t, func(p *snapshot.TCPProxy) {
		p.LogOnStart, p.LogOnConnected, p.LogFlushInterval = true, true, 50*sys.Millisecond
	})
	r.cluster("c", 1<<20, unlimited, r.backend(echo))
	r.start()
	c := r.dial()
	_, _ = c.Write([]byte("abc"))
	r.log(4)
	c.Close()
	for i, want := range []string{"TcpConnectionStart - rx=0 tx=0 att=0", "TcpUpstreamConnected - rx=0 tx=0 att=1", "TcpPeriodic - rx=3 tx=3 att=1", "TcpPeriodic - rx=3"} {
		if got := r.log(i + 1); !strings.HasPrefix(got, want) {
			t.Errorf("line %d: %s, want %s", i+1, got, want)
		}
	}
	r.empty()
}

func TestTunnel_WhenWeighted_ThenClustersShareByWeight(t *testing.T) {
	var mu sync.Mutex
	count := map[string]int{}
	serve := func(name string) func(*net.TCPConn) {
		return func(*net.TCPConn) { mu.Lock(); count[name]++; mu.Unlock() }
	}
	r := newRig(t, func(p *snapshot.TCPProxy) { p.Cluster = nil })
	r.fc.TCP.Weighted = &route.Weighted{Total: 4, Clusters: []route.WeightedCluster{
		{Cluster: r.in.Cluster("a"), Weight: 1}, {Cluster: r.in.Cluster("b"), Weight: 3}, {Cluster: r.in.Cluster("z"), Weight: 0}}}
	r.cluster("a", 1<<20, unlimited, r.backend(serve("a")))
	r.cluster("b", 1<<20, unlimited, r.backend(serve("b")))
	r.cluster("z", 1<<20, unlimited, r.backend(serve("z")))
	r.start()
	const n = 200
	for range n {
		c := r.dial()
		readAll(t, c)
		c.Close()
	}
	r.empty()
	mu.Lock()
	defer mu.Unlock()
	if count["a"]+count["b"] != n || count["z"] != 0 || count["a"] < n/8 || count["a"] > n*3/8 {
		t.Errorf("%v of %d connections, want 1:3:0", count, n)
	}
}

// transfer sends size random bytes from w to the reader of r in writes of random size and compares digests.
func transfer(w io.Writer, rd io.Reader, size int, seed uint64, slow bool) error {
	rng := rand.New(rand.NewPCG(seed, 1))
	sum := make(chan [32]byte, 1)
	go func() {
		h := sha256.New()
		b := make([]byte, 300<<10)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		for left := size; left > 0; {
			n := min(left, 1+rng.IntN(1<<(4+rng.IntN(15))))
			b[rng.IntN(n)]++
			h.Write(b[:n])
			if _, err := w.Write(b[:n]); err != nil {
				break
			}
			left -= n
		}
		sum <- [32]byte(h.Sum(nil))
		if c, ok := w.(interface{ CloseWrite() error }); ok {
			_ = c.CloseWrite()
		}
	}()
	h := sha256.New()
	n := 0
	b := make([]byte, 64<<10)
	for {
		m, err := rd.Read(b)
		h.Write(b[:m])
		n += m
		if slow && n%7 == 0 {
			time.Sleep(time.Millisecond)
		}
		if err != nil {
			break
		}
	}
	want := <-sum
	if n != size || !bytes.Equal(h.Sum(nil), want[:]) {
		return fmt.Errorf("%d bytes of %d arrived, or others", n, size)
	}
	return nil
}

func TestTunnel_WhenBulkGoesBothWays_ThenEveryByteArrivesOnce(t *testing.T) {
	for _, splice := range []bool{false, true} {
		for _, limit := range []int{1 << 20, 16 << 10} {
			t.Run(fmt.Sprintf("splice=%v limit=%d", splice, limit), func(t *testing.T) {
				r := newRig(t, nil)
				r.env.Splice = splice
				r.lis.BufferLimit = limit
				accepted := make(chan *net.TCPConn, 1)
				hold := make(chan struct{})
				r.cluster("c", limit, unlimited, r.backend(func(c *net.TCPConn) { accepted <- c; <-hold }))
				defer close(hold)
				r.start()
				for i, size := range []int{0, 1, 70_000, 1 << 20, 9<<20 + 17} {
					c := r.dial()
					s := <-accepted
					errs := make(chan error, 2)
					go func() { errs <- transfer(c, s, size, uint64(i), i%2 == 0) }()
					go func() { errs <- transfer(s, c, size/2, uint64(i+9), i%2 == 1) }()
					for range 2 {
						if err := <-errs; err != nil {
							t.Errorf("size %d: %v", size, err)
						}
					}
					if got, want := r.log(i+1), fmt.Sprintf("TcpConnectionEnd - rx=%d tx=%d ", size, size/2); !strings.HasPrefix(got, want) {
						t.Errorf("log %s, want %s", got, want)
					}
					c.Close()
					s.Close()
				}
				r.empty()
				used := false
				r.call(func() { used = r.env.pipes.n > 0 })
				if used != splice {
					t.Errorf("pipes in use: %v", used)
				}
			})
		}
	}
}

func TestTunnel_WhenTheReaderStalls_ThenMemoryIsBoundedByTheLimits(t *testing.T) {
	for _, splice := range []bool{false, true} {
		r := newRig(t, nil)
		r.env.Splice = splice
		const limit = 64 << 10
		r.lis.BufferLimit = limit
		stall := make(chan struct{})
		total := make(chan int64, 1)
		r.cluster("c", limit, unlimited, r.backend(func(c *net.TCPConn) {
			<-stall
			n, _ := io.Copy(io.Discard, c)
			total <- n
		}))
		r.start()
		c := r.dial()
		_ = c.SetWriteDeadline(time.Now().Add(700 * time.Millisecond))
		b := make([]byte, 1<<20)
		sent := int64(0)
		for {
			n, err := c.Write(b)
			sent += int64(n)
			if err != nil {
				break
			}
		}
		var out int
		r.call(func() { out = r.l.Bufs.Outstanding() })
		if out > 4*limit {
			t.Errorf("splice %v: %d bytes buffered, limit %d", splice, out, limit)
		}
		_ = c.SetWriteDeadline(time.Time{})
		_ = c.CloseWrite()
		close(stall)
		readAll(t, c)
		r.empty()
		if n := <-total; n != sent {
			t.Errorf("splice %v: %d of %d bytes arrived", splice, n, sent)
		}
	}
}

func TestTunnel_WhenTheConnectionBreaksWithBytesInThePipe_ThenNothingIsLeft(t *testing.T) {
	r := newRig(t, nil)
	r.env.Splice = true
	r.cluster("c", 1<<20, unlimited, r.backend(func(c *net.TCPConn) {
		time.Sleep(100 * time.Millisecond) // the pipe fills
		_ = c.SetLinger(0)
	}))
	r.start()
	for range 3 {
		c := r.dial()
		b := make([]byte, 1<<20)
		for {
			if _, err := c.Write(b); err != nil {
				break
			}
		}
		c.Close()
	}
	r.empty()
}

func TestTunnel_WhenPipesCannotBeHad_ThenBytesAreCopied(t *testing.T) {
	r := newRig(t, nil)
	r.env.Splice = true
	r.env.pipes.dead = true
	accepted := make(chan *net.TCPConn, 1)
	hold := make(chan struct{})
	r.cluster("c", 1<<20, unlimited, r.backend(func(c *net.TCPConn) { accepted <- c; <-hold }))
	defer close(hold)
	r.start()
	c := r.dial()
	s := <-accepted
	if err := transfer(c, s, 5<<20, 3, false); err != nil {
		t.Error(err)
	}
	s.Close()
	readAll(t, c)
	r.empty()
}

func TestTunnel_WhenBytesAreRelayed_ThenNothingIsAllocated(t *testing.T) {
	for _, splice := range []bool{false, true} {
		r := newRig(t, nil)
		r.env.Splice = splice
		accepted := make(chan *net.TCPConn, 1)
		hold := make(chan struct{})
		r.cluster("c", 1<<20, unlimited, r.backend(func(c *net.TCPConn) { accepted <- c; <-hold }))
		r.start()
		c := r.dial()
		s := <-accepted
		b, in := make([]byte, 256<<10), make([]byte, 256<<10)
		round := func() {
			if _, err := c.Write(b); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(s, in); err != nil {
				t.Fatal(err)
			}
		}
		for range 20 {
			round()
		}
		var m [2]runtime.MemStats
		const rounds = 200
		runtime.ReadMemStats(&m[0])
		for range rounds {
			round()
		}
		runtime.ReadMemStats(&m[1])
		if n := m[1].Mallocs - m[0].Mallocs; n > rounds/10 { // of the whole process; the runtime has a few of its own
			t.Errorf("splice %v: %d allocations in %d rounds", splice, n, rounds)
		}
		close(hold)
		c.Close()
		r.empty()
	}
}
