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

	// Atomic; the only mutable words that a snapshot reaches
	CxActive, RqActive                     atomic.Int64
	CxTotal, CxConnectFail                 atomic.Uint64
	RqTotal, RqSuccess, RqError, RqTimeout atomic.Uint64
	RqPending                              atomic.Int64
}

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
}

// Priority is one priority level: its groups in configuration order and all their hosts in a flat list (same order).
type Priority struct {
	Groups             []Group
	Hosts              []Entry
	Healthy, DegradedN int // counts in Hosts
}

// Hosts is one immutable generation of a cluster's members.
type Hosts struct {
	Generation             uint64
	Priorities             []Priority
	Overprovisioning       uint32 // factor in percent, default 140
	DropOverload           []Drop
	Total                  int
	WeightedPriorityHealth bool
}

// Drop is one drop_overloads category.
type Drop struct {
	Category string
	Num, Den uint32
}
