// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"sidecar/internal/testctl"
)

var binary string

func TestMain(m *testing.M) {
	if role := os.Getenv("ISTIO_TEST_ROLE"); role == "peer" {
		peerMain()
		return
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if binary = os.Getenv("ISTIO_TEST_BINARY"); binary != "" {
		return m.Run() // inside a namespace
	}
	dir, err := os.MkdirTemp("", "sidecar-istio")
	if err == nil {
		err = os.Chmod(dir, 0o755) // the proxy runs as another user
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "sidecar")
	if out, err := exec.Command("go", "build", "-o", binary, "sidecar/cmd/sidecar").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// buffer is a log that several goroutines may use.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// startProxy runs the program against a control plane; attr may be nil.
func startProxy(t testing.TB, ctl, admin string, attr *syscall.SysProcAttr) *buffer {
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
	if attr == nil {
		attr = &syscall.SysProcAttr{}
	}
	attr.Pdeathsig = syscall.SIGKILL
	log := &buffer{}
	cmd := exec.Command(binary, "--config-yaml", boot, "--concurrency", "2", "--disable-hot-restart", "-l", "info")
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = log, log, attr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			s := log.String()
			t.Logf("proxy log:\n%s", s[max(0, len(s)-8000):])
		}
	})
	return log
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
