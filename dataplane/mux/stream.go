// SPDX-License-Identifier: Apache-2.0

package mux

import (
	"sidecar/dataplane/fault"
	"sidecar/dataplane/http2"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/sys"
)

// Slack is how much content a stream takes beyond its peer's window, so that the end of a message is seen although the window is used up.
const Slack = 4 << 10

// arenaKeep bounds what a stream keeps of its trailer arena.
const arenaKeep = 4 << 10

// User is whom a stream brings its events to: the exchange.
type User interface {
	// Run is called for every event and must take what it can at once.
	Run(now sys.Nanos)
	// Poison tells that Run panicked: the user must release what it holds, the stream included.
	Poison(reason any)
}

// Stream is one HTTP/2 stream between a link and its user. It may outlive the user until its output has left. After Finish or Abort the user must
// not touch it.
type Stream struct {
	// Worker
	K    *Link
	S    *http2.Stream
	user User
	gen  uint32 // counts uses of this object
	in   []byte // unread content: a view of the link's input, or of kept
	kept []byte // from the pool
	out  []byte // content that waits for credit; from the pool
	off  int
	tr   httpmsg.Fields // trailers that wait behind out
	trA  httpmsg.Arena

	// HeadIn tells that a head has come which the user has not taken yet.
	HeadIn bool
	// Fresh tells that content or a head came since the user looked.
	Fresh bool
	// Trailers tells that the message ended with trailers.
	Trailers bool
	ended    bool // the peer has ended its half
	end      bool // our half ends behind out
	done     bool // the user has finished: gone when out has left

	// Lingering: see Link.linger.
	due          sys.Nanos // until when; 0 while it does not
	spare        int       // content that came since
	older, newer *Stream

	// Reset is why the stream is over; None while it is not. Unprocessed tells that the peer provably did nothing with the request.
	Reset       fault.Kind
	Code        http2.Code
	Remote      bool
	Unprocessed bool
}

// Request opens a stream for u with a request; nil when the peer takes none any more.
func (k *Link) Request(h *httpmsg.Head, end bool, u User, now sys.Nanos) *Stream {
	k.inside++
	h2 := k.H2.OpenStream(h, end, now)
	k.inside--
	if h2 == nil {
		return nil
	}
	k.Wake()
	return k.Open(h2, u, false)
}

// Open makes a stream for u on h2, which the machine has just made.
func (k *Link) Open(h2 *http2.Stream, u User, ended bool) *Stream {
	s := k.sh.streams.Get() // empty, by free
	s.K, s.S, s.user, s.ended, s.end = k, h2, u, ended, h2.LocalEnded()
	h2.Owner = s
	return s
}

// Of is the stream that Open made of h2; nil if there is none.
func Of(h2 *http2.Stream) *Stream {
	s, _ := h2.Owner.(*Stream)
	return s
}

// User is whom the stream was opened for, nil once that is over.
func (s *Stream) User() User { return s.user }

// Deliver does what an event means for its stream and runs its user.
func (k *Link) Deliver(ev *http2.Event, now sys.Nanos) {
	if ev.Stream == nil {
		return
	}
	s := Of(ev.Stream)
	switch ev.Kind {
	case http2.EventHead:
		s.HeadIn, s.Fresh = true, true
	case http2.EventData:
		s.Fresh = true
		s.take(ev.Data)
	case http2.EventTrailers:
		s.Trailers, s.Fresh = true, true
	case http2.EventReset:
		s.Reset, s.Code, s.Remote, s.Unprocessed = ev.Fault, ev.Code, ev.Remote, ev.Unprocessed
	}
	s.ended = s.ended || ev.End
	s.run(now)
}

// take puts content behind what is unread.
func (s *Stream) take(p []byte) {
	if len(s.in) == 0 {
		s.in = p
		return
	}
	s.keep(len(p))
	s.kept = append(s.kept, p...)
	s.in = s.kept
}

// keep moves unread content into a buffer of the stream's own, with room for more.
func (s *Stream) keep(more int) {
	b := s.K.sh.bufs
	if s.kept == nil {
		s.kept = append(b.Get(len(s.in)+more), s.in...)
		s.in = s.kept
		return
	}
	if len(s.in) < len(s.kept) { // the consumed part is at the front
		s.kept = s.kept[:copy(s.kept, s.in)]
	}
	s.kept = b.Grow(s.kept, more)
	s.in = s.kept
}

// run runs the user, and keeps what it did not take of the link's input.
func (s *Stream) run(now sys.Nanos) {
	gen := s.gen
	if s.user != nil {
		s.K.call(s.user, now)
		if s.gen != gen {
			return
		}
	}
	if s.user == nil {
		s.drop()
		s.settle()
		return
	}
	if len(s.in) > 0 && s.kept == nil {
		s.keep(0)
	}
}

// call runs a user. A panic ends what the user does and its streams; the link with its other streams goes on, unless it is Torn.
func (k *Link) call(u User, now sys.Nanos) {
	defer func() {
		if r := recover(); r != nil {
			k.poison(u, r)
		}
	}()
	u.Run(now)
}

func (k *Link) poison(u User, r any) {
	k.sh.L.Contained(r)
	defer func() {
		if recover() != nil { // it has released we do not know what
			k.Tear()
		}
	}()
	u.Poison(r)
	k.rouse()
}

// Start runs the user of a stream that has just been opened.
func (s *Stream) Start(now sys.Nanos) { s.run(now) }

// drop throws unread content away and returns its window.
func (s *Stream) drop() {
	if n := len(s.in); n > 0 {
		s.spare += n
		s.Discard(n)
	}
}

// In is the unread content, at most limit bytes of it; end tells that nothing follows it.
func (s *Stream) In(limit int) (p []byte, end bool) {
	if len(s.in) > limit {
		return s.in[:limit], false
	}
	return s.in, s.ended
}

// Readable tells whether the user would find something.
func (s *Stream) Readable() bool {
	return len(s.in) > 0 || s.HeadIn || s.ended || s.Reset != fault.None
}

// Empty tells whether the peer's message has no content left to come.
func (s *Stream) Empty() bool { return s.ended && len(s.in) == 0 }

// Discard consumes n bytes of In: they have left for the other side, so the peer gets its window back.
func (s *Stream) Discard(n int) {
	if n == 0 {
		return
	}
	s.in = s.in[n:]
	if len(s.in) == 0 {
		s.in = nil
		if s.kept != nil {
			s.K.sh.bufs.Put(s.kept)
			s.kept = nil
		}
	}
	s.K.inside++
	s.K.H2.Consumed(s.S, n)
	s.K.inside--
	s.K.Wake()
}

// Meter is what counts of the connection's octets for this stream, content that waits for credit included; trailers behind that are not.
func (s *Stream) Meter() http2.Meter {
	m := *s.S.Meter()
	if n := len(s.out) - s.off; n > 0 {
		m.WireOut += http2.DataOctets(n)
	}
	return m
}

// Head sends a head.
func (s *Stream) Head(h *httpmsg.Head, end bool) {
	s.end = s.end || end
	s.K.inside++
	s.K.H2.SendHead(s.S, h, end)
	s.K.inside--
	s.K.Wake()
}

// Room is how much content the stream takes now without more than Slack of it waiting here; 0 while some is waiting.
func (s *Stream) Room() int {
	if s.Waiting() {
		return 0
	}
	return max(s.K.H2.Credit(s.S), Slack)
}

// Waiting tells whether output waits for credit.
func (s *Stream) Waiting() bool { return len(s.out) > 0 }

// Data sends content, and the end of the message with it when end is set. What the peer's window does not cover waits.
func (s *Stream) Data(p []byte, end bool) {
	if s.end || s.Reset != fault.None {
		return
	}
	s.end = end
	if !s.Waiting() {
		p = p[s.sendData(p, end):]
		s.K.Wake()
	}
	if len(p) > 0 {
		b := s.K.sh.bufs
		if s.out == nil {
			s.out = b.Get(len(p))
		}
		s.out = append(b.Grow(s.out, len(p)), p...)
	}
}

// End ends the message; tr may be nil.
func (s *Stream) End(tr *httpmsg.Fields) {
	switch {
	case s.end || s.Reset != fault.None:
	case tr == nil:
		s.end = true
		if !s.Waiting() {
			s.sendData(nil, true)
			s.K.Wake()
		}
	case s.Waiting():
		s.end = true
		s.tr.CopyFrom(tr, &s.trA)
	default:
		s.end = true
		s.sendTrailers(tr)
		s.K.Wake()
	}
}

// push sends what waits, as far as there is credit.
func (s *Stream) push() {
	if !s.Waiting() {
		return
	}
	last := s.end && len(s.tr.List) == 0
	s.off += s.sendData(s.out[s.off:], last)
	if s.off < len(s.out) {
		return
	}
	s.K.sh.bufs.Put(s.out)
	s.out, s.off = nil, 0
	if s.end && !last {
		s.sendTrailers(&s.tr)
	}
}

func (s *Stream) sendData(p []byte, end bool) (n int) {
	s.K.inside++
	n = s.K.H2.SendData(s.S, p, end)
	s.K.inside--
	return n
}

func (s *Stream) sendTrailers(tr *httpmsg.Fields) {
	s.K.inside++
	s.K.H2.SendTrailers(s.S, tr)
	s.K.inside--
}

func (s *Stream) sendReset(code http2.Code) {
	s.K.inside++
	s.K.H2.SendReset(s.S, code)
	s.K.inside--
	s.K.Wake()
}

// writable gives streams that were refused credit what they wait for, and runs their users; false means that there was none.
func (k *Link) writable(now sys.Nanos) (any bool) {
	for h2 := k.H2.NextWritable(); h2 != nil; h2 = k.H2.NextWritable() {
		s := Of(h2)
		any = true
		s.push()
		if s.Waiting() {
			continue
		}
		s.run(now)
		if k.C == nil {
			break
		}
	}
	return any
}

// Finish is the user's last word: its message is complete. The stream goes when everything has left; a peer that is still sending is told in the end that
// nobody needs the rest (RFC 9113 section 8.1).
func (s *Stream) Finish() {
	s.user, s.done = nil, true
	s.drop()
	s.spare = 0
	s.settle()
}

// settle frees a stream without a user once its output has left.
func (s *Stream) settle() {
	if s.user != nil || s.Waiting() && s.Reset == fault.None {
		return
	}
	if !s.S.Closed() {
		if s.K.linger(s) {
			return
		}
		s.sendReset(http2.CodeNo)
	}
	s.free()
}

// Abort resets the stream, unless it is over already.
func (s *Stream) Abort(code http2.Code) {
	if !s.S.Closed() {
		s.sendReset(code)
	}
	s.free()
}

func (s *Stream) free() {
	sh := s.K.sh
	sh.bufs.Put(s.kept)
	sh.bufs.Put(s.out)
	s.K.unlist(s)
	s.S.Owner = nil
	s.K.inside++
	s.K.H2.Release(s.S)
	s.K.inside--
	s.trA.Reset(arenaKeep)
	tr, a, gen := s.tr.List, s.trA, s.gen
	*s = Stream{}
	s.trA, s.gen = a, gen+1
	s.tr.List = tr
	s.tr.Reset(&s.trA)
	sh.streams.Put(s)
}
