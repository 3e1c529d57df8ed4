// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sidecar/xds/ads"
	"sidecar/xds/bootstrap"
	"sidecar/xds/registry"
	"sidecar/xds/resource"
)

// load makes a bootstrap whose ADS service is a cluster with the given fields.
func load(t *testing.T, cluster string) (*Target, error) {
	t.Helper()
	text := `
node: {id: a, cluster: b}
dynamic_resources: {ads_config: {api_type: GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: xds}, initial_metadata: [{key: X-Tok, value: secret}]}]}}
static_resources: {clusters: [{name: xds, ` + cluster + `}]}`
	c, err := bootstrap.Load(bootstrap.Options{Data: []byte(text)})
	if err != nil {
		t.Fatal(err)
	}
	return TargetOf(c.ADS.Services[0])
}

const tcpAddress = `{endpoint: {address: {socket_address: {address: h.test, port_value: 7}}}}`

func TestTargetOf_WhenClusterIsGiven_ThenItIsDialableOrRefusedWithTheField(t *testing.T) {
	cases := []struct {
		name, cluster, want, err string
		later                    bool
	}{
		{"dns", "type: STRICT_DNS, connect_timeout: 2s, load_assignment: {cluster_name: xds, endpoints: [{priority: 1, lb_endpoints: [" + tcpAddress + "]}, {lb_endpoints: [{endpoint: {address: {pipe: {path: ./x}}}}]}]}",
			"unix ./x 0,tcp h.test:7 1", "", false},
		{"logical dns", "type: LOGICAL_DNS, load_assignment: {cluster_name: xds, endpoints: [{lb_endpoints: [" + tcpAddress + "]}]}", "tcp h.test:7 0", "", false},
		{"raw buffer", "transport_socket: {name: envoy.transport_sockets.raw_buffer}, load_assignment: {cluster_name: xds, endpoints: [{lb_endpoints: [" + tcpAddress + "]}]}", "tcp h.test:7 0", "", false},
		{"tls", `transport_socket: {name: envoy.transport_sockets.tls, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext}}, load_assignment: {cluster_name: xds, endpoints: [{lb_endpoints: [` + tcpAddress + `]}]}`,
			"tcp h.test:7 0", "", false},
		{"unknown socket", `transport_socket: {name: x, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.tap.v3.Tap}}, load_assignment: {cluster_name: xds, endpoints: [{lb_endpoints: [` + tcpAddress + `]}]}`,
			"", `cluster "xds": transport_socket.typed_config: `, true},
		{"eds", "type: EDS", "", `cluster "xds": type: a control plane can be reached through STATIC, STRICT_DNS and LOGICAL_DNS clusters, not EDS`, false},
		{"empty", "type: STATIC", "", `cluster "xds": load_assignment: has no endpoint`, false},
		{"named port", "load_assignment: {cluster_name: xds, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: h, named_port: http}}}}]}]}", "",
			"load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.named_port", false},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			got, err := load(t, tc.cluster)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) || errors.Is(err, registry.ErrLater) != tc.later {
					t.Errorf("got %v; want %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var eps []string
			for _, e := range got.Endpoints {
				eps = append(eps, e.Network+" "+e.Address+" "+string('0'+rune(e.Priority)))
			}
			if strings.Join(eps, ",") != tc.want || got.Authority != "xds" || got.Metadata["x-tok"] != "secret" {
				t.Errorf("target %+v", got)
			}
		})
	}
}

func TestTargetOf_WhenPingsAreConfigured_ThenTheyAreNeverFasterThanServersAllow(t *testing.T) {
	got, err := load(t, `load_assignment: {cluster_name: xds, endpoints: [{lb_endpoints: [`+tcpAddress+`]}]},
  upstream_connection_options: {tcp_keepalive: {keepalive_time: 300}},
  typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {"@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions,
    explicit_http_config: {http2_protocol_options: {connection_keepalive: {interval: 5s, timeout: 3s}}}}}`)
	if err != nil {
		t.Fatal(err)
	}
	if got.Ping != PingMin || got.PingTimeout != 3*time.Second || got.TCPKeepalive != 300*time.Second {
		t.Errorf("ping %v, timeout %v, tcp %v", got.Ping, got.PingTimeout, got.TCPKeepalive)
	}
}

func TestTargetOf_WhenTargetURIIsGiven_ThenItIsParsed(t *testing.T) {
	for uri, want := range map[string]string{
		"h:1": "tcp h:1", "dns:h:1": "tcp h:1", "dns:///h:1": "tcp h:1", "dns://8.8.8.8/h:1": "tcp h:1", "unix:/a/b": "unix /a/b", "unix:///a/b": "unix /a/b",
		"unix-abstract:x": "unix @x", "ipv4:1.2.3.4:5": "tcp 1.2.3.4:5", "ipv6:[::1]:5": "tcp [::1]:5", "": "", "h": "", "xds:///a": "",
	} {
		got, err := TargetOf(bootstrap.GRPCService{Target: uri, Name: "s"})
		if (err == nil) != (want != "") {
			t.Errorf("%q: %v", uri, err)
			continue
		}
		if err == nil && got.Endpoints[0].Network+" "+got.Endpoints[0].Address != want {
			t.Errorf("%q: %+v", uri, got.Endpoints[0])
		}
	}
}

// countStats counts failures of a file.
type countStats struct {
	noStats
	failed chan error
}

func (c countStats) Failed(err error) { c.failed <- err }

func TestFile_WhenItChanges_ThenTheSessionSeesIt(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "eds.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	content := func(names ...string) string {
		text := "version_info: v\nresources:\n"
		for _, n := range names {
			text += `- {"@type": ` + resource.EndpointsURL + `, cluster_name: ` + n + "}\n"
		}
		return text
	}
	stats := countStats{failed: make(chan error, 100)}
	d := newDriver(t, ads.SotW, resource.EndpointsURL)
	f, err := NewFile(FileConfig{Path: path, TypeURL: resource.EndpointsURL, Sink: d.sink, Stats: stats})
	if err != nil {
		t.Fatal(err)
	}
	d.run(f, ads.Subscribe{TypeURL: resource.EndpointsURL, Names: []string{"a"}})
	if err := <-stats.failed; !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("missing file: %v", err)
	}
	write(content("a", "b", "x"))
	eventually(t, "the name asked for", d.holds(resource.EndpointsURL, "a"))
	d.order(func() {
		d.step(ads.Subscribe{TypeURL: resource.EndpointsURL, Names: []string{"b"}})
		d.step(ads.Flush{})
	})
	eventually(t, "another name of the same content", d.holds(resource.EndpointsURL, "a", "b"))
	_, _, before := d.counts()
	write("resources: [{nonsense")
	if err := <-stats.failed; !strings.Contains(err.Error(), "eds.yaml") {
		t.Fatalf("broken file: %v", err)
	}
	write("type_url: " + resource.ClusterURL)
	if err := <-stats.failed; !strings.Contains(err.Error(), "type_url is") {
		t.Fatalf("file of another type: %v", err)
	}
	if _, _, after := d.counts(); after != before || len(d.names(resource.EndpointsURL)) != 2 {
		t.Fatal("a broken file changed something")
	}
	tmp := filepath.Join(dir, "new.yaml")
	if err := os.WriteFile(tmp, []byte(content("a", "b")), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, path); err != nil {
		t.Fatal(err)
	}
	eventually(t, "moved file", func() bool { _, _, b := d.counts(); return b > before })
	f.Close()
	f.Close()
}
