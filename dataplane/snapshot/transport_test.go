// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"testing"

	"sidecar/dataplane/transport/tls/policy"
)

func TestTransport_WhenEndpointsHaveMetadata_ThenTheFirstMatchChooses(t *testing.T) {
	istio, other, own := &policy.Client{}, &policy.Client{}, &policy.Client{}
	c := &ClusterConfig{TLS: own, TransportMatch: []TransportMatch{
		{Name: "tlsMode-istio", Match: map[string]any{"tlsMode": "istio"}, TLS: istio},
		{Name: "two", Match: map[string]any{"n": 1.0, "list": []any{true, nil, map[string]any{"a": "b"}}}, TLS: other},
		{Name: "plain", Match: map[string]any{"plain": true}},
	}}
	labels := func(m map[string]any) map[string]any { return map[string]any{TransportMatchKey: m} }
	tests := []struct {
		name string
		meta map[string]any
		want *policy.Client
	}{
		{"none", nil, own},
		{"another namespace", map[string]any{"envoy.lb": map[string]any{"tlsMode": "istio"}}, own},
		{"first", labels(map[string]any{"tlsMode": "istio", "plain": true}), istio},
		{"another value", labels(map[string]any{"tlsMode": "disabled"}), own},
		{"another type", labels(map[string]any{"tlsMode": []any{}}), own},
		{"several keys", labels(map[string]any{"n": 1.0, "list": []any{true, nil, map[string]any{"a": "b"}}}), other},
		{"one of several keys", labels(map[string]any{"n": 1.0}), own},
		{"plain text", labels(map[string]any{"plain": true}), nil},
	}
	for _, test := range tests {
		if got := c.Transport(test.meta); got != test.want {
			t.Errorf("%s: another context", test.name)
		}
	}
	if c.TransportMatch = append(c.TransportMatch, TransportMatch{Name: "rest"}); c.Transport(nil) != nil {
		t.Error("an empty match does not cover everything")
	}
	if c.TransportMatch = nil; c.Transport(nil) != own {
		t.Error("without matches the cluster's socket is not used")
	}
}
