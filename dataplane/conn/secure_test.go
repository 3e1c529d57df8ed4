// SPDX-License-Identifier: Apache-2.0

package conn

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sidecar/dataplane/loop"
	"sidecar/dataplane/sys"
)

// certs are self-signed certificates for test.local, by "ecdsa" and "rsa".
var certs = sync.OnceValue(func() map[string]tls.Certificate {
	out := map[string]tls.Certificate{}
	for _, kind := range []string{"ecdsa", "rsa"} {
		var k crypto.Signer
		k, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if kind == "rsa" {
			k, _ = rsa.GenerateKey(rand.Reader, 2048)
		}
		t := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: kind}, DNSNames: []string{"test.local"}, IsCA: true,
			BasicConstraintsValid: true, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, t, t, k.Public(), k)
		if err != nil {
			panic(err)
		}
		leaf, _ := x509.ParseCertificate(der)
		out[kind] = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k, Leaf: leaf}
	}
	return out
})

// configs makes a server's and a client's configuration that trust each other.
func configs(vers uint16, kind string, mutual bool) (srv, cli *tls.Config) {
	c := certs()[kind]
	pool := x509.NewCertPool()
	pool.AddCert(c.Leaf)
	srv = &tls.Config{Certificates: []tls.Certificate{c}, MinVersion: vers, MaxVersion: vers, NextProtos: []string{"http/1.1"}}
	cli = &tls.Config{ServerName: "test.local", RootCAs: pool, MinVersion: vers, MaxVersion: vers, NextProtos: []string{"http/1.1"}}
	if mutual {
		srv.ClientAuth, srv.ClientCAs, cli.Certificates = tls.RequireAndVerifyClientCert, pool, srv.Certificates
	}
	return srv, cli
}

// kinds are the handshakes that tests go through.
var kinds = []struct {
	name   string
	vers   uint16
	key    string
	mutual bool
}{{"1.3", tls.VersionTLS13, "ecdsa", false}, {"1.3 mutual RSA", tls.VersionTLS13, "rsa", true}, {"1.2 mutual", tls.VersionTLS12, "ecdsa", true}}

// relay echoes what it reads, with back-pressure, and closes its side when the peer did.
type relay struct {
	task  loop.Task
	c     *Conn
	l     *loop.Loop
	limit int // of one read; 0 = any
	got   []byte
	keep  bool // keep what was read instead of echoing it
	end   Status
	done  bool
	most  int // queued bytes seen at most
}

func (o *relay) Advance(sys.Nanos) loop.Step {
	if done, e := o.c.Connected(); !done || e != 0 {
		if done {
			o.end, o.done = Failed, true
		}
		return loop.Idle
	}
	for range 8 {
		if !o.keep && o.c.Room() <= 0 {
			return loop.Idle
		}
		st := o.c.FillUpTo(max(o.limit, 1<<20*btoi(o.limit == 0)))
		if st == Blocked {
			return loop.Idle
		}
		if st != More {
			if !o.done {
				o.end, o.done = st, true
				o.c.CloseWrite()
			}
			return loop.Idle
		}
		if o.keep {
			o.got = append(o.got, o.c.In()...)
		} else {
			o.c.Send(o.c.In(), nil)
		}
		o.most = max(o.most, o.c.Queued())
		o.c.Discard(len(o.c.In()))
	}
	return loop.Again
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// file makes a net.Conn of the peer's descriptor, for the library to block on.
func file(t testing.TB, fd int) net.Conn {
	t.Helper()
	f := os.NewFile(uintptr(fd), "peer")
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	n, _ := unix.Dup(fd) // the rig closes the number it gave
	f.Close()
	_ = unix.Dup2(n, fd)
	unix.Close(n)
	return c
}

// secured is an accepted connection that speaks TLS, its relay, and the library's end of it.
func (r *rig) secured(w *TLS, srv, cli *tls.Config, limit int, wrap func(net.Conn) net.Conn) (*relay, *tls.Conn) {
	r.t.Helper()
	c, _, fd := r.pair(true, limit)
	p := file(r.t, fd)
	unix.Close(fd)
	r.t.Cleanup(func() { p.Close() })
	if wrap != nil {
		p = wrap(p)
	}
	o := &relay{c: c, l: r.l}
	o.task.Init(o)
	c.SetOwner(&o.task)
	c.StartTLS(w, w.Engine.Server(srv), 0)
	return o, tls.Client(p, cli)
}

// until turns the loop until cond, or fails.
func (r *rig) until(what string, cond func() bool) {
	r.t.Helper()
	for end := time.Now().Add(10 * time.Second); !cond(); {
		if time.Now().After(end) {
			r.t.Fatal("timeout: " + what)
		}
		r.l.Turn(false)
		time.Sleep(50 * time.Microsecond)
	}
}

// done turns fn's result, which comes from another goroutine, into a condition.
func done(fn func() error) (over func() bool, err func() error) {
	ch := make(chan error, 1)
	go func() { ch <- fn() }()
	var e error
	var have bool
	over = func() bool {
		select {
		case e = <-ch:
			have = true
		default:
		}
		return have
	}
	return over, func() error { return e }
}

// drip writes every byte by itself.
type drip struct{ net.Conn }

func (d drip) Write(p []byte) (int, error) {
	for i := range p {
		if n, err := d.Conn.Write(p[i : i+1]); err != nil {
			return i + n, err
		}
	}
	return len(p), nil
}

// exchange sends msg, ends the stream and reads the echo until its end.
func exchange(c *tls.Conn, msg []byte) error {
	go func() {
		_, _ = c.Write(msg)
		_ = c.CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err == nil && !bytes.Equal(got, msg) {
		err = fmt.Errorf("%d of %d bytes came back", len(got), len(msg))
	}
	return err
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7 >> 3)
	}
	return b
}

func TestTLS_WhenAccepted_ThenBytesBothWaysWithBackPressure(t *testing.T) {
	for _, k := range kinds {
		for _, limit := range []int{0, 100} {
			r := newRig(t)
			w := NewTLS(r.l, nil)
			srv, cli := configs(k.vers, k.key, k.mutual)
			const room = 64 << 10
			o, p := r.secured(w, srv, cli, room, nil)
			o.limit = limit
			size := 4 << 20
			if limit > 0 {
				size = 200 << 10
			}
			msg := pattern(size)
			over, err := done(func() error { return exchange(p, msg) })
			r.until("echo", over)
			if err() != nil {
				t.Fatalf("%s: %v", k.name, err())
			}
			s := o.c.Session()
			if s == nil || s.ALPN != "http/1.1" || s.SNI != "test.local" || s.Resumed || o.c.Shaking() || !o.c.Secure() {
				t.Errorf("%s: %+v", k.name, s)
			}
			if o.end != EOF || o.c.Truncated() || !o.c.PeerClosed() || o.c.BytesIn != uint64(size) || o.c.BytesOut != uint64(size) {
				t.Errorf("%s: %v, %d in, %d out", k.name, o.end, o.c.BytesIn, o.c.BytesOut)
			}
			if most := room + loop.ScratchSize + loop.ScratchSize/16; o.most > most {
				t.Errorf("%s: %d bytes queued", k.name, o.most)
			}
			o.c.Close()
			w.Close()
			if n, f := r.l.Bufs.Outstanding(), r.l.Bufs.Flights(); n != 0 || f != 0 || w.Engine.Stacks() != 0 {
				t.Errorf("%s: %d bytes, %d flights, %d stacks left", k.name, n, f, w.Engine.Stacks())
			}
		}
	}
}

func TestTLS_WhenEveryByteComesAlone_ThenTheSame(t *testing.T) {
	for _, k := range kinds {
		r := newRig(t)
		w := NewTLS(r.l, nil)
		srv, cli := configs(k.vers, k.key, k.mutual)
		_, p := r.secured(w, srv, cli, 1<<20, func(c net.Conn) net.Conn { return drip{c} })
		over, err := done(func() error { return exchange(p, pattern(3000)) })
		r.until("echo", over)
		if err() != nil {
			t.Fatalf("%s: %v", k.name, err())
		}
	}
}

func TestTLS_WhenIdle_ThenHoldsNoBuffer(t *testing.T) {
	r := newRig(t)
	w := NewTLS(r.l, nil)
	srv, cli := configs(tls.VersionTLS13, "ecdsa", true)
	o, p := r.secured(w, srv, cli, 1<<20, nil)
	over, err := done(func() error {
		if _, err := p.Write(pattern(7000)); err != nil {
			return err
		}
		_, err := io.ReadFull(p, make([]byte, 7000))
		return err
	})
	r.until("echo", over)
	r.turns()
	if err() != nil || r.l.Bufs.Outstanding() != 0 || r.l.Bufs.Flights() != 0 || o.c.Readable() || w.Counts().Active != 0 || w.slab.Live() != 0 {
		t.Errorf("%v: %d bytes, %d flights, readable %v", err(), r.l.Bufs.Outstanding(), r.l.Bufs.Flights(), o.c.Readable())
	}
	o.c.Close()
}

// listen accepts one connection and serves it with fn.
func listen(t *testing.T, srv *tls.Config, fn func(net.Conn, *tls.Conn) error) (sys.Addr, func() bool, func() error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	over, e := done(func() error {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		defer c.Close()
		return fn(c, tls.Server(c, srv))
	})
	return sys.AddrOf(ln.Addr().(*net.TCPAddr).AddrPort()), over, e
}

func (r *rig) dial(w *TLS, a sys.Addr, cli *tls.Config, timeout sys.Nanos) *relay {
	r.t.Helper()
	o := &relay{l: r.l, keep: true}
	o.task.Init(o)
	c, e := Dial(r.l, a, nil, 1<<20, &o.task)
	if e != 0 {
		r.t.Fatal(e)
	}
	o.c = c
	c.StartTLS(w, w.Engine.Client(cli), timeout)
	return o
}

func TestTLS_WhenDialled_ThenConnectedTellsAfterTheHandshake(t *testing.T) {
	for _, k := range kinds {
		r := newRig(t)
		w := NewTLS(r.l, nil)
		srv, cli := configs(k.vers, k.key, k.mutual)
		hold := make(chan bool)
		msg := pattern(1 << 20)
		a, over, err := listen(t, srv, func(_ net.Conn, c *tls.Conn) error {
			<-hold
			got := make([]byte, 5)
			if _, err := io.ReadFull(c, got); err != nil || string(got) != "early" {
				return fmt.Errorf("%q %w", got, err)
			}
			if _, err := c.Write(msg); err != nil {
				return err
			}
			if n, err := c.Read(got); err != io.EOF {
				return fmt.Errorf("no end after CloseWrite: %d %v", n, err)
			}
			return c.Close()
		})
		o := r.dial(w, a, cli, 0)
		o.c.Send([]byte("ear"), []byte("ly"))
		o.c.CloseWrite()
		o.c.Send([]byte("dropped"), nil)
		for range 20 {
			r.turns()
		}
		if done, e := o.c.Connected(); done || e != 0 || !o.c.Shaking() || o.c.Queued() < 5 {
			t.Fatalf("connected before the handshake: %v %v, %d queued", done, e, o.c.Queued())
		}
		close(hold)
		r.until("server", func() bool { return over() && o.done })
		if err() != nil || o.end != EOF || !bytes.Equal(o.got, msg) {
			t.Errorf("%s: %v, %v, %d bytes", k.name, err(), o.end, len(o.got))
		}
		if done, e := o.c.Connected(); !done || e != 0 || o.c.Session().ALPN != "http/1.1" || o.c.Remote() != a {
			t.Errorf("%v %v", done, e)
		}
		o.c.Close()
	}
}

func TestTLS_WhenTheHandshakeFails_ThenTheOwnerHearsWhy(t *testing.T) {
	srv, cli := configs(tls.VersionTLS13, "ecdsa", false)
	_, other := configs(tls.VersionTLS13, "rsa", false)
	for _, x := range []struct {
		name string
		cli  *tls.Config
		fn   func(net.Conn, *tls.Conn) error
		want sys.Errno
	}{
		{"unknown CA", other, func(_ net.Conn, c *tls.Conn) error { return c.Handshake() }, sys.EPROTO},
		{"not TLS", cli, func(c net.Conn, _ *tls.Conn) error {
			_, err := c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
			_, _ = c.Read(make([]byte, 1000))
			return err
		}, sys.EPROTO},
		{"closed", cli, func(c net.Conn, _ *tls.Conn) error { _, err := c.Read(make([]byte, 4096)); return err }, sys.ECONNRESET},
	} {
		r := newRig(t)
		w := NewTLS(r.l, nil)
		a, over, _ := listen(t, srv, x.fn)
		o := r.dial(w, a, x.cli, 0)
		r.until(x.name, func() bool { return o.done && over() })
		if done, e := o.c.Connected(); !done || e != x.want || o.c.TransportFailure() == nil || !o.c.Broken() || o.c.Shaking() || o.c.Fill() != Failed {
			t.Errorf("%s: %v %v %v", x.name, done, e, o.c.TransportFailure())
		}
		o.c.Close()
		if w.Counts().Active != 0 || w.slab.Live() != 0 || r.l.Bufs.Outstanding() != 0 {
			t.Errorf("%s: something is left", x.name)
		}
	}
}

func TestTLS_WhenNobodyListens_ThenTheConnectFails(t *testing.T) {
	r := newRig(t)
	w := NewTLS(r.l, nil)
	ln, _ := net.Listen("tcp", "127.0.0.1:0")
	a := sys.AddrOf(ln.Addr().(*net.TCPAddr).AddrPort())
	ln.Close()
	_, cli := configs(tls.VersionTLS13, "ecdsa", false)
	o := r.dial(w, a, cli, 0)
	r.until("refused", func() bool { return o.done })
	if done, e := o.c.Connected(); !done || e != sys.ECONNREFUSED || o.c.TransportFailure() != nil {
		t.Errorf("%v %v", done, e)
	}
	o.c.Close()
}

func TestTLS_WhenTheHandshakeStalls_ThenItFailsAtTheDeadline(t *testing.T) {
	k := &slowClock{Linux: sys.NewLinux()}
	l, err := loop.New(loop.Config{Kernel: k}, func(loop.Msg) {})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r := &rig{t, l}
	w := NewTLS(l, nil)
	srv, _ := configs(tls.VersionTLS13, "ecdsa", false)
	for _, sent := range []string{"", "\x16\x03\x01\x02\x00"} {
		c, o, peer := r.pair(true, 1<<20)
		c.StartTLS(w, w.Engine.Server(srv), 5*sys.Second)
		if sent != "" {
			write(t, peer, sent)
		}
		r.turns()
		o.runs = 0
		k.add += 4 * sys.Second
		r.turns()
		if o.runs != 0 || c.Broken() || w.Engine.Stacks() != 0 || c.Fill() != Blocked {
			t.Error("failed too soon, or a stack before the first record")
		}
		k.add += 2 * sys.Second
		r.turns()
		if o.runs == 0 || !c.Broken() || c.Err() != sys.ETIMEDOUT || !errors.Is(c.TransportFailure(), ErrHandshakeTimeout) {
			t.Errorf("%d runs, %v %v", o.runs, c.Err(), c.TransportFailure())
		}
		c.Close()
	}
	if w.Counts().Timeout != 2 || r.l.Bufs.Outstanding() != 0 {
		t.Errorf("%+v, %d bytes", w.Counts(), r.l.Bufs.Outstanding())
	}
}

// hello is a ClientHello as the library makes it.
func hello(t *testing.T, cli *tls.Config) []byte {
	t.Helper()
	a, b := net.Pipe()
	go func() { _ = tls.Client(a, cli).Handshake() }()
	p := make([]byte, 4096)
	n, err := b.Read(p)
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
	b.Close()
	return p[:n]
}

func TestTLS_WhenManyShakeAtOnce_ThenAFewStepsEachTurn(t *testing.T) {
	r := newRig(t)
	w := NewTLS(r.l, nil)
	srv, cli := configs(tls.VersionTLS13, "ecdsa", false)
	h := hello(t, cli)
	const n = 3*stepsPerTurn + 1
	var c [n]*Conn
	for i := range c {
		var peer int
		c[i], _, peer = r.pair(false, 1<<20)
		c[i].StartTLS(w, w.Engine.Server(srv), 0)
		write(t, peer, string(h))
	}
	for turn, want := range []int{stepsPerTurn, 2 * stepsPerTurn, 3 * stepsPerTurn, n, n} {
		r.l.Turn(false)
		if got := w.Counts().Active; got != want {
			t.Errorf("turn %d: %d began, want %d", turn, got, want)
		}
	}
	for _, x := range c {
		x.Close()
	}
	if w.Counts().Active != 0 || w.Engine.Stacks() > 16 {
		t.Errorf("%+v, %d stacks", w.Counts(), w.Engine.Stacks())
	}
}

func TestTLS_WhenTooManyShake_ThenTheOldestGoes(t *testing.T) {
	r := newRig(t)
	w := NewTLS(r.l, nil)
	w.limit = 3
	srv, cli := configs(tls.VersionTLS13, "ecdsa", false)
	h := hello(t, cli)
	var c [5]*Conn
	for i := range c {
		var peer int
		c[i], _, peer = r.pair(false, 1<<20)
		c[i].StartTLS(w, w.Engine.Server(srv), 0)
		write(t, peer, string(h))
		r.turns()
	}
	for i, x := range c {
		if gone := i < 2; x.Broken() != gone || gone && !errors.Is(x.TransportFailure(), ErrHandshakeEvicted) {
			t.Errorf("%d: %v %v", i, x.Broken(), x.TransportFailure())
		}
		x.Close()
	}
	if n := w.Counts(); n.Evicted != 2 || n.Active != 0 {
		t.Errorf("%+v", n)
	}
}

func TestTLS_WhenTheKeyIsSlow_ThenAnotherThreadSignsAndTheLoopGoesOn(t *testing.T) {
	for _, closed := range []bool{false, true} {
		var w *TLS
		l, err := loop.New(loop.Config{Kernel: sys.NewLinux()}, func(m loop.Msg) { m.Payload.(*Signature).Signed() })
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		r := &rig{t, l}
		jobs := make(chan *Signature, 10)
		w = NewTLS(l, func(s *Signature) bool { jobs <- s; return true })
		srv, cli := configs(tls.VersionTLS13, "rsa", false)
		srv.Certificates[0].PrivateKey = w.Engine.Signer(srv.Certificates[0].PrivateKey.(crypto.Signer))
		o, p := r.secured(w, srv, cli, 1<<20, nil)
		over, e := done(func() error { return exchange(p, pattern(5000)) })
		r.until("signature", func() bool { return len(jobs) > 0 })
		o.c.Notify(sys.EventIn) // an edge must not go on with it
		r.turns()
		if w.Counts().Signatures != 1 || o.c.Broken() || len(jobs) != 1 {
			t.Fatalf("%+v", w.Counts())
		}
		if closed {
			o.c.Close()
		}
		go func() {
			s := <-jobs
			s.Run()
			l.Mailbox().Post(loop.Msg{Payload: s})
		}()
		r.until("end", over)
		if (e() != nil) != closed {
			t.Error(e())
		}
		r.until("message", func() bool { return l.Stats().Messages == 1 })
		if w.Counts().Active != 0 || w.slab.Live() != 0 {
			t.Errorf("%+v", w.Counts())
		}
	}
}

func TestTLS_WhenThePeerEnds_ThenCloseNotifyAndTruncationDiffer(t *testing.T) {
	for _, k := range kinds {
		for _, x := range []struct {
			name      string
			end       func(net.Conn, *tls.Conn)
			want      Status
			truncated bool
		}{
			{"close_notify", func(_ net.Conn, c *tls.Conn) { _ = c.CloseWrite() }, EOF, false},
			{"close_notify and FIN", func(_ net.Conn, c *tls.Conn) { _ = c.Close() }, EOF, false},
			{"FIN", func(c net.Conn, _ *tls.Conn) { _ = c.(*net.TCPConn).CloseWrite() }, EOF, true},
			{"FIN in a record", func(c net.Conn, _ *tls.Conn) {
				_, _ = c.Write([]byte{23, 3, 3, 1, 0, 1, 2})
				_ = c.(*net.TCPConn).CloseWrite()
			}, EOF, true},
			{"RST", func(c net.Conn, _ *tls.Conn) { _ = c.(*net.TCPConn).SetLinger(0); c.Close() }, Failed, false},
			{"garbage", func(c net.Conn, _ *tls.Conn) { _, _ = c.Write([]byte("garbage in the middle of a stream")) }, Failed, false},
			{"bad record", func(c net.Conn, _ *tls.Conn) {
				_, _ = c.Write(append([]byte{23, 3, 3, 0, 30}, make([]byte, 30)...))
			}, Failed, false},
		} {
			r := newRig(t)
			w := NewTLS(r.l, nil)
			srv, cli := configs(k.vers, k.key, k.mutual)
			var raw net.Conn
			o, p := r.secured(w, srv, cli, 1<<20, func(c net.Conn) net.Conn { raw = c; return c })
			o.keep = true
			over, err := done(func() error { _, err := p.Write([]byte("last words")); return err })
			r.until("handshake", func() bool { return over() && o.c.Session() != nil })
			r.until("last words", func() bool { return len(o.got) > 0 || x.name == "RST" })
			x.end(raw, p)
			r.until(x.name, func() bool { return o.done })
			if err() != nil || o.end != x.want || o.c.Truncated() != x.truncated || x.name != "RST" && string(o.got) != "last words" {
				t.Errorf("%s, %s: %v, %v, truncated %v, %q", k.name, x.name, err(), o.end, o.c.Truncated(), o.got)
			}
			if bad := x.name == "garbage" || x.name == "bad record"; bad != (o.c.TransportFailure() != nil) || bad && o.c.Err() != sys.EPROTO {
				t.Errorf("%s, %s: %v %v", k.name, x.name, o.c.TransportFailure(), o.c.Err())
			}
			o.c.Close()
			if r.l.Bufs.Outstanding() != 0 || r.l.Bufs.Flights() != 0 {
				t.Errorf("%s, %s: %d bytes left", k.name, x.name, r.l.Bufs.Outstanding())
			}
		}
	}
}

func TestTLS_WhenWeEnd_ThenThePeerSeesHow(t *testing.T) {
	for _, x := range []struct {
		name string
		end  func(*Conn)
		want string
	}{
		{"Close", (*Conn).Close, "EOF"},
		{"CloseWrite", (*Conn).CloseWrite, "EOF"},
		{"CloseAfterFlush", (*Conn).CloseAfterFlush, "EOF"},
		{"Reset", (*Conn).Reset, "reset"},
	} {
		for _, size := range []int{10, 8 << 20} {
			if size > 10 && (x.name == "Close" || x.name == "Reset") {
				continue // output is lost
			}
			r := newRig(t)
			w := NewTLS(r.l, nil)
			srv, cli := configs(tls.VersionTLS13, "ecdsa", false)
			o, p := r.secured(w, srv, cli, 16<<20, nil)
			hold := make(chan bool)
			var got []byte
			over, err := done(func() error {
				if err := p.Handshake(); err != nil {
					return err
				}
				<-hold
				var err error
				got, err = io.ReadAll(p)
				return err
			})
			r.until("handshake", func() bool { return o.c.Session() != nil })
			msg := pattern(size)
			o.c.Send(msg[:5], msg[5:])
			x.end(o.c)
			r.turns()
			close(hold)
			r.until("end", over)
			if x.want == "EOF" && (err() != nil || !bytes.Equal(got, msg)) || x.want != "EOF" && err() == nil {
				t.Errorf("%s of %d: %v, %d bytes", x.name, size, err(), len(got))
			}
			if x.name == "CloseWrite" {
				over, err = done(func() error { _, err := p.Write([]byte("still")); return err })
				o.keep = true
				r.until("other way", func() bool { return over() && len(o.got) > 0 })
				if err() != nil || string(o.got) != "still" {
					t.Errorf("half-close: %v %q", err(), o.got)
				}
				o.c.Close()
			}
			if !o.c.Closed() || r.l.Bufs.Outstanding() != 0 {
				t.Errorf("%s: closed %v, %d bytes left", x.name, o.c.Closed(), r.l.Bufs.Outstanding())
			}
		}
	}
}

// tap records what is read.
type tap struct {
	net.Conn
	got *bytes.Buffer
}

func (t tap) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	t.got.Write(p[:n])
	return n, err
}

func TestTLS_WhenClosed_ThenCloseNotifyIsOnTheWireBeforeFIN(t *testing.T) {
	for i, how := range []func(*Conn){(*Conn).Close, (*Conn).CloseWrite, (*Conn).CloseAfterFlush} {
		r := newRig(t)
		w := NewTLS(r.l, nil)
		srv, cli := configs(tls.VersionTLS12, "ecdsa", false) // of TLS 1.2 the record's type can be seen
		var seen bytes.Buffer
		o, p := r.secured(w, srv, cli, 1<<20, func(c net.Conn) net.Conn { return tap{c, &seen} })
		over, err := done(func() error { _, err := io.ReadAll(p); return err })
		r.until("handshake", func() bool { return o.c.Session() != nil })
		how(o.c)
		r.until("end", over)
		last := byte(0)
		for b := seen.Bytes(); len(b) >= 5; b = b[5+int(b[3])<<8+int(b[4]):] {
			last = b[0]
		}
		if err() != nil || last != 21 {
			t.Errorf("%v, last record of type %d", err(), last)
		}
		_ = p.NetConn().SetReadDeadline(time.Now().Add(50 * time.Millisecond)) // half-closed by close_notify alone: no FIN, as Envoy
		if _, err := p.NetConn().Read(make([]byte, 1)); (err == io.EOF) != (i != 1) {
			t.Errorf("%d: on the socket: %v", i, err)
		}
	}
}

func TestTLS_WhenBytesWereSniffedBefore_ThenTheyCountAsCiphertext(t *testing.T) {
	r := newRig(t)
	w := NewTLS(r.l, nil)
	srv, cli := configs(tls.VersionTLS13, "ecdsa", false)
	c, _, fd := r.pair(true, 1<<20)
	p := tls.Client(file(t, fd), cli)
	unix.Close(fd)
	over, err := done(func() error { return exchange(p, []byte("hello")) })
	r.until("sniff", func() bool { c.Fill(); return len(c.In()) > 100 })
	o := &relay{c: c, l: r.l}
	o.task.Init(o)
	c.StartTLS(w, w.Engine.Server(srv), 0)
	c.SetOwner(&o.task)
	if len(c.In()) != 0 || c.Fill() != Blocked || c.Readable() {
		t.Error("ciphertext reached the owner")
	}
	r.until("echo", over)
	if err() != nil || c.BytesIn != 5 || c.BytesOut != 5 {
		t.Errorf("%v, %d in, %d out", err(), c.BytesIn, c.BytesOut)
	}
	c.Close()
}

func TestTLS_WhenInputIsNotConsumed_ThenItAddsUp(t *testing.T) {
	r := newRig(t)
	w := NewTLS(r.l, nil)
	srv, cli := configs(tls.VersionTLS13, "ecdsa", false)
	o, p := r.secured(w, srv, cli, 1<<20, nil)
	o.c.SetOwner(nil)
	other, _, peer := r.pair(false, 1<<20)
	msg := pattern(100 << 10)
	over, err := done(func() error {
		for i := 0; i < len(msg); i += 10 << 10 {
			if _, err := p.Write(msg[i : i+10<<10]); err != nil {
				return err
			}
			time.Sleep(100 * time.Microsecond) // several reads; right in any case
		}
		return nil
	})
	var got []byte
	r.until("all", func() bool {
		o.c.Fill()
		if n := len(o.c.In()); n > 20<<10 {
			got = append(got, o.c.In()[:n/2]...)
			o.c.Discard(n / 2)
		}
		_, _ = unix.Write(peer, []byte("x")) // the scratch goes from hand to hand
		other.Fill()
		other.Discard(len(other.In()))
		return over() && len(got)+len(o.c.In()) == len(msg)
	})
	if got = append(got, o.c.In()...); err() != nil || !bytes.Equal(got, msg) {
		t.Errorf("%v, %d bytes", err(), len(got))
	}
	o.c.Close()
	other.Close()
	if r.l.Bufs.Outstanding() != 0 || r.l.Bufs.Flights() != 0 {
		t.Errorf("%d bytes left", r.l.Bufs.Outstanding())
	}
}

func TestTLS_WhenRelaying_ThenOneSmallAllocationForEachRecord(t *testing.T) {
	r := newRig(t)
	w := NewTLS(r.l, nil)
	srv, cli := configs(tls.VersionTLS13, "ecdsa", false)
	o, p := r.secured(w, srv, cli, 1<<20, nil)
	over, _ := done(p.Handshake)
	r.until("handshake", func() bool { return over() && o.c.Session() != nil })
	msg, buf := pattern(300), make([]byte, 300)
	both := testing.AllocsPerRun(100, func() {
		_, _ = p.Write(msg)
		for o.c.BytesIn%300 != 0 || o.c.Queued() > 0 || o.c.BytesIn == 0 {
			r.l.Turn(false)
		}
		r.l.Turn(false)
		_, _ = io.ReadFull(p, buf)
	})
	if both > 2 && !raced {
		t.Errorf("%v allocations for a record each way, one of them the peer's", both)
	}
}
