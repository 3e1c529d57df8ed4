// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"sidecar/dataplane/fault"
	"sidecar/dataplane/filter"
	"sidecar/dataplane/route"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/stats"
)

// maxFilters bounds the HTTP filters of one chain: fevents has one bit for each.
const maxFilters = 64

// startFilters makes the instances of the chain's filters. A chain without filters costs nothing here.
func (x *Exchange) startFilters(now sys.Nanos) {
	list := x.ch.h.Filters
	if len(list) == 0 {
		return
	}
	for i := range list {
		f := factoryOf(&list[i])
		if f == nil || len(x.filters) == maxFilters {
			continue
		}
		if t, ok := f.(filter.Terminal); ok {
			x.routed(t.Config.(*snapshot.Router))
			continue
		}
		n := len(x.filters)
		x.fctx = append(x.fctx, filter.Ctx{S: x, Shard: x.env.Shard, Req: &x.req, Rec: &x.rec, Now: now, Wall: x.env.L.Wall(), Rand: x.q.Rand, Index: n})
		x.filters = append(x.filters, nil)
		x.fmakers = append(x.fmakers, f)
		x.fphase = append(x.fphase, f.Phases())
		x.fwake = append(x.fwake, 0)
	}
	for i, f := range x.fmakers {
		x.filters[i] = f.New(&x.fctx[i])
	}
	clear(x.fmakers)
	x.fmakers = x.fmakers[:0]
}

// factoryOf is the factory of a configured filter as of now; nil if exchanges have no instance of it.
func factoryOf(f *snapshot.HTTPFilter) filter.Factory {
	if f.Disabled {
		return nil
	}
	switch c := f.Config.(type) {
	case *filter.Dynamic:
		return c.Current()
	case filter.Factory:
		return c
	}
	return nil
}

// ctx prepares filter i's view for a call.
func (x *Exchange) ctx(i int) *filter.Ctx {
	c := &x.fctx[i]
	c.Route = x.entry
	c.Now, c.Wall = x.env.L.Now(), x.env.L.Wall()
	return c
}

// routeConfig gives every filter its most specific per-route configuration; false for a filter that the route disables.
func (x *Exchange) routeConfig() {
	e := x.entry
	if e == nil {
		return
	}
	var wc *route.WeightedCluster
	if f := e.Forward; f != nil && f.Weighted != nil {
		if c, ok := f.Choose(&x.q); ok {
			wc = c.WC // the draw depends on the request alone, so the router will draw the same
		}
	}
	n := 0
	for i := range x.ch.h.Filters {
		f := &x.ch.h.Filters[i]
		if factoryOf(f) == nil || n == len(x.filters) {
			continue
		}
		cfg, off := perRoute(e, wc, f.Name)
		x.fctx[n].PerRoute = cfg
		if off {
			x.fphase[n] = 0
		}
		n++
	}
}

// WakeFilter implements filter.Stream.
func (x *Exchange) WakeFilter(i int, ev filter.Event) {
	if ev == filter.EventResume && x.st != stFree {
		x.fevents |= 1 << i
		x.env.L.Ready(x.task)
	}
}

// WakeFilterAt implements filter.Stream.
func (x *Exchange) WakeFilterAt(i int, at sys.Nanos) {
	x.fwake[i] = at
	x.wakeAt = 0
	for _, w := range x.fwake {
		x.wakeAt = earlier(x.wakeAt, w)
	}
}

// ClearRoute implements filter.Stream.
func (x *Exchange) ClearRoute() { x.fl |= xClearRoute }

// runRequestFilters takes the request head through the filters from fpos on.
func (x *Exchange) runRequestFilters(now sys.Nanos) {
	if len(x.filters) > 0 && x.fpos == 0 {
		x.routeConfig()
	}
	for x.fpos < len(x.filters) {
		i := x.fpos
		v := filter.Continue
		if x.fphase[i]&filter.RequestHead != 0 {
			v = x.filters[i].OnHead(x.ctx(i), filter.Request, &x.req, x.has(xReqEnd) && !x.has(xPrebuf))
		}
		switch v {
		case filter.Pause:
			x.to(stPaused)
			return
		case filter.Buffer:
			if !x.has(xReqEnd) {
				x.to(stBuffer)
				return
			}
			if x.has(xPrebuf) && !x.bufferedData(i) {
				return
			}
		case filter.Reply:
			x.filterReply(i)
			return
		}
		x.fpos++
	}
	if x.has(xPrebuf) && !x.bufferedData(len(x.filters)-1) {
		return
	}
	if len(x.filters) > 0 && x.grpcFlag() == 0 {
		x.fl &^= xGrpcUp
	} else if len(x.filters) > 0 {
		x.fl |= xGrpcUp
	}
	if x.has(xClearRoute) {
		x.matchRoute()
	}
	x.to(stPick)
}

// filterReply answers with what filter i set.
func (x *Exchange) filterReply(i int) {
	l := &x.fctx[i].Local
	x.leaveUpstream()
	x.local = localReply{status: l.Status, body: l.Body, details: l.Details, flags: l.Flags, headers: l.Headers, mutate: x.entry != nil}
	x.to(stReply)
}

// collect reads the request body for a filter that wants it in one piece.
func (x *Exchange) collect(now sys.Nanos) outcome {
	for !x.has(xReqEnd) {
		n, data, end, ok := x.requestPiece(now, unbounded)
		if !ok {
			return waits
		}
		if len(x.body)+len(data) > x.bodyLimit() {
			x.ch.hcm.Inc(stats.HCMDownstreamRqTooLarge)
			x.replyKind(fault.PayloadTooLarge)
			return waits
		}
		if len(data) > 0 {
			if x.body == nil {
				x.body = x.env.takeBuf()
			}
			x.body = append(x.body, data...)
		}
		x.reqIn.discard(n)
		if end {
			x.requestComplete(now)
		}
	}
	x.fl |= xPrebuf
	if x.bufferedData(x.fpos) {
		x.fpos++
		x.to(stFilter)
	}
	return waits
}

// bufferedData hands the whole body, as the filters before have left it, to filter i and to those between that only watch it; false means that one of
// them replied or paused.
func (x *Exchange) bufferedData(i int) bool {
	for x.dataPos <= i {
		k := x.dataPos
		x.dataPos++
		if x.fphase[k]&filter.RequestData == 0 {
			continue
		}
		d := x.piece(x.body)
		v := x.filters[k].OnData(x.ctx(k), filter.Request, d, true)
		x.replaceBody(d.Bytes)
		switch v {
		case filter.Reply:
			x.filterReply(k)
			return false
		case filter.Pause:
			x.to(stPaused)
			return false
		}
	}
	return true
}

// piece puts body bytes into the exchange's one Data: it goes through interface calls, so it must not be on the stack.
func (x *Exchange) piece(b []byte) *filter.Data {
	x.fdata.Bytes = b
	return &x.fdata
}

// replaceBody takes over what a filter made of the body.
func (x *Exchange) replaceBody(b []byte) {
	if len(b) == len(x.body) && (len(b) == 0 || &b[0] == &x.body[0]) {
		return
	}
	if x.body == nil {
		x.body = x.env.takeBuf()
	}
	x.body = append(x.body[:0], b...)
}

// filterRequestData takes one streamed piece of the request body through the filters; false stops the pump.
func (x *Exchange) filterRequestData(now sys.Nanos, data []byte, end bool) ([]byte, bool) {
	d := x.piece(data)
	for i := x.dataPos; i < len(x.filters); i++ {
		if x.fphase[i]&filter.RequestData == 0 {
			continue
		}
		if v := x.filters[i].OnData(x.ctx(i), filter.Request, d, end); v == filter.Reply {
			if x.has(xRespStarted) {
				x.resetStarted(now, fault.LocalReset)
			} else {
				x.filterReply(i)
			}
			return nil, false
		}
	}
	return d.Bytes, true
}

// filterRequestTrailers shows the request's trailers to the filters.
func (x *Exchange) filterRequestTrailers() {
	for i := range x.filters {
		if x.fphase[i]&filter.RequestTrailers != 0 {
			x.filters[i].OnTrailers(x.ctx(i), filter.Request, &x.reqTr)
		}
	}
}

// filterEvents delivers wake-ups to the filter that holds a head; false while it still waits.
func (x *Exchange) filterEvents(now sys.Nanos) bool {
	i := x.fpos
	if x.fevents&(1<<i) == 0 {
		return false
	}
	x.fevents &^= 1 << i
	return x.deliver(now, i, filter.EventResume)
}

// filterTimers delivers the timers that are due.
func (x *Exchange) filterTimers(now sys.Nanos) {
	for i := range x.fwake {
		if x.fwake[i] > 0 && now >= x.fwake[i] {
			x.WakeFilterAt(i, 0)
			x.deliver(now, i, filter.EventTimer)
			if x.st == stReply || x.st == stDone {
				return
			}
		}
	}
}

// deliver gives ev to filter i and moves on if it was the one that held the head and lets go.
func (x *Exchange) deliver(now sys.Nanos, i int, ev filter.Event) bool {
	if i == x.fpos && x.endDemand() {
		x.WakeFilterAt(i, 0)
		x.lookAgain()
	}
	v := x.filters[i].OnEvent(x.ctx(i), ev)
	holds := i == x.fpos && (x.st == stPaused || x.st == stHold)
	switch {
	case v == filter.Reply && !x.has(xRespStarted):
		x.filterReply(i)
		return true
	case !holds || v != filter.Continue:
		return false
	case x.st == stPaused:
		x.fpos++
		x.to(stFilter)
	default:
		x.fpos--
		x.to(stRelay)
		out := x.toClient()
		if x.filterResponseHead(now) {
			x.sendHead(now, &out, x.responseEmpty())
		}
		x.sent(&out)
	}
	return true
}

// filterResponseHead takes the response head through the filters, last to first, from fpos on; false means that it is held.
func (x *Exchange) filterResponseHead(now sys.Nanos) bool {
	if !x.has(xRespHeld) {
		x.fpos = len(x.filters) - 1
	}
	x.fl &^= xRespHeld
	end := x.responseEmpty()
	for ; x.fpos >= 0; x.fpos-- {
		i := x.fpos
		if x.fphase[i]&filter.ResponseHead == 0 {
			continue
		}
		c := x.ctx(i)
		c.Resp = &x.resp
		switch x.filters[i].OnHead(c, filter.Response, &x.resp, end) {
		case filter.Pause:
			x.fl |= xRespHeld
			x.to(stHold)
			return false
		case filter.Buffer:
			if !end {
				x.fl |= xRespHeld
				x.respPos = i
				return false
			}
		case filter.Reply:
			x.filterReply(i)
			return false
		}
	}
	x.respPos = len(x.filters)
	return true
}

// responseEmpty tells whether no response body follows.
func (x *Exchange) responseEmpty() bool { return x.m == nil || !x.respIn.hasBody() }

// tooLargeBody is what a client gets in place of a response that a filter wants in one piece and that is too large for it.
var tooLargeBody = []byte("Internal Server Error")

// filterResponseData takes a piece of the response body through the filters; while a filter buffers, the piece is kept.
func (x *Exchange) filterResponseData(now sys.Nanos, data []byte, end bool) []byte {
	from := 0
	if x.has(xRespHeld) {
		from = x.respPos + 1
	}
	d := x.piece(data)
	for i := min(x.passed(), len(x.filters)) - 1; i >= from; i-- {
		if x.fphase[i]&filter.ResponseData != 0 {
			x.filters[i].OnData(x.ctx(i), filter.Response, d, end)
		}
	}
	data = d.Bytes
	if x.has(xRespHeld) {
		if len(x.respBody)+len(data) > x.bodyLimit() {
			x.ch.hcm.Inc(stats.HCMRsTooLarge)
			x.fl &^= xRespHeld
			x.release(false)
			x.local = localReply{status: 500, body: tooLargeBody, details: "response_payload_too_large", mutate: true}
			x.to(stReply)
			return nil
		}
		if x.respBody == nil {
			x.respBody = x.env.takeBuf()
		}
		x.respBody = append(x.respBody, data...)
		return nil
	}
	return data
}

// passed is how many filters, from the first on, have not seen the response's content yet.
func (x *Exchange) passed() int {
	if x.has(xRespHeld) {
		return len(x.filters)
	}
	return x.respPos
}

// filterResponseTrailers shows the response's trailers to the filters that have seen its content, the one at last included, and returns what they add
// to the content.
func (x *Exchange) filterResponseTrailers(last int) (added []byte) {
	for i := min(x.passed(), len(x.filters)) - 1; i >= last; i-- {
		if len(added) > 0 && x.fphase[i]&filter.ResponseData != 0 {
			d := x.piece(added)
			x.filters[i].OnData(x.ctx(i), filter.Response, d, false)
			added = d.Bytes
		}
		if x.fphase[i]&filter.ResponseTrailers == 0 {
			continue
		}
		c := x.ctx(i)
		c.Added = nil
		x.filters[i].OnTrailers(c, filter.Response, &x.respTr)
		if len(c.Added) > 0 {
			added = append(added[:len(added):len(added)], c.Added...)
		}
	}
	return added
}

// endBuffered: the response body that a filter wanted in one piece is complete.
func (x *Exchange) endBuffered(now sys.Nanos, out *sender) {
	i := x.respPos
	end := len(x.respTr.List) == 0
	if !end {
		x.respBody = append(x.respBody, x.filterResponseTrailers(i+1)...)
	}
	d := x.piece(x.respBody)
	if x.fphase[i]&filter.ResponseData != 0 {
		switch x.filters[i].OnData(x.ctx(i), filter.Response, d, end) {
		case filter.Reply:
			x.fl &^= xRespHeld
			x.filterReply(i)
			return
		}
	}
	if !end && x.fphase[i]&filter.ResponseTrailers != 0 {
		c := x.ctx(i)
		c.Added = nil
		x.filters[i].OnTrailers(c, filter.Response, &x.respTr)
		if len(c.Added) > 0 {
			d.Bytes = append(d.Bytes[:len(d.Bytes):len(d.Bytes)], c.Added...)
		}
	}
	x.fpos = i - 1
	if !x.filterResponseHead(now) {
		if x.st != stRelay {
			return
		}
		// A filter further on wants it buffered as well.
		if x.respBody = append(x.respBody[:0], d.Bytes...); x.has(xRespHeld) {
			x.endBuffered(now, out)
		}
		return
	}
	x.respPos = i
	x.setLength(len(d.Bytes))
	x.sendHead(now, out, len(d.Bytes) == 0 && len(x.respTr.List) == 0)
	b := x.filterResponseData(now, d.Bytes, len(x.respTr.List) == 0)
	x.putResponse(out, b, len(x.respTr.List) == 0)
}

// setLength makes the framing of a buffered response fit its body; a filter that streams behind it must not change the length.
func (x *Exchange) setLength(n int) {
	if x.resp.Body == bodyLength {
		x.resp.Length = int64(n)
	}
}

// filterLocal shows a local reply to the response filters and returns the body that they leave of it; they cannot hold it.
func (x *Exchange) filterLocal(body []byte) []byte {
	for i := len(x.filters) - 1; i >= 0; i-- {
		if x.fphase[i]&filter.ResponseHead != 0 {
			c := x.ctx(i)
			c.Resp = &x.resp
			x.filters[i].OnHead(c, filter.Response, &x.resp, len(body) == 0)
		}
		if len(body) > 0 && x.fphase[i]&filter.ResponseData != 0 {
			d := x.piece(body)
			x.filters[i].OnData(x.ctx(i), filter.Response, d, true)
			if len(d.Bytes) != len(body) {
				x.resp.Length = int64(len(d.Bytes))
				setNumber(&x.resp, keyCL, uint64(len(d.Bytes)))
			}
			body = d.Bytes
		}
	}
	return body
}

// ClusterStats implements filter.Stream.
func (x *Exchange) ClusterStats(sub []byte, def *stats.Def) *stats.Block {
	cl := x.cl
	if cl == nil {
		if cl = x.env.Up.Get(x.routedTo()); cl == nil {
			return nil
		}
	}
	return cl.Stats(sub, def)
}

// routedTo is the cluster that the router will choose, as things are; nil if there is none.
func (x *Exchange) routedTo() *snapshot.Cluster {
	if x.entry == nil || x.entry.Forward == nil {
		return nil
	}
	c, ok := x.entry.Forward.Choose(&x.q) // the draw depends on the request alone
	switch {
	case !ok:
		return nil
	case c.Ref != nil:
		return x.env.Snap.Cluster(c.Ref)
	}
	return x.env.Snap.ClusterByName(c.Name)
}

// doneFilters calls OnDone exactly once for every instance.
func (x *Exchange) doneFilters() {
	x.endDemand()
	if x.demand.Name != "" {
		x.demand = filter.Demand{}
	}
	for i, f := range x.filters {
		if f != nil {
			f.OnDone(x.ctx(i))
		}
		x.filters[i] = nil
	}
	x.filters = x.filters[:0]
	clear(x.fctx)
	x.fctx, x.fphase, x.fwake = x.fctx[:0], x.fphase[:0], x.fwake[:0]
}
