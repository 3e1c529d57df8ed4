// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"sidecar/dataplane/conn"
	"sidecar/dataplane/fault"
	"sidecar/dataplane/http1"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/mux"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/accesslog"
)

// The seam between an exchange and the codecs. An exchange pulls a message out of a source, as far as the far side has room, and pushes it into a
// sender; both are plain structs with one branch per codec, so that the request path stays free of allocations. What is left to say about the
// connection that the request came on is the client.

// client is the connection that a request came on, as far as it is more than the exchange's stream.
type client interface {
	// answer settles, before the response head x.resp goes out, whether the connection goes on behind it, and says so in the head.
	answer(x *Exchange)
	// closeAfter makes the connection end with this exchange.
	closeAfter()
	// account brings b and the connection manager's counters up to date with what went over the wire.
	account(b *accesslog.Bytes)
	// over is called once, when the exchange is logged and freed.
	over(e ending, now sys.Nanos)
	// run runs the exchange because its upstream has something.
	run(now sys.Nanos)
	// poisoned ends the exchange, which has panicked, and as little else as possible.
	poisoned()
}

// ending says how an exchange ended for its client.
type ending uint8

const (
	answered ending = iota // the whole answer is out
	cut                    // the answer broke off
	garbled                // the request turned out to be malformed after the answer had begun
	refused                // there is no answer to such a request
	departed               // the client left first
	hungUp                 // the client ended a tunnel
)

// got is what a source has after fill.
type got uint8

const (
	gotNothing got = iota // nothing now; the exchange will be woken
	gotBytes              // bytes that were here before
	gotMore               // fresh bytes
	gotEOF                // the peer has finished sending
	gotBroken             // the connection failed
)

// source is the incoming half of a stream: the request from the client, or the response from the upstream.
type source struct {
	c    *conn.Conn
	dec  *http1.Decoder
	more bool // dec wants more bytes than are here

	s *mux.Stream // HTTP/2
}

// readable tells whether there may be something to take.
func (s *source) readable() bool {
	if s.s != nil {
		return s.s.Readable()
	}
	return s.c.Readable()
}

// broken tells whether the connection failed.
func (s *source) broken() bool {
	if s.s != nil {
		return s.s.Reset != fault.None
	}
	return s.c.Broken()
}

// fill makes sure that there are bytes for head or body to decode, reading the connection if need be, but not much more than limit.
func (s *source) fill(limit int) got {
	if s.s != nil {
		return s.fillStream()
	}
	if !s.more && len(s.c.In()) > 0 {
		return gotBytes
	}
	switch s.c.FillUpTo(max(limit, mux.Slack)) {
	case conn.Blocked:
		return gotNothing
	case conn.More:
		s.more = false
		return gotMore
	case conn.EOF:
		return gotEOF
	}
	return gotBroken
}

func (s *source) fillStream() got {
	switch st := s.s; {
	case st.Reset != fault.None:
		return gotBroken
	case !st.Readable():
		return gotNothing
	case st.Fresh:
		st.Fresh = false
		return gotMore
	}
	return gotBytes
}

// head decodes a response head and consumes it; false without a fault means that more bytes are needed.
func (s *source) head(h *httpmsg.Head) (ok bool, k fault.Kind) {
	if s.s != nil {
		ok, s.s.HeadIn = s.s.HeadIn, false // the machine has put it into h
		return ok, fault.None
	}
	n, st, k := s.dec.Head(s.c.In(), h)
	if k != fault.None {
		return false, k
	}
	if st == http1.NeedMore {
		s.more = true
		return false, fault.None
	}
	s.c.Discard(n)
	return true, fault.None
}

// body decodes the next piece of the body, at most limit bytes of it. data is borrowed until discard(n), which must follow. end comes once, with
// tr filled.
func (s *source) body(limit int, tr *httpmsg.Fields) (n int, data []byte, end bool, k fault.Kind) {
	if s.s != nil {
		data, end = s.s.In(limit)
		return len(data), data, end, fault.None
	}
	in := s.c.In()
	n, data, end, k = s.dec.Body(in[:min(len(in), limit)], tr)
	if n == 0 && len(in) > limit && !end && k == fault.None { // framing that is longer
		n, data, end, k = s.dec.Body(in, tr)
	}
	s.more = n == 0 && !end
	return n, data, end, k
}

// discard consumes what body returned.
func (s *source) discard(n int) {
	if s.s != nil {
		s.s.Discard(n)
		return
	}
	s.c.Discard(n)
}

// hasBody tells whether body has something to bring.
func (s *source) hasBody() bool {
	if s.s != nil {
		return !s.s.Empty() || s.s.Trailers
	}
	return s.dec.HasBody()
}

// tunnel tells whether the response head h made a tunnel of the stream; connect tells that the request was CONNECT.
func (s *source) tunnel(h *httpmsg.Head, connect bool) bool {
	if s.s != nil {
		return h.Status == 101 || connect && h.Status/100 == 2
	}
	return s.dec.Tunnel()
}

// eof tells what the end of input means: the end of a message that runs until close, or a fault; neither means that no message was under way.
func (s *source) eof() (end bool, k fault.Kind) { return s.dec.EOF() }

// begun tells whether bytes of a head are here.
func (s *source) begun() bool { return s.more && s.dec != nil && !s.dec.Idle() }

// drain throws the rest of a body away, as far as it is here; true means that the message is over.
func (s *source) drain() bool {
	if s.s != nil {
		return s.s.Empty()
	}
	for s.dec.HasBody() && len(s.c.In()) > 0 {
		n, data, end, k := s.dec.Body(s.c.In(), nil)
		s.c.Discard(n)
		if end {
			break
		}
		if k != fault.None || n == 0 && len(data) == 0 {
			return false
		}
	}
	return s.dec.Idle()
}

// whole tells, consuming nothing, whether all that is to come of an HTTP/1 body is here.
func (s *source) whole() bool {
	d := *s.dec
	for in := s.c.In(); d.HasBody(); {
		used, _, end, k := d.Body(in, nil)
		if end {
			return true
		}
		if used == 0 || k != fault.None {
			return false
		}
		in = in[used:]
	}
	return true
}

// malformed looks, consuming nothing, whether a chunked body is malformed in what is here of it; n counts the content before the place.
// Trailers go to tr.
func (s *source) malformed(tr *httpmsg.Fields) (n int, k fault.Kind) {
	if s.dec == nil {
		return 0, fault.None
	}
	d := *s.dec
	for in := s.c.In(); len(in) > 0; {
		used, data, end, k := d.Body(in, tr)
		n += len(data)
		if end || used == 0 || k != fault.None {
			return n, k
		}
		in = in[used:]
	}
	return n, fault.None
}

// sender is the outgoing half of a stream while the exchange runs. It collects output in the loop's encode scratch, so that a head and the start of
// its body leave in one system call; only one sender may be open at a time.
type sender struct {
	c       *conn.Conn
	enc     []byte
	chunked bool // the body goes out in chunks

	s *mux.Stream // HTTP/2
}

// unbounded is the limit of a piece for a sender that takes whatever comes.
const unbounded = 1 << 30

// gather is the size up to which body pieces are copied behind each other instead of being sent on their own.
const gather = 16 << 10

// toClient opens the sender of the response.
func (x *Exchange) toClient() sender {
	if x.reqIn.s != nil {
		return sender{s: x.reqIn.s}
	}
	return sender{c: x.reqIn.c, enc: x.env.L.Enc(), chunked: x.has(xRespChunked)}
}

// toUpstream opens the sender of the request.
func (x *Exchange) toUpstream() sender {
	if x.respIn.s != nil {
		return sender{s: x.respIn.s}
	}
	return sender{c: x.respIn.c, enc: x.env.L.Enc(), chunked: x.has(xReqChunked)}
}

// sent sends what is left and closes the sender.
func (x *Exchange) sent(o *sender) {
	if o.s != nil {
		return // its connection flushes when its task is done
	}
	if len(o.enc) > 0 {
		o.c.SendSoon(o.enc)
	}
	x.env.L.SetEnc(o.enc)
	o.enc = nil
}

// flush sends what was collected.
func (o *sender) flush() {
	if len(o.enc) > 0 {
		o.c.Send(o.enc, nil)
		o.enc = o.enc[:0]
	}
}

// full tells whether there is no room for more. What was collected goes out first: only what the socket does not take brings the writable edge that
// wakes the owner.
func (o *sender) full() bool {
	if o.s != nil {
		return o.s.Waiting()
	}
	if o.c.Room() > len(o.enc) {
		return false
	}
	o.flush()
	return o.c.Room() <= 0
}

// room is how large the next piece may be.
func (o *sender) room() int {
	if o.s != nil {
		return o.s.Room()
	}
	return unbounded
}

// requestHead adds the head of a request and returns what it counts in HTTP/1; an HTTP/2 stream has its meter.
func (o *sender) requestHead(h *httpmsg.Head, opt *http1.Options) uint64 {
	if o.s != nil {
		return 0 // it went out when the stream was opened
	}
	n := len(o.enc)
	o.enc = http1.AppendRequestHead(o.enc, h, opt)
	return http1.SentHead(o.enc[n:])
}

// responseHead adds the head of a response to a client of the given version and returns what it counts in HTTP/1; end tells that nothing follows it.
func (o *sender) responseHead(h *httpmsg.Head, client httpmsg.Version, opt *http1.Options, end bool) uint64 {
	if o.s != nil {
		o.s.Head(h, end)
		return 0
	}
	v := httpmsg.HTTP11
	if client == httpmsg.HTTP10 {
		v = httpmsg.HTTP10
	}
	n := len(o.enc)
	o.enc = http1.AppendResponseHead(o.enc, h, v, opt)
	return http1.SentHead(o.enc[n:])
}

// sayContinue answers Expect: 100-continue.
func (x *Exchange) sayContinue() {
	x.resp.Version, x.resp.Status = httpmsg.HTTP11, 100
	out := x.toClient()
	out.responseHead(&x.resp, httpmsg.HTTP11, &x.ch.h.H1, false)
	x.sent(&out)
	x.resp.Reset(&x.respA)
}

// data adds a piece of the body; last tells that nothing follows it.
func (o *sender) data(p []byte, last bool) {
	if o.s != nil {
		o.s.Data(p, last)
		return
	}
	if o.chunked {
		o.chunk(p)
		return
	}
	if len(o.enc)+len(p) <= gather {
		o.enc = append(o.enc, p...)
		return
	}
	o.c.Send(o.enc, p)
	o.enc = o.enc[:0]
}

// chunk adds p as one chunk.
func (o *sender) chunk(p []byte) {
	if len(p) == 0 {
		return
	}
	if len(o.enc)+len(p) <= gather {
		o.enc = http1.AppendChunk(o.enc, p)
		return
	}
	o.enc = http1.AppendChunkHead(o.enc, len(p))
	o.c.Send(o.enc, p)
	o.enc = append(o.enc[:0], "\r\n"...)
}

// end ends the body; tr may be nil.
func (o *sender) end(tr *httpmsg.Fields) {
	if o.s != nil {
		o.s.End(tr)
		return
	}
	if o.chunked {
		o.enc = http1.AppendLastChunk(o.enc, tr)
	}
}
