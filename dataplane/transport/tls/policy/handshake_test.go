// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"crypto/tls"
	"errors"
	"testing"
)

// mesh is a pair of contexts that trust each other.
type mesh struct {
	ca             *authority
	server, client *Certificate
}

func newMesh(t testing.TB) *mesh {
	m := &mesh{ca: newCA(t, nil)}
	m.server = m.ca.leaf(t, uri("spiffe://td/server"), dns("server.test"))
	m.client = m.ca.leaf(t, uri("spiffe://td/client"))
	return m
}

func (m *mesh) serverSpec(t testing.TB) ServerSpec {
	return ServerSpec{Scope: "l/c", Certificates: []Ref[Certificate]{{Inline: m.server}}, Validation: Ref[Validation]{Inline: trusting(t, m.ca)}, RequireClientCert: true}
}

func (m *mesh) clientSpec(t testing.TB) ClientSpec {
	return ClientSpec{Scope: "c", Certificate: Ref[Certificate]{Inline: m.client}, Validation: Ref[Validation]{Inline: trusting(t, m.ca)}, MaxSessions: 1,
		Params: Params{MaxVersion: tls.VersionTLS13}}
}

func TestHandshake_WhenBothSidesTrustEachOther_ThenIdentitiesAreKnownAndInterned(t *testing.T) {
	m := newMesh(t)
	srv, cl := must(NewServer(m.serverSpec(t))), must(NewClient(m.clientSpec(t)))
	s, c := newSide(), newSide()
	r := shake(t, s.w.Server(srv), c.w.Client(cl, &Target{}))
	if err := r.ok(); err != nil {
		t.Fatal(err)
	}
	if s.peer == nil || s.peer.URIs[0] != "spiffe://td/client" || !s.validated || c.peer.URIs[0] != "spiffe://td/server" || !c.validated {
		t.Fatalf("server saw %+v, client saw %+v", s.peer, c.peer)
	}
	if s.local.URIs[0] != "spiffe://td/server" || c.local.URIs[0] != "spiffe://td/client" {
		t.Error("the own certificates are not known")
	}
	first, cfg := s.peer, s.w.Server(srv)
	r = shake(t, cfg, c.w.Client(cl, &Target{}))
	if err := r.ok(); err != nil || s.peer != first {
		t.Errorf("second handshake: %v, peer interned: %v", err, s.peer == first)
	}
	if !r.server.DidResume {
		t.Error("the second handshake did not resume")
	}
}

func TestHandshake_WhenTheClientHasNoCertificate_ThenItIsRefusedOnlyWhenRequired(t *testing.T) {
	m := newMesh(t)
	for _, required := range []bool{false, true} {
		spec := m.serverSpec(t)
		spec.RequireClientCert = required
		cspec := m.clientSpec(t)
		cspec.Certificate = Ref[Certificate]{}
		s, c := newSide(), newSide()
		r := shake(t, s.w.Server(must(NewServer(spec))), c.w.Client(must(NewClient(cspec)), &Target{}))
		switch err := r.serverErr; {
		case required && (err == nil || Classify(err) != FailVerifyNoCert):
			t.Errorf("required: %v, reason %d", err, Classify(err))
		case !required && (r.ok() != nil || s.peer != nil):
			t.Errorf("optional: %v, peer %v", r.ok(), s.peer)
		}
	}
}

func TestUpdate_WhenASecretIsMissingOrWrong_ThenTheLastGoodStateServes(t *testing.T) {
	m := newMesh(t)
	spec := m.serverSpec(t)
	spec.Certificates = []Ref[Certificate]{{Secret: "cert"}}
	spec.Validation = Ref[Validation]{Secret: "root"}
	srv := must(NewServer(spec))
	s := newSide()
	if srv.Ready() || s.w.Server(srv) != nil {
		t.Fatal("ready without secrets")
	}
	if got := srv.Secrets(); len(got) != 2 || got[0] != "cert" || got[1] != "root" {
		t.Fatalf("secrets %v", got)
	}
	have := map[string]*Secret{"cert": {Certificate: m.server}}
	find := func(k string) *Secret { return have[k] }
	if err := srv.Update(find); !errors.Is(err, ErrWaiting) || srv.Ready() {
		t.Fatalf("half of the secrets: %v", err)
	}
	have["root"] = &Secret{Validation: trusting(t, m.ca)}
	if err := srv.Update(find); err != nil || !srv.Ready() {
		t.Fatalf("all secrets: %v", err)
	}
	cfg := s.w.Server(srv)
	have["root"] = &Secret{Certificate: m.server}
	if err := srv.Update(find); err == nil || errors.Is(err, ErrWaiting) {
		t.Fatalf("a secret of another kind: %v", err)
	}
	if s.w.Server(srv) != cfg {
		t.Fatal("a refused update changed the configuration")
	}
	other := newMesh(t)
	have["cert"], have["root"] = &Secret{Certificate: other.server}, &Secret{Validation: trusting(t, other.ca)}
	if err := srv.Update(find); err != nil || s.w.Server(srv) == cfg {
		t.Fatalf("rotation: %v, new configuration: %v", err, s.w.Server(srv) != cfg)
	}
	c := newSide()
	if r := shake(t, s.w.Server(srv), c.w.Client(must(NewClient(other.clientSpec(t))), &Target{})); r.ok() != nil {
		t.Errorf("after the rotation: %v", r.ok())
	}
	if r := shake(t, s.w.Server(srv), c.w.Client(must(NewClient(m.clientSpec(t))), &Target{})); r.ok() == nil {
		t.Error("the old authority is still trusted")
	}
}

// What the library skips is always done by us.
func TestClientConfig_WhenMade_ThenVerificationIsNeverSkipped(t *testing.T) {
	m := newMesh(t)
	for _, v := range []*Validation{nil, {}, trusting(t, m.ca), {Hashes: [][32]byte{{}}}, {AcceptUntrusted: true}, {SPIFFE: map[string]*Bundle{"td": bundle(t, m.ca)}}} {
		spec := m.clientSpec(t)
		spec.Validation.Inline = v
		cfg := newSide().w.Client(must(NewClient(spec)), &Target{SNI: "x.test"})
		if cfg.InsecureSkipVerify && cfg.VerifyConnection == nil {
			t.Errorf("%+v: nothing verifies", v)
		}
		if cfg.VerifyPeerCertificate != nil {
			t.Errorf("%+v: VerifyPeerCertificate does not run for resumed sessions", v)
		}
	}
}
