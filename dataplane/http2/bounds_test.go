// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"slices"
	"strings"
	"testing"

	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/sys"
)

// turns counts the round trips of a download of size bytes.
func turns(t *testing.T, size int, grow bool) (n int, p *pair) {
	co, so := defaults(Client), defaults(Server)
	so.OutputLimit = 64 << 20
	if !grow {
		co.MaxStreamWindow, co.MaxConnWindow = co.StreamWindow, co.ConnWindow
	}
	p = newPair(co, so)
	p.server.body = make([]byte, 32<<20)
	p.client.start(0, size, p.now)
	for p.turn() {
		n++
	}
	if p.client.done != 1 {
		t.Errorf("done %d, failed %v", p.client.done, p.client.failed)
	}
	return n, p
}

func TestWindowsGrowWithTheRoundTrip(t *testing.T) {
	const size = 30 << 20
	fixed, _ := turns(t, size, false)
	grown, p := turns(t, size, true)
	if fixed < size/DefaultStreamWindow || grown > fixed/10 {
		t.Errorf("%d round trips with fixed windows, %d with growing ones", fixed, grown)
	}
	if c := &p.client.c; c.ourWindow > DefaultMaxStreamWindow || c.recvSize > DefaultMaxConnWindow || c.ourWindow <= DefaultStreamWindow {
		t.Errorf("stream window %d, connection window %d", c.ourWindow, c.recvSize)
	}
}

func TestWindowsAtTheirMaximumAreReturnedByHalves(t *testing.T) {
	const most = 1<<31 - 1
	co, so := defaults(Client), defaults(Server)
	co.StreamWindow, co.MaxStreamWindow, co.ConnWindow, co.MaxConnWindow = most, most, most, most
	p := newPair(co, so)
	p.client.start(0, 40000, p.now)
	p.settle()
	if p.client.done != 1 || p.client.failed || p.server.failed {
		t.Errorf("done %d, failed %v and %v", p.client.done, p.client.failed, p.server.failed)
	}
}

// TestServerStopsReadingWhenItsHeadsAreNotRead: heads are not under flow control, so a client that asks and never reads is not read any more.
func TestServerStopsReadingWhenItsHeadsAreNotRead(t *testing.T) {
	o := defaults(Server)
	o.OutputLimit = 1000
	e := newEndpoint(Server, o)
	p := newPeer()
	in := append([]byte(preface), p.frame(t, []string{"SETTINGS", "0"})...)
	e.feed(in, sys.Second)
	big := response(200, "x="+strings.Repeat("y", 60000))
	id, blocked := 1, false
	for ; id < 200 && !blocked; id += 2 {
		in := p.frame(t, []string{"HEADERS", itoa(id), "END_STREAM", "END_HEADERS", ":method=GET", ":scheme=http", ":path=/", ":authority=h"})
		_, st := e.feed(in, sys.Second)
		if blocked = st == Blocked; !blocked {
			s := e.streams[uint32(id)]
			e.c.SendHead(s, big, true)
			e.c.Release(s)
		}
	}
	if n := len(e.c.Pending()); !blocked || n > headRoom+200000 {
		t.Fatalf("blocked %v with %d bytes pending", blocked, n)
	}
	e.take()
	if _, st := e.feed(p.frame(t, []string{"PING", "0", "\"12345678\""}), sys.Second); st != NeedMore {
		t.Errorf("still %v", st)
	}
}

// TestSettingsThatVisitManyStreamsAreEvents: or one read of them would keep its owner.
func TestSettingsThatVisitManyStreamsAreEvents(t *testing.T) {
	e := newEndpoint(Server, defaults(Server))
	p := newPeer()
	in := append([]byte(preface), p.frame(t, []string{"SETTINGS", "0"})...)
	for id := 1; id < 2*manyStreams; id += 2 {
		in = append(in, p.frame(t, []string{"HEADERS", itoa(id), "END_STREAM", "END_HEADERS", ":method=GET", ":scheme=http", ":path=/", ":authority=h"})...)
	}
	e.feed(in, sys.Second)
	for i, want := range []EventKind{EventSettings, EventNone} { // the second brings nothing new
		var ev Event
		in := p.frame(t, []string{"SETTINGS", "0", "set4=7"})
		n, st := e.c.Next(in, sys.Second, &ev)
		if n != len(in) || ev.Kind != want || (st == Got) != (want != EventNone) {
			t.Errorf("frame %d: event %v, status %v after %d of %d bytes", i, ev.Kind, st, n, len(in))
		}
	}
}

// TestResetsOfStreamsThatAreOverAreBounded: one may cross our end of the stream, a flood ends the connection (CVE-2019-9514).
func TestResetsOfStreamsThatAreOverAreBounded(t *testing.T) {
	e := newEndpoint(Server, defaults(Server))
	p := newPeer()
	in := append([]byte(preface), p.frame(t, []string{"SETTINGS", "0"})...)
	in = append(in, p.frame(t, []string{"HEADERS", "1", "END_STREAM", "END_HEADERS", ":method=GET", ":scheme=http", ":path=/", ":authority=h"})...)
	e.feed(in, sys.Second)
	reset := p.frame(t, []string{"RST_STREAM", "1", "u32=8"})
	n, st := 0, NeedMore
	for ; st != Failed && n < 10*strayResets; n++ {
		_, st = e.feed(reset, sys.Second)
	}
	if n != 1+strayResets+1+1 || e.ev.Code != CodeEnhanceYourCalm {
		t.Errorf("status %v, code %v after %d resets", st, e.ev.Code, n)
	}
}

func itoa(n int) string { return string(appendInt(nil, n)) }

// TestStreamTableTakesAnyIdentifiers: a peer that skips identifiers, by whatever step, finds its streams again and cannot make chains long.
func TestStreamTableTakesAnyIdentifiers(t *testing.T) {
	const n = 1024
	for _, step := range []uint32{1, 3, 16, 1 << 11, 1 << 12, 1 << 20} {
		tab := streams{secret: 0x9e3779b97f4a7c15}
		var all []*Stream
		for i := range uint32(n) {
			s := &Stream{id: i*step*2 + 1}
			tab.add(s)
			all = append(all, s)
		}
		longest := 0
		for _, s := range tab.slots {
			l := 0
			for ; s != nil; s = s.next {
				l++
			}
			longest = max(longest, l)
		}
		if longest > 8 || step == 1 && longest > 1 {
			t.Errorf("step %d: %d streams in a slot of %d", step, longest, len(tab.slots))
		}
		for i, s := range all {
			if tab.find(s.id) != s || tab.find(s.id+1) != nil {
				t.Fatalf("step %d: stream %d is lost", step, s.id)
			}
			if i%2 == 0 {
				tab.remove(s)
			}
		}
		for i, s := range all {
			if (tab.find(s.id) == s) != (i%2 == 1) {
				t.Fatalf("step %d: stream %d after removal", step, s.id)
			}
		}
		if tab.count != n/2 || tab.oldest != all[1] || tab.newest != all[n-1] {
			t.Errorf("step %d: %d left", step, tab.count)
		}
	}
}

// TestFailedConnectionIsQuiet: whatever the owner does after a failure, nothing is added behind the GOAWAY, and all is given back.
func TestFailedConnectionIsQuiet(t *testing.T) {
	e := newEndpoint(Server, defaults(Server))
	p := newPeer()
	in := append([]byte(preface), p.frame(t, []string{"SETTINGS", "0"})...)
	in = append(in, p.frame(t, []string{"HEADERS", "1", "END_HEADERS", ":method=POST", ":scheme=http", ":path=/", ":authority=h"})...)
	in = append(in, p.frame(t, []string{"DATA", "0", "\"x\""})...)
	if _, st := e.feed(in, sys.Second); st != Failed || !e.c.Dead() {
		t.Fatal(st)
	}
	n := len(e.c.Pending())
	s := e.c.Oldest()
	e.c.SendHead(s, response(200), false)
	e.c.SendData(s, []byte("x"), true)
	e.c.SendTrailers(s, newFields())
	e.c.SendGoaway(MaxStream, CodeNo)
	e.c.Consumed(s, 1)
	e.c.SendReset(s, CodeCancel)
	e.c.Release(s)
	if _, st := e.feed([]byte("more"), sys.Second); st != Failed || len(e.c.Pending()) != n {
		t.Errorf("%v, %d bytes more", st, len(e.c.Pending())-n)
	}
	e.take()
	if e.c.Free(); e.c.Active() != 0 {
		t.Error("streams left")
	}
}

// TestHeadsGoToHTTP1InOnePiece: fields of a received head lie in the arena as HTTP/1 writes them.
func TestHeadsGoToHTTP1InOnePiece(t *testing.T) {
	e := newEndpoint(Server, defaults(Server))
	p := newPeer()
	in := append([]byte(preface), p.frame(t, []string{"SETTINGS", "0"})...)
	in = append(in, p.frame(t, []string{"HEADERS", "1", "END_HEADERS", ":method=POST", ":scheme=http", ":path=/", ":authority=h", "a=b", "accept=c"})...)
	var h *httpmsg.Head
	for e.ev.Head = newHead(); ; {
		h = e.ev.Head
		n, st := e.c.Next(in, sys.Second, &e.ev)
		if in = in[n:]; st == Got && e.ev.Kind == EventHead {
			break
		}
	}
	if !strings.Contains(string(h.A.Tail()), "a: b\r\naccept: c\r\n") {
		t.Errorf("%q", h.A.Tail())
	}
}

// TestFramesAreCountedUntilTheyHaveLeft: the flood limits see the frames of which an octet has not left.
func TestFramesAreCountedUntilTheyHaveLeft(t *testing.T) {
	build := func() (*Conn, []int) {
		c := new(Conn)
		c.Init(Client, defaults(Client), shared(), new(Counters), 1, sys.Second)
		c.OpenStream(request("GET http h /"), false, sys.Second)
		c.sendPing(1)
		c.SendData(c.Oldest(), make([]byte, 20000), false)
		c.SendReset(c.Oldest(), CodeCancel)
		ends := []int{} // of the frames
		for at := len(preface); at < len(c.Pending()); {
			at += frameHeader + int(parseHeader(c.Pending()[at:]).length)
			ends = append(ends, at)
		}
		return c, ends
	}
	c, ends := build()
	total := len(c.Pending())
	for n := 0; n <= total; n++ {
		if n > 200 && n%97 != 0 && n < total-100 && !slices.ContainsFunc(ends, func(e int) bool { return n >= e-1 && n <= e+frameHeader }) {
			continue
		}
		c, _ := build()
		c.Sent(n / 2)
		c.Sent(n - n/2)
		want := 0
		for _, e := range ends {
			if e > n {
				want++
			}
		}
		if int(c.frames) != want {
			t.Fatalf("%d octets left of %d: %d frames, want %d", n, len(c.out), c.frames, want)
		}
		c.sendPing(2) // moves what is left
		if rest := c.Pending(); len(rest) < frameHeader+8 || rest[len(rest)-1] != 2 {
			t.Fatalf("%d octets left: %x", n, rest)
		}
	}
}

func TestKeepaliveIntervalHasJitter(t *testing.T) {
	o := defaults(Client)
	o.KeepaliveInterval, o.SettingsTimeout = 10*sys.Second, 0
	seen := map[sys.Nanos]bool{}
	for seed := range uint64(50) {
		c := new(Conn)
		c.Init(Client, o, shared(), new(Counters), seed, sys.Second)
		at := c.Deadline() - sys.Second
		if at < o.KeepaliveInterval || at >= o.KeepaliveInterval*115/100 {
			t.Errorf("PING after %d ns", at)
		}
		seen[at] = true
	}
	if len(seen) < 45 {
		t.Errorf("%d different intervals of 50", len(seen))
	}
}
