// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// pki is a certificate authority of a test with everything that can be wrong about what it, or somebody else, issues.
type pki struct {
	t      *testing.T
	dir    string
	name   string
	key    crypto.Signer
	cert   *x509.Certificate
	serial int64
}

func newPKI(t *testing.T, name string) *pki {
	t.Helper()
	p := &pki{t: t, dir: t.TempDir(), name: name}
	p.key, p.serial = ecKey(t), 1
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: []byte(name)}
	p.cert = parse(t, p.sign(ca, ca, p.key.Public(), p.key))
	p.write("ca.pem", pemBlock("CERTIFICATE", p.cert.Raw))
	return p
}

func ecKey(t *testing.T) crypto.Signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func rsaKey(t *testing.T, bits int) crypto.Signer {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func parse(t *testing.T, der []byte) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func pemBlock(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func (p *pki) sign(c, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) []byte {
	p.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, c, parent, pub, key)
	if err != nil {
		p.t.Fatal(err)
	}
	return der
}

// write makes a file of the directory and returns its path.
func (p *pki) write(name string, b []byte) string {
	p.t.Helper()
	path := filepath.Join(p.dir, name)
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		p.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil { // as certificate managers do: never half a file
		p.t.Fatal(err)
	}
	return path
}

func (p *pki) ca() string { return filepath.Join(p.dir, "ca.pem") }

// change is what is special about a certificate.
type change func(*x509.Certificate)

// expired certificates have ended; the others begin tomorrow, name one purpose only, may sign others, or name somebody else.
func expired(c *x509.Certificate)    { c.NotAfter = time.Now().Add(-time.Hour) }
func notYet(c *x509.Certificate)     { c.NotBefore = time.Now().Add(24 * time.Hour) }
func onlyServer(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }
func onlyClient(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }
func signing(c *x509.Certificate)    { c.KeyUsage |= x509.KeyUsageCertSign }
func stranger(c *x509.Certificate) {
	c.URIs = []*url.URL{{Scheme: "spiffe", Host: "cluster.local", Path: "/ns/test/sa/stranger"}}
}
func foreign(c *x509.Certificate) {
	c.URIs = []*url.URL{{Scheme: "spiffe", Host: "elsewhere.example", Path: "/ns/test/sa/peer"}}
}

// leafTemplate is a certificate that everybody takes.
func (p *pki) leafTemplate(changes []change) *x509.Certificate {
	p.serial++
	c := &x509.Certificate{SerialNumber: big.NewInt(p.serial), Subject: pkix.Name{CommonName: "leaf"}, NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		DNSNames: []string{serverName}, URIs: []*url.URL{{Scheme: "spiffe", Host: "cluster.local", Path: "/ns/test/sa/peer"}}, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	for _, f := range changes {
		f(c)
	}
	return c
}

// leafOf issues a certificate for a key.
func (p *pki) leafOf(key crypto.Signer, changes ...change) *tls.Certificate {
	p.t.Helper()
	return &tls.Certificate{Certificate: [][]byte{p.sign(p.leafTemplate(changes), p.cert, key.Public(), p.key)}, PrivateKey: key}
}

func (p *pki) leaf(changes ...change) *tls.Certificate { return p.leafOf(ecKey(p.t), changes...) }

// selfSigned is a certificate that nobody vouches for.
func (p *pki) selfSigned(changes ...change) *tls.Certificate {
	p.t.Helper()
	key := ecKey(p.t)
	c := p.leafTemplate(changes)
	return &tls.Certificate{Certificate: [][]byte{p.sign(c, c, key.Public(), key)}, PrivateKey: key}
}

// notOwned is a good certificate shown by somebody who does not have its key.
func (p *pki) notOwned(key, theirs crypto.Signer) *tls.Certificate {
	c := p.leafOf(theirs)
	c.PrivateKey = key
	return c
}

// revoke writes a list of revoked certificates that is good for a while.
func (p *pki) revoke(name string, good time.Duration, certs ...*tls.Certificate) string {
	p.t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(good)}
	for _, c := range certs {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: parse(p.t, c.Certificate[0]).SerialNumber, RevocationTime: time.Now().Add(-time.Minute)})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, p.cert, p.key)
	if err != nil {
		p.t.Fatal(err)
	}
	return p.write(name+".pem", pemBlock("X509 CRL", der))
}

// pemOf is a certificate and its key in PEM.
func pemOf(t *testing.T, c *tls.Certificate) (chain, key []byte) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return pemBlock("CERTIFICATE", c.Certificate[0]), pemBlock("PRIVATE KEY", der)
}

// save writes a certificate and its key as files.
func (p *pki) save(name string, c *tls.Certificate) {
	p.t.Helper()
	chain, key := pemOf(p.t, c)
	p.write(name+".pem", chain)
	p.write(name+".key", key)
}
