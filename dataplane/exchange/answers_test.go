// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"strings"
	"testing"

	"sidecar/dataplane/route"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/stats"
)

func TestUpgrade_WhenTheUpstreamDoesNotAnswer_ThenTheRouteTimeoutEndsIt(t *testing.T) {
	r := newRig(t, 1)
	r.hcm.Upgrades = []snapshot.HCMUpgrade{{Type: "websocket", Enabled: true}}
	c := r.dial()
	c.write("GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
	r.turn()
	r.wait(15100 * sys.Millisecond)
	got, _ := c.read()
	r.want("client", got, "HTTP/1.1 504 ", "connection: close\r\n", "upstream request timeout")
	r.check()
}

func TestHTTP10_WhenTheBodyEndsWithTheConnection_ThenFINComesAtOnce(t *testing.T) {
	r := newRig(t, 1)
	r.hcm.H1.AcceptHTTP10 = true
	c := r.dial()
	c.write("GET / HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\n")
	r.turn()
	var u *peer
	r.serve(&u, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
	got, eof := c.read()
	r.want("client", got, "\r\n\r\nabc")
	if !eof {
		t.Error("the client does not know that the body is complete")
	}
	r.check()
}

func TestInterim_WhenSeveralCome_ThenTheFirstIsCountedAndOne100PassedOn(t *testing.T) {
	r := newRig(t, 1)
	r.hcm.Proxy100Continue = true
	c := r.dial()
	c.write(get)
	r.turn()
	var u *peer
	r.serve(&u, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"+ok3)
	got, _ := c.read()
	if n := strings.Count(got, "100 Continue"); n != 1 {
		t.Errorf("%d of them:\n%s", n, got)
	}
	if n := r.hcmStat(stats.HCMDownstreamRqCompleted); n != 2 {
		t.Errorf("downstream_rq_completed is %d", n)
	}
	r.check()
}

func TestPerTryIdle_WhenTheBodyStops_ThenTheResponseIsCut(t *testing.T) {
	r := newRig(t, 1)
	r.route().Forward.Retry = &route.Retry{PerTryIdle: 100 * sys.Millisecond}
	c := r.dial()
	c.write(get)
	r.turn()
	var u *peer
	r.serve(&u, "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\na")
	r.wait(80 * sys.Millisecond)
	u.write("b")
	r.turn()
	r.wait(80 * sys.Millisecond)
	if len(r.log) != 0 {
		t.Fatalf("cut although it moved: %q", r.log)
	}
	r.wait(30 * sys.Millisecond)
	if len(r.log) != 1 || !strings.Contains(r.log[0], "200 UT upstream_per_try_idle_timeout") {
		t.Errorf("log %q", r.log)
	}
	if n := r.clusterStat(stats.ClusterUpstreamRqPerTryIdleTimeout); n != 1 {
		t.Errorf("upstream_rq_per_try_idle_timeout is %d", n)
	}
	r.check()
}

func TestVia_WhenThereAreSeveralLines_ThenTheyAreOneList(t *testing.T) {
	r := newRig(t, 1)
	r.hcm.Via = "edge"
	c := r.dial()
	c.write("GET / HTTP/1.1\r\nhost: a\r\nvia:\r\n\r\n")
	r.turn()
	var u *peer
	got := r.serve(&u, "HTTP/1.1 200 OK\r\nvia: 1.0 c\r\nvia: 1.1 d\r\ncontent-length: 0\r\n\r\n")
	r.want("upstream", got, "via: edge\r\n")
	down, _ := c.read()
	r.want("client", down, "via: 1.0 c,1.1 d, edge\r\n")
	r.check()
}

func TestReferer_WhenItCouldLeakOrMislead_ThenItIsRemoved(t *testing.T) {
	for in, want := range map[string]bool{"http://a/b": true, "/b": true, "b/c:d": true, "": true, "https://u:p@a/b": false, "http://a/b#c": false,
		"http://a#c": false, "about:blank": false, "http:///b": false, "http://a/b@c": true} {
		if got := validReferer([]byte(in)); got != want {
			t.Errorf("%q: %v", in, got)
		}
	}
}
