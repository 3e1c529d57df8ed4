// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"fmt"
	"path/filepath"
	"strings"
)

// clusters are the clusters and the backends behind them.
var clusters = []struct {
	name, kind, backend string
	small               bool
}{
	{"clean", "STATIC", "clean", false},
	{"other", "STATIC", "other", true},
	{"dns", "STRICT_DNS", "clean", false},
	{"chaos", "STATIC", "chaos", false},
	{"retry", "STATIC", "retry", true},
	{"mirror", "STATIC", "mirror", false},
	{"tcp", "STATIC", "tcp", false},
}

const routes = `
                - match: {path: /clean}
                  route: {cluster: clean}
                - match: {path: /ws}
                  route: {cluster: clean, timeout: 0s}
                - match: {path: /weighted}
                  route:
                    weighted_clusters:
                      clusters: [{name: clean, weight: 1}, {name: other, weight: 3}]
                - match: {path: /dns}
                  route: {cluster: dns}
                - match: {path: /mirror}
                  route:
                    cluster: other
                    request_mirror_policies: [{cluster: mirror}]
                - match: {path: /retry}
                  route:
                    cluster: retry
                    retry_policy:
                      retry_on: 5xx
                      num_retries: 4
                      retry_back_off: {base_interval: 0.002s, max_interval: 0.01s}
                - match: {path: /chaos}
                  route: {cluster: chaos}
                - match: {path: /slow}
                  route: {cluster: other, timeout: 1s}
`

// bootstrap is the static configuration.
func (r *run) bootstrap() string {
	var b strings.Builder
	address := func(port int) string {
		return fmt.Sprintf("{socket_address: {address: 127.0.0.1, port_value: %d}}", port)
	}
	fmt.Fprintf(&b, "node: {id: soak, cluster: soak}\nadmin: {address: %s}\nstatic_resources:\n  listeners:\n", address(r.admin))
	for _, l := range []struct {
		name  string
		port  int
		limit string
	}{{"http", r.http, ""}, {"small", r.small, "    per_connection_buffer_limit_bytes: 4096\n"}} {
		fmt.Fprintf(&b, `  - name: %s
    address: %s
%s    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: soak
          http_protocol_options: {enable_trailers: true}
          upgrade_configs: [{upgrade_type: websocket}]
          access_log:
          - name: file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: %s
              log_format: {text_format_source: {inline_string: "%%REQ(x-id)%% %%RESPONSE_CODE%% %%RESPONSE_FLAGS%% %%RESPONSE_CODE_DETAILS%% %%BYTES_RECEIVED%% %%BYTES_SENT%%\n"}}
          route_config:
            name: local
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:%s          http_filters:
          - name: router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
`, l.name, address(l.port), l.limit, filepath.Join(r.dir, "access.log"), routes)
	}
	fmt.Fprintf(&b, `  - name: tcp
    address: %s
    filter_chains:
    - filters:
      - name: tcp
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: tcp
          cluster: tcp
  clusters:
`, address(r.tcp))
	for _, c := range clusters {
		fmt.Fprintf(&b, `  - name: %s
    type: %s
    connect_timeout: 5s
    circuit_breakers: {thresholds: [{max_connections: 4096, max_pending_requests: 4096, max_requests: 4096, max_retries: 4096}]}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http_protocol_options: {enable_trailers: true}}
    load_assignment:
      cluster_name: %s
      endpoints: [{lb_endpoints: [{endpoint: {address: %s}}]}]
`, c.name, c.kind, c.name, address(r.backends[c.backend].port()))
		if c.small {
			b.WriteString("    per_connection_buffer_limit_bytes: 4096\n")
		}
	}
	return b.String()
}
