// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"errors"
	"slices"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"sidecar/dataplane/filter"
	"sidecar/dataplane/sys"
	"sidecar/xds/ads"
	"sidecar/xds/bootstrap"
	"sidecar/xds/registry"
	"sidecar/xds/resource"
)

// errODCDSSource is for sources that cannot be asked for one cluster more.
var errODCDSSource = errors.New("only a delta source or the aggregated stream can be asked for clusters on demand")

// onDemand names the streams that clusters on demand have of their own.
const onDemand = "odcds"

// clusterDemand is a cluster that requests made us ask for.
type clusterDemand struct {
	feed    *feed
	waiting []filter.Demand // of which an answer is awaited; each once
	refused time.Duration   // when the answer was that it is not there; 0 = it was not
}

// clusterDemands is all of them, by name. Those that are not there are listed, the oldest first, and bounded by demandsMax.
type clusterDemands struct {
	asked   map[string]*clusterDemand
	missing []string
}

// ClusterSource resolves the source at a path of a resource, for requests or connections that wait so long. Control goroutine only.
func (c *Controller) ClusterSource(at *registry.Ctx, from *corev3.ConfigSource, wait sys.Nanos) (*filter.ClusterSource, error) {
	src, err := c.source(from, at.Path)
	if err != nil {
		return nil, err
	}
	delta := src.Kind == bootstrap.SourceGRPC && src.API.Delta
	if src.Kind != bootstrap.SourceADS && !delta {
		return nil, at.Errorf("", "%w", errODCDSSource)
	}
	return &filter.ClusterSource{Wait: wait, Config: src}, nil
}

// demandCluster asks for a cluster, unless it is there: the worker may not have had the last snapshot.
func (c *Controller) demandCluster(d filter.Demand) {
	if s := c.clusters[d.Name]; s != nil && s.active != nil {
		c.answers = append(c.answers, d)
		return
	}
	all := &c.clusterDemands
	x := all.asked[d.Name]
	if x != nil && len(x.waiting) > 0 {
		if !slices.Contains(x.waiting, d) {
			x.waiting = append(x.waiting, d)
		}
		return
	}
	f, err := c.feedFor(resource.Cluster, d.Clusters.Config.(*bootstrap.Source), onDemand)
	if err != nil || x == nil && !c.boundClusterDemands() || x != nil && c.holds(x.refused) {
		c.answers = append(c.answers, d)
		return
	}
	if x == nil || f.only == onDemand { // on the aggregated stream each cluster is a subscription of its own
		c.mgr.odcds().attempt()
	}
	if x == nil {
		x = &clusterDemand{}
		if all.asked == nil {
			all.asked = map[string]*clusterDemand{}
		}
		all.asked[d.Name] = x
	}
	all.found(d.Name)
	x.feed, x.waiting = f, append(x.waiting, d)
	f.step(ads.Subscribe{TypeURL: resource.Cluster.URL(), Names: []string{d.Name}, Again: true})
	f.later()
}

// boundClusterDemands makes room for one more name; false when all of them are there or awaited.
func (c *Controller) boundClusterDemands() bool {
	all := &c.clusterDemands
	if len(all.asked)-len(all.missing) >= demandsMax {
		return false
	}
	if len(all.asked) < demandsMax {
		return true
	}
	name := all.missing[0]
	all.missing = all.missing[1:]
	x := all.asked[name]
	delete(all.asked, name)
	x.feed.unsubscribe(resource.Cluster, name)
	return true
}

func (all *clusterDemands) found(name string) {
	if i := slices.Index(all.missing, name); i >= 0 {
		all.missing = slices.Delete(all.missing, i, i+1)
	}
}

// countDemanded counts what the aggregated stream says of clusters on demand; streams of their own count whole responses.
func (c *Controller) countDemanded(f *feed, d *ads.Deliver) {
	if f.only == onDemand || len(c.clusterDemands.asked) == 0 {
		return
	}
	for i := range d.Changed {
		if c.clusterDemands.asked[d.Changed[i].Name] != nil {
			c.mgr.odcds().accepted(first(d.Changed[i].Version, d.Version), 0)
		}
	}
	for _, n := range d.Removed {
		if c.clusterDemands.asked[n] != nil {
			c.mgr.odcds().accepted(d.Version, 0)
		}
	}
}

// clusterAnswered tells the workers that a cluster serves, or is not there.
func (c *Controller) clusterAnswered(name string, there bool) {
	all := &c.clusterDemands
	x := all.asked[name]
	if x == nil {
		return
	}
	all.found(name)
	x.refused = 0
	if !there {
		all.missing = append(all.missing, name)
		if len(x.waiting) > 0 {
			x.refused = c.now()
		}
	}
	c.answers = append(c.answers, x.waiting...)
	x.waiting = nil
}
