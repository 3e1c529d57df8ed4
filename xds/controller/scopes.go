// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"errors"
	"fmt"
	"slices"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"sidecar/dataplane/filter"
	"sidecar/dataplane/route"
	"sidecar/internal/telemetry/stats"
	"sidecar/xds/ads"
	listenercompile "sidecar/xds/compile/listener"
	"sidecar/xds/registry"
	"sidecar/xds/resource"
)

// scopeSource is the scoped route configurations of one feed. It stays subscribed once somebody has used it: they are asked for by wildcard.
type scopeSource struct {
	feed    *feed
	have    map[string]*scopedRoute
	version string
	in      bool // answered at least once
}

// scopedRoute is one accepted scoped route configuration.
type scopedRoute struct {
	received
	routes   string // route_configuration_name
	key      []string
	onDemand bool
}

// scopeSet is the scoped routes of HTTP connection managers that have the same ones. It lives while a listener, or connections of one that is gone,
// may use it, and it is itself a user of the route configurations that its scopes name.
type scopeSet struct {
	listenercompile.Scoped
	users   int          // listener versions
	src     *scopeSource // nil: an inline list
	counts  *subscription
	gauges  *stats.Scope  // stats.SRDSDef
	live    *route.Scopes // nil until the first one
	names   map[string]bool
	absent  bool // waited for in vain
	timer   *time.Timer
	updated time.Time
	next    *pendingScopes // waits for route configurations
	have    map[string]*scopedRoute
	asked   map[string]bool // scopes on demand whose route configuration was needed
	waiters []filter.Demand
	stale   bool // more of them were asked for by the running event
}

// pendingScopes is a set of scopes that is not served yet.
type pendingScopes struct {
	scopes *route.Scopes
	same   bool            // those that are served, with more of their route configurations
	names  map[string]bool // route configurations
	waits  map[string]bool // those that are not in
}

// scopesRef is what compilers use to share one set.
func (c *Controller) scopesRef(key string) *route.ScopesRef {
	if s := c.scopes[key]; s != nil {
		return s.Ref
	}
	return nil
}

// user is the name under which a set uses route configurations; no listener has it.
func (s *scopeSet) user() string { return "\x00" + s.Key }

// waiting tells whether a listener with this set has to wait.
func (s *scopeSet) waiting() bool { return s.live == nil && !s.absent }

// useScopes makes a listener version a user of a set, which is made on first use.
func (c *Controller) useScopes(w *listenercompile.Scoped) (*scopeSet, error) {
	if s := c.scopes[w.Key]; s != nil {
		s.users++
		return s, nil
	}
	s := &scopeSet{Scoped: *w, users: 1, names: map[string]bool{}, asked: map[string]bool{}}
	if _, err := c.source(w.Routes, "scoped_routes.rds_config_source"); err != nil {
		return nil, err
	}
	if w.Source == nil {
		if err := c.inlineScopes(s); err != nil {
			return nil, err
		}
		c.scopes[w.Key] = s
		c.tryScopes(s)
		return s, nil
	}
	src, err := c.source(w.Source, "scoped_routes.scoped_rds.scoped_rds_config_source")
	if err != nil {
		return nil, err
	}
	f, err := c.feedFor(resource.ScopedRoute, src, "")
	if err != nil {
		return nil, err
	}
	c.scopes[w.Key] = s
	if s.src = c.scopeSources[f]; s.src == nil {
		s.src = &scopeSource{feed: f, have: map[string]*scopedRoute{}}
		c.scopeSources[f] = s.src
		f.subscribe(resource.ScopedRoute, true)
	}
	prefix := "http." + w.StatPrefix + ".scoped_rds." + w.Name + "."
	s.counts, s.gauges = c.mgr.subscription(prefix, stats.ReloadDef), c.mgr.reg.Scope(prefix, stats.SRDSDef)
	s.counts.attempt()
	if s.src.in {
		c.resetScopes(s)
		return s, nil
	}
	if w.FetchTimeout > 0 {
		s.timer = c.after(w.FetchTimeout, func() {
			if c.scopes[s.Key] == s && s.waiting() && !s.src.in {
				s.absent = true
				s.counts.timedOut()
				c.scopesArrived(s)
			}
		})
	}
	return s, nil
}

// inlineScopes fills a set from the list in its listener.
func (c *Controller) inlineScopes(s *scopeSet) error {
	have := map[string]*scopedRoute{}
	var errs []error
	for i, m := range s.Inline {
		at := registry.Path("scoped_routes.scoped_route_configurations_list").Index("scoped_route_configurations", i)
		key, err := listenercompile.ScopeOf(&registry.Ctx{Schema: c.schema, Path: at, Report: &registry.Report{}}, m)
		if err == nil && have[m.GetName()] != nil {
			err = &registry.FieldError{Path: at.Field("name"), Err: fmt.Errorf("duplicate scope '%s'", m.GetName())}
		}
		errs = append(errs, err)
		have[m.GetName()] = &scopedRoute{routes: m.GetRouteConfigurationName(), key: key, onDemand: m.GetOnDemand()}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return c.setScopes(s, have)
}

// setScopes makes have the pending scopes of a set and asks for their route configurations.
func (c *Controller) setScopes(s *scopeSet, have map[string]*scopedRoute) error {
	s.changed(have)
	p := &pendingScopes{names: map[string]bool{}, waits: map[string]bool{}}
	var list []route.Scope
	for _, name := range sortedKeys(have) {
		x := have[name]
		if x.onDemand && !s.asked[name] {
			list = append(list, route.Scope{Name: name, Key: x.key, OnDemand: true})
			continue
		}
		w := &listenercompile.RDS{Ref: c.internTable(x.routes), Name: x.routes, Source: s.Routes, FetchTimeout: s.RoutesFetchTimeout, StatPrefix: s.StatPrefix}
		list = append(list, route.Scope{Name: name, Key: x.key, Table: w.Ref, OnDemand: x.onDemand})
		wait, err := c.useRoute(s.user(), w)
		if err != nil {
			c.leaveScopeRoutes(s, p.names)
			return err
		}
		p.names[x.routes] = true
		if wait && !x.onDemand {
			p.waits[x.routes] = true
		}
	}
	var err error
	if p.scopes, err = route.NewScopes(list); err != nil {
		c.leaveScopeRoutes(s, p.names)
		return err
	}
	old := s.next
	s.next, s.have = p, have
	if old != nil {
		c.leaveScopeRoutes(s, old.names)
	}
	return nil
}

// leaveScopeRoutes ends the use of route configurations that neither the served nor the pending scopes name.
func (c *Controller) leaveScopeRoutes(s *scopeSet, names map[string]bool) {
	for n := range names {
		if !s.names[n] && (s.next == nil || !s.next.names[n]) {
			c.dropRouteUser(n, s.user())
		}
	}
}

// tryScopes serves the pending scopes when all their route configurations are in, so that a move of a scope from one to another loses no request.
func (c *Controller) tryScopes(s *scopeSet) {
	p := s.next
	if p == nil || len(p.waits) > 0 {
		return
	}
	old := s.names
	s.live, s.names, s.next, s.absent = p.scopes, p.names, nil, false
	c.leaveScopeRoutes(s, old)
	c.dirty.scopes[s.Ref] = s.live
	if !p.same {
		s.updated = time.Now()
		if s.counts != nil {
			s.counts.reloaded()
		}
	}
	s.gauge()
	c.answerScopes(s)
	c.scopesArrived(s)
}

// scopesArrived lets listeners go on that waited for the set.
func (c *Controller) scopesArrived(s *scopeSet) {
	if s.timer != nil {
		s.timer.Stop()
		s.timer = nil
	}
	for _, key := range sortedKeys(c.places) {
		if p := c.places[key]; p != nil && slices.Contains(p.scopes, s) {
			c.tryPlace(p)
		}
	}
	for _, l := range c.order {
		if l.warming != nil && l.warming.hasScopes(s) {
			c.tryActivate(l)
		}
	}
}

func (v *listenerVersion) hasScopes(s *scopeSet) bool {
	for _, x := range v.scopes {
		if x == s {
			return true
		}
	}
	return false
}

// scopeRouteArrived lets sets go on that waited for a route configuration.
func (c *Controller) scopeRouteArrived(r *routeState) {
	for _, key := range sortedKeys(c.scopes) {
		switch s := c.scopes[key]; {
		case s == nil: // a listener that could go on was the last user
		case s.next != nil && s.next.waits[r.name] && r.users[s.user()]:
			delete(s.next.waits, r.name)
			c.tryScopes(s)
		default:
			c.answerScopes(s)
		}
	}
}

// leaveScopes ends the use of sets; the last user of one takes it along.
func (c *Controller) leaveScopes(list []*scopeSet) {
	for _, s := range list {
		if s.users--; s.users > 0 {
			continue
		}
		delete(c.scopes, s.Key)
		c.leaveScopeDemands(s)
		if s.timer != nil {
			s.timer.Stop()
		}
		names := s.names
		s.names = nil
		if s.next != nil {
			pending := s.next.names
			s.next = nil
			c.leaveScopeRoutes(s, pending)
		}
		c.leaveScopeRoutes(s, names)
		if s.live != nil {
			c.dirty.scopes[s.Ref] = nil
		}
		if s.counts != nil {
			s.counts.release()
			s.gauges.Release()
		}
	}
}

// applyScopes handles one SRDS batch. As in Envoy it is taken or refused as a whole: two scopes with one key are wrong together.
func (c *Controller) applyScopes(f *feed, d ads.Deliver) []ads.Rejection {
	src := c.scopeSources[f]
	if src == nil {
		return nil
	}
	began := time.Now()
	next := make(map[string]*scopedRoute, len(src.have)+len(d.Changed))
	for n, x := range src.have {
		next[n] = x
	}
	for _, n := range d.Removed {
		delete(next, n)
	}
	var rej []ads.Rejection
	for i := range d.Changed {
		raw := &d.Changed[i]
		version := first(raw.Version, d.Version)
		x, err := c.scopeOf(raw, version)
		if err == nil {
			next[raw.Name] = x
			continue
		}
		for _, l := range c.reject(resource.ScopedRoute, raw.Name, version, raw, err) {
			rej = append(rej, ads.Rejection{Name: raw.Name, Text: l})
		}
	}
	if len(rej) == 0 {
		if err := checkScopes(next); err != nil {
			rej = append(rej, ads.Rejection{Text: err.Error()})
		}
	}
	ok := len(rej) == 0
	if ok {
		for i := range d.Changed {
			c.accept(resource.ScopedRoute, d.Changed[i].Name, nil)
		}
		src.have, src.version, src.in = next, d.Version, true
	}
	for _, key := range sortedKeys(c.scopes) {
		switch s := c.scopes[key]; {
		case s == nil || s.src != src: // the last one may have gone with a route configuration
		case ok:
			s.counts.accepted(d.Version, time.Since(began))
			c.resetScopes(s)
		default:
			s.counts.rejected(f.delta)
		}
	}
	return rej
}

// resetScopes gives a set the scopes of its source.
func (c *Controller) resetScopes(s *scopeSet) {
	if err := c.setScopes(s, s.src.have); err != nil {
		c.cfg.Log("warning", "config", "scoped routes %q: %v", s.Name, err)
		return
	}
	c.tryScopes(s)
}

func (c *Controller) scopeOf(raw *ads.Raw, version string) (*scopedRoute, error) {
	dec, err := c.decode(resource.ScopedRoute, raw)
	if err != nil {
		return nil, err
	}
	m := dec.Message.(*routev3.ScopedRouteConfiguration)
	key, err := listenercompile.ScopeOf(&registry.Ctx{Schema: c.schema, Unknown: c.unknown(false), Report: &registry.Report{}}, m)
	if err != nil {
		return nil, err
	}
	return &scopedRoute{received: receivedOf(dec, raw, version), routes: m.GetRouteConfigurationName(), key: key, onDemand: m.GetOnDemand()}, nil
}

// checkScopes refuses two scopes with one key.
func checkScopes(have map[string]*scopedRoute) error {
	var list []route.Scope
	for _, name := range sortedKeys(have) {
		list = append(list, route.Scope{Name: name, Key: have[name].key})
	}
	_, err := route.NewScopes(list)
	return err
}

// clearScope drops a scope whose TTL ran out.
func (c *Controller) clearScope(f *feed, name string) {
	if src := c.scopeSources[f]; src != nil && src.have[name] != nil {
		c.applyScopes(f, ads.Deliver{Version: src.version, Removed: []string{name}})
	}
}

func (c *Controller) scopesFailed(f *feed) {
	for _, s := range c.scopes {
		if s.src != nil && s.src.feed == f {
			s.counts.failed()
		}
	}
}

func (c *Controller) dumpScopes(q *Query) *adminv3.ScopedRoutesConfigDump {
	d := &adminv3.ScopedRoutesConfigDump{}
	for _, key := range sortedKeys(c.scopes) {
		s := c.scopes[key]
		if !q.takes(s.Name) {
			continue
		}
		if s.src == nil {
			x := &adminv3.ScopedRoutesConfigDump_InlineScopedRouteConfigs{Name: s.Name, LastUpdated: stamp(s.updated)}
			for _, m := range s.Inline {
				if a, err := anypb.New(m); err == nil {
					x.ScopedRouteConfigs = append(x.ScopedRouteConfigs, a)
				}
			}
			d.InlineScopedRouteConfigs = append(d.InlineScopedRouteConfigs, x)
			continue
		}
		x := &adminv3.ScopedRoutesConfigDump_DynamicScopedRouteConfigs{Name: s.Name, VersionInfo: s.src.version, LastUpdated: stamp(s.updated)}
		for _, n := range sortedKeys(s.src.have) {
			x.ScopedRouteConfigs = append(x.ScopedRouteConfigs, s.src.have[n].any)
		}
		d.DynamicScopedRouteConfigs = append(d.DynamicScopedRouteConfigs, x)
	}
	return d
}
