// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"bytes"
	"fmt"
	"net/netip"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"sidecar/dataplane/hostset"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/stats"
	"sidecar/xds/ads"
	"sidecar/xds/compile/cluster"
	"sidecar/xds/registry"
	"sidecar/xds/resource"
)

// Resolver discovers the members of DNS clusters; implemented by internal/resolve behind an adapter in internal/app. onUpdate gets every answer;
// the first one comes when every name was tried once, successful or not. It must not be called from within Watch (the controller is busy then);
// any other goroutine may.
type Resolver interface {
	Watch(d *cluster.DNS, onUpdate func(answers func(i int) []netip.Addr)) (stop func())
}

// received is one accepted version of a resource as it came.
type received struct {
	hash    resource.Hash
	any     *anypb.Any // unmodified; what dumps show
	version string
	updated time.Time
}

// is tells whether raw has the very bytes of the version, which saves decoding what is re-sent unchanged.
func (r *received) is(raw *ads.Raw) bool {
	return r.any != nil && r.any.TypeUrl == raw.TypeURL && bytes.Equal(r.any.Value, raw.Body)
}

func receivedOf(d *resource.Decoded, raw *ads.Raw, version string) received {
	r := received{hash: d.Hash, version: version, updated: time.Now()}
	if raw != nil {
		r.any = &anypb.Any{TypeUrl: raw.TypeURL, Value: raw.Body}
	} else {
		r.any, _ = anypb.New(d.Message) // from the bootstrap: it was decoded, so it encodes
	}
	return r
}

// clusterVersion is one accepted version of a cluster.
type clusterVersion struct {
	received
	plan    *cluster.Result
	scopes  clusterScopes
	service *serviceState // EDS
	stop    func()        // DNS
	timer   *time.Timer   // initial_fetch_timeout
	tls     *tlsUse
	members *hostset.Input // found while secrets are missing
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

// newest is the version that the control plane sent last.
func (s *clusterState) newest() *clusterVersion {
	if s.warming != nil {
		return s.warming
	}
	return s.serving
}

// tally adds the cluster to the counts (n = 1), or takes it out (-1) before it changes.
func (c *Controller) tally(s *clusterState, n int) {
	if s.active != nil {
		c.activeClusters += n
	}
	if v := s.warming; v != nil {
		c.warmingClusters += n
		if v.plan.WaitForWarm {
			c.awaitedClusters += n
		}
		if s.feed != nil {
			s.feed.warming += n
		}
	}
}

func (c *Controller) applyClusters(f *feed, d ads.Deliver) []ads.Rejection {
	var rej []ads.Rejection
	for i := range d.Changed {
		r := &d.Changed[i]
		if s := c.clusters[r.Name]; s != nil && c.clusterSame(s, func(v *clusterVersion) bool { return v.is(r) }) {
			c.forgetRejection(resource.Cluster, r.Name)
			continue
		}
		version := first(r.Version, d.Version)
		dec, err := c.decode(resource.Cluster, r)
		name := r.Name
		if err == nil {
			name = dec.Name
			if s := c.clusters[name]; s != nil && c.clusterSame(s, func(v *clusterVersion) bool { return v.hash == dec.Hash }) {
				c.forgetRejection(resource.Cluster, name)
				continue
			}
			if err = c.addCluster(f, dec, r, version); err != nil {
				c.countOffered(name) // Envoy counts before it looks
			}
		}
		if err == nil {
			c.cdsChanged = true
			continue
		}
		for _, l := range c.reject(resource.Cluster, name, version, r, err) {
			rej = append(rej, ads.Rejection{Name: r.Name, Text: fmt.Sprintf("Error adding/updating cluster(s) %s: %s", name, l)})
		}
	}
	c.countDemanded(f, &d)
	for _, name := range d.Removed {
		c.dropOrDoom(name)
		c.clusterAnswered(name, false)
	}
	return rej
}

// clusterSame tells whether an offered cluster is what there is; a removed one that comes back lives on.
func (c *Controller) clusterSame(s *clusterState, same func(*clusterVersion) bool) bool {
	if s.static {
		return true // a dynamic cluster named like a static one is accepted and ignored
	}
	if s.doomed != nil {
		s.doomed.Stop()
		s.doomed = nil
	}
	v := s.newest()
	return v != nil && same(v)
}

// addCluster takes a cluster in; raw is nil for one of the bootstrap.
func (c *Controller) addCluster(f *feed, d *resource.Decoded, raw *ads.Raw, version string) error {
	static := raw == nil
	cl := d.Message.(*clusterv3.Cluster)
	rep := &registry.Report{}
	ctx := &registry.Ctx{Unknown: c.unknown(static), Report: rep, Env: &cluster.Env{Stats: c.cfg.Stats, Runtime: c.runtime, Cluster: c.internCluster, Secrets: c.cfg.Compile.Secrets,
		DefaultBind: c.cfg.Bootstrap.Proto.GetClusterManager().GetUpstreamBindConfig()}}
	var plan *cluster.Result
	err := c.guard(resource.Cluster, d.Name, func() (err error) {
		plan, err = cluster.Compile(ctx, cl, hash64(d.Hash))
		return err
	})
	if err != nil {
		return err
	}
	var edsFeed *feed
	if plan.EDS != nil {
		src, err := c.source(plan.EDS.Source, "eds_cluster_config.eds_config")
		if err == nil {
			edsFeed, err = c.feedFor(resource.Endpoints, src, "")
		}
		if err != nil {
			releaseScope(plan.Config.Traffic)
			releaseScope(plan.Config.H2Scope)
			releaseScope(plan.Config.PassedScope)
			plan.Config.TLSStats.Release()
			return err
		}
	}
	v := &clusterVersion{received: receivedOf(d, raw, version), plan: plan, scopes: c.mgr.cluster(plan.Config, plan.EDS != nil)}
	plan.Config.AddedViaAPI = !static
	s := c.clusters[d.Name]
	if s == nil {
		s = &clusterState{name: d.Name, static: static}
	}
	if v.tls, err = c.clusterSecrets(s, v); err != nil {
		v.scopes.release()
		releaseScope(plan.Config.Traffic)
		releaseScope(plan.Config.H2Scope)
		releaseScope(plan.Config.PassedScope)
		plan.Config.TLSStats.Release()
		return err
	}
	c.countOffered(d.Name)
	c.clusters[d.Name] = s
	c.tally(s, -1)
	s.feed = f
	c.accept(resource.Cluster, d.Name, rep)
	old := s.warming
	s.warming = v
	c.tally(s, 1)
	if old != nil {
		c.endVersion(s, old)
	}
	c.discover(s, v, edsFeed)
	return nil
}

// clusterSecrets subscribes a version to the secrets of its TLS contexts. It warms when they and the members are there.
func (c *Controller) clusterSecrets(s *clusterState, v *clusterVersion) (*tlsUse, error) {
	contexts := c.cfg.Compile.clusterTLS(v.plan)
	if len(contexts) == 0 {
		return nil, nil
	}
	scope := c.cfg.Stats.Scope("cluster."+v.plan.Config.StatName+".client_ssl_socket_factory.", stats.SSLSocketFactoryDef)
	return c.useSecrets(contexts, scope, s.serving != nil, func() {
		if in := v.members; in != nil && s.warming == v {
			v.members = nil
			c.warm(s, v, *in)
		}
	})
}

// countOffered counts a cluster that is new or changed.
func (c *Controller) countOffered(name string) {
	if c.clusters[name] == nil {
		c.mgr.cm.Inc(stats.ClusterManagerClusterAdded)
	} else {
		c.mgr.cm.Inc(stats.ClusterManagerClusterModified)
	}
}

func releaseScope(s *stats.Scope) {
	if s != nil {
		s.Release()
	}
}

// discover starts finding the members of a version; those that are known make it warm at once.
func (c *Controller) discover(s *clusterState, v *clusterVersion, edsFeed *feed) {
	p := v.plan
	switch {
	case p.EDS != nil:
		sv := c.joinService(edsFeed, s, v)
		if sv.in {
			c.warm(s, v, c.input(sv))
			return
		}
		if t := p.EDS.FetchTimeout; t > 0 {
			v.timer = c.after(t, func() {
				if s.warming == v {
					v.scopes.timedOut()
					c.warm(s, v, hostset.Input{})
				}
			})
		}
	case p.DNS != nil && len(p.DNS.Assignment.Targets) == 0:
		c.warm(s, v, p.DNS.Assignment.Input(nil, func(int) []netip.Addr { return nil }))
	case p.DNS != nil:
		v.stop = c.cfg.Resolver.Watch(p.DNS, func(answers func(int) []netip.Addr) {
			c.Post(func() {
				var prev *hostset.Hosts
				if s.active != nil && s.serving == v {
					prev = s.active.Hosts
				}
				if s.warming == v || s.serving == v {
					c.members(s, v, p.DNS.Assignment.Input(prev, answers))
				}
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

// warm makes a version with members the serving one, or keeps them until its secrets are there.
func (c *Controller) warm(s *clusterState, v *clusterVersion, in hostset.Input) {
	if v.timer != nil {
		v.timer.Stop()
		v.timer = nil
	}
	if v.tls.waiting() {
		v.members = &in
		return
	}
	var prev *hostset.Hosts
	if s.active != nil {
		prev = s.active.Hosts
	}
	row := &snapshot.Cluster{ClusterConfig: v.plan.Config, Hosts: c.hosts(prev, v, in)}
	c.tally(s, -1)
	old := s.serving
	s.serving, s.warming, s.active = v, nil, row
	v.scopes.serve(v.plan.Config)
	c.tally(s, 1)
	c.dirty.clusters[row.Ref] = true
	c.membership(v, nil, row.Hosts) // a new version counts its members anew
	if v.plan.EDS != nil && row.Hosts.Total == 0 {
		v.scopes.inc(stats.ClusterConfigUpdateNoRebuild)
	}
	if old != nil {
		c.endVersion(s, old)
	}
	c.clusterWarm(s.name)
	c.clusterAnswered(s.name, true)
	if f := s.feed; f != nil && f.warming == 0 && f.withheld {
		f.withheld = false
		// After the running batch: its verdict must come first.
		c.soon(func() { f.step(ads.Release{TypeURL: resource.Cluster.URL()}) })
	}
}

// update gives the serving version new members.
func (c *Controller) update(s *clusterState, v *clusterVersion, in hostset.Input) {
	prev := s.active.Hosts
	h := c.hosts(prev, v, in)
	if h == prev {
		v.scopes.inc(stats.ClusterConfigUpdateNoRebuild)
		return
	}
	s.active = &snapshot.Cluster{ClusterConfig: v.plan.Config, Hosts: h}
	c.dirty.clusters[s.active.Ref] = true
	c.membership(v, prev, h)
	c.mgr.cm.Inc(stats.ClusterManagerClusterUpdated)
}

// membership sets the gauges and counts a change of who is a member (other than of weights or health).
func (c *Controller) membership(v *clusterVersion, prev, h *hostset.Hosts) {
	b := v.scopes.conf.Control()
	healthy, degraded := 0, 0
	for i := range h.Priorities {
		healthy += h.Priorities[i].Healthy
		degraded += h.Priorities[i].DegradedN
	}
	b.Set(stats.ClusterConfigMembershipTotal, int64(h.Total))
	b.Set(stats.ClusterConfigMembershipHealthy, int64(healthy))
	b.Set(stats.ClusterConfigMembershipDegraded, int64(degraded))
	b.Set(stats.ClusterConfigMaxHostWeight, int64(max(h.MaxWeight, 1)))
	if !hostset.SameMembers(prev, h) {
		b.Inc(stats.ClusterConfigMembershipChange)
	}
}

// endVersion ends the discovery of a version that s has no more, and gives back what it held.
func (c *Controller) endVersion(s *clusterState, v *clusterVersion) {
	if v.timer != nil {
		v.timer.Stop()
	}
	if v.stop != nil {
		v.stop()
	}
	c.leaveService(v)
	c.leaveSecrets(v.tls)
	v.scopes.release()
	releaseScope(v.plan.Config.Traffic)
	releaseScope(v.plan.Config.H2Scope)
	releaseScope(v.plan.Config.PassedScope)
	v.plan.Config.TLSStats.Release()
}

func (c *Controller) removeCluster(name string) {
	s := c.clusters[name]
	if s == nil || s.static {
		c.forget(resource.Cluster, name)
		return
	}
	c.forget(resource.Cluster, name)
	delete(c.clusters, name)
	if s.doomed != nil {
		s.doomed.Stop()
		s.doomed = nil
	}
	c.tally(s, -1)
	warming, serving := s.warming, s.serving
	s.warming, s.serving, s.active = nil, nil, nil
	for _, v := range []*clusterVersion{warming, serving} {
		if v != nil {
			c.endVersion(s, v)
		}
	}
	if r := c.in.Known(name); r != nil {
		c.dirty.clusters[r] = true
	}
	c.mgr.cm.Inc(stats.ClusterManagerClusterRemoved)
	c.cdsChanged = true
	c.clusterWarm(name) // routes must not wait for what is gone
	if f := s.feed; f != nil && f.warming == 0 && f.withheld {
		f.withheld = false
		c.soon(func() { f.step(ads.Release{TypeURL: resource.Cluster.URL()}) })
	}
	c.mayReleaseName(name)
}

// maxDoom bounds how long a removed cluster serves routes that still point at it, beside the lag between sources.
const maxDoom = 2 * time.Second

// dropOrDoom removes a cluster, or lets it serve a little longer: a control plane that moves routes from one cluster to another in one push sends
// CDS before RDS, and the requests in between must not fail.
func (c *Controller) dropOrDoom(name string) {
	s := c.clusters[name]
	if s == nil || s.static || s.active == nil || c.uses[name] == nil {
		c.removeCluster(name)
		return
	}
	if s.doomed == nil {
		s.doomed = c.after(maxDoom+c.lag(), func() {
			if c.clusters[name] == s && s.doomed != nil {
				c.removeCluster(name)
			}
		})
	}
}
