// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"strings"
	"testing"
)

// ask lets a client that validates nothing shake hands.
func ask(t *testing.T, spec ServerSpec, cfg *tls.Config) result {
	t.Helper()
	cfg.InsecureSkipVerify = true
	return shake(t, newSide().w.Server(must(NewServer(spec))), cfg)
}

func TestALPN_WhenListsDoNotOverlap_ThenTheHandshakeGoesOnWithout(t *testing.T) {
	cert := newCA(t, nil).leaf(t)
	for _, test := range []struct{ server, client, want string }{
		{"h2 http/1.1", "http/1.1 h2", "h2"}, {"h2", "http/1.1", ""}, {"h2 http/1.1", "istio", ""}, {"h2", "", ""}, {"", "h2", ""}, {"http/1.1", "x http/1.1", "http/1.1"},
	} {
		for _, version := range bothVersions {
			r := ask(t, ServerSpec{Certificates: []Ref[Certificate]{{Inline: cert}}, ALPN: strings.Fields(test.server)}, &tls.Config{NextProtos: strings.Fields(test.client), MaxVersion: version})
			if r.ok() != nil || r.server.NegotiatedProtocol != test.want || r.client.NegotiatedProtocol != test.want {
				t.Errorf("server %q, client %q: %q, %v", test.server, test.client, r.server.NegotiatedProtocol, r.ok())
			}
		}
	}
}

func TestCertificate_WhenThereAreSeveral_ThenNameAndKeyChoose(t *testing.T) {
	ca := newCA(t, nil)
	ec := func(names ...string) *Certificate { return ca.leaf(t, dns(names...)) }
	rs := func(names ...string) *Certificate { return ca.leafOf(t, rsaKeyOf(t, 2048), dns(names...)) }
	first, a, aRSA, wild, wildRSA := rs("first.test"), ec("a.test"), rs("a.test"), ec("*.w.test"), rs("*.w.test", "r.test")
	common := ca.leaf(t, subject("cn.test"))
	all := []*Certificate{first, aRSA, a, wildRSA, wild, common}
	onlyRSA := []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}
	tests := []struct {
		name, sni string
		rsa       bool // the client can verify RSA only
		full      bool
		want      *Certificate
	}{
		{"ECDSA before RSA", "a.test", false, false, a},
		{"RSA for old clients", "a.test", true, false, aRSA},
		{"upper case", "A.TEST", false, false, a},
		{"wildcard", "x.w.test", false, false, wild},
		{"wildcard, RSA", "x.w.test", true, false, wildRSA},
		{"wildcard has one label", "x.y.w.test", false, false, first},
		{"only RSA has the name", "r.test", false, false, wildRSA},
		{"common name", "cn.test", false, false, common},
		{"unknown name", "z.test", false, false, first},
		{"unknown name, full scan", "z.test", false, true, a},
		{"unknown name, full scan, RSA", "z.test", true, true, first},
		{"no name", "", false, false, a},
		{"no name, RSA", "", true, false, first},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			spec := ServerSpec{FullScan: test.full}
			for _, c := range all {
				spec.Certificates = append(spec.Certificates, Ref[Certificate]{Inline: c})
			}
			cfg := &tls.Config{ServerName: test.sni}
			if test.rsa {
				cfg.MaxVersion, cfg.CipherSuites = tls.VersionTLS12, onlyRSA
			}
			r := ask(t, spec, cfg)
			if r.ok() != nil {
				t.Fatal(r.ok())
			}
			if got := r.client.PeerCertificates[0]; !got.Equal(test.want.Leaf) {
				t.Errorf("served %v %v", got.DNSNames, got.PublicKeyAlgorithm)
			}
		})
	}
}

func TestServerName_WhenRequired_ThenItMustBeOneOfTheCertificates(t *testing.T) {
	spec := ServerSpec{RequireSNI: true, Certificates: []Ref[Certificate]{{Inline: newCA(t, nil).leaf(t, dns("a.test"))}}}
	for sni, ok := range map[string]bool{"a.test": true, "b.test": false, "": false} {
		if r := ask(t, spec, &tls.Config{ServerName: sni}); (r.serverErr == nil) != ok {
			t.Errorf("%q: %v", sni, r.serverErr)
		}
	}
}

func TestStaple_WhenPoliciesDiffer_ThenTheyDecideWhatIsServed(t *testing.T) {
	ca := newCA(t, nil)
	must7633 := func(c *x509.Certificate) {
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}, Value: []byte{0x30, 3, 2, 1, 5}})
	}
	fresh, stale := &Staple{DER: []byte("fresh"), NextUpdate: epoch.Unix() + 1}, &Staple{DER: []byte("stale"), NextUpdate: epoch.Unix()}
	tests := []struct {
		name   string
		policy StaplePolicy
		must   bool
		staple *Staple
		want   string
		fails  bool
		bad    bool // refused when the context is made
	}{
		{"lenient, none", LenientStapling, false, nil, "", false, false},
		{"lenient, fresh", LenientStapling, false, fresh, "fresh", false, false},
		{"lenient, stale", LenientStapling, false, stale, "", false, false},
		{"strict, none", StrictStapling, false, nil, "", false, false},
		{"strict, fresh", StrictStapling, false, fresh, "fresh", false, false},
		{"strict, stale", StrictStapling, false, stale, "", true, false},
		{"must, fresh", MustStaple, false, fresh, "fresh", false, false},
		{"must, stale", MustStaple, false, stale, "", true, false},
		{"must, none", MustStaple, false, nil, "", false, true},
		{"must by certificate, stale", LenientStapling, true, stale, "", true, false},
		{"must by certificate, none", LenientStapling, true, nil, "", false, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var opts []option
			if test.must {
				opts = append(opts, must7633)
			}
			c := *ca.leaf(t, opts...)
			c.Staple = test.staple
			spec := ServerSpec{Staple: test.policy, Certificates: []Ref[Certificate]{{Inline: &c}}}
			if test.bad {
				if _, err := NewServer(spec); err == nil || !strings.Contains(err.Error(), "Required OCSP response is missing") {
					t.Errorf("got %v", err)
				}
				return
			}
			r := ask(t, spec, &tls.Config{})
			if (r.serverErr != nil) != test.fails || !test.fails && string(r.client.OCSPResponse) != test.want {
				t.Errorf("got %q, %v", r.client.OCSPResponse, r.serverErr)
			}
		})
	}
}

func TestParams_WhenSet_ThenTheyLimitTheHandshake(t *testing.T) {
	ca := newCA(t, nil)
	plain, own := ca.leaf(t, dns("plain.test")), *ca.leaf(t, dns("own.test"))
	own.Params = &Params{MinVersion: tls.VersionTLS13}
	spec := ServerSpec{Params: Params{MaxVersion: tls.VersionTLS12, Curves: []tls.CurveID{tls.CurveP384}}, Certificates: []Ref[Certificate]{{Inline: plain}, {Inline: &own}}}
	own.Params.MaxVersion = tls.VersionTLS13
	if r := ask(t, spec, &tls.Config{ServerName: "plain.test"}); r.ok() != nil || r.server.Version != tls.VersionTLS12 || r.server.CurveID != tls.CurveP384 {
		t.Errorf("of the context: %x %v %v", r.server.Version, r.server.CurveID, r.ok())
	}
	if r := ask(t, spec, &tls.Config{ServerName: "own.test"}); r.ok() != nil || r.server.Version != tls.VersionTLS13 {
		t.Errorf("of the certificate: %x %v", r.server.Version, r.ok())
	}
	if r := ask(t, spec, &tls.Config{ServerName: "plain.test", CurvePreferences: []tls.CurveID{tls.X25519}}); r.serverErr == nil {
		t.Error("a curve that is not configured was taken")
	}
}

func TestSigning_WhenItIsSlow_ThenItIsWrapped(t *testing.T) {
	ca := newCA(t, nil)
	for _, c := range []*Certificate{ca.leaf(t), ca.leafOf(t, rsaKeyOf(t, 2048))} {
		n := 0
		w := NewWorker(Handshakes{Now: newSide().w.h.Now, Sign: func(k crypto.Signer) crypto.Signer { n++; return k }})
		_, isRSA := c.Leaf.PublicKey.(rsaKey)
		if w.Server(must(NewServer(ServerSpec{Certificates: []Ref[Certificate]{{Inline: c}}}))); (n == 1) != isRSA {
			t.Errorf("%v: wrapped %d times", c.Leaf.PublicKeyAlgorithm, n)
		}
	}
}

func TestDefaults_WhenNothingIsSet_ThenTheyAreEnvoys(t *testing.T) {
	m := newMesh(t)
	c := newSide()
	spec := m.clientSpec(t)
	spec.Params = Params{}
	cfg := c.w.Client(must(NewClient(spec)), &Target{})
	if cfg.MinVersion != tls.VersionTLS12 || cfg.MaxVersion != tls.VersionTLS12 || len(cfg.CipherSuites) != 6 {
		t.Errorf("client: %x to %x, %d suites", cfg.MinVersion, cfg.MaxVersion, len(cfg.CipherSuites))
	}
	sspec := m.serverSpec(t)
	for _, test := range []struct {
		group tls.CurveID
		ok    bool
	}{{tls.X25519MLKEM768, true}, {tls.X25519, true}, {tls.CurveP256, true}, {tls.CurveP384, false}} {
		sspec.RequireClientCert = false
		r := ask(t, sspec, &tls.Config{CurvePreferences: []tls.CurveID{test.group}})
		if (r.serverErr == nil) != test.ok || test.ok && r.server.Version != tls.VersionTLS13 {
			t.Errorf("%v: %v", test.group, r.serverErr)
		}
	}
}

func TestClientALPN_WhenSeveralNameProtocols_ThenTheNearestCounts(t *testing.T) {
	m := newMesh(t)
	for _, test := range []struct {
		context string
		target  Target
		want    string
	}{
		{"", Target{}, ""}, {"", Target{Fallback: []string{"h2"}}, "h2"}, {"istio", Target{Fallback: []string{"h2"}}, "istio"},
		{"istio", Target{ALPN: []string{"a", "b"}, Fallback: []string{"h2"}}, "a b"}, {"istio", Target{ALPN: []string{}}, ""},
	} {
		spec := m.clientSpec(t)
		spec.ALPN = strings.Fields(test.context)
		if got := strings.Join(newSide().w.Client(must(NewClient(spec)), &test.target).NextProtos, " "); got != test.want {
			t.Errorf("context %q, target %+v: %q, want %q", test.context, test.target, got, test.want)
		}
	}
}
