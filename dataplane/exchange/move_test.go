// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"strings"
	"testing"

	"sidecar/dataplane/conn"
	"sidecar/dataplane/loop"
	"sidecar/dataplane/route"
	"sidecar/dataplane/sys"
	"sidecar/dataplane/upstream"
	"sidecar/internal/telemetry/stats"
)

// beside makes another worker with the same clock and configuration.
func (r *rig) beside() *rig {
	o := *r
	l, err := loop.New(loop.Config{Kernel: r.k, Seed: 2}, func(loop.Msg) {})
	must(r.t, err)
	r.t.Cleanup(l.Close)
	o.l, o.left = l, conn.Members{OnLeave: func(*conn.Member) { o.gone++ }}
	o.env = NewEnv(l, upstream.NewManager(l, 1), 1, nil)
	o.env.Logs, o.env.LocalIP = &o, r.env.LocalIP
	o.env.Up.Reconcile(nil, r.env.Snap)
	o.env.Snap = r.env.Snap
	return &o
}

// sample is the rig's connection.
func (r *rig) sample() (m *conn.Member) {
	r.left.Each(func(x *conn.Member) { m = x })
	return m
}

// pack takes the only connection out, if it may move.
func (r *rig) pack() *Parcel {
	m := r.sample()
	if m == nil {
		return nil
	}
	x := m.H.(Mover)
	if _, ok := x.Rest(r.l.Now()); !ok {
		return nil
	}
	m.Part()
	return x.Pack()
}

func (r *rig) unpack(p *Parcel) { r.left.Join(Unpack(r.env, p, nil)) }

// answers makes the rig's route a direct response.
func (r *rig) answers(body string) {
	r.route().Kind, r.route().Forward, r.route().Direct = route.ActionDirect, nil, &route.Direct{Status: 200, Body: []byte(body)}
}

// active are the gauges of connections: all, HTTP/1, HTTP/2.
func (r *rig) active() [3]int64 {
	return [3]int64{r.hcmStat(stats.HCMDownstreamCxActive), r.hcmStat(stats.HCMDownstreamCxHTTP1Active), r.hcmStat(stats.HCMDownstreamCxHTTP2Active)}
}

// Whatever the client has sent when the connection moves, if it may, the client gets the same.
func TestMove_WhenAtAnyByte_ThenTheClientGetsTheSame(t *testing.T) {
	h1 := func(r *rig) (*peer, string, func() string) {
		c := r.dial()
		return c, strings.Repeat(get, 3), func() string { s, _ := c.read(); return lines(s) }
	}
	h2 := func(r *rig) (*peer, string, func() string) {
		h := r.dialH2()
		for i := range uint32(3) {
			h.headers(2*i+1, i != 1, ":method", "GET", ":scheme", "http", ":authority", "x.test", ":path", "/", "x-dynamic", "one value for all")
			must(t, h.fr.WritePing(false, [8]byte{byte(i)}))
		}
		h.data(3, "abc", true)
		s := h.out.String()
		return h.peer, s, func() string { f, _ := h.frames(); return f }
	}
	for _, tc := range []struct {
		name  string
		open  func(*rig) (*peer, string, func() string)
		gauge [3]int64
		moves int // at how many places it may move, at least
	}{
		{"HTTP/1", h1, [3]int64{1, 1, 0}, 4},
		{"HTTP/2", h2, [3]int64{1, 0, 1}, 6},
	} {
		t.Run(tc.name, func(t *testing.T) {
			whole, moved := "", 0
			for at := -1; ; at++ { // -1: never
				r := newRig(t, 0)
				r.answers("hello")
				c, in, out := tc.open(r)
				if at > len(in) {
					break
				}
				here, got := r, ""
				c.write(in[:max(at, 0)])
				r.turn()
				if at >= 0 {
					got = out()
					if p := r.pack(); p != nil {
						moved++
						here = r.beside()
						if n := r.active(); n != [3]int64{} || r.left.Len() != 0 || r.env.Connections() != 0 || len(r.env.chains) != 0 {
							t.Fatalf("after byte %d: something stayed: %v, %d connections, %d chains", at, n, r.env.Connections(), len(r.env.chains))
						}
						c.write(in[at:]) // while nobody has it
						here.unpack(p)
						in = in[:at]
					}
				}
				c.write(in[max(at, 0):])
				here.turn()
				if got += sep(got, tc.gauge[2]) + out(); whole == "" {
					whole = got
				} else if strings.ReplaceAll(got, "\n", "") != strings.ReplaceAll(whole, "\n", "") {
					t.Fatalf("moved after byte %d:\n%s\nnever moved:\n%s", at, got, whole)
				}
				if n := here.active(); n != tc.gauge || here.left.Len() != 1 || here.gone != 0 {
					t.Fatalf("after byte %d: gauges %v, %d connections, %d gone", at, n, here.left.Len(), here.gone)
				}
				if n := here.hcmStat(stats.HCMDownstreamCxTotal); n != 1 {
					t.Fatalf("after byte %d: downstream_cx_total %d", at, n)
				}
				c.close()
				here.turn()
				if n := here.active(); n != [3]int64{} || here.gone != 1 || here.env.Connections() != 0 || r.l.Timers()+here.l.Timers() != 0 {
					t.Fatalf("after byte %d, closed: gauges %v, %d gone, timers %d and %d", at, n, here.gone, r.l.Timers(), here.l.Timers())
				}
				here.check()
			}
			if moved < tc.moves {
				t.Errorf("it could move at %d places only", moved)
			}
		})
	}
}

// sep separates two pieces of frames.
func sep(before string, h2 int64) string {
	if before == "" || h2 == 0 {
		return ""
	}
	return "\n"
}

func TestMove_WhenDeadlinesRun_ThenTheyStrikeAsIfNothingHadMoved(t *testing.T) {
	const idle, drain = 100 * sys.Second, 5 * sys.Second
	for _, tc := range []struct {
		name string
		set  func(*rig)
		last func(*rig)
		stat int
	}{
		{"idle_timeout, HTTP/1", func(r *rig) { r.hcm.ConnIdle = idle }, func(r *rig) { r.wait(drain + sys.Second) },
			stats.HCMDownstreamCxIdleTimeout},
		{"max_connection_duration", func(r *rig) { r.hcm.MaxConnDuration = idle }, func(*rig) {},
			stats.HCMDownstreamCxMaxDurationReached},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, 0)
			r.answers("hello")
			r.hcm.DrainTimeout = drain
			tc.set(r)
			c := r.dial()
			c.write(get)
			r.turn()
			c.read()
			r.wait(idle / 2)
			p := r.pack()
			if p == nil {
				t.Fatal("it may not move")
			}
			o := r.beside()
			o.unpack(p)
			o.wait(idle/2 - sys.Second)
			if n := o.hcmStat(tc.stat); n != 0 {
				t.Error("too early")
			}
			o.wait(2 * sys.Second)
			if n := o.hcmStat(tc.stat); n != 1 {
				t.Errorf("%s is %d", stats.HCMDef.Stats[tc.stat].Name, n)
			}
			tc.last(o)
			o.wait(sys.Second)
			if s, eof := c.read(); s != "" || !eof || o.gone != 1 {
				t.Errorf("the client got %q, end %v", s, eof)
			}
		})
	}
	t.Run("idle_timeout, HTTP/2", func(t *testing.T) {
		r := newRig(t, 0)
		r.answers("hello")
		r.hcm.ConnIdle, r.hcm.DrainTimeout = idle, drain
		h := r.dialH2()
		h.get(1, "/")
		h.send()
		r.turn()
		h.frames()
		r.wait(idle / 2)
		o := r.beside()
		o.unpack(r.pack())
		o.wait(idle / 2)
		o.wait(drain + sys.Second)
		if f, _ := h.frames(); f != "GOAWAY 2147483647 NO_ERROR\nGOAWAY 1 NO_ERROR" || o.hcmStat(stats.HCMDownstreamCxIdleTimeout) != 1 {
			t.Errorf("got %s", f)
		}
	})
}

// Requests count over moves, and a connection that is told to end after its move does.
func TestMove_WhenBoundsAndDrainsFollow_ThenTheyHold(t *testing.T) {
	r := newRig(t, 0)
	r.answers("hello")
	r.hcm.MaxRequestsPerConn = 2
	c := r.dial()
	c.write(get)
	r.turn()
	c.read()
	o := r.beside()
	o.unpack(r.pack())
	c.write(get)
	o.turn()
	if s, eof := c.read(); !strings.Contains(s, "connection: close\r\n") || !eof {
		t.Errorf("the second of two requests: %s", s)
	}
	for _, how := range []conn.DrainMode{conn.DrainIdle, conn.DrainEnd, conn.DrainNow} {
		r := newRig(t, 0)
		r.answers("hello")
		h := r.dialH2()
		h.get(1, "/")
		h.send()
		r.turn()
		h.frames()
		o := r.beside()
		o.unpack(r.pack())
		o.sample().H.Drain(how)
		o.turn()
		if f, _ := h.frames(); how != conn.DrainNow && !strings.HasSuffix(f, "GOAWAY 1 NO_ERROR") {
			t.Errorf("drain %d: got %s", how, f)
		}
		if o.wait(2 * sys.Second); o.gone != 1 {
			t.Errorf("drain %d: it is still there", how)
		}
	}
}

func TestMove_WhenSomethingIsUnderWay_ThenItStays(t *testing.T) {
	big := strings.Repeat("x", 4<<20)
	for _, tc := range []struct {
		name string
		do   func(r *rig)
	}{
		{"half a head", func(r *rig) { r.dial().write("GET / HT") }},
		{"a request", func(r *rig) { r.dial().write(get) }},
		{"a body", func(r *rig) {
			r.answers("hi")
			r.dial().write("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nabc")
		}},
		{"an answer that is not read", func(r *rig) { r.answers(big); r.dial().write(get) }},
		{"told to close", func(r *rig) { r.answers("hi"); r.dial().write(get); r.turn(); r.sample().H.Drain(conn.DrainSoft) }},
		{"a stream", func(r *rig) { h := r.dialH2(); h.get(1, "/"); h.send() }},
		{"a stream whose request is not over", func(r *rig) { h := r.dialH2(); h.post(1, "/"); h.send() }},
		{"half a frame", func(r *rig) { h := r.dialH2(); h.out.WriteString("\x00\x00\x08\x06"); h.send() }},
		{"half a preface", func(r *rig) { r.dial().write("PRI * HTTP/2.0\r\n") }},
		{"an HTTP/2 answer that is not read", func(r *rig) {
			r.answers(big)
			h := r.dialH2()
			must(r.t, h.fr.WriteWindowUpdate(0, 1<<30))
			h.get(1, "/")
			h.send()
		}},
		{"GOAWAY", func(r *rig) { r.dialH2().send(); r.turn(); r.sample().H.Drain(conn.DrainSoft) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, 1)
			tc.do(r)
			r.turn()
			if r.sample() == nil {
				t.Fatal("there is no connection")
			}
			if r.pack() != nil {
				t.Error("it moved")
			}
		})
	}
}
