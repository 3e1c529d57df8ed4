// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// clusters are the clusters and the backends behind them.
var clusters = []struct {
	name, kind, backend string
	small               bool
}{
	{"clean", "STATIC", "clean", false},
	{"other", "EDS", "other", true},
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

const logFormat = `%REQ(x-id)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %BYTES_RECEIVED% %BYTES_SENT%\n`

// indent puts n blanks in front of every line.
func indent(n int, text string) string {
	pad := strings.Repeat(" ", n)
	return pad + strings.ReplaceAll(strings.Trim(text, "\n"), "\n", "\n"+pad) + "\n"
}

func address(host string, port int) string {
	return fmt.Sprintf("{socket_address: {address: %s, port_value: %d}}", host, port)
}

// variant is what changes from one version of the configuration to the next.
type variant struct {
	n     int
	hosts map[string][]string // addresses of a cluster's backend
	bumps map[string]int      // clusters and listeners in another version
	extra bool                // the listener that comes and goes is there
}

func (v *variant) hostsOf(cluster string) []string {
	if h := v.hosts[cluster]; len(h) > 0 {
		return h
	}
	return []string{"127.0.0.1"}
}

// table is a route configuration; unused routes tell versions apart.
func (v *variant) table(name string) string {
	return fmt.Sprintf("name: %s\nvirtual_hosts:\n- name: all\n  domains: [\"*\"]\n  routes:\n  - match: {path: /none-%d}\n    direct_response: {status: 410}\n%s",
		name, v.bumps["route "+name], indent(2, routes))
}

func (r *run) connectionManager(v *variant, routing string) string {
	return fmt.Sprintf(`- filters:
  - name: hcm
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: soak
      delayed_close_timeout: 0.5s
      http_protocol_options: {enable_trailers: true}
      upgrade_configs: [{upgrade_type: websocket}]
      access_log:
      - name: file
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
          path: %s
          log_format: {text_format_source: {inline_string: "%s"}}
%s      http_filters:
      - name: router
        typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
`, filepath.Join(r.dir, "access.log"), logFormat, indent(6, routing))
}

// listeners are the listeners as list items.
func (r *run) listeners(v *variant, typed string) string {
	var b strings.Builder
	inline := "route_config:\n" + indent(2, v.table("inline"))
	rds := inline
	if r.churn {
		rds = fmt.Sprintf("rds: {route_config_name: local, config_source: %s}", r.source("rds"))
	}
	item := func(name string, port int, fields, chains string) {
		fmt.Fprintf(&b, "- %sname: %s\n  address: %s\n%s  filter_chains:\n%s", typed, name, address("127.0.0.1", port), fields, indent(2, chains))
	}
	item("http", r.http, "", r.connectionManager(v, rds))
	item("small", r.small, "  per_connection_buffer_limit_bytes: 4096\n", r.connectionManager(v, inline))
	if v.extra {
		item("extra", r.extra, "", r.connectionManager(v, inline))
	}
	item("tcp", r.tcp, "", fmt.Sprintf(`- filters:
  - name: tcp
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
      stat_prefix: tcp
      cluster: tcp
      idle_timeout: %ds
`, 3600+v.bumps["tcp listener"]))
	return b.String()
}

func (r *run) assignment(v *variant, name, backend string) string {
	var ends []string
	for _, h := range v.hostsOf(name) {
		ends = append(ends, fmt.Sprintf("{endpoint: {address: %s}}", address(h, r.backends[backend].port())))
	}
	return fmt.Sprintf("cluster_name: %s\nendpoints: [{lb_endpoints: [%s]}]\n", name, strings.Join(ends, ", "))
}

// clusters are the clusters as list items.
func (r *run) clusters(v *variant, typed string) string {
	var b strings.Builder
	for _, c := range clusters {
		kind, hosts := c.kind, "load_assignment:\n"+indent(2, r.assignment(v, c.name, c.backend))
		if kind == "EDS" && !r.churn {
			kind = "STATIC"
		}
		if kind == "EDS" {
			hosts = fmt.Sprintf("eds_cluster_config: {eds_config: %s}\n", r.source("eds"))
		}
		fmt.Fprintf(&b, `- %sname: %s
  type: %s
  connect_timeout: %ds
  circuit_breakers: {thresholds: [{max_connections: 4096, max_pending_requests: 4096, max_requests: 4096, max_retries: 4096}]}
  typed_extension_protocol_options:
    envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
      "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
      explicit_http_config: {http_protocol_options: {enable_trailers: true}}
%s`, typed, c.name, kind, 5+v.bumps["cluster "+c.name], indent(2, hosts))
		if c.small {
			b.WriteString("  per_connection_buffer_limit_bytes: 4096\n")
		}
	}
	return b.String()
}

func (r *run) source(name string) string {
	return fmt.Sprintf("{resource_api_version: V3, path_config_source: {path: %s}}", r.file(name))
}

func (r *run) file(name string) string { return filepath.Join(r.dir, name+".yaml") }

// bootstrap is the configuration to start with.
func (r *run) bootstrap() string {
	top := fmt.Sprintf("node: {id: soak, cluster: soak}\nadmin: {address: %s}\n", address("127.0.0.1", r.admin))
	v := &variant{}
	if !r.churn {
		return top + "static_resources:\n  listeners:\n" + indent(2, r.listeners(v, "")) + "  clusters:\n" + indent(2, r.clusters(v, ""))
	}
	r.put(v)
	return top + fmt.Sprintf("dynamic_resources:\n  cds_config: %s\n  lds_config: %s\n", r.source("cds"), r.source("lds"))
}

// put writes one version of everything dynamic, as moves over the watched files.
func (r *run) put(v *variant) {
	write := func(name, items string) {
		text := fmt.Sprintf("version_info: \"%d\"\nresources:\n%s", v.n, items)
		if err := os.WriteFile(r.file(name)+".new", []byte(text), 0o644); err != nil {
			r.t.Fatal(err)
		}
		if err := os.Rename(r.file(name)+".new", r.file(name)); err != nil {
			r.t.Fatal(err)
		}
	}
	const typed = "\"@type\": type.googleapis.com/envoy.config."
	item := func(t, text string) string {
		return "- " + typed + t + "\n" + indent(2, text)
	}
	write("eds", item("endpoint.v3.ClusterLoadAssignment", r.assignment(v, "other", "other")))
	write("cds", r.clusters(v, typed+"cluster.v3.Cluster\n  "))
	write("rds", item("route.v3.RouteConfiguration", v.table("local")))
	write("lds", r.listeners(v, typed+"listener.v3.Listener\n  "))
}

// change rewrites the configuration until end: hosts come and go, clusters and listeners are replaced, routes change.
func (r *run) change(rnd *rand.Rand, end time.Time) {
	v := &variant{hosts: map[string][]string{}, bumps: map[string]int{}}
	for time.Now().Before(end) && r.failures.Load() == 0 {
		v.n++
		c := clusters[rnd.IntN(len(clusters))].name
		switch rnd.IntN(6) {
		case 0, 1:
			v.hosts[c] = [][]string{{"127.0.0.1"}, {"127.0.0.2"}, {"127.0.0.1", "127.0.0.2"}}[rnd.IntN(3)]
		case 2:
			v.bumps["cluster "+c]++
		case 3:
			v.bumps["route "+[]string{"local", "inline"}[rnd.IntN(2)]]++
		case 4:
			v.bumps["tcp listener"]++
		case 5:
			v.extra = !v.extra
		}
		r.put(v)
		time.Sleep(time.Duration(20+rnd.IntN(200)) * time.Millisecond)
	}
	v.n++
	v.extra = false
	r.put(v)
	r.count("versions", fmt.Sprint(v.n))
}

// passer is a client of the listener that comes and goes: it is refused, closed or answered, and never gets anything else.
func (r *run) passer(rnd *rand.Rand, name string) {
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", r.extra))
	if err != nil {
		return
	}
	c.Close()
	p := &plan{ID: r.nextID(), Route: "/clean", Method: "GET", Status: 200, Resp: rnd.IntN(100000), Framing: "chunked", Last: true, Aborts: true}
	h := &httpConn{run: r, rnd: rnd, name: name, plans: []*plan{p}, leave: forgives}
	h.serve(r.extra)
}
