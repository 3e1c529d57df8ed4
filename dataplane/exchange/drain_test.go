// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"strings"
	"testing"

	"sidecar/dataplane/conn"
	"sidecar/dataplane/filter"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/loop"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/stats"
)

// server is the Server of the rig's only connection.
func (r *rig) server() *Server {
	var s *Server
	r.left.Each(func(m *conn.Member) { s = m.H.(*Server) })
	return s
}

func TestDrain_WhenSoft_ThenTheNextResponseSaysClose(t *testing.T) {
	r := newRig(t, 1)
	c := r.dial()
	c.write(get)
	r.turn()
	r.server().Drain(conn.DrainSoft)
	var u *peer
	r.serve(&u, ok3)
	got, _ := c.read()
	r.want("client", got, "connection: close\r\n")
	r.wait(1100 * sys.Millisecond)
	_, eof := c.read()
	if !eof || r.hcmStat(stats.HCMDownstreamCxDrainClose) != 1 {
		t.Errorf("eof %v, drain_close %d", eof, r.hcmStat(stats.HCMDownstreamCxDrainClose))
	}
	r.check()
}

func TestDrain_WhenIdleModeAndIdle_ThenClosedAtOnce(t *testing.T) {
	r := newRig(t, 1)
	c := r.dial()
	r.turn()
	r.server().Drain(conn.DrainIdle)
	r.turn()
	if _, eof := c.read(); !eof {
		t.Error("not closed")
	}
	c.close()
	r.turn()
	if r.gone != 1 {
		t.Errorf("left %d times", r.gone)
	}
}

func TestDrain_WhenIdleModeAndTheResponseHasBegun_ThenClosedBehindIt(t *testing.T) {
	r := newRig(t, 1)
	c := r.dial()
	c.write(get)
	r.turn()
	var u *peer
	r.serve(&u, "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\na")
	s := r.server()
	if !s.Active() {
		t.Error("not active")
	}
	s.Drain(conn.DrainIdle)
	u.write("bc")
	r.turn()
	got, eof := c.read()
	r.want("client", got, "\r\n\r\nabc")
	if !eof {
		t.Error("not closed")
	}
	r.check()
}

func TestDrain_WhenNow_ThenCutAndLogged(t *testing.T) {
	r := newRig(t, 1)
	c := r.dial()
	c.write(get)
	r.turn()
	r.server().Drain(conn.DrainNow)
	r.turn()
	if got, eof := c.read(); got != "" || !eof {
		t.Errorf("got %q, eof %v", got, eof)
	}
	if len(r.log) != 1 || !strings.HasPrefix(r.log[0], "0 LR ") {
		t.Errorf("log %q", r.log)
	}
	r.check()
}

func TestClose_WhenHealthCheckFails_ThenEveryResponseSaysClose(t *testing.T) {
	r := newRig(t, 1)
	r.env.FailHealth = true
	c := r.dial()
	c.write(get)
	r.turn()
	var u *peer
	r.serve(&u, ok3)
	got, _ := c.read()
	r.want("client", got, "connection: close\r\n")
}

func TestPanic_WhenAFilterPanics_ThenOnlyItsConnectionDies(t *testing.T) {
	r := newRig(t, 1)
	panics := 0
	loop.OnPanic = func(int, any) { panics++ }
	p := &probe{phases: filter.RequestHead}
	p.head = func(c *filter.Ctx, _ filter.Dir, h *httpmsg.Head, _ bool) filter.Verdict {
		if string(h.Path()) == "/boom" {
			panic("boom")
		}
		return filter.Continue
	}
	r.filters(p)
	good, bad := r.dial(), r.dial()
	bad.write("GET /boom HTTP/1.1\r\nHost: x\r\n\r\n")
	r.turn()
	if _, eof := bad.read(); !eof || panics != 1 || r.env.Panicked != 1 {
		t.Errorf("eof %v, %d panics, %d counted", eof, panics, r.env.Panicked)
	}
	good.write(get)
	r.turn()
	var u *peer
	r.serve(&u, ok3)
	got, _ := good.read()
	r.want("good client", got, "200 OK")
	r.check()
}
