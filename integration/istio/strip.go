// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// Strip is the documented transform: it removes from a resource of Istio what waits for later work, and nothing else.
//
//   - Listeners: network filters other than the HTTP connection manager and the TCP proxy (istio.stats, istio.metadata_exchange, RBAC), HTTP
//     filters other than the router, transport sockets of filter chains (TLS), the original_src listener filter, HTTP/2 options of the connection
//     manager. Filter chain matches stay: a chain for TLS then gets the TLS bytes as they are.
//   - Clusters: transport sockets and their matches, upstream network filters, HTTP/2 in HttpProtocolOptions (HTTP/1.1 takes its place).
//   - Routes: configuration for filters that are gone.
//   - Endpoints: nothing.
//
// The resource is changed in place.
func Strip(m proto.Message) error {
	switch r := m.(type) {
	case *listenerv3.Listener:
		return stripListener(r)
	case *clusterv3.Cluster:
		return stripCluster(r)
	case *routev3.RouteConfiguration:
		stripRoutes(r)
	case *endpointv3.ClusterLoadAssignment:
	}
	return nil
}

func stripListener(l *listenerv3.Listener) error {
	var filters []*listenerv3.ListenerFilter
	for _, f := range l.GetListenerFilters() {
		if !strings.Contains(f.GetTypedConfig().GetTypeUrl(), ".original_src.") {
			filters = append(filters, f)
		}
	}
	l.ListenerFilters = filters
	chains := l.GetFilterChains()
	if d := l.GetDefaultFilterChain(); d != nil {
		chains = append(chains[:len(chains):len(chains)], d)
	}
	for _, c := range chains {
		c.TransportSocket = nil
		var keep []*listenerv3.Filter
		for _, f := range c.GetFilters() {
			switch {
			case strings.HasSuffix(f.GetTypedConfig().GetTypeUrl(), ".HttpConnectionManager"):
				if err := stripHCM(f.GetTypedConfig()); err != nil {
					return err
				}
				keep = append(keep, f)
			case strings.HasSuffix(f.GetTypedConfig().GetTypeUrl(), ".TcpProxy"):
				keep = append(keep, f)
			}
		}
		c.Filters = keep
	}
	return nil
}

func stripHCM(a *anypb.Any) error {
	h := &hcmv3.HttpConnectionManager{}
	if err := a.UnmarshalTo(h); err != nil {
		return err
	}
	var keep []*hcmv3.HttpFilter
	for _, f := range h.GetHttpFilters() {
		if strings.HasSuffix(f.GetTypedConfig().GetTypeUrl(), ".router.v3.Router") {
			keep = append(keep, f)
		}
	}
	h.HttpFilters, h.Http2ProtocolOptions = keep, nil
	if rc := h.GetRouteConfig(); rc != nil {
		stripRoutes(rc)
	}
	return a.MarshalFrom(h)
}

func stripCluster(c *clusterv3.Cluster) error {
	c.TransportSocket, c.TransportSocketMatches, c.Filters = nil, nil, nil
	for name, a := range c.GetTypedExtensionProtocolOptions() {
		o := &httpv3.HttpProtocolOptions{}
		if err := a.UnmarshalTo(o); err != nil {
			return err
		}
		switch {
		case o.GetExplicitHttpConfig().GetHttp2ProtocolOptions() != nil, o.GetUseDownstreamProtocolConfig() != nil:
			o.UpstreamProtocolOptions = &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
				ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{HttpProtocolOptions: &corev3.Http1ProtocolOptions{}}}}
		}
		b, err := anypb.New(o)
		if err != nil {
			return err
		}
		c.TypedExtensionProtocolOptions[name] = b
	}
	return nil
}

func stripRoutes(rc *routev3.RouteConfiguration) {
	rc.TypedPerFilterConfig = nil
	for _, v := range rc.GetVirtualHosts() {
		v.TypedPerFilterConfig = nil
		for _, r := range v.GetRoutes() {
			r.TypedPerFilterConfig = nil
			for _, w := range r.GetRoute().GetWeightedClusters().GetClusters() {
				w.TypedPerFilterConfig = nil
			}
		}
	}
}
