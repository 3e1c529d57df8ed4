// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"sidecar/internal/testctl"
)

const vhdsURL = "type.googleapis.com/envoy.config.route.v3.VirtualHost"

// vhost sends the requests of domains to a cluster.
func vhost(name, cluster string, domains ...string) *routev3.VirtualHost {
	v := routes("", cluster).VirtualHosts[0]
	v.Name, v.Domains = name, domains
	return v
}

// vhdsRoutes takes virtual hosts from src beside one of its own.
func vhdsRoutes(name string, src *corev3.ConfigSource, own string) *routev3.RouteConfiguration {
	return &routev3.RouteConfiguration{Name: name, VirtualHosts: []*routev3.VirtualHost{vhost("own", "a", own)}, Vhds: &routev3.Vhds{ConfigSource: src}}
}

// status asks for hosts of a listener and compares the statuses: "b.test 200".
func statuses(t *testing.T, port int, want ...string) {
	t.Helper()
	for _, w := range want {
		host, code, _ := strings.Cut(w, " ")
		c := newClient(t, port)
		c.host = host
		c.answers(t, map[string]int{"200": 200, "404": 404}[code], "")
	}
}

// vhdsWorld is a proxy with listener l and routes r, whose virtual hosts come over the aggregated stream or one of their own (v).
func vhdsWorld(t *testing.T, own bool, fetch time.Duration) (x *proxy, p, v *peer, lp int) {
	s := newScript(t)
	a := newBackend(t, "A")
	lp = port(t)
	x = start(t, options{ctl: s.Addr(), delta: true, noReady: true})
	p = s.accept()
	p.asked(cdsURL)
	p.acked(p.push(cdsURL, "1", of(staticCluster("a", a.port))))
	p.asked(ldsURL)
	p.acked(p.push(ldsURL, "1", of(rdsListener("l", lp, "r", 0))))
	p.asked(rdsURL, "r")
	src := adsSource(fetch)
	if own {
		src = grpcSource(true)
		src.InitialFetchTimeout = durationpb.New(fetch)
	}
	p.acked(p.push(rdsURL, "1", of(vhdsRoutes("r", src, "own.test"))))
	if v = p; own {
		v = s.accept()
	}
	v.asked(vhdsURL)
	return x, p, v, lp
}

func TestVHDS_WhenHostsComeAndGo_ThenRequestsFollow(t *testing.T) {
	for _, own := range []bool{false, true} {
		name := "aggregated"
		if own {
			name = "own stream"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x, p, v, lp := vhdsWorld(t, own, 0)
			time.Sleep(100 * time.Millisecond)
			if code, _ := x.get("/ready"); code == 200 {
				t.Fatal("ready before the virtual hosts are in")
			}
			v.acked(v.push(vhdsURL, "1", of(vhost("r/b.test", "a", "b.test"), vhost("r/c.test", "a", "c.test"), vhost("other/x", "a", "x.test"))))
			x.live()
			statuses(t, lp, "own.test 200", "b.test 200", "c.test 200", "x.test 404")
			// A host that takes another one's domain, and one that is malformed, change nothing.
			v.nacked(v.push(vhdsURL, "2", of(vhost("r/d", "a", "own.test"))), "Only unique values for domains are permitted. Duplicate entry of domain own.test in route r")
			v.nacked(v.push(vhdsURL, "3", of(&routev3.VirtualHost{Name: "r/none"})), "value must contain at least 1 item(s)")
			v.acked(v.push(vhdsURL, "4", of(vhost("r/c.test", "a", "c2.test")), "r/b.test"))
			statuses(t, lp, "c2.test 200", "own.test 200", "b.test 404", "c.test 404")
			// The route configuration changes under its virtual hosts.
			src := adsSource(0)
			if own {
				src = grpcSource(true)
			}
			p.acked(p.push(rdsURL, "2", of(vhdsRoutes("r", src, "own2.test"))))
			statuses(t, lp, "own2.test 200", "c2.test 200", "own.test 404")
			x.wants(map[string]int64{"http.l.rds.r.config_reload": 3, "http.l.rds.r.update_success": 2, "http.l.rds.vhds.r.config_reload": 2,
				"http.l.rds.vhds.r.update_success": 2, "http.l.rds.vhds.r.update_rejected": 2, "http.l.rds.vhds.r.update_attempt": 6,
				"http.l.rds.vhds.r.update_empty": 0, "http.l.rds.vhds.r.init_fetch_timeout": 0})
			if _, dump := x.get("/config_dump?resource=dynamic_route_configs"); !strings.Contains(dump, `"r/c.test"`) || !strings.Contains(dump, "own2.test") {
				t.Errorf("dump %s", dump)
			}
			// Without vhds the hosts are its own again.
			p.acked(p.push(rdsURL, "3", of(routes("r", "a"))))
			statuses(t, lp, "any.test 200")
			eventually(t, "statistics of VHDS are gone", func() bool { _, ok := x.stats()["http.l.rds.vhds.r.update_success"]; return !ok })
			if own && !oracle { // Envoy keeps it
				<-v.conv.Gone()
			}
		})
	}
}

func TestVHDS_WhenNoHostsCome_ThenTheFetchTimeoutEndsTheWait(t *testing.T) {
	x, _, v, lp := vhdsWorld(t, true, 300*time.Millisecond)
	x.live()
	statuses(t, lp, "own.test 200", "b.test 404")
	x.wants(map[string]int64{"http.l.rds.vhds.r.init_fetch_timeout": 1})
	v.acked(v.push(vhdsURL, "1", of(vhost("r/b.test", "a", "b.test"))))
	statuses(t, lp, "b.test 200")
}

func TestVHDS_WhenTheStreamIsLost_ThenHostsStayAndAreNamedToTheNextOne(t *testing.T) {
	s := newScript(t)
	a := newBackend(t, "A")
	lp := port(t)
	start(t, options{ctl: s.Addr(), delta: true, noReady: true})
	p := s.accept()
	p.asked(cdsURL)
	p.acked(p.push(cdsURL, "1", of(staticCluster("a", a.port))))
	p.acked(p.push(ldsURL, "1", of(rdsListener("l", lp, "r", 0))))
	p.asked(rdsURL, "r")
	p.acked(p.push(rdsURL, "1", of(vhdsRoutes("r", grpcSource(true), "own.test"))))
	v := s.accept()
	v.acked(v.push(vhdsURL, "1", of(vhost("r/b.test", "a", "b.test"))))
	statuses(t, lp, "b.test 200")
	v.conv.End(nil)
	v = s.accept()
	r := v.await("virtual hosts again", func(r testctl.Request) bool { return r.TypeURL == vhdsURL })
	if r.Initial["r/b.test"] != "1" {
		t.Errorf("initial versions %v", r.Initial)
	}
	statuses(t, lp, "b.test 200")
	v.acked(v.push(vhdsURL, "2", nil, "r/b.test"))
	statuses(t, lp, "b.test 404", "own.test 200")
}

func TestVHDS_WhenTheSourceIsNotDelta_ThenTheRoutesAreRefused(t *testing.T) {
	w := live(t, false)
	for want, src := range map[string]*corev3.ConfigSource{
		"vhds: ADS must use DELTA_GRPC api_type when used as VHDS config source.":                  adsSource(0),
		"vhds: only 'DELTA_GRPC' or 'ADS' (which uses Delta xDS) is supported as a config source.": grpcSource(false),
	} {
		w.p.nacked(w.p.push(rdsURL, "2", of(vhdsRoutes("r", src, "own.test"))), want)
	}
	w.c.answers(t, 200, "A")
}

func TestVHDS_WhenItHasAStreamOfItsOwn_ThenItsControlPlaneIsShown(t *testing.T) {
	t.Parallel()
	s, a := newScript(t), newBackend(t, "A")
	x := start(t, options{ctl: s.Addr(), delta: true, noReady: true})
	p := s.accept()
	p.asked(cdsURL)
	p.acked(p.push(cdsURL, "1", of(staticCluster("a", a.port))))
	p.asked(ldsURL)
	p.acked(p.push(ldsURL, "1", of(rdsListener("l", port(t), "r", 0))))
	p.asked(rdsURL, "r")
	p.push(rdsURL, "1", of(vhdsRoutes("r", grpcSource(true), "own.test")))
	const pre = "http.l.rds.vhds.r."
	for i := range 2 {
		v := s.accept()
		v.asked(vhdsURL)
		v.acked(v.push(vhdsURL, fmt.Sprint(i+1), of(vhost("r/b.test", "a", "b.test", fmt.Sprintf("c%d.test", i)))))
		x.live()
		x.wants(map[string]int64{pre + "control_plane.connected_state": 1, pre + "control_plane.pending_requests": 0,
			pre + "control_plane.rate_limit_enforced": 0, pre + "update_attempt": int64(2 + 2*i), pre + "update_failure": int64(i),
			pre + "update_success": int64(1 + i), pre + "config_reload": int64(1 + i)})
		v.conv.End(nil)
	}
}
