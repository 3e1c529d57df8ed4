// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// oracleCases are documents about how the text is read; no feature that one side lacks. differs marks those we take (a YAML merge key)
// or refuse (lists in lists, two spellings of one field, JSON that is none, a source that cannot work) on purpose.
var oracleCases = []struct {
	name, ext, text string
	differs         bool
}{
	{"empty object", "yaml", "{}", false},
	{"empty file", "yaml", "", false},
	{"only a comment", "yaml", "# nothing", false},
	{"list", "yaml", "[1]", false},
	{"scalar", "yaml", "x", false},
	{"plain n", "yaml", "node: {id: n, cluster: c}", false},
	{"plain yes", "yaml", "node: {id: yes, cluster: c}", false},
	{"quoted n", "yaml", "node: {id: 'n', cluster: c}", false},
	{"plain null", "yaml", "node: {id: null, cluster: ~}", false},
	{"plain number", "yaml", "node: {id: 5, cluster: c}", false},
	{"large number is text", "yaml", "node: {id: 12345678901, cluster: c}", false},
	{"float is text", "yaml", "node: {id: 1.5, cluster: c}", false},
	{"digit groups are text", "yaml", "node: {id: 1_000, cluster: c}", false},
	{"octal", "yaml", "node: {id: 010, cluster: c}", false},
	{"hex", "yaml", "node: {id: 0x1F, cluster: c}", false},
	{"hex with bB digits", "yaml", "node: {id: 0xBB, cluster: c}", false},
	{"timestamp is text", "yaml", "node: {id: 2001-01-01, cluster: c}", false},
	{"infinity is text", "yaml", "node: {id: .inf, cluster: c}", false},
	{"plus sign", "yaml", "node: {id: +5, cluster: c}", false},
	{"minus zero", "yaml", "node: {id: -0, cluster: c}", false},
	{"exponent is text", "yaml", "node: {id: 1e3, cluster: c}", false},
	{"duplicate keys", "yaml", "node: {id: a}\nnode: {id: b}", false},
	{"ignore tag", "yaml", "!ignore x: &a {id: q}\nnode: *a", false},
	{"merge key", "yaml", "!ignore x: &a {id: q}\nnode: {<<: *a, cluster: c}", true},
	{"unknown field", "yaml", "nodes: {}", false},
	{"null message", "yaml", "admin: ~", false},
	{"null list", "yaml", "static_resources: {clusters: }", false},
	{"null in a list", "yaml", "static_resources: {clusters: [~]}", false},
	{"text for a list", "yaml", "node: {id: a, cluster: b, client_features: x}", false},
	{"list for an object", "yaml", "node: [{id: a}]", false},
	{"list of lists", "yaml", "static_resources: {clusters: [[{name: x}]]}", true},
	{"object for a list", "yaml", "static_resources: {clusters: {name: x}}", false},
	{"camel case", "yaml", "staticResources: {clusters: [{name: x, connectTimeout: 1s}]}", false},
	{"both spellings", "yaml", "static_resources: {clusters: [{name: x, connect_timeout: 1s, connectTimeout: 2s}]}", true},
	{"enum lower case", "yaml", "static_resources: {clusters: [{name: x, type: strict_dns, load_assignment: {cluster_name: x, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: a.test, port_value: 1}}}}]}]}}]}", false},
	{"enum number", "yaml", "static_resources: {clusters: [{name: x, type: 0}]}", false},
	{"enum unknown", "yaml", "static_resources: {clusters: [{name: x, type: STATICK}]}", false},
	{"duration number", "yaml", "static_resources: {clusters: [{name: x, connect_timeout: 5}]}", false},
	{"duration text", "yaml", "static_resources: {clusters: [{name: x, connect_timeout: 0.25s}]}", false},
	{"wrapper object", "yaml", "static_resources: {clusters: [{name: x, connect_timeout: 1s, circuit_breakers: {thresholds: [{max_connections: {value: 4}}]}}]}", false},
	{"wrapper object with text", "yaml", "static_resources: {clusters: [{name: x, connect_timeout: 1s, circuit_breakers: {thresholds: [{max_connections: {value: '4'}}]}}]}", false},
	{"wrapper object that is empty", "yaml", "static_resources: {clusters: [{name: x, connect_timeout: 1s, circuit_breakers: {thresholds: [{max_connections: {}}]}}]}", false},
	{"wrapper object without a value", "yaml", "static_resources: {clusters: [{name: x, connect_timeout: 1s, circuit_breakers: {thresholds: [{max_connections: {value: ~}}]}}]}", false},
	{"wrapper object with more", "yaml", "static_resources: {clusters: [{name: x, connect_timeout: 1s, circuit_breakers: {thresholds: [{max_connections: {value: 4, x: 1}}]}}]}", false},
	{"wrapper object in a wrapper object", "yaml", "static_resources: {clusters: [{name: x, connect_timeout: 1s, circuit_breakers: {thresholds: [{max_connections: {value: {value: 4}}}]}}]}", false},
	{"duration object", "yaml", "static_resources: {clusters: [{name: x, connect_timeout: {seconds: 1, nanos: '5'}}]}", false},
	{"duration object empty", "yaml", "stats_flush_interval: {}", false},
	{"duration object null", "yaml", "stats_flush_interval: {seconds: 5, nanos: ~}", false},
	{"duration object unknown", "yaml", "stats_flush_interval: {second: 5}", false},
	{"duration object fraction", "yaml", "stats_flush_interval: {seconds: 5.5}", false},
	{"duration object too large", "yaml", "stats_flush_interval: {nanos: 5000000000}", false},
	{"duration object negative", "yaml", "static_resources: {clusters: [{name: x, connect_timeout: {seconds: -1}}]}", false},
	{"duration object out of range", "yaml", "static_resources: {clusters: [{name: x, connect_timeout: {seconds: 1, nanos: 2000000000}}]}", false},
	{"duration unit", "yaml", "static_resources: {clusters: [{name: x, connect_timeout: 250ms}]}", false},
	{"quoted number", "yaml", `admin: {address: {socket_address: {address: 127.0.0.1, port_value: "0"}}}`, false},
	{"float for integer", "yaml", `admin: {address: {socket_address: {address: 127.0.0.1, port_value: 80.0}}}`, false},
	{"fraction for integer", "yaml", `admin: {address: {socket_address: {address: 127.0.0.1, port_value: 80.5}}}`, false},
	{"port too large", "yaml", `admin: {address: {socket_address: {address: 127.0.0.1, port_value: 65536}}}`, false},
	{"text for bool", "yaml", "use_tcp_for_dns_lookups: maybe", false},
	{"any without type", "yaml", "static_resources: {listeners: [{address: {socket_address: {address: 127.0.0.1, port_value: 0}}, filter_chains: [{filters: [{name: a, typed_config: {x: 1}}]}]}]}", false},
	{"cluster without name", "yaml", "static_resources: {clusters: [{connect_timeout: 1s}]}", false},
	{"two of a oneof", "yaml", "admin: {address: {pipe: {path: x}, socket_address: {address: 127.0.0.1, port_value: 1}}}", false},
	{"json", "json", `{"node": {"id": "a"}}`, false},
	{"json trailing comma", "json", `{"node": {"id": "a",},}`, false},
	{"json two documents", "json", `{} {}`, false},
	{"json duplicate keys", "json", `{"node": {"id": "a"}, "node": {"id": "b"}}`, false},
	{"json comment", "json", "{} // x", false},
	{"json single quotes", "json", `{'node': {'id': 'a'}}`, true},
	{"json bare keys", "json", `{node: {id: "a"}}`, true},
	{"json number for text", "json", `{"node": {"id": 5}}`, false},
	{"text proto", "pb_text", `node { id: "a" }`, false},
	{"wrong text proto", "pb_text", `nodes { id: "a" }`, false},
	{"duplicate cluster", "yaml", "static_resources: {clusters: [{name: x}, {name: x}]}", false},
	{"two admin layers", "yaml", "layered_runtime: {layers: [{name: a, admin_layer: {}}, {name: b, admin_layer: {}}]}", false},
	{"same layer name", "yaml", "layered_runtime: {layers: [{name: a, static_layer: {}}, {name: a, admin_layer: {}}]}", false},
	{"layer without kind", "yaml", "layered_runtime: {layers: [{name: a}]}", false},
	{"ads without config", "yaml", "node: {id: a, cluster: c}\ndynamic_resources: {cds_config: {ads: {}}}", true},
	{"ads cluster missing", "yaml", "node: {id: a, cluster: c}\ndynamic_resources: {ads_config: {api_type: GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: x}}]}}", false},
	{"ads transport version", "yaml", "node: {id: a, cluster: c}\nstatic_resources: {clusters: [{name: x}]}\ndynamic_resources: {ads_config: {api_type: GRPC, grpc_services: [{envoy_grpc: {cluster_name: x}}]}}", false},
	{"ads without node", "yaml", "static_resources: {clusters: [{name: x}]}\ndynamic_resources: {ads_config: {api_type: GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: x}}]}}", false},
}

// TestLoad_WhenEnvoyIsAsked_ThenItTakesAndRefusesTheSame compares with the real Envoy's --mode validate.
func TestLoad_WhenEnvoyIsAsked_ThenItTakesAndRefusesTheSame(t *testing.T) {
	if testing.Short() {
		t.Skip("short: bootstrap documents are not compared with envoy")
	}
	envoy, err := exec.LookPath("envoy")
	if err != nil {
		t.Skip("no envoy in PATH: bootstrap documents are not compared with it")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if out, err := exec.CommandContext(ctx, envoy, "--version").CombinedOutput(); err != nil || !strings.Contains(string(out), "/1.40.") {
		t.Skipf("envoy is not version 1.40 (%v): bootstrap documents are not compared with it", err)
	}
	dir := t.TempDir()
	for _, tc := range oracleCases {
		t.Run(tc.name, func(t *testing.T) {
			p := filepath.Join(dir, "b."+tc.ext)
			if err := os.WriteFile(p, []byte(tc.text), 0o644); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			out, theirs := exec.CommandContext(ctx, envoy, "--mode", "validate", "-l", "critical", "--disable-hot-restart", "-c", p).CombinedOutput()
			_, ours := Load(Options{Path: p})
			switch {
			case (theirs == nil) == (ours == nil):
			case tc.differs:
			default:
				t.Errorf("envoy: %v %s\nours: %v", theirs, out, ours)
			}
		})
	}
}
