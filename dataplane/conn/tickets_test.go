// SPDX-License-Identifier: Apache-2.0

package conn

import (
	"crypto/tls"
	"io"
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// unread is what waits in a peer's socket, in bytes.
func unread(t *testing.T, p *tls.Conn) int {
	t.Helper()
	raw, err := p.NetConn().(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	n := -1
	_ = raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// As BoringSSL does: a mutual handshake of TLS 1.3 leaves the server with tickets only, for which nobody waits.
func TestTLS_WhenOnlyTicketsAreLeft_ThenTheyTravelWithTheFirstAnswer(t *testing.T) {
	r := newRig(t)
	w := NewTLS(r.l, nil)
	srv, cli := configs(tls.VersionTLS13, "ecdsa", true)
	cli.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	for _, resumed := range []bool{false, true} {
		o, p := r.secured(w, srv, cli, 1<<20, nil)
		over, err := done(p.Handshake)
		r.until("handshake", over)
		r.until("server's handshake", func() bool { return !o.c.Shaking() })
		if err() != nil || p.ConnectionState().DidResume != resumed {
			t.Fatalf("%v, resumed %v, want %v", err(), p.ConnectionState().DidResume, resumed)
		}
		if n := unread(t, p); !resumed && n != 0 { // a resumed one asks for no certificate: crypto/tls sends tickets earlier
			t.Errorf("%d bytes were sent with nothing to answer", n)
		}
		over, err = done(func() error {
			if _, err := p.Write([]byte("hello")); err != nil {
				return err
			}
			_, err := io.ReadFull(p, make([]byte, 5))
			return err
		})
		r.until("echo", over)
		if n := r.l.Bufs.Outstanding(); err() != nil || n != 0 {
			t.Errorf("%v, %d bytes left", err(), n)
		}
		o.c.Close()
	}
}

func TestTLS_WhenTheConnectionEndsBeforeAnAnswer_ThenHeldTicketsLeaveNothing(t *testing.T) {
	for what, end := range map[string]func(*Conn){"Close": (*Conn).Close, "CloseWrite": (*Conn).CloseWrite, "CloseAfterFlush": (*Conn).CloseAfterFlush, "Reset": (*Conn).Reset} {
		r := newRig(t)
		w := NewTLS(r.l, nil)
		srv, cli := configs(tls.VersionTLS13, "ecdsa", true)
		cli.ClientSessionCache = tls.NewLRUClientSessionCache(1) // without one it wants no tickets
		o, p := r.secured(w, srv, cli, 1<<20, nil)
		over, err := done(p.Handshake)
		r.until("handshake", over)
		r.until("server's handshake", func() bool { return !o.c.Shaking() })
		if err() != nil || o.c.Movable() {
			t.Fatalf("%s: %v, movable %v", what, err(), o.c.Movable())
		}
		end(o.c)
		over, err = done(func() error { _, err := p.Read(make([]byte, 1)); return err })
		r.until("end", over)
		if clean := err() == io.EOF; clean != (what != "Reset") {
			t.Errorf("%s: the peer read %v", what, err())
		}
		o.c.Close()
		if n, f := r.l.Bufs.Outstanding(), r.l.Bufs.Flights(); n != 0 || f != 0 {
			t.Errorf("%s: %d bytes, %d flights left", what, n, f)
		}
	}
}
