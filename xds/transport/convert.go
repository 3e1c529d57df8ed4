// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"sidecar/xds/ads"
	"sidecar/xds/resource"
)

// nackCode is INTERNAL, the code Envoy puts into a NACK.
const nackCode = 13

// wrapperName is the type that carries name, version and TTL of a resource inside a SotW response.
const wrapperName = "/envoy.service.discovery.v3.Resource"

func errorDetail(m ads.Send) *status.Status {
	if !m.Nack {
		return nil
	}
	return &status.Status{Code: nackCode, Message: m.Error}
}

func sotwRequest(m ads.Send, node *corev3.Node) *discoveryv3.DiscoveryRequest {
	r := &discoveryv3.DiscoveryRequest{
		VersionInfo: m.Version, ResourceNames: m.Names, TypeUrl: m.TypeURL, ResponseNonce: m.Nonce, ErrorDetail: errorDetail(m),
	}
	if m.Node {
		r.Node = node
	}
	return r
}

func deltaRequest(m ads.Send, node *corev3.Node) *discoveryv3.DeltaDiscoveryRequest {
	r := &discoveryv3.DeltaDiscoveryRequest{
		TypeUrl: m.TypeURL, ResourceNamesSubscribe: m.Add, ResourceNamesUnsubscribe: m.Remove, InitialResourceVersions: m.Initial,
		ResponseNonce: m.Nonce, ErrorDetail: errorDetail(m),
	}
	if m.Node {
		r.Node = node
	}
	return r
}

func sotwResponse(r *discoveryv3.DiscoveryResponse) ads.Response {
	out := ads.Response{TypeURL: r.GetTypeUrl(), Version: r.GetVersionInfo(), Nonce: r.GetNonce(), Resources: make([]ads.Raw, 0, len(r.GetResources()))}
	for _, a := range r.GetResources() {
		out.Resources = append(out.Resources, unwrap(a))
	}
	return out
}

// unwrap makes a Raw of one SotW resource, looking through the Resource wrapper. A malformed wrapper is passed on as it is: decoding will
// refuse it and say why.
func unwrap(a *anypb.Any) ads.Raw {
	if !strings.HasSuffix(a.GetTypeUrl(), wrapperName) {
		return named(ads.Raw{Name: resource.Peek(a.GetValue()), TypeURL: a.GetTypeUrl(), Body: a.GetValue(), HasBody: true})
	}
	var w discoveryv3.Resource
	if proto.Unmarshal(a.GetValue(), &w) != nil {
		return ads.Raw{TypeURL: a.GetTypeUrl(), Body: a.GetValue(), HasBody: true, Broken: true}
	}
	out := wrapped(&w)
	if out.HasBody {
		if inner := resource.Peek(out.Body); inner != "" {
			out.Name = inner
		}
	}
	return named(out)
}

// named marks a resource whose name could not be read because its bytes are malformed.
func named(r ads.Raw) ads.Raw {
	r.Broken = r.HasBody && r.Name == "" && !wellFormed(r.Body)
	return r
}

// wellFormed tells whether b is a sequence of protobuf fields.
func wellFormed(b []byte) bool {
	for len(b) > 0 {
		_, _, n := protowire.ConsumeField(b)
		if n < 0 {
			return false
		}
		b = b[n:]
	}
	return true
}

func wrapped(w *discoveryv3.Resource) ads.Raw {
	out := ads.Raw{
		Name: w.GetName(), Version: w.GetVersion(), TypeURL: w.GetResource().GetTypeUrl(), Body: w.GetResource().GetValue(),
		HasBody: w.GetResource() != nil, Aliases: w.GetAliases(),
	}
	if w.GetTtl() != nil {
		out.TTL = w.GetTtl().AsDuration()
	}
	if out.Name == "" {
		out.Name = resource.Peek(out.Body)
	}
	return out
}

func deltaResponse(r *discoveryv3.DeltaDiscoveryResponse) ads.Response {
	out := ads.Response{
		TypeURL: r.GetTypeUrl(), Version: r.GetSystemVersionInfo(), Nonce: r.GetNonce(), Removed: r.GetRemovedResources(),
		Resources: make([]ads.Raw, 0, len(r.GetResources())),
	}
	for _, w := range r.GetResources() {
		out.Resources = append(out.Resources, wrapped(w))
	}
	return out
}
