// SPDX-License-Identifier: Apache-2.0

// Package transportsocket compiles transport sockets of filter chains and clusters: raw_buffer, and the TLS contexts, to contexts of
// dataplane/transport/tls/policy. It says which secrets they wait for; fetching those and telling the contexts is the controller's work.
package transportsocket

import (
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"sidecar/xds/compile/secret"
	"sidecar/xds/registry"
)

// Wired says whether connections speak TLS yet. While it is false, listeners and clusters refuse TLS contexts.
const Wired = false

// ControlPlane compiles the transport socket of a cluster for the sidecar's own connections, which speak TLS whatever Wired says. Otherwise as
// Upstream.
func ControlPlane(c *registry.Ctx, k *secret.Compiler, ts *corev3.TransportSocket, scope string) (Client, error) {
	return compileUpstream(c, k, ts, scope)
}

// gate refuses a TLS context at c.Path while connections do not speak TLS.
func gate(c *registry.Ctx, ts *corev3.TransportSocket) error {
	if url, _, err := registry.Unwrap(ts.GetTypedConfig()); Wired || err != nil || !strings.HasSuffix(url, "TlsContext") {
		return nil
	}
	return c.Errorf("", "%w (TLS)", registry.ErrLater)
}

// Downstream compiles the transport socket of a filter chain at c.Path; nil is plain text. scope names listener and filter chain: it keeps the
// sessions of contexts apart. k may be nil in tests without TLS. All errors come back at once, each with its path.
func Downstream(c *registry.Ctx, k *secret.Compiler, ts *corev3.TransportSocket, scope string) (Server, error) {
	if err := gate(c, ts); err != nil || ts == nil {
		return Server{}, err
	}
	return compileDownstream(c, k, ts, scope)
}

// Upstream compiles the transport socket of a cluster at c.Path; nil is plain text. scope names cluster and transport socket match. Otherwise as
// Downstream.
func Upstream(c *registry.Ctx, k *secret.Compiler, ts *corev3.TransportSocket, scope string) (Client, error) {
	if err := gate(c, ts); err != nil || ts == nil {
		return Client{}, err
	}
	return compileUpstream(c, k, ts, scope)
}
