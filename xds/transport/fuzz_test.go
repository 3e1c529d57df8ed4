// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"sidecar/xds/ads"
	"sidecar/xds/resource"
)

// FuzzResponse sends the bytes of a response all the way up: conversion, session, decoding, verdict. No panic; every response that is
// delivered is answered exactly once, and with a NACK exactly when something was refused.
func FuzzResponse(f *testing.F) {
	any, err := anypb.New(&clusterv3.Cluster{Name: "a"})
	if err != nil {
		f.Fatal(err)
	}
	add := func(m proto.Message, delta bool) {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, delta)
	}
	wrapped, err := anypb.New(&discoveryv3.Resource{Name: "a", Resource: any})
	if err != nil {
		f.Fatal(err)
	}
	add(&discoveryv3.DiscoveryResponse{TypeUrl: resource.ClusterURL, Nonce: "1", VersionInfo: "v", Resources: []*anypb.Any{any, wrapped}}, false)
	add(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: resource.ClusterURL, Nonce: "1", Resources: []*discoveryv3.Resource{{Name: "a", Resource: any}}, RemovedResources: []string{"b"}}, true)
	f.Fuzz(func(t *testing.T, data []byte, delta bool) {
		var ev ads.Response
		v := ads.SotW
		if delta {
			var m discoveryv3.DeltaDiscoveryResponse
			if proto.Unmarshal(data, &m) != nil {
				return
			}
			ev, v = deltaResponse(&m), ads.Delta
		} else {
			var m discoveryv3.DiscoveryResponse
			if proto.Unmarshal(data, &m) != nil {
				return
			}
			ev = sotwResponse(&m)
		}
		s := ads.New(ads.Config{Variant: v})
		for _, sub := range everything {
			s.Step(sub, nil)
		}
		s.Step(ads.Opened{}, nil)
		for _, a := range s.Step(ev, nil) {
			d, ok := a.(ads.Deliver)
			if !ok {
				continue
			}
			answer(t, s, d, delta)
		}
	})
}

// answer decodes a batch, gives the verdict and checks the answer.
func answer(t *testing.T, s *ads.Session, d ads.Deliver, delta bool) {
	verdict, bad := ads.Verdict{Batch: d.Batch}, len(d.Rejected) > 0
	typ, _ := resource.TypeOf(d.TypeURL)
	for _, raw := range d.Changed {
		if _, err := resource.Decode(typ, raw.TypeURL, raw.Body, resource.Options{}); err != nil {
			bad = true
			verdict.Rejected = append(verdict.Rejected, ads.Rejection{Name: raw.Name, Text: err.Error()})
		}
	}
	answers := 0
	for _, b := range s.Step(verdict, nil) {
		m, ok := b.(ads.Send)
		if !ok {
			continue
		}
		answers++
		if m.Nack != bad {
			t.Fatalf("nack %v, refused %v", m.Nack, bad)
		}
		// What is sent must encode: a broken text would end the stream.
		if _, err := proto.Marshal(map[bool]proto.Message{true: deltaRequest(m, nil), false: sotwRequest(m, nil)}[delta]); err != nil {
			t.Fatal(err)
		}
	}
	if answers != 1 {
		t.Fatalf("%d answers", answers)
	}
}
