// SPDX-License-Identifier: Apache-2.0

// Package hostset holds the members of a cluster: hosts with a stable identity, and immutable generations of them by priority and locality
// with health and weights folded in. It also plans which priority and locality takes which share (overprovisioning, panic, degraded).
package hostset

import (
	"sync/atomic"

	"sidecar/dataplane/sys"
)

// Health is the health of a host after folding EDS status, active checks and outlier detection.
type Health uint8

// The states, best first.
const (
	Healthy Health = iota
	Degraded
	Unhealthy
)

// EDSHealth is envoy.config.core.v3.HealthStatus as received, for /clusters.
type EDSHealth uint8

// Locality names a place; pointers are stable within one cluster.
type Locality struct{ Region, Zone, SubZone string }

// Host is one endpoint. Its pointer is its identity: it stays the same over generations as long as address and metadata are the same, so that
// pools and statistics survive updates.
type Host struct {
	// Immutable
	Addr     sys.Addr
	Extra    []sys.Addr // additional_addresses, for happy eyeballs; usually nil
	Key      string     // Addr as text; what ring hash and Maglev hash unless a metadata hash_key is given
	HashKey  string     // envoy.lb hash_key, or ""
	Hostname string
	Locality *Locality
	Canary   bool
	Metadata map[string]any // filter_metadata by namespace; nil when none
	ID       uint64         // unique in the process
	AddedAt  sys.Nanos      // Input.Now of the generation that brought the host in; slow start counts from here
	metaHash uint64         // part of the identity

	// Atomic; the only mutable words that a snapshot reaches
	CxActive, RqActive                     atomic.Int64
	CxTotal, CxConnectFail                 atomic.Uint64
	RqTotal, RqSuccess, RqError, RqTimeout atomic.Uint64
	RqPending                              atomic.Int64
	left                                   atomic.Bool
}

// Left tells whether the host has left its cluster (see Retire): its pools are to be drained.
func (h *Host) Left() bool { return h.left.Load() }

// Entry is a host within one generation.
type Entry struct {
	*Host
	Weight uint32 // >= 1
	Health Health
	EDS    EDSHealth
}

// Group is the hosts of one locality of one priority.
type Group struct {
	Locality *Locality
	Weight   uint32 // load_balancing_weight of the locality; 0 = none given
	Hosts    []Entry

	// Share of the locality among its siblings, by availability and overprovisioning; only when PlanConfig.LocalityWeighted is set.
	HealthyShare, DegradedShare float64
}

// Priority is one priority level: its groups in configuration order and all their hosts in a flat list (same order).
type Priority struct {
	Groups             []Group
	Hosts              []Entry
	Healthy, DegradedN int // counts in Hosts

	// Sources are the lists a pick chooses from, by index: SourceAll, SourceHealthy, SourceDegraded, then two for each group (see
	// SourceOf) when PlanConfig.LocalityWeighted is set. They share memory with Hosts and Groups where they can.
	Sources []Set
}

// Set is a list of hosts to choose from.
type Set struct {
	Hosts    []Entry
	Weighted bool // not all weights are equal
}

// Indices into Priority.Sources.
const (
	SourceAll = iota
	SourceHealthy
	SourceDegraded
	sourceLocality
)

// SourceOf returns the index in Priority.Sources of the healthy or degraded hosts of a group.
func SourceOf(group int, h Health) int {
	i := sourceLocality + 2*group
	if h == Degraded {
		i++
	}
	return i
}

// Hosts is one immutable generation of a cluster's members.
type Hosts struct {
	Generation             uint64
	Priorities             []Priority
	Overprovisioning       uint32 // factor in percent, default 140
	DropOverload           []Drop
	Total                  int
	WeightedPriorityHealth bool
	MaxWeight              uint32 // largest weight of a host; 0 without hosts (cluster.NAME.max_host_weight)

	Plan     *Plan      // load of the priorities; never nil in a generation that Build made
	Config   PlanConfig // what Plan was made with
	Prepared any        // tables that package lb builds once per generation for all workers; nil when the policy needs none

	order []*Host // hosts in input order, for positional matching by the next Build
}

// Drop is one drop_overloads category.
type Drop struct {
	Category string
	Num, Den uint32
}
