// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"sidecar/dataplane/route"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/stats"
	"sidecar/xds/ads"
	listenercompile "sidecar/xds/compile/listener"
	"sidecar/xds/registry"
	"sidecar/xds/resource"
)

// maxHold bounds how long a route table or a listener waits for clusters that are still warming.
const maxHold = 15 * time.Second

// routeState is one route configuration of RDS by name. It lives while a listener, or connections of one that is gone, may use it.
type routeState struct {
	received
	name   string
	prefix string // of its statistics, without the name
	ref    *route.TableRef
	feed   *feed
	users  map[string]bool // listener names, and scopeSet.user
	counts *subscription
	absent bool                        // waited for in vain, or expired: listeners serve without it
	timer  *time.Timer                 // initial_fetch_timeout
	table  *route.Table                // nil until the first one
	next   *pendingTable               // waits until the clusters that it newly points at are warm, or for its virtual hosts
	vhds   *vhostUse                   // of table; nil = all virtual hosts are its own
	config *routev3.RouteConfiguration // table without virtual hosts of VHDS; nil without them
}

// pendingTable is an accepted version that is not served yet.
type pendingTable struct {
	received
	r      *routeState
	table  *route.Table
	vhds   *vhostUse
	config *routev3.RouteConfiguration
	waits  map[string]bool // cluster names
	timer  *time.Timer
}

// useRoute makes a listener, or a set of scoped routes, a user of a route configuration, which is asked for if it is not already. It tells whether the listener has to wait.
func (c *Controller) useRoute(user string, w *listenercompile.RDS) (wait bool, err error) {
	src, err := c.source(w.Source, "rds.config_source")
	if err != nil {
		return false, err
	}
	f, err := c.feedFor(resource.RouteConfiguration, src, "")
	if err != nil {
		return false, err
	}
	r := c.routes[w.Name]
	if r != nil && r.feed != f {
		return false, fmt.Errorf("rds.config_source: route configuration %q is already subscribed from another config source", w.Name)
	}
	if r == nil {
		r = &routeState{name: w.Name, prefix: "http." + w.StatPrefix + ".rds.", ref: w.Ref, feed: f, users: map[string]bool{}}
		r.counts = c.mgr.subscription(r.prefix+w.Name+".", stats.ReloadDef)
		r.counts.rds = c.mgr.reg.Scope(r.prefix+w.Name+".", stats.RDSDef)
		r.counts.attempt()
		c.routes[w.Name] = r
		f.subscribe(resource.RouteConfiguration, false, w.Name)
		if w.FetchTimeout > 0 {
			r.timer = c.after(w.FetchTimeout, func() { c.routeTimeout(r) })
		}
	}
	r.users[user] = true
	return r.table == nil && !r.absent, nil
}

// routeTimeout lets listeners serve without the route configuration (404), until it comes.
func (c *Controller) routeTimeout(r *routeState) {
	if c.routes[r.name] != r || r.table != nil || r.next != nil || r.absent {
		return
	}
	r.counts.timedOut()
	r.absent = true
	c.routeArrived(r)
}

// applyRoutes handles one RDS batch. Absence never removes; names nobody asked for were dropped by the session.
func (c *Controller) applyRoutes(f *feed, d ads.Deliver) []ads.Rejection {
	var rej []ads.Rejection
	for i := range d.Changed {
		raw := &d.Changed[i]
		version := first(raw.Version, d.Version)
		if r := c.routes[raw.Name]; r != nil && r.feed == f && r.newest() != nil && r.newest().is(raw) {
			c.sameRoute(r, version)
			continue
		}
		dec, err := c.decode(resource.RouteConfiguration, raw)
		name := raw.Name
		if err == nil {
			name = dec.Name
		}
		r := c.routes[name]
		switch {
		case err != nil:
		case r == nil || r.feed != f:
			continue // nobody uses it any more
		case r.newest() != nil && r.newest().hash == dec.Hash:
			c.sameRoute(r, version)
			continue
		default:
			err = c.addRoute(r, dec, raw, version)
		}
		if err == nil {
			continue
		}
		for _, l := range c.reject(resource.RouteConfiguration, name, version, raw, err) {
			rej = append(rej, ads.Rejection{Name: raw.Name, Text: l})
		}
		if r != nil {
			r.counts.rejected(f.delta)
		}
	}
	return rej
}

// newest is the version that the control plane sent last, nil before the first.
func (r *routeState) newest() *received {
	switch {
	case r.next != nil:
		return &r.next.received
	case r.table != nil:
		return &r.received
	}
	return nil
}

// sameRoute counts a route configuration that was re-sent unchanged.
func (c *Controller) sameRoute(r *routeState, version string) {
	c.forgetRejection(resource.RouteConfiguration, r.name)
	r.counts.accepted(version, 0)
}

func (c *Controller) addRoute(r *routeState, d *resource.Decoded, raw *ads.Raw, version string) error {
	began := time.Now()
	p := &pendingTable{received: receivedOf(d, raw, version), r: r, config: d.Message.(*routev3.RouteConfiguration)}
	var err error
	if p.vhds, err = c.virtualHostsFor(r, p.config); err != nil {
		return err
	}
	rep := &registry.Report{}
	if err := c.compileTable(p, rep); err != nil {
		c.leaveVirtualHosts(r, p.vhds)
		return err
	}
	c.accept(resource.RouteConfiguration, r.name, rep)
	r.counts.accepted(version, time.Since(began))
	if r.timer != nil {
		r.timer.Stop()
		r.timer = nil
	}
	c.offerTable(p)
	return nil
}

// compileTable makes the table of a version with the virtual hosts that there are.
func (c *Controller) compileTable(p *pendingTable, rep *registry.Report) error {
	if p.vhds == nil {
		var err error
		p.table, err = c.compileRoutes(p, rep)
		p.config = nil
		return err
	}
	return c.compileWithVirtualHosts(p, rep)
}

func (c *Controller) compileRoutes(p *pendingTable, rep *registry.Report) (t *route.Table, err error) {
	ctx := &registry.Ctx{Schema: c.schema, Unknown: c.unknown(false), Report: rep}
	err = c.guard(resource.RouteConfiguration, p.r.name, func() (err error) {
		t, err = c.cfg.Compile.Routes(c, ctx, p.config, hash64(p.hash), false)
		return err
	})
	if err == nil {
		t.Ref = p.r.ref
		if p.vhds != nil {
			t.VHDS = &route.VHDS{Wait: sys.Nanos(p.vhds.wait)}
		}
	}
	return t, err
}

// offerTable makes p the newest version, which serves as soon as it can.
func (c *Controller) offerTable(p *pendingTable) {
	r := p.r
	old := r.next
	r.next = p
	c.hold(p.table.Clusters)
	if old != nil {
		c.endPending(old)
	}
	if p.waits = c.waitFor(p, p.table.Clusters); len(p.waits) > 0 {
		p.timer = c.after(maxHold, func() {
			if r.next == p {
				c.noWait(p, p.waits)
				p.waits = nil
				c.tryTable(p)
			}
		})
	}
	c.tryTable(p)
}

// tryTable serves a version that waits for nothing.
func (c *Controller) tryTable(p *pendingTable) {
	if p.r.next == p && len(p.waits) == 0 && (p.vhds == nil || p.vhds.ready) {
		c.serveTable(p)
	}
}

// clusterWarm implements waiter: a route and its cluster pushed together lose no request.
func (p *pendingTable) clusterWarm(c *Controller, name string) {
	delete(p.waits, name)
	c.tryTable(p)
}

// dropPending gives up a version that was not served yet.
func (c *Controller) dropPending(r *routeState) {
	if p := r.next; p != nil {
		r.next = nil
		c.endPending(p)
	}
}

// endPending gives back what a version holds that is not to be served any more.
func (c *Controller) endPending(p *pendingTable) {
	p.end(c)
	c.unhold(p.table.Clusters)
	p.table.Release()
	c.leaveVirtualHosts(p.r, p.vhds)
}

func (p *pendingTable) end(c *Controller) {
	c.noWait(p, p.waits)
	if p.timer != nil {
		p.timer.Stop()
	}
}

// serveTable makes the pending version the served one.
func (c *Controller) serveTable(p *pendingTable) {
	r, old, vhds := p.r, p.r.table, p.r.vhds
	p.end(c)
	r.next, r.absent = nil, false
	r.received, r.table, r.vhds, r.config = p.received, p.table, p.vhds, p.config
	c.leaveVirtualHosts(r, vhds)
	r.updated = time.Now()
	c.dirty.routes[r.ref] = r.table
	r.counts.reloaded()
	if old != nil {
		c.unhold(old.Clusters)
		old.Release()
	}
	c.flushAnswers(r)
	c.routeArrived(r)
}

// routeArrived lets listeners go on that waited for the route configuration.
func (c *Controller) routeArrived(r *routeState) {
	for _, ln := range sortedKeys(r.users) {
		if p := c.places[ln]; p != nil {
			delete(p.waits, r.name)
			c.tryPlace(p)
			continue
		}
		s := c.listeners[ln]
		if s == nil || s.warming == nil || !s.warming.waits[r.name] {
			continue
		}
		delete(s.warming.waits, r.name)
		c.tryActivate(s)
	}
	c.scopeRouteArrived(r)
}

// clearRoute drops the table of a route configuration whose TTL ran out.
func (c *Controller) clearRoute(f *feed, name string) {
	r := c.routes[name]
	if r == nil || r.feed != f {
		return
	}
	c.dropPending(r)
	if r.table != nil {
		c.unhold(r.table.Clusters)
		r.table.Release()
	}
	vhds := r.vhds
	r.received, r.table, r.vhds, r.config, r.absent = received{}, nil, nil, nil, true
	c.leaveVirtualHosts(r, vhds)
	c.dirty.routes[r.ref] = nil
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
	c.dropPending(r)
	if r.timer != nil {
		r.timer.Stop()
	}
	if r.table != nil {
		c.unhold(r.table.Clusters)
		r.table.Release()
	}
	vhds := r.vhds
	r.vhds = nil
	c.leaveVirtualHosts(r, vhds)
	c.dirty.routes[r.ref] = nil
	c.forget(resource.RouteConfiguration, name)
	r.feed.unsubscribe(resource.RouteConfiguration, name)
	r.counts.release()
	c.in.ReleaseTable(name)
}

func (c *Controller) usesRoute(listener, name string) bool {
	s := c.listeners[listener]
	if s == nil {
		return false
	}
	for _, v := range []*listenerVersion{s.active, s.warming} {
		if v != nil && v.routes[name] {
			return true
		}
	}
	return false
}
