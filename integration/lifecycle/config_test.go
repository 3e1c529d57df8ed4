// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"fmt"
	"net"
	"strings"
)

const typePrefix = "type.googleapis.com/envoy.extensions.filters."

// httpListener is a listener on a port that the kernel picks, with one route to a cluster. extra are further fields of the listener (JSON,
// each followed by a comma), hcm of the connection manager.
func httpListener(name, cluster, extra, hcm string) string {
	return fmt.Sprintf(`{"@type": type.googleapis.com/envoy.config.listener.v3.Listener, name: %s, %s address: {socket_address: {address: 127.0.0.1, port_value: 0}}, filter_chains: [{filters: [{name: hcm, typed_config: {
    "@type": %snetwork.http_connection_manager.v3.HttpConnectionManager, stat_prefix: %s, %s
    route_config: {name: r, virtual_hosts: [{name: v, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: %s, timeout: 0s}}]}]},
    http_filters: [{name: router, typed_config: {"@type": %shttp.router.v3.Router}}]}}]}]}`, name, extra, typePrefix, name, hcm, cluster, typePrefix)
}

// tcpListener is a listener with tcp_proxy.
func tcpListener(name, cluster, extra string) string {
	return fmt.Sprintf(`{"@type": type.googleapis.com/envoy.config.listener.v3.Listener, name: %s, %s address: {socket_address: {address: 127.0.0.1, port_value: 0}}, filter_chains: [{filters: [{name: t, typed_config: {
    "@type": %snetwork.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: %s}}]}]}`, name, extra, typePrefix, cluster)
}

// cluster is a static cluster with one endpoint.
func cluster(name, addr string) string {
	host, port, _ := net.SplitHostPort(addr)
	return fmt.Sprintf(`{name: %s, type: STATIC, connect_timeout: 1s, load_assignment: {cluster_name: %s, endpoints: [{lb_endpoints: [
    {endpoint: {address: {socket_address: {address: %s, port_value: %s}}}}]}]}}`, name, name, host, port)
}

const adminSection = "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}\n"

// static is a bootstrap with an admin address. The "@type" of listeners is only for discovery responses and is taken out.
func static(listeners, clusters []string) string {
	for i, l := range listeners {
		listeners[i] = strings.Replace(l, `"@type": type.googleapis.com/envoy.config.listener.v3.Listener, `, "", 1)
	}
	return adminSection + "static_resources:\n  listeners: [" + strings.Join(listeners, ",\n") + "]\n  clusters: [" + strings.Join(clusters, ",\n") + "]\n"
}

// simple is one HTTP listener "l" in front of a backend.
func simple(b *backend) string {
	return static([]string{httpListener("l", "b", "", "")}, []string{cluster("b", b.addr)})
}
