// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync/atomic"

	"sidecar/dataplane/identity"
)

// Lookup finds the content of a secret by the key that a spec has for it; nil while it is not there.
type Lookup func(key string) *Secret

// ErrWaiting is wrapped by errors of Update about secrets that are not there yet.
var ErrWaiting = errors.New("secret is not there yet")

// Ref is a part of a context that is given inline, comes as a secret, or (validation contexts only) is both: combined_validation_context. The zero
// value is neither.
type Ref[T any] struct {
	Inline *T
	Secret string // key; "" = inline
}

// StaplePolicy is ocsp_staple_policy, with Envoy's numbers.
type StaplePolicy uint8

// The policies.
const (
	LenientStapling StaplePolicy = iota
	StrictStapling
	MustStaple
)

// ServerSpec is a DownstreamTlsContext. Immutable.
type ServerSpec struct {
	Scope             string // listener and filter chain: contexts with equal scopes may resume each other's sessions when all else is equal
	Params            Params
	ALPN              []string
	Certificates      []Ref[Certificate]
	Validation        Ref[Validation]
	Tickets           Ref[TicketKeys] // zero: keys of the process
	DisableTickets    bool            // disable_stateless_session_resumption
	SessionTimeout    int64           // session_timeout in seconds; 0 = the defaults
	RequireClientCert bool
	RequireSNI        bool
	FullScan          bool // full_scan_certs_on_sni_mismatch
	Staple            StaplePolicy
}

// Server is a context for accepting TLS. The spec is immutable; the state changes with its secrets.
type Server struct {
	// Immutable
	spec *ServerSpec

	// Atomic
	state atomic.Pointer[serverState] // nil until every secret is there
}

// serverState is what one generation of secrets makes of a spec. Immutable.
type serverState struct {
	spec   *ServerSpec
	certs  []served
	names  map[string][]int // server name, or ".suffix" for a wildcard → certificates in order of preference
	verify *verifier
	seal   *sealer // nil: no tickets
	hash   [sha256.Size]byte
}

// served is one certificate of a server.
type served struct {
	*Certificate
	id    *identity.Certificate
	must  bool // must-staple extension
	isRSA bool
	param Params
}

// NewServer makes a context; it is Ready at once when spec names no secrets. The error is about the inline parts.
func NewServer(spec ServerSpec) (*Server, error) {
	s := &Server{spec: &spec}
	if err := s.Update(func(string) *Secret { return nil }); err != nil && !errors.Is(err, ErrWaiting) {
		return nil, err
	}
	return s, nil
}

// Spec is what the context was made from.
func (s *Server) Spec() *ServerSpec { return s.spec }

// Secrets lists the keys of the secrets that the context needs.
func (s *Server) Secrets() []string {
	return secretsOf(s.spec.Certificates, s.spec.Validation, s.spec.Tickets)
}

// Ready tells whether handshakes can be made.
func (s *Server) Ready() bool { return s.state.Load() != nil }

// Update derives the state anew from secrets. On an error the last good state stays. Control side only; one caller at a time.
func (s *Server) Update(find Lookup) error {
	st, err := newServerState(s.spec, find)
	if err != nil {
		return err
	}
	s.state.Store(st)
	return nil
}

// Materials are the certificates and the validation context in force, for /certs; nothing until Ready.
func (s *Server) Materials() ([]*Certificate, *Validation) {
	st := s.state.Load()
	if st == nil {
		return nil, nil
	}
	out := make([]*Certificate, len(st.certs))
	for i := range st.certs {
		out[i] = st.certs[i].Certificate
	}
	return out, st.verify.v
}

func secretsOf(certs []Ref[Certificate], v Ref[Validation], t Ref[TicketKeys]) []string {
	var out []string
	for i := range certs {
		if certs[i].Secret != "" {
			out = append(out, certs[i].Secret)
		}
	}
	if v.Secret != "" {
		out = append(out, v.Secret)
	}
	if t.Secret != "" {
		out = append(out, t.Secret)
	}
	return out
}

// resolve finds the part that r stands for; of picks it out of a secret.
func resolve[T any](r Ref[T], find Lookup, of func(*Secret) *T) (*T, error) {
	if r.Secret == "" {
		return r.Inline, nil
	}
	s := find(r.Secret)
	if s == nil {
		return nil, fmt.Errorf("secret %q: %w", r.Secret, ErrWaiting)
	}
	v := of(s)
	if v == nil {
		return nil, fmt.Errorf("secret %q is of another kind", r.Secret)
	}
	return v, nil
}

func certificateOf(s *Secret) *Certificate { return s.Certificate }
func validationOf(s *Secret) *Validation   { return s.Validation }
func ticketsOf(s *Secret) *TicketKeys      { return s.Tickets }

func resolveValidation(r Ref[Validation], find Lookup) (*Validation, error) {
	v, err := resolve(r, find, validationOf)
	if err != nil || r.Secret == "" {
		return v, err
	}
	return Merge(r.Inline, v), nil
}

func newServerState(spec *ServerSpec, find Lookup) (*serverState, error) {
	st := &serverState{spec: spec, names: map[string][]int{}}
	base := spec.Params.over(defaults(tls.VersionTLS13))
	for i := range spec.Certificates {
		c, err := resolve(spec.Certificates[i], find, certificateOf)
		if err != nil {
			return nil, err
		}
		_, isRSA := c.Leaf.PublicKey.(rsaKey)
		x := served{Certificate: c, id: identity.New(c.Leaf, nil), must: c.MustStaple(), isRSA: isRSA, param: base}
		if c.Params != nil {
			x.param = c.Params.over(base)
		}
		if c.Staple == nil && (spec.Staple == MustStaple || x.must) {
			return nil, errors.New("Required OCSP response is missing from TLS context") //nolint:staticcheck // Envoy's text
		}
		st.certs = append(st.certs, x)
		for _, n := range serverNames(c.Leaf) {
			st.names[n] = append(st.names[n], i)
		}
	}
	if len(st.certs) == 0 {
		return nil, errors.New("Server TlsCertificates must have a certificate specified") //nolint:staticcheck // Envoy's text
	}
	v, err := resolveValidation(spec.Validation, find)
	if err != nil {
		return nil, err
	}
	if err := checkValidation(v); err != nil {
		return nil, err
	}
	st.verify = newVerifier(v, x509.ExtKeyUsageClientAuth)
	keys, err := resolve(spec.Tickets, find, ticketsOf)
	if err != nil {
		return nil, err
	}
	st.hash = st.digest()
	if !spec.DisableTickets {
		st.seal = newSealer(keys, st.hash, spec.SessionTimeout)
	}
	return st, nil
}

// checkValidation refuses what Envoy refuses about the whole of a validation context.
func checkValidation(v *Validation) error {
	switch {
	case v == nil || v.SPIFFE != nil || v.CA != nil:
	case v.CRL != nil:
		return fmt.Errorf("Failed to load CRL from %s without trusted CA", v.CRL.where) //nolint:staticcheck // Envoy's text
	case v.AllowExpired:
		return errors.New("Certificate validity period is always ignored without trusted CA") //nolint:staticcheck // Envoy's text
	case len(v.matchers()) > 0:
		return errors.New("SAN-based verification of peer certificates without trusted CA is insecure and not allowed")
	}
	return nil
}

// digest tells contexts apart whose sessions may not be mixed: where they are, whom they trust, and for whom they speak. The certificates
// themselves are not in it, so that their rotation does not end resumption.
func (st *serverState) digest() [sha256.Size]byte {
	h := newHasher()
	h.text("scope", st.spec.Scope)
	h.bytes("validation", st.verify.hash[:])
	h.flag(st.spec.RequireClientCert)
	for i := range st.certs {
		id := st.certs[i].id
		h.text("subject", id.Subject)
		for _, list := range [][]string{id.DNSNames, id.URIs, id.IPs} {
			h.number("names", len(list))
			for _, n := range list {
				h.text("name", n)
			}
		}
	}
	return h.sum()
}
