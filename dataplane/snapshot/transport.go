// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"sidecar/dataplane/transport/tls/policy"
	"sidecar/internal/telemetry/stats"
)

// TransportMatchKey is the metadata namespace by which an endpoint says which transport socket it wants.
const TransportMatchKey = "envoy.transport_socket_match"

// TransportMatch is one entry of transport_socket_matches. Immutable.
type TransportMatch struct {
	Name  string
	Match map[string]any // plain values that the endpoint's metadata must have; empty = every endpoint
	TLS   *policy.Client // nil = plain text
	// Passed goes along to an internal listener.
	Passed []PassedMetadata
}

// PassedMetadata is one entry of passthrough_metadata of the transport socket internal_upstream. Immutable.
type PassedMetadata struct {
	Name    string // the namespace of filter metadata
	Cluster bool   // of the cluster; otherwise of the endpoint
}

// Transport is the TLS context for connections to an endpoint with the given metadata (filter_metadata by namespace): that of the first match, else the
// cluster's own; nil is plain text.
func (c *ClusterConfig) Transport(meta map[string]any) *policy.Client {
	if m := c.transportMatch(meta); m != nil {
		return m.TLS
	}
	return c.TLS
}

func (c *ClusterConfig) transportMatch(meta map[string]any) *TransportMatch {
	if len(c.TransportMatch) == 0 {
		return nil
	}
	labels, _ := meta[TransportMatchKey].(map[string]any)
	for i := range c.TransportMatch {
		if m := &c.TransportMatch[i]; covers(labels, m.Match) {
			return m
		}
	}
	return nil
}

// PassedTo is the filter metadata that goes along with a connection to an internal endpoint with the given metadata; what is asked for and not there is
// counted in the shard. Nil when there is none.
func (c *ClusterConfig) PassedTo(meta map[string]any, shard int) map[string]any {
	list := c.Passed
	if m := c.transportMatch(meta); m != nil {
		list = m.Passed
	}
	var out map[string]any
	for _, p := range list {
		from := meta
		if p.Cluster {
			from = c.Metadata
		}
		v, ok := from[p.Name]
		if !ok {
			c.PassedScope.Block(shard).Inc(stats.InternalUpstreamNoMetadata)
			continue
		}
		if out == nil {
			out = map[string]any{}
		}
		out[p.Name] = v // the later one of a name counts
	}
	return out
}

// covers tells whether labels has every value of want.
func covers(labels, want map[string]any) bool {
	for k, w := range want {
		v, ok := labels[k]
		if !ok || !equalPlain(v, w) {
			return false
		}
	}
	return true
}

// equalPlain compares values as they come out of a google.protobuf.Struct.
func equalPlain(a, b any) bool {
	switch x := a.(type) {
	case map[string]any:
		y, ok := b.(map[string]any)
		return ok && len(x) == len(y) && covers(x, y)
	case []any:
		y, ok := b.([]any)
		if !ok || len(x) != len(y) {
			return false
		}
		for i := range x {
			if !equalPlain(x[i], y[i]) {
				return false
			}
		}
		return true
	case nil, bool, float64, string:
		switch b.(type) {
		case nil, bool, float64, string:
			return a == b
		}
	}
	return false
}
