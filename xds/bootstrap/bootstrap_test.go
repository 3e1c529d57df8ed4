// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"

	"sidecar/xds/registry"
)

func lines(err error) string {
	var out []string
	for _, e := range registry.Flatten(err) {
		out = append(out, e.Error())
	}
	return strings.Join(out, "\n")
}

func TestLoad_WhenIstioRendersIt_ThenItLoadsAndWhatWaitsIsNamed(t *testing.T) {
	c, err := Load(Options{Path: "testdata/istio.json", AllowUnknown: true})
	if err != nil {
		t.Fatal(err)
	}
	if c.ADS == nil || !c.ADS.Delta || c.ADS.NodeInEvery || c.ADS.Services[0].Cluster.GetName() != "xds-grpc" {
		t.Errorf("ads: %+v", c.ADS)
	}
	if c.LDS == nil || c.LDS.Kind != SourceADS || c.LDS.InitialFetchTimeout != 0 || c.CDS == nil {
		t.Errorf("lds %+v cds %+v", c.LDS, c.CDS)
	}
	if c.Admin.Network != "tcp" || c.Admin.Address != "127.0.0.1:15000" {
		t.Errorf("admin %+v", c.Admin)
	}
	if len(c.Runtime) != 2 || c.Runtime[0].Static.GetFields()["re2.max_program_size.error_level"].GetStringValue() != "32768" || !c.Runtime[1].Admin {
		t.Errorf("runtime %+v", c.Runtime)
	}
	if c.MaxDownstreamConnections != 2147483647 || len(c.Listeners()) != 2 || len(c.Clusters()) != 4 {
		t.Errorf("max %d, %d listeners, %d clusters", c.MaxDownstreamConnections, len(c.Listeners()), len(c.Clusters()))
	}
	if n := c.Node.GetMetadata().GetFields()["ENVOY_STATUS_PORT"].GetNumberValue(); n != 15021 {
		t.Errorf("metadata number became %v", n)
	}
	if c.InternalBuffer != 64<<10 {
		t.Errorf("internal listeners get %d bytes", c.InternalBuffer)
	}
	var warned []string
	for _, w := range c.Warnings {
		warned = append(warned, w.String())
	}
	want := []string{"admin.profile_path: ", "deferred_stat_options: "}
	for _, w := range want {
		if !strings.Contains(strings.Join(warned, "\n"), w) {
			t.Errorf("no warning %q in\n%s", w, strings.Join(warned, "\n"))
		}
	}
	// A filter that is not linked in keeps its type URL and content for its compiler to refuse.
	var hcm hcmv3.HttpConnectionManager
	if err := c.Listeners()[0].GetFilterChains()[0].GetFilters()[0].GetTypedConfig().UnmarshalTo(&hcm); err != nil {
		t.Fatal(err)
	}
	url, _, err := registry.Unwrap(hcm.GetHttpFilters()[0].GetTypedConfig())
	if err != nil || url != "type.googleapis.com/envoy.extensions.filters.http.compressor.v3.Compressor" {
		t.Errorf("compressor is %q, %v", url, err)
	}
}

const small = `
node: {id: a, cluster: b}
static_resources:
  clusters:
  - name: xds
    connectTimeout: 0.25s
    type: static
    loadAssignment: {clusterName: xds, endpoints: [{lbEndpoints: [{endpoint: {address: {pipe: {path: "@x"}}}}]}]}
dynamic_resources:
  ads_config: {api_type: GRPC, transport_api_version: V3, grpc_services: {envoy_grpc: {cluster_name: xds}}}
`

func TestLoad_WhenDocumentIsRead_ThenItMeansWhatEnvoyReads(t *testing.T) {
	cases := []struct {
		name, file, text, over string
		check                  func(c *Config) bool
	}{
		{"camel and snake, enum case", "b.yaml", strings.Replace(small, "{envoy_grpc: {cluster_name: xds}}", "[{envoy_grpc: {cluster_name: xds}}]", 1), "", func(c *Config) bool {
			return c.Clusters()[0].GetType() == clusterv3.Cluster_STATIC && c.Clusters()[0].GetConnectTimeout().AsDuration() == 250*time.Millisecond &&
				c.Clusters()[0].GetLoadAssignment().GetEndpoints()[0].GetLbEndpoints()[0].GetEndpoint().GetAddress().GetPipe().GetPath() == "@x" &&
				c.ADS.NodeInEvery && !c.ADS.Delta
		}},
		{"wrappers as objects", "b.yaml", strings.Replace(small, "    type: static\n", "    type: static\n    circuit_breakers: {thresholds: [{max_connections: {value: 4}, max_requests: {}}]}\n", 1), "", func(c *Config) bool {
			th := c.Clusters()[0].GetCircuitBreakers().GetThresholds()[0]
			return th.GetMaxConnections().GetValue() == 4 && th.MaxRequests != nil && th.MaxRequests.Value == 0 && th.MaxRetries == nil
		}},
		{"yaml numbers in metadata", "b.yaml", "node: {id: a, cluster: b, metadata: {f: 1.25, i: 7, big: 12345678901, q: '8', l: [2.5], o: 010, h: 0x10, t: yes, u: 1_000, e: ~}}", "", func(c *Config) bool {
			f := c.Node.GetMetadata().GetFields()
			return f["f"].GetStringValue() == "1.25" && f["i"].GetNumberValue() == 7 && f["big"].GetStringValue() == "12345678901" &&
				f["q"].GetStringValue() == "8" && f["l"].GetListValue().GetValues()[0].GetStringValue() == "2.5" && f["o"].GetNumberValue() == 8 &&
				f["h"].GetNumberValue() == 16 && f["t"].GetBoolValue() && f["u"].GetStringValue() == "1_000"
		}},
		{"json numbers in metadata", "b.json", `{"node": {"id": "a", "cluster": "b", "metadata": {"f": 1.25, "big": 12345678901}}}`, "", func(c *Config) bool {
			f := c.Node.GetMetadata().GetFields()
			return f["f"].GetNumberValue() == 1.25 && f["big"].GetNumberValue() == 12345678901
		}},
		{"trailing commas", "b.json", `{"node": {"id": "a,}", "cluster": "b",}, "static_resources": {"clusters": [ ] , } ,
		}`, "", func(c *Config) bool { return c.Node.GetId() == "a,}" }},
		{"ignore key, anchors, duplicate keys, nulls", "b.yaml", "!ignore x: &n {id: a, cluster: b}\nnode: {id: z}\nnode: *n\nadmin: ~\nstatic_resources: {clusters: null}", "",
			func(c *Config) bool { return c.Node.GetId() == "a" && c.Admin.Network == "" }},
		{"quoted is text", "b.yaml", `node: {id: "n", cluster: '5'}`, "", func(c *Config) bool { return c.Node.GetId() == "n" && c.Node.GetCluster() == "5" }},
		{"quoted number for a number", "b.yaml", `admin: {address: {socket_address: {address: "::1", port_value: "19000"}}}`, "",
			func(c *Config) bool { return c.Admin.Address == "[::1]:19000" }},
		{"no runtime layers", "b.yaml", "layered_runtime: {}", "", func(c *Config) bool { return len(c.Runtime) == 1 && c.Runtime[0].Admin }},
		{"empty object", "b.yaml", "{}", "", func(c *Config) bool {
			return c.ADS == nil && len(c.Runtime) == 0 && c.StatsFlushInterval == 5*time.Second
		}},
		{"merge", "b.yaml", "node: {id: a, cluster: b, metadata: {k: v}}\nstatic_resources: {clusters: [{name: one}]}",
			`{"node": {"id": "over", "metadata": {"l": "w"}}, "static_resources": {"clusters": [{"name": "two"}]}}`, func(c *Config) bool {
				return c.Node.GetId() == "over" && c.Node.GetCluster() == "b" && len(c.Node.GetMetadata().GetFields()) == 2 &&
					len(c.Clusters()) == 2 && c.Cluster("two") != nil
			}},
		{"only config-yaml", "", "", "node: {id: a, cluster: b}", func(c *Config) bool { return c.Node.GetId() == "a" }},
		{"pipe admin, paths", "b.yaml", "admin: {address: {pipe: {path: /run/x.sock, mode: 384}}}\ndynamic_resources: {lds_config: {path_config_source: {path: l.yaml, watched_directory: {path: d}}}, cds_config: {path: c.yaml}}", "",
			func(c *Config) bool {
				return c.Admin.Network == "unix" && c.Admin.Mode == 0o600 && c.LDS.Kind == SourcePath && c.LDS.WatchedDirectory == "d" && c.CDS.Path == "c.yaml" &&
					c.LDS.InitialFetchTimeout == 15*time.Second
			}},
		{"aggregated source of its own", "b.yaml", "node: {id: a, cluster: b}\ndynamic_resources: {cds_config: {api_config_source: {api_type: AGGREGATED_DELTA_GRPC, transport_api_version: V3, grpc_services: [{google_grpc: {target_uri: 'h:1', stat_prefix: s}}]}}, ads_config: {api_type: GRPC, transport_api_version: V3, grpc_services: [{google_grpc: {target_uri: 'h:2', stat_prefix: s}}]}}", "",
			func(c *Config) bool {
				return c.CDS.API.Aggregated && c.CDS.API.Delta && c.ADS.Aggregated && !c.ADS.Delta && c.ADS.Services[0].Target == "h:2"
			}},
		{"polled, with the delay as an object", "b.yaml", "node: {id: a, cluster: b}\nstatic_resources: {clusters: [{name: x, load_assignment: {cluster_name: x, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 1}}}}]}]}}]}\ndynamic_resources: {cds_config: {api_config_source: {api_type: REST, transport_api_version: V3, cluster_names: [x], refresh_delay: {seconds: 1, nanos: 500000000}}}}", "",
			func(c *Config) bool { return c.CDS.API.REST && c.CDS.API.RefreshDelay == 1500*time.Millisecond }},
		{"text proto", "b.pb_text", `node { id: "a" cluster: "b" }`, "", func(c *Config) bool { return c.Node.GetId() == "a" }},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			o := Options{Path: tc.file, ConfigYAML: tc.over}
			if tc.file != "" {
				o.Data = []byte(tc.text)
			}
			c, err := Load(o)
			if err != nil {
				t.Fatal(lines(err))
			}
			if !tc.check(c) {
				t.Errorf("read as %v", c.Proto)
			}
		})
	}
}

func TestLoad_WhenDocumentIsWrong_ThenEveryFaultHasItsPath(t *testing.T) {
	cases := []struct {
		name, file, text string
		want             []string
	}{
		{"many at once", "b.yaml", `
node: {id: n, cluster: 5, colour: red}
static_resources:
  clusters:
  - {name: a, connect_timeout: 5, type: STATICK, http_protocol_options: [1]}
  - {name: b, lb_policy: ROUND_ROBIN, connect_timeout: {seconds: x, nanos: 1.5, unit: s}, circuit_breakers: {thresholds: {priority: HIGHER}}}
  listeners:
  - name: l
    filter_chains:
    - filters:
      - name: f
        typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: x, clutser: y}
      - {name: g, typed_config: {cluster: z}}
`, []string{
			"node.id: invalid value for string", "node.cluster: invalid value for string", "node.colour: unknown field",
			"static_resources.clusters[0].connect_timeout: unexpected token 5", "static_resources.clusters[0].type: invalid value for enum",
			"static_resources.clusters[0].http_protocol_options: an object expected, got a list",
			"static_resources.clusters[1].circuit_breakers.thresholds[0].priority: invalid value for enum",
			"static_resources.clusters[1].connect_timeout.nanos: invalid value for int32", "static_resources.clusters[1].connect_timeout.seconds: invalid value for int64",
			"static_resources.clusters[1].connect_timeout.unit: unknown field",
			"static_resources.listeners[0].filter_chains[0].filters[0].typed_config.clutser: unknown field",
			`static_resources.listeners[0].filter_chains[0].filters[1].typed_config: "@type" is missing`,
		}},
		{"typed struct content", "b.yaml", `
static_resources: {listeners: [{filter_chains: [{filters: [{name: f, typed_config: {"@type": type.googleapis.com/udpa.type.v1.TypedStruct,
  type_url: type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, value: {stat_prefix: [1], nonsense: 2}}}]}]}]}`,
			[]string{"static_resources.listeners[0].filter_chains[0].filters[0].typed_config.value.stat_prefix: "}},
		{"validation and support", "b.yaml", `
static_resources: {clusters: [{name: ""}, {name: d}, {name: d}], secrets: [{name: s}]}
tracing: {}
header_prefix: x
admin: {address: {socket_address: {address: localhost, port_value: 1}}}
layered_runtime: {layers: [{name: a, admin_layer: {}}, {name: a, admin_layer: {}}, {name: c, disk_layer: {}}]}
bootstrap_extensions: [{name: e, typed_config: {"@type": type.googleapis.com/x.Y}}]
overload_manager: {resource_monitors: [{name: m, typed_config: {"@type": type.googleapis.com/x.Z}}]}
`, []string{
			"static_resources.clusters[0].name: value length must be at least 1 runes", `static_resources.clusters[2].name: duplicate cluster name "d"`,
			"tracing: waits for a later issue", "header_prefix: field is not supported",
			"admin.address.socket_address.address: malformed IP address: localhost", `layered_runtime.layers[1].name: duplicate layer name "a"`,
			"layered_runtime.layers[1].admin_layer: there can be only one", "layered_runtime.layers[2].disk_layer: waits",
			`bootstrap_extensions[0].typed_config: unknown type "type.googleapis.com/x.Y"`, `overload_manager.resource_monitors[0].typed_config: unknown type`,
		}},
		{"dynamic resources", "b.yaml", `
dynamic_resources:
  ads_config: {api_type: GRPC, transport_api_version: V2, grpc_services: [{envoy_grpc: {cluster_name: gone}}, {google_grpc: {target_uri: "x:1", stat_prefix: s, channel_credentials: {ssl_credentials: {}}}}, {google_grpc: {target_uri: "x:1", stat_prefix: s, channel_credentials: {google_default: {}}}}]}
  lds_config: {api_config_source: {api_type: REST, transport_api_version: V3, cluster_names: [a], grpc_services: [{envoy_grpc: {cluster_name: gone}}]}}
  cds_config: {resource_api_version: V3}
`, []string{
			"dynamic_resources.ads_config.transport_api_version: value V2 is not supported", `grpc_services[0].envoy_grpc.cluster_name: there is no static cluster "gone"`,
			"grpc_services[1].google_grpc.channel_credentials.ssl_credentials.root_certs: must be set",
			"grpc_services[2].google_grpc.channel_credentials.google_default: Google's default credentials are not supported; use ssl_credentials",
			"lds_config.api_config_source.grpc_services: REST has none", "lds_config.api_config_source.refresh_delay: refresh_delay is required",
			`lds_config.api_config_source.cluster_names[0]: there is no static cluster "a"`,
			"dynamic_resources.cds_config: no config source is set", "node: id and cluster must be set",
		}},
		{"one of", "b.yaml", "admin: {address: {pipe: {path: x}, socket_address: {address: 1.2.3.4, port_value: 1}}}", []string{`admin.address.socket_address: only one of "pipe" and "socket_address" may be set`}},
		{"empty", "b.yaml", "", []string{"b.yaml: the document is empty"}},
		{"not an object", "b.yaml", "[1]", []string{"(root): an object expected, got a list"}},
		{"yaml syntax", "b.yaml", "a: [", []string{"b.yaml: line 1: "}},
		{"json syntax", "b.json", "{\n\"node\": {\n]", []string{"b.json: line 3: invalid character"}},
		{"json twice", "b.json", "{} {}", []string{"text after the end"}},
		{"binary", "b.pb", "\xff", []string{"b.pb: malformed protobuf"}},
		{"deep", "b.json", `{"node": {"metadata": ` + strings.Repeat(`{"a":`, 20000) + "1" + strings.Repeat("}", 20000) + "}}", []string{"b.json: "}},
		{"nothing", "", "", []string{"no configuration"}},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			o := Options{Path: tc.file}
			if tc.file != "" {
				o.Data = []byte(tc.text)
			}
			c, err := Load(o)
			if err == nil {
				t.Fatalf("loaded: %v", c.Proto)
			}
			got := lines(err)
			if errors.Unwrap(err) != nil {
				got += "\n" + lines(errors.Unwrap(err))
			}
			for _, w := range tc.want {
				if !strings.Contains(got, w) {
					t.Errorf("lacks %q:\n%s", w, got)
				}
			}
		})
	}
}

func TestLoad_WhenFlagsOverrideTheNode_ThenTheyWin(t *testing.T) {
	c, err := Load(Options{Data: []byte("node: {id: a, cluster: b, locality: {region: r, zone: z}}"), ServiceNode: "n", ServiceCluster: "c", ServiceZone: "y"})
	if err != nil {
		t.Fatal(err)
	}
	if n := c.Node; n.GetId() != "n" || n.GetCluster() != "c" || n.GetLocality().GetZone() != "y" || n.GetLocality().GetRegion() != "r" || c.Proto.GetNode().GetId() != "n" {
		t.Errorf("node %v", c.Node)
	}
	if len(c.Node.GetClientFeatures()) != 0 || c.Node.GetUserAgentName() != "envoy" || c.Node.GetUserAgentBuildVersion().GetVersion().GetMinorNumber() != 40 {
		t.Errorf("node %v", c.Node)
	}
}

func TestLoad_WhenUnknownFieldsAreAllowed_ThenTheyAreWarnings(t *testing.T) {
	c, err := Load(Options{Data: []byte("node: {id: a, cluster: b, colour: red}\nstatic_resources: {clusters: [{name: x, shape: round}]}"), AllowUnknown: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Warnings) != 2 || c.Warnings[0].String() != "node.colour: unknown field, ignored" {
		t.Errorf("warnings %v", c.Warnings)
	}
}

func TestLoad_WhenFileIsReadFromDisk_ThenExtensionDecides(t *testing.T) {
	dir := t.TempDir()
	p := filepath.Join(dir, "b.json")
	if err := os.WriteFile(p, []byte(`{"node": {"id": "a", "cluster": "b", "metadata": {"x": 1.5}}}`), 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := Load(Options{Path: p})
	if err != nil || c.Node.GetMetadata().GetFields()["x"].GetNumberValue() != 1.5 {
		t.Errorf("%v, %v", c, err)
	}
	if _, err := Load(Options{Path: filepath.Join(dir, "none.yaml")}); err == nil {
		t.Error("a missing file loads")
	}
}

// FuzzBootstrap loads random documents in every format: no panic, and what loads, loads to the same again.
func FuzzBootstrap(f *testing.F) {
	istio, err := os.ReadFile("testdata/istio.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(istio, byte(1))
	f.Add([]byte(small), byte(0))
	f.Add([]byte("node: {id: a, cluster: b}\n!ignore x: &y 1\nadmin: *y"), byte(0))
	f.Add([]byte("\x0a\x05\x0a\x01a\x12\x00"), byte(2))
	f.Fuzz(func(t *testing.T, data []byte, format byte) {
		path := [...]string{"b.yaml", "b.json", "b.pb", "b.pb_text"}[format%4]
		c, err := Load(Options{Path: path, Data: data, AllowUnknown: format > 127})
		if err != nil {
			if c != nil || err.Error() == "" {
				t.Fatalf("config %v with error %q", c, err)
			}
			return
		}
		again, err := Load(Options{Path: path, Data: data, AllowUnknown: format > 127})
		if err != nil || len(again.Warnings) != len(c.Warnings) {
			t.Fatalf("second load differs: %v", err)
		}
	})
}

func TestLoad_WhenAChannelHasArguments_ThenNameAndAuthorityAreThoseOfEnvoyAndOthersWarn(t *testing.T) {
	const tls = ", channel_credentials: {ssl_credentials: {root_certs: {inline_string: x}}}"
	for _, tc := range []struct{ args, target, authority, warning, err string }{
		{"grpc.ssl_target_name_override: {string_value: a.test}}}", "a.test", "a.test", "", ""},
		{"grpc.default_authority: {string_value: b.test}}}", "b.test", "b.test", "", ""},
		{"grpc.default_authority: {string_value: 'b.test:1'}}}" + tls, "b.test", "b.test:1", "", ""},
		{"grpc.default_authority: {string_value: b.test}, grpc.ssl_target_name_override: {string_value: a.test}}}", "a.test", "b.test", "", ""},
		{"grpc.default_authority: {string_value: b.test}, grpc.ssl_target_name_override: {string_value: a.test}}}" + tls, "a.test", "a.test", "", ""},
		{"grpc.keepalive_time_ms: {int_value: 1}}}", "", "", `google_grpc.channel_args.args["grpc.keepalive_time_ms"]: only tunes`, ""},
		{"grpc.default_authority: {int_value: 1}}}", "", "", "", `google_grpc.channel_args.args["grpc.default_authority"]: must be a string_value`},
	} {
		c, err := Load(Options{Data: []byte(`
node: {id: a, cluster: b}
dynamic_resources: {ads_config: {api_type: GRPC, transport_api_version: V3, grpc_services: [{google_grpc: {target_uri: "x:1", stat_prefix: s, channel_args: {args: {` + tc.args + `}}]}}`)})
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%s: got %v, want %q", tc.args, err, tc.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tc.args, err)
			continue
		}
		if s := c.ADS.Services[0]; s.TargetName != tc.target || s.Authority != tc.authority {
			t.Errorf("%s: target %q, authority %q", tc.args, s.TargetName, s.Authority)
		}
		if got := fmt.Sprint(c.Warnings); (tc.warning == "") != (len(c.Warnings) == 0) || !strings.Contains(got, tc.warning) {
			t.Errorf("%s: warnings %s", tc.args, got)
		}
	}
}
