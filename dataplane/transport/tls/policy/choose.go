// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"slices"
	"strings"

	transport "sidecar/dataplane/transport/tls"
)

type rsaKey = *rsa.PublicKey

// Errors that end a handshake before a certificate is sent.
var (
	errNoServerName = errors.New("tls: the client names no server that there is a certificate for (require_sni)")
	errNoStaple     = errors.New("tls: no certificate has the OCSP response that its policy asks for")
)

// extensionStatusRequest is status_request (RFC 6066 section 8).
const extensionStatusRequest = 5

// serverNames are the names by which a certificate is found: its DNS names, or the common name of one without any subject alternative name; lower
// case, wildcards as ".suffix".
func serverNames(leaf *x509.Certificate) []string {
	names := leaf.DNSNames
	if len(names) == 0 && !hasSANs(leaf) && leaf.Subject.CommonName != "" {
		names = []string{leaf.Subject.CommonName}
	}
	out := make([]string, 0, len(names))
	for _, n := range names {
		n = strings.ToLower(n)
		if rest, ok := strings.CutPrefix(n, "*"); ok && strings.HasPrefix(rest, ".") {
			n = rest
		}
		if !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

func hasSANs(leaf *x509.Certificate) bool {
	return len(leaf.DNSNames)+len(leaf.URIs)+len(leaf.IPAddresses)+len(leaf.EmailAddresses) > 0
}

// choice is how one handshake is answered.
type choice struct {
	cert   int
	staple bool
	alpn   bool
}

// choose finds the certificate for a ClientHello as Envoy does: by server name (exact, then wildcard), among those an ECDSA one that the client
// can verify, else an RSA one; a certificate whose OCSP policy fails is passed over. Without a name, or with full_scan_certs_on_sni_mismatch when
// nothing has the name, all are looked at; else the first counts.
func (st *serverState) choose(hello *tls.ClientHelloInfo, now Clock) (out choice, staple transport.Staple, err error) {
	c := chooser{st: st, hello: *hello, now: now, best: -1, capable: slices.Contains(hello.Extensions, extensionStatusRequest)}
	c.hello.ServerName = "" // SupportsCertificate shall not look at names
	out = choice{alpn: overlap(st.spec.ALPN, hello.SupportedProtos)}
	sni := strings.ToLower(hello.ServerName)
	named := false
	if sni != "" {
		list := st.names[sni]
		if c.scan(list); c.best < 0 {
			if i := strings.IndexByte(sni[1:], '.'); i >= 0 && i+2 < len(sni) {
				list = st.names[sni[i+1:]]
				c.scan(list)
			}
		}
		named = c.best >= 0
	}
	if st.spec.RequireSNI && !named {
		return out, staple, errNoServerName
	}
	if c.best < 0 && (sni == "" || st.spec.FullScan) {
		c.scan(c.all())
	}
	if c.best < 0 {
		c.best = 0
	}
	var ok bool
	out.cert = c.best
	out.staple, ok = c.stapled(c.best)
	switch {
	case !c.capable:
	case !ok:
		staple = transport.StapleFailed
	case out.staple:
		staple = transport.StapleSent
	default:
		staple = transport.StapleOmitted
	}
	if !ok {
		err = errNoStaple
	}
	return out, staple, err
}

// overlap tells whether a protocol is in both lists.
func overlap(a, b []string) bool {
	for _, p := range a {
		if slices.Contains(b, p) {
			return true
		}
	}
	return false
}

type chooser struct {
	st      *serverState
	hello   tls.ClientHelloInfo
	now     Clock
	capable bool // the client can take an OCSP response
	best    int  // -1: none
}

func (c *chooser) all() []int {
	out := make([]int, len(c.st.certs))
	for i := range out {
		out[i] = i
	}
	return out
}

// scan takes the first ECDSA certificate of list that the client can verify, else the first RSA one.
func (c *chooser) scan(list []int) {
	second := -1
	for _, i := range list {
		x := &c.st.certs[i]
		if _, ok := c.stapled(i); !ok {
			continue
		}
		switch {
		case x.isRSA && second < 0:
			second = i
		case !x.isRSA && c.supports(x):
			c.best = i
			return
		}
	}
	c.best = second
}

func (c *chooser) supports(x *served) bool {
	return c.hello.SupportsCertificate(&tls.Certificate{Certificate: x.Chain, PrivateKey: x.Key, Leaf: x.Leaf}) == nil
}

// stapled tells whether certificate i is served with its OCSP response, and whether it may be served at all.
func (c *chooser) stapled(i int) (staple, ok bool) {
	x := &c.st.certs[i]
	if !c.capable {
		return false, true
	}
	valid := x.Staple != nil && (x.Staple.NextUpdate == 0 || c.now().Unix() < x.Staple.NextUpdate)
	policy := c.st.spec.Staple
	if x.must {
		policy = MustStaple
	}
	switch policy {
	case LenientStapling:
		return valid, true
	case StrictStapling:
		return valid, valid || x.Staple == nil
	}
	return valid, valid
}

// slow tells whether a signature by key should not be waited for on a worker's thread: RSA takes about a millisecond, and keys of other kinds than the
// standard library's ECDSA and Ed25519 are held elsewhere.
func slow(key any) bool {
	switch key.(type) {
	case *ecdsa.PrivateKey, ed25519.PrivateKey:
		return false
	}
	return true
}
