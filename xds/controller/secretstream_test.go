// SPDX-License-Identifier: Apache-2.0

package controller

import (
	gocontext "context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"sidecar/internal/telemetry/stats"
	"sidecar/internal/testctl"
	"sidecar/xds/ads"
	"sidecar/xds/bootstrap"
	"sidecar/xds/resource"
)

// live is a controller with real transports whose one static listener, "l", has the contexts that the test gives it.
type live struct {
	t *testing.T
	c *Controller
}

func startLive(t *testing.T, yaml string, contexts ...TLSContext) *live {
	t.Helper()
	boot, err := bootstrap.Load(bootstrap.Options{Path: "x.yaml", Data: []byte(yaml)})
	if err != nil {
		t.Fatal(err)
	}
	s := newSecretRig(t, ads.SotW) // for its compilers
	s.contexts["l"] = contexts
	cfg := s.c.cfg
	cfg.Bootstrap, cfg.Stats, cfg.Plane = boot, stats.NewRegistry(1), &plane{prepared: s.p.prepared}
	c := New(cfg)
	if err := c.Static(); err != nil {
		t.Fatal(err)
	}
	go c.Run()
	t.Cleanup(c.Close)
	return &live{t, c}
}

// eventually waits until ok, which runs on the controller goroutine, says yes.
func (l *live) eventually(what string, ok func() bool) {
	l.t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		var yes bool
		if !l.c.Call(time.Second, func() { yes = ok() }) {
			l.t.Fatal("the controller does not answer")
		}
		if yes {
			return
		}
		if time.Now().After(end) {
			l.t.Fatalf("%s does not happen", what)
		}
	}
}

func (l *live) active() bool { s := l.c.listeners["l"]; return s != nil && s.active != nil }

const liveListener = `
node: {id: node, cluster: c}
static_resources:
  listeners:
  - name: l
    address: {socket_address: {address: 127.0.0.1, port_value: 1}}
    filter_chains: [{filters: [{name: t, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: sds}}]}]
`

func liveYAML(address string) string {
	return liveListener + `
  clusters:
  - name: sds
    connect_timeout: 1s
    load_assignment: {cluster_name: sds, endpoints: [{lb_endpoints: [{endpoint: {address: ` + address + `}}]}]}
`
}

// sourced is a context whose secrets come from one config source, given as YAML.
func sourced(t *testing.T, source string, names ...string) *context {
	t.Helper()
	x := needing(0, names...)
	for i := range x.refs {
		if err := bootstrap.Unmarshal("x.yaml", []byte(source), x.refs[i].Source); err != nil {
			t.Fatal(err)
		}
	}
	return x
}

func apiSource(kind string) string {
	return `{initial_fetch_timeout: 0s, resource_api_version: V3, api_config_source: {api_type: ` + kind +
		`, transport_api_version: V3, set_node_on_first_message_only: true, grpc_services: [{envoy_grpc: {cluster_name: sds}}]}}`
}

func TestSecrets_WhenTheyHaveStreamsOfTheirOwn_ThenEachIsOneStreamAndRotates(t *testing.T) {
	for _, kind := range []string{"GRPC", "DELTA_GRPC"} {
		for _, network := range []string{"tcp", "unix"} {
			t.Run(kind+" "+network, func(t *testing.T) {
				cfg := testctl.Config{PerType: true}
				if network == "unix" {
					cfg.Listen = "unix:" + filepath.Join(t.TempDir(), "s")
				}
				srv, err := testctl.NewServer(cfg)
				if err != nil {
					t.Fatal(err)
				}
				defer srv.Close()
				set := func(version, cert, ca string) {
					t.Helper()
					if err := srv.Set("node", version, testctl.Resources{Secrets: []types.Resource{secretOf("default", cert), secretOf("ROOTCA", ca)}}); err != nil {
						t.Fatal(err)
					}
				}
				set("1", "one", "roots")
				address := "{pipe: {path: " + srv.Addr() + "}}"
				if host, port, ok := strings.Cut(srv.Addr(), ":"); ok {
					address = fmt.Sprintf("{socket_address: {address: %s, port_value: %s}}", host, port)
				}
				x := sourced(t, apiSource(kind), "default", "ROOTCA")
				l := startLive(t, liveYAML(address), x)
				l.eventually("the first secret", func() bool { return l.active() && x.state == "one+roots" })
				if open, _ := srv.Streams(); open != 2 {
					t.Errorf("%d streams, Envoy opens one for each secret", open)
				}
				for i := range 20 {
					cert := fmt.Sprint("v", i)
					set(cert, cert, "roots")
					l.eventually("rotation "+cert, func() bool { return x.state == cert+"+roots" })
				}
				set("bad", "bad", "roots 2")
				l.eventually("a refusal beside an update", func() bool { return l.c.rejected["SDS/default"] != nil && x.state == "v19+roots 2" })
				ctx, cancel := gocontext.WithTimeout(gocontext.Background(), 10*time.Second)
				defer cancel()
				if _, err := srv.Wait(ctx, func(r testctl.Request) bool { return strings.Contains(r.Error, `SDS "default"`) }); err != nil {
					t.Error("no NACK:", err)
				}
				srv.Close()
				l.eventually("the end of the streams", func() bool {
					for _, st := range l.c.secrets {
						if n, _ := st.counts.sub.Value(stats.SubscriptionUpdateFailure); n == 0 {
							return false
						}
					}
					return true
				})
				if x.state != "v19+roots 2" || !l.active() {
					t.Errorf("%q serves without a source", x.state)
				}
			})
		}
	}
}

func TestSecrets_WhenTheAgentEndsTheStreamOfOne_ThenTheOtherLivesAndItComesBack(t *testing.T) {
	agent, err := testctl.NewScript("")
	if err != nil {
		t.Fatal(err)
	}
	defer agent.Close()
	host, port, _ := strings.Cut(agent.Addr(), ":")
	x := sourced(t, apiSource("GRPC"), "default", "ROOTCA")
	l := startLive(t, liveYAML(fmt.Sprintf("{socket_address: {address: %s, port_value: %s}}", host, port)), x)
	ctx, cancel := gocontext.WithTimeout(gocontext.Background(), 20*time.Second)
	defer cancel()
	failed := 0
	open := map[string]*testctl.Conversation{}
	for len(open) < 2 {
		c, err := agent.Accept(ctx)
		if err != nil {
			t.Fatal(err)
		}
		r, err := c.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if c.Method != "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets" || len(r.Names) != 1 || r.Node.GetId() != "node" {
			t.Fatalf("%s asks for %q as %q", c.Method, r.Names, r.Node.GetId())
		}
		if r.Names[0] == "default" && failed < 2 {
			failed++
			c.End(status.Error(codes.Unavailable, "failed to generate secret"))
			continue
		}
		open[r.Names[0]] = c
		a, err := anypb.New(secretOf(r.Names[0], "of "+r.Names[0]))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Send(&discoveryv3.DiscoveryResponse{TypeUrl: resource.SecretURL, VersionInfo: "1", Nonce: "1", Resources: []*anypb.Any{a}}); err != nil {
			t.Fatal(err)
		}
		if r, err := c.Recv(); err != nil || r.Nacked || r.Version != "1" || r.Nonce != "1" {
			t.Fatalf("answer %+v, %v", r, err)
		}
	}
	l.eventually("both secrets", func() bool { return x.state == "of default+of ROOTCA" })
	select {
	case <-open["ROOTCA"].Gone():
		t.Error("one stream's end took the other with it")
	default:
	}
}

func TestSecrets_WhenTheyComeFromAFile_ThenAMoveOverItRotatesAndRubbishDoesNot(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "sds.yaml")
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	secrets := func(text string) string {
		out := "resources:\n"
		for _, n := range []string{"a", "b"} {
			out += `- {"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret, name: ` + n +
				`, tls_certificate: {certificate_chain: {inline_string: ` + text + `}}}` + "\n"
		}
		return out
	}
	write(secrets("one"))
	x := sourced(t, "{path_config_source: {path: "+path+", watched_directory: {path: "+dir+"}}}", "a", "b")
	l := startLive(t, liveYAML("{socket_address: {address: 127.0.0.1, port_value: 1}}"), x)
	l.eventually("the first secrets", func() bool { return l.active() && x.state == "one+one" })
	write(secrets("two"))
	l.eventually("the rotation", func() bool { return x.state == "two+two" })
	write("resources: [")
	l.eventually("the failure", func() bool {
		n, _ := l.c.secrets[secretKey{x.bound(l.c), "a"}].counts.sub.Value(stats.SubscriptionUpdateFailure)
		return n > 0
	})
	write(secrets("bad"))
	l.eventually("the refusal", func() bool { return l.c.rejected["SDS/b"] != nil })
	if x.state != "two+two" {
		t.Errorf("%q serves", x.state)
	}
	write(secrets("three"))
	l.eventually("the recovery", func() bool { return x.state == "three+three" && len(l.c.rejected) == 0 })
}

func TestSecrets_WhenTheFileDoesNotHaveOne_ThenNobodyWaitsForIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sds.yaml")
	if err := os.WriteFile(path, []byte("resources: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	x := sourced(t, "{path_config_source: {path: "+path+"}}", "never") // 15 s
	l := startLive(t, liveYAML("{socket_address: {address: 127.0.0.1, port_value: 1}}"), x)
	l.eventually("going on without", func() bool { return l.active() && l.c.rejected["SDS/never"] != nil })
	if x.state != "" {
		t.Errorf("%q serves", x.state)
	}
}

func TestSecrets_WhenTheFilesTheyNameAreSwapped_ThenTheWatcherTells(t *testing.T) {
	dir := t.TempDir()
	pair(t, dir, "1", "one", "key of one")
	path, current := filepath.Join(dir, "sds.yaml"), filepath.Join(dir, "current")
	if err := os.WriteFile(path, []byte(`resources:
- {"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret, name: a, tls_certificate: {certificate_chain: {filename: `+current+
		`/tls.crt}, private_key: {filename: `+current+`/tls.key}, watched_directory: {path: `+dir+`}}}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	x := sourced(t, "{path_config_source: {path: "+path+"}}", "a")
	l := startLive(t, liveYAML("{socket_address: {address: 127.0.0.1, port_value: 1}}"), x)
	for i, text := range []string{"one", "two", "three"} {
		if i > 0 {
			pair(t, dir, fmt.Sprint(i+1), text, "key of "+text)
		}
		l.eventually(text, func() bool { return l.active() && x.state == text })
	}
}

// bound finds the feed of the context's secrets.
func (x *context) bound(c *Controller) *feed {
	for k := range c.secrets {
		if k.name == x.refs[0].Name {
			return k.feed
		}
	}
	return nil
}
