// SPDX-License-Identifier: Apache-2.0

// Package ondemand is envoy.filters.http.on_demand: a request without a route waits while the control side asks for the virtual host of its host (VHDS),
// or for the route configuration of its scope, and one whose cluster is not there while it asks for the cluster (ODCDS). The filter keeps nothing; what waits is kept by package exchange.
package ondemand

import (
	"sidecar/dataplane/filter"
	"sidecar/dataplane/httpmsg"
)

// Filter is the factory, the instance of every exchange, and what routes set for it in its place. Immutable.
type Filter struct {
	// Clusters is where clusters come from; nil = they are not asked for.
	Clusters *filter.ClusterSource
}

// Phases implements filter.Factory.
func (*Filter) Phases() filter.Phase { return filter.RequestHead }

// New implements filter.Factory.
func (f *Filter) New(*filter.Ctx) filter.HTTP { return f }

// OnHead implements filter.HTTP.
func (f *Filter) OnHead(c *filter.Ctx, _ filter.Dir, _ *httpmsg.Head, _ bool) filter.Verdict {
	return f.ask(c)
}

// OnEvent implements filter.HTTP: the answer is in, or it did not come in time. Something else may be missing now; nobody waits for the same twice, and what
// is still missing then the router tells the client.
func (f *Filter) OnEvent(c *filter.Ctx, _ filter.Event) filter.Verdict { return f.ask(c) }

func (f *Filter) ask(c *filter.Ctx) filter.Verdict {
	from := f.Clusters
	if own, ok := c.PerRoute.(*Filter); ok {
		from = own.Clusters
	}
	if c.Route == nil {
		from = nil
	} else if from == nil {
		return filter.Continue
	}
	if c.S.Demand(c.Index, from) {
		return filter.Pause
	}
	return filter.Continue
}

// OnData implements filter.HTTP.
func (*Filter) OnData(*filter.Ctx, filter.Dir, *filter.Data, bool) filter.Verdict {
	return filter.Continue
}

// OnTrailers implements filter.HTTP.
func (*Filter) OnTrailers(*filter.Ctx, filter.Dir, *httpmsg.Fields) filter.Verdict {
	return filter.Continue
}

// OnDone implements filter.HTTP.
func (*Filter) OnDone(*filter.Ctx) {}
