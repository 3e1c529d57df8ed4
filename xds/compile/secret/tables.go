// SPDX-License-Identifier: Apache-2.0

package secret

import "sidecar/xds/registry"

// Messages says what is honoured of secrets and of their messages inside TLS contexts.
var Messages = registry.Messages{
	"envoy.extensions.transport_sockets.tls.v3.Secret": {
		"name": registry.Supported, "tls_certificate": registry.Supported, "session_ticket_keys": registry.Supported,
		"validation_context": registry.Supported, "generic_secret": registry.Supported,
	},
	"envoy.extensions.transport_sockets.tls.v3.TlsCertificate": {
		"certificate_chain": registry.Supported, "private_key": registry.Supported, "watched_directory": registry.Supported, "ocsp_staple": registry.Supported,
		"tls_params":                   registry.Supported,
		"pkcs12":                       registry.Refuse("PKCS #12 is not supported; give the certificate and its key in PEM form"),
		"private_key_provider":         registry.Refuse("private key providers are not supported"),
		"password":                     registry.Refuse("password-protected keys are not supported"),
		"signed_certificate_timestamp": registry.Refuse("not implemented by Envoy either"),
	},
	"envoy.extensions.transport_sockets.tls.v3.TlsParameters": {
		"tls_minimum_protocol_version": registry.Supported, "tls_maximum_protocol_version": registry.Supported,
		"cipher_suites":        registry.Supported.Note("a set: the library prefers AES-GCM where the hardware has it. For TLS 1.2 and older, as in Envoy"),
		"ecdh_curves":          registry.Supported.Note("a set: the library orders it"),
		"signature_algorithms": registry.Refuse("the signature algorithms of crypto/tls cannot be chosen"),
		"compliance_policies":  registry.Refuse("the cipher suites of TLS 1.3 cannot be chosen in crypto/tls"),
	},
	"envoy.extensions.transport_sockets.tls.v3.TlsSessionTicketKeys": {"keys": registry.Supported},
	"envoy.extensions.transport_sockets.tls.v3.GenericSecret":        {"secret": registry.Supported, "secrets": registry.Supported},
	"envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext": {
		"trusted_ca": registry.Supported, "watched_directory": registry.Supported, "verify_certificate_spki": registry.Supported,
		"verify_certificate_hash": registry.Supported, "match_typed_subject_alt_names": registry.Supported,
		"match_subject_alt_names":              registry.Whole.Note("deprecated; ignored beside match_typed_subject_alt_names, as in Envoy"),
		"crl":                                  registry.Supported,
		"allow_expired_certificate":            registry.Supported,
		"trust_chain_verification":             registry.Supported,
		"custom_validator_config":              registry.Whole.Note("envoy.tls.cert_validator.spiffe"),
		"only_verify_leaf_cert_crl":            registry.Supported,
		"max_verify_depth":                     registry.Supported,
		"suppress_client_ca_list":              registry.Supported,
		"ca_certificate_provider_instance":     registry.Refuse("not implemented by Envoy either"),
		"system_root_certs":                    registry.Refuse("not implemented by Envoy either"),
		"require_signed_certificate_timestamp": registry.Refuse("not implemented by Envoy either"),
	},
	"envoy.extensions.transport_sockets.tls.v3.SubjectAltNameMatcher": {
		"san_type": registry.Only("EMAIL", "DNS", "URI", "IP_ADDRESS"), "matcher": registry.Whole, "oid": registry.Refuse("only used for OTHER_NAME"),
	},
	"envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig": {
		"trust_domains": registry.Supported, "trust_bundles": registry.Supported.Note("a SPIFFE trust bundle map; a file is watched in SDS secrets, read once in contexts"),
	},
	"envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig.TrustDomain": {
		"name": registry.Supported, "trust_bundle": registry.Supported, "workload_trust_domain": registry.Refuse("filter state does not reach handshakes"),
	},
	"envoy.config.core.v3.DataSource": {
		"filename": registry.Supported, "inline_bytes": registry.Supported, "inline_string": registry.Supported, "environment_variable": registry.Supported,
		"watched_directory": registry.Refuse("give watched_directory of the certificate or validation context"),
	},
	"envoy.config.core.v3.WatchedDirectory": {"path": registry.Supported, "watch_modify": registry.Supported.Note("files are looked at by content")},
}

var schema = registry.MustSchema(Messages)

// Schema returns the field tables of secrets.
func Schema() *registry.Schema { return schema }
