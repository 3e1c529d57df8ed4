// SPDX-License-Identifier: Apache-2.0

package routeconfig

import (
	"strings"
	"testing"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/route"
	"sidecar/internal/telemetry/stats"
	"sidecar/xds/registry"
)

// newContext makes a context that knows the clusters b1 and b2.
func newContext() *Context {
	refs := map[string]*route.ClusterRef{}
	return &Context{
		Cluster: func(name string) *route.ClusterRef {
			if refs[name] == nil {
				refs[name] = &route.ClusterRef{Name: name, ID: uint32(len(refs))}
			}
			return refs[name]
		},
		ClusterKnown: func(name string) bool { return name == "b1" || name == "b2" },
		Static:       true,
		Stats:        stats.NewRegistry(1),
	}
}

func parse(t testing.TB, text string) *routev3.RouteConfiguration {
	t.Helper()
	rc := &routev3.RouteConfiguration{}
	if err := protojson.Unmarshal([]byte(text), rc); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return rc
}

// one wraps the body of one route.
func one(body string) string {
	return `{"name":"r","virtual_hosts":[{"name":"v","domains":["*"],"routes":[{` + body + `}]}]}`
}

// action wraps the body of a route action.
func action(body string) string { return one(`"match":{"prefix":"/"},"route":{` + body + `}`) }

// vhosts wraps virtual hosts.
func vhosts(list string) string { return `{"name":"r","virtual_hosts":[` + list + `]}` }

const forward = `"match":{"prefix":"/"},"route":{"cluster":"b1"}`

// TestCompile_WhenConfigIsWrong_ThenItIsRefusedWithPathAndReason: the texts are those of Envoy 1.40 where it has one.
func TestCompile_WhenConfigIsWrong_ThenItIsRefusedWithPathAndReason(t *testing.T) {
	add := func(key string) string {
		return one(forward + `,"request_headers_to_add":[{"header":{"key":"` + key + `","value":"x"}}]`)
	}
	cases := []struct{ name, config, want string }{
		{"host added", add("host"), "virtual_hosts[0].routes[0].request_headers_to_add[0].header.key: :-prefixed or host headers may not be modified"},
		{"pseudo added", add(":path"), "request_headers_to_add[0].header.key: :-prefixed or host headers may not be modified"},
		{"bad name", add("a b"), `"a b" is not a valid header name`},
		{"host removed", one(forward + `,"request_headers_to_remove":["Host"]`), "routes[0].request_headers_to_remove[0]: :-prefixed or host headers may not be removed"},
		{"status removed", one(forward + `,"response_headers_to_remove":[":status"]`), "response_headers_to_remove[0]: :-prefixed or host headers may not be removed"},
		{"unknown operator", one(forward + `,"request_headers_to_add":[{"header":{"key":"a","value":"%NOPE%"}}]`), "request_headers_to_add[0].header.value: "},
		{"append and action", one(forward + `,"request_headers_to_add":[{"header":{"key":"a","value":"x"},"append":true,"append_action":"ADD_IF_ABSENT"}]`), "Both append and append_action are set"},
		{"line end", one(forward + `,"request_headers_to_add":[{"header":{"key":"a","value":"x\ny"}}]`), "header.value: value does not match"},
		{"same domain twice", vhosts(`{"name":"a","domains":["x","X"]}`), "virtual_hosts[0].domains[1]: Only unique values for domains are permitted. Duplicate entry of domain x in route r"},
		{"same wildcard", vhosts(`{"name":"a","domains":["*.x"]},{"name":"b","domains":["*.X"]}`), "virtual_hosts[1].domains[0]: Only unique values for domains are permitted. Duplicate entry of domain *.x in route r"},
		{"two stars", vhosts(`{"name":"a","domains":["*"]},{"name":"b","domains":["*"]}`), `Only a single wildcard domain ("*") is permitted in route r`},
		{"no domains", vhosts(`{"name":"a"}`), "virtual_hosts[0].domains: value must contain at least 1 item(s)"},
		{"bad regex", one(`"match":{"safe_regex":{"regex":"(a"}},"route":{"cluster":"b1"}`), "routes[0].match.safe_regex.regex: missing ): (a"},
		{"bad header regex", one(`"match":{"prefix":"/","headers":[{"name":"a","string_match":{"safe_regex":{"regex":"(a"}}}]},"route":{"cluster":"b1"}`), "match.headers[0].string_match.safe_regex.regex: missing ): (a"},
		{"no match", one(`"route":{"cluster":"b1"}`), "routes[0].match: value is required"},
		{"no path", one(`"match":{},"route":{"cluster":"b1"}`), "routes[0].match.path_specifier: is required"},
		{"no action", one(`"match":{"prefix":"/"}`), "routes[0].action: is required"},
		{"no cluster", action(``), "route.cluster_specifier: is required"},
		{"unknown cluster", action(`"cluster":"zz"`), "routes[0].route.cluster: route: unknown cluster 'zz'"},
		{"unknown weighted cluster", action(`"weighted_clusters":{"clusters":[{"name":"zz","weight":1}]}`), "weighted_clusters.clusters[0].name: route: unknown weighted cluster 'zz'"},
		{"weights of zero", action(`"weighted_clusters":{"clusters":[{"name":"b1","weight":0}]}`), "Sum of weights in the weighted_cluster must be greater than 0."},
		{"weight missing", action(`"weighted_clusters":{"clusters":[{"name":"b1"},{"name":"b2","weight":1}]}`), "clusters[0].weight: Field 'weight' is missing"},
		{"weights too large", action(`"weighted_clusters":{"clusters":[{"name":"b1","weight":4294967295},{"name":"b2","weight":1}]}`), "exceeds 4294967295"},
		{"name and header", action(`"weighted_clusters":{"clusters":[{"name":"b1","cluster_header":"x","weight":1}]}`), "Only one of name or cluster_header can be specified"},
		{"neither", action(`"weighted_clusters":{"clusters":[{"weight":1}]}`), "At least one of name or cluster_header need to be specified"},
		{"unknown mirror", action(`"cluster":"b1","request_mirror_policies":[{"cluster":"zz"}]`), "request_mirror_policies[0].cluster: route: unknown shadow cluster 'zz'"},
		{"empty mirror", action(`"cluster":"b1","request_mirror_policies":[{}]`), "Exactly one of cluster or cluster_header in request mirror policy need to be specified"},
		{"two rewrites", action(`"cluster":"b1","prefix_rewrite":"/a","regex_rewrite":{"pattern":{"regex":"a"},"substitution":"b"}`), "Specify only one of prefix_rewrite, regex_rewrite or path_rewrite_policy"},
		{"bad group", action(`"cluster":"b1","regex_rewrite":{"pattern":{"regex":"a"},"substitution":"\\2"}`), `regex_rewrite.substitution: substitution refers to group \2`},
		{"body too long", one(`"match":{"prefix":"/"},"direct_response":{"status":200,"body":{"inline_string":"` + strings.Repeat("x", 5000) + `"}}`), "direct_response.body: response body size is 5000 bytes; maximum is 4096"},
		{"informational", one(`"match":{"prefix":"/"},"direct_response":{"status":100}`), "direct_response.status: value must be inside range [200, 600)"},
		{"no such file", one(`"match":{"prefix":"/"},"direct_response":{"status":200,"body":{"filename":"/nonexistent"}}`), "direct_response.body.filename: file /nonexistent does not exist"},
		{"vhds", `{"name":"r","vhds":{"config_source":{"ads":{}}}}`, "vhds: only a route configuration of RDS may take virtual hosts from xDS"},
		{"back-off", action(`"cluster":"b1","retry_policy":{"retry_back_off":{"base_interval":"1s","max_interval":"0.5s"}}`), "max_interval must greater than or equal to the base_interval"},
		{"negative timeout", action(`"cluster":"b1","timeout":"-1s"`), "route.timeout: Invalid duration: Expected positive duration"},
		{"predicate", action(`"cluster":"b1","retry_policy":{"retry_host_predicate":[{"name":"p"}]}`), `retry_host_predicate[0].typed_config: unknown type ""`},
		{"separated prefix", one(`"match":{"path_separated_prefix":"/a/"},"route":{"cluster":"b1"}`), "path_separated_prefix: value does not match"},
		{"per filter", one(forward + `,"typed_per_filter_config":{"x":{"@type":"type.googleapis.com/envoy.config.route.v3.RouteAction"}}`), `routes[0].typed_per_filter_config["x"]: unknown type`},
		{"empty filter config", one(forward + `,"typed_per_filter_config":{"x":{"@type":"type.googleapis.com/envoy.config.route.v3.FilterConfig"}}`), "Empty route/virtual host per filter configuration for x filter"},
		{"no hash", action(`"cluster":"b1","hash_policy":[{}]`), "hash_policy[0].policy_specifier: is required"},
		{"cookie", action(`"cluster":"b1","hash_policy":[{"cookie":{"name":"a","ttl":"0s","path":"/;x"}}]`), "hash_policy[0].cookie.path: must not contain"},
		{"upgrade twice", action(`"cluster":"b1","upgrade_configs":[{"upgrade_type":"websocket"},{"upgrade_type":"WebSocket"}]`), "Duplicate upgrade WebSocket"},
		{"connect_config tlvs", action(`"cluster":"b1","upgrade_configs":[{"upgrade_type":"CONNECT","connect_config":{"proxy_protocol_config":{"added_tlvs":[{"type":1,"value":"YQ=="}]}}}]`), "added_tlvs"},
		{"connect_config", action(`"cluster":"b1","upgrade_configs":[{"upgrade_type":"websocket","connect_config":{}}]`), "Non-CONNECT upgrade type websocket has ConnectConfig"},
		{"virtual cluster", vhosts(`{"name":"v","domains":["*"],"virtual_clusters":[{"name":"a"}]}`), "virtual_clusters[0]: virtual clusters must define 'headers'"},
		{"matcher tree", vhosts(`{"name":"v","domains":["*"],"matcher":{}}`), "virtual_hosts[0].matcher: matcher trees are not supported"},
		{"filter_action", one(`"match":{"prefix":"/"},"filter_action":{}`), "routes[0].filter_action: filter_action is not supported"},
		{"hedging", action(`"cluster":"b1","hedge_policy":{"hedge_on_per_try_timeout":true}`), "route.hedge_policy: hedging is not supported"},
		{"host rewrite", action(`"cluster":"b1","host_rewrite":"%NOPE%"`), "route.host_rewrite: "},
		{"split response", one(`"match":{"prefix":"/"},"redirect":{"host_redirect":"a\r\nb"}`), "redirect.host_redirect: value does not match"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			tab, _, err := Compile(newContext(), parse(t, tc.config), "")
			if err == nil || tab != nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, %v; want %q", tab, err, tc.want)
			}
			for _, e := range registry.Flatten(err) {
				if strings.HasPrefix(e.Error(), ":") {
					t.Errorf("error without a path: %v", e)
				}
			}
		})
	}
}

// TestCompile_WhenConfigIsOdd_ThenItIsTakenAsEnvoyTakesIt lists what looks wrong and is accepted.
func TestCompile_WhenConfigIsOdd_ThenItIsTakenAsEnvoyTakesIt(t *testing.T) {
	cases := []struct{ name, config, warning string }{
		{"prefix without slash", one(`"match":{"prefix":"a"},"route":{"cluster":"b1"}`), ""},
		{"same virtual host name", vhosts(`{"name":"a","domains":["x"]},{"name":"a","domains":["y"]}`), ""},
		{"empty domain", vhosts(`{"name":"a","domains":[""]}`), ""},
		{"unknown retry_on", action(`"cluster":"b1","retry_policy":{"retry_on":"nope,5xx"}`), `retry_on: unknown condition "nope"`},
		{"negative attempts", action(`"cluster":"b1","retry_policy":{"host_selection_retry_max_attempts":"-3"}`), ""},
		{"deprecated header match", one(`"match":{"prefix":"/","headers":[{"name":"a","exact_match":"x"}]},"route":{"cluster":"b1"}`), ""},
		{"filter disabled", one(forward + `,"typed_per_filter_config":{"x":{"@type":"type.googleapis.com/envoy.config.route.v3.FilterConfig","disabled":true}}`), ""},
		{"optional unknown filter", one(forward + `,"typed_per_filter_config":{"x":{"@type":"type.googleapis.com/envoy.config.route.v3.FilterConfig","is_optional":true,"config":{"@type":"type.googleapis.com/xds.type.v3.TypedStruct","type_url":"type.googleapis.com/no.Such"}}}`), "optional and of unknown type"},
		{"rate limits", action(`"cluster":"b1","rate_limits":[{"actions":[{"remote_address":{}}]}]`), "route.rate_limits: there is no rate limit filter"},
		{"odd redirect codes", action(`"cluster":"b1","internal_redirect_policy":{"redirect_response_codes":[200]}`), "200 is not a redirect"},
		{"longer body", `{"name":"r","max_direct_response_body_size_bytes":6000,"virtual_hosts":[{"name":"v","domains":["*"],"routes":[{"match":{"prefix":"/"},"direct_response":{"status":200,"body":{"inline_string":"` + strings.Repeat("x", 5000) + `"}}}]}]}`, ""},
		{"unchecked cluster", `{"name":"r","validate_clusters":false,"virtual_hosts":[{"name":"v","domains":["*"],"routes":[{"match":{"prefix":"/"},"route":{"cluster":"zz"}}]}]}`, ""},
		{"raw value", one(forward + `,"request_headers_to_add":[{"header":{"key":"a","raw_value":"eA=="}}]`), "header.raw_value: header mutations of routes use value only"},
		{"previous hosts", action(`"cluster":"b1","retry_policy":{"retry_host_predicate":[{"name":"x","typed_config":{"@type":"type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"}}]}`), ""},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			tab, warnings, err := Compile(newContext(), parse(t, tc.config), "")
			if err != nil || tab == nil {
				t.Fatalf("refused: %v", err)
			}
			text := ""
			for _, w := range warnings {
				text += w.String() + "\n"
			}
			if (tc.warning == "") != (text == "") || !strings.Contains(text, tc.warning) {
				t.Errorf("warnings %q, want %q", text, tc.warning)
			}
		})
	}
}

// TestCompile_WhenManyThingsAreWrong_ThenAllAreNamed and bounded.
func TestCompile_WhenManyThingsAreWrong_ThenAllAreNamed(t *testing.T) {
	var list []string
	for range 300 {
		list = append(list, `{"match":{"prefix":"/"},"route":{"cluster":"zz"}}`)
	}
	ctx := newContext()
	_, _, err := Compile(ctx, parse(t, `{"name":"r","virtual_hosts":[{"name":"v","domains":["*"],"routes":[`+strings.Join(list, ",")+`]}]}`), "route_config")
	leaves := registry.Flatten(err)
	if len(leaves) != maxErrors+1 {
		t.Fatalf("%d errors, want %d", len(leaves), maxErrors+1)
	}
	if got := leaves[1].Error(); got != "route_config.virtual_hosts[0].routes[1].route.cluster: route: unknown cluster 'zz'" {
		t.Errorf("second error %q", got)
	}
	if got := leaves[maxErrors].Error(); !strings.Contains(got, "44 more errors") {
		t.Errorf("last error %q", got)
	}
	n := 0
	ctx.Stats.Each(func(*stats.Scope) { n++ })
	if n != 0 {
		t.Errorf("%d scopes left behind by a refused table", n)
	}
}

// request makes a request head.
func request(method, host, path string, headers ...string) *route.Query {
	h := &httpmsg.Head{}
	h.Reset(&httpmsg.Arena{})
	h.SetMethod(method)
	h.SetHost([]byte(host))
	h.SetPath([]byte(path))
	h.SetScheme("http")
	for i := 0; i+1 < len(headers); i += 2 {
		h.AddString(httpmsg.KeyOf(headers[i]), headers[i+1])
	}
	return &route.Query{Head: h}
}

func TestCompile_WhenRoutesAreFull_ThenTheTableSaysWhatTheyMean(t *testing.T) {
	tab, _, err := Compile(newContext(), parse(t, `{"name":"r","internal_only_headers":["X-In"],"request_mirror_policies":[{"cluster":"b2"}],
	 "virtual_hosts":[{"name":"v","domains":["A.test"],"require_tls":"NONE","retry_policy":{"retry_on":"5xx","num_retries":3},
	  "virtual_clusters":[{"name":"vc","headers":[{"name":":path","string_match":{"prefix":"/x"}}]}],"request_body_buffer_limit":"77",
	  "routes":[
	   {"name":"one","stat_prefix":"sp","match":{"path":"/x","case_sensitive":false,"headers":[{"name":"k","string_match":{"exact":"v"}}]},
	    "route":{"weighted_clusters":{"runtime_key_prefix":"rk","clusters":[{"name":"b1","weight":1,"request_headers_to_add":[{"header":{"key":"L","value":"wc"}}]},{"name":"b2","weight":3}]},
	     "timeout":"3s","idle_timeout":"0s","max_stream_duration":{"max_stream_duration":"9s"},"priority":"HIGH",
	     "hash_policy":[{"cookie":{"name":"c","ttl":"30s","path":"/p","attributes":[{"name":"SameSite","value":"Lax"}]},"terminal":true},{"connection_properties":{"source_ip":false}}],
	     "retry_policy":{"retry_on":"reset,cancelled","retriable_status_codes":[503],"retry_back_off":{"base_interval":"0.0001s"}},
	     "upgrade_configs":[{"upgrade_type":"WebSocket"},{"upgrade_type":"CONNECT","enabled":false,"connect_config":{}}],
	     "internal_redirect_policy":{}}},
	   {"match":{"prefix":"/"},"route":{"cluster_header":"x-c","cluster_not_found_response_code":"NOT_FOUND"}},
	   {"match":{"connect_matcher":{}},"direct_response":{"status":204}}]}]}`), "")
	if err != nil {
		t.Fatal(err)
	}
	if len(tab.Clusters) != 2 {
		t.Errorf("clusters %v", tab.Clusters)
	}
	q := request("GET", "a.TEST", "/X?q", "k", "v", "x-in", "1")
	e, vh, verdict := tab.Match(q)
	if verdict != route.Matched || e.Name != "one" || vh.Name != "v" || vh.VirtualCluster(q.Head).Name != "other" {
		t.Fatalf("got %v %v %v", e, vh, verdict)
	}
	f := e.Forward
	if f.Retry.On != route.RetryReset|route.RetryGrpcCancelled || f.Retry.Num != 1 || f.Retry.Base != 1e6 || len(f.Retry.Codes) != 1 {
		t.Errorf("retry %+v", f.Retry)
	}
	if f.Timeout != 3e9 || f.IdleTimeout != 0 || f.MaxStream != 9e9 || !f.NewTimeouts || !f.HighPriority || f.Weighted.Total != 4 || e.RequestBodyLimit != 77 {
		t.Errorf("forward %+v", f)
	}
	if len(f.Hash) != 1 || f.Hash[0].TTL != 30e9 || !f.Hash[0].Terminal || len(f.Upgrades) != 2 || f.Upgrades[0].Type != "websocket" || f.Upgrades[1].Enabled {
		t.Errorf("hash %+v upgrades %+v", f.Hash, f.Upgrades)
	}
	if len(f.Mirrors) != 1 || f.Mirrors[0].Cluster.Name != "b2" || f.InternalRedirect.Max != 1 || f.Weighted.Clusters[0].RuntimeKey != "rk.b1" {
		t.Errorf("mirrors %+v redirect %+v", f.Mirrors, f.InternalRedirect)
	}
	if e.Stats == nil || e.Stats.Prefix != "vhost.v.route.sp." {
		t.Errorf("stats %+v", e.Stats)
	}
	tab.StripInternal(q.Head)
	if q.Head.FindName("x-in", 0) >= 0 {
		t.Error("internal-only header survived")
	}
	q = request("GET", "a.test", "/other", "x-c", "zz")
	e, _, _ = tab.Match(q)
	c, ok := e.Forward.Choose(q)
	if !ok || c.Ref != nil || string(c.Name) != "zz" || e.Forward.Retry.On != route.Retry5xx || e.Forward.NotFoundStatus != 404 {
		t.Errorf("choice %+v %v", c, ok)
	}
	if q = request("GET", "b.test", "/"); true {
		if _, vh, v := tab.Match(q); v != route.NotFound || vh != nil {
			t.Errorf("unknown host: %v", v)
		}
	}
}

// FuzzCompile: no message, validated or not, may panic; what compiles must match without a panic.
func FuzzCompile(f *testing.F) {
	seeds := []string{action(`"cluster":"b1"`), one(`"match":{"safe_regex":{"regex":"/a.*"}},"redirect":{}`),
		one(`"match":{"prefix":"/"},"direct_response":{"status":200,"body":{"inline_string":"x"}}`),
		action(`"weighted_clusters":{"clusters":[{"name":"b1","weight":1}]},"hash_policy":[{"header":{"header_name":"a"}}]`)}
	for _, s := range seeds {
		b, err := marshal(parse(f, s))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, "/a")
	}
	ctx := newContext()
	ctx.ReadFile = func(string) ([]byte, error) { return []byte("x"), nil }
	f.Fuzz(func(t *testing.T, data []byte, path string) {
		rc := &routev3.RouteConfiguration{}
		if unmarshal(data, rc) != nil {
			return
		}
		tab, _, err := Compile(ctx, rc, "")
		if (tab == nil) == (err == nil) {
			t.Fatalf("table %v, error %v", tab, err)
		}
		if err != nil {
			return
		}
		defer tab.ReleaseScopes()
		q := request("GET", "a.test", path, "a", "b", "cookie", "c=d")
		if e, _, v := tab.Match(q); v == route.Matched {
			if e.Forward != nil {
				c, _ := e.Forward.Choose(q)
				route.HashOf(e.Forward.Hash, q, q.Source())
				e.FinalizeRequest(&c, q.Head, q)
			}
			if e.Redirect != nil {
				e.Redirect.Location(nil, q.Head, q)
			}
			e.FinalizeResponse(nil, q.Head, q)
		}
	})
}
