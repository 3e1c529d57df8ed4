// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"strings"
	"testing"

	xh2 "golang.org/x/net/http2"

	"sidecar/dataplane/inspect"
	"sidecar/dataplane/route"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/stats"
)

// The key and its answer from RFC 6455 section 1.3.
const (
	sampleKey    = "dGhlIHNhbXBsZSBub25jZQ=="
	sampleAccept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
)

// tunnelRig takes WebSockets and CONNECT over every codec.
func tunnelRig(t testing.TB, h2up bool) *rig {
	r := newRig(t, 1)
	if h2up {
		r.row.Protocol = snapshot.UpstreamHTTP2
	}
	r.hcm.Upgrades = []snapshot.HCMUpgrade{{Type: "websocket", Enabled: true}, {Type: "connect", Enabled: true}}
	r.hcm.H2.AllowConnect = true
	connect := *r.route()
	connect.Name, connect.Path = "connect", route.PathMatch{Kind: route.PathConnect}
	r.vh.Routes = append([]*route.Entry{&connect}, r.vh.Routes...)
	return r
}

// side is one end of a tunnel in a test: what it sends and gets are bytes, whatever the codec.
type side interface {
	say(s string)
	end()
	heard() (s string, ended bool)
}

type plainSide struct{ *peer }

func (p plainSide) say(s string)          { p.write(s) }
func (p plainSide) end()                  { p.closeWrite() }
func (p plainSide) heard() (string, bool) { return p.read() }

type streamSide struct{ *h2peer }

func (p streamSide) say(s string) { p.data(1, s, false); p.send() }
func (p streamSide) end()         { p.data(1, "", true); p.send() }

func (p streamSide) heard() (s string, ended bool) {
	got, _ := p.frames()
	for _, l := range strings.Split(got, "\n") {
		if rest, ok := strings.CutPrefix(l, "1 DATA"); ok {
			rest, end := strings.CutPrefix(rest, " end")
			s, ended = s+strings.TrimPrefix(rest, " "), ended || end
		}
	}
	return s, ended
}

// handshake opens a tunnel between a client and an upstream of the given codecs.
func (r *rig) handshake(h2down, h2up, connect bool) (client, upstream side) {
	r.t.Helper()
	var c *h2peer
	var p *peer
	switch {
	case h2down && connect:
		c = r.dialH2()
		c.headers(1, false, ":method", "CONNECT", ":authority", "x.test:443")
		c.send()
	case h2down:
		c = r.dialH2()
		c.headers(1, false, ":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":authority", "x.test", ":path", "/chat",
			"sec-websocket-version", "13")
		c.send()
	case connect:
		p = r.dial()
		p.write("CONNECT x.test:443 HTTP/1.1\r\nhost: x.test:443\r\n\r\n")
	default:
		p = r.dial()
		p.write("GET /chat HTTP/1.1\r\nhost: x.test\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: " +
			sampleKey + "\r\n\r\n")
	}
	r.turn()
	if h2up {
		upstream = streamSide{r.agree(connect)}
	} else {
		upstream = plainSide{r.agree1(connect)}
	}
	r.turn()
	if h2down {
		got, _ := c.frames()
		if !strings.HasPrefix(got, "1 HEADERS :status=200 ") || strings.Contains(got, "accept") || strings.Contains(got, "upgrade") || strings.Contains(got, "\n") {
			r.t.Fatalf("the client gets %q", got)
		}
		return streamSide{c}, upstream
	}
	got, _ := p.read()
	want := "HTTP/1.1 200 OK\r\n"
	if !connect {
		want = "HTTP/1.1 101 Switching Protocols\r\n"
		for _, s := range []string{"connection: upgrade\r\n", "upgrade: websocket\r\n", "sec-websocket-accept: " + sampleAccept + "\r\n"} {
			if strings.Count(got, s) != 1 {
				r.t.Errorf("%q is not once in %q", s, got)
			}
		}
	}
	if !strings.HasPrefix(got, want) {
		r.t.Fatalf("the client gets %q", got)
	}
	return plainSide{p}, upstream
}

// agree is the HTTP/2 upstream's part.
func (r *rig) agree(connect bool) *h2peer {
	r.t.Helper()
	u := r.acceptH2()
	got, _ := u.frames()
	want := "1 HEADERS :method=CONNECT :protocol=websocket :scheme=http :authority=x.test :path=/chat "
	if connect {
		want = "1 HEADERS :method=CONNECT :authority=x.test:443 "
	}
	if !strings.HasPrefix(got, want) || strings.Contains(got, "upgrade") || strings.Contains(got, "\n") {
		r.t.Fatalf("the upstream gets %q", got)
	}
	u.headers(1, false, ":status", "200")
	u.send()
	return u
}

// agree1 is the HTTP/1 upstream's part.
func (r *rig) agree1(connect bool) *peer {
	r.t.Helper()
	u := r.ups[0].accept()
	if u == nil {
		r.t.Fatal("no upstream connection")
	}
	got, _ := u.read()
	if connect {
		if !strings.HasPrefix(got, "CONNECT x.test:443 HTTP/1.1\r\nhost: x.test:443\r\n") {
			r.t.Fatalf("the upstream gets %q", got)
		}
		u.write("HTTP/1.1 200 OK\r\n\r\n")
		return u
	}
	_, rest, _ := strings.Cut(got, "sec-websocket-key: ")
	key, _, _ := strings.Cut(rest, "\r\n")
	if !strings.HasPrefix(got, "GET /chat HTTP/1.1\r\nhost: x.test\r\n") || len(key) != len(sampleKey) || !strings.Contains(got, "connection: upgrade\r\n") ||
		!strings.Contains(got, "upgrade: websocket\r\n") {
		r.t.Fatalf("the upstream gets %q", got)
	}
	u.write("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: " +
		string(appendAccept(nil, []byte(key))) + "\r\n\r\n")
	return u
}

// pairs are the codecs of client and upstream.
var pairs = []struct {
	name     string
	down, up bool
}{{"h1-h1", false, false}, {"h1-h2", false, true}, {"h2-h1", true, false}, {"h2-h2", true, true}}

func (r *rig) wantHeard(s side, want string, ended bool) {
	r.t.Helper()
	if got, end := s.heard(); got != want || end != ended {
		r.t.Errorf("got %q ended=%v, want %q ended=%v", got, end, want, ended)
	}
}

func TestTunnel_WhenAnyPairOfCodecs_ThenBytesAndEndsPassBothWays(t *testing.T) {
	for _, x := range pairs {
		for _, connect := range []bool{false, true} {
			t.Run(x.name+map[bool]string{false: "-websocket", true: "-connect"}[connect], func(t *testing.T) {
				r := tunnelRig(t, x.up)
				c, u := r.handshake(x.down, x.up, connect)
				c.say("ping")
				r.turn()
				r.wantHeard(u, "ping", false)
				u.say("pong")
				r.turn()
				r.wantHeard(c, "pong", false)
				r.wait(20 * 1e9) // over the route's timeout
				if n := r.hcmStat(stats.HCMDownstreamCxUpgradesActive); n != 1 {
					t.Errorf("%d upgrades are active", n)
				}
				c.end()
				r.turn()
				r.wantHeard(u, "", true)
				u.say("bye")
				r.turn()
				r.wantHeard(c, "bye", false)
				u.end()
				r.turn()
				r.wantHeard(c, "", true)
				r.check()
				if n := r.hcmStat(stats.HCMDownstreamCxUpgradesActive); n != 0 {
					t.Errorf("%d upgrades are active", n)
				}
				if len(r.log) != 1 {
					t.Fatalf("log %q", r.log)
				}
				want := "101 DC downstream_remote_disconnect 4 7 attempts=1 route=r"
				switch {
				case x.down && x.up:
					want = "101 - via_upstream 4 7 attempts=1 route=r"
				case x.down:
					want = "101 UC upstream_reset_after_response_started{connection_termination} 4 7 attempts=1 route=r"
				}
				if connect {
					want = strings.Replace(strings.Replace(want, "101", "200", 1), "route=r", "route=connect", 1)
				}
				if r.log[0] != want {
					t.Errorf("log %q, want %q", r.log[0], want)
				}
			})
		}
	}
}

func TestTunnel_WhenTheServerEndsAWebSocket_ThenItIsOver(t *testing.T) {
	for _, x := range pairs {
		t.Run(x.name, func(t *testing.T) {
			r := tunnelRig(t, x.up)
			c, u := r.handshake(x.down, x.up, false)
			u.say("bye")
			u.end()
			r.turn()
			r.wantHeard(c, "bye", true)
			r.check()
			want := "101 UC upstream_reset_after_response_started{connection_termination} 0 3 attempts=1 route=r"
			if x.up {
				want = "101 - via_upstream 0 3 attempts=1 route=r"
			}
			if len(r.log) != 1 || r.log[0] != want {
				t.Errorf("log %q, want %q", r.log, want)
			}
		})
	}
}

func TestTunnel_WhenAStreamIsReset_ThenTheOtherSideEnds(t *testing.T) {
	for _, x := range pairs[1:] {
		if x.up {
			t.Run(x.name+"-upstream", func(t *testing.T) {
				r := tunnelRig(t, x.up)
				c, u := r.handshake(x.down, x.up, true)
				far := u.(streamSide)
				must(t, far.fr.WriteRSTStream(1, xh2.ErrCodeCancel))
				far.send()
				r.turn()
				if s, ok := c.(streamSide); ok {
					r.wantFrames(s.h2peer, "1 RST CONNECT_ERROR")
				} else {
					r.wantHeard(c, "", true)
				}
				if len(r.log) != 1 || r.log[0] != "200 UR upstream_reset_after_response_started{remote_reset} 0 0 attempts=1 route=connect" {
					t.Errorf("log %q", r.log)
				}
				r.check()
			})
		}
		if !x.down {
			continue
		}
		t.Run(x.name+"-client", func(t *testing.T) {
			r := tunnelRig(t, x.up)
			c, u := r.handshake(x.down, x.up, true)
			s := c.(streamSide)
			must(t, s.fr.WriteRSTStream(1, xh2.ErrCodeCancel))
			s.send()
			r.turn()
			if s, ok := u.(streamSide); ok {
				r.wantFrames(s.h2peer, "1 RST CANCEL")
			} else {
				r.wantHeard(u, "", true)
			}
			r.check()
		})
	}
}

func TestTunnel_WhenTheFarSideDoesNotRead_ThenTheNearOneGetsNoWindow(t *testing.T) {
	for _, x := range pairs[2:] {
		t.Run(x.name, func(t *testing.T) {
			r := tunnelRig(t, x.up)
			r.row.BufferLimit, r.lis.BufferLimit = 16<<10, 16<<10
			r.hcm.H2.ConnWindow, r.hcm.H2.MaxConnWindow = 65535, 65535
			r.hcm.H2.StreamWindow, r.hcm.H2.MaxStreamWindow = 65535, 65535
			c, u := r.handshake(x.down, x.up, true)
			s, total, left := c.(streamSide), 0, 65535
			piece := strings.Repeat("x", 16<<10)
			for idle := 0; idle < 2; { // until no window comes any more
				n := min(left, len(piece))
				if n > 0 {
					s.data(1, piece[:n], false)
					s.send()
					total += n
					left -= n
				}
				r.turn()
				got := 0
				text, _ := s.read()
				s.in.WriteString(text)
				for s.in.Len() > 0 {
					f, err := s.fr.ReadFrame()
					must(t, err)
					got += increment(f, 1)
				}
				left += got
				if idle++; n > 0 || got > 0 {
					idle = 0
				}
				if total > 64<<20 {
					t.Fatal("no back-pressure")
				}
			}
			if x.up {
				return // the upstream's window stays closed
			}
			for heard := 0; heard < total; {
				got, _ := u.heard()
				if heard += len(got); got == "" && heard < total {
					t.Fatalf("%d of %d bytes", heard, total)
				}
				r.turn()
			}
		})
	}
}

func TestTunnel_WhenTheHandshakeIsRefused_ThenTheAnswerIsOrdinary(t *testing.T) {
	r := tunnelRig(t, false)
	c := r.dialH2()
	ask := func(id uint32) *peer {
		c.headers(id, false, ":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":authority", "x.test", ":path", "/")
		c.send()
		r.turn()
		u := r.ups[0].accept()
		if u == nil {
			t.Fatal("no upstream connection")
		}
		u.read()
		return u
	}
	ask(1).write("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno")
	r.turn()
	got, _ := c.frames()
	if !strings.HasPrefix(got, "1 HEADERS :status=403 ") || !strings.HasSuffix(got, "\n1 DATA end no") {
		t.Error(got)
	}
	r.wait(100 * sys.Millisecond)
	r.wantFrames(c, "1 RST NO_ERROR")
	ask(3).write(ok3) // consent, were it to reach an HTTP/2 client
	r.turn()
	if got, _ := c.frames(); !strings.HasPrefix(got, "3 HEADERS :status=502 ") {
		t.Error(got)
	}
	ask(5).write("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: " + sampleAccept + "\r\n\r\n")
	r.turn()
	if got, _ := c.frames(); !strings.HasPrefix(got, "5 HEADERS :status=502 ") {
		t.Error(got)
	}
	r.hcm.Upgrades = nil
	c.headers(7, false, ":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":authority", "x.test", ":path", "/")
	c.send()
	r.turn()
	if got, _ := c.frames(); !strings.HasPrefix(got, "7 HEADERS end :status=403 ") {
		t.Error(got)
	}
	r.check()
}

func TestTunnel_WhenCONNECTEndsHere_ThenRawBytesUpstream(t *testing.T) {
	r := tunnelRig(t, false)
	f := *r.vh.Routes[0].Forward
	f.Upgrades = []route.Upgrade{{Type: "connect", Enabled: true, Connect: true}}
	r.vh.Routes[0].Forward = &f
	c := r.dialH2()
	c.headers(1, false, ":method", "CONNECT", ":authority", "x.test:443")
	c.data(1, "early", false)
	c.send()
	r.turn()
	p := r.ups[0].accept()
	if p == nil {
		t.Fatal("no upstream connection")
	}
	u := plainSide{p}
	r.wantHeard(u, "early", false)
	if got, _ := c.frames(); !strings.HasPrefix(got, "1 HEADERS :status=200 ") {
		t.Fatal(got)
	}
	u.say("hello")
	u.end()
	r.turn()
	s := streamSide{c}
	r.wantHeard(s, "hello", true)
	s.say("on")
	s.end()
	r.turn()
	r.wantHeard(u, "on", true)
	r.check()
	if len(r.log) != 1 || r.log[0] != "200 - via_upstream 7 5 attempts=1 route=connect" {
		t.Errorf("log %q", r.log)
	}
}

func TestTunnel_WhenAPOSTEndsHere_ThenItsContentIsTheBytes(t *testing.T) {
	for _, proxy := range []uint8{0, 1, 2} {
		r := tunnelRig(t, false)
		f := *r.vh.Routes[0].Forward
		f.ConnectPost, f.ConnectProxy = true, proxy
		e := *r.vh.Routes[0]
		e.Name, e.Forward, e.Path = "post", &f, route.PathMatch{Kind: route.PathPrefix, Text: "/"}
		r.vh.Routes = []*route.Entry{&e}
		c := r.dialH2()
		c.post(1, "/p")
		c.data(1, "hello", true)
		c.send()
		r.turn()
		p := r.ups[0].accept()
		if p == nil {
			t.Fatal("no upstream connection")
		}
		u := plainSide{p}
		r.turn()
		got, _ := p.read()
		head := strings.TrimSuffix(got, "hello")
		h, v := inspect.ProxyHeader([]byte(head), true, true)
		if head == got || proxy == 0 && head != "" || proxy > 0 && (v != inspect.Match || h.Version != proxy || h.Len != len(head)) {
			t.Errorf("upstream got %q", got)
		}
		if got, _ := c.frames(); got != "1 HEADERS :status=200 x-envoy-upstream-service-time=# date=# server=envoy" {
			t.Error(got)
		}
		u.say("bye")
		u.end()
		r.turn()
		r.wantFrames(c, "1 DATA end bye")
		r.check()
	}
}

// An answer over HTTP/1 begins before its request is complete, if that is how the client sends it; cut anywhere the bytes are the same.
func TestTunnel_WhenAPOSTOverHTTP1EndsHere_ThenBothContentsAreTheBytes(t *testing.T) {
	const head = "POST /p HTTP/1.1\r\nhost: x.test\r\ntransfer-encoding: chunked\r\n\r\n"
	const body = "2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n"
	for cut := 0; cut <= len(body); cut++ {
		r := tunnelRig(t, false)
		f := *r.vh.Routes[0].Forward
		f.ConnectPost = true
		e := *r.vh.Routes[0]
		e.Name, e.Forward, e.Path = "post", &f, route.PathMatch{Kind: route.PathPrefix, Text: "/"}
		r.vh.Routes = []*route.Entry{&e}
		c := r.dial()
		c.write(head + body[:cut])
		r.turn()
		u := r.ups[0].accept()
		if u == nil {
			t.Fatal("no upstream connection")
		}
		r.turn()
		c.write(body[cut:])
		r.turn()
		if got, ended := u.read(); got != "hello" || !ended {
			t.Fatalf("cut %d: the upstream gets %q, ended %v", cut, got, ended)
		}
		u.write("bye")
		u.closeWrite()
		r.turn()
		got, _ := c.read()
		r.want("client", got, "HTTP/1.1 200 OK\r\n", "transfer-encoding: chunked\r\n", "\r\n\r\n3\r\nbye\r\n0\r\n\r\n")
		if early := strings.Contains(got, "connection: close"); early != (cut < len(body)) {
			t.Errorf("cut %d: %q", cut, got)
		}
		if cut == len(body) { // the connection goes on
			c.write(head + body)
			r.turn()
			u = r.ups[0].accept()
			r.turn()
			u.write("again")
			u.closeWrite()
			r.turn()
			got, _ := c.read()
			r.want("second answer", got, "200 OK", "\r\n5\r\nagain\r\n0\r\n\r\n")
		}
		r.check()
	}
}

func TestTunnel_WhenAStreamEndsWithTrailers_ThenTheyArePassedOn(t *testing.T) {
	for _, connect := range []bool{false, true} {
		r := tunnelRig(t, true)
		client, upstream := r.handshake(true, true, connect)
		c, u := client.(streamSide), upstream.(streamSide)
		c.data(1, "ping", false)
		c.headers(1, true, "x-t", "1")
		c.send()
		r.turn()
		if got, _ := u.frames(); got != "1 DATA ping\n1 HEADERS end x-t=1" {
			t.Errorf("connect %v: the upstream gets %q", connect, got)
		}
		u.headers(1, true, "x-t", "2")
		u.send()
		r.turn()
		if got, _ := c.frames(); got != "1 HEADERS end x-t=2" {
			t.Errorf("connect %v: the client gets %q", connect, got)
		}
		r.check()
	}
	r := tunnelRig(t, false)
	client, upstream := r.handshake(true, false, true)
	c := client.(streamSide)
	c.headers(1, true, "x-t", "1")
	c.send()
	r.turn()
	if got, ended := upstream.heard(); got != "" || !ended {
		t.Errorf("over HTTP/1 the upstream gets %q, ended %v", got, ended)
	}
}
