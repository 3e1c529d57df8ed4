// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	demandv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/on_demand/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"sidecar/internal/testctl"
)

func odcds(src *corev3.ConfigSource, timeout time.Duration) *demandv3.OnDemandCds {
	o := &demandv3.OnDemandCds{Source: src}
	if timeout > 0 {
		o.Timeout = durationpb.New(timeout)
	}
	return o
}

// unready is a proxy with the cluster "a" that waits for its listeners.
type unready struct {
	t    *testing.T
	s    *script
	x    *proxy
	p, o *peer // of everything else, and of clusters on demand
	a    *backend
}

func newUnready(t *testing.T, delta bool) unready {
	w := unready{t: t, s: newScript(t), a: newBackend(t, "A")}
	w.x = start(t, options{ctl: w.s.Addr(), delta: delta, noReady: true})
	w.p = w.s.accept()
	w.o = w.p
	w.p.asked(cdsURL)
	w.p.acked(w.p.push(cdsURL, "1", of(staticCluster("a", w.a.port))))
	w.p.asked(ldsURL)
	return w
}

// wants waits for the answer to a call.
func (w *unready) wants(got <-chan string, want string) {
	w.t.Helper()
	select {
	case s := <-got:
		if s != want {
			w.t.Errorf("answer %q, want %q", s, want)
		}
	case <-time.After(patience):
		w.t.Fatal("no answer")
	}
}

// clusterWorld is a proxy whose routes take the cluster from x-cluster. The filter has no odcds of its own for "/plain".
type clusterWorld struct {
	unready
	port int
}

func newClusterWorld(t *testing.T, delta, own bool, perRoute bool) *clusterWorld {
	w := &clusterWorld{newUnready(t, delta), port(t)}
	src := adsSource(0)
	if own {
		src = grpcSource(true)
	}
	rc := routes("x", "a")
	r := rc.VirtualHosts[0].Routes[0]
	r.GetRoute().ClusterSpecifier = &routev3.RouteAction_ClusterHeader{ClusterHeader: "x-cluster"}
	const name = "envoy.filters.http.on_demand"
	filter, other := &demandv3.OnDemand{Odcds: odcds(src, 3*time.Second)}, &demandv3.PerRouteConfig{}
	if perRoute {
		filter, other = &demandv3.OnDemand{}, &demandv3.PerRouteConfig{Odcds: odcds(src, 3*time.Second)}
	}
	rc.VirtualHosts[0].Routes = []*routev3.Route{{Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/own"}}, Action: r.Action,
		TypedPerFilterConfig: map[string]*anypb.Any{name: packed(other)}}, r}
	h := hcm("l")
	h.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: rc}
	h.HttpFilters = append([]*hcmv3.HttpFilter{{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: packed(filter)}}}, h.HttpFilters...)
	w.p.acked(w.p.push(ldsURL, "1", of(listenerWith("l", w.port, h))))
	w.x.live()
	return w
}

// call sends a request to a cluster in the background: "200 A", or the status.
func (w *clusterWorld) call(path, cluster string) <-chan string {
	got := make(chan string, 1)
	go func() {
		req, err := http.NewRequest(http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d%s", w.port, path), nil)
		if err != nil {
			got <- err.Error()
			return
		}
		req.Header.Set("x-cluster", cluster)
		r, err := (&http.Client{Transport: &oneShot, Timeout: patience}).Do(req)
		if err != nil {
			got <- err.Error()
			return
		}
		b, _ := io.ReadAll(r.Body)
		_ = r.Body.Close()
		got <- fmt.Sprint(r.StatusCode, " ", string(b))
	}()
	return got
}

func TestODCDS_WhenAClusterIsUnknown_ThenTheRequestWaitsForIt(t *testing.T) {
	for _, own := range []bool{false, true} {
		t.Run(map[bool]string{false: "aggregated", true: "own stream"}[own], func(t *testing.T) {
			t.Parallel()
			w := newClusterWorld(t, true, own, false)
			b := w.call("/", "b")
			if own {
				w.o = w.s.accept()
			}
			w.o.asked(cdsURL, "b")
			b2 := w.call("/", "b")
			w.o.acked(w.o.push(cdsURL, "2", of(staticCluster("b", w.a.port))))
			w.wants(b, "200 A")
			w.wants(b2, "200 A")
			// One that is not there.
			c := w.call("/", "c")
			w.o.asked(cdsURL, "c")
			w.o.acked(w.o.push(cdsURL, "3", nil, "c"))
			w.wants(c, "503 ")
			// One whose answer does not come.
			began := time.Now()
			w.wants(w.call("/", "d"), "503 ")
			if d := time.Since(began); d < 2500*time.Millisecond {
				t.Errorf("answered after %v, the timeout is 3s", d)
			}
			// The filter of this route asks for no clusters.
			began = time.Now()
			w.wants(w.call("/own", "e"), "503 ")
			if d := time.Since(began); d > 2500*time.Millisecond {
				t.Errorf("answered after %v", d)
			}
			w.o.acked(w.o.push(cdsURL, "4", nil, "b"))
			eventually(t, "the cluster is gone", func() bool { return w.x.stat("cluster_manager.cluster_removed") == 1 })
			b = w.call("/", "b")
			time.Sleep(100 * time.Millisecond)
			w.o.acked(w.o.push(cdsURL, "5", of(staticCluster("b", w.a.port))))
			w.wants(b, "200 A")
			w.x.wants(map[string]int64{"http.l.no_cluster": 3, "cluster_manager.cluster_added": 4, "cluster_manager.odcds.update_rejected": 0,
				"cluster_manager.odcds.update_success": 4, "cluster_manager.odcds.update_failure": 0})
			if own {
				w.x.wants(map[string]int64{"cluster_manager.odcds.control_plane.connected_state": 1})
			}
			if slices.ContainsFunc(w.o.requests(), func(r testctl.Request) bool { return slices.Contains(r.Names, "e") }) {
				t.Error("cluster e was asked for")
			}
		})
	}
}

func TestODCDS_WhenTheRouteHasIt_ThenOnlyItsRequestsAsk(t *testing.T) {
	t.Parallel()
	w := newClusterWorld(t, true, false, true)
	w.wants(w.call("/", "b"), "503 ")
	b := w.call("/own", "b")
	w.p.asked(cdsURL, "b")
	w.p.acked(w.p.push(cdsURL, "2", of(staticCluster("b", w.a.port))))
	w.wants(b, "200 A")
}

func TestODCDS_WhenTheAggregatedStreamIsSotW_ThenTheNameIsInTheList(t *testing.T) {
	t.Parallel()
	w := newClusterWorld(t, false, false, false)
	b := w.call("/", "b")
	w.p.asked(cdsURL, "b")
	w.p.acked(w.p.push(cdsURL, "2", of(staticCluster("a", w.a.port), staticCluster("b", w.a.port))))
	w.wants(b, "200 A")
}

func TestODCDS_WhenTheSourceIsOfNoUse_ThenItIsRefused(t *testing.T) {
	if oracle {
		t.Skip("SKIP: Envoy ends with the first answer")
	}
	t.Parallel()
	_, p := placeWorld(t, true)
	for want, o := range map[string]*demandv3.OnDemandCds{
		"http_filters[0].typed_config.odcds.source: only a delta source": odcds(grpcSource(false), 0),
		"http_filters[0].typed_config.odcds.resources_locator":           {Source: adsSource(0), ResourcesLocator: "xdstp://x/envoy.config.cluster.v3.Cluster/*"},
	} {
		h := httpTo("x", "a")
		h.HttpFilters = append([]*hcmv3.HttpFilter{{Name: "od", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: packed(&demandv3.OnDemand{Odcds: o})}}}, h.HttpFilters...)
		p.nacked(p.push(ldsURL, "1", of(listenerWith("l", port(t), h))), want)
	}
}
