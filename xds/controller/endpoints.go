// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"sort"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"

	"sidecar/dataplane/hostset"
	"sidecar/internal/telemetry/stats"
	"sidecar/xds/ads"
	"sidecar/xds/compile/endpoint"
	"sidecar/xds/registry"
	"sidecar/xds/resource"
)

// serviceKey is one EDS assignment: two config sources may have assignments of the same name.
type serviceKey struct {
	feed *feed
	name string
}

// serviceState is one EDS assignment by source and service name. It lives while a version of a cluster uses it.
type serviceState struct {
	received
	key   serviceKey
	users map[*clusterVersion]*clusterState
	in    bool // the control plane has sent it
}

// input is the membership as it was sent. It is made anew when another version of a cluster needs it: keeping it beside the hosts would double
// the memory of large assignments.
func (c *Controller) input(sv *serviceState) hostset.Input {
	if sv.any == nil {
		return hostset.Input{} // expired
	}
	dec, err := resource.Decode(resource.Endpoints, sv.any.TypeUrl, sv.any.Value, resource.Options{})
	if err != nil {
		return hostset.Input{} // cannot be: it was accepted
	}
	in, err := endpoint.Compile(dec.Message.(*endpointv3.ClusterLoadAssignment), "", registry.UnknownIgnore, &registry.Report{})
	if err != nil {
		return hostset.Input{}
	}
	in.Dedup = true
	return in
}

// joinService subscribes a cluster version to its assignment.
func (c *Controller) joinService(f *feed, s *clusterState, v *clusterVersion) *serviceState {
	k := serviceKey{f, v.plan.EDS.Name}
	sv := c.services[k]
	v.scopes.inc(stats.ClusterConfigUpdateAttempt)
	if sv == nil {
		sv = &serviceState{key: k, users: map[*clusterVersion]*clusterState{}}
		c.services[k] = sv
		f.subscribe(resource.Endpoints, false, k.name)
	}
	sv.users[v] = s
	v.service = sv
	return sv
}

// leaveService ends a version's use; the last one unsubscribes. That waits until the running event is over: what replaces the version may use the
// same assignment.
func (c *Controller) leaveService(v *clusterVersion) {
	sv := v.service
	if sv == nil {
		return
	}
	v.service = nil
	delete(sv.users, v)
	if len(sv.users) > 0 {
		return
	}
	c.soon(func() {
		if len(sv.users) == 0 && c.services[sv.key] == sv {
			delete(c.services, sv.key)
			c.forget(resource.Endpoints, sv.key.name)
			sv.key.feed.unsubscribe(resource.Endpoints, sv.key.name)
		}
	})
}

// applyEndpoints handles one EDS batch; absence never removes.
func (c *Controller) applyEndpoints(f *feed, d ads.Deliver) []ads.Rejection {
	var rej []ads.Rejection
	for i := range d.Changed {
		raw := &d.Changed[i]
		version := first(raw.Version, d.Version)
		if sv := c.services[serviceKey{f, raw.Name}]; sv != nil && sv.in && sv.is(raw) {
			c.sameEndpoints(sv, version)
			continue
		}
		dec, err := c.decode(resource.Endpoints, raw)
		name := raw.Name
		if err == nil {
			name = dec.Name
		}
		sv := c.services[serviceKey{f, name}]
		switch {
		case err != nil:
		case sv == nil:
			continue // nobody uses it any more
		case sv.in && sv.hash == dec.Hash:
			c.sameEndpoints(sv, version)
			continue
		default:
			err = c.addEndpoints(sv, dec, raw, version)
		}
		if err == nil {
			continue
		}
		for _, l := range c.reject(resource.Endpoints, name, version, raw, err) {
			rej = append(rej, ads.Rejection{Name: raw.Name, Text: l})
		}
		sv.each(func(_ *clusterState, v *clusterVersion) { v.scopes.rejected(f.delta) })
	}
	return rej
}

// sameEndpoints counts an assignment that was re-sent unchanged.
func (c *Controller) sameEndpoints(sv *serviceState, version string) {
	c.forgetRejection(resource.Endpoints, sv.key.name)
	sv.version = version
	sv.each(func(_ *clusterState, v *clusterVersion) {
		v.scopes.accepted(version)
		v.scopes.inc(stats.ClusterConfigUpdateNoRebuild)
	})
}

// each calls fn for every user, by cluster name, the warming version first; fn may change the users.
func (sv *serviceState) each(fn func(*clusterState, *clusterVersion)) {
	if sv == nil {
		return
	}
	type user struct {
		s *clusterState
		v *clusterVersion
	}
	list := make([]user, 0, len(sv.users))
	for v, s := range sv.users {
		list = append(list, user{s, v})
	}
	sort.Slice(list, func(i, j int) bool {
		a, b := list[i], list[j]
		if a.s != b.s {
			return a.s.name < b.s.name
		}
		return a.s.warming == a.v
	})
	for _, u := range list {
		fn(u.s, u.v)
	}
}

func (c *Controller) addEndpoints(sv *serviceState, d *resource.Decoded, raw *ads.Raw, version string) error {
	rep := &registry.Report{}
	var in hostset.Input
	err := c.guard(resource.Endpoints, sv.key.name, func() (err error) {
		in, err = endpoint.Compile(d.Message.(*endpointv3.ClusterLoadAssignment), "", c.unknown(false), rep)
		return err
	})
	if err != nil {
		return err
	}
	in.Dedup = true
	c.accept(resource.Endpoints, sv.key.name, rep)
	sv.received, sv.in = receivedOf(d, raw, version), true
	sv.each(func(s *clusterState, v *clusterVersion) {
		if v.service == sv {
			v.scopes.accepted(version)
			c.members(s, v, in)
		}
	})
	return nil
}

// clearEndpoints empties an assignment whose TTL ran out.
func (c *Controller) clearEndpoints(f *feed, name string) {
	sv := c.services[serviceKey{f, name}]
	if sv == nil {
		return
	}
	sv.received = received{}
	sv.each(func(s *clusterState, v *clusterVersion) { c.members(s, v, hostset.Input{}) })
}
