// SPDX-License-Identifier: Apache-2.0

// Package filter is the seam between the HTTP exchange and its filters: the interface that a filter implements, the verdicts it gives, and the
// view of the exchange that it gets. A filter instance serves one exchange and lives on one worker; it must not block, start goroutines or keep
// what it is shown beyond the call.
//
// A filter that changes the length of a body buffers it, or sets the head's Body to httpmsg.BodyChunked in OnHead. What was buffered goes on framed as
// it came, with its new length; a filter that has it may set the head's Body to httpmsg.BodyLength, as the length is known.
//
// Order: requests pass the filters first to last, responses last to first. The route is chosen before the first filter runs; a filter that
// changes what routes look at calls ClearRoute.
package filter

import (
	"sidecar/dataplane/fault"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/route"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/accesslog"
	"sidecar/internal/telemetry/stats"
)

// Dir is the direction of a message.
type Dir uint8

// The directions.
const (
	Request Dir = iota
	Response
)

// Verdict is what a filter wants next.
type Verdict uint8

// The verdicts.
const (
	// Continue hands the piece to the next filter.
	Continue Verdict = iota
	// Pause stops here until Ctx.Resume; nothing more is read in this direction meanwhile.
	Pause
	// Buffer, for a head only: collect the whole body (bounded by the connection's buffer limit: 413 for a request, 500 for a response), hand it to
	// this filter's OnData in one piece with end set, and then go on.
	Buffer
	// Reply answers with the local response given to Ctx.SetReply.
	Reply
)

// Event wakes a filter outside of the message flow.
type Event uint8

// The events.
const (
	// EventTimer: the time given to Ctx.Wake has come.
	EventTimer Event = iota
	// EventResume: Ctx.Resume was called from outside an exchange's own call (a finished child call, an answer from the control side).
	EventResume
)

// HTTP is one filter's instance for one exchange. OnEvent's verdict Continue means "go on where I paused" if the filter had paused, and nothing
// otherwise; Pause means "still waiting".
type HTTP interface {
	OnHead(c *Ctx, d Dir, h *httpmsg.Head, end bool) Verdict
	OnData(c *Ctx, d Dir, b *Data, end bool) Verdict
	OnTrailers(c *Ctx, d Dir, t *httpmsg.Fields) Verdict
	OnEvent(c *Ctx, ev Event) Verdict
	// OnDone is called exactly once, on every path, when the exchange is over.
	OnDone(c *Ctx)
}

// Phase is the set of calls that a filter wants; the exchange skips the others.
type Phase uint8

// The phases.
const (
	RequestHead Phase = 1 << iota
	RequestData
	RequestTrailers
	ResponseHead
	ResponseData
	ResponseTrailers
)

// Factory makes instances of one configured filter. It is what snapshot.HTTPFilter.Config holds. Immutable.
type Factory interface {
	Phases() Phase
	// New returns the instance for one exchange. A filter without per-exchange state returns the same value always, and so does not allocate.
	New(c *Ctx) HTTP
}

// Data is a piece of a body. Bytes is a view that dies with the call; a filter that changes the body gives its own bytes to Set, which must stay
// untouched until its next call.
type Data struct{ Bytes []byte }

// Set replaces the piece.
func (d *Data) Set(b []byte) { d.Bytes = b }

// Local is a local reply.
type Local struct {
	Status  uint16
	Body    []byte // views; valid until the reply is sent within the same call
	Details string // RESPONSE_CODE_DETAILS
	Flags   fault.Flags
	Headers []Header
}

// Header is one header of a local reply.
type Header struct {
	Key   httpmsg.Key
	Value string
}

// Stream is the exchange as its filters see it; implemented by package exchange.
type Stream interface {
	// WakeFilter queues the exchange so that filter i gets ev.
	WakeFilter(i int, ev Event)
	// WakeFilterAt sets the filter's own timer; 0 stops it.
	WakeFilterAt(i int, at sys.Nanos)
	// ClearRoute makes the exchange match the route again after the filters.
	ClearRoute()
	// ClusterStats is this worker's share of the statistics under "cluster.NAME.SUB", SUB with its final dot, of the cluster that the request goes to;
	// nil if it goes to none, or if the cluster has too many of these.
	ClusterStats(sub []byte, def *stats.Def) *stats.Block
	// Demand asks the control side for what the request lacks: without clusters for the virtual host or the scope of a request without a route, else for the cluster
	// of its route. True: the filter pauses, and gets EventResume when the answer is in or EventTimer when it does not come in time; the route has been
	// matched again by then. False: nothing is lacking, it was asked for already, or there is nobody to ask.
	Demand(i int, clusters *ClusterSource) bool
}

// Ctx is one filter's view of its exchange. Owner: the exchange; valid until OnDone returns.
type Ctx struct {
	S     Stream
	Shard int // the worker's number, from 1 on
	Req   *httpmsg.Head
	Resp  *httpmsg.Head // nil before the response
	Rec   *accesslog.Record
	Route *route.Entry // nil when no route matched
	Now   sys.Nanos
	Wall  int64 // Unix nanoseconds
	Rand  uint64
	// PerRoute is the filter's own configuration of the route (weighted cluster, route, virtual host, route table: the most specific), or nil.
	PerRoute any
	Local    Local
	// Added is what OnTrailers for the response adds to the content; it must stay untouched until the filter's next call.
	Added []byte
	Index int
}

// SetReply sets the local response and returns Reply.
func (c *Ctx) SetReply(l Local) Verdict {
	c.Local = l
	return Reply
}

// Resume makes a paused filter go on: its OnEvent gets EventResume in a later turn.
func (c *Ctx) Resume() { c.S.WakeFilter(c.Index, EventResume) }

// Wake asks for EventTimer at the monotonic time at; 0 cancels.
func (c *Ctx) Wake(at sys.Nanos) { c.S.WakeFilterAt(c.Index, at) }

// ClearRoute drops the chosen route; it is matched again when the filters are through.
func (c *Ctx) ClearRoute() { c.S.ClearRoute() }
