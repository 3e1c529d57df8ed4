// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"strconv"

	"sidecar/dataplane/fault"
	"sidecar/dataplane/route"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/stats"
)

// deadline is when the exchange has to be looked at next, 0 for never. It is computed, not kept: pushing a timeout back is a store.
func (x *Exchange) deadline() sys.Nanos {
	h := x.ch.h
	var at sys.Nanos
	if !x.has(xReqEnd) && h.RequestTimeout > 0 {
		at = x.start + h.RequestTimeout
	}
	if x.streamIdle > 0 {
		at = earlier(at, x.lastActive+x.streamIdle)
	}
	if x.maxStream > 0 {
		at = earlier(at, x.start+x.maxStream)
	}
	if x.st != stTunnel {
		at = earlier(at, x.routeAt)
		at = earlier(at, x.perTryAt)
	}
	if x.st == stBackoff {
		at = earlier(at, x.retryAt)
	}
	return earlier(earlier(earlier(at, x.upstreamMaxAt), x.wakeAt), x.logAt)
}

// onDeadline acts on the first deadline that has passed.
func (x *Exchange) onDeadline(now sys.Nanos) {
	h, b := x.ch.h, x.ch.hcm
	x.periodicLog(now)
	switch {
	case x.st == stDone || x.st == stReply:
	case !x.has(xReqEnd) && h.RequestTimeout > 0 && now >= x.start+h.RequestTimeout:
		b.Inc(stats.HCMDownstreamRqTimeout)
		x.timeout(now, fault.RequestTimeout)
	case x.maxStream > 0 && now >= x.start+x.maxStream:
		b.Inc(stats.HCMDownstreamRqMaxDurationReached)
		x.timeout(now, fault.MaxDuration)
	case x.routeAt > 0 && now >= x.routeAt && x.st != stTunnel:
		x.routeTimeout(now)
	case x.perTryAt > 0 && now >= x.perTryAt && x.st != stTunnel:
		x.perTryTimeout(now)
	case x.upstreamMaxAt > 0 && now >= x.upstreamMaxAt:
		x.upstreamMaxDuration(now)
	case x.streamIdle > 0 && now >= x.lastActive+x.streamIdle:
		b.Inc(stats.HCMDownstreamRqIdleTimeout)
		x.timeout(now, fault.StreamIdle)
	case x.wakeAt > 0 && now >= x.wakeAt:
		x.filterTimers(now)
	}
}

// timeout ends the exchange for a limit of the connection manager.
func (x *Exchange) timeout(now sys.Nanos, k fault.Kind) {
	x.leaveUpstream()
	if x.has(xRespStarted) || x.st == stTunnel {
		x.resetStarted(now, k)
		return
	}
	x.replyKind(k)
	x.local.close = !x.has(xReqEnd)
	if k == fault.StreamIdle && !x.has(xReqEnd) {
		x.local.status = 408
	}
}

// tellTimeout tells the upstream how long this try may take: by x-envoy-expected-rq-timeout-ms, and by grpc-timeout on routes with max_grpc_timeout.
func (x *Exchange) tellTimeout(f *route.Forward) {
	t := x.expected()
	if t <= 0 {
		return
	}
	if !x.router.SuppressEnvoyHeaders {
		x.setNumber(keyExpected, uint64(t/sys.Millisecond))
	}
	if f.MaxGrpcTimeout != route.Unset && !f.NewTimeouts && x.has(xGrpcUp) {
		x.req.SetSpan(keyGrpcTimeout, x.reqA.Take(appendGrpcTimeout(x.reqA.Tail(), uint64(t/sys.Millisecond))))
	}
}

// tellDuration tells a gRPC upstream by grpc-timeout how long the stream may take, on routes with max_stream_duration.
func (x *Exchange) tellDuration(f *route.Forward) {
	switch {
	case !f.NewTimeouts || !x.has(xGrpc):
	case x.maxStream > 0:
		x.req.SetSpan(keyGrpcTimeout, x.reqA.Take(appendGrpcTimeout(x.reqA.Tail(), uint64(x.maxStream/sys.Millisecond))))
	case x.ch.h.MaxStream > 0:
		x.req.Remove(keyGrpcTimeout) // the route lifts the limit
	}
}

// appendGrpcTimeout writes a grpc-timeout value: at most eight digits and a unit.
func appendGrpcTimeout(b []byte, ms uint64) []byte {
	const most = 99999999
	n, unit := ms, 0
	if n > most {
		n, unit = n/1000, 1
	}
	for ; n > most; unit++ {
		if unit == len("mSMH")-1 {
			n = most
			break
		}
		n /= 60
	}
	return append(strconv.AppendUint(b, n, 10), "mSMH"[unit])
}

// upstreamMaxDuration is the limit of one try, response included: the cluster's max_stream_duration or x-envoy-upstream-stream-duration-ms.
func (x *Exchange) upstreamMaxDuration(now sys.Nanos) {
	x.upstreamMaxAt = 0
	x.cl.Block.Inc(stats.ClusterUpstreamRqMaxDurationReached)
	if x.has(xRespStarted) || x.st == stTunnel {
		x.resetStarted(now, fault.UpstreamMaxDuration)
		return
	}
	x.w.Cancel()
	x.upstreamFailed(now, fault.UpstreamMaxDuration)
}

// routeTimeout is the route's limit for all tries together.
func (x *Exchange) routeTimeout(now sys.Nanos) {
	b := x.cl.Block
	b.Inc(stats.ClusterUpstreamRqTimeout)
	x.routeAt = 0
	if x.host != nil {
		x.host.RqTimeout.Add(1)
	}
	x.leaveUpstream()
	if x.has(xRespStarted) {
		x.resetStarted(now, fault.RouteTimeout)
		return
	}
	x.upstreamReply(now, fault.RouteTimeout)
}

// armPerTry starts the per-try timeout once the request is out.
func (x *Exchange) armPerTry(now sys.Nanos) {
	x.perTryAt = 0
	if x.limits.PerTry > 0 {
		x.perTryAt = now + x.limits.PerTry
	}
	if x.limits.PerTryIdle > 0 {
		x.perTryAt = earlier(x.perTryAt, now+x.limits.PerTryIdle)
	}
}

// perTryTimeout is the limit of one try: as a whole until its response begins, and of its silences until it ends.
func (x *Exchange) perTryTimeout(now sys.Nanos) {
	b, started := x.cl.Block, x.has(xRespStarted)
	var whole, idle sys.Nanos
	if x.limits.PerTry > 0 && !started {
		whole = x.tryStart + x.limits.PerTry
	}
	if x.limits.PerTryIdle > 0 {
		idle = max(x.lastActive, x.tryStart) + x.limits.PerTryIdle
	}
	k := fault.PerTryTimeout
	switch {
	case whole > 0 && now >= whole:
		b.Inc(stats.ClusterUpstreamRqPerTryTimeout)
	case idle > 0 && now >= idle:
		k = fault.PerTryIdleTimeout
		b.Inc(stats.ClusterUpstreamRqPerTryIdleTimeout)
	default:
		x.perTryAt = earlier(whole, idle) // it moved meanwhile
		return
	}
	x.perTryAt = 0
	if started {
		x.resetStarted(now, k)
		return
	}
	if x.host != nil {
		x.host.RqTimeout.Add(1)
	}
	x.w.Cancel()
	x.upstreamFailed(now, k)
}
