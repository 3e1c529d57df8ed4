// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
)

const types = "type.googleapis.com/envoy.extensions."

// config collects a bootstrap.
type config struct{ listeners, clusters []string }

// listener adds a listener on a port that the kernel picks, with one route to a cluster. socket is a transport socket or "", hcm further fields of the
// connection manager, each followed by a comma.
func (c *config) listener(name, cluster, socket, hcm string) {
	c.listeners = append(c.listeners, fmt.Sprintf(`{name: %s, address: {socket_address: {address: 127.0.0.1, port_value: 0}}, filter_chains: [%s]}`,
		name, chain(name, cluster, socket, hcm)))
}

// chain is a filter chain with one route to a cluster; before are fields of the chain, each followed by a comma.
func chain(name, cluster, before, hcm string) string {
	return fmt.Sprintf(`{%s filters: [{name: hcm, typed_config: {
    "@type": %sfilters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: %s, %s
    route_config: {name: r, virtual_hosts: [{name: v, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: %s, timeout: 0s}}]}]},
    http_filters: [{name: router, typed_config: {"@type": %sfilters.http.router.v3.Router}}]}}]}`, before, types, name, hcm, cluster, types)
}

// direct adds a listener that answers by itself.
func (c *config) direct(name, hcm string) {
	c.listener(name, "", "", hcm)
	l := &c.listeners[len(c.listeners)-1]
	*l = strings.Replace(*l, "route: {cluster: , timeout: 0s}", "direct_response: {status: 200, body: {inline_string: hello}}", 1)
}

// cluster adds a static cluster with one endpoint; http2 are Http2ProtocolOptions, or "" for HTTP/1.
func (c *config) cluster(name, addr, socket, http2 string) {
	if http2 != "" {
		http2 = protocol("explicit_http_config: {http2_protocol_options: " + http2 + "}")
	}
	c.clusterWith(name, socket+http2, addr)
}

// clusterWith adds a static cluster with further fields, each followed by a comma, and an endpoint for each address.
func (c *config) clusterWith(name, fields string, addrs ...string) {
	var endpoints []string
	for _, a := range addrs {
		host, port, _ := net.SplitHostPort(a)
		endpoints = append(endpoints, fmt.Sprintf("{endpoint: {address: {socket_address: {address: %s, port_value: %s}}}}", host, port))
	}
	c.clusters = append(c.clusters, fmt.Sprintf(`{name: %s, type: STATIC, connect_timeout: 2s, %s load_assignment: {cluster_name: %s, endpoints: [{lb_endpoints: [
    %s]}]}}`, name, fields, name, strings.Join(endpoints, ", ")))
}

// protocol are HttpProtocolOptions of a cluster.
func protocol(fields string) string {
	return fmt.Sprintf(`typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {"@type": %supstreams.http.v3.HttpProtocolOptions,
      %s}},`, types, fields)
}

func (c *config) String() string {
	return "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}\nstatic_resources:\n  listeners: [" + strings.Join(c.listeners, ",\n") +
		"]\n  clusters: [" + strings.Join(c.clusters, ",\n") + "]\n"
}

// commonTLS is the part of a TLS context that both directions share.
func commonTLS(cert string) string {
	return fmt.Sprintf(`alpn_protocols: [h2, http/1.1], tls_certificates: [{certificate_chain: {filename: %s}, private_key: {filename: %s}}]`,
		filepath.Join(certs, cert+".pem"), filepath.Join(certs, cert+".key"))
}

// downstreamTLS terminates TLS; mutual asks for a client certificate.
func downstreamTLS(mutual bool) string {
	require, validate := "", ""
	if mutual {
		require = "require_client_certificate: true, "
		validate = fmt.Sprintf(", validation_context: {trusted_ca: {filename: %s}}", filepath.Join(certs, "ca.pem"))
	}
	return fmt.Sprintf(`transport_socket: {name: tls, typed_config: {"@type": %stransport_sockets.tls.v3.DownstreamTlsContext, %scommon_tls_context: {%s%s}}},`,
		types, require, commonTLS("server"), validate)
}

// upstreamTLS shows a client certificate and verifies the backend's.
func upstreamTLS() string {
	return fmt.Sprintf(`transport_socket: {name: tls, typed_config: {"@type": %stransport_sockets.tls.v3.UpstreamTlsContext, sni: %s, common_tls_context: {%s,
    validation_context: {trusted_ca: {filename: %s}, match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: %s}}]}}}},`,
		types, serverName, commonTLS("client"), filepath.Join(certs, "ca.pem"), serverName)
}
