// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"crypto/sha1" //nolint:gosec // Envoy's fingerprint operators; nothing relies on it
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
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

// ChainLen is the number of certificates of the presented chain, leaf included.
func (c *Certificate) ChainLen() int {
	if c == nil {
		return 0
	}
	return len(c.links)
}

// ChainSerial is the serial number of certificate i of the chain.
func (c *Certificate) ChainSerial(i int) string { return c.links[i].serial }

// AppendFingerprint256 appends the SHA-256 of certificate i of the chain in lower-case hex.
func (c *Certificate) AppendFingerprint256(b []byte, i int) []byte {
	h := c.Hash
	if i > 0 {
		h = sha256.Sum256(c.links[i].der)
	}
	return hex.AppendEncode(b, h[:])
}

// AppendFingerprint1 appends the SHA-1 of certificate i of the chain in lower-case hex.
func (c *Certificate) AppendFingerprint1(b []byte, i int) []byte {
	h := sha1.Sum(c.links[i].der) //nolint:gosec // see the import
	return hex.AppendEncode(b, h[:])
}

// AppendPEM appends the leaf as PEM, URL-encoded as Envoy does it (%DOWNSTREAM_PEER_CERT%, Cert= of XFCC).
func (c *Certificate) AppendPEM(b []byte) []byte {
	if c == nil {
		return b
	}
	return appendPEM(b, c.links[0].der)
}

// AppendChainPEM appends the whole chain as AppendPEM does the leaf.
func (c *Certificate) AppendChainPEM(b []byte) []byte {
	if c == nil {
		return b
	}
	for _, l := range c.links {
		b = appendPEM(b, l.der)
	}
	return b
}

// appendPEM encodes der (RFC 7468) with the characters percent-encoded that Envoy encodes: line ends, blanks, plus, slash and the padding.
func appendPEM(b, der []byte) []byte {
	const line = 48 // bytes in a line of 64 characters
	b = append(b, "-----BEGIN%20CERTIFICATE-----%0A"...)
	for len(der) > 0 {
		var text [64]byte
		n := min(len(der), line)
		base64.StdEncoding.Encode(text[:], der[:n])
		for _, ch := range text[:base64.StdEncoding.EncodedLen(n)] {
			switch ch {
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
		b = append(b, "%0A"...)
		der = der[n:]
	}
	return append(b, "-----END%20CERTIFICATE-----%0A"...)
}
