// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"strings"
	"testing"

	"sidecar/dataplane/conn"
	"sidecar/dataplane/route"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/stats"
)

// These are defects that the soak found, or a reading of the code; each test is the shortest way to one of them.

func TestMirror_WhenItsConnectionIsIdle_ThenThePrimaryRequestIsUntouched(t *testing.T) {
	r := newRig(t, 1)
	shadow := newBackend(t)
	r.cluster("two", shadow.Addr)
	r.route().Forward.Mirrors = []route.Mirror{{Cluster: r.in.Cluster("two")}}
	c := r.dial()
	const req = "POST / HTTP/1.1\r\nhost: a\r\nx-id: 1\r\ncontent-length: 5\r\n\r\nhello"
	var up, mir *peer
	for i := range 3 {
		c.write(req)
		r.turn()
		if up == nil {
			up, mir = r.ups[0].accept(), shadow.accept()
			r.turn()
		}
		got, _ := up.read()
		if !strings.HasPrefix(got, "POST / HTTP/1.1\r\nhost: a\r\n") || !strings.HasSuffix(got, "\r\n\r\nhello") || strings.Contains(got, "shadow") {
			t.Fatalf("request %d reached the upstream as\n%s", i, got)
		}
		copied, _ := mir.read()
		if !strings.HasPrefix(copied, "POST / HTTP/1.1\r\nhost: a-shadow\r\n") || !strings.HasSuffix(copied, "\r\n\r\nhello") {
			t.Fatalf("request %d reached the mirror as\n%s", i, copied)
		}
		for _, p := range []*peer{up, mir} {
			p.write("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
		}
		r.turn()
		if got, _ := c.read(); !strings.HasPrefix(got, "HTTP/1.1 200 OK\r\n") {
			t.Fatalf("answer %d is %q", i, got)
		}
	}
	r.check()
}

func TestRelay_WhenGatheredPiecesExceedASmallBufferLimit_ThenItGoesOn(t *testing.T) {
	chunks := strings.Repeat("64\r\n"+strings.Repeat("x", 100)+"\r\n", 300) + "0\r\n\r\n"
	t.Run("response", func(t *testing.T) {
		r := newRig(t, 1)
		r.lis.BufferLimit = 1000
		c := r.dial()
		c.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n")
		r.turn()
		up := r.ups[0].accept()
		r.turn()
		up.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunks)
		r.turn()
		if got, _ := c.read(); !strings.HasSuffix(got, "\r\n0\r\n\r\n") {
			t.Errorf("the answer stops after %d bytes", len(got))
		}
		r.check()
	})
	t.Run("request", func(t *testing.T) {
		r := newRig(t, 1)
		r.row.BufferLimit = 1000
		c := r.dial()
		c.write("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n" + chunks)
		r.turn()
		up := r.ups[0].accept()
		r.turn()
		if got, _ := up.read(); !strings.HasSuffix(got, "\r\n0\r\n\r\n") {
			t.Errorf("the request stops after %d bytes", len(got))
		}
		up.write("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
		r.turn()
		r.check()
	})
}

func TestRequestBody_WhenItIsMalformedAfterTheAnswerBegan_ThenTheConnectionEnds(t *testing.T) {
	r := newRig(t, 1)
	c := r.dial()
	c.write("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n")
	r.turn()
	up := r.ups[0].accept()
	r.turn()
	up.write("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello")
	r.turn()
	c.write("no chunk\r\n")
	r.turn()
	got, eof := c.read()
	if !eof || !strings.HasSuffix(got, "hello") {
		t.Errorf("got %q, end %v", got, eof)
	}
	if n := len(r.log); n != 1 {
		t.Errorf("%d log lines", n)
	}
	c.closeWrite()
	r.turn()
	r.check()
}

func TestPerTryTimeout_WhenTheTryHasFailedAlready_ThenItDoesNotFireInTheBackOff(t *testing.T) {
	r := newRig(t, 1)
	f := r.route().Forward
	f.Retry = &route.Retry{On: route.Retry5xx, Num: 3, MaxSelect: 1, PerTry: 10 * sys.Millisecond, Base: 10 * sys.Second, Max: 10 * sys.Second}
	c := r.dial()
	c.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n")
	r.turn()
	up := r.ups[0].accept()
	r.turn()
	up.write("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")
	r.turn()
	r.wait(11 * sys.Millisecond)
	if n := r.clusterStat(stats.ClusterUpstreamRqPerTryTimeout); n != 0 {
		t.Errorf("%d per-try timeouts without a try", n)
	}
	if n := r.clusterStat(stats.ClusterUpstreamRqRetry); n != 1 {
		t.Errorf("%d retries, want 1", n)
	}
	c.close()
	r.turn()
	r.check()
}

func TestInternalRedirect_When303TurnsAPostIntoAGet_ThenTheKeptBodyIsNotSent(t *testing.T) {
	r := newRig(t, 1)
	f := r.route().Forward
	f.Retry = &route.Retry{On: route.Retry5xx, Num: 1, MaxSelect: 1} // keeps bodies
	f.InternalRedirect = &route.InternalRedirect{Max: 1, Codes: []uint32{303}}
	c := r.dial()
	c.write("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 28\r\n\r\n")
	r.turn()
	up := r.ups[0].accept()
	r.turn()
	c.write("GET /smuggled HTTP/1.1\r\nh: a\r\n") // the body, in a read of its own, so that it is kept
	r.turn()
	up.read()
	up.write("HTTP/1.1 303 See Other\r\nlocation: http://a/next\r\ncontent-length: 0\r\n\r\n")
	r.turn()
	if p := r.ups[0].accept(); p != nil {
		up = p
		r.turn()
	}
	got, _ := up.read()
	if !strings.HasPrefix(got, "GET /next HTTP/1.1\r\n") || strings.Contains(got, "smuggled") {
		t.Errorf("after the redirect came\n%s", got)
	}
	c.close()
	r.turn()
	r.check()
}

// flood is a kernel whose sockets have left bytes to read that came before the last edge.
type flood struct {
	sys.Kernel
	left int
}

func (k *flood) Recv(fd sys.FD, b []byte) (int, sys.Errno) {
	if k.left == 0 {
		return k.Kernel.Recv(fd, b)
	}
	n := min(len(b), k.left)
	k.left -= n
	return n, 0
}

func TestLinger_WhenMoreWaitsThanOneRunReads_ThenItGoesOnWithoutAnotherEdge(t *testing.T) {
	r := newRig(t, 1)
	r.route().Kind, r.route().Forward, r.route().Direct = route.ActionDirect, nil, &route.Direct{Status: 200}
	c := r.dial()
	c.write("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000000\r\n\r\n")
	r.turn()
	k := &flood{Kernel: r.l.K, left: 2 * maxMove}
	r.l.K = k
	c.write("x")
	c.closeWrite()
	r.turn()
	if k.left > 0 || r.gone != 1 {
		t.Errorf("%d bytes are not read, %d connections ended", k.left, r.gone)
	}
	r.check()
}

func TestWebSocket_WhenTheServerEndsWhileTheClientSends_ThenTheClientIsNotReset(t *testing.T) {
	r := newRig(t, 1)
	r.hcm.Upgrades = []snapshot.HCMUpgrade{{Type: "websocket", Enabled: true}}
	c := r.dial()
	c.write("GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
	r.turn()
	up := r.ups[0].accept()
	r.turn()
	up.write("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nbye")
	r.turn()
	up.close()
	r.turn()
	got, eof := c.read()
	if !eof || !strings.HasSuffix(got, "\r\n\r\nbye") {
		t.Errorf("got %q, end %v", got, eof)
	}
	if _, full := writeSome(c, []byte("late")); full {
		t.Error("the client's last bytes broke its connection: what it has not read yet is lost with it")
	}
	r.turn()
	c.closeWrite()
	r.turn()
	if r.gone != 1 {
		t.Error("the connection is still there")
	}
	r.check()
}

func TestReset_WhenAnAnswerBreaksOffBeforePipelinedRequests_ThenEarlierAnswersAreNotLost(t *testing.T) {
	r := newRig(t, 1)
	c := r.dial()
	const req = "GET / HTTP/1.1\r\nhost: a\r\n\r\n"
	c.write(req + req)
	r.turn()
	up := r.ups[0].accept()
	r.turn()
	up.write("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfirst")
	r.turn()
	up.write("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nseco")
	up.close()
	r.turn()
	c.write(req) // bytes that nobody reads turn a close into a RST
	r.turn()
	got, _ := c.read()
	if !strings.Contains(got, "\r\n\r\nfirst") || !strings.HasSuffix(got, "\r\n\r\nseco") {
		t.Errorf("got %q", got)
	}
	if _, full := writeSome(c, []byte(req)); full {
		t.Error("the client's connection is reset")
	}
	c.closeWrite()
	r.turn()
	if r.gone != 1 {
		t.Error("the connection is still there")
	}
	r.check()
}

func TestRetry_WhenItsClusterWasReplacedMeanwhile_ThenNoConnectionStaysBehind(t *testing.T) {
	r := newRig(t, 1)
	r.route().Forward.Retry = &route.Retry{On: route.Retry5xx, Num: 1, MaxSelect: 1, Base: 10 * sys.Second, Max: 10 * sys.Second}
	c := r.dial()
	c.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n")
	r.turn()
	up := r.ups[0].accept()
	r.turn()
	up.write("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")
	r.turn()
	r.row = r.cluster("c", r.ups[0].Addr)
	r.publish()
	r.turn()
	r.wait(2 * sys.Second) // the replaced cluster has no connection left and is forgotten
	r.wait(10 * sys.Second)
	if up = r.ups[0].accept(); up == nil {
		t.Fatal("no second try")
	}
	r.turn()
	up.write("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
	r.turn()
	if got, _ := c.read(); !strings.HasPrefix(got, "HTTP/1.1 200 OK\r\n") {
		t.Fatalf("got %q", got)
	}
	if n := r.clusterStat(stats.ClusterUpstreamCxActive); n != 0 {
		t.Errorf("%d idle connections of a cluster that is gone", n)
	}
	r.check()
}

func TestInformational_WhenTheUpstreamSendsThemWithoutEnd_ThenNoMemoryIsKept(t *testing.T) {
	r := newRig(t, 1)
	c := r.dial()
	c.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n")
	r.turn()
	up := r.ups[0].accept()
	r.turn()
	flood := strings.Repeat("HTTP/1.1 103 Early Hints\r\nlink: "+strings.Repeat("x", 900)+"\r\n\r\n", 20)
	for range 50 {
		up.write(flood)
		r.turn()
	}
	r.left.Each(func(m *conn.Member) {
		if n := m.H.(*Server).x.respA.Len(); n > arenaKeep {
			t.Errorf("%d bytes are kept", n)
		}
	})
	up.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
	r.turn()
	if got, _ := c.read(); !strings.HasPrefix(got, "HTTP/1.1 200 OK\r\n") || !strings.HasSuffix(got, "\r\n\r\nok") {
		t.Errorf("got %q", got)
	}
	r.check()
}

func TestInternalRedirect_WhenLocationHasABlank_ThenItIsNotFollowed(t *testing.T) {
	for _, loc := range []string{"http://a/next HTTP/1.1", "http://a/a b", "http://a/\x7f", "http://a/\xff"} {
		if _, _, _, ok := splitURL([]byte(loc)); ok {
			t.Errorf("%q would be sent", loc)
		}
	}
}

func TestInternalRedirect_WhenTheNewRouteHasNoRetries_ThenThoseOfTheOldOneAreGone(t *testing.T) {
	r := newRig(t, 1)
	f := r.route().Forward
	f.Retry = &route.Retry{On: route.Retry5xx, Num: 3, MaxSelect: 1}
	f.InternalRedirect = &route.InternalRedirect{Max: 1, Codes: []uint32{302}}
	c := r.dial()
	c.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n")
	r.turn()
	up := r.ups[0].accept()
	r.turn()
	up.read()
	f.Retry = nil // as the route that the redirect leads to
	up.write("HTTP/1.1 302 Found\r\nlocation: http://a/next\r\ncontent-length: 0\r\n\r\n")
	r.turn()
	up.read()
	up.write("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n")
	r.turn()
	if got, _ := c.read(); !strings.HasPrefix(got, "HTTP/1.1 503") {
		t.Errorf("the client got\n%s", got)
	}
	c.close()
	r.turn()
	r.check()
}
