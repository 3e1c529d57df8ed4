// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"sidecar/dataplane/fault"
	"sidecar/dataplane/http1"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/identity"
	"sidecar/dataplane/match"
	"sidecar/dataplane/route"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/accesslog"
	"sidecar/internal/telemetry/stats"
)

// pathOptions is the connection manager's path handling.
type pathOptions = httpmsg.PathOptions

// onHead looks at a complete request head in the order of Envoy's connection manager: host, path, hop-by-hop fields, addresses, request id, route.
func (x *Exchange) onHead(now sys.Nanos) {
	h, b := x.ch.h, x.ch.hcm
	req := &x.req
	if req.Body == httpmsg.BodyNone {
		x.fl |= xReqEnd
		x.reqDone = now
	}
	if req.Version == httpmsg.HTTP10 {
		req.Remove(keyExpect) // RFC 9110 section 10.1.1: ignored
	} else if req.ExpectContinue && !h.Proxy100Continue {
		req.Remove(keyExpect)
		x.sayContinue()
		x.countCode(100)
	}
	route.JoinRepeated(req)
	connect := req.Method == httpmsg.MethodConnect
	x.fl |= x.grpcFlag()
	switch {
	case req.HostCount == 0:
		x.replyKind(fault.MissingHost)
		return
	case !connect && (req.Target.Len == 0 || req.Path()[0] != '/'):
		b.Inc(stats.HCMDownstreamRqNonRelativePath)
		x.replyKind(fault.AbsolutePathRejected)
		x.local.close = false
		return
	}
	if !connect && !x.cleanPath() {
		return
	}
	if x.stripHost(connect); len(req.Host()) == 0 && !h.H1.Lax {
		x.replyKind(fault.InvalidAuthority) // the host was but a dot
		return
	}
	http1.StripHopByHop(req, false)
	if !x.addresses() {
		return
	}
	x.requestID()
	if x.side.TLS != nil {
		x.tellClientCert()
	}
	if h.Via != "" {
		appendJoined(req, keyVia, h.Via, ", ")
	}
	x.to(stFilter)
	x.startFilters(now)
	x.matchRoute()
}

func (x *Exchange) grpcFlag() uint32 {
	if i := x.req.Find(httpmsg.IDContentType, 0); i >= 0 && match.GRPC(&x.req) {
		return xGrpc | xGrpcUp
	}
	return 0
}

// cleanPath normalises the path; false means that the request was answered.
func (x *Exchange) cleanPath() bool {
	switch x.req.CleanPath(&x.ch.path) {
	case httpmsg.PathRejected:
		x.ch.hcm.Inc(stats.HCMDownstreamRqFailedPathNormalization)
		x.replyKind(fault.PathNormalization)
		return false
	case httpmsg.PathRedirect:
		x.ch.hcm.Inc(stats.HCMDownstreamRqRedirectedWithNormalizedPath)
		x.local = localReply{status: 307, details: "path_normalization_failed", location: x.req.Target, hasLocation: true}
		x.to(stReply)
		return false
	}
	return true
}

// stripHost applies strip_any_host_port, strip_matching_host_port and strip_trailing_host_dot. The port of CONNECT's authority stays.
func (x *Exchange) stripHost(connect bool) {
	h, req := x.ch.h, &x.req
	if h.StripTrailingDot {
		host := req.Host()
		i := httpmsg.PortStart(host)
		switch {
		case i < 0 && len(host) > 0 && host[len(host)-1] == '.':
			req.Authority.Len--
		case i > 0 && host[i-1] == '.':
			b := append(x.reqA.Tail(), host[:i-1]...)
			req.Authority = x.reqA.Take(append(b, host[i:]...))
		}
	}
	if connect || !h.StripAnyPort && !h.StripMatchingPort {
		return
	}
	host := req.Host()
	i := httpmsg.PortStart(host)
	if i < 0 {
		return
	}
	if h.StripMatchingPort {
		p, ok := match.ParseUint(host[i+1:])
		if !ok || p != uint64(x.side.Local.IP.Port()) {
			return
		}
	}
	if _, ok := match.ParseUint(host[i+1:]); ok {
		req.Authority.Len = uint32(i)
	}
}

// What happens to a field of an external request, by id: Envoy's cleanInternalHeaders.
const (
	dropExternal uint8 = 1 << iota // from every external request
	dropEdge                       // only from requests of use_remote_address listeners
	dropAlways                     // from every request: only this hop may set it
)

var dropClass = func() (t [256]uint8) {
	for _, id := range [...]httpmsg.ID{httpmsg.IDEnvoyRetriableCodes, httpmsg.IDEnvoyRetriableHeaders, httpmsg.IDEnvoyRetryOn,
		httpmsg.IDEnvoyRetryGrpcOn, httpmsg.IDEnvoyMaxRetries, httpmsg.IDEnvoyUpstreamAltStatName, httpmsg.IDEnvoyUpstreamTimeout,
		httpmsg.IDEnvoyPerTryTimeout, httpmsg.IDEnvoyTimeoutAlt, httpmsg.IDEnvoyExpectedTimeout, httpmsg.IDEnvoyIPTags,
		httpmsg.IDEnvoyOriginalURL, httpmsg.IDEnvoyHedge, httpmsg.IDEnvoyForceTrace} {
		t[id] = dropExternal
	}
	for _, id := range [...]httpmsg.ID{httpmsg.IDEnvoyDecoratorOperation, httpmsg.IDEnvoyDownstreamServiceCluster,
		httpmsg.IDEnvoyDownstreamServiceNode, httpmsg.IDEnvoyOriginalPath, httpmsg.IDEnvoyOriginalHost} {
		t[id] = dropEdge
	}
	t[httpmsg.IDEnvoyInternal] = dropAlways
	return t
}()

// addresses settles who the client is (x-forwarded-for), and with that x-forwarded-proto, :scheme, and whether the request is internal. False
// means that the request was answered.
func (x *Exchange) addresses() bool {
	h, req, info := x.ch.h, &x.req, x.side
	xff, xfp, others := x.scanHead()
	remote, single := x.clientAddress(xff)
	if len(h.IPDetection) > 0 {
		var ok bool
		if remote, single, ok = x.detectAddress(); !ok {
			return false
		}
	}
	if h.UseRemoteAddr {
		single = xff < 0
		if !remote.IsValid() {
			remote = info.Remote.IP.Addr()
		}
		if !h.SkipXFFAppend {
			x.appendXFF(xff)
		}
		if h.XFFHops == 0 || xfp < 0 {
			xfp = x.setProto(xfp)
		}
	}
	if xfp < 0 {
		xfp = x.setProto(-1)
	}
	if h.AppendXFPort && (h.UseRemoteAddr && h.XFFHops == 0 || req.Find(httpmsg.IDForwardedPort, 0) < 0) {
		var t [8]byte
		req.Set(keyXFPort, info.Local.AppendPort(t[:0]))
	}
	proto := req.Value(xfp)
	x.setScheme(proto)
	internal := single && remote.IsValid() && x.isInternal(remote) || single && h.UseRemoteAddr && h.InternalUnix && info.Remote.IsPipe()
	x.q.Secure = x.q.TLS || isHTTPS(proto)
	if remote.IsValid() && remote != info.Remote.IP.Addr() {
		x.info.View(info, sys.AddrOf(netip.AddrPortFrom(remote, 0)))
		x.rec.Conn = &x.info
	}
	if internal {
		x.fl |= xInternal
		if others&dropExternal != 0 {
			x.fl |= xCallerSays
		}
		req.AddString(keyInternal, "true")
		return true
	}
	edge := h.UseRemoteAddr
	if edge {
		if remote.IsValid() {
			req.Set(keyExternal, x.env.ipText(remote))
		}
	}
	if others != 0 {
		x.dropInternal(edge)
	}
	return true
}

// scanned are the fields that scanHead does anything about.
var scanned = func() httpmsg.IDSet {
	ids := []httpmsg.ID{httpmsg.IDForwardedFor, httpmsg.IDForwardedProto, httpmsg.IDReferer, httpmsg.IDForwardedClientCert}
	for id, class := range dropClass {
		if class != 0 {
			ids = append(ids, httpmsg.ID(id))
		}
	}
	return httpmsg.IDSetOf(ids...)
}()

// scanHead looks once through the head for what addresses and trust depend on: the x-forwarded-for and x-forwarded-proto fields (joined before, so
// there is one of each), and the classes of internal fields. It removes what only this hop may set.
func (x *Exchange) scanHead() (xff, xfp int, others uint8) {
	h, req := x.ch.h, &x.req
	xff, xfp = -1, -1
	if req.NeverAny(scanned) {
		return xff, xfp, 0
	}
	for i := range req.List {
		f := &req.List[i]
		if f.Dead || f.ID == httpmsg.IDOther {
			continue
		}
		switch f.ID {
		case httpmsg.IDForwardedFor:
			if xff < 0 {
				xff = i
			}
		case httpmsg.IDForwardedProto:
			xfp = i
		case httpmsg.IDEnvoyInternal:
			f.Dead = true
		case httpmsg.IDReferer:
			f.Dead = !validReferer(req.Value(i))
		case httpmsg.IDForwardedClientCert:
			f.Dead = h.ForwardClientCert.Decide(x.side.TLS) == identity.XFCCRemove
		default:
			others |= dropClass[f.ID]
		}
	}
	return xff, xfp, others
}

func (x *Exchange) dropInternal(edge bool) {
	mask := dropExternal
	if edge {
		mask |= dropEdge
	}
	for i := range x.req.List {
		if f := &x.req.List[i]; dropClass[f.ID]&mask != 0 {
			f.Dead = true
		}
	}
}

// tellClientCert adds the client's element to x-forwarded-client-cert, or replaces the field by it; what must not pass is gone already.
func (x *Exchange) tellClientCert() {
	h, req := x.ch.h, &x.req
	do := h.ForwardClientCert.Decide(x.side.TLS)
	if do != identity.XFCCAppend && do != identity.XFCCSet {
		return
	}
	b := x.reqA.Tail()
	at := req.Find(httpmsg.IDForwardedClientCert, 0)
	if do == identity.XFCCAppend && at >= 0 && req.List[at].Value.Len > 0 {
		b = append(append(b, req.Value(at)...), ',')
	}
	v := x.reqA.Take(h.ClientCertDetails.AppendElement(b, x.side.TLS))
	if at < 0 {
		req.AddSpan(keyClientCert, v)
		return
	}
	req.List[at].Value = v
}

// validReferer is Envoy's idea of a referer that may pass: an absolute URL with a host and without userinfo and fragment, or a relative reference
// whose first segment has no colon.
func validReferer(v []byte) bool {
	i := 0
	for i < len(v) && (v[i]|0x20 >= 'a' && v[i]|0x20 <= 'z' || i > 0 && (v[i] >= '0' && v[i] <= '9' || v[i] == '+' || v[i] == '-' || v[i] == '.')) {
		i++
	}
	if i > 0 && len(v) > i+3 && string(v[i:i+3]) == "://" && v[i+3] != '/' && v[i+3] != ':' {
		rest := v[i+3:]
		end := bytes.IndexAny(rest, "/?#")
		if end < 0 {
			end = len(rest)
		}
		return bytes.IndexByte(rest[:end], '@') < 0 && bytes.IndexByte(rest, '#') < 0
	}
	colon, slash := bytes.IndexByte(v, ':'), bytes.IndexByte(v, '/')
	return colon < 0 || slash >= 0 && slash < colon
}

// clientAddress reads the trusted client address from x-forwarded-for; single tells that the field holds exactly one address.
func (x *Exchange) clientAddress(xff int) (a netip.Addr, single bool) {
	h := x.ch.h
	if xff < 0 || h.UseRemoteAddr && h.XFFHops == 0 {
		return a, false
	}
	skip := int(h.XFFHops)
	if h.UseRemoteAddr {
		skip--
	}
	item, n, ok := x.req.ForwardedFor(skip)
	if !ok {
		return a, false
	}
	if a, ok = httpmsg.ParseAddr(item); !ok {
		return netip.Addr{}, false
	}
	return a, n == 1
}

// The loopback addresses that Envoy knows; 127.0.0.2 is like any other to it.
var loopback4, loopback6 = netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()

// appendXFF adds the peer; a loopback peer is this node to everyone else.
func (x *Exchange) appendXFF(xff int) {
	a := x.side.Remote
	if !a.IP.IsValid() {
		return // a Unix peer has no address
	}
	addr := a.IP.Addr().Unmap()
	if (addr == loopback4 || addr == loopback6) && x.env.LocalIP.IsValid() {
		addr = x.env.LocalIP
	}
	ip := x.env.ipText(addr)
	if xff < 0 {
		x.req.Add(keyXFF, ip)
		return
	}
	b := append(x.reqA.Tail(), x.req.Value(xff)...)
	b = append(b, ',')
	x.req.List[xff].Value = x.reqA.Take(append(b, ip...))
}

// setProto sets x-forwarded-proto, which is at that index or, if it is negative, not there, and returns its index.
func (x *Exchange) setProto(at int) int {
	p := "http"
	if x.q.TLS {
		p = "https"
	}
	if at >= 0 {
		x.req.SetString(keyXFP, p)
		return at
	}
	x.req.AddString(keyXFP, p)
	return len(x.req.List) - 1
}

// setScheme: HTTP/2 requests carry a scheme, which stays if it is http or https, in lower case. HTTP/1 requests have none; x-forwarded-proto decides
// when it is a scheme, else the transport.
func (x *Exchange) setScheme(proto []byte) {
	req := &x.req
	if s := x.ch.h.SchemeOverwrite; s != "" {
		req.SetScheme(s)
		return
	}
	switch s := req.SchemeBytes(); {
	case string(s) == "http" || string(s) == "https":
	case isHTTPS(s):
		req.SetScheme("https")
	case bytes.EqualFold(s, schemeHTTP):
		req.SetScheme("http")
	case string(proto) == "http" || len(proto) == len("http") && bytes.EqualFold(proto, schemeHTTP):
		req.SetScheme("http")
	case x.q.TLS || isHTTPS(proto):
		req.SetScheme("https")
	default:
		req.SetScheme("http")
	}
}

var schemeHTTP, schemeHTTPS = []byte("http"), []byte("https")

// isHTTPS tells whether x-forwarded-proto says https, in any case.
func isHTTPS(p []byte) bool { return len(p) == len("https") && bytes.EqualFold(p, schemeHTTPS) }

// isInternal: only internal_address_config counts.
func (x *Exchange) isInternal(a netip.Addr) bool { return within(x.ch.h.InternalRanges, a) }

// appendJoined adds value to a list field, making it if it is not there.
func appendJoined(h *httpmsg.Head, k httpmsg.Key, value, sep string) {
	at := -1
	b := h.A.Tail()
	for i := h.FindKey(k, 0); i >= 0; i = h.FindKey(k, i+1) {
		if at < 0 {
			at = i
		} else {
			b = append(b, ',') // repeated lines are one list
			h.List[i].Dead = true
		}
		b = append(b, h.Value(i)...)
	}
	if at < 0 {
		h.AddString(k, value)
		return
	}
	if len(b) > len(h.A.Tail()) {
		b = append(b, sep...)
	}
	h.List[at].Value = h.A.Take(append(b, value...))
}

// traceChar is the position in a uuid where Envoy keeps the trace decision.
const traceChar = 14

// requestID makes, keeps or replaces x-request-id and settles its trace bits.
func (x *Exchange) requestID() {
	h, req := x.ch.h, &x.req
	i := req.Find(httpmsg.IDRequestID, 0)
	if h.GenerateRequestID {
		edge := !x.has(xInternal) && h.UseRemoteAddr
		if i < 0 || edge && !h.PreserveExternalRequestID {
			i = x.newRequestID(i)
		} else if edge && h.PackTraceReason {
			x.setTrace(i, '4')
		}
	}
	if i < 0 {
		return
	}
	x.rec.RequestID = req.Value(i)
	if h.Tracing != nil {
		x.trace(i)
		x.rec.TraceReason = traceOf(x.rec.RequestID)
	}
}

// newRequestID sets x-request-id, which is at that index or, if it is negative, not there, and returns its index.
func (x *Exchange) newRequestID(at int) int {
	var t [36]byte
	hi, lo := x.env.L.Rand(), x.env.L.Rand()
	d := hex8(uint32(hi))
	binary.LittleEndian.PutUint64(t[0:], d)
	d = hex8(uint32(hi >> 32))
	binary.LittleEndian.PutUint32(t[9:], uint32(d))
	binary.LittleEndian.PutUint32(t[14:], uint32(d>>32))
	d = hex8(uint32(lo))
	binary.LittleEndian.PutUint32(t[19:], uint32(d))
	binary.LittleEndian.PutUint32(t[24:], uint32(d>>32))
	binary.LittleEndian.PutUint64(t[28:], hex8(uint32(lo>>32)))
	t[8], t[13], t[18], t[23] = '-', '-', '-', '-'
	t[traceChar] = '4'
	t[19] = "89ab"[t[19]&3]
	if at >= 0 {
		x.req.Set(keyRequestID, t[:])
		return at
	}
	x.req.Add(keyRequestID, t[:])
	return len(x.req.List) - 1
}

// hex8 returns the eight hexadecimal digits of v, as bytes of a word: each half byte is moved into a byte of its own, then all eight become
// letters or figures at once. The order of the digits is of no use for a random number.
func hex8(v uint32) uint64 {
	w := uint64(v)
	w = (w | w<<16) & 0x0000ffff0000ffff
	w = (w | w<<8) & 0x00ff00ff00ff00ff
	w = (w | w<<4) & 0x0f0f0f0f0f0f0f0f
	letters := (w + 0x0606060606060606) >> 4 & 0x0101010101010101
	return w + 0x3030303030303030 + letters*('a'-'0'-10)
}

func isUUID(v []byte) bool {
	if len(v) != 36 {
		return false
	}
	for i, c := range v {
		switch i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if !('0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F') {
				return false
			}
		}
	}
	return true
}

func traceOf(id []byte) uint8 {
	if len(id) != 36 || id[traceChar] == '4' {
		return accesslog.TraceNone // what nearly all of them are; the rest is looked at closely
	}
	reason := accesslog.TraceNone
	switch id[traceChar] {
	case '9':
		reason = accesslog.TraceSampled
	case 'a':
		reason = accesslog.TraceForced
	case 'b':
		reason = accesslog.TraceClient
	}
	if reason != accesslog.TraceNone && !isUUID(id) {
		return accesslog.TraceNone
	}
	return reason
}

// setTrace writes the trace character; the id is copied, as it may be borrowed from the head as received.
func (x *Exchange) setTrace(i int, c byte) {
	v := x.req.Value(i)
	if !isUUID(v) || v[traceChar] == c {
		return
	}
	b := append(x.reqA.Tail(), v...)
	b[len(b)-len(v)+traceChar] = c
	x.req.List[i].Value = x.reqA.Take(b)
	x.rec.RequestID = x.req.Value(i)
}

// trace decides whether the request is traced, as Envoy's mutateTracingRequestHeader: the decision is packed into the request id.
func (x *Exchange) trace(i int) {
	h, t := x.ch.h, x.ch.h.Tracing
	v := x.req.Value(i)
	if !isUUID(v) || !h.RequestIDSampling {
		return
	}
	var n uint64
	for _, c := range v[:8] {
		n = n<<4 | uint64(unhex(c))
	}
	sample := n % 10000
	rt := x.rec.Runtime
	reason := v[traceChar]
	if reason != '9' && reason != 'a' && reason != 'b' {
		reason = '4'
		switch {
		case x.req.Find(httpmsg.IDClientTraceID, 0) >= 0 && hit(rt, "tracing.client_enabled", t.Client, x.q.Rand):
			reason = 'b'
		case hit(rt, "tracing.random_sampling", t.Random, sample):
			reason = '9'
		}
	}
	if reason != '4' && !hit(rt, "tracing.global_enabled", t.Overall, sample) {
		reason = '4'
	}
	if h.PackTraceReason {
		x.setTrace(i, reason)
	}
}

func hit(rt *match.Runtime, key string, f match.Fraction, rnd uint64) bool {
	if f.Den == 0 {
		return false
	}
	f = rt.Fraction(match.RuntimeFraction{Default: f, Key: key})
	// Envoy's sample has a resolution of 10,000 whatever the denominator of the fraction is.
	return rnd%10000*uint64(f.Den) < uint64(f.Num)*10000
}

func unhex(c byte) byte {
	switch {
	case c >= 'a':
		return c - 'a' + 10
	case c >= 'A':
		return c - 'A' + 10
	}
	return c - '0'
}

// matchRoute finds the route of the present head.
func (x *Exchange) matchRoute() {
	x.fl &^= xClearRoute
	x.table = x.env.Snap.RoutesOf(x.ch.h, &x.req)
	x.entry, x.vh = nil, nil
	if x.table == nil || len(x.req.Get(httpmsg.IDForwardedProto)) == 0 {
		return // Envoy finds no route for an empty x-forwarded-proto
	}
	if len(x.table.InternalOnly) > 0 && !x.has(xInternal) {
		x.table.StripInternal(&x.req)
	}
	var v route.Verdict
	x.entry, x.vh, v = x.table.Match(&x.q)
	if x.vh != nil {
		x.rec.VirtualHost = x.vh.Name
		x.rec.VHostMeta = x.vh.Metadata
	}
	if v == route.TLSRedirect {
		x.local = localReply{status: 301, tls: true}
		return
	}
	e := x.entry
	if e == nil {
		return
	}
	x.rec.RouteName = e.Name
	x.rec.RouteMeta = e.Metadata
	if f := e.Forward; f != nil {
		if f.IdleTimeout != route.Unset {
			x.streamIdle = f.IdleTimeout
		}
		x.maxStream = f.StreamDuration(&x.req, x.maxStream)
	}
}

// badBody looks, while the request waits for a connection, whether the chunked body that is here already is malformed: such a request is refused
// before any of it is sent. Nothing is consumed; relay reads the same bytes again.
func (x *Exchange) badBody() fault.Kind {
	if x.req.Body != httpmsg.BodyChunked || x.has(xReqEnd) || x.has(xPrebuf) || x.has(xUpgrade) {
		return fault.None
	}
	mark := x.respA.Len() // respTr takes the trailers meanwhile; there is no response yet
	n, k := x.reqIn.malformed(&x.respTr)
	x.respTr.Reset(&x.respA)
	x.respA.Truncate(mark)
	if k != fault.None {
		x.rec.BytesIn += uint64(n)
	}
	return k
}
