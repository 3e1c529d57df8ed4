// SPDX-License-Identifier: Apache-2.0

// Package route holds compiled route tables: virtual hosts, matchers, actions, policies. A Table is immutable; Match is pure, sub-linear in
// the number of routes and allocation free.
package route

import (
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/match"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/accesslog"
	"sidecar/internal/telemetry/stats"
)

// ClusterRef is the interned name of a cluster: snapshots and workers find the cluster by ID, so routes need no recompilation when clusters
// come and go. One ref per name per process.
type ClusterRef struct {
	Name string
	ID   uint32
}

// TableRef stands for a route configuration: the interned name of an RDS resource, or a table that came with its listener.
type TableRef struct {
	Name string
	ID   uint32
	// Inline is the table itself when it came with the listener: it lives exactly as long as the filter chain that holds the ref.
	Inline *Table
}

// Query is what matching may look at. Owner: the exchange; reused.
type Query struct {
	Head    *httpmsg.Head
	Rec     *accesslog.Record
	Rand    uint64 // one draw per request, as Envoy's stream random value
	TLS     bool   // downstream transport is TLS
	Secure  bool   // scheme is https for require_tls
	Runtime *match.Runtime

	// NoEnvoyHeaders is the router's suppress_envoy_headers: rewrites then leave no x-envoy-original-path and -host.
	NoEnvoyHeaders bool
	// ClientCert and ClientCertValid tell of the downstream's TLS client certificate, for tls_context matchers.
	ClientCert, ClientCertValid bool

	scratch []byte // lower-case host or path while matching; grows to its working size once
}

// ActionKind says what a route does.
type ActionKind uint8

// The actions.
const (
	ActionForward ActionKind = iota
	ActionRedirect
	ActionDirect
	ActionNonForwarding
)

// Entry is one route. Immutable.
type Entry struct {
	Name  string
	VHost *VirtualHost
	Kind  ActionKind

	Forward  *Forward
	Redirect *Redirect
	Direct   *Direct

	Path PathMatch   // what the path must be
	Cond *Conditions // what else must hold; nil = nothing

	Mutations        Mutations // this level only; FinalizeRequest applies all four levels in the right order
	PerFilter        []PerFilter
	Metadata         map[string]any
	StatPrefix       string
	Stats            *stats.Scope // vhost.NAME.route.STAT_PREFIX., nil when not asked for
	RequestBodyLimit int64        // per_request_buffer_limit_bytes; < 0 = unset

	// Set by Freeze
	order     int32 // index in VHost.Routes
	requests  bool  // this level or one above mutates requests
	responses bool  // … responses
}

// PerFilter is one typed_per_filter_config entry after compilation; Config is what the filter's row made of it.
type PerFilter struct {
	Filter   string
	Config   any
	Disabled bool
}

// VirtualHost is one virtual host. Immutable.
type VirtualHost struct {
	Name                                 string
	Domains                              []string // as configured
	Routes                               []*Entry // in configured order
	Table                                *Table
	RequireTLS                           uint8 // 0 none, 1 external only, 2 all
	Mutations                            Mutations
	PerFilter                            []PerFilter
	Metadata                             map[string]any
	Retry                                *Retry
	Mirrors                              []Mirror
	IncludeAttempts, IncludeAttemptsResp bool // include_request_attempt_count, include_attempt_count_in_response
	VirtualClusters                      []VirtualCluster
	Scope                                *stats.Scope
	index                                *index // owned by table.go
}

// VirtualCluster counts requests that match.
type VirtualCluster struct {
	Name    string
	Headers []match.Header
	Scope   *stats.Scope
}

// Unset marks a duration that the configuration leaves to a wider level.
const Unset sys.Nanos = -1

// Forward is RouteAction. Immutable.
type Forward struct {
	Cluster        *ClusterRef  // plain cluster, or nil
	Weighted       *Weighted    // weighted_clusters, or nil
	ClusterHeader  *httpmsg.Key // cluster_header, or nil
	NotFoundStatus uint16       // cluster_not_found_response_code

	PrefixRewrite    string
	HasPrefixRewrite bool
	RegexRewrite     *match.Regex
	RegexSubst       string
	PathTemplate     *Template         // path_rewrite_policy, uri_template
	HostLiteral      string            // host_rewrite_literal
	HostFormat       *accesslog.Format // host_rewrite, with operators; an empty result changes nothing
	PathFormat       *accesslog.Format // path_rewrite, with operators; likewise
	HostAuto         bool              // auto_host_rewrite
	HostHeader       *httpmsg.Key
	HostRegex        *match.Regex // host_rewrite_path_regex
	HostSubst        string
	AppendXFH        bool

	Timeout             sys.Nanos // default 15 s; 0 = none
	IdleTimeout         sys.Nanos // Unset = HCM's
	NewTimeouts         bool      // max_stream_duration is present: no route timeout
	MaxGrpcTimeout      sys.Nanos // max_grpc_timeout (deprecated): caps grpc-timeout as the route timeout; Unset = off
	GrpcOffset          sys.Nanos // grpc_timeout_offset (deprecated)
	MaxStream           sys.Nanos // max_stream_duration.max_stream_duration; Unset = HCM's
	GrpcTimeoutMax      sys.Nanos // grpc_timeout_header_max; Unset = off
	GrpcTimeoutOffset   sys.Nanos
	Retry               *Retry // route's or the virtual host's; nil = none
	Mirrors             []Mirror
	Hash                []HashPolicy
	HighPriority        bool
	Upgrades            []Upgrade
	ConnectPost         bool  // connect_config.allow_post: POST is terminated like CONNECT
	ConnectProxy        uint8 // version of the PROXY protocol header in front of what is terminated (connect_config.proxy_protocol_config); 0 = none
	InternalRedirect    *InternalRedirect
	MetadataMatch       map[string]any
	IncludeVHRateLimits bool
}

// Upgrade is one route-level upgrade_configs entry.
type Upgrade struct {
	Type    string // lower case: "websocket", "connect"
	Enabled bool
	Connect bool // connect_config is set: terminate CONNECT here
}

// Weighted is weighted_clusters.
type Weighted struct {
	Clusters         []WeightedCluster
	Total            uint32
	HeaderKey        *httpmsg.Key // header_name that carries the random value
	RuntimeKeyPrefix string       // not empty: each cluster's RuntimeKey may override its weight
	UseHashPolicy    bool
}

// WeightedCluster is one choice.
type WeightedCluster struct {
	Cluster       *ClusterRef
	ClusterHeader *httpmsg.Key
	Name          string
	Weight        uint32
	RuntimeKey    string // runtime_key_prefix + "." + name
	Mutations     Mutations
	PerFilter     []PerFilter
	HostLiteral   string
	MetadataMatch map[string]any
}

// Mirror is one request_mirror_policies entry.
type Mirror struct {
	Cluster       *ClusterRef
	ClusterHeader *httpmsg.Key
	Fraction      *match.RuntimeFraction // nil = always
	KeepHost      bool                   // disable_shadow_host_suffix_append
	HostLiteral   string                 // host_rewrite_literal
	Mutations     []HeaderOps            // request_headers_mutations, applied one after the other
	TraceSampled  bool
}

// Redirect is RedirectAction.
type Redirect struct {
	HTTPS      bool
	Scheme     string
	Host       string
	Port       uint16
	Path       string // path_redirect; not empty when HasPath
	HasPath    bool
	Prefix     string // prefix_rewrite
	HasPrefix  bool
	Regex      *match.Regex
	RegexSubst string
	Code       uint16
	StripQuery bool
	PathFormat *accesslog.Format // path_rewrite, with operators; an empty result changes nothing

	entry *Entry // set by Table.Freeze: prefix_rewrite replaces what the entry's path matcher matched
}

// Direct is DirectResponseAction.
type Direct struct {
	Status      uint16
	Body        []byte
	Format      *accesslog.Format // body_format, or nil
	ContentType string
}

// RetryOn is a set of retry conditions.
type RetryOn uint32

// The conditions of retry_on and x-envoy-retry-on / x-envoy-retry-grpc-on.
const (
	Retry5xx RetryOn = 1 << iota
	RetryGatewayError
	RetryReset
	RetryResetBeforeRequest
	RetryConnectFailure
	RetryRefusedStream
	RetryRetriable4xx
	RetryRetriableStatusCodes
	RetryRetriableHeaders
	RetryEnvoyRateLimited
	RetryHTTP3PostConnectFailure
	RetryGrpcCancelled
	RetryGrpcDeadlineExceeded
	RetryGrpcResourceExhausted
	RetryGrpcUnavailable
	RetryGrpcInternal
)

// Retry is RetryPolicy.
type Retry struct {
	On             RetryOn
	Num            uint32 // num_retries, default 1
	PerTry         sys.Nanos
	PerTryIdle     sys.Nanos
	Base, Max      sys.Nanos // back-off, default 25 ms and 10 × base
	Codes          []uint32
	Headers        []match.Header // retriable_headers
	RequestHeaders []match.Header // retriable_request_headers
	PreviousHosts  bool
	OmitCanary     bool
	MaxSelect      int // host_selection_retry_max_attempts, default 1
	RateLimited    []ResetHeader
	RateLimitedMax sys.Nanos
}

// ResetHeader is one rate_limited_retry_back_off.reset_headers entry.
type ResetHeader struct {
	Key    httpmsg.Key
	UnixTS bool
}

// HashPolicy is one hash_policy entry.
type HashPolicy struct {
	Kind        HashKind
	Header      httpmsg.Key
	Regex       *match.Regex
	Subst       string
	Cookie      string
	TTL         sys.Nanos // Unset = never create the cookie
	Path        string
	Attrs       []CookieAttr
	Query       string
	FilterState string
	Terminal    bool
}

// CookieAttr is one extra cookie attribute.
type CookieAttr struct{ Name, Value string }

// HashKind is what is hashed.
type HashKind uint8

// The kinds.
const (
	HashHeader HashKind = iota
	HashCookie
	HashSourceIP
	HashQuery
	HashFilterState
)

// InternalRedirect is internal_redirect_policy.
type InternalRedirect struct {
	Max             uint32
	Codes           []uint32
	CrossScheme     bool
	CopyHeaders     []httpmsg.Key
	SafeCrossScheme bool
	PreviousRoutes  bool
}
