// SPDX-License-Identifier: Apache-2.0

package transportsocket

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"sidecar/dataplane/transport/tls/policy"
	"sidecar/xds/compile/secret"
	"sidecar/xds/registry"
)

// material is the JSON of a certificate, its key and itself as authority.
func material(t *testing.T) (chain, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Unix(1_700_000_000, 0), NotAfter: time.Unix(1_900_000_000, 0)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	inline := func(kind string, b []byte) string {
		text, _ := json.Marshal(string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b})))
		return `{"inline_string":` + string(text) + `}`
	}
	return inline("CERTIFICATE", der), inline("EC PRIVATE KEY", raw)
}

// crl is the JSON of a revocation list.
func crl(t *testing.T) string {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	issuer := &x509.Certificate{KeyUsage: x509.KeyUsageCRLSign, SubjectKeyId: []byte{1}}
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Unix(1_700_000_000, 0), NextUpdate: time.Unix(1_900_000_000, 0)}, issuer, k)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := json.Marshal(string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})))
	return `{"inline_string":` + string(text) + `}`
}

const (
	downstreamType = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
	upstreamType   = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
	ads            = `"sds_config":{"ads":{},"initial_fetch_timeout":"0s"}`
)

func parse(t *testing.T, kind, body string) *corev3.TransportSocket {
	t.Helper()
	if body != "" {
		body = "," + body
	}
	ts := &corev3.TransportSocket{}
	if err := protojson.Unmarshal([]byte(`{"name":"x","typed_config":{"@type":"type.googleapis.com/`+kind+`"`+body+`}}`), ts); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	return ts
}

func down(t *testing.T, body string) (Server, *registry.Report, error) {
	t.Helper()
	rep := &registry.Report{}
	out, err := Downstream(&registry.Ctx{Schema: Schema(), Report: rep}, &secret.Compiler{}, parse(t, downstreamType, body), "scope")
	return out, rep, err
}

func up(t *testing.T, body string) (Client, *registry.Report, error) {
	t.Helper()
	rep := &registry.Report{}
	out, err := Upstream(&registry.Ctx{Schema: Schema(), Report: rep}, &secret.Compiler{}, parse(t, upstreamType, body), "scope")
	return out, rep, err
}

func TestTLS_WhenTheSocketIsPlainText_ThenThereIsNoContext(t *testing.T) {
	c := &registry.Ctx{Path: "filter_chains[0].transport_socket", Schema: Schema(), Report: &registry.Report{}}
	raw := parse(t, "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer", "")
	if out, err := Downstream(c, nil, raw, ""); err != nil || out.TLS != nil {
		t.Errorf("raw buffer: %v", err)
	}
	if out, err := Upstream(c, nil, nil, ""); err != nil || out.TLS != nil {
		t.Errorf("nothing: %v", err)
	}
}

func TestDownstream_WhenCompiled_ThenEveryFieldArrives(t *testing.T) {
	chain, key := material(t)
	out, _, err := down(t, `"require_client_certificate":true,"require_sni":true,"session_timeout":"60s","ocsp_staple_policy":"STRICT_STAPLING",
	 "full_scan_certs_on_sni_mismatch":true,"disable_stateless_session_resumption":true,"disable_stateful_session_resumption":true,
	 "common_tls_context":{"alpn_protocols":["h2,http/1.1","x"],"tls_params":{"tls_maximum_protocol_version":"TLSv1_2"},
	 "tls_certificates":[{"certificate_chain":`+chain+`,"private_key":`+key+`}],"validation_context":{"trusted_ca":`+chain+`}}`)
	if err != nil {
		t.Fatal(err)
	}
	x := out.TLS.Spec()
	if !out.TLS.Ready() || !x.RequireClientCert || !x.RequireSNI || x.SessionTimeout != 60 || x.Staple != policy.StrictStapling || !x.FullScan || !x.DisableTickets ||
		strings.Join(x.ALPN, " ") != "h2 http/1.1 x" || x.Params.MaxVersion == 0 || x.Scope != "scope" || x.Validation.Inline == nil {
		t.Errorf("got %+v", x)
	}
}

func TestDownstream_WhenSecretsAreNamed_ThenTheContextWaitsForThem(t *testing.T) {
	out, _, err := down(t, `"session_ticket_keys_sds_secret_config":{"name":"keys"},"common_tls_context":{
	 "tls_certificate_sds_secret_configs":[{"name":"default",`+ads+`}],
	 "combined_validation_context":{"default_validation_context":{"match_typed_subject_alt_names":[{"san_type":"URI","matcher":{"prefix":"spiffe://td/"}}]},
	 "validation_context_sds_secret_config":{"name":"default","sds_config":{"api_config_source":{"api_type":"GRPC"}}}}}`)
	if err != nil {
		t.Fatal(err)
	}
	if out.TLS.Ready() || len(out.Secrets) != 3 || out.Secrets[0].Name != "default" || out.Secrets[1].Name != "default" || out.Secrets[0].Key == out.Secrets[1].Key {
		t.Fatalf("got %+v", out.Secrets)
	}
	if s := out.Secrets; s[0].FetchTimeout != 0 || s[1].FetchTimeout != 15*time.Second || s[2].Source != nil || s[2].Key != "keys" || s[1].Kind != KindValidation || s[2].Kind != KindTickets {
		t.Errorf("got %+v", s)
	}
	for i, want := range []string{"tls_certificate_sds_secret_configs[0]", "combined_validation_context.validation_context_sds_secret_config"} {
		if got := out.Secrets[i].Path.String(); got != "typed_config.common_tls_context."+want {
			t.Errorf("path %s, want %s", got, want)
		}
	}
	for i, key := range out.TLS.Secrets() {
		if key != out.Secrets[i].Key {
			t.Errorf("secret %d: the context says %q", i, key)
		}
	}
}

func TestUpstream_WhenCompiled_ThenEveryFieldArrives(t *testing.T) {
	out, _, err := up(t, `"sni":"a.test","auto_host_sni":true,"auto_sni_san_validation":true,"max_session_keys":5,"enforce_rsa_key_usage":true,
	 "common_tls_context":{"alpn_protocols":["h2"],"tls_certificate_sds_secret_configs":[{"name":"default",`+ads+`}],"validation_context_sds_secret_config":{"name":"ROOTCA",`+ads+`}}`)
	if err != nil {
		t.Fatal(err)
	}
	if x := out.TLS.Spec(); x.SNI != "a.test" || !x.AutoHostSNI || !x.AutoSANFromSNI || x.MaxSessions != 5 || len(out.Secrets) != 2 || out.TLS.Ready() {
		t.Errorf("got %+v, %+v", x, out.Secrets)
	}
	if out, _, err = up(t, ""); err != nil || !out.TLS.Ready() || out.TLS.Spec().MaxSessions != policy.DefaultMaxSessions {
		t.Errorf("empty context: %v", err)
	}
}

func TestContexts_WhenAFieldIsWrong_ThenTheErrorNamesItsPath(t *testing.T) {
	chain, key := material(t)
	cert := `{"certificate_chain":` + chain + `,"private_key":` + key + `}`
	const sans = `"match_typed_subject_alt_names":[{"san_type":"URI","matcher":{"exact":"a"}}]`
	tests := []struct {
		name, body, want string
		upstream         bool
	}{
		{"no certificate", "", "common_tls_context.tls_certificates: No TLS certificates found for server context", false},
		{"client ciphers", `"prefer_client_ciphers":true`, "prefer_client_ciphers: value true is not supported", false},
		{"name without a context", `"auto_sni_san_validation":true`, "auto_sni_san_validation: was configured without a validation context", true},
		{"name without an authority", `"auto_sni_san_validation":true,"common_tls_context":{"validation_context":{}}`,
			"auto_sni_san_validation: was configured without configuring a trusted CA", true},
		{"broken pair", `"common_tls_context":{"tls_certificates":[{"certificate_chain":` + chain + `,"private_key":{"inline_string":"x"}}]}`,
			"typed_config.common_tls_context.tls_certificates[0].private_key: Failed to load private key from <inline>", false},
		{"names without authority", `"common_tls_context":{"tls_certificates":[` + cert + `],"validation_context":{` + sans + `}}`,
			"SAN-based verification of peer certificates without trusted CA is insecure and not allowed", false},
		{"revocation without authority", `"common_tls_context":{"tls_certificates":[` + cert + `],"validation_context":{"crl":` + crl(t) + `}}`,
			"Failed to load CRL from <inline> without trusted CA", false},
		{"expired without authority", `"common_tls_context":{"tls_certificates":[` + cert + `],"validation_context":{"allow_expired_certificate":true}}`,
			"Certificate validity period is always ignored without trusted CA", false},
		{"own and discovered certificates", `"common_tls_context":{"tls_certificates":[` + cert + `],"tls_certificate_sds_secret_configs":[{"name":"default",` + ads + `}]}`,
			"tls_certificate_sds_secret_configs: SDS and non-SDS TLS certificates may not be mixed", true},
		{"missing staple", `"ocsp_staple_policy":"MUST_STAPLE","common_tls_context":{"tls_certificates":[` + cert + `]}`, "Required OCSP response is missing from TLS context", false},
		{"signature algorithms", `"common_tls_context":{"tls_params":{"signature_algorithms":["rsa_pkcs1_sha256"]}}`, "common_tls_context.tls_params.signature_algorithms: the signature algorithms", false},
		{"key log", `"common_tls_context":{"key_log":{"path":"/x"}}`, "common_tls_context.key_log: session keys are never written", false},
		{"cipher suites", `"common_tls_context":{"tls_params":{"cipher_suites":["X"]}}`, "common_tls_context.tls_params.cipher_suites: Failed to initialize cipher suites X", true},
		{"two certificates", `"common_tls_context":{"tls_certificates":[` + cert + `,` + cert + `]}`, "Multiple TLS certificates are not supported for client contexts", true},
		{"renegotiation", `"allow_renegotiation":true`, "allow_renegotiation: value true is not supported", true},
		{"server name", `"sni":"a\u0000b"`, "sni: SNI names containing NULL-byte are not allowed", true},
		{"handshaker", `"common_tls_context":{"custom_handshaker":{"name":"x"}}`, "common_tls_context.custom_handshaker: handshakers are not pluggable", true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var err error
			if test.upstream {
				_, _, err = up(t, test.body)
			} else {
				_, _, err = down(t, test.body)
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
}
