// SPDX-License-Identifier: Apache-2.0

// Package grpcweb is envoy.filters.http.grpc_web: it lets gRPC-Web clients, binary and base64, call gRPC servers. What the servers say in trailers
// becomes the last frame of the content. CORS is not its affair.
package grpcweb

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"strconv"

	"sidecar/dataplane/filter"
	"sidecar/dataplane/grpc"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/match"
	"sidecar/internal/telemetry/stats"
)

// maxMessage bounds how much of an answer that is no gRPC becomes grpc-message.
const maxMessage = 16 << 10

// trailerFlag marks the frame that holds the trailers.
const trailerFlag = 0x80

var (
	keyAcceptEncoding = httpmsg.KeyOf("grpc-accept-encoding")
	keyContentType    = httpmsg.IDContentType.Key()
	keyContentLength  = httpmsg.IDContentLength.Key()
	keyTE             = httpmsg.IDTE.Key()
	keyStatus         = httpmsg.IDGrpcStatus.Key()
	keyMessage        = httpmsg.IDGrpcMessage.Key()
	badBase64         = []byte("Bad gRPC-web request, invalid base64 data.")
)

// Factory makes the filter's instances. Immutable but for its pool.
type Factory struct{ pool filter.Pool[stream] }

// New makes the factory for the given number of workers.
func New(workers int) *Factory { return &Factory{filter.NewPool[stream](workers)} }

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
	f       *Factory
	block   *stats.Block // "cluster.NAME.grpc-web.SERVICE.METHOD."; nil when nothing is counted
	buf     []byte       // what the last call made
	frames  grpc.Frames  // of the response
	carry   [4]byte      // base64 characters of the request, then bytes of the response, that wait for more
	n       uint8
	web     bool // the request is gRPC-Web
	textIn  bool
	textOut bool
	foreign bool // the response is no gRPC
}

// isText tells whether a content type is that of base64 and isWeb whether it is one of gRPC-Web.
func isText(v []byte) bool {
	return string(v) == "application/grpc-web-text" || string(v) == "application/grpc-web-text+proto"
}

func isWeb(v []byte) bool {
	return isText(v) || string(v) == "application/grpc-web" || string(v) == "application/grpc-web+proto"
}

// OnHead implements filter.HTTP.
func (s *stream) OnHead(c *filter.Ctx, d filter.Dir, h *httpmsg.Head, end bool) filter.Verdict {
	if d == filter.Response {
		return s.responseHead(h, end)
	}
	ct := h.Get(httpmsg.IDContentType)
	if s.web = isWeb(ct); !s.web {
		return filter.Continue
	}
	s.textIn, s.textOut = isText(ct), isText(h.Get(httpmsg.IDAccept))
	h.Remove(keyContentLength)
	if h.Body == httpmsg.BodyLength {
		h.Body = httpmsg.BodyChunked
	}
	if service, method, ok := grpc.SplitPath(h.Path()); ok {
		s.buf = grpc.AppendName(s.buf[:0], "grpc-web.", service, method, false)
		s.block = c.S.ClusterStats(s.buf, stats.GrpcDef)
	}
	h.SetString(keyContentType, "application/grpc")
	h.SetString(keyTE, "trailers")
	h.SetString(keyAcceptEncoding, "identity")
	return filter.Continue
}

func (s *stream) responseHead(h *httpmsg.Head, end bool) filter.Verdict {
	if !s.web {
		return filter.Continue
	}
	s.n = 0
	status := h.Get(httpmsg.IDGrpcStatus)
	if s.block != nil {
		grpc.CountStatus(s.block, status)
	}
	ok := h.Status == 200 && match.GRPC(h)
	if s.foreign = !end && !ok && !isWeb(h.Get(httpmsg.IDContentType)); s.foreign {
		return filter.Buffer
	}
	s.setType(h)
	if !end && h.Body == httpmsg.BodyLength {
		h.Remove(keyContentLength)
		h.Body = httpmsg.BodyChunked
	}
	return filter.Continue
}

func (s *stream) setType(h *httpmsg.Head) {
	if s.textOut {
		h.SetString(keyContentType, "application/grpc-web-text+proto")
		return
	}
	h.SetString(keyContentType, "application/grpc-web+proto")
}

// translate makes a response that is no gRPC one that a gRPC-Web client understands: without content, with what it says in its head. As in Envoy the
// HTTP status stays.
func (s *stream) translate(h *httpmsg.Head, body []byte) {
	if len(body) > 0 {
		b := grpc.AppendMessage(s.buf[:0], body[:min(len(body), maxMessage)])
		h.Set(keyMessage, b)
		s.buf = b[:0]
	}
	var t [4]byte
	h.Set(keyStatus, strconv.AppendUint(t[:0], grpc.FromHTTP(h.Status), 10))
	h.Remove(keyContentLength)
	s.setType(h)
}

// OnData implements filter.HTTP.
func (s *stream) OnData(c *filter.Ctx, d filter.Dir, b *filter.Data, end bool) filter.Verdict {
	switch {
	case !s.web:
	case d == filter.Request && s.textIn:
		return s.decode(c, b, end)
	case d == filter.Response && s.foreign:
		s.translate(c.Resp, b.Bytes)
		b.Set(nil)
	case d == filter.Response && s.textOut:
		s.buf = s.encode(s.buf[:0], b.Bytes)
		b.Set(s.buf)
	}
	return filter.Continue
}

// decode replaces base64 by what it stands for, as far as whole groups of four characters are here.
func (s *stream) decode(c *filter.Ctx, b *filter.Data, end bool) filter.Verdict {
	p, out := b.Bytes, s.buf[:0]
	ok := true
	if s.n > 0 {
		k := copy(s.carry[s.n:], p)
		s.n, p = s.n+uint8(k), p[k:]
		if s.n == 4 {
			s.n = 0
			out, ok = appendDecoded(out, s.carry[:])
		}
	}
	if s.n == 0 {
		whole := len(p) &^ 3
		if ok {
			out, ok = appendDecoded(out, p[:whole])
		}
		s.n = uint8(copy(s.carry[:], p[whole:]))
	}
	s.buf = out
	switch {
	case end && s.n > 0:
		return c.SetReply(filter.Local{Status: 400, Body: badBase64, Details: "grpc_base_64_decode_failed_bad_size"})
	case !ok:
		return c.SetReply(filter.Local{Status: 400, Body: badBase64, Details: "grpc_base_64_decode_failed"})
	}
	b.Set(out)
	return filter.Continue
}

// appendDecoded decodes whole groups; padding may end any of them, as clients encode message by message.
func appendDecoded(b, p []byte) ([]byte, bool) {
	for len(p) > 0 {
		run, pad := len(p), 0
		if i := bytes.IndexByte(p, '='); i >= 0 {
			run = i&^3 + 4
			if pad = run - i; pad > 2 {
				return b, false
			}
		}
		n := len(b)
		var err error
		if b, err = base64.StdEncoding.AppendDecode(b, p[:run]); err != nil || len(b)-n != run/4*3-pad {
			return b, false // line ends, which the package skips, are none here
		}
		p = p[run:]
	}
	return b, true
}

// encode appends the base64 of p, frame by frame: each ends with its own padding.
func (s *stream) encode(b, p []byte) []byte {
	for len(p) > 0 {
		part, rest, _ := s.frames.Next(p)
		b = s.group(b, part)
		if p = rest; s.frames.Between() {
			b = base64.StdEncoding.AppendEncode(b, s.carry[:s.n])
			s.n = 0
		}
	}
	return b
}

// group appends the base64 of the groups of three bytes that p completes.
func (s *stream) group(b, p []byte) []byte {
	if s.n > 0 {
		k := copy(s.carry[s.n:3], p)
		if s.n, p = s.n+uint8(k), p[k:]; s.n < 3 {
			return b
		}
		b = base64.StdEncoding.AppendEncode(b, s.carry[:3])
	}
	whole := len(p) / 3 * 3
	s.n = uint8(copy(s.carry[:], p[whole:]))
	return base64.StdEncoding.AppendEncode(b, p[:whole])
}

// OnTrailers implements filter.HTTP: they become the last frame.
func (s *stream) OnTrailers(c *filter.Ctx, d filter.Dir, t *httpmsg.Fields) filter.Verdict {
	if d != filter.Response || !s.web {
		return filter.Continue
	}
	if s.block != nil {
		grpc.CountStatus(s.block, t.Get(httpmsg.IDGrpcStatus))
	}
	if s.foreign {
		return filter.Continue
	}
	b := append(s.buf[:0], trailerFlag, 0, 0, 0, 0)
	for i := range t.List {
		if t.List[i].Dead {
			continue
		}
		b = append(append(b, t.Name(i)...), ':')
		b = append(append(b, t.Value(i)...), "\r\n"...)
	}
	binary.BigEndian.PutUint32(b[1:grpc.HeaderSize], uint32(len(b)-grpc.HeaderSize))
	if s.textOut {
		n := len(b)
		b = base64.StdEncoding.AppendEncode(b, b[:n])
		b = b[:copy(b, b[n:])]
	}
	s.buf = b
	c.Added = b
	t.List = t.List[:0]
	return filter.Continue
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
