// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
)

// Bounds of what a secret may hold. Control planes send far less; a bundle of all public roots has about 150 certificates.
const (
	maxChain = 64
	maxRoots = 16 << 10
	maxCRLs  = 1024
	// minRSA is the smallest RSA key that Envoy takes for its own certificates, in bits.
	minRSA = 2048
)

var oidTLSFeature = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}

// ErrKey is wrapped by errors of ParseCertificate about the private key.
var ErrKey = errors.New("Failed to load private key") //nolint:staticcheck // Envoy's text

var (
	errKeyMismatch  = errors.New("error:0b000074:X.509 certificate routines:OPENSSL_internal:KEY_VALUES_MISMATCH")
	errEncryptedKey = errors.New("private key is encrypted: password-protected keys are not supported")
)

// ParseCertificate reads a PEM chain (leaf first) and its PEM private key. where and whereKey name the sources in errors, in Envoy's words:
// "<inline>" or a path. Expired certificates are taken. The errors of RSA keys under 2048 bits, of curves other than P-256, P-384 and P-521 and of
// other kinds of keys are Envoy's.
func ParseCertificate(chain, key []byte, where, whereKey string) (*Certificate, error) {
	c := &Certificate{Path: where}
	for rest := chain; ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		if !certificateBlock(b.Type) {
			continue
		}
		if len(c.Chain) == maxChain {
			return nil, fmt.Errorf("Failed to load certificate chain from %s: more than %d certificates", where, maxChain) //nolint:staticcheck // Envoy's text
		}
		c.Chain = append(c.Chain, b.Bytes)
	}
	if len(c.Chain) == 0 {
		return nil, fmt.Errorf("Failed to load certificate chain from %s", where) //nolint:staticcheck // Envoy's text
	}
	for i, der := range c.Chain {
		x, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("Failed to load certificate chain from %s: certificate %d: %w", where, i, err) //nolint:staticcheck // Envoy's text
		}
		if i == 0 {
			c.Leaf = x
		}
	}
	if err := checkPublic(c.Leaf.PublicKey, where); err != nil {
		return nil, err
	}
	if _, ok := c.Leaf.PublicKey.(*ecdsa.PublicKey); ok && c.Leaf.KeyUsage != 0 && c.Leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		// An elliptic key only signs here; peers that look would refuse it. RSA keys are let through, as Envoy does.
		return nil, fmt.Errorf("Failed to load certificate chain from %s: the key may not sign (keyUsage)", where) //nolint:staticcheck // Envoy's text
	}
	signer, err := parseKey(key)
	if err != nil {
		return nil, fmt.Errorf("%w from %s, Cause: %w", ErrKey, whereKey, err)
	}
	if pub, ok := c.Leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(signer.Public()) {
		return nil, fmt.Errorf("%w from %s, Cause: %w", ErrKey, whereKey, errKeyMismatch)
	}
	c.Key = signer
	return c, nil
}

func certificateBlock(t string) bool {
	return t == "CERTIFICATE" || t == "X509 CERTIFICATE" || t == "TRUSTED CERTIFICATE"
}

func checkPublic(key any, where string) error {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < minRSA {
			return fmt.Errorf("Failed to load certificate chain from %s, only RSA certificates with %d-bit or larger keys are supported", where, minRSA) //nolint:staticcheck // Envoy's text
		}
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() && k.Curve != elliptic.P521() {
			return fmt.Errorf("Failed to load certificate chain from %s, only P-256, P-384 or P-521 ECDSA certificates are supported", where) //nolint:staticcheck // Envoy's text
		}
	case ed25519.PublicKey:
	default:
		return fmt.Errorf("Failed to load certificate chain from %s, only RSA, ECDSA and Ed25519 certificates are supported", where) //nolint:staticcheck // Envoy's text
	}
	return nil
}

// parseKey reads the first private key of a PEM text: PKCS#1, SEC 1 or PKCS#8.
func parseKey(text []byte) (crypto.Signer, error) {
	for rest := text; ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			return nil, errors.New("error:0900006e:PEM routines:OPENSSL_internal:NO_START_LINE")
		}
		var key any
		var err error
		switch b.Type {
		case "ENCRYPTED PRIVATE KEY":
			return nil, errEncryptedKey
		case "RSA PRIVATE KEY":
			if b.Headers["DEK-Info"] != "" {
				return nil, errEncryptedKey
			}
			key, err = x509.ParsePKCS1PrivateKey(b.Bytes)
		case "EC PRIVATE KEY":
			if b.Headers["DEK-Info"] != "" {
				return nil, errEncryptedKey
			}
			key, err = x509.ParseECPrivateKey(b.Bytes)
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(b.Bytes)
		default:
			continue
		}
		if err != nil {
			return nil, err
		}
		s, ok := key.(crypto.Signer)
		if !ok {
			return nil, errors.New("private key cannot sign")
		}
		return s, nil
	}
}

// Bundle is a set of trust anchors. Immutable; bundles with the same text should be shared (they can be large).
type Bundle struct {
	Certs []*x509.Certificate
	CRLs  *CRLs             // revocation lists among the certificates; nil = none
	Hash  [sha256.Size]byte // of the DER of all certificates in order
	pool  *x509.CertPool
}

// ParseBundle reads trusted_ca: PEM certificates, and CRLs among them, which count too. where names the source in errors.
func ParseBundle(text []byte, where string) (*Bundle, error) {
	b := &Bundle{pool: x509.NewCertPool()}
	var lists [][]byte
	h := sha256.New()
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type == "X509 CRL" {
			lists = append(lists, block.Bytes)
		}
		if !certificateBlock(block.Type) {
			continue
		}
		x, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("Failed to load trusted CA certificates from %s: certificate %d: %w", where, len(b.Certs), err) //nolint:staticcheck // Envoy's text
		}
		if len(b.Certs) == maxRoots {
			return nil, fmt.Errorf("Failed to load trusted CA certificates from %s: more than %d certificates", where, maxRoots) //nolint:staticcheck // Envoy's text
		}
		b.Certs = append(b.Certs, x)
		b.pool.AddCert(x)
		h.Write(x.Raw)
	}
	if len(b.Certs) == 0 {
		return nil, fmt.Errorf("Failed to load trusted CA certificates from %s", where) //nolint:staticcheck // Envoy's text
	}
	h.Sum(b.Hash[:0])
	var err error
	b.CRLs, err = newCRLs(lists, where)
	if err != nil {
		return nil, err
	}
	return b, nil
}

// BundleOf makes a bundle of certificates that are parsed already (SPIFFE trust bundle maps).
func BundleOf(certs []*x509.Certificate) *Bundle {
	b := &Bundle{Certs: certs, pool: x509.NewCertPool()}
	h := sha256.New()
	for _, x := range certs {
		b.pool.AddCert(x)
		h.Write(x.Raw)
	}
	h.Sum(b.Hash[:0])
	return b
}

// ageless is the bundle's pool with certificates that never expire: crypto/x509 cannot be told to leave validity alone, but it reads it from
// the parsed certificate.
func (b *Bundle) ageless() *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range b.Certs {
		p.AddCert(timeless(c))
	}
	return p
}

// CRLs is a set of revocation lists by issuer. Immutable.
type CRLs struct {
	byIssuer map[string]*scopes // RawIssuer → the newest lists
	Hash     [sha256.Size]byte
	where    string // source, for errors
}

// crl is one revocation list.
type crl struct {
	list     *x509.RevocationList
	revoked  map[string]bool // serial numbers, big-endian bytes
	leaves   bool            // tells about certificates that are no authorities
	cas      bool            // tells about certificates of authorities
	critical bool            // holds a critical extension that is not understood: nothing can be concluded from it
}

// scopes are the newest lists of one issuer about certificates that are no authorities, and about authorities; either may be nil.
type scopes struct{ leaves, cas *crl }

// Extensions of revocation lists (RFC 5280 section 5.2 and 5.3).
var (
	oidCRLNumber    = asn1.ObjectIdentifier{2, 5, 29, 20}
	oidReason       = asn1.ObjectIdentifier{2, 5, 29, 21}
	oidDelta        = asn1.ObjectIdentifier{2, 5, 29, 27}
	oidIssuingPoint = asn1.ObjectIdentifier{2, 5, 29, 28}
	oidAuthorityKey = asn1.ObjectIdentifier{2, 5, 29, 35}
)

// newCRL reads what a list is about. A delta, and a list of some reasons, of some distribution points or of other issuers, is about nothing: it says too
// little to take a certificate for good.
func newCRL(l *x509.RevocationList) *crl {
	c := &crl{list: l, revoked: make(map[string]bool, len(l.RevokedCertificateEntries)), leaves: true, cas: true}
	for i := range l.Extensions {
		switch e := &l.Extensions[i]; {
		case e.Id.Equal(oidDelta):
			c.leaves, c.cas = false, false
		case e.Id.Equal(oidIssuingPoint):
			c.scope(e.Value)
		case e.Critical && !e.Id.Equal(oidCRLNumber) && !e.Id.Equal(oidAuthorityKey):
			c.critical = true
		}
	}
	for i := range l.RevokedCertificateEntries {
		x := &l.RevokedCertificateEntries[i]
		c.revoked[string(x.SerialNumber.Bytes())] = true // removeFromCRL too, which only a delta may say
		for j := range x.Extensions {
			c.critical = c.critical || x.Extensions[j].Critical && !x.Extensions[j].Id.Equal(oidReason)
		}
	}
	return c
}

// scope reads IssuingDistributionPoint.
func (c *crl) scope(ext []byte) {
	const onlyUserCerts, onlyCACerts = 1, 2 // tags
	var seq asn1.RawValue
	rest, err := asn1.Unmarshal(ext, &seq)
	c.critical = c.critical || err != nil || len(rest) > 0
	for rest = seq.Bytes; len(rest) > 0 && !c.critical; {
		var v asn1.RawValue
		rest, err = asn1.Unmarshal(rest, &v)
		said := len(v.Bytes) != 1 || v.Bytes[0] != 0 // all but distributionPoint and onlySomeReasons are booleans
		switch {
		case err != nil:
			c.critical = true
		case v.Class == asn1.ClassContextSpecific && v.Tag == onlyUserCerts:
			c.cas = c.cas && !said
		case v.Class == asn1.ClassContextSpecific && v.Tag == onlyCACerts:
			c.leaves = c.leaves && !said
		case said:
			c.leaves, c.cas = false, false
		}
	}
}

// ParseCRLs reads PEM revocation lists.
func ParseCRLs(text []byte, where string) (*CRLs, error) {
	var lists [][]byte
	for rest := text; ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		if b.Type == "X509 CRL" {
			lists = append(lists, b.Bytes)
		}
	}
	if len(lists) == 0 {
		return nil, fmt.Errorf("Failed to load CRL from %s", where) //nolint:staticcheck // Envoy's text
	}
	return newCRLs(lists, where)
}

// newCRLs returns nil for no lists.
func newCRLs(lists [][]byte, where string) (*CRLs, error) {
	if len(lists) == 0 {
		return nil, nil
	}
	if len(lists) > maxCRLs {
		return nil, fmt.Errorf("Failed to load CRL from %s: more than %d lists", where, maxCRLs) //nolint:staticcheck // Envoy's text
	}
	s := &CRLs{byIssuer: map[string]*scopes{}, where: where}
	h := sha256.New()
	for i, der := range lists {
		l, err := x509.ParseRevocationList(der)
		if err != nil {
			return nil, fmt.Errorf("Failed to load CRL from %s: list %d: %w", where, i, err) //nolint:staticcheck // Envoy's text
		}
		h.Write(der)
		s.add(newCRL(l))
	}
	h.Sum(s.Hash[:0])
	return s, nil
}

// add keeps the newest lists of each issuer; nil is none.
func (s *CRLs) add(c *crl) {
	if c == nil {
		return
	}
	key := string(c.list.RawIssuer)
	if s.byIssuer[key] == nil {
		s.byIssuer[key] = &scopes{}
	}
	x := s.byIssuer[key]
	newer := func(old *crl) bool { return old == nil || old.list.ThisUpdate.Before(c.list.ThisUpdate) }
	if c.leaves && newer(x.leaves) {
		x.leaves = c
	}
	if c.cas && newer(x.cas) {
		x.cas = c
	}
}

// about is the list of c's issuer that tells about c; nil = none.
func (s *CRLs) about(c *x509.Certificate) *crl {
	x := s.byIssuer[string(c.RawIssuer)]
	switch {
	case x == nil:
		return nil
	case c.IsCA:
		return x.cas
	}
	return x.leaves
}

// with joins two sets; either may be nil.
func (s *CRLs) with(o *CRLs) *CRLs {
	switch {
	case s == nil:
		return o
	case o == nil:
		return s
	}
	m := &CRLs{byIssuer: make(map[string]*scopes, len(s.byIssuer)+len(o.byIssuer))}
	for _, set := range []*CRLs{s, o} {
		for _, x := range set.byIssuer {
			m.add(x.leaves)
			m.add(x.cas)
		}
	}
	m.Hash = sha256.Sum256(slices.Concat(s.Hash[:], o.Hash[:]))
	return m
}
