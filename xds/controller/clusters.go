// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"net/netip"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"

	"sidecar/dataplane/hostset"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/stats"
	"sidecar/xds/ads"
	"sidecar/xds/compile/cluster"
	"sidecar/xds/compile/endpoint"
	"sidecar/xds/registry"
	"sidecar/xds/resource"
)

// Resolver discovers the members of DNS clusters; implemented by internal/resolve behind an adapter in internal/app. onUpdate gets every answer;
// the first one comes when every name was tried once, successful or not. Both are called on any goroutine.
type Resolver interface {
	Watch(d *cluster.DNS, onUpdate func(answers func(i int) []netip.Addr)) (stop func())
}

// clusterVersion is one accepted version of a cluster.
type clusterVersion struct {
	plan    *cluster.Result
	hash    resource.Hash
	proto   *clusterv3.Cluster
	version string
	updated time.Time
	stop    func() // DNS
	timer   *time.Timer
	row     *snapshot.Cluster // nil until hosts are known
}

// clusterState is one cluster by name.
type clusterState struct {
	name    string
	static  bool
	feed    *feed
	serving *clusterVersion
	warming *clusterVersion
	active  *snapshot.Cluster // what snapshots get; nil while the first version warms
	doomed  *time.Timer       // removed by the control plane, kept while routes still point at it
}

// serviceState is one EDS assignment by service name.
type serviceState struct {
	name     string
	feed     *feed
	users    map[string]bool
	received bool
	hash     resource.Hash
	input    hostset.Input
	proto    *endpointv3.ClusterLoadAssignment
	version  string
	updated  time.Time
}

func (c *Controller) applyClusters(f *feed, d ads.Deliver) []ads.Rejection {
	var rej []ads.Rejection
	for _, r := range d.Changed {
		dec, err := resource.Decode(resource.Cluster, r.TypeURL, r.Body, resource.Options{})
		if err == nil && c.clusterUnchanged(dec) {
			c.forgetRejection(resource.Cluster, dec.Name)
			continue
		}
		name := r.Name
		if err == nil {
			name = dec.Name
			err = c.addCluster(f, dec, first(r.Version, d.Version), false)
		}
		if err != nil {
			for _, l := range c.reject(resource.Cluster, name, first(r.Version, d.Version), r.Body, err) {
				rej = append(rej, ads.Rejection{Name: r.Name, Text: fmt.Sprintf("Error adding/updating cluster(s) %s: %s", name, l)})
			}
		}
	}
	if len(d.Removed) > 0 {
		used := c.referenced()
		for _, name := range d.Removed {
			c.dropOrDoom(name, used)
		}
	}
	return rej
}

func (c *Controller) clusterUnchanged(d *resource.Decoded) bool {
	s := c.clusters[d.Name]
	switch {
	case s == nil:
		return false
	case s.doomed != nil:
		s.doomed.Stop() // it came back
		s.doomed = nil
		return s.serving != nil && s.serving.hash == d.Hash
	case s.static:
		return true // a dynamic cluster named like a static one is accepted and ignored
	case s.warming != nil:
		return s.warming.hash == d.Hash
	}
	return s.serving != nil && s.serving.hash == d.Hash
}

func (c *Controller) addCluster(f *feed, d *resource.Decoded, version string, static bool) error {
	cl := d.Message.(*clusterv3.Cluster)
	rep := &registry.Report{}
	ctx := &registry.Ctx{Unknown: c.unknown(static), Report: rep, Env: &cluster.Env{Stats: c.cfg.Stats, Cluster: c.in.Cluster,
		DefaultBind: c.cfg.Bootstrap.Proto.GetClusterManager().GetUpstreamBindConfig()}}
	plan, err := cluster.Compile(ctx, cl, hash64(d.Hash))
	if err != nil {
		return err
	}
	v := &clusterVersion{plan: plan, hash: d.Hash, proto: cl, version: version, updated: time.Now()}
	s := c.clusters[d.Name]
	var edsFeed *feed
	if plan.EDS != nil {
		src, err := c.source(plan.EDS.Source, "eds_cluster_config.eds_config")
		if err == nil {
			edsFeed, err = c.feedFor(resource.Endpoints, src)
		}
		if err != nil {
			return err
		}
	}
	if s == nil {
		s = &clusterState{name: d.Name, static: static}
		c.clusters[d.Name] = s
		c.mgr.cm.Inc(stats.ClusterManagerClusterAdded)
	} else {
		c.mgr.cm.Inc(stats.ClusterManagerClusterModified)
	}
	s.feed = f
	c.accept(resource.Cluster, d.Name, rep)
	if s.warming != nil {
		c.dropClusterVersion(s, s.warming, service(plan))
	}
	s.warming = v
	c.discover(s, v, edsFeed)
	c.clusterGauges()
	return nil
}

// discover starts finding the members of a version; those that are known make it warm at once.
func (c *Controller) discover(s *clusterState, v *clusterVersion, edsFeed *feed) {
	p := v.plan
	switch {
	case p.EDS != nil:
		sv := c.services[p.EDS.Name]
		if sv == nil {
			sv = &serviceState{name: p.EDS.Name, feed: edsFeed, users: map[string]bool{}}
			c.services[p.EDS.Name] = sv
			edsFeed.subscribe(resource.Endpoints, false, p.EDS.Name)
		}
		sv.users[s.name] = true
		if sv.received {
			c.warm(s, v, sv.input)
			return
		}
		if t := p.EDS.FetchTimeout; t > 0 {
			v.timer = c.after(t, func() {
				if s.warming == v {
					c.mgr.eds(v.plan.Config.StatName).Inc(stats.ClusterEDSInitFetchTimeout)
					c.warm(s, v, hostset.Input{})
				}
			})
		}
	case p.DNS != nil:
		v.stop = c.cfg.Resolver.Watch(p.DNS, func(answers func(int) []netip.Addr) {
			c.Post(func() {
				var prev *hostset.Hosts
				if s.active != nil && s.serving == v {
					prev = s.active.Hosts
				}
				c.members(s, v, p.DNS.Assignment.Input(prev, answers))
			})
		})
	case p.Static != nil:
		c.warm(s, v, *p.Static)
	default:
		c.warm(s, v, hostset.Input{})
	}
}

// members takes a new membership of a version from DNS or EDS.
func (c *Controller) members(s *clusterState, v *clusterVersion, in hostset.Input) {
	switch {
	case s.warming == v:
		c.warm(s, v, in)
	case s.serving == v:
		c.update(s, v, in)
	}
}

// monotonic is the workers' clock: slow start counts on it.
var monotonic = sys.NewLinux()

func (c *Controller) hosts(prev *hostset.Hosts, v *clusterVersion, in hostset.Input) *hostset.Hosts {
	in.Now = monotonic.Now()
	if b := v.plan.Config.Balance; b != nil {
		return b.Build(prev, in)
	}
	return hostset.Build(prev, in)
}

// warm makes a version with members the serving one.
func (c *Controller) warm(s *clusterState, v *clusterVersion, in hostset.Input) {
	var prev *hostset.Hosts
	if s.active != nil {
		prev = s.active.Hosts
	}
	row := &snapshot.Cluster{ClusterConfig: v.plan.Config, Hosts: c.hosts(prev, v, in)}
	v.row = row
	if v.timer != nil {
		v.timer.Stop()
	}
	old := s.serving
	s.serving, s.warming, s.active = v, nil, row
	c.dirty.clusters[s.name] = true
	c.membership(v, row.Hosts)
	if old != nil {
		c.dropClusterVersion(s, old, service(v.plan))
	}
	c.clusterWarm(s.name)
	c.clusterGauges()
	c.mayRelease()
}

// update gives the serving version new members.
func (c *Controller) update(s *clusterState, v *clusterVersion, in hostset.Input) {
	h := c.hosts(s.active.Hosts, v, in)
	cs := c.mgr.clusterConfig(v.plan.Config.StatName)
	cs.Inc(stats.ClusterConfigUpdateSuccess)
	if h == s.active.Hosts {
		cs.Inc(stats.ClusterConfigUpdateNoRebuild)
		return
	}
	row := &snapshot.Cluster{ClusterConfig: v.plan.Config, Hosts: h}
	v.row, s.active = row, row
	c.dirty.clusters[s.name] = true
	cs.Inc(stats.ClusterConfigMembershipChange)
	c.membership(v, h)
	c.mgr.cm.Inc(stats.ClusterManagerClusterUpdated)
}

func (c *Controller) membership(v *clusterVersion, h *hostset.Hosts) {
	cs := c.mgr.clusterConfig(v.plan.Config.StatName)
	total, healthy, degraded := 0, 0, 0
	for i := range h.Priorities {
		p := &h.Priorities[i]
		total += len(p.Hosts)
		healthy += p.Healthy
		degraded += p.DegradedN
	}
	cs.Set(stats.ClusterConfigMembershipTotal, int64(total))
	cs.Set(stats.ClusterConfigMembershipHealthy, int64(healthy))
	cs.Set(stats.ClusterConfigMembershipDegraded, int64(degraded))
}

// dropClusterVersion ends the discovery of a version; keep is the EDS service that the cluster goes on using.
func (c *Controller) dropClusterVersion(s *clusterState, v *clusterVersion, keep string) {
	if v.timer != nil {
		v.timer.Stop()
	}
	if v.stop != nil {
		v.stop()
	}
	if sv := service(v.plan); sv != "" && sv != keep {
		c.leaveService(sv, s.name)
	}
}

func (c *Controller) leaveService(service, cluster string) {
	sv := c.services[service]
	if sv == nil {
		return
	}
	delete(sv.users, cluster)
	if len(sv.users) == 0 {
		delete(c.services, service)
		c.forget(resource.Endpoints, service)
		sv.feed.unsubscribe(resource.Endpoints, service)
	}
}

func (c *Controller) removeCluster(name string) {
	s := c.clusters[name]
	c.forget(resource.Cluster, name)
	if s == nil || s.static {
		return
	}
	delete(c.clusters, name)
	if s.doomed != nil {
		s.doomed.Stop()
		s.doomed = nil
	}
	for _, v := range []*clusterVersion{s.warming, s.serving} {
		if v != nil {
			c.dropClusterVersion(s, v, "")
			c.mgr.dropCluster(v.plan.Config)
		}
	}
	c.dirty.clusters[name] = true
	c.mgr.cm.Inc(stats.ClusterManagerClusterRemoved)
	c.clusterGauges()
	c.clusterWarm(name) // routes must not wait for what is gone
	c.mayRelease()
}

// maxDoom bounds how long a removed cluster serves routes that still point at it.
const maxDoom = 2 * time.Second

// referenced is the set of clusters that active routes and TCP proxies name.
func (c *Controller) referenced() map[string]bool {
	used := map[string]bool{}
	for _, r := range c.routes {
		if r.table != nil {
			for _, ref := range r.table.Clusters {
				used[ref.Name] = true
			}
		}
	}
	for _, s := range c.listeners {
		if s.active == nil {
			continue
		}
		for _, fc := range append(s.active.model.Chains[:len(s.active.model.Chains):len(s.active.model.Chains)], s.active.model.Default) {
			if fc == nil || fc.TCP == nil {
				continue
			}
			if fc.TCP.Cluster != nil {
				used[fc.TCP.Cluster.Name] = true
			}
			if w := fc.TCP.Weighted; w != nil {
				for i := range w.Clusters {
					used[w.Clusters[i].Cluster.Name] = true
				}
			}
		}
	}
	return used
}

// dropOrDoom removes a cluster, or lets it serve a little longer: a control plane that moves routes from one cluster to another in one push sends
// CDS before RDS, and the requests in between must not fail.
func (c *Controller) dropOrDoom(name string, used map[string]bool) {
	s := c.clusters[name]
	if s == nil || s.static || s.active == nil || !used[name] {
		c.removeCluster(name)
		return
	}
	if s.doomed == nil {
		s.doomed = c.after(maxDoom, func() {
			if c.clusters[name] == s && s.doomed != nil {
				c.removeCluster(name)
			}
		})
	}
}

// reapDoomed removes doomed clusters that nothing points at any more.
func (c *Controller) reapDoomed() {
	var doomed []string
	for n, s := range c.clusters {
		if s.doomed != nil {
			doomed = append(doomed, n)
		}
	}
	if len(doomed) == 0 {
		return
	}
	used := c.referenced()
	for _, n := range doomed {
		if !used[n] {
			c.removeCluster(n)
		}
	}
}

// anyWarming tells whether a cluster that came over f still warms.
func (c *Controller) anyWarming(f *feed) bool {
	for _, s := range c.clusters {
		if s.warming != nil && s.feed == f {
			return true
		}
	}
	return false
}

// mayRelease sends withheld CDS answers of feeds whose clusters are all warm.
func (c *Controller) mayRelease() {
	for key := range c.warmWait {
		f := c.feeds[key]
		if f == nil || c.anyWarming(f) {
			continue
		}
		delete(c.warmWait, key)
		// After the running batch: its verdict must come first.
		c.soon(func() { f.release(resource.Cluster) })
	}
}

func (c *Controller) clusterGauges() {
	active, warming := 0, 0
	for _, s := range c.clusters {
		if s.active != nil {
			active++
		}
		if s.warming != nil {
			warming++
		}
	}
	c.mgr.cm.Set(stats.ClusterManagerActiveClusters, int64(active))
	c.mgr.cm.Set(stats.ClusterManagerWarmingClusters, int64(warming))
}

// applyEndpoints handles one EDS batch; absence never removes.
func (c *Controller) applyEndpoints(f *feed, d ads.Deliver) []ads.Rejection {
	var rej []ads.Rejection
	for _, raw := range d.Changed {
		dec, err := resource.Decode(resource.Endpoints, raw.TypeURL, raw.Body, resource.Options{})
		name := raw.Name
		if err == nil {
			name = dec.Name
		}
		sv := c.services[name]
		if sv == nil && err == nil {
			continue
		}
		if err == nil && sv.received && sv.hash == dec.Hash {
			c.forgetRejection(resource.Endpoints, name)
			continue
		}
		if err == nil {
			err = c.addEndpoints(sv, dec, first(raw.Version, d.Version))
		}
		if err != nil {
			for _, l := range c.reject(resource.Endpoints, name, first(raw.Version, d.Version), raw.Body, err) {
				rej = append(rej, ads.Rejection{Name: raw.Name, Text: l})
			}
			c.eachUser(sv, func(s *clusterState, v *clusterVersion) {
				c.mgr.eds(v.plan.Config.StatName).Inc(stats.ClusterEDSUpdateRejected)
			})
		}
	}
	return rej
}

func (c *Controller) eachUser(sv *serviceState, fn func(*clusterState, *clusterVersion)) {
	if sv == nil {
		return
	}
	for _, n := range sortedKeys(sv.users) {
		s := c.clusters[n]
		if s == nil {
			continue
		}
		for _, v := range []*clusterVersion{s.warming, s.serving} {
			if v != nil && service(v.plan) == sv.name {
				fn(s, v)
			}
		}
	}
}

func (c *Controller) addEndpoints(sv *serviceState, d *resource.Decoded, version string) error {
	cla := d.Message.(*endpointv3.ClusterLoadAssignment)
	rep := &registry.Report{}
	in, err := endpoint.Compile(cla, "", c.unknown(false), rep)
	if err != nil {
		return err
	}
	in.Dedup = true
	c.accept(resource.Endpoints, sv.name, rep)
	sv.received, sv.hash, sv.input, sv.proto, sv.version, sv.updated = true, d.Hash, in, cla, version, time.Now()
	c.eachUser(sv, func(s *clusterState, v *clusterVersion) { c.members(s, v, in) })
	return nil
}

// clearEndpoints empties an assignment whose TTL ran out.
func (c *Controller) clearEndpoints(name string) {
	sv := c.services[name]
	if sv == nil {
		return
	}
	sv.input, sv.hash = hostset.Input{}, resource.Hash{}
	c.eachUser(sv, func(s *clusterState, v *clusterVersion) { c.members(s, v, hostset.Input{}) })
}

// service is the EDS name of a plan, "" when it has none.
func service(p *cluster.Result) string {
	if p.EDS == nil {
		return ""
	}
	return p.EDS.Name
}
