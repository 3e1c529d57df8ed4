// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// roundTrip does one keep-alive request over real sockets without allocating in the test itself.
func (r *rig) roundTrip(c, u *peer, req, resp, buf []byte) {
	if _, err := unix.Write(c.FD, req); err != nil {
		r.t.Fatal(err)
	}
	r.l.Turn(false)
	if n, err := unix.Read(u.FD, buf); err != nil || n == 0 {
		r.t.Fatal("upstream", n, err)
	}
	if _, err := unix.Write(u.FD, resp); err != nil {
		r.t.Fatal(err)
	}
	r.l.Turn(false)
	if n, err := unix.Read(c.FD, buf); err != nil || n == 0 {
		r.t.Fatal("client", n, err)
	}
}

func warm(t testing.TB) (r *rig, c, u *peer, buf []byte) {
	r = newRig(t, 1)
	c = r.dial()
	c.write(get)
	r.turn()
	u = r.ups[0].accept()
	u.write(ok3)
	r.turn()
	u.read()
	c.read()
	r.quiet = true
	return r, c, u, make([]byte, 64<<10)
}

func TestAllocs_WhenKeepAliveRequest_ThenNone(t *testing.T) {
	r, c, u, buf := warm(t)
	for range 64 {
		r.roundTrip(c, u, []byte(get), []byte(ok3), buf)
	}
	req, resp := []byte(get), []byte(ok3)
	if n := testing.AllocsPerRun(200, func() { r.roundTrip(c, u, req, resp, buf) }); n != 0 {
		t.Errorf("%v allocations per request", n)
	}
	r.check()
}

func TestAllocs_WhenRequestAndResponseHaveBodies_ThenNone(t *testing.T) {
	r, c, u, buf := warm(t)
	req := []byte("POST /x HTTP/1.1\r\nhost: x.test\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
	resp := []byte("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
	for range 64 {
		r.roundTrip(c, u, req, resp, buf)
	}
	if n := testing.AllocsPerRun(200, func() { r.roundTrip(c, u, req, resp, buf) }); n != 0 {
		t.Errorf("%v allocations per request", n)
	}
	r.check()
}

func TestSyscalls_WhenKeepAliveRequest_ThenTwoReadsAndTwoWrites(t *testing.T) {
	r, c, u, buf := warm(t)
	r.k.Recvs, r.k.Sends = 0, 0
	for range 10 {
		r.roundTrip(c, u, []byte(get), []byte(ok3), buf)
	}
	if r.k.Recvs != 20 || r.k.Sends != 20 {
		t.Errorf("%d reads and %d writes for 10 requests, want 20 and 20", r.k.Recvs, r.k.Sends)
	}
}

func TestSizes_WhenIdle_ThenSmall(t *testing.T) {
	for _, s := range []struct {
		name string
		got  uintptr
		max  uintptr
	}{
		{"Server", unsafe.Sizeof(Server{}), 160},
		{"Exchange", unsafe.Sizeof(Exchange{}), 4096},
	} {
		if s.got > s.max {
			t.Errorf("%s has %d bytes, want at most %d", s.name, s.got, s.max)
		}
		t.Logf("%s: %d", s.name, s.got)
	}
}

// BenchmarkExchange_WhenKeepAlive measures a request with everything but the kernel's share taken out as far as possible: see the profile.
func BenchmarkExchange_WhenKeepAlive(b *testing.B) {
	r, c, u, buf := warm(b)
	req, resp := []byte(get), []byte(ok3)
	b.ReportAllocs()
	for b.Loop() {
		r.roundTrip(c, u, req, resp, buf)
	}
}
