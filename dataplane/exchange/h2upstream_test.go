// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"strings"
	"testing"

	xh2 "golang.org/x/net/http2"

	"sidecar/dataplane/route"
	"sidecar/dataplane/snapshot"
	"sidecar/internal/telemetry/stats"
)

// newH2Rig has an upstream that speaks HTTP/2.
func newH2Rig(t testing.TB) *rig {
	r := newRig(t, 1)
	r.row.Protocol = snapshot.UpstreamHTTP2
	return r
}

// acceptH2 takes the next upstream connection and its preface.
func (r *rig) acceptH2() *h2peer {
	r.t.Helper()
	p := r.ups[0].accept()
	if p == nil {
		r.t.Fatal("no upstream connection")
	}
	u := r.h2(p, false)
	u.send()
	r.turn()
	text, _ := p.read()
	if !strings.HasPrefix(text, xh2.ClientPreface) {
		r.t.Fatalf("no preface: %q", text)
	}
	u.in.WriteString(text[len(xh2.ClientPreface):])
	return u
}

const upH2Get = " HEADERS end :method=GET :scheme=http :authority=x.test :path=/a?b=c user-agent=t x-forwarded-proto=http x-request-id=# " +
	"x-envoy-expected-rq-timeout-ms=15000"

func TestH2Upstream_WhenHTTP1Client_ThenTranslated(t *testing.T) {
	r := newH2Rig(t)
	c := r.dial()
	c.write(get)
	r.turn()
	u := r.acceptH2()
	r.wantFrames(u, "1"+upH2Get)
	u.headers(1, false, ":status", "200", "content-length", "3", "server", "me")
	u.data(1, "abc", true)
	u.send()
	r.turn()
	got, _ := c.read()
	r.expect("response", got, downOK3)
	c.write("POST /p HTTP/1.1\r\nHost: x.test\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\nConnection: te\r\n\r\n3\r\nhel\r\n")
	r.turn()
	got, _ = u.frames()
	if !strings.HasPrefix(got, "3 HEADERS :method=POST ") || !strings.HasSuffix(got, "\n3 DATA hel") || strings.Contains(got, "chunked") {
		t.Error(got)
	}
	c.write("2\r\nlo\r\n0\r\n\r\n")
	r.turn()
	r.wantFrames(u, "3 DATA end lo")
	u.headers(3, false, ":status", "200")
	u.data(3, "abc", false)
	u.headers(3, true, "x-t", "1")
	u.send()
	r.hcm.H1.EnableTrailers = true
	r.turn()
	got, _ = c.read()
	r.expect("response", got, "HTTP/1.1 200 OK\nx-envoy-upstream-service-time: #\ndate: #\nserver: envoy\ntransfer-encoding: chunked\n\n3\nabc\n0\nx-t: 1\n\n")
	for _, s := range []struct {
		id   int
		want int64
	}{{stats.ClusterUpstreamCxHTTP2Total, 1}, {stats.ClusterUpstreamCxTotal, 1}, {stats.ClusterUpstreamRqTotal, 2}, {stats.ClusterUpstreamCxHTTP1Total, 0}} {
		if n := r.clusterStat(s.id); n != s.want {
			t.Errorf("%s is %d, want %d", stats.ClusterDef.Stats[s.id].Name, n, s.want)
		}
	}
	r.check()
	u.close()
	r.turn()
	if n := r.clusterStat(stats.ClusterUpstreamCxActive); n != 0 || r.env.Mux.Streams() != 0 {
		t.Errorf("%d connections, %d streams", n, r.env.Mux.Streams())
	}
}

func TestH2Upstream_WhenHTTP2Client_ThenStreamsShareAConnection(t *testing.T) {
	r := newH2Rig(t)
	c := r.dialH2()
	for i := range uint32(4) {
		c.post(1+2*i, "/s", "content-type", "application/grpc", "te", "trailers")
		c.data(1+2*i, "req", true)
	}
	c.send()
	r.turn()
	u := r.acceptH2()
	if p := r.ups[0].accept(); p != nil {
		t.Fatal("a second connection")
	}
	got, _ := u.frames()
	if n := strings.Count(got, "DATA end req"); n != 4 {
		t.Fatal(got)
	}
	for i := range uint32(4) {
		u.headers(1+2*i, false, ":status", "200", "content-type", "application/grpc")
		u.data(1+2*i, "resp", false)
		u.headers(1+2*i, true, "grpc-status", "0")
	}
	u.send()
	r.k.Sends = 0
	r.turn()
	got, _ = c.frames()
	if n := strings.Count(got, "DATA resp\n"); n != 4 || strings.Count(got, "HEADERS end grpc-status=0") != 4 {
		t.Error(got)
	}
	if r.k.Sends != 1 {
		t.Errorf("%d writes", r.k.Sends)
	}
	r.check()
}

func TestH2Upstream_WhenThePeerTakesFewStreams_ThenAnotherConnection(t *testing.T) {
	r := newH2Rig(t)
	c := r.dialH2()
	c.get(1, "/1")
	c.send()
	r.turn()
	p := r.ups[0].accept()
	u := r.h2(p, false)
	u.out.Reset()
	must(t, u.fr.WriteSettings(xh2.Setting{ID: xh2.SettingMaxConcurrentStreams, Val: 1}))
	must(t, u.fr.WriteSettingsAck())
	u.send()
	r.turn()
	c.get(3, "/2")
	c.send()
	r.turn()
	v := r.acceptH2()
	got, _ := v.frames()
	if !strings.Contains(got, ":path=/2") {
		t.Error(got)
	}
	c.close()
	r.turn()
	r.check()
}

func TestH2Upstream_WhenTheStreamIsRefused_ThenSentAgain(t *testing.T) {
	for _, how := range []string{"refused", "goaway"} {
		r := newH2Rig(t)
		c := r.dial()
		c.write(get)
		r.turn()
		u := r.acceptH2()
		r.wantFrames(u, "1"+upH2Get)
		next, id := u, uint32(3)
		if how == "refused" {
			must(t, u.fr.WriteRSTStream(1, xh2.ErrCodeRefusedStream))
			u.send()
			r.turn()
		} else {
			must(t, u.fr.WriteGoAway(0, xh2.ErrCodeNo, nil))
			u.send()
			r.turn()
			next, id = r.acceptH2(), 1
		}
		got, _ := next.frames()
		if !strings.Contains(got, " HEADERS end :method=GET") {
			t.Fatalf("%s: %s", how, got)
		}
		next.headers(id, true, ":status", "204")
		next.send()
		r.turn()
		if got, _ := c.read(); !strings.HasPrefix(got, "HTTP/1.1 204 ") {
			t.Errorf("%s: %s", how, got)
		}
		r.check()
	}
}

func TestH2Upstream_WhenTheStreamIsReset_Then503OrCutOrRetry(t *testing.T) {
	r := newH2Rig(t)
	c := r.dial()
	c.write(get)
	r.turn()
	u := r.acceptH2()
	must(t, u.fr.WriteRSTStream(1, xh2.ErrCodeInternal))
	u.send()
	r.turn()
	got, _ := c.read()
	r.want("client", got, "HTTP/1.1 503 ", "reset reason: remote reset")
	if !strings.HasPrefix(r.log[0], "503 UR upstream_reset_before_response_started{remote_reset}") {
		t.Error(r.log)
	}
	c.write(get)
	r.turn()
	u.headers(3, false, ":status", "200", "content-length", "10")
	u.data(3, "hello", false)
	must(t, u.fr.WriteRSTStream(3, xh2.ErrCodeInternal))
	u.send()
	r.turn()
	got, eof := c.read()
	if !eof && !strings.HasSuffix(got, "hello") {
		t.Error(got, eof)
	}
	r.route().Forward.Retry = &route.Retry{On: route.RetryReset, Num: 1, MaxSelect: 1}
	d := r.dialH2()
	d.get(1, "/r")
	d.send()
	r.turn()
	must(t, u.fr.WriteRSTStream(5, xh2.ErrCodeInternal))
	u.send()
	r.turn()
	r.wait(300 * 1e6)
	u.headers(7, true, ":status", "204")
	u.send()
	r.turn()
	if got, _ := d.frames(); !strings.HasPrefix(got, "1 HEADERS end :status=204") {
		t.Error(got)
	}
	c.close()
	r.turn()
	r.check()
}

func TestH2Upstream_WhenTheConnectionBreaks_ThenEveryStreamLearns(t *testing.T) {
	r := newH2Rig(t)
	c := r.dialH2()
	c.get(1, "/a")
	c.get(3, "/b")
	c.send()
	r.turn()
	u := r.acceptH2()
	u.headers(1, false, ":status", "200")
	u.send()
	r.turn()
	c.frames()
	u.close()
	r.turn()
	got, _ := c.frames()
	if !strings.Contains(got, "1 RST INTERNAL_ERROR") || !strings.Contains(got, "3 HEADERS :status=503 ") {
		t.Error(got)
	}
	if !strings.HasPrefix(r.log[1], "503 UC ") && !strings.HasPrefix(r.log[0], "503 UC ") {
		t.Error(r.log)
	}
	c.close()
	r.turn()
	r.check()
	if n := r.env.Mux.Streams(); n != 0 {
		t.Errorf("%d streams", n)
	}
}

func TestH2Upstream_WhenTheClientLeaves_ThenCancel(t *testing.T) {
	r := newH2Rig(t)
	c := r.dial()
	c.write(get)
	r.turn()
	u := r.acceptH2()
	u.frames()
	c.close()
	r.turn()
	r.wantFrames(u, "1 RST CANCEL")
	r.check()
}

func TestH2Upstream_WhenTheClientDoesNotRead_ThenNoWindow(t *testing.T) {
	r := newH2Rig(t)
	r.lis.BufferLimit = 16 << 10
	c := r.dial()
	c.write(get)
	r.turn()
	u := r.acceptH2()
	u.frames()
	const size = 4 << 20
	u.headers(1, false, ":status", "200", "content-length", "4194304")
	sent, window, total := 0, 65535, 0
	chunk := strings.Repeat("Z", 16384)
	step := func() {
		if n := min(len(chunk), window, size-sent); n > 0 {
			u.data(1, chunk[:n], sent+n == size)
			sent, window = sent+n, window-n
		}
		u.send()
		r.turn()
		got, _ := u.read()
		u.in.WriteString(got)
		for u.in.Len() >= 9 {
			f, err := u.fr.ReadFrame()
			if err != nil {
				break
			}
			window += increment(f, 1)
		}
	}
	for range 200 {
		step()
	}
	if sent > 2<<20 {
		t.Fatalf("%d bytes were taken", sent)
	}
	for range 5000 {
		got, _ := c.read()
		total += strings.Count(got, "Z")
		step()
		if total == size {
			break
		}
	}
	if total != size {
		t.Errorf("%d of %d bytes", total, size)
	}
	r.check()
}

func TestAllocs_WhenHTTP2ToHTTP2_ThenNone(t *testing.T) {
	r := newH2Rig(t)
	c := r.dialH2()
	c.get(1, "/a")
	c.send()
	r.turn()
	u := r.acceptH2()
	u.headers(1, false, ":status", "200")
	u.data(1, "abc", true)
	u.send()
	r.turn()
	c.read()
	u.read()
	r.quiet = true
	var reqs, resps [][]byte
	for i := range uint32(300) {
		c.post(3+2*i, "/a", "content-type", "application/grpc", "te", "trailers")
		c.data(3+2*i, "request", true)
		reqs = append(reqs, append([]byte(nil), c.out.Bytes()...))
		c.out.Reset()
		u.headers(3+2*i, false, ":status", "200", "content-type", "application/grpc")
		u.data(3+2*i, "abc", false)
		u.headers(3+2*i, true, "grpc-status", "0")
		resps = append(resps, append([]byte(nil), u.out.Bytes()...))
		u.out.Reset()
	}
	buf := make([]byte, 4096)
	next := func() {
		r.roundTrip(c.peer, u.peer, reqs[0], resps[0], buf)
		reqs, resps = reqs[1:], resps[1:]
	}
	for range 64 {
		next()
	}
	if n := testing.AllocsPerRun(200, next); n != 0 {
		t.Errorf("%v allocations per request", n)
	}
	r.check()
}

func TestH2_WhenNinetyStreamsHoldTheirWindowsClosed_ThenMemoryIsBounded(t *testing.T) {
	for _, up := range []snapshot.UpstreamProtocol{snapshot.UpstreamHTTP1, snapshot.UpstreamHTTP2} {
		r := newRig(t, 1)
		r.row.Protocol = up
		c := r.h2(r.dial(), true)
		c.out.Reset()
		c.out.WriteString(xh2.ClientPreface)
		must(t, c.fr.WriteSettings(xh2.Setting{ID: xh2.SettingInitialWindowSize, Val: 0}))
		const streams = 90
		for i := range uint32(streams) {
			c.get(1+2*i, "/big")
		}
		c.send()
		r.turn()
		body := []byte(strings.Repeat("z", 64<<10))
		var ups []*peer
		for p := r.ups[0].accept(); p != nil; p = r.ups[0].accept() {
			ups = append(ups, p)
			r.turn()
		}
		if up == snapshot.UpstreamHTTP1 {
			if len(ups) != streams {
				t.Fatalf("%d connections", len(ups))
			}
			for _, u := range ups {
				u.write("HTTP/1.1 200 OK\r\ncontent-length: 8388608\r\n\r\n")
			}
			for range 20 {
				for _, u := range ups {
					_, _ = writeSome(u, body)
				}
				r.turn()
			}
		} else {
			u := r.h2(ups[0], false)
			for i := range uint32(streams) {
				u.headers(1+2*i, false, ":status", "200")
			}
			u.send()
			for i := range uint32(20) { // then the connection's window of 1 MiB is used up
				for range 3 {
					u.data(1+2*i, string(body[:16384]), false)
					u.send()
					r.turn()
				}
			}
		}
		if n := r.l.Bufs.Outstanding(); n > 16<<20 {
			t.Errorf("upstream %v: %d bytes are held", up, n)
		} else {
			t.Logf("upstream %v: %d bytes are held", up, n)
		}
		c.close()
		r.turn()
		r.check()
	}
}
