// SPDX-License-Identifier: Apache-2.0

package secret

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"golang.org/x/crypto/ocsp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"sidecar/dataplane/match"
	"sidecar/dataplane/transport/tls/policy"
	"sidecar/xds/registry"
)

// pair is a self-signed certificate and its key.
type pair struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func selfSigned(t testing.TB, key crypto.Signer, opts ...func(*x509.Certificate)) pair {
	t.Helper()
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(7), NotBefore: time.Unix(1_700_000_000, 0), NotAfter: time.Unix(1_900_000_000, 0),
		Subject: pkix.Name{CommonName: "x"}, BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature}
	for _, o := range opts {
		o(tmpl)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return pair{c, key}
}

func ecdsaKey(t testing.TB, c elliptic.Curve) crypto.Signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func rsaKey(t testing.TB, bits int) crypto.Signer {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func encode(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func (p pair) chain() string { return encode("CERTIFICATE", p.cert.Raw) }

func (p pair) private(t testing.TB) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(p.key)
	if err != nil {
		t.Fatal(err)
	}
	return encode("PRIVATE KEY", der)
}

// inline is the JSON of a DataSource.
func inline(text string) string {
	b, _ := json.Marshal(text)
	return `{"inline_string":` + string(b) + `}`
}

func compile(t testing.TB, k *Compiler, text string) (*Result, *registry.Report, error) {
	t.Helper()
	m := &tlsv3.Secret{}
	if err := protojson.Unmarshal([]byte(text), m); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	rep := &registry.Report{}
	r, err := k.Compile(&registry.Ctx{Schema: Schema(), Report: rep}, m)
	return r, rep, err
}

func TestCertificate_WhenAPairIsGood_ThenItIsTaken(t *testing.T) {
	p256, p384, p521, r2048 := selfSigned(t, ecdsaKey(t, elliptic.P256())), selfSigned(t, ecdsaKey(t, elliptic.P384())),
		selfSigned(t, ecdsaKey(t, elliptic.P521())), selfSigned(t, rsaKey(t, 2048))
	expired := selfSigned(t, ecdsaKey(t, elliptic.P256()), func(c *x509.Certificate) { c.NotAfter = time.Unix(1_700_000_100, 0) })
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	edwards := selfSigned(t, ed)
	sec1, _ := x509.MarshalECPrivateKey(p256.key.(*ecdsa.PrivateKey))
	tests := []struct {
		name       string
		p          pair
		chain, key string
	}{
		{"P-256", p256, p256.chain(), p256.private(t)},
		{"P-384", p384, p384.chain(), p384.private(t)},
		{"P-521", p521, p521.chain(), p521.private(t)},
		{"RSA-2048", r2048, r2048.chain(), r2048.private(t)},
		{"Ed25519", edwards, edwards.chain(), edwards.private(t)},
		{"PKCS #1", r2048, r2048.chain(), encode("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(r2048.key.(*rsa.PrivateKey)))},
		{"SEC 1", p256, p256.chain(), encode("EC PRIVATE KEY", sec1)},
		{"parameters before the key", p256, p256.chain(), encode("EC PARAMETERS", []byte{6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7}) + p256.private(t)},
		{"text around", p256, "subject=x\n" + p256.chain() + "junk\n", "key:\n" + p256.private(t)},
		{"a chain", p256, p256.chain() + r2048.chain(), p256.private(t)},
		{"expired", expired, expired.chain(), expired.private(t)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r, _, err := compile(t, &Compiler{}, `{"name":"a","tls_certificate":{"certificate_chain":`+inline(test.chain)+`,"private_key":`+inline(test.key)+`}}`)
			if err != nil {
				t.Fatal(err)
			}
			if c := r.Secret.Certificate; c == nil || string(c.Chain[0]) != string(test.p.cert.Raw) || c.Path != "<inline>" || r.Secret.Name != "a" {
				t.Errorf("got %+v", r.Secret)
			}
		})
	}
}

func TestCertificate_WhenAPairIsBroken_ThenItIsRefusedWithPathAndReason(t *testing.T) {
	good, other := selfSigned(t, ecdsaKey(t, elliptic.P256())), selfSigned(t, ecdsaKey(t, elliptic.P256()))
	r2048, small := selfSigned(t, rsaKey(t, 2048)), selfSigned(t, rsaKey(t, 1024))
	p224 := selfSigned(t, ecdsaKey(t, elliptic.P224()))
	legacy := string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-128-CBC,00"}, Bytes: []byte{1}}))
	half := good.chain()[:len(good.chain())/2]
	halfKey := good.private(t)[:len(good.private(t))/2]
	tests := []struct{ name, chain, key, want string }{
		{"no chain", "", good.private(t), "tls_certificate.certificate_chain: Failed to load incomplete certificate from <inline>: certificate chain not set"},
		{"no key", good.chain(), "", "tls_certificate.private_key: Failed to load incomplete private key from path: <inline>"},
		{"key of another", good.chain(), other.private(t), "tls_certificate.private_key: Failed to load private key from <inline>, Cause: error:0b000074:X.509 certificate routines:OPENSSL_internal:KEY_VALUES_MISMATCH"},
		{"key of another kind", good.chain(), r2048.private(t), "KEY_VALUES_MISMATCH"},
		{"half a chain", half, good.private(t), "tls_certificate.certificate_chain: Failed to load certificate chain from <inline>"},
		{"half a key", good.chain(), halfKey, "tls_certificate.private_key: Failed to load private key from <inline>, Cause: error:0900006e:PEM routines:OPENSSL_internal:NO_START_LINE"},
		{"not PEM", "hello", good.private(t), "tls_certificate.certificate_chain: Failed to load certificate chain from <inline>"},
		{"garbage in PEM", encode("CERTIFICATE", []byte{1, 2, 3}), good.private(t), "tls_certificate.certificate_chain: Failed to load certificate chain from <inline>: certificate 0:"},
		{"garbage behind the leaf", good.chain() + encode("CERTIFICATE", []byte{1}), good.private(t), "certificate 1:"},
		{"garbage key", good.chain(), encode("PRIVATE KEY", []byte{1, 2, 3}), "tls_certificate.private_key: Failed to load private key from <inline>"},
		{"RSA-1024", small.chain(), small.private(t), "only RSA certificates with 2048-bit or larger keys are supported"},
		{"P-224", p224.chain(), p224.private(t), "only P-256, P-384 or P-521 ECDSA certificates are supported"},
		{"encrypted PKCS #8", good.chain(), encode("ENCRYPTED PRIVATE KEY", []byte{1}), "password-protected keys are not supported"},
		{"encrypted PEM", r2048.chain(), legacy, "password-protected keys are not supported"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, _, err := compile(t, &Compiler{}, `{"name":"a","tls_certificate":{"certificate_chain":`+inline(test.chain)+`,"private_key":`+inline(test.key)+`}}`)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
}

func TestSources_WhenNamed_ThenFilesAndVariablesAreReadAndTold(t *testing.T) {
	p := selfSigned(t, ecdsaKey(t, elliptic.P256()))
	files := map[string]string{"/d/chain": p.chain(), "/d/key": p.private(t)}
	k := &Compiler{
		ReadFile: func(path string) ([]byte, error) {
			if s, ok := files[path]; ok {
				return []byte(s), nil
			}
			return nil, os.ErrNotExist
		},
		Environ: func(name string) (string, bool) { return p.private(t), name == "KEY" },
	}
	r, _, err := compile(t, k, `{"name":"a","tls_certificate":{"certificate_chain":{"filename":"/d/chain"},"private_key":{"filename":"/d/key"},"watched_directory":{"path":"/d"}}}`)
	if err != nil || fmt.Sprint(r.Watch) != "{[/d/chain /d/key] /d}" || r.Secret.Certificate.Path != "/d/chain" {
		t.Errorf("files: %+v, %v", r, err)
	}
	if _, _, err = compile(t, k, `{"tls_certificate":{"certificate_chain":{"filename":"/d/chain"},"private_key":{"environment_variable":"KEY"}}}`); err != nil {
		t.Errorf("variable: %v", err)
	}
	for _, test := range []struct{ source, want string }{
		{`{"filename":"/d/none"}`, "tls_certificate.private_key.filename: file does not exist"},
		{`{"environment_variable":"NONE"}`, "tls_certificate.private_key.environment_variable: Environment variable doesn't exist: NONE"},
		{`{}`, "tls_certificate.private_key: Unexpected DataSource"},
	} {
		_, _, err = compile(t, k, `{"tls_certificate":{"certificate_chain":{"filename":"/d/chain"},"private_key":`+test.source+`}}`)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %s", test.source, err, test.want)
		}
	}
}

func TestValidation_WhenCompiled_ThenEveryFieldArrives(t *testing.T) {
	ca := selfSigned(t, ecdsaKey(t, elliptic.P256()))
	list, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Unix(1_700_000_000, 0), NextUpdate: time.Unix(1_900_000_000, 0)}, ca.cert, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("x"))
	colons := strings.ToUpper(hex.EncodeToString(sum[:1]))
	for _, b := range sum[1:] {
		colons += fmt.Sprintf(":%02X", b)
	}
	k := &Compiler{}
	r, _, err := compile(t, k, `{"name":"v","validation_context":{"trusted_ca":`+inline(ca.chain())+`,"crl":`+inline(encode("X509 CRL", list))+`,
	 "verify_certificate_hash":["`+hex.EncodeToString(sum[:])+`","`+colons+`"],"verify_certificate_spki":["`+base64.StdEncoding.EncodeToString(sum[:])+`"],
	 "match_typed_subject_alt_names":[{"san_type":"URI","matcher":{"prefix":"spiffe://td/"}},{"san_type":"DNS","matcher":{"exact":"a.test"}}],
	 "match_subject_alt_names":[{"suffix":"b"}],"allow_expired_certificate":true,"trust_chain_verification":"ACCEPT_UNTRUSTED",
	 "only_verify_leaf_cert_crl":true,"max_verify_depth":3,"suppress_client_ca_list":true}}`)
	if err != nil {
		t.Fatal(err)
	}
	v := r.Secret.Validation
	if v.CA == nil || len(v.CA.Certs) != 1 || v.CRL == nil || len(v.Hashes) != 2 || v.Hashes[0] != sum || v.Hashes[1] != sum || len(v.SPKIs) != 1 || v.SPKIs[0] != sum {
		t.Errorf("material: %+v", v)
	}
	if len(v.Matchers) != 2 || v.Matchers[0].Type != policy.SANURI || v.Matchers[0].Match.Kind != match.StringPrefix || len(v.Untyped) != 4 {
		t.Errorf("matchers: %+v, %+v", v.Matchers, v.Untyped)
	}
	if !v.AllowExpired || !v.AcceptUntrusted || !v.OnlyLeafCRL || !v.HasMaxDepth || v.MaxDepth != 3 || !v.SuppressCAList {
		t.Errorf("flags: %+v", v)
	}
	again, _, err := compile(t, k, `{"name":"w","validation_context":{"trusted_ca":`+inline(ca.chain())+`}}`)
	if err != nil || again.Secret.Validation.CA != v.CA {
		t.Errorf("the same authority is there twice (%v)", err)
	}
}

func TestValidation_WhenAFieldIsWrong_ThenTheErrorNamesItsPath(t *testing.T) {
	tests := []struct{ name, fields, want string }{
		{"CA", `"trusted_ca":` + inline("x"), "validation_context.trusted_ca: Failed to load trusted CA certificates from <inline>"},
		{"empty CA", `"trusted_ca":` + inline(""), "validation_context.trusted_ca: DataSource cannot be empty"},
		{"CRL", `"crl":` + inline("x"), "validation_context.crl: Failed to load CRL from <inline>"},
		{"garbage CRL", `"crl":` + inline(encode("X509 CRL", []byte{1})), "validation_context.crl: Failed to load CRL from <inline>: list 0"},
		{"hash", `"verify_certificate_hash":["` + strings.Repeat("g", 64) + `"]`, "validation_context.verify_certificate_hash[0]: Invalid hex-encoded SHA-256 ggg"},
		{"spki", `"verify_certificate_spki":["` + strings.Repeat("g", 44) + `"]`, "validation_context.verify_certificate_spki[0]: Invalid base64-encoded SHA-256 ggg"},
		{"other name", `"match_typed_subject_alt_names":[{"san_type":"OTHER_NAME","oid":"1.2","matcher":{"exact":"a"}}]`, "validation_context.match_typed_subject_alt_names[0].san_type: value OTHER_NAME is not supported"},
		{"matcher", `"match_typed_subject_alt_names":[{"san_type":"URI","matcher":{"safe_regex":{"regex":"("}}}]`, "validation_context.match_typed_subject_alt_names[0].matcher.safe_regex.regex:"},
		{"system roots", `"system_root_certs":{}`, "validation_context.system_root_certs: not implemented by Envoy either"},
		{"validator", `"custom_validator_config":{"name":"x","typed_config":{"@type":"type.googleapis.com/google.protobuf.Struct","value":{}}}`, "validation_context.custom_validator_config.typed_config: unknown type"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, _, err := compile(t, &Compiler{}, `{"name":"v","validation_context":{`+test.fields+`}}`)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
}

func TestValidation_WhenTheFileOfTheAuthoritiesIsEmpty_ThenItIsRefused(t *testing.T) {
	k := &Compiler{ReadFile: func(string) ([]byte, error) { return nil, nil }}
	_, _, err := compile(t, k, `{"name":"v","validation_context":{"trusted_ca":{"filename":"ca.pem"}}}`)
	if err == nil || !strings.Contains(err.Error(), "validation_context.trusted_ca.filename: file ca.pem is empty") {
		t.Errorf("got %v", err)
	}
}

func TestSPIFFE_WhenConfigured_ThenTrustDomainsHaveTheirRoots(t *testing.T) {
	a, b := selfSigned(t, ecdsaKey(t, elliptic.P256())), selfSigned(t, ecdsaKey(t, elliptic.P256()))
	config := func(body string) string {
		return `{"name":"v","validation_context":{"custom_validator_config":{"name":"envoy.tls.cert_validator.spiffe","typed_config":{
		 "@type":"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig",` + body + `}}}}`
	}
	jwks := `{"trust_domains":{"b.test":{"spiffe_sequence":1,"keys":[{"use":"jwt-svid"},{"use":"x509-svid","x5c":["` + base64.StdEncoding.EncodeToString(b.cert.Raw) + `"]}]}}}`
	const td = `"trust_domains":[{"name":"ignored.test"}],`
	for _, test := range []struct{ name, body, domain, want string }{
		{"domains", `"trust_domains":[{"name":"a.test","trust_bundle":` + inline(a.chain()) + `},{"name":"b.test","trust_bundle":` + inline(b.chain()) + `}]`, "a.test", ""},
		{"empty bundle", `"trust_domains":[{"name":"a.test","trust_bundle":` + inline("") + `}]`, "", "trust_domains[0].trust_bundle: DataSource cannot be empty"},
		{"bundle map", td + `"trust_bundles":` + inline(jwks), "b.test", ""},
		{"twice", `"trust_domains":[{"name":"a.test","trust_bundle":` + inline(a.chain()) + `},{"name":"a.test","trust_bundle":` + inline(a.chain()) + `}]`, "", "Multiple trust bundles"},
		{"empty", `"trust_domains":[]`, "", "value must contain at least 1 item(s)"},
		{"no bundle", `"trust_domains":[{"name":"a.test"}]`, "", "trust_domains[0].trust_bundle: holds no certificate"},
		{"bad map", td + `"trust_bundles":` + inline("{"), "", "invalid SPIFFE trust bundle map"},
		{"empty map", td + `"trust_bundles":` + inline("{}"), "", "no trust domains found"},
		{"filter state", `"trust_domains":[{"name":"a.test","trust_bundle":` + inline(a.chain()) + `,"workload_trust_domain":"x"}]`, "", "workload_trust_domain: filter state does not reach handshakes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, _, err := compile(t, &Compiler{}, config(test.body))
			switch {
			case test.want == "" && (err != nil || r.Secret.Validation.SPIFFE[test.domain] == nil):
				t.Errorf("got %v", err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
}

func TestTicketsAndGeneric_WhenCompiled_ThenTheyArriveOrAreRefused(t *testing.T) {
	key := base64.StdEncoding.EncodeToString(make([]byte, 80))
	r, _, err := compile(t, &Compiler{}, `{"name":"t","session_ticket_keys":{"keys":[{"inline_bytes":"`+key+`"},{"inline_bytes":"`+key+`"}]}}`)
	if err != nil || len(r.Secret.Tickets.Keys) != 2 {
		t.Errorf("keys: %v", err)
	}
	_, _, err = compile(t, &Compiler{}, `{"name":"t","session_ticket_keys":{"keys":[{"inline_string":"short"}]}}`)
	if want := "session_ticket_keys.keys[0]: Incorrect TLS session ticket key length. Length 5, expected length 80."; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	r, _, err = compile(t, &Compiler{}, `{"name":"g","generic_secret":{"secret":{"inline_string":"a"},"secrets":{"k":{"inline_string":"b"}}}}`)
	if err != nil || string(r.Secret.Generic.Secret) != "a" || string(r.Secret.Generic.Secrets["k"]) != "b" {
		t.Errorf("generic: %+v, %v", r, err)
	}
	if _, _, err = compile(t, &Compiler{}, `{"name":"x"}`); err == nil || !strings.Contains(err.Error(), "Secret type not implemented") {
		t.Errorf("nothing: %v", err)
	}
}

func TestParams_WhenCompiled_ThenNamesBecomeNumbersOrAreRefused(t *testing.T) {
	k := &Compiler{}
	params := func(m *tlsv3.TlsParameters) (policy.Params, error) {
		return k.Params(&registry.Ctx{Schema: Schema(), Report: &registry.Report{}}, m)
	}
	p, err := params(&tlsv3.TlsParameters{TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_0, TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_2,
		CipherSuites: []string{"[ECDHE-ECDSA-AES128-GCM-SHA256|ECDHE-ECDSA-CHACHA20-POLY1305]", "AES256-SHA"}, EcdhCurves: []string{"X25519MLKEM768", "P-384"}})
	if err != nil || p.MinVersion != tls.VersionTLS10 || p.MaxVersion != tls.VersionTLS12 || len(p.CipherSuites) != 3 || len(p.Curves) != 2 {
		t.Errorf("got %+v, %v", p, err)
	}
	p, err = params(&tlsv3.TlsParameters{CipherSuites: []string{"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256:AES256-SHA"}, EcdhCurves: []string{"X25519:P-256", ""}})
	if err != nil || len(p.CipherSuites) != 2 || len(p.Curves) != 2 {
		t.Errorf("names of RFCs, several in a string: %+v, %v", p, err)
	}
	_, err = params(&tlsv3.TlsParameters{CipherSuites: []string{"BOGUS", "AES128-SHA", "TLS_AES_128_GCM_SHA256"}, EcdhCurves: []string{"P-192"}})
	for _, want := range []string{"cipher_suites: Failed to initialize cipher suites BOGUS:AES128-SHA:TLS_AES_128_GCM_SHA256. The following ciphers were rejected when tried individually: BOGUS, TLS_AES_128_GCM_SHA256",
		"ecdh_curves: Failed to initialize ECDH curves P-192"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestStaple_WhenGiven_ThenItMustBeAboutTheCertificate(t *testing.T) {
	p := selfSigned(t, ecdsaKey(t, elliptic.P256()))
	answer := func(serial int64) string {
		der, err := ocsp.CreateResponse(p.cert, p.cert, ocsp.Response{Status: ocsp.Good, SerialNumber: big.NewInt(serial), ThisUpdate: time.Unix(1_700_000_000, 0),
			NextUpdate: time.Unix(1_800_000_000, 0)}, p.key)
		if err != nil {
			t.Fatal(err)
		}
		return base64.StdEncoding.EncodeToString(der)
	}
	for _, test := range []struct{ name, der, want string }{
		{"its own", answer(7), ""},
		{"another's", answer(8), "tls_certificate.ocsp_staple: OCSP response does not match its TLS certificate"},
		{"garbage", base64.StdEncoding.EncodeToString([]byte("x")), "tls_certificate.ocsp_staple: invalid OCSP response"},
	} {
		r, _, err := compile(t, &Compiler{}, `{"tls_certificate":{"certificate_chain":`+inline(p.chain())+`,"private_key":`+inline(p.private(t))+`,"ocsp_staple":{"inline_bytes":"`+test.der+`"}}}`)
		switch {
		case test.want == "" && (err != nil || r.Secret.Certificate.Staple.NextUpdate != 1_800_000_000):
			t.Errorf("%s: %v", test.name, err)
		case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%s: %v, want %s", test.name, err, test.want)
		}
	}
}

// A secret comes from the network; whatever it holds, compiling it ends with a secret or an error, never with a panic.
func FuzzCompile(f *testing.F) {
	p := selfSigned(f, ecdsaKey(f, elliptic.P256()))
	list, _ := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Unix(1_700_000_000, 0), NextUpdate: time.Unix(1_900_000_000, 0)}, p.cert, p.key)
	for _, text := range []string{
		`{"name":"a","tls_certificate":{"certificate_chain":` + inline(p.chain()) + `,"private_key":` + inline(p.private(f)) + `,"ocsp_staple":` + inline("0") + `,"tls_params":{"cipher_suites":["AES128-SHA"]}}}`,
		`{"name":"v","validation_context":{"trusted_ca":` + inline(p.chain()) + `,"crl":` + inline(encode("X509 CRL", list)) + `,"verify_certificate_hash":["00"],"match_typed_subject_alt_names":[{"san_type":"URI","matcher":{"safe_regex":{"regex":"a+"}}}]}}`,
		`{"session_ticket_keys":{"keys":[{"inline_string":"x"}]}}`, `{"generic_secret":{"secrets":{"a":{}}}}`, `{}`,
	} {
		m := &tlsv3.Secret{}
		if err := protojson.Unmarshal([]byte(text), m); err != nil {
			f.Fatal(err)
		}
		raw, _ := proto.Marshal(m)
		f.Add(raw)
	}
	k := &Compiler{ReadFile: func(string) ([]byte, error) { return nil, errors.New("no files") }, Environ: func(string) (string, bool) { return "", false }}
	f.Fuzz(func(t *testing.T, raw []byte) {
		m := &tlsv3.Secret{}
		if proto.Unmarshal(raw, m) != nil {
			return
		}
		r, err := k.Compile(&registry.Ctx{Schema: Schema(), Report: &registry.Report{}}, m)
		if (r == nil) == (err == nil) {
			t.Fatal("neither a secret nor an error")
		}
		if err != nil || r.Secret.Certificate == nil {
			return
		}
		if _, err := policy.NewServer(policy.ServerSpec{Certificates: []policy.Ref[policy.Certificate]{{Inline: r.Secret.Certificate}}}); err != nil {
			t.Log(err)
		}
	})
}
