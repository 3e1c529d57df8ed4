// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"sidecar/dataplane/fault"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/match"
	"sidecar/dataplane/route"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/stats"
)

// Default back-off of RetryPolicy.
const (
	retryBase    = 25 * sys.Millisecond
	retryMaxMult = 10
)

// upstreamFailed ends a try before a response began: another try if policy and budget allow, else the local reply of k.
func (x *Exchange) upstreamFailed(now sys.Nanos, k fault.Kind) {
	x.fault = k
	x.rec.UpstreamFailure = x.failureReason(k)
	x.failTry(k)
	if k == fault.StreamRefused && x.sendAgain() {
		return
	}
	if k != fault.NoHealthyUpstream && k != fault.RouteTimeout && x.retriableFault(k) && x.tryAgain(now, nil) {
		return
	}
	x.upstreamReply(now, k)
}

// sendAgain goes on with another stream at once, whatever the retry policy says, as the upstream provably did nothing with the request (RFC 9113 section
// 8.7); false if that was so too often or a part of the request is gone.
func (x *Exchange) sendAgain() bool {
	if x.st != stRelay || x.req.Body != httpmsg.BodyNone && !x.has(xKeepBody) && !x.has(xPrebuf) {
		return false
	}
	if x.connTries++; x.connTries >= connectTries {
		return false
	}
	x.to(stPick)
	return true
}

// failTry gives up the try; upstream_log shows why, the request's own log only if no other try makes good for it.
func (x *Exchange) failTry(k fault.Kind) {
	if x.m == nil && k != fault.NoHealthyUpstream {
		x.logUnconnected(k)
	}
	flags := x.rec.Flags
	x.rec.Flags = k.Row().Flags
	x.release(false)
	x.rec.Flags = flags
}

// logUnconnected writes the upstream_log line of a try that never got a connection; the release of a connection writes that of any other.
func (x *Exchange) logUnconnected(k fault.Kind) {
	flags := x.rec.Flags
	x.rec.Flags = k.Row().Flags
	x.upstreamLog()
	x.rec.Flags = flags
}

// upstreamFault ends a try for something found on the upstream connection, before or after the response began.
func (x *Exchange) upstreamFault(now sys.Nanos, k fault.Kind) {
	if k == fault.UpstreamProtocol && x.respIn.s == nil { // of a connection with streams the pool counts it
		x.cl.Block.Inc(stats.ClusterUpstreamCxProtocolError)
	}
	if x.has(xRespHeld) {
		x.heldFault(now, k)
		return
	}
	if x.has(xRespStarted) || x.has(xRespHead) && x.st != stRelay {
		x.resetStarted(now, k)
		return
	}
	x.upstreamFailed(now, k)
}

// heldFault: the response has begun, and a filter still holds it. The client can get an answer, but there is no other try.
func (x *Exchange) heldFault(now sys.Nanos, k fault.Kind) {
	x.rec.UpstreamFailure = x.failureReason(k)
	if x.has(xGrpcOpen) {
		x.ch.hcm.Inc(stats.HCMRqResetAfterDownstreamResponseStarted)
		x.grpcVerdict(nil)
	}
	x.failTry(k)
	x.fl &^= xRespHeld
	x.upstreamReply(now, k)
	x.local.details = startedDetails(k)
}

// resetStarted: the response has begun, so all that can be done is to close the client's connection without ending the message.
func (x *Exchange) resetStarted(now sys.Nanos, k fault.Kind) {
	row := k.Row()
	x.rec.Flags |= row.Flags
	x.rec.Details = startedDetails(k)
	x.rec.UpstreamFailure = x.failureReason(k)
	if x.has(xGrpcOpen) {
		x.ch.hcm.Inc(stats.HCMRqResetAfterDownstreamResponseStarted) // as in Envoy, only where the verdict waits for the trailers
		x.grpcVerdict(nil)
	}
	x.ch.hcm.Inc(stats.HCMDownstreamRqTxReset)
	if !x.has(xEarly) { // counted by then
		x.ch.hcm.Inc(stats.HCMDownstreamRqRxReset)
	}
	if s := x.reqIn.s; x.st == stTunnel || s != nil && !s.S.RemoteEnded() && !x.has(xEarly) {
		x.ch.hcm.Inc(stats.HCMDownstreamRqResponseBeforeRqComplete) // of a tunnel Envoy never regards such a request as complete
	}
	x.release(false)
	x.to(stDone)
	x.over(now, cut)
}

// startedDetails is RESPONSE_CODE_DETAILS of a response that broke off.
func startedDetails(k fault.Kind) string {
	switch k {
	case fault.UpstreamProtocol, fault.CodecError:
		return "upstream_reset_after_response_started{protocol_error}"
	case fault.MaxDuration:
		return "max_duration_timeout"
	case fault.RouteTimeout:
		return "response_timeout"
	case fault.PerTryTimeout:
		return "upstream_per_try_timeout"
	case fault.PerTryIdleTimeout:
		return "upstream_per_try_idle_timeout"
	case fault.StreamIdle:
		return "stream_idle_timeout"
	case fault.UpstreamMaxDuration:
		return "upstream_max_stream_duration_reached"
	case fault.StreamReset, fault.StreamRefused:
		return "upstream_reset_after_response_started{remote_reset}"
	}
	return "upstream_reset_after_response_started{connection_termination}"
}

// retriableFault tells whether the policy retries after k.
func (x *Exchange) retriableFault(k fault.Kind) bool {
	on := x.plan.On
	if on == 0 {
		return false
	}
	switch k {
	case fault.ConnectFailed, fault.ConnectTimeout:
		// "reset" and "5xx" cover connect failures as well.
		return on&(route.RetryConnectFailure|route.RetryReset|route.RetryResetBeforeRequest|route.Retry5xx|route.RetryGatewayError) != 0
	case fault.Overflow:
		return false // Envoy does not retry what its own breakers refuse
	case fault.StreamRefused:
		return on&(route.RetryRefusedStream|route.RetryReset|route.Retry5xx|route.RetryGatewayError) != 0
	case fault.ConnectionTerminate, fault.RemoteReset, fault.StreamReset, fault.UpstreamProtocol:
		if on&(route.RetryReset|route.Retry5xx|route.RetryGatewayError) != 0 {
			return true
		}
		return on&route.RetryResetBeforeRequest != 0 && !x.has(xHeadSent)
	case fault.PerTryTimeout, fault.PerTryIdleTimeout, fault.UpstreamMaxDuration:
		return on&(route.Retry5xx|route.RetryGatewayError|route.RetryReset) != 0
	}
	return false
}

// tryAgain schedules another try if retries are left, the request can be sent again, and the budget has room. resp is the response that asks for
// it, nil after a fault.
func (x *Exchange) tryAgain(now sys.Nanos, resp *httpmsg.Head) bool {
	b := x.cl.Block
	if x.retries >= x.plan.Num {
		b.Inc(stats.ClusterUpstreamRqRetryLimitExceeded)
		x.rec.Flags |= fault.FlagURX
		return false
	}
	if !x.has(xReqEnd) && !x.has(xKeepBody) && x.req.Body != httpmsg.BodyNone {
		return false // part of the request is gone
	}
	if !x.takeBudget() {
		b.Inc(stats.ClusterUpstreamRqRetryOverflow)
		x.rec.Flags |= fault.FlagUO
		return false
	}
	x.retries++
	b.Inc(stats.ClusterUpstreamRqRetry)
	x.retryAt = now + x.backoff(resp)
	x.perTryAt = 0 // it belongs to the try that is over
	if x.st == stPick || x.st == stWaitPool || x.st == stRelay {
		x.to(stBackoff)
	}
	return true
}

// takeBudget takes a place under max_retries or the retry budget; it is held until the exchange ends.
func (x *Exchange) takeBudget() bool {
	if x.budget {
		return true
	}
	u := x.row.Limits
	br := &x.row.Breakers[x.prio]
	limit := int64(br.MaxRetries)
	if br.RetryBudgetPercent > 0 {
		active := u.Requests[x.prio].Load() + u.Pending[x.prio].Load()
		limit = max(int64(float64(active)*br.RetryBudgetPercent/100), int64(br.MinRetryConcurrency))
	}
	if u.Retries[x.prio].Add(1) > limit {
		u.Retries[x.prio].Add(-1)
		return false
	}
	x.budget = true
	return true
}

func (x *Exchange) dropBudget() {
	if x.budget {
		x.budget = false
		x.row.Limits.Retries[x.prio].Add(-1)
	}
}

// backoff is the wait before the next try: exponential with full jitter, or what a rate-limited upstream asks for.
func (x *Exchange) backoff(resp *httpmsg.Head) sys.Nanos {
	base, limit := retryBase, sys.Nanos(0)
	if r := x.entry.Forward.Retry; r != nil {
		if resp != nil {
			if d, ok := x.resetHeader(r, resp); ok {
				x.cl.Block.Inc(stats.ClusterUpstreamRqRetryBackoffRatelimited)
				return d
			}
		}
		if r.Base > 0 {
			base = r.Base
		}
		limit = r.Max
	}
	if limit <= 0 {
		limit = base * retryMaxMult
	}
	x.cl.Block.Inc(stats.ClusterUpstreamRqRetryBackoffExponential)
	top := limit
	if n := x.retries - 1; n < 20 && base<<n < limit {
		top = base << n
	}
	if top < sys.Millisecond {
		top = sys.Millisecond
	}
	return sys.Nanos(x.env.L.Rand() % uint64(top))
}

// resetHeader reads rate_limited_retry_back_off.reset_headers; the wait gets up to half of itself as jitter, as in Envoy.
func (x *Exchange) resetHeader(r *route.Retry, resp *httpmsg.Head) (sys.Nanos, bool) {
	for i := range r.RateLimited {
		v, ok := resp.GetKey(r.RateLimited[i].Key)
		if !ok {
			continue
		}
		n, ok := match.ParseUint(v)
		if !ok || n > 1<<40 {
			continue
		}
		d := sys.Nanos(n) * sys.Second
		if r.RateLimited[i].UnixTS {
			d = sys.Nanos(int64(n)*int64(sys.Second) - x.env.L.Wall())
		}
		if d <= 0 || r.RateLimitedMax > 0 && d > r.RateLimitedMax {
			continue
		}
		return d + sys.Nanos(x.env.L.Rand()%uint64(d/2+1)), true
	}
	return 0, false
}

// retryResponse decides on a response head; true means that the response is thrown away and another try follows.
func (x *Exchange) retryResponse(now sys.Nanos) bool {
	if x.plan.On == 0 {
		return false
	}
	if !x.plan.Status(&x.resp) {
		if x.retries > 0 {
			x.cl.Block.Inc(stats.ClusterUpstreamRqRetrySuccess)
		}
		return false
	}
	if !x.tryAgain(now, &x.resp) {
		return false
	}
	x.host.RqError.Add(1)
	if x.router.DynamicStats {
		x.cl.Block.Code(stats.ClusterCodesRetry, x.resp.Status)
	}
	x.rec.Code = x.resp.Status // for upstream_log
	x.release(x.drainResponse())
	x.rec.Code = 0
	x.resp.Reset(&x.respA)
	x.respA.Reset(arenaKeep)
	x.fl &^= xRespHead
	return true
}

// drainResponse throws the body of a response away that nobody gets, as far as it is here; true means that the connection can be used again.
func (x *Exchange) drainResponse() bool {
	return x.respIn.drain() && x.resp.KeepAlive && x.has(xReqSent) && !x.has(xUpgrade)
}

// failureReason is %UPSTREAM_TRANSPORT_FAILURE_REASON%: Envoy says why a connection did not come about.
func (x *Exchange) failureReason(k fault.Kind) string {
	if k != fault.ConnectFailed {
		return ""
	}
	if x.why != "" {
		return x.why
	}
	return connectReason(x.errno)
}
