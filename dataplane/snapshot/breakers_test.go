// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"math"
	"testing"

	"sidecar/internal/telemetry/stats"
)

func TestBreakers_WhenUsageMoves_ThenGaugesFollow(t *testing.T) {
	reg := stats.NewRegistry(1)
	c := &ClusterConfig{Limits: &Usage{}, Traffic: reg.Scope("cluster.c.", stats.ClusterDef), TrackRemaining: true}
	c.Breakers[0] = Breaker{MaxConnections: 2, MaxPending: 3, MaxRequests: 4, MaxRetries: 1, MaxPools: math.MaxUint32, TrackRemaining: true}
	c.Breakers[1] = Breaker{MaxConnections: 0, MaxPending: 1, MaxRequests: 1, MaxPools: 1, RetryBudgetPercent: 50, MinRetryConcurrency: 1}
	left := reg.Scope("cluster.c.", stats.ClusterRemainingDef)
	c.Traffic.SetSource(c.BreakerOpen)
	left.SetSource(c.BreakerRemaining)
	want := func(s *stats.Scope, id int, v int64) {
		t.Helper()
		if got, _ := s.Value(id); got != v {
			t.Errorf("%s%s is %d, want %d", s.Prefix, s.Def.Stats[id].Name, got, v)
		}
	}
	want(c.Traffic, stats.ClusterCircuitBreakersHighCxOpen, 0) // at its limit of 0, but nothing was there yet
	c.Traffic.Block(1).Inc(stats.ClusterUpstreamRqTotal)
	want(c.Traffic, stats.ClusterUpstreamRqTotal, 1)
	want(c.Traffic, stats.ClusterCircuitBreakersHighCxOpen, 1)
	want(c.Traffic, stats.ClusterCircuitBreakersDefaultCxOpen, 0)
	want(left, stats.ClusterRemainingCircuitBreakersDefaultRemainingCx, 2)
	c.Limits.Connections[0].Add(3) // a cluster may go one over for a host without any connection
	c.Limits.Pending[0].Add(3)
	c.Limits.Requests[0].Add(1)
	c.Limits.Retries[0].Add(1)
	c.Limits.Pools[0].Add(1)
	want(c.Traffic, stats.ClusterCircuitBreakersDefaultCxOpen, 1)
	want(c.Traffic, stats.ClusterCircuitBreakersDefaultRqPendingOpen, 1)
	want(c.Traffic, stats.ClusterCircuitBreakersDefaultRqOpen, 0)
	want(c.Traffic, stats.ClusterCircuitBreakersDefaultRqRetryOpen, 1)
	want(c.Traffic, stats.ClusterCircuitBreakersDefaultCxPoolOpen, 0)
	want(left, stats.ClusterRemainingCircuitBreakersDefaultRemainingCx, 0)
	want(left, stats.ClusterRemainingCircuitBreakersDefaultRemainingRq, 3)
	want(left, stats.ClusterRemainingCircuitBreakersDefaultRemainingCxPools, -2)
	want(left, stats.ClusterRemainingCircuitBreakersHighRemainingRq, 0) // not tracked
	c.Limits.Retries[1].Add(1)
	want(c.Traffic, stats.ClusterCircuitBreakersHighRqRetryOpen, 1)
	c.Breakers[1].MinRetryConcurrency = 0
	want(c.Traffic, stats.ClusterCircuitBreakersHighRqRetryOpen, 0) // nothing ever passes
	c.Breakers[1].MinRetryConcurrency = 1
	c.Limits.Requests[1].Add(4) // half of them may be retries
	want(c.Traffic, stats.ClusterCircuitBreakersHighRqRetryOpen, 0)
}
