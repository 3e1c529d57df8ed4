// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"errors"
	"strings"
	"testing"

	xdstype "github.com/cncf/xds/go/xds/type/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

var testMessages = Messages{
	"envoy.config.cluster.v3.Cluster": {
		"name":                               Supported,
		"type":                               Only("STATIC", "EDS"),
		"load_assignment":                    Supported,
		"metadata":                           Whole,
		"alt_stat_name":                      Warn("stats are named by the cluster"),
		"load_assignment.endpoints.priority": Refuse("priorities are refused below a cluster"),
	},
	"envoy.config.endpoint.v3.ClusterLoadAssignment": {"cluster_name": Supported, "endpoints": Supported},
	"envoy.config.endpoint.v3.LocalityLbEndpoints": {
		"lb_endpoints": Whole, "load_balancing_weight": Only("1"), "priority": Supported,
	},
}

func TestWalk_WhenFieldsAreSet_ThenEveryUnsupportedOneIsNamed(t *testing.T) {
	s := MustSchema(testMessages)
	c := &clusterv3.Cluster{
		Name: "a", AltStatName: "b", DnsRefreshRate: nil,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_LOGICAL_DNS},
		RespectDnsTtl:        true,
		Metadata:             &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"x": {}}},
		LoadAssignment: &endpointv3.ClusterLoadAssignment{
			ClusterName: "a",
			Endpoints: []*endpointv3.LocalityLbEndpoints{
				{},
				{Priority: 1, Proximity: wrapperspb.UInt32(2), LoadBalancingWeight: wrapperspb.UInt32(1)},
				{LoadBalancingWeight: wrapperspb.UInt32(2)},
			},
		},
	}
	c.ProtoReflect().SetUnknown([]byte{0xfa, 0xff, 0x01, 0x01, 'x'})
	var got []string
	for _, f := range s.Walk(c, "res", UnknownRefuse) {
		got = append(got, map[Class]string{ClassAdvisory: "warn ", ClassRefused: "bad "}[f.Class]+f.String())
	}
	want := []string{
		"bad res: unknown field number 4095",
		"warn res.alt_stat_name: stats are named by the cluster",
		"bad res.load_assignment.endpoints[1].priority: priorities are refused below a cluster",
		"bad res.load_assignment.endpoints[1].proximity: field is not supported",
		"bad res.load_assignment.endpoints[2].load_balancing_weight: value 2 is not supported (supported: 1)",
		"bad res.respect_dns_ttl: field is not supported",
		"bad res.type: value LOGICAL_DNS is not supported (supported: STATIC, EDS)",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestNewSchema_WhenTableIsWrong_ThenEveryMistakeIsReported(t *testing.T) {
	_, err := NewSchema(Messages{
		"envoy.config.cluster.v3.Cluster": {"nmae": Supported, "type": Only("STATICK"), "load_assignment": Supported, "metadata.x": Whole},
		"envoy.nothing.v3.Nothing":        {},
	})
	for _, want := range []string{`no field "nmae"`, `no enum value "STATICK"`, "ClusterLoadAssignment has no table", `no field "metadata.x"`,
		"envoy.nothing.v3.Nothing: not linked in"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v lacks %q", err, want)
		}
	}
}

func testTable() *Table[string] {
	return MustTable("network filters", []Row[string]{{
		Name: "envoy.filters.network.tcp_proxy", Message: (*tcpv3.TcpProxy)(nil),
		Messages: Messages{"envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy": {"stat_prefix": Supported, "cluster": Supported}},
		Compile: func(c *Ctx, m proto.Message) (string, error) {
			return string(c.Path) + "=" + m.(*tcpv3.TcpProxy).GetCluster() + EnvOf[string](c), nil
		},
	}}, map[string]string{"type.googleapis.com/x.Later": "TLS"})
}

func TestCompile_WhenConfigIsGiven_ThenRowGetsItWalkedAndValidated(t *testing.T) {
	tab := testTable()
	ctx := &Ctx{Path: "filter_chains[0]", Schema: MustSchema(tab.Messages()...), Report: &Report{}, Env: "!"}
	pack := func(m proto.Message) *anypb.Any {
		a, err := anypb.New(m)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	ts := func(url string, v map[string]any) *anypb.Any {
		st, err := structpb.NewStruct(v)
		if err != nil {
			t.Fatal(err)
		}
		return pack(&xdstype.TypedStruct{TypeUrl: url, Value: st})
	}
	url := TypeURL((*tcpv3.TcpProxy)(nil))
	cases := []struct {
		name string
		cfg  *anypb.Any
		want string
		err  string
	}{
		{"message", pack(&tcpv3.TcpProxy{StatPrefix: "s", ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: "c"}}), "filter_chains[0].filters[0].typed_config=c!", ""},
		{"typed struct", ts(url, map[string]any{"stat_prefix": "s", "cluster": "d", "nonsense": 1}), "filter_chains[0].filters[0].typed_config=d!", ""},
		{"nested typed struct", ts(XDSTypedStructURL, map[string]any{"type_url": url, "value": map[string]any{"statPrefix": "s", "cluster": "e"}}), "filter_chains[0].filters[0].typed_config=e!", ""},
		{"validation", pack(&tcpv3.TcpProxy{}), "", "filter_chains[0].filters[0].typed_config.stat_prefix: value length must be at least 1 runes"},
		{"unsupported", pack(&tcpv3.TcpProxy{StatPrefix: "s", ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: "c"}, MaxConnectAttempts: wrapperspb.UInt32(2)}), "", "typed_config.max_connect_attempts: field is not supported"},
		{"malformed", &anypb.Any{TypeUrl: url, Value: []byte{0xff}}, "", "filter_chains[0].filters[0].typed_config: malformed envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"},
		{"unknown", &anypb.Any{TypeUrl: "type.googleapis.com/x.Y"}, "", `unknown type "type.googleapis.com/x.Y" of network filter "n" (known: 1 network filters`},
		{"later", &anypb.Any{TypeUrl: "type.googleapis.com/x.Later"}, "", "not supported yet: waits for a later issue (TLS)"},
		{"none", nil, "", `network filter "n" has no typed_config`},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			got, err := tab.Compile(ctx, "filters[0].typed_config", "n", tc.cfg)
			if got != tc.want || (err == nil) != (tc.err == "") || (err != nil && !strings.Contains(err.Error(), tc.err)) {
				t.Errorf("got %q, %v; want %q, %q", got, err, tc.want, tc.err)
			}
			if strings.HasPrefix(tc.name, "unknown") && !errors.Is(err, ErrUnknownType) {
				t.Error("unknown type is not ErrUnknownType")
			}
			if errors.Is(err, ErrLater) != (tc.name == "later") {
				t.Errorf("ErrLater in %v", err)
			}
		})
	}
}

func TestValidate_WhenNestedRulesFail_ThenAllPathsAreProtoNames(t *testing.T) {
	c := &clusterv3.Cluster{Name: "", LoadAssignment: &endpointv3.ClusterLoadAssignment{
		Endpoints: []*endpointv3.LocalityLbEndpoints{{LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{
			Endpoint: &endpointv3.Endpoint{Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{}}}}}}}}}}}
	var got []string
	for _, e := range Flatten(Validate(c, "")) {
		got = append(got, e.Error())
	}
	text := strings.Join(got, "\n")
	for _, want := range []string{"name: value length", "load_assignment.cluster_name: value length",
		"load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address: value length",
		"load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.port_specifier: value is required"} {
		if !strings.Contains(text, want) {
			t.Errorf("lacks %q:\n%s", want, text)
		}
	}
}

func TestDocument_WhenRendered_ThenEveryTableAndRowIsThere(t *testing.T) {
	tab := testTable()
	info := tab.Info()
	d := Document{Intro: "# Support", Sections: []Section{
		{Title: "Clusters", Message: "envoy.config.cluster.v3.Cluster", Schema: MustSchema(testMessages)},
		{Kind: &info, Schema: MustSchema(tab.Messages()...)},
	}}
	got := d.Markdown()
	for _, want := range []string{
		"# Support\n\n## Clusters\n\n### envoy.config.cluster.v3.Cluster\n",
		"| `name` | supported |  |\n", "| `type` | supported | only `STATIC`, `EDS`; else refused. |\n",
		"| `alt_stat_name` | accepted with a warning | stats are named by the cluster |\n",
		"| `load_assignment.endpoints.priority` | refused | priorities are refused below a cluster |\n",
		"Everything else is refused: ", "`respect_dns_ttl`", "### envoy.config.endpoint.v3.LocalityLbEndpoints",
		"## Network filters\n", "| `envoy.filters.network.tcp_proxy` | `envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy` | stable | robust_to_untrusted_downstream |  |\n",
		"- `x.Later`: TLS\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("lacks %q:\n%s", want, got)
		}
	}
	if strings.Count(got, "### envoy.config.endpoint.v3.ClusterLoadAssignment\n") != 1 || got != d.Markdown() {
		t.Error("a table twice, or another text the second time")
	}
}
