// SPDX-License-Identifier: Apache-2.0

// Package httpfilter compiles the configurations of HTTP filters to the factories of dataplane/filters/http. The listener room has the table of them.
package httpfilter

import (
	bridgev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_http1_bridge/v3"
	statsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_stats/v3"
	"google.golang.org/protobuf/proto"

	"sidecar/dataplane/filter"
	"sidecar/dataplane/filters/http/grpcbridge"
	"sidecar/dataplane/filters/http/grpcstats"
	"sidecar/dataplane/filters/http/grpcweb"
	"sidecar/xds/registry"
)

// Messages are the field tables of the filters' configurations.
var Messages = registry.Messages{
	"envoy.extensions.filters.http.grpc_stats.v3.FilterConfig": {
		"emit_filter_state":                 registry.Supported,
		"individual_method_stats_allowlist": registry.Supported, "stats_for_all_methods": registry.Supported,
		"enable_upstream_stats": registry.Supported, "replace_dots_in_grpc_service_name": registry.Supported},
	"envoy.extensions.filters.http.grpc_http1_bridge.v3.Config": {
		"upgrade_protobuf_to_grpc": registry.Supported, "ignore_query_parameters": registry.Supported},
	"envoy.extensions.filters.http.grpc_web.v3.GrpcWeb":      {},
	"envoy.extensions.filters.http.on_demand.v3.OnDemand":    onDemandMessages["envoy.extensions.filters.http.on_demand.v3.OnDemand"],
	"envoy.extensions.filters.http.on_demand.v3.OnDemandCds": onDemandMessages["envoy.extensions.filters.http.on_demand.v3.OnDemandCds"],
	"envoy.config.core.v3.GrpcMethodList":                    {"services": registry.Supported},
	"envoy.config.core.v3.GrpcMethodList.Service":            {"name": registry.Supported, "method_names": registry.Supported},
}

// GrpcBridge compiles envoy.filters.http.grpc_http1_bridge.
func GrpcBridge(_ *registry.Ctx, m proto.Message, workers int) (filter.Factory, error) {
	x := m.(*bridgev3.Config)
	return grpcbridge.New(grpcbridge.Config{UpgradeProtobuf: x.GetUpgradeProtobufToGrpc(), IgnoreQuery: x.GetIgnoreQueryParameters()}, workers), nil
}

// GrpcWeb compiles envoy.filters.http.grpc_web.
func GrpcWeb(_ *registry.Ctx, _ proto.Message, workers int) (filter.Factory, error) {
	return grpcweb.New(workers), nil
}

// GrpcStats compiles envoy.filters.http.grpc_stats.
func GrpcStats(_ *registry.Ctx, m proto.Message, workers int) (filter.Factory, error) {
	x := m.(*statsv3.FilterConfig)
	cfg := grpcstats.Config{AllMethods: x.GetStatsForAllMethods().GetValue(), UpstreamTime: x.GetEnableUpstreamStats(),
		ReplaceDots: x.GetReplaceDotsInGrpcServiceName(), FilterState: x.GetEmitFilterState()}
	for _, s := range x.GetIndividualMethodStatsAllowlist().GetServices() {
		for _, name := range s.GetMethodNames() {
			if cfg.Methods == nil {
				cfg.Methods = map[string]struct{}{}
			}
			cfg.Methods[s.GetName()+"/"+name] = struct{}{}
		}
	}
	return grpcstats.New(cfg, workers), nil
}
