// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"errors"
	"fmt"
	"slices"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"sidecar/dataplane/route"
	"sidecar/dataplane/snapshot"
	"sidecar/internal/telemetry/stats"
	listenercompile "sidecar/xds/compile/listener"
	"sidecar/xds/registry"
	"sidecar/xds/resource"
)

// placeUse is the place of a discovered network or listener filter in one listener version. What fills it is part of the listener as workers see it: a
// new configuration makes a new listener that differs in nothing else, so that connections stay.
type placeUse struct {
	w    *listenercompile.DiscoveredPlace
	v    *listenerVersion
	st   *extensionState
	live *placeVersion // nil: there is no configuration
	next *placeVersion // waits for what it needs
}

// placeVersion is one configuration in its place, with what it needs: a discovered HTTP connection manager may take routes, scopes and filters over xDS.
type placeVersion struct {
	*listenercompile.Placed
	u       *placeUse
	user    string              // under which it uses route configurations; no listener has it
	names   []*route.ClusterRef // held
	routes  map[string]bool
	waits   map[string]bool // route configurations that are not in yet
	colds   map[string]bool // clusters that are not warm yet
	timer   *time.Timer     // bounds colds
	scopes  []*scopeSet
	filters []*filterUse
}

// waiting tells whether the listener version has to wait for the place.
func (u *placeUse) waiting(serves bool) bool {
	return u.next != nil || !u.w.Unwarmed && !u.st.settled && (serves || !u.st.refused)
}

// usePlace asks for the configuration of a place, which the one that is there already fills if it is of use, else the default.
func (c *Controller) usePlace(v *listenerVersion, w *listenercompile.DiscoveredPlace) (*placeUse, error) {
	st, err := c.extension(&w.Discovery)
	if err != nil {
		return nil, err
	}
	u := &placeUse{w: w, v: v, st: st}
	st.places = append(st.places, u)
	if st.config != nil {
		err := w.Fits(st.message) // it came before the place, which may want another type
		if err == nil {
			var p *listenercompile.Placed
			if p, err = c.compilePlace(u, "typed_config", st.config.GetTypedConfig(), &registry.Report{}); err == nil {
				c.offerPlace(u, p)
				return u, nil
			}
		}
		st.scope.Control().Inc(stats.ECDSConfigConflict)
	}
	c.offerPlace(u, c.defaultFor(u))
	return u, nil
}

// placeAll compiles a configuration for every place; with an error for none.
func (c *Controller) placeAll(st *extensionState, x *corev3.TypedExtensionConfig, rep *registry.Report) ([]*listenercompile.Placed, error) {
	var out []*listenercompile.Placed
	for _, u := range st.places {
		p, err := c.compilePlace(u, "typed_config", x.GetTypedConfig(), rep)
		if err != nil {
			for _, p := range out {
				p.Release()
			}
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

func (c *Controller) compilePlace(u *placeUse, field registry.Path, cfg *anypb.Any, rep *registry.Report) (p *listenercompile.Placed, err error) {
	err = c.guard(resource.ExtensionConfig, u.w.Name, func() error {
		if p, _, err = u.w.Compile(c.extensionCtx(rep), field, cfg); err != nil {
			return err
		}
		return c.checkSources(p)
	})
	return p, err
}

// checkSources refuses a configuration whose own config sources cannot be used, before anything is asked for.
func (c *Controller) checkSources(p *listenercompile.Placed) error {
	var errs []error
	for i := range p.RDS {
		_, err := c.source(p.RDS[i].Source, "typed_config.rds.config_source")
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		p.Release()
		return err
	}
	return nil
}

// defaults compiles the default of every place of a configuration that is gone.
func (c *Controller) defaults(st *extensionState) []*listenercompile.Placed {
	var out []*listenercompile.Placed
	for _, u := range st.places {
		out = append(out, c.defaultFor(u))
	}
	return out
}

// defaultFor compiles the default of a place, nil without one. It was compiled with the listener, so it does compile; if not, there is none.
func (c *Controller) defaultFor(u *placeUse) *listenercompile.Placed {
	if u.w.Default == nil {
		return nil
	}
	p, err := c.compilePlace(u, "default_config", u.w.Default, &registry.Report{})
	if err != nil {
		c.cfg.Log("error", "config", "default configuration of filter %q: %v", u.w.Name, err)
		return nil
	}
	return p
}

// offerPlace makes x what fills a place, as soon as what it needs is there; nil empties it at once.
func (c *Controller) offerPlace(u *placeUse, x *listenercompile.Placed) {
	old := u.next
	u.next = nil
	if x == nil {
		c.fillPlace(u, nil)
	} else {
		c.placeN++
		p := &placeVersion{Placed: x, u: u, user: fmt.Sprint("\x00place", c.placeN), routes: map[string]bool{}, waits: map[string]bool{}}
		u.next = p
		c.places[p.user] = p
		if x.Chain != nil {
			p.names = named(&snapshot.Listener{Default: x.Chain})
		}
		c.hold(p.names)
		if err := c.subscribePlace(p); err != nil {
			c.cfg.Log("warning", "config", "filter %q: %v", u.w.Name, err) // the rest of it serves, as after a fetch that timed out
		}
		if p.colds = c.waitFor(p, p.names); len(p.colds) > 0 {
			p.timer = c.after(maxHold, func() {
				c.noWait(p, p.colds)
				p.colds = nil
				c.tryPlace(p)
			})
		}
	}
	if old != nil {
		c.stopPlace(old)
		c.endPlace(old)
	}
	if u.next != nil {
		c.tryPlace(u.next)
	}
}

func (c *Controller) subscribePlace(p *placeVersion) error {
	var errs []error
	for i := range p.RDS {
		w := &p.RDS[i]
		wait, err := c.useRoute(p.user, w)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		p.routes[w.Name] = true
		if wait {
			p.waits[w.Name] = true
		}
	}
	for i := range p.Scoped {
		x, err := c.useScopes(&p.Scoped[i])
		if err != nil {
			errs = append(errs, err)
			continue
		}
		p.scopes = append(p.scopes, x)
	}
	for i := range p.Filters {
		u, err := c.useFilter(&p.Filters[i])
		if err != nil {
			errs = append(errs, err)
			continue
		}
		p.filters = append(p.filters, u)
	}
	return errors.Join(errs...)
}

// clusterWarm implements waiter.
func (p *placeVersion) clusterWarm(c *Controller, name string) {
	delete(p.colds, name)
	c.tryPlace(p)
}

// tryPlace fills the place when the version waits for nothing.
func (c *Controller) tryPlace(p *placeVersion) {
	u := p.u
	if u.next != p || len(p.waits) > 0 || len(p.colds) > 0 || slices.ContainsFunc(p.scopes, (*scopeSet).waiting) ||
		slices.ContainsFunc(p.filters, func(f *filterUse) bool { return f.waiting(u.live != nil) }) {
		return
	}
	u.next = nil
	c.fillPlace(u, p)
	if s := u.v.s; s.warming == u.v {
		c.tryActivate(s)
	}
}

// fillPlace puts a version in force, or none, for the connections to come. Those that are there keep what they have.
func (c *Controller) fillPlace(u *placeUse, p *placeVersion) {
	old := u.live
	if u.live = p; p == nil && old == nil {
		return
	}
	c.remodel(u.v)
	if old != nil {
		c.retirePlace(old)
	}
}

// remodel makes the listener that workers see of what is configured and what fills its places.
func (c *Controller) remodel(v *listenerVersion) {
	filters, found := v.base.Filters, map[*snapshot.FilterChain]*snapshot.FilterChain{}
	for _, u := range v.places {
		switch p := u.live; {
		case p == nil:
		case p.Chain != nil:
			found[u.w.Chain] = p.Chain
		default:
			if &filters[0] == &v.base.Filters[0] {
				filters = slices.Clone(filters)
			}
			filters[u.w.Index] = p.Filter
		}
	}
	m := v.base.With(filters, found)
	if v.s.active == v {
		v.model = m
		c.dirty.listeners = true
		return
	}
	if err := c.cfg.Plane.Prepare(m); err != nil { // its sockets are bound already
		c.cfg.Log("error", "config", "listener %q: %v", v.s.name, err)
	}
	c.cfg.Plane.Discard(v.model)
	v.model = m
}

// retirePlace takes a version out of service. What connections that live on under it may need goes when they have had the time to drain.
func (c *Controller) retirePlace(p *placeVersion) {
	c.stopPlace(p)
	c.draining = append(c.draining, &drainingListener{name: p.user, since: time.Now(), replaced: true, places: []*placeVersion{p}})
}

// stopPlace ends what only a version that serves, or is going to, has use for.
func (c *Controller) stopPlace(p *placeVersion) {
	delete(c.places, p.user)
	if p.timer != nil {
		p.timer.Stop()
	}
	c.noWait(p, p.colds)
	c.unhold(p.names)
}

// endPlace gives back what a version that was stopped holds.
func (c *Controller) endPlace(p *placeVersion) {
	p.Release()
	c.leaveScopes(p.scopes)
	c.leaveFilters(p.filters)
	for n := range p.routes {
		c.dropRouteUser(n, p.user)
	}
}

// leavePlaces ends the places of a listener version. It returns those that served, for endPlace.
func (c *Controller) leavePlaces(list []*placeUse) (served []*placeVersion) {
	for _, u := range list {
		if p := u.next; p != nil {
			c.stopPlace(p)
			c.endPlace(p)
		}
		if p := u.live; p != nil {
			c.stopPlace(p)
			served = append(served, p)
		}
		u.live, u.next = nil, nil
		u.st.places = slices.DeleteFunc(u.st.places, func(x *placeUse) bool { return x == u })
		c.leaveExtension(u.st)
	}
	return served
}

func (c *Controller) endPlaces(list []*placeVersion) {
	for _, p := range list {
		c.endPlace(p)
	}
}
