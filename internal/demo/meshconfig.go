// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"sidecar/internal/testctl"
)

// meshPorts are where everything listens.
type meshPorts struct{ outbound, inbound, clientAdmin, serverAdmin, app int }

// The names of the secrets.
const (
	leafSecret   = "workload"
	bundleSecret = "mesh-roots"
)

// requestsPerConnection makes the client's sidecar open new connections now and then, so that its new certificate is seen.
const requestsPerConnection = 50

func (m *mesh) serverResources() testctl.Resources {
	tls := &tlsv3.DownstreamTlsContext{RequireClientCertificate: wrapperspb.Bool(true), CommonTlsContext: meshTLS(spiffeID(clientNode))}
	route := routeTo("app", header("x-demo-client", "%DOWNSTREAM_PEER_URI_SAN%"), header("x-demo-peer-serial", "%DOWNSTREAM_PEER_SERIAL%"),
		header("x-demo-tls", "%DOWNSTREAM_TLS_VERSION%"), header("x-demo-protocol", "%PROTOCOL%"))
	l := meshListener("inbound", m.ports.inbound, route)
	l.FilterChains[0].TransportSocket = transportSocket(tls)
	return testctl.Resources{Listeners: []types.Resource{l}, Clusters: []types.Resource{staticCluster("app", m.ports.app)},
		Secrets: []types.Resource{certificateSecret(m.server), m.bundleOf()}}
}

func (m *mesh) clientResources() testctl.Resources {
	c := staticCluster("server", m.ports.inbound)
	c.TransportSocket = transportSocket(&tlsv3.UpstreamTlsContext{Sni: "server." + trustDomain, CommonTlsContext: meshTLS(spiffeID(serverNode))})
	c.TypedExtensionProtocolOptions = map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": mustAny(&httpv3.HttpProtocolOptions{
		CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{MaxRequestsPerConnection: wrapperspb.UInt32(requestsPerConnection)},
		UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
			ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: withConnect()}}},
	})}
	l := meshListener("outbound", m.ports.outbound, routeTo("server", header("x-demo-server", "%UPSTREAM_PEER_URI_SAN%")))
	return testctl.Resources{Listeners: []types.Resource{l}, Clusters: []types.Resource{c},
		Secrets: []types.Resource{certificateSecret(m.client), m.bundleOf()}}
}

// meshTLS is what both sides have in common: an own certificate, the mesh's roots and the peer that is expected.
func meshTLS(peer string) *tlsv3.CommonTlsContext {
	return &tlsv3.CommonTlsContext{AlpnProtocols: []string{"h2", "http/1.1"},
		TlsParams:                      &tlsv3.TlsParameters{TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_3, TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3},
		TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{{Name: leafSecret, SdsConfig: ads()}},
		ValidationContextType: &tlsv3.CommonTlsContext_CombinedValidationContext{CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
			DefaultValidationContext: &tlsv3.CertificateValidationContext{MatchTypedSubjectAltNames: []*tlsv3.SubjectAltNameMatcher{{
				SanType: tlsv3.SubjectAltNameMatcher_URI,
				Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: peer}}}}},
			ValidationContextSdsSecretConfig: &tlsv3.SdsSecretConfig{Name: bundleSecret, SdsConfig: ads()},
		}}}
}

func transportSocket(m proto.Message) *corev3.TransportSocket {
	return &corev3.TransportSocket{Name: "envoy.transport_sockets.tls", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: mustAny(m)}}
}

func inline(b []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
}

func certificateSecret(l leaf) *tlsv3.Secret {
	return &tlsv3.Secret{Name: leafSecret, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		CertificateChain: inline(l.chain), PrivateKey: inline(l.key)}}}
}

func (m *mesh) bundleOf() *tlsv3.Secret {
	return &tlsv3.Secret{Name: bundleSecret, Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{TrustedCa: inline(m.ca.bundle())}}}
}

func staticCluster(name string, port int) *clusterv3.Cluster {
	return &clusterv3.Cluster{Name: name, ConnectTimeout: durationpb.New(time.Second), ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		LoadAssignment: assignment(name, []int{port})}
}

func routeTo(cluster string, headers ...*corev3.HeaderValueOption) *routev3.RouteConfiguration {
	to := &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster}}
	return &routev3.RouteConfiguration{Name: cluster, ResponseHeadersToAdd: headers, VirtualHosts: []*routev3.VirtualHost{{Name: "all", Domains: []string{"*"},
		Routes: []*routev3.Route{{Match: prefix("/"), Action: &routev3.Route_Route{Route: to}}}}}}
}

// withConnect allows WebSockets as streams (RFC 8441).
func withConnect() *corev3.Http2ProtocolOptions {
	return &corev3.Http2ProtocolOptions{AllowConnect: true}
}

func meshListener(name string, port int, routes *routev3.RouteConfiguration) *listenerv3.Listener {
	h := &hcmv3.HttpConnectionManager{StatPrefix: name, RouteSpecifier: &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: routes},
		Http2ProtocolOptions: withConnect(), UpgradeConfigs: []*hcmv3.HttpConnectionManager_UpgradeConfig{{UpgradeType: "websocket"}},
		HttpFilters: []*hcmv3.HttpFilter{{Name: "envoy.filters.http.router",
			ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: mustAny(&routerv3.Router{})}}}}
	return &listenerv3.Listener{Name: name, Address: address(port), FilterChains: []*listenerv3.FilterChain{{
		Filters: []*listenerv3.Filter{{Name: "envoy.filters.network.http_connection_manager",
			ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: mustAny(h)}}}}}}
}
