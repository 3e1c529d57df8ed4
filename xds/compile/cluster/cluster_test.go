// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"math"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"sidecar/dataplane/hostset"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/lb"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/stats"
	"sidecar/xds/registry"
)

var _ proto.Message = (*tlsv3.UpstreamTlsContext)(nil) // linked in so that the tests can write it as JSON

func compile(t testing.TB, text string) (*Result, *registry.Report, error) {
	t.Helper()
	cl := &clusterv3.Cluster{}
	if err := protojson.Unmarshal([]byte(text), cl); err != nil {
		t.Fatal(err)
	}
	if err := registry.Validate(cl, ""); err != nil {
		t.Fatal(err)
	}
	rep := &registry.Report{}
	res, err := Compile(&registry.Ctx{Report: rep, Unknown: registry.UnknownRefuse, Schema: schema,
		Env: &Env{Cluster: snapshot.NewInterner().Cluster, Stats: stats.NewRegistry(1)}}, cl, 42)
	return res, rep, err
}

func mustCompile(t testing.TB, text string) *Result {
	t.Helper()
	res, rep, err := compile(t, text)
	if err != nil {
		t.Fatal(err)
	}
	if len(rep.Warnings) > 0 {
		t.Errorf("warnings %v", rep.Warnings)
	}
	return res
}

func TestCompile_WhenNothingIsSet_ThenEnvoysDefaults(t *testing.T) {
	res := mustCompile(t, `{"name":"black:hole"}`)
	c := res.Config
	if c.Type != snapshot.ClusterStatic || c.ConnectTimeout != 5*sys.Second || c.BufferLimit != 1<<20 || c.IdleTimeout != 3600*sys.Second ||
		c.LBName != "ROUND_ROBIN" || c.Protocol != snapshot.UpstreamHTTP1 || !c.Dial.NoDelay || c.CleanupInterval != 5*sys.Second || c.Hash != 42 {
		t.Errorf("%+v", c)
	}
	b := snapshot.Breaker{MaxConnections: 1024, MaxPending: 1024, MaxRequests: 1024, MaxRetries: 3, MaxPools: math.MaxUint32}
	if c.Breakers[0] != b || c.Breakers[1] != b || c.Limits == nil {
		t.Errorf("breakers %+v", c.Breakers)
	}
	if h := c.Balance.Build(nil, *res.Static); h.Total != 0 || c.LB(1, h).Pick(&lb.Query{}) != nil {
		t.Error("a cluster without endpoints has no host")
	}
	if c.Traffic == nil || c.Traffic.Prefix != "cluster.black_hole." || !res.WaitForWarm || c.Balance.Hosts.PanicPercent != 50 {
		t.Errorf("scope %+v", c.Traffic)
	}
}

func TestCompile_WhenIstioSendsAnEDSCluster_ThenItIsHonoured(t *testing.T) {
	res := mustCompile(t, `{"name":"outbound|80||a","alt_stat_name":"outbound|80||a;","type":"EDS","connect_timeout":"10s","lb_policy":"LEAST_REQUEST",
	 "eds_cluster_config":{"eds_config":{"ads":{},"initial_fetch_timeout":"0s","resource_api_version":"V3"},"service_name":"svc"},
	 "circuit_breakers":{"thresholds":[{"max_connections":4294967295,"max_pending_requests":7,"max_requests":8,"max_retries":9,"track_remaining":true}]},
	 "common_lb_config":{"healthy_panic_threshold":{},"locality_weighted_lb_config":{}},
	 "metadata":{"filter_metadata":{"istio":{"services":[{"host":"a"}]}}},
	 "typed_extension_protocol_options":{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions":{
	  "@type":"type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
	  "common_http_protocol_options":{"idle_timeout":"300s","max_requests_per_connection":5,"max_headers_count":50,"max_response_headers_kb":70},
	  "use_downstream_protocol_config":{"http_protocol_options":{"enable_trailers":true},"http2_protocol_options":{}}}},
	 "upstream_connection_options":{"tcp_keepalive":{"keepalive_time":300,"keepalive_interval":75}},
	 "transport_socket_matches":[{"name":"raw","match":{},"transport_socket":{"name":"envoy.transport_sockets.raw_buffer",
	  "typed_config":{"@type":"type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"}}}]}`)
	c := res.Config
	if res.EDS == nil || res.EDS.Name != "svc" || res.EDS.FetchTimeout != 0 || c.ServiceName != "svc" || res.Static != nil {
		t.Errorf("EDS %+v", res.EDS)
	}
	if c.StatName != "outbound|80||a;" || c.ConnectTimeout != 10*sys.Second || c.LBName != "LEAST_REQUEST" || c.Protocol != snapshot.UpstreamAsDownstream {
		t.Errorf("%+v", c)
	}
	if c.Balance.Hosts != (hostset.PlanConfig{LocalityWeighted: true}) {
		t.Errorf("plan %+v", c.Balance.Hosts)
	}
	if b := c.Breakers[0]; b.MaxConnections != math.MaxUint32 || b.MaxPending != 7 || b.MaxRequests != 8 || b.MaxRetries != 9 || !b.TrackRemaining || !c.TrackRemaining {
		t.Errorf("breaker %+v", b)
	}
	if c.IdleTimeout != 300*sys.Second || c.MaxRequestsPerConn != 5 || c.H1.MaxHeaders != 50 || c.H1.MaxHeadBytes != 70<<10 || !c.H1.EnableTrailers {
		t.Errorf("http %+v", c)
	}
	if d := c.Dial; !d.KeepAlive || d.KeepIdle != 300 || d.KeepIntvl != 75 || d.KeepCnt != 0 {
		t.Errorf("dial %+v", d)
	}
	if c.Metadata["istio"] == nil {
		t.Error("metadata is missing")
	}
}

func TestCompile_WhenIstioSendsAnInboundCluster_ThenBothFamiliesAreBound(t *testing.T) {
	c := mustCompile(t, `{"name":"inbound|80||","type":"ORIGINAL_DST","lb_policy":"CLUSTER_PROVIDED","cleanup_interval":"9223372035s",
	 "original_dst_lb_config":{"use_http_header":true,"upstream_port_override":8080},
	 "upstream_bind_config":{"source_address":{"address":"127.0.0.6","port_value":0},"freebind":true,
	  "socket_options":[{"level":1,"name":2,"int_value":3,"state":"STATE_PREBIND"}],
	  "extra_source_addresses":[{"address":{"address":"::6","port_value":0}}]}}`).Config
	if c.Dial.Bind.String() != "127.0.0.6:0" || c.DialV6 == nil || c.DialV6.Bind.String() != "[::6]:0" || !c.DialV6.FreeBind || len(c.DialV6.Opts) != 1 {
		t.Errorf("dial %+v %+v", c.Dial, c.DialV6)
	}
	if o := c.OrigDst; !o.UseHeader || o.HeaderName != "x-envoy-original-dst-host" || o.PortOverride != 8080 {
		t.Errorf("original dst %+v", o)
	}
	if c.CleanupInterval <= 0 || c.LBName != "CLUSTER_PROVIDED" || c.LB(1, &hostset.Hosts{}).Pick(&lb.Query{}) != nil {
		t.Errorf("cleanup %d", c.CleanupInterval)
	}
}

func TestCompile_WhenDNS_ThenResolverOptionsAreTaken(t *testing.T) {
	const la = `"load_assignment":{"cluster_name":"x","endpoints":[{"lb_endpoints":[{"endpoint":{"address":{"socket_address":{"address":"a.test","port_value":80}}}}]}]}`
	res := mustCompile(t, `{"name":"d","type":"STRICT_DNS","dns_refresh_rate":"2s","dns_jitter":"0.5s","respect_dns_ttl":true,"dns_lookup_family":"V4_PREFERRED",
	 "dns_failure_refresh_rate":{"base_interval":"1s"},"wait_for_warm_on_init":false,
	 "typed_dns_resolver_config":{"name":"c","typed_config":{"@type":"type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
	  "resolvers":[{"socket_address":{"address":"127.0.0.53","port_value":0}}],"use_resolvers_as_fallback":true,"query_timeout_seconds":3,"query_tries":2,
	  "dns_resolver_options":{"use_tcp_for_dns_lookups":true,"no_default_search_domain":true},"rotate_nameservers":true}},`+la+`}`)
	o := res.DNS.Options
	if len(o.Servers) != 1 || o.Servers[0].String() != "127.0.0.53:53" || !o.Fallback || !o.TCP || !o.NoSearch || !o.Rotate || o.Timeout != 3*time.Second || o.Tries != 2 ||
		o.Family != 3 || o.Refresh != 2*time.Second || o.FailBase != time.Second || o.FailMax != 10*time.Second || o.Jitter != time.Second/2 || !o.RespectTTL {
		t.Errorf("%+v", o)
	}
	if len(res.DNS.Assignment.Targets) != 1 || res.WaitForWarm {
		t.Errorf("%+v", res.DNS.Assignment)
	}
	if o := mustCompile(t, `{"name":"d","type":"LOGICAL_DNS",`+la+`}`).DNS.Options; o.Refresh != 5*time.Second || o.FailBase != 0 {
		t.Errorf("defaults %+v", o)
	}
}

func TestCompile_WhenTheTypeIsAnExtension_ThenItIsTheSame(t *testing.T) {
	const la = `"load_assignment":{"cluster_name":"x","endpoints":[{"lb_endpoints":[{"endpoint":{"address":{"socket_address":{"address":"a.test","port_value":80}}}}]}]}`
	const dnsURL = `"cluster_type":{"name":"x","typed_config":{"@type":"type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster"`
	res := mustCompile(t, `{"name":"d",`+dnsURL+`,"dns_refresh_rate":"2s","dns_lookup_family":"V4_ONLY","respect_dns_ttl":true,"dns_min_refresh_rate":"3s",
	 "dns_failure_refresh_rate":{"base_interval":"1s","max_interval":"4s"}}},`+la+`}`)
	if o := res.DNS.Options; res.Config.Type != snapshot.ClusterStrictDNS || o.Refresh != 2*time.Second || o.Family != 1 || !o.RespectTTL || o.MinTTL != 3*time.Second ||
		o.FailMax != 4*time.Second {
		t.Errorf("%+v", o)
	}
	if res := mustCompile(t, `{"name":"d",`+dnsURL+`,"all_addresses_in_single_endpoint":true}},`+la+`}`); res.Config.Type != snapshot.ClusterLogicalDNS || res.DNS.Options.Family != 0 {
		t.Errorf("%+v", res.DNS.Options)
	}
	if res := mustCompile(t, `{"name":"d","cluster_type":{"name":"envoy.cluster.logical_dns"},`+la+`}`); res.Config.Type != snapshot.ClusterLogicalDNS {
		t.Errorf("type %d", res.Config.Type)
	}
	o := mustCompile(t, `{"name":"o","lb_policy":"CLUSTER_PROVIDED","cluster_type":{"name":"x","typed_config":{"@type":"type.googleapis.com/envoy.extensions.clusters.original_dst.v3.OriginalDstCluster",
	 "use_http_header":true,"http_header_name":"x-h","upstream_port_override":9}}}`).Config
	if o.Type != snapshot.ClusterOriginalDst || o.OrigDst.HeaderName != "x-h" || o.OrigDst.PortOverride != 9 {
		t.Errorf("%+v", o.OrigDst)
	}
}

// tlsSocket is a transport socket with a bare TLS context.
const tlsSocket = `"transport_socket":{"name":"t","typed_config":{"@type":"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"}}`

const lbURL = `"@type":"type.googleapis.com/envoy.extensions.load_balancing_policies.`

func TestCompile_WhenPoliciesAreGiven_ThenBothFormsMeanTheSame(t *testing.T) {
	typed := func(list ...string) string {
		var out []string
		for _, l := range list {
			out = append(out, `{"typed_extension_config":{"name":"n","typed_config":{`+l+`}}}`)
		}
		return `"load_balancing_policy":{"policies":[` + strings.Join(out, ",") + `]}`
	}
	slow := lb.SlowStart{Window: 30 * sys.Second, Aggression: 2, MinShare: 0.05}
	for _, c := range []struct {
		name, old, typed string
		want             func(*lb.Spec)
		kind             lb.Kind
	}{
		{"round robin", `"round_robin_lb_config":{"slow_start_config":{"slow_start_window":"30s","aggression":{"default_value":2,"runtime_key":""},"min_weight_percent":{"value":5}}}`,
			typed(lbURL + `round_robin.v3.RoundRobin","slow_start_config":{"slow_start_window":"30s","aggression":{"default_value":2,"runtime_key":""},"min_weight_percent":{"value":5}}`),
			func(s *lb.Spec) { s.SlowStart = slow }, lb.RoundRobin},
		{"least request", `"lb_policy":"LEAST_REQUEST","least_request_lb_config":{"choice_count":5,"active_request_bias":{"default_value":0}},"common_lb_config":{"locality_weighted_lb_config":{}}`,
			typed(lbURL + `least_request.v3.LeastRequest","choice_count":5,"active_request_bias":{"default_value":0},"locality_lb_config":{"locality_weighted_lb_config":{}}`),
			func(s *lb.Spec) { s.ChoiceCount, s.ActiveRequestBias, s.Hosts.LocalityWeighted = 5, 0, true }, lb.LeastRequest},
		{"negative bias", `"lb_policy":"LEAST_REQUEST","least_request_lb_config":{"active_request_bias":{"default_value":-1}}`,
			typed(lbURL + `least_request.v3.LeastRequest","active_request_bias":{"default_value":-1}`), func(*lb.Spec) {}, lb.LeastRequest},
		{"random", `"lb_policy":"RANDOM","common_lb_config":{"zone_aware_lb_config":{"fail_traffic_on_panic":true},"healthy_panic_threshold":{"value":33.5}}`,
			typed(lbURL+`random.v3.Random","locality_lb_config":{"zone_aware_lb_config":{"fail_traffic_on_panic":true}}`) + `,"common_lb_config":{"healthy_panic_threshold":{"value":33.5}}`,
			func(s *lb.Spec) { s.Hosts.FailOnPanic, s.Hosts.PanicPercent = true, 34 }, lb.Random},
		{"ring hash", `"lb_policy":"RING_HASH","ring_hash_lb_config":{"minimum_ring_size":"5","maximum_ring_size":"50","hash_function":"MURMUR_HASH_2"},"common_lb_config":{"consistent_hashing_lb_config":{"hash_balance_factor":150}}`,
			typed(lbURL + `ring_hash.v3.RingHash","minimum_ring_size":"5","maximum_ring_size":"50","hash_function":"MURMUR_HASH_2","consistent_hashing_lb_config":{"hash_balance_factor":150}`),
			func(s *lb.Spec) { s.MinRing, s.MaxRing, s.Murmur, s.BalanceFactor = 5, 50, true, 150 }, lb.RingHash},
		{"maglev", `"lb_policy":"MAGLEV","maglev_lb_config":{"table_size":"251"}`, typed(lbURL + `maglev.v3.Maglev","table_size":"251"`),
			func(s *lb.Spec) { s.TableSize = 251 }, lb.Maglev},
		{"the first known one", `"lb_policy":"RANDOM"`, `"lb_policy":"MAGLEV",` + typed(`"@type":"type.googleapis.com/xds.type.v3.TypedStruct","type_url":"foo.test/unknown"`,
			lbURL+`random.v3.Random"`, lbURL+`maglev.v3.Maglev"`), func(*lb.Spec) {}, lb.Random},
		{"weighted localities", `"common_lb_config":{"locality_weighted_lb_config":{}}`, typed(lbURL + `wrr_locality.v3.WrrLocality","endpoint_picking_policy":{"policies":[{"typed_extension_config":{"name":"n","typed_config":{` +
			lbURL + `round_robin.v3.RoundRobin"}}}]}`), func(s *lb.Spec) { s.Hosts.LocalityWeighted = true }, lb.RoundRobin},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := lb.Default(c.kind)
			c.want(&want)
			for _, text := range []string{c.old, c.typed} {
				if got := *mustCompile(t, `{"name":"c",`+text+`}`).Config.Balance; got != want {
					t.Errorf("got %+v, want %+v", got, want)
				}
			}
		})
	}
}

func TestCompile_WhenAFieldIsWrong_ThenTheErrorNamesItsPath(t *testing.T) {
	const dnsLA = `"load_assignment":{"cluster_name":"x","endpoints":[{"lb_endpoints":[{"endpoint":{"address":{"socket_address":{"address":"a","port_value":1}}}}]}]}`
	const httpURL = `"typed_extension_protocol_options":{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions":{"@type":"type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",`
	const httpAt = `typed_extension_protocol_options["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"].`
	for _, c := range []struct{ name, text, want string }{
		{"match without a socket", `"transport_socket_matches":[{"name":"a","match":{}}]`, "transport_socket_matches[0].transport_socket: value is required"},
		{"TLS match", `"transport_socket_matches":[{"name":"a","match":{},"transport_socket":{"name":"x","typed_config":{"@type":"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext","allow_renegotiation":true}}}]`, "transport_socket_matches[0].transport_socket.typed_config.allow_renegotiation: value true"},
		{"filters", `"filters":[{"name":"x"}]`, "filters: waits for a later issue (network filters of clusters)"},
		{"health checks", `"health_checks":[{"timeout":"1s","interval":"1s","unhealthy_threshold":1,"healthy_threshold":1,"tcp_health_check":{}}]`, "health_checks: waits for a later issue"},
		{"subsets", `"lb_subset_config":{}`, "lb_subset_config: subset load balancing is not supported"},
		{"LRS", `"lrs_server":{"ads":{}}`, "lrs_server: load reports"},
		{"unknown type name", `"cluster_type":{"name":"envoy.clusters.aggregate"}`, "cluster_type.name: unknown cluster type"},
		{"unknown type", `"cluster_type":{"name":"x","typed_config":{"@type":"type.googleapis.com/xds.type.v3.TypedStruct","type_url":"x/envoy.extensions.clusters.aggregate.v3.ClusterConfig"}}`,
			"cluster_type.typed_config: unknown type"},
		{"DNS type, two endpoints", `"cluster_type":{"name":"x","typed_config":{"@type":"type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster","all_addresses_in_single_endpoint":true}}`,
			"LOGICAL_DNS clusters must have a single"},
		{"EDS without config", `"type":"EDS"`, "eds_cluster_config.eds_config: cannot create an EDS cluster without an EDS config"},
		{"EDS with assignment", `"type":"EDS","eds_cluster_config":{"eds_config":{"ads":{}}},"load_assignment":{"cluster_name":"x"}`, "load_assignment: only valid"},
		{"EDS over the old REST", `"type":"EDS","eds_cluster_config":{"eds_config":{"api_config_source":{"api_type":"DEPRECATED_AND_UNAVAILABLE_DO_NOT_USE"}}}`, "api_config_source.api_type: value DEPRECATED"},
		{"EDS config on static", `"eds_cluster_config":{"eds_config":{"ads":{}}}`, "eds_cluster_config: only valid for cluster type EDS"},
		{"wrong policy for original dst", `"type":"ORIGINAL_DST"`, "lb_policy: ROUND_ROBIN is not valid for cluster type ORIGINAL_DST"},
		{"cluster provided", `"lb_policy":"CLUSTER_PROVIDED"`, "lb_policy: CLUSTER_PROVIDED is only valid"},
		{"original dst with hosts", `"type":"ORIGINAL_DST","lb_policy":"CLUSTER_PROVIDED","load_assignment":{"cluster_name":"x"}`, "load_assignment: ORIGINAL_DST clusters"},
		{"metadata key", `"type":"ORIGINAL_DST","lb_policy":"CLUSTER_PROVIDED","original_dst_lb_config":{"metadata_key":{"key":"k","path":[{"key":"x"}]}}`, "original_dst_lb_config.metadata_key: waits"},
		{"logical DNS", `"type":"LOGICAL_DNS","load_assignment":{"cluster_name":"x"}`, "load_assignment.endpoints: LOGICAL_DNS clusters must have a single"},
		{"static name", dnsLA, "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address: malformed IP address: a"},
		{"failure rate", `"type":"STRICT_DNS","dns_failure_refresh_rate":{"base_interval":"3s","max_interval":"1s"},` + dnsLA, "dns_failure_refresh_rate: max_interval"},
		{"resolver name", `"type":"STRICT_DNS","dns_resolvers":[{"socket_address":{"address":"ns.test","port_value":53}}],` + dnsLA, "dns_resolvers[0].socket_address.address: malformed IP address: ns.test"},
		{"resolver type", `"type":"STRICT_DNS","typed_dns_resolver_config":{"name":"x","typed_config":{"@type":"type.googleapis.com/xds.type.v3.TypedStruct","type_url":"foo/bar"}},` + dnsLA,
			"typed_dns_resolver_config.typed_config: unknown type \"foo/bar\" of DNS resolver"},
		{"hostname hashing", `"lb_policy":"MAGLEV","common_lb_config":{"consistent_hashing_lb_config":{"use_hostname_for_hashing":true}}`, "cannot use hostname for consistent hashing"},
		{"ring sizes", `"lb_policy":"RING_HASH","ring_hash_lb_config":{"minimum_ring_size":"10","maximum_ring_size":"5"}`, "ring_hash_lb_config: ring hash: minimum_ring_size (10) > maximum_ring_size (5)"},
		{"table size", `"lb_policy":"MAGLEV","maglev_lb_config":{"table_size":"6"}`, "maglev_lb_config.table_size: the table size of maglev must be a prime number"},
		{"no policy", `"load_balancing_policy":{}`, "load_balancing_policy.policies: has no policy"},
		{"unknown policy", `"load_balancing_policy":{"policies":[{"typed_extension_config":{"name":"x","typed_config":{"@type":"type.googleapis.com/xds.type.v3.TypedStruct","type_url":"foo/bar"}}}]}`,
			"load_balancing_policy.policies[0].typed_extension_config.typed_config: unknown type \"foo/bar\""},
		{"bind twice", `"upstream_bind_config":{"source_address":{"address":"127.0.0.1","port_value":0},"extra_source_addresses":[{"address":{"address":"127.0.0.2","port_value":0}}]}`,
			"upstream_bind_config: two source addresses have the same IP version"},
		{"bind extra alone", `"upstream_bind_config":{"extra_source_addresses":[{"address":{"address":"127.0.0.2","port_value":0}}]}`, "upstream_bind_config: extra source addresses"},
		{"bind name", `"upstream_bind_config":{"source_address":{"address":"foo","port_value":0}}`, "upstream_bind_config.source_address.address: malformed IP address: foo"},
		{"socket option state", `"upstream_bind_config":{"socket_options":[{"level":1,"name":1,"int_value":1,"state":"STATE_LISTENING"}]}`, "socket_options[0].state: value STATE_LISTENING"},
		{"per host", `"circuit_breakers":{"per_host_thresholds":[{"max_requests":1}]}`, "circuit_breakers.per_host_thresholds[0]: only max_connections"},
		{"http options key", `"typed_extension_protocol_options":{"foo":{"@type":"type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"}}`, `typed_extension_protocol_options["foo"]: unknown protocol options`},
		{"http options empty", httpURL + `"common_http_protocol_options":{}}}`, "value is required"},
		{"auto without TLS", httpURL + `"auto_config":{}}}`, httpAt + "auto_config: ALPN configured for cluster c which has a non-ALPN transport socket"},
		{"auto with plain text for some", tlsSocket + `,"transport_socket_matches":[{"name":"m","match":{},"transport_socket":{"name":"r","typed_config":{"@type":
		  "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"}}}],` + httpURL + `"auto_config":{}}}`,
			httpAt + "auto_config: ALPN configured for cluster c which has a non-ALPN transport socket matcher: m"},
		{"auto with HTTP/3", tlsSocket + `,` + httpURL + `"auto_config":{"http3_protocol_options":{}}}}`, httpAt + "auto_config.http3_protocol_options: HTTP/3 is not supported"},
		{"alternate protocols", tlsSocket + `,` + httpURL + `"auto_config":{"alternate_protocols_cache_options":{"name":"x"}}}}`,
			httpAt + "auto_config.alternate_protocols_cache_options: HTTP/3 is not supported"},
		{"http/3", httpURL + `"explicit_http_config":{"http3_protocol_options":{}}}}`, "http3_protocol_options: HTTP/3 is not supported"},
		{"SNI from a pseudo-header", httpURL + `"upstream_http_protocol_options":{"auto_sni":true,"override_auto_sni_header":":path"},"explicit_http_config":{"http_protocol_options":{}}}}`,
			httpAt + "upstream_http_protocol_options.override_auto_sni_header: :path is not supported"},
		{"upstream filter", httpURL + `"explicit_http_config":{"http_protocol_options":{}},"http_filters":[{"name":"lua"}]}}`, httpAt + `http_filters[0]: filter "lua" is not supported`},
		{"per downstream pools", `"connection_pool_per_downstream_connection":true`, "connection_pool_per_downstream_connection: value true is not supported"},
		{"upstream pool", `"upstream_config":{"name":"x","typed_config":{"@type":"type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"}}`, "upstream_config: custom connection pools"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := compile(t, `{"name":"c",`+c.text+`}`)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestCompile_WhenAFieldOnlyAdvises_ThenAWarning(t *testing.T) {
	for text, path := range map[string]registry.Path{
		`"outlier_detection":{}`: "outlier_detection",
		`"lb_policy":"MAGLEV","preconnect_policy":{"predictive_preconnect_ratio":2}`: "preconnect_policy.predictive_preconnect_ratio",
		`"common_lb_config":{"update_merge_window":"1s"}`:                            "common_lb_config.update_merge_window",
		`"track_cluster_stats":{"request_response_sizes":true}`:                      "track_cluster_stats.request_response_sizes",
		`"dns_jitter":"1s"`:                                      "dns_jitter",
		`"cleanup_interval":"1s"`:                                "cleanup_interval",
		`"maglev_lb_config":{"table_size":"7"}`:                  "maglev_lb_config",
		`"common_lb_config":{"consistent_hashing_lb_config":{}}`: "common_lb_config.consistent_hashing_lb_config",
		`"round_robin_lb_config":{},"load_balancing_policy":{"policies":[{"typed_extension_config":{"name":"n","typed_config":{` + lbURL + `random.v3.Random"}}}]}`:                                                                                                           "round_robin_lb_config",
		`"round_robin_lb_config":{"slow_start_config":{"slow_start_window":"1s","aggression":{"default_value":1,"runtime_key":"("}}}`:                                                                                                                                         "round_robin_lb_config.slow_start_config.aggression.runtime_key",
		`"common_lb_config":{"zone_aware_lb_config":{"min_cluster_size":"3"}}`:                                                                                                                                                                                                "common_lb_config.zone_aware_lb_config.min_cluster_size",
		`"http_protocol_options":{},"typed_extension_protocol_options":{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions":{"@type":"type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions","explicit_http_config":{"http_protocol_options":{}}}}`: "http_protocol_options",
		`"http_protocol_options":{"accept_http_10":true}`: "http_protocol_options.accept_http_10",
	} {
		_, rep, err := compile(t, `{"name":"c",`+text+`}`)
		if err != nil || len(rep.Warnings) != 1 || rep.Warnings[0].Path != path {
			t.Errorf("%s: %v, warnings %v", text, err, rep.Warnings)
		}
	}
}

func TestCompile_WhenSeveralFieldsAreWrong_ThenAllAreNamed(t *testing.T) {
	_, _, err := compile(t, `{"name":"c","type":"EDS","lb_subset_config":{},"health_checks":[],"filters":[{"name":"x"}]}`)
	if n := len(registry.Flatten(err)); n != 3 {
		t.Errorf("%d errors: %v", n, err)
	}
}

func TestCompile_WhenThresholdsRepeat_ThenTheFirstOfAPriorityCounts(t *testing.T) {
	c := mustCompile(t, `{"name":"c","circuit_breakers":{"thresholds":[{"priority":"HIGH","max_requests":0},{"max_requests":1,"retry_budget":{"budget_percent":{"value":0}}},
	 {"max_requests":2}],"per_host_thresholds":[{"max_connections":4}]}}`).Config
	if c.Breakers[0].MaxRequests != 1 || c.Breakers[1].MaxRequests != 0 || c.Breakers[0].MaxConnectionsPerHost != 4 {
		t.Errorf("%+v", c.Breakers)
	}
	if c.Breakers[0].RetryBudgetPercent <= 0 || c.Breakers[0].MinRetryConcurrency != 3 {
		t.Errorf("a budget of 0 percent is still a budget: %+v", c.Breakers[0])
	}
}

func TestCompile_WhenHTTP2IsAsked_ThenTheProtocolSaysSo(t *testing.T) {
	for _, text := range []string{`"http2_protocol_options":{}`,
		`"typed_extension_protocol_options":{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions":{"@type":"type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions","explicit_http_config":{"http2_protocol_options":{"max_concurrent_streams":5}}}}`} {
		if p := mustCompile(t, `{"name":"c",`+text+`}`).Config.Protocol; p != snapshot.UpstreamHTTP2 {
			t.Errorf("%s: protocol %d", text, p)
		}
	}
}

func TestCompile_WhenALPNDecides_ThenBothProtocolsHaveTheirOptions(t *testing.T) {
	c := mustCompile(t, `{"name":"c",`+tlsSocket+`,"typed_extension_protocol_options":{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions":{
	  "@type":"type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
	  "auto_config":{"http_protocol_options":{"enable_trailers":true},"http2_protocol_options":{"max_concurrent_streams":5}}}}}`).Config
	if c.Protocol != snapshot.UpstreamAuto || !c.H1.EnableTrailers || c.H2.MaxConcurrentStreams != 5 || c.H2Scope == nil {
		t.Errorf("protocol %d, trailers %v, streams %d, stats %v", c.Protocol, c.H1.EnableTrailers, c.H2.MaxConcurrentStreams, c.H2Scope != nil)
	}
}

func TestCompile_WhenNamesComeFromRequests_ThenTheClusterSaysWhichAndWhence(t *testing.T) {
	const typed = `"typed_extension_protocol_options":{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions":{
	  "@type":"type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions","explicit_http_config":{"http_protocol_options":{}},`
	for text, want := range map[string]snapshot.Names{
		`"upstream_http_protocol_options":{"auto_sni":true}`:                                                              {SNI: true},
		typed + `"upstream_http_protocol_options":{"auto_sni":true,"override_auto_sni_header":"X-Sni"}}}`:                 {SNI: true, Header: httpmsg.KeyOf("x-sni")},
		typed + `"upstream_http_protocol_options":{"auto_san_validation":true,"override_auto_sni_header":":authority"}}}`: {SAN: true},
		typed[:len(typed)-1] + `}}`: {},
	} {
		if got := mustCompile(t, `{"name":"c",`+text+`}`).Config.Names; got != want {
			t.Errorf("%s: %+v, want %+v", text, got, want)
		}
	}
	_, rep, err := compile(t, `{"name":"c","upstream_http_protocol_options":{"auto_sni":true},`+typed[:len(typed)-1]+`}}}`)
	if err != nil || len(rep.Warnings) != 1 || rep.Warnings[0].Path != "upstream_http_protocol_options" {
		t.Errorf("%v, warnings %v", err, rep.Warnings)
	}
}

func TestCompile_WhenConnectionsAreMadeAhead_ThenTheRatiosArrive(t *testing.T) {
	p := mustCompile(t, `{"name":"c","preconnect_policy":{"per_upstream_preconnect_ratio":1.5,"predictive_preconnect_ratio":3,
	  "preconnect_enabled_metadata":{"filter":"f","path":[{"key":"k"}],"value":{"string_match":{"exact":"v"}}}}}`).Config.Preconnect
	if p.PerHost != 1.5 || p.Predictive != 3 || p.Hosts == nil || !p.Hosts.Match(map[string]any{"f": map[string]any{"k": "v"}}) || p.Hosts.Match(nil) {
		t.Errorf("%+v", p)
	}
	if p := mustCompile(t, `{"name":"c"}`).Config.Preconnect; p != (snapshot.Preconnect{}) {
		t.Errorf("by default %+v", p)
	}
}

func FuzzCompile(f *testing.F) {
	for _, text := range []string{`{"name":"c"}`, `{"name":"c","type":"EDS","eds_cluster_config":{"eds_config":{"ads":{}}}}`, `{"name":"d","type":"LOGICAL_DNS"}`,
		`{"name":"c","lb_policy":"MAGLEV","load_assignment":{"cluster_name":"x","endpoints":[{"lb_endpoints":[{"endpoint":{"address":{"pipe":{"path":"@x"}}}}]}]}}`} {
		cl := &clusterv3.Cluster{}
		if err := protojson.Unmarshal([]byte(text), cl); err != nil {
			f.Fatal(err)
		}
		b, err := proto.Marshal(cl)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	in := snapshot.NewInterner()
	f.Fuzz(func(t *testing.T, b []byte) {
		cl := &clusterv3.Cluster{}
		if proto.Unmarshal(b, cl) != nil || registry.Validate(cl, "") != nil {
			return
		}
		res, err := Compile(&registry.Ctx{Report: &registry.Report{}, Schema: schema, Env: &Env{Cluster: in.Cluster}}, cl, 1)
		if (res == nil) == (err == nil) {
			t.Fatal("either a result or an error")
		}
		if err == nil && res.Static != nil && res.Config.Balance.MaxRing < 1<<16 {
			res.Config.LB(1, res.Config.Balance.Build(nil, *res.Static)).Pick(&lb.Query{})
		}
	})
}
