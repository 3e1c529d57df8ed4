// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"sidecar/dataplane/filter"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/route"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
)

// probe is a filter whose every call is a function of the test.
type probe struct {
	phases filter.Phase
	head   func(c *filter.Ctx, d filter.Dir, h *httpmsg.Head, end bool) filter.Verdict
	data   func(c *filter.Ctx, d filter.Dir, b *filter.Data, end bool) filter.Verdict
	event  func(c *filter.Ctx, ev filter.Event) filter.Verdict
	final  func(c *filter.Ctx)
	made   int
	done   int
}

func (p *probe) Phases() filter.Phase        { return p.phases }
func (p *probe) New(*filter.Ctx) filter.HTTP { p.made++; return p }
func (p *probe) OnDone(c *filter.Ctx) {
	p.done++
	if p.final != nil {
		p.final(c)
	}
}
func (p *probe) OnTrailers(*filter.Ctx, filter.Dir, *httpmsg.Fields) filter.Verdict {
	return filter.Continue
}

func (p *probe) OnHead(c *filter.Ctx, d filter.Dir, h *httpmsg.Head, end bool) filter.Verdict {
	if p.head == nil {
		return filter.Continue
	}
	return p.head(c, d, h, end)
}

func (p *probe) OnData(c *filter.Ctx, d filter.Dir, b *filter.Data, end bool) filter.Verdict {
	if p.data == nil {
		return filter.Continue
	}
	return p.data(c, d, b, end)
}

func (p *probe) OnEvent(c *filter.Ctx, ev filter.Event) filter.Verdict {
	if p.event == nil {
		return filter.Continue
	}
	return p.event(c, ev)
}

func (r *rig) filters(ps ...*probe) {
	for _, p := range ps {
		r.hcm.Filters = append(r.hcm.Filters, snapshot.HTTPFilter{Name: "probe", Config: p})
	}
}

const post5 = "POST /a HTTP/1.1\r\nHost: x.test\r\nContent-Length: 5\r\n\r\nhello"

// serve answers the request that is at the first backend with resp and returns what the upstream had received.
func (r *rig) serve(u **peer, resp string) string {
	r.t.Helper()
	if *u == nil {
		if *u = r.ups[0].accept(); *u == nil {
			r.t.Fatal("no upstream connection")
		}
	}
	got, _ := (*u).read()
	(*u).write(resp)
	r.turn()
	return got
}

func (r *rig) want(what, text string, parts ...string) {
	r.t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			r.t.Errorf("%s: no %q in\n%s", what, p, text)
		}
	}
}

func TestFilter_WhenHeadsAreModified_ThenBothSidesSeeIt(t *testing.T) {
	r := newRig(t, 1)
	var order []string
	note := func(name string) *probe {
		return &probe{phases: filter.RequestHead | filter.ResponseHead, head: func(c *filter.Ctx, d filter.Dir, h *httpmsg.Head, _ bool) filter.Verdict {
			if d == filter.Request {
				order = append(order, "req "+name)
			} else {
				order = append(order, "resp "+name)
			}
			h.AddString(httpmsg.KeyOf("x-"+name), "1")
			return filter.Continue
		}}
	}
	a, b := note("a"), note("b")
	r.filters(a, b)
	c := r.dial()
	var u *peer
	for range 2 {
		c.write(get)
		r.turn()
		r.want("upstream", r.serve(&u, ok3), "x-a: 1\r\n", "x-b: 1\r\n")
		got, _ := c.read()
		r.want("client", got, "x-a: 1\r\n", "x-b: 1\r\n")
	}
	if got := strings.Join(order[:4], ", "); got != "req a, req b, resp b, resp a" {
		t.Errorf("order: %s", got)
	}
	if a.made != 2 || a.done != 2 {
		t.Errorf("made %d, done %d", a.made, a.done)
	}
	r.check()
}

func TestFilter_WhenPausedOnTheRequest_ThenNothingGoesUpstreamUntilItResumes(t *testing.T) {
	r := newRig(t, 1)
	var ctx *filter.Ctx
	p := &probe{phases: filter.RequestHead}
	p.head = func(c *filter.Ctx, _ filter.Dir, _ *httpmsg.Head, _ bool) filter.Verdict {
		ctx = c
		return filter.Pause
	}
	p.event = func(_ *filter.Ctx, ev filter.Event) filter.Verdict {
		if ev != filter.EventResume {
			t.Errorf("event %d", ev)
		}
		return filter.Continue
	}
	r.filters(p)
	c := r.dial()
	c.write(post5)
	r.turn()
	if r.ups[0].accept() != nil {
		t.Fatal("the request went upstream")
	}
	ctx.Resume()
	r.turn()
	var u *peer
	r.want("upstream", r.serve(&u, ok3), "\r\n\r\nhello")
	got, _ := c.read()
	r.want("client", got, "200 OK")
	r.check()
}

func TestFilter_WhenItWaitsForItsTimer_ThenItReplies(t *testing.T) {
	r := newRig(t, 1)
	p := &probe{phases: filter.RequestHead}
	p.head = func(c *filter.Ctx, _ filter.Dir, _ *httpmsg.Head, _ bool) filter.Verdict {
		c.Wake(c.Now + 50*sys.Millisecond)
		return filter.Pause
	}
	p.event = func(c *filter.Ctx, ev filter.Event) filter.Verdict {
		return c.SetReply(filter.Local{Status: 403, Body: []byte("denied"), Details: "probe_denied",
			Headers: []filter.Header{{Key: httpmsg.KeyOf("x-why"), Value: "late"}}})
	}
	r.filters(p)
	c := r.dial()
	c.write(get)
	r.turn()
	r.wait(40 * sys.Millisecond)
	if got, _ := c.read(); got != "" {
		t.Fatalf("early answer %q", got)
	}
	r.wait(20 * sys.Millisecond)
	got, _ := c.read()
	r.want("client", got, "403 Forbidden", "x-why: late\r\n", "\r\n\r\ndenied")
	if len(r.log) != 1 || !strings.HasPrefix(r.log[0], "403 - probe_denied") {
		t.Errorf("log %q", r.log)
	}
	if p.done != 1 {
		t.Errorf("done %d times", p.done)
	}
	r.check()
}

func TestFilter_WhenPausedClientLeaves_ThenDoneOnce(t *testing.T) {
	r := newRig(t, 1)
	p := &probe{phases: filter.RequestHead, head: func(*filter.Ctx, filter.Dir, *httpmsg.Head, bool) filter.Verdict { return filter.Pause }}
	r.filters(p)
	c := r.dial()
	c.write(get)
	r.turn()
	c.close()
	r.turn()
	if p.done != 1 || len(r.log) != 1 {
		t.Errorf("done %d times, log %q", p.done, r.log)
	}
	r.check()
}

func TestFilter_WhenRequestIsBuffered_ThenOneCallAndNewLength(t *testing.T) {
	const chunked = "POST /a HTTP/1.1\r\nHost: x.test\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
	for _, x := range []struct {
		req    string
		length bool // the filter wants to know the length
		want   [2]string
	}{
		{post5, false, [2]string{"content-length: 8\r\n", "\r\n\r\ngood bye"}},
		{chunked, true, [2]string{"content-length: 8\r\n", "\r\n\r\ngood bye"}},
		{chunked, false, [2]string{"transfer-encoding: chunked\r\n", "\r\n\r\n8\r\ngood bye\r\n0\r\n\r\n"}},
	} {
		req := x.req
		r := newRig(t, 1)
		calls := 0
		p := &probe{phases: filter.RequestHead | filter.RequestData}
		p.head = func(*filter.Ctx, filter.Dir, *httpmsg.Head, bool) filter.Verdict { return filter.Buffer }
		p.data = func(fc *filter.Ctx, _ filter.Dir, b *filter.Data, end bool) filter.Verdict {
			calls++
			if string(b.Bytes) != "hello" || !end {
				t.Errorf("data %q end %v", b.Bytes, end)
			}
			b.Set([]byte("good bye"))
			if x.length {
				fc.Req.Body = httpmsg.BodyLength
			}
			return filter.Continue
		}
		seen := []string{}
		watch := func(_ *filter.Ctx, _ filter.Dir, b *filter.Data, end bool) filter.Verdict {
			seen = append(seen, fmt.Sprint(string(b.Bytes), end))
			return filter.Continue
		}
		r.filters(&probe{phases: filter.RequestData, data: watch}, p, &probe{phases: filter.RequestData, data: watch})
		c := r.dial()
		for i := range len(req) {
			c.write(req[i : i+1])
			r.turn()
		}
		var u *peer
		got := r.serve(&u, ok3)
		r.want("upstream", got, x.want[0], x.want[1])
		if calls != 1 || strings.Join(seen, " ") != "hellotrue good byetrue" {
			t.Errorf("%d calls, the others saw %q", calls, seen)
		}
		r.check()
	}
}

func TestFilter_WhenBufferedRequestIsTooLarge_Then413(t *testing.T) {
	r := newRig(t, 1)
	r.lis.BufferLimit = 4
	r.filters(&probe{phases: filter.RequestHead | filter.RequestData,
		head: func(*filter.Ctx, filter.Dir, *httpmsg.Head, bool) filter.Verdict { return filter.Buffer }})
	c := r.dial()
	c.write(post5)
	r.turn()
	got, _ := c.read()
	r.want("client", got, "413 Payload Too Large", "connection: close\r\n")
	r.check()
}

func TestFilter_WhenResponseIsBuffered_ThenRewritten(t *testing.T) {
	r := newRig(t, 1)
	p := &probe{phases: filter.ResponseHead | filter.ResponseData}
	p.head = func(*filter.Ctx, filter.Dir, *httpmsg.Head, bool) filter.Verdict { return filter.Buffer }
	p.data = func(_ *filter.Ctx, _ filter.Dir, b *filter.Data, end bool) filter.Verdict {
		if !end {
			t.Error("not in one piece")
		}
		b.Set(bytes.ToUpper(append([]byte("<"), b.Bytes...)))
		return filter.Continue
	}
	r.filters(p)
	c := r.dial()
	c.write(get)
	r.turn()
	var u *peer
	r.serve(&u, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n")
	if got, _ := c.read(); got != "" {
		t.Fatalf("early %q", got)
	}
	u.write("1\r\nc\r\n0\r\n\r\n")
	r.turn()
	got, _ := c.read()
	r.want("client", got, "transfer-encoding: chunked\r\n", "\r\n\r\n4\r\n<ABC\r\n0\r\n\r\n")
	c.write(get)
	r.turn()
	r.serve(&u, ok3)
	got, _ = c.read()
	r.want("client", got, "content-length: 4\r\n", "\r\n\r\n<ABC")
	r.check()
}

func TestFilter_WhenAHeldResponseBreaksOff_ThenAReplyAndNoOtherTry(t *testing.T) {
	r := newRig(t, 1)
	r.route().Forward.Retry = &route.Retry{On: route.RetryReset | route.Retry5xx, Num: 3, MaxSelect: 1}
	r.filters(&probe{phases: filter.ResponseHead, head: func(*filter.Ctx, filter.Dir, *httpmsg.Head, bool) filter.Verdict { return filter.Buffer }})
	c := r.dial()
	c.write(get)
	r.turn()
	var u *peer
	r.serve(&u, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab")
	u.close()
	r.turn()
	got, _ := c.read()
	r.want("client", got, "502 Bad Gateway")
	if len(r.log) != 1 || !strings.Contains(r.log[0], "upstream_reset_after_response_started{") {
		t.Errorf("log %q", r.log)
	}
	r.check()
}

func TestFilter_WhenResponseHeadIsHeld_ThenReleasedByResume(t *testing.T) {
	r := newRig(t, 1)
	var ctx *filter.Ctx
	p := &probe{phases: filter.ResponseHead, head: func(c *filter.Ctx, _ filter.Dir, _ *httpmsg.Head, _ bool) filter.Verdict {
		ctx = c
		return filter.Pause
	}}
	r.filters(p, &probe{})
	c := r.dial()
	c.write(get)
	r.turn()
	var u *peer
	r.serve(&u, ok3)
	if got, _ := c.read(); got != "" {
		t.Fatalf("early %q", got)
	}
	ctx.Resume()
	r.turn()
	got, _ := c.read()
	r.want("client", got, "200 OK", "\r\n\r\nabc")
	r.check()
}

func TestFilter_WhenRouteIsCleared_ThenMatchedAgain(t *testing.T) {
	r := newRig(t, 1)
	r.vh.Routes = append([]*route.Entry{{Name: "other", Path: route.PathMatch{Kind: route.PathExact, Text: "/moved"}, Kind: route.ActionDirect,
		Direct: &route.Direct{Status: 200, Body: []byte("moved")}}}, r.vh.Routes...)
	r.filters(&probe{phases: filter.RequestHead, head: func(c *filter.Ctx, _ filter.Dir, h *httpmsg.Head, _ bool) filter.Verdict {
		if c.Route.Name != "r" {
			t.Errorf("first route %q", c.Route.Name)
		}
		h.SetPath([]byte("/moved"))
		c.ClearRoute()
		return filter.Continue
	}})
	c := r.dial()
	c.write(get)
	r.turn()
	got, _ := c.read()
	r.want("client", got, "\r\n\r\nmoved")
	r.check()
}

func TestFilter_WhenRouteDisablesIt_ThenSkippedAndConfigured(t *testing.T) {
	r := newRig(t, 1)
	r.route().PerFilter = []route.PerFilter{{Filter: "probe", Config: "mine"}}
	var seen any
	p := &probe{phases: filter.RequestHead, head: func(c *filter.Ctx, _ filter.Dir, _ *httpmsg.Head, _ bool) filter.Verdict {
		seen = c.PerRoute
		return filter.Continue
	}}
	r.filters(p)
	c := r.dial()
	var u *peer
	c.write(get)
	r.turn()
	r.serve(&u, ok3)
	if seen != "mine" {
		t.Errorf("per-route configuration %v", seen)
	}
	r.route().PerFilter[0].Disabled = true
	seen = nil
	c.write(get)
	r.turn()
	r.serve(&u, ok3)
	if seen != nil || p.done != 2 {
		t.Errorf("disabled filter saw %v, done %d", seen, p.done)
	}
	r.check()
}

func TestAllocs_WhenFiltersRun_ThenNone(t *testing.T) {
	r := newRig(t, 1)
	r.filters(&probe{phases: filter.RequestHead | filter.ResponseHead}, &probe{phases: filter.RequestData})
	c := r.dial()
	c.write(get)
	r.turn()
	u := r.ups[0].accept()
	u.read()
	u.write(ok3)
	r.turn()
	c.read()
	r.quiet = true
	buf, req, resp := make([]byte, 64<<10), []byte(get), []byte(ok3)
	for range 64 {
		r.roundTrip(c, u, req, resp, buf)
	}
	if n := testing.AllocsPerRun(200, func() { r.roundTrip(c, u, req, resp, buf) }); n != 0 {
		t.Errorf("%v allocations per request", n)
	}
}
