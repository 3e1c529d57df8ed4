// SPDX-License-Identifier: Apache-2.0

package resource

import (
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// reversed re-encodes the top-level fields of b in opposite order: another wire form of the same message.
func reversed(t *testing.T, b []byte) []byte {
	t.Helper()
	var parts [][]byte
	for len(b) > 0 {
		_, _, n := protowire.ConsumeField(b)
		if n < 0 {
			t.Fatal("malformed input to reversed")
		}
		parts, b = append(parts, b[:n]), b[n:]
	}
	var out []byte
	for i := len(parts) - 1; i >= 0; i-- {
		out = append(out, parts[i]...)
	}
	return out
}

func encode(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDecode_WhenWireOrderDiffers_ThenHashIsEqual(t *testing.T) {
	opts := encode(t, &httpv3.HttpProtocolOptions{
		CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{MaxRequestsPerConnection: wrapperspb.UInt32(1)},
		UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
			ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{}}},
	})
	mk := func(inner []byte) *clusterv3.Cluster {
		return &clusterv3.Cluster{
			Name: "c", AltStatName: "x", RespectDnsTtl: true,
			Metadata: &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"a": {}, "b": {}, "c": {}}},
			TypedExtensionProtocolOptions: map[string]*anypb.Any{"o": {
				TypeUrl: "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions", Value: inner}},
		}
	}
	one := encode(t, mk(opts))
	two := reversed(t, encode(t, mk(reversed(t, opts))))
	if string(one) == string(two) {
		t.Fatal("the two wire forms are equal: the test shows nothing")
	}
	a, err := Decode(Cluster, ClusterURL, one, Options{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := Decode(Cluster, ClusterURL, two, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if a.Hash != b.Hash {
		t.Error("same content, other hash")
	}
	changed := mk(opts)
	changed.AltStatName = "y"
	c, err := Decode(Cluster, ClusterURL, encode(t, changed), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if c.Hash == a.Hash {
		t.Error("other content, same hash")
	}
	if RawHash(ClusterURL, one) == RawHash(ClusterURL, two) || RawHash(ClusterURL, one) != RawHash(ClusterURL, one) {
		t.Error("raw hash does not follow the bytes")
	}
}

func TestDecode_WhenResourceIsBad_ThenErrorNamesTypeNameAndPath(t *testing.T) {
	good := encode(t, &clusterv3.Cluster{Name: "c"})
	cases := []struct {
		name string
		typ  Type
		url  string
		body []byte
		max  int
		want string
	}{
		{"no type", Cluster, "", good, 0, `CDS "c": resource without a type URL`},
		{"other type", Cluster, ListenerURL, good, 0, `CDS "c": resource has type "` + ListenerURL},
		{"truncated", Cluster, ClusterURL, append(good[:len(good):len(good)], 0x12, 0x7f), 0, `CDS "c": malformed protobuf`},
		{"garbage", Cluster, ClusterURL, []byte{0xff, 0xff}, 0, `CDS resource #0: malformed protobuf`},
		{"invalid", Cluster, ClusterURL, encode(t, &clusterv3.Cluster{Name: "c", DnsLookupFamily: 99}), 0, `CDS "c": dns_lookup_family: value must be one of the defined enum values`},
		{"too large", Cluster, ClusterURL, good, 2, `CDS "c": resource of 3 bytes is larger than the limit of 2`},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			d, err := Decode(tc.typ, tc.url, tc.body, Options{MaxBytes: tc.max})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, %v; want %q", d, err, tc.want)
			}
		})
	}
}

func TestTypeOf_WhenURLIsKnown_ThenTypeRoundTrips(t *testing.T) {
	for typ := Listener; typ <= VirtualHost; typ++ {
		if got, ok := TypeOf(typ.URL()); !ok || got != typ {
			t.Errorf("TypeOf(%s) = %v, %v", typ.URL(), got, ok)
		}
		if n := string(typ.info().prototype.ProtoReflect().Descriptor().FullName()); !strings.HasSuffix(typ.URL(), "/"+n) {
			t.Errorf("%v: URL %s is not of message %s", typ, typ.URL(), n)
		}
	}
	for _, u := range []string{"", "x", "type.googleapis.com/", "type.googleapis.com/Listener", "v3.Listener"} {
		if got, ok := TypeOf(u); ok {
			t.Errorf("TypeOf(%q) = %v", u, got)
		}
	}
}

func FuzzPeek(f *testing.F) {
	f.Add([]byte{0x0a, 1, 'a'})
	f.Add([]byte{0x0a, 0x7f})
	f.Fuzz(func(t *testing.T, b []byte) {
		name := Peek(b)
		var c clusterv3.Cluster
		if proto.Unmarshal(b, &c) == nil && c.GetName() != name {
			t.Errorf("Peek %q, decoded %q", name, c.GetName())
		}
		if d, err := Decode(Cluster, ClusterURL, b, Options{}); err == nil && d.Name != name {
			t.Errorf("Decode %q, Peek %q", d.Name, name)
		}
	})
}
