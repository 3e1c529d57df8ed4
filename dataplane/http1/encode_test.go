// SPDX-License-Identifier: Apache-2.0

package http1

import (
	"strings"
	"testing"
	"unsafe"

	"sidecar/dataplane/fault"
	"sidecar/dataplane/httpmsg"
)

// decoded decodes one request head.
func decoded(t testing.TB, in string, o *Options) *httpmsg.Head {
	t.Helper()
	h := newHead()
	if _, st, k := request(o).Head([]byte(in), h); st != Done {
		t.Fatalf("%q: %s", in, k.Row().Details)
	}
	return h
}

// decodedResponse decodes one response head.
func decodedResponse(t testing.TB, in string) *httpmsg.Head {
	t.Helper()
	h, d := newHead(), response(strict())
	d.BeginResponse(httpmsg.MethodGet, true)
	if _, st, k := d.Head([]byte(in), h); st != Done {
		t.Fatalf("%q: %s", in, k.Row().Details)
	}
	return h
}

func TestAppendRequestHead(t *testing.T) {
	raw := strict()
	raw.KeepRawNames, raw.ProperCase = true, true
	for _, c := range []struct {
		in, want string
		o        *Options
	}{
		{"GET /a?b HTTP/1.1\r\nUser-Agent:x\r\nHost: h\r\nAccept: */*\r\nA:  b \r\n\r\n", "GET /a?b HTTP/1.1\r\nhost: h\r\nuser-agent: x\r\naccept: */*\r\na: b\r\n\r\n", strict()},
		{"GET http://h/a HTTP/1.1\r\nHost: x\r\n\r\n", "GET /a HTTP/1.1\r\nhost: h\r\n\r\n", strict()},
		{"CONNECT h:1 HTTP/1.1\r\nHost: x\r\n\r\n", "CONNECT h:1 HTTP/1.1\r\nhost: h:1\r\n\r\n", strict()},
		{"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 005\r\nX: y\r\n\r\n", "POST / HTTP/1.1\r\nhost: h\r\nx: y\r\ncontent-length: 5\r\n\r\n", strict()},
		{"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nX: y\r\n\r\n", "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\nx: y\r\n\r\n", strict()},
		{"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: CHUNKED\r\nX: y\r\n\r\n", "POST / HTTP/1.1\r\nhost: h\r\nx: y\r\ntransfer-encoding: chunked\r\n\r\n", strict()},
		{"POST / HTTP/1.1\r\nHost: h\r\n\r\n", "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n", strict()},
		{"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", "PUT / HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n", strict()},
		{"DELETE / HTTP/1.1\r\nHost: h\r\n\r\n", "DELETE / HTTP/1.1\r\nhost: h\r\n\r\n", strict()},
		{"POST / HTTP/1.1\r\nhOST: h\r\nX-aBc: y\r\nContent-Length: 5\r\n\r\n", "POST / HTTP/1.1\r\nhOST: h\r\nX-aBc: y\r\nContent-Length: 5\r\n\r\n", raw},
		{"POST / HTTP/1.1\r\nhOST: h\r\nX-a: 1\r\ntransfer-EnCoding: chunked\r\nx-A: 2\r\n\r\n", "POST / HTTP/1.1\r\nhOST: h\r\nX-a: 1\r\nX-a: 2\r\ntransfer-EnCoding: chunked\r\n\r\n", raw},
		{"POST / HTTP/1.1\r\nhOST: h\r\nx-a1b_c: y\r\nTransfer-Encoding: chunked\r\n\r\n", "POST / HTTP/1.1\r\nHost: h\r\nX-A1b_C: y\r\nTransfer-Encoding: chunked\r\n\r\n", &Options{ProperCase: true}},
		{"GET /a HTTP/1.1\r\nHost: h\r\n\r\n", "GET http://h/a HTTP/1.1\r\nhost: h\r\n\r\n", &Options{SendFullyQualifiedURL: true}},
	} {
		if got := string(AppendRequestHead(nil, decoded(t, c.in, c.o), c.o)); got != c.want {
			t.Errorf("%q:\n%q, want\n%q", c.in, got, c.want)
		}
	}
}

func TestAppendRequestHead_WhenLinesCameInAnotherForm_ThenWrittenInTheUsualOne(t *testing.T) {
	lax := &Options{Lax: true}
	for _, c := range []struct {
		in, want string
		o        *Options
	}{
		{"A:\tb\r\nB: c\r\n", "a: b\r\nb: c\r\n", strict()},
		{"A:  b\r\nB: c\r\n", "a: b\r\nb: c\r\n", strict()},
		{"A: \tb\r\nB: c\r\n", "a: b\r\nb: c\r\n", strict()},
		{"A: b \r\nB: c\t\r\n", "a: b\r\nb: c\r\n", strict()},
		{"A: b\tc\r\nB: c\r\n", "a: b\tc\r\nb: c\r\n", strict()},
		{"A:\r\nB: \r\nC:  \r\n", "a: \r\nb: \r\nc: \r\n", strict()},
		{"A: b\nB: c \nC:d\n", "a: b\r\nb: c\r\nc: d\r\n", lax},
		{"A: b\rc\r\nB: c\r\n", "a: b c\r\nb: c\r\n", lax},
		{"A: b\r\n \r\nB: c\r\n", "a: b\r\nb: c\r\n", lax},
		{"A: b\r\n c\r\nB: c\r\n", "a: b   c\r\nb: c\r\n", lax},
	} {
		h := decoded(t, "GET / HTTP/1.1\r\nHost: h\r\n"+c.in+"\r\n", c.o)
		if got, want := string(AppendRequestHead(nil, h, c.o)), "GET / HTTP/1.1\r\nhost: h\r\n"+c.want+"\r\n"; got != want {
			t.Errorf("%q:\n%q, want\n%q", c.in, got, want)
		}
	}
}

func TestAppendHead_WhenTheMessageBringsItsSpelling_ThenTheEncodersOptionsDoNotCount(t *testing.T) {
	const in = "GET / HTTP/1.1\r\nhOST: h\r\nX-aB: 1\r\n\r\n"
	keep, keepProper, proper := &Options{KeepRawNames: true}, &Options{KeepRawNames: true, ProperCase: true}, &Options{ProperCase: true}
	for _, c := range []struct {
		dec, enc *Options
		want     string
	}{
		{keep, strict(), "hOST: h\r\nX-aB: 1\r\nadded-x: 2\r\n"},
		{keep, proper, "hOST: h\r\nX-aB: 1\r\nadded-x: 2\r\n"},
		{keepProper, strict(), "hOST: h\r\nX-aB: 1\r\nAdded-X: 2\r\n"},
		{keepProper, keep, "hOST: h\r\nX-aB: 1\r\nAdded-X: 2\r\n"},
		{strict(), proper, "Host: h\r\nX-Ab: 1\r\nAdded-X: 2\r\n"},
		{strict(), keepProper, "host: h\r\nx-ab: 1\r\nadded-x: 2\r\n"},
	} {
		h := decoded(t, in, c.dec)
		h.AddString(httpmsg.KeyOf("added-x"), "2")
		if got, want := string(AppendRequestHead(nil, h, c.enc)), "GET / HTTP/1.1\r\n"+c.want+"\r\n"; got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestHead_WhenFieldsWithUnderscoresAreDropped_ThenTheyAreCounted(t *testing.T) {
	o := strict()
	o.Underscores = UnderscoreDrop
	in := []byte("GET / HTTP/1.1\r\nHost: h\r\na_b: 1\r\nc_d: 2\r\ne-f: 3\r\n\r\n")
	h, d := newHead(), request(o)
	for n := 1; n <= len(in); n++ {
		if _, st, _ := d.Head(in[:n], h); st == Done {
			break
		}
	}
	if h.DroppedUS != 2 || len(h.List) != 1 {
		t.Errorf("%d dropped, %d left", h.DroppedUS, len(h.List))
	}
}

func TestBody_WhenATrailerHasAnUnderscore_ThenTheActionIsDone(t *testing.T) {
	for _, c := range []struct {
		action        Underscore
		k             fault.Kind
		kept, dropped int
	}{
		{UnderscoreAllow, fault.None, 2, 0},
		{UnderscoreReject, fault.UnexpectedUnderscore, 0, 0},
		{UnderscoreDrop, fault.None, 1, 1},
	} {
		o := strict()
		o.Underscores, o.EnableTrailers = c.action, true
		in := []byte("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\na_b: 1\r\ne-f: 3\r\n\r\n")
		h, d := newHead(), request(o)
		n, _, k := d.Head(in, h)
		var tr httpmsg.Fields
		tr.Reset(h.A)
		for end := false; k == fault.None && !end; {
			var m int
			m, _, end, k = d.Body(in[n:], &tr)
			n += m
		}
		if dropped := d.TakeDropped(); k != c.k || len(tr.List) != c.kept || dropped != c.dropped {
			t.Errorf("action %d: %v, %d kept, %d dropped", c.action, k, len(tr.List), dropped)
		}
		if d.TakeDropped() != 0 {
			t.Error("told twice")
		}
	}
}

func TestHead_WhenALimitIsNotSet_ThenResponsesMayHave80KiB(t *testing.T) {
	for _, c := range []struct {
		n  int
		ok bool
	}{{80<<10 - 30, true}, {80 << 10, false}} {
		d := response(strict())
		d.BeginResponse(httpmsg.MethodGet, true)
		_, st, _ := d.Head([]byte("HTTP/1.1 200 OK\r\nx: "+strings.Repeat("a", c.n)+"\r\n\r\n"), newHead())
		if (st == Done) != c.ok {
			t.Errorf("%d bytes: %v", c.n, st)
		}
	}
}

func TestAppendRequestHead_WhenFieldsWereChanged_ThenChangesAreWritten(t *testing.T) {
	h := decoded(t, "GET / HTTP/1.1\r\nHost: h\r\nA: 1\r\nB: 2\r\nC: 3\r\nD: 4\r\n\r\n", strict())
	h.SetPath([]byte("/new"))
	h.SetHost([]byte("other"))
	h.SetString(httpmsg.KeyOf("b"), "two")
	h.Remove(httpmsg.KeyOf("c"))
	h.AddString(httpmsg.KeyOf("e"), "5")
	h.AddString(httpmsg.KeyOf("f"), "")
	want := "GET /new HTTP/1.1\r\nhost: other\r\na: 1\r\nb: two\r\nd: 4\r\ne: 5\r\nf: \r\n\r\n"
	if got := string(AppendRequestHead(nil, h, strict())); got != want {
		t.Errorf("%q", got)
	}
	var again httpmsg.Head
	again.Reset(new(httpmsg.Arena))
	again.CopyHead(h, again.A)
	if got := string(AppendRequestHead(nil, &again, strict())); got != want {
		t.Errorf("copy: %q", got)
	}
}

func TestAppendResponseHead(t *testing.T) {
	for _, c := range []struct {
		in, want string
		v        httpmsg.Version
	}{
		{"HTTP/1.0 200 Fine\r\nContent-Length: 2\r\nX: y\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx: y\r\n\r\n", httpmsg.HTTP11},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n", "HTTP/1.1 200 OK\r\nx: y\r\ntransfer-encoding: chunked\r\n\r\n", httpmsg.HTTP11},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n", "HTTP/1.0 200 OK\r\nx: y\r\n\r\n", httpmsg.HTTP10},
		{"HTTP/1.1 299 Mine\r\n\r\n", "HTTP/1.1 299 Unknown\r\n\r\n", httpmsg.HTTP11},
		{"HTTP/1.1 304 X\r\nContent-Length: 9\r\n\r\n", "HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", httpmsg.HTTP11},
	} {
		if got := string(AppendResponseHead(nil, decodedResponse(t, c.in), c.v, strict())); got != c.want {
			t.Errorf("%q:\n%q, want\n%q", c.in, got, c.want)
		}
	}
	h := newHead()
	h.Status, h.Body = 404, httpmsg.BodyLength
	if got := string(AppendResponseHead(nil, h, httpmsg.HTTP11, strict())); got != "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n" {
		t.Errorf("%q", got)
	}
}

func TestStripHopByHop(t *testing.T) {
	for in, want := range map[string]string{
		"Connection: close, X, TE, content-length\r\nX: 1\r\nY: 2\r\nKeep-Alive: 5\r\nProxy-Connection: a\r\nTE: gzip, trailers\r\nTrailer: z\r\nProxy-Authorization: b\r\n": "y: 2\r\nte: trailers\r\ntrailer: z\r\nproxy-authorization: b\r\n",
		"TE: gzip\r\nUpgrade: websocket\r\n":                                                     "",
		"Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\n": "connection: keep-alive, Upgrade\r\nupgrade: WebSocket\r\nsec-websocket-version: 13\r\n",
		"Connection: close, Upgrade\r\nUpgrade: a\r\n":                                           "upgrade: a\r\nconnection: upgrade\r\n",
		"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n":           "",
		"Connection: x\r\nX: 1\r\nX: 2\r\nXx: 3\r\nConnection: xx\r\n":                           "",
	} {
		h := decoded(t, "GET / HTTP/1.1\r\nHost: a\r\n"+in+"\r\n", strict())
		StripHopByHop(h, false)
		got := strings.TrimPrefix(string(AppendRequestHead(nil, h, strict())), "GET / HTTP/1.1\r\nhost: a\r\n")
		if got != want+"\r\n" {
			t.Errorf("%q:\n%q, want\n%q", in, got, want)
		}
	}
	h := decodedResponse(t, "HTTP/1.1 200 OK\r\nConnection: x-q, close\r\nX-Q: 1\r\nKeep-Alive: 5\r\nProxy-Connection: a\r\nUpgrade: h\r\nTE: x\r\nContent-Length: 0\r\n\r\n")
	StripHopByHop(h, true)
	if got := string(AppendResponseHead(nil, h, httpmsg.HTTP11, strict())); got != "HTTP/1.1 200 OK\r\nx-q: 1\r\nte: x\r\ncontent-length: 0\r\n\r\n" {
		t.Errorf("%q", got)
	}
}

func TestAppendChunk(t *testing.T) {
	tr := new(httpmsg.Fields)
	tr.Reset(new(httpmsg.Arena))
	tr.AddString(httpmsg.KeyOf("x"), "y")
	tr.AddString(httpmsg.KeyOf("content-length"), "9")
	b := AppendChunk(nil, []byte(strings.Repeat("a", 300)))
	b = AppendChunk(b, nil)
	b = AppendChunk(b, []byte("z"))
	b = AppendLastChunk(b, tr)
	if got, want := string(b), "12c\r\n"+strings.Repeat("a", 300)+"\r\n1\r\nz\r\n0\r\nx: y\r\n\r\n"; got != want {
		t.Errorf("%q", got)
	}
	for n, want := range map[int]string{1: "1", 15: "f", 16: "10", 255: "ff", 256: "100", 1 << 20: "100000"} {
		if got := string(AppendChunkHead(nil, n)); got != want+"\r\n" {
			t.Errorf("%d: %q", n, got)
		}
	}
}

func TestReason(t *testing.T) {
	for s, want := range map[uint16]string{200: "OK", 299: "Unknown", 413: "Payload Too Large", 418: "Unknown", 599: "Last Unassigned Server Error Code", 600: "Unknown", 65535: "Unknown"} {
		if got := Reason(s); got != want {
			t.Errorf("%d: %s", s, got)
		}
	}
}

func TestDecoder_WhenFaulted_ThenHeadIsUntouched(t *testing.T) {
	h := newHead()
	h.A.PutString("kept")
	d := request(strict())
	if _, st, k := d.Head([]byte("GET / HTTP/1.1\r\nHost: a\r\nX y: z\r\n\r\n"), h); st != NeedMore || k != fault.CodecError {
		t.Fatal(st, k)
	}
	if h.A.Len() != 4 || len(h.List) != 0 || h.Method != httpmsg.MethodOther {
		t.Errorf("%d bytes, %d fields, method %d", h.A.Len(), len(h.List), h.Method)
	}
	if n, st, k := d.Head([]byte(fiveHeaders), h); n != 0 || st != NeedMore || k != fault.None {
		t.Errorf("after the fault: %d %d %d", n, st, k)
	}
}

func TestAllocs_WhenWarm_ThenNone(t *testing.T) {
	a, h, d := new(httpmsg.Arena), new(httpmsg.Head), request(strict())
	tr := new(httpmsg.Fields)
	post := []byte("POST / HTTP/1.1\r\nHost: a\r\nConnection: x\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n")
	out := make([]byte, 0, 4096)
	if n := testing.AllocsPerRun(200, func() {
		a.Reset(1 << 16)
		h.Reset(a)
		tr.Reset(a)
		_, _, _ = d.Head(post[:40], h)
		n, st, _ := d.Head(post, h)
		if st != Done {
			t.Fatal("not done")
		}
		StripHopByHop(h, false)
		out = AppendRequestHead(out[:0], h, d.o)
		for end := false; !end; {
			var k int
			var data []byte
			k, data, end, _ = d.Body(post[n:], tr)
			n += k
			out = AppendChunk(out, data)
		}
		out = AppendLastChunk(out, tr)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestSize_WhenDecoderGrows_ThenNoticed(t *testing.T) {
	if n := unsafe.Sizeof(Decoder{}); n > 64 {
		t.Errorf("%d bytes", n)
	}
}

func TestHead_WhenLongLineArrivesByteByByte_ThenFoundAtOnceWhole(t *testing.T) {
	in := []byte("GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("y", 60000) + "\r\nZ: z\r\n\r\n")
	d, h := request(strict()), newHead()
	for i := range in { // quadratic work would take minutes here
		if n, st, k := d.Head(in[:i], h); n != 0 || st != NeedMore || k != fault.None {
			t.Fatalf("after %d bytes: %d %d %d", i, n, st, k)
		}
	}
	if n, st, _ := d.Head(in, h); n != len(in) || st != Done || len(h.List) != 2 || h.List[0].Value.Len != 60000 {
		t.Errorf("%d %d, %d fields", n, st, len(h.List))
	}
}
