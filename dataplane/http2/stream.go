// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"sidecar/dataplane/buf"
	"sidecar/dataplane/http2/hpack"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/sys"
)

type streamFlags uint16

const (
	sRemoteEnd streamFlags = 1 << iota // END_STREAM was received
	sLocalEnd                          // END_STREAM was sent
	sReset                             // RST_STREAM was sent or received
	sOurReset                          // it was sent by us
	sHeadIn                            // the final head of the peer's message was received
	sHeadOut                           // the final head of our message was sent
	sWants                             // was refused credit: NextWritable is to return it
	sListed                            // is on the list of NextWritable
	sUpgrade                           // extended CONNECT
	sTunnel                            // CONNECT or extended CONNECT: no content rules
	sBodyless                          // client: the answer to HEAD
	sUnframed                          // content-length is not known
)

// Stream is one stream. The machine makes it (Event Head in the server role, OpenStream in the client role), the owner gives it back with
// Release exactly once, and must not touch it afterwards.
type Stream struct {
	// Owner
	Owner    any             // whatever the owner wants to find again
	Head     *httpmsg.Head   // where a head goes: the request's in the server role; in the client role set by the owner after OpenStream for the response's
	Trailers *httpmsg.Fields // where trailers go; nil: they are checked and dropped

	// Worker
	meter      Meter
	request    *httpmsg.Head // client: what OpenStream was given
	next       *Stream       // same slot of the table
	older      *Stream       // all streams, by id
	newer      *Stream
	prevWants  *Stream // list of NextWritable
	nextWants  *Stream
	opened     sys.Nanos
	left       int64 // declared bytes of content to come
	id         uint32
	sendWin    int32 // what the peer lets us send; negative after it lowered its SETTINGS
	recvWin    int32 // what the peer may send
	recvSize   int32 // what recvWin is topped up to
	unreturned int32 // bytes consumed and not yet given back in a WINDOW_UPDATE
	held       int32 // bytes received and not yet consumed
	fl         streamFlags
}

// Meter counts what of the connection's octets is one stream's, as Envoy does (BytesMeter).
type Meter struct {
	// WireIn and WireOut count frames with their headers: received HEADERS, DATA and RST_STREAM, and all that is sent on the stream. The header of a
	// CONTINUATION does not count.
	WireIn, WireOut uint64
	// HeadIn and HeadOut count header blocks as they are compressed, with the header of their frame; trailers too.
	HeadIn, HeadOut uint64
	// PlainIn and PlainOut count the names and values that those blocks stand for.
	PlainIn, PlainOut uint64
}

// Meter returns what was counted until now.
func (s *Stream) Meter() *Meter { return &s.meter }

// gotBlock counts a header block that was received in frames of n octets.
func (m *Meter) gotBlock(n uint32) {
	m.WireIn += frameHeader + uint64(n)
	m.HeadIn += frameHeader + uint64(n)
}

// ID returns the stream identifier.
func (s *Stream) ID() uint32 { return s.id }

// RemoteEnded reports that the peer has ended its half.
func (s *Stream) RemoteEnded() bool { return s.fl&sRemoteEnd != 0 }

// LocalEnded reports that END_STREAM was sent.
func (s *Stream) LocalEnded() bool { return s.fl&sLocalEnd != 0 }

// WasReset reports that RST_STREAM was sent or received.
func (s *Stream) WasReset() bool { return s.fl&sReset != 0 }

// Closed reports that nothing can be sent or received on the stream any more.
func (s *Stream) Closed() bool {
	return s.fl&sReset != 0 || s.fl&(sRemoteEnd|sLocalEnd) == sRemoteEnd|sLocalEnd
}

// Held is the number of bytes received and not yet consumed.
func (s *Stream) Held() int { return int(s.held) }

// Shared is what the connections of a worker share. Bufs must be set; the rest is ready as it is.
type Shared struct {
	// Immutable
	Bufs *buf.Pool

	// Worker
	scratch hpack.Scratch
	free    []*Stream
}

// maxFreeStreams bounds the streams that a worker keeps for reuse.
const maxFreeStreams = 4096

// streamChunk is how many streams one heap allocation makes.
const streamChunk = 16

func (p *Shared) get() *Stream {
	if len(p.free) == 0 {
		c := make([]Stream, streamChunk)
		for i := range c {
			p.free = append(p.free, &c[i])
		}
	}
	s := p.free[len(p.free)-1]
	p.free = p.free[:len(p.free)-1]
	return s
}

func (p *Shared) put(s *Stream) {
	*s = Stream{}
	if len(p.free) < maxFreeStreams {
		p.free = append(p.free, s)
	}
}

// streams is the table of a connection: slots by the low bits of the number of the stream, which count up, so that no two streams of a window as wide as the
// table meet. The high bits are mixed in with a secret, so that a peer that skips identifiers cannot aim for one slot.
type streams struct {
	slots  []*Stream // power of two; nil until the first stream
	oldest *Stream
	newest *Stream
	count  int
	secret uint64
}

// minSlots is the size of the table of a connection with one stream.
const minSlots = 8

func (t *streams) slot(id uint32) uint32 {
	n := id >> 1
	mask := uint32(len(t.slots) - 1)
	high := uint64(n &^ mask)
	return (n ^ uint32(high*t.secret>>33)) & mask
}

func (t *streams) find(id uint32) *Stream {
	if len(t.slots) == 0 {
		return nil
	}
	s := t.slots[t.slot(id)]
	for s != nil && s.id != id {
		s = s.next
	}
	return s
}

// add files s, whose id is the highest yet.
func (t *streams) add(s *Stream) {
	if t.count*2 >= len(t.slots) {
		t.slots = make([]*Stream, max(minSlots, 2*len(t.slots)))
		for o := t.oldest; o != nil; o = o.newer {
			t.file(o)
		}
	}
	t.file(s)
	t.count++
	s.older, s.newer = t.newest, nil
	if t.newest != nil {
		t.newest.newer = s
	} else {
		t.oldest = s
	}
	t.newest = s
}

func (t *streams) file(s *Stream) {
	i := t.slot(s.id)
	s.next = t.slots[i]
	t.slots[i] = s
}

func (t *streams) remove(s *Stream) {
	p := &t.slots[t.slot(s.id)]
	for *p != s {
		p = &(*p).next
	}
	*p = s.next
	if s.older != nil {
		s.older.newer = s.newer
	} else {
		t.oldest = s.newer
	}
	if s.newer != nil {
		s.newer.older = s.older
	} else {
		t.newest = s.older
	}
	t.count--
}

// closed remembers the streams that ended last, to tell frames that crossed our RST_STREAM from frames that should not be.
type closed struct {
	ring [closedRing]uint32 // id shifted left by one; the low bit says that the peer did not know
	pos  uint8              // of the next
	full bool               // older ones were forgotten
}

func (r *closed) add(id uint32, crossed bool) {
	v := id << 1
	if crossed {
		v |= 1
	}
	r.full = r.full || r.ring[r.pos] != 0
	r.ring[r.pos] = v
	r.pos = (r.pos + 1) % closedRing
}

// find tells whether the stream is remembered, and whether the peer may not have known that it was over.
func (r *closed) find(id uint32) (known, crossed bool) {
	for _, v := range r.ring {
		if v>>1 == id {
			return true, v&1 != 0
		}
	}
	return false, false
}
