// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"errors"
	"fmt"

	"sidecar/dataplane/hostset"
	"sidecar/dataplane/sys"
)

// Kind is the load balancing policy of a cluster.
type Kind uint8

// The policies.
const (
	RoundRobin Kind = iota
	LeastRequest
	Random
	RingHash
	Maglev
	ClusterProvided // ORIGINAL_DST: the connection's destination is the host; Pick finds none
)

// Defaults of Envoy.
const (
	DefaultChoiceCount   = 2
	DefaultMinRing       = 1024
	DefaultMaxRing       = 8 << 20
	MaxRing              = 8 << 20
	DefaultMaglevTable   = 65537
	MaxMaglevTable       = 5000011
	DefaultSlowStartMin  = 0.10
	selectionAttemptsMax = 256 // bound of MaxTries
)

// Spec is the compiled load balancing configuration of a cluster. Immutable; shared by all workers.
type Spec struct {
	Kind      Kind
	Hosts     hostset.PlanConfig
	SlowStart SlowStart // round robin and least request

	// Least request
	ChoiceCount       uint32  // >= 2
	ActiveRequestBias float64 // >= 0; default 1
	FullScan          bool    // selection_method FULL_SCAN

	// Ring hash
	MinRing, MaxRing uint64
	Murmur           bool // hash_function MURMUR_HASH_2

	// Maglev
	TableSize uint64 // prime

	// Ring hash and Maglev
	UseHostname   bool   // use_hostname_for_hashing
	BalanceFactor uint32 // hash_balance_factor in percent, >= 100; 0 = loads are not bounded
}

// SlowStart is slow_start_config. Window 0 = off.
type SlowStart struct {
	Window     sys.Nanos
	Aggression float64 // > 0; default 1
	MinShare   float64 // min_weight_percent / 100
}

// Default returns the specification of a policy with Envoy's defaults.
func Default(k Kind) Spec {
	return Spec{
		Kind: k, Hosts: hostset.PlanConfig{PanicPercent: hostset.DefaultPanicPercent},
		SlowStart:   SlowStart{Aggression: 1, MinShare: DefaultSlowStartMin},
		ChoiceCount: DefaultChoiceCount, ActiveRequestBias: 1,
		MinRing: DefaultMinRing, MaxRing: DefaultMaxRing, TableSize: DefaultMaglevTable,
	}
}

// Name returns Envoy's name of the policy in Cluster.LbPolicy.
func (s *Spec) Name() string {
	return [...]string{"ROUND_ROBIN", "LEAST_REQUEST", "RANDOM", "RING_HASH", "MAGLEV", "CLUSTER_PROVIDED"}[min(s.Kind, ClusterProvided)]
}

// Check returns what Envoy refuses beyond field validation: a minimum ring above the maximum, a Maglev table size that is not prime.
func (s *Spec) Check() error {
	switch {
	case s.Kind == RingHash && s.MinRing > s.MaxRing:
		return fmt.Errorf("ring hash: minimum_ring_size (%d) > maximum_ring_size (%d)", s.MinRing, s.MaxRing)
	case s.Kind == RingHash && (s.MaxRing > MaxRing || s.MinRing == 0):
		return fmt.Errorf("ring hash: ring sizes must be between 1 and %d", MaxRing)
	case s.Kind == Maglev && (s.TableSize > MaxMaglevTable || !prime(s.TableSize)):
		return errors.New("the table size of maglev must be a prime number of at most 5000011")
	}
	return nil
}

func prime(n uint64) bool {
	if n < 2 {
		return false
	}
	for d := uint64(2); d*d <= n; d++ {
		if n%d == 0 {
			return false
		}
	}
	return true
}

// Build makes the next generation of a cluster's hosts for this policy: hostset.Build, the load plan, and the tables that all workers share.
// It returns prev itself when nothing changed. Control side.
func (s *Spec) Build(prev *hostset.Hosts, in hostset.Input) *hostset.Hosts {
	in.Config = s.Hosts
	h := hostset.Build(prev, in)
	if s.Kind != RingHash && s.Kind != Maglev {
		return h
	}
	if h == prev {
		if t, ok := prev.Prepared.(*tables); ok && t.key == s.tableKey() {
			return prev
		}
		c := *prev // the same hosts under another policy; prev itself may be in use
		h = &c
		h.Generation++
	}
	h.Prepared = s.makeTables(prev, h)
	return h
}

// Factory returns what makes one worker's instance of the policy.
func (s *Spec) Factory() Factory {
	switch s.Kind {
	case RingHash, Maglev:
		return func(_ uint64, h *hostset.Hosts) Policy { return newHashing(s, h) }
	case ClusterProvided:
		return func(uint64, *hostset.Hosts) Policy { return none{} }
	case RoundRobin, LeastRequest, Random:
	}
	return func(seed uint64, h *hostset.Hosts) Policy { return newPolicy(s, seed, h) }
}

// none is the policy of clusters that provide their own hosts.
type none struct{}

// Pick finds no host: the cluster type itself knows it.
func (none) Pick(*Query) *hostset.Host { return nil }

// Update does nothing.
func (none) Update(*hostset.Hosts) {}
