// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"strings"
	"testing"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"sidecar/dataplane/filter"
	"sidecar/dataplane/httpmsg"
	"sidecar/internal/telemetry/stats"
	"sidecar/xds/ads"
	"sidecar/xds/resource"
)

func scopeFor(name, routes string, key ...string) *routev3.ScopedRouteConfiguration {
	m := &routev3.ScopedRouteConfiguration{Name: name, RouteConfigurationName: routes, Key: &routev3.ScopedRouteConfiguration_Key{}}
	for _, k := range key {
		m.Key.Fragments = append(m.Key.Fragments, &routev3.ScopedRouteConfiguration_Key_Fragment{Type: &routev3.ScopedRouteConfiguration_Key_Fragment_StringKey{StringKey: k}})
	}
	return m
}

// scopedListener takes its scopes from SRDS, or has those of the list.
func scopedListener(t *testing.T, name string, port int, list ...*routev3.ScopedRouteConfiguration) *listenerv3.Listener {
	t.Helper()
	l := listenerOf(name, port, "none", "")
	h := &hcmv3.HttpConnectionManager{}
	if err := l.FilterChains[0].Filters[0].GetTypedConfig().UnmarshalTo(h); err != nil {
		t.Fatal(err)
	}
	h.StatPrefix = "in"
	r := &hcmv3.ScopedRoutes{Name: "scopes", RdsConfigSource: adsSource(), ScopeKeyBuilder: &hcmv3.ScopedRoutes_ScopeKeyBuilder{
		Fragments: []*hcmv3.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder{{Type: &hcmv3.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder_HeaderValueExtractor_{
			HeaderValueExtractor: &hcmv3.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder_HeaderValueExtractor{Name: "x-scope"}}}}}}
	if len(list) > 0 {
		r.ConfigSpecifier = &hcmv3.ScopedRoutes_ScopedRouteConfigurationsList{ScopedRouteConfigurationsList: &hcmv3.ScopedRouteConfigurationsList{ScopedRouteConfigurations: list}}
	} else {
		r.ConfigSpecifier = &hcmv3.ScopedRoutes_ScopedRds{ScopedRds: &hcmv3.ScopedRds{ScopedRdsConfigSource: adsSource()}}
	}
	h.RouteSpecifier = &hcmv3.HttpConnectionManager_ScopedRoutes{ScopedRoutes: r}
	a, err := anypb.New(h)
	if err != nil {
		t.Fatal(err)
	}
	l.FilterChains[0].Filters[0].ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: a}
	return l
}

// routed is the name of the route configuration that the last snapshot has for a request of a listener.
func (r *rig) routed(listener, scope string) string {
	h := &httpmsg.Head{}
	h.Reset(&httpmsg.Arena{})
	h.AddString(httpmsg.KeyOf("x-scope"), scope)
	s := r.c.listeners[listener]
	if s == nil || s.active == nil {
		return "no listener"
	}
	t := r.p.last.RoutesOf(s.active.model.Chains[0].HTTP, h)
	if t == nil {
		return "none"
	}
	return t.Name
}

func list(ms ...proto.Message) []proto.Message { return ms }

func TestSRDS_WhenScopesMove_ThenRequestsFollowOnceTheirRoutesAreIn(t *testing.T) {
	for _, v := range []ads.Variant{ads.SotW, ads.Delta} {
		t.Run(v.String(), func(t *testing.T) {
			r := newRig(t, v)
			r.push(resource.Cluster, nil)
			if e := r.push(resource.Listener, list(scopedListener(t, "l", 1), scopedListener(t, "m", 2))); e != "" {
				t.Fatal(e)
			}
			if r.c.state == Live {
				t.Fatal("live before the scopes are in")
			}
			if _, wild := r.f.session.Subscriptions(resource.ScopedRoute.URL()); !wild || len(r.c.scopes) != 1 {
				t.Fatalf("wildcard %v, %d sets for two equal listeners", wild, len(r.c.scopes))
			}
			if e := r.push(resource.ScopedRoute, list(scopeFor("a", "ra", "A"), scopeFor("b", "rb", "B"))); e != "" {
				t.Fatal(e)
			}
			r.push(resource.RouteConfiguration, list(routesTo("ra", "c"), routesTo("rb", "c")))
			if r.c.state != Live {
				t.Fatal("not live")
			}
			if got := fmt.Sprint(r.routed("l", "A"), r.routed("m", "B"), r.routed("l", "C")); got != "rarbnone" {
				t.Error(got)
			}
			b := r.c.scopes[sortedKeys(r.c.scopes)[0]]
			if n, _ := b.gauges.Value(stats.SRDSAllScopes); n != 2 {
				t.Errorf("all_scopes is %d", n)
			}
			if e := r.push(resource.ScopedRoute, list(scopeFor("a", "rc", "A"), scopeFor("b", "rb", "B"))); e != "" {
				t.Fatal(e)
			}
			if got := r.routed("l", "A"); got != "ra" {
				t.Errorf("%s before the new route configuration is in", got)
			}
			r.push(resource.RouteConfiguration, list(routesTo("rc", "c")))
			if got := r.routed("l", "A"); got != "rc" || r.c.routes["ra"] != nil {
				t.Errorf("%s after it is in; the old one is kept: %v", got, r.c.routes["ra"] != nil)
			}
			gone := []string(nil)
			if v == ads.Delta {
				gone = []string{"b"}
			}
			r.push(resource.ScopedRoute, list(scopeFor("a", "rc", "A")), gone...)
			if got := r.routed("m", "B"); got != "none" || r.c.routes["rb"] != nil {
				t.Errorf("%s after the scope is gone", got)
			}
		})
	}
}

func TestSRDS_WhenScopesAreBad_ThenTheOldOnesServe(t *testing.T) {
	r := newRig(t, ads.SotW)
	r.push(resource.Cluster, nil)
	r.push(resource.Listener, list(scopedListener(t, "l", 1)))
	r.push(resource.ScopedRoute, list(scopeFor("a", "ra", "A")))
	r.push(resource.RouteConfiguration, list(routesTo("ra", "c")))
	inline := scopeFor("d", "rd", "D")
	inline.RouteConfiguration = routesTo("rd", "c")
	for want, bad := range map[string][]proto.Message{
		"scope key conflict found, first scope is 'a', second scope is 'b'": list(scopeFor("a", "ra", "A"), scopeFor("b", "rb", "A")),
		"route_configuration": list(inline),
		"key":                 list(&routev3.ScopedRouteConfiguration{Name: "k", RouteConfigurationName: "x"}),
	} {
		if e := r.push(resource.ScopedRoute, bad); !strings.Contains(e, want) {
			t.Errorf("NACK %q, want %q", e, want)
		}
	}
	if got := r.routed("l", "A"); got != "ra" {
		t.Error(got)
	}
}

func TestScopedRoutes_WhenTheyAreInlineAndTheListenerGoes_ThenTheirRoutesGo(t *testing.T) {
	r := newRig(t, ads.SotW)
	r.c.cfg.Compile.DrainTime = 0
	r.push(resource.Cluster, nil)
	r.push(resource.Listener, list(scopedListener(t, "l", 1, scopeFor("a", "ra", "A"), scopeFor("b", "rb", "B"))))
	r.push(resource.RouteConfiguration, list(routesTo("ra", "c"), routesTo("rb", "c")))
	if got := r.routed("l", "A") + r.routed("l", "B"); got != "rarb" {
		t.Fatal(got)
	}
	r.push(resource.Listener, list(listenerOf("l", 1, "ra", "")))
	r.c.tick()
	r.c.settleEvent()
	if len(r.c.scopes) != 0 || r.c.routes["rb"] != nil || r.c.routes["ra"] == nil || len(r.p.last.Scopes) != 0 {
		t.Errorf("%d sets, routes %v, %d scopes published", len(r.c.scopes), sortedKeys(r.c.routes), len(r.p.last.Scopes))
	}
}

// lackScope is a worker's demand for the route configuration of a scope.
func (r *rig) lackScope(name string) {
	s := r.c.scopes[sortedKeys(r.c.scopes)[0]]
	r.c.demand(filter.Demand{Scopes: s.Ref, Name: name})
	r.c.settleEvent()
}

func TestSRDS_WhenScopesAreOnDemand_ThenTheirRoutesComeWithTheFirstRequest(t *testing.T) {
	lazy := func(name string, routes string) *routev3.ScopedRouteConfiguration {
		m := scopeFor(name, routes, name)
		m.OnDemand = true
		return m
	}
	for _, inline := range []bool{false, true} {
		r := newRig(t, ads.Delta)
		r.c.cfg.Compile.DrainTime = 0
		r.push(resource.Cluster, nil)
		if inline {
			r.push(resource.Listener, list(scopedListener(t, "l", 1, lazy("a", "ra"), lazy("b", "rb"))))
		} else {
			r.push(resource.Listener, list(scopedListener(t, "l", 1)))
			r.push(resource.ScopedRoute, list(lazy("a", "ra"), lazy("b", "rb")))
		}
		if r.c.state != Live || len(r.c.routes) != 0 {
			t.Fatalf("state %v, %d route configurations asked for", r.c.state, len(r.c.routes))
		}
		r.lackScope("a")
		r.lackScope("a") // of another worker
		r.lackScope("b")
		r.lackScope("x")
		r.expectAnswers(t, "a scope that is not there", "x")
		r.push(resource.RouteConfiguration, list(routesTo("rb", "c")))
		r.expectAnswers(t, "b is in", "b")
		if got := r.routed("l", "b") + r.routed("l", "a"); got != "rbnone" {
			t.Error(got)
		}
		r.lackScope("b")
		r.expectAnswers(t, "b is there", "b")
		r.c.routeTimeout(r.c.routes["ra"])
		r.c.settleEvent()
		r.expectAnswers(t, "a did not come in time", "a")
		if inline {
			continue
		}
		r.push(resource.ScopedRoute, list(lazy("b", "rc"))) // a stays as it is
		if r.c.routes["rb"] != nil || r.c.routes["rc"] != nil || r.c.routes["ra"] == nil {
			t.Errorf("route configurations %v after b has another one", sortedKeys(r.c.routes))
		}
		r.lackScope("b")
		r.expectAnswers(t, "rc is awaited", "")
		r.push(resource.ScopedRoute, nil, "b")
		r.expectAnswers(t, "the scope is gone", "b")
		r.push(resource.ScopedRoute, list(lazy("b", "rb")))
		r.lackScope("b")
		r.push(resource.Listener, nil, "l")
		r.c.tick()
		r.c.settleEvent()
		r.expectAnswers(t, "the listener is gone", "b")
		if len(r.c.routes) != 0 {
			t.Errorf("route configurations %v are left", sortedKeys(r.c.routes))
		}
	}
}
