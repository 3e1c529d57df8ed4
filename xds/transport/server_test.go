// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"sidecar/internal/testctl"
	"sidecar/xds/ads"
	"sidecar/xds/resource"
)

var viaADS = &corev3.ConfigSource{ResourceApiVersion: corev3.ApiVersion_V3, ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}}}

func edsCluster(name string) *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name: name, ConnectTimeout: durationpb.New(time.Second), ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig: &clusterv3.Cluster_EdsClusterConfig{EdsConfig: viaADS},
	}
}

func staticCluster(name string) *clusterv3.Cluster {
	return &clusterv3.Cluster{Name: name, ConnectTimeout: durationpb.New(time.Second)}
}

func httpListener(t *testing.T, name, routes string) *listenerv3.Listener {
	t.Helper()
	hcm, err := anypb.New(&hcmv3.HttpConnectionManager{
		StatPrefix: "s", RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{RouteConfigName: routes, ConfigSource: viaADS}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return &listenerv3.Listener{
		Name: name,
		Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
			Address: "127.0.0.1", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 24400}}}},
		FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{
			Name: "hcm", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: hcm}}}}},
	}
}

// world makes a snapshot with the given clusters (and their endpoints), one listener and its routes.
func world(t *testing.T, clusters ...string) testctl.Resources {
	r := testctl.Resources{
		Listeners: []types.Resource{httpListener(t, "l", "r")}, Routes: []types.Resource{&routev3.RouteConfiguration{Name: "r"}},
	}
	for _, c := range clusters {
		r.Clusters = append(r.Clusters, edsCluster(c))
		r.Endpoints = append(r.Endpoints, &endpointv3.ClusterLoadAssignment{ClusterName: c})
	}
	return r
}

func server(t *testing.T, cfg testctl.Config) *testctl.Server {
	t.Helper()
	cfg.Errors = func(s string) { t.Log("control plane: " + s) }
	s, err := testctl.NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func set(t *testing.T, s *testctl.Server, version string, r testctl.Resources) {
	t.Helper()
	if err := s.Set("n1", version, r); err != nil {
		t.Fatal(err)
	}
}

func variants(t *testing.T, f func(t *testing.T, v ads.Variant)) {
	for _, v := range []ads.Variant{ads.SotW, ads.Delta} {
		t.Run(v.String(), func(t *testing.T) { f(t, v) })
	}
}

func (d *driver) holds(url string, names ...string) func() bool {
	return func() bool { return slices.Equal(d.names(url), names) }
}

func TestStream_WhenServerIsGoControlPlane_ThenStateFollowsIt(t *testing.T) {
	variants(t, func(t *testing.T, v ads.Variant) {
		srv := server(t, testctl.Config{})
		set(t, srv, "1", world(t, "a", "b"))
		d := newDriver(t, v)
		d.run(stream(t, d, StreamConfig{Targets: tcpTarget(srv.Addr()), Variant: v}), everything...)
		for _, w := range []struct {
			url   string
			names []string
		}{{resource.ClusterURL, []string{"a", "b"}}, {resource.EndpointsURL, []string{"a", "b"}}, {resource.ListenerURL, []string{"l"}}, {resource.RouteURL, []string{"r"}}} {
			eventually(t, w.url, d.holds(w.url, w.names...))
		}
		d.order(func() {
			d.step(ads.Unsubscribe{TypeURL: resource.EndpointsURL, Names: []string{"a"}})
			d.step(ads.Flush{})
		})
		set(t, srv, "2", world(t, "b", "c"))
		eventually(t, "cluster a gone, c there", d.holds(resource.ClusterURL, "b", "c"))
		eventually(t, "endpoints of c", func() bool { return slices.Contains(d.names(resource.EndpointsURL), "c") })
		bad := world(t, "b", "c")
		bad.Clusters = append(bad.Clusters, &clusterv3.Cluster{Name: "broken", DnsLookupFamily: 77}, edsCluster("d"))
		bad.Endpoints = append(bad.Endpoints, &endpointv3.ClusterLoadAssignment{ClusterName: "d"})
		if err := srv.Set("n1", "3", bad); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		nack, err := srv.Wait(ctx, func(r testctl.Request) bool { return r.Nacked })
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(nack.Error, `CDS "broken": dns_lookup_family: value must be one of the defined enum values`) || nack.TypeURL != resource.ClusterURL {
			t.Errorf("nack %+v", nack)
		}
		if v == ads.SotW && nack.Version != "2" {
			t.Errorf("nack carries version %q", nack.Version)
		}
		eventually(t, "good sibling kept", d.holds(resource.ClusterURL, "b", "c", "d"))
		nodes := 0
		for _, r := range srv.Requests() {
			if r.Node != nil {
				nodes++
			}
		}
		if v == ads.Delta && nodes != 1 { // the server's SotW side fills the node in itself
			t.Errorf("node was sent %d times", nodes)
		}
	})
}

func TestStream_WhenServerComesBack_ThenEverythingIsAskedAgain(t *testing.T) {
	variants(t, func(t *testing.T, v ads.Variant) {
		sock := "unix:" + filepath.Join(t.TempDir(), "xds")
		first, err := testctl.NewServer(testctl.Config{Listen: sock})
		if err != nil {
			t.Fatal(err)
		}
		set(t, first, "1", world(t, "a", "b"))
		d := newDriver(t, v)
		d.run(stream(t, d, StreamConfig{Targets: []*Target{unixTarget(sock[5:])}, Variant: v}), everything...)
		eventually(t, "routes", d.holds(resource.RouteURL, "r"))
		first.Close()
		eventually(t, "stream lost", func() bool { _, c, _ := d.counts(); return c > 0 })
		second := server(t, testctl.Config{Listen: sock})
		set(t, second, "2", world(t, "b", "c"))
		eventually(t, "new state", d.holds(resource.ClusterURL, "b", "c"))
		eventually(t, "four requests", func() bool { return len(second.Requests()) >= 4 })
		got := second.Requests()
		order := []string{resource.ClusterURL, resource.EndpointsURL, resource.ListenerURL, resource.RouteURL}
		at := 0
		for _, r := range got {
			if at < len(order) && r.TypeURL == order[at] && r.Nonce == "" {
				at++
			}
		}
		if at != len(order) || got[0].Node.GetId() != "n1" {
			t.Errorf("requests on the new stream: %+v", got)
		}
		for _, r := range got {
			if r.Nonce != "" || r.TypeURL != resource.EndpointsURL {
				continue
			}
			if !slices.Equal(r.Names, []string{"a", "b"}) {
				t.Errorf("endpoints asked again: %v", r.Names)
			}
			if v == ads.Delta && len(r.Initial) != 2 || v == ads.SotW && r.Version != "1" {
				t.Errorf("held versions: %+v", r)
			}
			break
		}
	})
}

func TestStream_WhenTypesHaveStreamsOfTheirOwn_ThenEachWorks(t *testing.T) {
	variants(t, func(t *testing.T, v ads.Variant) {
		srv := server(t, testctl.Config{PerType: true})
		set(t, srv, "1", world(t, "a", "b"))
		cds := newDriver(t, v, resource.ClusterURL)
		cds.run(stream(t, cds, StreamConfig{Targets: tcpTarget(srv.Addr()), Variant: v, Type: resource.Cluster}), everything[0])
		eds := newDriver(t, v, resource.EndpointsURL)
		eds.run(stream(t, eds, StreamConfig{Targets: tcpTarget(srv.Addr()), Variant: v, Type: resource.Endpoints}),
			ads.Subscribe{TypeURL: resource.EndpointsURL, Names: []string{"b"}})
		lds := newDriver(t, v, resource.ListenerURL)
		lds.run(stream(t, lds, StreamConfig{Targets: tcpTarget(srv.Addr()), Variant: v, Type: resource.Listener}), everything[1])
		rds := newDriver(t, v, resource.RouteURL)
		rds.run(stream(t, rds, StreamConfig{Targets: tcpTarget(srv.Addr()), Variant: v, Type: resource.RouteConfiguration}),
			ads.Subscribe{TypeURL: resource.RouteURL, Names: []string{"r"}})
		eventually(t, "clusters", cds.holds(resource.ClusterURL, "a", "b"))
		eventually(t, "one cluster's endpoints", eds.holds(resource.EndpointsURL, "b"))
		eventually(t, "listener", lds.holds(resource.ListenerURL, "l"))
		eventually(t, "routes", rds.holds(resource.RouteURL, "r"))
		if open, total := srv.Streams(); open != 4 || total != 4 {
			t.Errorf("%d of %d streams", open, total)
		}
	})
}

func TestStream_WhenResourcesHaveTTLs_ThenHeartbeatsKeepThemAndSilenceExpiresThem(t *testing.T) {
	keeps := func(t *testing.T, d *driver) {
		t.Helper()
		eventually(t, "both", d.holds(resource.ClusterURL, "a", "b"))
		for end := time.Now().Add(1200 * time.Millisecond); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if !d.holds(resource.ClusterURL, "a", "b")() {
				t.Fatalf("heartbeats did not keep it: %v", d.names(resource.ClusterURL))
			}
		}
		if _, _, batches := d.counts(); batches < 5 {
			t.Fatalf("only %d batches: the server sends no heartbeats", batches)
		}
	}
	t.Run("sotw", func(t *testing.T) {
		srv := server(t, testctl.Config{Heartbeat: 100 * time.Millisecond})
		set(t, srv, "1", testctl.Resources{Clusters: []types.Resource{staticCluster("a"), staticCluster("b")}, TTL: map[string]time.Duration{"a": 500 * time.Millisecond}})
		d := newDriver(t, ads.SotW)
		d.run(stream(t, d, StreamConfig{Targets: tcpTarget(srv.Addr())}), everything[0])
		keeps(t, d)
		srv.Close()
		eventually(t, "only the one with a TTL is gone", d.holds(resource.ClusterURL, "b"))
	})
	t.Run("delta", func(t *testing.T) { // go-control-plane has neither TTLs nor heartbeats in delta
		s := script(t)
		d := newDriver(t, ads.Delta)
		d.run(stream(t, d, StreamConfig{Targets: tcpTarget(s.Addr()), Variant: ads.Delta}), everything[0])
		c := accept(t, s)
		recv(t, c)
		ttl := durationpb.New(500 * time.Millisecond)
		send(t, c, &discoveryv3.DeltaDiscoveryResponse{TypeUrl: resource.ClusterURL, Nonce: "0", Resources: []*discoveryv3.Resource{
			{Name: "a", Version: "1", Ttl: ttl, Resource: pack(t, staticCluster("a"))}, {Name: "b", Version: "1", Resource: pack(t, staticCluster("b"))}}})
		stop := make(chan struct{})
		go func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(100 * time.Millisecond):
					_ = c.Send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: resource.ClusterURL, Nonce: "hb", Resources: []*discoveryv3.Resource{{Name: "a", Version: "1", Ttl: ttl}}})
				}
			}
		}()
		keeps(t, d)
		close(stop)
		eventually(t, "only the one with a TTL is gone", d.holds(resource.ClusterURL, "b"))
	})
}

func TestStream_WhenResponseIsLarge_ThenItIsTaken(t *testing.T) {
	srv := server(t, testctl.Config{})
	r := testctl.Resources{}
	names := make([]string, 300)
	for i := range names {
		names[i] = fmt.Sprintf("c%03d", i)
		c := staticCluster(names[i])
		c.AltStatName = strings.Repeat("x", 20_000)
		r.Clusters = append(r.Clusters, c)
	}
	set(t, srv, "1", r)
	d := newDriver(t, ads.SotW)
	d.run(stream(t, d, StreamConfig{Targets: tcpTarget(srv.Addr())}), everything[0])
	eventually(t, "6 MB of clusters", d.holds(resource.ClusterURL, names...))
}
