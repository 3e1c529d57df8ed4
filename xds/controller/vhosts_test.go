// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"strings"
	"testing"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"sidecar/internal/telemetry/stats"
	"sidecar/xds/ads"
	"sidecar/xds/bootstrap"
	"sidecar/xds/resource"
)

func vhostOf(name, cluster string, domains ...string) *routev3.VirtualHost {
	v := routesTo("", cluster).VirtualHosts[0]
	v.Name, v.Domains = name, domains
	return v
}

// vhdsRoutesOf takes virtual hosts over the aggregated stream beside one of its own.
func vhdsRoutesOf(name, own string) *routev3.RouteConfiguration {
	return &routev3.RouteConfiguration{Name: name, VirtualHosts: []*routev3.VirtualHost{vhostOf("own", "c", own)}, Vhds: &routev3.Vhds{ConfigSource: adsSource()}}
}

// hosts lists the domains of the table in the last snapshot.
func (r *rig) hosts(routes string) string {
	s := r.c.routes[routes]
	if s == nil || r.p.last.Table(s.ref) == nil {
		return "none"
	}
	var out []string
	for _, v := range r.p.last.Table(s.ref).VHosts {
		out = append(out, v.Domains...)
	}
	return strings.Join(out, " ")
}

func vhdsRig(t *testing.T) *rig {
	r := newRigWith(t, ads.Delta, func(b *bootstrap.Config) { b.ADS = &bootstrap.API{Delta: true} })
	r.c.cfg.Compile.DrainTime = 0
	r.push(resource.Cluster, nil)
	r.push(resource.Listener, list(listenerOf("l", 1, "r", "")))
	return r
}

func TestVHDS_WhenOneOfSeveralIsBad_ThenItIsNamedAndTheOthersServe(t *testing.T) {
	r := vhdsRig(t)
	if e := r.push(resource.RouteConfiguration, list(vhdsRoutesOf("r", "own"))); e != "" || r.hosts("r") != "none" || r.c.state == Live {
		t.Fatalf("%q, serves %s before the virtual hosts are in", e, r.hosts("r"))
	}
	e := r.push(resource.VirtualHost, list(vhostOf("r/a", "c", "a"), vhostOf("r/bad", "c", "own"), vhostOf("r/z", "c", "z"), vhostOf("nowhere", "c", "n")))
	if !strings.Contains(e, `VHDS "r/bad": domains[0]: Only unique values`) || !strings.Contains(e, `VHDS "nowhere": the name must be`) || strings.Contains(e, "r/a") {
		t.Errorf("NACK %q", e)
	}
	if r.hosts("r") != "own a z" || r.c.state != Live {
		t.Fatal(r.hosts("r"))
	}
	// A new version that is bad leaves the old one; two that cannot be together leave what was there.
	e = r.push(resource.VirtualHost, list(vhostOf("r/a", "c", "z"), vhostOf("r/b", "c", "b")))
	if !strings.Contains(e, `"r/a"`) || strings.Contains(e, `"r/b"`) || r.hosts("r") != "own a z b" && r.hosts("r") != "own a b z" {
		t.Errorf("NACK %q, serves %s", e, r.hosts("r"))
	}
	if e = r.push(resource.VirtualHost, list(vhostOf("r/b", "c", "b2")), "r/z", "r/never"); e != "" || r.hosts("r") != "own a b2" {
		t.Errorf("NACK %q, serves %s", e, r.hosts("r"))
	}
	// The route configuration cannot take a domain that a virtual host has.
	if e = r.push(resource.RouteConfiguration, list(vhdsRoutesOf("r", "a"))); !strings.Contains(e, "Duplicate entry of domain a") || r.hosts("r") != "own a b2" {
		t.Errorf("NACK %q, serves %s", e, r.hosts("r"))
	}
	if len(r.c.rejected) == 0 || r.c.rejected["VHDS/r/bad"] == nil {
		t.Errorf("refused: %v", sortedKeys(r.c.rejected))
	}
	if r.push(resource.VirtualHost, nil, "r/bad"); r.c.rejected["VHDS/r/bad"] != nil {
		t.Error("a removed virtual host is still listed as refused")
	}
}

func TestVHDS_WhenNothingMoves_ThenNoTableIsPublished(t *testing.T) {
	r := vhdsRig(t)
	r.push(resource.RouteConfiguration, list(vhdsRoutesOf("r", "own")))
	r.push(resource.VirtualHost, list(vhostOf("r/a", "c", "a")))
	was := r.p.last.Table(r.c.routes["r"].ref)
	r.push(resource.VirtualHost, list(vhostOf("r/a", "c", "a")))
	r.push(resource.VirtualHost, list(vhostOf("q/a", "c", "a")), "r/unknown")
	r.push(resource.VirtualHost, list(vhostOf("r/b", "c", "own")))
	if r.p.last.Table(r.c.routes["r"].ref) != was {
		t.Error("another table")
	}
	u := r.c.routes["r"].vhds
	if n, _ := u.scope.Value(stats.VHDSConfigReload); n != 1 {
		t.Errorf("%d reloads", n)
	}
}

func TestVHDS_WhenHostsCameBeforeTheirRoutes_ThenTheyServeAtOnceAndBadOnesAreLeftOut(t *testing.T) {
	r := vhdsRig(t)
	r.push(resource.RouteConfiguration, list(vhdsRoutesOf("r", "own")))
	if e := r.push(resource.VirtualHost, list(vhostOf("r/a", "c", "a"), vhostOf("q/a", "c", "a"), vhostOf("q/b", "c", "own"))); e != "" {
		t.Fatal(e)
	}
	r.push(resource.Listener, list(listenerOf("m", 2, "q", "")))
	if e := r.push(resource.RouteConfiguration, list(vhdsRoutesOf("q", "own"))); e != "" || r.hosts("q") != "own a" {
		t.Errorf("NACK %q, serves %s", e, r.hosts("q"))
	}
	if r.c.rejected["VHDS/q/b"] == nil {
		t.Error("the virtual host that is left out is not listed as refused")
	}
}

func TestVHDS_WhenRoutesGoOrLoseVhds_ThenTheUseEnds(t *testing.T) {
	r := vhdsRig(t)
	r.push(resource.RouteConfiguration, list(vhdsRoutesOf("r", "own")))
	r.push(resource.VirtualHost, list(vhostOf("r/a", "c", "a")))
	uses := func() (n int) {
		for _, s := range r.c.vhostSources {
			n += len(s.uses)
		}
		return n
	}
	held := func() string { return fmt.Sprint(uses(), " ", r.c.uses["c"] != nil, " ", r.hosts("r")) }
	r.push(resource.RouteConfiguration, list(routesTo("r", "c")))
	if got := held(); got != "0 true *" {
		t.Errorf("without vhds: %s", got)
	}
	r.push(resource.RouteConfiguration, list(vhdsRoutesOf("r", "own")))
	if got := held(); got != "1 true own a" {
		t.Errorf("with vhds again: %s", got)
	}
	r.push(resource.Listener, nil, "l")
	r.c.draining[0].since = r.c.draining[0].since.Add(-2 * settle)
	r.c.tick()
	r.c.settleEvent()
	if got := held(); got != "0 false none" {
		t.Errorf("without the listener: %s", got)
	}
}
