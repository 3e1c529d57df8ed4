// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	grpcstatsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_stats/v3"
	grpcwebv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_web/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"sidecar/dataplane/filter"
	"sidecar/dataplane/filters/http/grpcstats"
	"sidecar/dataplane/filters/http/grpcweb"
	"sidecar/internal/telemetry/stats"
	"sidecar/xds/ads"
	"sidecar/xds/resource"
)

func packed(m proto.Message) *anypb.Any {
	a, err := anypb.New(m)
	if err != nil {
		panic(err)
	}
	return a
}

// discoveredListener has filters whose configuration "ext" comes over ECDS; fn completes config_discovery.
func discoveredListener(t *testing.T, name string, port int, fn func(*corev3.ExtensionConfigSource)) *listenerv3.Listener {
	t.Helper()
	l := listenerOf(name, port, "r", "")
	h := &hcmv3.HttpConnectionManager{}
	if err := l.FilterChains[0].Filters[0].GetTypedConfig().UnmarshalTo(h); err != nil {
		t.Fatal(err)
	}
	d := &corev3.ExtensionConfigSource{ConfigSource: adsSource(), TypeUrls: []string{packed(&grpcwebv3.GrpcWeb{}).TypeUrl, packed(&grpcstatsv3.FilterConfig{}).TypeUrl}}
	fn(d)
	h.HttpFilters = append([]*hcmv3.HttpFilter{{Name: "ext", ConfigType: &hcmv3.HttpFilter_ConfigDiscovery{ConfigDiscovery: d}}}, h.HttpFilters...)
	l.FilterChains[0].Filters[0].ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: packed(h)}
	return l
}

func extensionOf(m proto.Message) *corev3.TypedExtensionConfig {
	return &corev3.TypedExtensionConfig{Name: "ext", TypedConfig: packed(m)}
}

// inForce names the filter that requests of the listener's active version meet.
func (r *rig) inForce(listener string) string {
	s := r.c.listeners[listener]
	if s == nil || s.active == nil {
		return "no listener"
	}
	list := s.active.model.Chains[0].HTTP.Filters
	if len(list) == 0 {
		return "no filter"
	}
	switch list[0].Config.(*filter.Dynamic).Current().(type) {
	case *grpcweb.Factory:
		return "web"
	case *grpcstats.Factory:
		return "stats"
	}
	return "none"
}

func ecdsRig(t *testing.T) *rig {
	r := newRig(t, ads.Delta)
	r.c.cfg.Compile.DrainTime = 0
	r.push(resource.Cluster, nil)
	r.push(resource.Listener, list(listenerOf("l", 1, "r", "")))
	r.push(resource.RouteConfiguration, list(routesTo("r", "c")))
	return r
}

func plainDiscovery(*corev3.ExtensionConfigSource) {}

func withDefault(d *corev3.ExtensionConfigSource) { d.DefaultConfig = packed(&grpcwebv3.GrpcWeb{}) }

func TestECDS_WhenAnOlderVersionServes_ThenTheListenerWaitsForAGoodConfiguration(t *testing.T) {
	r := ecdsRig(t)
	if e := r.push(resource.Listener, list(discoveredListener(t, "l", 1, plainDiscovery))); e != "" || r.inForce("l") != "no filter" {
		t.Fatalf("%q, %s", e, r.inForce("l"))
	}
	if e := r.push(resource.ExtensionConfig, list(extensionOf(&routerv3.Router{}))); !strings.Contains(e, `ECDS "ext": typed_config: Error: filter config has type URL`) || r.inForce("l") != "no filter" {
		t.Errorf("NACK %q, %s", e, r.inForce("l"))
	}
	r.push(resource.ExtensionConfig, list(extensionOf(&grpcwebv3.GrpcWeb{})))
	if r.inForce("l") != "web" {
		t.Error(r.inForce("l"))
	}
	epoch := r.p.last.Epoch
	r.push(resource.ExtensionConfig, list(extensionOf(&grpcstatsv3.FilterConfig{})))
	if r.inForce("l") != "stats" || r.p.last.Epoch != epoch {
		t.Errorf("%s, epoch %d after %d: a configuration needs no snapshot", r.inForce("l"), r.p.last.Epoch, epoch)
	}
	if r.push(resource.ExtensionConfig, nil, "ext"); r.inForce("l") != "none" {
		t.Errorf("%s after its removal", r.inForce("l"))
	}
}

func TestECDS_WhenListenersConfigureAFilterAlike_ThenTheyShareItAndTheLastOneEndsIt(t *testing.T) {
	r := ecdsRig(t)
	r.push(resource.Listener, list(discoveredListener(t, "l", 1, withDefault), discoveredListener(t, "m", 2, withDefault), discoveredListener(t, "n", 3, plainDiscovery)))
	r.push(resource.ExtensionConfig, list(extensionOf(&grpcstatsv3.FilterConfig{})))
	if r.inForce("l")+r.inForce("m")+r.inForce("n") != "statsstatsstats" || len(r.c.filters) != 2 || len(r.c.extensions) != 1 {
		t.Fatalf("%s %s %s, %d filters, %d configurations", r.inForce("l"), r.inForce("m"), r.inForce("n"), len(r.c.filters), len(r.c.extensions))
	}
	slot := r.c.listeners["l"].active.model.Chains[0].HTTP.Filters[0].Config
	next := discoveredListener(t, "l", 1, withDefault)
	next.DrainType = listenerv3.Listener_MODIFY_ONLY
	if r.push(resource.Listener, list(next)); r.c.listeners["l"].active.model.Chains[0].HTTP.Filters[0].Config != slot {
		t.Error("connections of the older version would not follow")
	}
	r.push(resource.ExtensionConfig, nil, "ext")
	if got := r.inForce("l") + r.inForce("m") + r.inForce("n"); got != "webwebnone" {
		t.Errorf("%s after the removal", got)
	}
	r.push(resource.Listener, nil, "l", "m", "n")
	for _, d := range r.c.draining {
		d.since = d.since.Add(-2 * settle)
	}
	r.c.tick()
	r.c.settleEvent()
	if names, _ := r.f.session.Subscriptions(resource.ExtensionConfig.URL()); len(r.c.filters)+len(r.c.extensions)+len(names) != 0 {
		t.Errorf("%d filters, %d configurations, asked for %v", len(r.c.filters), len(r.c.extensions), names)
	}
}

func TestECDS_WhenALaterFilterWantsAnotherType_ThenItHasItsDefaultAndTheConflictIsCounted(t *testing.T) {
	r := ecdsRig(t)
	r.push(resource.Listener, list(discoveredListener(t, "l", 1, plainDiscovery)))
	r.push(resource.ExtensionConfig, list(extensionOf(&grpcstatsv3.FilterConfig{})))
	onlyWeb := func(d *corev3.ExtensionConfigSource) {
		withDefault(d)
		d.TypeUrls = d.TypeUrls[:1]
	}
	r.push(resource.Listener, list(discoveredListener(t, "m", 2, onlyWeb)))
	if r.inForce("l") != "stats" || r.inForce("m") != "web" {
		t.Errorf("%s, %s", r.inForce("l"), r.inForce("m"))
	}
	for _, st := range r.c.extensions {
		if n, _ := st.scope.Value(stats.ECDSConfigConflict); n != 1 {
			t.Errorf("%d conflicts", n)
		}
	}
	// Both must be able to use what comes next.
	if e := r.push(resource.ExtensionConfig, list(extensionOf(&grpcstatsv3.FilterConfig{EnableUpstreamStats: true}))); !strings.Contains(e, "but expect") {
		t.Errorf("NACK %q", e)
	}
}

func TestECDS_WhenNothingComes_ThenTheTimeoutEndsTheWait(t *testing.T) {
	r := ecdsRig(t)
	r.push(resource.Listener, list(discoveredListener(t, "l", 1, func(d *corev3.ExtensionConfigSource) {
		withDefault(d)
		d.ConfigSource.InitialFetchTimeout.Nanos = int32(time.Millisecond)
	})))
	if r.inForce("l") != "no filter" {
		t.Fatal(r.inForce("l"))
	}
	(<-r.c.events)()
	r.c.settleEvent()
	if r.inForce("l") != "web" {
		t.Error(r.inForce("l"))
	}
}

func TestECDS_WhenConfigDiscoveryIsWrong_ThenThePathIsTold(t *testing.T) {
	r := ecdsRig(t)
	const at = "filter_chains[0].filters[0].typed_config.http_filters[0].config_discovery."
	for want, fn := range map[string]func(*corev3.ExtensionConfigSource){
		"apply_default_config_without_warming: Error: filter config ext applied without warming": func(d *corev3.ExtensionConfigSource) { d.ApplyDefaultConfigWithoutWarming = true },
		"type_urls[2]: Error: no factory found for a required type URL no.such.":                 func(d *corev3.ExtensionConfigSource) { d.TypeUrls = append(d.TypeUrls, "x/no.such") },
		"type_urls: Error: terminal filter named ext of type envoy.filters.http.router must be the last": func(d *corev3.ExtensionConfigSource) {
			d.TypeUrls = []string{packed(&routerv3.Router{}).TypeUrl}
		},
		"default_config: Error: filter config has type URL envoy.extensions.filters.http.grpc_stats.v3.FilterConfig but expect envoy.extensions.filters.http.grpc_web.v3.GrpcWeb.": func(d *corev3.ExtensionConfigSource) {
			d.TypeUrls, d.DefaultConfig = d.TypeUrls[:1], packed(&grpcstatsv3.FilterConfig{})
		},
		"default_config: Error: terminal filter named ext of type envoy.filters.http.router must be the last": func(d *corev3.ExtensionConfigSource) {
			d.TypeUrls, d.DefaultConfig = append(d.TypeUrls, packed(&routerv3.Router{}).TypeUrl), packed(&routerv3.Router{})
		},
	} {
		if e := r.push(resource.Listener, list(discoveredListener(t, "m", 2, fn))); !strings.Contains(e, at+want) {
			t.Errorf("NACK %q, want %q", e, at+want)
		}
	}
	if len(r.c.filters)+len(r.c.extensions) != 0 {
		t.Error("a refused listener left something behind")
	}
}
