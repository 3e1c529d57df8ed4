// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/config"
	"github.com/envoyproxy/go-control-plane/pkg/server/sotw/v3"
	serverv3 "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"github.com/envoyproxy/go-control-plane/pkg/test"
	"github.com/envoyproxy/go-control-plane/pkg/test/resource/v3"
	testv3 "github.com/envoyproxy/go-control-plane/pkg/test/v3"
)

// driver is go-control-plane's own end-to-end test: its servers, its synthetic snapshots, its way of counting.
type driver struct {
	mode string // of package resource
	mux  bool   // EDS from a linear cache of its own

	control, gateway, als, base int
	snapshots                   resource.TestSnapshot
	cache                       cache.SnapshotCache
	eds                         *cache.LinearCache
	logs                        *testv3.AccessLogService
}

// The driver's sizes.
const (
	driverNode    = "test-id"
	driverUpdates = 3
	driverBatches = 5
)

// ports hands out n consecutive ports, which port gives to nobody else.
func ports(t testing.TB, n int) int {
	t.Helper()
	for range 100 {
		last := int((lastPort.Add(uint32(n)) + uint32(os.Getpid())*37) % 1000)
		base := 27000 + last - n + 1
		free := last >= n-1 // it does not wrap around
		for i := 0; i < n && free; i++ {
			ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", base+i))
			if free = err == nil; free {
				_ = ln.Close()
			}
		}
		if free {
			return base
		}
	}
	t.Fatal("no free ports")
	return 0
}

func newDriver(t *testing.T, mode string, mux bool) *driver {
	d := &driver{mode: mode, mux: mux, control: port(t), gateway: port(t), als: port(t), base: ports(t, 8), logs: &testv3.AccessLogService{}}
	back := newBackend(t, "echo")
	d.snapshots = resource.TestSnapshot{Xds: mode, UpstreamPort: uint32(back.port), BasePort: uint32(d.base), NumClusters: 4, NumHTTPListeners: 2,
		NumScopedHTTPListeners: 2, NumTCPListeners: 2, NumRuntimes: 1, NumExtension: 1}
	if mode == resource.Delta && oracle { // virtual hosts over xDS (VHDS) are refused yet, and start-up waits for the route configuration
		d.snapshots.NumVHDSHTTPListeners = 2
	}
	d.cache = cache.NewSnapshotCache(mode == resource.Ads, cache.IDHash{}, nil)
	var all cache.Cache = d.cache
	if mux {
		url := edsURL
		d.eds = cache.NewLinearCache(url)
		all = &cache.MuxCache{Caches: map[string]cache.Cache{"rest": d.cache, "eds": d.eds}, Classify: func(r *cache.Request) string {
			if r.GetTypeUrl() == url {
				return "eds"
			}
			return "rest"
		}}
	}
	var opts []config.XDSOption
	if mode == resource.Ads {
		opts = append(opts, sotw.WithOrderedADS())
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	srv := serverv3.NewServer(ctx, all, nil, opts...)
	log.SetOutput(io.Discard) // the driver's servers print where they listen
	go test.RunAccessLogServer(ctx, d.logs, uint(d.als))
	go test.RunManagementServer(ctx, srv, uint(d.control))
	go test.RunManagementGateway(ctx, srv, uint(d.gateway))
	return d
}

// source is a config source of the driver's mode, in YAML.
func (d *driver) source() string {
	api := func(s string) string {
		return "{resource_api_version: V3, api_config_source: {transport_api_version: V3, set_node_on_first_message_only: true, " + s + "}}"
	}
	const service = ", grpc_services: [{envoy_grpc: {cluster_name: xds_cluster}}]"
	switch d.mode {
	case resource.Xds:
		return api("api_type: GRPC" + service)
	case resource.Delta:
		return api("api_type: DELTA_GRPC" + service)
	case resource.Rest:
		return api("api_type: REST, cluster_names: [xds_cluster], refresh_delay: " + fmt.Sprintf("%.2fs", resource.RefreshDelay.Seconds()))
	}
	return "{resource_api_version: V3, ads: {}}"
}

func (d *driver) bootstrap(admin int) string {
	cluster := func(name string, port int) string {
		http2 := ""
		if port != d.gateway {
			http2 = `typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {"@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http2_protocol_options: {}}}}, `
		}
		return fmt.Sprintf("{name: %s, connect_timeout: 1s, %sload_assignment: {cluster_name: %s, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}}]}]}}",
			name, http2, name, port)
	}
	control, ads := d.control, ""
	switch d.mode {
	case resource.Rest:
		control = d.gateway
	case resource.Ads:
		ads = "GRPC"
	case resource.DeltaAds:
		ads = "DELTA_GRPC"
	}
	if ads != "" {
		ads = "ads_config: {api_type: " + ads + ", transport_api_version: V3, set_node_on_first_message_only: true, grpc_services: [{envoy_grpc: {cluster_name: xds_cluster}}]}, "
	}
	src := d.source()
	return fmt.Sprintf(`node: {id: %s, cluster: test-cluster}
admin: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}
dynamic_resources: {%scds_config: %s, lds_config: %s}
layered_runtime: {layers: [{name: runtime-0, rtds_layer: {name: runtime-0, rtds_config: %s}}]}
static_resources:
  clusters:
  - %s
  - %s
`, driverNode, admin, ads, src, src, src, cluster("xds_cluster", control), cluster("als_cluster", d.als))
}

// update makes version v the current one.
func (d *driver) update(t *testing.T, v int) {
	t.Helper()
	d.snapshots.Version = fmt.Sprintf("v%d", v)
	s := d.snapshots.Generate()
	if err := d.cache.SetSnapshot(t.Context(), driverNode, s); err != nil {
		t.Fatal(err)
	}
	if d.mux {
		for name, r := range s.GetResources(edsURL) {
			if err := d.eds.UpdateResource(name, r); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// listeners are the kinds of the listeners, in order of their ports.
func (d *driver) listeners() []string {
	s := &d.snapshots
	return slices.Concat(slices.Repeat([]string{"http"}, s.NumHTTPListeners), slices.Repeat([]string{"scoped"}, s.NumScopedHTTPListeners),
		slices.Repeat([]string{"tcp"}, s.NumTCPListeners), slices.Repeat([]string{"vhds"}, s.NumVHDSHTTPListeners))
}

// batch calls every listener once, each on a connection of its own, and returns the failures.
func (d *driver) batch(t *testing.T) (bad []string) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i, kind := range d.listeners() {
		wg.Go(func() {
			c := newClient(t, d.base+i)
			c.http.Transport = &oneShot
			if code, body := c.get("/"); code != 200 || body != "echo" {
				mu.Lock()
				bad = append(bad, fmt.Sprintf("%s listener-%d: %d %s", kind, i, code, body))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return bad
}

// TestDriver_WhenGoControlPlanePlaysItsOwnTest_ThenNoBatchFailsAfterTheFirst is what go-control-plane runs against Envoy: three snapshots in which
// clusters, routes and listeners have other names, five batches of requests after each.
func TestDriver_WhenGoControlPlanePlaysItsOwnTest_ThenNoBatchFailsAfterTheFirst(t *testing.T) {
	resource.RefreshDelay = 50 * time.Millisecond
	for _, tc := range []struct {
		name, mode string
		mux        bool
	}{
		{"ads", resource.Ads, false}, {"delta-ads", resource.DeltaAds, false}, {"xds", resource.Xds, false}, {"delta", resource.Delta, false},
		{"rest", resource.Rest, false}, {"mux", resource.Xds, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			d := newDriver(t, tc.mode, tc.mux)
			p := start(t, options{boot: d.bootstrap, noReady: true, drain: 1})
			for v := range driverUpdates {
				d.update(t, v)
				// The first batch may come too early, on a slow machine by seconds: it counts when it succeeds.
				for end := time.Now().Add(10 * time.Second); len(d.batch(t)) > 0 && time.Now().Before(end); {
					time.Sleep(50 * time.Millisecond)
				}
				time.Sleep(time.Second) // polls of listeners and clusters are apart
				for i := 1; i < driverBatches; i++ {
					bad := d.batch(t)
					t.Logf("version %d, batch %d: %d failed", v, i, len(bad))
					if len(bad) > 0 {
						_, waits := p.get("/init_dump")
						t.Fatalf("version %d, batch %d: %s; waiting for %s", v, i, strings.Join(bad, "; "), waits)
					}
					time.Sleep(200 * time.Millisecond)
				}
			}
			p.wants(map[string]int64{"cluster_manager.cds.update_rejected": 0, "runtime.update_rejected": 0,
				"listener_manager.lds.update_rejected": 0, "runtime.num_keys": 2, "runtime.num_layers": 1})
			entries := 0
			d.logs.Dump(func(string) { entries++ })
			if n := p.stat("access_logs.grpc_access_log.logs_written"); entries == 0 || n < int64(entries) {
				t.Errorf("%d access log entries arrived, %d were written", entries, n)
			}
		})
	}
}
