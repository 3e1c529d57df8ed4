// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"sync/atomic"

	"sidecar/dataplane/identity"
)

// ClientSpec is an UpstreamTlsContext. Immutable.
type ClientSpec struct {
	Scope          string // cluster and transport socket match
	Params         Params
	ALPN           []string
	Certificate    Ref[Certificate]
	Validation     Ref[Validation]
	SNI            string
	AutoHostSNI    bool
	AutoSANFromSNI bool // auto_sni_san_validation
	MaxSessions    int  // max_session_keys; 0 = no resumption
}

// DefaultMaxSessions is max_session_keys when it is not set.
const DefaultMaxSessions = 1

// Client is a context for TLS to upstreams. The spec is immutable; the state changes with its secrets.
type Client struct {
	// Immutable
	spec *ClientSpec

	// Atomic
	state atomic.Pointer[clientState] // nil until every secret is there
}

// clientState is what one generation of secrets makes of a spec. Immutable.
type clientState struct {
	spec   *ClientSpec
	cert   *Certificate // nil = none
	id     *identity.Certificate
	param  Params
	verify *verifier
	hash   [sha256.Size]byte
}

// NewClient makes a context; it is Ready at once when spec names no secrets. The error is about the inline parts.
func NewClient(spec ClientSpec) (*Client, error) {
	c := &Client{spec: &spec}
	if err := c.Update(func(string) *Secret { return nil }); err != nil && !errors.Is(err, ErrWaiting) {
		return nil, err
	}
	return c, nil
}

// Spec is what the context was made from.
func (c *Client) Spec() *ClientSpec { return c.spec }

// Secrets lists the keys of the secrets that the context needs.
func (c *Client) Secrets() []string {
	return secretsOf([]Ref[Certificate]{c.spec.Certificate}, c.spec.Validation, Ref[TicketKeys]{})
}

// Ready tells whether handshakes can be made.
func (c *Client) Ready() bool { return c.state.Load() != nil }

// Update derives the state anew from secrets. On an error the last good state stays. Control side only; one caller at a time.
func (c *Client) Update(find Lookup) error {
	st := &clientState{spec: c.spec, param: c.spec.Params.over(defaults(tls.VersionTLS12))}
	var err error
	if st.cert, err = resolve(c.spec.Certificate, find, certificateOf); err != nil {
		return err
	}
	v, err := resolveValidation(c.spec.Validation, find)
	if err != nil {
		return err
	}
	if err := checkValidation(v); err != nil {
		return err
	}
	if c.spec.AutoSANFromSNI && (v == nil || v.CA == nil && v.SPIFFE == nil) {
		return errors.New("'auto_sni_san_validation' was configured without configuring a trusted CA")
	}
	st.verify = newVerifier(v, x509.ExtKeyUsageServerAuth)
	h := newHasher()
	h.text("scope", c.spec.Scope)
	h.bytes("validation", st.verify.hash[:])
	if st.cert != nil {
		st.id = identity.New(st.cert.Leaf, nil)
		h.bytes("certificate", st.id.Hash[:])
	}
	st.hash = h.sum()
	c.state.Store(st)
	return nil
}

// Materials are the certificates and the validation context in force, for /certs; nothing until Ready.
func (c *Client) Materials() ([]*Certificate, *Validation) {
	st := c.state.Load()
	if st == nil {
		return nil, nil
	}
	if st.cert == nil {
		return nil, st.verify.v
	}
	return []*Certificate{st.cert}, st.verify.v
}

// Target is what a client handshake is for, beyond its context.
type Target struct {
	Endpoint string   // tells upstream hosts apart: sessions are resumed only with the same one
	Hostname string   // of the endpoint, for auto_host_sni
	SNI      string   // overrides the context's (auto_sni); "" = no override
	SAN      string   // a name that the certificate must carry besides what the context asks for (auto_san_validation); "" = none
	ALPN     []string // overrides the context's; nil = no override
	Fallback []string // protocols when neither the context nor ALPN names any: what the connection pool speaks
}

// key is Target reduced to what makes a difference.
type key struct{ endpoint, sni, san, alpn string }

func (st *clientState) key(t *Target) key {
	k := key{endpoint: t.Endpoint, sni: st.spec.SNI, san: t.SAN}
	switch {
	case t.SNI != "":
		k.sni = t.SNI
	case st.spec.AutoHostSNI && t.Hostname != "":
		k.sni = t.Hostname
	}
	protocols := t.ALPN
	switch {
	case protocols != nil:
	case len(st.spec.ALPN) > 0:
		protocols = st.spec.ALPN
	default:
		protocols = t.Fallback
	}
	k.alpn = strings.Join(protocols, "\x00")
	return k
}

func (k *key) protocols() []string {
	if k.alpn == "" {
		return nil
	}
	return strings.Split(k.alpn, "\x00")
}

// sessions is the cache of one client and target: newest last. Sessions of TLS 1.3 are used once (RFC 8446 appendix C.4), older ones until they are
// replaced. Worker-owned.
type sessions struct {
	list   []*tls.ClientSessionState
	max    int
	single bool // the last handshake spoke TLS 1.3
}

// Get implements tls.ClientSessionCache.
func (s *sessions) Get(string) (*tls.ClientSessionState, bool) {
	n := len(s.list)
	if n == 0 {
		return nil, false
	}
	cs := s.list[n-1]
	if s.single {
		s.list[n-1] = nil
		s.list = s.list[:n-1]
	}
	return cs, true
}

// Put implements tls.ClientSessionCache; nil forgets the newest one, which a handshake failed with.
func (s *sessions) Put(_ string, cs *tls.ClientSessionState) {
	switch {
	case cs == nil && !s.single && len(s.list) > 0:
		s.list = s.list[:len(s.list)-1]
		return
	case cs == nil:
		return
	case len(s.list) >= s.max:
		s.list = slices.Delete(s.list, 0, len(s.list)-s.max+1)
	}
	s.list = append(s.list, cs)
}
