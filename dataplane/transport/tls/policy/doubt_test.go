// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"crypto/x509"
	"strings"
	"testing"
	"time"
)

func TestDoubts_WhenAuthoritiesWouldRefuseTheContextsOwnCertificate_ThenTheReasonIsTold(t *testing.T) {
	root, other := newCA(t, nil), newCA(t, nil)
	low := newCA(t, root).leaf(t, uri("spiffe://td/a"))
	mine := root.leaf(t, uri("spiffe://td/a"))
	now := func() time.Time { return epoch }
	var d Doubts
	for range 2 { // the second time from memory
		for _, x := range []struct {
			name   string
			c      *Certificate
			v      *Validation
			server bool
			want   string
		}{
			{"no authorities", mine, nil, true, ""},
			{"only names", mine, &Validation{Hashes: [][32]byte{{}}}, true, ""},
			{"the same", mine, trusting(t, root), true, ""},
			{"with an intermediate", low, trusting(t, root), false, ""},
			{"one more", mine, trusting(t, other, root), false, ""},
			{"others", mine, trusting(t, other), true, "unable to get local issuer"},
			{"a client's, shown by a server", root.leaf(t, eku(x509.ExtKeyUsageClientAuth)), trusting(t, root), true, "unsupported certificate purpose"},
			{"expired", root.leaf(t, valid(-2*time.Hour, -time.Hour)), trusting(t, root), true, "certificate has expired"},
			{"its trust domain", mine, &Validation{SPIFFE: map[string]*Bundle{"td": bundle(t, root)}}, true, ""},
			{"another trust domain", mine, &Validation{SPIFFE: map[string]*Bundle{"x": bundle(t, root)}}, true, "no trust bundle store"},
		} {
			err := d.Of(now, []*Certificate{x.c}, x.v, x.server)
			if (err == nil) != (x.want == "") || err != nil && !strings.Contains(err.Error(), x.want) {
				t.Errorf("%s: %v, want %q", x.name, err, x.want)
			}
		}
	}
	b := trusting(t, root)
	for range 3 * maxDoubts {
		_ = d.Of(now, []*Certificate{{Chain: mine.Chain, Leaf: mine.Leaf}}, b, true)
	}
	if n := len(d.seen); n > maxDoubts {
		t.Errorf("%d pairs are remembered", n)
	}
}
