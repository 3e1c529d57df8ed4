// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"sidecar/xds/ads"
	"sidecar/xds/bootstrap"
	"sidecar/xds/resource"
)

// apart makes a live rig whose types come from sources of their own.
func apart(t *testing.T, v ads.Variant) *rig {
	r := newRig(t, v)
	r.push(resource.Cluster, list(fixedCluster("a")))
	r.push(resource.Listener, list(listenerOf("l", 1, "r", "")))
	r.push(resource.RouteConfiguration, list(routesTo("r", "a")))
	if r.c.state != Live {
		t.Fatal("not live")
	}
	r.c.cfg.Bootstrap.CDS = &bootstrap.Source{Kind: bootstrap.SourceGRPC, API: &bootstrap.API{}}
	return r
}

func fixedCluster(name string) *clusterv3.Cluster {
	return &clusterv3.Cluster{Name: name, ConnectTimeout: durationpb.New(time.Second), ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		LoadAssignment: assignmentOf(name, 1, 1)}
}

// served is the first cluster that the table in the last snapshot names.
func (r *rig) served(routes string) string {
	t := r.p.last.Table(r.c.routes[routes].ref)
	if t == nil || len(t.Clusters) == 0 {
		return "none"
	}
	return t.Clusters[0].Name
}

func TestLag_WhenRoutesComeBeforeTheirCluster_ThenTheOldOnesServeUntilItIsThere(t *testing.T) {
	r := apart(t, ads.Delta)
	if e := r.push(resource.RouteConfiguration, list(routesTo("r", "late"))); e != "" || r.served("r") != "a" {
		t.Fatalf("%s, %s serves", e, r.served("r"))
	}
	r.push(resource.Cluster, list(edsCluster("late", time.Second)))
	if r.served("r") != "a" {
		t.Error("routes point at a cluster without endpoints")
	}
	r.push(resource.Endpoints, list(assignmentOf("late", 1, 1)))
	if r.served("r") != "late" {
		t.Errorf("%s serves although the cluster is warm", r.served("r"))
	}
}

func TestLag_WhenTheClusterNeverComes_ThenTheWaitEnds(t *testing.T) {
	r := apart(t, ads.Delta)
	began := time.Now()
	r.push(resource.RouteConfiguration, list(routesTo("r", "never")))
	(<-r.c.events)()
	r.c.settleEvent()
	if d := time.Since(began); r.served("r") != "never" || d < streamLag {
		t.Errorf("%s serves after %s", r.served("r"), d)
	}
	if n := len(r.c.uses["never"].waits); n != 0 {
		t.Errorf("%d still wait", n)
	}
	// An aggregated stream has an order: nothing is on its way.
	r.c.cfg.Bootstrap.CDS = &bootstrap.Source{Kind: bootstrap.SourceADS}
	if r.push(resource.RouteConfiguration, list(routesTo("r", "other"))); r.served("r") != "other" {
		t.Error("routes wait on an aggregated stream")
	}
}
