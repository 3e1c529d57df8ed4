// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"errors"
	"fmt"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"

	"sidecar/dataplane/snapshot"
	"sidecar/internal/telemetry/stats"
	"sidecar/xds/ads"
	listenercompile "sidecar/xds/compile/listener"
	"sidecar/xds/registry"
	"sidecar/xds/resource"
)

// listenerVersion is one accepted version of a listener.
type listenerVersion struct {
	model   *snapshot.Listener
	res     *listenercompile.Result
	hash    resource.Hash
	proto   *listenerv3.Listener
	version string
	updated time.Time
	waits   map[string]bool // RDS names that are not in yet
}

// listenerState is one listener by name.
type listenerState struct {
	name    string
	static  bool
	active  *listenerVersion
	warming *listenerVersion
}

// applyListeners handles one LDS batch: removals first, so that an address may move from one listener to another in one response.
func (c *Controller) applyListeners(f *feed, d ads.Deliver) []ads.Rejection {
	var rej []ads.Rejection
	for _, name := range d.Removed {
		if s := c.listeners[name]; s != nil && !s.static {
			c.removeListener(name)
		} else {
			c.forget(resource.Listener, name)
		}
	}
	for _, r := range d.Changed {
		dec, err := resource.Decode(resource.Listener, r.TypeURL, r.Body, resource.Options{})
		if err == nil && c.listenerUnchanged(dec) {
			c.forgetRejection(resource.Listener, dec.Name)
			continue
		}
		name := r.Name
		if err == nil {
			name = dec.Name
			err = c.addListener(dec, r.Version, false)
		}
		if err != nil {
			lines := c.reject(resource.Listener, name, first(r.Version, d.Version), r.Body, err)
			for _, l := range lines {
				rej = append(rej, ads.Rejection{Name: r.Name, Text: fmt.Sprintf("Error adding/updating listener(s) %s: %s\n", name, l)})
			}
		}
	}
	return rej
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func (c *Controller) forgetRejection(t resource.Type, name string) {
	delete(c.rejected, t.String()+"/"+name)
}

func (c *Controller) listenerUnchanged(d *resource.Decoded) bool {
	s := c.listeners[d.Name]
	if s == nil {
		return false
	}
	if s.static {
		return true // a dynamic listener named like a static one is accepted and ignored
	}
	if s.warming != nil {
		return s.warming.hash == d.Hash
	}
	return s.active != nil && s.active.hash == d.Hash
}

// addListener compiles, binds and either activates a listener or lets it warm.
func (c *Controller) addListener(d *resource.Decoded, version string, static bool) error {
	l := d.Message.(*listenerv3.Listener)
	rep := &registry.Report{}
	ctx := &registry.Ctx{Schema: c.schema, Unknown: c.unknown(static), Report: rep, Env: c.cfg.Compile.listenerEnv(c)}
	res, err := listenercompile.Compile(ctx, l, hash64(d.Hash))
	if err != nil {
		return err
	}
	res.Listener.Static = static
	if err := c.addressFree(res.Listener); err != nil {
		return err
	}
	if err := c.cfg.Plane.Prepare(res.Listener); err != nil {
		c.mgr.lm.Inc(stats.ListenerManagerListenerCreateFailure)
		return err
	}
	v := &listenerVersion{model: res.Listener, res: res, hash: d.Hash, proto: l, version: version, updated: time.Now(), waits: map[string]bool{}}
	s := c.listeners[d.Name]
	if s == nil {
		s = &listenerState{name: d.Name, static: static}
		c.listeners[d.Name] = s
		c.order = append(c.order, d.Name)
		c.mgr.lm.Inc(stats.ListenerManagerListenerAdded)
	} else {
		if s.active != nil && s.active.model.SocketKey == v.model.SocketKey {
			c.mgr.lm.Inc(stats.ListenerManagerListenerInPlaceUpdated)
		}
		c.mgr.lm.Inc(stats.ListenerManagerListenerModified)
	}
	if s.warming != nil {
		c.dropVersion(s, s.warming)
	}
	c.accept(resource.Listener, d.Name, rep)
	s.warming = v
	if err := c.subscribeRoutes(s, v); err != nil {
		s.warming = nil
		c.dropVersion(s, v)
		if s.active == nil {
			delete(c.listeners, d.Name)
			c.unorder(d.Name)
		}
		return err
	}
	c.tryActivate(s)
	return nil
}

func hash64(h resource.Hash) uint64 {
	var v uint64
	for _, b := range h[:8] {
		v = v<<8 | uint64(b)
	}
	return v
}

// addressFree refuses an address that another listener has.
func (c *Controller) addressFree(l *snapshot.Listener) error {
	for _, s := range c.listeners {
		if s.name == l.Name {
			continue
		}
		for _, v := range []*listenerVersion{s.active, s.warming} {
			if v == nil || v.model.Bind != l.Bind {
				continue
			}
			for _, a := range v.model.Addrs {
				for _, b := range l.Addrs {
					if a.Addr == b.Addr && !(a.Addr.IP.IsValid() && a.Addr.IP.Port() == 0) {
						return &registry.FieldError{Path: "address", Err: fmt.Errorf("error adding listener: '%s' has duplicate address '%s' as existing listener '%s'", l.Name, b.Addr, s.name)}
					}
				}
			}
		}
	}
	return nil
}

// subscribeRoutes asks for the route configurations that v needs.
func (c *Controller) subscribeRoutes(s *listenerState, v *listenerVersion) error {
	var errs []error
	for _, w := range v.res.RDS {
		r := c.routeState(w.Name, w.Ref)
		r.users[s.name] = true
		r.prefixes[w.StatPrefix] = true
		if r.feed == nil {
			src, err := c.source(w.Source, "rds.config_source")
			if err == nil {
				r.feed, err = c.feedFor(resource.RouteConfiguration, src)
			}
			if err != nil {
				errs = append(errs, err)
				continue
			}
		}
		if !r.asked {
			r.asked = true
			r.feed.subscribe(resource.RouteConfiguration, false, w.Name)
		}
		if r.table == nil && !r.absent {
			v.waits[w.Name] = true
			if w.FetchTimeout > 0 {
				name, prefix := w.Name, w.StatPrefix
				c.after(w.FetchTimeout, func() { c.routeTimeout(s, v, name, prefix) })
			}
		}
	}
	return errors.Join(errs...)
}

func (c *Controller) routeTimeout(s *listenerState, v *listenerVersion, name, prefix string) {
	if s.warming != v || !v.waits[name] {
		return
	}
	c.mgr.subscription("http." + prefix + ".rds." + clean(name) + ".").Inc(stats.SubscriptionInitFetchTimeout)
	delete(v.waits, name)
	c.tryActivate(s)
}

// tryActivate makes the warming version the active one when it waits for nothing.
func (c *Controller) tryActivate(s *listenerState) {
	v := s.warming
	if v == nil || len(v.waits) > 0 {
		return
	}
	old := s.active
	s.active, s.warming = v, nil
	for _, in := range v.res.Inline {
		r := c.routeState(in.Ref.Name, in.Ref)
		r.users[s.name] = true
		r.table = in.Table
		r.inline = true
		c.dirty.routes[in.Ref.Name] = true
	}
	if old != nil {
		c.releaseRoutes(s, old)
	}
	c.dirty.listeners = true
	c.mgr.lm.Inc(stats.ListenerManagerListenerCreateSuccess)
	c.listenerGauges()
}

// releaseRoutes drops the route configurations that only the old version used. RDS names stay subscribed while connections of the old version may
// still drain.
func (c *Controller) releaseRoutes(s *listenerState, old *listenerVersion) {
	used := map[string]bool{}
	for _, v := range []*listenerVersion{s.active, s.warming} {
		if v == nil {
			continue
		}
		for _, r := range v.res.RDS {
			used[r.Name] = true
		}
		for _, in := range v.res.Inline {
			used[in.Ref.Name] = true
		}
	}
	drop := func(name string) {
		if used[name] {
			return
		}
		c.after(c.cfg.Compile.DrainTime, func() { c.dropRouteUser(name, s.name) })
	}
	for _, r := range old.res.RDS {
		drop(r.Name)
	}
	for _, in := range old.res.Inline {
		drop(in.Ref.Name)
	}
}

// dropVersion gives back what a version that never became active holds.
func (c *Controller) dropVersion(s *listenerState, v *listenerVersion) {
	c.cfg.Plane.Discard(v.model)
	c.releaseRoutes(s, v)
}

func (c *Controller) removeListener(name string) {
	s := c.listeners[name]
	if s == nil {
		return
	}
	delete(c.listeners, name)
	c.unorder(name)
	if s.warming != nil {
		c.cfg.Plane.Discard(s.warming.model)
	}
	gone := &listenerState{name: name}
	for _, v := range []*listenerVersion{s.active, s.warming} {
		if v != nil {
			c.releaseRoutes(gone, v)
		}
	}
	c.forget(resource.Listener, name)
	c.dirty.listeners = true
	c.mgr.lm.Inc(stats.ListenerManagerListenerRemoved)
	c.listenerGauges()
}

func (c *Controller) unorder(name string) {
	for i, n := range c.order {
		if n == name {
			c.order = append(c.order[:i:i], c.order[i+1:]...)
			return
		}
	}
}

func (c *Controller) listenerGauges() {
	active, warming := 0, 0
	for _, s := range c.listeners {
		if s.active != nil {
			active++
		}
		if s.warming != nil {
			warming++
		}
	}
	c.mgr.lm.Set(stats.ListenerManagerTotalListenersActive, int64(active))
	c.mgr.lm.Set(stats.ListenerManagerTotalListenersWarming, int64(warming))
}
