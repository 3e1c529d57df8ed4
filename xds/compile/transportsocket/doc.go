// SPDX-License-Identifier: Apache-2.0

// Package transportsocket compiles transport sockets of filter chains and clusters: raw_buffer, and the TLS contexts, to contexts of
// dataplane/transport/tls/policy. It says which secrets they wait for; fetching those and telling the contexts is the controller's work.
package transportsocket

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"sidecar/xds/compile/secret"
	"sidecar/xds/registry"
)

// Downstream compiles the transport socket of a filter chain at c.Path; nil is plain text. scope names listener and filter chain: it keeps the
// sessions of contexts apart. k may be nil in tests without TLS. All errors come back at once, each with its path.
func Downstream(c *registry.Ctx, k *secret.Compiler, ts *corev3.TransportSocket, scope string) (Server, error) {
	if ts == nil {
		return Server{}, nil
	}
	return compileDownstream(c, k, ts, scope)
}

// Upstream compiles the transport socket of a cluster at c.Path; nil is plain text. scope names cluster and transport socket match. Otherwise as
// Downstream.
func Upstream(c *registry.Ctx, k *secret.Compiler, ts *corev3.TransportSocket, scope string) (Client, error) {
	if ts == nil {
		return Client{}, nil
	}
	return compileUpstream(c, k, ts, scope)
}
