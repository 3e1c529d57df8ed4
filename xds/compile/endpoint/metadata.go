// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"hash/maphash"
	"math"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"sidecar/dataplane/hostset"
)

// lbNamespace is the metadata namespace that the load balancer reads.
const lbNamespace = "envoy.lb"

func setMetadata(ep *hostset.Endpoint, md *corev3.Metadata) {
	if md == nil || len(md.FilterMetadata)+len(md.TypedFilterMetadata) == 0 {
		return
	}
	ep.Metadata = (*metadata)(md)
	ep.MetaHash = hashMetadata(md)
	if lb := md.FilterMetadata[lbNamespace]; lb != nil {
		ep.HashKey = lb.Fields["hash_key"].GetStringValue()
		ep.Canary = lb.Fields["canary"].GetBoolValue()
	}
}

// metadata converts on demand: most endpoints of an update are hosts already.
type metadata corev3.Metadata

// Map returns filter_metadata as plain values by namespace.
func (m *metadata) Map() map[string]any { return MetadataMap((*corev3.Metadata)(m)) }

// MetadataMap returns filter_metadata as plain values by namespace; nil when there is none. Typed metadata is left out: nothing reads it.
func MetadataMap(md *corev3.Metadata) map[string]any {
	if len(md.GetFilterMetadata()) == 0 {
		return nil
	}
	out := make(map[string]any, len(md.FilterMetadata))
	for k, v := range md.FilterMetadata {
		out[k] = v.AsMap()
	}
	return out
}

// seed of the hashes below, which never leave the process.
var seed = maphash.MakeSeed()

// hashMetadata is a hash of the content, never 0, that does not depend on the order of maps and allocates nothing.
func hashMetadata(md *corev3.Metadata) uint64 {
	var h uint64
	for k, v := range md.FilterMetadata {
		h += mix(maphash.String(seed, k), hashStruct(v))
	}
	for k, v := range md.TypedFilterMetadata {
		h += mix(mix(maphash.String(seed, k)+1, maphash.String(seed, v.GetTypeUrl())), maphash.Bytes(seed, v.GetValue()))
	}
	return h | 1
}

func hashStruct(s *structpb.Struct) uint64 {
	h := uint64(len(s.GetFields()))
	for k, v := range s.GetFields() {
		h += mix(maphash.String(seed, k), hashValue(v))
	}
	return h
}

// hashValue recurses as deep as the value is nested, which protobuf decoding bounds.
func hashValue(v *structpb.Value) uint64 {
	switch k := v.GetKind().(type) {
	case *structpb.Value_StringValue:
		return mix(1, maphash.String(seed, k.StringValue))
	case *structpb.Value_NumberValue:
		return mix(2, math.Float64bits(k.NumberValue))
	case *structpb.Value_BoolValue:
		if k.BoolValue {
			return mix(3, 1)
		}
		return mix(3, 0)
	case *structpb.Value_StructValue:
		return mix(4, hashStruct(k.StructValue))
	case *structpb.Value_ListValue:
		h := uint64(5)
		for _, e := range k.ListValue.GetValues() {
			h = mix(h, hashValue(e))
		}
		return h
	}
	return mix(6, 0)
}

func mix(a, b uint64) uint64 {
	h := (a ^ b>>29 ^ b<<35) * 0x9E3779B97F4A7C15
	h = (h ^ h>>32 ^ b) * 0xC2B2AE3D27D4EB4F
	return h ^ h>>29
}
