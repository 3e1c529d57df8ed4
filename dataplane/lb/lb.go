// SPDX-License-Identifier: Apache-2.0

// Package lb picks hosts: round robin, least request, random, ring hash, Maglev, over priorities and localities. Policies are pure: they know a
// generation of hosts and the query, nothing else, and allocate nothing in Pick.
package lb

import (
	"sidecar/dataplane/hostset"
	"sidecar/dataplane/sys"
)

// Query is what one pick may depend on.
type Query struct {
	Rand            uint64 // fresh random bits; the only randomness a policy uses besides its seed
	Hash            uint64 // from the route's or tcp_proxy's hash policy
	HasHash         bool
	Tried           []*hostset.Host // hosts of earlier attempts (previous_hosts predicate); nil when the predicate is not configured
	MaxTries        int             // host_selection_retry_max_attempts
	OmitCanary      bool            // omit_canary_hosts predicate
	TriedPriorities uint32          // bit set of priorities tried (previous_priorities)
	AvoidTried      bool            // connect retries: prefer hosts not in Tried without a configured predicate
	Now             sys.Nanos       // the worker's clock, for slow start; 0 = slow start does not count

	// Result
	InPanic bool // the pick was made in panic mode (cluster.NAME.lb_healthy_panic)
}

// Policy is one worker's load balancer of one cluster. Worker-owned; not safe for concurrent use.
type Policy interface {
	// Pick returns a host, or nil when there is none to pick.
	Pick(q *Query) *hostset.Host
	// Update moves the policy to another generation, keeping its position where that makes sense.
	Update(h *hostset.Hosts)
}

// Factory makes one policy instance. Expensive shared tables (rings, Maglev tables) are built once per generation on the control side and
// reached through the Hosts generation, not here.
type Factory func(seed uint64, h *hostset.Hosts) Policy
