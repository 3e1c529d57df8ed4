// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"net/netip"
	"sidecar/dataplane/filter"
	"sidecar/dataplane/http1"
	"sidecar/dataplane/http2"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/identity"
	"sidecar/dataplane/match"
	"sidecar/dataplane/route"
	"sidecar/dataplane/sys"
	"sidecar/dataplane/transport/tls/policy"
	"sidecar/internal/telemetry/accesslog"
	"sidecar/internal/telemetry/stats"
)

// Listener is a compiled envoy.config.listener.v3.Listener. Immutable.
type Listener struct {
	Name              string
	Hash              uint64       // content hash of the resource; equal = nothing to do
	SocketKey         uint64       // hash of exactly what needs other sockets or a full replacement; equal with another Hash = in-place filter-chain update
	Addrs             []ListenAddr // address and additional_addresses
	Internal          bool         // internal_listener: reached by name from this process only; no Addrs
	Bind              bool         // bind_to_port
	Direction         Direction
	DrainModifyOnly   bool
	UseOriginalDst    bool // hand over to the listener of the restored destination
	Transparent       bool
	Static            bool
	BufferLimit       int    // per_connection_buffer_limit_bytes, default 1 MiB
	MaxAccept         int    // max_connections_to_accept_per_socket_event; 0 = default bound
	MaxConns          uint64 // runtime envoy.resource_limits.listener.NAME.connection_limit; 0 = none
	IgnoreGlobalLimit bool
	FiltersTimeout    sys.Nanos // listener_filters_timeout, default 15 s, 0 = none
	ContinueOnTimeout bool

	Filters []ListenerFilter
	Chains  []*FilterChain
	Default *FilterChain
	Match   *ChainIndex // over Chains
	// Found has the chains whose network filter came over ECDS, by the chain as configured; those whose filter has no configuration are not in it.
	Found      map[*FilterChain]*FilterChain
	AccessLogs []*accesslog.Logger
	Metadata   map[string]any

	TLSStats     TLSScopes
	Scope        *stats.Scope   // stats.ListenerDef, "listener.ADDR."
	StatName     string         // ADDR part or stat_prefix
	WorkerScopes []*stats.Scope // per-worker downstream_cx_*, "listener.ADDR.worker_N."
}

// With is the listener with other configurations of what comes over ECDS; nothing else differs, and what is shared is not copied.
func (l *Listener) With(filters []ListenerFilter, found map[*FilterChain]*FilterChain) *Listener {
	c := *l
	c.Filters, c.Found = filters, found
	return &c
}

// Missing tells whether a listener filter has no configuration.
func (l *Listener) Missing() bool {
	for i := range l.Filters {
		if l.Filters[i].Kind == FilterMissing {
			return true
		}
	}
	return false
}

// Direction is traffic_direction.
type Direction uint8

// The directions.
const (
	DirectionUnspecified Direction = iota
	Inbound
	Outbound
)

// ListenAddr is one address of a listener.
type ListenAddr struct {
	Addr sys.Addr
	Opts sys.ListenOpts
}

// ListenerFilterKind is one of the built-in listener filters.
type ListenerFilterKind uint8

// The listener filters.
const (
	FilterOriginalDst ListenerFilterKind = iota
	FilterProxyProtocol
	FilterTLSInspector
	FilterHTTPInspector
	FilterOriginalSrc // refused for now by the compiler
	FilterMissing     // takes its configuration over ECDS, and there is none: connections are closed
)

// ListenerFilter is one configured listener filter.
type ListenerFilter struct {
	Kind     ListenerFilterKind
	Name     string
	Disabled *ListenerPredicate // filter_disabled; nil = always enabled
	// proxy_protocol
	AllowRequestsWithoutProxy bool
	DisallowV1, DisallowV2    bool
	Rules                     []TLVRule
	StatPrefix                string
	Scope                     *stats.Scope
	ErrScope                  *stats.Scope // stats.ProxyProtoErrorDef, without prefix; proxy_protocol only
}

// TLVRule stores one PROXY v2 TLV as dynamic metadata.
type TLVRule struct {
	Type      byte
	Namespace string
	Key       string
}

// ListenerPredicate is ListenerFilterChainMatchPredicate.
type ListenerPredicate struct {
	Any                bool
	Or, And            []*ListenerPredicate
	Not                *ListenerPredicate
	PortStart, PortEnd uint16 // destination_port_range [start,end)
	IsPort             bool
}

// Eval tells whether p matches a connection to the given destination port.
func (p *ListenerPredicate) Eval(port uint16) bool {
	switch {
	case p == nil:
		return false
	case p.Any:
		return true
	case p.IsPort:
		return port >= p.PortStart && port < p.PortEnd
	case p.Not != nil:
		return !p.Not.Eval(port)
	case p.Or != nil:
		for _, q := range p.Or {
			if q.Eval(port) {
				return true
			}
		}
		return false
	}
	for _, q := range p.And {
		if !q.Eval(port) {
			return false
		}
	}
	return true
}

// FilterChain is one filter chain. Exactly one of HTTP and TCP is set, or neither: then connections are closed after accept.
type FilterChain struct {
	Name           string
	DrainKey       uint64 // hash of the chain's bytes: equal = its connections stay
	Match          ChainMatch
	HTTP           *HCM
	TCP            *TCPProxy
	TLS            *policy.Server // transport_socket; nil = plain text
	ConnectTimeout sys.Nanos      // transport_socket_connect_timeout
	Metadata       map[string]any
	Discovered     bool // its network filter takes its configuration over ECDS: see Listener.Found
}

// Release gives back the statistics of the chain's protocol. Control side.
func (c *FilterChain) Release() {
	if h := c.HTTP; h != nil {
		release(h.Scope, h.ListenerScope, h.H1Scope, h.H2Scope)
	}
	if t := c.TCP; t != nil {
		release(t.Scope)
	}
}

// Release gives back the statistics of the filter. Control side.
func (f *ListenerFilter) Release() { release(f.Scope) }

func release(list ...*stats.Scope) {
	for _, s := range list {
		if s != nil {
			s.Release()
		}
	}
}

// ChainMatch is filter_chain_match as configured; ChainIndex makes a program of all of them.
type ChainMatch struct {
	DestPort           uint16 // 0 = any
	DestRanges         []netip.Prefix
	ServerNames        []string
	Transport          string
	ALPN               []string
	SourceType         uint8 // 0 any, 1 same ip or loopback, 2 external
	DirectSourceRanges []netip.Prefix
	SourceRanges       []netip.Prefix
	SourcePorts        []uint16
}

// HCM is a compiled HttpConnectionManager. Immutable.
type HCM struct {
	StatPrefix string
	Routes     *route.TableRef  // RDS or inline
	Scoped     *route.ScopesRef // scoped_routes; Routes is nil then
	RDS        bool
	Codec      Codec
	H1         http1.Options
	H2         http2.Options

	ServerName                                                                 string
	ServerHeader                                                               ServerHeader
	UseRemoteAddr                                                              bool
	SkipXFFAppend                                                              bool
	XFFHops                                                                    uint32
	IPDetection                                                                []IPDetection // original_ip_detection_extensions, in order
	Via                                                                        string
	AppendXFPort                                                               bool
	InternalRanges                                                             []netip.Prefix // internal_address_config
	InternalUnix                                                               bool
	GenerateRequestID, PreserveExternalRequestID, AlwaysSetRequestIDInResponse bool
	RequestIDSampling                                                          bool // use_request_id_for_trace_sampling / pack_trace_reason
	PackTraceReason                                                            bool
	Proxy100Continue                                                           bool
	StripAnyPort, StripMatchingPort, StripTrailingDot                          bool
	NormalizePath, MergeSlashes                                                bool
	EscapedSlashes                                                             httpmsg.EscapedSlashes
	RejectFragment                                                             bool                       // runtime http_reject_path_with_fragment (default true)
	ForwardClientCert                                                          identity.ForwardClientCert // forward_client_cert_details
	ClientCertDetails                                                          identity.ClientCertDetails // set_current_client_cert_details
	SchemeOverwrite                                                            string                     // scheme_header_transformation.scheme_to_overwrite

	RequestTimeout, HeadersTimeout, StreamIdle, DrainTimeout, DelayedClose sys.Nanos // StreamIdle default 5 min, DrainTimeout 5 s, DelayedClose 1 s
	ConnIdle, MaxConnDuration, MaxStream                                   sys.Nanos // common_http_protocol_options; ConnIdle default 1 h; 0 = none
	DrainJitter                                                            sys.Nanos // drain_timeout_jitter: by less than this draining may take longer
	StreamErrors                                                           bool      // stream_error_on_invalid_http_message of HTTP/1
	MaxConnJitter                                                          sys.Nanos // max_connection_duration_jitter of MaxConnDuration: by less than this a connection may live longer
	MaxRequestsPerConn                                                     uint32
	Upgrades                                                               []HCMUpgrade
	Filters                                                                []HTTPFilter // in order, without the router unless that is discovered
	Router                                                                 Router       // the default while one is discovered
	AccessLogs                                                             []*accesslog.Logger
	LogFlushInterval                                                       sys.Nanos // periodic access log
	LogOnNewRequest                                                        bool
	LocalReply                                                             *LocalReply
	Tracing                                                                *Tracing

	Scope         *stats.Scope // stats.HCMDef, "http.PREFIX."
	ListenerScope *stats.Scope // stats.HCMListenerDef, "listener.ADDR.http.PREFIX."
	H1Scope       *stats.Scope // "http1." codec stats
	H2Scope       *stats.Scope // "http2." codec stats
}

// IPDetection is one of original_ip_detection_extensions: envoy.http.original_ip_detection.custom_header when Custom is set, else .xff. The first
// one that finds an address decides.
type IPDetection struct {
	// custom_header
	Custom       bool
	Header       httpmsg.Key
	Trusted      bool   // allow_extension_to_set_address_as_trusted
	RejectStatus uint16 // reject_with_status; 0 leaves the request to the next extension

	// xff
	Hops      uint32         // xff_num_trusted_hops
	Ranges    []netip.Prefix // xff_trusted_cidrs; Hops does not count when there are any
	AppendXFF bool           // skip_xff_append: false
}

// Tracing is the part of HCM.tracing that has effect without a provider: sampling decides the trace bits of x-request-id.
type Tracing struct {
	Client, Random, Overall match.Fraction
}

// Codec is codec_type.
type Codec uint8

// The codecs.
const (
	CodecAuto Codec = iota
	CodecHTTP1
	CodecHTTP2
)

// ServerHeader is server_header_transformation.
type ServerHeader uint8

// The transformations.
const (
	ServerOverwrite ServerHeader = iota
	ServerAppendIfAbsent
	ServerPassThrough
)

// HCMUpgrade is one upgrade_configs entry.
type HCMUpgrade struct {
	Type    string // lower case
	Enabled bool
}

// HTTPFilter is one configured HTTP filter that is not the router.
type HTTPFilter struct {
	Name     string
	Disabled bool
	Config   any // a factory declared in dataplane/filter
}

// Router is envoy.filters.http.router.
type Router struct {
	SuppressEnvoyHeaders bool
	DynamicStats         bool // default true
	SuppressGrpcCodes    bool // the codes of gRPC responses are not counted
	StrictCheck          []httpmsg.Key
	UpstreamLogs         []*accesslog.Logger
	LogOnNewRequest      bool
}

// LocalReply is local_reply_config.
type LocalReply struct {
	Mappers     []LocalReplyMapper
	Body        *accesslog.Format
	ContentType string
}

// LocalReplyMapper rewrites matching local replies.
type LocalReplyMapper struct {
	Filter      accesslog.Filter
	Status      uint16 // 0 = keep
	Body        []byte
	HasBody     bool
	Format      *accesslog.Format
	ContentType string
	Headers     route.Mutations
}

// TCPProxy is a compiled envoy.extensions.filters.network.tcp_proxy. Immutable.
type TCPProxy struct {
	StatPrefix              string
	Cluster                 *route.ClusterRef
	Weighted                *route.Weighted
	IdleTimeout             sys.Nanos          // default 1 h; 0 = none
	MaxConnectAttempts      uint32             // default 1
	MaxDuration             sys.Nanos          // max_downstream_connection_duration; 0 = none
	MaxDurationJitter       sys.Nanos          // by less than this a connection may live longer
	Hash                    []route.HashPolicy // source_ip, filter_state
	AccessLogs              []*accesslog.Logger
	LogFlushInterval        sys.Nanos
	LogOnConnected          bool
	LogOnStart              bool
	BackoffBase, BackoffMax sys.Nanos
	MetadataMatch           map[string]any
	Tunneling               *Tunneling            // nil: bytes go upstream as they are
	OnDemand                *filter.ClusterSource // of clusters that are not there; nil = they are not asked for
	Scope                   *stats.Scope          // stats.TCPDef, "tcp.PREFIX."
	DemandScope             *stats.Scope          // stats.TCPDemandDef, with the same prefix; nil without OnDemand
}

// Tunneling is TcpProxy.tunneling_config: the bytes go through an upstream HTTP proxy. Immutable.
type Tunneling struct {
	Hostname        *accesslog.Format // the target of the CONNECT
	Headers         route.HeaderOps
	PostPath        string      // POST to this path in place of CONNECT; "" for CONNECT
	RequestIDHeader httpmsg.Key // of the generated request id; without a name there is none
	RequestIDKey    string      // of the request id in the dynamic metadata
	KeepHead        bool        // propagate_response_headers
	KeepTrailers    bool        // propagate_response_trailers
}
