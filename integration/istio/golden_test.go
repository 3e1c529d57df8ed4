// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"sidecar/integration/proc"
	"sidecar/internal/testctl"
)

func TestMain(m *testing.M) {
	if role := os.Getenv("ISTIO_TEST_ROLE"); role == "peer" {
		peerMain()
		return
	}
	if inside := os.Getenv("ISTIO_TEST_BINARY"); inside != "" { // of a namespace
		proc.Binary = inside
	}
	proc.Run(m, func(dir string) error { return os.Chmod(dir, 0o755) }) // the proxy runs as another user
}

// startProxy runs the program against a control plane; attr may be nil.
func startProxy(t *testing.T, ctl, admin string, attr *syscall.SysProcAttr) {
	t.Helper()
	host, p, _ := net.SplitHostPort(ctl)
	ahost, ap, _ := net.SplitHostPort(admin)
	boot := fmt.Sprintf(`node: {id: sidecar~127.0.0.2~reviews-v1.default~default.svc.cluster.local, cluster: reviews.default}
admin: {address: {socket_address: {address: %s, port_value: %s}}}
dynamic_resources:
  ads_config: {api_type: DELTA_GRPC, transport_api_version: V3, set_node_on_first_message_only: true, grpc_services: [{envoy_grpc: {cluster_name: xds-grpc}}]}
  cds_config: {ads: {}, initial_fetch_timeout: 0s, resource_api_version: V3}
  lds_config: {ads: {}, initial_fetch_timeout: 0s, resource_api_version: V3}
static_resources:
  clusters:
  - name: xds-grpc
    type: STATIC
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment: {cluster_name: xds-grpc, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %s, port_value: %s}}}}]}]}
`, ahost, ap, host, p)
	cmd, out := proc.Command(t, "--config-yaml", boot, "--concurrency", "2", "--disable-hot-restart", "-l", "info")
	if attr != nil {
		cmd.SysProcAttr.Credential, cmd.SysProcAttr.AmbientCaps = attr.Credential, attr.AmbientCaps
		cmd.Dir = "" // the other user may not enter that of the test
	}
	proc.Launch(t, cmd, out)
}

// TestDump_WhenAsReceived_ThenEachResourceIsAcceptedOrRefusedByName compares with testdata/golden/NAME.txt; ISTIO_UPDATE=1 writes them anew.
func TestDump_WhenAsReceived_ThenEachResourceIsAcceptedOrRefusedByName(t *testing.T) {
	for i, name := range dumps {
		t.Run(name, func(t *testing.T) {
			all := load(t, name).verdicts(t, launch(t, 2*i))
			// Endpoints and routes of refused parents are never asked for. Under parents without what waits they show what they are worth.
			d := load(t, name)
			for _, m := range d.clusters {
				if err := Strip(m); err != nil {
					t.Fatal(err)
				}
			}
			for _, m := range d.listeners {
				if err := Strip(m); err != nil {
					t.Fatal(err)
				}
				m.BindToPort = wrapperspb.Bool(false)
			}
			for key, why := range d.verdicts(t, launch(t, 2*i+1)) {
				if kind := key[:3]; kind == "EDS" || kind == "RDS" {
					all[key] = why
				} else if why != "" {
					t.Errorf("%s is refused after the transform: %s", key, why)
				}
			}
			for key, why := range all {
				if why != "" && !strings.Contains(why, "waits for a later issue") {
					t.Errorf("%s is refused for something else than later issues: %s", key, why)
				}
			}
			got := render(all)
			file := filepath.Join("testdata", "golden", name+".txt")
			if os.Getenv("ISTIO_UPDATE") != "" {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("%s differs (ISTIO_UPDATE=1 writes it):\n%s", file, got)
			}
		})
	}
}

// launch starts a control plane and a proxy for it.
func launch(t *testing.T, i int) *testctl.Script {
	t.Helper()
	s, err := testctl.NewScript("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	startProxy(t, s.Addr(), fmt.Sprintf("127.0.0.1:%d", 27900+i), nil)
	return s
}

// render makes the golden text: what is accepted in one line, what is refused with its reasons.
func render(v map[string]string) string {
	var accepted, refused []string
	for key, why := range v {
		if why == "" {
			accepted = append(accepted, key)
		} else {
			refused = append(refused, key+"\n  "+short(why))
		}
	}
	slices.Sort(accepted)
	slices.Sort(refused)
	return fmt.Sprintf("accepted: %d\n%s\n\nrefused: %d\n%s\n", len(accepted), strings.Join(accepted, "\n"), len(refused), strings.Join(refused, "\n"))
}
