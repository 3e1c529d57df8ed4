// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/sys"
)

// exchangeState is what one side of the pair keeps for a stream.
type exchangeState struct {
	st       *Stream
	req      httpmsg.Head
	resp     httpmsg.Head
	reqA     httpmsg.Arena
	respA    httpmsg.Arena
	tr       httpmsg.Fields
	trA      httpmsg.Arena
	toSend   int // content bytes to send
	sent     int
	received int
	trailers bool
	answered bool // server: head sent
	inEnded  bool
}

func (x *exchangeState) reset() {
	x.reqA.Reset(1 << 16)
	x.respA.Reset(1 << 16)
	x.trA.Reset(1 << 16)
	x.req.Reset(&x.reqA)
	x.resp.Reset(&x.respA)
	x.tr.Reset(&x.trA)
	x.st, x.toSend, x.sent, x.received, x.trailers, x.answered, x.inEnded = nil, 0, 0, 0, false, false, false
}

// side is an owner as the worker is one: it drives a Conn, echoes (server) or checks (client) content.
type side struct {
	c      Conn
	counts Counters
	ev     Event
	free   []*exchangeState
	done   int
	resets int
	failed bool
	body   []byte
	meters map[uint32]Meter // of streams that are done; nil: not wanted
}

func (p *side) get() *exchangeState {
	if len(p.free) == 0 {
		p.free = append(p.free, new(exchangeState))
	}
	x := p.free[len(p.free)-1]
	p.free = p.free[:len(p.free)-1]
	x.reset()
	return x
}

func (p *side) put(x *exchangeState) { p.free = append(p.free, x) }

// feed runs the machine over in.
func (p *side) feed(in []byte, now sys.Nanos) []byte {
	server := p.c.role == Server
	for {
		var spare *exchangeState
		if server {
			spare = p.get()
			p.ev.Head = &spare.req
		}
		n, st := p.c.Next(in, now, &p.ev)
		in = in[n:]
		if st != Got {
			if spare != nil {
				p.put(spare)
			}
			p.failed = p.failed || st == Failed
			return in
		}
		if p.ev.Kind == EventHead && server {
			spare.st = p.ev.Stream
			spare.st.Owner, spare.st.Trailers = spare, &spare.tr
		} else if spare != nil {
			p.put(spare)
		}
		p.event()
	}
}

func (p *side) event() {
	ev := &p.ev
	s := ev.Stream
	if s == nil {
		return
	}
	x := s.Owner.(*exchangeState)
	switch ev.Kind {
	case EventHead:
		if p.c.role == Server {
			n, _ := parseLength(x.req.Get(httpmsg.IDAge)) // how much it wants back
			x.toSend = int(n)
		} else if x.resp.Status < 200 {
			x.resp.Reset(&x.respA)
		}
	case EventData:
		x.received += len(ev.Data)
		p.c.Consumed(s, len(ev.Data))
	case EventTrailers:
		x.trailers = true
	case EventReset:
		p.resets++
		p.c.Release(s)
		p.put(x)
		return
	}
	x.inEnded = x.inEnded || ev.End
	p.pump(x)
}

var (
	keyAge         = httpmsg.IDAge.Key()
	keyGrpcStatus  = httpmsg.IDGrpcStatus.Key()
	keyContentType = httpmsg.IDContentType.Key()
	keyRequestID   = httpmsg.IDRequestID.Key()
	keyCookie      = httpmsg.IDCookie.Key()
)

// pump moves the stream on: the server answers when the request is complete.
func (p *side) pump(x *exchangeState) {
	if p.c.role == Server && x.inEnded && !x.answered {
		x.answered = true
		x.resp.Status, x.resp.Body = 200, httpmsg.BodyChunked
		x.resp.AddString(keyContentType, "application/grpc")
		p.c.SendHead(x.st, &x.resp, false)
	}
	if p.c.role == Client || x.answered {
		for x.sent < x.toSend { // until it is refused: only then NextWritable returns it
			n := min(x.toSend-x.sent, len(p.body))
			took := p.c.SendData(x.st, p.body[:n], p.c.role == Client && n == x.toSend-x.sent)
			if x.sent += took; took < n {
				break
			}
		}
		if x.sent == x.toSend && p.c.role == Server && !x.st.LocalEnded() {
			x.tr.Reset(&x.trA)
			x.tr.AddString(keyGrpcStatus, "0")
			p.c.SendTrailers(x.st, &x.tr)
		}
	}
	if x.st.Closed() {
		p.done++
		if p.meters != nil {
			p.meters[x.st.ID()] = *x.st.Meter()
		}
		p.c.Release(x.st)
		p.put(x)
	}
}

func (p *side) writable() {
	for s := p.c.NextWritable(); s != nil; s = p.c.NextWritable() {
		p.pump(s.Owner.(*exchangeState))
	}
}

// start opens a stream of the client that sends up bytes and asks for down bytes.
func (p *side) start(up, down int, now sys.Nanos) bool {
	x := p.get()
	r := &x.req
	r.SetMethod("POST")
	r.SetScheme("http")
	r.Authority = r.A.PutString("greeter.example:8080")
	r.Target = r.A.PutString("/pkg.Greeter/SayHello")
	r.Body = httpmsg.BodyChunked
	r.AddString(keyContentType, "application/grpc")
	r.AddSpan(keyAge, r.A.Take(appendInt(r.A.Tail(), down)))
	r.AddString(keyRequestID, "6c1e6a5c-0d3f-4b5e-9e3c-111111111111")
	r.AddString(keyCookie, "a=b; c=d")
	x.toSend = up
	if x.st = p.c.OpenStream(r, up == 0, now); x.st == nil {
		p.put(x)
		return false
	}
	x.st.Owner, x.st.Head, x.st.Trailers = x, &x.resp, &x.tr
	if up > 0 {
		p.pump(x)
	}
	return true
}

func appendInt(b []byte, n int) []byte {
	if n >= 10 {
		b = appendInt(b, n/10)
	}
	return append(b, byte('0'+n%10))
}

// pair is a client and a server in memory.
type pair struct {
	client, server side
	now            sys.Nanos
}

func newPair(co, so *Options) *pair {
	p := &pair{now: sys.Second}
	body := bytes.Repeat([]byte("0123456789abcdef"), 4096)
	p.client.body, p.server.body = body, body
	p.client.c.Init(Client, co, shared(), &p.client.counts, 1, p.now)
	p.server.c.Init(Server, so, shared(), &p.server.counts, 2, p.now)
	return p
}

// turn carries everything across, both ways; it reports whether anything moved.
func (p *pair) turn() bool {
	moved := false
	carry := func(from, to *side) {
		from.writable()
		out := from.c.Pending()
		if len(out) == 0 {
			return
		}
		moved = true
		to.feed(out, p.now)
		from.c.Sent(len(out))
	}
	carry(&p.client, &p.server)
	carry(&p.server, &p.client)
	return moved
}

func (p *pair) settle() {
	for p.turn() {
	}
}

func TestExchangeDoesNotAllocate(t *testing.T) {
	for _, tc := range []struct{ streams, size int }{{1, 105}, {10, 105}, {100, 105}, {8, 300 << 10}} {
		streams := tc.streams
		t.Run(fmt.Sprint(streams, "x", tc.size), func(t *testing.T) {
			p := newPair(defaults(Client), defaults(Server))
			round := func() {
				for range streams {
					p.client.start(tc.size, tc.size, p.now)
				}
				p.settle()
			}
			for range 20 {
				round()
			}
			before := p.client.done
			if n := testing.AllocsPerRun(100, round); n != 0 {
				t.Errorf("%v allocations per round of %d exchanges", n, streams)
			}
			if p.client.done != before+101*streams || p.server.done != p.client.done || p.client.failed || p.server.failed {
				t.Errorf("client done %d (failed %v), server done %d (failed %v)", p.client.done, p.client.failed, p.server.done, p.server.failed)
			}
			if n := p.client.c.Active() + p.server.c.Active(); n != 0 {
				t.Errorf("%d streams left", n)
			}
			if n := p.client.c.sh.Bufs.Outstanding() + p.server.c.sh.Bufs.Outstanding(); n != 0 {
				t.Errorf("idle connections hold %d bytes of buffers", n)
			}
		})
	}
}

func TestLargeBodiesUnderFlowControl(t *testing.T) {
	p := newPair(defaults(Client), defaults(Server))
	const size = 3 << 20
	for range 10 {
		p.client.start(size, size, p.now)
	}
	p.settle()
	if p.client.done != 10 || p.server.done != 10 {
		t.Errorf("done: client %d, server %d; failed %v %v", p.client.done, p.server.done, p.client.failed, p.server.failed)
	}
}

// TestSimulation runs a client against a server with random splits, sizes, resets, settings changes and drains; everything must end, and nothing may fail.
func TestSimulation(t *testing.T) {
	for seed := range uint64(60) {
		if !simulate(t, seed) {
			t.Fatalf("seed %d", seed)
		}
	}
}

func simulate(t *testing.T, seed uint64) bool {
	r := rand.New(rand.NewPCG(seed, 1))
	co, so := defaults(Client), defaults(Server)
	so.MaxConcurrentStreams = 1 + r.Uint32N(50)
	co.StreamWindow, so.StreamWindow = initialWindow+r.Int32N(1<<18), initialWindow+r.Int32N(1<<18)
	co.OutputLimit, so.OutputLimit = 1000+r.IntN(100000), 1000+r.IntN(100000)
	co.HpackTableSize, so.HpackTableSize = r.Uint32N(8192), r.Uint32N(8192)
	co.PrematureResets, so.PrematureResets = 1<<30, 1<<30
	p := newPair(co, so)
	var wires [2][]byte
	tap := [2]bytes.Buffer{}
	carry := func(from, to *side, wire *[]byte, tap *bytes.Buffer) {
		from.writable()
		if out := from.c.Pending(); len(out) > 0 {
			n := 1 + r.IntN(len(out))
			*wire = append(*wire, out[:n]...)
			tap.Write(out[:n])
			from.c.Sent(n)
		}
		if len(*wire) > 0 {
			n := 1 + r.IntN(len(*wire))
			rest := to.feed((*wire)[:n:n], p.now)
			*wire = append((*wire)[:0:0], (*wire)[n-len(rest):]...)
		}
	}
	started, refused := 0, 0
	for step := 0; ; step++ {
		p.now += sys.Millisecond
		if step < 400 && r.IntN(3) == 0 {
			if p.client.start(r.IntN(2)*r.IntN(100000), r.IntN(2)*r.IntN(100000), p.now) {
				started++
			} else {
				refused++
			}
		}
		if r.IntN(40) == 0 {
			for _, side := range []*side{&p.client, &p.server} {
				if s := side.c.Oldest(); s != nil {
					x := s.Owner.(*exchangeState)
					side.c.Release(s)
					side.put(x)
					side.resets++
				}
			}
		}
		carry(&p.client, &p.server, &wires[0], &tap[0])
		carry(&p.server, &p.client, &wires[1], &tap[1])
		if p.client.failed || p.server.failed {
			t.Errorf("failed: client %v %s, server %v %s", p.client.failed, p.client.c.code, p.server.failed, p.server.c.code)
			return false
		}
		if step > 400 && p.client.c.Active()+p.server.c.Active() == 0 {
			break
		}
		if step > 200000 {
			t.Errorf("stuck: %d and %d streams", p.client.c.Active(), p.server.c.Active())
			return false
		}
	}
	if p.client.done+p.client.resets < started {
		t.Errorf("%d started, %d done, %d reset", started, p.client.done, p.client.resets)
		return false
	}
	return windowsWhole(t, p, wires, &tap) && wellFormed(t, tap[0].Bytes()[len(preface):], co.HpackTableSize) && wellFormed(t, tap[1].Bytes(), so.HpackTableSize)
}

// windowsWhole checks that no credit of a connection got lost: what one side may send and what is on its way back is what the other side gave.
func windowsWhole(t *testing.T, p *pair, wires [2][]byte, tap *[2]bytes.Buffer) bool {
	for range 1000 {
		for i, s := range []*side{&p.client, &p.server} {
			o := []*side{&p.server, &p.client}[i]
			wires[i] = append(wires[i], s.c.Pending()...)
			tap[i].Write(s.c.Pending())
			s.c.Sent(len(s.c.Pending()))
			o.feed(wires[i], p.now)
			wires[i] = nil
		}
	}
	ok := true
	for i, s := range []*side{&p.client, &p.server} {
		o := []*side{&p.server, &p.client}[i]
		if s.c.sendWin != o.c.recvWin || o.c.recvWin+o.c.unreturned != o.c.recvSize {
			t.Errorf("side %d: send window %d, the other's receive window %d + %d of %d", i, s.c.sendWin, o.c.recvWin, o.c.unreturned, o.c.recvSize)
			ok = false
		}
	}
	return ok
}
