// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"sidecar/dataplane/conn"
	"sidecar/dataplane/loop"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/accesslog"
	"sidecar/internal/telemetry/stats"
)

// served is a connection that a protocol took over; it is its own protocol.
type served struct {
	c      *conn.Conn
	l      *Listener
	fc     *snapshot.FilterChain
	info   *accesslog.ConnInfo
	m      conn.Member
	drains []conn.DrainMode
}

func (s *served) Drain(m conn.DrainMode)       { s.drains = append(s.drains, m) }
func (s *served) Chain() *snapshot.FilterChain { return s.fc }

func (s *served) close() { s.c.Close(); s.m.Leave() }

// kernel is the real one with errors on demand.
type kernel struct {
	*sys.Linux
	add       sys.Nanos
	accepts   int
	acceptErr sys.Errno
	dst       sys.Addr // OriginalDst
}

func (k *kernel) Now() sys.Nanos { return k.Linux.Now() + k.add }

func (k *kernel) Accept(fd sys.FD) (sys.FD, sys.Addr, sys.Errno) {
	k.accepts++
	if k.acceptErr != 0 {
		return -1, sys.Addr{}, k.acceptErr
	}
	return k.Linux.Accept(fd)
}

func (k *kernel) OriginalDst(sys.FD, bool) (sys.Addr, sys.Errno) {
	if k.dst.IsZero() {
		return sys.Addr{}, sys.ENOENT
	}
	return k.dst, 0
}

type rig struct {
	t        *testing.T
	k        *kernel
	l        *loop.Loop
	reg      *stats.Registry
	byDst    map[sys.Addr]*Listener
	served   []*served
	logs     []string
	accepted int
	resyncs  int
	ids      uint64
	tls      *conn.TLS
	global   int // AdmitConn refuses from here on; 0 = never
	active   int
}

func (r *rig) Serve(c *conn.Conn, l *Listener, fc *snapshot.FilterChain, info *accesslog.ConnInfo, place *conn.Member) {
	s := &served{c: c, l: l, fc: fc, info: info}
	s.m.H = s
	place.Swap(&s.m)
	c.SetOwner(nil)
	r.served = append(r.served, s)
}
func (r *rig) ByDestination(dst sys.Addr) *Listener { return r.byDst[dst] }
func (r *rig) NextConnID() uint64                   { r.ids++; return r.ids }
func (r *rig) AdmitConn(*snapshot.Listener) bool {
	if r.global > 0 && r.active >= r.global {
		return false
	}
	r.active++
	return true
}
func (r *rig) Released(*snapshot.Listener) { r.active-- }
func (r *rig) TLS() *conn.TLS              { return r.tls }
func (r *rig) Accepted(n int)              { r.accepted += n }
func (r *rig) Resync()                     { r.resyncs++ }
func (r *rig) Log(_ []*accesslog.Logger, rec *accesslog.Record) {
	r.logs = append(r.logs, string(rec.Flags.AppendShort(nil))+" "+rec.Details)
}

func newRig(t *testing.T) *rig {
	k := &kernel{Linux: sys.NewLinux()}
	l, err := loop.New(loop.Config{Kernel: k}, func(loop.Msg) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return &rig{t: t, k: k, l: l, tls: conn.NewTLS(l, nil), reg: stats.NewRegistry(1), byDst: map[sys.Addr]*Listener{}}
}

// config is a listener with one chain that takes everything.
func (r *rig) config(name string, change func(*snapshot.Listener)) *snapshot.Listener {
	c := &snapshot.Listener{Name: name, BufferLimit: 1 << 20, Scope: r.reg.Scope("listener."+name+".", stats.ListenerDef), SocketKey: 1,
		FiltersTimeout: 15 * sys.Second, Default: &snapshot.FilterChain{Name: "all", DrainKey: 1, TCP: &snapshot.TCPProxy{}}}
	if change != nil {
		change(c)
	}
	for i := range c.Filters {
		f := &c.Filters[i]
		switch f.Kind {
		case snapshot.FilterProxyProtocol:
			f.Scope = r.reg.Scope("proxy_proto.", stats.ProxyProtocolDef)
		case snapshot.FilterTLSInspector:
			f.Scope = r.reg.Scope("tls_inspector.", stats.TLSInspectorDef)
		case snapshot.FilterHTTPInspector:
			f.Scope = r.reg.Scope("http_inspector.", stats.HTTPInspectorDef)
		}
	}
	return c
}

// listen opens a socket at addr for a new listener.
func (r *rig) listen(cfg *snapshot.Listener, addr string, shared bool) (*Listener, sys.Addr) {
	a := sys.Addr{Path: addr}
	if ip, err := netip.ParseAddrPort(addr); err == nil {
		a = sys.AddrOf(ip)
	}
	fd, err := sys.Listen(a, &sys.ListenOpts{})
	if err != nil {
		r.t.Fatal(err)
	}
	x := New(r.l, r, cfg)
	x.SetSockets([]sys.FD{fd}, []uint64{1}, shared)
	r.t.Cleanup(func() { x.Stop(); sys.CloseFD(fd) })
	return x, sys.BoundAddr(fd, a)
}

func (r *rig) turns() {
	for range 4 {
		time.Sleep(time.Millisecond)
		r.l.Turn(false)
	}
}

func (r *rig) dial(a sys.Addr) net.Conn {
	r.t.Helper()
	network := "tcp"
	if a.IsUnix() {
		network = "unix"
	}
	c, err := net.Dial(network, a.String())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	return c
}

func (r *rig) count(cfg *snapshot.Listener, id int) int64 { v, _ := cfg.Scope.Value(id); return v }

// closed tells whether the listener closed the connection.
func (r *rig) closed(c net.Conn) bool {
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
	_, err := c.Read(make([]byte, 1))
	return err != nil && !os.IsTimeout(err)
}

func TestAccept_WhenConnectionsCome_ThenServedAndCounted(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0", t.TempDir() + "/s", "@sidecar-listener-test"} {
		r := newRig(t)
		cfg := r.config("l", nil)
		x, a := r.listen(cfg, addr, a0(addr))
		to := a
		if a.IP.IsValid() && a.IP.Addr().IsUnspecified() {
			to = sys.AddrOf(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), a.IP.Port()))
		}
		c := r.dial(to)
		_, _ = c.Write([]byte("hello"))
		r.turns()
		if len(r.served) != 1 || r.accepted != 1 || r.resyncs == 0 || x.Members.Len() != 1 {
			t.Fatalf("%s: %d served, %d accepted, %d resyncs", addr, len(r.served), r.accepted, r.resyncs)
		}
		s := r.served[0]
		if s.info.Local != to || s.info.DirectLocal != to || s.info.FilterChain != "all" || s.info.Listener != "l" || s.info.ID != 1 {
			t.Errorf("%s: %+v", addr, *s.info.ConnSide)
		}
		if !to.IsUnix() && (s.info.Remote.String() != c.LocalAddr().String() || s.info.DirectRemote() != s.info.Remote) {
			t.Errorf("%s: remote %s, want %s", addr, s.info.Remote, c.LocalAddr())
		}
		if st := s.c.Fill(); st != conn.More || string(s.c.In()) != "hello" {
			t.Errorf("%s: %v %q", addr, st, s.c.In())
		}
		if n := r.count(cfg, stats.ListenerDownstreamCxActive); n != 1 {
			t.Errorf("%s: %d active", addr, n)
		}
		s.close()
		if r.count(cfg, stats.ListenerDownstreamCxActive) != 0 || r.count(cfg, stats.ListenerDownstreamCxDestroy) != 1 || r.active != 0 {
			t.Errorf("%s: not given back", addr)
		}
	}
}

func a0(addr string) bool { return !strings.HasSuffix(addr, ":0") }

func TestAccept_WhenTCP_ThenNagleIsOffWithoutACall(t *testing.T) {
	r := newRig(t)
	_, a := r.listen(r.config("l", nil), "127.0.0.1:0", false)
	r.dial(a)
	r.turns()
	if v, err := unix.GetsockoptInt(int(r.served[0].c.FD()), unix.IPPROTO_TCP, unix.TCP_NODELAY); err != nil || v == 0 {
		t.Errorf("TCP_NODELAY %d, %v", v, err)
	}
}

func TestAccept_WhenManyConnectionsHaveOneSide_ThenItIsShared(t *testing.T) {
	r := newRig(t)
	_, a := r.listen(r.config("l", nil), "127.0.0.1:0", false)
	for range 3 {
		r.dial(a)
	}
	r.turns()
	if len(r.served) != 3 || r.served[0].info.ConnSide != r.served[2].info.ConnSide {
		t.Error("every connection has a side of its own")
	}
}

func TestAccept_WhenMoreThanTheBoundWait_ThenInPortions(t *testing.T) {
	r := newRig(t)
	cfg := r.config("l", func(c *snapshot.Listener) { c.MaxAccept = 3 })
	_, a := r.listen(cfg, "127.0.0.1:0", false)
	for range 10 {
		r.dial(a)
	}
	time.Sleep(5 * time.Millisecond)
	r.turns()
	if len(r.served) != 10 {
		t.Fatalf("%d served", len(r.served))
	}
	h := cfg.Scope.Hist(stats.ListenerConnectionsAcceptedPerSocketEvent, 1)
	if h == nil {
		t.Fatal("no histogram")
	}
	if r.k.accepts != 11 { // ten and the one that finds nothing
		t.Errorf("%d calls", r.k.accepts)
	}
}

func TestAccept_WhenLimited_ThenClosedAndCounted(t *testing.T) {
	r := newRig(t)
	cfg := r.config("l", func(c *snapshot.Listener) { c.MaxConns = 2 })
	_, a := r.listen(cfg, "127.0.0.1:0", false)
	var cs []net.Conn
	for range 3 {
		cs = append(cs, r.dial(a))
		r.turns()
	}
	if len(r.served) != 2 || !r.closed(cs[2]) || r.count(cfg, stats.ListenerDownstreamCxOverflow) != 1 {
		t.Errorf("%d served, overflow %d", len(r.served), r.count(cfg, stats.ListenerDownstreamCxOverflow))
	}
	r.served[0].close()
	r.dial(a)
	r.turns()
	r.global = 2
	r.served[1].close()
	r.dial(a)
	r.turns()
	last := r.dial(a)
	cfg.MaxConns = 0
	r.turns()
	if len(r.served) != 4 || !r.closed(last) || r.count(cfg, stats.ListenerDownstreamGlobalCxOverflow) != 1 || r.active != 2 {
		t.Errorf("%d served, global overflow %d, %d active", len(r.served), r.count(cfg, stats.ListenerDownstreamGlobalCxOverflow), r.active)
	}
}

func TestAccept_WhenDescriptorsRunOut_ThenItRestsAndComesBack(t *testing.T) {
	for _, shared := range []bool{false, true} {
		r := newRig(t)
		_, a := r.listen(r.config("l", nil), "127.0.0.1:0", shared)
		r.k.acceptErr = sys.EMFILE
		r.dial(a)
		for range 50 {
			r.l.Turn(false)
		}
		r.turns()
		if r.k.accepts != 1 || len(r.served) != 0 {
			t.Errorf("shared %v: %d calls while there are no descriptors: it spins", shared, r.k.accepts)
		}
		r.k.add += pause + 2*sys.Millisecond
		r.turns()
		if r.k.accepts != 2 {
			t.Errorf("shared %v: %d calls after the rest", shared, r.k.accepts)
		}
		r.k.acceptErr = 0
		r.k.add += pause + 2*sys.Millisecond
		r.turns()
		r.dial(a)
		r.turns()
		if len(r.served) != 2 {
			t.Errorf("shared %v: %d served", shared, len(r.served))
		}
	}
}

func TestSetConfig_WhenOneChainChanges_ThenOnlyItsConnectionsDrain(t *testing.T) {
	r := newRig(t)
	chain := func(name string, port uint16, key uint64) *snapshot.FilterChain {
		return &snapshot.FilterChain{Name: name, DrainKey: key, TCP: &snapshot.TCPProxy{}, Match: snapshot.ChainMatch{SourcePorts: []uint16{port}}}
	}
	build := func(keys ...uint64) *snapshot.Listener {
		return r.config("l", func(c *snapshot.Listener) {
			c.Default = nil
			c.Chains = []*snapshot.FilterChain{chain("a", 26401, keys[0]), chain("b", 26402, keys[1])}
			var err error
			if c.Match, err = snapshot.NewChainIndex(c.Chains); err != nil {
				t.Fatal(err)
			}
		})
	}
	x, a := r.listen(build(1, 2), "127.0.0.1:0", false)
	for _, p := range []int{26401, 26402} {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: p}}
		c, err := d.Dial("tcp", a.String())
		if err != nil {
			t.Fatal(err)
		}
		_ = c.(*net.TCPConn).SetLinger(0)
		defer c.Close()
	}
	r.turns()
	if len(r.served) != 2 || r.served[0].info.FilterChain == r.served[1].info.FilterChain {
		t.Fatalf("%d served", len(r.served))
	}
	drains := func() (out string) {
		for _, s := range r.served {
			out += fmt.Sprint(s.fc.Name, len(s.drains))
		}
		return out
	}
	if gone := x.SetConfig(build(1, 2)); gone != nil || strings.Contains(drains(), "1") {
		t.Errorf("equal chains drain: %s", drains())
	}
	if gone := x.SetConfig(build(1, 3)); len(gone) != 1 || !strings.Contains(drains(), "a0") || !strings.Contains(drains(), "b1") {
		t.Errorf("one changed chain: %s", drains())
	}
	moved := build(4, 5)
	moved.SocketKey = 2
	if gone := x.SetConfig(moved); gone != nil || !strings.Contains(drains(), "a0") {
		t.Errorf("a full replacement is the caller's to drain: %s", drains())
	}
}

func TestSetSockets_WhenReplaced_ThenTheOldQueueIsServedFirst(t *testing.T) {
	r := newRig(t)
	x, a := r.listen(r.config("l", nil), "127.0.0.1:0", false)
	for range 3 {
		r.dial(a)
	}
	time.Sleep(5 * time.Millisecond)
	fd, err := sys.Listen(sys.AddrOf(netip.MustParseAddrPort("127.0.0.1:0")), &sys.ListenOpts{})
	if err != nil {
		t.Fatal(err)
	}
	defer sys.CloseFD(fd)
	x.SetSockets([]sys.FD{fd}, []uint64{2}, false)
	if len(r.served) != 3 {
		t.Errorf("%d of 3 waiting connections served", len(r.served))
	}
	r.dial(sys.BoundAddr(fd, sys.Addr{}))
	r.turns()
	if len(r.served) != 4 {
		t.Error("the new socket does not accept")
	}
	x.Stop()
	r.dial(sys.BoundAddr(fd, sys.Addr{}))
	r.turns()
	if len(r.served) != 4 {
		t.Error("a stopped listener accepts")
	}
}

func TestUseOriginalDst_WhenAnotherListenerHasTheAddress_ThenHandedOver(t *testing.T) {
	for _, test := range []struct {
		use  bool
		dst  string
		want string
	}{{true, "198.51.100.7:80", "web"}, {true, "198.51.100.8:80", "catch"}, {false, "198.51.100.7:80", "catch"}, {true, "", "catch"}} {
		r := newRig(t)
		cfg := r.config("catch", func(c *snapshot.Listener) {
			c.UseOriginalDst = test.use
			c.Filters = []snapshot.ListenerFilter{{Kind: snapshot.FilterOriginalDst}}
		})
		web := r.config("web", nil)
		to := New(r.l, r, web)
		r.byDst[sys.AddrOf(netip.MustParseAddrPort("198.51.100.7:80"))] = to
		x, a := r.listen(cfg, "127.0.0.1:0", false)
		if test.dst != "" {
			r.k.dst = sys.AddrOf(netip.MustParseAddrPort(test.dst))
		}
		r.dial(a)
		r.turns()
		if len(r.served) != 1 || r.served[0].l.Name() != test.want || r.served[0].info.Listener != test.want {
			t.Fatalf("%+v: %d served", test, len(r.served))
		}
		s := r.served[0]
		if test.dst != "" && (s.info.Local.String() != test.dst || s.info.DirectLocal != a || s.info.Extra().RequestedDst.String() != test.dst) {
			t.Errorf("%+v: local %s, direct %s", test, s.info.Local, s.info.DirectLocal)
		}
		moved := test.want == "web"
		if n := x.Members.Len() + to.Members.Len(); n != 1 || (to.Members.Len() == 1) != moved {
			t.Errorf("%+v: members %d, %d", test, x.Members.Len(), to.Members.Len())
		}
		s.close()
		if r.active != 0 || r.count(cfg, stats.ListenerDownstreamCxActive) != 0 || r.count(web, stats.ListenerDownstreamCxActive) != 0 {
			t.Errorf("%+v: something is still counted", test)
		}
	}
}

func TestChoose_WhenNoChainFits_ThenClosedAndLoggedNR(t *testing.T) {
	r := newRig(t)
	cfg := r.config("l", func(c *snapshot.Listener) { c.Default, c.AccessLogs = nil, []*accesslog.Logger{{}} })
	_, a := r.listen(cfg, "127.0.0.1:0", false)
	c := r.dial(a)
	r.turns()
	if !r.closed(c) || len(r.logs) != 1 || r.logs[0] != "NR filter_chain_not_found" || r.count(cfg, stats.ListenerNoFilterChainMatch) != 1 {
		t.Errorf("logs %q", r.logs)
	}
	if r.active != 0 || r.l.Bufs.Flights() != 0 {
		t.Error("something is left")
	}
}

// v2 is a PROXY v2 header.
func v2(cmd, family byte, addr string, tlvs ...byte) string {
	b := append([]byte("\r\n\r\n\x00\r\nQUIT\n"), cmd, family, 0, 0)
	b = append(append(b, addr...), tlvs...)
	binary.BigEndian.PutUint16(b[14:], uint16(len(addr)+len(tlvs)))
	return string(b)
}

const v4pair = "\x01\x02\x03\x04\x05\x06\x07\x08\x00\x50\x01\xbb" // 1.2.3.4:80 → 5.6.7.8:443

func withCRC(h string) string {
	b := append([]byte(h), 3, 0, 4, 0, 0, 0, 0)
	binary.BigEndian.PutUint16(b[14:], uint16(len(b)-16))
	binary.BigEndian.PutUint32(b[len(b)-4:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return string(b)
}

// What Envoy 1.40 does with each (envoy-behaviour 69, 72).
func TestProxyProtocol_WhenAHeaderComes_ThenAddressesOrClosed(t *testing.T) {
	const real = "real"
	for _, test := range []struct{ name, head, want string }{
		{"v1 tcp4", "PROXY TCP4 1.2.3.4 5.6.7.8 80 443\r\n", "1.2.3.4:80 5.6.7.8:443"},
		{"v1 tcp6", "PROXY TCP6 2001:db8::1 2001:db8::2 80 443\r\n", "[2001:db8::1]:80 [2001:db8::2]:443"},
		{"v1 unknown", "PROXY UNKNOWN\r\n", real},
		{"v1 unknown with rest", "PROXY UNKNOWN ffff::1 x 1 2\r\n", real},
		{"v1 lower case", "proxy TCP4 1.2.3.4 5.6.7.8 80 443\r\n", ""},
		{"v1 bad port", "PROXY TCP4 1.2.3.4 5.6.7.8 80 99999\r\n", ""},
		{"v1 without CR", "PROXY TCP4 1.2.3.4 5.6.7.8 80 443\n", ""},
		{"v1 too long", "PROXY TCP4 " + strings.Repeat("1", 120) + "\r\n", ""},
		{"v2 tcp4", v2(0x21, 0x11, v4pair), "1.2.3.4:80 5.6.7.8:443"},
		{"v2 udp4", v2(0x21, 0x12, v4pair), "1.2.3.4:80 5.6.7.8:443"},
		{"v2 local", v2(0x20, 0x00, ""), real},
		{"v2 local with addresses", v2(0x20, 0x11, v4pair), real},
		{"v2 unix", v2(0x21, 0x31, strings.Repeat("x", 216)), ""},
		{"v2 bad version", v2(0x31, 0x11, v4pair), ""},
		{"v2 truncated TLV", v2(0x21, 0x11, v4pair, 0xE0, 0, 9, 'a'), ""},
		{"v2 checksum", withCRC(v2(0x21, 0x11, v4pair)), "1.2.3.4:80 5.6.7.8:443"},
		{"v2 wrong checksum", withCRC(v2(0x21, 0x11, v4pair))[:34] + "xy", ""},
		{"none", "GET / HTTP/1.1\r\n", ""},
	} {
		for _, split := range []int{0, 1, len(test.head) / 2} {
			r := newRig(t)
			cfg := r.config("l", func(c *snapshot.Listener) {
				c.Filters = []snapshot.ListenerFilter{{Kind: snapshot.FilterProxyProtocol}}
			})
			_, a := r.listen(cfg, "127.0.0.1:0", false)
			c := r.dial(a)
			if split > 0 {
				_, _ = c.Write([]byte(test.head[:split]))
				r.turns()
			}
			_, _ = c.Write([]byte(test.head[split:] + "payload"))
			r.turns()
			switch {
			case test.want == "":
				if len(r.served) != 0 || !r.closed(c) || r.active != 0 {
					t.Errorf("%s/%d: must be closed", test.name, split)
				}
				continue
			case len(r.served) != 1:
				t.Errorf("%s/%d: not served", test.name, split)
				continue
			}
			s := r.served[0]
			want := test.want
			if want == real {
				want = c.LocalAddr().String() + " " + a.String()
			}
			if got := s.info.Remote.String() + " " + s.info.Local.String(); got != want {
				t.Errorf("%s/%d: %s, want %s", test.name, split, got, want)
			}
			if s.info.DirectRemote().String() != c.LocalAddr().String() || s.info.DirectLocal != a {
				t.Errorf("%s/%d: the socket's own addresses are lost", test.name, split)
			}
			s.c.Fill()
			if string(s.c.In()) != "payload" {
				t.Errorf("%s/%d: protocol got %q", test.name, split, s.c.In())
			}
		}
	}
}

func TestProxyProtocol_WhenTLVsAreMapped_ThenDynamicMetadata(t *testing.T) {
	r := newRig(t)
	cfg := r.config("l", func(c *snapshot.Listener) {
		c.Filters = []snapshot.ListenerFilter{{Kind: snapshot.FilterProxyProtocol, Rules: []snapshot.TLVRule{{Type: 0xE0, Namespace: "ns", Key: "k"}}}}
	})
	_, a := r.listen(cfg, "127.0.0.1:0", false)
	c := r.dial(a)
	_, _ = c.Write([]byte(v2(0x21, 0x11, v4pair, 0xE1, 0, 1, 'n', 0xE0, 0, 3, 'v', 'a', 'l')))
	r.turns()
	if len(r.served) != 1 || fmt.Sprint(r.served[0].info.Extra().DynamicMeta) != "map[ns:map[k:val]]" {
		t.Errorf("%d served", len(r.served))
	}
}

func TestProxyProtocol_WhenAllowedWithout_ThenServedAsItIs(t *testing.T) {
	r := newRig(t)
	cfg := r.config("l", func(c *snapshot.Listener) {
		c.Filters = []snapshot.ListenerFilter{{Kind: snapshot.FilterProxyProtocol, AllowRequestsWithoutProxy: true}}
	})
	_, a := r.listen(cfg, "127.0.0.1:0", false)
	c := r.dial(a)
	_, _ = c.Write([]byte("GET /"))
	r.turns()
	if len(r.served) != 1 || string(r.served[0].c.In()) != "GET /" {
		t.Errorf("%d served", len(r.served))
	}
}

// clientHello is the first flight of a TLS client.
func clientHello(t *testing.T) []byte {
	a, b := net.Pipe()
	defer b.Close()
	go func() {
		_ = tls.Client(a, &tls.Config{ServerName: "web.test", NextProtos: []string{"h2", "http/1.1"}}).Handshake()
	}()
	buf := make([]byte, 16<<10)
	n, err := b.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n]
}

func TestInspectors_WhenBytesCome_ThenTheChainIsChosenByThem(t *testing.T) {
	hello := string(clientHello(t))
	both := []snapshot.ListenerFilter{{Kind: snapshot.FilterTLSInspector}, {Kind: snapshot.FilterHTTPInspector}}
	for _, test := range []struct {
		name, in string
		filters  []snapshot.ListenerFilter
		want     string // "" = waits for more
	}{
		{"client hello", hello, both, "tls web.test [h2 http/1.1]"},
		{"http/1.1", "GET / HTTP/1.1\r\nHost: x\r\n", both, "raw_buffer  [http/1.1]"},
		{"http/1.0, LF", "GET / HTTP/1.0\n", both[1:], "raw_buffer  [http/1.0]"},
		{"preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", both[1:], "raw_buffer  [h2c]"},
		{"other", "\x00\x01\x02\x03\x04\x05 not http at all\r\n", both, "raw_buffer  []"},
		{"half a hello", hello[:40], both[:1], ""},
		{"half a line", "GET / HT", both[1:], ""},
		{"disabled", hello, []snapshot.ListenerFilter{{Kind: snapshot.FilterTLSInspector, Disabled: &snapshot.ListenerPredicate{Any: true}}}, "raw_buffer  []"},
	} {
		for _, split := range []int{0, 1, 5} {
			r := newRig(t)
			cfg := r.config("l", func(c *snapshot.Listener) { c.Filters = append(c.Filters, test.filters...) })
			_, a := r.listen(cfg, "127.0.0.1:0", false)
			c := r.dial(a)
			if split > 0 {
				_, _ = c.Write([]byte(test.in[:split]))
				r.turns()
			}
			_, _ = c.Write([]byte(test.in[split:]))
			r.turns()
			if test.want == "" {
				if len(r.served) != 0 || r.count(cfg, stats.ListenerDownstreamPreCxActive) != 1 {
					t.Errorf("%s/%d: must wait", test.name, split)
				}
				continue
			}
			if len(r.served) != 1 || r.count(cfg, stats.ListenerDownstreamPreCxActive) != 0 {
				t.Errorf("%s/%d: %d served", test.name, split, len(r.served))
				continue
			}
			s := r.served[0]
			s.c.Fill()
			x := s.info.Extra()
			if got := fmt.Sprint(x.Transport, " ", x.SNI, " ", x.ALPN); got != test.want || string(s.c.In()) != test.in {
				t.Errorf("%s/%d: %q, want %q; %d of %d bytes for the protocol", test.name, split, got, test.want, len(s.c.In()), len(test.in))
			}
		}
	}
}

func TestFilters_WhenTheClientIsSilent_ThenClosedAtTheTimeoutUnlessContinued(t *testing.T) {
	for _, kind := range []snapshot.ListenerFilterKind{snapshot.FilterProxyProtocol, snapshot.FilterTLSInspector, snapshot.FilterHTTPInspector} {
		for _, goOn := range []bool{false, true} {
			r := newRig(t)
			cfg := r.config("l", func(c *snapshot.Listener) {
				c.Filters, c.ContinueOnTimeout = []snapshot.ListenerFilter{{Kind: kind}}, goOn
			})
			_, a := r.listen(cfg, "127.0.0.1:0", false)
			c := r.dial(a)
			r.turns()
			r.k.add = 14 * sys.Second
			r.turns()
			if len(r.served) != 0 || r.closed(c) {
				t.Fatal("too early")
			}
			r.k.add = 16 * sys.Second
			r.turns()
			if goOn && len(r.served) != 1 || !goOn && (!r.closed(c) || r.active != 0) || r.count(cfg, stats.ListenerDownstreamPreCxTimeout) != 1 {
				t.Errorf("kind %d, continue %v: %d served", kind, goOn, len(r.served))
			}
			if r.l.Timers() != 0 || r.count(cfg, stats.ListenerDownstreamPreCxActive) != 0 {
				t.Errorf("kind %d, continue %v: timer or gauge left", kind, goOn)
			}
		}
	}
}

func TestFilters_WhenTheClientGoesAway_ThenCountedAndNothingLeft(t *testing.T) {
	r := newRig(t)
	cfg := r.config("l", func(c *snapshot.Listener) { c.Filters = []snapshot.ListenerFilter{{Kind: snapshot.FilterTLSInspector}} })
	x, a := r.listen(cfg, "127.0.0.1:0", false)
	for range 40 { // more than one slab chunk
		c := r.dial(a)
		_, _ = c.Write([]byte("\x16\x03"))
		r.turns()
		c.Close()
		r.turns()
	}
	if n := r.count(cfg, stats.ListenerDownstreamListenerFilterRemoteClose); n != 40 || r.active != 0 || x.Members.Len() != 0 || x.pendings.Live() != 0 {
		t.Errorf("%d counted, %d active, %d members, %d places", n, r.active, x.Members.Len(), x.pendings.Live())
	}
	if r.l.Timers() != 0 || r.l.Bufs.Outstanding() != 0 {
		t.Error("timers or buffers left")
	}
}

func TestDrain_WhenStillSniffing_ThenOnlyDrainNowCloses(t *testing.T) {
	r := newRig(t)
	cfg := r.config("l", func(c *snapshot.Listener) { c.Filters = []snapshot.ListenerFilter{{Kind: snapshot.FilterTLSInspector}} })
	x, a := r.listen(cfg, "127.0.0.1:0", false)
	c := r.dial(a)
	r.turns()
	x.Drain(conn.DrainIdle)
	if r.closed(c) {
		t.Error("closed by a soft drain")
	}
	x.Drain(conn.DrainNow)
	r.turns()
	if !r.closed(c) || r.active != 0 {
		t.Error("open after DrainNow")
	}
}

func TestSizes_WhenConnectionsIdle_ThenWithinTheBudget(t *testing.T) {
	if n := unsafe.Sizeof(accesslog.ConnInfo{}); n > 96 {
		t.Errorf("ConnInfo has %d bytes, budget 96: it lives as long as its connection", n)
	}
	if n := unsafe.Sizeof(pending{}); n > 200 {
		t.Errorf("pending has %d bytes, budget 200", n)
	}
}
