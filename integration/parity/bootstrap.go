// SPDX-License-Identifier: Apache-2.0

package parity

import (
	"fmt"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"
)

// DefaultLog is the access-log format of a listener that names none: everything a request leaves behind that does not change from run
// to run.
const DefaultLog = "%PROTOCOL% %REQ(:METHOD)% %REQ(:AUTHORITY)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% code=%RESPONSE_CODE% flags=%RESPONSE_FLAGS% " +
	"details=%RESPONSE_CODE_DETAILS% rx=%BYTES_RECEIVED% tx=%BYTES_SENT% route=%ROUTE_NAME% cluster=%UPSTREAM_CLUSTER% host=%UPSTREAM_HOST% " +
	"attempts=%UPSTREAM_REQUEST_ATTEMPT_COUNT% term=%CONNECTION_TERMINATION_DETAILS% fail=%UPSTREAM_TRANSPORT_FAILURE_REASON%\n"

const (
	typeHCM           = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
	typeTCP           = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
	typeRouter        = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
	typeUpstreamTLS   = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
	typeDownstreamTLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
	typeHTTPOptions   = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
	typeFile          = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog"
)

var defaultBackends = []string{"b1", "b2", "b3", "b4"}

// portNames lists every port the group needs: admin, backends, two that never answer, listeners.
func (g *Group) portNames() []string {
	names := append([]string{"admin", "refused", "blackhole"}, defaultBackends...)
	names = append(names, g.Backends...)
	var ls []string
	for n := range g.Listeners {
		ls = append(ls, n)
	}
	sort.Strings(ls)
	return append(names, ls...)
}

// vars are the values of placeholders for one run.
type vars struct {
	ports map[string]int
	dir   string
}

var placeholder = regexp.MustCompile(`\$\{([a-z]+)(?::([A-Za-z0-9_.-]+))?\}`)

// expand replaces placeholders; an unknown one is an error.
func (v *vars) expand(s string) (string, error) {
	var bad error
	out := placeholder.ReplaceAllStringFunc(s, func(p string) string {
		m := placeholder.FindStringSubmatch(p)
		switch m[1] {
		case "dir":
			return v.dir
		case "admin":
			return strconv.Itoa(v.ports["admin"])
		case "pem", "key", "crl":
			file, err := harnessPKI.file(v.dir, m[1], m[2])
			if err != nil {
				bad = fmt.Errorf("placeholder %s: %w", p, err)
			}
			return file
		case "hash", "spki":
			hash, err := harnessPKI.hash(m[1], m[2])
			if err != nil {
				bad = fmt.Errorf("placeholder %s: %w", p, err)
			}
			return hash
		case "port", "addr":
			port, ok := v.ports[m[2]]
			if !ok {
				bad = fmt.Errorf("placeholder %s: no such port", p)
			}
			if m[1] == "addr" {
				return "127.0.0.1:" + strconv.Itoa(port)
			}
			return strconv.Itoa(port)
		}
		bad = fmt.Errorf("placeholder %s is unknown", p)
		return p
	})
	return out, bad
}

// Bootstrap renders the group's complete Envoy bootstrap as YAML.
func (g *Group) bootstrap(v *vars) (string, error) {
	if g.Raw != "" {
		return v.expand(g.Raw)
	}
	var listeners, clusters []any
	for _, name := range sortedKeys(g.Listeners) {
		l, err := g.Listeners[name].expand(name)
		if err != nil {
			return "", err
		}
		listeners = append(listeners, l)
	}
	for _, name := range append([]string{"refused", "blackhole"}, defaultBackends...) {
		if _, own := g.Clusters[name]; !own {
			clusters = append(clusters, cluster(name, nil))
		}
	}
	for _, name := range sortedKeys(g.Clusters) {
		clusters = append(clusters, cluster(name, g.Clusters[name]))
	}
	top := map[string]any{
		"node":             map[string]any{"id": "parity", "cluster": "parity"},
		"admin":            map[string]any{"address": socketAddress("admin")},
		"static_resources": map[string]any{"listeners": listeners, "clusters": clusters},
	}
	merge(top, g.Extra)
	text, err := yaml.Marshal(top)
	if err != nil {
		return "", err
	}
	// Port placeholders are numbers in the file, as people write them.
	s := regexp.MustCompile(`port_value: '?\$\{port:([^}]+)\}'?`).ReplaceAllString(string(text), "port_value: $${port:$1}")
	return v.expand(s)
}

func sortedKeys[T any](m map[string]T) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

func socketAddress(port string) map[string]any {
	return map[string]any{"socket_address": map[string]any{"address": "127.0.0.1", "port_value": "${port:" + port + "}"}}
}

// cluster expands the short form of a cluster: `hosts` lists backend names or {name, and fields merged over the endpoint}, `tls` is a
// tlsContext, `h2` are explicit Http2ProtocolOptions, `options` is merged over HttpProtocolOptions; the rest is merged.
func cluster(name string, spec map[string]any) map[string]any {
	hosts := []any{name}
	if h, ok := spec["hosts"].([]any); ok {
		hosts = h
	}
	var endpoints []any
	for _, h := range hosts {
		port, extra := "", map[string]any(nil)
		switch h := h.(type) {
		case string:
			port = h
		case map[string]any:
			port, _ = h["name"].(string)
			extra = h
		}
		ep := map[string]any{"endpoint": map[string]any{"address": socketAddress(port)}}
		for k, x := range extra {
			if k != "name" {
				merge(ep, map[string]any{k: x})
			}
		}
		endpoints = append(endpoints, ep)
	}
	c := map[string]any{"name": name, "type": "STATIC", "connect_timeout": "1s"}
	if len(hosts) > 0 {
		c["load_assignment"] = map[string]any{"cluster_name": name, "endpoints": []any{map[string]any{"lb_endpoints": endpoints}}}
	}
	rest := map[string]any{}
	for k, x := range spec {
		if k != "hosts" && k != "tls" && k != "h2" && k != "options" {
			rest[k] = x
		}
	}
	if spec, ok := spec["tls"].(map[string]any); ok {
		c["transport_socket"] = tlsSocket(typeUpstreamTLS, spec)
	}
	options := map[string]any{"@type": typeHTTPOptions}
	if h2, ok := spec["h2"].(map[string]any); ok {
		options["explicit_http_config"] = map[string]any{"http2_protocol_options": h2}
	}
	if more, ok := spec["options"].(map[string]any); ok {
		merge(options, more)
	}
	if len(options) > 1 {
		c["typed_extension_protocol_options"] = map[string]any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options}
	}
	merge(c, rest)
	return c
}

func (l *Listener) accessLog(name string) []any {
	if l.Log == "none" {
		return nil
	}
	format := map[string]any{"text_format_source": map[string]any{"inline_string": DefaultLog}}
	if l.Log != "" {
		format = map[string]any{"text_format_source": map[string]any{"inline_string": strings.TrimSuffix(l.Log, "\n") + "\n"}}
	}
	if l.LogJSON != nil {
		format = map[string]any{"json_format": l.LogJSON}
	}
	cfg := map[string]any{"@type": typeFile, "path": "${dir}/" + name + ".log", "log_format": format}
	if l.Log == "default" {
		delete(cfg, "log_format")
	}
	entry := map[string]any{"name": "file", "typed_config": cfg}
	merge(entry, l.AccessLog)
	return []any{entry}
}

func (l *Listener) expand(name string) (map[string]any, error) {
	out := map[string]any{"name": name, "address": socketAddress(name)}
	if l.Chains == nil {
		filters, err := l.networkFilters(name)
		if err != nil {
			return nil, err
		}
		chain := map[string]any{"filters": filters}
		if l.TLS != nil {
			chain["transport_socket"] = tlsSocket(typeDownstreamTLS, l.TLS)
		}
		out["filter_chains"] = []any{chain}
	} else {
		chains, err := l.chains(name)
		if err != nil {
			return nil, err
		}
		out["filter_chains"] = chains
	}
	merge(out, l.Fields)
	return out, nil
}

// chains expands the short forms inside of Chains.
func (l *Listener) chains(name string) ([]any, error) {
	var chains []any
	for i, c := range l.Chains {
		spec, _ := c.(map[string]any)
		chain := map[string]any{}
		merge(chain, spec)
		if t, ok := spec["tls"].(map[string]any); ok {
			chain["transport_socket"] = tlsSocket(typeDownstreamTLS, t)
			delete(chain, "tls")
		}
		for _, kind := range []string{"http", "tcp_proxy"} {
			short, ok := spec[kind].(map[string]any)
			if !ok {
				continue
			}
			one := Listener{Log: l.Log, LogJSON: l.LogJSON, AccessLog: l.AccessLog, TCPProxy: short}
			if kind == "http" {
				one.TCPProxy = nil
				text, err := yaml.Marshal(short)
				if err == nil {
					err = yaml.UnmarshalStrict(text, &one)
				}
				if err != nil {
					return nil, fmt.Errorf("listener %s: chain %d: %w", name, i, err)
				}
			}
			filters, err := one.networkFilters(name)
			if err != nil {
				return nil, err
			}
			chain["filters"] = filters
			delete(chain, kind)
		}
		chains = append(chains, chain)
	}
	return chains, nil
}

// networkFilters is the one network filter of a chain.
func (l *Listener) networkFilters(name string) ([]any, error) {
	log := l.accessLog(name)
	if l.TCPProxy != nil {
		cfg := map[string]any{"@type": typeTCP, "stat_prefix": name}
		if log != nil {
			cfg["access_log"] = log
		}
		merge(cfg, l.TCPProxy)
		return []any{map[string]any{"name": "tcp", "typed_config": cfg}}, nil
	}
	vhosts := l.VirtualHosts
	if vhosts == nil {
		if l.Routes == nil {
			return nil, fmt.Errorf("listener %s: no routes, virtual_hosts, tcp_proxy or filter_chains", name)
		}
		vhosts = []any{map[string]any{"name": "all", "domains": []any{"*"}, "routes": l.Routes}}
	}
	rc := map[string]any{"name": "local", "virtual_hosts": vhosts}
	merge(rc, l.RouteConfig)
	filters := append(append([]any{}, l.Filters...), map[string]any{"name": "envoy.filters.http.router", "typed_config": map[string]any{"@type": typeRouter}})
	cfg := map[string]any{"@type": typeHCM, "stat_prefix": name, "route_config": rc, "http_filters": filters}
	if log != nil {
		cfg["access_log"] = log
	}
	merge(cfg, l.HCM)
	return []any{map[string]any{"name": "hcm", "typed_config": cfg}}, nil
}

// tlsSocket expands the short form of a TLS context: `certs` names certificates of the harness, `ca` names the authority of the validation
// context, `common` is merged over the common TLS context, everything else over the context.
func tlsSocket(kind string, spec map[string]any) map[string]any {
	common := map[string]any{}
	if names, ok := spec["certs"].([]any); ok {
		var list []any
		for _, n := range names {
			list = append(list, map[string]any{"certificate_chain": fileSource("pem", n), "private_key": fileSource("key", n)})
		}
		common["tls_certificates"] = list
	}
	if ca, ok := spec["ca"]; ok {
		common["validation_context"] = map[string]any{"trusted_ca": fileSource("pem", ca)}
	}
	if more, ok := spec["common"].(map[string]any); ok {
		merge(common, more)
	}
	ctx := map[string]any{"@type": kind, "common_tls_context": common}
	for k, v := range spec {
		if k != "certs" && k != "ca" && k != "common" {
			ctx[k] = v
		}
	}
	return map[string]any{"name": "envoy.transport_sockets.tls", "typed_config": ctx}
}

func fileSource(kind string, name any) map[string]any {
	return map[string]any{"filename": fmt.Sprintf("${%s:%v}", kind, name)}
}

// merge lays src over dst: maps are merged, everything else is replaced, null deletes.
func merge(dst, src map[string]any) {
	for k, v := range src {
		if v == nil {
			delete(dst, k)
			continue
		}
		if sub, ok := v.(map[string]any); ok {
			if have, ok := dst[k].(map[string]any); ok {
				merge(have, sub)
				continue
			}
			fresh := map[string]any{}
			merge(fresh, sub)
			dst[k] = fresh
			continue
		}
		dst[k] = v
	}
}

func logPath(dir, listener string) string { return filepath.Join(dir, listener+".log") }
