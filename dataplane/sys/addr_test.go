// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAddr_WhenItGoesThroughTheKernelsForm_ThenUnchanged(t *testing.T) {
	for _, s := range []string{"127.0.0.1:80", "0.0.0.0:0", "255.255.255.255:65535", "[::1]:443", "[2001:db8::7]:1", "[fe80::1%3]:9", "/run/x.sock", "@abstract", "@a/b c",
		"/" + strings.Repeat("p", 106), "@" + strings.Repeat("q", 106)} {
		a := Addr{Path: s}
		if ip, err := netip.ParseAddrPort(s); err == nil {
			a = AddrOf(ip)
		}
		raw, n, family, e := rawAddr(a)
		if e != 0 {
			t.Errorf("%s: %v", s, e)
			continue
		}
		if (family == unix.AF_UNIX) != a.IsUnix() {
			t.Errorf("%s: family %d", s, family)
		}
		if got := addrOfRaw(&raw, n); got != a || got.String() != s {
			t.Errorf("%s came back as %s", s, got)
		}
	}
	mapped := AddrOf(netip.MustParseAddrPort("[::ffff:1.2.3.4]:5"))
	if raw, n, family, e := rawAddr(mapped); e != 0 || family != unix.AF_INET || addrOfRaw(&raw, n).String() != "1.2.3.4:5" {
		t.Error("a v4-mapped address is an IPv4 address")
	}
	for _, bad := range []Addr{{}, {Path: "/" + strings.Repeat("p", 107)}} {
		if _, _, _, e := rawAddr(bad); e != EINVAL {
			t.Errorf("%v: %v", bad, e)
		}
	}
}

func TestAddr_WhenPrinted_ThenAddressAndPortApart(t *testing.T) {
	for _, test := range []struct{ addr, ip, port string }{{"1.2.3.4:80", "1.2.3.4", "80"}, {"[::1]:443", "::1", "443"}, {"/s", "/s", ""}, {"", "", ""}} {
		a := Addr{Path: test.addr}
		if ip, err := netip.ParseAddrPort(test.addr); err == nil {
			a = AddrOf(ip)
		}
		if string(a.AppendIP(nil)) != test.ip || string(a.AppendPort(nil)) != test.port || a.IsZero() != (test.addr == "") {
			t.Errorf("%q: %q %q", test.addr, a.AppendIP(nil), a.AppendPort(nil))
		}
	}
}

func TestListen_WhenUnix_ThenConnectedAddressesAreKnown(t *testing.T) {
	for _, path := range []string{t.TempDir() + "/s", "@sidecar-sys-test"} {
		a := Addr{Path: path}
		fd, err := Listen(a, &ListenOpts{Mode: 0o600})
		if err != nil {
			t.Fatal(err)
		}
		k := NewLinux()
		c, e := k.Connect(a, nil)
		if e != 0 {
			t.Fatal(path, e)
		}
		s, remote, e := k.Accept(fd)
		if e != 0 {
			t.Fatal(path, e)
		}
		peer, _ := k.PeerAddr(c)
		local, _ := k.LocalAddr(s)
		if peer != a || local != a || !remote.IsZero() {
			t.Errorf("%s: peer %s, local %s, remote %s", path, peer, local, remote)
		}
		for _, x := range []FD{fd, c, s} {
			CloseFD(x)
		}
	}
}

func TestBind_WhenNotListening_ThenRefusedUntilItDoes(t *testing.T) {
	a := AddrOf(netip.MustParseAddrPort("127.0.0.1:0"))
	o := &ListenOpts{ReusePort: true}
	fd, err := Bind(a, o)
	if err != nil {
		t.Fatal(err)
	}
	defer CloseFD(fd)
	bound := BoundAddr(fd, a)
	k := NewLinux()
	if c, e := k.Connect(bound, nil); e == 0 {
		if e = k.ConnectResult(c); e != ECONNREFUSED {
			t.Errorf("connect: %v", e)
		}
		CloseFD(c)
	} else if e != ECONNREFUSED {
		t.Error(e)
	}
	if err := StartListening(fd, bound, o); err != nil {
		t.Fatal(err)
	}
	c, e := k.Connect(bound, nil)
	if e != 0 {
		t.Fatal(e)
	}
	CloseFD(c)
	if _, err := Listen(bound, &ListenOpts{}); err == nil || !strings.HasSuffix(err.Error(), "Address already in use") {
		t.Errorf("second listener: %v", err)
	}
}

func TestPipe_WhenSpliced_ThenBytesPassAndCanBeReadOut(t *testing.T) {
	k := NewLinux()
	r, w, e := k.Pipe(1 << 20)
	if e != 0 {
		t.Fatal(e)
	}
	defer CloseFD(r)
	defer CloseFD(w)
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	if _, e := k.Splice(FD(p[0]), w, 100); e != EAGAIN {
		t.Errorf("empty source: %v", e)
	}
	_, _ = unix.Write(p[1], []byte("hello"))
	if n, e := k.Splice(FD(p[0]), w, 100); n != 5 || e != 0 {
		t.Fatal(n, e)
	}
	b := make([]byte, 10)
	if n, e := k.ReadPipe(r, b); string(b[:n]) != "hello" || e != 0 {
		t.Errorf("%q %v", b[:n], e)
	}
	if _, e := k.ReadPipe(r, b); e != EAGAIN {
		t.Errorf("empty pipe: %v", e)
	}
	_ = unix.Shutdown(p[1], unix.SHUT_WR)
	if n, e := k.Splice(FD(p[0]), w, 100); n != 0 || e != 0 {
		t.Errorf("end of input: %d %v", n, e)
	}
}

func TestErrno_WhenNamed_ThenInEnvoysWords(t *testing.T) {
	if s := ECONNREFUSED.Title(); s != "Connection_refused" {
		t.Error(s)
	}
	if Errno(0).String() != "success" || ECONNRESET.Error() != "connection reset by peer" {
		t.Error("texts")
	}
}

func TestAddr_WhenInternal_ThenNameAndEndpointComeBack(t *testing.T) {
	a := InternalAddr("there", "10.0.0.1:80/x")
	name, id, ok := a.Internal()
	if !ok || name != "there" || id != "10.0.0.1:80/x" || a.String() != "envoy://there/10.0.0.1:80/x" {
		t.Errorf("%s: %q %q %v", a, name, id, ok)
	}
	if !a.IsUnix() || a.IsPipe() || a.IsZero() {
		t.Error("it has no IP and is no pipe")
	}
	u := Addr{Path: "/run/x"}
	if _, _, ok := u.Internal(); ok || !u.IsUnix() || !u.IsPipe() {
		t.Error("a Unix socket is a pipe and not internal")
	}
}

func TestAddr_WhenAppended_ThenAsNetipPrintsIt(t *testing.T) {
	for _, s := range []string{"0.0.0.0:0", "1.22.133.255:9", "127.0.0.1:80", "10.9.99.100:443", "255.255.255.255:65535", "192.168.0.1:8080", "[::1]:1", "[::ffff:1.2.3.4]:5"} {
		ip := netip.MustParseAddrPort(s)
		a := AddrOf(ip)
		if got := string(a.Append([]byte("x"))); got != "x"+a.IP.String() {
			t.Errorf("%s: %s", s, got)
		}
		if got := string(a.AppendIP(nil)); got != a.IP.Addr().String() {
			t.Errorf("%s: %s", s, got)
		}
	}
	for p := range 1 << 16 {
		a := AddrOf(netip.AddrPortFrom(netip.AddrFrom4([4]byte{byte(p), byte(p >> 8), 0, 1}), uint16(p)))
		if got, want := string(a.Append(nil)), a.IP.String(); got != want {
			t.Fatalf("%s, want %s", got, want)
		}
	}
}
