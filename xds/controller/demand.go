// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"slices"
	"time"

	"sidecar/dataplane/filter"
	"sidecar/xds/ads"
	"sidecar/xds/resource"
)

// demandsMax bounds the virtual hosts that requests made one source ask for and that are not there. The one that was found missing longest ago goes
// first: whoever requests random hosts can neither fill the memory nor keep others from asking.
const demandsMax = 4096

// missingFor is how long the answer that something is not there holds for requests that come behind it: those of another worker may be on their way.
const missingFor = time.Second

// demands is what requests made a source of virtual hosts ask for, by resource name.
type demands struct {
	asked   map[string]hostDemand
	missing []string // answered: not there; oldest first
}

type hostDemand struct {
	waits   bool          // the answer is awaited
	refused time.Duration // when the answer was that it is not there; 0 = it was not
}

// holds tells whether an answer of that time still holds.
func (c *Controller) holds(at time.Duration) bool { return at > 0 && c.now()-at < missingFor }

// Demand takes what requests of a worker lack, and is answered by Plane.Answer. It does not block: false when the queue is full. Any goroutine.
func (c *Controller) Demand(d filter.Demand) bool {
	select {
	case c.events <- func() { c.demand(d) }:
		return true
	default:
		return false
	}
}

// answer tells the workers what was answered by the running event.
func (c *Controller) answer() {
	if len(c.answers) > 0 {
		list := c.answers
		c.answers = nil
		c.cfg.Plane.Answer(list)
	}
}

func (c *Controller) demand(d filter.Demand) {
	switch {
	case d.Clusters != nil:
		c.demandCluster(d)
	case d.Scopes != nil:
		c.demandScope(d)
	default:
		c.demandHost(d)
	}
}

// demandHost asks for a virtual host, unless it is there already: the worker may not have had the last snapshot, or the host has no route for the request.
func (c *Controller) demandHost(d filter.Demand) {
	r := c.routes[d.Routes.Name]
	if r == nil || r.ref != d.Routes || r.vhds == nil {
		c.answers = append(c.answers, d)
		return
	}
	s := r.vhds.src
	name := r.name + "/" + d.Name
	switch {
	case s.have[name] != nil && r.next == nil:
		c.answers = append(c.answers, d)
	case s.demands.asked[name].waits:
		// its answer is awaited
	case c.holds(s.demands.asked[name].refused), !c.boundDemands(s):
		c.answers = append(c.answers, d)
	default:
		if s.demands.asked == nil {
			s.demands.asked = map[string]hostDemand{}
		}
		s.demands.found(name)
		s.demands.asked[name] = hostDemand{waits: true}
		r.vhds.counts.attempt()
		s.feed.step(ads.Subscribe{TypeURL: resource.VirtualHost.URL(), Names: []string{name}, Again: true})
		s.feed.later()
	}
}

// boundDemands makes room for one more name; false when an answer is awaited for all of them.
func (c *Controller) boundDemands(s *vhostSource) bool {
	d := &s.demands
	if len(d.asked) < demandsMax {
		return true
	}
	if len(d.missing) == 0 {
		return false
	}
	name := d.missing[0]
	d.missing = d.missing[1:]
	delete(d.asked, name)
	s.feed.unsubscribe(resource.VirtualHost, name)
	return true
}

// found takes a name from those that are missing.
func (d *demands) found(name string) {
	if x, ok := d.asked[name]; !ok || x.waits {
		return
	}
	if i := slices.Index(d.missing, name); i >= 0 {
		d.missing = slices.Delete(d.missing, i, i+1)
	}
}

// hostAnswered notes what a response says of a name that requests may wait for. They hear when the route configuration with it serves.
func (c *Controller) hostAnswered(s *vhostSource, name string, there bool) {
	was, ok := s.demands.asked[name]
	if !ok {
		return
	}
	s.demands.found(name)
	now := hostDemand{}
	if !there {
		s.demands.missing = append(s.demands.missing, name)
		if was.waits {
			now.refused = c.now()
		}
	}
	s.demands.asked[name] = now
	if u := s.uses[routesOf(name)]; u != nil && was.waits {
		u.answered = append(u.answered, filter.Demand{Routes: u.r.ref, Name: name[len(u.r.name)+1:]})
	}
}

// flushAnswers tells the workers once nothing waits to be served any more.
func (c *Controller) flushAnswers(r *routeState) {
	if u := r.vhds; u != nil && r.next == nil {
		c.answers = append(c.answers, u.answered...)
		u.answered = nil
	}
}

// leaveDemands takes back what was asked for in the name of a route configuration that does not take its virtual hosts from the source any more.
func (c *Controller) leaveDemands(u *vhostUse) {
	d := &u.src.demands
	for _, name := range sortedKeys(d.asked) {
		if routesOf(name) != u.r.name {
			continue
		}
		if d.asked[name].waits {
			c.answers = append(c.answers, filter.Demand{Routes: u.r.ref, Name: name[len(u.r.name)+1:]})
		}
		d.found(name)
		delete(d.asked, name)
		u.src.feed.unsubscribe(resource.VirtualHost, name)
	}
	c.answers = append(c.answers, u.answered...)
	u.answered = nil
}
