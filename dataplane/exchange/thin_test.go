// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"testing"

	"sidecar/internal/telemetry/stats"
)

const get = "GET /a?b=c HTTP/1.1\r\nHost: x.test\r\nUser-Agent: t\r\n\r\n"

const upGet = "GET /a?b=c HTTP/1.1\nhost: x.test\nuser-agent: t\nx-forwarded-proto: http\nx-request-id: #\n" +
	"x-envoy-expected-rq-timeout-ms: 15000\n\n"

const ok3 = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\nserver: me\r\n\r\nabc"

const downOK3 = "HTTP/1.1 200 OK\ncontent-length: 3\nserver: envoy\nx-envoy-upstream-service-time: #\ndate: #\n\nabc"

func TestExchange_WhenKeepAliveGets_ThenProxiedOnOneUpstreamConnection(t *testing.T) {
	r := newRig(t, 1)
	c := r.dial()
	var u *peer
	for i := range 3 {
		c.write(get)
		r.turn()
		if u == nil {
			if u = r.ups[0].accept(); u == nil {
				t.Fatal("no upstream connection")
			}
		}
		got, _ := u.read()
		r.expect("upstream request", got, upGet)
		u.write(ok3)
		r.turn()
		got, eof := c.read()
		r.expect("response", got, downOK3)
		if eof {
			t.Fatalf("connection closed after request %d", i)
		}
	}
	if extra := r.ups[0].accept(); extra != nil {
		t.Error("a second upstream connection was made")
	}
	if len(r.log) != 3 || r.log[0] != "200 - via_upstream 0 3 attempts=1 route=r" {
		t.Errorf("log: %q", r.log)
	}
	for _, s := range []struct {
		name string
		got  int64
		want int64
	}{
		{"downstream_rq_total", r.hcmStat(stats.HCMDownstreamRqTotal), 3},
		{"downstream_rq_2xx", r.hcmStat(stats.HCMDownstreamRq2xx), 3},
		{"downstream_cx_total", r.hcmStat(stats.HCMDownstreamCxTotal), 1},
		{"upstream_rq_total", r.clusterStat(stats.ClusterUpstreamRqTotal), 3},
		{"upstream_cx_total", r.clusterStat(stats.ClusterUpstreamCxTotal), 1},
		{"upstream_rq_pending_total", r.clusterStat(stats.ClusterUpstreamRqPendingTotal), 1},
	} {
		if s.got != s.want {
			t.Errorf("%s = %d, want %d", s.name, s.got, s.want)
		}
	}
	r.check()
	c.close()
	r.turn()
	if r.gone != 1 || r.env.Connections() != 0 {
		t.Errorf("the connection did not leave: gone %d, live %d", r.gone, r.env.Connections())
	}
}

func TestExchange_WhenPost_ThenBodyGoesBothWays(t *testing.T) {
	r := newRig(t, 1)
	c := r.dial()
	c.write("POST /p HTTP/1.1\r\nHost: x.test\r\nContent-Length: 5\r\n\r\nhe")
	r.turn()
	u := r.ups[0].accept()
	got, _ := u.read()
	r.expect("head and start of the body", got, "POST /p HTTP/1.1\nhost: x.test\ncontent-length: 5\nx-forwarded-proto: http\nx-request-id: #\n"+
		"x-envoy-expected-rq-timeout-ms: 15000\n\nhe")
	c.write("llo")
	r.turn()
	got, _ = u.read()
	r.expect("rest of the body", got, "llo")
	u.write("HTTP/1.1 201 Created\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
	r.turn()
	got, _ = c.read()
	r.expect("response", got, "HTTP/1.1 201 Created\nx-envoy-upstream-service-time: #\ndate: #\nserver: envoy\ntransfer-encoding: chunked\n\n3\nabc\n")
	u.write("0\r\n\r\n")
	r.turn()
	got, _ = c.read()
	r.expect("end", got, "0\n\n")
	r.check()
}

func TestExchange_WhenNoRoute_Then404(t *testing.T) {
	r := newRig(t, 1)
	r.vh.Domains = []string{"other.test"}
	c := r.dial()
	c.write(get)
	r.turn()
	got, eof := c.read()
	r.expect("response", got, "HTTP/1.1 404 Not Found\ndate: #\nserver: envoy\ncontent-length: 0\n\n")
	if eof || len(r.log) != 1 || r.log[0] != "404 NR route_not_found 0 0 attempts=0 route=-" {
		t.Errorf("eof %v, log %q", eof, r.log)
	}
	r.check()
}
