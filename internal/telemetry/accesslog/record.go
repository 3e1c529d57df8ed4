// SPDX-License-Identifier: Apache-2.0

// Package accesslog turns the facts of one request or connection (a Record) into text or JSON by a format compiled to op-codes. It is also
// what Envoy calls the substitution formatter: header mutations and local replies use the same operators.
package accesslog

import (
	"sidecar/dataplane/fault"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/identity"
	"sidecar/dataplane/match"
	"sidecar/dataplane/sys"
)

// ConnInfo is what is known of the downstream connection. Owner: the connection; it outlives every Record that points to it. Most connections are
// idle, so it is small: what connections have in common is shared (ConnSide), what few of them have is made on demand (ConnExtra).
type ConnInfo struct {
	ID     uint64
	Start  int64    // Unix nanoseconds
	Remote sys.Addr // after PROXY protocol / original source
	// ConnSide is never nil in a live connection.
	*ConnSide
	// TLS is what the handshake agreed on; nil on a plain connection and before it is done.
	TLS    *identity.Session
	extra  *ConnExtra // nil: noExtra
	direct *sys.Addr  // the socket's peer; nil = Remote
}

// ConnSide is the proxy's side of a connection. Immutable, because connections of one listener share it.
type ConnSide struct {
	Local           sys.Addr // after original destination
	DirectLocal     sys.Addr // the socket's own address
	Listener        string
	FilterChain     string
	ListenerMeta    map[string]any // listener metadata: filter_metadata
	FilterChainMeta map[string]any // metadata of the matched filter chain
}

// ConnExtra is what only some connections have.
type ConnExtra struct {
	RequestedDst     sys.Addr       // original destination if restored
	SNI              string         // requested_server_name
	ALPN             []string       // as sniffed
	Transport        string         // detected transport: "raw_buffer", "tls"
	JA3              string         //
	Termination      string         // CONNECTION_TERMINATION_DETAILS
	TransportFailure string         // DOWNSTREAM_TRANSPORT_FAILURE_REASON
	LocalClose       string         // DOWNSTREAM_LOCAL_CLOSE_REASON
	DetectedClose    string         // DOWNSTREAM_DETECTED_CLOSE_TYPE: "Normal", "RemoteReset", "LocalReset"
	DynamicMeta      map[string]any // set by listener filters (PROXY protocol TLVs), by namespace
}

// noExtra stands for a connection without extras; it is never written.
var noExtra = ConnExtra{Transport: "raw_buffer", DetectedClose: "Normal"}

// Extra returns what only some connections have, for reading. Never nil.
func (c *ConnInfo) Extra() *ConnExtra {
	if c.extra == nil {
		return &noExtra
	}
	return c.extra
}

// Own returns the extras for writing, making them on first use.
func (c *ConnInfo) Own() *ConnExtra {
	if c.extra == nil {
		x := noExtra
		c.extra = &x
	}
	return c.extra
}

// OriginalDst is where the client meant to go, when that is known: a destination that a listener filter restored, or the address of a transparent
// socket. The address of an ordinary listener is none; connecting there would lead the proxy to itself.
func (c *ConnInfo) OriginalDst() sys.Addr {
	if c.Local == c.DirectLocal && c.Extra().RequestedDst.IsZero() {
		return sys.Addr{}
	}
	return c.Local
}

// DirectRemote is the address of the socket's peer.
func (c *ConnInfo) DirectRemote() sys.Addr {
	if c.direct != nil {
		return *c.direct
	}
	return c.Remote
}

// SetRemote replaces the remote address by one that a protocol told (PROXY protocol, original source); the socket's peer stays known.
func (c *ConnInfo) SetRemote(a sys.Addr) {
	if c.direct == nil {
		d := c.Remote
		c.direct = &d
	}
	c.Remote = a
}

// View makes c a copy of from with another remote address, for one request (x-forwarded-for). It does not allocate; from must outlive c.
func (c *ConnInfo) View(from *ConnInfo, remote sys.Addr) {
	*c = *from
	if c.direct == nil {
		c.direct = &from.Remote
	}
	c.Remote = remote
}

// NewConnInfo makes the facts of a connection between two addresses with a side of its own.
func NewConnInfo(id uint64, start int64, remote, local sys.Addr) *ConnInfo {
	return &ConnInfo{ID: id, Start: start, Remote: remote, ConnSide: &ConnSide{Local: local, DirectLocal: local}}
}

// Attempt is one upstream host that was tried.
type Attempt struct {
	Host   sys.Addr
	Name   string
	ConnID uint64 // 0 when no connection came about
}

// Unset marks a time that did not happen.
const Unset int64 = -1

// Bytes is what one request, or one TCP connection, took of the connections that carried it. An HTTP/2 stream has its frames; HTTP/1 has all bytes in WireIn
// and WireOut, and heads without their first line.
type Bytes struct {
	WireIn, WireOut   uint64 // DOWNSTREAM_WIRE_BYTES_*, UPSTREAM_WIRE_BYTES_*
	HeadIn, HeadOut   uint64 // DOWNSTREAM_HEADER_BYTES_*, UPSTREAM_HEADER_BYTES_*
	PlainIn, PlainOut uint64 // DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_*, UPSTREAM_DECOMPRESSED_HEADER_BYTES_*
}

// Add adds what another try took.
func (b *Bytes) Add(o *Bytes) {
	b.WireIn += o.WireIn
	b.WireOut += o.WireOut
	b.HeadIn += o.HeadIn
	b.HeadOut += o.HeadOut
	b.PlainIn += o.PlainIn
	b.PlainOut += o.PlainOut
}

// Record is one finished (or periodically logged) request or connection. Owner: the exchange or the tunnel; the formatter only reads it.
// All times are nanoseconds since Start.
type Record struct {
	Conn  *ConnInfo
	Start int64 // Unix nanoseconds of the first byte of the request (HTTP) or of the accept (TCP)

	LastDownRx, FirstUpTx, LastUpTx, FirstUpRx, LastUpRx, FirstDownTx, LastDownTx, End int64
	UpConnStart, UpConnDone                                                            int64 // upstream connect of the last attempt, Unset when a pooled connection was used
	UpTLSDone                                                                          int64 // the TLS handshake behind it, Unset without one
	Handshake                                                                          int64 // that of the client; before Start of all but the first request. Valid with Conn.TLS

	Req, Resp                 *httpmsg.Head // nil for TCP or when absent
	ReqTrailers, RespTrailers *httpmsg.Fields

	BytesIn, BytesOut uint64 // body bytes (HTTP) or payload (TCP) received and sent downstream
	Down, Up          Bytes

	Protocol                                                 string // "HTTP/1.1"; "" for TCP
	UpstreamProtocol                                         string
	Code                                                     uint16
	Flags                                                    fault.Flags
	Details                                                  string // RESPONSE_CODE_DETAILS
	UpstreamFailure                                          string // UPSTREAM_TRANSPORT_FAILURE_REASON
	RouteName                                                string
	VirtualHost                                              string
	VirtualCluster                                           string
	Cluster                                                  string // observability name (alt_stat_name) of the chosen cluster
	ClusterRaw                                               string
	UpstreamHost                                             sys.Addr
	UpstreamHostName                                         string
	UpstreamLocal                                            sys.Addr
	UpstreamConnID                                           uint64
	UpstreamRequests                                         uint64 // requests so far on the upstream connection
	Attempts                                                 uint32
	RouteMeta, ClusterMeta, HostMeta, VHostMeta, DynamicMeta map[string]any // filter_metadata by namespace, nested plain values
	FilterState                                              map[string]string
	GrpcMessages                                             GrpcMessages
	Tunnel                                                   *TunnelAnswer // of a TCP connection that keeps it
	RequestID                                                []byte
	StreamID                                                 string
	OriginalPath                                             []byte // path before rewrites, for %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% the header is used
	TraceReason                                              uint8
	Type                                                     Type
	Mirror                                                   bool

	UpstreamTLS           *identity.Session // of the upstream connection, nil when it is plain text
	UpstreamRemote        sys.Addr          // peer of the upstream connection; zero when none came about (UPSTREAM_REMOTE_*)
	PoolReady             int64             // how long the request waited for an upstream connection, Unset when it never got one
	LocalReplyBody        []byte
	Tried                 []Attempt // every host tried, oldest first; the memory is kept by Reset
	UpstreamLocalClose    string    // UPSTREAM_LOCAL_CLOSE_REASON
	UpstreamDetectedClose string    // UPSTREAM_DETECTED_CLOSE_TYPE
	UpstreamFilterState   map[string]string
	HealthCheck           bool           // the request is a health check (not_health_check_filter)
	Runtime               *match.Runtime // generation in force for this exchange; nil is empty
	Clock                 *Clock         // of the worker that formats the record; nil does as well
}

// GrpcStatsState is the filter state object of envoy.filters.http.grpc_stats.
const GrpcStatsState = "envoy.filters.http.grpc_stats"

// GrpcMessages is what that object holds: the messages so far. It is there once one has been counted.
type GrpcMessages struct{ Requests, Responses uint64 }

// TraceReason values: the trace bits of x-request-id that traceable_filter reads.
const (
	TraceNone uint8 = iota
	TraceSampled
	TraceClient
	TraceForced
)

var typeNames = [...]string{"NotSet", "TcpUpstreamConnected", "TcpPeriodic", "TcpConnectionEnd", "DownstreamStart", "DownstreamPeriodic",
	"DownstreamEnd", "UpstreamPoolReady", "UpstreamPeriodic", "UpstreamEnd", 14: "TcpConnectionStart"}

// String is the name of envoy.data.accesslog.v3.AccessLogType.
func (t Type) String() string {
	if int(t) < len(typeNames) {
		return typeNames[t]
	}
	return typeNames[0]
}

// Type is %ACCESS_LOG_TYPE%.
type Type uint8

// The types that are logged.
const (
	NotSet Type = iota
	TCPUpstreamConnected
	TCPPeriodic
	TCPConnectionEnd
	DownstreamStart
	DownstreamPeriodic
	DownstreamEnd
	UpstreamPoolReady
	UpstreamPeriodic
	UpstreamEnd
	_
	_
	_
	_
	TCPConnectionStart
)

// Reset empties the record for reuse. It writes every field in place: a composite literal would be built elsewhere first and copied.
func (r *Record) Reset() {
	tried := r.Tried[:0]
	*r = Record{}
	r.Tried, r.PoolReady, r.End = tried, Unset, Unset
	r.LastDownRx, r.FirstUpTx, r.LastUpTx, r.FirstUpRx, r.LastUpRx, r.FirstDownTx, r.LastDownTx = Unset, Unset, Unset, Unset, Unset, Unset, Unset
	r.UpConnStart, r.UpConnDone, r.UpTLSDone = Unset, Unset, Unset
}
