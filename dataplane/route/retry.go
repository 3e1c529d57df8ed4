// SPDX-License-Identifier: Apache-2.0

package route

import (
	"bytes"

	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/match"
	"sidecar/dataplane/sys"
)

// The bounds of what one request may ask for by headers; further codes and names are ignored.
const (
	maxRetryCodes   = 16
	maxRetryHeaders = 8
)

// RetryPlan is the retry policy of one request: the route's, merged with the x-envoy-* request headers. Owner: the exchange; reused. It may be
// copied; the names are views into the request arena, which keeps them readable for the life of the exchange.
type RetryPlan struct {
	On  RetryOn // 0 = no retries
	Num uint32  // retries that are left at the start

	policy  *Retry
	codes   [maxRetryCodes]uint32
	nCodes  uint8
	nNames  uint8
	names   [maxRetryHeaders][]byte
	present bool
}

var noRetry = &Retry{Num: 1}

// FromHeaders fills p from the policy (r may be nil) and the request headers x-envoy-retry-on, x-envoy-retry-grpc-on, x-envoy-max-retries,
// x-envoy-retriable-status-codes and x-envoy-retriable-header-names, and removes these from the head: they are consumed here and never
// forwarded. Headers of external requests must have been stripped before.
func (r *Retry) FromHeaders(h *httpmsg.Head, p *RetryPlan) {
	if r == nil {
		r = noRetry
	}
	*p = RetryPlan{On: r.On, Num: r.Num, policy: r}
	if v := h.Get(httpmsg.IDEnvoyRetryOn); v != nil {
		on, _ := ParseRetryOn(v)
		p.On |= on
	}
	if v := h.Get(httpmsg.IDEnvoyRetryGrpcOn); v != nil {
		on, _ := ParseRetryGrpcOn(v)
		p.On |= on
	}
	if p.On != 0 && len(r.RequestHeaders) > 0 && !match.Any(r.RequestHeaders, h) {
		p.On = 0
	}
	if p.On != 0 {
		if n, ok := match.ParseUint(h.Get(httpmsg.IDEnvoyMaxRetries)); ok {
			p.Num = uint32(min(n, 1<<32-1))
		}
		p.addCodes(h.Get(httpmsg.IDEnvoyRetriableCodes))
		p.addNames(h.Get(httpmsg.IDEnvoyRetriableHeaders))
	}
	for _, id := range [...]httpmsg.ID{httpmsg.IDEnvoyRetryOn, httpmsg.IDEnvoyRetryGrpcOn, httpmsg.IDEnvoyMaxRetries,
		httpmsg.IDEnvoyHedge, httpmsg.IDEnvoyRetriableCodes, httpmsg.IDEnvoyRetriableHeaders} {
		h.Remove(id.Key())
	}
}

func (p *RetryPlan) addCodes(list []byte) {
	for len(list) > 0 && int(p.nCodes) < len(p.codes) {
		var tok []byte
		tok, list = token(list)
		if n, ok := match.ParseUint(tok); ok && n < 1<<32 {
			p.codes[p.nCodes] = uint32(n)
			p.nCodes++
		}
	}
}

func (p *RetryPlan) addNames(list []byte) {
	for len(list) > 0 && int(p.nNames) < len(p.names) {
		var tok []byte
		if tok, list = token(list); len(tok) > 0 {
			p.names[p.nNames] = tok
			p.nNames++
		}
	}
}

// token cuts the first comma-separated element off list, without white space around it.
func token(list []byte) (tok, rest []byte) {
	tok = list
	if i := bytes.IndexByte(list, ','); i >= 0 {
		tok, rest = list[:i], list[i+1:]
	}
	return bytes.TrimSpace(tok), rest
}

// RetriableStatus reports whether a response status is one of the retriable status codes of policy and request.
func (p *RetryPlan) RetriableStatus(status uint16) bool {
	for _, c := range p.policy.Codes {
		if c == uint32(status) {
			return true
		}
	}
	for _, c := range p.codes[:p.nCodes] {
		if c == uint32(status) {
			return true
		}
	}
	return false
}

// RetriableHeaders reports whether a response has one of the retriable headers of policy and request.
func (p *RetryPlan) RetriableHeaders(h *httpmsg.Head) bool {
	if match.Any(p.policy.Headers, h) {
		return true
	}
	for _, n := range p.names[:p.nNames] {
		for i := range h.List {
			if !h.List[i].Dead && equalFold(h.Name(i), n) {
				return true
			}
		}
	}
	return false
}

// equalFold compares a lower-case name with one of any case.
func equalFold(low, b []byte) bool {
	if len(low) != len(b) {
		return false
	}
	for i, c := range b {
		if match.Lower(c) != low[i] {
			return false
		}
	}
	return true
}

// Status reports whether a response with this status (and, for gRPC, trailers-only grpc-status) asks for a retry under the plan.
// x-envoy-ratelimited answers are retried only with envoy-ratelimited.
func (p *RetryPlan) Status(h *httpmsg.Head) bool {
	s := h.Status
	if h.Find(httpmsg.IDEnvoyRateLimited, 0) >= 0 {
		return p.On&RetryEnvoyRateLimited != 0
	}
	switch {
	case p.On&Retry5xx != 0 && s >= 500 && s <= 599,
		p.On&RetryGatewayError != 0 && s >= 502 && s <= 504,
		p.On&RetryRetriable4xx != 0 && s == 409,
		p.On&RetryRetriableStatusCodes != 0 && p.RetriableStatus(s),
		p.On&RetryRetriableHeaders != 0 && p.RetriableHeaders(h):
		return true
	}
	return p.On&retryGrpc != 0 && p.GrpcStatus(h.Get(httpmsg.IDGrpcStatus))
}

const retryGrpc = RetryGrpcCancelled | RetryGrpcDeadlineExceeded | RetryGrpcResourceExhausted | RetryGrpcUnavailable | RetryGrpcInternal

// GrpcStatus reports whether a grpc-status value asks for a retry.
func (p *RetryPlan) GrpcStatus(v []byte) bool {
	n, ok := match.ParseUint(v)
	if !ok {
		return false
	}
	switch n {
	case 1:
		return p.On&RetryGrpcCancelled != 0
	case 4:
		return p.On&RetryGrpcDeadlineExceeded != 0
	case 8:
		return p.On&RetryGrpcResourceExhausted != 0
	case 13:
		return p.On&RetryGrpcInternal != 0
	case 14:
		return p.On&RetryGrpcUnavailable != 0
	}
	return false
}

var retryOnNames = map[string]RetryOn{
	"5xx": Retry5xx, "gateway-error": RetryGatewayError, "reset": RetryReset, "reset-before-request": RetryResetBeforeRequest,
	"connect-failure": RetryConnectFailure, "refused-stream": RetryRefusedStream, "retriable-4xx": RetryRetriable4xx,
	"retriable-status-codes": RetryRetriableStatusCodes, "retriable-headers": RetryRetriableHeaders,
	"envoy-ratelimited": RetryEnvoyRateLimited, "http3-post-connect-failure": RetryHTTP3PostConnectFailure,
}

var retryGrpcNames = map[string]RetryOn{
	"cancelled": RetryGrpcCancelled, "deadline-exceeded": RetryGrpcDeadlineExceeded, "resource-exhausted": RetryGrpcResourceExhausted,
	"unavailable": RetryGrpcUnavailable, "internal": RetryGrpcInternal,
}

// ParseRetryOn reads a comma-separated x-envoy-retry-on list; all is false when an element is unknown (it is left out, as in Envoy).
func ParseRetryOn(list []byte) (on RetryOn, all bool) { return parseRetry(list, retryOnNames) }

// ParseRetryGrpcOn is ParseRetryOn for x-envoy-retry-grpc-on.
func ParseRetryGrpcOn(list []byte) (on RetryOn, all bool) { return parseRetry(list, retryGrpcNames) }

func parseRetry(list []byte, names map[string]RetryOn) (on RetryOn, all bool) {
	all = true
	for len(list) > 0 {
		var tok []byte
		tok, list = token(list)
		bit, ok := names[string(tok)]
		on |= bit
		all = all && ok
	}
	return on, all
}

// Timeouts are the time limits of one request, from the route and the request's headers. 0 is none.
type Timeouts struct {
	Global, PerTry, PerTryIdle sys.Nanos
	// FromHeader tells that the caller asked for Global by header.
	FromHeader bool
	stream     sys.Nanos // x-envoy-upstream-stream-duration-ms
	hasStream  bool
}

// UpstreamStream is the longest time that one try may take, response included; 0 = none. def is the cluster's max_stream_duration, which
// x-envoy-upstream-stream-duration-ms replaces.
func (t *Timeouts) UpstreamStream(def sys.Nanos) sys.Nanos {
	if t.hasStream {
		return t.stream
	}
	return def
}

// Timeouts computes the limits of a request and removes x-envoy-upstream-rq-timeout-ms, -rq-per-try-timeout-ms and
// -stream-duration-ms from the head. grpc-timeout
// counts only for gRPC requests on routes with max_grpc_timeout.
func (f *Forward) Timeouts(h *httpmsg.Head) Timeouts {
	t := Timeouts{Global: max(f.Timeout, 0)}
	switch {
	case f.NewTimeouts:
		t.Global = 0 // max_stream_duration takes the place of the route timeout
	case f.MaxGrpcTimeout != Unset && match.GRPC(h):
		t.Global = f.grpcTimeout(h)
	}
	if f.Retry != nil {
		t.PerTry, t.PerTryIdle = max(f.Retry.PerTry, 0), max(f.Retry.PerTryIdle, 0)
	}
	if !h.NeverAny(timeoutFields) {
		t.fromFields(h)
	}
	if t.Global != 0 && t.PerTry >= t.Global {
		t.PerTry = 0
	}
	return t
}

var timeoutFields = httpmsg.IDSetOf(httpmsg.IDEnvoyUpstreamTimeout, httpmsg.IDEnvoyPerTryTimeout, httpmsg.IDEnvoyStreamDuration)

// fromFields takes what the request says itself.
func (t *Timeouts) fromFields(h *httpmsg.Head) {
	if ms, ok := millis(h, httpmsg.IDEnvoyUpstreamTimeout); ok {
		t.Global, t.FromHeader = ms, true
	}
	if ms, ok := millis(h, httpmsg.IDEnvoyPerTryTimeout); ok {
		t.PerTry = ms
	}
	t.stream, t.hasStream = millis(h, httpmsg.IDEnvoyStreamDuration)
}

// grpcTimeout is the grpc-timeout header less the offset, at most the configured maximum; 0 is infinite.
func (f *Forward) grpcTimeout(h *httpmsg.Head) sys.Nanos {
	d, _ := ParseGrpcTimeout(h.Get(httpmsg.IDGrpcTimeout))
	if f.GrpcOffset > 0 && f.GrpcOffset < d {
		d -= f.GrpcOffset
	}
	if f.MaxGrpcTimeout > 0 && (d == 0 || d > f.MaxGrpcTimeout) {
		d = f.MaxGrpcTimeout
	}
	return d
}

// StreamDuration is the longest time that the whole stream may take; 0 = none. def is what the HTTP connection manager says. With
// grpc_timeout_header_max a grpc-timeout header decides, capped by it and less the offset.
func (f *Forward) StreamDuration(h *httpmsg.Head, def sys.Nanos) sys.Nanos {
	if f.GrpcTimeoutMax != Unset {
		if d, ok := ParseGrpcTimeout(h.Get(httpmsg.IDGrpcTimeout)); ok {
			if f.GrpcTimeoutMax > 0 && d > f.GrpcTimeoutMax {
				d = f.GrpcTimeoutMax
			}
			if d > 0 && f.GrpcTimeoutOffset > 0 {
				d -= f.GrpcTimeoutOffset
			}
			return max(d, 1) // nothing left is a limit as well
		}
	}
	if f.MaxStream != Unset {
		return f.MaxStream
	}
	return def
}

// millis reads and removes a header that holds milliseconds.
func millis(h *httpmsg.Head, id httpmsg.ID) (sys.Nanos, bool) {
	i := h.Find(id, 0)
	if i < 0 {
		return 0, false
	}
	n, ok := match.ParseUint(h.Value(i))
	h.Remove(id.Key())
	if !ok {
		return 0, false
	}
	return sys.Nanos(min(n, maxMillis)) * sys.Millisecond, true
}

// maxMillis bounds a timeout that a client asks for to about 31 years, so that adding it to a clock cannot overflow.
const maxMillis = 1e12

// ParseGrpcTimeout reads a grpc-timeout value: at most eight digits and a unit. It counts in milliseconds, rounded up.
func ParseGrpcTimeout(v []byte) (sys.Nanos, bool) {
	if len(v) < 2 || len(v) > 9 {
		return 0, false
	}
	n, ok := match.ParseUint(v[:len(v)-1])
	if !ok {
		return 0, false
	}
	unit := sys.Nanos(0)
	switch v[len(v)-1] {
	case 'H':
		unit = 3600 * sys.Second
	case 'M':
		unit = 60 * sys.Second
	case 'S':
		unit = sys.Second
	case 'm':
		unit = sys.Millisecond
	case 'u':
		unit = 1000
	case 'n':
		unit = 1
	default:
		return 0, false
	}
	d := min(sys.Nanos(n), maxMillis*sys.Millisecond/unit) * unit
	return (d + sys.Millisecond - 1) / sys.Millisecond * sys.Millisecond, true
}
