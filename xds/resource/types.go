// SPDX-License-Identifier: Apache-2.0

package resource

import (
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	runtimev3 "github.com/envoyproxy/go-control-plane/envoy/service/runtime/v3"
	"google.golang.org/protobuf/proto"
)

// Type is a resource type of the xDS API.
type Type uint8

// The resource types.
const (
	Unknown Type = iota
	Listener
	RouteConfiguration
	Cluster
	Endpoints
	Secret
	Runtime
	ExtensionConfig
	ScopedRoute
	VirtualHost
)

// Type URLs of the resource types.
const (
	ListenerURL        = "type.googleapis.com/envoy.config.listener.v3.Listener"
	RouteURL           = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
	ClusterURL         = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	EndpointsURL       = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	SecretURL          = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
	RuntimeURL         = "type.googleapis.com/envoy.service.runtime.v3.Runtime"
	ExtensionConfigURL = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
	ScopedRouteURL     = "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration"
	VirtualHostURL     = "type.googleapis.com/envoy.config.route.v3.VirtualHost"
)

type typeInfo struct {
	url, short, what string
	prototype        proto.Message // nil: Unknown
}

var infos = [...]typeInfo{
	Unknown:            {"", "unknown", "resource", nil},
	Listener:           {ListenerURL, "LDS", "listener", (*listenerv3.Listener)(nil)},
	RouteConfiguration: {RouteURL, "RDS", "route configuration", (*routev3.RouteConfiguration)(nil)},
	Cluster:            {ClusterURL, "CDS", "cluster", (*clusterv3.Cluster)(nil)},
	Endpoints:          {EndpointsURL, "EDS", "cluster load assignment", (*endpointv3.ClusterLoadAssignment)(nil)},
	Secret:             {SecretURL, "SDS", "secret", (*tlsv3.Secret)(nil)},
	Runtime:            {RuntimeURL, "RTDS", "runtime layer", (*runtimev3.Runtime)(nil)},
	ExtensionConfig:    {ExtensionConfigURL, "ECDS", "extension config", (*corev3.TypedExtensionConfig)(nil)},
	ScopedRoute:        {ScopedRouteURL, "SRDS", "scoped route configuration", (*routev3.ScopedRouteConfiguration)(nil)},
	VirtualHost:        {VirtualHostURL, "VHDS", "virtual host", (*routev3.VirtualHost)(nil)},
}

// TypeOf returns the type for a type URL, and whether it is known. The part before the last slash does not matter.
func TypeOf(url string) (Type, bool) {
	name := url[strings.LastIndexByte(url, '/')+1:]
	if name == "" {
		return Unknown, false
	}
	for t := Listener; int(t) < len(infos); t++ {
		if strings.HasSuffix(infos[t].url, "/"+name) {
			return t, true
		}
	}
	return Unknown, false
}

func (t Type) info() typeInfo {
	if int(t) < len(infos) {
		return infos[t]
	}
	return infos[Unknown]
}

// URL returns the type URL.
func (t Type) URL() string { return t.info().url }

// String returns the short name of the type's discovery service: LDS, RDS, CDS, EDS, ...
func (t Type) String() string { return t.info().short }

// What returns what one resource of the type is called in a sentence: "listener", "cluster load assignment".
func (t Type) What() string { return t.info().what }
