// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"strings"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"sidecar/dataplane/match"
	"sidecar/dataplane/route"
	"sidecar/internal/telemetry/stats"
	"sidecar/xds/ads"
	"sidecar/xds/registry"
	"sidecar/xds/resource"
)

// routeState is one route configuration by name: from RDS, or inline in a listener.
type routeState struct {
	name     string
	ref      *route.TableRef
	inline   bool
	feed     *feed
	asked    bool
	absent   bool            // asked for and gone: served without table
	users    map[string]bool // listener names
	prefixes map[string]bool // stat prefixes of the connection managers that use it

	table   *route.Table
	hash    resource.Hash
	proto   *routev3.RouteConfiguration
	version string
	updated time.Time

	// next waits until the clusters that it newly points at are warm.
	next *pendingTable
}

type pendingTable struct {
	table   *route.Table
	hash    resource.Hash
	proto   *routev3.RouteConfiguration
	version string
	waits   map[string]bool // cluster names
	timer   *time.Timer
}

func (c *Controller) routeState(name string, ref *route.TableRef) *routeState {
	r := c.routes[name]
	if r == nil {
		r = &routeState{name: name, ref: ref, users: map[string]bool{}, prefixes: map[string]bool{}}
		c.routes[name] = r
	}
	return r
}

func clean(s string) string { return strings.ReplaceAll(s, ":", "_") }

// applyRoutes handles one RDS batch. Absence never removes; names nobody asked for were dropped by the session.
func (c *Controller) applyRoutes(f *feed, d ads.Deliver) []ads.Rejection {
	var rej []ads.Rejection
	for _, raw := range d.Changed {
		dec, err := resource.Decode(resource.RouteConfiguration, raw.TypeURL, raw.Body, resource.Options{})
		name := raw.Name
		if err == nil {
			name = dec.Name
		}
		r := c.routes[name]
		if r == nil || r.inline {
			if err == nil {
				continue // nobody uses it any more
			}
		}
		if err == nil && r.unchanged(dec.Hash) {
			c.forgetRejection(resource.RouteConfiguration, name)
			continue
		}
		if err == nil {
			err = c.addRoute(r, dec, first(raw.Version, d.Version))
		}
		if err != nil {
			for _, l := range c.reject(resource.RouteConfiguration, name, first(raw.Version, d.Version), raw.Body, err) {
				rej = append(rej, ads.Rejection{Name: raw.Name, Text: l})
			}
			if r != nil {
				c.eachRoutePrefix(r, func(s *stats.Block) { s.Inc(stats.SubscriptionUpdateRejected) })
			}
		}
	}
	return rej
}

func (r *routeState) unchanged(h resource.Hash) bool {
	if r.next != nil {
		return r.next.hash == h
	}
	return r.table != nil && r.hash == h
}

func (c *Controller) eachRoutePrefix(r *routeState, fn func(*stats.Block)) {
	for p := range r.prefixes {
		fn(c.mgr.subscription("http." + p + ".rds." + clean(r.name) + "."))
	}
}

func (c *Controller) addRoute(r *routeState, d *resource.Decoded, version string) error {
	rc := d.Message.(*routev3.RouteConfiguration)
	rep := &registry.Report{}
	ctx := &registry.Ctx{Schema: c.schema, Unknown: c.unknown(false), Report: rep, Env: c.cfg.Compile.routeEnv(c)}
	t, err := c.cfg.Compile.Routes(c, ctx, rc, hash64(d.Hash), false)
	if err != nil {
		return err
	}
	c.accept(resource.RouteConfiguration, r.name, rep)
	p := &pendingTable{table: t, hash: d.Hash, proto: rc, version: version, waits: map[string]bool{}}
	for _, ref := range t.Clusters {
		if s := c.clusters[ref.Name]; s != nil && s.active == nil && s.warming != nil {
			p.waits[ref.Name] = true
		}
	}
	if r.next != nil && r.next.timer != nil {
		r.next.timer.Stop()
	}
	r.next = p
	if len(p.waits) > 0 {
		p.timer = c.after(maxHold, func() {
			if r.next == p {
				clear(p.waits)
				c.tryRoute(r)
			}
		})
	}
	c.tryRoute(r)
	return nil
}

// tryRoute switches to the pending table when the clusters it newly points at are warm: a route and its cluster pushed together lose no request.
func (c *Controller) tryRoute(r *routeState) {
	p := r.next
	if p == nil || len(p.waits) > 0 {
		return
	}
	if p.timer != nil {
		p.timer.Stop()
	}
	r.next = nil
	r.table, r.hash, r.proto, r.version, r.updated = p.table, p.hash, p.proto, p.version, time.Now()
	r.absent = false
	c.dirty.routes[r.name] = true
	c.eachRoutePrefix(r, func(s *stats.Block) {
		s.Inc(stats.SubscriptionUpdateSuccess)
		s.Set(stats.SubscriptionVersion, int64(versionHash(p.version)))
	})
	for p := range r.prefixes {
		c.mgr.reload("http." + p + ".rds." + clean(r.name) + ".").Inc(stats.ReloadConfigReload)
	}
	c.routeArrived(r.name)
	c.soon(c.reapDoomed)
}

// routeArrived lets listeners go on that waited for the route configuration.
func (c *Controller) routeArrived(name string) {
	for _, ln := range sortedKeys(c.routes[name].users) {
		s := c.listeners[ln]
		if s == nil || s.warming == nil || !s.warming.waits[name] {
			continue
		}
		delete(s.warming.waits, name)
		c.tryActivate(s)
	}
}

// clusterWarm lets route tables go on that waited for the cluster.
func (c *Controller) clusterWarm(name string) {
	for _, r := range c.routes {
		if r.next != nil && r.next.waits[name] {
			delete(r.next.waits, name)
			c.tryRoute(r)
		}
	}
}

// clearRoute drops the table of a route configuration whose TTL ran out.
func (c *Controller) clearRoute(name string) {
	if r := c.routes[name]; r != nil && !r.inline {
		r.table, r.absent = nil, true
		c.dirty.routes[name] = true
	}
}

// dropRouteUser ends a listener's use of a route configuration; the last user unsubscribes it.
func (c *Controller) dropRouteUser(name, listener string) {
	r := c.routes[name]
	if r == nil || c.usesRoute(listener, name) {
		return
	}
	delete(r.users, listener)
	if len(r.users) > 0 {
		return
	}
	delete(c.routes, name)
	c.dirty.routes[name] = true
	c.forget(resource.RouteConfiguration, name)
	if r.feed != nil && r.asked {
		r.feed.unsubscribe(resource.RouteConfiguration, name)
	}
}

func (c *Controller) usesRoute(listener, name string) bool {
	s := c.listeners[listener]
	if s == nil {
		return false
	}
	for _, v := range []*listenerVersion{s.active, s.warming} {
		if v == nil {
			continue
		}
		for _, r := range v.res.RDS {
			if r.Name == name {
				return true
			}
		}
		for _, in := range v.res.Inline {
			if in.Ref.Name == name {
				return true
			}
		}
	}
	return false
}

// versionHash is the number that Envoy shows as *.version: xxHash64 of the text.
func versionHash(s string) uint64 { return match.XXHash64([]byte(s), 0) }
