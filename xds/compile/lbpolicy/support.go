// SPDX-License-Identifier: Apache-2.0

package lbpolicy

import "sidecar/xds/registry"

const zoneNote = "zone-aware routing needs cluster_manager.local_cluster_name; without it Envoy does not do it either"

// Messages says what is honoured of load balancing policy extensions.
var Messages = registry.Messages{
	"envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin": {
		"slow_start_config": registry.Supported, "locality_lb_config": registry.Supported,
	},
	"envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest": {
		"choice_count": registry.Supported, "active_request_bias": registry.Supported, "slow_start_config": registry.Supported,
		"locality_lb_config": registry.Supported, "selection_method": registry.Supported,
		"enable_full_scan": registry.Refuse("deprecated; use selection_method"),
	},
	"envoy.extensions.load_balancing_policies.random.v3.Random": {"locality_lb_config": registry.Supported},
	"envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash": {
		"hash_function": registry.Supported, "minimum_ring_size": registry.Supported, "maximum_ring_size": registry.Supported,
		"use_hostname_for_hashing": registry.Supported, "hash_balance_factor": registry.Supported,
		"consistent_hashing_lb_config": registry.Supported, "locality_weighted_lb_config": registry.Whole,
	},
	"envoy.extensions.load_balancing_policies.maglev.v3.Maglev": {
		"table_size": registry.Supported, "consistent_hashing_lb_config": registry.Supported, "locality_weighted_lb_config": registry.Whole,
	},
	"envoy.extensions.load_balancing_policies.cluster_provided.v3.ClusterProvided": {},
	"envoy.extensions.load_balancing_policies.wrr_locality.v3.WrrLocality":         {"endpoint_picking_policy": registry.Whole},
	"envoy.extensions.load_balancing_policies.common.v3.LocalityLbConfig": {
		"zone_aware_lb_config": registry.Supported, "locality_weighted_lb_config": registry.Whole,
	},
	"envoy.extensions.load_balancing_policies.common.v3.LocalityLbConfig.ZoneAwareLbConfig": {
		"fail_traffic_on_panic": registry.Supported, "routing_enabled": registry.Warn(zoneNote), "min_cluster_size": registry.Warn(zoneNote),
		"force_locality_direct_routing": registry.Warn(zoneNote), "force_local_zone": registry.Warn(zoneNote), "locality_basis": registry.Warn(zoneNote),
	},
	"envoy.extensions.load_balancing_policies.common.v3.ConsistentHashingLbConfig": {
		"use_hostname_for_hashing": registry.Supported, "hash_balance_factor": registry.Supported,
		"hash_policy": registry.Refuse("give the hash policy in the route"),
	},
	"envoy.extensions.load_balancing_policies.common.v3.SlowStartConfig": {
		"slow_start_window": registry.Supported, "aggression": registry.Supported, "min_weight_percent": registry.Whole,
	},
}

// Shared are tables of messages that other rooms list too.
var Shared = registry.Messages{
	"envoy.config.core.v3.RuntimeDouble": {
		"default_value": registry.Supported, "runtime_key": registry.Warn("the runtime does not override this value"),
	},
}
