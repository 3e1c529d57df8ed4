// SPDX-License-Identifier: Apache-2.0

// Package grpcstats is envoy.filters.http.grpc_stats: it counts calls, their statuses and their messages by cluster and, where that is asked for, by
// method. Bodies are looked at as they pass and never kept.
package grpcstats

import (
	"sidecar/dataplane/filter"
	"sidecar/dataplane/grpc"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/match"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/stats"
)

// Config is envoy.extensions.filters.http.grpc_stats.v3.FilterConfig.
type Config struct {
	AllMethods   bool                // stats_for_all_methods
	Methods      map[string]struct{} // individual_method_stats_allowlist, "service/method"
	UpstreamTime bool                // enable_upstream_stats
	ReplaceDots  bool                // replace_dots_in_grpc_service_name
	FilterState  bool                // emit_filter_state
}

// Factory makes the filter's instances. Immutable but for its pool.
type Factory struct {
	cfg  Config
	pool filter.Pool[stream]
}

// New makes the factory for the given number of workers.
func New(cfg Config, workers int) *Factory {
	return &Factory{cfg: cfg, pool: filter.NewPool[stream](workers)}
}

// Phases implements filter.Factory.
func (f *Factory) Phases() filter.Phase {
	return filter.RequestHead | filter.RequestData | filter.ResponseHead | filter.ResponseData | filter.ResponseTrailers
}

// New implements filter.Factory.
func (f *Factory) New(c *filter.Ctx) filter.HTTP {
	s := f.pool.Get(c)
	*s = stream{f: f, name: s.name[:0]}
	return s
}

// stream is the filter of one request.
type stream struct {
	f         *Factory
	block     *stats.Block // of the method, or of all; nil when nothing is counted
	name      []byte       // scratch
	req, resp grpc.Frames
	request   bool // the request is gRPC
	response  bool // so is the response
}

// OnHead implements filter.HTTP.
func (s *stream) OnHead(c *filter.Ctx, d filter.Dir, h *httpmsg.Head, end bool) filter.Verdict {
	if d == filter.Request {
		if s.request = match.GRPC(h); s.request {
			s.choose(c, h)
		}
		return filter.Continue
	}
	status := h.Get(httpmsg.IDGrpcStatus)
	if s.response = status != nil; !end {
		s.response = h.Status == 200 && match.GRPC(h)
	}
	if s.block != nil {
		grpc.CountStatus(s.block, status)
		if end {
			s.time(c)
		}
	}
	return filter.Continue
}

// choose finds what to count under: the method, if it is wanted, or the cluster as a whole.
func (s *stream) choose(c *filter.Ctx, h *httpmsg.Head) {
	service, method, ok := grpc.SplitPath(h.Path())
	if !ok {
		return
	}
	if s.wanted(service, method) {
		s.name = grpc.AppendName(s.name[:0], "grpc.", service, method, s.f.cfg.ReplaceDots)
		s.block = c.S.ClusterStats(s.name, stats.GrpcDef)
	}
	if s.block == nil {
		s.name = append(s.name[:0], "grpc."...)
		s.block = c.S.ClusterStats(s.name, stats.GrpcDef)
	}
}

func (s *stream) wanted(service, method []byte) bool {
	if s.f.cfg.AllMethods || len(s.f.cfg.Methods) == 0 {
		return s.f.cfg.AllMethods
	}
	s.name = append(append(append(s.name[:0], service...), '/'), method...)
	_, ok := s.f.cfg.Methods[string(s.name)]
	return ok
}

// OnData implements filter.HTTP.
func (s *stream) OnData(c *filter.Ctx, d filter.Dir, b *filter.Data, end bool) filter.Verdict {
	switch {
	case d == filter.Request:
		if s.request {
			s.count(&s.req, b.Bytes, &c.Rec.GrpcMessages.Requests, stats.GrpcRequestMessageCount)
		}
		return filter.Continue
	case s.response:
		s.count(&s.resp, b.Bytes, &c.Rec.GrpcMessages.Responses, stats.GrpcResponseMessageCount)
	}
	if end && s.block != nil {
		s.time(c)
	}
	return filter.Continue
}

// count counts the messages that begin in p.
func (s *stream) count(f *grpc.Frames, p []byte, state *uint64, counter int) {
	if s.block == nil && !s.f.cfg.FilterState {
		return
	}
	n := f.Count(p)
	if n == 0 {
		return
	}
	if s.f.cfg.FilterState {
		*state += n
	}
	if s.block != nil {
		s.block.Add(counter, int64(n))
	}
}

// OnTrailers implements filter.HTTP.
func (s *stream) OnTrailers(c *filter.Ctx, d filter.Dir, t *httpmsg.Fields) filter.Verdict {
	if d == filter.Response && s.block != nil {
		grpc.CountStatus(s.block, t.Get(httpmsg.IDGrpcStatus))
		s.time(c)
	}
	return filter.Continue
}

// time records how long the upstream took from the last byte of the request to the last of the response.
func (s *stream) time(c *filter.Ctx) {
	if r := c.Rec; s.f.cfg.UpstreamTime && r.LastUpTx >= 0 && r.LastUpRx >= 0 {
		s.block.Record(stats.GrpcUpstreamRqTime, uint64(max(r.LastUpRx-r.LastUpTx, 0)/int64(sys.Millisecond)))
	}
}

// OnEvent implements filter.HTTP.
func (s *stream) OnEvent(*filter.Ctx, filter.Event) filter.Verdict { return filter.Continue }

// OnDone implements filter.HTTP.
func (s *stream) OnDone(c *filter.Ctx) {
	f := s.f
	*s = stream{name: s.name}
	f.pool.Put(c, s)
}
