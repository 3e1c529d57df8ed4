// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"testing"

	runtimev3 "github.com/envoyproxy/go-control-plane/envoy/service/runtime/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"sidecar/internal/telemetry/stats"
	"sidecar/xds/ads"
	"sidecar/xds/bootstrap"
	"sidecar/xds/resource"
)

func layerOf(name, value string) []proto.Message {
	return []proto.Message{&runtimev3.Runtime{Name: name, Layer: &structpb.Struct{Fields: map[string]*structpb.Value{"k": structpb.NewStringValue(value)}}}}
}

// runtimeRig is a rig whose bootstrap has two layers over xDS: "one" from r1, "two" from r2.
func runtimeRig(t *testing.T, v ads.Variant) *rig {
	src := &bootstrap.Source{Kind: bootstrap.SourceADS}
	return newRigWith(t, v, func(b *bootstrap.Config) {
		b.Runtime = []bootstrap.RuntimeLayer{{Name: "one", RTDS: src, Resource: "r1"}, {Name: "two", RTDS: src, Resource: "r2"}}
	})
}

func TestRTDS_WhenLayersAreMissing_ThenClustersAreNotAskedFor(t *testing.T) {
	for _, v := range []ads.Variant{ads.SotW, ads.Delta} {
		t.Run(v.String(), func(t *testing.T) {
			r := runtimeRig(t, v)
			if names, _ := r.f.session.Subscriptions(resource.Runtime.URL()); len(names) != 2 || r.c.phase != phaseRuntime {
				t.Fatalf("asked for %v in phase %d", names, r.c.phase)
			}
			if e := r.push(resource.Runtime, layerOf("r1", "a")); e != "" || r.c.phase != phaseRuntime {
				t.Fatalf("%q, phase %d after the first layer", e, r.c.phase)
			}
			if e := r.push(resource.Runtime, layerOf("r2", "b")); e != "" || r.c.phase <= phaseRuntime {
				t.Fatalf("%q, phase %d after both layers", e, r.c.phase)
			}
			r.push(resource.Cluster, nil)
			r.push(resource.Listener, nil)
			if got, _ := r.p.last.Runtime.Lookup("k"); got.Text != "two:b" && got.Text != "one:a" {
				t.Errorf("k is %q", got.Text)
			}
		})
	}
}

func TestRTDS_WhenALayerIsGoneBadOrUnknown_ThenOnlyItsOwnValuesChange(t *testing.T) {
	r := runtimeRig(t, ads.Delta)
	r.push(resource.Runtime, append(layerOf("r1", "a"), layerOf("r2", "b")...))
	r.push(resource.Cluster, nil)
	r.push(resource.Listener, nil)
	if n := len(r.c.Runtime().RTDS); n != 2 {
		t.Fatalf("%d layers", n)
	}
	r.push(resource.Runtime, nil, "r1")
	if v := r.c.Runtime().RTDS; v["one"] != nil || v["two"] == nil {
		t.Errorf("layers %v after the removal of r1", v)
	}
	bad := raw(layerOf("r2", "x")[0])
	bad.Body = append(bad.Body, 0x12, 0x7f)
	r.w.sent = r.w.sent[:0]
	r.event(ads.Response{TypeURL: resource.Runtime.URL(), Nonce: "bad", Resources: []ads.Raw{bad}})
	if len(r.w.sent) != 1 || !r.w.sent[0].Nack {
		t.Errorf("answers to a malformed layer: %v", r.w.sent)
	}
	if got, _ := r.p.last.Runtime.Lookup("k"); got.Text != "two:b" {
		t.Errorf("k is %q after a malformed layer", got.Text)
	}
	b := r.c.layers[1].counts.sub
	if n, _ := b.Value(stats.SubscriptionUpdateRejected); n != 1 {
		t.Errorf("runtime.update_rejected is %d", n)
	}
}
