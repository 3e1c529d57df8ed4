// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"strings"
	"testing"

	"sidecar/dataplane/identity"
)

// shown is what is known of a chain of the certificates in testdata/tls.
func shown(t testing.TB, names ...string) *identity.Certificate {
	t.Helper()
	var chain []*x509.Certificate
	for _, n := range names {
		raw, err := os.ReadFile("testdata/tls/" + n + ".pem")
		if err != nil {
			t.Fatal(err)
		}
		b, _ := pem.Decode(raw)
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		chain = append(chain, c)
	}
	return identity.New(chain[0], chain)
}

// mutual is the record of a request over mutual TLS on both sides, like the one that testdata/tls/envoy.txt tells of.
func mutual(t testing.TB) *Record {
	r := &Record{}
	r.Reset()
	r.Conn = NewConnInfo(1, 0, addr("10.0.0.1:1"), addr("10.0.0.2:2"))
	r.Conn.TLS = &identity.Session{Peer: shown(t, "client", "ca"), Local: shown(t, "server"), Version: "TLSv1.3", Cipher: "TLS_AES_256_GCM_SHA384",
		Group: "X25519"}
	r.UpstreamTLS = &identity.Session{Peer: shown(t, "backend"), Local: shown(t, "client"), Version: "TLSv1.2",
		Cipher: "ECDHE-ECDSA-AES128-GCM-SHA256", Group: "X25519", SNI: "backend.test"}
	r.UpConnStart, r.UpConnDone, r.UpTLSDone = 1000, 91_000, 4_459_000
	return r
}

// recorded are the operators and values of testdata/tls/envoy.txt: what Envoy 1.40 wrote.
func recorded(t testing.TB) (ops, values []string) {
	t.Helper()
	raw, err := os.ReadFile("testdata/tls/envoy.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		o, v, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " = ")
		if ok && !strings.HasSuffix(o, "_TLS_SESSION_ID") { // crypto/tls does not tell it: docs/differences.md
			ops, values = append(ops, o), append(values, v)
		}
	}
	return ops, values
}

func TestOperators_WhenBothSidesSpeakMutualTLS_ThenAsEnvoyPrintsThem(t *testing.T) {
	r := mutual(t)
	ops, want := recorded(t)
	if len(ops) < 40 {
		t.Fatalf("%d operators", len(ops))
	}
	var format strings.Builder
	for i, o := range ops {
		f, err := Compile("%" + o + "%")
		if err != nil {
			t.Fatal(err)
		}
		if got := string(f.Append(nil, r)); got != want[i] {
			t.Errorf("%s: %s, want %s", o, got, want[i])
		}
		format.WriteString("%" + o + "%\n")
	}
	f, err := CompileHeader(format.String()[:format.Len()-1])
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 0, 32<<10)
	if n := testing.AllocsPerRun(100, func() { b = f.Append(b[:0], r) }); n > 0 {
		t.Errorf("%g allocations", n)
	}
}

func TestOperators_WhenThereIsNoTLSOrNoCertificate_ThenAbsent(t *testing.T) {
	plain, bare := mutual(t), mutual(t)
	plain.Conn.TLS, plain.UpstreamTLS, plain.UpTLSDone = nil, nil, Unset
	bare.Conn.TLS, bare.UpstreamTLS = &identity.Session{}, &identity.Session{}
	leaf := mutual(t)
	leaf.Conn.TLS = &identity.Session{Peer: shown(t, "client")}
	ops, _ := recorded(t)
	for _, o := range ops {
		f, err := Compile("%" + o + "%")
		if err != nil {
			t.Fatal(err)
		}
		if got := string(f.Append(nil, plain)); got != "-" {
			t.Errorf("plain text: %s is %s", o, got)
		}
		if got := string(f.Append(nil, bare)); got != "-" && !strings.Contains(o, "DURATION") {
			t.Errorf("no certificates: %s is %s", o, got)
		}
		if got := string(f.Append(nil, leaf)); strings.Contains(o, "PEER_ISSUER_") && got != "-" {
			t.Errorf("a leaf alone: %s is %s", o, got)
		}
	}
}

func TestHandshakeDuration_WhenARequestIsNotTheFirst_ThenBeforeItsStart(t *testing.T) {
	r := mutual(t)
	r.Handshake = -1_246_700_000
	f, err := Compile("%DOWNSTREAM_HANDSHAKE_DURATION%")
	if err != nil {
		t.Fatal(err)
	}
	if got := string(f.Append(nil, r)); got != "-1246" {
		t.Error(got)
	}
}
