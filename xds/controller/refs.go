// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"time"

	"sidecar/dataplane/route"
	"sidecar/dataplane/snapshot"
	"sidecar/xds/bootstrap"
)

// use is who names one cluster: route tables and TCP proxies that are active or wait, and which of them wait for it.
type use struct {
	refs  int
	waits map[waiter]struct{}
}

// waiter is something that is held back until clusters are warm. The map of names inside it belongs to it.
type waiter interface {
	// clusterWarm is told that the cluster serves, or is gone.
	clusterWarm(c *Controller, name string)
}

// internCluster hands out refs to compilers. New ones are remembered: what the event that runs now does not put to use is released after it.
func (c *Controller) internCluster(name string) *route.ClusterRef {
	r := c.in.Known(name)
	if r == nil {
		r = c.in.Cluster(name)
		c.fresh = append(c.fresh, name)
	}
	return r
}

func (c *Controller) internTable(name string) *route.TableRef {
	c.freshTables = append(c.freshTables, name)
	return c.in.Table(name)
}

// sweepFresh releases names that a refused resource left behind.
func (c *Controller) sweepFresh() {
	for _, n := range c.fresh {
		c.mayReleaseName(n)
	}
	for _, n := range c.freshTables {
		if c.routes[n] == nil {
			c.in.ReleaseTable(n)
		}
	}
	c.fresh, c.freshTables = c.fresh[:0], c.freshTables[:0]
}

// hold counts the clusters that a table or a listener names.
func (c *Controller) hold(list []*route.ClusterRef) {
	for _, r := range list {
		u := c.uses[r.Name]
		if u == nil {
			u = &use{}
			c.uses[r.Name] = u
		}
		u.refs++
	}
}

// unhold takes hold back. A removed cluster that only served what pointed at it goes with the last one.
func (c *Controller) unhold(list []*route.ClusterRef) {
	for _, r := range list {
		u := c.uses[r.Name]
		if u == nil {
			continue
		}
		if u.refs--; u.refs > 0 {
			continue
		}
		delete(c.uses, r.Name)
		name := r.Name
		c.soon(func() {
			if s := c.clusters[name]; s != nil && s.doomed != nil && c.uses[name] == nil {
				c.removeCluster(name)
			}
			c.mayReleaseName(name)
		})
	}
}

// mayReleaseName forgets the number of a cluster name that neither a cluster nor a route uses.
func (c *Controller) mayReleaseName(name string) {
	if c.clusters[name] != nil || c.uses[name] != nil {
		return
	}
	if r := c.in.Known(name); r != nil {
		c.dirty.clusters[r] = true
		c.in.ReleaseCluster(name)
	}
}

// waitFor makes w wait for those clusters of list that have no version that serves yet, and returns their names. The list must be held. Clusters that do
// not exist are waited for while they may still be on their way (see lag).
func (c *Controller) waitFor(w waiter, list []*route.ClusterRef) map[string]bool {
	var out map[string]bool
	var missing []string
	lag := c.lag()
	for _, r := range list {
		switch s := c.clusters[r.Name]; {
		case s == nil && lag > 0:
			missing = append(missing, r.Name)
		case s == nil || s.active != nil || s.warming == nil:
			continue
		}
		if out == nil {
			out = map[string]bool{}
		}
		out[r.Name] = true
		u := c.uses[r.Name]
		if u.waits == nil {
			u.waits = map[waiter]struct{}{}
		}
		u.waits[w] = struct{}{}
	}
	if len(missing) > 0 {
		c.after(lag, func() {
			for _, n := range missing {
				if c.clusters[n] == nil {
					c.noWait(w, map[string]bool{n: true})
					w.clusterWarm(c, n)
				}
			}
		})
	}
	return out
}

// streamLag is how far streams of their own may be apart in what belongs to one push.
const streamLag = time.Second

// lag is how long a cluster may take to arrive after what names it, or what stops naming it after the cluster has gone. Only an aggregated stream
// has an order; polls are as far apart as two refresh delays. During start-up CDS is always first.
func (c *Controller) lag() time.Duration {
	src := c.cfg.Bootstrap.CDS
	if c.phase < phaseLive || src == nil || src.Kind != bootstrap.SourceGRPC {
		return 0
	}
	if src.API.REST {
		return min(streamLag+2*src.API.RefreshDelay, maxHold)
	}
	return streamLag
}

// noWait ends w's waiting for names.
func (c *Controller) noWait(w waiter, names map[string]bool) {
	for n := range names {
		if u := c.uses[n]; u != nil {
			delete(u.waits, w)
		}
	}
}

// clusterWarm lets go on what waited for the cluster.
func (c *Controller) clusterWarm(name string) {
	u := c.uses[name]
	if u == nil || len(u.waits) == 0 {
		return
	}
	waits := u.waits
	u.waits = nil
	for w := range waits {
		w.clusterWarm(c, name)
	}
}

// named lists the clusters that a listener names itself: in inline route configurations and TCP proxies.
func named(l *snapshot.Listener) []*route.ClusterRef {
	var out []*route.ClusterRef
	chain := func(fc *snapshot.FilterChain) {
		if fc == nil {
			return
		}
		if h := fc.HTTP; h != nil && h.Routes != nil && h.Routes.Inline != nil {
			out = append(out, h.Routes.Inline.Clusters...)
		}
		if t := fc.TCP; t != nil {
			if t.Cluster != nil {
				out = append(out, t.Cluster)
			}
			if t.Weighted != nil {
				for i := range t.Weighted.Clusters {
					if r := t.Weighted.Clusters[i].Cluster; r != nil {
						out = append(out, r)
					}
				}
			}
		}
	}
	for _, fc := range l.Chains {
		chain(fc)
	}
	chain(l.Default)
	return out
}
