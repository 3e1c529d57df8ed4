// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/url"
	"testing"
	"time"

	"sidecar/dataplane/identity"
	"sidecar/dataplane/match"
)

// epoch is the time of all tests.
var epoch = time.Unix(1_800_000_000, 0)

var serials int64

// authority is a CA of a test.
type authority struct {
	cert  *x509.Certificate
	key   crypto.Signer
	above *authority
}

// option changes the template of a certificate.
type option func(*x509.Certificate)

func uri(s string) option {
	return func(c *x509.Certificate) {
		u, err := url.Parse(s)
		if err != nil {
			panic(err)
		}
		c.URIs = append(c.URIs, u)
	}
}

func dns(names ...string) option {
	return func(c *x509.Certificate) { c.DNSNames = append(c.DNSNames, names...) }
}

func eku(u ...x509.ExtKeyUsage) option { return func(c *x509.Certificate) { c.ExtKeyUsage = u } }
func ku(u x509.KeyUsage) option        { return func(c *x509.Certificate) { c.KeyUsage = u } }

func valid(from, until time.Duration) option {
	return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = epoch.Add(from), epoch.Add(until) }
}

func subject(cn string) option { return func(c *x509.Certificate) { c.Subject.CommonName = cn } }

func ecKey(t testing.TB) crypto.Signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

var rsaKeys = map[int]*rsa.PrivateKey{}

// rsaKeyOf makes a key of some size once.
func rsaKeyOf(t testing.TB, bits int) crypto.Signer {
	t.Helper()
	if rsaKeys[bits] == nil {
		k, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		rsaKeys[bits] = k
	}
	return rsaKeys[bits]
}

func edKey(t testing.TB) crypto.Signer {
	t.Helper()
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func issue(t testing.TB, by *authority, pub crypto.Signer, ca bool, opts ...option) *x509.Certificate {
	t.Helper()
	serials++
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(serials), NotBefore: epoch.Add(-time.Hour), NotAfter: epoch.Add(24 * time.Hour),
		BasicConstraintsValid: true, IsCA: ca, Subject: pkix.Name{}}
	if ca {
		tmpl.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	}
	for _, o := range opts {
		o(tmpl)
	}
	parent, key := tmpl, pub
	if by != nil {
		parent, key = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newCA(t testing.TB, by *authority, opts ...option) *authority {
	t.Helper()
	key := ecKey(t)
	serials++
	name := subject("CA " + big.NewInt(serials).String())
	return &authority{issue(t, by, key, true, append([]option{name}, opts...)...), key, by}
}

func (a *authority) pem() []byte { return pemOf(a.cert) }

func pemOf(certs ...*x509.Certificate) (out []byte) {
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

func keyPEM(t testing.TB, k crypto.Signer) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// leaf issues a workload certificate with its chain up to, but without, the root.
func (a *authority) leaf(t testing.TB, opts ...option) *Certificate {
	t.Helper()
	return a.leafOf(t, ecKey(t), opts...)
}

func (a *authority) leafOf(t testing.TB, key crypto.Signer, opts ...option) *Certificate {
	t.Helper()
	chain := []*x509.Certificate{issue(t, a, key, false, opts...)}
	for x := a; x.above != nil; x = x.above {
		chain = append(chain, x.cert)
	}
	c, err := ParseCertificate(pemOf(chain...), keyPEM(t, key), "<inline>", "<inline>")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (a *authority) revoke(t testing.TB, thisUpdate, nextUpdate time.Time, certs ...*x509.Certificate) []byte {
	t.Helper()
	return a.revokeBy(t, thisUpdate, nextUpdate, nil, certs...)
}

// revokeBy makes a list that change has a say in; nil changes nothing.
func (a *authority) revokeBy(t testing.TB, thisUpdate, nextUpdate time.Time, change func(*x509.RevocationList), certs ...*x509.Certificate) []byte {
	t.Helper()
	l := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: thisUpdate, NextUpdate: nextUpdate}
	for _, c := range certs {
		l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: thisUpdate})
	}
	if change != nil {
		change(l)
	}
	der, err := x509.CreateRevocationList(rand.Reader, l, a.cert, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
}

func bundle(t testing.TB, cas ...*authority) *Bundle {
	t.Helper()
	var text []byte
	for _, a := range cas {
		text = append(text, a.pem()...)
	}
	b, err := ParseBundle(text, "<inline>")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func trusting(t testing.TB, cas ...*authority) *Validation {
	t.Helper()
	return &Validation{CA: bundle(t, cas...)}
}

func exactURI(s string) SANMatcher {
	return SANMatcher{Type: SANURI, Match: match.NewString(match.StringExact, s, false)}
}

// side is one end of a handshake in a test: what its worker learned.
type side struct {
	w           *Worker
	now         time.Time
	peer, local *identity.Certificate
	validated   bool
}

func newSide() *side {
	s := &side{now: epoch}
	s.w = NewWorker(Handshakes{Now: func() time.Time { return s.now },
		Peer:  func(c *identity.Certificate, validated bool) { s.peer, s.validated = c, validated },
		Local: func(c *identity.Certificate) { s.local = c }})
	return s
}

// connect makes a connection to ourselves; its buffers let both ends write at once, which a pipe does not.
func connect(t testing.TB) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if b, err = net.Dial("tcp", l.Addr().String()); err == nil {
		a, err = l.Accept()
	}
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}

// result is what became of a handshake.
type result struct {
	client, server       tls.ConnectionState
	clientErr, serverErr error
}

// shake makes a handshake between two configurations over loopback, and one round trip of a byte each way, so that tickets arrive.
func shake(t testing.TB, server, client *tls.Config) result {
	t.Helper()
	a, b := connect(t)
	defer a.Close()
	defer b.Close()
	deadline := time.Now().Add(10 * time.Second)
	_ = a.SetDeadline(deadline)
	_ = b.SetDeadline(deadline)
	var r result
	done := make(chan struct{})
	go func() {
		defer close(done)
		s := tls.Server(a, server)
		var buf [1]byte
		if r.serverErr = s.Handshake(); r.serverErr == nil {
			if _, err := io.ReadFull(s, buf[:]); err == nil {
				_, _ = s.Write(buf[:])
			}
			r.server = s.ConnectionState()
		}
		_ = a.Close()
	}()
	c := tls.Client(b, client)
	var buf [1]byte
	if r.clientErr = c.Handshake(); r.clientErr == nil {
		if _, err := c.Write(buf[:]); err == nil {
			_, r.clientErr = io.ReadFull(c, buf[:]) // an alert about our certificate comes here in TLS 1.3
		}
		r.client = c.ConnectionState()
	}
	_ = b.Close()
	<-done
	return r
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func (r *result) ok() error { return errors.Join(r.clientErr, r.serverErr) }
