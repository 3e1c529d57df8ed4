// SPDX-License-Identifier: Apache-2.0

package nettest

import (
	"testing"

	"golang.org/x/sys/unix"

	"sidecar/dataplane/sys"
)

// Must ends the test with an error.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Peer is the test's end of a connection: a non-blocking stream socket.
type Peer struct {
	T  testing.TB
	FD int
}

func newPeer(t testing.TB, fd int) *Peer {
	p := &Peer{T: t, FD: fd}
	t.Cleanup(p.Close)
	return p
}

// Pair makes a connection: the descriptor that the worker adopts, and its peer.
func Pair(t testing.TB) (sys.FD, *Peer) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	Must(t, err)
	return sys.FD(fds[0]), newPeer(t, fds[1])
}

// Write writes all of s; the socket must have room for it.
func (p *Peer) Write(s string) {
	p.T.Helper()
	for len(s) > 0 {
		n, err := unix.Write(p.FD, []byte(s))
		Must(p.T, err)
		s = s[n:]
	}
}

// WriteSome writes what the socket takes; full tells that it took nothing.
func (p *Peer) WriteSome(b []byte) (n int, full bool) {
	n, err := unix.Write(p.FD, b)
	return max(n, 0), err != nil
}

// Read returns what is there; eof tells that the other side has finished.
func (p *Peer) Read() (s string, eof bool) {
	var buf [64 << 10]byte
	var out []byte
	for {
		n, err := unix.Read(p.FD, buf[:])
		if err == unix.EAGAIN {
			return string(out), false
		}
		if err != nil || n == 0 {
			return string(out), true
		}
		out = append(out, buf[:n]...)
	}
}

// Close closes the peer's end, once.
func (p *Peer) Close() {
	if p.FD >= 0 {
		_ = unix.Close(p.FD)
		p.FD = -1
	}
}

// CloseWrite sends FIN.
func (p *Peer) CloseWrite() { Must(p.T, unix.Shutdown(p.FD, unix.SHUT_WR)) }

// Backend is a host: a listening abstract Unix socket.
type Backend struct {
	T    testing.TB
	FD   int
	Addr sys.Addr
}

// Listen makes a Backend.
func Listen(t testing.TB) *Backend {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	Must(t, err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	Must(t, unix.Bind(fd, &unix.SockaddrUnix{})) // the kernel chooses the name
	Must(t, unix.Listen(fd, 128))
	sa, err := unix.Getsockname(fd)
	Must(t, err)
	return &Backend{T: t, FD: fd, Addr: sys.Addr{Path: sa.(*unix.SockaddrUnix).Name}}
}

// Accept takes the next connection, nil when there is none.
func (b *Backend) Accept() *Peer {
	fd, _, err := unix.Accept4(b.FD, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	if err != nil {
		return nil
	}
	return newPeer(b.T, fd)
}
