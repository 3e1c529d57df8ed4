// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"encoding/binary"
	"math"
	"net/netip"

	"sidecar/dataplane/fault"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/identity"
	"sidecar/dataplane/sys"
)

// Wire is what the gRPC access log service gets instead of text: each record is one log_entry of a StreamAccessLogsMessage.HTTPAccessLogEntries or
// TCPAccessLogEntries, encoded by the worker. Protobuf concatenates, so a chunk of entries is such a message as it is.
type Wire struct {
	TCP bool // envoy.data.accesslog.v3.TCPAccessLogEntry instead of HTTPAccessLogEntry
	// Headers and trailers to log (additional_*_to_log).
	Request, Response, Trailers []httpmsg.Key
	GrpcStats                   bool     // log the filter state object GrpcStatsState
	Tunnel                      []string // log these of TunnelHeadState and TunnelTrailersState
}

// NewWire makes a format that encodes entries.
func NewWire(w *Wire) *Format { return &Format{wire: w} }

// Protobuf wire types.
const (
	wireVarint = 0
	wireFixed  = 1
	wireBytes  = 2
)

// lengthSize is how many bytes the length of a nested message takes: it is known only afterwards, so it is a varint of fixed size, which the wire
// format allows. It bounds a message to 2^28 bytes.
const lengthSize = 4

type encoder struct{ b []byte }

func (e *encoder) tag(field, typ int) { e.b = binary.AppendUvarint(e.b, uint64(field)<<3|uint64(typ)) }

// open begins a nested message; close ends it.
func (e *encoder) open(field int) int {
	e.tag(field, wireBytes)
	e.b = append(e.b, 0x80, 0x80, 0x80, 0)
	return len(e.b)
}

func (e *encoder) close(at int) {
	n := len(e.b) - at
	p := e.b[at-lengthSize : at]
	p[0], p[1], p[2], p[3] = byte(n)|0x80, byte(n>>7)|0x80, byte(n>>14)|0x80, byte(n>>21)&0x7f
}

func (e *encoder) uint(field int, v uint64) {
	if v != 0 {
		e.tag(field, wireVarint)
		e.b = binary.AppendUvarint(e.b, v)
	}
}

func (e *encoder) bool(field int, v bool) {
	if v {
		e.uint(field, 1)
	}
}

func (e *encoder) bytes(field int, v []byte) {
	if len(v) > 0 {
		e.tag(field, wireBytes)
		e.b = binary.AppendUvarint(e.b, uint64(len(v)))
		e.text(v)
	}
}

func (e *encoder) string(field int, v string) {
	if len(v) > 0 {
		e.tag(field, wireBytes)
		e.b = append(binary.AppendUvarint(e.b, uint64(len(v))), v...)
	}
}

// text appends bytes from the network. Fields of type string must be UTF-8, or the receiver refuses the whole message; as Envoy does, what is not
// ASCII is replaced byte by byte, so the length stays.
func (e *encoder) text(v []byte) {
	at := len(e.b)
	e.b = append(e.b, v...)
	for i, c := range e.b[at:] {
		if c >= 0x80 {
			e.b[at+i] = '!'
		}
	}
}

// times writes the durations of AccessLogCommon, whose numbers follow each other.
func (e *encoder) times(r *Record) {
	for i, t := range [...]int64{r.LastDownRx, r.FirstUpTx, r.LastUpTx, r.FirstUpRx, r.LastUpRx, r.FirstDownTx, r.LastDownTx} {
		e.duration(6+i, t)
	}
	e.duration(23, r.End)
}

func (e *encoder) duration(field int, nanos int64) {
	if nanos != Unset {
		e.time(field, nanos)
	}
}

// time writes a Timestamp or a Duration: seconds and nanoseconds have the same numbers in both.
func (e *encoder) time(field int, nanos int64) {
	at := e.open(field)
	e.uint(1, uint64(nanos/1e9))
	e.uint(2, uint64(nanos%1e9))
	e.close(at)
}

func (e *encoder) addr(field int, a sys.Addr) {
	if a.IsZero() {
		return
	}
	at := e.open(field)
	if a.IsUnix() {
		in := e.open(2)
		e.string(1, a.Path)
		e.close(in)
	} else {
		in := e.open(1)
		e.ip(2, a.IP.Addr())
		e.tag(3, wireVarint) // a oneof: zero is written too
		e.b = binary.AppendUvarint(e.b, uint64(a.IP.Port()))
		e.close(in)
	}
	e.close(at)
}

func (e *encoder) ip(field int, a netip.Addr) {
	e.tag(field, wireBytes)
	at := len(e.b)
	e.b = append(e.b, 0)
	e.b = a.Unmap().AppendTo(e.b)
	e.b[at] = byte(len(e.b) - at - 1) // an address is shorter than 128 bytes
}

// append encodes one record.
func (w *Wire) append(b []byte, r *Record) []byte {
	e := encoder{b}
	entry := e.open(1)
	e.common(1, w, r)
	if w.TCP {
		at := e.open(2)
		e.uint(1, r.BytesIn)
		e.uint(2, r.BytesOut)
		e.close(at)
	} else {
		e.uint(2, protocolVersion(r.Protocol))
		e.request(w, r)
		e.response(w, r)
	}
	e.close(entry)
	return e.b
}

// noConn stands for the connection of a record that has none; it is never written.
var noConn = ConnInfo{ConnSide: &ConnSide{}}

// protocolVersion is HTTPAccessLogEntry.HTTPVersion.
func protocolVersion(p string) uint64 {
	switch p {
	case "HTTP/1.0":
		return 1
	case "HTTP/1.1":
		return 2
	case "HTTP/2":
		return 3
	case "HTTP/3":
		return 4
	}
	return 0
}

func (e *encoder) common(field int, w *Wire, r *Record) {
	at := e.open(field)
	c := r.Conn
	if c == nil {
		c = &noConn
	}
	e.addr(2, c.Remote)
	e.addr(3, c.Local)
	e.tls(4, c)
	e.time(5, r.Start)
	e.times(r)
	e.addr(13, r.UpstreamRemote)
	e.addr(14, r.UpstreamLocal)
	e.string(15, r.Cluster)
	e.flags(16, r)
	if len(r.DynamicMeta) > 0 {
		e.metadata(17, r.DynamicMeta)
	}
	e.string(18, r.UpstreamFailure)
	e.string(19, r.RouteName)
	for _, name := range w.Tunnel {
		if fields := r.Tunnel.of(name); fields != nil {
			e.tunnelState(21, name, fields)
		}
	}
	if w.GrpcStats && r.GrpcMessages != (GrpcMessages{}) {
		e.grpcStats(21, r.GrpcMessages)
	}
	e.addr(20, c.DirectRemote())
	e.uint(24, uint64(r.Attempts))
	x := c.Extra()
	e.string(25, x.Termination)
	e.string(26, r.StreamID)
	e.bool(27, r.Type == TCPPeriodic || r.Type == DownstreamPeriodic || r.Type == UpstreamPeriodic)
	e.string(28, x.TransportFailure)
	e.uint(29, r.Down.WireOut)
	e.uint(30, r.Down.WireIn)
	e.uint(31, r.Up.WireOut)
	e.uint(32, r.Up.WireIn)
	e.uint(33, uint64(r.Type))
	e.close(at)
}

// grpcStats writes a map entry of name and Any for the filter state object of grpc_stats.
func (e *encoder) grpcStats(field int, n GrpcMessages) {
	entry := e.open(field)
	e.string(1, GrpcStatsState)
	object := e.open(2)
	e.string(1, "type.googleapis.com/envoy.extensions.filters.http.grpc_stats.v3.FilterObject")
	value := e.open(2)
	e.uint(1, n.Requests)
	e.uint(2, n.Responses)
	e.close(value)
	e.close(object)
	e.close(entry)
}

// flags writes ResponseFlags: its fields have the numbers of the flags' bits, but for the one in the middle that says more than yes.
func (e *encoder) flags(field int, r *Record) {
	if r.Flags == 0 {
		return
	}
	at := e.open(field)
	for bit := range 27 {
		f := fault.Flags(1) << bit
		switch {
		case r.Flags&f == 0:
		case f == fault.FlagUAEX:
			in := e.open(13)
			e.uint(1, 1) // EXTERNAL_SERVICE
			e.close(in)
		default:
			e.uint(bit+1, 1)
		}
	}
	e.bool(28, r.Flags&fault.FlagDR != 0)
	e.close(at)
}

func (e *encoder) tls(field int, c *ConnInfo) {
	s := c.TLS
	if s == nil {
		return
	}
	at := e.open(field)
	switch s.Version {
	case "TLSv1":
		e.uint(1, 1)
	case "TLSv1.1":
		e.uint(1, 2)
	case "TLSv1.2":
		e.uint(1, 3)
	case "TLSv1.3":
		e.uint(1, 4)
	}
	e.string(3, s.SNI)
	e.certificate(4, s.Local)
	e.certificate(5, s.Peer)
	e.string(7, c.Extra().JA3)
	e.close(at)
}

func (e *encoder) certificate(field int, c *identity.Certificate) {
	if c == nil {
		return
	}
	at := e.open(field)
	for _, list := range [...]struct {
		field int
		names []string
	}{{1, c.URIs}, {2, c.DNSNames}} {
		for _, n := range list.names {
			in := e.open(1)
			e.string(list.field, n)
			e.close(in)
		}
	}
	e.string(2, c.Subject)
	e.string(3, c.Issuer)
	e.close(at)
}

// metadata writes envoy.config.core.v3.Metadata: a Struct for each namespace.
func (e *encoder) metadata(field int, m map[string]any) {
	at := e.open(field)
	for ns, v := range m {
		fields, ok := v.(map[string]any)
		if !ok {
			continue
		}
		entry := e.open(1)
		e.string(1, ns)
		e.structure(2, fields)
		e.close(entry)
	}
	e.close(at)
}

func (e *encoder) structure(field int, m map[string]any) {
	at := e.open(field)
	for k, v := range m {
		entry := e.open(1)
		e.string(1, k)
		e.value(2, v)
		e.close(entry)
	}
	e.close(at)
}

func (e *encoder) value(field int, v any) {
	at := e.open(field)
	switch x := v.(type) {
	case float64:
		e.tag(2, wireFixed)
		e.b = binary.LittleEndian.AppendUint64(e.b, math.Float64bits(x))
	case string:
		e.tag(3, wireBytes)
		e.b = append(binary.AppendUvarint(e.b, uint64(len(x))), x...)
	case bool:
		n := byte(0)
		if x {
			n = 1
		}
		e.tag(4, wireVarint)
		e.b = append(e.b, n)
	case map[string]any:
		e.structure(5, x)
	case []any:
		in := e.open(6)
		for _, y := range x {
			e.value(1, y)
		}
		e.close(in)
	default:
		e.tag(1, wireVarint)
		e.b = append(e.b, 0)
	}
	e.close(at)
}

var (
	keyUserAgent    = httpmsg.KeyOf("user-agent")
	keyReferer      = httpmsg.KeyOf("referer")
	keyForwardedFor = httpmsg.KeyOf("x-forwarded-for")
	keyRequestID    = httpmsg.KeyOf("x-request-id")
)

// requestMethod is envoy.config.core.v3.RequestMethod.
func requestMethod(m []byte) uint64 {
	switch string(m) {
	case "GET":
		return 1
	case "HEAD":
		return 2
	case "POST":
		return 3
	case "PUT":
		return 4
	case "DELETE":
		return 5
	case "CONNECT":
		return 6
	case "OPTIONS":
		return 7
	case "TRACE":
		return 8
	case "PATCH":
		return 9
	}
	return 0
}

func (e *encoder) request(w *Wire, r *Record) {
	at := e.open(3)
	if h := r.Req; h != nil {
		e.uint(1, requestMethod(h.A.Bytes(h.MethodName)))
		e.bytes(2, h.A.Bytes(h.Scheme))
		e.bytes(3, h.Host())
		e.bytes(5, h.Path())
		for _, f := range [...]struct {
			field int
			key   httpmsg.Key
		}{{6, keyUserAgent}, {7, keyReferer}, {8, keyForwardedFor}, {9, keyRequestID}, {10, keyOriginalPath}} {
			v, _ := h.GetKey(f.key)
			e.bytes(f.field, v)
		}
		e.uint(11, headBytes(h))
		e.uint(12, r.BytesIn)
		e.fields(13, w.Request, &h.Fields)
	}
	e.uint(14, r.Up.HeadOut)
	e.uint(15, r.Down.HeadIn)
	e.close(at)
}

func (e *encoder) response(w *Wire, r *Record) {
	at := e.open(4)
	if r.Code != 0 {
		in := e.open(1)
		e.uint(1, uint64(r.Code))
		e.close(in)
	}
	e.uint(2, headBytes(r.Resp))
	e.uint(3, r.BytesOut)
	if r.Resp != nil {
		e.fields(4, w.Response, &r.Resp.Fields)
	}
	if r.RespTrailers != nil {
		e.fields(5, w.Trailers, r.RespTrailers)
	}
	e.string(6, r.Details)
	e.uint(7, r.Up.HeadIn)
	e.uint(8, r.Down.HeadOut)
	e.close(at)
}

// fields writes a map entry for each header that is there; several of one name are joined by commas.
func (e *encoder) fields(field int, keys []httpmsg.Key, f *httpmsg.Fields) {
	for i := range keys {
		k := keys[i]
		at := f.FindKey(k, 0)
		if at < 0 {
			continue
		}
		entry := e.open(field)
		e.string(1, k.Name)
		in := e.open(2)
		e.text(f.Value(at))
		for at = f.FindKey(k, at+1); at >= 0; at = f.FindKey(k, at+1) {
			e.b = append(e.b, ',')
			e.text(f.Value(at))
		}
		e.close(in)
		e.close(entry)
	}
}
