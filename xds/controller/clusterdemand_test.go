// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"sidecar/dataplane/filter"
	"sidecar/dataplane/sys"
	"sidecar/xds/ads"
	"sidecar/xds/registry"
	"sidecar/xds/resource"
)

// lackCluster is a worker's demand for a cluster of the aggregated stream.
func (r *rig) lackCluster(t *testing.T, name string) {
	t.Helper()
	src, err := r.c.ClusterSource(&registry.Ctx{}, adsSource(), 5*sys.Second)
	if err != nil {
		t.Fatal(err)
	}
	r.c.demand(filter.Demand{Clusters: src, Name: name})
	r.c.settleEvent()
}

// askedClusters lists what requests of CDS asked for since the last call.
func (r *rig) askedClusters() string {
	var out []string
	for _, s := range r.w.sent {
		if s.TypeURL == resource.Cluster.URL() {
			out = append(out, s.Add...)
			for _, n := range s.Remove {
				out = append(out, "-"+n)
			}
		}
	}
	r.w.sent = nil
	return strings.Join(out, " ")
}

func TestClusterDemand_WhenAClusterIsAskedFor_ThenWorkersHearWhenItServes(t *testing.T) {
	r := newRig(t, ads.Delta)
	r.push(resource.Cluster, nil)
	r.push(resource.Listener, nil)
	r.askedClusters()
	r.lackCluster(t, "x")
	r.lackCluster(t, "x") // another source of the same kind: both wait
	if got := r.askedClusters(); got != "x" {
		t.Errorf("asked for %q", got)
	}
	r.push(resource.Cluster, list(edsCluster("x", time.Second)))
	r.expectAnswers(t, "the cluster warms", "")
	r.push(resource.Endpoints, list(assignmentOf("x", 0, 1)))
	r.expectAnswers(t, "the cluster serves", "x x")
	if r.p.last.ClusterByName([]byte("x")) == nil {
		t.Error("the answer is ahead of the snapshot")
	}
	r.askedClusters()
	r.lackCluster(t, "x")
	r.expectAnswers(t, "the cluster is there", "x")
	r.push(resource.Cluster, nil, "x")
	r.lackCluster(t, "x")
	if got := r.askedClusters(); got != "x" {
		t.Errorf("asked for %q after the cluster was removed", got)
	}
	r.push(resource.Cluster, nil, "x")
	r.expectAnswers(t, "the cluster is not there", "x")
	r.askedClusters()
	r.lackCluster(t, "x") // of another worker, on its way while the answer came
	r.expectAnswers(t, "the answer holds", "x")
	r.c.start = r.c.start.Add(-missingFor)
	r.lackCluster(t, "x")
	if got := r.askedClusters(); got != "x" {
		t.Errorf("asked for %q when the answer was old", got)
	}
}

func TestClusterDemand_WhenVeryManyAreMissing_ThenTheOldestIsForgotten(t *testing.T) {
	r := newRig(t, ads.Delta)
	r.push(resource.Cluster, nil)
	r.push(resource.Listener, nil)
	src, err := r.c.ClusterSource(&registry.Ctx{}, adsSource(), 5*sys.Second)
	if err != nil {
		t.Fatal(err)
	}
	for i := range demandsMax {
		r.c.demand(filter.Demand{Clusters: src, Name: fmt.Sprint("c", i)})
	}
	r.c.settleEvent()
	r.askedClusters()
	r.lackCluster(t, "more")
	r.expectAnswers(t, "an answer is awaited for all", "more")
	r.push(resource.Cluster, nil, "c1", "c0")
	r.expectAnswers(t, "two are not there", "c0 c1")
	r.lackCluster(t, "more")
	if got := r.askedClusters(); got != "more -c1" {
		t.Errorf("requests %q", got)
	}
	if n := len(r.c.clusterDemands.asked); n != demandsMax {
		t.Errorf("%d names", n)
	}
}
