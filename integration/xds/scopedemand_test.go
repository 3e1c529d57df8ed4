// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	demandv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/on_demand/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"

	"sidecar/internal/testctl"
)

const srdsURL = "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration"

// scope is a scoped route configuration for requests whose x-scope is its name; its route configuration is "r" and the name.
func scope(name string, onDemand bool) *routev3.ScopedRouteConfiguration {
	return &routev3.ScopedRouteConfiguration{Name: name, RouteConfigurationName: "r" + name, OnDemand: onDemand, Key: &routev3.ScopedRouteConfiguration_Key{
		Fragments: []*routev3.ScopedRouteConfiguration_Key_Fragment{{Type: &routev3.ScopedRouteConfiguration_Key_Fragment_StringKey{StringKey: name}}}}}
}

// scopeWorld is a proxy that takes its scopes from SRDS: a, and b and c on demand. Without the filter nothing is asked for.
type scopeWorld struct {
	unready
	port int
}

func newScopeWorld(t *testing.T, delta, filter bool, fetch time.Duration) *scopeWorld {
	w := &scopeWorld{newUnready(t, delta), port(t)}
	h := hcm("l")
	h.RouteSpecifier = &hcmv3.HttpConnectionManager_ScopedRoutes{ScopedRoutes: &hcmv3.ScopedRoutes{Name: "s", RdsConfigSource: adsSource(fetch),
		ScopeKeyBuilder: &hcmv3.ScopedRoutes_ScopeKeyBuilder{Fragments: []*hcmv3.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder{{
			Type: &hcmv3.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder_HeaderValueExtractor_{
				HeaderValueExtractor: &hcmv3.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder_HeaderValueExtractor{Name: "x-scope",
					ExtractType: &hcmv3.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder_HeaderValueExtractor_Index{}}}}}},
		ConfigSpecifier: &hcmv3.ScopedRoutes_ScopedRds{ScopedRds: &hcmv3.ScopedRds{ScopedRdsConfigSource: adsSource(0)}}}}
	if filter {
		h.HttpFilters = append([]*hcmv3.HttpFilter{{Name: "envoy.filters.http.on_demand",
			ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: packed(&demandv3.OnDemand{})}}}, h.HttpFilters...)
	}
	w.p.acked(w.p.push(ldsURL, "1", of(listenerWith("l", w.port, h))))
	w.p.asked(srdsURL)
	w.p.acked(w.p.push(srdsURL, "1", of(scope("a", false), scope("b", true), scope("c", true))))
	w.p.asked(rdsURL, "ra")
	w.p.acked(w.p.push(rdsURL, "1", of(routes("ra", "a"))))
	w.x.live()
	return w
}

// call sends a request with a scope in the background: the status of its answer.
func (w *scopeWorld) call(name string) <-chan string {
	got := make(chan string, 1)
	go func() {
		req, _ := http.NewRequest(http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/", w.port), nil)
		req.Header.Set("x-scope", name)
		r, err := (&http.Client{Transport: &oneShot, Timeout: patience}).Do(req)
		if err != nil {
			got <- err.Error()
			return
		}
		_ = r.Body.Close()
		got <- fmt.Sprint(r.StatusCode)
	}()
	return got
}

// requested tells whether a route configuration was ever asked for.
func (w *scopeWorld) requested(name string) bool {
	return slices.ContainsFunc(w.p.requests(), func(r testctl.Request) bool { return r.TypeURL == rdsURL && slices.Contains(r.Names, name) })
}

func TestScopeDemand_WhenAScopeIsOnDemand_ThenItsFirstRequestWaitsForItsRoutes(t *testing.T) {
	variants(t, func(t *testing.T, delta bool) {
		w := newScopeWorld(t, delta, true, 0)
		gauges := func(active, all, onDemand int64) {
			t.Helper()
			w.x.wants(map[string]int64{"http.l.scoped_rds.s.active_scopes": active, "http.l.scoped_rds.s.all_scopes": all,
				"http.l.scoped_rds.s.on_demand_scopes": onDemand})
		}
		w.wants(w.call("a"), "200")
		w.wants(w.call("x"), "404")
		gauges(1, 3, 2)
		if w.requested("rb") {
			t.Error("rb was asked for before it was needed")
		}
		b, b2 := w.call("b"), w.call("b")
		w.p.asked(rdsURL, "rb")
		gauges(2, 3, 2)
		c := w.call("c")
		w.p.asked(rdsURL, "rc")
		w.p.acked(w.p.push(rdsURL, "2", of(routes("rc", "a"))))
		w.wants(c, "200")
		w.p.acked(w.p.push(rdsURL, "3", of(routes("rb", "a"))))
		w.wants(b, "200")
		w.wants(b2, "200")
		gauges(3, 3, 2)
		// One becomes on demand, one goes, and one stays as it is.
		w.p.acked(w.p.push(srdsURL, "2", of(scope("a", true), scope("b", true)), "c"))
		gauges(1, 2, 2)
		w.wants(w.call("b"), "200")
		w.wants(w.call("c"), "404")
		a := w.call("a")
		gauges(2, 2, 2)
		w.p.acked(w.p.push(rdsURL, "4", of(routes("ra", "a"), routes("rb", "a"))))
		w.wants(a, "200")
		w.x.wants(map[string]int64{"http.l.no_route": 2, "http.l.scoped_rds.s.update_success": 2, "http.l.scoped_rds.s.config_reload": 2,
			"http.l.downstream_rq_active": 0})
	})
}

func TestScopeDemand_WhenThereIsNoFilter_ThenNothingIsAskedFor(t *testing.T) {
	t.Parallel()
	w := newScopeWorld(t, true, false, 0)
	w.wants(w.call("b"), "404")
	w.wants(w.call("a"), "200")
	if w.requested("rb") {
		t.Error("rb was asked for")
	}
}

func TestScopeDemand_WhenTheRoutesDoNotCome_ThenTheRequestEndsInTime(t *testing.T) {
	if oracle {
		t.Skip("SKIP: Envoy waits for the idle timeout of the stream")
	}
	t.Parallel()
	w := newScopeWorld(t, true, true, time.Second)
	w.wants(w.call("b"), "404")
	w.wants(w.call("b"), "404") // at once: they were not there
	w.p.acked(w.p.push(rdsURL, "2", of(routes("rb", "a"))))
	w.wants(w.call("b"), "200")
	c := w.call("c")
	w.p.asked(rdsURL, "rc")
	w.p.acked(w.p.push(srdsURL, "2", nil, "c"))
	w.wants(c, "404")
}
