// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"bufio"
	"io"
	"net"
	"strings"
	"testing"

	"sidecar/dataplane/loop"
	"sidecar/dataplane/pool"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/accesslog"
)

const connectHead = "CONNECT t.test:443 HTTP/1.1\r\nhost: t.test:443\r\n\r\n"

// through makes a rig whose tunnels ask the backends for t.test:443.
func through(t *testing.T, hostname string, change func(*snapshot.TCPProxy)) *rig {
	return newRig(t, func(p *snapshot.TCPProxy) {
		f, err := accesslog.Compile(hostname)
		if err != nil {
			t.Fatal(err)
		}
		p.Tunneling = &snapshot.Tunneling{Hostname: f}
		if change != nil {
			change(p)
		}
	})
}

// head reads a request head.
func head(c *net.TCPConn) (string, *bufio.Reader) {
	r := bufio.NewReader(c)
	var b strings.Builder
	for !strings.HasSuffix(b.String(), "\r\n\r\n") {
		line, err := r.ReadString('\n')
		b.WriteString(line)
		if err != nil {
			return b.String(), r
		}
	}
	return b.String(), r
}

func TestCarrier_WhenTheAnswerComesInPieces_ThenTheRestIsTheTunnels(t *testing.T) {
	const answer = "HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\nHTTP/1.1 200 OK\r\nx: y\r\n\r\nfirst"
	for at := range len(answer) + 1 {
		r := through(t, "t.test:443", nil)
		got := make(chan string, 1)
		r.cluster("c", 1<<20, 10, r.backend(func(c *net.TCPConn) {
			h, rest := head(c)
			_, _ = io.WriteString(c, answer[:at])
			r.call(func() {}) // the worker has turned
			_, _ = io.WriteString(c, answer[at:])
			_ = c.CloseWrite()
			b, _ := io.ReadAll(rest)
			got <- h + string(b)
		}))
		r.start()
		c := r.dial()
		_, _ = io.WriteString(c, "hello")
		_ = c.CloseWrite()
		if s := readAll(t, c); s != "first" {
			t.Fatalf("split at %d: client got %q", at, s)
		}
		if s := <-got; s != connectHead+"hello" {
			t.Fatalf("split at %d: backend got %q", at, s)
		}
		r.empty()
	}
}

func TestCarrier_WhenRefused_ThenOnlyTheConfiguredAttempts(t *testing.T) {
	for max, want := range map[uint32]string{
		1: "TcpConnectionEnd UF,URX rx=0 tx=0 att=1 local=tcp_initializion_failure:0 detected=Normal/Normal fail=tunnel_response:403",
		2: "TcpConnectionEnd UF,URX rx=0 tx=0 att=2 local=tcp_initializion_failure:0 detected=Normal/Normal fail=tunnel_response:403",
	} {
		r := through(t, "t.test:443", func(p *snapshot.TCPProxy) { p.MaxConnectAttempts = max })
		deny := func(c *net.TCPConn) {
			head(c)
			_, _ = io.WriteString(c, "HTTP/1.1 403 Forbidden\r\ncontent-length: 4\r\n\r\nnope")
		}
		r.cluster("c", 1<<20, 10, r.backend(deny), r.backend(deny), r.backend(deny))
		r.start()
		readAll(t, r.dial())
		if got := r.log(1); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		r.empty()
	}
}

func TestCarrier_WhenTheConnectFails_ThenAnotherHostIsAsked(t *testing.T) {
	r := through(t, "t.test:443", nil)
	ok := r.backend(func(c *net.TCPConn) {
		head(c)
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\nhere")
	})
	r.cluster("c", 1<<20, 10, r.dead(), ok)
	r.start()
	for range 2 { // one of them starts with the dead host
		c := r.dial()
		_ = c.CloseWrite()
		if s := readAll(t, c); s != "here" {
			t.Errorf("got %q", s)
		}
	}
	r.empty()
}

func TestCarrier_WhenTheHostnameCannotBeOne_ThenNothingIsSent(t *testing.T) {
	r := through(t, "%REQUESTED_SERVER_NAME%:443", nil)
	r.sni = "a.test HTTP/1.1\r\nx: y\r\n\r\n"
	got := make(chan string, 1)
	r.cluster("c", 1<<20, 10, r.backend(func(c *net.TCPConn) {
		b, _ := io.ReadAll(c)
		got <- string(b)
	}))
	r.start()
	readAll(t, r.dial())
	if s := <-got; s != "" {
		t.Errorf("backend got %q", s)
	}
	r.empty()
}

func TestCarrier_WhenEitherSideResets_ThenTheOtherLearnsIt(t *testing.T) {
	r := through(t, "t.test:443", nil)
	got := make(chan string, 1)
	r.cluster("c", 1<<20, 10, r.backend(func(c *net.TCPConn) {
		_, rest := head(c)
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\nx")
		if b, _ := rest.ReadByte(); b == 'r' {
			_ = c.SetLinger(0)
			return
		}
		_, err := rest.ReadByte()
		got <- errno(err)
	}))
	r.start()
	c := r.dial()
	_, _ = io.ReadFull(c, make([]byte, 1))
	_, _ = io.WriteString(c, "r")
	if s := readAll(t, c); s != "<connection reset by peer>" {
		t.Errorf("client saw %q", s)
	}
	c = r.dial()
	_, _ = io.ReadFull(c, make([]byte, 1))
	_, _ = io.WriteString(c, "c")
	_ = c.SetLinger(0)
	c.Close()
	if s := <-got; s != "connection reset by peer" {
		t.Errorf("backend saw %q", s)
	}
	r.empty()
}

func TestCarrier_WhenTheClientLeavesBeforeTheAnswer_ThenNothingIsLeft(t *testing.T) {
	r := through(t, "t.test:443", func(p *snapshot.TCPProxy) { p.IdleTimeout = 50e6 })
	r.cluster("c", 1<<20, 10, r.backend(func(c *net.TCPConn) { _, _ = io.ReadAll(c) }))
	r.start()
	r.dial().Close()
	if got := r.log(1); !strings.Contains(got, "UF rx=0 tx=0 att=1 local=tcp_session_idle_timeout") {
		t.Error(got)
	}
	r.empty()
}

// borrower takes a connection of a pool and gives it back idle.
type borrower struct {
	task loop.Task
	w    pool.Waiter
	done chan struct{}
}

func (b *borrower) Advance(sys.Nanos) loop.Step {
	if m, _, _ := b.w.Take(); m != nil {
		m.Release(true)
		close(b.done)
	}
	return loop.Idle
}

func TestCarrier_WhenAPooledConnectionIsStale_ThenAnotherOneIsMade(t *testing.T) {
	r := through(t, "t.test:443", nil)
	first := make(chan bool, 1)
	first <- true
	r.cluster("c", 1<<20, 10, r.backend(func(c *net.TCPConn) {
		select {
		case <-first: // closes when it is used again
			head(c)
		default:
			head(c)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\nhere")
		}
	}))
	r.start()
	b := &borrower{done: make(chan struct{})}
	r.call(func() {
		b.task.Init(b)
		b.w.Init(&b.task)
		cl := r.env.Up.Lookup(r.env.Snap, r.fc.TCP.Cluster)
		cl.Pool(cl.Row().Hosts.Priorities[0].Hosts[0].Host, 0, pool.HTTP1, nil).Get(&b.w)
	})
	<-b.done
	c := r.dial()
	_ = c.CloseWrite()
	if s := readAll(t, c); s != "here" {
		t.Errorf("got %q", s)
	}
	if got := r.log(1); !strings.Contains(got, "TcpConnectionEnd - ") || !strings.Contains(got, "att=1") {
		t.Error(got)
	}
	r.empty()
}
