// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"slices"

	"sidecar/dataplane/conn"
	"sidecar/dataplane/snapshot"
	"sidecar/internal/telemetry/stats"
)

// A connection that changes its worker leaves the listener's face on the one and joins that on the other. It counts among the active ones of the worker that
// has it, and for the total of the worker that accepted it.

// Depart takes a connection out that goes on at another worker.
func (x *Listener) Depart(m *conn.Member) {
	m.Part()
	x.carries(-1)
}

// Arrive takes in a connection that another worker's face of this listener has let depart.
func (x *Listener) Arrive(m *conn.Member) {
	x.Members.Join(m)
	x.carries(1)
}

func (x *Listener) carries(n int64) {
	x.block.Add(stats.ListenerDownstreamCxActive, n)
	if x.perW != nil {
		x.perW.Add(stats.ListenerWorkerDownstreamCxActive, n)
	}
}

// Keeps tells whether connections made with fc need not end because of the present configuration.
func (x *Listener) Keeps(fc *snapshot.FilterChain) bool {
	return x.Cfg.Default != nil && x.Cfg.Default.DrainKey == fc.DrainKey ||
		slices.ContainsFunc(x.Cfg.Chains, func(c *snapshot.FilterChain) bool { return c.DrainKey == fc.DrainKey })
}
