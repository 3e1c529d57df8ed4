// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"math/bits"

	"sidecar/dataplane/conn"
	"sidecar/dataplane/fault"
	"sidecar/dataplane/http1"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/loop"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/accesslog"
	"sidecar/internal/telemetry/stats"
)

// serverState is the place of a downstream connection in its life.
type serverState uint8

const (
	sClosed serverState = iota
	sIdle               // between requests
	sHead               // a part of a head is here
	sActive             // a request is in flight
	sLinger             // the last response is out and FIN was sent: waiting for the client to close
)

const (
	fDrain     uint16 = 1 << iota // say Connection: close with the next response
	fClose                        // the response in flight said so: close after it
	fIdleDrain                    // idle_timeout has passed; drain_timeout runs
	fUsed                         // a request was served
	fPeerGone                     // the client ended the connection
	fBound                        // task and timer are initialised
	fDrainIdle                    // close as soon as nothing is in flight
	fHTTP                         // counted as an HTTP/1 connection: bytes have come
	fCloseNow                     // close without delayed_close_timeout: HTTP/1.0 clients wait for it
)

// Server is the HTTP/1 server side of one downstream connection. It is small, because most of them are idle; everything about a request is in the
// Exchange.
type Server struct {
	// Place is the connection's membership in its listener; the worker lets it join.
	Place conn.Member

	// Worker
	task     loop.Task
	timer    loop.Timer
	ch       *chain
	c        *conn.Conn
	x        *Exchange // nil while idle
	since    sys.Nanos // idle: since when; head: when its first byte came; linger: when it began
	requests uint32
	st       serverState
	fl       uint16
}

// NewServer starts serving HTTP/1 on c, which the Server owns from now on. initial are bytes that a listener filter has read but not consumed. info
// must live as long as the connection. The caller lets Place join the listener's members before the next turn; Place.Leave is called once, when the
// connection is over.
func NewServer(env *Env, c *conn.Conn, l *snapshot.Listener, fc *snapshot.FilterChain, info *accesslog.ConnInfo, initial []byte) *Server {
	s := env.newServer(env.chainOf(l, fc), c, info)
	s.since = env.L.Now()
	b := s.ch.hcm
	b.Inc(stats.HCMDownstreamCxTotal)
	b.Inc(stats.HCMDownstreamCxActive)
	if c.Secure() {
		b.Inc(stats.HCMDownstreamCxSSLTotal)
		b.Inc(stats.HCMDownstreamCxSSLActive)
	}
	c.Unread(initial)
	c.SetOwner(&s.task)
	s.rearm(s.since)
	env.L.Ready(&s.task)
	return s
}

// newServer takes a Server for an idle connection.
func (e *Env) newServer(ch *chain, c *conn.Conn, info *accesslog.ConnInfo) *Server {
	s := e.servers.Get()
	if s.fl&fBound == 0 {
		s.task.Init(s)
		s.timer.Init(&s.task)
	}
	s.ch, s.c, s.x, s.fl, s.st, s.requests = ch, c, nil, fBound, sIdle, 0
	s.Place = conn.Member{H: s, Info: info}
	return s
}

// Chain is the filter chain that the connection was made with.
func (s *Server) Chain() *snapshot.FilterChain { return s.ch.fc }

// Active tells whether a request is in flight.
func (s *Server) Active() bool { return s.st == sActive }

// Drain asks the connection to end, as insistently as m says.
func (s *Server) Drain(m conn.DrainMode) {
	switch {
	case s.st == sClosed:
	case m == conn.DrainNow:
		s.Close()
	case m == conn.DrainEnd && s.x != nil && s.x.st == stTunnel:
		s.Close()
	case m == conn.DrainIdle, m == conn.DrainEnd:
		s.fl |= fDrain | fDrainIdle
		if s.st == sIdle {
			s.c.SetReadable(true) // a request may wait in the socket: only a look into it proves that the connection is idle
			s.ch.env.L.Ready(&s.task)
		}
	default:
		s.fl |= fDrain
	}
}

// Close ends the connection at once; a request in flight is logged as ended by the proxy.
func (s *Server) Close() {
	if s.st == sClosed {
		return
	}
	s.abort(fault.LocalReset)
	s.free()
}

// Poison ends a connection whose Advance panicked: what it holds is released as far as that is possible.
func (s *Server) Poison(any) {
	if s.st == sClosed {
		return
	}
	s.ch.env.Panicked++
	defer s.free() // even if the exchange is too far gone to be aborted
	if s.x != nil && s.x.c != client(s) {
		s.x = nil
	}
	s.abort(fault.Bug)
}

// abort ends the request in flight because its connection is about to be closed.
func (s *Server) abort(k fault.Kind) {
	if x := s.x; x != nil {
		s.x = nil
		s.ch.hcm.Inc(stats.HCMDownstreamCxDestroyActiveRq)
		s.ch.hcm.Inc(stats.HCMDownstreamCxDestroyLocalActiveRq)
		x.abort(k)
	}
}

// Advance runs the connection until it has to wait.
func (s *Server) Advance(now sys.Nanos) loop.Step {
	if s.timer.Fired() {
		s.ch.env.L.Disarm(&s.timer)
		s.onTimer(now)
	}
	for range maxPerRun {
		switch s.st {
		case sIdle, sHead:
			if !s.readHead(now) {
				return loop.Idle
			}
		case sActive:
			switch s.x.advance(now) {
			case waits:
				if s.clientLeft() {
					s.x.clientGone(now)
					return loop.Done
				}
				s.rearm(now)
				return loop.Idle
			case again:
				s.rearm(now)
				return loop.Again
			}
		case sLinger:
			if s.linger() {
				return loop.Again
			}
			return loop.Idle
		default:
			return loop.Done
		}
	}
	return loop.Again
}

// firstBytes settles the protocol of the connection; if it is not ours (yet), more tells whether to read on.
func (s *Server) firstBytes(now sys.Nanos) (ours, more bool) {
	switch s.codec() {
	case snapshot.CodecAuto:
		if s.st == sIdle {
			s.st, s.since = sHead, now
			s.rearm(now)
		}
		return false, s.c.MayRead()
	case snapshot.CodecHTTP2:
		s.becomeHTTP2(now)
		return false, false
	}
	s.fl |= fHTTP
	s.ch.hcm.Inc(stats.HCMDownstreamCxHTTP1Total)
	s.ch.hcm.Inc(stats.HCMDownstreamCxHTTP1Active)
	return true, false
}

// codec says which protocol the connection speaks: the one that TLS negotiated, or what the first bytes look like; unknown means that it takes more of
// them.
func (s *Server) codec() snapshot.Codec {
	switch k, t := s.ch.h.Codec, s.Place.Info.TLS; {
	case k != snapshot.CodecAuto:
		return k
	case t != nil && t.ALPN == "h2":
		return snapshot.CodecHTTP2
	case t != nil && t.ALPN != "":
		return snapshot.CodecHTTP1
	default:
		in := s.c.In()
		n := min(len(in), len(prefaceStart))
		switch {
		case string(in[:n]) != prefaceStart[:n]:
			return snapshot.CodecHTTP1
		case n < len(prefaceStart):
			return snapshot.CodecAuto
		}
		return snapshot.CodecHTTP2
	}
}

// prefaceStart is what tells HTTP/2 from any HTTP/1 request (RFC 9113 section 3.4); as in Envoy it is not the whole preface.
const prefaceStart = "PRI * HTTP/2"

// readHead reads until a request head is complete and starts its exchange; false means that there is nothing more to do now.
func (s *Server) readHead(now sys.Nanos) bool {
	c := s.c
	if c.Room() <= 0 {
		return false // a client that asks and asks but does not read: the edge of its reading wakes us
	}
	if len(c.In()) == 0 || s.st == sHead {
		switch c.Fill() {
		case conn.Blocked:
			if s.st == sIdle && s.fl&fDrainIdle != 0 {
				s.ch.hcm.Inc(stats.HCMDownstreamCxDrainClose)
				s.detach()
			}
			return false
		case conn.More:
		default:
			return s.peerEnded(now)
		}
	}
	e := s.ch.env
	if s.fl&fHTTP == 0 {
		if ours, more := s.firstBytes(now); !ours {
			return more
		}
	}
	x := e.exchanges.Get()
	x.prepare()
	x.dec.InitRequest(&s.ch.h.H1)
	if s.st == sHead {
		if half, ok := e.halves[s]; ok {
			x.dec = half
		}
	}
	n, st, k := x.dec.Head(c.In(), &x.req)
	if k == fault.None && st == http1.NeedMore {
		e.halves[s] = x.dec
		e.exchanges.Put(x)
		if s.st == sIdle {
			s.st, s.since = sHead, now
			s.rearm(now)
		}
		return c.MayRead()
	}
	c.Discard(n)
	start := now
	if s.st == sHead {
		start = s.since
		delete(e.halves, s)
	}
	s.st, s.x = sActive, x
	s.fl = s.fl&^fIdleDrain | fUsed
	s.requests++
	s.begin(x, start, now, n)
	if k != fault.None {
		s.codecFault(k)
		return true
	}
	s.admit(x)
	x.onHead(now)
	return true
}

// admit settles what a request means for its connection.
func (s *Server) admit(x *Exchange) {
	x.dropped(int(x.req.DroppedUS))
	if x.req.Version == httpmsg.HTTP10 {
		x.rec.Protocol = "HTTP/1.0"
	}
	if !x.req.KeepAlive {
		s.fl |= fClose
	}
	if most := s.ch.h.MaxRequestsPerConn; most > 0 && s.requests >= most {
		s.fl |= fClose | fCloseNow
		s.ch.hcm.Inc(stats.HCMDownstreamCxMaxRequestsReached)
	}
}

// begin starts the exchange of a request on this connection.
func (s *Server) begin(x *Exchange, start, now sys.Nanos, headBytes int) {
	_, shaken := s.c.HandshakeTimes()
	x.begin(&origin{c: s, side: s.Place.Info, task: &s.task, ch: s.ch, in: source{c: s.c, dec: &x.dec}, shaken: shaken}, start, now, headBytes)
	b := s.ch.hcm
	b.Inc(stats.HCMDownstreamRqHTTP1Total)
}

// peerEnded handles the end of input between requests or inside a head.
func (s *Server) peerEnded(now sys.Nanos) bool {
	s.fl |= fPeerGone
	if s.st == sHead {
		x := s.ch.env.exchanges.Get()
		x.prepare()
		s.x = x
		s.begin(x, s.since, now, 0)
		x.clientGone(now)
		return true
	}
	s.free()
	return true
}

// clientLeft tells whether the client has ended the connection inside of a request: it gets nothing more then, as in Envoy; what could be answered at
// once was. A tunnel looks after its ends itself.
func (s *Server) clientLeft() bool {
	return (s.x.st != stTunnel || s.x.postHTTP1()) && (s.c.PeerClosed() || s.c.Broken())
}

// run implements client.
func (s *Server) run(now sys.Nanos) {
	if s.Advance(now) == loop.Again {
		s.ch.env.L.Ready(&s.task)
	}
}

// poisoned implements client: with the exchange it is not clear where in its input and output the connection is.
func (s *Server) poisoned() { s.Poison(nil) }

// closeAfter implements client.
func (s *Server) closeAfter() { s.fl |= fClose }

// account implements client.
func (s *Server) account(b *accesslog.Bytes) {
	b.WireIn += s.c.BytesIn
	b.WireOut += s.c.BytesOut
	s.countBytes()
}

// answer implements client: connection: close, or keep-alive for HTTP/1.0.
func (s *Server) answer(x *Exchange) {
	if s.closes(x) {
		s.fl |= fClose
		x.resp.SetString(keyConnection, "close")
	} else if x.req.Version == httpmsg.HTTP10 {
		x.resp.SetString(keyConnection, "keep-alive")
	}
	if !x.req.KeepAlive && x.has(xRespHead|xReqEnd) || x.resp.Body == httpmsg.BodyUntilClose {
		s.fl |= fCloseNow // the client has said so itself and knows what comes, or FIN is the end of the body
	}
}

// closes decides whether the connection ends with the present response.
func (s *Server) closes(x *Exchange) bool {
	b, e := s.ch.hcm, s.ch.env
	if x.postHTTP1() && !x.has(xReqEnd) {
		x.skipPost()
	}
	if !x.has(xReqEnd) {
		// An early answer: what the client still sends belongs to this request and cannot be told from a next one by everybody.
		x.early()
		return true
	}
	if s.fl&fClose != 0 {
		return true
	}
	switch {
	case s.fl&fDrain != 0, e.FailHealth && !s.ch.l.DrainModifyOnly, e.DrainClose != nil && e.DrainClose(s.ch.l, s.ch.fc):
		b.Inc(stats.HCMDownstreamCxDrainClose)
		return true
	case e.Overloaded:
		b.Inc(stats.HCMDownstreamCxOverloadDisableKeepalive)
		return true
	}
	return false
}

// over implements client.
func (s *Server) over(e ending, now sys.Nanos) {
	s.x = nil
	switch e {
	case answered:
		s.served(now)
	case departed:
		s.countCut()
		s.free()
	case refused:
		s.fl |= fClose
		s.detach()
	case garbled:
		s.ch.hcm.Inc(stats.HCMDownstreamCxDestroyActiveRq) // as Envoy, which counts the end when it decides on it
		s.ch.hcm.Inc(stats.HCMDownstreamCxDestroyLocalActiveRq)
		s.c.CloseWrite() // nothing that could be said would be understood
		s.startLinger()
	case hungUp:
		s.countCut()
		s.lingerIfAlive()
	default:
		s.fl |= fClose
		s.lingerIfAlive()
	}
}

// countCut counts a connection that the client ends with a request in flight.
func (s *Server) countCut() {
	s.fl |= fPeerGone
	s.ch.hcm.Inc(stats.HCMDownstreamCxDestroyActiveRq)
	s.ch.hcm.Inc(stats.HCMDownstreamCxDestroyRemoteActiveRq)
}

// served goes on with the next request when the last byte of an answer was handed to the connection.
func (s *Server) served(now sys.Nanos) {
	s.since = now
	if s.c.Broken() {
		s.free()
		return
	}
	if s.fl&fClose != 0 {
		s.startLinger()
		return
	}
	if s.fl&fDrainIdle != 0 {
		s.detach() // the client was not told
		return
	}
	s.st = sIdle
	s.rearm(now)
}

// startLinger waits for the client to close after the last response, at most delayed_close_timeout, so that no RST can overtake what it has not
// read yet. As in Envoy there is no FIN before that time is over, unless the end of the connection is the end of the message.
func (s *Server) startLinger() {
	d := s.ch.h.DelayedClose
	if d <= 0 || s.fl&fCloseNow != 0 {
		s.detach()
		return
	}
	s.st, s.since = sLinger, s.ch.env.L.Now()
	s.countBytes()
	s.rearm(s.since)
	s.ch.env.L.Ready(&s.task)
}

// lingerIfAlive ends a connection in the middle of something. A close with bytes unread would be a RST, which takes with it what the client has not
// got yet, answers to earlier requests included.
func (s *Server) lingerIfAlive() {
	if s.c.Broken() {
		s.detach()
		return
	}
	s.startLinger()
}

// countBytes adds what went over the wire since the last call to the connection manager's counters.
func (s *Server) countBytes() {
	c, b := s.c, s.ch.hcm
	if c.BytesIn > 0 {
		b.Add(stats.HCMDownstreamCxRxBytesTotal, int64(c.BytesIn))
	}
	if c.BytesOut > 0 {
		b.Add(stats.HCMDownstreamCxTxBytesTotal, int64(c.BytesOut))
	}
	c.BytesIn, c.BytesOut = 0, 0
}

// linger throws away what the client still sends; true means that there may be more.
func (s *Server) linger() bool {
	for moved := 0; moved < maxMove; {
		n := len(s.c.In())
		moved += n
		s.c.Discard(n)
		switch s.c.Fill() {
		case conn.Blocked:
			return false
		case conn.More:
		default:
			s.fl |= fPeerGone
			s.free()
			return false
		}
	}
	return true
}

// detach closes the connection when its output is out, without waiting for the client.
func (s *Server) detach() {
	c := s.c
	s.leave()
	c.CloseAfterFlush()
	s.recycle()
}

func (s *Server) free() {
	c := s.c
	s.leave()
	c.Close()
	s.recycle()
}

// leave counts the end of the connection.
func (s *Server) leave() {
	ch := s.ch
	b := ch.hcm
	s.countBytes()
	b.Inc(stats.HCMDownstreamCxDestroy)
	if s.fl&fPeerGone != 0 {
		b.Inc(stats.HCMDownstreamCxDestroyRemote)
	} else {
		b.Inc(stats.HCMDownstreamCxDestroyLocal)
	}
	b.Dec(stats.HCMDownstreamCxActive)
	if s.c.Secure() {
		b.Dec(stats.HCMDownstreamCxSSLActive)
	}
	if s.fl&fHTTP != 0 {
		b.Dec(stats.HCMDownstreamCxHTTP1Active)
	}
	b.Record(stats.HCMDownstreamCxLengthMs, clockMillis(sys.Nanos(ch.env.L.Wall()-s.Place.Info.Start)))
	s.Place.Leave()
}

func (s *Server) recycle() {
	e := s.ch.env
	e.L.Disarm(&s.timer)
	e.L.Cancel(&s.task)
	s.ch.release()
	if s.st == sHead {
		delete(e.halves, s)
	}
	s.putBack(e)
}

func (s *Server) putBack(e *Env) {
	s.Place = conn.Member{}
	s.ch, s.c, s.x, s.st = nil, nil, nil, sClosed
	e.servers.Put(s)
}

// deadline is when the connection has to be looked at next, 0 for never.
func (s *Server) deadline() sys.Nanos {
	h := s.ch.h
	var at sys.Nanos
	switch s.st {
	case sIdle:
		if s.fl&fIdleDrain != 0 {
			at = s.since + h.ConnIdle + s.ch.drainTime(s.Place.Info)
		} else if h.ConnIdle > 0 {
			at = s.since + h.ConnIdle
		}
		if s.c.Queued() > 0 {
			at = earlier(at, s.after(s.since, h.StreamIdle))
		}
	case sHead:
		at = earlier(s.after(s.since, h.HeadersTimeout), s.after(s.since, h.RequestTimeout))
		at = earlier(at, s.after(s.since, h.StreamIdle))
	case sActive:
		at = s.x.deadline()
	case sLinger:
		at = s.since + h.DelayedClose
	}
	return earlier(at, s.maxAge())
}

// after is from + d, or 0 (never) when d is off.
func (s *Server) after(from, d sys.Nanos) sys.Nanos {
	if d <= 0 {
		return 0
	}
	return from + d
}

func earlier(a, b sys.Nanos) sys.Nanos {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// maxAge is when max_connection_duration is over; once it has passed the connection drains and the deadline is gone.
func (s *Server) maxAge() sys.Nanos {
	if s.ch.h.MaxConnDuration <= 0 || s.fl&(fDrain|fClose) != 0 || s.st == sLinger {
		return 0
	}
	return s.ch.maxAge(s.Place.Info)
}

// maxAge is when max_connection_duration of a connection, and its share of the jitter, is over.
func (ch *chain) maxAge(info *accesslog.ConnInfo) sys.Nanos {
	l, d := ch.env.L, ch.h.MaxConnDuration
	return max(l.Now()+d+share(info, ch.h.MaxConnJitter)-sys.Nanos(l.Wall()-info.Start), 1)
}

// drainTime is drain_timeout of a connection, and its share of the jitter.
func (ch *chain) drainTime(info *accesslog.ConnInfo) sys.Nanos {
	return ch.h.DrainTimeout + share(info, ch.h.DrainJitter)
}

// share is a connection's part of a jitter. It follows from what the connection is called, so that nobody has to keep it, here or on the worker to which
// the connection moves.
func share(info *accesslog.ConnInfo, jitter sys.Nanos) sys.Nanos {
	part, _ := bits.Mul64((info.ID+uint64(info.Start))*0x9e3779b97f4a7c15, uint64(jitter)) // Fibonacci hashing: the upper bits are spread
	return sys.Nanos(part)
}

func (s *Server) rearm(now sys.Nanos) {
	if at := s.deadline(); at > 0 {
		s.ch.env.L.Arm(&s.timer, max(at, now))
	} else if s.timer.Armed() {
		s.ch.env.L.Disarm(&s.timer)
	}
}

// onTimer acts on the deadlines that have passed. The timer is lazy: it may have fired for a deadline that has moved.
func (s *Server) onTimer(now sys.Nanos) {
	h, b := s.ch.h, s.ch.hcm
	if at := s.maxAge(); at > 0 && now >= at {
		b.Inc(stats.HCMDownstreamCxMaxDurationReached)
		s.fl |= fClose
		if s.st == sIdle {
			s.startLinger()
			return
		}
	}
	switch s.st {
	case sIdle:
		s.idleTimer(now)
		if s.st != sIdle {
			return
		}
	case sHead:
		s.headTimer(now)
	case sActive:
		s.x.onDeadline(now)
	case sLinger:
		if s.c.BytesOut > 0 && s.c.Queued() > 0 {
			s.countBytes() // the client still reads what was sent before: the time counts from there, as in Envoy
			s.since = now
		}
		if now >= s.since+h.DelayedClose {
			b.Inc(stats.HCMDownstreamCxDelayedCloseTimeout)
			s.free()
			return
		}
	}
	if s.st != sClosed {
		s.rearm(now)
	}
}

// idleTimer: a connection that never carried a request closes at idle_timeout; one that did enters the drain sequence first, as in Envoy.
func (s *Server) idleTimer(now sys.Nanos) {
	h, b := s.ch.h, s.ch.hcm
	switch {
	case s.c.Queued() > 0 && h.StreamIdle > 0 && now >= s.since+h.StreamIdle:
		// The last response is not read by the client; the stream idle timeout bounds that as well.
		if s.c.BytesOut == 0 {
			s.free()
			return
		}
		s.countBytes()
		s.since = now
	case s.c.Readable():
		return // bytes are here; the timer lost the race
	case s.fl&fIdleDrain != 0 && now >= s.since+h.ConnIdle+s.ch.drainTime(s.Place.Info):
		s.startLinger()
	case s.fl&fIdleDrain == 0 && h.ConnIdle > 0 && now >= s.since+h.ConnIdle:
		b.Inc(stats.HCMDownstreamCxIdleTimeout)
		if s.fl&fUsed == 0 || h.DrainTimeout <= 0 {
			s.detach()
			return
		}
		s.fl |= fIdleDrain | fDrain
	}
}

// headTimer answers a head that does not get complete.
func (s *Server) headTimer(now sys.Nanos) {
	h := s.ch.h
	k := fault.None
	switch {
	case h.HeadersTimeout > 0 && now >= s.since+h.HeadersTimeout:
		k = fault.HeaderTimeout
		s.ch.hcm.Inc(stats.HCMDownstreamRqHeaderTimeout)
	case h.RequestTimeout > 0 && now >= s.since+h.RequestTimeout:
		k = fault.RequestTimeout
		s.ch.hcm.Inc(stats.HCMDownstreamRqTimeout)
	case h.StreamIdle > 0 && now >= s.since+h.StreamIdle:
		k = fault.StreamIdle
		s.ch.hcm.Inc(stats.HCMDownstreamRqIdleTimeout)
	default:
		return
	}
	x := s.ch.env.exchanges.Get()
	x.prepare()
	delete(s.ch.env.halves, s)
	s.st, s.x = sActive, x
	s.requests++
	s.begin(x, s.since, now, 0)
	s.headFault(k)
}

// codecFault answers bytes that are not HTTP, or closes if there is no answer to that.
func (s *Server) codecFault(k fault.Kind) {
	x := s.x
	x.rec.Req = nil // Envoy logs such a request without method, path and authority
	x.req.Version = httpmsg.HTTP11
	s.ch.hcm.Inc(stats.HCMDownstreamCxProtocolError)
	x.early() // nothing tells where such a request ends
	x.refusedName(k)
	s.headFault(k)
	if k == fault.LowVersion {
		x.local.flags |= fault.FlagDPE
	}
}

// headFault answers a request whose head is not usable.
func (s *Server) headFault(k fault.Kind) {
	x, row := s.x, k.Row()
	if row.Status == 0 {
		x.rec.Flags, x.rec.Details = row.Flags, row.Details
		x.over(s.ch.env.L.Now(), refused)
		return
	}
	x.replyKind(k)
	if k == fault.StreamIdle {
		x.local.status = 408
	}
	s.fl |= fClose
}

// keyOf names used on the request path.
var (
	keyConnection   = httpmsg.IDConnection.Key()
	keyDate         = httpmsg.IDDate.Key()
	keyServer       = httpmsg.IDServer.Key()
	keyVia          = httpmsg.IDVia.Key()
	keyXFF          = httpmsg.IDForwardedFor.Key()
	keyXFP          = httpmsg.IDForwardedProto.Key()
	keyClientCert   = httpmsg.IDForwardedClientCert.Key()
	keyXFPort       = httpmsg.IDForwardedPort.Key()
	keyRequestID    = httpmsg.IDRequestID.Key()
	keyExternal     = httpmsg.IDEnvoyExternalAddress.Key()
	keyInternal     = httpmsg.IDEnvoyInternal.Key()
	keyExpected     = httpmsg.IDEnvoyExpectedTimeout.Key()
	keyAttempts     = httpmsg.IDEnvoyAttemptCount.Key()
	keyServiceTime  = httpmsg.IDEnvoyUpstreamServiceTime.Key()
	keyOverloaded   = httpmsg.IDEnvoyOverloaded.Key()
	keyContentType  = httpmsg.IDContentType.Key()
	keyLocation     = httpmsg.IDLocation.Key()
	keyGrpcStatus   = httpmsg.IDGrpcStatus.Key()
	keyGrpcMessage  = httpmsg.IDGrpcMessage.Key()
	keyGrpcTimeout  = httpmsg.IDGrpcTimeout.Key()
	keyExpect       = httpmsg.IDExpect.Key()
	keyCL           = httpmsg.IDContentLength.Key()
	keySetCookie    = httpmsg.IDSetCookie.Key()
	keyOriginalURL  = httpmsg.IDEnvoyOriginalURL.Key()
	keyOriginalPath = httpmsg.IDEnvoyOriginalPath.Key()
)
