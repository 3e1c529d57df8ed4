// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"crypto/sha1" //nolint:gosec // Envoy's fingerprint operators; nothing relies on it
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"math/big"
)

// maxSANs bounds the subject alternative names kept of one certificate.
const maxSANs = 1024

// Certificate is what is known of one end's certificate and the chain it presented. Immutable; compare pointers only for identity. The methods
// take a nil receiver: no certificate has no facts.
type Certificate struct {
	URIs, DNSNames, IPs, Emails, OtherNames []string // subject alternative names in the certificate's order, as text
	SANs                                    []string // all of them
	Subject, Issuer                         string   // distinguished names, RFC 2253
	Serial                                  string   // hex, lower case, whole bytes
	Hash                                    [sha256.Size]byte
	NotBefore, NotAfter                     int64 // Unix seconds

	links []link // leaf first
}

// link is one certificate of the chain.
type link struct {
	der    []byte
	serial string
}

// New collects the facts of a leaf and the chain behind it (chain[0] is the leaf again when it is not empty, as in
// tls.ConnectionState.PeerCertificates). It copies what it keeps.
func New(leaf *x509.Certificate, chain []*x509.Certificate) *Certificate {
	c := &Certificate{Subject: Name(leaf.RawSubject), Issuer: Name(leaf.RawIssuer), Serial: serial(leaf.SerialNumber),
		Hash: sha256.Sum256(leaf.Raw), NotBefore: leaf.NotBefore.Unix(), NotAfter: leaf.NotAfter.Unix()}
	c.sans(leaf)
	if len(chain) == 0 {
		chain = []*x509.Certificate{leaf}
	}
	n := 0
	for _, x := range chain {
		n += len(x.Raw)
	}
	buf := make([]byte, 0, n)
	c.links = make([]link, len(chain))
	for i, x := range chain {
		at := len(buf)
		buf = append(buf, x.Raw...)
		c.links[i] = link{der: buf[at:len(buf):len(buf)], serial: serial(x.SerialNumber)}
	}
	return c
}

// serial renders a serial number as whole bytes of lower-case hex; zero is empty, as BN_bn2hex has it in BoringSSL.
func serial(n *big.Int) string {
	if n == nil {
		return ""
	}
	return hex.EncodeToString(n.Bytes())
}

// Fingerprint256 is the SHA-256 of the leaf in lower-case hex.
func (c *Certificate) Fingerprint256() string {
	if c == nil {
		return ""
	}
	return hex.EncodeToString(c.Hash[:])
}

// Fingerprint1 is the SHA-1 of the leaf in lower-case hex.
func (c *Certificate) Fingerprint1() string {
	if c == nil {
		return ""
	}
	return fingerprint1(c.links[0].der)
}

func fingerprint1(der []byte) string {
	h := sha1.Sum(der) //nolint:gosec // see the import
	return hex.EncodeToString(h[:])
}

// ChainLen is the number of certificates of the presented chain, leaf included.
func (c *Certificate) ChainLen() int {
	if c == nil {
		return 0
	}
	return len(c.links)
}

// ChainFingerprint256 is the SHA-256 of certificate i of the chain; ChainFingerprint1 its SHA-1, ChainSerial its serial number.
func (c *Certificate) ChainFingerprint256(i int) string {
	h := sha256.Sum256(c.links[i].der)
	return hex.EncodeToString(h[:])
}

// ChainFingerprint1 is the SHA-1 of certificate i of the chain.
func (c *Certificate) ChainFingerprint1(i int) string { return fingerprint1(c.links[i].der) }

// ChainSerial is the serial number of certificate i of the chain.
func (c *Certificate) ChainSerial(i int) string { return c.links[i].serial }

// AppendPEM appends the leaf as PEM, URL-encoded as Envoy does it (%DOWNSTREAM_PEER_CERT%, Cert= of XFCC).
func (c *Certificate) AppendPEM(b []byte) []byte {
	if c == nil {
		return b
	}
	return appendEscaped(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.links[0].der}))
}

// AppendChainPEM appends the whole chain as AppendPEM does the leaf.
func (c *Certificate) AppendChainPEM(b []byte) []byte {
	if c == nil {
		return b
	}
	for _, l := range c.links {
		b = appendEscaped(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: l.der}))
	}
	return b
}

// appendEscaped percent-encodes the characters of PEM that Envoy encodes: line ends, blanks, plus, slash and the padding.
func appendEscaped(b, pem []byte) []byte {
	for _, ch := range pem {
		switch ch {
		case '\n':
			b = append(b, "%0A"...)
		case ' ':
			b = append(b, "%20"...)
		case '+':
			b = append(b, "%2B"...)
		case '/':
			b = append(b, "%2F"...)
		case '=':
			b = append(b, "%3D"...)
		default:
			b = append(b, ch)
		}
	}
	return b
}
