// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"fmt"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"sidecar/internal/testctl"
)

// world is what the control plane serves at one version: each counter moves one resource type.
type world struct {
	port     int   // of the demo listener
	backends []int // ports of the stable cluster
	canary   []int
	weight   uint32 // of the canary cluster, in percent
	routes   int    // shows as response header x-demo-routes
	clusters int    // shows as response header x-demo-cluster: the stable cluster is named after it
	listener int    // shows in the server header
}

func mustAny(m proto.Message) *anypb.Any {
	a, err := anypb.New(m)
	if err != nil {
		panic(err) // a message that cannot be marshalled is a programming mistake
	}
	return a
}

func (w *world) stable() string { return fmt.Sprintf("stable-%d", w.clusters) }

func ads() *corev3.ConfigSource {
	return &corev3.ConfigSource{ResourceApiVersion: corev3.ApiVersion_V3, ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}}}
}

// resources renders the world as xDS resources.
func (w *world) resources() testctl.Resources {
	return testctl.Resources{
		Clusters:  []types.Resource{edsCluster(w.stable()), edsCluster("canary")},
		Endpoints: []types.Resource{assignment(w.stable(), w.backends), assignment("canary", w.canary)},
		Routes:    []types.Resource{w.routeConfig()},
		Listeners: []types.Resource{w.listenerConfig()},
	}
}

func edsCluster(name string) *clusterv3.Cluster {
	return &clusterv3.Cluster{Name: name, ConnectTimeout: durationpb.New(time.Second),
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig:     &clusterv3.Cluster_EdsClusterConfig{EdsConfig: ads()}}
}

func assignment(name string, ports []int) *endpointv3.ClusterLoadAssignment {
	l := &endpointv3.LocalityLbEndpoints{}
	for _, p := range ports {
		l.LbEndpoints = append(l.LbEndpoints, &endpointv3.LbEndpoint{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{
			Address: address(p)}}})
	}
	return &endpointv3.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpointv3.LocalityLbEndpoints{l}}
}

func address(port int) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{Address: "127.0.0.1",
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(port)}}}}
}

func header(k, v string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: k, Value: v}}
}

func prefix(p string) *routev3.RouteMatch {
	return &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: p}}
}

func (w *world) routeConfig() *routev3.RouteConfiguration {
	split := &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_WeightedClusters{WeightedClusters: &routev3.WeightedCluster{
		Clusters: []*routev3.WeightedCluster_ClusterWeight{
			{Name: w.stable(), Weight: wrapperspb.UInt32(100 - w.weight)},
			{Name: "canary", Weight: wrapperspb.UInt32(w.weight)},
		}}}}
	canary := &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: "canary"}}
	hello := &routev3.DirectResponseAction{Status: 200, Body: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{
		InlineString: fmt.Sprintf("hello from the sidecar itself, routes version %d\n", w.routes)}}}
	return &routev3.RouteConfiguration{Name: "demo",
		ResponseHeadersToAdd: []*corev3.HeaderValueOption{header("x-demo-routes", fmt.Sprint(w.routes)), header("x-demo-cluster", "%UPSTREAM_CLUSTER%")},
		VirtualHosts: []*routev3.VirtualHost{{Name: "all", Domains: []string{"*"}, Routes: []*routev3.Route{
			{Match: prefix("/hello"), Action: &routev3.Route_DirectResponse{DirectResponse: hello}},
			{Match: prefix("/canary"), Action: &routev3.Route_Route{Route: canary}},
			{Match: prefix("/"), Action: &routev3.Route_Route{Route: split}},
		}}}}
}

func (w *world) listenerConfig() *listenerv3.Listener {
	h := &hcmv3.HttpConnectionManager{StatPrefix: "demo", ServerName: fmt.Sprintf("sidecar-demo/%d", w.listener),
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{RouteConfigName: "demo", ConfigSource: ads()}},
		HttpFilters: []*hcmv3.HttpFilter{{Name: "envoy.filters.http.router",
			ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: mustAny(&routerv3.Router{})}}}}
	return &listenerv3.Listener{Name: "demo", Address: address(w.port), FilterChains: []*listenerv3.FilterChain{{
		Filters: []*listenerv3.Filter{{Name: "envoy.filters.network.http_connection_manager",
			ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: mustAny(h)}}}}}}
}

// bootstrap is the file that the sidecar is started with: nothing but an admin port and where the control plane is.
func bootstrap(node string, adminPort int, xds string) string {
	host, port := splitAddr(xds)
	return fmt.Sprintf(`node: {id: %s, cluster: demo}
admin: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}
dynamic_resources:
  ads_config:
    api_type: DELTA_GRPC
    transport_api_version: V3
    set_node_on_first_message_only: true
    grpc_services: [{envoy_grpc: {cluster_name: xds}}]
  cds_config: {ads: {}, resource_api_version: V3}
  lds_config: {ads: {}, resource_api_version: V3}
static_resources:
  clusters:
  - name: xds
    type: STATIC
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment:
      cluster_name: xds
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %s, port_value: %s}}}}]}]
`, node, adminPort, host, port)
}
