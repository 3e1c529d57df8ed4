// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"crypto/x509"
	"math"
)

// maxPresented bounds the certificates of a peer that are looked at; crypto/tls bounds their bytes.
const maxPresented = 32

// anchors are the certificates that chains may end in, and what was revoked below them.
type anchors struct {
	pool  *x509.CertPool
	crls  *CRLs // nil: nothing is revoked
	depth int   // max_verify_depth
	// whole: only a certificate that is its own issuer is an anchor. Else any is (partial chains), as with Envoy's default validator.
	whole bool
}

// chain builds and checks chains from certs[0] to an anchor. out gets the time for which the result holds.
func (f *verifier) chain(now Clock, to anchors, certs []*x509.Certificate, out *verdict) *Failure {
	if len(certs) > maxPresented {
		return chainFailure(maxPresented, textTooLong)
	}
	leaf := certs[0]
	opts := x509.VerifyOptions{Roots: to.pool, CurrentTime: now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	if f.v.AllowExpired {
		leaf = timeless(leaf)
	}
	if len(certs) > 1 {
		opts.Intermediates = x509.NewCertPool()
		for _, c := range certs[1:] {
			if f.v.AllowExpired {
				c = timeless(c)
			}
			opts.Intermediates.AddCert(c)
		}
	}
	chains, err := leaf.Verify(opts)
	if err != nil {
		return fromX509(leaf, certs, err)
	}
	var first *Failure
	for _, c := range chains {
		from, until, fail := f.acceptable(now, to, c)
		if fail == nil {
			out.from, out.until = from, until
			return nil
		}
		if first == nil {
			first = fail
		}
	}
	return first
}

// acceptable checks what x509.Verify does not: purpose as BoringSSL sees it, depth, and revocation.
func (f *verifier) acceptable(now Clock, to anchors, chain []*x509.Certificate) (from, until int64, fail *Failure) {
	until = math.MaxInt64
	// max_verify_depth counts the certificates above the leaf, the anchor included; 0 lets the anchor be, as in Envoy.
	if len(chain)-1 > max(to.depth, 1) {
		return 0, 0, chainFailure(to.depth, textTooLong)
	}
	if top := chain[len(chain)-1]; to.whole && !bytes.Equal(top.RawIssuer, top.RawSubject) {
		return 0, 0, chainFailure(len(chain)-1, textNoIssuer)
	}
	for i, c := range chain {
		if !f.fits(c, i == 0) {
			return 0, 0, chainFailure(i, textPurpose)
		}
		if !f.v.AllowExpired {
			from, until = max(from, c.NotBefore.Unix()), min(until, c.NotAfter.Unix())
		}
	}
	if to.crls == nil {
		return from, until, nil
	}
	last := len(chain)
	if f.v.OnlyLeafCRL {
		last = 1
	}
	for i, c := range chain[:last] {
		issuer := c
		if i+1 < len(chain) {
			issuer = chain[i+1]
		}
		next, fail := to.crls.check(now, c, issuer, i)
		if fail != nil {
			return 0, 0, fail
		}
		until = min(until, next)
	}
	return from, until, nil
}

// fits is BoringSSL's X509_check_purpose for ssl_client and ssl_server: an extended key usage must name the purpose (any is not enough), and a
// leaf's key usage must allow what a handshake needs.
func (f *verifier) fits(c *x509.Certificate, leaf bool) bool {
	if len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) > 0 {
		ok := false
		for _, u := range c.ExtKeyUsage {
			ok = ok || u == f.purpose
		}
		if !ok {
			return false
		}
	}
	if !leaf || c.KeyUsage == 0 {
		return true
	}
	need := x509.KeyUsageDigitalSignature | x509.KeyUsageKeyAgreement
	if f.purpose == x509.ExtKeyUsageServerAuth {
		need |= x509.KeyUsageKeyEncipherment
	}
	return c.KeyUsage&need != 0
}

// check looks for c in the list of its issuer; next is when that list must be replaced.
func (s *CRLs) check(now Clock, c, issuer *x509.Certificate, depth int) (next int64, fail *Failure) {
	l := s.about(c)
	if l == nil {
		return 0, chainFailure(depth, textNoCRL)
	}
	if !bytes.Equal(issuer.RawSubject, c.RawIssuer) {
		return 0, chainFailure(depth, textNoCRL) // a partial chain ends here: the issuer is not known
	}
	if err := l.list.CheckSignatureFrom(issuer); err != nil {
		return 0, chainFailure(depth, textCRLSignature)
	}
	t := now()
	next = math.MaxInt64
	switch {
	case t.Before(l.list.ThisUpdate):
		return 0, chainFailure(depth, textCRLNotYet)
	case !l.list.NextUpdate.IsZero() && t.After(l.list.NextUpdate):
		return 0, chainFailure(depth, textCRLExpired)
	case l.critical:
		return 0, chainFailure(depth, textCRLCritical)
	case l.revoked[string(c.SerialNumber.Bytes())]:
		return 0, chainFailure(depth, textRevoked)
	}
	if !l.list.NextUpdate.IsZero() {
		next = l.list.NextUpdate.Unix()
	}
	return next, nil
}

// timeless returns a copy of c whose validity says nothing.
func timeless(c *x509.Certificate) *x509.Certificate {
	t := *c
	t.NotAfter = c.NotBefore.AddDate(9000-c.NotBefore.Year(), 0, 0)
	t.NotBefore = c.NotBefore.AddDate(1-c.NotBefore.Year(), 0, 0)
	return &t
}
