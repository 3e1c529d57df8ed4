// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// config is what a scenario asks of a proxy; the methods say it in each proxy's language. All of them keep connections alive on both sides,
// add X-Forwarded-For, X-Forwarded-Proto and X-Request-Id, count statistics, and route by prefix.
type config struct {
	log  bool
	tcp  bool
	body int
	// backend is the load tool's mode, empty for the HTTP backend.
	backend string
	// routes is the kind of the many routes: prefix, exact, mixed, regex; empty for the one route /.
	routes string
	// key is the key of the server's certificate, ecdsa or rsa; empty is no TLS. mutual asks for the client's.
	key    string
	mutual bool
	// h2 is HTTP/2 from the client, grpc HTTP/2 to the backend (which serves gRPC then).
	h2, grpc bool
	// upstreamTLS is mutual TLS to the backend, with the same kind of key.
	upstreamTLS bool
	// plain adds a listener without TLS.
	plain bool

	dir, certs                       string
	port, admin, plainPort, upstream int
}

func (c *config) certFile(name string) string { return filepath.Join(c.certs, name) }

// scheme is what X-Forwarded-Proto says where a proxy cannot find out itself.
func (c *config) scheme() string {
	if c.key != "" {
		return "https"
	}
	return "http"
}

// backendArgs are the flags of the load tool's backend.
func (c *config) backendArgs() []string {
	args := []string{"-body", strconv.Itoa(c.body)}
	if c.upstreamTLS {
		args = append(args, "-tls", c.certs, "-key", c.key, "-mutual")
	}
	return args
}

// clientArgs are the flags with which the load tool speaks to the proxy.
func (c *config) clientArgs() []string {
	var args []string
	if c.key != "" {
		args = append(args, "-tls", c.certs, "-key", c.key)
	}
	if c.mutual {
		args = append(args, "-mutual")
	}
	if c.grpc {
		args = append(args, "-grpc")
	}
	return args
}

func (c *config) upstreamAddr() string { return "127.0.0.1:" + strconv.Itoa(c.upstream) }

// routeKind is the kind of route i of a routes-* scenario.
func (c *config) routeKind(i int) string {
	if c.routes == "mixed" {
		return [2]string{"prefix", "exact"}[i%2]
	}
	return c.routes
}

func (c *config) routeCount() int {
	if c.routes == "regex" {
		return regexRoutes
	}
	return routeCount
}

// routePaths returns request targets that hit the first and the last route.
func (c *config) routePaths() (first, last string) {
	if c.routes == "" {
		return "/", "/"
	}
	return c.routePath(0), c.routePath(c.routeCount() - 1)
}

func (c *config) routePath(i int) string {
	switch c.routeKind(i) {
	case "prefix":
		return fmt.Sprintf("/service-%05d/items", i)
	case "regex":
		return fmt.Sprintf("/service-%05d/42", i)
	}
	return fmt.Sprintf("/service-%05d", i)
}

// envoy renders the bootstrap that Envoy and sidecar both read.
func (c *config) envoy() string {
	var b strings.Builder
	fmt.Fprintf(&b, `node: {id: bench, cluster: bench}
admin: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}
static_resources:
  clusters:
  - name: backend
    type: STATIC
    connect_timeout: 5s
    circuit_breakers: {thresholds: [{max_connections: 100000, max_pending_requests: 100000, max_requests: 100000}]}
`, c.admin)
	if c.grpc {
		b.WriteString(`    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
`)
	}
	if c.upstreamTLS {
		fmt.Fprintf(&b, `    transport_socket:
      name: tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: %s
        common_tls_context:
          tls_params: {tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3, ecdh_curves: [X25519]}
          alpn_protocols: [h2]
          tls_certificates:
          - {certificate_chain: {filename: %s}, private_key: {filename: %s}}
          validation_context:
            trusted_ca: {filename: %s}
            match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: %s}}]
`, serverName, c.certFile("client-"+c.key+".pem"), c.certFile("client-"+c.key+".key"), c.certFile("ca-"+c.key+".pem"), serverName)
	}
	fmt.Fprintf(&b, `    load_assignment:
      cluster_name: backend
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}}]}]
  listeners:
`, c.upstream)
	c.envoyListener(&b, "bench", c.port, c.key != "")
	if c.plain {
		c.envoyListener(&b, "plain", c.plainPort, false)
	}
	return b.String()
}

func (c *config) envoyListener(b *strings.Builder, name string, port int, secure bool) {
	fmt.Fprintf(b, `  - name: %s
    address: {socket_address: {address: 127.0.0.1, port_value: %d}}
    filter_chains:
    - filters:
`, name, port)
	if c.tcp {
		b.WriteString(`      - name: tcp
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: bench
          cluster: backend
`)
	} else {
		c.envoyHTTP(b)
	}
	if !secure {
		return
	}
	fmt.Fprintf(b, `      transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: %t
          common_tls_context:
            tls_params: {tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3, ecdh_curves: [X25519]}
            tls_certificates:
            - {certificate_chain: {filename: %s}, private_key: {filename: %s}}
`, c.mutual, c.certFile("server-"+c.key+".pem"), c.certFile("server-"+c.key+".key"))
	if c.mutual {
		fmt.Fprintf(b, "            validation_context: {trusted_ca: {filename: %s}}\n", c.certFile("ca-"+c.key+".pem"))
	}
	if c.h2 {
		b.WriteString("            alpn_protocols: [h2]\n")
	}
}

// envoyHTTP renders the connection manager with its routes.
func (c *config) envoyHTTP(b *strings.Builder) {
	b.WriteString(`      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: bench
          use_remote_address: true
`)
	if c.h2 {
		b.WriteString("          codec_type: HTTP2\n")
	}
	if c.log {
		fmt.Fprintf(b, `          access_log:
          - name: file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: %s
`, filepath.Join(c.dir, "access.log"))
	}
	b.WriteString(`          http_filters:
          - name: router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            name: bench
            virtual_hosts:
            - name: bench
              domains: ["*"]
              routes:
`)
	if c.routes == "" {
		b.WriteString("              - {match: {prefix: /}, route: {cluster: backend}}\n")
	}
	for i := 0; c.routes != "" && i < c.routeCount(); i++ {
		match := fmt.Sprintf("path: /service-%05d", i)
		switch c.routeKind(i) {
		case "prefix":
			match = fmt.Sprintf("prefix: /service-%05d/", i)
		case "regex":
			match = fmt.Sprintf("safe_regex: {regex: '/service-%05d/[0-9]+'}", i)
		}
		fmt.Fprintf(b, "              - {match: {%s}, route: {cluster: backend}}\n", match)
	}
}

// nginxLine is Envoy's default access-log line in nginx's words, so that both write the same facts (nginx has no response flags). HAProxy's own HTTP
// line, httplog, has about as many.
const nginxLine = `[$time_iso8601] "$request_method $request_uri $server_protocol" $status - $request_length $bytes_sent $request_time ` +
	`$upstream_response_time "$http_x_forwarded_for" "$http_user_agent" "$request_id" "$host" "$upstream_addr"`

// nginx renders nginx.conf; stream says where the stream module is.
func (c *config) nginx(stream string) string {
	var b strings.Builder
	if c.tcp && strings.HasPrefix(stream, "/") {
		fmt.Fprintf(&b, "load_module %s;\n", stream)
	}
	fmt.Fprintf(&b, "daemon off;\nworker_processes 1;\npid %s;\nevents { worker_connections 16384; }\n", filepath.Join(c.dir, "nginx.pid"))
	if c.tcp {
		fmt.Fprintf(&b, "stream {\n  server { listen 127.0.0.1:%d; proxy_pass %s; tcp_nodelay on; }\n}\n", c.port, c.upstreamAddr())
		return b.String()
	}
	log := "access_log off;"
	if c.log {
		log = fmt.Sprintf("log_format line '%s';\n  access_log %s line buffer=64k flush=1s;", nginxLine, filepath.Join(c.dir, "access.log"))
	}
	fmt.Fprintf(&b, `http {
  %s
  keepalive_timeout 3600s;
  keepalive_requests 1000000000;
  client_body_temp_path %[3]s; proxy_temp_path %[3]s; fastcgi_temp_path %[3]s; uwsgi_temp_path %[3]s; scgi_temp_path %[3]s;
  upstream backend { server %[2]s; keepalive 256; keepalive_requests 1000000000; keepalive_timeout 3600s; }
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  proxy_max_temp_file_size 0;
  client_max_body_size 0;
`, log, c.upstreamAddr(), filepath.Join(c.dir, "tmp"))
	pass := "proxy_pass http://backend;"
	set := "proxy_set_header"
	if c.grpc {
		pass, set = "grpc_pass grpc://backend;", "grpc_set_header"
	}
	if c.upstreamTLS {
		pass = "grpc_pass grpcs://backend;"
		fmt.Fprintf(&b, `  grpc_ssl_certificate %s;
  grpc_ssl_certificate_key %s;
  grpc_ssl_trusted_certificate %s;
  grpc_ssl_verify on;
  grpc_ssl_name %s;
  grpc_ssl_server_name on;
  grpc_ssl_protocols TLSv1.3;
  grpc_ssl_conf_command Groups X25519;
  grpc_ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
`, c.certFile("client-"+c.key+".pem"), c.certFile("client-"+c.key+".key"), c.certFile("ca-"+c.key+".pem"), serverName)
	}
	fmt.Fprintf(&b, `  %[1]s Host $host;
  %[1]s X-Forwarded-For $proxy_add_x_forwarded_for;
  %[1]s X-Forwarded-Proto $scheme;
  %[1]s X-Request-Id $request_id;
  server {
`, set)
	c.nginxListen(&b)
	if c.routes == "" {
		fmt.Fprintf(&b, "    location / { %s }\n", pass)
	}
	for i := 0; c.routes != "" && i < c.routeCount(); i++ {
		location := fmt.Sprintf("= /service-%05d", i)
		switch c.routeKind(i) {
		case "prefix":
			location = fmt.Sprintf("/service-%05d/", i)
		case "regex":
			location = fmt.Sprintf("~ ^/service-%05d/[0-9]+$", i)
		}
		fmt.Fprintf(&b, "    location %s { %s }\n", location, pass)
	}
	b.WriteString("  }\n}\n")
	return b.String()
}

func (c *config) nginxListen(b *strings.Builder) {
	options := "backlog=4096"
	if c.key != "" {
		options += " ssl"
	}
	if c.h2 {
		options += " http2"
	}
	fmt.Fprintf(b, "    listen 127.0.0.1:%d %s;\n", c.port, options)
	if c.plain {
		fmt.Fprintf(b, "    listen 127.0.0.1:%d backlog=4096;\n", c.plainPort)
	}
	if c.key == "" {
		return
	}
	fmt.Fprintf(b, `    ssl_certificate %s;
    ssl_certificate_key %s;
    ssl_protocols TLSv1.3;
    ssl_ecdh_curve X25519;
    ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
`, c.certFile("server-"+c.key+".pem"), c.certFile("server-"+c.key+".key"))
	if c.mutual {
		fmt.Fprintf(b, "    ssl_verify_client on;\n    ssl_client_certificate %s;\n", c.certFile("ca-"+c.key+".pem"))
	}
}

// haproxy renders haproxy.cfg and its map files. Many routes are maps, HAProxy's own way of having many.
func (c *config) haproxy() (text string, maps map[string]string) {
	var b strings.Builder
	// maxpipes bounds the descriptors that splicing may take.
	b.WriteString("global\n  nbthread 1\n  maxconn 8000\n  maxpipes 256\n")
	if c.log {
		b.WriteString("  log stdout format raw local0\n")
	}
	b.WriteString("defaults\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n  timeout http-keep-alive 1h\n")
	if c.tcp {
		fmt.Fprintf(&b, "  mode tcp\n  option splice-auto\nlisten bench\n  bind 127.0.0.1:%d\n  server s %s\n", c.port, c.upstreamAddr())
		return b.String(), nil
	}
	b.WriteString("  mode http\n  option http-keep-alive\n  http-reuse always\n  option forwardfor\n")
	if c.log {
		b.WriteString("  log global\n  option httplog\n")
	}
	b.WriteString("frontend bench\n")
	c.haproxyBind(&b)
	fmt.Fprintf(&b, `  http-request set-header X-Forwarded-Proto %s
  http-request set-header X-Request-Id %%[uuid]
  stats enable
  stats uri /haproxy-stats
`, c.scheme())
	maps = map[string]string{}
	if c.routes == "" {
		b.WriteString("  use_backend backend if { path_beg / }\n")
	} else {
		names := map[string]string{"exact": "map_str", "prefix": "map_beg", "regex": "map_reg"}
		files := map[string]*strings.Builder{}
		for i := 0; i < c.routeCount(); i++ {
			kind := c.routeKind(i)
			if files[kind] == nil {
				files[kind] = &strings.Builder{}
			}
			pattern := map[string]string{"exact": "/service-%05d", "prefix": "/service-%05d/", "regex": "^/service-%05d/[0-9]+$"}[kind]
			fmt.Fprintf(files[kind], pattern+" backend\n", i)
		}
		for _, kind := range []string{"exact", "prefix", "regex"} {
			if f := files[kind]; f != nil {
				maps[kind+".map"] = f.String()
				file := filepath.Join(c.dir, kind+".map")
				fmt.Fprintf(&b, "  use_backend %%[path,%s(%s)] if { path,%s(%s) -m found }\n", names[kind], file, names[kind], file)
			}
		}
	}
	fmt.Fprintf(&b, "backend backend\n  server s %s pool-max-conn -1", c.upstreamAddr())
	switch {
	case c.upstreamTLS:
		fmt.Fprintf(&b, " ssl crt %s ca-file %s verify required sni str(%[3]s) verifyhost %[3]s alpn h2 ssl-min-ver TLSv1.3 ciphersuites TLS_AES_128_GCM_SHA256",
			c.certFile("client-"+c.key+".both"), c.certFile("ca-"+c.key+".pem"), serverName)
	case c.grpc:
		b.WriteString(" proto h2")
	}
	b.WriteByte('\n')
	return b.String(), maps
}

func (c *config) haproxyBind(b *strings.Builder) {
	fmt.Fprintf(b, "  bind 127.0.0.1:%d", c.port)
	if c.key != "" {
		fmt.Fprintf(b, " ssl crt %s ssl-min-ver TLSv1.3 curves X25519 ciphersuites TLS_AES_128_GCM_SHA256", c.certFile("server-"+c.key+".both"))
	}
	if c.mutual {
		fmt.Fprintf(b, " ca-file %s verify required", c.certFile("ca-"+c.key+".pem"))
	}
	switch {
	case c.h2 && c.key != "":
		b.WriteString(" alpn h2")
	case c.h2:
		b.WriteString(" proto h2")
	}
	b.WriteByte('\n')
	if c.plain {
		fmt.Fprintf(b, "  bind 127.0.0.1:%d\n", c.plainPort)
	}
}
