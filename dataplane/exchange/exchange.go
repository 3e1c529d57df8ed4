// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"sidecar/dataplane/fault"
	"sidecar/dataplane/filter"
	"sidecar/dataplane/hostset"
	"sidecar/dataplane/http1"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/lb"
	"sidecar/dataplane/loop"
	"sidecar/dataplane/pool"
	"sidecar/dataplane/route"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/dataplane/upstream"
	"sidecar/internal/telemetry/accesslog"
	"sidecar/internal/telemetry/stats"
)

// outcome is what advance leaves to whoever runs the exchange.
type outcome uint8

const (
	waits outcome = iota // nothing to do until a wake-up
	again                // the budget of this run is used up
	ended                // the exchange is over and freed
)

// The facts of one exchange that are more than a state.
const (
	xReqEnd      uint32 = 1 << iota // the request was decoded to its end
	xReqSent                        // the request was forwarded to its end in this attempt
	xHeadSent                       // the request head went out in this attempt
	xReqChunked                     // the request body goes upstream in chunks
	xRespHead                       // a final response head came in this attempt
	xRespStarted                    // response bytes went downstream
	xRespEnd                        // the response was decoded to its end
	xRespChunked                    // the response body goes downstream in chunks
	xNoBody                         // the response has no body on the wire (HEAD, 204, 304)
	xInternal                       // the request is internal (x-envoy-internal)
	xGrpc                           // content-type application/grpc
	xKeepBody                       // the body is kept for a retry or a mirror
	xReplayed                       // the kept body was sent in this attempt
	xCounted                        // the response code was counted
	xAltTimeout                     // x-envoy-upstream-rq-timeout-alt-response
	xUpgrade                        // the request asks for an upgrade or CONNECT that is enabled
	xUpPaused                       // the upstream is not read because the client does not take more
	xDownPaused                     // the client is not read because the upstream does not take more
	xPrebuf                         // the whole body is in x.body (a filter buffered it)
	xLogged                         // the record was written
	xPeerFirst                      // tunnel: the client ended first
	xUpFirst                        // tunnel: the upstream ended first
	xClearRoute                     // a filter asked for another look at the route
	xRespHeld                       // a response filter has not let the head pass yet
	xEarly                          // counted as answered before the request was complete
	xTerminate                      // CONNECT ends here: the upstream is a raw connection
	xCallerSays                     // an internal request has x-envoy-* headers that steer the router
	xTillClose                      // the response body ends with the upstream connection
	xTunnel                         // counted in downstream_cx_upgrades_active
	xInterim                        // a 1xx head came in this attempt
	xGrpcUp                         // content-type application/grpc as the router sees it, behind the filters
	xGrpcOpen                       // whether a gRPC response counts as a success is for its trailers to say
)

// Exchange is one request and its response. It lives in the worker's slab and keeps its memory between uses.
type Exchange struct {
	// Worker
	c      client
	side   *accesslog.ConnInfo // of the client's connection
	task   *loop.Task          // runs the exchange: of the connection, or own
	own    loop.Task           // HTTP/2
	timer  loop.Timer
	bound  bool // own and timer are initialised
	h2     h2Client
	ch     *chain
	router *snapshot.Router // of the chain, or what is in force of a discovered one
	env    *Env
	st     state
	trail  uint64 // the last states, four bits each
	fl     uint32
	used   bool

	reqIn  source        // the request
	dec    http1.Decoder // of an HTTP/1 request
	respIn source        // the response of the present try

	req, resp     httpmsg.Head
	reqA, respA   httpmsg.Arena
	reqTr, respTr httpmsg.Fields
	rec           accesslog.Record
	info          accesslog.ConnInfo // rec.Conn when the request has a remote address of its own (x-forwarded-for)

	q      route.Query
	table  *route.Table
	entry  *route.Entry
	vh     *route.VirtualHost
	choice route.Choice

	row       *snapshot.Cluster
	cl        *upstream.Cluster
	host      *hostset.Host
	tried     []*hostset.Host
	lbq       lb.Query
	w         pool.Waiter
	m         *pool.Member
	tcp       upstream.TCP // xTerminate
	prio      int
	attempts  uint32 // all tries, connect retries included
	connTries uint32
	plan      route.RetryPlan
	planned   bool
	limits    route.Timeouts
	cookie    *route.SetCookie
	authority httpmsg.Span // before auto_host_rewrite
	upName    httpmsg.Span // see upstream.Cluster.ServerName
	hash      uint64
	hasHash   bool
	retries   uint32 // retries used
	budget    bool   // a place under max_retries is held
	ownKey    bool   // sec-websocket-key is ours: an HTTP/2 client has sent none
	redirects uint32
	taken     [][2]string // see takeRoute

	start      sys.Nanos // first byte of the request
	reqDone    sys.Nanos // request complete; 0 before
	tryStart   sys.Nanos
	lastActive sys.Nanos
	retryAt    sys.Nanos // end of the back-off
	routeAt    sys.Nanos // route timeout; 0 = none
	perTryAt   sys.Nanos
	// upstreamMaxAt ends the try, response included; 0 = never.
	upstreamMaxAt sys.Nanos
	wakeAt        sys.Nanos // earliest filter timer
	logAt         sys.Nanos // next periodic access-log line
	streamIdle    sys.Nanos
	maxStream     sys.Nanos

	body     []byte // kept body: for retries and mirrors, or what a filter buffers
	respBody []byte // response body that a filter buffers
	local    localReply
	fault    fault.Kind // of the last attempt, for the log and the retry decision
	errno    sys.Errno
	why      string // what TLS said to that, "" nothing

	filters []filter.HTTP
	fctx    []filter.Ctx
	fphase  []filter.Phase
	fmakers []filter.Factory // while the instances are made
	fwake   []sys.Nanos
	fdata   filter.Data
	demand  filter.Demand // what the control side was asked for last; zero = nothing
	held    uint8         // notHeld, awaiting or woken
	fevents uint64        // bit i: EventResume for filter i
	fpos    int           // the filter that holds a head
	dataPos int           // request body filters start here (those before saw it buffered)
	respPos int
	inSeen  uint64
	outSeen uint64
	tryIn   uint64 // content of the try
	tryOut  uint64
}

// prepare makes a slab object ready for the head decoder.
func (x *Exchange) prepare() {
	x.reqA.Reset(arenaKeep)
	x.respA.Reset(arenaKeep)
	x.req.Reset(&x.reqA)
	x.resp.Reset(&x.respA)
}

// origin is where a request comes from.
type origin struct {
	c      client
	side   *accesslog.ConnInfo
	task   *loop.Task
	ch     *chain
	in     source
	shaken sys.Nanos // when the TLS handshake was done; 0 without one
}

// begin starts an exchange; start is when the first byte of the request came, headBytes its length on the wire.
func (x *Exchange) begin(o *origin, start, now sys.Nanos, headBytes int) {
	x.c, x.side, x.task, x.ch, x.env, x.reqIn = o.c, o.side, o.task, o.ch, o.ch.env, o.in
	x.st, x.trail, x.fl = stFree, 0, 0
	x.to(stHead)
	x.reqTr.Reset(&x.reqA)
	x.respTr.Reset(&x.respA)
	e := x.env
	if !x.used {
		x.used = true
		x.rec.Reset() // afterwards free does it
	}
	x.rec.Conn = x.side
	x.rec.Start = e.L.Wall() - int64(now-start)
	x.rec.LastDownRx = int64(now - start)
	x.rec.Handshake = int64(o.shaken - start)
	x.rec.Req = &x.req
	if x.ch.logsHeads && headBytes > 0 && x.reqIn.s == nil {
		n := http1.ReceivedHead(&x.req)
		x.rec.Down.HeadIn, x.rec.Down.PlainIn = n, n
	}
	x.rec.Protocol = "HTTP/1.1"
	x.rec.Type = accesslog.DownstreamEnd
	x.rec.Runtime, x.rec.Clock = e.Snap.Runtime, &e.clock
	x.q.Head, x.q.Rec, x.q.Rand, x.q.Runtime = &x.req, &x.rec, e.L.Rand(), e.Snap.Runtime
	x.q.TLS, x.q.Secure = x.side.TLS != nil, false
	x.routed(&x.ch.h.Router)
	x.q.ClientCert = x.q.TLS && x.side.TLS.Peer != nil
	x.q.ClientCertValid = x.q.ClientCert && x.side.TLS.Validated
	x.m, x.prio = nil, 0
	x.attempts, x.connTries, x.retries, x.redirects, x.budget = 0, 0, 0, 0, false
	x.taken = x.taken[:0]
	x.limits, x.hasHash, x.ownKey = route.Timeouts{}, false, false
	x.start, x.lastActive, x.reqDone, x.tryStart, x.retryAt = start, now, 0, 0, 0
	x.routeAt, x.perTryAt, x.upstreamMaxAt, x.wakeAt = 0, 0, 0, 0
	x.logAt = 0
	if d := x.ch.h.LogFlushInterval; d > 0 {
		x.logAt = now + d
	}
	x.streamIdle, x.maxStream = x.ch.h.StreamIdle, x.ch.h.MaxStream
	x.fault, x.errno, x.why = fault.None, 0, ""
	x.filters, x.fctx, x.fphase, x.fwake = x.filters[:0], x.fctx[:0], x.fphase[:0], x.fwake[:0]
	x.fevents, x.fpos, x.dataPos, x.respPos = 0, 0, 0, 0
	x.w.Init(x.task)
	b := x.ch.hcm
	b.Inc(stats.HCMDownstreamRqTotal)
	b.Inc(stats.HCMDownstreamRqActive)
	if x.ch.h.LogOnNewRequest && headBytes > 0 {
		x.rec.Type = accesslog.DownstreamStart
		x.writeLog()
		x.rec.Type = accesslog.DownstreamEnd
	}
}

// routed takes r for the router of the exchange.
func (x *Exchange) routed(r *snapshot.Router) {
	x.router, x.q.NoEnvoyHeaders = r, r.SuppressEnvoyHeaders
}

// has tells whether all facts in f hold.
func (x *Exchange) has(f uint32) bool { return x.fl&f == f }

// since is now on the record's clock.
func (x *Exchange) since(now sys.Nanos) int64 { return int64(now - x.start) }

// advance moves the exchange until it has to wait or is over.
func (x *Exchange) advance(now sys.Nanos) outcome {
	for {
		switch x.st {
		case stFree:
			return ended // the exchange was ended inside of a state
		case stFilter:
			x.runRequestFilters(now)
		case stPaused, stHold:
			if !x.filterEvents(now) {
				return waits
			}
		case stBuffer:
			if o := x.collect(now); x.st == stBuffer {
				return o
			}
		case stPick:
			x.pick(now)
		case stWaitPool:
			if !x.poolAnswer(now) {
				if k := x.badBody(); k != fault.None {
					x.requestFault(now, k)
					continue
				}
				return waits
			}
		case stRelay:
			if o := x.relay(now); x.st == stRelay {
				return o
			}
		case stBackoff:
			if now < x.retryAt {
				return waits
			}
			x.to(stPick)
		case stReply:
			x.sendReply(now)
		case stTunnel:
			if o := x.tunnel(now); x.st == stTunnel {
				return o
			}
		case stDone:
			x.finish(now)
			return ended
		default:
			panic("exchange: advance in state " + x.st.String())
		}
	}
}
