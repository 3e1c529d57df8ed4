// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"math"
	"strings"

	"sidecar/dataplane/identity"
)

// verifier applies one validation context to certificates of peers. Immutable; used by all workers.
type verifier struct {
	v        *Validation
	purpose  x509.ExtKeyUsage // what a peer's certificate must be good for
	anchors  anchors          // without a pool the chain is not verified
	domains  map[string]anchors
	matchers []SANMatcher
	hash     [sha256.Size]byte // of everything that decides
}

// newVerifier derives a verifier; v may be nil (peers are not validated).
func newVerifier(v *Validation, purpose x509.ExtKeyUsage) *verifier {
	if v == nil {
		v = &Validation{}
	}
	f := &verifier{v: v, purpose: purpose, matchers: v.matchers(), hash: v.digest(purpose)}
	pool := func(b *Bundle) *x509.CertPool {
		if v.AllowExpired {
			return b.ageless()
		}
		return b.pool
	}
	switch {
	case v.SPIFFE != nil:
		f.domains = make(map[string]anchors, len(v.SPIFFE))
		for td, b := range v.SPIFFE {
			f.domains[td] = anchors{pool: pool(b), crls: b.CRLs, depth: DefaultMaxDepth, whole: true}
		}
	case v.CA != nil:
		f.anchors = anchors{pool: pool(v.CA), crls: v.CA.CRLs.with(v.CRL), depth: v.depth()}
	}
	return f
}

// asks tells whether peers are asked for a certificate at all, and demands whether they must have one even when the context does not require it.
func (f *verifier) asks() bool {
	return f.domains != nil || f.anchors.pool != nil || f.v.AcceptUntrusted || f.lists()
}

func (f *verifier) demands() bool { return f.domains != nil || !f.v.AcceptUntrusted && f.lists() }

func (f *verifier) lists() bool {
	return len(f.matchers) > 0 || len(f.v.Hashes) > 0 || len(f.v.SPKIs) > 0
}

// verdict is the outcome for one certificate chain. Immutable.
type verdict struct {
	peer        *identity.Certificate
	validated   bool
	from, until int64 // Unix seconds between which it holds
}

// wanted is what one connection asks for beyond the context: names instead of the matchers (auto_sni_san_validation), and names that must be there
// as well (auto_san_validation).
type wanted struct{ exactDNS, san string }

// check validates the chain of a peer at time now (Unix seconds come from the clock). certs[0] is the leaf. id are the leaf's facts.
func (f *verifier) check(now Clock, certs []*x509.Certificate, id *identity.Certificate, want wanted) (verdict, *Failure) {
	out := verdict{peer: id, until: math.MaxInt64}
	var fail *Failure
	if f.domains != nil {
		fail = f.spiffe(now, certs, &out, want)
	} else {
		fail = f.standard(now, certs, &out, want)
	}
	switch {
	case fail == nil:
	case f.v.AcceptUntrusted && f.domains == nil: // the SPIFFE validator does not know it
		out.validated = false
		out.from, out.until = 0, now().Unix() // true only now: revocation and validity may change the outcome
	default:
		return verdict{}, fail
	}
	return out, nil
}

// keyUsage refuses a certificate that may not sign although the handshake signed with it (enforce_rsa_key_usage, which Envoy always has).
func keyUsage(cs *tls.ConnectionState) *Failure {
	leaf := cs.PeerCertificates[0]
	if leaf.KeyUsage == 0 || leaf.KeyUsage&x509.KeyUsageDigitalSignature != 0 {
		return nil
	}
	if _, isRSA := leaf.PublicKey.(*rsa.PublicKey); isRSA && cs.Version < tls.VersionTLS13 && cs.CurveID == 0 {
		if leaf.KeyUsage&x509.KeyUsageKeyEncipherment != 0 {
			return nil // RSA key exchange
		}
	}
	return failKeyUsage
}

// standard is Envoy's default validator.
func (f *verifier) standard(now Clock, certs []*x509.Certificate, out *verdict, want wanted) *Failure {
	if f.anchors.pool != nil {
		if fail := f.chain(now, f.anchors, certs, out); fail != nil {
			return fail
		}
		out.validated = true
	}
	matchers := f.matchers
	if f.anchors.pool == nil && len(f.v.Hashes)+len(f.v.SPKIs) == 0 && want != (wanted{}) {
		return failNoRoots
	}
	if want.san != "" {
		if !listed(out.peer, want.san) {
			return sanListFailure(out.peer, want.san)
		}
		out.validated = true
	}
	switch {
	case want.exactDNS != "":
		if !dnsAny(out.peer.DNSNames, want.exactDNS) {
			return sanFailure(out.peer)
		}
		out.validated = true
	case len(matchers) > 0:
		if !anyMatch(matchers, out.peer) {
			return sanFailure(out.peer)
		}
		out.validated = true
	}
	if len(f.v.Hashes)+len(f.v.SPKIs) > 0 {
		if !f.pinned(certs[0], out.peer) {
			return failHash
		}
		out.validated = true
	}
	if !out.validated {
		return failUnverified
	}
	return nil
}

func anyMatch(matchers []SANMatcher, c *identity.Certificate) bool {
	for i := range matchers {
		if matchers[i].match(c) {
			return true
		}
	}
	return false
}

func (f *verifier) pinned(leaf *x509.Certificate, id *identity.Certificate) bool {
	for i := range f.v.Hashes {
		if f.v.Hashes[i] == id.Hash {
			return true
		}
	}
	if len(f.v.SPKIs) == 0 {
		return false
	}
	h := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	for i := range f.v.SPKIs {
		if f.v.SPKIs[i] == h {
			return true
		}
	}
	return false
}

// spiffe is the validator envoy.tls.cert_validator.spiffe: the trust domain of the URI name chooses the roots.
func (f *verifier) spiffe(now Clock, certs []*x509.Certificate, out *verdict, want wanted) *Failure {
	leaf := certs[0]
	if leaf.IsCA || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
		return failPrecheck
	}
	// X509-SVID section 2: exactly one URI name.
	if len(out.peer.URIs) != 1 {
		return failTrust
	}
	td := TrustDomain(out.peer.URIs[0])
	to, ok := f.domains[td]
	if !ok || td == "" {
		return failTrust
	}
	if fail := f.chain(now, to, certs, out); fail != nil {
		return fail
	}
	switch {
	case want.san != "" && !listed(out.peer, want.san):
		return sanListFailure(out.peer, want.san)
	case want.exactDNS != "" && !dnsAny(out.peer.DNSNames, want.exactDNS):
		return sanFailure(out.peer)
	}
	if len(f.matchers) > 0 && !anyMatch(f.matchers, out.peer) {
		return sanFailure(out.peer)
	}
	out.validated = true
	return nil
}

// TrustDomain is the trust domain of a workload's SPIFFE id, "" when it is none. The id of a trust domain itself, without a path, is no workload's
// (X509-SVID section 4.1).
func TrustDomain(uri string) string {
	rest, ok := strings.CutPrefix(uri, "spiffe://")
	if !ok {
		return ""
	}
	td, _, ok := strings.Cut(rest, "/")
	if !ok {
		return ""
	}
	return td
}

// digest covers everything that decides about a peer: the same certificate may be good for a client and not for a server.
func (v *Validation) digest(purpose x509.ExtKeyUsage) [sha256.Size]byte {
	h := newHasher()
	h.number("purpose", int(purpose))
	if v.CA != nil {
		h.bytes("ca", v.CA.Hash[:])
		if v.CA.CRLs != nil {
			h.bytes("ca crl", v.CA.CRLs.Hash[:])
		}
	}
	for _, td := range sortedKeys(v.SPIFFE) {
		h.text("td", td)
		h.bytes("bundle", v.SPIFFE[td].Hash[:])
		if l := v.SPIFFE[td].CRLs; l != nil {
			h.bytes("crl", l.Hash[:])
		}
	}
	for _, list := range [][]SANMatcher{v.Matchers, v.Untyped} {
		h.number("matchers", len(list))
		for i := range list {
			m := &list[i]
			h.number("san", int(m.Type)<<8|int(m.Match.Kind))
			if m.Match.IgnoreCase {
				h.text("fold", "")
			}
			h.text("text", m.Match.Text)
			if m.Match.Regex != nil {
				h.text("regex", m.Match.Regex.String())
			}
		}
	}
	for i := range v.Hashes {
		h.bytes("hash", v.Hashes[i][:])
	}
	for i := range v.SPKIs {
		h.bytes("spki", v.SPKIs[i][:])
	}
	if v.CRL != nil {
		h.bytes("crl", v.CRL.Hash[:])
	}
	h.number("depth", v.depth())
	for _, b := range []bool{v.AllowExpired, v.OnlyLeafCRL, v.AcceptUntrusted} {
		h.flag(b)
	}
	return h.sum()
}

func (v *Validation) depth() int {
	if v.HasMaxDepth {
		return v.MaxDepth
	}
	return DefaultMaxDepth
}
