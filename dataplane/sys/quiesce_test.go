// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"time"
)

func TestQuiesce_WhenTCPQueueIsNotEmpty_ThenQueuedOnesAreServedAndNewOnesDropped(t *testing.T) {
	a := AddrOf(netip.MustParseAddrPort("127.0.0.1:0"))
	fd, err := Listen(a, &ListenOpts{ReusePort: true})
	if err != nil {
		t.Fatal(err)
	}
	defer CloseFD(fd)
	addr := BoundAddr(fd, a).String()
	queued, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer queued.Close()
	if err := Quiesce(fd, a); err != nil {
		t.Fatal(err)
	}
	if c, err := net.DialTimeout("tcp", addr, 50*time.Millisecond); err == nil {
		c.Close()
		t.Error("a new connection was accepted by the kernel")
	}
	got, _, e := NewLinux().Accept(fd)
	if e != 0 {
		t.Fatalf("the queued connection cannot be taken: %v", e)
	}
	if _, err := queued.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	CloseFD(fd)
	var b [1]byte
	for range 100 {
		n, e := NewLinux().Recv(got, b[:])
		if n == 1 {
			break
		}
		if e != EAGAIN {
			t.Fatalf("recv: %d, %v", n, e)
		}
		time.Sleep(time.Millisecond)
	}
	if b[0] != 'x' {
		t.Error("no byte arrived on the queued connection")
	}
	CloseFD(got)
}

func TestResume_WhenTCP_ThenConnectionsComeAgain(t *testing.T) {
	a := AddrOf(netip.MustParseAddrPort("127.0.0.1:0"))
	fd, err := Listen(a, &ListenOpts{})
	if err != nil {
		t.Fatal(err)
	}
	defer CloseFD(fd)
	if err := Quiesce(fd, a); err != nil {
		t.Fatal(err)
	}
	if err := Resume(fd, a); err != nil {
		t.Fatal(err)
	}
	c, err := net.DialTimeout("tcp", BoundAddr(fd, a).String(), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestQuiesce_WhenUnix_ThenQueuedOnesAreServedAndNewOnesRefused(t *testing.T) {
	a := Addr{Path: filepath.Join(t.TempDir(), "s")}
	fd, err := Listen(a, &ListenOpts{})
	if err != nil {
		t.Fatal(err)
	}
	defer CloseFD(fd)
	queued, err := net.Dial("unix", a.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer queued.Close()
	if err := Quiesce(fd, a); err != nil {
		t.Fatal(err)
	}
	if c, err := net.Dial("unix", a.Path); err == nil {
		c.Close()
		t.Error("a new connection was accepted by the kernel")
	}
	got, _, e := NewLinux().Accept(fd)
	if e != 0 {
		t.Fatalf("the queued connection cannot be taken: %v", e)
	}
	CloseFD(got)
}
