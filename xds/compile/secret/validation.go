// SPDX-License-Identifier: Apache-2.0

package secret

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"weak"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"

	"sidecar/dataplane/match"
	"sidecar/dataplane/transport/tls/policy"
	"sidecar/xds/compile/matcher"
	"sidecar/xds/registry"
)

func (s *source) validation(at registry.Path, m *tlsv3.CertificateValidationContext) *policy.Validation {
	v := &policy.Validation{AllowExpired: m.GetAllowExpiredCertificate(), OnlyLeafCRL: m.GetOnlyVerifyLeafCertCrl(),
		SuppressCAList:  m.GetSuppressClientCaList(),
		AcceptUntrusted: m.GetTrustChainVerification() == tlsv3.CertificateValidationContext_ACCEPT_UNTRUSTED}
	s.watchDirectory(m.GetWatchedDirectory())
	v.CA, v.CAPath = s.bundle(at.Field("trusted_ca"), m.GetTrustedCa())
	if text, where, ok := s.read(at.Field("crl"), m.GetCrl()); ok && len(text) > 0 {
		var err error
		if v.CRL, err = policy.ParseCRLs(text, where); err != nil {
			s.fail(s.c.Errorf(at.Field("crl"), "%w", err))
		}
	}
	if d := m.GetMaxVerifyDepth(); d != nil {
		v.MaxDepth, v.HasMaxDepth = int(min(d.GetValue(), math.MaxInt32)), true
	}
	s.pins(at, m, v)
	for i, x := range m.GetMatchTypedSubjectAltNames() {
		here := at.Index("match_typed_subject_alt_names", i)
		str, err := matcher.String(s.c, here.Field("matcher"), x.GetMatcher())
		s.fail(err)
		if t, ok := sanTypes[x.GetSanType()]; ok { // other types are refused by the table
			v.Matchers = append(v.Matchers, policy.SANMatcher{Type: t, Match: str})
		}
	}
	for i, x := range m.GetMatchSubjectAltNames() {
		str, err := matcher.String(s.c, at.Index("match_subject_alt_names", i), x)
		s.fail(err)
		v.Untyped = append(v.Untyped, untyped(str)...)
	}
	if ext := m.GetCustomValidatorConfig(); ext != nil {
		s.custom(at.Field("custom_validator_config"), ext, v)
	}
	return v
}

var sanTypes = map[tlsv3.SubjectAltNameMatcher_SanType]policy.SANType{
	tlsv3.SubjectAltNameMatcher_EMAIL: policy.SANEmail, tlsv3.SubjectAltNameMatcher_DNS: policy.SANDNS,
	tlsv3.SubjectAltNameMatcher_URI: policy.SANURI, tlsv3.SubjectAltNameMatcher_IP_ADDRESS: policy.SANIP,
}

// untyped is a matcher of match_subject_alt_names: names of every type count.
func untyped(m match.String) []policy.SANMatcher {
	return []policy.SANMatcher{{Type: policy.SANDNS, Match: m}, {Type: policy.SANURI, Match: m}, {Type: policy.SANEmail, Match: m}, {Type: policy.SANIP, Match: m}}
}

func (s *source) pins(at registry.Path, m *tlsv3.CertificateValidationContext, v *policy.Validation) {
	for i, text := range m.GetVerifyCertificateHash() {
		bare := text
		if len(text) == 3*sha256.Size-1 { // a fingerprint with colons
			bare = strings.ReplaceAll(text, ":", "")
		}
		b, err := hex.DecodeString(bare)
		if err != nil || len(b) != sha256.Size {
			s.fail(s.c.Errorf(at.Index("verify_certificate_hash", i), "Invalid hex-encoded SHA-256 %s", text))
			continue
		}
		v.Hashes = append(v.Hashes, [sha256.Size]byte(b))
	}
	for i, text := range m.GetVerifyCertificateSpki() {
		b, err := base64.StdEncoding.DecodeString(text)
		if err != nil || len(b) != sha256.Size {
			s.fail(s.c.Errorf(at.Index("verify_certificate_spki", i), "Invalid base64-encoded SHA-256 %s", text))
			continue
		}
		v.SPKIs = append(v.SPKIs, [sha256.Size]byte(b))
	}
}

// bundle reads trust anchors; nil for none. Equal texts give the same bundle. A source that holds nothing is an error: taken for none, it would
// switch verification off, and a file may be empty for a moment while it is written.
func (s *source) bundle(at registry.Path, d *corev3.DataSource) (*policy.Bundle, string) {
	text, where, ok := s.read(at, d)
	switch {
	case !ok || d == nil:
		return nil, where
	case len(text) == 0 && d.GetFilename() != "":
		s.fail(s.c.Errorf(at.Field("filename"), "file %s is empty", where))
		return nil, where
	case len(text) == 0:
		s.fail(s.c.Errorf(at, "DataSource cannot be empty"))
		return nil, where
	}
	sum := sha256.Sum256(text)
	if b := s.k.bundles[sum].Value(); b != nil {
		return b, where
	}
	b, err := policy.ParseBundle(text, where)
	if err != nil {
		s.fail(s.c.Errorf(at, "%w", err))
		return nil, where
	}
	s.k.keep(sum, b)
	return b, where
}

// pruneAt is the number of bundles from which dead ones are looked for when another comes.
const pruneAt = 64

func (k *Compiler) keep(sum [sha256.Size]byte, b *policy.Bundle) {
	if k.bundles == nil {
		k.bundles = map[[sha256.Size]byte]weak.Pointer[policy.Bundle]{}
	}
	if len(k.bundles) >= pruneAt {
		for h, p := range k.bundles {
			if p.Value() == nil {
				delete(k.bundles, h)
			}
		}
	}
	k.bundles[sum] = weak.Make(b)
}

// validator fills the part of a validation context that a custom validator decides.
type validator func(s *source, at registry.Path, v *policy.Validation)

// Validators is the table of certificate validators.
var Validators = registry.MustTable("certificate validators", []registry.Row[validator]{{
	Name: "envoy.tls.cert_validator.spiffe", Message: &tlsv3.SPIFFECertValidatorConfig{}, Status: registry.StatusStable, Trust: registry.TrustRobustBoth,
	Notes: "exactly one URI name, as X509-SVID asks for",
	Compile: func(_ *registry.Ctx, m proto.Message) (validator, error) {
		cfg := m.(*tlsv3.SPIFFECertValidatorConfig)
		return func(s *source, at registry.Path, v *policy.Validation) { s.spiffe(at, cfg, v) }, nil
	},
}}, nil)

func (s *source) custom(at registry.Path, ext *corev3.TypedExtensionConfig, v *policy.Validation) {
	fill, err := Validators.Compile(s.c, at.Field("typed_config"), ext.GetName(), ext.GetTypedConfig())
	if err != nil {
		s.fail(err)
		return
	}
	if v.CA != nil || v.CRL != nil || v.HasMaxDepth || v.AcceptUntrusted || len(v.Hashes)+len(v.SPKIs) > 0 {
		s.c.Warnf(at, "trusted_ca, crl, max_verify_depth, trust_chain_verification and the pinned hashes have no effect beside it")
	}
	fill(s, at.Field("typed_config"), v)
}

func (s *source) spiffe(at registry.Path, m *tlsv3.SPIFFECertValidatorConfig, v *policy.Validation) {
	v.SPIFFE = map[string]*policy.Bundle{}
	if d := m.GetTrustBundles(); d != nil {
		text, _, ok := s.read(at.Field("trust_bundles"), d)
		if !ok {
			return
		}
		if err := parseBundleMap(text, v.SPIFFE); err != nil {
			s.fail(s.c.Errorf(at.Field("trust_bundles"), "%w", err))
		}
		return
	}
	for i, td := range m.GetTrustDomains() {
		here := at.Index("trust_domains", i)
		if _, dup := v.SPIFFE[td.GetName()]; dup {
			s.fail(s.c.Errorf(here.Field("name"), "Multiple trust bundles are given for one trust domain for %s", td.GetName()))
			continue
		}
		if td.GetTrustBundle() == nil {
			s.fail(s.c.Errorf(here.Field("trust_bundle"), "holds no certificate"))
			continue
		}
		if b, _ := s.bundle(here.Field("trust_bundle"), td.GetTrustBundle()); b != nil {
			v.SPIFFE[td.GetName()] = b
		}
	}
}

// parseBundleMap reads a SPIFFE trust bundle map: JSON with a JWK set for each trust domain, of which the keys for X509-SVIDs count.
func parseBundleMap(text []byte, out map[string]*policy.Bundle) error {
	var doc struct {
		TrustDomains map[string]struct {
			Keys []struct {
				Use string   `json:"use"`
				X5C []string `json:"x5c"`
			} `json:"keys"`
		} `json:"trust_domains"`
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		return fmt.Errorf("invalid SPIFFE trust bundle map: %w", err)
	}
	if len(doc.TrustDomains) == 0 {
		return errors.New("no trust domains found in SPIFFE bundle")
	}
	for name, td := range doc.TrustDomains {
		var certs []*x509.Certificate
		for _, k := range td.Keys {
			if k.Use != "x509-svid" {
				continue
			}
			for _, b64 := range k.X5C {
				der, err := base64.StdEncoding.DecodeString(b64)
				if err != nil {
					return fmt.Errorf("trust domain %q: %w", name, err)
				}
				x, err := x509.ParseCertificates(der)
				if err != nil {
					return fmt.Errorf("trust domain %q: %w", name, err)
				}
				certs = append(certs, x...)
			}
		}
		if len(certs) == 0 {
			return fmt.Errorf("trust domain %q: no x509-svid key with a certificate", name)
		}
		out[name] = policy.BundleOf(certs)
	}
	return nil
}
