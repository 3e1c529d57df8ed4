// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"sidecar/dataplane/fault"
	"sidecar/dataplane/http2/hpack"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/sys"
)

// Role is the end of the connection that a Conn is.
type Role uint8

// The roles.
const (
	Server Role = iota
	Client
)

// Status is the result of Next.
type Status uint8

// The results.
const (
	NeedMore Status = iota // all input was used
	Got                    // the Event is filled; call Next again with the rest of the input
	Blocked                // server: the peer does not read what it asked for; call Next again with the rest when output has left
	Failed                 // the connection is over: Event has Code and Fault, and ID when it is the head of a new stream. Write what is pending, end all streams (Oldest), close.
)

// EventKind is the kind of an Event.
type EventKind uint8

// The kinds.
const (
	EventNone     EventKind = iota
	EventHead               // Stream.Head is complete: a request, a response, or a 1xx after which another head follows
	EventData               // Data arrived; it may be empty with End
	EventTrailers           // Stream.Trailers are complete; End is set
	EventReset              // the stream is over: Code, Fault, Remote, Unprocessed. Stream is nil if the owner never saw it.
	EventGoaway             // the peer sends no more streams (server) or takes no more (client): Code, ID. Resets of the streams that it did not take follow.
	EventSettings           // the peer's SETTINGS are in. Client: Slots and ExtendedConnect may have changed. Server: only if many streams had to be visited.
)

// Event is what Next reports. In the server role the owner keeps Head set to an empty head with an arena: that of the next request. The event Head takes it,
// as Stream.Head; with nil new streams are refused.
type Event struct {
	Stream      *Stream
	Head        *httpmsg.Head
	Data        []byte // a view of the input of this call
	ID          uint32 // of the stream; Goaway: the last one the peer took
	Plain       uint32 // octets of names and values that were taken of a head that was none
	Code        Code
	Kind        EventKind
	Fault       fault.Kind
	End         bool // the peer has ended the stream
	Remote      bool // Reset: by the peer
	Unprocessed bool // Reset: the peer provably did nothing with the request (RFC 9113 section 8.7)
}

// phase is the place of a Conn in its input.
type phase uint8

const (
	phPreface  phase = iota // server: octets of the preface
	phFrame                 // a frame header
	phFixed                 // payload of a fixed size, or what a frame begins with
	phFragment              // a piece of a header block
	phSettings              // an entry of SETTINGS
	phData                  // content
	phSkip                  // what is left of the frame means nothing
)

type connFlags uint16

const (
	cFailed    connFlags = 1 << iota
	cFirst               // no frame has come yet: it must be SETTINGS
	cInBlock             // a header block waits for CONTINUATION
	cSelfDep             // its HEADERS depends on itself
	cBlockEnd            // its HEADERS had END_STREAM
	cGoawayIn            // the peer sent GOAWAY
	cSweep               // streams that GOAWAY leaves out are being reported
	cGoawayOut           // we sent a GOAWAY
	cUnacked             // our SETTINGS are not acknowledged
	cPinged              // a keep-alive PING is not acknowledged
	cProbing             // a PING that measures a round trip is not answered
	cConnect             // the peer takes extended CONNECT
)

// Conn is one connection in one role. Owner: one worker. The zero value is unusable; call Init.
type Conn struct {
	// Immutable
	o      *Options
	sh     *Shared
	counts *Counters
	role   Role

	// Worker: input
	phase   phase
	fl      connFlags
	have    uint8 // octets in part
	need    uint8 // octets that part is to have
	part    [frameHeader]byte
	h       header // of the frame under way
	left    uint32 // octets of its payload to come, padding included
	pad     uint32 // octets of padding among them
	cur     *Stream
	block   []byte // pieces of a header block; from the pool
	blockID uint32
	blockIn uint32 // octets of the frames that it came in, their headers left out
	conts   uint32 // CONTINUATION frames of the block
	news    newSettings
	dec     hpack.Decoder
	empty   uint32 // consecutive frames with an empty payload
	prios   uint64
	wins    uint64
	strays  uint32 // RST_STREAM of streams that were over
	failed  fault.Kind
	code    Code

	// Worker: streams
	streams    streams
	closed     closed
	lastPeer   uint32 // server: highest stream that was taken
	highest    uint32 // server: highest stream the peer opened
	lastOwn    uint32 // client: highest stream we opened
	goawayIn   uint32 // last-stream-id of the peer's GOAWAY
	goawayOut  uint32 // last-stream-id of ours
	opening    uint32 // server: stream that the header block under way opens, 0 if it opens none
	opened     uint32 // streams that got as far as a head from us
	ended      uint32 // server: streams that are over
	premature  uint32 // server: streams that were over before they began
	peerMax    uint32 // peer's SETTINGS_MAX_CONCURRENT_STREAMS
	peerWindow int32  // peer's SETTINGS_INITIAL_WINDOW_SIZE

	// Worker: flow
	sendWin    int32
	recvWin    int32
	recvSize   int32
	unreturned int32
	growth     growth
	ourWindow  int32 // our SETTINGS_INITIAL_WINDOW_SIZE
	wantsHead  *Stream
	wantsTail  *Stream

	// Worker: output
	enc      hpack.Encoder
	out      []byte // from the pool; nil when nothing is pending
	off      int    // octets of out that have left
	frameAt  int    // where the first frame begins that has not left whole
	lastData int    // where the last frame begins if it is a DATA frame that may grow, else -1
	frames   uint32 // frames in out
	controls uint32 // PING, SETTINGS and RST_STREAM among them
	datas    uint64 // DATA frames sent in all

	// Worker: time
	now        sys.Nanos
	lastIn     sys.Nanos
	settingsBy sys.Nanos
	pingAt     sys.Nanos
	pongBy     sys.Nanos
	random     uint64
}

// Stop ends the sending of anything: the peer has gone.
func (c *Conn) Stop() { c.fl |= cFailed }

// Serves tells whether c has the server role.
func (c *Conn) Serves() bool { return c.role == Server }

// Init makes c a connection at its beginning. seed is any random number. What is to be sent first is pending at once.
func (c *Conn) Init(r Role, o *Options, sh *Shared, counts *Counters, seed uint64, now sys.Nanos) {
	*c = Conn{o: o, sh: sh, counts: counts, role: r, fl: cFirst | cUnacked, peerMax: maxStreamID, peerWindow: initialWindow, sendWin: initialWindow,
		recvWin: o.ConnWindow, recvSize: o.ConnWindow, ourWindow: o.StreamWindow, now: now, lastIn: now, lastData: -1, random: seed}
	c.streams.secret = c.rand() | 1
	c.dec.Init(hpack.DefaultTable, &sh.scratch)
	c.enc.Init(o.HpackTableSize)
	c.grow(len(preface) + 128)
	if r == Client {
		c.out = append(c.out, preface...)
		c.frameAt = len(preface)
		c.phase = phFrame
	}
	c.sendSettings()
	if o.ConnWindow > initialWindow {
		c.windowUpdate(0, o.ConnWindow-initialWindow)
	}
	if o.SettingsTimeout > 0 {
		c.settingsBy = now + o.SettingsTimeout
	}
	c.scheduleKeepalive()
}

// rand is a xorshift step: jitter and table secrets need no more.
func (c *Conn) rand() uint64 {
	x := c.random + 0x9e3779b97f4a7c15
	c.random = x
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Free gives back what a connection holds that is over, and must not be used any more. All its streams were released.
func (c *Conn) Free() {
	c.sh.Bufs.Put(c.out)
	c.sh.Bufs.Put(c.block)
	*c = Conn{}
}

// Next reads from in, which goes on where the last call stopped, and fills at most one event. n counts what was used of in: all of it with NeedMore.
func (c *Conn) Next(in []byte, now sys.Nanos, ev *Event) (n int, st Status) {
	c.now = now
	*ev = Event{Head: ev.Head}
	if len(in) > 0 {
		c.lastIn = now
	}
	for {
		switch {
		case c.fl&cFailed != 0:
			ev.Code, ev.Fault, ev.ID = c.code, c.failed, c.opening
			return n, Failed
		case c.fl&cSweep != 0 && c.sweep(ev):
			return n, Got
		case n == len(in):
			return n, NeedMore
		case c.phase == phFrame && c.role == Server && c.queued() > c.o.OutputLimit+headRoom:
			return n, Blocked
		}
		m, got := c.step(in[n:], ev)
		n += m
		if got && c.fl&cFailed == 0 {
			return n, Got
		}
	}
}

// step uses some of in, which is not empty.
func (c *Conn) step(in []byte, ev *Event) (n int, got bool) {
	switch c.phase {
	case phPreface:
		return c.readPreface(in), false
	case phFrame:
		if c.have == 0 && len(in) >= frameHeader {
			c.h = parseHeader(in)
			return frameHeader, c.begin(ev)
		}
		c.need = frameHeader
		n, ok := c.collect(in)
		if ok {
			c.h = parseHeader(c.part[:])
			got = c.begin(ev)
		}
		return n, got
	case phFixed, phSettings:
		n, ok := c.collect(in)
		c.left -= uint32(n)
		if ok {
			got = c.fixed(ev)
		}
		return n, got
	case phFragment:
		return c.fragment(in, ev)
	case phData:
		return c.data(in, ev)
	default:
		n = int(min(uint32(len(in)), c.left))
		c.left -= uint32(n)
		if c.left == 0 {
			c.phase = phFrame
		}
		return n, false
	}
}

// collect moves octets from in to part; ok says that it has as many as it needs.
func (c *Conn) collect(in []byte) (n int, ok bool) {
	n = copy(c.part[c.have:c.need], in)
	c.have += uint8(n)
	if c.have < c.need {
		return n, false
	}
	c.have = 0
	return n, true
}

// readPreface compares with the client's connection preface.
func (c *Conn) readPreface(in []byte) int {
	for i, b := range in {
		if b != preface[c.left] {
			c.fail(CodeProtocol, fault.H2Protocol, CountProtocolError)
			return i
		}
		if c.left++; int(c.left) == len(preface) {
			c.left, c.phase = 0, phFrame
			return i + 1
		}
	}
	return len(in)
}

// fail ends the connection: a GOAWAY is the last that it sends.
func (c *Conn) fail(code Code, k fault.Kind, n Counter) {
	if c.fl&cFailed != 0 {
		return
	}
	c.fl |= cFailed
	c.code, c.failed = code, k
	c.counts.inc(n)
	c.goawayFrame(min(max(c.lastPeer, c.opening), c.lastGoaway()), code)
	c.sh.Bufs.Put(c.block)
	c.block = nil
}

func (c *Conn) protocolError() bool {
	c.fail(CodeProtocol, fault.H2Protocol, CountProtocolError)
	return false
}

// Dead reports that the connection has failed; Next says why.
func (c *Conn) Dead() bool { return c.fl&cFailed != 0 }

// Active is the number of streams that were not released.
func (c *Conn) Active() int { return c.streams.count }

// Streams is the number of streams that the peer has opened so far.
func (c *Conn) Streams() uint32 { return c.ended + uint32(c.streams.count) }

// Oldest returns the oldest stream that was not released, nil if there is none: for ending all of them.
func (c *Conn) Oldest() *Stream { return c.streams.oldest }

// Release gives a stream back. One that is not closed is reset: with NO_ERROR when a server has sent its whole answer (RFC 9113 section 8.1), else with CANCEL.
// What was received on it and not consumed is returned to the connection's window.
func (c *Conn) Release(s *Stream) {
	switch {
	case s.Closed():
	case c.role == Server && s.fl&sLocalEnd != 0:
		c.SendReset(s, CodeNo)
	default:
		c.SendReset(s, CodeCancel)
	}
	c.give(s.held)
	if c.cur == s {
		c.cur = nil
	}
	c.closed.add(s.id, s.fl&(sOurReset|sRemoteEnd) == sOurReset)
	c.streams.remove(s)
	c.forget(s)
	c.ended++
	c.sh.put(s)
}
