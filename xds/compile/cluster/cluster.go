// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"math"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	dnsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dns/v3"
	origv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/original_dst/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"sidecar/dataplane/hostset"
	"sidecar/dataplane/lb"
	"sidecar/dataplane/match"
	"sidecar/dataplane/route"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/dataplane/transport/tls/policy"
	"sidecar/internal/telemetry/stats"
	"sidecar/xds/compile/endpoint"
	"sidecar/xds/compile/lbpolicy"
	"sidecar/xds/compile/matcher"
	"sidecar/xds/compile/secret"
	"sidecar/xds/compile/transportsocket"
	"sidecar/xds/registry"
)

// Env is what compiling a cluster needs from the driver (registry.Ctx.Env).
type Env struct {
	Stats       *stats.Registry                     // nil: no scopes are made (--mode validate)
	Runtime     *match.Runtime                      // values that decide at compile time; nil has none
	Cluster     func(name string) *route.ClusterRef // interns a cluster name
	DefaultBind *corev3.BindConfig                  // cluster_manager.upstream_bind_config; nil = none
	Secrets     *secret.Compiler                    // for what TLS contexts hold inline
}

// Result is a compiled cluster and what the controller must do for it.
type Result struct {
	Config *snapshot.ClusterConfig
	// WaitForWarm is wait_for_warm_on_init (default true): start-up waits for this cluster.
	WaitForWarm bool
	TLS         []transportsocket.Client // contexts of the cluster, with the secrets that they wait for

	// Exactly one of these says where the hosts come from; none for ORIGINAL_DST, whose hosts are made on demand. The generations are made by
	// Config.Balance.Build.
	Static *hostset.Input
	EDS    *EDS
	DNS    *DNS
}

// EDS is a subscription to one load assignment.
type EDS struct {
	Name         string // service_name, or the cluster's name
	Source       *corev3.ConfigSource
	FetchTimeout time.Duration // initial_fetch_timeout; default 15 s, 0 = wait for ever
}

const defaultFetchTimeout = 15 * time.Second

type state struct {
	c    *registry.Ctx
	env  *Env
	cl   *clusterv3.Cluster
	out  *snapshot.ClusterConfig
	res  *Result
	errs []error

	internal bool // one of the transport sockets is internal_upstream

	// Where the hosts come from: type, or what cluster_type says instead.
	kind    clusterv3.Cluster_DiscoveryType
	dnsExt  *dnsv3.DnsCluster
	origExt *origv3.OriginalDstCluster
}

func (s *state) fail(err error) {
	if err != nil {
		s.errs = append(s.errs, err)
	}
}

func (s *state) failf(at registry.Path, format string, args ...any) {
	s.fail(s.c.Errorf(at, format, args...))
}

// Compile compiles a decoded and validated cluster. c.Env must be *Env; c.Schema is not used (see Schema). hash is the resource's content
// hash. Warnings go to c.Report; all errors come back at once, each with its path. Nothing is started.
func Compile(c *registry.Ctx, cl *clusterv3.Cluster, hash uint64) (*Result, error) {
	own := *c
	own.Schema = schema
	s := &state{c: &own, env: registry.EnvOf[*Env](c), cl: cl, out: &snapshot.ClusterConfig{}}
	s.res = &Result{Config: s.out, WaitForWarm: true}
	s.fail(s.c.Check(cl))
	s.base(hash)
	s.clusterType()
	s.balance()
	s.discovery()
	s.socket()
	s.bind()
	s.http()
	s.breakers()
	s.preconnect()
	s.idle()
	if err := errors.Join(s.errs...); err != nil {
		return nil, err
	}
	if s.env.Stats != nil {
		s.out.Traffic = s.env.Stats.Scope("cluster."+s.out.StatName+".", stats.ClusterDef)
		if len(s.res.TLS) > 0 {
			s.out.TLSStats = snapshot.NewTLSScopes(s.env.Stats, "cluster."+s.out.StatName+".", "client_ssl_socket_factory")
		}
		if s.out.Protocol != snapshot.UpstreamHTTP1 {
			s.out.H2Scope = s.env.Stats.Scope("cluster."+s.out.StatName+".http2.", stats.HTTP2Def)
		}
		if s.internal {
			s.out.PassedScope = s.env.Stats.Scope("cluster."+s.out.StatName+".internal_upstream.", stats.InternalUpstreamDef)
		}
	}
	return s.res, nil
}

func (s *state) base(hash uint64) {
	cl, x := s.cl, s.out
	x.Name, x.StatName, x.Hash = cl.GetName(), cl.GetName(), hash
	if a := cl.GetAltStatName(); a != "" {
		x.StatName = a
	}
	x.Ref = s.env.Cluster(x.Name)
	x.Metadata = endpoint.MetadataMap(cl.GetMetadata())
	x.ConnectTimeout = duration(cl.GetConnectTimeout(), 5*sys.Second)
	x.BufferLimit = 1 << 20
	if v := cl.GetPerConnectionBufferLimitBytes(); v != nil {
		x.BufferLimit = int(v.GetValue())
	}
	x.CleanupInterval = duration(cl.GetCleanupInterval(), 5*sys.Second)
	x.MaintenanceKey = "upstream.maintenance_mode." + x.Name
	if w := cl.GetWaitForWarmOnInit(); w != nil {
		s.res.WaitForWarm = w.GetValue()
	}
}

// duration converts d; def stands for an absent field. Istio's cleanup_interval is close to the largest value, so nothing may be added to it
// without a check for overflow.
func duration(d *durationpb.Duration, def sys.Nanos) sys.Nanos {
	if d == nil {
		return def
	}
	return sys.Nanos(d.AsDuration()) // saturates
}

// Types is the table of cluster type extensions; each says what it stands for.
var Types = registry.MustTable("cluster types", []registry.Row[func(*state)]{
	{
		Name: "envoy.clusters.dns", Message: &dnsv3.DnsCluster{}, Status: registry.StatusStable, Trust: registry.TrustRobustBoth,
		Compile: func(_ *registry.Ctx, m proto.Message) (func(*state), error) {
			return func(s *state) {
				s.dnsExt, s.kind = m.(*dnsv3.DnsCluster), clusterv3.Cluster_STRICT_DNS
				if s.dnsExt.GetAllAddressesInSingleEndpoint() {
					s.kind = clusterv3.Cluster_LOGICAL_DNS
				}
			}, nil
		},
	},
	{
		Name: "envoy.clusters.original_dst", Message: &origv3.OriginalDstCluster{}, Status: registry.StatusStable, Trust: registry.TrustRobustBoth,
		Compile: func(_ *registry.Ctx, m proto.Message) (func(*state), error) {
			return func(s *state) { s.origExt, s.kind = m.(*origv3.OriginalDstCluster), clusterv3.Cluster_ORIGINAL_DST }, nil
		},
	},
}, map[string]string{
	"type.googleapis.com/envoy.extensions.clusters.aggregate.v3.ClusterConfig":             "aggregate clusters",
	"type.googleapis.com/envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig": "dynamic forward proxy",
})

// typeNames are the cluster types that need no configuration message.
var typeNames = map[string]clusterv3.Cluster_DiscoveryType{
	"envoy.cluster.static": clusterv3.Cluster_STATIC, "envoy.cluster.strict_dns": clusterv3.Cluster_STRICT_DNS,
	"envoy.cluster.logical_dns": clusterv3.Cluster_LOGICAL_DNS, "envoy.cluster.original_dst": clusterv3.Cluster_ORIGINAL_DST,
}

func (s *state) clusterType() {
	s.kind = s.cl.GetType()
	ext := s.cl.GetClusterType()
	if ext == nil {
		return
	}
	if ext.GetTypedConfig() == nil {
		kind, ok := typeNames[ext.GetName()]
		if !ok {
			s.failf("cluster_type.name", "unknown cluster type %q without typed_config", ext.GetName())
		}
		s.kind = kind
		return
	}
	set, err := Types.Compile(s.c, "cluster_type.typed_config", ext.GetName(), ext.GetTypedConfig())
	if err != nil {
		s.fail(err)
		return
	}
	set(s)
}

func (s *state) balance() {
	spec, err := lbpolicy.Compile(s.c, s.cl)
	if err != nil {
		s.fail(err)
		return
	}
	original := s.kind == clusterv3.Cluster_ORIGINAL_DST
	switch {
	case original && s.cl.GetLbPolicy() != clusterv3.Cluster_CLUSTER_PROVIDED:
		s.failf("lb_policy", "%s is not valid for cluster type ORIGINAL_DST, only CLUSTER_PROVIDED is", s.cl.GetLbPolicy())
	case !original && spec.Kind == lb.ClusterProvided:
		s.failf("lb_policy", "CLUSTER_PROVIDED is only valid for cluster type ORIGINAL_DST")
	}
	s.out.Balance, s.out.LB, s.out.LBName = &spec, spec.Factory(), spec.Name()
}

func (s *state) discovery() {
	switch s.kind {
	case clusterv3.Cluster_STATIC:
		s.out.Type = snapshot.ClusterStatic
		in, err := endpoint.Compile(s.cl.GetLoadAssignment(), s.c.Path.Field("load_assignment"), s.c.Unknown, s.c.Report)
		s.fail(err)
		s.res.Static = &in
	case clusterv3.Cluster_EDS:
		s.out.Type = snapshot.ClusterEDS
		s.eds()
	case clusterv3.Cluster_STRICT_DNS, clusterv3.Cluster_LOGICAL_DNS:
		s.dns()
	case clusterv3.Cluster_ORIGINAL_DST:
		s.out.Type = snapshot.ClusterOriginalDst
		s.originalDst()
	}
	if s.kind != clusterv3.Cluster_EDS && s.cl.GetEdsClusterConfig() != nil {
		s.failf("eds_cluster_config", "only valid for cluster type EDS")
	}
}

func (s *state) eds() {
	cfg := s.cl.GetEdsClusterConfig()
	src := cfg.GetEdsConfig()
	if src == nil {
		s.failf("eds_cluster_config.eds_config", "cannot create an EDS cluster without an EDS config")
		return
	}
	if s.cl.GetLoadAssignment() != nil {
		s.failf("load_assignment", "only valid for cluster types other than EDS")
	}
	if api := src.GetApiConfigSource(); api != nil {
		switch api.GetApiType() {
		case corev3.ApiConfigSource_GRPC, corev3.ApiConfigSource_DELTA_GRPC, corev3.ApiConfigSource_AGGREGATED_GRPC, corev3.ApiConfigSource_AGGREGATED_DELTA_GRPC,
			corev3.ApiConfigSource_REST:
		default:
			s.failf("eds_cluster_config.eds_config.api_config_source.api_type", "value %s is not supported", api.GetApiType())
		}
	}
	s.res.EDS = &EDS{Name: cfg.GetServiceName(), Source: src, FetchTimeout: defaultFetchTimeout}
	if s.res.EDS.Name == "" {
		s.res.EDS.Name = s.cl.GetName()
	}
	if t := src.GetInitialFetchTimeout(); t != nil {
		s.res.EDS.FetchTimeout = t.AsDuration()
	}
	s.out.ServiceName = s.res.EDS.Name
}

// originalDstHeader is the request header that names the destination when http_header_name is empty.
const originalDstHeader = "x-envoy-original-dst-host"

// originalDst is what original_dst_lb_config and the OriginalDstCluster extension have in common.
type originalDst interface {
	GetUseHttpHeader() bool
	GetHttpHeaderName() string
	GetUpstreamPortOverride() *wrapperspb.UInt32Value
}

func (s *state) originalDst() {
	if s.cl.GetLoadAssignment() != nil {
		s.failf("load_assignment", "ORIGINAL_DST clusters must have no load assignment configured")
	}
	var cfg originalDst = s.cl.GetOriginalDstLbConfig()
	at := registry.Path("original_dst_lb_config")
	if s.origExt != nil {
		cfg, at = s.origExt, "cluster_type.typed_config"
	}
	o := &snapshot.OriginalDst{UseHeader: cfg.GetUseHttpHeader(), HeaderName: cfg.GetHttpHeaderName()}
	if o.UseHeader && o.HeaderName == "" {
		o.HeaderName = originalDstHeader
	}
	if p := cfg.GetUpstreamPortOverride(); p.GetValue() > math.MaxUint16 {
		s.failf(at.Field("upstream_port_override"), "%d is no port", p.GetValue())
	} else {
		o.PortOverride = uint16(p.GetValue())
	}
	s.out.OrigDst = o
}

// socket compiles the transport socket and those that endpoints choose by their metadata. Sessions are kept apart by cluster and match.
func (s *state) socket() {
	internal := false
	compile := func(at registry.Path, ts *corev3.TransportSocket, match string) (*policy.Client, []snapshot.PassedMetadata) {
		out, err := transportsocket.Upstream(s.c.At(at), s.env.Secrets, ts, s.out.Name+"\x00"+match)
		s.fail(err)
		if out.TLS != nil {
			s.res.TLS = append(s.res.TLS, out)
		}
		internal = internal || out.Internal
		return out.TLS, out.Passed
	}
	s.out.TLS, s.out.Passed = compile("transport_socket", s.cl.GetTransportSocket(), "")
	names := map[string]bool{}
	for i, m := range s.cl.GetTransportSocketMatches() {
		at := registry.Path("").Index("transport_socket_matches", i)
		if names[m.GetName()] {
			s.failf(at.Field("name"), "duplicate name %q", m.GetName())
		}
		names[m.GetName()] = true
		if m.GetTransportSocket() == nil { // plain text is asked for by name
			s.failf(at.Field("transport_socket"), "value is required")
		}
		x := snapshot.TransportMatch{Name: m.GetName(), Match: m.GetMatch().AsMap()}
		x.TLS, x.Passed = compile(at.Field("transport_socket"), m.GetTransportSocket(), m.GetName())
		s.out.TransportMatch = append(s.out.TransportMatch, x)
	}
	if s.internal = internal; !internal && len(s.res.TLS) == 0 { // whatever an endpoint asks for is plain text
		s.out.TransportMatch = nil
	}
}

func (s *state) breakers() {
	none := snapshot.Breaker{MaxConnections: 1024, MaxPending: 1024, MaxRequests: 1024, MaxRetries: 3, MaxPools: math.MaxUint32}
	s.out.Breakers = [2]snapshot.Breaker{none, none}
	s.out.Limits = &snapshot.Usage{}
	at := registry.Path("circuit_breakers")
	var seen [2]bool
	for i, t := range s.cl.GetCircuitBreakers().GetThresholds() {
		p, ok := s.priority(t, at.Index("thresholds", i))
		if !ok || seen[p] { // the first of a priority counts, as in Envoy
			continue
		}
		seen[p] = true
		b := &s.out.Breakers[p]
		b.MaxConnections = number(t.GetMaxConnections(), b.MaxConnections)
		b.MaxPending = number(t.GetMaxPendingRequests(), b.MaxPending)
		b.MaxRequests = number(t.GetMaxRequests(), b.MaxRequests)
		b.MaxRetries = number(t.GetMaxRetries(), b.MaxRetries)
		b.MaxPools = number(t.GetMaxConnectionPools(), b.MaxPools)
		b.TrackRemaining = t.GetTrackRemaining()
		s.out.TrackRemaining = s.out.TrackRemaining || b.TrackRemaining
		if rb := t.GetRetryBudget(); rb != nil {
			b.RetryBudgetPercent = 20
			if p := rb.GetBudgetPercent(); p != nil { // 0 is a budget, too: min_retry_concurrency is left
				b.RetryBudgetPercent = max(p.GetValue(), math.SmallestNonzeroFloat64)
			}
			b.MinRetryConcurrency = number(rb.GetMinRetryConcurrency(), 3)
		}
	}
	seen = [2]bool{}
	for i, t := range s.cl.GetCircuitBreakers().GetPerHostThresholds() {
		here := at.Index("per_host_thresholds", i)
		p, ok := s.priority(t, here)
		if !ok {
			continue
		}
		if t.GetMaxPendingRequests() != nil || t.GetMaxRequests() != nil || t.GetMaxRetries() != nil || t.GetMaxConnectionPools() != nil ||
			t.GetRetryBudget() != nil || t.GetTrackRemaining() {
			s.failf(here, "only max_connections is supported in per_host_thresholds")
		}
		if !seen[p] {
			seen[p] = true
			s.out.Breakers[p].MaxConnectionsPerHost = number(t.GetMaxConnections(), 0)
		}
	}
}

// preconnect compiles preconnect_policy; the ratios are between 1 and 3 (the message's own rules).
func (s *state) preconnect() {
	p := s.cl.GetPreconnectPolicy()
	x := &s.out.Preconnect
	x.PerHost = float32(p.GetPerUpstreamPreconnectRatio().GetValue())
	x.Predictive = float32(p.GetPredictivePreconnectRatio().GetValue())
	if m := p.GetPreconnectEnabledMetadata(); m != nil {
		out, err := matcher.Metadata(s.c, "preconnect_policy.preconnect_enabled_metadata", m)
		s.fail(err)
		x.Hosts = &out
	}
}

func (s *state) priority(t *clusterv3.CircuitBreakers_Thresholds, at registry.Path) (int, bool) {
	switch t.GetPriority() {
	case corev3.RoutingPriority_DEFAULT:
		return 0, true
	case corev3.RoutingPriority_HIGH:
		return 1, true
	}
	s.failf(at.Field("priority"), "unknown priority %d", t.GetPriority())
	return 0, false
}

func number(v *wrapperspb.UInt32Value, def uint32) uint32 {
	if v == nil {
		return def
	}
	return v.GetValue()
}
