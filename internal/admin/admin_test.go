// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"sidecar/internal/telemetry/accesslog"
	"sidecar/internal/telemetry/log"
	"sidecar/internal/telemetry/stats"
)

func pack(t *testing.T, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func sources(t *testing.T) (Sources, *stats.Registry) {
	reg := stats.NewRegistry(1)
	lm, err := log.New(log.Config{Level: log.Warning, Out: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	cl := &clusterv3.Cluster{Name: "b1", TransportSocket: &corev3.TransportSocket{Name: "x", ConfigType: &corev3.TransportSocket_TypedConfig{
		TypedConfig: &anypb.Any{TypeUrl: "type.googleapis.com/not.Linked", Value: []byte("\xff\x01")}}}}
	addr := &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{Address: "::1",
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 80}}}}
	return Sources{Stats: stats.NewView(reg, nil, stats.Config{}), Registry: reg, Logging: lm,
		State: func() adminv3.ServerInfo_State { return adminv3.ServerInfo_LIVE },
		ConfigDump: func(q DumpQuery) []proto.Message {
			out := []proto.Message{&adminv3.BootstrapConfigDump{Bootstrap: &bootstrapv3.Bootstrap{Node: &corev3.Node{Id: "n", Cluster: "c"}}}}
			if q.Name == nil || q.Name("b1") {
				out = append(out, &adminv3.ClustersConfigDump{VersionInfo: "v", StaticClusters: []*adminv3.ClustersConfigDump_StaticCluster{{Cluster: pack(t, cl)}}})
			}
			if q.IncludeEDS {
				out = append(out, &adminv3.EndpointsConfigDump{})
			}
			return append(out, &adminv3.ListenersConfigDump{}, &adminv3.RoutesConfigDump{})
		},
		Listeners: func() *adminv3.Listeners {
			return &adminv3.Listeners{ListenerStatuses: []*adminv3.ListenerStatus{{Name: "l", LocalAddress: addr}}}
		},
		Clusters: func() *adminv3.Clusters {
			return &adminv3.Clusters{ClusterStatuses: []*adminv3.ClusterStatus{{Name: "b1", ObservabilityName: "b1",
				CircuitBreakers: &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{MaxConnections: wrapperspb.UInt32(7)}}},
				HostStatuses: []*adminv3.HostStatus{{Address: addr, Weight: 1, Hostname: "h", Stats: []*adminv3.SimpleMetric{{Name: "cx_active", Value: 3}},
					HealthStatus: &adminv3.HostHealthStatus{EdsHealthStatus: corev3.HealthStatus_UNHEALTHY}}}}}}
		},
	}, reg
}

func do(s *Server, method, target string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(method, "/", nil)
	r.URL.Path, r.URL.RawQuery, _ = strings.Cut(target, "?")
	s.ServeHTTP(w, r)
	return w
}

func TestServer_WhenAsked_ThenStatusTypeAndBodyAreEnvoys(t *testing.T) {
	src, reg := sources(t)
	reg.Scope("cluster_manager.cds.", stats.SubscriptionDef).Control().Inc(stats.SubscriptionUpdateSuccess)
	s := New(Config{Sources: src})
	const usage = "usage: /logging?<name>=<level> (change single level)\n"
	for _, tc := range []struct {
		req  string
		code int
		ctyp string
		body string // prefix, or all of it when it ends with $
	}{
		{"GET /ready", 200, plainText, "LIVE\n$"}, {"PUT /ready", 200, plainText, "LIVE\n$"}, {"DELETE /ready", 200, plainText, "LIVE\n$"},
		{"GET /nope", 404, plainText, "invalid path. admin commands are:\n  /: Admin home page\n"},
		{"GET /logging", 405, plainText, "Method GET not allowed, POST required.$"}, {"GET /quitquitquit", 405, plainText, "Method GET not allowed, POST required.$"},
		{"POST /logging", 200, plainText, "active loggers:\n  a2a: warning\n  admin: warning\n"},
		{"POST /logging?level=foo", 400, plainText, "error: unknown logger level\n" + usage}, {"POST /logging?nologger=debug", 400, plainText, "error: unknown logger name\n" + usage},
		{"POST /logging?paths=http:info,nope:debug", 400, plainText, "error: unknown logger name\n" + usage},
		{"GET /stats?usedonly&filter=^(cluster_manager\\.cds|listener_manager\\.lds)\\.(update_success|update_rejected)$", 200, plainText, "cluster_manager.cds.update_success: 1\n$"},
		{"GET /stats?filter=(", 400, plainText, "Invalid re2 regex: missing ): ($"}, {"GET /stats?type=foo", 400, plainText, "invalid &type= param$"},
		{"GET /stats?format=foo", 400, plainText, "usage: /stats?format=(html|active-html|json|prometheus|text)"},
		{"GET /stats?histogram_buckets=foo", 400, plainText, "usage: /stats?histogram_buckets=(cumulative|disjoint|detailed|summary|prometheusnative)"},
		{"GET /stats?hidden=foo", 400, plainText, "usage: /stats?hidden=(include|only|exclude)"},
		{"GET /stats?format=json&usedonly&type=Counters", 200, jsonType, `{"stats":[{"name":"cluster_manager.cds.update_success","value":1}]}$`},
		{"GET /stats/prometheus?usedonly&filter=cds", 200, plainText, "# TYPE envoy_cluster_manager_cds_update_success counter\nenvoy_cluster_manager_cds_update_success{} 1\n$"},
		{"GET /hot_restart_version", 200, plainText, "disabled$"}, {"GET /certs", 200, jsonType, "{\n \"certificates\": []\n}\n$"},
		{"GET /runtime", 200, jsonType, "{\n \"entries\": {},\n \"layers\": []\n}\n$"}, {"POST /runtime_modify", 400, plainText, "usage: /runtime_modify?key1=value1"},
		{"POST /runtime_modify?a=b", 503, plainText, "No admin layer specified$"}, {"GET /init_dump", 200, jsonType, "{}\n$"},
		{"GET /listeners", 200, plainText, "l::[::1]:80\n$"},
		{"GET /listeners?format=json", 200, jsonType, "{\n \"listener_statuses\": [\n  {\n   \"name\": \"l\",\n   \"local_address\": {\n    \"socket_address\": {\n     \"address\": \"::1\",\n     \"port_value\": 80\n    }\n   }\n  }\n ]\n}\n$"},
		{"GET /clusters", 200, plainText, "b1::observability_name::b1\nb1::default_priority::max_connections::7\n"},
		{"GET /clusters?filter=none", 200, plainText, "$"},
		{"GET /config_dump?resource=nope", 404, bareText, "nope not found in config dump$"},
		{"GET /config_dump?resource=bootstrap", 400, bareText, "bootstrap is not a repeated field. Use ?mask=bootstrap to get only this field$"},
		{"GET /config_dump?mask=nope", 400, bareText, "FieldMask nope could not be successfully applied to any configs.$"},
		{"GET /config_dump?name_regex=(", 400, bareText, "INVALID_ARGUMENT: Error while parsing name_regex from (: missing ): ($"},
		{"GET /config_dump?mask=bootstrap.node.id", 200, jsonType, "{\n \"configs\": [\n  {\n   \"@type\": \"type.googleapis.com/envoy.admin.v3.BootstrapConfigDump\",\n   \"bootstrap\": {\n    \"node\": {\n     \"id\": \"n\"\n    }\n   }\n  }\n ]\n}\n$"},
		{"GET /config_dump?resource=static_clusters&mask=cluster.name", 200, jsonType, "{\n \"configs\": [\n  {\n   \"@type\": \"type.googleapis.com/envoy.admin.v3.ClustersConfigDump.StaticCluster\",\n   \"cluster\": {\n    \"@type\": \"type.googleapis.com/envoy.config.cluster.v3.Cluster\",\n    \"name\": \"b1\"\n   }\n  }\n ]\n}\n$"},
		{"POST /drain_listeners", 501, plainText, "not supported"}, {"GET /xds", 200, jsonType, "{\n \"rejected\": [],\n \"warnings\": []\n}\n$"},
		{"GET /", 200, htmlType, "<!DOCTYPE html>"}, {"GET /help", 200, plainText, "admin commands are:\n"}, {"GET /memory", 200, jsonType, "{\n \"allocated\": \""},
		{"POST /reset_counters", 200, plainText, "OK\n$"},
	} {
		m, target, _ := strings.Cut(tc.req, " ")
		w := do(s, m, target)
		body := w.Body.String()
		want, all := strings.CutSuffix(tc.body, "$")
		if w.Code != tc.code || w.Header().Get("Content-Type") != tc.ctyp || !strings.HasPrefix(body, want) || all && body != want {
			t.Errorf("%s: %d %s\n%s\nwant %d %s\n%s", tc.req, w.Code, w.Header().Get("Content-Type"), body, tc.code, tc.ctyp, want)
		}
	}
	if got := do(s, "GET", "/clusters").Body.String(); !strings.Contains(got, "b1::[::1]:80::cx_active::3\n") || !strings.Contains(got, "::health_flags::/failed_eds_health\n") ||
		!strings.Contains(got, "::success_rate::-1\n") {
		t.Errorf("%s", got)
	}
}

func TestConfigDump_WhenAnyIsNotLinkedIn_ThenDumpIsStillEnvoysProto(t *testing.T) {
	src, _ := sources(t)
	s := New(Config{Sources: src})
	w := do(s, "GET", "/config_dump?include_eds")
	if !strings.Contains(w.Body.String(), "\"@type\": \"type.googleapis.com/not.Linked\",\n") || !strings.Contains(w.Body.String(), `"value": "/wE="`) {
		t.Errorf("%s", w.Body)
	}
	var doc struct {
		Configs []map[string]any `json:"configs"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil || len(doc.Configs) != 5 {
		t.Fatalf("%v: %d configs", err, len(doc.Configs))
	}
	m := do(s, "GET", "/config_dump?mask=static_clusters,dynamic_active_clusters").Body.String()
	if strings.Contains(m, "version_info") || strings.Contains(m, "Bootstrap") || !strings.Contains(m, "ClustersConfigDump") {
		t.Errorf("%s", m)
	}
	if c := do(s, "GET", "/config_dump?name_regex=zz").Body.String(); strings.Contains(c, "ClustersConfigDump") {
		t.Errorf("%s", c)
	}
}

func TestToJSON_WhenKnownTypeIsMalformed_ThenOutputIsValid(t *testing.T) {
	deep := pack(t, &clusterv3.Cluster{Name: "x", TransportSocket: &corev3.TransportSocket{ConfigType: &corev3.TransportSocket_TypedConfig{
		TypedConfig: &anypb.Any{TypeUrl: "type.googleapis.com/envoy.config.cluster.v3.Cluster", Value: []byte{0xff}}}}})
	b, err := toJSON(&adminv3.ConfigDump{Configs: []*anypb.Any{deep, {}, {TypeUrl: "x/"}}})
	if err != nil || !json.Valid(b) || !strings.Contains(string(b), "\"@type\": \"type.googleapis.com/envoy.config.cluster.v3.Cluster\",\n     \"value\": \"/w==\"") {
		t.Errorf("%v %s", err, b)
	}
}

func TestServerInfo_WhenPrinted_ThenItParsesAsEnvoysProto(t *testing.T) {
	src, _ := sources(t)
	src.ServerInfo = func() *adminv3.ServerInfo {
		return &adminv3.ServerInfo{Version: "v", Node: &corev3.Node{Id: "n"}, CommandLineOptions: &adminv3.CommandLineOptions{Concurrency: 2}}
	}
	got := &adminv3.ServerInfo{}
	if err := protojson.Unmarshal(do(New(Config{Sources: src}), "GET", "/server_info").Body.Bytes(), got); err != nil ||
		got.GetState() != adminv3.ServerInfo_LIVE || got.GetNode().GetId() != "n" {
		t.Errorf("%v %v", err, got)
	}
}

func TestActions_WhenPosted_ThenSourcesAreCalled(t *testing.T) {
	src, _ := sources(t)
	var got []string
	src.DrainListeners = func(d Drain) {
		got = append(got, "drain")
		if !d.Graceful || d.SkipExit || !d.InboundOnly {
			t.Errorf("%+v", d)
		}
	}
	src.HealthCheck = func(fail bool) { got = append(got, map[bool]string{true: "fail", false: "ok"}[fail]) }
	src.Quit = func() { got = append(got, "quit") }
	src.ReopenLogs = func() { got = append(got, "reopen") }
	src.RuntimeModify = func(m map[string]string) error { got = append(got, m["a"]+m["c"]); return nil }
	src.Runtime = func() ([]string, []RuntimeEntry) {
		return []string{"base", "admin"}, []RuntimeEntry{{"k", []string{"1", "2"}, "2"}}
	}
	s := New(Config{Sources: src})
	for _, p := range []string{"/drain_listeners?inboundonly&graceful", "/healthcheck/fail", "/healthcheck/ok", "/quitquitquit", "/reopen_logs", "/runtime_modify?a=b%20&c=d"} {
		if w := do(s, "POST", p); w.Code != 200 || w.Body.String() != "OK\n" {
			t.Errorf("%s: %d %s", p, w.Code, w.Body)
		}
	}
	if strings.Join(got, ",") != "drain,fail,ok,quit,reopen,b d" {
		t.Errorf("%v", got)
	}
	if b := do(s, "GET", "/runtime").Body.String(); !strings.Contains(b, `"final_value": "2"`) || !strings.Contains(b, `"admin"`) {
		t.Errorf("%s", b)
	}
	do(s, "POST", "/logging?http=debug")
	if src.Logging.Logger("http").Level() != log.Debug || src.Logging.Logger("main").Level() != log.Warning {
		t.Error("levels")
	}
}

func TestServer_WhenManyAskAtOnce_ThenOnly32AreServedTogether(t *testing.T) {
	src, _ := sources(t)
	var now, peak atomic.Int32
	release := make(chan struct{})
	src.State = func() adminv3.ServerInfo_State {
		n := now.Add(1)
		for p := peak.Load(); n > p && !peak.CompareAndSwap(p, n); p = peak.Load() {
		}
		<-release
		now.Add(-1)
		return adminv3.ServerInfo_DRAINING
	}
	s := New(Config{Sources: src})
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if w := do(s, "GET", "/ready"); w.Code != 503 || w.Body.String() != "DRAINING\n" {
				t.Errorf("%d %s", w.Code, w.Body)
			}
		})
	}
	for now.Load() < maxRequests {
		time.Sleep(time.Millisecond)
	}
	close(release)
	wg.Wait()
	if peak.Load() != maxRequests {
		t.Errorf("peak %d", peak.Load())
	}
}

func TestServe_WhenUnixSocket_ThenStaleOneIsReplacedAndLogIsWritten(t *testing.T) {
	src, reg := sources(t)
	path := filepath.Join(t.TempDir(), "a.sock")
	old, err := Listen("unix", path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen("unix", path, 0); err == nil {
		t.Error("a live socket was taken over")
	}
	if ul, ok := old.(interface{ SetUnlinkOnClose(bool) }); ok {
		ul.SetUnlinkOnClose(false)
	}
	_ = old.Close()
	ln, err := Listen("unix", path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	f, err := accesslog.Compile("%REQ(:METHOD)% %REQ(:PATH)% %RESPONSE_CODE% %BYTES_SENT%\n")
	if err != nil {
		t.Fatal(err)
	}
	sink, queue := accesslog.NewSink("x", 1, reg.Scope("filesystem.", stats.FilesystemDef), accesslog.FileCounters, 0)
	s := New(Config{Sources: src, AccessLogs: []*accesslog.Logger{{Format: f, Sink: sink}}})
	done := make(chan error, 1)
	go func() { done <- s.Serve(ln) }()
	c := &http.Client{Transport: &http.Transport{DialContext: unixDialer(path)}}
	resp, err := c.Get("http://admin/ready?x")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := s.Close(ctx); err != nil {
		t.Error(err)
	}
	if err := <-done; err != http.ErrServerClosed {
		t.Error(err)
	}
	got := ""
	queue.Drain(func(b []byte) { got += string(b) })
	if got != "GET /ready?x 200 5\n" {
		t.Errorf("%q", got)
	}
}
