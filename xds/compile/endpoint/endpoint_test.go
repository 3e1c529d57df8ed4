// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"sidecar/dataplane/hostset"
	"sidecar/xds/registry"
)

func parse(t testing.TB, text string) *endpointv3.ClusterLoadAssignment {
	t.Helper()
	cla := &endpointv3.ClusterLoadAssignment{}
	if err := protojson.Unmarshal([]byte(text), cla); err != nil {
		t.Fatal(err)
	}
	return cla
}

const full = `{"cluster_name":"c","endpoints":[
 {"locality":{"region":"r","zone":"z","sub_zone":"s"},"load_balancing_weight":3,"priority":1,"lb_endpoints":[
  {"endpoint":{"address":{"socket_address":{"address":"10.0.0.1","port_value":80}},"hostname":"h",
    "additional_addresses":[{"address":{"socket_address":{"address":"::1","port_value":81}}}]},
   "health_status":"DEGRADED","load_balancing_weight":7,
   "metadata":{"filter_metadata":{"envoy.lb":{"hash_key":"k","canary":true},"istio":{"workload":"w"}}}},
  {"endpoint":{"address":{"pipe":{"path":"@abstract"}}},"health_status":"TIMEOUT"}]},
 {"lb_endpoints":[{"endpoint":{"address":{"socket_address":{"address":"fd00::1","port_value":0}},"health_check_config":{"port_value":9}}}]}],
 "policy":{"overprovisioning_factor":100,"weighted_priority_health":true,
  "drop_overloads":[{"category":"x","drop_percentage":{"numerator":5,"denominator":"TEN_THOUSAND"}}]}}`

func TestCompile_WhenAllFieldsAreSet_ThenInputHasThem(t *testing.T) {
	rep := &registry.Report{}
	in, err := Compile(parse(t, full), "", registry.UnknownRefuse, rep)
	if err != nil {
		t.Fatal(err)
	}
	if len(rep.Warnings) != 1 || rep.Warnings[0].Path != "endpoints[1].lb_endpoints[0].endpoint.health_check_config" {
		t.Errorf("warnings %v", rep.Warnings)
	}
	l := in.Localities[0]
	if l.Locality != (hostset.Locality{Region: "r", Zone: "z", SubZone: "s"}) || l.Weight != 3 || l.Priority != 1 {
		t.Errorf("locality %+v", l)
	}
	e := l.Endpoints[0]
	if e.Addr.String() != "10.0.0.1:80" || e.Extra[0].String() != "[::1]:81" || e.Hostname != "h" || e.HashKey != "k" || !e.Canary || e.Weight != 7 ||
		e.Health != hostset.EDSDegraded {
		t.Errorf("endpoint %+v", e)
	}
	if m := e.Metadata.Map()["istio"].(map[string]any); m["workload"] != "w" {
		t.Errorf("metadata %v", m)
	}
	if e := l.Endpoints[1]; e.Addr.Path != "@abstract" || e.Health != hostset.EDSTimeout {
		t.Errorf("pipe %+v", e)
	}
	if in.Overprovisioning != 100 || !in.WeightedPriorityHealth || in.Drop[0] != (hostset.Drop{Category: "x", Num: 5, Den: 10000}) {
		t.Errorf("policy %+v", in)
	}
	if h := hostset.Build(nil, in); h.Total != 3 {
		t.Errorf("%d hosts", h.Total)
	}
}

func TestCompile_WhenAFieldIsBad_ThenTheErrorNamesIt(t *testing.T) {
	ep := func(s string) string { return `{"endpoints":[{"lb_endpoints":[` + s + `]}]}` }
	for _, c := range []struct{ name, text, want string }{
		{"name", ep(`{"endpoint":{"address":{"socket_address":{"address":"foo.test","port_value":1}}}}`),
			"endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address: malformed IP address: foo.test"},
		{"no address", ep(`{"endpoint":{}}`), "endpoints[0].lb_endpoints[0].endpoint.address: address must be set"},
		{"no endpoint", ep(`{}`), "endpoints[0].lb_endpoints[0].endpoint.address: address must be set"},
		{"named port", ep(`{"endpoint":{"address":{"socket_address":{"address":"1.2.3.4","named_port":"x"}}}}`), "socket_address.named_port: named ports"},
		{"resolver", ep(`{"endpoint":{"address":{"socket_address":{"address":"1.2.3.4","port_value":1,"resolver_name":"x"}}}}`), "resolver_name: custom"},
		{"udp", ep(`{"endpoint":{"address":{"socket_address":{"protocol":"UDP","address":"1.2.3.4","port_value":1}}}}`), "protocol: value UDP is not supported"},
		{"port", ep(`{"endpoint":{"address":{"socket_address":{"address":"1.2.3.4","port_value":65536}}}}`), "port_value: 65536 is no port"},
		{"zone", ep(`{"endpoint":{"address":{"socket_address":{"address":"fe80::1%eth0","port_value":1}}}}`), "IPv6 zones"},
		{"internal", ep(`{"endpoint":{"address":{"envoy_internal_address":{"server_listener_name":"x/y"}}}}`),
			`envoy_internal_address.server_listener_name: "x/y" has a slash`},
		{"endpoint name", ep(`{"endpoint_name":"x"}`), "endpoints[0].lb_endpoints[0].endpoint_name: endpoints referred to by name"},
		{"long pipe", ep(`{"endpoint":{"address":{"pipe":{"path":"/` + strings.Repeat("x", 120) + `"}}}}`), "pipe.path"},
		{"pipe with more", ep(`{"endpoint":{"address":{"pipe":{"path":"/x"}},"additional_addresses":[{"address":{"socket_address":{"address":"1.1.1.1"}}}]}}`),
			"additional addresses are only supported for IP addresses"},
		{"leds", `{"endpoints":[{"leds_cluster_locality_config":{"leds_config":{"ads":{}}}}]}`,
			"endpoints[0].leds_cluster_locality_config: LEDS is not supported"},
		{"nested list", `{"endpoints":[{"load_balancer_endpoints":{}}]}`, "endpoints[0].load_balancer_endpoints: use lb_endpoints"},
		{"two drops", `{"policy":{"drop_overloads":[{"category":"a","drop_percentage":{}},{"category":"b","drop_percentage":{}}]}}`,
			"policy.drop_overloads: has 2 categories"},
		{"stale", `{"policy":{"endpoint_stale_after":"3s"}}`, "policy.endpoint_stale_after: assignments do not expire"},
		{"named endpoints", `{"named_endpoints":{"x":{}}}`, "named_endpoints: endpoints referred to by name"},
		{"zero factor", `{"policy":{"overprovisioning_factor":0}}`, "policy.overprovisioning_factor: must be greater than 0"},
		{"priority", `{"endpoints":[{"priority":129}]}`, "endpoints[0].priority: 129 is above the limit of 128"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Compile(parse(t, c.text), "", registry.UnknownRefuse, &registry.Report{})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if err != nil {
				if _, err := Compile(parse(t, c.text), "load_assignment", registry.UnknownRefuse, &registry.Report{}); !strings.HasPrefix(err.Error(), "load_assignment.") {
					t.Errorf("the path of the assignment is missing: %v", err)
				}
			}
		})
	}
}

func TestCompile_WhenManyEndpointsAreBad_ThenErrorsAreBoundedAndCounted(t *testing.T) {
	cla := big(100)
	for _, e := range cla.Endpoints[0].LbEndpoints {
		e.GetEndpoint().Address.GetSocketAddress().Address = "nope"
	}
	_, err := Compile(cla, "", registry.UnknownWarn, &registry.Report{})
	if n := len(registry.Flatten(err)); n < 32 || n > 100 {
		t.Errorf("%d errors", n)
	}
}

// big makes an assignment as Istio sends them.
func big(n int) *endpointv3.ClusterLoadAssignment {
	l := &endpointv3.LocalityLbEndpoints{Locality: &corev3.Locality{Region: "r"}}
	for i := range n {
		md, _ := structpb.NewStruct(map[string]any{"workload": fmt.Sprintf("w-%d;default;w;v1;Kubernetes", i)})
		l.LbEndpoints = append(l.LbEndpoints, &endpointv3.LbEndpoint{
			HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: &corev3.Address{Address: &corev3.Address_SocketAddress{
				SocketAddress: &corev3.SocketAddress{Address: netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}).String(),
					PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 8080}}}}}},
			HealthStatus: corev3.HealthStatus_HEALTHY, LoadBalancingWeight: wrapperspb.UInt32(1),
			Metadata: &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"istio": md}},
		})
	}
	return &endpointv3.ClusterLoadAssignment{ClusterName: "c", Endpoints: []*endpointv3.LocalityLbEndpoints{l}}
}

func TestCompile_WhenOneOf100000EndpointsChanges_ThenHostsStay(t *testing.T) {
	cla := big(100000)
	in, err := Compile(cla, "", registry.UnknownWarn, &registry.Report{})
	if err != nil {
		t.Fatal(err)
	}
	in.Dedup = true
	h := hostset.Build(nil, in)
	cla.Endpoints[0].LbEndpoints[50000].Metadata.FilterMetadata["istio"].Fields["workload"] = structpb.NewStringValue("other")
	start := time.Now()
	allocs := testing.AllocsPerRun(1, func() {
		in, err = Compile(cla, "", registry.UnknownWarn, &registry.Report{})
	})
	if err != nil {
		t.Fatal(err)
	}
	in.Dedup = true
	h2 := hostset.Build(h, in)
	t.Logf("compile twice and build: %v", time.Since(start))
	if allocs > 100 {
		t.Errorf("%v allocations: the usual endpoint must cost none", allocs)
	}
	moved := 0
	for i, e := range h2.Priorities[0].Hosts {
		if e.Host != h.Priorities[0].Hosts[i].Host {
			moved++
		}
	}
	if moved != 1 {
		t.Errorf("%d hosts are new, want the one whose metadata changed", moved)
	}
}

func TestMetadataHash_WhenContentDiffers_ThenHashesDiffer(t *testing.T) {
	seen := map[uint64]string{}
	for _, text := range []string{`{"a":{"b":1}}`, `{"a":{"b":"1"}}`, `{"a":{"b":true}}`, `{"a":{"b":false}}`, `{"a":{"b":null}}`, `{"a":{"c":1}}`, `{"b":{"b":1}}`,
		`{"a":{"b":[1,2]}}`, `{"a":{"b":[2,1]}}`, `{"a":{"b":{"c":1}}}`, `{"a":{}}`, `{"a":{},"b":{}}`, `{"a":{"x":"1","y":"2"}}`, `{"a":{"x":"2","y":"1"}}`} {
		hash := func() uint64 {
			md := &corev3.Metadata{}
			if err := protojson.Unmarshal([]byte(`{"filter_metadata":`+text+`}`), md); err != nil {
				t.Fatal(err)
			}
			return hashMetadata(md)
		}
		h := hash()
		if was, dup := seen[h]; dup {
			t.Errorf("%s and %s have one hash", was, text)
		}
		seen[h] = text
		if hash() != h {
			t.Errorf("%s: not stable", text)
		}
	}
}

const dnsText = `{"endpoints":[{"locality":{"zone":"a"},"lb_endpoints":[
 {"endpoint":{"address":{"socket_address":{"address":"one.test","port_value":80}}},"load_balancing_weight":2},
 {"endpoint":{"address":{"socket_address":{"address":"127.0.0.1","port_value":81}},"hostname":"given"}}]},
 {"priority":1,"lb_endpoints":[{"endpoint":{"address":{"socket_address":{"address":"two.test","port_value":82}}}}]}]}`

func ips(list ...string) (out []netip.Addr) {
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func TestDNS_WhenStrict_ThenEveryAnswerIsAHost(t *testing.T) {
	d, err := CompileDNS(parse(t, dnsText), false, "", registry.UnknownRefuse, &registry.Report{})
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Targets) != 3 || d.Targets[0].Name != "one.test" || d.Targets[1].Port != 81 {
		t.Fatalf("targets %+v", d.Targets)
	}
	answers := [][]netip.Addr{ips("10.0.0.1", "10.0.0.2"), ips("127.0.0.1"), nil}
	h := hostset.Build(nil, d.Input(nil, func(i int) []netip.Addr { return answers[i] }))
	var got []string
	for _, p := range h.Priorities {
		for _, e := range p.Hosts {
			got = append(got, fmt.Sprintf("%s %s %s %d", e.Key, e.Hostname, e.Locality.Zone, e.Weight))
		}
	}
	want := []string{"10.0.0.1:80 one.test a 2", "10.0.0.2:80 one.test a 2", "127.0.0.1:81 given a 1"}
	if strings.Join(got, ",") != strings.Join(want, ",") || len(h.Priorities) != 2 {
		t.Errorf("got %q", got)
	}
	answers[2] = ips("10.0.0.9")
	h2 := hostset.Build(h, d.Input(h, func(i int) []netip.Addr { return answers[i] }))
	if h2.Total != 4 || h2.Priorities[0].Hosts[0].Host != h.Priorities[0].Hosts[0].Host {
		t.Error("hosts that stay keep their pointers")
	}
}

func TestDNS_WhenLogical_ThenOneHostThatStaysWhileItIsAnswered(t *testing.T) {
	d, err := CompileDNS(parse(t, `{"endpoints":[{"lb_endpoints":[{"endpoint":{"address":{"socket_address":{"address":"one.test","port_value":80}}}}]}]}`),
		true, "", registry.UnknownRefuse, &registry.Report{})
	if err != nil {
		t.Fatal(err)
	}
	var h *hostset.Hosts
	step := func(want string, list ...string) *hostset.Host {
		t.Helper()
		h = hostset.Build(h, d.Input(h, func(int) []netip.Addr { return ips(list...) }))
		if h.Total != 1 || h.Priorities[0].Hosts[0].Key != want {
			t.Fatalf("%d hosts, %+v, want %s", h.Total, h.Priorities[0].Hosts, want)
		}
		return h.Priorities[0].Hosts[0].Host
	}
	first := step("10.0.0.2:80", "10.0.0.2", "10.0.0.1")
	if step("10.0.0.2:80", "10.0.0.1", "10.0.0.2") != first {
		t.Error("a rotated answer made another host")
	}
	third := step("10.0.0.3:80", "10.0.0.3")
	if step("10.0.0.3:80") != third {
		t.Error("without an answer the host must stay")
	}
}

func TestDNS_WhenTheAssignmentDoesNotFit_ThenAnError(t *testing.T) {
	for name, c := range map[string]struct {
		text    string
		logical bool
		want    string
	}{
		"two for logical":  {dnsText, true, "load_assignment.endpoints: LOGICAL_DNS clusters must have a single"},
		"none for logical": {`{}`, true, "must have a single"},
		"pipe":             {`{"endpoints":[{"lb_endpoints":[{"endpoint":{"address":{"pipe":{"path":"/x"}}}}]}]}`, false, "need a socket address with a name"},
		"resolver": {`{"endpoints":[{"lb_endpoints":[{"endpoint":{"address":{"socket_address":{"address":"x","port_value":1,"resolver_name":"y"}}}}]}]}`, false,
			"resolver_name: custom address resolvers"},
	} {
		if _, err := CompileDNS(parse(t, c.text), c.logical, "load_assignment", registry.UnknownRefuse, &registry.Report{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
