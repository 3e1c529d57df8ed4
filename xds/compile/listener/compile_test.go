// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"fmt"
	"strings"
	"testing"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"sidecar/dataplane/filter"
	"sidecar/dataplane/http1"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/route"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/accesslog"
	"sidecar/internal/telemetry/stats"
	"sidecar/xds/compile/secret"
	"sidecar/xds/registry"
)

var schema = registry.MustSchema(Messages)

// env interns names as a controller does. Route configurations and access logs are other rooms' matter: here they are accepted unread.
func env() *Env {
	in := snapshot.NewInterner()
	return &Env{Stats: stats.NewRegistry(1), Workers: 2, Cluster: in.Cluster, Table: in.Table, Secrets: &secret.Compiler{},
		Scopes:     func(string) *route.ScopesRef { return nil },
		Discovered: func(string) *filter.Dynamic { return nil },
		Routes:     func(*registry.Ctx, *routev3.RouteConfiguration) (*route.Table, error) { return &route.Table{}, nil },
		AccessLog: func(*registry.Ctx, *accesslogv3.AccessLog) (*accesslog.Logger, error) {
			return &accesslog.Logger{}, nil
		},
		Filter: func(*registry.Ctx, *accesslogv3.AccessLogFilter) (accesslog.Filter, error) { return nil, nil },
		Headers: func(*registry.Ctx, []*corev3.HeaderValueOption, bool) (route.HeaderOps, error) {
			return route.HeaderOps{}, nil
		},
	}
}

const (
	address = `"address":{"socket_address":{"address":"127.0.0.1","port_value":10000}}`
	odst    = `{"name":"envoy.filters.listener.original_dst","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst"}}`
	router  = `{"name":"envoy.filters.http.router","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}`
	grpcWeb = `{"name":"envoy.filters.http.grpc_web","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.http.grpc_web.v3.GrpcWeb"}}`
)

// tcp is a TCP proxy filter with fields behind its stat prefix.
func tcp(fields string) string {
	return `{"name":"tcp","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy","stat_prefix":"t"` + fields + `}}`
}

// hcm is an HTTP connection manager with HTTP filters and further fields.
func hcm(filters, fields string) string {
	return `{"name":"hcm","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager","stat_prefix":"a:b",` +
		`"http_filters":[` + filters + `]` + fields + `}}`
}

const inline = `,"route_config":{"virtual_hosts":[{"name":"v","domains":["*"]}]}`

// on is a listener with one chain of filters and further fields.
func on(filters, fields string) string {
	return `{"name":"l",` + address + `,"filter_chains":[{"filters":[` + filters + `]}]` + fields + `}`
}

func compile(t testing.TB, e *Env, text string) (*Result, *registry.Report, error) {
	t.Helper()
	l := &listenerv3.Listener{}
	if err := protojson.Unmarshal([]byte(text), l); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	rep := &registry.Report{}
	res, err := Compile(&registry.Ctx{Report: rep, Unknown: registry.UnknownRefuse, Schema: schema, Env: e}, l, 42)
	if (res == nil) == (err == nil) {
		t.Fatal("either a result or an error")
	}
	return res, rep, err
}

func mustCompile(t testing.TB, text string) *Result {
	t.Helper()
	res, rep, err := compile(t, env(), text)
	if err != nil {
		t.Fatal(err)
	}
	if len(rep.Warnings) > 0 {
		t.Errorf("warnings %v", rep.Warnings)
	}
	return res
}

func TestCompile_WhenNothingIsSet_ThenEnvoysDefaults(t *testing.T) {
	l := mustCompile(t, on(hcm(router, inline), "")).Listener
	if l.Name != "l" || l.Hash != 42 || !l.Bind || l.BufferLimit != 1<<20 || l.FiltersTimeout != 15*sys.Second || l.StatName != "127.0.0.1_10000" ||
		l.Direction == snapshot.Inbound || l.Direction == snapshot.Outbound || len(l.WorkerScopes) != 2 || l.Scope == nil {
		t.Errorf("%+v", l)
	}
	if a := l.Addrs; len(a) != 1 || a[0].Addr.String() != "127.0.0.1:10000" || !a[0].Opts.ReusePort {
		t.Errorf("addresses %+v", a)
	}
	h := l.Chains[0].HTTP
	if h == nil || h.ServerName != "envoy" || h.StreamIdle != 300*sys.Second || h.ConnIdle != 3600*sys.Second || h.DelayedClose != sys.Second ||
		h.DrainTimeout != 5*sys.Second || h.RequestTimeout != 0 || !h.GenerateRequestID || h.NormalizePath || h.MergeSlashes || !h.RejectFragment ||
		h.EscapedSlashes != httpmsg.SlashKeep || h.RDS || !h.Router.DynamicStats || h.Codec != snapshot.CodecAuto {
		t.Errorf("%+v", h)
	}
	if h.Scope == nil || h.Scope.Prefix != "http.a_b." {
		t.Errorf("scope %+v", h.Scope)
	}
}

func TestCompile_WhenTheTCPProxyIsSet_ThenItsFieldsArrive(t *testing.T) {
	x := mustCompile(t, on(tcp(`,"weighted_clusters":{"clusters":[{"name":"a","weight":1},{"name":"b","weight":3}]},"idle_timeout":"7s","max_connect_attempts":3,
	  "max_downstream_connection_duration":"9s","max_downstream_connection_duration_jitter_percentage":{"value":50},"hash_policy":[{"source_ip":{}}],"backoff_options":{"base_interval":"1s"},
	  "access_log_options":{"access_log_flush_interval":"2s","flush_access_log_on_connected":true},
	  "tunneling_config":{"hostname":"h:1","use_post":true}`), "")).Listener.Chains[0].TCP
	if w := x.Weighted; x.Cluster != nil || w == nil || w.Total != 4 || len(w.Clusters) != 2 || w.Clusters[1].Name != "b" {
		t.Errorf("weighted %+v", x.Weighted)
	}
	if x.IdleTimeout != 7*sys.Second || x.MaxConnectAttempts != 3 || x.MaxDuration != 9*sys.Second || x.MaxDurationJitter != 4500*sys.Millisecond || x.BackoffBase != sys.Second || x.BackoffMax != 10*sys.Second ||
		x.LogFlushInterval != 2*sys.Second || !x.LogOnConnected || len(x.Hash) != 1 || x.Tunneling == nil || x.Tunneling.PostPath != "/" {
		t.Errorf("%+v", x)
	}
	if x := mustCompile(t, on(tcp(`,"cluster":"c"`), "")).Listener.Chains[0].TCP; x.IdleTimeout != 3600*sys.Second || x.MaxConnectAttempts != 1 || x.Cluster == nil {
		t.Errorf("by default %+v", x)
	}
}

func TestCompile_WhenTheManagerIsSet_ThenItsFieldsArrive(t *testing.T) {
	res := mustCompile(t, on(hcm(grpcWeb+","+router, `,"rds":{"route_config_name":"r","config_source":{"ads":{},"initial_fetch_timeout":"3s"}},"codec_type":"HTTP1",
	  "server_name":"s","stream_error_on_invalid_http_message":true,"drain_timeout":"4s","drain_timeout_jitter":{"value":50},"stream_idle_timeout":"0s","max_request_headers_kb":8,"xff_num_trusted_hops":2,"use_remote_address":true,"via":"v","normalize_path":true,
	  "path_with_escaped_slashes_action":"REJECT_REQUEST","upgrade_configs":[{"upgrade_type":"WebSocket"},{"upgrade_type":"CONNECT","enabled":false}],
	  "common_http_protocol_options":{"max_headers_count":7,"idle_timeout":"4s","max_connection_duration":"8s","max_connection_duration_jitter":{"value":25},"headers_with_underscores_action":"REJECT_REQUEST"},
	  "http_protocol_options":{"accept_http_10":true,"enable_trailers":true}`), ""))
	h := res.Listener.Chains[0].HTTP
	if len(res.RDS) != 1 || res.RDS[0].Name != "r" || res.RDS[0].FetchTimeout.Seconds() != 3 || res.RDS[0].StatPrefix != "a_b" || !h.RDS || h.Routes != res.RDS[0].Ref {
		t.Errorf("RDS %+v", res.RDS)
	}
	if h.Codec != snapshot.CodecHTTP1 || h.ServerName != "s" || h.StreamIdle != 0 || h.XFFHops != 2 || !h.UseRemoteAddr || h.Via != "v" || !h.NormalizePath ||
		h.EscapedSlashes != httpmsg.SlashReject || h.ConnIdle != 4*sys.Second || h.MaxConnDuration != 8*sys.Second || h.MaxConnJitter != 2*sys.Second || !h.StreamErrors || h.DrainJitter != 2*sys.Second || !h.H2.StreamErrors || len(h.Filters) != 1 {
		t.Errorf("%+v", h)
	}
	if len(h.Upgrades) != 2 || h.Upgrades[0] != (snapshot.HCMUpgrade{Type: "websocket", Enabled: true}) || h.Upgrades[1].Enabled {
		t.Errorf("upgrades %+v", h.Upgrades)
	}
	if o := h.H1; o.MaxHeadBytes != 8<<10 || o.MaxHeaders != 7 || !o.AcceptHTTP10 || !o.EnableTrailers || o.Underscores != http1.UnderscoreReject || o.Lax {
		t.Errorf("HTTP/1 %+v", o)
	}
	if o := h.H2; o.MaxHeaderBytes != 8<<10 || o.MaxHeaders != 7 {
		t.Errorf("HTTP/2 %+v", o)
	}
}

func TestCompile_WhenTheListenerIsIstios_ThenAddressesFiltersAndChainsArrive(t *testing.T) {
	l := mustCompile(t, `{"name":"virtualInbound","address":{"socket_address":{"address":"0.0.0.0","port_value":15006}},"traffic_direction":"INBOUND","use_original_dst":true,
	  "additional_addresses":[{"address":{"socket_address":{"address":"::","port_value":15006}}}],"bind_to_port":false,"continue_on_listener_filters_timeout":true,
	  "listener_filters_timeout":"0s","socket_options":[{"level":6,"name":9,"int_value":1,"state":"STATE_LISTENING"}],"tcp_backlog_size":7,
	  "listener_filters":[`+odst+`],"filter_chains":[{"name":"one","filter_chain_match":{"destination_port":80,"prefix_ranges":[{"address_prefix":"10.1.2.3","prefix_len":8}],
	  "source_ports":[1,2]},"filters":[`+tcp(`,"cluster":"c"`)+`]}],"default_filter_chain":{"filters":[`+tcp(`,"cluster":"d"`)+`]}}`).Listener
	if l.Bind || l.Direction != snapshot.Inbound || !l.UseOriginalDst || !l.ContinueOnTimeout || l.FiltersTimeout != 0 || len(l.Addrs) != 2 || l.Default == nil {
		t.Errorf("%+v", l)
	}
	if len(l.Filters) != 1 || l.Filters[0].Kind != snapshot.FilterOriginalDst {
		t.Errorf("the field and the filter are one: %+v", l.Filters)
	}
	if o := l.Addrs[1].Opts; o.Backlog != 7 || len(o.Listening) != 1 || len(o.Pre)+len(o.Bound) != 0 || !o.V6Only {
		t.Errorf("options %+v", o)
	}
	if m := l.Chains[0].Match; m.DestPort != 80 || m.DestRanges[0].String() != "10.0.0.0/8" || len(m.SourcePorts) != 2 {
		t.Errorf("match %+v", m)
	}
}

func TestCompile_WhenAFieldIsWrong_ThenItsPathAndReason(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"no address", `{"name":"l","filter_chains":[{"filters":[` + tcp(`,"cluster":"c"`) + `]}]}`, "address: a listener needs an address"},
		{"no chain", `{"name":"l",` + address + `}`, "filter_chains: no filter chains specified"},
		{"duplicate address", on(tcp(`,"cluster":"c"`), `,"additional_addresses":[{`+address+`}]`), "additional_addresses: duplicate address '127.0.0.1:10000'"},
		{"malformed address", `{"name":"l","address":{"socket_address":{"address":"1.2.3","port_value":1}},"filter_chains":[{"filters":[` + tcp(`,"cluster":"c"`) + `]}]}`,
			"address.socket_address.address: malformed IP address: 1.2.3"},
		{"nothing accepted", on(tcp(`,"cluster":"c"`), `,"max_connections_to_accept_per_socket_event":0`), "max_connections_to_accept_per_socket_event: value must be greater than 0"},
		{"internal with an address", on(tcp(`,"cluster":"c"`), `,"internal_listener":{}`), "address: error adding listener named 'l': address should not be used"},
		{"internal with sockets", on(tcp(`,"cluster":"c"`), `,"internal_listener":{},"freebind":true`), "freebind: error adding listener named 'l': has unsupported tcp listener feature"},
		{"internal with a port", on(tcp(`,"cluster":"c"`), `,"internal_listener":{},"enable_reuse_port":true`), "enable_reuse_port: error adding listener named 'l'"},
		{"socket type", on(tcp(`,"cluster":"c"`), `,"socket_options":[{"level":1,"name":2,"int_value":1,"type":{"stream":{}}}]`), "socket_options[0].type: socket type filters are not supported"},
		{"UDP", on(tcp(`,"cluster":"c"`), `,"udp_listener_config":{}`), "udp_listener_config: waits for a later issue (UDP)"},
		{"no cluster", on(tcp(""), ""), "filter_chains[0].filters[0].typed_config.cluster_specifier: value is required"},
		{"back-off", on(tcp(`,"cluster":"c","backoff_options":{"base_interval":"2s","max_interval":"1s"}`), ""),
			"filter_chains[0].filters[0].typed_config.backoff_options.max_interval: must be greater than or equal to the base_interval"},
		{"post path", on(tcp(`,"cluster":"c","tunneling_config":{"hostname":"h","post_path":"/"}`), ""),
			"filter_chains[0].filters[0].typed_config.tunneling_config.post_path: Can't set a post path when POST method isn't used"},
		{"weights", on(tcp(`,"weighted_clusters":{"clusters":[{"name":"a","weight":4294967295},{"name":"b","weight":1}]}`), ""),
			"typed_config.weighted_clusters: the sum of weights of all clusters must not exceed 4294967295"},
		{"subsets", on(tcp(`,"cluster":"c","metadata_match":{}`), ""), "typed_config.metadata_match: subset load balancing is not supported"},
		{"second network filter", on(tcp(`,"cluster":"c"`)+","+tcp(`,"cluster":"c"`), ""), "filter_chains[0].filters[0]: Error: terminal filter named tcp of type tcp must be the last filter"},
		{"equal matches", `{"name":"l",` + address + `,"filter_chains":[{"filters":[` + tcp(`,"cluster":"c"`) + `]},{"filters":[` + tcp(`,"cluster":"c"`) + `]}]}`, "filter_chains: "},
		{"mask", `{"name":"l",` + address + `,"filter_chains":[{"filter_chain_match":{"prefix_ranges":[{"address_prefix":"1.2.3.4","prefix_len":33}]},"filters":[` + tcp(`,"cluster":"c"`) + `]}]}`,
			"filter_chains[0].filter_chain_match.prefix_ranges[0]: invalid ip/mask combo '1.2.3.4/33'"},
		{"HTTP/3", on(hcm(router, inline+`,"codec_type":"HTTP3"`), ""), "typed_config.codec_type: HTTP/3 is not supported"},
		{"router first", on(hcm(router+","+grpcWeb, inline), ""), "http_filters[0]: Error: terminal filter named envoy.filters.http.router of type envoy.filters.http.router must be the last"},
		{"no router", on(hcm(grpcWeb, inline), ""), "http_filters: Error: non-terminal filter named envoy.filters.http.grpc_web"},
		{"router off", on(hcm(strings.Replace(router, "{", `{"disabled":true,`, 1), inline), ""), "http_filters[0].disabled: a terminal filter cannot be disabled"},
		{"upgrade twice", on(hcm(router, inline+`,"upgrade_configs":[{"upgrade_type":"a"},{"upgrade_type":"A"}]`), ""), "upgrade_configs[1].upgrade_type: Error: multiple upgrade configs with the same name: 'A'"},
		{"HTTP/1 upgrades", on(hcm(router, inline+`,"http_protocol_options":{"ignore_http_11_upgrade":[{"exact":"x"}]}`), ""), "http_protocol_options.ignore_http_11_upgrade: waits for a later issue"},
		{"internal ranges", on(hcm(router, inline+`,"internal_address_config":{"cidr_ranges":[{"address_prefix":"x","prefix_len":1}]}`), ""),
			"typed_config.internal_address_config.cidr_ranges[0]: malformed IP address: x"},
		{"listener filter", on(tcp(`,"cluster":"c"`), `,"listener_filters":[{"name":"x","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"},
		  "filter_disabled":{"destination_port_range":{"start":5,"end":4}}}]`), "listener_filters[0].filter_disabled.destination_port_range: invalid range [5, 4)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := env()
			_, _, err := compile(t, e, c.in)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v\nwant %s", err, c.want)
			}
			e.Stats.Each(func(s *stats.Scope) {
				if s.Prefix != "tls_inspector." { // of the process
					t.Errorf("scope %s is left of a listener that was refused", s.Prefix)
				}
			})
		})
	}
}

func TestCompile_WhenSeveralFieldsAreWrong_ThenAllAreNamed(t *testing.T) {
	_, _, err := compile(t, env(), on(tcp(`,"cluster":"c"`)+","+hcm(grpcWeb, inline+`,"codec_type":"HTTP3"`), `,"udp_listener_config":{},"max_connections_to_accept_per_socket_event":0`))
	for _, want := range []string{"udp_listener_config", "max_connections_to_accept_per_socket_event", "filters[0]: Error: terminal", "filters[1].typed_config.codec_type"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s is not in %v", want, err)
		}
	}
}

func TestCompile_WhenAnOptionalFilterIsUnknown_ThenAWarningNamesIt(t *testing.T) {
	in := hcm(`{"name":"x","is_optional":true,"typed_config":{"@type":"type.googleapis.com/google.protobuf.Struct","value":{}}},`+router, inline)
	res, rep, err := compile(t, env(), on(in, ""))
	if err != nil || len(rep.Warnings) != 1 || !strings.Contains(fmt.Sprint(rep.Warnings[0]), `http_filters[0]`) || len(res.Listener.Chains[0].HTTP.Filters) != 0 {
		t.Errorf("%v, warnings %v", err, rep.Warnings)
	}
}

func TestCompile_WhenOnlyChainsChange_ThenTheSocketsStay(t *testing.T) {
	key := func(text string) (socket, chain uint64) {
		l := mustCompile(t, text).Listener
		return l.SocketKey, l.Chains[0].DrainKey
	}
	s0, c0 := key(on(tcp(`,"cluster":"c"`), ""))
	if s, c := key(on(tcp(`,"cluster":"c"`), "")); s != s0 || c != c0 {
		t.Error("equal listeners have equal keys")
	}
	if s, c := key(on(tcp(`,"cluster":"d"`), "")); s != s0 || c == c0 {
		t.Error("a changed chain drains alone")
	}
	if s, c := key(on(tcp(`,"cluster":"c"`), `,"tcp_backlog_size":9`)); s == s0 || c != c0 {
		t.Error("a changed socket leaves the chains as they are")
	}
}

func FuzzCompile(f *testing.F) {
	for _, text := range []string{on(tcp(`,"cluster":"c"`), ""), on(hcm(router, inline), ""), on(hcm(grpcWeb+","+router, inline), `,"listener_filters":[`+odst+`]`)} {
		l := &listenerv3.Listener{}
		if err := protojson.Unmarshal([]byte(text), l); err != nil {
			f.Fatal(err)
		}
		b, err := proto.Marshal(l)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	e := env()
	f.Fuzz(func(t *testing.T, b []byte) {
		l := &listenerv3.Listener{}
		if proto.Unmarshal(b, l) != nil {
			return
		}
		res, err := Compile(&registry.Ctx{Report: &registry.Report{}, Schema: schema, Env: e}, l, 1)
		if (res == nil) == (err == nil) {
			t.Fatal("either a result or an error")
		}
	})
}
