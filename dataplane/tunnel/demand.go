// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"sidecar/dataplane/fault"
	"sidecar/dataplane/filter"
	"sidecar/dataplane/route"
	"sidecar/internal/telemetry/stats"
)

// A cluster that is not there is asked for, if on_demand of the proxy says where it may come from. Meanwhile what the client sends, and its end, wait in
// the kernel, as while a connection is made.

// await waits for the cluster of ref; false when it cannot be asked for.
func (t *Tunnel) await(ref *route.ClusterRef) bool {
	from := t.cfg.OnDemand
	if from == nil || ref == nil {
		return false
	}
	t.countDemand(stats.TCPOnDemandClusterAttempt)
	t.demand = filter.Demand{Clusters: from, Name: ref.Name}
	if !t.env.demands.Hold(t.demand, t, t.env.Ask) {
		return false
	}
	t.st, t.awaited = stDemand, ref
	t.retryAt = t.env.L.Now() + max(from.Wait, 1)
	t.armDeadline(t.retryAt)
	return true
}

// Answered wakes the tunnels that wait for d. Worker thread, after the snapshot with what was found was adopted.
func (e *Env) Answered(d filter.Demand) {
	for _, t := range e.demands.Take(d) {
		t.st = stFound
		e.L.Ready(&t.task)
	}
}

// onFound goes on with the cluster, if it is there.
func (t *Tunnel) onFound() {
	t.retryAt = 0
	t.armDeadline(0)
	if t.env.Snap.Cluster(t.awaited) == nil {
		t.countDemand(stats.TCPOnDemandClusterMissing)
		t.noCluster()
		return
	}
	t.countDemand(stats.TCPOnDemandClusterSuccess)
	t.connect()
}

// late gives up: the answer did not come in time.
func (t *Tunnel) late() {
	t.countDemand(stats.TCPOnDemandClusterTimeout)
	t.noCluster()
}

func (t *Tunnel) noCluster() {
	t.tcp.Inc(stats.TCPDownstreamCxNoRoute)
	t.giveUp(fault.FlagNC, closeNoRoute)
}

func (t *Tunnel) countDemand(id int) { t.cfg.DemandScope.Block(t.env.Shard).Inc(id) }
