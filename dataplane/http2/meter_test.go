// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"strings"
	"testing"

	"sidecar/dataplane/sys"
)

// onWire adds up, by stream, what of the frames in b a Meter counts: everything in wire, header blocks in head.
func onWire(t *testing.T, b []byte, wire, head map[uint32]uint64) {
	for len(b) > 0 {
		h := parseHeader(b)
		n := uint64(frameHeader) + uint64(h.length)
		b = b[n:]
		if h.typ == ftContinuation {
			n -= frameHeader
		}
		if h.typ == ftHeaders || h.typ == ftContinuation {
			head[h.id] += n
		}
		wire[h.id] += n
	}
}

func TestMeterCountsTheFramesOfItsStream(t *testing.T) {
	p := newPair(defaults(Client), defaults(Server))
	p.client.meters, p.server.meters = map[uint32]Meter{}, map[uint32]Meter{}
	var wire, head [2]map[uint32]uint64 // client to server, server to client
	for i := range wire {
		wire[i], head[i] = map[uint32]uint64{}, map[uint32]uint64{}
	}
	p.client.start(40000, 40000, p.now)
	p.client.start(0, 5, p.now)
	p.client.start(5, 0, p.now)
	for moved, first := true, true; moved; first = false {
		moved = false
		for i, s := range []*side{&p.client, &p.server} {
			s.writable()
			out := s.c.Pending()
			if len(out) == 0 {
				continue
			}
			moved = true
			frames := out
			if first && i == 0 {
				frames = out[len(preface):]
			}
			onWire(t, frames, wire[i], head[i])
			[]*side{&p.server, &p.client}[i].feed(out, p.now)
			s.c.Sent(len(out))
		}
	}
	if len(p.client.meters) != 3 || len(p.server.meters) != 3 {
		t.Fatalf("%d and %d streams are done", len(p.client.meters), len(p.server.meters))
	}
	for id, c := range p.client.meters {
		s := p.server.meters[id]
		if c.WireOut != wire[0][id] || s.WireOut != wire[1][id] || c.HeadOut != head[0][id] || s.HeadOut != head[1][id] {
			t.Errorf("stream %d: on the wire %d and %d, of them heads %d and %d; client %+v, server %+v", id, wire[0][id], wire[1][id], head[0][id], head[1][id], c, s)
		}
		if c.HeadIn != s.HeadOut || s.HeadIn != c.HeadOut || c.PlainIn != s.PlainOut || s.PlainIn != c.PlainOut || c.PlainOut <= 100 {
			t.Errorf("stream %d: client %+v, server %+v", id, c, s)
		}
		if updates := c.WireOut - s.WireIn; updates%(frameHeader+4) != 0 || s.WireIn < c.HeadOut {
			t.Errorf("stream %d: client sent %d, server received %d: the difference is not of WINDOW_UPDATE", id, c.WireOut, s.WireIn)
		}
	}
}

func TestMeterLeavesTheHeaderOfContinuationOut(t *testing.T) {
	co, so := defaults(Client), defaults(Server)
	p := newPair(co, so)
	r := request("POST http a.test /", "x-large="+strings.Repeat("~", 40000))
	s := p.client.c.OpenStream(r, true, p.now)
	out := p.client.c.Pending()
	wire, head := map[uint32]uint64{}, map[uint32]uint64{}
	onWire(t, out[len(preface):], wire, head)
	if m := s.Meter(); m.WireOut != wire[1] || m.HeadOut != head[1] || m.HeadOut < 40000 {
		t.Errorf("%+v, on the wire %d", *m, wire[1])
	}
	x := p.server.get()
	p.server.ev.Head = &x.req
	for {
		n, st := p.server.c.Next(out, p.now, &p.server.ev)
		out = out[n:]
		if st != Got {
			t.Fatal("no request came")
		}
		if p.server.ev.Kind == EventHead {
			break
		}
	}
	if m := p.server.ev.Stream.Meter(); m.WireIn != wire[1] || m.HeadIn != head[1] || m.PlainIn != s.Meter().PlainOut {
		t.Errorf("%+v of %d", *m, wire[1])
	}
}

func TestMeterCountsResetsAndNoContentThatWasRefused(t *testing.T) {
	p, e := newPeer(), newEndpoint(Server, defaults(Server))
	e.keep = true
	feed := func(lines ...string) {
		for _, l := range lines {
			e.feed(p.frame(t, strings.Fields(l)), sys.Second)
		}
	}
	feed("PREFACE", "SETTINGS 0", "HEADERS 1 END_HEADERS :method=POST :scheme=http :authority=a :path=/ content-length=3")
	head := e.streams[1].Meter().WireIn
	feed(`DATA 1 "hello"`)
	if m := e.streams[1].Meter(); m.WireIn != head || m.WireOut != frameHeader+4 {
		t.Errorf("content beyond what was declared: %+v", *m)
	}
	feed("HEADERS 3 END_HEADERS :method=POST :scheme=http :authority=a :path=/", `DATA 3 "hello"`)
	before := e.streams[3].Meter().WireIn
	if feed("RST_STREAM 3 u32=8"); e.streams[3].Meter().WireIn != before+frameHeader+4 {
		t.Errorf("a reset: %d, then %+v", before, *e.streams[3].Meter())
	}
}
