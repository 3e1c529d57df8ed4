// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"sidecar/dataplane/fault"
	"sidecar/dataplane/match"
	"sidecar/dataplane/route"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/accesslog"
	"sidecar/internal/telemetry/stats"
)

// finish is the single exit of an exchange whose response is out.
func (x *Exchange) finish(now sys.Nanos) {
	x.leaveUpstream() // nothing, unless the answer came without the upstream
	x.over(now, answered)
}

// over writes the record and hands the client's connection back; the exchange must not be touched afterwards.
func (x *Exchange) over(now sys.Nanos, e ending) {
	x.log(now)
	c := x.c
	x.free()
	c.over(e, now)
}

// abort ends an exchange whose client will not get (the rest of) its answer; the caller disposes of the connection.
func (x *Exchange) abort(k fault.Kind) {
	row := k.Row()
	x.rec.Flags |= row.Flags
	x.rec.Details = row.Details
	if k == fault.DownstreamGone {
		x.ch.hcm.Inc(stats.HCMDownstreamRqRxReset)
		if s := x.reqIn.s; x.st == stTunnel && s != nil && !s.S.RemoteEnded() {
			x.ch.hcm.Inc(stats.HCMDownstreamRqResponseBeforeRqComplete)
		}
	}
	x.leaveUpstream()
	x.log(x.env.L.Now())
	x.free()
}

// clientGone ends the exchange when the client has ended inside of it.
func (x *Exchange) clientGone(now sys.Nanos) {
	c := x.c
	x.abort(fault.DownstreamGone)
	c.over(departed, now)
}

// log writes the one access-log record and counts the request.
func (x *Exchange) log(now sys.Nanos) {
	if x.has(xLogged) {
		return
	}
	x.fl |= xLogged
	r, b := &x.rec, x.ch.hcm
	r.End = x.since(now)
	x.c.account(&r.Down)
	b.Dec(stats.HCMDownstreamRqActive)
	b.Record(stats.HCMDownstreamRqTime, clockMillis(now-x.start))
	if x.has(xTunnel) {
		b.Dec(stats.HCMDownstreamCxUpgradesActive)
	}
	if x.has(xRespStarted) {
		x.countCode(r.Code)
	}
	x.writeLog()
}

func (x *Exchange) countCode(code uint16) {
	b, l := x.ch.hcm, x.ch.lis
	b.Inc(stats.HCMDownstreamRqCompleted)
	if l != nil {
		l.Inc(stats.HCMListenerDownstreamRqCompleted)
	}
	c := int(code / 100)
	if c < 1 || c > 5 {
		return // 600 and above complete a request and have no class
	}
	b.Inc(stats.HCMDownstreamRq1xx + c - 1)
	if l != nil {
		l.Inc(stats.HCMListenerDownstreamRq1xx + c - 1)
	}
}

func (x *Exchange) writeLog() {
	if l := x.ch.h.AccessLogs; len(l) > 0 && x.env.Logs != nil {
		x.env.Logs.Log(l, &x.rec)
	}
}

// upstreamLog writes the router's upstream_log at the end of a try. As in Envoy it counts no attempts, and received is what came from the upstream.
func (x *Exchange) upstreamLog() {
	l := x.router.UpstreamLogs
	if len(l) == 0 || x.env.Logs == nil {
		return
	}
	r := &x.rec
	n, in, out := r.Attempts, r.BytesIn, r.BytesOut
	if r.BytesIn, r.BytesOut = x.tryIn, x.tryOut; x.st == stTunnel {
		r.BytesIn, r.BytesOut = out, in
	}
	r.Attempts, r.Type, r.End = 0, accesslog.UpstreamEnd, x.since(x.env.L.Now())
	x.c.account(&r.Down)
	x.env.Logs.Log(l, r)
	r.BytesIn, r.BytesOut = in, out
	r.Attempts, r.Type, r.End = n, accesslog.DownstreamEnd, accesslog.Unset
}

// countLive brings byte counters up to date while the exchange goes on: a tunnel or a transfer may take long.
func (x *Exchange) countLive() {
	x.c.account(&x.rec.Down)
	switch {
	case x.respIn.s != nil: // its connection counts for itself
	case x.m != nil:
		x.m.CountBytes()
	default:
		x.tcp.CountBytes()
	}
}

// periodicLog writes a line about a request that is still in flight (access_log_flush_interval).
func (x *Exchange) periodicLog(now sys.Nanos) {
	if x.logAt == 0 || now < x.logAt {
		return
	}
	x.logAt = now + x.ch.h.LogFlushInterval
	r, before := &x.rec, x.rec.Up
	r.Type, r.End = accesslog.DownstreamPeriodic, x.since(now)
	x.c.account(&r.Down)
	x.meterTry()
	x.writeLog()
	r.Type, r.End, r.Up = accesslog.DownstreamEnd, accesslog.Unset, before // the try goes on
}

// free gives everything back; the exchange must not be touched afterwards.
func (x *Exchange) free() {
	x.dropBudget()
	x.doneFilters()
	e := x.env
	if x.bound {
		e.L.Cancel(&x.own)
		e.L.Disarm(&x.timer)
	}
	e.giveBuf(x.body)
	e.giveBuf(x.respBody)
	x.body, x.respBody = nil, nil
	x.st = stFree
	x.c, x.side, x.task, x.reqIn, x.respIn = nil, nil, nil, source{}, source{}
	x.ch, x.router, x.row, x.cl, x.host, x.entry, x.vh, x.table = nil, nil, nil, nil, nil, nil, nil, nil
	// Nothing may keep an old snapshot alive while the exchange waits in the slab.
	x.choice, x.local, x.cookie = route.Choice{}, localReply{}, nil
	if x.planned {
		x.plan, x.planned = route.RetryPlan{}, false
	}
	clear(x.tried)
	x.tried = x.tried[:0]
	x.lbq.Tried, x.q.Runtime = nil, nil
	if x.rec.Conn == &x.info {
		x.info = accesslog.ConnInfo{}
	}
	x.rec.Reset()
	e.exchanges.Put(x)
}

// chargeCode counts a response, or the router's answer in its place, for the cluster, the route and the virtual cluster; once per request.
func (x *Exchange) chargeCode(status uint16, hasHost bool) {
	if x.has(xCounted) || !x.router.DynamicStats {
		return
	}
	x.fl |= xCounted
	x.countUpstream(status)
	if hasHost {
		if x.host.Canary {
			x.cl.Block.Code(stats.ClusterCodesCanary, status)
		}
		x.countHost(status)
	}
	if s := x.entry.Stats; s != nil {
		rb := s.Block(x.env.Shard)
		rb.Inc(stats.VirtualClusterUpstreamRqTotal)
		rb.Code(stats.VirtualClusterCodes, status)
	}
	if vc := x.virtualCluster(); vc != nil {
		if len(vc.Headers) > 0 { // "other" is a name for statistics only
			x.rec.VirtualCluster = vc.Name
		}
		if vc.Scope != nil {
			vb := vc.Scope.Block(x.env.Shard)
			vb.Inc(stats.VirtualClusterUpstreamRqTotal)
			vb.Code(stats.VirtualClusterCodes, status)
		}
	}
}

// countUpstream counts a status for the cluster, by where the request came from.
func (x *Exchange) countUpstream(status uint16) {
	b := x.cl.Block
	if x.has(xGrpcUp) && x.router.SuppressGrpcCodes {
		b.Complete(stats.ClusterCodes)
	} else {
		b.Code(stats.ClusterCodes, status)
	}
	if x.has(xInternal) {
		b.Code(stats.ClusterCodesInternal, status)
		return
	}
	b.Code(stats.ClusterCodesExternal, status)
}

// virtualCluster is the first virtual cluster that the request belongs to, nil when there is none.
func (x *Exchange) virtualCluster() *route.VirtualCluster {
	for i := range x.vh.VirtualClusters {
		vc := &x.vh.VirtualClusters[i]
		if match.All(vc.Headers, &x.req) {
			return vc
		}
	}
	return nil
}

// chargeTime records the response time: from the end of the request to the end of the response.
func (x *Exchange) chargeTime(now sys.Nanos) {
	if x.reqDone == 0 || !x.router.DynamicStats {
		return
	}
	ms := clockMillis(now - x.reqDone)
	b := x.cl.Block
	b.Record(stats.ClusterUpstreamRqTime, ms)
	if x.has(xInternal) {
		b.Record(stats.ClusterInternalUpstreamRqTime, ms)
	} else {
		b.Record(stats.ClusterExternalUpstreamRqTime, ms)
	}
	if x.host != nil && x.host.Canary {
		b.Record(stats.ClusterCanaryUpstreamRqTime, ms)
	}
	if s := x.entry.Stats; s != nil {
		s.Block(x.env.Shard).Record(stats.VirtualClusterUpstreamRqTime, ms)
	}
}

// needsLocal tells whether a logger wants the upstream's local address, which costs a system call.
func (x *Exchange) needsLocal() bool { return x.ch.logsLocal }

// The operators that cost something when they are used.
var (
	localOperators = []string{"UPSTREAM_LOCAL_ADDRESS", "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", "UPSTREAM_LOCAL_PORT"}
	headOperators  = []string{"DOWNSTREAM_HEADER_BYTES_RECEIVED", "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED", "DOWNSTREAM_HEADER_BYTES_SENT",
		"DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT", "UPSTREAM_HEADER_BYTES_RECEIVED", "UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED",
		"UPSTREAM_HEADER_BYTES_SENT", "UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT"}
)

// logsAny looks through the formats of loggers once.
func logsAny(ls []*accesslog.Logger, ops []string) bool {
	for _, l := range ls {
		for _, op := range ops {
			if l.Format != nil && l.Format.Uses(op) {
				return true
			}
		}
	}
	return false
}
