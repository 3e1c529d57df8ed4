// SPDX-License-Identifier: Apache-2.0

package transportsocket

import (
	"sidecar/xds/compile/secret"
	"sidecar/xds/registry"
)

const plugin = "certificate provider plugins are not supported; use SDS"

// Messages says what is honoured of TLS contexts; the messages below them are secret.Messages.
var Messages = registry.Messages{
	"envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer": {},
	"envoy.extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport": {
		"passthrough_metadata": registry.Supported, "transport_socket": registry.Whole},
	"envoy.extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport.MetadataValueSource": {
		"kind": registry.Whole.Note("host and cluster"), "name": registry.Supported},
	"envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext": {
		"common_tls_context": registry.Supported, "require_client_certificate": registry.Supported,
		"require_sni":         registry.Supported.Note("a name that no certificate has is refused too; Envoy ignores the field"),
		"session_ticket_keys": registry.Supported, "session_ticket_keys_sds_secret_config": registry.Supported,
		"disable_stateless_session_resumption": registry.Supported,
		"disable_stateful_session_resumption":  registry.Supported.Note("sessions are only resumed by ticket"),
		"session_timeout":                      registry.Supported.Note("older tickets are not taken; the hint in them is a week"),
		"ocsp_staple_policy":                   registry.Supported, "full_scan_certs_on_sni_mismatch": registry.Supported,
		"prefer_client_ciphers": registry.Only("false").Note("crypto/tls orders the suites"),
	},
	"envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext": {
		"common_tls_context": registry.Supported, "sni": registry.Supported, "auto_host_sni": registry.Supported,
		"auto_sni_san_validation": registry.Supported, "max_session_keys": registry.Supported.Note("counts for each endpoint and server name"),
		"allow_renegotiation":   registry.Only("false").Note("renegotiation is not supported"),
		"enforce_rsa_key_usage": registry.Supported.Note("always enforced, as in Envoy"),
	},
	"envoy.extensions.transport_sockets.tls.v3.CommonTlsContext": {
		"tls_params": registry.Supported, "tls_certificates": registry.Supported, "tls_certificate_sds_secret_configs": registry.Supported,
		"validation_context": registry.Supported, "validation_context_sds_secret_config": registry.Supported,
		"combined_validation_context": registry.Supported, "alpn_protocols": registry.Supported,
		"tls_certificate_provider_instance":                registry.Refuse(plugin),
		"tls_certificate_certificate_provider":             registry.Refuse(plugin),
		"tls_certificate_certificate_provider_instance":    registry.Refuse(plugin),
		"validation_context_certificate_provider":          registry.Refuse(plugin),
		"validation_context_certificate_provider_instance": registry.Refuse(plugin),
		"custom_tls_certificate_selector":                  registry.Refuse("certificate selectors are not pluggable"),
		"custom_handshaker":                                registry.Refuse("handshakers are not pluggable"),
		"key_log":                                          registry.Refuse("session keys are never written"),
	},
	"envoy.extensions.transport_sockets.tls.v3.CommonTlsContext.CombinedCertificateValidationContext": {
		"default_validation_context": registry.Supported, "validation_context_sds_secret_config": registry.Supported,
		"validation_context_certificate_provider":          registry.Refuse(plugin),
		"validation_context_certificate_provider_instance": registry.Refuse(plugin),
	},
	"envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig": {"name": registry.Supported,
		"sds_config": registry.Whole.Note("ADS, a gRPC cluster, or a path; without it the name is that of a static secret")},
}

var schema = registry.MustSchema(Messages, secret.Messages)

// Schema returns the field tables of TLS contexts and of what they hold.
func Schema() *registry.Schema { return schema }
