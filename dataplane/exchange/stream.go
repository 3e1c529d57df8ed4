// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"sidecar/dataplane/conn"
	"sidecar/dataplane/fault"
	"sidecar/dataplane/http1"
	"sidecar/dataplane/httpmsg"
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
	// account fills in and counts what went over the wire.
	account(r *accesslog.Record)
	// over is called once, when the exchange is logged and freed.
	over(e ending, now sys.Nanos)
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
}

// readable tells whether there may be something to take.
func (s *source) readable() bool { return s.c.Readable() }

// broken tells whether the connection failed.
func (s *source) broken() bool { return s.c.Broken() }

// fill makes sure that there are bytes for head or body to decode, reading the connection if need be.
func (s *source) fill() got {
	if !s.more && len(s.c.In()) > 0 {
		return gotBytes
	}
	switch s.c.Fill() {
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

// head decodes a response head and consumes it; false without a fault means that more bytes are needed.
func (s *source) head(h *httpmsg.Head) (ok bool, k fault.Kind) {
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

// body decodes the next piece of the body. data is borrowed until discard(n), which must follow. end comes once, with tr filled.
func (s *source) body(tr *httpmsg.Fields) (n int, data []byte, end bool, k fault.Kind) {
	n, data, end, k = s.dec.Body(s.c.In(), tr)
	s.more = n == 0 && !end
	return n, data, end, k
}

// discard consumes what body returned.
func (s *source) discard(n int) { s.c.Discard(n) }

// hasBody tells whether body has something to bring.
func (s *source) hasBody() bool { return s.dec.HasBody() }

// tunnel tells whether the response head made a tunnel of the stream.
func (s *source) tunnel() bool { return s.dec.Tunnel() }

// eof tells what the end of input means: the end of a message that runs until close, or a fault; neither means that no message was under way.
func (s *source) eof() (end bool, k fault.Kind) { return s.dec.EOF() }

// begun tells whether bytes of a head are here.
func (s *source) begun() bool { return s.more && !s.dec.Idle() }

// drain throws the rest of a body away, as far as it is here; true means that the message is over.
func (s *source) drain() bool {
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

// malformed looks, consuming nothing, whether a chunked body is malformed in what is here of it; n counts the content before the place.
// Trailers go to tr.
func (s *source) malformed(tr *httpmsg.Fields) (n int, k fault.Kind) {
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
}

// gather is the size up to which body pieces are copied behind each other instead of being sent on their own.
const gather = 16 << 10

// toClient opens the sender of the response.
func (x *Exchange) toClient() sender {
	return sender{c: x.reqIn.c, enc: x.env.L.Enc(), chunked: x.has(xRespChunked)}
}

// toUpstream opens the sender of the request.
func (x *Exchange) toUpstream() sender {
	return sender{c: x.respIn.c, enc: x.env.L.Enc(), chunked: x.has(xReqChunked)}
}

// sent sends what is left and closes the sender.
func (x *Exchange) sent(o *sender) {
	if len(o.enc) > 0 {
		o.c.Send(o.enc, nil)
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
	if o.c.Room() > len(o.enc) {
		return false
	}
	o.flush()
	return o.c.Room() <= 0
}

// requestHead adds the head of a request and returns its bytes on the wire.
func (o *sender) requestHead(h *httpmsg.Head, opt *http1.Options) []byte {
	n := len(o.enc)
	o.enc = http1.AppendRequestHead(o.enc, h, opt)
	return o.enc[n:]
}

// responseHead adds the head of a response to a client of the given version and returns its bytes on the wire.
func (o *sender) responseHead(h *httpmsg.Head, client httpmsg.Version, opt *http1.Options) []byte {
	v := httpmsg.HTTP11
	if client == httpmsg.HTTP10 {
		v = httpmsg.HTTP10
	}
	n := len(o.enc)
	o.enc = http1.AppendResponseHead(o.enc, h, v, opt)
	return o.enc[n:]
}

// sayContinue answers Expect: 100-continue.
func (o *sender) sayContinue() { o.enc = append(o.enc, "HTTP/1.1 100 Continue\r\n\r\n"...) }

// data adds a piece of the body.
func (o *sender) data(p []byte) {
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
	if o.chunked {
		o.enc = http1.AppendLastChunk(o.enc, tr)
	}
}
