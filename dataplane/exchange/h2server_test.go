// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"fmt"
	"strings"
	"testing"
	"time"

	xh2 "golang.org/x/net/http2"

	"sidecar/dataplane/route"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/internal/nettest"
	"sidecar/internal/telemetry/stats"
)

func (r *rig) wantFrames(h *h2peer, want ...string) {
	r.t.Helper()
	got, _ := h.frames()
	if w := strings.Join(want, "\n"); got != w {
		r.t.Errorf("--- got\n%s\n--- want\n%s", got, w)
	}
}

const h2OK = " HEADERS :status=200 server=envoy x-envoy-upstream-service-time=# date=# content-length=3"

func TestH2_WhenGetsToAnHTTP1Upstream_ThenProxied(t *testing.T) {
	r := newRig(t, 1)
	c := r.dialH2()
	c.get(1, "/a?b=c")
	c.send()
	r.turn()
	u := r.ups[0].accept()
	if u == nil {
		t.Fatal("no upstream connection")
	}
	got, _ := u.read()
	r.expect("upstream request", got, "GET /a?b=c HTTP/1.1\nhost: x.test\nx-forwarded-proto: http\nx-request-id: #\nx-envoy-expected-rq-timeout-ms: 15000\n\n")
	u.write(ok3)
	r.turn()
	r.wantFrames(c, "1"+h2OK, "1 DATA end abc")
	for i := uint32(3); i < 9; i += 2 {
		c.get(i, "/x")
		c.send()
		r.turn()
		u.read()
		u.write(ok3)
		r.turn()
		if got, _ := c.frames(); !strings.HasSuffix(got, "DATA end abc") {
			t.Fatal(got)
		}
	}
	if len(r.log) != 4 || r.log[0] != "200 - via_upstream 0 3 attempts=1 route=r" {
		t.Errorf("log %q", r.log)
	}
	for _, s := range []struct {
		id   int
		want int64
	}{{stats.HCMDownstreamRqHTTP2Total, 4}, {stats.HCMDownstreamCxHTTP2Total, 1}, {stats.HCMDownstreamCxTotal, 1}, {stats.HCMDownstreamRq2xx, 4},
		{stats.HCMDownstreamCxHTTP1Total, 0}, {stats.HCMDownstreamRqRxReset, 0}, {stats.HCMDownstreamRqTxReset, 0}} {
		if n := r.hcmStat(s.id); n != s.want {
			t.Errorf("%s is %d, want %d", stats.HCMDef.Stats[s.id].Name, n, s.want)
		}
	}
	r.check()
	c.close()
	r.turn()
	if r.gone != 1 || r.env.Connections() != 0 || r.env.Mux.Streams() != 0 {
		t.Errorf("gone %d, %d connections, %d streams", r.gone, r.env.Connections(), r.env.Mux.Streams())
	}
}

func TestH2_WhenManyStreams_ThenEachGetsItsAnswerAndOneWriteATurn(t *testing.T) {
	r := newRig(t, 1)
	c := r.dialH2()
	for i := range uint32(5) {
		c.get(1+2*i, "/"+string(rune('a'+i)))
	}
	c.send()
	r.turn()
	var ups []*peer
	for u := r.ups[0].accept(); u != nil; u = r.ups[0].accept() {
		ups = append(ups, u)
	}
	if len(ups) != 5 {
		t.Fatalf("%d upstream connections", len(ups))
	}
	r.turn()
	c.frames()
	for _, u := range ups {
		u.read()
		u.write(ok3)
	}
	r.k.Sends = 0
	r.turn()
	got, _ := c.frames()
	if n := strings.Count(got, "DATA end abc"); n != 5 {
		t.Errorf("%d answers:\n%s", n, got)
	}
	if r.k.Sends != 1 {
		t.Errorf("%d writes", r.k.Sends)
	}
	r.check()
}

func TestH2_WhenPostWithTrailers_ThenBothWaysOverHTTP1(t *testing.T) {
	r := newRig(t, 1)
	r.row.H1.EnableTrailers = true
	c := r.dialH2()
	c.post(1, "/p", "te", "trailers", "cookie", "a=b", "cookie", "c=d")
	c.data(1, "hel", false)
	c.send()
	r.turn()
	u := r.ups[0].accept()
	r.turn()
	got, _ := u.read()
	r.expect("head", got, "POST /p HTTP/1.1\nhost: x.test\nte: trailers\ncookie: a=b; c=d\nx-forwarded-proto: http\nx-request-id: #\n"+
		"x-envoy-expected-rq-timeout-ms: 15000\ntransfer-encoding: chunked\n\n3\nhel\n")
	c.data(1, "lo", false)
	c.headers(1, true, "x-sum", "1")
	c.send()
	r.turn()
	got, _ = u.read()
	r.expect("rest", got, "2\nlo\n0\nx-sum: 1\n\n")
	u.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: keep-alive\r\nkeep-alive: x\r\n\r\n3\r\nabc\r\n0\r\nx-t: 2\r\n\r\n")
	r.hcm.H1.EnableTrailers = true
	r.row.H1.EnableTrailers = true
	r.turn()
	r.wantFrames(c, "1 HEADERS :status=200 x-envoy-upstream-service-time=# date=# server=envoy", "1 DATA abc", "1 HEADERS end x-t=2")
	if r.log[0] != "200 - via_upstream 5 3 attempts=1 route=r" {
		t.Errorf("log %q", r.log)
	}
	r.check()
}

func TestH2_WhenTheAnswerIsEarly_ThenWholeAndThenNoError(t *testing.T) {
	r := newRig(t, 1)
	c := r.dialH2()
	c.post(1, "/p")
	c.data(1, "hel", false)
	c.send()
	r.turn()
	u := r.ups[0].accept()
	r.turn()
	u.write("HTTP/1.1 413 no\r\ncontent-length: 4\r\n\r\nfull")
	r.turn()
	got, _ := c.frames()
	if !strings.HasPrefix(got, "1 HEADERS :status=413 ") || !strings.HasSuffix(got, "\n1 DATA end full") {
		t.Error(got)
	}
	c.data(1, "lo", false)
	c.send()
	r.wait(90 * sys.Millisecond)
	r.wantFrames(c)
	r.wait(10 * sys.Millisecond)
	r.wantFrames(c, "1 RST NO_ERROR")
	if n := r.hcmStat(stats.HCMDownstreamRqResponseBeforeRqComplete); n != 1 {
		t.Errorf("response_before_rq_complete %d", n)
	}
	c.get(3, "/x")
	c.send()
	r.turn()
	if r.ups[0].accept() == nil {
		t.Error("the connection does not go on")
	}
	c.close()
	r.turn()
	r.check()
}

func TestH2_WhenTheRequestGoesOnBehindItsAnswer_ThenItIsStillJudged(t *testing.T) {
	big := strings.Repeat("x", 8000)
	for name, tc := range map[string]struct {
		rest func(c *h2peer)
		want string
	}{
		"ends":          {func(c *h2peer) { c.data(1, "lo", true) }, ""},
		"trailers":      {func(c *h2peer) { c.data(1, "lo", false); c.headers(1, true, "x-sum", "1") }, ""},
		"reset":         {func(c *h2peer) { must(t, c.fr.WriteRSTStream(1, 8)) }, ""},
		"wrong length":  {func(c *h2peer) { c.data(1, "loo", true) }, "1 RST PROTOCOL_ERROR"},
		"second head":   {func(c *h2peer) { c.headers(1, false, "a", "b") }, "GOAWAY 1 PROTOCOL_ERROR"},
		"no increment":  {func(c *h2peer) { must(t, c.fr.WriteWindowUpdate(1, 0)) }, "1 RST PROTOCOL_ERROR"},
		"after a reset": {func(c *h2peer) { must(t, c.fr.WriteRSTStream(1, 8)); c.data(1, "lo", true) }, "GOAWAY 1 STREAM_CLOSED"},
		"much more": {func(c *h2peer) {
			for range 3 {
				c.data(1, big, false)
			}
		}, "1 RST NO_ERROR"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 1)
			e := r.route()
			e.Kind, e.Forward, e.Direct = route.ActionDirect, nil, &route.Direct{Status: 200, Body: []byte("hello")}
			c := r.dialH2()
			length := "5"
			if name == "much more" {
				length = "99999"
			}
			c.post(1, "/p", "content-length", length)
			c.data(1, "hel", false)
			c.send()
			r.turn()
			if got, _ := c.frames(); !strings.HasSuffix(got, "\n1 DATA end hello") {
				t.Error(got)
			}
			tc.rest(c)
			c.send()
			r.turn()
			r.wantFrames(c, tc.want)
			if n := r.env.Mux.Streams(); n != 0 {
				t.Errorf("%d streams are left", n)
			}
			c.close()
			r.turn()
			r.check()
		})
	}
}

func TestH2_WhenTheClientResets_ThenTheUpstreamIsLeft(t *testing.T) {
	r := newRig(t, 1)
	c := r.dialH2()
	c.get(1, "/p")
	c.send()
	r.turn()
	u := r.ups[0].accept()
	r.turn()
	must(t, c.fr.WriteRSTStream(1, 8))
	c.send()
	r.turn()
	u.read()
	if _, eof := u.read(); !eof {
		t.Error("the upstream connection is open")
	}
	if len(r.log) != 1 || !strings.HasPrefix(r.log[0], "0 DR http2.remote_reset ") || r.hcmStat(stats.HCMDownstreamRqRxReset) != 1 {
		t.Errorf("log %q, rx_reset %d", r.log, r.hcmStat(stats.HCMDownstreamRqRxReset))
	}
	r.check()
}

func TestH2_WhenTheUpstreamBreaksOff_ThenTheStreamIsReset(t *testing.T) {
	r := newRig(t, 1)
	c := r.dialH2()
	c.get(1, "/p")
	c.send()
	r.turn()
	u := r.ups[0].accept()
	r.turn()
	u.write("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello")
	r.turn()
	u.close()
	r.turn()
	got, eof := c.frames()
	if eof || !strings.HasSuffix(got, "\n1 DATA hello\n1 RST INTERNAL_ERROR") {
		t.Errorf("%s, eof %v", got, eof)
	}
	r.check()
}

func TestH2_WhenTheWindowIsClosed_ThenTheUpstreamIsNotRead(t *testing.T) {
	r := newRig(t, 1)
	c := r.dialH2()
	c.get(1, "/p")
	c.send()
	r.turn()
	u := r.ups[0].accept()
	r.turn()
	const size = 300000
	u.write("HTTP/1.1 200 OK\r\ncontent-length: 300000\r\n\r\n")
	body := []byte(strings.Repeat("z", size))
	sent, total := 0, 0
	for range 200 {
		n, _ := writeSome(u, body[sent:])
		sent += n
		r.turn()
		got, _ := c.read()
		c.in.WriteString(got)
		total += len(got)
	}
	if total < 65535 || total > 66000+4096 {
		t.Errorf("%d bytes came without window", total)
	}
	for range 400 {
		must(t, c.fr.WriteWindowUpdate(0, 10000))
		must(t, c.fr.WriteWindowUpdate(1, 10000))
		c.send()
		n, _ := writeSome(u, body[sent:])
		sent += n
		r.turn()
		got, _ := c.read()
		c.in.WriteString(got)
		if total += len(got); total > size {
			break
		}
	}
	r.turn()
	got, _ := c.frames()
	if total < size || !strings.Contains(got, "1 DATA end ") {
		t.Errorf("%d bytes", total)
	}
	r.check()
	if r.l.Bufs.Outstanding() > 4096 {
		t.Logf("%d bytes lent", r.l.Bufs.Outstanding())
	}
}

// A client with large windows sends nothing while answers come: what waits for room in the connection's output must go on by itself.
func TestH2_WhenTheLastWriteOfATurnMakesRoom_ThenWhatWaitedGoesOn(t *testing.T) {
	const streams, size = 3, 150000
	r := newRig(t, 1)
	r.hcm.H2.OutputLimit = 20000
	c := r.dialH2()
	must(t, c.fr.WriteSettings(xh2.Setting{ID: xh2.SettingInitialWindowSize, Val: 1 << 30}))
	must(t, c.fr.WriteWindowUpdate(0, 1<<30))
	for i := range uint32(streams) {
		c.get(1+2*i, "/p")
	}
	c.send()
	r.turn()
	for range streams {
		u := r.ups[0].accept()
		if u == nil {
			t.Fatal("no upstream connection")
		}
		head := fmt.Sprintf("HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n", size)
		if n, err := writeSome(u, []byte(head+strings.Repeat("z", size))); n != len(head)+size {
			t.Fatalf("the kernel took %d bytes of an answer: %v", n, err)
		}
	}
	got := ""
	for range 100 {
		r.turn()
		s, _ := c.frames()
		got += s + "\n"
	}
	if n := strings.Count(got, " DATA end "); n != streams {
		t.Errorf("%d of %d answers came to their end", n, streams)
	}
	r.check()
}

func TestH2_WhenTheUpstreamDoesNotRead_ThenTheClientGetsNoWindow(t *testing.T) {
	r := newRig(t, 1)
	r.row.BufferLimit = 16 << 10
	c := r.dialH2()
	c.post(1, "/p")
	c.send()
	r.turn()
	u := r.ups[0].accept()
	sent, window := 0, 65535
	chunk := strings.Repeat("Z", 8192)
	var held strings.Builder
	take := func() {
		got, _ := c.read()
		c.in.WriteString(got)
		for c.in.Len() >= 9 {
			f, err := c.fr.ReadFrame()
			if err != nil {
				break
			}
			if n := increment(f, 1); n > 0 {
				window += n
			}
		}
	}
	for range 400 {
		if window < len(chunk) {
			take()
			r.turn()
			if window < len(chunk) {
				break
			}
		}
		c.data(1, chunk, false)
		c.send()
		sent += len(chunk)
		window -= len(chunk)
		r.turn()
		take()
	}
	if sent > 1<<20 {
		t.Fatalf("%d bytes were taken", sent)
	}
	for range 2000 {
		got, _ := u.read()
		held.WriteString(got)
		r.turn()
		take()
		if got == "" {
			break
		}
	}
	if n := strings.Count(held.String(), "Z"); n != sent {
		t.Errorf("%d of %d bytes arrived", n, sent)
	}
	if window < 30000 {
		t.Errorf("window %d", window)
	}
	c.close()
	r.turn()
	r.check()
}

func TestH2_WhenDraining_ThenGoawayInTwoStepsAndTheStreamEndsWell(t *testing.T) {
	r := newRig(t, 1)
	r.hcm.DrainTimeout = 5 * 1e9
	r.env.DrainClose = func(*snapshot.Listener, *snapshot.FilterChain) bool { return true }
	c := r.dialH2()
	c.get(1, "/a")
	c.get(3, "/b")
	c.send()
	r.turn()
	a, b := r.ups[0].accept(), r.ups[0].accept()
	a.write(ok3)
	r.turn()
	got, _ := c.frames()
	if !strings.HasPrefix(got, "GOAWAY 2147483647 NO_ERROR\n1 HEADERS") {
		t.Error(got)
	}
	r.wait(5001 * 1e6)
	r.wantFrames(c, "GOAWAY 3 NO_ERROR")
	b.write(ok3)
	r.turn()
	if got, eof := c.frames(); eof || !strings.HasSuffix(got, "3 DATA end abc") {
		t.Error(got, eof)
	}
	r.wait(1001 * 1e6) // delayed_close_timeout
	if _, eof := c.frames(); !eof {
		t.Error("not closed")
	}
	if n := r.hcmStat(stats.HCMDownstreamCxDrainClose); n != 1 {
		t.Errorf("drain_close %d", n)
	}
	r.check()
}

func TestH2_WhenRepliesAreLocal_ThenHeadersAndContent(t *testing.T) {
	r := newRig(t, 1)
	e := r.route()
	e.Kind, e.Forward, e.Direct = route.ActionDirect, nil, &route.Direct{Status: 200, Body: []byte("hello")}
	c := r.dialH2()
	c.get(1, "/")
	c.headers(3, true, ":method", "HEAD", ":scheme", "http", ":authority", "x", ":path", "/")
	c.post(5, "/")
	c.headers(7, true, ":method", "POST", ":scheme", "http", ":authority", "x", ":path", "/", "content-type", "application/grpc")
	c.send()
	r.turn()
	r.wantFrames(c,
		"1 HEADERS :status=200 content-type=text/plain date=# server=envoy content-length=5", "1 DATA end hello",
		"3 HEADERS end :status=200 content-type=text/plain date=# server=envoy content-length=5",
		"5 HEADERS :status=200 content-type=text/plain date=# server=envoy content-length=5", "5 DATA end hello",
		"7 HEADERS end :status=200 content-type=application/grpc grpc-status=2 grpc-message=hello date=# server=envoy")
	r.wait(100 * sys.Millisecond)
	r.wantFrames(c, "5 RST NO_ERROR")
	r.check()
}

func TestH2_WhenTheProtocolIsBroken_ThenGoawayAndTheStreamsEnd(t *testing.T) {
	r := newRig(t, 1)
	c := r.dialH2()
	c.get(1, "/")
	c.send()
	r.turn()
	u := r.ups[0].accept()
	r.turn()
	c.data(7, "x", true)
	c.send()
	r.turn()
	c.data(7, "more", true) // what is not read any more must not make a reset of the close
	c.send()
	r.wait(999 * 1e6)
	got, eof := c.frames()
	if got != "GOAWAY 1 PROTOCOL_ERROR" || eof {
		t.Error(got, eof)
	}
	r.wait(2 * 1e6)
	if _, eof := c.read(); !eof {
		t.Error("not closed")
	}
	if n := r.hcmStat(stats.HCMDownstreamCxDelayedCloseTimeout); n != 1 {
		t.Errorf("delayed_close_timeout %d", n)
	}
	u.read()
	if _, eof := u.read(); !eof {
		t.Error("the upstream connection is open")
	}
	if len(r.log) != 1 || !strings.HasPrefix(r.log[0], "0 DPE ") || r.env.Connections() != 0 || r.gone != 1 {
		t.Errorf("log %q, %d connections", r.log, r.env.Connections())
	}
	r.check()
}

// stream is a kernel whose sockets always have more to read: frames without content that mean nothing.
type stream struct {
	sys.Kernel
	off, reads int
}

func (k *stream) Recv(_ sys.FD, b []byte) (int, sys.Errno) {
	k.reads++
	for i := range b {
		b[i] = "\x00\x00\x00\x77\x00\x00\x00\x00\x00"[(k.off+i)%9]
	}
	k.off = (k.off + len(b)) % 9
	return len(b), 0
}

func TestH2_WhenFramesWithoutEventsComeAsFastAsTheyAreRead_ThenTheTurnEndsAndTheNextGoesOn(t *testing.T) {
	r := newRig(t, 1)
	c := r.dialH2()
	c.send()
	r.turn()
	k := &stream{Kernel: r.l.K}
	r.l.K = k
	c.write("\x00\x00\x00\x77\x00\x00\x00\x00\x00") // an edge
	done := make(chan bool)
	go func() {
		defer close(done)
		for range 3 {
			before := k.reads
			r.l.Turn(false)
			if n := k.reads - before; n == 0 || n > 16 || r.l.Queued() != 1 {
				t.Errorf("%d reads, %d tasks left", n, r.l.Queued())
			}
		}
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("the turn does not end")
	}
	r.l.K = k.Kernel
	r.turn()
	c.close()
	r.turn()
	r.check()
}

// slow is a kernel under which time passes at every look at the clock.
type slow struct{ *nettest.Clock }

func (k slow) Now() sys.Nanos {
	k.Skew += 300_000
	return k.Clock.Now()
}

func TestH2_WhenRequestsTakeLong_ThenTheRestIsTheNextTurns(t *testing.T) {
	const requests = 250
	r := newRig(t, 1)
	r.route().Kind, r.route().Forward, r.route().Direct = route.ActionDirect, nil, &route.Direct{Status: 200}
	c := r.dialH2()
	c.send()
	r.turn()
	r.l.K = slow{r.k}
	for i := range uint32(requests) {
		c.get(2*i+1, "/")
	}
	c.send()
	turns := 0
	for before := int64(0); before < requests && turns < requests; turns++ {
		r.l.Turn(false)
		now := r.hcmStat(stats.HCMDownstreamRqHTTP2Total)
		if now-before > 80 {
			t.Errorf("%d requests in a turn", now-before)
		}
		before = now
	}
	if n := r.hcmStat(stats.HCMDownstreamRqHTTP2Total); n != requests {
		t.Errorf("%d requests in %d turns", n, turns)
	}
	r.l.K = r.k
	r.turn()
	c.close()
	r.turn()
	r.check()
}

func TestH2_WhenTimeoutsPass_ThenTheStreamAloneEnds(t *testing.T) {
	r := newRig(t, 1)
	r.hcm.ConnIdle, r.hcm.DrainTimeout = 100*1e9, 1e9
	c := r.dialH2()
	c.get(1, "/")
	c.send()
	r.turn()
	r.wait(16 * 1e9)
	got, _ := c.frames()
	if !strings.HasPrefix(got, "1 HEADERS :status=504 ") {
		t.Error(got)
	}
	r.wait(99 * 1e9)
	r.wait(2 * 1e9)
	r.wantFrames(c, "GOAWAY 2147483647 NO_ERROR")
	r.wait(2 * 1e9)
	if got, eof := c.frames(); got != "GOAWAY 1 NO_ERROR" || eof {
		t.Error(got, eof)
	}
	c.close()
	r.turn()
	if r.env.Connections() != 0 || r.hcmStat(stats.HCMDownstreamCxDelayedCloseTimeout) != 0 {
		t.Error("not closed as soon as the client had")
	}
	r.check()
}

func TestAllocs_WhenHTTP2Requests_ThenNone(t *testing.T) {
	r := newRig(t, 1)
	c := r.dialH2()
	c.get(1, "/a")
	c.send()
	r.turn()
	u := r.ups[0].accept()
	u.write(ok3)
	r.turn()
	c.read()
	r.quiet = true
	var reqs [][]byte
	for i := range uint32(300) {
		c.get(3+2*i, "/a")
		reqs = append(reqs, append([]byte(nil), c.out.Bytes()...))
		c.out.Reset()
	}
	buf, resp := make([]byte, 4096), []byte(ok3)
	next := func() {
		r.roundTrip(c.peer, u, reqs[0], resp, buf)
		reqs = reqs[1:]
	}
	for range 64 {
		next()
	}
	if n := testing.AllocsPerRun(200, next); n != 0 {
		t.Errorf("%v allocations per request", n)
	}
	r.check()
}
