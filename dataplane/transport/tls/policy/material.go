// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
)

// Secret is the content of one envoy.extensions.transport_sockets.tls.v3.Secret. Immutable; exactly one of the four is set.
type Secret struct {
	Name        string
	Certificate *Certificate
	Validation  *Validation
	Tickets     *TicketKeys
	Generic     *Generic
}

// Certificate is a TlsCertificate: a chain, its private key and what is served with it. Immutable.
type Certificate struct {
	Chain  [][]byte          // DER, leaf first
	Leaf   *x509.Certificate // of Chain[0]
	Key    crypto.Signer
	Staple *Staple // ocsp_staple; nil = none
	Params *Params // tls_params of the certificate; nil = those of the context
	Path   string  // of the chain's file, "<inline>" otherwise; for /certs
}

// MustStaple tells whether the certificate asks that it is only used with an OCSP response (RFC 7633).
func (c *Certificate) MustStaple() bool {
	for i := range c.Leaf.Extensions {
		if c.Leaf.Extensions[i].Id.Equal(oidTLSFeature) {
			return true
		}
	}
	return false
}

// Staple is an OCSP response. Immutable.
type Staple struct {
	DER        []byte
	ThisUpdate int64 // Unix seconds
	NextUpdate int64 // Unix seconds; 0 = never expires
}

// Validation is a CertificateValidationContext, or the custom SPIFFE validator. Immutable. Fields that Envoy merges (combined_validation_context)
// are kept apart as they came.
type Validation struct {
	CA              *Bundle // trusted_ca; nil = none
	CAPath          string  // for /certs
	Matchers        []SANMatcher
	Untyped         []SANMatcher // match_subject_alt_names (deprecated); counts when Matchers is empty
	Hashes          [][sha256.Size]byte
	SPKIs           [][sha256.Size]byte
	CRL             *CRLs // nil = none
	AllowExpired    bool
	OnlyLeafCRL     bool
	AcceptUntrusted bool
	SuppressCAList  bool
	MaxDepth        int                // max_verify_depth, DefaultMaxDepth when unset
	HasMaxDepth     bool               // max_verify_depth is set
	SPIFFE          map[string]*Bundle // trust domain → roots: the SPIFFE validator; nil = the default validator
}

// DefaultMaxDepth is the verification depth when none is configured.
const DefaultMaxDepth = 100

// matchers are the SAN matchers in force.
func (v *Validation) matchers() []SANMatcher {
	if len(v.Matchers) > 0 {
		return v.Matchers
	}
	return v.Untyped
}

// Merge is combined_validation_context: dyn over def as protobuf merges messages. Scalars and messages of dyn win when they are set, lists are
// joined, booleans are or'ed. Either may be nil.
func Merge(def, dyn *Validation) *Validation {
	switch {
	case def == nil:
		return dyn
	case dyn == nil:
		return def
	}
	m := *def
	if dyn.CA != nil {
		m.CA, m.CAPath = dyn.CA, dyn.CAPath
	}
	if dyn.CRL != nil {
		m.CRL = dyn.CRL
	}
	if dyn.SPIFFE != nil {
		m.SPIFFE = dyn.SPIFFE
	}
	if dyn.HasMaxDepth {
		m.MaxDepth, m.HasMaxDepth = dyn.MaxDepth, true
	}
	m.Matchers = join(def.Matchers, dyn.Matchers)
	m.Untyped = join(def.Untyped, dyn.Untyped)
	m.Hashes = join(def.Hashes, dyn.Hashes)
	m.SPKIs = join(def.SPKIs, dyn.SPKIs)
	m.AllowExpired = def.AllowExpired || dyn.AllowExpired
	m.OnlyLeafCRL = def.OnlyLeafCRL || dyn.OnlyLeafCRL
	m.AcceptUntrusted = def.AcceptUntrusted || dyn.AcceptUntrusted
	m.SuppressCAList = def.SuppressCAList || dyn.SuppressCAList
	return &m
}

func join[T any](a, b []T) []T {
	if len(a)+len(b) == 0 {
		return nil
	}
	return append(append(make([]T, 0, len(a)+len(b)), a...), b...)
}

// TicketKeys is a TlsSessionTicketKeys: the first seals, all open. Immutable.
type TicketKeys struct{ Keys [][TicketKeySize]byte }

// TicketKeySize is the size of one session ticket key in bytes.
const TicketKeySize = 80

// Generic is a GenericSecret, carried for those who name it. Immutable.
type Generic struct {
	Secret  []byte
	Secrets map[string][]byte
}
