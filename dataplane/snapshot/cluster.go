// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"sync/atomic"

	"sidecar/dataplane/hostset"
	"sidecar/dataplane/http1"
	"sidecar/dataplane/http2"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/lb"
	"sidecar/dataplane/match"
	"sidecar/dataplane/route"
	"sidecar/dataplane/sys"
	"sidecar/dataplane/transport/tls/policy"
	"sidecar/internal/telemetry/stats"
)

// Cluster is one row of a snapshot: a configuration core whose pointer is stable while its bytes are, and the current generation of hosts.
type Cluster struct {
	*ClusterConfig
	Hosts *hostset.Hosts // never nil; may be empty
}

// ClusterType is the discovery type.
type ClusterType uint8

// The types.
const (
	ClusterStatic ClusterType = iota
	ClusterEDS
	ClusterStrictDNS
	ClusterLogicalDNS
	ClusterOriginalDst
)

// ClusterConfig is a compiled envoy.config.cluster.v3.Cluster. Immutable, except Breakers and the lazily filled original-destination
// hosts, which are named atomics.
type ClusterConfig struct {
	Name        string
	StatName    string // alt_stat_name or Name: the observability name
	Ref         *route.ClusterRef
	Hash        uint64 // content hash of the resource: equal means unchanged
	Type        ClusterType
	ServiceName string // EDS
	AddedViaAPI bool
	Metadata    map[string]any

	ConnectTimeout sys.Nanos // default 5 s
	BufferLimit    int       // per_connection_buffer_limit_bytes, default 1 MiB
	Dial           sys.DialOpts
	DialV6         *sys.DialOpts // when bind addresses differ by family; nil = Dial

	TLS            *policy.Client   // transport_socket; nil = plain text
	TransportMatch []TransportMatch // transport_socket_matches: see Transport
	Passed         []PassedMetadata // of the transport socket internal_upstream: see PassedTo
	PassedScope    *stats.Scope     // stats.InternalUpstreamDef; nil without such a socket

	LB              lb.Factory
	Balance         *lb.Spec  // what LB was made from; its Build makes the generations of hosts
	LBName          string    // Envoy's policy name for /clusters and stats
	CleanupInterval sys.Nanos // ORIGINAL_DST

	Protocol           UpstreamProtocol
	Names              Names
	Preconnect         Preconnect
	H1                 http1.Options
	H2                 http2.Options
	TLSStats           TLSScopes
	H2Scope            *stats.Scope // stats.HTTP2Def under "cluster.NAME.http2."
	MaxRequestsPerConn uint32       // 0 = no limit
	IdleTimeout        sys.Nanos    // upstream connection idle timeout; default 1 h, 0 = none
	MaxConnDuration    sys.Nanos    // 0 = none
	MaxStreamDuration  sys.Nanos

	Breakers       [2]Breaker // default, high priority
	Limits         *Usage     // live numbers against the breakers, shared by workers
	TrackRemaining bool

	OrigDst        *OriginalDst
	MaintenanceKey string // runtime key upstream.maintenance_mode.NAME

	Traffic *stats.Scope // stats.ClusterDef under "cluster.NAME."
	Filters []string     // network filters of the cluster, none supported yet
}

// UpstreamProtocol is what HttpProtocolOptions chose.
type UpstreamProtocol uint8

// The protocols.
const (
	UpstreamHTTP1 UpstreamProtocol = iota
	UpstreamHTTP2
	UpstreamAuto         // auto_config: what ALPN agrees on
	UpstreamAsDownstream // use_downstream_protocol_config: what the downstream connection speaks
)

// Names is UpstreamHttpProtocolOptions: what is called by the name that a request has for its upstream.
type Names struct {
	SNI    bool        // auto_sni
	SAN    bool        // auto_san_validation: the certificate must have the name
	Header httpmsg.Key // override_auto_sni_header; "" = :authority
}

// Preconnect is preconnect_policy: for how many streams there are to be connections, as a multiple of those that run or wait. At most 1 means that none is
// made ahead.
type Preconnect struct {
	PerHost    float32         // per_upstream_preconnect_ratio
	Predictive float32         // predictive_preconnect_ratio: over all hosts
	Hosts      *match.Metadata // preconnect_enabled_metadata: to which hosts; nil = to all
}

// OriginalDst is original_dst_lb_config.
type OriginalDst struct {
	UseHeader    bool
	HeaderName   string
	PortOverride uint16
}

// Breaker is one circuit_breakers threshold set.
type Breaker struct {
	MaxConnections, MaxPending, MaxRequests, MaxRetries, MaxPools uint32
	RetryBudgetPercent                                            float64 // > 0: a retry budget instead of MaxRetries
	MinRetryConcurrency                                           uint32
	TrackRemaining                                                bool
	MaxConnectionsPerHost                                         uint32 // per_host_thresholds; 0 = none
}

// Usage counts what is in use against one cluster's breakers, over all workers; Pools are those with a connection. Atomic; index 0 default, 1 high priority.
type Usage struct {
	Connections, Pending, Requests, Retries, Pools [2]atomic.Int64
}
