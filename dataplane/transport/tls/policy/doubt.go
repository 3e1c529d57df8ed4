// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"crypto/x509"

	"sidecar/dataplane/identity"
)

// maxDoubts bounds the pairs that a Doubts remembers.
const maxDoubts = 64

// Doubts compares the certificate of a context with the authorities of the same context. In a mesh both ends trust the same ones, so a certificate
// that its own context would refuse is likely refused by the peers as well. Control side: one goroutine.
type Doubts struct {
	seen map[pair]error
}

// pair is what many contexts share: the workload's certificate and the mesh's authorities.
type pair struct {
	c       *Certificate
	b       *Bundle
	purpose x509.ExtKeyUsage
}

// Of tells why authorities v would refuse one of certs, shown by a server or a client; nil when they would not, or when there are no authorities.
func (d *Doubts) Of(now Clock, certs []*Certificate, v *Validation, server bool) error {
	if v == nil || v.CA == nil && v.SPIFFE == nil {
		return nil
	}
	purpose := x509.ExtKeyUsageClientAuth
	if server {
		purpose = x509.ExtKeyUsageServerAuth
	}
	for _, c := range certs {
		p := pair{c, v.CA, purpose}
		err, known := d.seen[p]
		if !known || v.SPIFFE != nil {
			err = refusal(now, c, &Validation{CA: v.CA, CRL: v.CRL, OnlyLeafCRL: v.OnlyLeafCRL, SPIFFE: v.SPIFFE}, purpose)
			if d.seen == nil || len(d.seen) >= maxDoubts {
				d.seen = map[pair]error{}
			}
			d.seen[p] = err
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// refusal is why v refuses c.
func refusal(now Clock, c *Certificate, v *Validation, purpose x509.ExtKeyUsage) error {
	chain := make([]*x509.Certificate, 0, len(c.Chain))
	for _, der := range c.Chain {
		x, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		chain = append(chain, x)
	}
	if _, fail := newVerifier(v, purpose).check(now, chain, identity.New(c.Leaf, nil), wanted{}); fail != nil {
		return fail
	}
	return nil
}
