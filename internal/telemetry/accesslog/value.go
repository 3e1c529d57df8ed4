// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"bytes"
	"encoding/hex"
	"math/rand/v2"
	"strconv"

	"sidecar/dataplane/fault"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/sys"
)

// kind says what append wrote; JSON prints text quoted and numbers and JSON values as they are.
type kind uint8

const (
	absent kind = iota
	text
	number
	raw // JSON already
)

// append writes the value of o for r, truncated where the operator has a length. Nothing is written for absent. typed asks for the form that
// JSON wants where it differs. The switch is one line per operator; that is why it is long.
func (o *op) append(b []byte, r *Record, typed bool) ([]byte, kind) {
	switch o.code {
	case opLiteral, opConst:
		return append(b, o.text...), text
	case opReq, opResp, opTrailer:
		v, ok := o.header(r)
		return o.bytes(b, v, ok)
	case opStartTime:
		return o.time.append(b, r.Start, r.Clock), text
	case opEmitTime:
		return o.time.append(b, r.Start+max(r.End, 0), r.Clock), text
	case opBytesIn:
		return uintOf(b, r.BytesIn)
	case opBytesOut:
		return uintOf(b, r.BytesOut)
	case opCode:
		return uintOf(b, uint64(r.Code))
	case opAttempts:
		return uintOf(b, uint64(r.Attempts))
	case opZero:
		return uintOf(b, 0)
	case opUpConnID:
		return uintOf(b, r.UpstreamConnID)
	case opConnID:
		return o.connID(b, r)
	case opUpWireIn:
		return uintOf(b, r.Up.WireIn)
	case opUpWireOut:
		return uintOf(b, r.Up.WireOut)
	case opDownWireIn:
		return uintOf(b, r.Down.WireIn)
	case opDownWireOut:
		return uintOf(b, r.Down.WireOut)
	case opUpHeadIn:
		return uintOf(b, r.Up.HeadIn)
	case opUpHeadOut:
		return uintOf(b, r.Up.HeadOut)
	case opUpPlainIn:
		return uintOf(b, r.Up.PlainIn)
	case opUpPlainOut:
		return uintOf(b, r.Up.PlainOut)
	case opDownHeadIn:
		return uintOf(b, r.Down.HeadIn)
	case opDownHeadOut:
		return uintOf(b, r.Down.HeadOut)
	case opDownPlainIn:
		return uintOf(b, r.Down.PlainIn)
	case opDownPlainOut:
		return uintOf(b, r.Down.PlainOut)
	case opHeadBytesReq:
		return uintOf(b, headBytes(r.Req))
	case opHeadBytesResp:
		return uintOf(b, headBytes(r.Resp))
	case opTrailerBytes:
		return uintOf(b, fieldBytes(r.RespTrailers))
	case opLegacyDuration, opDuration, opPoolReady:
		return o.duration(b, r)
	case opCodeDetails:
		return o.details(b, r.Details)
	case opProtocol:
		return str(b, r.Protocol)
	case opUpProtocol:
		return str(b, r.UpstreamProtocol)
	case opUpCluster:
		return str(b, r.Cluster)
	case opUpClusterRaw:
		return str(b, r.ClusterRaw)
	case opUpFailure:
		return str(b, r.UpstreamFailure)
	case opUpClose:
		return str(b, r.UpstreamLocalClose)
	case opUpDetected:
		return str(b, r.UpstreamDetectedClose)
	case opRouteName:
		return str(b, r.RouteName)
	case opVCluster:
		return str(b, r.VirtualCluster)
	case opStreamID:
		if r.StreamID == "" {
			return o.bytes(b, r.RequestID, len(r.RequestID) > 0) // a stream of HTTP is known by its request id
		}
		return str(b, r.StreamID)
	case opLogType:
		return str(b, r.Type.String())
	case opReplyBody:
		return append(b, r.LocalReplyBody...), text
	case opFlags, opFlagsLong:
		return o.flags(b, r)
	case opAddr:
		return o.addr(b, r)
	case opUpHostName, opUpHostNameNoPort:
		return o.hostName(b, r.UpstreamHostName, r.UpstreamHost, o.code == opUpHostNameNoPort)
	case opTried, opTriedNoPort, opTriedNames, opTriedNamesNoPort, opTriedConns:
		return o.tried(b, r)
	case opMeta:
		return o.metadata(b, r, typed)
	case opFilterState:
		return o.state(b, r.FilterState, typed)
	case opUpFilterState:
		return o.state(b, r.UpstreamFilterState, typed)
	case opTunnelState:
		return o.tunnel(b, r.Tunnel, typed)
	case opGrpcMessages:
		return o.grpcMessages(b, r.GrpcMessages, typed)
	case opGrpc:
		return o.grpc(b, r)
	case opUniqueID:
		return appendUUID(b), text
	case opSNI:
		return o.serverName(b, r)
	case opPath, opQueryParam, opQueryParams:
		return o.pathValue(b, r)
	case opTLS:
		return o.session(b, r)
	case opHandshake:
		return handshake(b, r)
	case opCoalesce:
		return o.coalesce(b, r, typed)
	case opListenerName, opTermination, opDownFailure, opDownClose, opDownDetected, opFilterChain, opJA3:
		return o.conn(b, r.Conn)
	}
	return b, absent
}

func uintOf(b []byte, v uint64) ([]byte, kind) {
	switch { // most are codes, short bodies and durations
	case v < 10:
		return append(b, byte('0'+v)), number
	case v < 1000 && v >= 100:
		n := uint32(v)
		return append(b, byte('0'+n/100), byte('0'+n/10%10), byte('0'+n%10)), number
	}
	return strconv.AppendUint(b, v, 10), number
}

func str(b []byte, s string) ([]byte, kind) {
	if s == "" {
		return b, absent
	}
	return append(b, s...), text
}

func (o *op) bytes(b, v []byte, ok bool) ([]byte, kind) {
	if !ok {
		return b, absent
	}
	if o.max >= 0 && o.max < len(v) {
		v = v[:o.max]
	}
	return append(b, v...), text
}

// cut truncates what was appended after from.
func (o *op) cut(b []byte, from int) []byte {
	if o.max >= 0 && len(b)-from > o.max {
		return b[:from+o.max]
	}
	return b
}

func (o *op) conn(b []byte, c *ConnInfo) ([]byte, kind) {
	if c == nil {
		return b, absent
	}
	switch o.code {
	case opTermination:
		return str(b, c.Extra().Termination)
	case opDownFailure:
		return str(b, c.Extra().TransportFailure)
	case opDownClose:
		return str(b, c.Extra().LocalClose)
	case opDownDetected:
		return str(b, c.Extra().DetectedClose)
	case opFilterChain:
		return str(b, c.FilterChain)
	case opListenerName:
		return str(b, c.Listener)
	case opJA3:
		return str(b, c.Extra().JA3)
	}
	return b, absent
}

func (o *op) connID(b []byte, r *Record) ([]byte, kind) {
	if r.Conn == nil {
		return uintOf(b, 0)
	}
	return uintOf(b, r.Conn.ID)
}

func (o *op) header(r *Record) ([]byte, bool) {
	var h *httpmsg.Head
	var f *httpmsg.Fields
	switch o.code {
	case opReq:
		h = r.Req
	case opResp:
		h = r.Resp
	default:
		f = r.RespTrailers
	}
	if h != nil {
		f = &h.Fields
	}
	if f == nil || f.A == nil {
		return nil, false
	}
	v, ok := field(h, f, &o.a)
	if !ok && o.b.key.Name != "" {
		v, ok = field(h, f, &o.b)
	}
	if o.sub == 1 { // REQ_WITHOUT_QUERY
		if q := bytes.IndexByte(v, '?'); q >= 0 {
			v = v[:q]
		}
	}
	return v, ok
}

// field looks up a header or pseudo-header; h is nil for trailers.
func field(h *httpmsg.Head, f *httpmsg.Fields, n *headerName) ([]byte, bool) {
	switch n.pseudo {
	case ordinary:
		if n.key.Name == "" {
			return nil, false
		}
		return f.GetKey(n.key)
	case pseudoStatus:
		if h.Status >= 100 && h.Status <= 999 {
			return statusText(h.Status), true
		}
		return nil, false
	}
	s := n.pseudo.span(h)
	if s.Len == 0 {
		return nil, false
	}
	return f.A.Bytes(s), true
}

// span is where h has the value of a request's pseudo-header; empty for any other.
func (p pseudo) span(h *httpmsg.Head) (s httpmsg.Span) {
	switch p {
	case pseudoMethod:
		s = h.MethodName
	case pseudoPath:
		s = h.Target
	case pseudoAuthority:
		s = h.Authority
	case pseudoScheme:
		s = h.Scheme
	}
	return s
}

// statuses holds "100".."999" back to back so that %RESP(:STATUS)% needs no memory of its own.
var statuses = func() (s []byte) {
	for i := 100; i < 1000; i++ {
		s = strconv.AppendInt(s, int64(i), 10)
	}
	return s
}()

func statusText(code uint16) []byte { i := (int(code) - 100) * 3; return statuses[i : i+3] }

// headBytes is the size of a head as it is now: names and values of all fields, pseudo-headers included.
func headBytes(h *httpmsg.Head) uint64 {
	if h == nil || h.A == nil {
		return 0
	}
	n := fieldBytes(&h.Fields)
	for _, p := range [...]struct {
		name int
		s    httpmsg.Span
	}{{len(":method"), h.MethodName}, {len(":path"), h.Target}, {len(":authority"), h.Authority}, {len(":scheme"), h.Scheme}} {
		if p.s.Len > 0 {
			n += uint64(p.name) + uint64(p.s.Len)
		}
	}
	if h.Status > 0 {
		n += uint64(len(":status") + 3)
	}
	return n
}

func fieldBytes(f *httpmsg.Fields) (n uint64) {
	if f == nil {
		return 0
	}
	for i := range f.List {
		if !f.List[i].Dead {
			n += uint64(f.List[i].Name.Len) + uint64(f.List[i].Value.Len)
		}
	}
	return n
}

func (o *op) details(b []byte, s string) ([]byte, kind) {
	if s == "" {
		return b, absent
	}
	from := len(b)
	b = append(b, s...)
	if o.sub == 0 {
		for i := from; i < len(b); i++ {
			if c := b[i]; c == ' ' || c >= '\t' && c <= '\r' {
				b[i] = '_'
			}
		}
	}
	return b, text
}

func (o *op) flags(b []byte, r *Record) ([]byte, kind) {
	switch {
	case r.Flags == 0:
		return append(b, '-'), text
	}
	form := fault.Flags.AppendLong
	if o.code == opFlags {
		form = fault.Flags.AppendShort
	}
	rest := r.Flags
	if r.Protocol != "" && rest&fault.FlagURX != 0 && rest != fault.FlagURX {
		// Envoy prints flags as it finds them: the router sees that no retry is left before it says what the last try ended with.
		rest &^= fault.FlagURX
		b = append(form(fault.FlagURX, b), ',')
	}
	return form(rest, b), text
}

// point is a time point of COMMON_DURATION in nanoseconds since Start, or Unset.
func point(r *Record, p uint8) int64 {
	switch p {
	case pointDownRxBeg:
		return 0
	case pointDownRxEnd:
		return r.LastDownRx
	case pointUpConnBeg:
		return r.UpConnStart
	case pointUpConnEnd:
		return r.UpConnDone
	case pointUpTLSEnd:
		return r.UpTLSDone
	case pointUpTxBeg:
		return r.FirstUpTx
	case pointUpTxEnd:
		return r.LastUpTx
	case pointUpRxBeg:
		return r.FirstUpRx
	case pointUpRxEnd:
		return r.LastUpRx
	case pointDownTxBeg:
		return r.FirstDownTx
	case pointDownTxEnd:
		return r.LastDownTx
	}
	return Unset
}

func (o *op) duration(b []byte, r *Record) ([]byte, kind) {
	from, to, unit := int64(0), Unset, int64(1e6)
	switch {
	case o.code == opPoolReady:
		to = r.PoolReady
	case o.code == opDuration:
		from, to, unit = point(r, o.sub), point(r, o.sub2), int64(o.max)
	case o.sub == durTotal:
		to = r.End
	case o.sub == durRequest:
		to = r.LastDownRx
	case o.sub == durRequestTx:
		to = r.LastUpTx
	case o.sub == durResponse:
		to = r.FirstUpRx
	case o.sub == durResponseTx:
		from, to = r.FirstUpRx, r.LastDownTx
	}
	if from < 0 || to < from {
		return b, absent
	}
	return uintOf(b, uint64((to-from)/unit))
}

func (o *op) address(r *Record) sys.Addr {
	switch {
	case o.sub == addrUpHost:
		return r.UpstreamHost
	case o.sub == addrUpLocal:
		return r.UpstreamLocal
	case o.sub == addrUpRemote:
		return r.UpstreamRemote
	case r.Conn == nil:
		return sys.Addr{}
	case o.sub == addrRemote:
		return r.Conn.Remote
	case o.sub == addrDirectRemote:
		return r.Conn.DirectRemote()
	case o.sub == addrLocal:
		return r.Conn.Local
	}
	return r.Conn.DirectLocal
}

func (o *op) addr(b []byte, r *Record) ([]byte, kind) {
	a := o.address(r)
	if a.IsZero() {
		return b, absent
	}
	switch o.sub2 {
	case partIP:
		return a.AppendIP(b), text
	case partPort:
		if a.IsUnix() {
			return b, text
		}
		return a.AppendPort(b), number
	case partEndpointID:
		return b, text
	case partMasked:
		if a.IsUnix() {
			return a.AppendIP(b), text
		}
		ip := a.IP.Addr()
		p, err := ip.Prefix(min(o.max, ip.BitLen()))
		if err != nil {
			return a.AppendIP(b), text
		}
		return p.AppendTo(b), text
	}
	return a.Append(b), text
}

func (o *op) hostName(b []byte, name string, a sys.Addr, noPort bool) ([]byte, kind) {
	if name == "" && a.IsZero() {
		return b, absent
	}
	from := len(b)
	if name != "" {
		b = append(b, name...)
	} else {
		b = a.Append(b)
	}
	if noPort {
		b = b[:from+len(httpmsg.StripPort(b[from:]))]
	}
	return b, text
}

func (o *op) tried(b []byte, r *Record) ([]byte, kind) {
	from := len(b)
	for i := range r.Tried {
		t := &r.Tried[i]
		if o.code == opTriedConns && t.ConnID == 0 {
			continue
		}
		if len(b) > from {
			b = append(b, ',')
		}
		switch o.code {
		case opTried:
			b = t.Host.Append(b)
		case opTriedNoPort:
			b = t.Host.AppendIP(b)
		case opTriedConns:
			b = strconv.AppendUint(b, t.ConnID, 10)
		default:
			b, _ = o.hostName(b, t.Name, t.Host, o.code == opTriedNamesNoPort)
		}
	}
	if len(b) == from {
		return b, absent
	}
	return b, text
}

func (o *op) metadata(b []byte, r *Record, typed bool) ([]byte, kind) {
	var m map[string]any
	switch o.sub {
	case metaDynamic:
		m = r.DynamicMeta
	case metaCluster:
		m = r.ClusterMeta
	case metaRoute:
		m = r.RouteMeta
	case metaHost:
		m = r.HostMeta
	case metaVHost:
		m = r.VHostMeta
	default:
		if r.Conn == nil {
			return b, absent
		}
		if m = r.Conn.ListenerMeta; o.sub == metaChain {
			m = r.Conn.FilterChainMeta
		}
	}
	var v any = m
	for _, k := range o.path {
		mm, ok := v.(map[string]any)
		if !ok {
			return b, absent
		}
		if v, ok = mm[k]; !ok || v == nil {
			return b, absent
		}
	}
	from := len(b)
	if s, ok := v.(string); ok {
		if typed {
			if o.max >= 0 && o.max < len(s) {
				s = s[:o.max]
			}
			return appendQuoted(b, s), raw
		}
		return o.cut(append(b, s...), from), text
	}
	b = appendPlain(b, v)
	if typed {
		return b, raw
	}
	return o.cut(b, from), text
}

func (o *op) state(b []byte, m map[string]string, typed bool) ([]byte, kind) {
	v, ok := m[o.text]
	if !ok || o.sub == stateField {
		return b, absent
	}
	from := len(b)
	if o.sub == statePlain || typed {
		b = append(b, v...)
		if typed && o.sub == stateTyped {
			return b, text
		}
	} else {
		b = appendQuoted(b, v)
	}
	return o.cut(b, from), text
}

func (o *op) serverName(b []byte, r *Record) ([]byte, kind) {
	sni := ""
	if r.Conn != nil {
		sni = r.Conn.Extra().SNI
	}
	host := []byte(nil)
	if o.sub != 0 && r.Req != nil && r.Req.A != nil {
		orig := r.Req.Get(httpmsg.IDEnvoyOriginalHost)
		host = orig
		if o.sub2 == fromPlain || o.sub2 == fromOrigOrPlain && len(orig) == 0 {
			host = r.Req.Host()
		}
	}
	hostFirst := o.sub == 2
	if hostFirst && len(host) > 0 || sni == "" && len(host) > 0 {
		return append(b, host...), text
	}
	return str(b, sni)
}

func (o *op) pathValue(b []byte, r *Record) ([]byte, kind) {
	if r.Req == nil || r.Req.A == nil {
		return b, absent
	}
	p := r.Req.Path()
	if o.code == opPath && o.sub2 != fromPlain {
		if orig, ok := r.Req.GetKey(keyOriginalPath); ok || o.sub2 == fromOrig {
			p = orig
		}
	}
	if len(p) == 0 {
		return b, absent
	}
	q := bytes.IndexByte(p, '?')
	switch {
	case o.code == opPath:
		if o.sub == 1 && q >= 0 {
			p = p[:q]
		}
		return o.bytes(b, p, true)
	case q < 0:
		return b, absent
	}
	query := p[q+1:]
	if f := bytes.IndexByte(query, '#'); f >= 0 {
		query = query[:f]
	}
	from := len(b)
	if o.code == opQueryParams {
		if o.sub == 1 {
			return o.cut(appendDecoded(b, query), from), text
		}
		return o.bytes(b, query, true)
	}
	for len(query) > 0 {
		var kv []byte
		kv, query, _ = bytes.Cut(query, []byte{'&'})
		k, v, _ := bytes.Cut(kv, []byte{'='})
		n := len(b)
		b = appendUnescaped(b, k)
		match := string(b[n:]) == o.text
		b = b[:n]
		if match {
			return o.cut(appendUnescaped(b, v), from), text
		}
	}
	return b, absent
}

var keyOriginalPath = key("x-envoy-original-path")

// appendUnescaped decodes %XX; anything else, malformed escapes included, is copied.
func appendUnescaped(b, s []byte) []byte {
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			hi, ok1 := unhex(s[i+1])
			lo, ok2 := unhex(s[i+2])
			if ok1 && ok2 {
				b = append(b, hi<<4|lo)
				i += 2
				continue
			}
		}
		b = append(b, s[i])
	}
	return b
}

// appendDecoded decodes a whole query as QUERY_PARAMS(DECODED) prints it: escapes of controls and spaces stay, a stray '%' goes.
func appendDecoded(b, s []byte) []byte {
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b = append(b, s[i])
			continue
		}
		if i+2 < len(s) {
			hi, ok1 := unhex(s[i+1])
			lo, ok2 := unhex(s[i+2])
			if c := hi<<4 | lo; ok1 && ok2 {
				if c <= ' ' || c == 0x7f {
					b = append(b, s[i:i+3]...)
				} else {
					b = append(b, c)
				}
				i += 2
			}
		}
	}
	return b
}

func unhex(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

func (o *op) coalesce(b []byte, r *Record, typed bool) ([]byte, kind) {
	from := len(b)
	for i := range o.ops {
		var k kind
		b, k = o.ops[i].append(b, r, typed)
		if k != absent && len(b) > from {
			if k == text || !typed {
				b = o.cut(b, from)
			}
			return b, k
		}
		b = b[:from]
	}
	return b, absent
}

func appendUUID(b []byte) []byte {
	var u [16]byte
	hi, lo := rand.Uint64(), rand.Uint64()
	for i := range 8 {
		u[i], u[8+i] = byte(hi>>(8*i)), byte(lo>>(8*i))
	}
	u[6] = u[6]&0x0f | 0x40 // RFC 9562 section 5.4
	u[8] = u[8]&0x3f | 0x80
	for i, cut := range [...]int{0, 4, 6, 8, 10} {
		end := 16
		if i < 4 {
			end = [...]int{4, 6, 8, 10}[i]
		}
		if i > 0 {
			b = append(b, '-')
		}
		b = hex.AppendEncode(b, u[cut:end])
	}
	return b
}
