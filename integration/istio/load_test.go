// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	// What the dumps hold, so that it can be encoded.
	_ "github.com/cncf/xds/go/udpa/type/v1"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_stats/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/http_inspector/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_src/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/network/dns_resolver/cares/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/path/match/uri_template/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/request_id/uuid/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"sidecar/internal/testctl"
)

const (
	cdsURL = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	edsURL = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	ldsURL = "type.googleapis.com/envoy.config.listener.v3.Listener"
	rdsURL = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
)

var dumps = []string{"plain-delta", "plain-tproxy", "plain-none", "k8s-plugged-delta", "file-se-we-delta"}

// dump is one recorded configuration.
type dump struct {
	clusters    []*clusterv3.Cluster
	assignments map[string]*endpointv3.ClusterLoadAssignment
	listeners   []*listenerv3.Listener
	routes      map[string]*routev3.RouteConfiguration
}

// unlinked are types that this program has no Go code for: their content is dropped, their name stays.
type unlinked struct{ *protoregistry.Types }

// FindMessageByURL implements the resolver of protojson.
func (u unlinked) FindMessageByURL(url string) (protoreflect.MessageType, error) {
	if t, err := u.Types.FindMessageByURL(url); err == nil {
		return t, nil
	}
	return (&emptypb.Empty{}).ProtoReflect().Type(), nil
}

// hollow removes the content of objects of unlinked types.
func hollow(v any) {
	switch x := v.(type) {
	case map[string]any:
		if url, ok := x["@type"].(string); ok {
			if _, err := protoregistry.GlobalTypes.FindMessageByURL(url); err != nil {
				clear(x)
				x["@type"] = url
				x["value"] = map[string]any{}
				return
			}
		}
		for _, e := range x {
			hollow(e)
		}
	case []any:
		for _, e := range x {
			hollow(e)
		}
	}
}

func read(t testing.TB, path string, m proto.Message) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	hollow(v)
	if data, err = json.Marshal(v); err != nil {
		t.Fatal(err)
	}
	if err := (protojson.UnmarshalOptions{Resolver: unlinked{protoregistry.GlobalTypes}}).Unmarshal(data, m); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

func load(t testing.TB, name string) *dump {
	t.Helper()
	d := &dump{assignments: map[string]*endpointv3.ClusterLoadAssignment{}, routes: map[string]*routev3.RouteConfiguration{}}
	files := func(kind string) []string {
		list, err := filepath.Glob(filepath.Join("testdata", name, kind, "*.json"))
		if err != nil || len(list) == 0 {
			t.Fatalf("no %s in %s", kind, name)
		}
		slices.Sort(list)
		return list
	}
	for _, f := range files("CDS") {
		m := &clusterv3.Cluster{}
		read(t, f, m)
		d.clusters = append(d.clusters, m)
	}
	for _, f := range files("EDS") {
		m := &endpointv3.ClusterLoadAssignment{}
		read(t, f, m)
		d.assignments[m.ClusterName] = m
	}
	for _, f := range files("LDS") {
		m := &listenerv3.Listener{}
		read(t, f, m)
		d.listeners = append(d.listeners, m)
	}
	for _, f := range files("RDS") {
		m := &routev3.RouteConfiguration{}
		read(t, f, m)
		d.routes[m.Name] = m
	}
	return d
}

// strip applies the transform to everything.
func (d *dump) strip(t testing.TB) {
	t.Helper()
	var all []proto.Message
	for _, m := range d.clusters {
		all = append(all, m)
	}
	for _, m := range d.listeners {
		all = append(all, m)
	}
	for _, m := range d.routes {
		all = append(all, m)
	}
	for _, m := range all {
		if err := Strip(m); err != nil {
			t.Fatal(err)
		}
	}
}

// verdicts plays istiod: one delta response for each resource, so that every refusal is known by its resource. It returns the NACK text by
// "TYPE name"; "" means accepted.
func (d *dump) verdicts(t testing.TB, s *testctl.Script) map[string]string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conv, err := s.Accept(ctx)
	if err != nil {
		t.Fatal(err)
	}
	reqs := make(chan testctl.Request, 4096)
	go func() {
		defer close(reqs)
		for {
			r, err := conv.Recv()
			if err != nil {
				return
			}
			reqs <- r
		}
	}()
	out := map[string]string{}
	pending := map[string]string{}
	n := 0
	send := func(url, kind, name string, m proto.Message) {
		a, err := anypb.New(m)
		if err != nil {
			t.Fatal(err)
		}
		n++
		nonce := fmt.Sprintf("%s-%d", kind, n)
		pending[nonce] = kind + " " + name
		if err := conv.Send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: url, Nonce: nonce, SystemVersionInfo: "1",
			Resources: []*discoveryv3.Resource{{Name: name, Resource: a}}}); err != nil {
			t.Fatal(err)
		}
	}
	asked := map[string]bool{}
	last := time.Now()
	for {
		select {
		case r, ok := <-reqs:
			if !ok {
				t.Fatal("the stream ended")
			}
			last = time.Now()
			if key := pending[r.Nonce]; r.Nonce != "" && key != "" {
				delete(pending, r.Nonce)
				out[key] = r.Error
				if r.Nacked && r.Error == "" {
					out[key] = "?"
				}
				continue
			}
			switch r.TypeURL {
			case cdsURL:
				for _, m := range d.clusters {
					send(cdsURL, "CDS", m.Name, m)
				}
			case ldsURL:
				for _, m := range d.listeners {
					send(ldsURL, "LDS", m.Name, m)
				}
			case edsURL, rdsURL:
				for _, name := range r.Names {
					if asked[r.TypeURL+name] {
						continue
					}
					asked[r.TypeURL+name] = true
					if m := d.assignments[name]; r.TypeURL == edsURL && m != nil {
						send(edsURL, "EDS", name, m)
					} else if m := d.routes[name]; r.TypeURL == rdsURL && m != nil {
						send(rdsURL, "RDS", name, m)
					} else {
						t.Errorf("%s %q is not in the dump", r.TypeURL, name)
					}
				}
			}
		case <-time.After(50 * time.Millisecond):
			if len(pending) == 0 && asked != nil && time.Since(last) > 500*time.Millisecond && n > len(d.clusters) {
				return out
			}
			if time.Since(last) > 20*time.Second {
				t.Fatalf("%d responses are not answered: %v", len(pending), pending)
			}
		}
	}
}

// short makes a stable line of a NACK text.
func short(s string) string {
	var out []string
	for l := range strings.Lines(s) {
		if l = strings.TrimSpace(l); l != "" {
			if i := strings.Index(l, ": "); strings.HasPrefix(l, "Error adding/updating") && i > 0 {
				l = l[i+2:]
			}
			out = append(out, l)
		}
	}
	return strings.Join(out, "\n  ")
}
