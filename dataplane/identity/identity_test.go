// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // the operator's
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"
)

// certificate issues a self-signed certificate from a template.
func certificate(t testing.TB, tmpl *x509.Certificate) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl.NotBefore, tmpl.NotAfter = time.Unix(1_700_000_000, 0), time.Unix(1_900_000_000, 0)
	if tmpl.SerialNumber == nil {
		tmpl.SerialNumber = big.NewInt(1)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func fingerprint(c *Certificate) string { return string(c.AppendFingerprint256(nil, 0)) }

func mustURL(s string) *url.URL {
	u, err := url.Parse(s)
	if err != nil {
		panic(err)
	}
	return u
}

func workload(t testing.TB) *x509.Certificate {
	return certificate(t, &x509.Certificate{Subject: pkix.Name{CommonName: "a", Organization: []string{"x,y"}, Country: []string{"DE"}},
		URIs: []*url.URL{mustURL("spiffe://td/ns/a/sa/b"), mustURL("spiffe://td/c")}, DNSNames: []string{"a.test", "*.b.test"},
		IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1).To4(), net.ParseIP("fd00::1")}, EmailAddresses: []string{"a@b.test"}, SerialNumber: big.NewInt(0x0fab)})
}

func TestCertificate_WhenMadeFromALeaf_ThenItTellsWhatTheLeafSays(t *testing.T) {
	leaf := workload(t)
	c := New(leaf, nil)
	for _, x := range []struct{ what, got, want string }{
		{"uris", strings.Join(c.URIs, " "), "spiffe://td/ns/a/sa/b spiffe://td/c"},
		{"dns", strings.Join(c.DNSNames, " "), "a.test *.b.test"},
		{"ips", strings.Join(c.IPs, " "), "10.0.0.1 fd00::1"},
		{"emails", strings.Join(c.Emails, " "), "a@b.test"},
		{"all names", strings.Join(c.SANs, " "), "a.test *.b.test a@b.test 10.0.0.1 fd00::1 spiffe://td/ns/a/sa/b spiffe://td/c"},
		{"serial", c.Serial, "0fab"},
		{"subject", c.Subject, `CN=a,O=x\,y,C=DE`},
		{"issuer", c.Issuer, `CN=a,O=x\,y,C=DE`},
		{"chain serial", c.ChainSerial(0), "0fab"},
		{"chain hash", fingerprint(c), fmt.Sprintf("%x", sha256.Sum256(leaf.Raw))},
		{"chain sha1", string(c.AppendFingerprint1(nil, 0)), fmt.Sprintf("%x", sha1.Sum(leaf.Raw))},
	} {
		if x.got != x.want {
			t.Errorf("%s: %q, want %q", x.what, x.got, x.want)
		}
	}
	if c.NotBefore != 1_700_000_000 || c.NotAfter != 1_900_000_000 || c.ChainLen() != 1 {
		t.Errorf("validity %d-%d, chain of %d", c.NotBefore, c.NotAfter, c.ChainLen())
	}
	text, err := url.PathUnescape(string(c.AppendPEM(nil)))
	if err != nil {
		t.Fatal(err)
	}
	if b, rest := pem.Decode([]byte(text)); b == nil || len(rest) > 0 || string(b.Bytes) != string(leaf.Raw) {
		t.Error("the escaped PEM is not the leaf")
	}
	if strings.ContainsAny(string(c.AppendPEM(nil)), "\n +/=") {
		t.Error("the escaped PEM has characters that a header cannot have")
	}
	leaf.Raw[len(leaf.Raw)-1]++
	if text2, _ := url.PathUnescape(string(c.AppendChainPEM(nil))); text2 != text {
		t.Error("the identity shares memory with the certificate")
	}
}

func TestCertificate_WhenThereIsNone_ThenItHasNoFacts(t *testing.T) {
	var c *Certificate
	if c.ChainLen() != 0 || c.AppendPEM(nil) != nil || c.AppendChainPEM(nil) != nil {
		t.Error("a nil certificate has facts")
	}
}

func TestName_WhenRendered_ThenAsRFC2253(t *testing.T) {
	str := func(oid asn1.ObjectIdentifier, v any) pkix.AttributeTypeAndValue {
		return pkix.AttributeTypeAndValue{Type: oid, Value: v}
	}
	cn, ou := asn1.ObjectIdentifier{2, 5, 4, 3}, asn1.ObjectIdentifier{2, 5, 4, 11}
	tests := []struct {
		name string
		in   pkix.RDNSequence
		want string
	}{
		{"empty", nil, ""},
		{"reversed", pkix.RDNSequence{{str(ou, "one")}, {str(cn, "two")}}, "CN=two,OU=one"},
		{"specials", pkix.RDNSequence{{str(cn, ` #a+"<>;\ `)}}, `CN=\ #a\+\"\<\>\;\\\ `},
		{"hash first", pkix.RDNSequence{{str(cn, "#a")}}, `CN=\#a`},
		{"outside ASCII", pkix.RDNSequence{{str(cn, "ä")}}, `CN=\C3\A4`},
		{"unknown type", pkix.RDNSequence{{str(asn1.ObjectIdentifier{1, 2, 3}, "x")}}, "1.2.3=#130178"},
		{"mail and domain component", pkix.RDNSequence{{str(asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 25}, "test")},
			{str(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}, "a")}}, "emailAddress=a,DC=test"},
		{"several values", pkix.RDNSequence{{str(cn, "a"), str(ou, "b")}}, "OU=b+CN=a"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			der, err := asn1.Marshal(test.in)
			if err != nil {
				t.Fatal(err)
			}
			if got := Name(der); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func FuzzSANs(f *testing.F) {
	f.Add([]byte{0x30, 0x03, 0x82, 0x01, 'a'})
	f.Add([]byte{0x30, 0x06, 0x87, 0x04, 1, 2, 3, 4})
	f.Add([]byte{0x30, 0x0f, 0xa0, 0x0d, 0x06, 0x03, 0x2a, 0x03, 0x04, 0xa0, 0x06, 0x0c, 0x04, 't', 'e', 's', 't'})
	f.Fuzz(func(t *testing.T, b []byte) {
		var c Certificate
		c.names(b)
		Name(b)
		if n := len(c.URIs) + len(c.DNSNames) + len(c.IPs) + len(c.Emails) + len(c.OtherNames); n > maxSANs {
			t.Fatalf("%d names", n)
		}
	})
}

func TestXFCC_WhenARequestArrives_ThenTheModeDecides(t *testing.T) {
	mutual, oneWay := &Session{Peer: New(workload(t), nil)}, &Session{}
	tests := []struct {
		mode             ForwardClientCert
		mtls, tls, plain XFCC
	}{
		{mode: Sanitize, mtls: XFCCRemove, tls: XFCCRemove, plain: XFCCRemove},
		{mode: ForwardOnly, mtls: XFCCKeep, tls: XFCCRemove, plain: XFCCRemove},
		{mode: AppendForward, mtls: XFCCAppend, tls: XFCCRemove, plain: XFCCRemove},
		{mode: SanitizeSet, mtls: XFCCSet, tls: XFCCRemove, plain: XFCCRemove},
		{mode: AlwaysForwardOnly, mtls: XFCCKeep, tls: XFCCKeep, plain: XFCCKeep},
	}
	for _, x := range tests {
		if a, b, c := x.mode.Decide(mutual), x.mode.Decide(oneWay), x.mode.Decide(nil); a != x.mtls || b != x.tls || c != x.plain {
			t.Errorf("mode %d: %d %d %d, want %d %d %d", x.mode, a, b, c, x.mtls, x.tls, x.plain)
		}
	}
}

func TestXFCC_WhenAnElementIsMade_ThenItHasEnvoysForm(t *testing.T) {
	peer := New(workload(t), nil)
	bare := New(certificate(t, &x509.Certificate{}), nil)
	local := New(certificate(t, &x509.Certificate{URIs: []*url.URL{mustURL("spiffe://td/me"), mustURL("spiffe://td/too")}}), nil)
	all := ClientCertDetails{Subject: true, Cert: true, Chain: true, URI: true, DNS: true}
	tests := []struct {
		name    string
		details ClientCertDetails
		s       Session
		want    string
	}{
		{"least", ClientCertDetails{}, Session{Peer: peer}, "Hash=" + fingerprint(peer)},
		{"by", ClientCertDetails{}, Session{Peer: peer, Local: local}, "By=spiffe://td/me;By=spiffe://td/too;Hash=" + fingerprint(peer)},
		{"istio", ClientCertDetails{Subject: true, URI: true, DNS: true}, Session{Peer: peer, Local: local},
			"By=spiffe://td/me;By=spiffe://td/too;Hash=" + fingerprint(peer) + `;Subject="CN=a,O=x\,y,C=DE"` +
				";URI=spiffe://td/ns/a/sa/b;URI=spiffe://td/c;DNS=a.test;DNS=*.b.test"},
		{"hostile names", ClientCertDetails{URI: true, DNS: true}, Session{Peer: &Certificate{URIs: []string{"a\x00b"}, DNSNames: []string{"x\r\nadmin: 1", "y\x7f\xff"}}},
			"Hash=" + fingerprint(&Certificate{}) + ";URI=a%00b;DNS=x%0D%0Aadmin: 1;DNS=y%7F%FF"},
		{"empty values", ClientCertDetails{Subject: true, URI: true, DNS: true}, Session{Peer: bare}, "Hash=" + fingerprint(bare) + `;Subject="";URI=`},
		{"everything", all, Session{Peer: bare}, "Hash=" + fingerprint(bare) + `;Cert="` + string(bare.AppendPEM(nil)) + `";Chain="` +
			string(bare.AppendChainPEM(nil)) + `";Subject="";URI=`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := string(test.details.AppendElement(nil, &test.s)); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}
