// SPDX-License-Identifier: Apache-2.0

package transportsocket

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	internalv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/internal_upstream/v3"
	rawv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"

	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/transport/tls/policy"
	"sidecar/xds/compile/secret"
	"sidecar/xds/registry"
)

// Kind is the kind of a secret that a context waits for.
type Kind uint8

// The kinds.
const (
	KindCertificate Kind = iota
	KindValidation
	KindTickets
)

// SecretRef is one secret that a context needs.
type SecretRef struct {
	Key          string // what the context calls it: equal keys are the same secret
	Name         string // resource name
	Kind         Kind
	Source       *corev3.ConfigSource // nil: a static secret of the bootstrap
	FetchTimeout time.Duration        // initial_fetch_timeout; default 15 s, 0 = wait for ever
	Path         registry.Path        // of the SdsSecretConfig, for messages
}

const defaultFetchTimeout = 15 * time.Second

// Server is the transport socket of a filter chain, and the secrets that its context waits for. TLS is nil for plain text.
type Server struct {
	TLS     *policy.Server
	Secrets []SecretRef
}

// Client is the transport socket of a cluster, and the secrets that its context waits for. TLS is nil for plain text.
type Client struct {
	TLS     *policy.Client
	Secrets []SecretRef
	// Passed goes along to internal listeners; Internal tells that the socket is internal_upstream.
	Passed   []snapshot.PassedMetadata
	Internal bool
}

// state is one compilation.
type state struct {
	c       *registry.Ctx
	k       *secret.Compiler
	scope   string
	secrets []SecretRef
	client  *Client                 // what a row fills in besides the context
	inner   *corev3.TransportSocket // what internal_upstream wraps
	errs    []error
}

func (s *state) fail(err error) {
	if err != nil {
		s.errs = append(s.errs, err)
	}
}

type downstreamRow func(s *state) *policy.Server

type upstreamRow func(s *state) *policy.Client

const tlsName = "envoy.transport_sockets.tls"

// DownstreamRows is the table of transport sockets of filter chains.
var DownstreamRows = registry.MustTable("downstream transport sockets", []registry.Row[downstreamRow]{
	{Name: "envoy.transport_sockets.raw_buffer", Message: &rawv3.RawBuffer{}, Status: registry.StatusStable, Trust: registry.TrustRobustBoth,
		Compile: func(*registry.Ctx, proto.Message) (downstreamRow, error) {
			return func(*state) *policy.Server { return nil }, nil
		}},
	{Name: tlsName, Message: &tlsv3.DownstreamTlsContext{}, Status: registry.StatusAlpha, Trust: registry.TrustRobustBoth,
		Compile: func(_ *registry.Ctx, m proto.Message) (downstreamRow, error) {
			return func(s *state) *policy.Server { return s.downstream(m.(*tlsv3.DownstreamTlsContext)) }, nil
		}},
}, map[string]string{
	"type.googleapis.com/envoy.extensions.transport_sockets.alts.v3.Alts":                    "ALTS",
	"type.googleapis.com/envoy.extensions.transport_sockets.quic.v3.QuicDownstreamTransport": "HTTP/3",
	"type.googleapis.com/envoy.extensions.transport_sockets.starttls.v3.StartTlsConfig":      "STARTTLS",
	"type.googleapis.com/envoy.extensions.transport_sockets.tap.v3.Tap":                      "traffic taps",
	"type.googleapis.com/envoy.extensions.transport_sockets.tcp_stats.v3.Config":             "TCP statistics",
	"type.googleapis.com/envoy.extensions.transport_sockets.s2a.v3.S2AConfiguration":         "S2A",
})

// UpstreamRows is the table of transport sockets of clusters.
var UpstreamRows = registry.MustTable("upstream transport sockets", []registry.Row[upstreamRow]{
	{Name: "envoy.transport_sockets.raw_buffer", Message: &rawv3.RawBuffer{}, Status: registry.StatusStable, Trust: registry.TrustRobustBoth,
		Compile: func(*registry.Ctx, proto.Message) (upstreamRow, error) {
			return func(*state) *policy.Client { return nil }, nil
		}},
	{Name: tlsName, Message: &tlsv3.UpstreamTlsContext{}, Status: registry.StatusAlpha, Trust: registry.TrustRobustBoth,
		Compile: func(_ *registry.Ctx, m proto.Message) (upstreamRow, error) {
			return func(s *state) *policy.Client { return s.upstream(m.(*tlsv3.UpstreamTlsContext)) }, nil
		}},
	{Name: "envoy.transport_sockets.internal_upstream", Message: &internalv3.InternalUpstreamTransport{}, Status: registry.StatusAlpha, Trust: registry.TrustRobustBoth,
		Compile: func(_ *registry.Ctx, m proto.Message) (upstreamRow, error) {
			return func(s *state) *policy.Client { s.internal(m.(*internalv3.InternalUpstreamTransport)); return nil }, nil
		}},
}, map[string]string{
	"type.googleapis.com/envoy.extensions.transport_sockets.alts.v3.Alts":                                     "ALTS",
	"type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport": "upstream PROXY protocol",
	"type.googleapis.com/envoy.extensions.transport_sockets.quic.v3.QuicUpstreamTransport":                    "HTTP/3",
	"type.googleapis.com/envoy.extensions.transport_sockets.http_11_proxy.v3.Http11ProxyUpstreamTransport":    "HTTP/1.1 proxies for upstreams",
	"type.googleapis.com/envoy.extensions.transport_sockets.starttls.v3.UpstreamStartTlsConfig":               "STARTTLS",
	"type.googleapis.com/envoy.extensions.transport_sockets.tap.v3.Tap":                                       "traffic taps",
	"type.googleapis.com/envoy.extensions.transport_sockets.tcp_stats.v3.Config":                              "TCP statistics",
	"type.googleapis.com/envoy.extensions.transport_sockets.s2a.v3.S2AConfiguration":                          "S2A",
})

// Downstream compiles the transport socket of a filter chain at c.Path; nil is plain text. scope names listener and filter chain: it keeps the
// sessions of contexts apart. k may be nil in tests without TLS. All errors come back at once, each with its path.
func Downstream(c *registry.Ctx, k *secret.Compiler, ts *corev3.TransportSocket, scope string) (Server, error) {
	if ts == nil {
		return Server{}, nil
	}
	s := begin(c, k, scope)
	row, err := DownstreamRows.Compile(s.c, "typed_config", ts.GetName(), ts.GetTypedConfig())
	if err != nil {
		return Server{}, err
	}
	s.c = s.c.At("typed_config")
	out := row(s)
	if err := errors.Join(s.errs...); err != nil {
		return Server{}, err
	}
	return Server{out, s.secrets}, nil
}

// Upstream compiles the transport socket of a cluster at c.Path; nil is plain text. scope names cluster and transport socket match. Otherwise as
// Downstream.
func Upstream(c *registry.Ctx, k *secret.Compiler, ts *corev3.TransportSocket, scope string) (Client, error) {
	if ts == nil {
		return Client{}, nil
	}
	var client Client
	s := begin(c, k, scope)
	s.client = &client
	row, err := UpstreamRows.Compile(s.c, "typed_config", ts.GetName(), ts.GetTypedConfig())
	if err != nil {
		return Client{}, err
	}
	s.c = s.c.At("typed_config")
	client.TLS = row(s)
	if s.inner != nil {
		in, err := Upstream(s.c.At("transport_socket"), k, s.inner, scope)
		s.fail(err)
		client.TLS, client.Secrets = in.TLS, in.Secrets
	}
	if err := errors.Join(s.errs...); err != nil {
		return Client{}, err
	}
	client.Secrets = append(client.Secrets, s.secrets...)
	return client, nil
}

func begin(c *registry.Ctx, k *secret.Compiler, scope string) *state {
	own := *c
	own.Schema = schema
	return &state{c: &own, k: k, scope: scope}
}

// ref notes a secret that the context needs and returns its key: the name, and where it comes from when that is not the bootstrap.
func (s *state) ref(at registry.Path, cfg *tlsv3.SdsSecretConfig, kind Kind) string {
	r := SecretRef{Key: cfg.GetName(), Name: cfg.GetName(), Kind: kind, Source: cfg.GetSdsConfig(), FetchTimeout: defaultFetchTimeout, Path: s.c.Path.Join(at)}
	if r.Name == "" {
		s.fail(s.c.Errorf(at.Field("name"), "value length must be at least 1 characters"))
	}
	if r.Source.GetSelf() != nil { // means the server that the context came from; Envoy takes it for other resources only
		s.fail(s.c.Errorf(at.Field("sds_config.self"), "Missing config source specifier in envoy::config::core::v3::ConfigSource"))
	}
	if r.Source != nil {
		raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(r.Source)
		s.fail(err)
		sum := sha256.Sum256(raw)
		r.Key += "\x00" + hex.EncodeToString(sum[:8])
		if t := r.Source.GetInitialFetchTimeout(); t != nil {
			r.FetchTimeout = t.AsDuration()
		}
	}
	s.secrets = append(s.secrets, r)
	return r.Key
}

// internal compiles internal_upstream: what it wraps, and what it passes on to the listener.
func (s *state) internal(m *internalv3.InternalUpstreamTransport) {
	s.client.Internal = true
	for i, p := range m.GetPassthroughMetadata() {
		at := registry.Path("").Index("passthrough_metadata", i)
		x := snapshot.PassedMetadata{Name: p.GetName(), Cluster: p.GetKind().GetCluster() != nil}
		switch {
		case p.GetName() == "":
			s.fail(s.c.Errorf(at.Field("name"), "value length must be at least 1 characters"))
		case !x.Cluster && p.GetKind().GetHost() == nil:
			s.fail(s.c.Errorf(at.Field("kind"), "only the metadata of the host and of the cluster are there to be passed on"))
		}
		s.client.Passed = append(s.client.Passed, x)
	}
	switch in := m.GetTransportSocket(); {
	case in == nil:
		s.fail(s.c.Errorf("transport_socket", "value is required"))
	case strings.HasSuffix(in.GetTypedConfig().GetTypeUrl(), ".InternalUpstreamTransport"):
		s.fail(s.c.Errorf("transport_socket", "an internal_upstream inside another one has no meaning"))
	default:
		s.inner = in
	}
}
