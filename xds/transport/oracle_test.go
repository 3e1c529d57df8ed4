// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"sidecar/internal/testctl"
	"sidecar/xds/ads"
	"sidecar/xds/resource"
)

// play is a control plane with a script: it says its lines whoever the client is, and notes what the client says.
type play struct {
	t      *testing.T
	v      ads.Variant
	s      *testctl.Script
	c      *testctl.Conversation
	in     chan testctl.Request
	notes  []string
	serial int
}

func newPlay(t *testing.T, v ads.Variant) *play {
	return &play{t: t, v: v, s: script(t)}
}

// next waits for the next stream.
func (p *play) next() {
	p.t.Helper()
	p.c = accept(p.t, p.s)
	in := make(chan testctl.Request, 100)
	p.in = in
	c := p.c
	go func() {
		defer close(in)
		for {
			r, err := c.Recv()
			if err != nil {
				return
			}
			in <- r
		}
	}()
}

// hear notes n requests, then checks that nothing follows for a while. Within a scene the order does not matter (Envoy asks before it
// acknowledges, we do the opposite) unless the scene says so.
func (p *play) hear(scene string, n int) {
	p.t.Helper()
	p.notes = append(p.notes, "# "+scene)
	var got []string
	for range n {
		select {
		case r, ok := <-p.in:
			if !ok {
				p.t.Fatalf("%s: the stream ended after %v", scene, got)
			}
			got = append(got, note(r))
		case <-time.After(15 * time.Second):
			p.t.Fatalf("%s: only %d of %d requests: %v", scene, len(got), n, got)
		}
	}
	if !strings.Contains(scene, "in order") {
		slices.Sort(got)
	}
	p.notes = append(p.notes, got...)
	select {
	case r := <-p.in:
		p.t.Fatalf("%s: unexpected request %s after %v", scene, note(r), got)
	case <-time.After(300 * time.Millisecond):
	}
}

// note renders what matters of a request; error texts differ by design.
func note(r testctl.Request) string {
	typ, _ := resource.TypeOf(r.TypeURL)
	s := typ.String()
	if r.Node != nil {
		s += " node"
	}
	names, removed := slices.Sorted(slices.Values(r.Names)), slices.Sorted(slices.Values(r.Removed))
	s += fmt.Sprintf(" names=%v removed=%v version=%q nonce=%q", names, removed, r.Version, r.Nonce)
	for _, k := range slices.Sorted(maps.Keys(r.Initial)) {
		s += " " + k + "@" + r.Initial[k]
	}
	if r.Nacked {
		s += " NACK"
	}
	return s
}

// say sends resources (and removals, in delta) of one type.
func (p *play) say(url string, removed []string, ms ...proto.Message) {
	p.t.Helper()
	p.serial++
	id := fmt.Sprint(p.serial)
	if p.v == ads.Delta {
		r := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: url, SystemVersionInfo: "v" + id, Nonce: "n" + id, RemovedResources: removed}
		for _, m := range ms {
			r.Resources = append(r.Resources, &discoveryv3.Resource{Name: resource.Name(m), Version: "v" + id, Resource: pack(p.t, m)})
		}
		send(p.t, p.c, r)
		return
	}
	r := &discoveryv3.DiscoveryResponse{TypeUrl: url, VersionInfo: "v" + id, Nonce: "n" + id}
	for _, m := range ms {
		r.Resources = append(r.Resources, pack(p.t, m))
	}
	send(p.t, p.c, r)
}

func pack(t *testing.T, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func cla(name string) proto.Message { return &endpointv3.ClusterLoadAssignment{ClusterName: name} }

// perform plays every scene and returns the notes.
func (p *play) perform() []string {
	t := p.t
	a, b, c := edsCluster("a"), edsCluster("b"), edsCluster("c")
	l := httpListener(t, "l", "r")
	p.next()
	p.hear("start: clusters", 1)
	p.say(resource.ClusterURL, nil, a, b)
	p.hear("ack, endpoints in one request", 2)
	p.say(resource.EndpointsURL, nil, cla("a"), cla("b"))
	p.hear("ack, listeners when the clusters are warm", 2)
	p.say(resource.ListenerURL, nil, l)
	p.hear("ack, routes", 2)
	p.say(resource.RouteURL, nil, &routev3.RouteConfiguration{Name: "r"})
	p.hear("ack", 1)
	if p.v == ads.Delta {
		p.say(resource.ClusterURL, []string{"b"}, c)
	} else {
		p.say(resource.ClusterURL, nil, a, c)
	}
	p.hear("a new cluster warms, one is gone: endpoints asked, no ack", 1)
	p.say(resource.EndpointsURL, nil, cla("c"))
	p.hear("both acks", 2)
	bad := edsCluster("bad")
	bad.DnsLookupFamily = clusterv3.Cluster_DnsLookupFamily(99)
	if p.v == ads.Delta {
		p.say(resource.ClusterURL, nil, bad)
	} else {
		p.say(resource.ClusterURL, nil, a, c, bad)
	}
	p.hear("nack", 1)
	p.say(resource.EndpointsURL, nil, cla("stranger"))
	p.hear("endpoints nobody asked for", 1)
	p.say("type.googleapis.com/nonsense", nil)
	p.say(resource.SecretURL, nil)
	p.hear("types not subscribed", 0)
	p.c.End(errors.New("bye"))
	p.next()
	p.hear("everything again, in order", 4)
	return p.notes
}

const oracleBootstrap = `
node: {id: n1, cluster: c1}
dynamic_resources:
  ads_config: {api_type: %s, transport_api_version: V3, set_node_on_first_message_only: true, grpc_services: [{envoy_grpc: {cluster_name: xds}}]}
  cds_config: {resource_api_version: V3, ads: {}, initial_fetch_timeout: 0s}
  lds_config: {resource_api_version: V3, ads: {}, initial_fetch_timeout: 0s}
static_resources:
  clusters:
  - name: xds
    connect_timeout: 1s
    typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {"@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http2_protocol_options: {}}}}
    load_assignment: {cluster_name: xds, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %s}}}}]}]}
`

// TestSession_WhenEnvoyPlaysTheSameScenes_ThenItSaysTheSame runs one script against the real Envoy and against a session.
func TestSession_WhenEnvoyPlaysTheSameScenes_ThenItSaysTheSame(t *testing.T) {
	if testing.Short() {
		t.Skip("short: xDS conversations are not compared with envoy")
	}
	envoy, err := exec.LookPath("envoy")
	if err != nil {
		t.Skip("no envoy in PATH: xDS conversations are not compared with it")
	}
	variants(t, func(t *testing.T, v ads.Variant) {
		theirs := newPlay(t, v)
		api := map[ads.Variant]string{ads.SotW: "GRPC", ads.Delta: "DELTA_GRPC"}[v]
		_, port, _ := strings.Cut(theirs.s.Addr(), ":")
		path := filepath.Join(t.TempDir(), "b.yaml")
		if err := os.WriteFile(path, []byte(fmt.Sprintf(oracleBootstrap, api, port)), 0o644); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, envoy, "-c", path, "--disable-hot-restart", "-l", "critical", "--concurrency", "1")
		if err := cmd.Start(); err != nil {
			t.Skipf("envoy does not start: %v", err)
		}
		defer func() {
			cancel()
			_ = cmd.Wait()
		}()
		want := theirs.perform()
		ours := newPlay(t, v)
		d := newDriver(t, v)
		d.likeEnvoy = true
		d.run(stream(t, d, StreamConfig{Targets: tcpTarget(ours.s.Addr()), Variant: v}), everything[0])
		got := ours.perform()
		if !slices.Equal(got, want) {
			t.Errorf("ours:\n%s\n\nenvoy's:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	})
}
