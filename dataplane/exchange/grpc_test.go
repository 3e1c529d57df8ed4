// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"fmt"
	"strings"
	"testing"

	"sidecar/dataplane/filter"
	"sidecar/dataplane/filters/http/grpcstats"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/snapshot"
	"sidecar/internal/telemetry/stats"
)

const grpcType = "application/grpc"

func TestGrpc_WhenTheProxyAnswersOverHTTP2_ThenTrailersOnly(t *testing.T) {
	r := newRig(t, 1)
	r.vh.Routes = nil
	c := r.dialH2()
	c.post(1, "/s/m", "content-type", grpcType)
	c.send()
	r.turn()
	got, _ := c.frames()
	r.want("client", got, "1 HEADERS end :status=200", "content-type=application/grpc", "grpc-status=12")
	r.check()
}

func TestGrpc_WhenAResponseEnds_ThenItsTrailersJudgeTheHost(t *testing.T) {
	head := []string{":status", "200", "content-type", grpcType}
	for _, x := range []struct {
		name     string
		play     func(u *h2peer)
		ok, fail uint64
		more     int64 // rq_reset_after_downstream_response_started
	}{
		{"status 0", func(u *h2peer) { u.headers(1, false, head...); u.headers(1, true, "grpc-status", "0") }, 1, 0, 0},
		{"status 5", func(u *h2peer) { u.headers(1, false, head...); u.headers(1, true, "grpc-status", "5") }, 1, 0, 0},
		{"status 13", func(u *h2peer) { u.headers(1, false, head...); u.headers(1, true, "grpc-status", "13") }, 0, 1, 0},
		{"no status", func(u *h2peer) { u.headers(1, false, head...); u.data(1, "x", true) }, 0, 1, 0},
		{"trailers only", func(u *h2peer) { u.headers(1, true, append(head, "grpc-status", "0")...) }, 1, 0, 0},
		{"trailers only 14", func(u *h2peer) { u.headers(1, true, append(head, "grpc-status", "14")...) }, 0, 1, 0},
		{"broken off", func(u *h2peer) { u.headers(1, false, head...); must(u.T, u.fr.WriteRSTStream(1, 2)) }, 0, 1, 1},
	} {
		t.Run(x.name, func(t *testing.T) {
			r := newRig(t, 1)
			r.row.Protocol = snapshot.UpstreamHTTP2
			c := r.dialH2()
			c.post(1, "/s/m", "content-type", grpcType)
			c.data(1, "hello", true)
			c.send()
			r.turn()
			u := r.acceptH2()
			x.play(u)
			u.send()
			r.turn()
			h := r.row.Hosts.Priorities[0].Hosts[0].Host
			if a, b := h.RqSuccess.Load(), h.RqError.Load(); a != x.ok || b != x.fail {
				t.Errorf("success %d, error %d", a, b)
			}
			if n := r.hcmStat(stats.HCMRqResetAfterDownstreamResponseStarted); n != x.more {
				t.Errorf("reset after the response began: %d", n)
			}
			r.check()
		})
	}
}

func TestGrpcStats_WhenCallsPass_ThenCountedByMethod(t *testing.T) {
	r := newRig(t, 1)
	r.row.Protocol = snapshot.UpstreamHTTP2
	r.hcm.Filters = []snapshot.HTTPFilter{{Name: "grpc_stats", Config: grpcstats.New(grpcstats.Config{AllMethods: true}, 1)}}
	c := r.dialH2()
	var u *h2peer
	call := func(id uint32) {
		c.post(id, "/pkg.Svc/M", "content-type", grpcType)
		c.data(id, "\x00\x00\x00", false)
		c.data(id, "\x00\x02hi\x00\x00\x00\x00\x00", true)
		c.send()
		r.turn()
		if u == nil {
			u = r.acceptH2()
		}
		u.headers(id, false, ":status", "200", "content-type", grpcType)
		u.data(id, "\x00\x00\x00\x00\x01", false)
		u.data(id, "x", false)
		u.headers(id, true, "grpc-status", "0")
		u.send()
		r.turn()
		if got, _ := c.frames(); !strings.Contains(got, fmt.Sprintf("%d HEADERS end grpc-status=0", id)) {
			t.Fatalf("call %d: %s", id, got)
		}
	}
	call(1)
	call(3)
	got := func(id int) int64 { return r.stat(stats.GrpcDef, "cluster.c.grpc.pkg.Svc.M.", id) }
	if a, b, n := got(stats.GrpcRequestMessageCount), got(stats.GrpcResponseMessageCount), got(stats.GrpcSuccess); a != 4 || b != 2 || n != 2 {
		t.Errorf("%d and %d messages, %d successes", a, b, n)
	}
	r.check()
}

// tail is a filter that adds to the content when the trailers come, and swallows them.
type tail struct {
	probe
	seen []string
}

func (f *tail) New(*filter.Ctx) filter.HTTP { return f }

func (f *tail) OnTrailers(c *filter.Ctx, d filter.Dir, tr *httpmsg.Fields) filter.Verdict {
	f.seen = append(f.seen, fmt.Sprint(d, " ", string(tr.Get(httpmsg.IDGrpcStatus))))
	if d == filter.Response {
		c.Added = []byte("<tail>")
		tr.List = tr.List[:0]
	}
	return filter.Continue
}

func TestFilter_WhenTrailersCome_ThenItMayTurnThemIntoContent(t *testing.T) {
	for _, buffered := range []bool{false, true} {
		r := newRig(t, 1)
		r.hcm.H1.EnableTrailers, r.row.H1.EnableTrailers = true, true
		f := &tail{probe: probe{phases: filter.RequestTrailers | filter.ResponseTrailers}}
		var upper []string
		r.filters(&probe{phases: filter.ResponseHead | filter.ResponseData, head: func(*filter.Ctx, filter.Dir, *httpmsg.Head, bool) filter.Verdict {
			if buffered {
				return filter.Buffer
			}
			return filter.Continue
		}})
		r.hcm.Filters = append(r.hcm.Filters, snapshot.HTTPFilter{Name: "tail", Config: f})
		r.filters(&probe{phases: filter.ResponseData, data: func(_ *filter.Ctx, _ filter.Dir, b *filter.Data, end bool) filter.Verdict {
			upper = append(upper, fmt.Sprint(string(b.Bytes), " ", end))
			return filter.Continue
		}})
		c := r.dial()
		c.write("POST /a HTTP/1.1\r\nHost: x.test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\ngrpc-status: 7\r\n\r\n")
		r.turn()
		var u *peer
		r.serve(&u, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\ngrpc-status: 9\r\n\r\n")
		got, _ := c.read()
		if buffered {
			r.want("client", got, "\r\n\r\n9\r\nabc<tail>\r\n0\r\n\r\n")
		} else {
			r.want("client", got, "2\r\nab\r\n1\r\nc\r\n6\r\n<tail>\r\n0\r\n\r\n")
		}
		if s := strings.Join(f.seen, ", "); s != "0 7, 1 9" {
			t.Errorf("trailers seen: %s", s)
		}
		if s := strings.Join(upper, ", "); s != "ab false, c false,  false" {
			t.Errorf("content seen above: %s", s)
		}
		r.check()
	}
}

func TestFilter_WhenContentEndsWithoutAByte_ThenItIsToldOnce(t *testing.T) {
	r := newRig(t, 1)
	ends := [2]int{}
	r.filters(&probe{phases: filter.RequestData | filter.ResponseData, data: func(_ *filter.Ctx, d filter.Dir, _ *filter.Data, end bool) filter.Verdict {
		if end {
			ends[d]++
		}
		return filter.Continue
	}})
	c := r.dial()
	c.write("POST /a HTTP/1.1\r\nHost: x.test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n")
	r.turn()
	var u *peer
	r.serve(&u, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n")
	if ends != [2]int{1, 1} {
		t.Errorf("ends %v", ends)
	}
	r.check()
}
