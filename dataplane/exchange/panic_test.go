// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"strings"
	"testing"

	"sidecar/dataplane/conn"
	"sidecar/dataplane/filter"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/loop"
	"sidecar/dataplane/mux"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/stats"
)

// panics counts what the loop reports.
func panics(t *testing.T) *int {
	n, before := new(int), loop.OnPanic
	loop.OnPanic = func(int, any) { *n++ }
	t.Cleanup(func() { loop.OnPanic = before })
	return n
}

// A panic on HTTP/2 ends the stream on which it happened, whoever's turn it was: of the client's connection, of the upstream's, or the exchange's own.
func TestPanic_WhenAFilterPanicsOnAStream_ThenItsSiblingsFinish(t *testing.T) {
	boom := func(c *filter.Ctx) {
		if string(c.Req.Path()) == "/boom" {
			panic("boom")
		}
	}
	for _, c := range []struct {
		name string
		p    probe
		seen bool // the upstream gets the request
		end  string
	}{
		{"request head", probe{phases: filter.RequestHead, head: func(c *filter.Ctx, _ filter.Dir, _ *httpmsg.Head, _ bool) filter.Verdict {
			boom(c)
			return filter.Continue
		}}, false, ""},
		{"response head", probe{phases: filter.ResponseHead, head: func(c *filter.Ctx, _ filter.Dir, _ *httpmsg.Head, _ bool) filter.Verdict {
			boom(c)
			return filter.Continue
		}}, true, ""},
		{"response body", probe{phases: filter.ResponseData, data: func(c *filter.Ctx, _ filter.Dir, _ *filter.Data, _ bool) filter.Verdict {
			boom(c)
			return filter.Continue
		}}, true, "3 HEADERS"},
		{"own task", probe{phases: filter.RequestHead, head: func(c *filter.Ctx, _ filter.Dir, h *httpmsg.Head, _ bool) filter.Verdict {
			if string(h.Path()) != "/boom" {
				return filter.Continue
			}
			c.Wake(c.Now + sys.Millisecond)
			return filter.Pause
		}, event: func(c *filter.Ctx, _ filter.Event) filter.Verdict { panic("boom") }}, false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newH2Rig(t)
			n := panics(t)
			r.filters(&c.p)
			h := r.dialH2()
			h.get(1, "/a")
			h.send()
			r.turn()
			u := r.acceptH2()
			h.get(3, "/boom")
			h.get(5, "/c")
			h.send()
			r.turn()
			r.wait(2 * sys.Millisecond)
			id := uint32(3) // upstream's of /c
			if c.seen {
				u.headers(3, false, ":status", "200")
				u.data(3, "lost", true)
				id = 5
			}
			for _, s := range []uint32{1, id} {
				u.headers(s, false, ":status", "200")
				u.data(s, "abc", true)
			}
			u.send()
			r.turn()
			got, eof := h.frames()
			for _, w := range []string{"1 DATA end abc", "3 RST INTERNAL_ERROR", "5 DATA end abc", c.end} {
				if !strings.Contains(got, w) || eof || strings.Contains(got, "GOAWAY") {
					t.Errorf("got %s, end %v, want %s", got, eof, w)
				}
			}
			if got, eof := u.frames(); eof || strings.Contains(got, "GOAWAY") {
				t.Errorf("upstream's connection ended: %s", got)
			}
			if *n != 1 || r.env.Panicked != 1 {
				t.Errorf("%d panics, %d counted", *n, r.env.Panicked)
			}
			if log := strings.Join(r.log, "\n"); len(r.log) != 3 || !strings.Contains(log, " LR ") {
				t.Errorf("log %q", r.log)
			}
			if a := r.hcmStat(stats.HCMDownstreamRqActive); a != 0 {
				t.Errorf("%d requests active", a)
			}
			r.check()
		})
	}
}

func TestPanic_WhenAnHTTP1ClientsFilterPanicsInTheUpstreamsTurn_ThenOnlyThatClientGoes(t *testing.T) {
	r := newH2Rig(t)
	n := panics(t)
	p := &probe{phases: filter.ResponseHead, head: func(c *filter.Ctx, _ filter.Dir, _ *httpmsg.Head, _ bool) filter.Verdict {
		if string(c.Req.Path()) == "/boom" {
			panic("boom")
		}
		return filter.Continue
	}}
	r.filters(p)
	good, bad := r.dial(), r.dial()
	good.write(get)
	r.turn()
	u := r.acceptH2()
	bad.write("GET /boom HTTP/1.1\r\nHost: x\r\n\r\n")
	r.turn()
	for _, s := range []uint32{3, 1} {
		u.headers(s, true, ":status", "204")
	}
	u.send()
	r.turn()
	if _, eof := bad.read(); !eof || *n != 1 || r.env.Panicked != 1 {
		t.Errorf("eof %v, %d panics, %d counted", eof, *n, r.env.Panicked)
	}
	got, eof := good.read()
	if r.want("good client", got, "204 No Content"); eof {
		t.Error("its connection ended")
	}
	r.check()
}

// An exchange that cannot even be ended leaves nobody knows what behind.
func TestPanic_WhenTheEndOfTheExchangePanicsToo_ThenItsConnectionEnds(t *testing.T) {
	r := newH2Rig(t)
	panics(t)
	r.filters(&probe{phases: filter.RequestHead, head: func(_ *filter.Ctx, _ filter.Dir, h *httpmsg.Head, _ bool) filter.Verdict {
		if string(h.Path()) == "/boom" {
			panic("boom")
		}
		return filter.Continue
	}, final: func(c *filter.Ctx) {
		if string(c.Req.Path()) == "/boom" {
			panic("again")
		}
	}})
	h, other := r.dialH2(), r.dialH2()
	h.get(1, "/a")
	h.get(3, "/boom")
	other.get(1, "/b")
	h.send()
	other.send()
	r.turn()
	if got, eof := h.frames(); !eof || !strings.Contains(got, "1 RST INTERNAL_ERROR") || !strings.Contains(got, "3 RST INTERNAL_ERROR") {
		t.Errorf("got %s, end %v", got, eof)
	}
	u := r.acceptH2()
	for _, id := range []uint32{1, 3} {
		u.headers(id, true, ":status", "204")
	}
	u.send()
	r.turn()
	if got, eof := other.frames(); eof || !strings.Contains(got, "1 HEADERS end :status=204") {
		t.Errorf("the other connection got %s, end %v", got, eof)
	}
}

// What the streams of a connection share cannot be trusted when the machine was left in the middle of something.
func TestPanic_WhenTheMachineIsTorn_ThenItsConnectionEnds(t *testing.T) {
	r := newH2Rig(t)
	n := panics(t)
	var torn *mux.Link
	p := &probe{phases: filter.RequestHead, head: func(_ *filter.Ctx, _ filter.Dir, h *httpmsg.Head, _ bool) filter.Verdict {
		if string(h.Path()) == "/boom" {
			torn.Tear()
			panic("boom")
		}
		return filter.Continue
	}}
	r.filters(p)
	h := r.dialH2()
	h.get(1, "/a")
	h.send()
	r.turn()
	r.acceptH2()
	r.left.Each(func(m *conn.Member) { torn = &m.H.(*h2Server).k })
	h.get(3, "/boom")
	h.send()
	r.turn()
	got, eof := h.frames()
	if !eof || !strings.Contains(got, "1 RST INTERNAL_ERROR") || *n != 1 || r.env.Panicked != 1 {
		t.Errorf("got %s, end %v, %d panics, %d counted", got, eof, *n, r.env.Panicked)
	}
	r.check()
}
