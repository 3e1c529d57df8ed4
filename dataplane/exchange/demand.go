// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"bytes"

	"sidecar/dataplane/filter"
	"sidecar/dataplane/match"
	"sidecar/dataplane/sys"
)

// nameMax bounds the bytes of a name that is worth asking for.
const nameMax = 512

// The places of an exchange in a wait.
const (
	notHeld  uint8 = iota
	awaiting       // in Env.demands
	woken          // its filter has not heard yet
)

// Demand implements filter.Stream.
func (x *Exchange) Demand(i int, clusters *filter.ClusterSource) bool {
	var d filter.Demand
	var wait sys.Nanos
	var ok bool
	if clusters == nil {
		d, ok = x.lacksRoute()
		if ok && x.table != nil {
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
	if t == nil {
		return x.lacksScope()
	}
	if t.VHDS == nil || t.Ref == nil || x.entry != nil || x.local.tls {
		return d, false
	}
	host := x.req.Host()
	if len(host) == 0 || len(host) > nameMax || bytes.IndexByte(host, '/') >= 0 {
		return d, false
	}
	low := match.AppendLower(x.reqA.Tail(), host)
	return filter.Demand{Routes: t.Ref, Name: string(low[len(low)-len(host):])}, true
}

// lacksScope finds the scope whose route configuration was not needed so far. How long it is waited for the control side knows.
func (x *Exchange) lacksScope() (d filter.Demand, ok bool) {
	ref := x.ch.h.Scoped
	scopes := x.env.Snap.Scopes[ref]
	if scopes == nil {
		return d, false
	}
	s := scopes.Of(ref, &x.req)
	if s == nil || !s.OnDemand {
		return d, false
	}
	return filter.Demand{Scopes: ref, Name: s.Name}, true
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

// hold makes the exchange wait for d; nobody waits for the same twice.
func (x *Exchange) hold(d filter.Demand) bool {
	if d == x.demand || !x.env.demands.Hold(d, x, x.env.Ask) {
		return false
	}
	x.demand, x.held = d, awaiting
	return true
}

// endDemand ends the wait, if there is one.
func (x *Exchange) endDemand() bool {
	was := x.held
	x.held = notHeld
	if was == awaiting {
		x.env.demands.Leave(x.demand, x)
	}
	return was != notHeld
}

// Answered wakes the requests that wait for d. Worker thread, after the snapshot with what was found was adopted.
func (e *Env) Answered(d filter.Demand) {
	for _, x := range e.demands.Take(d) {
		x.held = woken
		x.WakeFilter(x.fpos, filter.EventResume)
	}
}

// lookAgain matches the route once more, for a request whose wait is over.
func (x *Exchange) lookAgain() {
	x.matchRoute()
	x.routeConfig()
}
