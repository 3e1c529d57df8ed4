// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"sidecar/dataplane/filter"
	"sidecar/dataplane/match"
	"sidecar/dataplane/route"
	"sidecar/dataplane/snapshot"
	"sidecar/internal/telemetry/stats"
	"sidecar/xds/ads"
	"sidecar/xds/bootstrap"
	"sidecar/xds/compile/cluster"
	listenercompile "sidecar/xds/compile/listener"
	routeconfig "sidecar/xds/compile/route"
	"sidecar/xds/registry"
	"sidecar/xds/resource"
)

// plane is a data plane that adopts at once.
type plane struct {
	last     *snapshot.Snapshot
	n        int
	prepared map[*snapshot.Listener]bool
	answers  []filter.Demand
}

func (p *plane) Prepare(l *snapshot.Listener) error { p.prepared[l] = true; return nil }
func (p *plane) Discard(l *snapshot.Listener)       { delete(p.prepared, l) }
func (p *plane) Publish(s *snapshot.Snapshot) {
	p.last, p.n = s, p.n+1
	clear(p.prepared)
}
func (p *plane) Adopted() uint64 { return p.last.Epoch }
func (p *plane) Reap()           {}
func (p *plane) Start()          {}
func (p *plane) Answer(l []filter.Demand) {
	p.answers = append(p.answers, l...)
}

// wire is the transport: it keeps what would be sent.
type wire struct{ sent []ads.Send }

func (w *wire) Start() {}
func (w *wire) Do(a ads.Action) {
	if s, ok := a.(ads.Send); ok {
		w.sent = append(w.sent, s)
	}
}
func (w *wire) Close() {}

type noNames struct{}

func (noNames) Watch(*cluster.DNS, func(func(int) []netip.Addr)) func() { return func() {} }

// rig is a controller that the test drives event by event, with the real session, compilers and snapshots.
type rig struct {
	t     testing.TB
	c     *Controller
	f     *feed
	w     *wire
	p     *plane
	nonce int
}

func newRig(t testing.TB, v ads.Variant) *rig {
	t.Helper()
	return newRigWith(t, v, func(*bootstrap.Config) {})
}

// newRigWith is newRig with a bootstrap that the test completes.
func newRigWith(t testing.TB, v ads.Variant, more func(*bootstrap.Config)) *rig {
	t.Helper()
	reg := stats.NewRegistry(1)
	schema, err := registry.NewSchema(listenercompile.Messages)
	if err != nil {
		t.Fatal(err)
	}
	p := &plane{prepared: map[*snapshot.Listener]bool{}}
	k := Compilers{Schema: schema, DrainTime: time.Hour, Runtime: func(now RuntimeValues) *match.Runtime {
		vals := map[string]match.Value{}
		for n, x := range now.Admin {
			vals[n] = match.Value{Text: x}
		}
		for layer, x := range now.RTDS {
			for n, v := range x.GetFields() {
				vals[n] = match.Value{Text: layer + ":" + v.GetStringValue()}
			}
		}
		return match.NewRuntime(vals)
	}}
	k.Routes = func(c *Controller, ctx *registry.Ctx, rc *routev3.RouteConfiguration, hash uint64, static bool) (*route.Table, error) {
		rx := &routeconfig.Context{Cluster: c.InternCluster, ClusterKnown: c.ClusterKnown, Static: static, Stats: reg}
		return rx.CompileAt(ctx, rc)
	}
	boot := &bootstrap.Config{Proto: &bootstrapv3.Bootstrap{DynamicResources: &bootstrapv3.Bootstrap_DynamicResources{AdsConfig: &corev3.ApiConfigSource{}}},
		CDS: &bootstrap.Source{Kind: bootstrap.SourceADS}, LDS: &bootstrap.Source{Kind: bootstrap.SourceADS}}
	more(boot)
	c := New(Config{Bootstrap: boot, Plane: p, Stats: reg, Compile: k, Resolver: noNames{}, Workers: 1})
	w := &wire{}
	f := &feed{c: c, key: "ads", version: map[resource.Type]string{}, session: ads.New(ads.Config{Variant: v}), run: w, started: true}
	c.feeds["ads"] = f
	if err := c.Static(); err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, c: c, f: f, w: w, p: p}
	t.Cleanup(func() { close(c.stop) })
	c.settleEvent()
	r.event(ads.Opened{})
	return r
}

// event is one turn of the controller.
func (r *rig) event(ev ads.Event) {
	r.f.step(ev)
	r.c.settleEvent()
}

func raw(m proto.Message) ads.Raw {
	a, err := anypb.New(m)
	if err != nil {
		panic(err)
	}
	return ads.Raw{Name: resource.Peek(a.Value), TypeURL: a.TypeUrl, Body: a.Value, HasBody: true, Version: "1"}
}

// push delivers a response and returns the NACK text; "" is an ACK or no answer yet.
func (r *rig) push(t resource.Type, ms []proto.Message, removed ...string) string {
	r.nonce++
	n := fmt.Sprint(r.nonce)
	resp := ads.Response{TypeURL: t.URL(), Nonce: n, Version: n, Removed: removed}
	for _, m := range ms {
		resp.Resources = append(resp.Resources, raw(m))
	}
	r.w.sent = r.w.sent[:0]
	r.event(resp)
	for _, s := range r.w.sent {
		if s.Nonce == n {
			return s.Error
		}
	}
	return ""
}

func adsSource() *corev3.ConfigSource {
	return &corev3.ConfigSource{InitialFetchTimeout: durationpb.New(0), ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}}}
}

func edsCluster(name string, timeout time.Duration) *clusterv3.Cluster {
	return &clusterv3.Cluster{Name: name, ConnectTimeout: durationpb.New(timeout), ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig: &clusterv3.Cluster_EdsClusterConfig{EdsConfig: adsSource()}}
}

func endpointAt(i int) *endpointv3.LbEndpoint {
	return &endpointv3.LbEndpoint{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: &corev3.Address{
		Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{Address: fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255),
			PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 80}}}}}}}
}

func assignmentOf(name string, from, n int) *endpointv3.ClusterLoadAssignment {
	l := &endpointv3.LocalityLbEndpoints{}
	for i := range n {
		l.LbEndpoints = append(l.LbEndpoints, endpointAt(from+i))
	}
	return &endpointv3.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpointv3.LocalityLbEndpoints{l}}
}

func routesTo(name, cluster string) *routev3.RouteConfiguration {
	return &routev3.RouteConfiguration{Name: name, VirtualHosts: []*routev3.VirtualHost{{Name: "v", Domains: []string{"*"}, Routes: []*routev3.Route{{
		StatPrefix: "p", Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
		Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster}}}}}}}}
}

// listenerOf has an RDS route configuration, or an inline one to a cluster.
func listenerOf(name string, port int, rds, inline string) *listenerv3.Listener {
	pack := func(m proto.Message) *anypb.Any {
		a, err := anypb.New(m)
		if err != nil {
			panic(err)
		}
		return a
	}
	h := &hcmv3.HttpConnectionManager{StatPrefix: name, HttpFilters: []*hcmv3.HttpFilter{{Name: "envoy.filters.http.router",
		ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: pack(&routerv3.Router{})}}}}
	if rds != "" {
		h.RouteSpecifier = &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{RouteConfigName: rds, ConfigSource: adsSource()}}
	} else {
		h.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: routesTo("inline", inline)}
	}
	return &listenerv3.Listener{Name: name, Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{Address: "127.0.0.1",
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(port)}}}}, FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{
		Name: "envoy.filters.network.http_connection_manager", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: pack(h)}}}}}}
}

func TestChange_WhenThereAre10000Clusters_ThenOneCostsLessThanAMillisecond(t *testing.T) {
	r := newRig(t, ads.Delta)
	const n = 10_000
	var cds, eds []proto.Message
	for i := range n {
		name := fmt.Sprintf("cluster-%05d", i)
		cds = append(cds, edsCluster(name, time.Second))
		eds = append(eds, assignmentOf(name, i*2, 2))
	}
	began := time.Now()
	if e := r.push(resource.Cluster, cds); e != "" {
		t.Fatal(e)
	}
	r.push(resource.Endpoints, eds)
	t.Logf("%d clusters with 2 endpoints each: %s", n, time.Since(began).Round(time.Millisecond))
	if r.c.state != Initializing || r.c.activeClusters != n || r.c.warmingClusters != 0 {
		t.Fatalf("state %v, %d active, %d warming", r.c.state, r.c.activeClusters, r.c.warmingClusters)
	}
	r.push(resource.Listener, nil)
	cost := func(what string, limit time.Duration, fn func(i int)) {
		best := time.Hour
		for i := range 200 {
			began := time.Now()
			fn(i)
			best = min(best, time.Since(began))
		}
		t.Logf("%s: %s", what, best)
		if best > limit {
			t.Errorf("%s costs %s, limit %s", what, best, limit)
		}
	}
	cost("one changed cluster", time.Millisecond, func(i int) {
		r.push(resource.Cluster, []proto.Message{edsCluster("cluster-05000", time.Second+time.Duration(i+1))})
	})
	cost("one changed assignment", time.Millisecond, func(i int) {
		r.push(resource.Endpoints, []proto.Message{assignmentOf("cluster-05000", i, 2)})
	})
	cost("one new cluster", time.Millisecond, func(i int) {
		name := fmt.Sprintf("more-%d", i)
		r.push(resource.Cluster, []proto.Message{edsCluster(name, time.Second)})
		r.push(resource.Endpoints, []proto.Message{assignmentOf(name, i, 2)})
	})
	cost("one removed cluster", time.Millisecond, func(i int) { r.push(resource.Cluster, nil, fmt.Sprintf("more-%d", i)) })
	if len(r.c.in.Cluster("cluster-00001").Name) == 0 || r.c.in.Known("more-7") != nil {
		t.Error("a removed name is still interned")
	}
}

func TestChange_WhenAFullStateIsSentAgain_ThenOnlyTheChangedClusterIsDecoded(t *testing.T) {
	r := newRig(t, ads.SotW)
	const n = 10_000
	var cds, eds []proto.Message
	for i := range n {
		name := fmt.Sprintf("cluster-%05d", i)
		cds = append(cds, edsCluster(name, time.Second))
		eds = append(eds, assignmentOf(name, i*2, 2))
	}
	r.push(resource.Cluster, cds)
	r.push(resource.Endpoints, eds)
	r.push(resource.Listener, nil)
	best := time.Hour
	for i := range 10 {
		cds[n/2] = edsCluster("cluster-05000", time.Second+time.Duration(i+1))
		resp := ads.Response{TypeURL: resource.Cluster.URL(), Nonce: "x", Version: fmt.Sprint(i)}
		for _, m := range cds {
			resp.Resources = append(resp.Resources, raw(m))
		}
		was := r.c.mgr.cm.Load(stats.ClusterManagerClusterModified)
		began := time.Now()
		r.event(resp)
		best = min(best, time.Since(began))
		if got := r.c.mgr.cm.Load(stats.ClusterManagerClusterModified) - was; got != 1 {
			t.Fatalf("%d clusters modified", got)
		}
	}
	t.Logf("one of %d changed, all sent: %s in the controller", n, best)
	if best > 100*time.Millisecond {
		t.Errorf("costs %s", best)
	}
}

func TestRuntime_WhenTheAdminLayerChanges_ThenTheNextSnapshotHasIt(t *testing.T) {
	r := newRig(t, ads.Delta)
	set := func(v map[string]string) {
		r.c.SetRuntime(v)
		(<-r.c.events)()
		r.c.settleEvent()
	}
	was := r.p.last.Epoch
	set(map[string]string{"a.b": "1", "c": "2"})
	if r.p.last.Epoch == was || fmt.Sprint(r.c.Runtime().Admin) != "map[a.b:1 c:2]" {
		t.Errorf("epoch %d, layer %v", r.p.last.Epoch, r.c.Runtime().Admin)
	}
	before := r.p.last.Runtime
	set(map[string]string{"a.b": ""})
	if r.p.last.Runtime == before || fmt.Sprint(r.c.Runtime().Admin) != "map[c:2]" {
		t.Errorf("layer %v after the removal", r.c.Runtime().Admin)
	}
}

func TestRoute_WhenItsClusterWarms_ThenTheOldTableServesUntilThen(t *testing.T) {
	r := newRig(t, ads.Delta)
	r.push(resource.Cluster, []proto.Message{edsCluster("a", time.Second)})
	r.push(resource.Endpoints, []proto.Message{assignmentOf("a", 1, 1)})
	r.push(resource.Listener, []proto.Message{listenerOf("l", 10000, "r", "")})
	r.push(resource.RouteConfiguration, []proto.Message{routesTo("r", "a")})
	if r.c.state != Live {
		t.Fatalf("state %v", r.c.state)
	}
	target := func() string { return r.p.last.Table(r.c.routes["r"].ref).Clusters[0].Name }
	r.push(resource.Cluster, []proto.Message{edsCluster("b", time.Second)}, "a")
	if e := r.push(resource.RouteConfiguration, []proto.Message{routesTo("r", "b")}); e != "" || r.w.sent[0].Nack {
		t.Fatal("the route is answered at once")
	}
	if target() != "a" || r.p.last.Cluster(r.c.in.Known("a")) == nil {
		t.Fatal("the old table and its removed cluster serve until the new cluster is warm")
	}
	// A listener with its own routes waits in the same way.
	r.push(resource.Listener, []proto.Message{listenerOf("m", 10001, "", "b")})
	if len(r.p.last.Listeners) != 1 {
		t.Error("the listener does not wait")
	}
	r.push(resource.Endpoints, []proto.Message{assignmentOf("b", 2, 1)})
	if target() != "b" || len(r.p.last.Listeners) != 2 {
		t.Error("not switched when warm")
	}
	if r.c.in.Known("a") != nil || r.c.clusters["a"] != nil {
		t.Error("the removed cluster stays although nothing points at it")
	}
	// The control plane gives up a cluster that never warmed: what waits goes on.
	r.push(resource.Cluster, []proto.Message{edsCluster("c", time.Second)})
	r.push(resource.RouteConfiguration, []proto.Message{routesTo("r", "c")})
	if target() != "b" {
		t.Fatal("switched to a cluster that warms")
	}
	r.push(resource.Cluster, nil, "c")
	if target() != "c" {
		t.Error("waits for a cluster that is gone")
	}
}

func TestAssignment_WhenAWarmingVersionIsReplaced_ThenTheServingOneKeepsIts(t *testing.T) {
	r := newRig(t, ads.Delta)
	r.push(resource.Cluster, []proto.Message{edsCluster("a", time.Second)})
	r.push(resource.Endpoints, []proto.Message{assignmentOf("a", 1, 1)})
	r.push(resource.Listener, nil)
	for i := range 2 { // two versions that wait for another assignment, one after the other
		c := edsCluster("a", time.Duration(i+2)*time.Second)
		c.EdsClusterConfig.ServiceName = fmt.Sprintf("other%d", i)
		r.push(resource.Cluster, []proto.Message{c})
	}
	r.push(resource.Endpoints, []proto.Message{assignmentOf("a", 1, 5)})
	if n := r.p.last.Cluster(r.c.in.Known("a")).Hosts.Total; n != 5 {
		t.Errorf("the serving version has %d hosts, its assignment 5", n)
	}
	if names, _ := r.f.session.Subscriptions(resource.Endpoints.URL()); fmt.Sprint(names) != "[a other1]" {
		t.Errorf("subscribed to %v", names)
	}
}

func TestEndpoints_WhenOneOf100000Changes_ThenTheOthersStay(t *testing.T) {
	r := newRig(t, ads.Delta)
	const n = 100_000
	r.push(resource.Cluster, []proto.Message{edsCluster("big", time.Second)})
	began := time.Now()
	r.push(resource.Endpoints, []proto.Message{assignmentOf("big", 0, n)})
	t.Logf("first %d endpoints: %s", n, time.Since(began).Round(time.Millisecond))
	was := r.p.last.Cluster(r.c.in.Known("big")).Hosts
	next := assignmentOf("big", 0, n)
	next.Endpoints[0].LbEndpoints[n/2] = endpointAt(n + 1)
	m := raw(next)
	began = time.Now()
	r.event(ads.Response{TypeURL: resource.Endpoints.URL(), Nonce: "x", Version: "x", Resources: []ads.Raw{m}})
	t.Logf("one changed of %d: %s (decode, validate, hash, compile, build, publish)", n, time.Since(began).Round(time.Millisecond))
	is := r.p.last.Cluster(r.c.in.Known("big")).Hosts
	if is == was || is.Total != n {
		t.Fatalf("%d hosts", is.Total)
	}
	kept := 0
	for i := range was.Priorities[0].Hosts {
		if was.Priorities[0].Hosts[i].Host == is.Priorities[0].Hosts[i].Host {
			kept++
		}
	}
	if kept != n-1 {
		t.Errorf("%d of %d hosts kept their identity", kept, n)
	}
	if !was.Priorities[0].Hosts[n/2].Left() || was.Priorities[0].Hosts[0].Left() {
		t.Error("exactly the host that is gone must be marked")
	}
}

// footprint is what a churn must not make grow.
func (r *rig) footprint() map[string]int {
	c := r.c
	return map[string]int{"clusters": len(c.clusters), "services": len(c.services), "listeners": len(c.listeners), "order": len(c.order),
		"addresses": len(c.addresses), "routes": len(c.routes), "uses": len(c.uses), "rejected": len(c.rejected), "warnings": len(c.warnings),
		"scopes": scopes(c.cfg.Stats), "prepared": len(r.p.prepared)}
}

func scopes(reg *stats.Registry) (n int) {
	reg.Each(func(*stats.Scope) { n++ })
	return n
}

func TestChurn_WhenEverythingComesAndGoes_ThenNothingStays(t *testing.T) {
	for _, v := range []ads.Variant{ads.SotW, ads.Delta} {
		t.Run(v.String(), func(t *testing.T) {
			r := newRig(t, v)
			round := func(i int) {
				cl, rds, ln := fmt.Sprintf("c%d", i), fmt.Sprintf("r%d", i), fmt.Sprintf("l%d", i)
				keep := []proto.Message{edsCluster("keep", time.Second)}
				r.push(resource.Cluster, append(keep, edsCluster(cl, time.Second)))
				r.push(resource.Endpoints, []proto.Message{assignmentOf(cl, i, 3), assignmentOf("keep", i, 1)})
				port := 10000 + i%1000
				if e := r.push(resource.Listener, []proto.Message{listenerOf(ln, port, rds, ""), listenerOf(ln+"i", port+2000, "", cl)}); e != "" {
					t.Fatal(e)
				}
				r.push(resource.RouteConfiguration, []proto.Message{routesTo(rds, cl)})
				if l := len(r.p.last.Listeners); l < 2 {
					t.Fatalf("%d listeners", l)
				}
				// In place, then refused, then gone.
				if e := r.push(resource.Listener, []proto.Message{listenerOf(ln, port, rds, ""), listenerOf(ln+"i", port+2000, "", "keep")}); e != "" {
					t.Fatal(e)
				}
				bad := edsCluster("bad", time.Second)
				bad.LbPolicy = clusterv3.Cluster_CLUSTER_PROVIDED
				if e := r.push(resource.Cluster, append(keep, edsCluster(cl, time.Second), bad)); !strings.Contains(e, "bad") {
					t.Fatalf("bad is not refused: %q", e)
				}
				r.push(resource.RouteConfiguration, []proto.Message{routesTo(rds, "no-such-cluster-"+cl)})
				r.push(resource.Listener, nil, ln, ln+"i")
				r.push(resource.Cluster, keep, cl, "bad")
				r.c.reapDraining(time.Now().Add(2 * settle))
				r.c.settleEvent()
			}
			for i := range 20 {
				round(i)
			}
			was, heap, goroutines := r.footprint(), heapSize(), runtime.NumGoroutine()
			for i := range 500 {
				round(20 + i)
			}
			if is := r.footprint(); fmt.Sprint(was) != fmt.Sprint(is) {
				t.Errorf("before %v\nafter  %v", was, is)
			}
			if n := runtime.NumGoroutine(); n > goroutines+2 {
				t.Errorf("%d goroutines, %d before", n, goroutines)
			}
			if grown := heapSize() - heap; grown > 512<<10 {
				t.Errorf("the heap grew by %d KiB", grown>>10)
			}
			if id := r.c.in.Cluster("probe").ID; id > 16 {
				t.Errorf("the next cluster gets number %d: released ones are not used again", id)
			}
		})
	}
}

func heapSize() int {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

func TestNames_WhenANumberIsUsedAgain_ThenOldRefsFindNothing(t *testing.T) {
	r := newRig(t, ads.Delta)
	r.push(resource.Cluster, []proto.Message{edsCluster("a", time.Second)})
	r.push(resource.Endpoints, []proto.Message{assignmentOf("a", 1, 1)})
	old := r.c.in.Known("a")
	r.push(resource.Cluster, nil, "a")
	r.push(resource.Cluster, []proto.Message{edsCluster("b", time.Second)})
	r.push(resource.Endpoints, []proto.Message{assignmentOf("b", 2, 1)})
	now := r.c.in.Known("b")
	if now.ID != old.ID {
		t.Fatalf("b has number %d, a had %d", now.ID, old.ID)
	}
	if r.p.last.Cluster(old) != nil || r.p.last.Cluster(now) == nil || r.p.last.ClusterByName([]byte("a")) != nil || r.p.last.ClusterByName([]byte("b")) == nil {
		t.Error("the old name finds the new cluster")
	}
}

func TestDump_WhenThereIsSomethingOfEverything_ThenStatesVersionsAndBytesAreThere(t *testing.T) {
	r := newRig(t, ads.Delta)
	a := edsCluster("a", time.Second)
	r.push(resource.Cluster, []proto.Message{a})
	r.push(resource.Endpoints, []proto.Message{assignmentOf("a", 1, 1)})
	r.push(resource.Listener, []proto.Message{listenerOf("l", 10000, "r", "")})
	r.push(resource.RouteConfiguration, []proto.Message{routesTo("r", "a")})
	r.push(resource.Cluster, []proto.Message{edsCluster("w", time.Second)}) // warms
	bad := edsCluster("bad", time.Second)
	bad.LbPolicy = clusterv3.Cluster_CLUSTER_PROVIDED
	r.push(resource.Cluster, []proto.Message{bad})
	q := &Query{}
	d := r.c.dumpClusters(q)
	if len(d.DynamicActiveClusters) != 1 || len(d.DynamicWarmingClusters) != 2 || !slices.Equal(d.DynamicActiveClusters[0].Cluster.Value, raw(a).Body) {
		t.Errorf("clusters: %v", d)
	}
	if x := d.DynamicWarmingClusters[1].ErrorState; x == nil || !strings.Contains(x.Details, "lb_policy") || !slices.Equal(x.FailedConfiguration.Value, raw(bad).Body) {
		t.Errorf("error state: %v", x)
	}
	if l := r.c.dumpListeners(q).DynamicListeners; len(l) != 1 || l[0].ActiveState.GetVersionInfo() != "1" || l[0].ActiveState.LastUpdated == nil {
		t.Errorf("listeners: %v", l)
	}
	if x := r.c.dumpRoutes(q).DynamicRouteConfigs; len(x) != 1 || x[0].VersionInfo != "1" {
		t.Errorf("routes: %v", x)
	}
	if x := r.c.dumpEndpoints(q).DynamicEndpointConfigs; len(x) != 1 {
		t.Errorf("endpoints: %v", x)
	}
	if q := (&Query{Name: func(n string) bool { return n == "w" }}); len(r.c.dumpClusters(q).DynamicWarmingClusters) != 1 {
		t.Error("the name filter lets too much through")
	}
}

func TestRejections_WhenThereAreMany_ThenTheNumberIsBounded(t *testing.T) {
	r := newRig(t, ads.Delta)
	for i := range rejectedMax + 100 {
		bad := edsCluster(fmt.Sprintf("bad%d", i), time.Second)
		bad.LbPolicy = clusterv3.Cluster_CLUSTER_PROVIDED
		r.push(resource.Cluster, []proto.Message{bad})
	}
	if n := len(r.c.rejected); n > rejectedMax {
		t.Errorf("%d are remembered", n)
	}
	if r.c.rejected["CDS/bad0"] != nil || r.c.rejected[fmt.Sprintf("CDS/bad%d", rejectedMax+99)] == nil {
		t.Error("not the oldest was forgotten")
	}
}
