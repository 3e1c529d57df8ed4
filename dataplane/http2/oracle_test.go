// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	xhttp2 "golang.org/x/net/http2"
	xhpack "golang.org/x/net/http2/hpack"

	"sidecar/dataplane/sys"
)

// wellFormed reads what a Conn has sent with the framer of golang.org/x/net and checks it against the states of RFC 9113 section 5.1.
func wellFormed(t *testing.T, b []byte, table uint32) bool {
	fr := xhttp2.NewFramer(io.Discard, bytes.NewReader(b))
	fr.ReadMetaHeaders = xhpack.NewDecoder(max(table, 4096), nil)
	ended := map[uint32]bool{}
	headed := map[uint32]bool{}
	for {
		f, err := fr.ReadFrame()
		if errors.Is(err, io.EOF) {
			return true
		}
		if err != nil {
			t.Errorf("x/net: %v", err)
			return false
		}
		h := f.Header()
		end := false
		switch f := f.(type) {
		case *xhttp2.MetaHeadersFrame:
			end = f.StreamEnded()
			if headed[h.StreamID] && !end {
				t.Errorf("stream %d: HEADERS in the middle", h.StreamID)
				return false
			}
			headed[h.StreamID] = true
		case *xhttp2.DataFrame:
			end = f.StreamEnded()
			if !headed[h.StreamID] {
				t.Errorf("stream %d: DATA before HEADERS", h.StreamID)
				return false
			}
		case *xhttp2.RSTStreamFrame:
			ended[h.StreamID] = true
			continue
		default:
			continue
		}
		if ended[h.StreamID] {
			t.Errorf("stream %d: %v behind its end", h.StreamID, h)
			return false
		}
		ended[h.StreamID] = ended[h.StreamID] || end
	}
}

// FuzzConversation is the simulation of a client and a server with any seed.
func FuzzConversation(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(seed * 1000)
	}
	f.Fuzz(func(t *testing.T, seed uint64) { simulate(t, seed) })
}

// fuzzSeeds are starts of connections, client and server side.
func fuzzSeeds(t testing.TB) (seeds [][]byte) {
	tt, _ := t.(*testing.T)
	if tt == nil {
		tt = new(testing.T)
	}
	for _, script := range [][]string{
		{"SETTINGS 0", "HEADERS 1 END_STREAM END_HEADERS :method=GET :scheme=http :path=/ :authority=h a=b cookie=c cookie=d", "PING 0 \"12345678\""},
		{"SETTINGS 0 set4=10 set1=0", "HEADERS 1 END_HEADERS :method=POST :scheme=http :path=/ :authority=h content-length=3", "DATA 1 pad=3 \"ab\"", "DATA 1 END_STREAM \"c\""},
		{"SETTINGS 0", "HEADERS 1 x=8286", "CONTINUATION 1 x=84", "CONTINUATION 1 END_HEADERS x=410168", "RST_STREAM 1 u32=8", "GOAWAY 0 u32=0 u32=0"},
		{"SETTINGS 0 ACK"},
		{"SETTINGS 0", "HEADERS 3 END_HEADERS dep=3 :method=CONNECT :authority=h:1", "WINDOW_UPDATE 3 u32=0", "PRIORITY 5 u32=5 x=00", "UNKNOWN 9 \"x\""},
		{"SETTINGS 0", "HEADERS 1 END_HEADERS :status=100", "HEADERS 1 END_HEADERS :status=200", "DATA 1 \"abc\"", "HEADERS 1 END_STREAM END_HEADERS t=u", "GOAWAY 0 u32=0 u32=0"},
	} {
		p := newPeer()
		var b []byte
		for _, l := range script {
			b = append(b, p.frame(tt, splitWords(l))...)
		}
		seeds = append(seeds, b)
	}
	return seeds
}

// FuzzFrames feeds any bytes behind the preface to both roles, in three cuts that must come to the same, and to the framer of golang.org/x/net: what is a
// connection error there must not go unnoticed here.
func FuzzFrames(f *testing.F) {
	for _, s := range fuzzSeeds(f) {
		f.Add(s, false, false)
		f.Add(s, true, true)
	}
	f.Fuzz(func(t *testing.T, in []byte, client, lenient bool) {
		if len(in) > 1<<16 {
			return
		}
		whole, failed := fuzzRun(in, client, lenient, len(in))
		for _, step := range []int{1, 5} {
			if got, _ := fuzzRun(in, client, lenient, step); got != whole {
				t.Fatalf("cut into %d:\n%s\nwhole:\n%s", step, got, whole)
			}
		}
		if code, bad := frameError(in); bad && !failed {
			t.Fatalf("x/net: %s; here: %s", code, whole)
		}
		if !client {
			theirs := headsAccepted(in)
			for _, l := range strings.Split(whole, "\n") {
				if w := strings.Fields(l); len(w) > 1 && w[0] == "head" && !theirs[w[1]] {
					t.Fatalf("x/net does not take the head of stream %s: %s", w[1], whole)
				}
			}
		}
	})
}

// fuzzRun feeds in, step bytes at a time, and renders all that happens. noticed says that a stream or the connection was ended for an error.
func fuzzRun(in []byte, client, lenient bool, step int) (text string, noticed bool) {
	role := Server
	if client {
		role = Client
	}
	o := defaults(role)
	o.StreamErrors, o.AllowConnect = lenient, lenient
	o.MaxHeaderBytes, o.MaxHeaders = 2000, 20
	e := newEndpoint(role, o)
	if client {
		for _, m := range []string{"GET", "HEAD", "CONNECT"} {
			s := e.c.OpenStream(request(m+" http h:1 /"), m != "CONNECT", sys.Second)
			s.Head, s.Trailers = newHead(), newFields()
			e.streams[s.ID()] = s
		}
	} else {
		e.feed([]byte(preface), sys.Second)
	}
	st := NeedMore
	for len(in) > 0 && st != Failed {
		n := min(step, len(in))
		_, st = e.feed(in[:n:n], sys.Second)
		in = in[n:]
	}
	e.flushData()
	if st == Failed {
		fmt.Fprintf(&e.log, "failed %s %s\n", e.ev.Code, details(e.ev.Fault))
	}
	text = e.log.String() + e.counted()
	noticed = st == Failed || strings.Contains(text, "count tx_reset")
	for s := e.c.Oldest(); s != nil; s = e.c.Oldest() {
		e.c.Release(s)
	}
	return text, noticed
}

// headsAccepted are the streams whose first header block the framer of golang.org/x/net takes for a well-formed one.
func headsAccepted(in []byte) map[string]bool {
	ok, seen := map[string]bool{}, map[string]bool{}
	fr := xhttp2.NewFramer(io.Discard, bytes.NewReader(in))
	fr.ReadMetaHeaders = xhpack.NewDecoder(4096, nil)
	fr.SetMaxReadFrameSize(maxFrame)
	for {
		f, err := fr.ReadFrame()
		var se xhttp2.StreamError
		switch {
		case errors.As(err, &se):
			seen[itoa(int(se.StreamID))] = true
		case err != nil:
			return ok
		}
		if m, is := f.(*xhttp2.MetaHeadersFrame); is && err == nil {
			if id := itoa(int(m.StreamID)); !seen[id] {
				seen[id], ok[id] = true, true
			}
		}
	}
}

// frameError is the first connection error that the framer of golang.org/x/net finds in a single frame. Frames of types beyond RFC 9113, of which it knows one
// more, do not count.
func frameError(in []byte) (string, bool) {
	in = bytes.Clone(in)
	for b := in; len(b) >= frameHeader; {
		h := parseHeader(b)
		if h.typ > ftContinuation {
			b[3] = 0xff
		}
		b = b[min(len(b), frameHeader+int(h.length)):]
	}
	fr := xhttp2.NewFramer(io.Discard, bytes.NewReader(in))
	fr.SetMaxReadFrameSize(maxFrame)
	for {
		_, err := fr.ReadFrame()
		var ce xhttp2.ConnectionError
		switch {
		case err == nil:
		case errors.As(err, &ce):
			return err.Error(), true
		case errors.Is(err, xhttp2.ErrFrameTooLarge):
			return err.Error(), true
		default:
			var se xhttp2.StreamError
			if errors.As(err, &se) {
				continue
			}
			return "", false
		}
	}
}
