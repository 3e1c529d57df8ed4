// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/anypb"

	"sidecar/dataplane/transport/tls/policy"
	"sidecar/xds/compile/secret"
	"sidecar/xds/compile/transportsocket"
	"sidecar/xds/registry"
)

// security is TLS to a control plane: the UpstreamTlsContext of its bootstrap cluster, or what the ssl_credentials of google_grpc amount to, verified by the rules that hold for traffic. Certificates are
// inline, in files, or in static secrets; files are read for every connection, and while they are broken the last good ones serve.
type security struct {
	// Immutable
	cluster string
	socket  *corev3.TransportSocket
	secrets []*tlsv3.Secret
	name    string // that the certificate must carry besides; "" = none

	// Shared, under mu
	mu   sync.Mutex
	good *policy.Client
}

// newSecurity compiles the transport socket once; every fault comes back with its path inside the cluster.
func newSecurity(cluster string, ts *corev3.TransportSocket, secrets []*tlsv3.Secret) (*security, error) {
	s := &security{cluster: cluster, socket: ts, secrets: secrets}
	var err error
	s.good, err = s.compile()
	return s, err
}

// newSSL is the security of ssl_credentials: as in gRPC the server must prove to be host, that of the target unless another is configured.
func newSSL(name, host string, c *corev3.GrpcService_GoogleGrpc_SslCredentials) (*security, error) {
	common := &tlsv3.CommonTlsContext{ValidationContextType: &tlsv3.CommonTlsContext_ValidationContext{
		ValidationContext: &tlsv3.CertificateValidationContext{TrustedCa: c.GetRootCerts()}}}
	if c.GetCertChain() != nil || c.GetPrivateKey() != nil {
		common.TlsCertificates = []*tlsv3.TlsCertificate{{CertificateChain: c.GetCertChain(), PrivateKey: c.GetPrivateKey()}}
	}
	ctx := &tlsv3.UpstreamTlsContext{CommonTlsContext: common}
	if net.ParseIP(host) == nil {
		ctx.Sni = host
	}
	typed, err := anypb.New(ctx)
	if err != nil {
		return nil, err
	}
	s, err := newSecurity(name, &corev3.TransportSocket{Name: "envoy.transport_sockets.tls", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: typed}}, nil)
	if err != nil {
		return nil, err
	}
	s.name = host
	return s, nil
}

func (s *security) compile() (*policy.Client, error) {
	k := &secret.Compiler{}
	ctx := &registry.Ctx{Path: "transport_socket", Unknown: registry.UnknownWarn, Report: &registry.Report{}}
	out, err := transportsocket.Upstream(ctx, k, s.socket, s.cluster)
	if err != nil {
		return nil, err
	}
	if out.TLS == nil || len(out.Secrets) == 0 {
		return out.TLS, nil
	}
	found := map[string]*policy.Secret{}
	var errs []error
	for _, ref := range out.Secrets {
		x, err := s.static(k, ref.Name, ref.Source != nil)
		if err != nil {
			errs = append(errs, &registry.FieldError{Path: ref.Path, Err: err})
			continue
		}
		found[ref.Key] = x
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if err := out.TLS.Update(func(key string) *policy.Secret { return found[key] }); err != nil {
		return nil, ctx.Errorf("typed_config", "%w", err)
	}
	return out.TLS, nil
}

// static finds a secret of the bootstrap.
func (s *security) static(k *secret.Compiler, name string, dynamic bool) (*policy.Secret, error) {
	if dynamic {
		return nil, fmt.Errorf("secret %q: the connection to a control plane takes its certificates inline, from files or from static secrets, not over SDS", name)
	}
	for _, m := range s.secrets {
		if m.GetName() != name {
			continue
		}
		out, err := k.Compile(&registry.Ctx{Unknown: registry.UnknownWarn, Report: &registry.Report{}}, m)
		if err != nil {
			return nil, fmt.Errorf("secret %q: %w", name, err)
		}
		return out.Secret, nil
	}
	return nil, fmt.Errorf("unknown static secret: %s", name)
}

// client is the context for a connection that begins now.
func (s *security) client() *policy.Client {
	x, err := s.compile()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.good = x
	}
	return s.good
}

// handshake speaks TLS over c. It belongs to one attempt, so the policy.Worker does: nothing is shared, nothing is resumed.
// alpn is what it offers when the context says nothing.
func (s *security) handshake(ctx context.Context, c net.Conn, alpn string) (*tls.Conn, error) {
	x := s.client()
	target := &policy.Target{SAN: s.name}
	if d, ok := c.(*dialed); ok {
		target.Hostname = d.host
	}
	if len(x.Spec().ALPN) == 0 {
		target.ALPN = []string{alpn}
	}
	cfg := policy.NewWorker(policy.Handshakes{Now: time.Now}).Client(x, target)
	if cfg == nil {
		return nil, errors.New("the TLS context has no certificates yet")
	}
	t := tls.Client(c, cfg)
	if err := t.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	return t, nil
}

// dialed is a connection that knows the name by which it was reached, for auto_host_sni.
type dialed struct {
	net.Conn
	host string
}

// tlsCredentials lets gRPC speak TLS by a security; gRPC's own would add rules of their own about names and ALPN.
type tlsCredentials struct{ s *security }

// secured is what gRPC is told of a connection.
type secured struct{ credentials.CommonAuthInfo }

// AuthType implements credentials.AuthInfo.
func (secured) AuthType() string { return "tls" }

// ClientHandshake implements credentials.TransportCredentials.
func (t tlsCredentials) ClientHandshake(ctx context.Context, _ string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, err := t.s.handshake(ctx, raw, "h2") // as Envoy falls back to for HTTP/2 clusters
	if err != nil {
		_ = raw.Close()
		return nil, nil, err
	}
	return c, secured{credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}}, nil
}

// ServerHandshake implements credentials.TransportCredentials; there is no server.
func (tlsCredentials) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.ErrUnsupported
}

// Info implements credentials.TransportCredentials: the scheme of requests is https.
func (tlsCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone implements credentials.TransportCredentials.
func (t tlsCredentials) Clone() credentials.TransportCredentials { return t }

// OverrideServerName implements credentials.TransportCredentials; names come from the context only.
func (tlsCredentials) OverrideServerName(string) error { return errors.ErrUnsupported }
