// SPDX-License-Identifier: Apache-2.0

package resource

import (
	"strings"
	"testing"

	xdstypev3 "github.com/cncf/xds/go/xds/type/v3"
	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
)

const hush = "hush-hush"

func inline(s string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: s}}
}

func pack(t *testing.T, m proto.Message) *anypb.Any {
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestRedacted_WhenSomethingIsSensitive_ThenItIsHiddenAtAnyDepthAndTheOriginalStays(t *testing.T) {
	cert := &tlsv3.TlsCertificate{CertificateChain: inline("shown"), PrivateKey: inline(hush), Password: inline(hush)}
	tls := &tlsv3.UpstreamTlsContext{Sni: "shown", CommonTlsContext: &tlsv3.CommonTlsContext{TlsCertificates: []*tlsv3.TlsCertificate{cert}}}
	js, err := protojson.Marshal(tls)
	if err != nil {
		t.Fatal(err)
	}
	st := &structpb.Struct{}
	if err := protojson.Unmarshal(js, st); err != nil {
		t.Fatal(err)
	}
	cluster := func(socket proto.Message) proto.Message {
		return &clusterv3.Cluster{Name: "shown", TransportSocket: &corev3.TransportSocket{Name: "tls",
			ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: pack(t, socket)}}}
	}
	for name, m := range map[string]proto.Message{
		"certificate": &tlsv3.Secret{Name: "shown", Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: cert}},
		"tickets": &tlsv3.Secret{Name: "shown", Type: &tlsv3.Secret_SessionTicketKeys{SessionTicketKeys: &tlsv3.TlsSessionTicketKeys{
			Keys: []*corev3.DataSource{{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: []byte(hush)}}}}}},
		"generic": &tlsv3.Secret{Name: "shown", Type: &tlsv3.Secret_GenericSecret{GenericSecret: &tlsv3.GenericSecret{Secret: inline(hush)}}},
		"context": cluster(tls),
		"in a typed struct": cluster(&xdstypev3.TypedStruct{Value: st,
			TypeUrl: "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"}),
		"in a dump": &adminv3.ClustersConfigDump{StaticClusters: []*adminv3.ClustersConfigDump_StaticCluster{{Cluster: pack(t, cluster(tls))}}},
	} {
		t.Run(name, func(t *testing.T) {
			before := proto.Clone(m)
			out := Redacted(m)
			if !proto.Equal(before, m) {
				t.Error("the original was changed")
			}
			b, err := protojson.Marshal(out)
			if err != nil {
				t.Fatal(err)
			}
			text := string(b)
			if strings.Contains(text, hush) || strings.Contains(text, "aHVzaC1odXNo") {
				t.Errorf("leaks: %s", text)
			}
			if !strings.Contains(text, "shown") || (!strings.Contains(text, redacted) && !strings.Contains(text, "W3JlZGFjdGVkXQ==")) {
				t.Errorf("too much or too little is hidden: %s", text)
			}
		})
	}
}

func TestRedacted_WhenNothingIsSensitive_ThenTheMessageItselfIsReturned(t *testing.T) {
	m := &clusterv3.Cluster{Name: "a", TransportSocket: &corev3.TransportSocket{Name: "tls",
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: pack(t, &tlsv3.UpstreamTlsContext{Sni: "x"})}}}
	if Redacted(m) != proto.Message(m) {
		t.Error("copied for nothing")
	}
}
