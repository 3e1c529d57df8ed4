// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"errors"
	"fmt"
	"slices"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"

	"sidecar/dataplane/route"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/stats"
	"sidecar/xds/ads"
	listenercompile "sidecar/xds/compile/listener"
	"sidecar/xds/registry"
	"sidecar/xds/resource"
)

// listenerVersion is one accepted version of a listener.
type listenerVersion struct {
	received
	s       *listenerState
	base    *snapshot.Listener // as configured
	model   *snapshot.Listener // base with what came over ECDS
	res     *listenercompile.Result
	names   []*route.ClusterRef // clusters that it names itself; held
	routes  map[string]bool     // RDS names
	waits   map[string]bool     // RDS names that are not in yet
	colds   map[string]bool     // clusters that are not warm yet
	timer   *time.Timer         // bounds colds
	parked  bool                // of the bootstrap; subscribes when the clusters are warm
	tls     *tlsUse
	scopes  []*scopeSet
	filters []*filterUse
	places  []*placeUse
}

// listenerState is one listener by name.
type listenerState struct {
	name    string
	static  bool
	active  *listenerVersion
	warming *listenerVersion
}

func (s *listenerState) newest() *listenerVersion {
	if s.warming != nil {
		return s.warming
	}
	return s.active
}

// tallyListener adds the listener to the counts (n = 1), or takes it out (-1) before it changes.
func (c *Controller) tallyListener(s *listenerState, n int) {
	if s.active != nil {
		c.activeListenerN += n
	}
	if s.warming != nil {
		c.warmingListeners += n
	}
}

// applyListeners handles one LDS batch: removals first, so that an address may move from one listener to another in one response.
func (c *Controller) applyListeners(f *feed, d ads.Deliver) []ads.Rejection {
	var rej []ads.Rejection
	for _, name := range d.Removed {
		if s := c.listeners[name]; s != nil && !s.static {
			c.removeListener(s)
		} else {
			c.forget(resource.Listener, name)
		}
	}
	for i := range d.Changed {
		r := &d.Changed[i]
		if s := c.listeners[r.Name]; s != nil && (s.static || s.newest().is(r)) {
			c.forgetRejection(resource.Listener, r.Name)
			continue // a dynamic listener named like a static one is accepted and ignored
		}
		version := first(r.Version, d.Version)
		dec, err := c.decode(resource.Listener, r)
		name := r.Name
		if err == nil {
			name = dec.Name
			if s := c.listeners[name]; s != nil && (s.static || s.newest().hash == dec.Hash) {
				c.forgetRejection(resource.Listener, name)
				continue
			}
			err = c.addListener(dec, r, version)
		}
		if err == nil {
			continue
		}
		for _, l := range c.reject(resource.Listener, name, version, r, err) {
			rej = append(rej, ads.Rejection{Name: r.Name, Text: fmt.Sprintf("Error adding/updating listener(s) %s: %s\n", name, l)})
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

// addListener compiles, binds and either activates a listener or lets it warm; raw is nil for one of the bootstrap. It is long because it is one
// transaction: what fails on the way gives back what was taken before, in sight of it.
func (c *Controller) addListener(d *resource.Decoded, raw *ads.Raw, version string) error {
	static := raw == nil
	l := d.Message.(*listenerv3.Listener)
	rep := &registry.Report{}
	ctx := &registry.Ctx{Schema: c.schema, Unknown: c.unknown(static), Report: rep, Env: c.cfg.Compile.listenerEnv(c)}
	var res *listenercompile.Result
	err := c.guard(resource.Listener, d.Name, func() (err error) {
		res, err = listenercompile.Compile(ctx, l, hash64(d.Hash))
		return err
	})
	if err != nil {
		return err
	}
	m := res.Listener
	m.Static = static
	err = c.addressFree(m)
	if err == nil {
		if err = c.cfg.Plane.Prepare(m); err != nil {
			c.mgr.lm.Inc(stats.ListenerManagerListenerCreateFailure)
			err = &registry.FieldError{Path: "address", Err: err}
		}
	}
	if err != nil {
		releaseListener(m, res)
		return err
	}
	s := c.listeners[d.Name]
	fresh := s == nil
	if fresh {
		s = &listenerState{name: d.Name, static: static}
	}
	v := &listenerVersion{received: receivedOf(d, raw, version), s: s, base: m, model: m, res: res, names: named(m), routes: map[string]bool{}, waits: map[string]bool{}}
	for i := range res.RDS {
		v.routes[res.RDS[i].Name] = true
	}
	if err := c.subscribeListener(s, v); err != nil {
		c.leaveSecrets(v.tls)
		c.leaveScopes(v.scopes)
		c.leaveFilters(v.filters)
		c.endPlaces(c.leavePlaces(v.places))
		c.cfg.Plane.Discard(v.model)
		releaseListener(m, res)
		for n := range v.routes {
			c.dropRouteUser(n, s.name)
		}
		return err
	}
	if fresh {
		c.listeners[d.Name] = s
		c.order = append(c.order, s)
		c.mgr.lm.Inc(stats.ListenerManagerListenerAdded)
	} else {
		if s.active != nil && s.active.model.SocketKey == m.SocketKey {
			c.mgr.lm.Inc(stats.ListenerManagerListenerInPlaceUpdated)
		}
		c.mgr.lm.Inc(stats.ListenerManagerListenerModified)
	}
	c.accept(resource.Listener, d.Name, rep)
	c.tallyListener(s, -1)
	old := s.warming
	s.warming = v
	c.tallyListener(s, 1)
	c.ownAddresses(m, s, 1)
	c.hold(v.names)
	if old != nil {
		c.endWarming(old)
	}
	if v.colds = c.waitFor(v, v.names); len(v.colds) > 0 {
		v.timer = c.after(maxHold, func() {
			if s.warming == v {
				c.noWait(v, v.colds)
				v.colds = nil
				c.tryActivate(s)
			}
		})
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

// addressKey is what two listeners must not share.
type addressKey struct {
	addr sys.Addr
	bind bool
}

// addressOwner is the listener that has an address, with how many of its versions.
type addressOwner struct {
	s *listenerState
	n int
}

// unshared calls fn for every address that no other listener may have: all but those whose port the kernel picks.
func unshared(l *snapshot.Listener, fn func(addressKey)) {
	for i := range l.Addrs {
		a := l.Addrs[i].Addr
		if !a.IP.IsValid() || a.IP.Port() != 0 {
			fn(addressKey{a, l.Bind})
		}
	}
}

// addressFree refuses an address that another listener has.
func (c *Controller) addressFree(l *snapshot.Listener) error {
	var err error
	unshared(l, func(k addressKey) {
		if o := c.addresses[k]; o != nil && o.s.name != l.Name && err == nil {
			err = &registry.FieldError{Path: "address",
				Err: fmt.Errorf("error adding listener: '%s' has duplicate address '%s' as existing listener '%s'", l.Name, k.addr, o.s.name)}
		}
	})
	return err
}

// ownAddresses records (n = 1) or gives back (-1) the addresses of a version.
func (c *Controller) ownAddresses(l *snapshot.Listener, s *listenerState, n int) {
	unshared(l, func(k addressKey) {
		o := c.addresses[k]
		if o == nil {
			o = &addressOwner{s: s}
			c.addresses[k] = o
		}
		if o.n += n; o.n <= 0 {
			delete(c.addresses, k)
		}
	})
}

// subscribeListener asks for the route configurations and secrets that v needs. Static listeners ask when the clusters are warm, in Envoy's order.
func (c *Controller) subscribeListener(s *listenerState, v *listenerVersion) error {
	contexts := c.cfg.Compile.listenerTLS(v.res)
	if c.phase < phaseListeners && (len(v.res.RDS)+len(v.res.Scoped)+len(v.res.Filters)+len(v.res.Places)+len(contexts) > 0) {
		if err := c.checkSecrets(contexts); err != nil {
			return err
		}
		v.parked = true
		c.later = append(c.later, v)
		return nil
	}
	var errs []error
	if len(contexts) > 0 {
		var err error
		scope := c.cfg.Stats.Scope(v.model.Scope.Prefix+"server_ssl_socket_factory.", stats.SSLSocketFactoryDef)
		v.tls, err = c.useSecrets(contexts, scope, s.active != nil, func() {
			if s.warming == v {
				c.tryActivate(s)
			}
		})
		if err != nil {
			errs = append(errs, err)
		}
	}
	for i := range v.res.RDS {
		w := &v.res.RDS[i]
		wait, err := c.useRoute(s.name, w)
		if err != nil {
			errs = append(errs, err)
		} else if wait {
			v.waits[w.Name] = true
		}
	}
	for i := range v.res.Scoped {
		x, err := c.useScopes(&v.res.Scoped[i])
		if err != nil {
			errs = append(errs, err)
			continue
		}
		v.scopes = append(v.scopes, x)
	}
	for i := range v.res.Filters {
		u, err := c.useFilter(&v.res.Filters[i])
		if err != nil {
			errs = append(errs, err)
			continue
		}
		v.filters = append(v.filters, u)
	}
	for i := range v.res.Places {
		u, err := c.usePlace(v, &v.res.Places[i])
		if err != nil {
			errs = append(errs, err)
			continue
		}
		v.places = append(v.places, u)
	}
	if len(v.places) > 0 {
		c.remodel(v)
	}
	return errors.Join(errs...)
}

// subscribeStatic makes up for what subscribeListener put off.
func (c *Controller) subscribeStatic() {
	list := c.later
	c.later = nil
	for _, v := range list {
		v.parked = false
		if err := c.subscribeListener(v.s, v); err != nil {
			c.cfg.Log("critical", "config", "listener %q: %v", v.s.name, err)
		}
		c.tryActivate(v.s)
	}
}

// clusterWarm implements waiter.
func (v *listenerVersion) clusterWarm(c *Controller, name string) {
	delete(v.colds, name)
	if v.s.warming == v {
		c.tryActivate(v.s)
	}
}

// tryActivate makes the warming version the active one when it waits for nothing.
func (c *Controller) tryActivate(s *listenerState) {
	v := s.warming
	if v == nil || v.parked || len(v.waits) > 0 || len(v.colds) > 0 || v.tls.waiting() || slices.ContainsFunc(v.scopes, (*scopeSet).waiting) ||
		slices.ContainsFunc(v.filters, func(u *filterUse) bool { return u.waiting(s.active != nil) }) ||
		slices.ContainsFunc(v.places, func(u *placeUse) bool { return u.waiting(s.active != nil) }) {
		return
	}
	if v.timer != nil {
		v.timer.Stop()
		v.timer = nil
	}
	c.tallyListener(s, -1)
	old := s.active
	s.active, s.warming = v, nil
	v.updated = time.Now()
	c.tallyListener(s, 1)
	c.dirty.listeners = true
	c.mgr.lm.Add(stats.ListenerManagerListenerCreateSuccess, int64(c.cfg.Workers))
	if old != nil {
		c.endActive(old, true)
	}
}

// endWarming gives back what a version that never became active holds.
func (c *Controller) endWarming(v *listenerVersion) {
	if v.timer != nil {
		v.timer.Stop()
	}
	c.noWait(v, v.colds)
	c.leaveSecrets(v.tls)
	c.leaveScopes(v.scopes)
	c.leaveFilters(v.filters)
	c.endPlaces(c.leavePlaces(v.places))
	c.cfg.Plane.Discard(v.model)
	c.ownAddresses(v.model, v.s, -1)
	c.unhold(v.names)
	releaseListener(v.base, v.res)
	for n := range v.routes {
		c.dropRouteUser(n, v.s.name)
	}
}

// endActive gives back what a version holds that was active; its connections may live on for a while, and what they look at with them.
func (c *Controller) endActive(v *listenerVersion, replaced bool) {
	c.ownAddresses(v.model, v.s, -1)
	c.unhold(v.names)
	c.leaveSecrets(v.tls)
	d := &drainingListener{name: v.s.name, since: time.Now(), replaced: replaced, scopes: v.scopes, filters: v.filters, places: c.leavePlaces(v.places)}
	for n := range v.routes {
		if !c.usesRoute(v.s.name, n) {
			d.routes = append(d.routes, n)
		}
	}
	if replaced {
		releaseListener(v.base, v.res)
		if len(d.routes)+len(d.scopes)+len(d.filters)+len(d.places) == 0 {
			return
		}
	} else {
		d.model, d.res = v.base, v.res
	}
	c.draining = append(c.draining, d)
}

// drainingListener is what connections of a listener that is gone may still need.
type drainingListener struct {
	name     string
	routes   []string // RDS names that only it used
	scopes   []*scopeSet
	filters  []*filterUse
	places   []*placeVersion
	since    time.Time
	replaced bool
	model    *snapshot.Listener // whose statistics still count; nil when a newer version has them
	res      *listenercompile.Result
}

// settle is how long the workers may take to leave a listener that is gone.
const settle = time.Second

// reapDraining drops what drained listeners held. A listener that is gone is looked at until its connections are; one that was replaced has no
// count of its own, so the drain time decides.
func (c *Controller) reapDraining(now time.Time) {
	keep := c.draining[:0]
	for _, d := range c.draining {
		age := now.Sub(d.since)
		over := age >= c.cfg.Compile.DrainTime
		if d.model != nil && age >= settle {
			if n, _ := d.model.Scope.Value(stats.ListenerDownstreamCxActive); n == 0 {
				over = true
			} else if over {
				over = false // its connections may finish; they must be counted
				c.dropRoutes(d)
			}
		}
		if !over {
			keep = append(keep, d)
			continue
		}
		c.dropRoutes(d)
		if d.model != nil {
			releaseListener(d.model, d.res)
		}
	}
	clear(c.draining[len(keep):])
	c.draining = keep
}

func (c *Controller) dropRoutes(d *drainingListener) {
	for _, n := range d.routes {
		c.dropRouteUser(n, d.name)
	}
	d.routes = nil
	c.leaveScopes(d.scopes)
	c.leaveFilters(d.filters)
	c.endPlaces(d.places)
	d.scopes, d.filters, d.places = nil, nil, nil
}

// releaseListener gives back the statistics of a version.
func releaseListener(l *snapshot.Listener, res *listenercompile.Result) {
	releaseScope(l.Scope)
	l.TLSStats.Release()
	for _, s := range l.WorkerScopes {
		releaseScope(s)
	}
	for _, fc := range append(l.Chains[:len(l.Chains):len(l.Chains)], l.Default) {
		if fc != nil {
			fc.Release()
		}
	}
	for i := range l.Filters {
		l.Filters[i].Release()
	}
	for i := range res.Inline {
		res.Inline[i].Table.Release()
	}
}

func (c *Controller) removeListener(s *listenerState) {
	delete(c.listeners, s.name)
	for i, o := range c.order {
		if o == s {
			c.order = append(c.order[:i:i], c.order[i+1:]...)
			break
		}
	}
	c.tallyListener(s, -1)
	warming, active := s.warming, s.active
	s.warming, s.active = nil, nil
	if warming != nil {
		c.endWarming(warming)
	}
	if active != nil {
		c.endActive(active, false)
	}
	c.forget(resource.Listener, s.name)
	c.dirty.listeners = true
	c.mgr.lm.Inc(stats.ListenerManagerListenerRemoved)
}
