// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	filev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"sidecar/internal/testctl"
)

// tcpWorld is a proxy with a TCP listener for each of some clusters, which are asked for on demand.
type tcpWorld struct {
	unready
	ports map[string]int
	log   string
}

func newTCPWorld(t *testing.T, own bool, change func(cluster string, f *tcpv3.TcpProxy), clusters ...string) *tcpWorld {
	w := &tcpWorld{newUnready(t, true), map[string]int{}, filepath.Join(t.TempDir(), "log")}
	src := adsSource(0)
	if own {
		src = grpcSource(true)
	}
	logs := []*accesslogv3.AccessLog{{Name: "f", ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: packed(&filev3.FileAccessLog{Path: w.log,
		AccessLogFormat: &filev3.FileAccessLog_LogFormat{LogFormat: &corev3.SubstitutionFormatString{Format: &corev3.SubstitutionFormatString_TextFormatSource{
			TextFormatSource: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{
				InlineString: "%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% %DOWNSTREAM_LOCAL_CLOSE_REASON% " +
					"%DOWNSTREAM_DETECTED_CLOSE_TYPE% %UPSTREAM_CLUSTER% %UPSTREAM_CLUSTER_RAW% %BYTES_RECEIVED% %UPSTREAM_REQUEST_ATTEMPT_COUNT% " +
					"%UPSTREAM_TRANSPORT_FAILURE_REASON%\n"}}}}}})}}}
	var list []res
	for _, c := range clusters {
		f := &tcpv3.TcpProxy{StatPrefix: c, ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: c}, AccessLog: logs,
			OnDemand: &tcpv3.TcpProxy_OnDemand{OdcdsConfig: src, Timeout: durationpb.New(3 * time.Second)}}
		if change != nil {
			change(c, f)
		}
		w.ports[c] = port(t)
		list = append(list, of(tcpListener(c, w.ports[c], f))...)
	}
	w.p.acked(w.p.push(ldsURL, "1", list))
	w.x.live()
	return w
}

func tcpListener(name string, port int, f *tcpv3.TcpProxy) *listenerv3.Listener {
	return &listenerv3.Listener{Name: name, Address: address(port), FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{
		Name: "envoy.filters.network.tcp_proxy", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: packed(f)}}}}}}
}

// call sends a request through the tunnel to a cluster, in the background: its answer, or why there is none.
func (w *tcpWorld) call(cluster string) <-chan string {
	got := make(chan string, 1)
	go func() {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", w.ports[cluster]))
		if err != nil {
			got <- err.Error()
			return
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
		r, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil { // a reset, unless nothing had come when it was closed
			got <- "closed"
			return
		}
		b, _ := io.ReadAll(r.Body)
		_ = r.Body.Close()
		got <- fmt.Sprint(r.StatusCode, " ", string(b))
	}()
	return got
}

func TestTCPDemand_WhenAClusterIsUnknown_ThenTheConnectionWaitsForIt(t *testing.T) {
	for _, own := range []bool{false, true} {
		t.Run(map[bool]string{false: "aggregated", true: "own stream"}[own], func(t *testing.T) {
			t.Parallel()
			w := newTCPWorld(t, own, func(c string, f *tcpv3.TcpProxy) {
				switch c {
				case "plain":
					f.OnDemand = &tcpv3.TcpProxy_OnDemand{}
				case "both":
					f.ClusterSpecifier = &tcpv3.TcpProxy_WeightedClusters{WeightedClusters: &tcpv3.TcpProxy_WeightedCluster{
						Clusters: []*tcpv3.TcpProxy_WeightedCluster_ClusterWeight{{Name: "f", Weight: 1}, {Name: "g", Weight: 1}}}}
				}
			}, "b", "c", "d", "e", "plain", "both")
			b := w.call("b")
			if own {
				w.o = w.s.accept()
			}
			w.o.asked(cdsURL, "b")
			b2 := w.call("b")
			w.x.wants(map[string]int64{"tcp.b.on_demand_cluster_attempt": 2})
			w.o.acked(w.o.push(cdsURL, "2", of(staticCluster("b", w.a.port))))
			w.wants(b, "200 A")
			w.wants(b2, "200 A")
			w.wants(w.call("b"), "200 A")
			// One that is not there.
			c := w.call("c")
			w.o.asked(cdsURL, "c")
			w.o.acked(w.o.push(cdsURL, "3", nil, "c"))
			w.wants(c, "closed")
			// One whose answer does not come, and one whose client does not wait for it.
			began := time.Now()
			d := w.call("d")
			e, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", w.ports["e"]))
			if err != nil {
				t.Fatal(err)
			}
			w.o.asked(cdsURL, "e")
			_ = e.Close()
			w.wants(d, "closed")
			if x := time.Since(began); x < 2500*time.Millisecond {
				t.Errorf("closed after %v, the timeout is 3s", x)
			}
			// Without a source nothing is asked for.
			began = time.Now()
			w.wants(w.call("plain"), "closed")
			if x := time.Since(began); x > 2500*time.Millisecond {
				t.Errorf("closed after %v", x)
			}
			// The choice is made once.
			both := w.call("both")
			r := w.o.await("f or g", func(r testctl.Request) bool { return slices.Contains(r.Names, "f") || slices.Contains(r.Names, "g") })
			w.o.acked(w.o.push(cdsURL, "4", of(staticCluster(r.Names[0], w.a.port))))
			w.wants(both, "200 A")
			w.o.acked(w.o.push(cdsURL, "5", nil, "b"))
			eventually(t, "the cluster is gone", func() bool { return w.x.stat("cluster_manager.cluster_removed") == 1 })
			b = w.call("b")
			w.x.wants(map[string]int64{"tcp.b.on_demand_cluster_attempt": 3})
			w.o.acked(w.o.push(cdsURL, "6", of(staticCluster("b", w.a.port))))
			w.wants(b, "200 A")
			w.x.wants(map[string]int64{
				"tcp.b.on_demand_cluster_attempt": 3, "tcp.b.on_demand_cluster_success": 3, "tcp.b.downstream_cx_no_route": 0, "tcp.b.downstream_cx_total": 4,
				"tcp.c.on_demand_cluster_attempt": 1, "tcp.c.on_demand_cluster_missing": 1, "tcp.c.downstream_cx_no_route": 1,
				"tcp.d.on_demand_cluster_attempt": 1, "tcp.d.on_demand_cluster_timeout": 1, "tcp.d.downstream_cx_no_route": 1,
				"tcp.e.on_demand_cluster_attempt": 1, "tcp.e.on_demand_cluster_timeout": 1, "tcp.e.downstream_cx_no_route": 1,
				"tcp.both.on_demand_cluster_attempt": 1, "tcp.both.on_demand_cluster_success": 1, "tcp.plain.downstream_cx_no_route": 1,
				"cluster_manager.odcds.update_success": 5, "cluster_manager.odcds.update_rejected": 0})
			if _, there := w.x.stats()["tcp.plain.on_demand_cluster_attempt"]; there {
				t.Error("statistics of on_demand where it asks for nothing")
			}
			const lost = "NC - - tcp_initializion_failure:3 Normal - - 0 0 -\n"
			eventually(t, "log lines", func() bool {
				b, _ := os.ReadFile(w.log)
				return strings.Count(string(b), lost) == 4 && strings.Count(string(b), "- - - - Normal b b 46 1 -\n") == 4
			})
		})
	}
}

func TestTCPDemand_WhenTheSourceIsOfNoUse_ThenItIsRefused(t *testing.T) {
	if oracle {
		t.Skip("SKIP: Envoy ends with the first answer")
	}
	t.Parallel()
	_, p := placeWorld(t, true)
	for want, o := range map[string]*tcpv3.TcpProxy_OnDemand{
		"on_demand.odcds_config: only a delta source": {OdcdsConfig: grpcSource(false)},
		"on_demand.resources_locator":                 {OdcdsConfig: adsSource(0), ResourcesLocator: "xdstp://x/envoy.config.cluster.v3.Cluster/*"},
	} {
		f := tcpTo("b")
		f.OnDemand = o
		p.nacked(p.push(ldsURL, "1", of(tcpListener("l", port(t), f))), want)
	}
}
