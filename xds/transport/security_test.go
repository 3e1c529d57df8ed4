// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/credentials"

	"sidecar/internal/testctl"
	"sidecar/xds/ads"
	"sidecar/xds/bootstrap"
	"sidecar/xds/registry"
	"sidecar/xds/resource"
)

// authority issues certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	next int64
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, next: 100}
	a.cert, a.key = a.make(&x509.Certificate{Subject: pkix.Name{CommonName: "root"}, IsCA: true, BasicConstraintsValid: true})
	return a
}

func (a *authority) make(tmpl *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	a.next++
	tmpl.SerialNumber, tmpl.NotBefore, tmpl.NotAfter = big.NewInt(a.next), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = tmpl, k
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &k.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return c, k
}

// issue makes a leaf for a DNS name and a SPIFFE id, as PEM.
func (a *authority) issue(name string) (cert, key []byte) {
	a.t.Helper()
	c, k := a.make(&x509.Certificate{Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, URIs: []*url.URL{{Scheme: "spiffe", Host: "td", Path: "/" + name}}})
	kd, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		a.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: kd})
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// guarded is a control plane that demands client certificates; it tells what each connection presented: common name, server name asked for, protocol.
func guarded(t *testing.T, a *authority, name string) (*testctl.Server, chan string) {
	t.Helper()
	cert, key := a.issue(name)
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	seen := make(chan string, 100)
	srv, err := testctl.NewServer(testctl.Config{Credentials: credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool,
		ClientAuth: tls.RequireAndVerifyClientCert, VerifyConnection: func(cs tls.ConnectionState) error {
			seen <- fmt.Sprint(cs.PeerCertificates[0].Subject.CommonName, " ", cs.ServerName, " ", cs.NegotiatedProtocol)
			return nil
		}})})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	return srv, seen
}

// secureTarget loads a bootstrap whose control plane is reached with an UpstreamTlsContext.
func secureTarget(t *testing.T, address, context string) (*Target, error) {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	return load(t, `transport_socket: {name: envoy.transport_sockets.tls, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, `+
		context+`}}, connect_timeout: 5s, load_assignment: {cluster_name: xds, endpoints: [{lb_endpoints: [{endpoint: {hostname: host.test, address: {socket_address: {address: "`+
		host+`", port_value: `+port+`}}}}]}]}`)
}

// once opens one stream and tells whether it came up, or why not.
func once(t *testing.T, target *Target, v ads.Variant) error {
	t.Helper()
	events := make(chan ads.Event, 16)
	s, err := NewStream(StreamConfig{Targets: []*Target{target}, Variant: v, Type: resource.Unknown, Sink: func(ev ads.Event) { events <- ev }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.Start()
	select {
	case ev := <-events:
		switch e := ev.(type) {
		case ads.Opened:
			return nil
		case ads.Closed:
			return e.Err
		}
		return fmt.Errorf("%T", ev)
	case <-time.After(10 * time.Second):
		return errors.New("nothing happens")
	}
}

func write(t *testing.T, path string, content []byte) string {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestStream_WhenTheControlPlaneDemandsMutualTLS_ThenBothSidesAreVerified(t *testing.T) {
	a, stranger := newAuthority(t), newAuthority(t)
	srv, seen := guarded(t, a, "cp.test")
	dir := t.TempDir()
	cert, key := a.issue("me")
	c, k := write(t, filepath.Join(dir, "c"), cert), write(t, filepath.Join(dir, "k"), key)
	ca, other := write(t, filepath.Join(dir, "ca"), a.pem()), write(t, filepath.Join(dir, "other"), stranger.pem())
	own := "tls_certificates: [{certificate_chain: {filename: " + c + "}, private_key: {filename: " + k + "}}], "
	trust := func(file, san string) string {
		v := "validation_context: {trusted_ca: {filename: " + file + "}"
		if san != "" {
			v += ", match_typed_subject_alt_names: [{san_type: URI, matcher: {exact: " + san + "}}]"
		}
		return v + "}"
	}
	for _, tc := range []struct{ name, context, seen, err string }{
		{"sni", "sni: cp.test, common_tls_context: {" + own + trust(ca, "spiffe://td/cp.test") + "}", "me cp.test h2", ""},
		{"auto host sni", "auto_host_sni: true, common_tls_context: {" + own + trust(ca, "") + "}", "me host.test h2", ""},
		{"own alpn", "common_tls_context: {alpn_protocols: [h2], " + own + trust(ca, "") + "}", "me  h2", ""},
		{"another authority", "common_tls_context: {" + own + trust(other, "") + "}", "", "CERTIFICATE_VERIFY_FAILED"},
		{"another name", "common_tls_context: {" + own + trust(ca, "spiffe://td/else") + "}", "", "SAN matcher"},
		{"no certificate", "common_tls_context: {" + trust(ca, "") + "}", "", "handshake failure"},
	} {
		for _, v := range []ads.Variant{ads.SotW, ads.Delta} {
			t.Run(tc.name+" "+v.String(), func(t *testing.T) {
				target, err := secureTarget(t, srv.Addr(), tc.context)
				if err != nil {
					t.Fatal(err)
				}
				err = once(t, target, v)
				if tc.err != "" {
					if err == nil || !strings.Contains(err.Error(), tc.err) {
						t.Errorf("got %v, want %q", err, tc.err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if got := <-seen; got != tc.seen {
					t.Errorf("the server saw %q, want %q", got, tc.seen)
				}
			})
		}
	}
}

func TestStream_WhenGoogleGRPCHasSSLCredentials_ThenBothSidesAreVerified(t *testing.T) {
	a, stranger := newAuthority(t), newAuthority(t)
	cert, key := a.issue("me")
	inline := func(field string, p []byte) string { return fmt.Sprintf("%s: {inline_string: %q}, ", field, p) }
	own := inline("cert_chain", cert) + inline("private_key", key)
	file := "root_certs: {filename: " + write(t, filepath.Join(t.TempDir(), "ca"), a.pem()) + "}, "
	for _, tc := range []struct{ name, server, credentials, override, err string }{
		{"inline", "localhost", inline("root_certs", a.pem()) + own, "", ""},
		{"file", "localhost", file + own, "", ""},
		{"overridden name", "cp.test", file + own, "cp.test", ""},
		{"another authority", "localhost", inline("root_certs", stranger.pem()) + own, "", "CERTIFICATE_VERIFY_FAILED"},
		{"another name", "cp.test", file + own, "", "SAN"},
		{"another overridden name", "localhost", file + own, "cp.test", "SAN"},
		{"no certificate", "localhost", file, "", "handshake failure"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			srv, seen := guarded(t, a, tc.server)
			_, port, _ := net.SplitHostPort(srv.Addr())
			target, err := googleTarget(t, "localhost:"+port, tc.credentials, tc.override)
			if err != nil {
				t.Fatal(err)
			}
			err = once(t, target, ads.Delta)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("got %v, want %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := <-seen; got != "me "+tc.server+" h2" {
				t.Errorf("the server saw %q", got)
			}
		})
	}
	_, err := googleTarget(t, "localhost:1", file+inline("cert_chain", cert), "")
	if want := "ssl_credentials: transport_socket.typed_config.common_tls_context.tls_certificates[0]"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("a certificate without its key: got %v, want %q", err, want)
	}
}

// googleTarget loads a bootstrap whose control plane is reached by google_grpc; override is the name of the target if it is not its host.
func googleTarget(t *testing.T, uri, credentials, override string) (*Target, error) {
	t.Helper()
	args := ""
	if override != "" {
		args = "channel_args: {args: {grpc.ssl_target_name_override: {string_value: " + override + "}}}, "
	}
	c, err := bootstrap.Load(bootstrap.Options{Data: []byte(`
node: {id: a, cluster: b}
dynamic_resources: {ads_config: {api_type: GRPC, transport_api_version: V3, grpc_services: [{google_grpc: {target_uri: "` + uri + `", stat_prefix: g,
  ` + args + `channel_credentials: {ssl_credentials: {` + credentials + `}}}}]}}`)})
	if err != nil {
		t.Fatal(err)
	}
	return TargetOf(c.ADS.Services[0])
}

func TestStream_WhenItsCertificateFilesChange_ThenTheNextConnectionHasThemUnlessTheyAreBroken(t *testing.T) {
	a := newAuthority(t)
	srv, seen := guarded(t, a, "cp.test")
	dir := t.TempDir()
	pair := func(name string, whole bool) {
		t.Helper()
		cert, key := a.issue(name)
		write(t, filepath.Join(dir, "c"), cert)
		if whole {
			write(t, filepath.Join(dir, "k"), key)
		}
	}
	pair("one", true)
	target, err := secureTarget(t, srv.Addr(), `common_tls_context: {tls_certificates: [{certificate_chain: {filename: `+filepath.Join(dir, "c")+`}, private_key: {filename: `+
		filepath.Join(dir, "k")+`}}], validation_context: {trusted_ca: {filename: `+write(t, filepath.Join(dir, "ca"), a.pem())+`}}}`)
	if err != nil {
		t.Fatal(err)
	}
	expect := func(name string) {
		t.Helper()
		if err := once(t, target, ads.SotW); err != nil {
			t.Fatal(err)
		}
		if got := <-seen; got != name+"  h2" {
			t.Errorf("the server saw %q, want %s", got, name)
		}
	}
	expect("one")
	pair("two", true)
	expect("two")
	pair("three", false)
	expect("two")
	pair("four", true)
	expect("four")
}

func TestTargetOf_WhenTLSCannotBeHad_ThenItIsRefusedWithThePath(t *testing.T) {
	at := `cluster "xds": transport_socket.typed_config.common_tls_context.`
	for context, want := range map[string]string{
		`common_tls_context: {tls_certificate_sds_secret_configs: [{name: a, sds_config: {ads: {}}}]}`: at + `tls_certificate_sds_secret_configs[0]: secret "a": the connection to a control plane`,
		`common_tls_context: {validation_context_sds_secret_config: {name: b}}`:                        at + `validation_context_sds_secret_config: unknown static secret: b`,
		`common_tls_context: {validation_context: {trusted_ca: {filename: /no/such/file}}}`:            at + `validation_context.trusted_ca`,
		`common_tls_context: {tls_certificates: [{certificate_chain: {inline_string: x}}]}`:            at + `tls_certificates[0]`,
		`allow_renegotiation: true`: `cluster "xds": transport_socket.typed_config.allow_renegotiation: `,
	} {
		_, err := secureTarget(t, "127.0.0.1:1", context)
		if err == nil || !strings.Contains(err.Error(), want) || errors.Is(err, registry.ErrLater) {
			t.Errorf("%s:\n got %v\nwant %s", context, err, want)
		}
	}
}
