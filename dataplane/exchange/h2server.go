// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"sidecar/dataplane/conn"
	"sidecar/dataplane/fault"
	"sidecar/dataplane/http2"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/loop"
	"sidecar/dataplane/mux"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/accesslog"
	"sidecar/internal/telemetry/stats"
)

// maxEvents bounds the HTTP/2 events that one connection handles in one Advance.
const maxEvents = 256

// h2State is the place of an HTTP/2 connection in its life.
type h2State uint8

const (
	h2Closed h2State = iota
	h2Open
	h2Draining // GOAWAY with the highest stream identifier is out; drain_timeout runs
	h2Last     // GOAWAY with the last stream that is served is out: closed when the streams are over
	h2Linger   // the last word is out: waiting for the client to close
)

// h2Server is the HTTP/2 server side of one downstream connection. Its task decodes; an exchange runs at once when its stream has something, and by a
// task of its own when anything else wakes it. What they send leaves in one write when the connection's task is done.
type h2Server struct {
	// Place is the connection's membership in its listener.
	Place conn.Member

	// Worker
	k     mux.Link
	task  loop.Task
	timer loop.Timer
	bound bool
	ch    *chain
	since sys.Nanos // idle: since when; draining, lingering: when that began
	st    h2State
	gone  bool // the client ended the connection
}

// becomeHTTP2 hands a connection that begins with HTTP/2 over to the server for that.
func (s *Server) becomeHTTP2(now sys.Nanos) {
	e := s.ch.env
	h := e.newH2Server(s.ch, now)
	s.Place.Swap(&h.Place)
	h.k.Init(e.Mux, s.c, &h.task, http2.Server, &s.ch.h.H2)
	b := s.ch.hcm
	b.Inc(stats.HCMDownstreamCxHTTP2Total)
	b.Inc(stats.HCMDownstreamCxHTTP2Active)
	if sc := s.ch.h.H2Scope; sc != nil {
		sc.Block(e.Shard).Inc(stats.HTTP2Nghttp2DownstreamConnections) // what a dashboard made for Envoy looks at
	}
	drain := s.fl&fDrain != 0
	s.c.SetOwner(&h.task)
	e.L.Disarm(&s.timer)
	e.L.Cancel(&s.task)
	s.putBack(e)
	if drain {
		h.startDrain()
	}
	e.L.Ready(&h.task)
}

// newH2Server takes an h2Server for a connection that is idle since then.
func (e *Env) newH2Server(ch *chain, since sys.Nanos) *h2Server {
	h := e.h2servers.Get()
	if !h.bound {
		h.bound = true
		h.task.Init(h)
		h.timer.Init(&h.task)
	}
	h.ch, h.st, h.since, h.gone = ch, h2Open, since, false
	h.Place = conn.Member{H: h}
	return h
}

// Chain is the filter chain that the connection was made with.
func (s *h2Server) Chain() *snapshot.FilterChain { return s.ch.fc }

// Drain asks the connection to end, as insistently as m says.
func (s *h2Server) Drain(m conn.DrainMode) {
	switch {
	case s.st == h2Closed:
	case m == conn.DrainNow && s.st == h2Linger:
		s.end()
	case m == conn.DrainNow:
		s.close(fault.LocalReset, http2.CodeNo)
	default:
		if s.st == h2Open {
			s.ch.hcm.Inc(stats.HCMDownstreamCxDrainClose)
		}
		s.startDrain()
		if m != conn.DrainSoft {
			s.finishDrain()
		}
	}
}

// startDrain says that the connection will end: the client opens its next streams elsewhere, those under way go on.
func (s *h2Server) startDrain() {
	if s.st != h2Open {
		return
	}
	s.st, s.since = h2Draining, s.ch.env.L.Now()
	s.k.H2.SendGoaway(http2.MaxStream, http2.CodeNo)
	s.k.Wake()
}

// finishDrain takes no more streams.
func (s *h2Server) finishDrain() {
	if s.st != h2Draining {
		return
	}
	s.st = h2Last
	s.k.H2.SendGoaway(s.k.H2.LastStream(), http2.CodeNo)
	s.k.Wake()
}

// Poison ends a connection whose Advance panicked.
func (s *h2Server) Poison(any) {
	if s.st == h2Closed {
		return
	}
	s.ch.env.Panicked++
	s.close(fault.Bug, http2.CodeInternal)
}

// Advance runs the connection until it has to wait.
func (s *h2Server) Advance(now sys.Nanos) loop.Step {
	if s.st == h2Closed {
		return loop.Done
	}
	if s.st == h2Linger {
		return s.linger(now)
	}
	s.k.Begin()
	if s.timer.Fired() {
		s.ch.env.L.Disarm(&s.timer)
		s.onTimer(now)
	}
	step := loop.Again
	for n := 0; n < maxEvents && s.st != h2Closed; n++ {
		if s.event(now) {
			continue
		}
		step = loop.Idle
		break
	}
	if s.st != h2Closed && s.st != h2Linger {
		s.settle(now)
	}
	if s.st == h2Closed {
		return loop.Done
	}
	return step
}

// event handles the next event; false means that there is none, or that the connection is over.
func (s *h2Server) event(now sys.Nanos) bool {
	if s.k.Torn() {
		s.Poison(nil)
		return false
	}
	e := s.ch.env
	ev := &e.Mux.Ev
	if e.spare == nil {
		e.spare = e.exchanges.Get()
		e.spare.prepare()
	}
	ev.Head = &e.spare.req
	switch s.k.Next(now) {
	case mux.Nothing:
		return false
	case mux.Gone:
		s.gone = true
		s.close(fault.DownstreamGone, http2.CodeNo)
		return false
	case mux.Failed:
		if !overloads(ev.Fault) {
			s.ch.hcm.Inc(stats.HCMDownstreamCxProtocolError)
		}
		if ev.Fault == fault.H2Protocol {
			ev.Fault = fault.H2Connection
		}
		if ev.Fault == fault.H2PrematureResets {
			s.ch.hcm.Inc(stats.HCMDownstreamRqTooManyPrematureResets)
		}
		code, head := ev.Code, ev.ID != 0
		if head {
			s.refused(ev, now)
		}
		k := ev.Fault
		s.abort(k, code, head)
		if k == fault.H2Timeout { // nobody is there to read the last word
			s.k.Flush(now)
			s.end()
			return false
		}
		s.startLinger(now)
		return false
	}
	switch {
	case ev.Kind == http2.EventHead:
		s.request(ev, now)
	case ev.Stream != nil:
		s.k.Deliver(ev, now)
	case ev.Kind == http2.EventReset:
		s.refused(ev, now)
	}
	return s.st != h2Closed
}

// overloads tells whether a fault is a flood or a timeout, which Envoy does not count as a protocol error.
func overloads(k fault.Kind) bool {
	return k == fault.H2Timeout || k == fault.H2EmptyFrames || k == fault.H2PriorityFlood || k == fault.H2WindowFlood || k == fault.H2OutboundFlood
}

// request starts the exchange of a new stream.
func (s *h2Server) request(ev *http2.Event, now sys.Nanos) {
	x := s.ch.env.spare
	s.ch.env.spare = nil
	st := s.k.Open(ev.Stream, x, ev.End)
	s.begin(x, st, now, 1)
	ev.Stream.Trailers = &x.reqTr
	if most := s.ch.h.MaxRequestsPerConn; most > 0 && s.k.H2.Streams() >= most {
		s.ch.hcm.Inc(stats.HCMDownstreamCxMaxRequestsReached) // counts streams, as in Envoy
		if s.st == h2Open {
			s.startDrain()
		}
	}
	st.Start(now)
}

// refused counts and logs a request whose head was none; as in Envoy, nothing of it is in the record.
func (s *h2Server) refused(ev *http2.Event, now sys.Nanos) {
	x := s.ch.env.spare
	s.ch.env.spare = nil
	x.prepare() // the head may have left something there
	s.begin(x, nil, now, 0)
	x.rec.Req, x.rec.Down.PlainIn = nil, uint64(ev.Plain)
	s.ch.hcm.Inc(stats.HCMDownstreamRqRxReset)
	x.abort(ev.Fault)
}

// begin starts the exchange x on st.
func (s *h2Server) begin(x *Exchange, st *mux.Stream, now sys.Nanos, headBytes int) {
	if !x.bound {
		x.bound = true
		x.own.Init(x)
		x.timer.Init(&x.own)
	}
	x.h2 = h2Client{s: s, x: x, st: st, connect: x.req.Method == httpmsg.MethodConnect}
	_, shaken := s.k.C.HandshakeTimes()
	x.begin(&origin{c: &x.h2, side: s.Place.Info, task: &x.own, ch: s.ch, in: source{s: st}, shaken: shaken}, now, now, headBytes)
	x.rec.Protocol = "HTTP/2"
	s.ch.hcm.Inc(stats.HCMDownstreamRqHTTP2Total)
}

// settle ends a run: what was queued leaves, a connection that has nothing more to do closes, the timer is set.
func (s *h2Server) settle(now sys.Nanos) {
	s.k.Flush(now)
	if s.st == h2Closed {
		return
	}
	s.count()
	if s.k.H2.Active() == 0 && s.st == h2Last {
		s.startLinger(now)
		return
	}
	s.rearm(now)
}

// count adds what the machine and the connection counted.
func (s *h2Server) count() {
	c, b := s.k.C, s.ch.hcm
	if c.BytesIn > 0 {
		b.Add(stats.HCMDownstreamCxRxBytesTotal, int64(c.BytesIn))
	}
	if c.BytesOut > 0 {
		b.Add(stats.HCMDownstreamCxTxBytesTotal, int64(c.BytesOut))
	}
	c.BytesIn, c.BytesOut = 0, 0
	s.k.Count(s.ch.h.H2Scope, s.ch.env.Shard)
}

// close ends the connection and every stream on it.
func (s *h2Server) close(k fault.Kind, code http2.Code) {
	s.abort(k, code, false)
	if !s.gone {
		s.k.Flush(s.ch.env.L.Now())
	}
	s.end()
}

// abort ends every stream; head says that there was one more, whose head was the fault.
func (s *h2Server) abort(k fault.Kind, code http2.Code, head bool) {
	b, active := s.ch.hcm, head || s.k.Busy()
	if s.gone {
		s.k.H2.Stop() // there is nobody to tell
	}
	for st := s.k.H2.Oldest(); st != nil; st = s.k.H2.Oldest() {
		m := mux.Of(st)
		if x, ok := m.User().(*Exchange); ok {
			if k != fault.DownstreamGone {
				b.Inc(stats.HCMDownstreamRqRxReset)
				x.tunnelOver()
			}
			x.abort(k)
		}
		m.Abort(code)
	}
	if !active {
		return
	}
	b.Inc(stats.HCMDownstreamCxDestroyActiveRq)
	if s.gone || k == fault.H2Timeout { // as in Envoy
		b.Inc(stats.HCMDownstreamCxDestroyRemoteActiveRq)
	} else {
		b.Inc(stats.HCMDownstreamCxDestroyLocalActiveRq)
	}
}

// startLinger waits for the client to close after the last GOAWAY, at most delayed_close_timeout: a close with bytes unread would be a RST, which takes
// with it what the client has not read yet. As in Envoy there is no FIN before that time is over.
func (s *h2Server) startLinger(now sys.Nanos) {
	s.k.Flush(now)
	s.count()
	if s.ch.h.DelayedClose <= 0 {
		s.end()
		return
	}
	s.st, s.since = h2Linger, now
	s.ch.env.L.Disarm(&s.timer)
	s.ch.env.L.Ready(&s.task)
}

// linger throws away what the client still sends, and closes the connection when the client has, or when the time is over since it last took something.
func (s *h2Server) linger(now sys.Nanos) loop.Step {
	s.k.Begin()
	s.k.Flush(now)
	c, step := s.k.C, loop.Again
	for moved := 0; moved < maxMove && step == loop.Again; {
		n := len(c.In())
		moved += n
		c.Discard(n)
		switch c.Fill() {
		case conn.More:
		case conn.Blocked:
			step = loop.Idle
		default:
			s.gone = true
			s.end()
			return loop.Done
		}
	}
	if c.BytesOut > 0 && c.Queued() > 0 {
		s.since = now
	}
	s.count()
	at := s.since + s.ch.h.DelayedClose
	if now >= at {
		s.ch.hcm.Inc(stats.HCMDownstreamCxDelayedCloseTimeout)
		s.leave().Close()
		return loop.Done
	}
	s.ch.env.L.Arm(&s.timer, at)
	return step
}

// end closes the connection; what is queued still leaves.
func (s *h2Server) end() { s.leave().CloseAfterFlush() }

// leave counts the end of the connection and gives everything back but the connection itself.
func (s *h2Server) leave() *conn.Conn {
	ch := s.ch
	b, c := ch.hcm, s.k.C
	s.count()
	b.Inc(stats.HCMDownstreamCxDestroy)
	if s.gone {
		b.Inc(stats.HCMDownstreamCxDestroyRemote)
	} else {
		b.Inc(stats.HCMDownstreamCxDestroyLocal)
	}
	b.Dec(stats.HCMDownstreamCxActive)
	if c.Secure() {
		b.Dec(stats.HCMDownstreamCxSSLActive)
	}
	b.Dec(stats.HCMDownstreamCxHTTP2Active)
	b.Record(stats.HCMDownstreamCxLengthMs, clockMillis(sys.Nanos(ch.env.L.Wall()-s.Place.Info.Start)))
	s.k.CountEnd(ch.h.H2Scope, ch.env.Shard)
	s.Place.Leave()
	s.k.Free()
	s.recycle()
	return c
}

// recycle gives everything back but the link.
func (s *h2Server) recycle() {
	e := s.ch.env
	e.L.Disarm(&s.timer)
	e.L.Cancel(&s.task)
	s.ch.release()
	s.ch, s.st, s.Place = nil, h2Closed, conn.Member{}
	e.h2servers.Put(s)
}

// rearm sets the timer to what comes first: the machine's own deadlines, idle_timeout, drain_timeout, max_connection_duration.
func (s *h2Server) rearm(now sys.Nanos) {
	h, l := s.ch.h, s.ch.env.L
	at := s.k.Deadline()
	switch {
	case s.st == h2Draining:
		at = earlier(at, s.since+max(s.ch.drainTime(s.Place.Info), 1))
	case s.st == h2Open:
		if s.k.H2.Active() == 0 && h.ConnIdle > 0 {
			at = earlier(at, s.since+h.ConnIdle)
		}
		if h.MaxConnDuration > 0 {
			at = earlier(at, s.ch.maxAge(s.Place.Info))
		}
	}
	if at > 0 {
		l.Arm(&s.timer, max(at, now))
	} else if s.timer.Armed() {
		l.Disarm(&s.timer)
	}
}

func (s *h2Server) onTimer(now sys.Nanos) {
	h, b := s.ch.h, s.ch.hcm
	s.k.OnTime(now)
	switch s.st {
	case h2Draining:
		if now >= s.since+s.ch.drainTime(s.Place.Info) {
			s.finishDrain()
		}
	case h2Open:
		switch {
		case h.MaxConnDuration > 0 && now >= s.ch.maxAge(s.Place.Info):
			b.Inc(stats.HCMDownstreamCxMaxDurationReached)
			s.startDrain()
		case s.k.H2.Active() == 0 && h.ConnIdle > 0 && now >= s.since+h.ConnIdle:
			b.Inc(stats.HCMDownstreamCxIdleTimeout)
			s.startDrain()
		}
	}
}

// h2Client is the client of an exchange on an HTTP/2 stream.
type h2Client struct {
	s       *h2Server
	x       *Exchange
	st      *mux.Stream
	connect bool // the request is CONNECT
}

// run implements client.
func (c *h2Client) run(now sys.Nanos) {
	x := c.x
	if x.st == stHead {
		x.onHead(now)
	}
	if st := x.reqIn.s; st.Reset != fault.None {
		c.reset(now, st)
		return
	}
	l := x.env.L
	switch x.advance(now) {
	case waits:
		if at := x.deadline(); at > 0 {
			l.Arm(&x.timer, max(at, now))
		} else if x.timer.Armed() {
			l.Disarm(&x.timer)
		}
	case again:
		l.Ready(&x.own)
	}
}

// reset ends the exchange because its stream is over: the client has lost interest, or has sent what is no message.
func (c *h2Client) reset(now sys.Nanos, st *mux.Stream) {
	x := c.x
	x.ch.hcm.Inc(stats.HCMDownstreamRqRxReset)
	x.tunnelOver()
	x.abort(st.Reset)
	st.Abort(http2.CodeNo)
}

// tunnelOver counts the end of a tunnel: Envoy never regards such a request as complete.
func (x *Exchange) tunnelOver() {
	if x.has(xTunnel) {
		x.h2.s.ch.hcm.Inc(stats.HCMDownstreamRqResponseBeforeRqComplete)
	}
}

// answer implements client: a connection that is to end says GOAWAY.
func (c *h2Client) answer(x *Exchange) {
	s := c.s
	e, ch := s.ch.env, s.ch
	switch {
	case s.st != h2Open:
	case e.FailHealth && !ch.l.DrainModifyOnly, e.DrainClose != nil && e.DrainClose(ch.l, ch.fc):
		ch.hcm.Inc(stats.HCMDownstreamCxDrainClose)
		s.startDrain()
	case e.Overloaded:
		ch.hcm.Inc(stats.HCMDownstreamCxOverloadDisableKeepalive)
		s.startDrain()
	}
}

// closeAfter implements client: the end of a stream says nothing about its connection.
func (c *h2Client) closeAfter() {}

// account implements client; the connection counts its bytes itself.
func (c *h2Client) account(b *accesslog.Bytes) {
	if c.st != nil { // a head that was none has no stream
		*b = accesslog.Bytes(c.st.Meter())
	}
}

// over implements client.
func (c *h2Client) over(e ending, now sys.Nanos) {
	s, st, x := c.s, c.st, c.x
	if s.st == h2Open {
		s.since = now
	}
	if e == answered && !st.S.RemoteEnded() && x.fl&xEarly == 0 {
		s.ch.hcm.Inc(stats.HCMDownstreamRqResponseBeforeRqComplete)
		s.ch.hcm.Inc(stats.HCMDownstreamRqRxReset) // as Envoy sees the reset that follows
	} else if e == answered && x.fl&xEarly == 0 {
		x.tunnelOver()
	}
	c.x, c.st = nil, nil
	switch e {
	case answered:
		st.Finish()
	case departed:
		st.Abort(http2.CodeCancel)
	case cut, hungUp:
		if c.connect { // RFC 9113 section 8.5
			st.Abort(http2.CodeConnect)
			break
		}
		fallthrough
	default:
		st.Abort(http2.CodeInternal)
	}
	s.k.Wake()
}

// Advance implements loop.Runnable for an exchange with a task of its own.
func (x *Exchange) Advance(now sys.Nanos) loop.Step {
	if x.st == stFree {
		return loop.Done
	}
	if x.timer.Fired() {
		x.env.L.Disarm(&x.timer)
		x.onDeadline(now)
		if x.st == stFree {
			return loop.Done
		}
	}
	x.h2.run(now)
	return loop.Idle
}

// Run implements mux.User.
func (x *Exchange) Run(now sys.Nanos) { x.c.run(now) }

// Poison ends an exchange that has panicked, on its own task or for a stream, of its client or its upstream.
func (x *Exchange) Poison(any) {
	if x.st == stFree { // while it handed its stream back
		if s := x.h2.s; s != nil && s.st != h2Closed {
			s.k.Tear()
		}
		return
	}
	x.c.poisoned()
}

// poisoned implements client: the stream ends, the connection and its other streams go on.
func (c *h2Client) poisoned() {
	s, st, x := c.s, c.st, c.x
	if s.k.Torn() { // the connection ends, and the exchange with it
		s.ch.env.L.Ready(&s.task)
		return
	}
	s.ch.env.Panicked++
	defer func() { // even if the exchange is too far gone to be aborted
		if s.st == h2Open {
			s.since = s.ch.env.L.Now()
		}
		c.x, c.st = nil, nil
		st.Abort(http2.CodeInternal)
	}()
	x.tunnelOver()
	x.abort(fault.Bug)
}
