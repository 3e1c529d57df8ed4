// SPDX-License-Identifier: Apache-2.0

// Package ondemand is envoy.filters.http.on_demand: a request without a route waits while the control side asks for the virtual host of its host (VHDS).
// The filter keeps nothing; what waits is kept by package exchange.
package ondemand

import (
	"sidecar/dataplane/filter"
	"sidecar/dataplane/httpmsg"
)

// Filter is both the factory and the instance of every exchange.
type Filter struct{}

// Phases implements filter.Factory.
func (Filter) Phases() filter.Phase { return filter.RequestHead }

// New implements filter.Factory.
func (f Filter) New(*filter.Ctx) filter.HTTP { return f }

// OnHead implements filter.HTTP.
func (Filter) OnHead(c *filter.Ctx, _ filter.Dir, _ *httpmsg.Head, _ bool) filter.Verdict {
	if c.Route == nil && c.S.DemandRoute(c.Index) {
		return filter.Pause
	}
	return filter.Continue
}

// OnEvent implements filter.HTTP: the answer is in, or it did not come in time. Without a route the router says so.
func (Filter) OnEvent(*filter.Ctx, filter.Event) filter.Verdict { return filter.Continue }

// OnData implements filter.HTTP.
func (Filter) OnData(*filter.Ctx, filter.Dir, *filter.Data, bool) filter.Verdict {
	return filter.Continue
}

// OnTrailers implements filter.HTTP.
func (Filter) OnTrailers(*filter.Ctx, filter.Dir, *httpmsg.Fields) filter.Verdict {
	return filter.Continue
}

// OnDone implements filter.HTTP.
func (Filter) OnDone(*filter.Ctx) {}
