// SPDX-License-Identifier: Apache-2.0

package transportsocket

import (
	"math"
	"strings"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"sidecar/dataplane/transport/tls/policy"
	"sidecar/xds/registry"
)

// maxName bounds server names and protocol names, in bytes (RFC 6066 section 3, RFC 7301 section 3.1).
const maxName = 255

// shared is what both kinds of contexts have.
type shared struct {
	params       policy.Params
	alpn         []string
	certificates []policy.Ref[policy.Certificate]
	validation   policy.Ref[policy.Validation]
}

const common = registry.Path("common_tls_context")

func (s *state) shared(m *tlsv3.CommonTlsContext) shared {
	var out shared
	if p := m.GetTlsParams(); p != nil {
		var err error
		out.params, err = s.k.Params(s.c.At(common.Field("tls_params")), p)
		s.fail(err)
	}
	for i, p := range m.GetAlpnProtocols() {
		if len(p) > maxName {
			s.fail(s.c.Errorf(common.Index("alpn_protocols", i), "protocol names have at most %d bytes", maxName))
		}
	}
	out.alpn = protocols(m.GetAlpnProtocols())
	s.certificates(m, &out)
	s.validation(m, &out)
	return out
}

// protocols splits entries at commas, as Envoy does: it joins the list with commas and parses that. Empty names count for nothing.
func protocols(list []string) (out []string) {
	for _, e := range list {
		for p := range strings.SplitSeq(e, ",") {
			if p != "" {
				out = append(out, p)
			}
		}
	}
	return out
}

func (s *state) certificates(m *tlsv3.CommonTlsContext, out *shared) {
	sds := m.GetTlsCertificateSdsSecretConfigs()
	for i, c := range m.GetTlsCertificates() {
		at := common.Index("tls_certificates", i)
		x, err := s.k.Certificate(s.c.At(at), c)
		if err != nil {
			s.fail(err)
			continue
		}
		out.certificates = append(out.certificates, policy.Ref[policy.Certificate]{Inline: x})
	}
	if len(m.GetTlsCertificates()) > 0 && len(sds) > 0 {
		s.fail(s.c.Errorf(common.Field("tls_certificate_sds_secret_configs"), "SDS and non-SDS TLS certificates may not be mixed"))
		return
	}
	for i, cfg := range sds {
		key := s.ref(common.Index("tls_certificate_sds_secret_configs", i), cfg, KindCertificate)
		out.certificates = append(out.certificates, policy.Ref[policy.Certificate]{Secret: key})
	}
}

func (s *state) validation(m *tlsv3.CommonTlsContext, out *shared) {
	inline := func(at registry.Path, v *tlsv3.CertificateValidationContext) *policy.Validation {
		if v == nil {
			return nil
		}
		x, err := s.k.Validation(s.c.At(at), v)
		s.fail(err)
		return x
	}
	switch v := m.GetValidationContextType().(type) {
	case *tlsv3.CommonTlsContext_ValidationContext:
		out.validation.Inline = inline(common.Field("validation_context"), v.ValidationContext)
	case *tlsv3.CommonTlsContext_ValidationContextSdsSecretConfig:
		out.validation.Secret = s.ref(common.Field("validation_context_sds_secret_config"), v.ValidationContextSdsSecretConfig, KindValidation)
	case *tlsv3.CommonTlsContext_CombinedValidationContext:
		at := common.Field("combined_validation_context")
		out.validation.Inline = inline(at.Field("default_validation_context"), v.CombinedValidationContext.GetDefaultValidationContext())
		out.validation.Secret = s.ref(at.Field("validation_context_sds_secret_config"), v.CombinedValidationContext.GetValidationContextSdsSecretConfig(), KindValidation)
	}
}

func (s *state) downstream(m *tlsv3.DownstreamTlsContext) *policy.Server {
	x := s.shared(m.GetCommonTlsContext())
	spec := policy.ServerSpec{Scope: s.scope, Params: x.params, ALPN: x.alpn, Certificates: x.certificates, Validation: x.validation,
		RequireClientCert: m.GetRequireClientCertificate().GetValue(), RequireSNI: m.GetRequireSni().GetValue(),
		FullScan: m.GetFullScanCertsOnSniMismatch().GetValue(), DisableTickets: m.GetDisableStatelessSessionResumption(),
		SessionTimeout: m.GetSessionTimeout().GetSeconds(), Staple: policy.StaplePolicy(m.GetOcspStaplePolicy())}
	switch t := m.GetSessionTicketKeysType().(type) {
	case *tlsv3.DownstreamTlsContext_SessionTicketKeys:
		keys, err := s.k.Tickets(s.c.At("session_ticket_keys"), t.SessionTicketKeys)
		s.fail(err)
		spec.Tickets.Inline = keys
	case *tlsv3.DownstreamTlsContext_SessionTicketKeysSdsSecretConfig:
		spec.Tickets.Secret = s.ref("session_ticket_keys_sds_secret_config", t.SessionTicketKeysSdsSecretConfig, KindTickets)
	}
	if len(s.errs) > 0 {
		return nil
	}
	if len(spec.Certificates) == 0 {
		s.fail(s.c.Errorf(common.Field("tls_certificates"), "No TLS certificates found for server context"))
		return nil
	}
	out, err := policy.NewServer(spec)
	if err != nil {
		s.fail(s.c.Errorf("", "%w", err))
	}
	return out
}

func (s *state) upstream(m *tlsv3.UpstreamTlsContext) *policy.Client {
	x := s.shared(m.GetCommonTlsContext())
	spec := policy.ClientSpec{Scope: s.scope, Params: x.params, ALPN: x.alpn, Validation: x.validation, SNI: m.GetSni(), AutoHostSNI: m.GetAutoHostSni(),
		AutoSANFromSNI: m.GetAutoSniSanValidation(), MaxSessions: policy.DefaultMaxSessions}
	if v := m.GetMaxSessionKeys(); v != nil {
		spec.MaxSessions = int(min(v.GetValue(), math.MaxInt32))
	}
	switch {
	case strings.IndexByte(spec.SNI, 0) >= 0:
		s.fail(s.c.Errorf("sni", "SNI names containing NULL-byte are not allowed"))
	case len(spec.SNI) > maxName:
		s.fail(s.c.Errorf("sni", "is longer than %d bytes", maxName))
	}
	switch len(x.certificates) {
	case 0:
	case 1:
		spec.Certificate = x.certificates[0]
	default:
		s.fail(s.c.Errorf(common.Field("tls_certificates"), "Multiple TLS certificates are not supported for client contexts"))
	}
	switch v := spec.Validation; {
	case !spec.AutoSANFromSNI || v.Secret != "":
	case v.Inline == nil:
		s.fail(s.c.Errorf("auto_sni_san_validation", "was configured without a validation context"))
	case v.Inline.CA == nil:
		s.fail(s.c.Errorf("auto_sni_san_validation", "was configured without configuring a trusted CA"))
	}
	if len(s.errs) > 0 {
		return nil
	}
	out, err := policy.NewClient(spec)
	if err != nil {
		s.fail(s.c.Errorf("", "%w", err))
	}
	return out
}
