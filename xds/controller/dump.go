// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"sort"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"sidecar/dataplane/sys"
	"sidecar/xds/resource"
)

// dumpTimeout bounds how long a dump waits for the controller.
const dumpTimeout = 5 * time.Second

// Query says what a dump is to hold.
type Query struct {
	// Endpoints adds the EDS assignments (include_eds).
	Endpoints bool
	// Name keeps resources whose name it accepts; nil keeps all.
	Name func(string) bool
}

func (q *Query) takes(name string) bool { return q.Name == nil || q.Name(name) }

// ConfigDump returns the dynamic and static configuration as Envoy's dump messages, without Bootstrap: Clusters, Endpoints (when asked for),
// extension configurations (when there are any), Listeners, ScopedRoutes, Routes, Secrets (redacted). The resources inside are those received, unmodified; they are shared and must not be changed. Any goroutine;
// nil when the controller is gone.
func (c *Controller) ConfigDump(q Query) (out []proto.Message) {
	c.Call(dumpTimeout, func() {
		out = append(out, c.dumpClusters(&q))
		if q.Endpoints {
			out = append(out, c.dumpEndpoints(&q))
		}
		if len(c.extensions) > 0 {
			out = append(out, c.dumpExtensions(&q))
		}
		out = append(out, c.dumpListeners(&q), c.dumpScopes(&q), c.dumpRoutes(&q), c.dumpSecrets(&q))
	})
	return out
}

func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// failure is the error_state of a resource; nil when the last version was good.
func (c *Controller) failure(t resource.Type, name string) *adminv3.UpdateFailureState {
	r := c.rejected[t.String()+"/"+name]
	if r == nil {
		return nil
	}
	return r.failure()
}

func (r *Rejected) failure() *adminv3.UpdateFailureState {
	details := ""
	for i, d := range r.Details {
		if i > 0 {
			details += "\n"
		}
		details += d
	}
	return &adminv3.UpdateFailureState{FailedConfiguration: r.Any, LastUpdateAttempt: stamp(r.Last), Details: details, VersionInfo: r.Version}
}

// orphans are the refused resources of a type that have no accepted version.
func (c *Controller) orphans(t resource.Type, q *Query, known func(string) bool) []*Rejected {
	var out []*Rejected
	for _, r := range c.rejected {
		if r.Type == t && !known(r.Name) && q.takes(r.Name) {
			out = append(out, r)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

func (c *Controller) dumpClusters(q *Query) *adminv3.ClustersConfigDump {
	d := &adminv3.ClustersConfigDump{}
	if c.cds != nil {
		d.VersionInfo = c.cds.version[resource.Cluster]
	}
	for _, name := range sortedKeys(c.clusters) {
		if !q.takes(name) {
			continue
		}
		s := c.clusters[name]
		fail := c.failure(resource.Cluster, name)
		dynamic := func(v *clusterVersion) *adminv3.ClustersConfigDump_DynamicCluster {
			x := &adminv3.ClustersConfigDump_DynamicCluster{VersionInfo: v.version, Cluster: v.any, LastUpdated: stamp(v.updated), ErrorState: fail}
			fail = nil
			return x
		}
		switch {
		case s.static:
			d.StaticClusters = append(d.StaticClusters, &adminv3.ClustersConfigDump_StaticCluster{Cluster: s.newest().any, LastUpdated: stamp(s.newest().updated)})
			continue
		case s.serving != nil:
			d.DynamicActiveClusters = append(d.DynamicActiveClusters, dynamic(s.serving))
		}
		if s.warming != nil {
			d.DynamicWarmingClusters = append(d.DynamicWarmingClusters, dynamic(s.warming))
		}
	}
	for _, r := range c.orphans(resource.Cluster, q, func(n string) bool { return c.clusters[n] != nil }) {
		d.DynamicWarmingClusters = append(d.DynamicWarmingClusters, &adminv3.ClustersConfigDump_DynamicCluster{ErrorState: r.failure()})
	}
	return d
}

func (c *Controller) dumpEndpoints(q *Query) *adminv3.EndpointsConfigDump {
	d := &adminv3.EndpointsConfigDump{}
	for _, sv := range c.services {
		if !q.takes(sv.key.name) || sv.any == nil {
			continue
		}
		d.DynamicEndpointConfigs = append(d.DynamicEndpointConfigs, &adminv3.EndpointsConfigDump_DynamicEndpointConfig{VersionInfo: sv.version,
			EndpointConfig: sv.any, LastUpdated: stamp(sv.updated), ErrorState: c.failure(resource.Endpoints, sv.key.name)})
	}
	sort.Slice(d.DynamicEndpointConfigs, func(i, j int) bool {
		return resource.Peek(d.DynamicEndpointConfigs[i].EndpointConfig.Value) < resource.Peek(d.DynamicEndpointConfigs[j].EndpointConfig.Value)
	})
	for _, name := range sortedKeys(c.clusters) {
		s := c.clusters[name]
		if a := s.newest(); a != nil && a.plan.Static != nil && q.takes(name) {
			if cla := staticAssignment(a.any); cla != nil {
				d.StaticEndpointConfigs = append(d.StaticEndpointConfigs, &adminv3.EndpointsConfigDump_StaticEndpointConfig{EndpointConfig: cla,
					LastUpdated: stamp(a.updated)})
			}
		}
	}
	return d
}

func (c *Controller) dumpListeners(q *Query) *adminv3.ListenersConfigDump {
	d := &adminv3.ListenersConfigDump{}
	if c.lds != nil {
		d.VersionInfo = c.lds.version[resource.Listener]
	}
	state := func(v *listenerVersion) *adminv3.ListenersConfigDump_DynamicListenerState {
		if v == nil {
			return nil
		}
		return &adminv3.ListenersConfigDump_DynamicListenerState{VersionInfo: v.version, Listener: v.any, LastUpdated: stamp(v.updated)}
	}
	for _, s := range c.order {
		switch {
		case !q.takes(s.name):
		case s.static:
			d.StaticListeners = append(d.StaticListeners, &adminv3.ListenersConfigDump_StaticListener{Listener: s.newest().any, LastUpdated: stamp(s.newest().updated)})
		default:
			x := &adminv3.ListenersConfigDump_DynamicListener{Name: s.name, ActiveState: state(s.active), WarmingState: state(s.warming),
				ErrorState: c.failure(resource.Listener, s.name)}
			for _, dr := range c.draining {
				if dr.model != nil && dr.name == s.name {
					x.DrainingState = &adminv3.ListenersConfigDump_DynamicListenerState{LastUpdated: stamp(dr.since)}
				}
			}
			d.DynamicListeners = append(d.DynamicListeners, x)
		}
	}
	for _, r := range c.orphans(resource.Listener, q, func(n string) bool { return c.listeners[n] != nil }) {
		d.DynamicListeners = append(d.DynamicListeners, &adminv3.ListenersConfigDump_DynamicListener{Name: r.Name, ErrorState: r.failure()})
	}
	return d
}

func (c *Controller) dumpRoutes(q *Query) *adminv3.RoutesConfigDump {
	d := &adminv3.RoutesConfigDump{}
	for _, s := range c.order {
		v := s.newest()
		for i := range v.res.Inline {
			rc := v.res.Inline[i].Config
			if !q.takes(rc.GetName()) {
				continue
			}
			a, err := anypb.New(rc)
			if err != nil {
				continue // it came from bytes that decoded, so it encodes
			}
			d.StaticRouteConfigs = append(d.StaticRouteConfigs, &adminv3.RoutesConfigDump_StaticRouteConfig{RouteConfig: a, LastUpdated: stamp(v.updated)})
		}
	}
	for _, name := range sortedKeys(c.routes) {
		r := c.routes[name]
		if !q.takes(name) {
			continue
		}
		n := r.newest()
		if n == nil {
			continue
		}
		d.DynamicRouteConfigs = append(d.DynamicRouteConfigs, &adminv3.RoutesConfigDump_DynamicRouteConfig{VersionInfo: n.version, RouteConfig: r.shown(),
			LastUpdated: stamp(n.updated), ErrorState: c.failure(resource.RouteConfiguration, name)})
	}
	for _, r := range c.orphans(resource.RouteConfiguration, q, func(n string) bool { return c.routes[n] != nil && c.routes[n].newest() != nil }) {
		d.DynamicRouteConfigs = append(d.DynamicRouteConfigs, &adminv3.RoutesConfigDump_DynamicRouteConfig{ErrorState: r.failure()})
	}
	return d
}

// Rejections returns copies of what is refused now, by type and name. Any goroutine.
func (c *Controller) Rejections() (out []Rejected) {
	c.Call(dumpTimeout, func() {
		for _, k := range sortedKeys(c.rejected) {
			out = append(out, *c.rejected[k])
		}
	})
	return out
}

// Warnings returns copies of the advisory findings of accepted resources, by type and name. Any goroutine.
func (c *Controller) Warnings() (out []Warned) {
	c.Call(dumpTimeout, func() {
		for _, k := range sortedKeys(c.warnings) {
			out = append(out, *c.warnings[k])
		}
	})
	return out
}

// InitDump lists what start-up waits for; empty once the server is live. Any goroutine.
func (c *Controller) InitDump() *adminv3.UnreadyTargetsDumps {
	out := &adminv3.UnreadyTargetsDumps{}
	add := func(manager string, targets []string) {
		if len(targets) > 0 {
			out.UnreadyTargetsDumps = append(out.UnreadyTargetsDumps, &adminv3.UnreadyTargetsDumps_UnreadyTargetsDump{Name: manager, TargetNames: targets})
		}
	}
	c.Call(dumpTimeout, func() {
		if c.phase >= phaseLive {
			return
		}
		var server []string
		if c.phase == phaseRuntime {
			for _, l := range c.layers {
				if !l.ready {
					server = append(server, "RTDS "+l.resource)
				}
			}
		}
		if c.phase < phaseListeners {
			if c.cds != nil && !c.cdsIn {
				server = append(server, "CDS")
			}
			for _, n := range sortedKeys(c.clusters) {
				if s := c.clusters[n]; s.warming != nil {
					server = append(server, "Cluster "+n)
				}
			}
		}
		if c.cfg.Bootstrap.LDS != nil && !c.ldsIn {
			server = append(server, "LDS")
		}
		add("init manager Server", server)
		for _, s := range c.order {
			if v := s.warming; v != nil {
				var waits []string
				for _, n := range sortedKeys(v.waits) {
					waits = append(waits, "RdsRouteConfigSubscription "+n)
				}
				waits = append(waits, v.tls.waitsFor()...)
				for _, x := range v.scopes {
					if x.waiting() {
						waits = append(waits, "SRDS "+x.Name)
					}
				}
				for _, u := range v.filters {
					if u.waiting(s.active != nil) {
						waits = append(waits, "FilterConfigSubscription init "+u.Name)
					}
				}
				add("init manager Listener "+s.name, waits)
			}
		}
	})
	return out
}

// ClusterStatuses is /clusters: every cluster with its hosts and their numbers. Hosts that workers made on demand (ORIGINAL_DST) are not among
// them. Any goroutine.
func (c *Controller) ClusterStatuses() *adminv3.Clusters {
	out := &adminv3.Clusters{}
	c.Call(dumpTimeout, func() {
		for _, name := range sortedKeys(c.clusters) {
			if s := c.clusters[name]; s.active != nil {
				out.ClusterStatuses = append(out.ClusterStatuses, clusterStatus(s))
			}
		}
	})
	return out
}

// ListenerAddresses lists the active listeners with their configured addresses, in order of acceptance. Any goroutine.
func (c *Controller) ListenerAddresses() (out []ListenerAddress) {
	c.Call(dumpTimeout, func() {
		for _, s := range c.order {
			if s.active == nil {
				continue
			}
			x := ListenerAddress{Name: s.name}
			for _, a := range s.active.model.Addrs {
				x.Addresses = append(x.Addresses, addressOf(a.Addr))
			}
			if s.active.model.Internal {
				x.Addresses = append(x.Addresses, addressOf(sys.InternalAddr(s.name, "")))
			}
			out = append(out, x)
		}
	})
	return out
}

// ListenerAddress is one active listener.
type ListenerAddress struct {
	Name      string
	Addresses []*corev3.Address
}
