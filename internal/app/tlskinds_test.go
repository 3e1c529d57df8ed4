// SPDX-License-Identifier: Apache-2.0

package app

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"sidecar/dataplane/transport/tls/policy"
	"sidecar/xds/compile/secret"
	"sidecar/xds/compile/transportsocket"
	"sidecar/xds/controller"
	"sidecar/xds/registry"
)

// pemPair is a self-signed certificate and its key.
func pemPair(t *testing.T, serial int64) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "a"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(48 * time.Hour), DNSNames: []string{"a.test"}, IPAddresses: []net.IP{net.IPv4(1, 2, 3, 4)},
		URIs: []*url.URL{{Scheme: "spiffe", Host: "td", Path: "/ns/a"}}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	kd, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: kd}))
}

func inlineText(s string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: s}}
}

func TestTLSContext_WhenSecretsAreCompiled_ThenTheContextTakesThoseOfItsKinds(t *testing.T) {
	var k controller.Compilers
	plugTLS(&k, &secret.Compiler{})
	compile := func(m *tlsv3.Secret) any {
		t.Helper()
		out, err := k.Secret(&registry.Ctx{Report: &registry.Report{}}, m)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	chain, key := pemPair(t, 0xa01)
	other, _ := pemPair(t, 0xb02)
	cert := compile(&tlsv3.Secret{Name: "cert", Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		CertificateChain: inlineText(chain + other), PrivateKey: inlineText(key)}}})
	ca := compile(&tlsv3.Secret{Name: "ca", Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
		TrustedCa: inlineText(chain + other)}}})
	if _, err := k.Secret(&registry.Ctx{Report: &registry.Report{}}, &tlsv3.Secret{Name: "half", Type: &tlsv3.Secret_TlsCertificate{
		TlsCertificate: &tlsv3.TlsCertificate{CertificateChain: inlineText(other), PrivateKey: inlineText(key)}}}); err == nil || !strings.Contains(err.Error(), "tls_certificate.private_key") {
		t.Errorf("a key of another certificate: %v", err)
	}
	server, err := policy.NewServer(policy.ServerSpec{Certificates: []policy.Ref[policy.Certificate]{{Secret: "c"}}, Validation: policy.Ref[policy.Validation]{Secret: "v"}})
	if err != nil {
		t.Fatal(err)
	}
	x := &tlsContext{server, []transportsocket.SecretRef{{Key: "c", Name: "cert", Kind: transportsocket.KindCertificate},
		{Key: "v", Name: "ca", Kind: transportsocket.KindValidation}}, true, &policy.Doubts{}}
	refs := x.Secrets()
	if refs[0].Fits(cert) != nil || refs[1].Fits(ca) != nil || refs[0].Fits(ca) == nil || refs[1].Fits(cert) == nil {
		t.Error("kinds are mixed up")
	}
	if own, authorities := x.Materials(); len(own)+len(authorities) != 0 {
		t.Error("certificates before any secret")
	}
	if err := x.Update(func(key string) any { return map[string]any{"c": cert, "v": ca}[key] }); err != nil {
		t.Fatal(err)
	}
	own, authorities := x.Materials()
	if !server.Ready() || len(own) != 1 || len(authorities) != 2 || own[0].Certificate.SerialNumber.Int64() != 0xa01 || own[0].Path != "<inline>" {
		t.Errorf("own %v, authorities %v", own, authorities)
	}
}
