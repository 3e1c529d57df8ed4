// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"math"

	"sidecar/internal/telemetry/stats"
)

// openFirst is the first of the five gauges of each priority in stats.ClusterDef, remainingFirst in stats.ClusterRemainingDef.
var (
	openFirst      = [2]int{stats.ClusterCircuitBreakersDefaultCxOpen, stats.ClusterCircuitBreakersHighCxOpen}
	remainingFirst = [2]int{stats.ClusterRemainingCircuitBreakersDefaultRemainingCx, stats.ClusterRemainingCircuitBreakersHighRemainingCx}
)

// BreakerOpen reads the circuit_breakers.*_open gauges of stats.ClusterDef: 1 while the breaker lets nothing more pass. They are computed when
// somebody looks, so that requests do not pay for them. c.Traffic must be set. ok is false for every other stat. Any goroutine may call it.
func (c *ClusterConfig) BreakerOpen(id int) (v int64, ok bool) {
	for p, first := range openFirst {
		b, u := &c.Breakers[p], c.Limits
		open := false
		switch id - first {
		case stats.ClusterCircuitBreakersDefaultCxOpen - stats.ClusterCircuitBreakersDefaultCxOpen:
			open = u.Connections[p].Load() >= int64(b.MaxConnections)
		case stats.ClusterCircuitBreakersDefaultCxPoolOpen - stats.ClusterCircuitBreakersDefaultCxOpen:
			open = b.MaxPools != math.MaxUint32 && u.Pools[p].Load() >= int64(b.MaxPools)
		case stats.ClusterCircuitBreakersDefaultRqOpen - stats.ClusterCircuitBreakersDefaultCxOpen:
			open = atLimit(u.Requests[p].Load(), int64(b.MaxRequests))
		case stats.ClusterCircuitBreakersDefaultRqPendingOpen - stats.ClusterCircuitBreakersDefaultCxOpen:
			open = atLimit(u.Pending[p].Load(), int64(b.MaxPending))
		case stats.ClusterCircuitBreakersDefaultRqRetryOpen - stats.ClusterCircuitBreakersDefaultCxOpen:
			open = atLimit(u.Retries[p].Load(), c.retryLimit(p))
		default:
			continue
		}
		if open && c.Traffic.Touched() { // Envoy looks at a breaker for the first time when something passes it
			return 1, true
		}
		return 0, true
	}
	return 0, false
}

// atLimit tells whether a breaker is used up. Nothing ever passes one with a limit of 0, which therefore never opens: Envoy's gauge moves when
// something passes. (A limit of 0 connections lets the first one pass.)
func atLimit(use, limit int64) bool { return limit > 0 && use >= limit }

// BreakerRemaining reads the gauges of stats.ClusterRemainingDef (track_remaining) in the same way: how much every breaker still lets pass, 0 for
// a priority that does not track it.
func (c *ClusterConfig) BreakerRemaining(id int) (v int64, ok bool) {
	for p, first := range remainingFirst {
		b, u := &c.Breakers[p], c.Limits
		switch id - first {
		case stats.ClusterRemainingCircuitBreakersDefaultRemainingCx:
			v = int64(b.MaxConnections) - u.Connections[p].Load()
		case stats.ClusterRemainingCircuitBreakersDefaultRemainingCxPools:
			if b.MaxPools == math.MaxUint32 && b.TrackRemaining {
				return -1 - u.Pools[p].Load(), true // no limit: Envoy counts down from the greatest 64-bit number
			}
			v = int64(b.MaxPools) - u.Pools[p].Load()
		case stats.ClusterRemainingCircuitBreakersDefaultRemainingPending:
			v = int64(b.MaxPending) - u.Pending[p].Load()
		case stats.ClusterRemainingCircuitBreakersDefaultRemainingRetries:
			v = c.retryLimit(p) - u.Retries[p].Load()
		case stats.ClusterRemainingCircuitBreakersDefaultRemainingRq:
			v = int64(b.MaxRequests) - u.Requests[p].Load()
		default:
			continue
		}
		if !b.TrackRemaining {
			return 0, true
		}
		return max(v, 0), true
	}
	return 0, false
}

// retryLimit is how many retries may be in flight: max_retries, or what the budget allows at this moment.
func (c *ClusterConfig) retryLimit(p int) int64 {
	b := &c.Breakers[p]
	if b.RetryBudgetPercent <= 0 {
		return int64(b.MaxRetries)
	}
	active := c.Limits.Requests[p].Load() + c.Limits.Pending[p].Load()
	return max(int64(float64(active)*b.RetryBudgetPercent/100), int64(b.MinRetryConcurrency))
}
