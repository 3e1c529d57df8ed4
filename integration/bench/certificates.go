// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// keyKinds are the keys of the certificates: ECDSA P-256 and RSA-2048.
var keyKinds = []string{"ecdsa", "rsa"}

// serverName is the name clients ask for; the load tool's -host has the same default.
const serverName = "bench.test"

// makeCertificates writes, for each kind of key, ca-KEY.pem, and server-KEY and client-KEY as .pem, .key and .both (certificate and key in one file, as
// HAProxy wants it). The client has a SPIFFE identity. They are made anew for every run and die with its directory.
func makeCertificates(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, kind := range keyKinds {
		ca, err := newCertificate(kind, "ca", nil)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "ca-"+kind+".pem"), ca.pem, 0o600); err != nil {
			return err
		}
		for _, role := range []string{"server", "client"} {
			c, err := newCertificate(kind, role, ca)
			if err != nil {
				return err
			}
			der, err := x509.MarshalPKCS8PrivateKey(c.key)
			if err != nil {
				return err
			}
			key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
			both := append(append([]byte{}, c.pem...), key...)
			for ext, text := range map[string][]byte{".pem": c.pem, ".key": key, ".both": both} {
				if err := os.WriteFile(filepath.Join(dir, role+"-"+kind+ext), text, 0o600); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

type certificate struct {
	key  crypto.Signer
	x509 *x509.Certificate
	pem  []byte
}

// newCertificate makes a certificate for a role; issuer nil makes a CA.
func newCertificate(kind, role string, issuer *certificate) (*certificate, error) {
	c := &certificate{}
	var err error
	if kind == "rsa" {
		c.key, err = rsa.GenerateKey(rand.Reader, 2048)
	} else {
		c.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 64))
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: role + "." + serverName}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(7 * 24 * time.Hour), BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature}
	signer, parent := c.key, t
	switch role {
	case "ca":
		t.IsCA, t.KeyUsage = true, x509.KeyUsageCertSign
	case "server":
		t.DNSNames, t.ExtKeyUsage = []string{serverName}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	case "client":
		t.URIs = []*url.URL{{Scheme: "spiffe", Host: serverName, Path: "/ns/default/sa/client"}}
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	if issuer != nil {
		signer, parent = issuer.key, issuer.x509
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, c.key.Public(), signer)
	if err != nil {
		return nil, err
	}
	c.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	c.x509, err = x509.ParseCertificate(der)
	return c, err
}
