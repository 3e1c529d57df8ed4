// SPDX-License-Identifier: Apache-2.0

package secret

import (
	"errors"
	"strings"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"golang.org/x/crypto/ocsp"

	"crypto/tls"

	transport "sidecar/dataplane/transport/tls"
	"sidecar/dataplane/transport/tls/policy"
	"sidecar/xds/registry"
)

func (s *source) certificate(at registry.Path, m *tlsv3.TlsCertificate) *policy.Certificate {
	s.watchDirectory(m.GetWatchedDirectory())
	chain, where, ok1 := s.read(at.Field("certificate_chain"), m.GetCertificateChain())
	key, whereKey, ok2 := s.read(at.Field("private_key"), m.GetPrivateKey())
	staple, _, ok3 := s.read(at.Field("ocsp_staple"), m.GetOcspStaple())
	if !ok1 || !ok2 || !ok3 {
		return nil
	}
	switch {
	case len(chain) == 0:
		s.fail(s.c.Errorf(at.Field("certificate_chain"), "Failed to load incomplete certificate from %s: certificate chain not set", where))
		return nil
	case len(key) == 0:
		s.fail(s.c.Errorf(at.Field("private_key"), "Failed to load incomplete private key from path: %s", whereKey))
		return nil
	}
	out, err := policy.ParseCertificate(chain, key, where, whereKey)
	if err != nil {
		field := registry.Path("certificate_chain")
		if errors.Is(err, policy.ErrKey) {
			field = "private_key"
		}
		s.fail(s.c.Errorf(at.Join(field), "%w", err))
		return nil
	}
	if len(staple) > 0 {
		out.Staple = s.staple(at.Field("ocsp_staple"), staple, out)
	}
	if p := m.GetTlsParams(); p != nil {
		params := s.params(at.Field("tls_params"), p)
		out.Params = &params
	}
	return out
}

// staple reads an OCSP response (RFC 6960) and checks that it is about c. Its signature is the client's matter.
func (s *source) staple(at registry.Path, der []byte, c *policy.Certificate) *policy.Staple {
	r, err := ocsp.ParseResponse(der, nil)
	if err != nil {
		s.fail(s.c.Errorf(at, "invalid OCSP response: %w", err))
		return nil
	}
	if r.SerialNumber == nil || r.SerialNumber.Cmp(c.Leaf.SerialNumber) != 0 {
		s.fail(s.c.Errorf(at, "OCSP response does not match its TLS certificate"))
		return nil
	}
	out := &policy.Staple{DER: der, ThisUpdate: r.ThisUpdate.Unix()}
	if !r.NextUpdate.IsZero() {
		out.NextUpdate = r.NextUpdate.Unix()
	}
	return out
}

// Params compiles TlsParameters at c.Path whose fields were checked by the caller's schema.
func (k *Compiler) Params(c *registry.Ctx, m *tlsv3.TlsParameters) (policy.Params, error) {
	s := k.begin(c)
	out := s.params("", m)
	return out, errors.Join(s.errs...)
}

var versions = map[tlsv3.TlsParameters_TlsProtocol]uint16{
	tlsv3.TlsParameters_TLSv1_0: tls.VersionTLS10, tlsv3.TlsParameters_TLSv1_1: tls.VersionTLS11,
	tlsv3.TlsParameters_TLSv1_2: tls.VersionTLS12, tlsv3.TlsParameters_TLSv1_3: tls.VersionTLS13,
}

func (s *source) params(at registry.Path, m *tlsv3.TlsParameters) policy.Params {
	out := policy.Params{MinVersion: versions[m.GetTlsMinimumProtocolVersion()], MaxVersion: versions[m.GetTlsMaximumProtocolVersion()]}
	var bad []string
	for _, entry := range m.GetCipherSuites() {
		// [A|B] is a group of equal preference; a string may hold several names.
		for _, name := range strings.FieldsFunc(entry, func(r rune) bool { return r == '[' || r == ']' || r == '|' || r == ':' }) {
			id, ok := transport.CipherID(name)
			if !ok || id>>8 == 0x13 { // the suites of TLS 1.3 are not configured by this
				bad = append(bad, name)
				continue
			}
			out.CipherSuites = append(out.CipherSuites, id)
		}
	}
	if len(bad) > 0 || len(m.GetCipherSuites()) > 0 && len(out.CipherSuites) == 0 {
		s.fail(s.c.Errorf(at.Field("cipher_suites"), "Failed to initialize cipher suites %s. The following ciphers were rejected when tried individually: %s",
			strings.Join(m.GetCipherSuites(), ":"), strings.Join(bad, ", ")))
	}
	for name := range strings.SplitSeq(strings.Join(m.GetEcdhCurves(), ":"), ":") { // a string may hold several names
		id, ok := curves[name]
		switch {
		case name == "":
			continue
		case !ok:
			s.fail(s.c.Errorf(at.Field("ecdh_curves"), "Failed to initialize ECDH curves %s", strings.Join(m.GetEcdhCurves(), ":")))
			return out
		}
		out.Curves = append(out.Curves, id)
	}
	return out
}

// curves are BoringSSL's names of the key agreements that crypto/tls has.
var curves = map[string]tls.CurveID{
	"X25519": tls.X25519, "x25519": tls.X25519, "P-256": tls.CurveP256, "prime256v1": tls.CurveP256, "P-384": tls.CurveP384,
	"secp384r1": tls.CurveP384, "P-521": tls.CurveP521, "secp521r1": tls.CurveP521, "X25519MLKEM768": tls.X25519MLKEM768,
}
