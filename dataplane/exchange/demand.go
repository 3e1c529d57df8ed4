// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"bytes"
	"slices"

	"sidecar/dataplane/filter"
	"sidecar/dataplane/match"
	"sidecar/dataplane/sys"
)

// Bounds of what is asked for on demand.
const (
	heldMax = 1024 // requests of one worker that wait; further ones go on without what they lack
	nameMax = 512  // bytes of a name that is worth asking for
)

// The places of an exchange in a wait.
const (
	notHeld  uint8 = iota
	awaiting       // in demands.waiting
	woken          // its filter has not heard yet
)

// demands is the requests of one worker that wait for the control side, by what they lack. An answer wakes them all: what was found is in the snapshot
// that the worker has by then.
type demands struct {
	waiting map[filter.Demand][]*Exchange
	held    int
}

// Demand implements filter.Stream.
func (x *Exchange) Demand(i int, clusters *filter.ClusterSource) bool {
	var d filter.Demand
	var wait sys.Nanos
	var ok bool
	if clusters == nil {
		d, ok = x.lacksRoute()
		if ok {
			wait = x.table.VHDS.Wait
		}
	} else {
		d, ok = x.lacksCluster(clusters)
		wait = clusters.Wait
	}
	if !ok || !x.hold(d) {
		return false
	}
	if wait > 0 {
		x.WakeFilterAt(i, x.env.L.Now()+wait)
	}
	return true
}

func (x *Exchange) lacksRoute() (d filter.Demand, ok bool) {
	t := x.table
	if t == nil || t.VHDS == nil || t.Ref == nil || x.entry != nil || x.local.tls {
		return d, false
	}
	host := x.req.Host()
	if len(host) == 0 || len(host) > nameMax || bytes.IndexByte(host, '/') >= 0 {
		return d, false
	}
	low := match.AppendLower(x.reqA.Tail(), host)
	return filter.Demand{Routes: t.Ref, Name: string(low[len(low)-len(host):])}, true
}

func (x *Exchange) lacksCluster(from *filter.ClusterSource) (d filter.Demand, ok bool) {
	if from.Wait <= 0 || x.entry == nil || x.entry.Forward == nil {
		return d, false
	}
	c, ok := x.entry.Forward.Choose(&x.q) // the draw depends on the request alone
	switch {
	case !ok || x.routedTo() != nil:
		return d, false
	case c.Ref != nil:
		return filter.Demand{Clusters: from, Name: c.Ref.Name}, true
	}
	return filter.Demand{Clusters: from, Name: string(c.Name)}, len(c.Name) <= nameMax
}

// hold makes the exchange wait for d; the first to do so asks for it. Nobody waits for the same twice.
func (x *Exchange) hold(d filter.Demand) bool {
	e := x.env
	s := &e.demands
	if e.Ask == nil || s.held >= heldMax || d == x.demand {
		return false
	}
	list := s.waiting[d]
	if len(list) == 0 && !e.Ask(d) {
		return false
	}
	if s.waiting == nil {
		s.waiting = map[filter.Demand][]*Exchange{}
	}
	s.waiting[d] = append(list, x)
	s.held++
	x.demand, x.held = d, awaiting
	return true
}

// endDemand ends the wait, if there is one.
func (x *Exchange) endDemand() bool {
	was := x.held
	x.held = notHeld
	if was != awaiting {
		return was == woken
	}
	d, s := x.demand, &x.env.demands
	s.held--
	list := s.waiting[d]
	if i := slices.Index(list, x); i >= 0 {
		list = slices.Delete(list, i, i+1)
	}
	if s.waiting[d] = list; len(list) == 0 {
		delete(s.waiting, d)
	}
	return true
}

// Answered wakes the requests that wait for d. Worker thread, after the snapshot with what was found was adopted. They leave the list at once: a
// request that comes from now on has to ask again.
func (e *Env) Answered(d filter.Demand) {
	s := &e.demands
	list := s.waiting[d]
	delete(s.waiting, d)
	s.held -= len(list)
	for _, x := range list {
		x.held = woken
		x.WakeFilter(x.fpos, filter.EventResume)
	}
}

// lookAgain matches the route once more, for a request whose wait is over.
func (x *Exchange) lookAgain() {
	x.matchRoute()
	x.routeConfig()
}
