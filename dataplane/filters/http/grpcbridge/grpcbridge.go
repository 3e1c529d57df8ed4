// SPDX-License-Identifier: Apache-2.0

// Package grpcbridge is envoy.filters.http.grpc_http1_bridge: it lets clients of HTTP/1.1, which see no trailers, make unary gRPC calls. The answer is
// held until its trailers are here; its status and what says why move into the head. A call may also come as plain protobuf.
package grpcbridge

import (
	"bytes"
	"encoding/binary"

	"sidecar/dataplane/filter"
	"sidecar/dataplane/grpc"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/match"
)

var (
	keyContentType   = httpmsg.IDContentType.Key()
	keyContentLength = httpmsg.IDContentLength.Key()
	keyStatus        = httpmsg.IDGrpcStatus.Key()
	keyMessage       = httpmsg.IDGrpcMessage.Key()
)

// Config is envoy.extensions.filters.http.grpc_http1_bridge.v3.Config.
type Config struct {
	UpgradeProtobuf bool // upgrade_protobuf_to_grpc
	IgnoreQuery     bool // ignore_query_parameters
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
	*s = stream{f: f, buf: s.buf[:0]}
	return s
}

// stream is the filter of one request.
type stream struct {
	f      *Factory
	buf    []byte // the request in its frame
	framed bool   // the request came as protobuf; so shall the answer go
	bridge bool   // the client cannot see trailers
	strip  bool   // the answer has a frame to take off
}

// OnHead implements filter.HTTP.
func (s *stream) OnHead(c *filter.Ctx, d filter.Dir, h *httpmsg.Head, end bool) filter.Verdict {
	if d == filter.Response {
		s.strip = s.framed && match.GRPC(h)
		if end || !s.bridge && !s.strip {
			return filter.Continue
		}
		return filter.Buffer
	}
	if s.framed = s.f.cfg.UpgradeProtobuf && string(h.Get(httpmsg.IDContentType)) == "application/x-protobuf"; s.framed {
		h.SetString(keyContentType, "application/grpc")
		h.Remove(keyContentLength) // the frame has another
		if h.Body == httpmsg.BodyLength {
			h.Body = httpmsg.BodyChunked
		}
	}
	if !match.GRPC(h) {
		return filter.Continue
	}
	s.bridge = h.Version < httpmsg.HTTP2
	if s.f.cfg.IgnoreQuery {
		if q := bytes.IndexByte(h.Path(), '?'); q >= 0 {
			h.SetPath(h.Path()[:q])
		}
	}
	if s.framed && !end {
		return filter.Buffer
	}
	return filter.Continue
}

// OnData implements filter.HTTP: what it looks at comes in one piece.
func (s *stream) OnData(_ *filter.Ctx, d filter.Dir, b *filter.Data, _ bool) filter.Verdict {
	switch {
	case d == filter.Response:
		if s.strip {
			b.Set(b.Bytes[min(grpc.HeaderSize, len(b.Bytes)):])
		}
	case s.framed && len(b.Bytes) > 0:
		s.buf = append(binary.BigEndian.AppendUint32(append(s.buf[:0], 0), uint32(len(b.Bytes))), b.Bytes...)
		b.Set(s.buf)
	}
	return filter.Continue
}

// OnTrailers implements filter.HTTP: status and message move into the head. A status other than OK becomes 503, so that clients that know nothing of
// gRPC see that the call has failed. The trailers themselves cannot follow a body of known length; logs see them.
func (s *stream) OnTrailers(c *filter.Ctx, _ filter.Dir, t *httpmsg.Fields) filter.Verdict {
	if !s.bridge {
		return filter.Continue
	}
	c.Resp.Body = httpmsg.BodyLength // so that the client sees that the answer is complete
	if v, ok := t.GetKey(keyStatus); ok {
		if !isOK(v) {
			c.Resp.Status = 503
		}
		c.Resp.Set(keyStatus, v)
	}
	if v, ok := t.GetKey(keyMessage); ok {
		c.Resp.Set(keyMessage, v)
	}
	return filter.Continue
}

// isOK reads a status as Envoy does, sign and blanks included.
func isOK(v []byte) bool {
	v = bytes.TrimPrefix(bytes.TrimSpace(v), []byte{'+'})
	return len(v) > 0 && len(bytes.Trim(v, "0")) == 0
}

// OnEvent implements filter.HTTP.
func (s *stream) OnEvent(*filter.Ctx, filter.Event) filter.Verdict { return filter.Continue }

// maxBuf bounds the memory that an instance keeps between requests.
const maxBuf = 64 << 10

// OnDone implements filter.HTTP.
func (s *stream) OnDone(c *filter.Ctx) {
	f, b := s.f, s.buf
	if cap(b) > maxBuf {
		b = nil
	}
	*s = stream{buf: b}
	f.pool.Put(c, s)
}
