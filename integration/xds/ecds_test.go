// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
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
)

const ecdsURL = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"

func extension(name string, m proto.Message) *corev3.TypedExtensionConfig {
	return &corev3.TypedExtensionConfig{Name: name, TypedConfig: packed(m)}
}

// discovery is a config_discovery for grpc_web and grpc_stats.
func discovery(fetch time.Duration, change ...func(*corev3.ExtensionConfigSource)) *corev3.ExtensionConfigSource {
	d := &corev3.ExtensionConfigSource{ConfigSource: adsSource(fetch),
		TypeUrls: []string{packed(&grpcwebv3.GrpcWeb{}).TypeUrl, packed(&grpcstatsv3.FilterConfig{}).TypeUrl}}
	for _, fn := range change {
		fn(d)
	}
	return d
}

// discoveredListener has the filter "ext" in front of the router.
func discoveredListener(name string, port int, d *corev3.ExtensionConfigSource) *listenerv3.Listener {
	return editHCM(inlineListener(name, port, "a"), func(h *hcmv3.HttpConnectionManager) {
		h.HttpFilters = append([]*hcmv3.HttpFilter{{Name: "ext", ConfigType: &hcmv3.HttpFilter_ConfigDiscovery{ConfigDiscovery: d}}}, h.HttpFilters...)
	})
}

// editHCM changes the connection manager of a listener.
func editHCM(l *listenerv3.Listener, change func(*hcmv3.HttpConnectionManager)) *listenerv3.Listener {
	h := &hcmv3.HttpConnectionManager{}
	if err := l.FilterChains[0].Filters[0].GetTypedConfig().UnmarshalTo(h); err != nil {
		panic(err)
	}
	change(h)
	l.FilterChains[0].Filters[0].ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: packed(h)}
	return l
}

// ecdsWorld is a proxy whose backend tells which content type it sees: grpc_web changes it.
type ecdsWorld struct {
	t    *testing.T
	x    *proxy
	p    *peer
	port int
	c    *client
	seen atomic.Value
}

func newECDSWorld(t *testing.T, delta bool) *ecdsWorld {
	w := &ecdsWorld{t: t, port: port(t)}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { w.seen.Store(r.Header.Get("content-type")) })}
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() { _ = srv.Close() })
	s := newScript(t)
	w.x = start(t, options{ctl: s.Addr(), delta: delta, noReady: true})
	w.p = s.accept()
	w.p.asked(cdsURL)
	w.p.acked(w.p.push(cdsURL, "1", of(staticCluster("a", ln.Addr().(*net.TCPAddr).Port))))
	w.p.asked(ldsURL)
	w.c = newClient(t, w.port)
	return w
}

// call posts gRPC-Web and returns what became of it: "web" with the filter grpc_web, "plain" without, else the status.
func (w *ecdsWorld) call() string {
	r, err := w.c.http.Post(w.c.base+"/s/m", "application/grpc-web+proto", strings.NewReader("\x00\x00\x00\x00\x00"))
	if err != nil {
		return err.Error()
	}
	_ = r.Body.Close()
	switch seen, _ := w.seen.Load().(string); {
	case r.StatusCode != 200:
		return fmt.Sprint(r.StatusCode)
	case strings.HasPrefix(seen, "application/grpc-web"):
		return "plain"
	case strings.HasPrefix(seen, "application/grpc"):
		return "web"
	default:
		return seen
	}
}

func (w *ecdsWorld) calls(want string) {
	w.t.Helper()
	eventually(w.t, "calls are "+want, func() bool { return w.call() == want })
}

func TestECDS_WhenConfigurationsComeAndGo_ThenRequestsFollowOnTheirConnection(t *testing.T) {
	variants(t, func(t *testing.T, delta bool) {
		w := newECDSWorld(t, delta)
		w.p.acked(w.p.push(ldsURL, "1", of(discoveredListener("l", w.port, discovery(0)))))
		w.p.asked(ecdsURL, "ext")
		time.Sleep(100 * time.Millisecond)
		if code, _ := w.x.get("/ready"); code == 200 {
			t.Fatal("ready before the filter has a configuration")
		}
		w.p.acked(w.p.push(ecdsURL, "1", of(extension("ext", &grpcwebv3.GrpcWeb{}), extension("other", &grpcwebv3.GrpcWeb{}))))
		w.x.live()
		w.calls("web")
		before := *w.c.last.Load()
		w.p.acked(w.p.push(ecdsURL, "2", of(extension("ext", &grpcstatsv3.FilterConfig{}))))
		w.calls("plain")
		w.p.nacked(w.p.push(ecdsURL, "3", of(extension("ext", hcm("x")))), "Error: filter config has type URL envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager but expect envoy.extensions.filters.http.grpc_")
		w.p.nacked(w.p.push(ecdsURL, "4", of(&corev3.TypedExtensionConfig{Name: "ext", TypedConfig: &anypb.Any{TypeUrl: packed(&grpcwebv3.GrpcWeb{}).TypeUrl, Value: []byte{0xff}}})),
			"envoy.extensions.filters.http.grpc_web.v3.GrpcWeb")
		w.p.nacked(w.p.push(ecdsURL, "5", of(&corev3.TypedExtensionConfig{Name: "ext"})), "value is required")
		w.p.acked(w.p.push(ecdsURL, "6", of(extension("ext", &grpcstatsv3.FilterConfig{})))) // as before
		if got := w.call(); got != "plain" {
			t.Errorf("calls are %s after what was refused", got)
		}
		attempts := int64(1 + 3 + 3)
		if delta {
			attempts += 2
		}
		want := map[string]int64{"config_reload": 2, "config_fail": 3, "config_conflict": 0, "update_success": 3, "update_rejected": 3, "update_attempt": attempts,
			"init_fetch_timeout": 0}
		stats := map[string]int64{}
		for k, n := range want {
			stats["extension_config_discovery.http_filter.ext."+k] = n
		}
		w.x.wants(stats)
		if _, dump := w.x.get("/config_dump?resource=ecds_filters"); !strings.Contains(dump, `"version_info": "2"`) || !strings.Contains(dump, "grpc_stats") {
			t.Errorf("dump %s", dump)
		}
		if *w.c.last.Load() != before {
			t.Error("the connection was closed")
		}
		w.p.acked(w.p.push(ecdsURL, "7", nil, "ext"))
		if !delta { // absence says nothing
			w.p.acked(w.p.push(ecdsURL, "8", of(extension("ext", &grpcwebv3.GrpcWeb{}))))
			w.calls("web")
		} else {
			w.calls("500")
			w.p.acked(w.p.push(ecdsURL, "8", of(extension("ext", &grpcwebv3.GrpcWeb{}))))
			w.calls("web")
		}
		// The last listener that has the filter takes the subscription along.
		w.p.acked(w.p.push(ldsURL, "2", nil, "l"))
		w.c.http.CloseIdleConnections()
		if oracle {
			return // Envoy keeps a listener that is gone for all of its drain time
		}
		eventually(t, "the statistics are gone", func() bool {
			_, ok := w.x.stats()["extension_config_discovery.http_filter.ext.config_reload"]
			return !ok
		})
	})
}

func TestECDS_WhenThereIsADefault_ThenItServesUntilAConfigurationComes(t *testing.T) {
	w := newECDSWorld(t, true)
	def := func(d *corev3.ExtensionConfigSource) { d.DefaultConfig = packed(&grpcwebv3.GrpcWeb{}) }
	w.p.acked(w.p.push(ldsURL, "1", of(discoveredListener("l", w.port, discovery(300*time.Millisecond, def)))))
	w.x.live()
	w.calls("web")
	w.x.wants(map[string]int64{"extension_config_discovery.http_filter.ext.init_fetch_timeout": 1, "extension_config_discovery.http_filter.ext.config_fail": 1})
	w.p.acked(w.p.push(ecdsURL, "1", of(extension("ext", &grpcstatsv3.FilterConfig{}))))
	w.calls("plain")
	w.p.acked(w.p.push(ecdsURL, "2", nil, "ext"))
	w.calls("web")
	// Another listener does not wait at all.
	lp := port(t)
	l := discoveredListener("m", lp, discovery(0, def, func(d *corev3.ExtensionConfigSource) { d.ApplyDefaultConfigWithoutWarming = true }))
	w.p.acked(w.p.push(ldsURL, "2", of(l)))
	newClient(t, lp).answers(t, 200, "")
}

func TestECDS_WhenTheFirstConfigurationIsBad_ThenANewListenerAnswers500(t *testing.T) {
	w := newECDSWorld(t, true)
	w.p.acked(w.p.push(ldsURL, "1", of(discoveredListener("l", w.port, discovery(0)))))
	w.p.asked(ecdsURL, "ext")
	w.p.nacked(w.p.push(ecdsURL, "1", of(extension("ext", hcm("x")))), "but expect")
	w.x.live()
	w.calls("500")
	w.p.acked(w.p.push(ecdsURL, "2", of(extension("ext", &grpcwebv3.GrpcWeb{}))))
	w.calls("web")
}

func TestECDS_WhenConfigDiscoveryIsWrong_ThenTheListenerIsRefused(t *testing.T) {
	w := newECDSWorld(t, false)
	for _, tc := range []struct {
		want string
		fn   func(*corev3.ExtensionConfigSource)
	}{
		{"Error: filter config ext applied without warming but has no default config.", func(d *corev3.ExtensionConfigSource) { d.ApplyDefaultConfigWithoutWarming = true }},
		{"Error: no factory found for a required type URL no.such.", func(d *corev3.ExtensionConfigSource) { d.TypeUrls = []string{"type.googleapis.com/no.such"} }},
		{"envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", func(d *corev3.ExtensionConfigSource) { d.DefaultConfig = packed(hcm("x")) }},
		{"value must contain at least 1 item(s)", func(d *corev3.ExtensionConfigSource) { d.TypeUrls = nil }},
	} {
		w.p.nacked(w.p.push(ldsURL, "1", of(discoveredListener("l", w.port, discovery(0, tc.fn)))), tc.want)
	}
}

// routerListener takes its router, "ext", from d.
func routerListener(name string, port int, d *corev3.ExtensionConfigSource) *listenerv3.Listener {
	return editHCM(inlineListener(name, port, "a"), func(h *hcmv3.HttpConnectionManager) {
		h.HttpFilters = []*hcmv3.HttpFilter{{Name: "ext", ConfigType: &hcmv3.HttpFilter_ConfigDiscovery{ConfigDiscovery: d}}}
	})
}

// TestECDS_WhenTheRouterIsDiscovered_ThenRequestsFollowIt: what shows which router is in force is x-envoy-upstream-service-time.
func TestECDS_WhenTheRouterIsDiscovered_ThenRequestsFollowIt(t *testing.T) {
	variants(t, func(t *testing.T, delta bool) {
		w := newECDSWorld(t, delta)
		serves := func(want string) {
			t.Helper()
			eventually(t, "requests are "+want, func() bool { return w.routed() == want })
		}
		routers := func(d *corev3.ExtensionConfigSource) {
			d.TypeUrls = []string{packed(&grpcwebv3.GrpcWeb{}).TypeUrl, packed(&routerv3.Router{}).TypeUrl}
		}
		w.p.acked(w.p.push(ldsURL, "1", of(routerListener("l", w.port, discovery(0, routers)))))
		w.p.asked(ecdsURL, "ext")
		w.p.acked(w.p.push(ecdsURL, "1", of(extension("ext", &routerv3.Router{}))))
		w.x.live()
		serves("timed")
		before := *w.c.last.Load()
		w.p.acked(w.p.push(ecdsURL, "2", of(extension("ext", &routerv3.Router{SuppressEnvoyHeaders: true}))))
		serves("bare")
		w.p.nacked(w.p.push(ecdsURL, "3", of(extension("ext", &grpcwebv3.GrpcWeb{}))),
			"Error: non-terminal filter named ext of type envoy.filters.http.grpc_web is the last filter in a http filter chain.")
		if got := w.routed(); got != "bare" {
			t.Errorf("requests are %s after what was refused", got)
		}
		if delta {
			w.p.acked(w.p.push(ecdsURL, "4", nil, "ext"))
			serves("500")
			w.p.acked(w.p.push(ecdsURL, "5", of(extension("ext", &routerv3.Router{}))))
			serves("timed")
		}
		if *w.c.last.Load() != before {
			t.Error("the connection was closed")
		}
		reloads := int64(2)
		if delta {
			reloads = 4
		}
		w.x.wants(map[string]int64{"extension_config_discovery.http_filter.ext.config_reload": reloads, "extension_config_discovery.http_filter.ext.config_fail": 1,
			"extension_config_discovery.http_filter.ext.update_success": reloads, "extension_config_discovery.http_filter.ext.update_rejected": 1})
		// In the middle of a chain it is refused.
		w.p.acked(w.p.push(ldsURL, "2", of(discoveredListener("l", w.port, discovery(0, routers)))))
		w.p.nacked(w.p.push(ecdsURL, "6", of(extension("ext", &routerv3.Router{SuppressGrpcRequestFailureCodeStats: true}))),
			"Error: terminal filter named ext of type envoy.filters.http.router must be the last filter in a http filter chain.")
	})
}

func TestECDS_WhenADiscoveredRouterHasADefault_ThenItServesUntilAConfigurationComes(t *testing.T) {
	w := newECDSWorld(t, true)
	def := func(d *corev3.ExtensionConfigSource) {
		d.TypeUrls, d.DefaultConfig = []string{packed(&routerv3.Router{}).TypeUrl}, packed(&routerv3.Router{})
	}
	w.p.acked(w.p.push(ldsURL, "1", of(routerListener("l", w.port, discovery(300*time.Millisecond, def)))))
	w.x.live()
	eventually(t, "the default serves", func() bool { return w.routed() == "timed" })
	w.p.acked(w.p.push(ecdsURL, "1", of(extension("ext", &routerv3.Router{SuppressEnvoyHeaders: true}))))
	eventually(t, "the configuration serves", func() bool { return w.routed() == "bare" })
	w.p.acked(w.p.push(ecdsURL, "2", nil, "ext"))
	eventually(t, "the default serves again", func() bool { return w.routed() == "timed" })
	web := func(d *corev3.ExtensionConfigSource) {
		def(d)
		d.TypeUrls = append(d.TypeUrls, packed(&grpcwebv3.GrpcWeb{}).TypeUrl)
		d.DefaultConfig = packed(&grpcwebv3.GrpcWeb{})
	}
	w.p.nacked(w.p.push(ldsURL, "2", of(routerListener("m", port(t), discovery(0, web)))),
		"Error: non-terminal filter named ext of type envoy.filters.http.grpc_web is the last filter in a http filter chain.")
}

// routed is "timed" or "bare", with or without the router's field, for an answer of the backend, else the status.
func (w *ecdsWorld) routed() string {
	r, err := w.c.http.Get(w.c.base + "/")
	if err != nil {
		return err.Error()
	}
	_ = r.Body.Close()
	switch {
	case r.StatusCode != 200:
		return fmt.Sprint(r.StatusCode)
	case r.Header.Get("x-envoy-upstream-service-time") == "":
		return "bare"
	default:
		return "timed"
	}
}
