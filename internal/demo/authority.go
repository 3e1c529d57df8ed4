// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"time"
)

// trustDomain is the SPIFFE trust domain of the demo's mesh.
const trustDomain = "demo.local"

// authority is the mesh's certificate authority. Its roots are rotated: the newest one signs, all of them are trusted.
type authority struct {
	roots  []root // oldest first, at least one
	serial int64
}

type root struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pem  []byte
}

func (r root) serial() string { return hex.EncodeToString(r.cert.SerialNumber.Bytes()) }

// leaf is one workload certificate.
type leaf struct {
	chain, key []byte // PEM
	serial     string // as %DOWNSTREAM_PEER_SERIAL% prints it
}

func newAuthority() (*authority, error) {
	a := &authority{}
	return a, a.addRoot()
}

// addRoot makes a new root, which signs from now on.
func (a *authority) addRoot() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	a.serial++
	t := &x509.Certificate{SerialNumber: big.NewInt(a.serial), Subject: pkix.Name{CommonName: fmt.Sprintf("demo root %d", a.serial)},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, URIs: []*url.URL{{Scheme: "spiffe", Host: trustDomain}}}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	a.roots = append(a.roots, root{key: key, cert: cert, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})})
	return nil
}

// dropRoot ends the trust in all roots but the newest and returns the oldest of them.
func (a *authority) dropRoot() root {
	old := a.roots[0]
	a.roots = a.roots[len(a.roots)-1:]
	return old
}

// bundle is the trust bundle in PEM.
func (a *authority) bundle() []byte {
	var b bytes.Buffer
	for _, r := range a.roots {
		b.Write(r.pem)
	}
	return b.Bytes()
}

// issue signs a workload certificate with the newest root.
func (a *authority) issue(name string) (leaf, error) { return a.issueBy(a.roots[len(a.roots)-1], name) }

func (a *authority) issueBy(r root, name string) (leaf, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return leaf{}, err
	}
	a.serial++
	t := &x509.Certificate{SerialNumber: big.NewInt(a.serial), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		URIs: []*url.URL{{Scheme: "spiffe", Host: trustDomain, Path: "/" + name}}}
	der, err := x509.CreateCertificate(rand.Reader, t, r.cert, &key.PublicKey, r.key)
	if err != nil {
		return leaf{}, err
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return leaf{}, err
	}
	return leaf{chain: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		key: pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}), serial: hex.EncodeToString(t.SerialNumber.Bytes())}, nil
}

// dial makes a mutual TLS connection to addr with l, trusting the present roots, and returns the serial number of the certificate that the
// peer shows. It fails when either side refuses the other.
func (a *authority) dial(addr string, l leaf) (serial string, err error) {
	cert, err := tls.X509KeyPair(l.chain, l.key)
	if err != nil {
		return "", err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(a.bundle())
	c, err := tls.Dial("tcp", addr, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"},
		InsecureSkipVerify: true, // names are SPIFFE ids, which the library does not know: VerifyConnection checks the chain and the id
		VerifyConnection: func(cs tls.ConnectionState) error {
			peer := cs.PeerCertificates[0]
			serial = hex.EncodeToString(peer.SerialNumber.Bytes())
			if len(peer.URIs) != 1 || peer.URIs[0].String() != spiffeID("server") {
				return fmt.Errorf("the peer is %v", peer.URIs)
			}
			_, err := peer.Verify(x509.VerifyOptions{Roots: pool})
			return err
		}})
	if err != nil {
		return "", err
	}
	defer c.Close()
	// With TLS 1.3 a refused client learns of it only with its first read.
	if err := c.SetDeadline(time.Now().Add(effectTimeout)); err != nil {
		return "", err
	}
	if _, err := c.Write([]byte("GET /dial HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n")); err != nil {
		return "", err
	}
	_, err = c.Read(make([]byte, 1))
	return serial, err
}

func spiffeID(name string) string { return "spiffe://" + trustDomain + "/" + name }
