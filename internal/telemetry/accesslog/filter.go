// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"sidecar/dataplane/fault"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/match"
)

// Filter decides whether a record is logged (envoy.config.accesslog.v3.AccessLogFilter). Implementations are immutable, allocate nothing and
// may run on any worker. rnd is one random draw for this decision.
type Filter interface {
	Match(r *Record, rnd uint64) bool
}

// Op is the comparison of a ComparisonFilter.
type Op uint8

// The comparisons.
const (
	EQ Op = iota
	GE
	LE
	NE
)

// Comparison compares a number with a configured value that the runtime may override (envoy.config.core.v3.RuntimeUInt32).
type Comparison struct {
	Op    Op
	Value uint32
	Key   string // runtime key, empty for none
}

func (c *Comparison) holds(v uint64, rt *match.Runtime) bool {
	want := uint64(c.Value)
	if c.Key != "" {
		want = uint64(max(rt.Number(c.Key, float64(c.Value)), 0))
	}
	switch c.Op {
	case EQ:
		return v == want
	case GE:
		return v >= want
	case LE:
		return v <= want
	}
	return v != want
}

// StatusCode is status_code_filter; no response counts as 0.
type StatusCode struct{ Comparison }

// Match implements Filter.
func (f *StatusCode) Match(r *Record, _ uint64) bool { return f.holds(uint64(r.Code), r.Runtime) }

// Duration is duration_filter, in milliseconds.
type Duration struct{ Comparison }

// Match implements Filter.
func (f *Duration) Match(r *Record, _ uint64) bool {
	return f.holds(uint64(max(r.End, 0)/1e6), r.Runtime)
}

// NotHealthCheck is not_health_check_filter.
type NotHealthCheck struct{}

// Match implements Filter.
func (NotHealthCheck) Match(r *Record, _ uint64) bool { return !r.HealthCheck }

// Traceable is traceable_filter: a service on the way has forced the trace, as Envoy has it; sampled requests do not count.
type Traceable struct{}

// Match implements Filter.
func (Traceable) Match(r *Record, _ uint64) bool {
	return !r.HealthCheck && r.TraceReason == TraceForced
}

// Runtime is runtime_filter: a fraction of the requests, chosen by x-request-id so that all proxies on the way choose the same ones, unless
// Independent.
type Runtime struct {
	Fraction    match.RuntimeFraction
	Independent bool
}

// Match implements Filter.
func (f *Runtime) Match(r *Record, rnd uint64) bool {
	if !f.Independent {
		if v, ok := requestIDNumber(r); ok {
			rnd = v
		}
	}
	p := f.Fraction.Default
	if v, ok := r.Runtime.Lookup(f.Fraction.Key); ok && v.IsNum && v.Num >= 0 {
		p.Num = uint32(min(v.Num, float64(p.Den))) // here the runtime gives the numerator: no percentage, no fraction
	}
	return p.Hit(rnd)
}

// requestIDNumber is the number that the first eight hex digits of x-request-id make.
func requestIDNumber(r *Record) (uint64, bool) {
	id := r.RequestID
	if len(id) == 0 && r.Req != nil && r.Req.A != nil {
		id = r.Req.Get(httpmsg.IDRequestID)
	}
	if len(id) < 8 {
		return 0, false
	}
	var v uint64
	for _, c := range id[:8] {
		d, ok := unhex(c)
		if !ok {
			return 0, false
		}
		v = v<<4 | uint64(d)
	}
	return v, true
}

// And is and_filter.
type And []Filter

// Match implements Filter.
func (f And) Match(r *Record, rnd uint64) bool {
	for _, x := range f {
		if !x.Match(r, rnd) {
			return false
		}
	}
	return true
}

// Or is or_filter.
type Or []Filter

// Match implements Filter.
func (f Or) Match(r *Record, rnd uint64) bool {
	for _, x := range f {
		if x.Match(r, rnd) {
			return true
		}
	}
	return false
}

// Header is header_filter; Matcher is the compiled HeaderMatcher and gets the request head, which may be nil.
type Header struct {
	Matcher func(*httpmsg.Head) bool
}

// Match implements Filter.
func (f *Header) Match(r *Record, _ uint64) bool { return f.Matcher(r.Req) }

// ResponseFlag is response_flag_filter: any of Flags, or any flag at all when Flags is 0.
type ResponseFlag struct{ Flags fault.Flags }

// Match implements Filter.
func (f *ResponseFlag) Match(r *Record, _ uint64) bool {
	if f.Flags == 0 {
		return r.Flags != 0
	}
	return r.Flags&f.Flags != 0
}

// GrpcStatus is grpc_status_filter; Statuses is the bit set of the statuses 0..16.
type GrpcStatus struct {
	Statuses uint32
	Exclude  bool
}

// Match implements Filter.
func (f *GrpcStatus) Match(r *Record, _ uint64) bool {
	s, ok := grpcStatus(r)
	if !ok {
		s = 2 // UNKNOWN, as Envoy
	}
	found := s >= 0 && s <= 16 && f.Statuses&(1<<s) != 0
	return found != f.Exclude
}

// LogType is log_type_filter; Types is a bit set over Type.
type LogType struct {
	Types   uint32
	Exclude bool
}

// Match implements Filter.
func (f *LogType) Match(r *Record, _ uint64) bool { return (f.Types&(1<<r.Type) != 0) != f.Exclude }

// Metadata is metadata_filter over dynamic metadata: Path[0] is the namespace; an absent value gives IfAbsent.
type Metadata struct {
	Path     []string
	Matcher  func(any) bool // nil accepts every value
	IfAbsent bool
}

// Match implements Filter.
func (f *Metadata) Match(r *Record, _ uint64) bool {
	var v any = r.DynamicMeta
	for _, k := range f.Path {
		m, _ := v.(map[string]any)
		var ok bool
		if v, ok = m[k]; !ok {
			return f.IfAbsent
		}
	}
	return f.Matcher == nil || f.Matcher(v)
}
