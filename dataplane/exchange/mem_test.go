// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"math/big"
	"net"
	"strings"
	"testing"

	xh2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"sidecar/dataplane/conn"
	"sidecar/dataplane/identity"
	"sidecar/dataplane/loop"
	"sidecar/dataplane/sys"
	"sidecar/dataplane/upstream"
	"sidecar/internal/telemetry/accesslog"
)

// memory is a kernel without system calls: what a descriptor reads is put there by the benchmark, what it sends is counted. It leaves the user-space
// cost of a request.
type memory struct {
	*sys.Linux
	next   sys.FD
	in     [256][]byte
	tokens [256]uint64
	out    [256]int
	ready  []sys.Event
}

func (k *memory) EpollAdd(_, fd sys.FD, token uint64, _ sys.Events) sys.Errno {
	if int(fd) < len(k.tokens) {
		k.tokens[fd] = token
	}
	return 0
}

func (k *memory) EpollWait(_ sys.FD, out []sys.Event, _ sys.Nanos) (int, sys.Errno) {
	n := copy(out, k.ready)
	k.ready = k.ready[:0]
	return n, 0
}

func (k *memory) Connect(sys.Addr, *sys.DialOpts) (sys.FD, sys.Errno) {
	k.next++
	k.ready = append(k.ready, sys.Event{Events: sys.EventOut, Token: 0})
	return k.next, 0
}

func (k *memory) ConnectResult(sys.FD) sys.Errno            { return 0 }
func (k *memory) PeerAddr(sys.FD) (sys.Addr, sys.Errno)     { return sys.Addr{}, 0 }
func (k *memory) Close(sys.FD) sys.Errno                    { return 0 }
func (k *memory) Now() sys.Nanos                            { return 1000 * sys.Second }
func (k *memory) WallNanos() int64                          { return 1_700_000_000_000_000_000 }
func (k *memory) Send(fd sys.FD, b []byte) (int, sys.Errno) { k.out[fd] += len(b); return len(b), 0 }

func (k *memory) Send2(fd sys.FD, a, b []byte) (int, sys.Errno) {
	k.out[fd] += len(a) + len(b)
	return len(a) + len(b), 0
}

func (k *memory) Recv(fd sys.FD, b []byte) (int, sys.Errno) {
	if len(k.in[fd]) == 0 {
		return 0, sys.EAGAIN
	}
	n := copy(b, k.in[fd])
	k.in[fd] = k.in[fd][n:]
	return n, 0
}

func (k *memory) deliver(fd sys.FD, b []byte) {
	k.in[fd] = b
	k.ready = append(k.ready, sys.Event{Events: sys.EventIn, Token: k.tokens[fd]})
}

// logOnly formats like the worker does, into one buffer.
type logOnly struct{ b []byte }

func (l *logOnly) Log(ls []*accesslog.Logger, r *accesslog.Record) {
	l.b = ls[0].Format.Append(l.b[:0], r)
}

const typicalGet = "GET /api/v1/items?id=42 HTTP/1.1\r\nHost: shop.example.com\r\nUser-Agent: bench/1.0\r\nAccept: */*\r\nAccept-Encoding: gzip\r\n\r\n"

const typicalOK = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ndate: Mon, 02 Jan 2006 15:04:05 GMT\r\nserver: b\r\ncontent-length: 13\r\n\r\nHello, world!"

// BenchmarkUserSpace is the user-space cost of one keep-alive request with stats and an access log in Envoy's default format: two turns of the loop.
func BenchmarkUserSpace(b *testing.B) {
	k := &memory{Linux: sys.NewLinux(), next: 8}
	r, l := memoryRig(b, k)
	r.client(l, 3)
	req, resp := []byte(typicalGet), []byte(typicalOK)
	k.deliver(3, req)
	l.Turn(false)
	k.ready = append(k.ready[:0], sys.Event{Events: sys.EventOut, Token: k.tokens[9]})
	l.Turn(false)
	k.deliver(9, resp)
	l.Turn(false)
	if k.out[3] == 0 || k.out[9] == 0 {
		b.Fatal("no answer", k.out)
	}
	b.ReportAllocs()
	for b.Loop() {
		keepAlive(k, l, req, resp)
	}
	if n := r.row.Limits.Requests[0].Load(); n != 0 {
		b.Fatal(n)
	}
}

// wiretap is memory that keeps what one descriptor sends.
type wiretap struct {
	*memory
	fd  sys.FD
	got bytes.Buffer
}

func (k *wiretap) Send(fd sys.FD, b []byte) (int, sys.Errno) {
	if fd == k.fd {
		k.got.Write(b)
	}
	return k.memory.Send(fd, b)
}

// tlsEnd is the library's end of a connection to a listener over memory.
type tlsEnd struct {
	net.Conn // nil: the library only reads and writes after the handshake
	in, out  bytes.Buffer
	turn     func(out []byte, in *bytes.Buffer) // carries what was written to the listener, and its answer back
}

func (e *tlsEnd) Write(b []byte) (int, error) { return e.out.Write(b) }

func (e *tlsEnd) Read(b []byte) (int, error) {
	if e.in.Len() == 0 {
		e.turn(e.out.Next(e.out.Len()), &e.in)
	}
	return e.in.Read(b)
}

// BenchmarkUserSpaceTLS is BenchmarkUserSpace over TLS 1.3 with AES-128-GCM towards the client. Records of requests are made in advance, off the clock;
// callgrind's --toggle-collect=sidecar/dataplane/exchange.keepAlive leaves them out too.
func BenchmarkUserSpaceTLS(b *testing.B) {
	const ahead = 1024
	k := &wiretap{memory: &memory{Linux: sys.NewLinux(), next: 8}, fd: 3}
	r, l := memoryRig(b, k)
	w := conn.NewTLS(l, nil)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(b, err)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	must(b, err)
	cfg := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS13,
		DynamicRecordSizingDisabled: true}
	r.tls = &identity.Session{Version: "TLSv1.3"}
	r.client(l, 3).StartTLS(w, w.Engine.Server(cfg), 0)
	e := &tlsEnd{turn: func(out []byte, in *bytes.Buffer) {
		k.deliver(3, out)
		l.Turn(false)
		in.Write(k.got.Next(k.got.Len()))
	}}
	cli := tls.Client(e, &tls.Config{InsecureSkipVerify: true, DynamicRecordSizingDisabled: true})
	must(b, cli.Handshake())
	resp := []byte(typicalOK)
	var one int // bytes of a request's record
	seal := func(n int) {
		e.out.Reset()
		for range n {
			_, _ = cli.Write([]byte(typicalGet))
		}
		one = e.out.Len() / n
	}
	finished := bytes.Clone(e.out.Bytes())
	seal(1)
	k.deliver(3, append(finished, e.out.Bytes()...))
	l.Turn(false)
	k.ready = append(k.ready[:0], sys.Event{Events: sys.EventOut, Token: k.tokens[9]})
	l.Turn(false)
	k.deliver(9, resp)
	l.Turn(false)
	e.in.Write(k.got.Next(k.got.Len()))
	k.fd = -1 // the client has seen enough
	answer := make([]byte, 1<<10)
	if n, err := cli.Read(answer); err != nil || !strings.HasPrefix(string(answer[:n]), "HTTP/1.1 200 OK\r\n") {
		b.Fatalf("%q %v", answer[:n], err)
	}
	e.out.Reset()
	b.ReportAllocs()
	for b.Loop() {
		if e.out.Len() == 0 {
			b.StopTimer()
			seal(ahead)
			b.StartTimer()
		}
		keepAlive(k.memory, l, e.out.Next(one), resp)
	}
	if n := r.row.Limits.Requests[0].Load(); n != 0 {
		b.Fatal(n)
	}
}

// keepAlive is one request in two turns of the loop.
//
//go:noinline
func keepAlive(k *memory, l *loop.Loop, req, resp []byte) {
	k.deliver(3, req)
	l.Turn(false)
	k.deliver(9, resp)
	l.Turn(false)
}

// memoryRig is a rig over k with stats and an access log in Envoy's default format.
func memoryRig(b *testing.B, k sys.Kernel) (*rig, *loop.Loop) {
	r := newRig(b, 1)
	l, err := loop.New(loop.Config{Kernel: k, Seed: 1}, func(loop.Msg) {})
	must(b, err)
	r.l = l
	r.env = NewEnv(l, upstream.NewManager(l, 1), 1, nil)
	r.env.Logs = &logOnly{}
	r.hcm.UseRemoteAddr = true
	r.hcm.AccessLogs[0] = &accesslog.Logger{Format: accesslog.Default()}
	r.publish()
	return r, l
}

// client attaches a connection to the listener.
func (r *rig) client(l *loop.Loop, fd sys.FD) *conn.Conn {
	c, e := conn.Adopt(l, fd, 1<<20, nil)
	if e != 0 {
		r.t.Fatal(e)
	}
	s := NewServer(r.env, c, r.lis, r.fc, r.connInfo(), nil)
	r.left.Join(&s.Place)
	return c
}

// BenchmarkUserSpaceH2 is BenchmarkUserSpace for ten streams of one HTTP/2 connection to HTTP/1 upstreams: what they send in a turn comes in one
// read, as from a busy client that indexes what repeats. From its second turn on the client's bytes are the same but for the numbers of the streams.
func BenchmarkUserSpaceH2(b *testing.B) {
	const streams = 10
	k := &memory{Linux: sys.NewLinux(), next: 99}
	r, l := memoryRig(b, k)
	r.client(l, 10)
	var out bytes.Buffer
	fr := xh2.NewFramer(&out, nil)
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	next := uint32(1)
	var ids []int // where the numbers of the streams are in out
	get := func() {
		ids = ids[:0]
		for range streams {
			block.Reset()
			for _, f := range [...][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "shop.example.com"}, {":path", "/api/v1/items?id=42"},
				{"user-agent", "bench/1.0"}, {"accept", "*/*"}, {"accept-encoding", "gzip"}} {
				enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
			}
			ids = append(ids, out.Len()+5)
			fr.WriteHeaders(xh2.HeadersFrameParam{StreamID: next, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true})
			next += 2
		}
		fr.WriteWindowUpdate(0, streams*13)
	}
	resp := []byte(typicalOK)
	turn := func() {
		k.deliver(10, out.Bytes())
		l.Turn(false)
		for i := range k.ready {
			k.ready[i] = sys.Event{Events: sys.EventOut, Token: k.tokens[100+i]}
		}
		l.Turn(false)
		for i := range streams {
			k.deliver(sys.FD(100+i), resp)
		}
		l.Turn(false)
	}
	out.WriteString(xh2.ClientPreface)
	fr.WriteSettings()
	fr.WriteSettingsAck()
	get()
	turn()
	out.Reset()
	get()
	turn()
	again := out.Bytes()
	b.ReportAllocs()
	for b.Loop() {
		for _, at := range ids {
			binary.BigEndian.PutUint32(again[at:], next)
			next += 2
		}
		k.deliver(10, again)
		l.Turn(false)
		for i := range streams {
			k.deliver(sys.FD(100+i), resp)
		}
		l.Turn(false)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*streams), "ns/request")
	if n := r.row.Limits.Requests[0].Load(); n != 0 || k.out[10] < b.N*streams*20 {
		b.Fatal(n, k.out[10])
	}
}

// BenchmarkUserSpaceMany is BenchmarkUserSpace with 64 requests in flight: each turn finds all of them ready, as under saturation.
func BenchmarkUserSpaceMany(b *testing.B) {
	const conns = 64
	k := &memory{Linux: sys.NewLinux(), next: 99}
	r, l := memoryRig(b, k)
	req, resp := []byte(typicalGet), []byte(typicalOK)
	for i := range conns {
		r.client(l, sys.FD(10+i))
	}
	for i := range conns {
		k.deliver(sys.FD(10+i), req)
	}
	l.Turn(false)
	k.ready = k.ready[:0]
	for i := range conns {
		k.ready = append(k.ready, sys.Event{Events: sys.EventOut, Token: k.tokens[100+i]})
	}
	l.Turn(false)
	for i := range conns {
		k.deliver(sys.FD(100+i), resp)
	}
	l.Turn(false)
	for i := range conns {
		if k.out[10+i] == 0 || k.out[100+i] == 0 {
			b.Fatal("no answer", i)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		for i := range conns {
			k.deliver(sys.FD(10+i), req)
		}
		l.Turn(false)
		for i := range conns {
			k.deliver(sys.FD(100+i), resp)
		}
		l.Turn(false)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*conns), "ns/request")
	if n := r.row.Limits.Requests[0].Load(); n != 0 {
		b.Fatal(n)
	}
}
