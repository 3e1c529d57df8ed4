// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"slices"

	"sidecar/dataplane/filter"
	"sidecar/internal/telemetry/stats"
)

// Scopes with on_demand have their route configuration fetched when the first request needs it. It stays until the scope changes or goes.

// demandScope asks for the route configuration of a scope, unless it was asked for.
func (c *Controller) demandScope(d filter.Demand) {
	s := c.scopesOf(d)
	if s == nil {
		c.answers = append(c.answers, d)
		return
	}
	if !slices.Contains(s.waiters, d) { // at most one for each scope
		s.waiters = append(s.waiters, d)
	}
	if x := s.have[d.Name]; x == nil || !x.onDemand || s.asked[d.Name] {
		c.answerScopes(s)
		return
	}
	s.asked[d.Name] = true
	if !s.stale {
		s.stale = true
		c.soon(func() { c.refreshScopes(s) })
	}
}

// refreshScopes serves a set with the route configurations that were asked for during the running event.
func (c *Controller) refreshScopes(s *scopeSet) {
	s.stale = false
	if c.scopes[s.Key] != s {
		return
	}
	same := s.next == nil
	if err := c.setScopes(s, s.have); err != nil {
		c.cfg.Log("warning", "config", "scoped routes %q: %v", s.Name, err)
		c.leaveScopeDemands(s)
		return
	}
	s.next.same = same
	c.tryScopes(s)
}

// scopesOf is the set that a demand is about, nil when it is out of use.
func (c *Controller) scopesOf(d filter.Demand) *scopeSet {
	for _, s := range c.scopes {
		if s.Ref == d.Scopes {
			return s
		}
	}
	return nil
}

// answerScopes tells the workers what they do not have to wait for any more: the route configuration serves or did not come in time, or the scope is gone.
func (c *Controller) answerScopes(s *scopeSet) {
	if s.next != nil || s.stale {
		return
	}
	s.waiters = slices.DeleteFunc(s.waiters, func(d filter.Demand) bool {
		if x := s.have[d.Name]; x != nil && s.asked[d.Name] {
			if r := c.routes[x.routes]; r != nil && r.table == nil && !r.absent {
				return false
			}
		}
		c.answers = append(c.answers, d)
		return true
	})
}

// leaveScopeDemands answers whoever waits for something of a set.
func (c *Controller) leaveScopeDemands(s *scopeSet) {
	c.answers = append(c.answers, s.waiters...)
	s.waiters = nil
}

// changed forgets that the route configurations of scopes were asked for: they changed, or are gone.
func (s *scopeSet) changed(next map[string]*scopedRoute) {
	for name := range s.asked {
		if x, was := next[name], s.have[name]; x == nil || was == nil || x.hash != was.hash {
			delete(s.asked, name)
		}
	}
}

// gauge shows the scopes that are served, and those whose route configuration is asked for.
func (s *scopeSet) gauge() {
	if s.gauges == nil {
		return
	}
	lazy := 0
	for _, x := range s.have {
		if x.onDemand {
			lazy++
		}
	}
	g := s.gauges.Control()
	g.Set(stats.SRDSAllScopes, int64(len(s.have)))
	g.Set(stats.SRDSActiveScopes, int64(len(s.have)-lazy+len(s.asked)))
	g.Set(stats.SRDSOnDemandScopes, int64(lazy))
}
