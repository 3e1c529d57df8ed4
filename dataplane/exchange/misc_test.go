// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"bytes"
	"strings"
	"testing"

	"sidecar/dataplane/conn"
	"sidecar/dataplane/filter"
	"sidecar/dataplane/hostset"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/lb"
	"sidecar/dataplane/loop"
	"sidecar/dataplane/route"
	"sidecar/dataplane/snapshot"
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

func TestReconcile_WhenHostsAndClustersChange_ThenPoolsFollow(t *testing.T) {
	r := newRig(t, 2)
	r.row = r.cluster("c", r.ups[0].addr)
	c := r.dial()
	c.write(get)
	r.turn()
	var u *peer
	r.serve(&u, ok3)
	c.read()

	// The host is replaced: its idle connection goes, the next request uses the new one.
	spec := lb.Default(lb.RoundRobin)
	row := *r.row
	row.Hosts = spec.Build(row.Hosts, hostset.Input{Localities: []hostset.LocalityInput{{Endpoints: []hostset.Endpoint{{Addr: r.ups[1].addr}}}}})
	r.rowOf["c"], r.row = &row, &row
	r.publish()
	r.wait(100 * sys.Millisecond)
	if _, eof := u.read(); !eof {
		t.Error("the connection to the removed host is still open")
	}
	c.write(get)
	r.turn()
	u2 := r.ups[1].accept()
	if u2 == nil {
		t.Fatal("the new host was not used")
	}
	u2.read()

	// The cluster changes while the request is in flight: the request ends well, then its connection goes.
	cfg := *row.ClusterConfig
	next := row
	next.ClusterConfig = &cfg
	r.rowOf["c"], r.row = &next, &next
	r.publish()
	u2.write(ok3)
	r.turn()
	got, _ := c.read()
	r.want("client", got, "200 OK")
	if _, eof := u2.read(); !eof {
		t.Error("the connection of the replaced cluster is still open")
	}

	// The cluster goes: 503 NC.
	b := snapshot.NewBuilder(r.env.Snap, r.in)
	b.SetCluster(next.Ref, nil)
	s := b.Freeze()
	r.env.Up.Reconcile(r.env.Snap, s)
	r.env.Snap = s
	c.write(get)
	r.turn()
	got, _ = c.read()
	r.want("client", got, "503 Service Unavailable", "content-length: 0\r\n")
	if l := r.log[len(r.log)-1]; !strings.HasPrefix(l, "503 NC cluster_not_found") {
		t.Errorf("log %q", l)
	}
	r.wait(10 * sys.Second)
	r.check()
}

func TestOriginalDst_WhenDestinationsVary_ThenHostsOnDemandAndCleanedUp(t *testing.T) {
	r := newRig(t, 1)
	row := *r.cluster("c")
	cfg := *row.ClusterConfig
	cfg.Type, cfg.CleanupInterval = snapshot.ClusterOriginalDst, sys.Second
	cfg.OrigDst = &snapshot.OriginalDst{}
	row.ClusterConfig = &cfg
	r.rowOf["c"], r.row = &row, &row
	r.publish()
	c := r.dial()
	info := r.server().Place.Info
	side := *info.ConnSide
	side.Local = r.ups[0].addr // where the client meant to go
	info.ConnSide = &side
	c.write(get)
	r.turn()
	var u *peer
	r.serve(&u, ok3)
	got, _ := c.read()
	r.want("client", got, "200 OK")
	r.wait(3 * sys.Second)
	if _, eof := u.read(); !eof {
		t.Error("the on-demand host was not cleaned up")
	}
	r.check()
}

func TestEarlyAnswer_WhenUpstreamAnswersAndCloses_ThenTheAnswerArrives(t *testing.T) {
	r := newRig(t, 1)
	r.row.BufferLimit = 32 << 10
	c := r.dial()
	c.write("POST /big HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n")
	r.turn()
	u := r.ups[0].accept()
	c.write(strings.Repeat("x", 100000))
	r.turn()
	u.write("HTTP/1.1 413 no\r\ncontent-length: 4\r\n\r\nfull")
	u.close() // with unread bytes: RST
	r.turn()
	got, _ := c.read()
	r.want("client", got, "413 Payload Too Large", "connection: close\r\n", "\r\n\r\nfull")
	c.close()
	r.turn()
	r.check()
}

func TestBackPressure_WhenTheClientDoesNotRead_ThenTheUpstreamIsNotRead(t *testing.T) {
	r := newRig(t, 1)
	r.lis.BufferLimit = 32 << 10
	c := r.dial()
	c.write(get)
	r.turn()
	u := r.ups[0].accept()
	u.read()
	u.write("HTTP/1.1 200 OK\r\ncontent-length: 50000000\r\n\r\n")
	sent := 0
	chunk := []byte(strings.Repeat("y", 64<<10))
	for range 2000 {
		n, err := writeSome(u, chunk)
		sent += n
		r.turn()
		if err {
			break
		}
	}
	if sent > 4<<20 {
		t.Errorf("%d bytes were taken from the upstream although the client reads nothing", sent)
	}
	total := 0
	for total < 50000000 {
		got, eof := c.read()
		total += len(got)
		if eof {
			t.Fatalf("closed after %d bytes", total)
		}
		r.turn()
		if sent < 50000000 {
			n, _ := writeSome(u, chunk[:min(len(chunk), 50000000-sent)])
			sent += n
			r.turn()
		} else if got == "" {
			break
		}
	}
	if total < 50000000 {
		t.Errorf("client got %d bytes", total)
	}
	r.check()
}

func TestLocalReply_WhenMapped_ThenStatusBodyAndHeadersChange(t *testing.T) {
	r := newRig(t, 1)
	f := httpmsg.KeyOf("x-mapped")
	r.hcm.LocalReply = &snapshot.LocalReply{Mappers: []snapshot.LocalReplyMapper{{Status: 418, HasBody: true, Body: []byte("teapot"),
		Headers: route.Mutations{Response: route.HeaderOps{Add: []route.HeaderOp{{Key: f, Literal: "yes"}}}}}}}
	r.vh.Domains = []string{"other"}
	c := r.dial()
	c.write(get)
	r.turn()
	got, _ := c.read()
	r.want("client", got, "HTTP/1.1 418 Unknown", "x-mapped: yes\r\n", "\r\n\r\nteapot")
	if !strings.HasPrefix(r.log[0], "418 NR route_not_found") {
		t.Errorf("log %q", r.log)
	}
}

func TestDirect_WhenRedirectOrBody_ThenEnvoysForm(t *testing.T) {
	for _, c := range []struct {
		name  string
		entry route.Entry
		req   string
		want  []string
		not   string
	}{
		{"redirect", route.Entry{Kind: route.ActionRedirect, Redirect: &route.Redirect{Host: "h.test", Code: 301}}, get,
			[]string{"301 Moved Permanently", "location: http://h.test/a?b=c\r\n", "content-length: 0\r\n"}, "connection: close"},
		{"redirect of HEAD", route.Entry{Kind: route.ActionRedirect, Redirect: &route.Redirect{Host: "h.test", Code: 301}},
			"HEAD /a HTTP/1.1\r\nHost: x.test\r\n\r\n", []string{"location: ", "transfer-encoding: chunked\r\n"}, "content-length"},
		{"redirect with unread body", route.Entry{Kind: route.ActionRedirect, Redirect: &route.Redirect{Host: "h.test", Code: 301}}, post5,
			[]string{"connection: close\r\n"}, "chunked"},
		{"direct", route.Entry{Kind: route.ActionDirect, Direct: &route.Direct{Status: 200, Body: []byte("hello")}}, get,
			[]string{"content-length: 5\r\n", "content-type: text/plain\r\n", "\r\n\r\nhello"}, "location"},
		{"direct 204", route.Entry{Kind: route.ActionDirect, Direct: &route.Direct{Status: 204, Body: []byte("hello")}}, get,
			[]string{"204 No Content"}, "hello"},
		{"direct 302", route.Entry{Kind: route.ActionDirect, Direct: &route.Direct{Status: 302}}, get,
			[]string{"location: http://x.test/a?b=c\r\n"}, "connection"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, 1)
			e := c.entry
			e.Path, e.Name = route.PathMatch{Kind: route.PathPrefix, Text: "/"}, "d"
			r.vh.Routes = []*route.Entry{&e}
			p := r.dial()
			p.write(c.req)
			r.turn()
			got, _ := p.read()
			r.want("client", got, c.want...)
			if strings.Contains(got, c.not) {
				t.Errorf("%q in\n%s", c.not, got)
			}
			r.check()
		})
	}
}

func TestHash_WhenCookieIsMissing_ThenTheResponseSetsIt(t *testing.T) {
	r := newRig(t, 1)
	r.route().Forward.Hash = []route.HashPolicy{{Kind: route.HashCookie, Cookie: "sid", TTL: 30 * sys.Second, Path: "/p"}}
	c := r.dial()
	c.write(get)
	r.turn()
	var u *peer
	r.serve(&u, ok3)
	got, _ := c.read()
	r.want("client", got, "set-cookie: sid=\"", "; Max-Age=30; Path=/p; HttpOnly\r\n")
}

func TestMutations_WhenRouteHasThem_ThenUpstreamResponsesAndRouterRepliesGetThem(t *testing.T) {
	r := newRig(t, 1)
	op := func(name string) route.HeaderOps {
		return route.HeaderOps{Add: []route.HeaderOp{{Key: httpmsg.KeyOf(name), Literal: "1"}}}
	}
	r.route().Mutations = route.Mutations{Request: op("x-req"), Response: op("x-resp")}
	c := r.dial()
	c.write(get)
	r.turn()
	var u *peer
	r.want("upstream", r.serve(&u, ok3), "x-req: 1\r\n")
	got, _ := c.read()
	r.want("client", got, "x-resp: 1\r\n")
	c.write(get)
	r.turn()
	u.close()
	r.turn()
	got, _ = c.read()
	r.want("client", got, "503 ", "x-resp: 1\r\n")
}

func TestPipeline_WhenManyRequestsComeAtOnce_ThenAnsweredInOrder(t *testing.T) {
	r := newRig(t, 1)
	e := r.route()
	e.Kind, e.Forward, e.Direct = route.ActionDirect, nil, &route.Direct{Status: 200, Body: []byte("d")}
	c := r.dial()
	c.write(strings.Repeat(get, 100))
	r.turn()
	got, _ := c.read()
	if n := strings.Count(got, "\r\n\r\nd"); n != 100 {
		t.Errorf("%d answers", n)
	}
	if len(r.log) != 100 {
		t.Errorf("%d log lines", len(r.log))
	}
	r.check()
}

func TestPipeline_WhenTheClientDoesNotRead_ThenRequestsWait(t *testing.T) {
	r := newRig(t, 1)
	r.lis.BufferLimit = 16 << 10
	e := r.route()
	e.Kind, e.Forward, e.Direct = route.ActionDirect, nil, &route.Direct{Status: 200, Body: bytes.Repeat([]byte("d"), 4096)}
	c := r.dial()
	req := []byte(strings.Repeat(get, 50))
	asked := 0
	for range 100 {
		n, full := writeSome(c, req)
		asked += n
		r.turn()
		if full || n < len(req) {
			break
		}
	}
	if len(r.log) >= asked/len(get) && asked/len(get) > 200 {
		t.Errorf("all %d requests were answered into a full connection", len(r.log))
	}
	answers := 0
	for range 1000 {
		got, _ := c.read()
		answers += strings.Count(got, "200 OK")
		r.turn()
	}
	if answers != asked/len(get) {
		t.Errorf("%d answers to %d requests", answers, asked/len(get))
	}
	c.close()
	r.turn()
	r.check()
}

func TestIdle_WhenTheClientDoesNotReadTheLastResponse_ThenStreamIdleEndsIt(t *testing.T) {
	r := newRig(t, 1)
	r.hcm.ConnIdle = 0
	r.lis.BufferLimit = 8 << 20
	c := r.dial()
	c.write(get)
	r.turn()
	u := r.ups[0].accept()
	u.read()
	u.write("HTTP/1.1 200 OK\r\ncontent-length: 4000000\r\n\r\n")
	body := bytes.Repeat([]byte("z"), 64<<10)
	for sent := 0; sent < 4000000; {
		n, _ := writeSome(u, body[:min(len(body), 4000000-sent)])
		sent += n
		r.turn()
	}
	if len(r.log) != 1 {
		t.Fatalf("log %q", r.log)
	}
	r.wait(301 * sys.Second)
	r.wait(301 * sys.Second)
	if r.env.Connections() != 0 {
		t.Error("the connection is still there")
	}
	r.check()
}

func TestPool_WhenThereAreTooManyPools_ThenNoHealthyUpstream(t *testing.T) {
	r := newRig(t, 1)
	r.logs("%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %UPSTREAM_HOST%")
	r.row.Breakers[0].MaxPools = 0
	c := r.dial()
	c.write("GET / HTTP/1.1\r\nhost: x.test\r\n\r\n")
	r.turn()
	if want := "503 UH no_healthy_upstream -"; len(r.log) != 1 || r.log[0] != want {
		t.Errorf("log %q, want %q", r.log, want)
	}
	for id, want := range map[int]int64{stats.ClusterUpstreamCxPoolOverflow: 1, stats.ClusterUpstreamCxNoneHealthy: 0} {
		if v := r.clusterStat(id); v != want {
			t.Errorf("counter %d is %d, want %d", id, v, want)
		}
	}
	r.check()
}
