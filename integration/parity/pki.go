// SPDX-License-Identifier: Apache-2.0

package parity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// certSpec describes one certificate of the harness.
type certSpec struct {
	serial  int64
	parent  string // "" signs itself
	ca      bool
	rsa     bool
	dns     []string
	uri     []string
	ip      []string
	usage   []x509.ExtKeyUsage
	expired bool
}

var (
	bothUsages = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	// pkiSpecs are the certificates that case files name, in `${pem:NAME}`, `${key:NAME}` and the short forms of TLS contexts.
	pkiSpecs = map[string]certSpec{
		"ca":         {serial: 1, ca: true},
		"ca2":        {serial: 2, ca: true},
		"inter":      {serial: 3, ca: true, parent: "ca"},
		"server":     {serial: 16, parent: "ca", dns: []string{"server.test"}, uri: []string{"spiffe://td/ns/a/sa/server"}, usage: bothUsages},
		"server2":    {serial: 17, parent: "ca", dns: []string{"two.test"}, usage: bothUsages},
		"wild":       {serial: 18, parent: "ca", dns: []string{"*.wild.test"}, usage: bothUsages},
		"serverrsa":  {serial: 19, parent: "ca", rsa: true, dns: []string{"server.test"}, usage: bothUsages},
		"serverip":   {serial: 20, parent: "ca", ip: []string{"127.0.0.1"}, usage: bothUsages},
		"client":     {serial: 32, parent: "ca", dns: []string{"client.test"}, uri: []string{"spiffe://td/ns/a/sa/client"}, usage: bothUsages},
		"clientdns":  {serial: 33, parent: "ca", dns: []string{"one.client.test", "two.client.test"}, usage: bothUsages},
		"clientleaf": {serial: 34, parent: "inter", dns: []string{"leaf.test"}, uri: []string{"spiffe://td/ns/a/sa/leaf"}, usage: bothUsages},
		"onlyserver": {serial: 35, parent: "ca", dns: []string{"onlyserver.test"}, usage: bothUsages[:1]},
		"onlyclient": {serial: 36, parent: "ca", dns: []string{"server.test"}, usage: bothUsages[1:]},
		"stranger":   {serial: 37, parent: "ca2", dns: []string{"client.test"}, uri: []string{"spiffe://td/ns/a/sa/client"}, usage: bothUsages},
		"foreign":    {serial: 38, parent: "ca", uri: []string{"spiffe://other/ns/a/sa/client"}, usage: bothUsages},
		"expired":    {serial: 39, parent: "ca", dns: []string{"server.test"}, uri: []string{"spiffe://td/ns/a/sa/client"}, usage: bothUsages, expired: true},
		"self":       {serial: 40, dns: []string{"server.test"}, usage: bothUsages},
		"domain":     {serial: 42, parent: "ca", uri: []string{"spiffe://td"}, usage: bothUsages},
		"revoked":    {serial: 41, parent: "ca", dns: []string{"revoked.test"}, usage: bothUsages},
	}
	pkiBegin = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	pkiEnd   = time.Date(2060, 1, 1, 0, 0, 0, 0, time.UTC)
)

// pki makes certificates when they are first asked for. Elliptic keys come from their names and signatures from RFC 6979, so a certificate has
// the same bytes and fingerprint in every run. The keys protect nothing.
type pki struct {
	mu    sync.Mutex
	certs map[string]*tls.Certificate
}

func newPKI() *pki { return &pki{certs: map[string]*tls.Certificate{}} }

var harnessPKI = newPKI()

// fixedSigner signs deterministically.
type fixedSigner struct{ *ecdsa.PrivateKey }

func (s fixedSigner) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.PrivateKey.Sign(nil, digest, opts)
}

// get returns the certificate with its chain (without the root) and key.
func (p *pki) get(name string) (*tls.Certificate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.make(name)
}

func (p *pki) make(name string) (*tls.Certificate, error) {
	if c := p.certs[name]; c != nil {
		return c, nil
	}
	spec, ok := pkiSpecs[name]
	if !ok {
		return nil, fmt.Errorf("no certificate %q", name)
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(spec.serial), Subject: pkix.Name{CommonName: name, Organization: []string{"x, y"}}, NotBefore: pkiBegin, NotAfter: pkiEnd,
		DNSNames: spec.dns, ExtKeyUsage: spec.usage, BasicConstraintsValid: spec.ca, IsCA: spec.ca, KeyUsage: x509.KeyUsageDigitalSignature}
	if spec.ca {
		t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	}
	if spec.expired {
		t.NotAfter = pkiBegin.AddDate(1, 0, 0)
	}
	for _, u := range spec.uri {
		parsed, err := url.Parse(u)
		if err != nil {
			return nil, err
		}
		t.URIs = append(t.URIs, parsed)
	}
	for _, ip := range spec.ip {
		t.IPAddresses = append(t.IPAddresses, net.ParseIP(ip))
	}
	key, err := pkiKey(name, spec.rsa)
	if err != nil {
		return nil, err
	}
	out := &tls.Certificate{PrivateKey: key}
	parent, signer := t, key
	if spec.parent != "" {
		up, err := p.make(spec.parent)
		if err != nil {
			return nil, err
		}
		parent, signer = up.Leaf, up.PrivateKey.(crypto.Signer)
		if pkiSpecs[spec.parent].parent != "" {
			out.Certificate = up.Certificate
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, key.Public(), signer)
	if err != nil {
		return nil, err
	}
	out.Certificate = append([][]byte{der}, out.Certificate...)
	if out.Leaf, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	p.certs[name] = out
	return out, nil
}

func pkiKey(name string, isRSA bool) (crypto.Signer, error) {
	if isRSA {
		return rsa.GenerateKey(rand.Reader, 2048)
	}
	seed := sha256.Sum256([]byte("parity " + name))
	seed[0] = 0 // below the order of the group
	k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), seed[:])
	return fixedSigner{k}, err
}

// pem returns what `${KIND:NAME}` puts into a file: pem (the chain), key, or crl (of the authority NAME, with the certificate `revoked`).
func (p *pki) pem(kind, name string) ([]byte, error) {
	c, err := p.get(name)
	if err != nil {
		return nil, err
	}
	var out []byte
	switch kind {
	case "pem":
		for _, der := range c.Certificate {
			out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
		}
	case "key":
		key := c.PrivateKey
		if f, ok := key.(fixedSigner); ok {
			key = f.PrivateKey
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, err
		}
		out = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	case "crl":
		list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: pkiBegin, NextUpdate: pkiEnd,
			RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: big.NewInt(pkiSpecs["revoked"].serial), RevocationTime: pkiBegin}}}
		der, err := x509.CreateRevocationList(rand.Reader, list, c.Leaf, c.PrivateKey.(crypto.Signer))
		if err != nil {
			return nil, err
		}
		out = pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
	}
	return out, nil
}

// file writes the material into dir and returns the path.
func (p *pki) file(dir, kind, name string) (string, error) {
	path := filepath.Join(dir, name+"."+kind)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	b, err := p.pem(kind, name)
	if err != nil {
		return "", err
	}
	return path, os.WriteFile(path, b, 0o600)
}

// pool returns the named certificates as roots.
func (p *pki) pool(names ...string) (*x509.CertPool, error) {
	out := x509.NewCertPool()
	for _, n := range names {
		c, err := p.get(n)
		if err != nil {
			return nil, err
		}
		out.AddCert(c.Leaf)
	}
	return out, nil
}

// hash returns the SHA-256 of a certificate in hex, or of its public key in base64.
func (p *pki) hash(kind, name string) (string, error) {
	c, err := p.get(name)
	if err != nil {
		return "", err
	}
	if kind == "spki" {
		sum := sha256.Sum256(c.Leaf.RawSubjectPublicKeyInfo)
		return base64.StdEncoding.EncodeToString(sum[:]), nil
	}
	return fmt.Sprintf("%x", sha256.Sum256(c.Leaf.Raw)), nil
}
