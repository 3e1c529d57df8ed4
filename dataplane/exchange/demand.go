// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"bytes"
	"slices"

	"sidecar/dataplane/filter"
	"sidecar/dataplane/match"
)

// Bounds of what is asked for on demand.
const (
	heldMax = 1024 // requests of one worker that wait; further ones go on without what they lack
	hostMax = 512  // bytes of a host that is worth asking for
)

// demands is the requests of one worker that wait for the control side, by what they lack. An answer wakes them all: what was found is in the snapshot
// that the worker has by then.
type demands struct {
	waiting map[filter.Demand][]*Exchange
	held    int
}

// DemandRoute implements filter.Stream.
func (x *Exchange) DemandRoute(i int) bool {
	t := x.table
	if t == nil || t.VHDS == nil || t.Ref == nil || x.entry != nil || x.local.tls {
		return false
	}
	host := x.req.Host()
	if len(host) == 0 || len(host) > hostMax || bytes.IndexByte(host, '/') >= 0 {
		return false
	}
	low := match.AppendLower(x.reqA.Tail(), host)
	if !x.hold(filter.Demand{Routes: t.Ref, Name: string(low[len(low)-len(host):])}) {
		return false
	}
	if t.VHDS.Wait > 0 {
		x.WakeFilterAt(i, x.env.L.Now()+t.VHDS.Wait)
	}
	return true
}

// hold makes the exchange wait for d; the first to do so asks for it.
func (x *Exchange) hold(d filter.Demand) bool {
	e := x.env
	s := &e.demands
	if e.Ask == nil || s.held >= heldMax {
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
	x.demand = d
	return true
}

// endDemand ends the wait, if there is one.
func (x *Exchange) endDemand() bool {
	d := x.demand
	if d.Routes == nil {
		return false
	}
	x.demand = filter.Demand{}
	s := &x.env.demands
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

// Answered wakes the requests that wait for d. Worker thread, after the snapshot with what was found was adopted.
func (e *Env) Answered(d filter.Demand) {
	for _, x := range e.demands.waiting[d] {
		x.WakeFilter(x.fpos, filter.EventResume)
	}
}

// lookAgain matches the route once more, for a request whose wait is over.
func (x *Exchange) lookAgain() {
	x.matchRoute()
	x.routeConfig()
}
