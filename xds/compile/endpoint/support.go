// SPDX-License-Identifier: Apache-2.0

package endpoint

import "sidecar/xds/registry"

const addressNote = "IP addresses, Unix sockets (`@` means the abstract namespace) and internal listeners"

// Messages says what is honoured of load assignments.
var Messages = registry.Messages{
	"envoy.config.endpoint.v3.ClusterLoadAssignment": {
		"cluster_name": registry.Supported, "endpoints": registry.Supported, "policy": registry.Supported,
		"named_endpoints": registry.Refuse("endpoints referred to by name are not supported (nor are they in Envoy)"),
	},
	"envoy.config.endpoint.v3.ClusterLoadAssignment.Policy": {
		"drop_overloads": registry.Supported.Note("one category, as in Envoy"), "overprovisioning_factor": registry.Supported,
		"weighted_priority_health": registry.Supported,
		"endpoint_stale_after":     registry.Refuse("assignments do not expire by themselves"),
	},
	"envoy.config.endpoint.v3.ClusterLoadAssignment.Policy.DropOverload": {"category": registry.Supported, "drop_percentage": registry.Whole},
	"envoy.config.endpoint.v3.LocalityLbEndpoints": {
		"locality": registry.Whole, "lb_endpoints": registry.Supported, "load_balancing_weight": registry.Supported, "priority": registry.Supported,
		"metadata":                     registry.Warn("nothing reads the metadata of a locality"),
		"load_balancer_endpoints":      registry.Refuse("use lb_endpoints (Envoy does not read this field either)"),
		"leds_cluster_locality_config": registry.Refuse("LEDS is not supported; send the endpoints in lb_endpoints"),
		"proximity":                    registry.Warn("proximity is not used (nor is it in Envoy)"),
	},
	"envoy.config.endpoint.v3.LbEndpoint": {
		"endpoint": registry.Supported, "health_status": registry.Supported, "load_balancing_weight": registry.Supported,
		"metadata":      registry.Whole.Note("envoy.lb: hash_key, canary; the rest for matchers and logs"),
		"endpoint_name": registry.Refuse("endpoints referred to by name are not supported (nor are they in Envoy)"),
	},
	"envoy.config.endpoint.v3.Endpoint": {
		"address": registry.Supported.Note(addressNote), "hostname": registry.Supported,
		"additional_addresses": registry.Supported.Note("of IP endpoints"),
		"health_check_config":  registry.WarnLater("active health checks"),
		"observability_name":   registry.Warn("hosts are shown by address"),
	},
	"envoy.config.endpoint.v3.Endpoint.AdditionalAddress": {"address": registry.Supported},
}

// Shared are tables of messages that other rooms list too; they are part of this room's own schema only.
var Shared = registry.Messages{
	"envoy.config.core.v3.Address": {
		"socket_address": registry.Supported, "pipe": registry.Supported,
		"envoy_internal_address": registry.Supported,
	},
	"envoy.config.core.v3.SocketAddress": {
		"protocol": registry.Only("TCP"), "address": registry.Supported, "port_value": registry.Supported,
		"named_port":                 registry.Refuse("named ports are not supported; give port_value"),
		"resolver_name":              registry.Refuse("custom address resolvers are not supported"),
		"ipv4_compat":                registry.Supported.Note("no effect on addresses to connect to"),
		"network_namespace_filepath": registry.Refuse("other network namespaces are not supported"),
	},
	"envoy.config.core.v3.EnvoyInternalAddress": {"server_listener_name": registry.Supported.Note("without a slash"), "endpoint_id": registry.Supported},
	"envoy.config.core.v3.Pipe":                 {"path": registry.Supported, "mode": registry.Supported.Note("no effect on addresses to connect to")},
}

var schema = registry.MustSchema(Messages, Shared)
