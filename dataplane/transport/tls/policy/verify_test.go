// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"strings"
	"testing"
	"time"

	"sidecar/dataplane/match"
)

// present lets a client with a certificate shake hands with a server that validates by v, and tells what the server found.
func present(t *testing.T, v *Validation, c *Certificate) (*side, error) {
	t.Helper()
	ca := newCA(t, nil)
	srv, err := NewServer(ServerSpec{Certificates: []Ref[Certificate]{{Inline: ca.leaf(t, dns("server.test"))}}, Validation: Ref[Validation]{Inline: v}, RequireClientCert: true})
	if err != nil {
		t.Fatal(err)
	}
	s := newSide()
	cfg := &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{{Certificate: c.Chain, PrivateKey: c.Key, Leaf: c.Leaf}}, //nolint:gosec // only the server validates here
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &tls.Certificate{Certificate: c.Chain, PrivateKey: c.Key, Leaf: c.Leaf}, nil
		}}
	r := shake(t, s.w.Server(srv), cfg)
	return s, r.serverErr
}

const chainText = "verify cert failed: X509_verify_cert: certificate verification error at depth "

func TestVerify_WhenAPeerShowsACertificate_ThenTheContextDecides(t *testing.T) {
	root, other := newCA(t, nil), newCA(t, nil)
	mid := newCA(t, root)
	low := newCA(t, mid)
	good := root.leaf(t, uri("spiffe://td/a"), dns("a.test", "*.w.test"))
	sum := sha256.Sum256(good.Leaf.Raw)
	spki := sha256.Sum256(good.Leaf.RawSubjectPublicKeyInfo)
	with := func(f func(*Validation)) *Validation {
		v := trusting(t, root)
		f(v)
		return v
	}
	san := func(typ SANType, kind match.StringKind, text string) *Validation {
		return with(func(v *Validation) { v.Matchers = []SANMatcher{{typ, match.NewString(kind, text, false)}} })
	}
	self := &authority{key: ecKey(t)}
	self.cert = issue(t, nil, self.key, false, subject("self"))
	selfSigned := must(ParseCertificate(pemOf(self.cert), keyPEM(t, self.key), "<inline>", "<inline>"))
	mute := &Certificate{Leaf: issue(t, root, self.key, false, ku(x509.KeyUsageKeyAgreement)), Key: self.key} // not loaded, so not refused yet
	mute.Chain = [][]byte{mute.Leaf.Raw}
	if _, err := ParseCertificate(pemOf(mute.Leaf), keyPEM(t, self.key), "<inline>", "<inline>"); err == nil {
		t.Error("a certificate whose key may not sign was loaded")
	}
	noChain := low.leaf(t)
	noChain.Chain = noChain.Chain[:1]
	tests := []struct {
		name   string
		v      *Validation
		c      *Certificate
		reason Reason
		text   string // "" = accepted
	}{
		{"good", trusting(t, root), good, 0, ""},
		{"through intermediates", trusting(t, root), low.leaf(t), 0, ""},
		{"an intermediate as anchor", trusting(t, mid), low.leaf(t), 0, ""},
		{"the leaf as anchor", trusting(t, &authority{cert: good.Leaf}), good, 0, ""},
		{"two authorities", trusting(t, other, root), good, 0, ""},
		{"intermediates missing", trusting(t, root), noChain, FailVerifyError, chainText + "0: unable to get local issuer certificate"},
		{"wrong authority", trusting(t, other), good, FailVerifyError, chainText + "0: unable to get local issuer certificate"},
		{"self-signed", trusting(t, root), selfSigned, FailVerifyError, chainText + "0: self signed certificate"},
		{"expired", trusting(t, root), root.leaf(t, valid(-2*time.Hour, -time.Hour)), FailVerifyError, chainText + "0: certificate has expired"},
		{"not yet valid", trusting(t, root), root.leaf(t, valid(time.Hour, 2*time.Hour)), FailVerifyError, chainText + "0: certificate is not yet valid"},
		{"expired, allowed", with(func(v *Validation) { v.AllowExpired = true }), root.leaf(t, valid(-2*time.Hour, -time.Hour)), 0, ""},
		{"expired intermediate, allowed", with(func(v *Validation) { v.AllowExpired = true }), newCA(t, root, valid(-9*time.Hour, -8*time.Hour)).leaf(t), 0, ""},
		{"expired and of another, allowed", with(func(v *Validation) { v.AllowExpired = true }), other.leaf(t, valid(-2*time.Hour, -time.Hour)), FailVerifyError, "unable to get local issuer"},
		{"for clients", trusting(t, root), root.leaf(t, eku(x509.ExtKeyUsageClientAuth)), 0, ""},
		{"for servers only", trusting(t, root), root.leaf(t, eku(x509.ExtKeyUsageServerAuth)), FailVerifyError, chainText + "0: unsupported certificate purpose"},
		{"for any use", trusting(t, root), root.leaf(t, eku(x509.ExtKeyUsageAny)), FailVerifyError, "unsupported certificate purpose"},
		{"through an authority for servers", trusting(t, root), newCA(t, root, eku(x509.ExtKeyUsageServerAuth)).leaf(t), FailVerifyError, chainText + "1: unsupported certificate purpose"},
		{"usage without signatures", trusting(t, root), mute, ConnectionError, "KEY_USAGE_BIT_INCORRECT"},
		{"depth enough", with(func(v *Validation) { v.MaxDepth, v.HasMaxDepth = 3, true }), low.leaf(t), 0, ""},
		{"depth too small", with(func(v *Validation) { v.MaxDepth, v.HasMaxDepth = 2, true }), low.leaf(t), FailVerifyError, "certificate chain too long"},
		{"depth 0, from the anchor itself", with(func(v *Validation) { v.MaxDepth, v.HasMaxDepth = 0, true }), root.leaf(t), 0, ""},
		{"depth 0, through an authority", with(func(v *Validation) { v.MaxDepth, v.HasMaxDepth = 0, true }), newCA(t, root).leaf(t), FailVerifyError, "certificate chain too long"},
		{"hash", with(func(v *Validation) { v.Hashes = [][32]byte{{}, sum} }), good, 0, ""},
		{"spki beside a wrong hash", with(func(v *Validation) { v.Hashes, v.SPKIs = [][32]byte{{}}, [][32]byte{spki} }), good, 0, ""},
		{"wrong hash", with(func(v *Validation) { v.Hashes = [][32]byte{{}} }), good, FailVerifyHash, "verify cert failed: cert hash and spki"},
		{"wrong spki", with(func(v *Validation) { v.SPKIs = [][32]byte{{}} }), good, FailVerifyHash, "verify cert failed: cert hash and spki"},
		{"hash without authority", &Validation{Hashes: [][32]byte{sum}}, good, 0, ""},
		{"wrong hash without authority", &Validation{Hashes: [][32]byte{{}}}, good, FailVerifyHash, "cert hash and spki"},
		{"unvalidated without a context", nil, good, 0, ""},
		{"URI", san(SANURI, match.StringExact, "spiffe://td/a"), good, 0, ""},
		{"URI prefix", san(SANURI, match.StringPrefix, "spiffe://td/"), good, 0, ""},
		{"URI suffix", san(SANURI, match.StringSuffix, "/a"), good, 0, ""},
		{"URI contains", san(SANURI, match.StringContains, "td"), good, 0, ""},
		{"URI of another", san(SANURI, match.StringExact, "spiffe://td/b"), good, FailVerifySAN,
			"verify cert failed: SAN matcher, certificate SANs are [a.test, *.w.test, spiffe://td/a]:TLS_error_end"},
		{"URI as DNS name", san(SANDNS, match.StringPrefix, "spiffe"), good, FailVerifySAN, "SAN matcher"},
		{"DNS", san(SANDNS, match.StringExact, "A.test"), good, 0, ""},
		{"DNS wildcard", san(SANDNS, match.StringExact, "x.w.test"), good, 0, ""},
		{"DNS wildcard, two labels", san(SANDNS, match.StringExact, "x.y.w.test"), good, FailVerifySAN, "SAN matcher"},
		{"DNS wildcard, no label", san(SANDNS, match.StringExact, "w.test"), good, FailVerifySAN, "SAN matcher"},
		{"DNS prefix is about the text", san(SANDNS, match.StringPrefix, "*."), good, 0, ""},
		{"address", san(SANIP, match.StringExact, "10.0.0.1"), good, FailVerifySAN, "SAN matcher"},
		{"untrusted, accepted", with(func(v *Validation) { v.AcceptUntrusted = true }), other.leaf(t), 0, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s, err := present(t, test.v, test.c)
			switch {
			case test.text == "" && err != nil:
				t.Errorf("refused: %v", err)
			case test.text == "" && s.validated == strings.HasPrefix(test.name, "un"):
				t.Errorf("validated %v", s.validated)
			case test.text != "" && (err == nil || !strings.Contains(err.Error(), test.text) || Classify(err) != test.reason):
				t.Errorf("got %v (reason %d), want %s (reason %d)", err, Classify(err), test.text, test.reason)
			case test.text != "" && s.peer != nil:
				t.Error("a refused peer was attached")
			}
		})
	}
}

func TestVerify_WhenKeysOfPeersAreWeak_ThenTheLibraryDecides(t *testing.T) {
	root := newCA(t, nil)
	key := rsaKeyOf(t, 1024)
	c := &Certificate{Chain: [][]byte{issue(t, root, key, false).Raw}, Key: key}
	c.Leaf = must(x509.ParseCertificate(c.Chain[0]))
	if _, err := ParseCertificate(pemOf(c.Leaf), keyPEM(t, key), "f", "f"); err == nil || !strings.Contains(err.Error(), "only RSA certificates with 2048-bit or larger keys") {
		t.Errorf("as our own: %v", err)
	}
	if _, err := present(t, trusting(t, root), root.leafOf(t, edKey(t))); err != nil {
		t.Errorf("Ed25519: %v", err)
	}
	if _, err := present(t, trusting(t, root), root.leafOf(t, rsaKeyOf(t, 2048))); err != nil {
		t.Errorf("RSA-2048: %v", err)
	}
}

func TestRevocation_WhenListsAreGiven_ThenTheWholeChainIsChecked(t *testing.T) {
	root := newCA(t, nil)
	mid := newCA(t, root)
	good, bad := mid.leaf(t), mid.leaf(t)
	from, until := epoch.Add(-time.Hour), epoch.Add(time.Hour)
	rootList, midList := root.revoke(t, from, until), mid.revoke(t, from, until, bad.Leaf)
	stranger := newCA(t, nil)
	forged := &authority{cert: mid.cert, key: stranger.key}
	forged.cert = issue(t, nil, stranger.key, true, subject(mid.cert.Subject.CommonName), func(c *x509.Certificate) { c.SubjectKeyId = mid.cert.SubjectKeyId })
	tests := []struct {
		name  string
		lists [][]byte
		leaf  bool
		c     *Certificate
		text  string
	}{
		{"not revoked", [][]byte{rootList, midList}, false, good, ""},
		{"revoked", [][]byte{rootList, midList}, false, bad, "0: certificate revocation check against provided CRLs failed: certificate revoked"},
		{"revoked, only the leaf", [][]byte{midList}, true, bad, "0: certificate revocation check against provided CRLs failed: certificate revoked"},
		{"list of the root missing", [][]byte{midList}, false, good, "1: certificate revocation check against provided CRLs failed: unable to get certificate CRL"},
		{"list of the root missing, only the leaf", [][]byte{midList}, true, good, ""},
		{"list of the issuer missing", [][]byte{rootList}, false, good, "0: certificate revocation check against provided CRLs failed: unable to get certificate CRL"},
		{"intermediate revoked", [][]byte{root.revoke(t, from, until, mid.cert), midList}, false, good, "1: certificate revocation check against provided CRLs failed: certificate revoked"},
		{"list too old", [][]byte{rootList, mid.revoke(t, epoch.Add(-3*time.Hour), from)}, false, good, "0: certificate revocation check against provided CRLs failed: CRL has expired"},
		{"list of tomorrow", [][]byte{rootList, mid.revoke(t, until, until.Add(time.Hour))}, false, good, "0: certificate revocation check against provided CRLs failed: CRL is not yet valid"},
		{"the newest list counts", [][]byte{rootList, mid.revoke(t, epoch.Add(-2*time.Hour), until, good.Leaf), midList}, false, good, ""},
		{"list signed by another", [][]byte{rootList, forged.revoke(t, from, until)}, false, good, "0: certificate revocation check against provided CRLs failed: CRL signature failure"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for _, inBundle := range []bool{false, true} {
				v := trusting(t, root)
				v.OnlyLeafCRL = test.leaf
				var text []byte
				for _, l := range test.lists {
					text = append(text, l...)
				}
				if inBundle {
					v.CA = must(ParseBundle(append(root.pem(), text...), "<inline>"))
				} else {
					v.CRL = must(ParseCRLs(text, "<inline>"))
				}
				_, err := present(t, v, test.c)
				if test.text == "" && err != nil || test.text != "" && (err == nil || !strings.Contains(err.Error(), chainText+test.text)) {
					t.Errorf("in bundle %v: got %v, want %s", inBundle, err, test.text)
				}
			}
		})
	}
}

func TestRevocation_WhenAListIsAboutLess_ThenItAcquitsNobody(t *testing.T) {
	root := newCA(t, nil)
	mid := newCA(t, root)
	good, bad := root.leaf(t), root.leaf(t)
	list := func(age time.Duration, change func(*x509.RevocationList), revoked ...*x509.Certificate) []byte {
		return root.revokeBy(t, epoch.Add(-age), epoch.Add(time.Hour), change, revoked...)
	}
	critical := func(id asn1.ObjectIdentifier, value any) func(*x509.RevocationList) {
		return func(l *x509.RevocationList) {
			l.ExtraExtensions = []pkix.Extension{{Id: id, Critical: true, Value: must(asn1.Marshal(value))}}
		}
	}
	only := func(tag int) func(*x509.RevocationList) {
		return critical(oidIssuingPoint, []asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: tag, Bytes: []byte{0xff}}})
	}
	entry := func(x pkix.Extension) func(*x509.RevocationList) {
		return func(l *x509.RevocationList) { l.RevokedCertificateEntries[0].ExtraExtensions = []pkix.Extension{x} }
	}
	const none, revoked, strange = "unable to get certificate CRL", "certificate revoked", "unhandled critical CRL extension"
	delta, unknown := critical(oidDelta, 1), critical(asn1.ObjectIdentifier{1, 2, 3}, 1)
	tests := []struct {
		name  string
		lists [][]byte
		all   bool // the whole chain
		c     *Certificate
		text  string
	}{
		{"a delta", [][]byte{list(1, delta)}, false, good, none},
		{"a delta newer than the list", [][]byte{list(2, nil, bad.Leaf), list(1, delta)}, false, bad, revoked},
		{"a delta besides", [][]byte{list(2, nil, bad.Leaf), list(1, delta)}, false, good, ""},
		{"of authorities", [][]byte{list(1, only(2))}, false, good, none},
		{"of authorities, newer than the list", [][]byte{list(2, nil, bad.Leaf), list(1, only(2))}, false, bad, revoked},
		{"of workloads", [][]byte{list(1, only(1), bad.Leaf)}, false, good, ""},
		{"of workloads, revoked", [][]byte{list(1, only(1), bad.Leaf)}, false, bad, revoked},
		{"of workloads, for an authority", [][]byte{list(1, only(1))}, true, good, none},
		{"of each", [][]byte{list(1, only(1)), list(1, only(2))}, true, good, ""},
		{"of some reasons", [][]byte{list(1, only(3))}, false, good, none},
		{"of other issuers", [][]byte{list(1, only(4))}, false, good, none},
		{"of attributes", [][]byte{list(1, only(5))}, false, good, none},
		{"of a distribution point", [][]byte{list(1, only(0))}, false, good, none},
		{"unknown extension", [][]byte{list(1, unknown)}, false, good, strange},
		{"unknown extension of an entry", [][]byte{list(1, entry(pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}), bad.Leaf)}, false, good, strange},
		{"taken off hold", [][]byte{list(1, func(l *x509.RevocationList) { l.RevokedCertificateEntries[0].ReasonCode = 8 }, good.Leaf)}, false, good, revoked},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			v := trusting(t, root, mid)
			v.OnlyLeafCRL = !test.all
			v.CRL = must(ParseCRLs(bytes.Join(test.lists, nil), "<inline>"))
			_, err := present(t, v, test.c)
			if test.text == "" && err != nil || test.text != "" && (err == nil || !strings.Contains(err.Error(), test.text)) {
				t.Errorf("got %v, want %s", err, test.text)
			}
		})
	}
}

func TestVerify_WhenACertificateIsGoodForClientsOnly_ThenItIsNoServersAfterwards(t *testing.T) {
	root := newCA(t, nil)
	c := root.leaf(t, dns("a.test"), eku(x509.ExtKeyUsageClientAuth))
	certs := []*x509.Certificate{c.Leaf}
	v := trusting(t, root)
	s := newSide()
	cs := tls.ConnectionState{Version: tls.VersionTLS13, PeerCertificates: certs}
	if err := s.w.verify(newVerifier(v, x509.ExtKeyUsageClientAuth), &cs, wanted{}); err != nil {
		t.Fatal(err)
	}
	if err := s.w.verify(newVerifier(v, x509.ExtKeyUsageServerAuth), &cs, wanted{}); err == nil || !strings.Contains(err.Error(), "unsupported certificate purpose") {
		t.Errorf("as a server: %v", err)
	}
}

func TestClient_WhenItsNameIsToBeVerifiedBySecretsWithoutAnAuthority_ThenTheyAreRefused(t *testing.T) {
	m := newMesh(t)
	for name, v := range map[string]*Validation{"empty": {}, "pinned": {Hashes: [][32]byte{{}}}} {
		spec := m.clientSpec(t)
		spec.AutoSANFromSNI = true
		spec.Validation = Ref[Validation]{Secret: "v"}
		c := must(NewClient(spec))
		err := c.Update(func(string) *Secret { return &Secret{Validation: v} })
		if err == nil || !strings.Contains(err.Error(), "'auto_sni_san_validation' was configured without configuring a trusted CA") || c.Ready() {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSPIFFE_WhenAConnectionAsksForAName_ThenItCountsToo(t *testing.T) {
	m := newMesh(t)
	m.server = m.ca.leaf(t, dns("a.test"), uri("spiffe://td/a"))
	for name, test := range map[string]struct {
		auto   bool
		target Target
		ok     bool
	}{
		"listed":              {target: Target{SAN: "a.test"}, ok: true},
		"not listed":          {target: Target{SAN: "b.test"}},
		"server name":         {auto: true, target: Target{SNI: "a.test"}, ok: true},
		"another server name": {auto: true, target: Target{SNI: "b.test"}},
	} {
		spec := m.clientSpec(t)
		spec.AutoSANFromSNI = test.auto
		spec.Validation.Inline = &Validation{SPIFFE: map[string]*Bundle{"td": bundle(t, m.ca)}}
		r := shake(t, newSide().w.Server(must(NewServer(m.serverSpec(t)))), newSide().w.Client(must(NewClient(spec)), &test.target))
		if (r.clientErr == nil) != test.ok || !test.ok && Classify(r.clientErr) != FailVerifySAN {
			t.Errorf("%s: %v", name, r.clientErr)
		}
	}
}

func TestSPIFFE_WhenTrustDomainsHaveRoots_ThenEachVouchesForItsOwnOnly(t *testing.T) {
	a, b := newCA(t, nil), newCA(t, nil)
	v := &Validation{SPIFFE: map[string]*Bundle{"a.test": bundle(t, a), "b.test": bundle(t, b)}}
	mid := newCA(t, a)
	revoked := a.leaf(t, uri("spiffe://a.test/x"))
	listing := must(ParseBundle(append(a.pem(), a.revoke(t, epoch.Add(-time.Hour), epoch.Add(time.Hour), revoked.Leaf)...), "<inline>"))
	lists := &Validation{SPIFFE: map[string]*Bundle{"a.test": listing}}
	partial := &Validation{SPIFFE: map[string]*Bundle{"a.test": bundle(t, mid)}}
	lax := *v
	lax.AcceptUntrusted = true
	narrow := *v
	narrow.Matchers = []SANMatcher{exactURI("spiffe://a.test/x")}
	tests := []struct {
		name   string
		v      *Validation
		c      *Certificate
		reason Reason
		text   string
	}{
		{"a", v, a.leaf(t, uri("spiffe://a.test/x")), 0, ""},
		{"b", v, b.leaf(t, uri("spiffe://b.test/x")), 0, ""},
		{"through an authority", v, mid.leaf(t, uri("spiffe://a.test/x")), 0, ""},
		{"an authority below the root as anchor", partial, mid.leaf(t, uri("spiffe://a.test/x")), FailVerifyError, "unable to get local issuer certificate"},
		{"the domain itself", v, a.leaf(t, uri("spiffe://a.test")), FailVerifyError, "no trust bundle store"},
		{"revoked by a list in the bundle", lists, revoked, FailVerifyError, "certificate revoked"},
		{"not on the list in the bundle", lists, a.leaf(t, uri("spiffe://a.test/x")), 0, ""},
		{"untrusted ones accepted", &lax, b.leaf(t, uri("spiffe://a.test/x")), FailVerifyError, "unable to get local issuer certificate"},
		{"b says it is a", v, b.leaf(t, uri("spiffe://a.test/x")), FailVerifyError, "unable to get local issuer certificate"},
		{"unknown domain", v, a.leaf(t, uri("spiffe://c.test/x")), FailVerifyError, "no trust bundle store"},
		{"no name", v, a.leaf(t), FailVerifyError, "no trust bundle store"},
		{"not a SPIFFE id", v, a.leaf(t, uri("https://a.test/x")), FailVerifyError, "no trust bundle store"},
		{"two names", v, a.leaf(t, uri("spiffe://a.test/x"), uri("spiffe://b.test/x")), FailVerifyError, "no trust bundle store"},
		{"an authority as workload", v, a.leaf(t, uri("spiffe://a.test/x"), ku(x509.KeyUsageCertSign|x509.KeyUsageDigitalSignature)), FailVerifyError, "SPIFFE precheck failed"},
		{"matching name", &narrow, a.leaf(t, uri("spiffe://a.test/x")), 0, ""},
		{"other name", &narrow, a.leaf(t, uri("spiffe://a.test/y")), FailVerifySAN, "verify cert failed: SAN matcher, certificate SANs are ["},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := present(t, test.v, test.c)
			if test.text == "" && err != nil || test.text != "" && (err == nil || !strings.Contains(err.Error(), test.text) || Classify(err) != test.reason) {
				t.Errorf("got %v, want %s", err, test.text)
			}
		})
	}
}

func TestClient_WhenNamesAreAskedForByTheConnection_ThenTheyCountInsteadOrAsWell(t *testing.T) {
	m := newMesh(t)
	m.server = m.ca.leaf(t, dns("a.test", "*.w.test"), uri("spiffe://td/a"))
	tests := []struct {
		name   string
		auto   bool
		uri    string // matcher of the context
		target Target
		text   string
	}{
		{name: "server name", auto: true, target: Target{SNI: "a.test"}},
		{name: "server name by wildcard", auto: true, target: Target{SNI: "b.w.test"}},
		{name: "another server name", auto: true, target: Target{SNI: "b.test"}, text: "SAN matcher"},
		{name: "server name instead of the matchers", auto: true, uri: "spiffe://td/b", target: Target{SNI: "a.test"}},
		{name: "matchers without a server name", auto: true, uri: "spiffe://td/b", text: "SAN matcher"},
		{name: "listed", target: Target{SAN: "a.test"}},
		{name: "listed URI", target: Target{SAN: "spiffe://td/a"}},
		{name: "not listed", target: Target{SAN: "c.test"}, text: "verify SAN list"},
		{name: "listed, but the matchers fail", uri: "spiffe://td/b", target: Target{SAN: "a.test"}, text: "SAN matcher"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			spec := m.clientSpec(t)
			spec.AutoSANFromSNI = test.auto
			if test.uri != "" {
				spec.Validation.Inline.Matchers = []SANMatcher{exactURI(test.uri)}
			}
			c := newSide()
			r := shake(t, newSide().w.Server(must(NewServer(m.serverSpec(t)))), c.w.Client(must(NewClient(spec)), &test.target))
			if test.text == "" && r.ok() != nil || test.text != "" && (r.clientErr == nil || !strings.Contains(r.clientErr.Error(), test.text) || Classify(r.clientErr) != FailVerifySAN) {
				t.Errorf("got %v, want %s", r.clientErr, test.text)
			}
		})
	}
}

func TestVerify_WhenANameIsAskedForWithoutAnAuthority_ThenRefused(t *testing.T) {
	m := newMesh(t)
	for name, v := range map[string]*Validation{"no context": nil, "an empty context": {}} {
		spec := m.clientSpec(t)
		spec.Validation.Inline = v
		cl := must(NewClient(spec))
		if r := shake(t, newSide().w.Server(must(NewServer(m.serverSpec(t)))), newSide().w.Client(cl, &Target{})); r.ok() != nil {
			t.Errorf("%s, no name: %v", name, r.clientErr)
		}
		r := shake(t, newSide().w.Server(must(NewServer(m.serverSpec(t)))), newSide().w.Client(cl, &Target{SAN: "a.test"}))
		const want = "CERTIFICATE_VERIFY_FAILED:TLS_error_end"
		if r.clientErr == nil || !strings.Contains(r.clientErr.Error(), want) || Classify(r.clientErr) != Uncounted {
			t.Errorf("%s: %v", name, r.clientErr)
		}
	}
}

func TestVerify_WhenAResultIsCached_ThenTimeAndRulesStillCount(t *testing.T) {
	m := newMesh(t)
	m.client = m.ca.leaf(t, valid(-time.Hour, 10*time.Minute))
	srv := must(NewServer(m.serverSpec(t)))
	s := newSide()
	cspec := m.clientSpec(t)
	cspec.MaxSessions = 0
	once := func() error {
		return shake(t, s.w.Server(srv), newSide().w.Client(must(NewClient(cspec)), &Target{})).serverErr
	}
	if err := errors.Join(once(), once()); err != nil {
		t.Fatal(err)
	}
	if n := len(s.w.verified.young); n != 1 {
		t.Errorf("%d results are kept", n)
	}
	s.now = epoch.Add(11 * time.Minute)
	if err := once(); err == nil || !strings.Contains(err.Error(), "certificate has expired") {
		t.Errorf("after the end of validity: %v", err)
	}
	s.now = epoch
	if err := srv.Update(func(string) *Secret { return nil }); err != nil {
		t.Fatal(err)
	}
	if err := once(); err != nil || len(s.w.verified.young) != 1 {
		t.Errorf("equal rules after an update: %v, %d results", err, len(s.w.verified.young))
	}
}

func FuzzDNSNameMatch(f *testing.F) {
	f.Add("a.test", "*.test")
	f.Add("ab.test", "a*.test")
	f.Fuzz(func(t *testing.T, name, pattern string) {
		if dnsNameMatch(name, pattern) && !strings.EqualFold(name, pattern) && strings.Count(pattern, "*") != 1 {
			t.Errorf("%q matches %q", pattern, name)
		}
	})
}
