// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hiv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/http_inspector/v3"
	tiv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/proto"

	"sidecar/dataplane/snapshot"
	"sidecar/xds/resource"
)

// placesListener has a network filter and a listener filter "ext" over ECDS, beside a chain of its own for port 9.
func placesListener(name string, port int, fn func(*corev3.ExtensionConfigSource)) *listenerv3.Listener {
	l := listenerOf(name, port, "r", "")
	d := &corev3.ExtensionConfigSource{ConfigSource: adsSource(), TypeUrls: []string{packed(&tcpv3.TcpProxy{}).TypeUrl, packed(&hcmv3.HttpConnectionManager{}).TypeUrl}}
	fn(d)
	own := proto.Clone(l.FilterChains[0]).(*listenerv3.FilterChain)
	own.Name, own.FilterChainMatch = "own", &listenerv3.FilterChainMatch{SourcePorts: []uint32{9}}
	l.FilterChains[0].Name = "found"
	l.FilterChains[0].Filters = []*listenerv3.Filter{{Name: "nf", ConfigType: &listenerv3.Filter_ConfigDiscovery{ConfigDiscovery: d}}}
	l.FilterChains = append(l.FilterChains, own)
	l.ListenerFilters = []*listenerv3.ListenerFilter{{Name: "lf", ConfigType: &listenerv3.ListenerFilter_ConfigDiscovery{ConfigDiscovery: &corev3.ExtensionConfigSource{
		ConfigSource: adsSource(), TypeUrls: []string{packed(&tiv3.TlsInspector{}).TypeUrl, packed(&hiv3.HttpInspector{}).TypeUrl}}}}}
	return l
}

func named2(name string, m proto.Message) *corev3.TypedExtensionConfig {
	return &corev3.TypedExtensionConfig{Name: name, TypedConfig: packed(m)}
}

func tcpTo(cluster string) *tcpv3.TcpProxy {
	return &tcpv3.TcpProxy{StatPrefix: "t", ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: cluster}}
}

func rdsManager(routes string) *hcmv3.HttpConnectionManager {
	h := &hcmv3.HttpConnectionManager{}
	if err := listenerOf("x", 1, routes, "").FilterChains[0].Filters[0].GetTypedConfig().UnmarshalTo(h); err != nil {
		panic(err)
	}
	return h
}

// places tells what serves new connections of a listener in the last snapshot: the network filter, then the listener filter.
func (r *rig) places(listener string) string {
	for _, l := range r.p.last.Listeners {
		if l.Name != listener {
			continue
		}
		out := "none"
		switch fc := l.Choose(&snapshot.ChainInput{}); {
		case fc.TCP != nil:
			out = "tcp " + fc.TCP.Cluster.Name
		case fc.HTTP != nil:
			out = "http " + fc.HTTP.Routes.Name
		}
		return out + ", " + [...]string{"dst", "proxy", "tls", "http", "src", "none"}[l.Filters[0].Kind]
	}
	return "no listener"
}

func (r *rig) expectPlaces(t *testing.T, what, want string) {
	t.Helper()
	if got := r.places("m"); got != want {
		t.Errorf("%s: %s, want %s", what, got, want)
	}
}

func TestPlaces_WhenConfigurationsComeAndGo_ThenOnlyTheirPlacesChange(t *testing.T) {
	r := ecdsRig(t)
	if e := r.push(resource.Listener, list(placesListener("m", 2, plainDiscovery))); e != "" {
		t.Fatal(e)
	}
	r.push(resource.ExtensionConfig, list(named2("nf", tcpTo("a"))))
	r.expectPlaces(t, "one of two is in", "no listener")
	r.push(resource.ExtensionConfig, list(named2("lf", &tiv3.TlsInspector{})))
	r.expectPlaces(t, "both", "tcp a, tls")
	was := r.c.listeners["m"].active
	own, other := was.model.Chains[1], r.c.listeners["l"].active.model
	r.push(resource.ExtensionConfig, list(named2("nf", tcpTo("b")), named2("lf", &hiv3.HttpInspector{})))
	r.expectPlaces(t, "both changed", "tcp b, http")
	if now := r.c.listeners["m"].active; now != was || now.model.Chains[1] != own || r.c.listeners["l"].active.model != other {
		t.Error("something else was made anew")
	}
	if n := len(r.p.prepared); n != 0 {
		t.Errorf("%d listeners are prepared and not published", n)
	}
	if e := r.push(resource.ExtensionConfig, list(named2("nf", &tcpv3.TcpProxy{StatPrefix: "x"}))); e == "" {
		t.Error("a proxy without a cluster is accepted")
	}
	r.expectPlaces(t, "after what was refused", "tcp b, http")
	r.push(resource.ExtensionConfig, nil, "nf", "lf")
	r.expectPlaces(t, "removed", "none, none")
	// The clusters that were named are not any more.
	if r.c.uses["a"] != nil || r.c.uses["b"] != nil {
		t.Error("clusters are still held")
	}
}

func TestPlaces_WhenAConnectionManagerWaitsForRoutes_ThenTheOldFilterServes(t *testing.T) {
	r := ecdsRig(t)
	r.push(resource.Listener, list(placesListener("m", 2, plainDiscovery)))
	r.push(resource.ExtensionConfig, list(named2("nf", tcpTo("a")), named2("lf", &tiv3.TlsInspector{})))
	r.push(resource.ExtensionConfig, list(named2("nf", rdsManager("q"))))
	r.expectPlaces(t, "routes are not in", "tcp a, tls")
	r.push(resource.ExtensionConfig, list(named2("nf", rdsManager("p"))))
	if r.c.routes["q"] != nil || r.c.routes["p"] == nil {
		t.Error("the routes of a version that was overtaken are still asked for")
	}
	r.push(resource.RouteConfiguration, list(routesTo("p", "c")))
	r.expectPlaces(t, "routes are in", "http p, tls")
	r.push(resource.ExtensionConfig, list(named2("nf", tcpTo("a"))))
	r.expectPlaces(t, "a proxy again", "tcp a, tls")
	if r.c.routes["p"] == nil {
		t.Error("connections have lost their routes")
	}
	r.c.tick() // the drain time is over
	r.c.settleEvent()
	if r.c.routes["p"] != nil || len(r.c.draining) != 0 {
		t.Error("routes that nobody needs are still asked for")
	}
	// A listener that goes takes everything along.
	r.push(resource.ExtensionConfig, list(named2("nf", rdsManager("p"))))
	r.push(resource.Listener, nil, "m")
	for _, d := range r.c.draining {
		d.since = d.since.Add(-2 * settle)
	}
	r.c.tick()
	r.c.settleEvent()
	names, _ := r.f.session.Subscriptions(resource.ExtensionConfig.URL())
	if len(r.c.extensions)+len(r.c.places)+len(names)+len(r.c.draining) != 0 || r.c.routes["p"] != nil {
		t.Errorf("%d configurations, %d places, %d draining, asked for %v", len(r.c.extensions), len(r.c.places), len(r.c.draining), names)
	}
}

func TestPlaces_WhenTheListenerIsReplaced_ThenTheFilterIsTakenOver(t *testing.T) {
	r := ecdsRig(t)
	r.push(resource.Listener, list(placesListener("m", 2, plainDiscovery)))
	r.push(resource.ExtensionConfig, list(named2("nf", tcpTo("a")), named2("lf", &tiv3.TlsInspector{})))
	l := placesListener("m", 2, plainDiscovery)
	l.FilterChains[1].Name = "changed"
	r.push(resource.Listener, list(l))
	r.expectPlaces(t, "another version", "tcp a, tls")
	if n := len(r.c.extensions); n != 2 {
		t.Errorf("%d configurations", n)
	}
	r.push(resource.ExtensionConfig, list(named2("nf", tcpTo("b"))))
	r.expectPlaces(t, "the next configuration", "tcp b, tls")
	// One that is refused leaves nothing behind.
	bad := placesListener("m", 2, func(d *corev3.ExtensionConfigSource) { d.TypeUrls = append(d.TypeUrls, "x/no.such") })
	if e := r.push(resource.Listener, list(bad)); !strings.Contains(e, "filter_chains[0].filters[0].config_discovery.type_urls[2]: Error: no factory found for a required type URL no.such.") {
		t.Errorf("NACK %q", e)
	}
	for k, st := range r.c.extensions {
		if len(st.places) != 1 {
			t.Errorf("%s has %d places", k.name, len(st.places))
		}
	}
}

func TestPlaces_WhenFiltersOfTwoKindsHaveOneName_ThenEachHasItsOwnAndTheNameIsKept(t *testing.T) {
	r := ecdsRig(t)
	l := placesListener("m", 2, plainDiscovery)
	l.ListenerFilters[0].Name = "nf"
	r.push(resource.Listener, list(l))
	if e := r.push(resource.ExtensionConfig, list(named2("nf", tcpTo("a")))); !strings.Contains(e, "but expect envoy.extensions.filters.listener.") {
		t.Errorf("NACK %q", e)
	}
	r.push(resource.Listener, list(placesListener("m", 2, plainDiscovery)))
	names, _ := r.f.session.Subscriptions(resource.ExtensionConfig.URL())
	if strings.Join(names, " ") != "lf nf" {
		t.Errorf("asked for %v", names)
	}
}
