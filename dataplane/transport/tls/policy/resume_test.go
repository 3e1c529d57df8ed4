// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"testing"
	"time"
)

// jar is a client that keeps every session and offers the last one to whoever it talks to.
type jar struct{ last *tls.ClientSessionState }

func (j *jar) Get(string) (*tls.ClientSessionState, bool) { return j.last, j.last != nil }
func (j *jar) Put(_ string, cs *tls.ClientSessionState)   { j.last = cs }

// visitor is a client configuration of that kind.
func visitor(c *Certificate, version uint16) *tls.Config {
	own := tls.Certificate{Certificate: c.Chain, PrivateKey: c.Key, Leaf: c.Leaf}
	return &tls.Config{InsecureSkipVerify: true, ServerName: "server.test", MaxVersion: version, ClientSessionCache: &jar{}, //nolint:gosec // only the server validates here
		Time:                 func() time.Time { return epoch },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &own, nil }}
}

var bothVersions = []uint16{tls.VersionTLS12, tls.VersionTLS13}

func TestResumption_WhenAnythingThatDecidesDiffers_ThenAFullHandshakeFollows(t *testing.T) {
	m := newMesh(t)
	other := newCA(t, nil)
	key := &TicketKeys{Keys: [][TicketKeySize]byte{{1}}}
	changes := []struct {
		name    string
		change  func(*ServerSpec)
		resumes bool
		refused bool // the other context does not want this client at all
	}{
		{name: "nothing", change: func(*ServerSpec) {}, resumes: true},
		{name: "a rotated leaf", change: func(s *ServerSpec) {
			s.Certificates[0].Inline = m.ca.leaf(t, uri("spiffe://td/server"), dns("server.test"))
		}, resumes: true},
		{name: "ALPN", change: func(s *ServerSpec) { s.ALPN = []string{"h2"} }, resumes: true},
		{name: "filter chain", change: func(s *ServerSpec) { s.Scope = "l/d" }},
		{name: "one authority more", change: func(s *ServerSpec) { s.Validation.Inline = trusting(t, m.ca, other) }},
		{name: "another authority", change: func(s *ServerSpec) { s.Validation.Inline = trusting(t, other) }, refused: true},
		{name: "matchers", change: func(s *ServerSpec) { s.Validation.Inline.Matchers = []SANMatcher{exactURI("spiffe://td/client")} }},
		{name: "matchers that refuse", change: func(s *ServerSpec) { s.Validation.Inline.Matchers = []SANMatcher{exactURI("spiffe://td/x")} }, refused: true},
		{name: "revocation", change: func(s *ServerSpec) {
			s.Validation.Inline.CRL = must(ParseCRLs(m.ca.revoke(t, epoch.Add(-time.Hour), epoch.Add(time.Hour), m.client.Leaf), ""))
			s.Validation.Inline.OnlyLeafCRL = true
		}, refused: true},
		{name: "trust domains", change: func(s *ServerSpec) {
			s.Validation.Inline = &Validation{SPIFFE: map[string]*Bundle{"td": bundle(t, m.ca)}}
		}},
		{name: "optional certificate", change: func(s *ServerSpec) { s.RequireClientCert = false }},
		{name: "another server name", change: func(s *ServerSpec) { s.Certificates[0].Inline = m.ca.leaf(t, dns("other.test")) }},
		{name: "no tickets", change: func(s *ServerSpec) { s.DisableTickets = true }},
		{name: "keys of its own", change: func(s *ServerSpec) { s.Tickets.Inline = &TicketKeys{Keys: [][TicketKeySize]byte{{2}}} }},
	}
	for _, version := range bothVersions {
		for _, configured := range []bool{false, true} {
			for _, test := range changes {
				t.Run(fmt.Sprintf("%x/configured keys %v/%s", version, configured, test.name), func(t *testing.T) {
					first, second := m.serverSpec(t), m.serverSpec(t)
					if configured {
						first.Tickets.Inline, second.Tickets.Inline = key, key
					}
					test.change(&second)
					client := visitor(m.client, version)
					s, s2 := newSide(), newSide()
					if r := shake(t, s.w.Server(must(NewServer(first))), client); r.ok() != nil || r.server.DidResume {
						t.Fatalf("first: %v", r.ok())
					}
					// Another worker, as a connection comes to any of them.
					r := shake(t, s2.w.Server(must(NewServer(second))), client)
					switch {
					case test.refused && r.serverErr == nil:
						t.Error("the client was let in by its session")
					case test.refused:
					case r.ok() != nil:
						t.Errorf("second: %v", r.ok())
					case r.server.DidResume != test.resumes:
						t.Errorf("resumed %v", r.server.DidResume)
					case s2.peer == nil || s2.peer.URIs[0] != "spiffe://td/client":
						t.Error("the peer is not known after the second handshake")
					}
				})
			}
		}
	}
}

func TestResumption_WhenTicketKeysRotate_ThenOldOnesOpenAndUnknownOnesDoNot(t *testing.T) {
	m := newMesh(t)
	keys := func(first ...byte) Ref[TicketKeys] {
		k := &TicketKeys{}
		for _, b := range first {
			k.Keys = append(k.Keys, [TicketKeySize]byte{b})
		}
		return Ref[TicketKeys]{Inline: k}
	}
	for _, version := range bothVersions {
		client := visitor(m.client, version)
		for _, step := range []struct {
			keys    Ref[TicketKeys]
			resumes bool
		}{{keys(1), false}, {keys(2, 1), true}, {keys(3, 2), true}, {keys(4), false}, {Ref[TicketKeys]{}, false}} {
			spec := m.serverSpec(t)
			spec.Tickets = step.keys
			r := shake(t, newSide().w.Server(must(NewServer(spec))), client)
			if r.ok() != nil || r.server.DidResume != step.resumes {
				t.Errorf("%x: keys %v: resumed %v, %v", version, step.keys.Inline, r.server.DidResume, r.ok())
			}
		}
	}
}

func TestResumption_WhenTimePasses_ThenSessionsEnd(t *testing.T) {
	m := newMesh(t)
	m.client = m.ca.leaf(t, valid(-time.Hour, 1000*time.Hour))
	m.ca.cert = issue(t, nil, m.ca.key, true, subject(m.ca.cert.Subject.CommonName), valid(-time.Hour, 1000*time.Hour), func(c *x509.Certificate) { c.SubjectKeyId = m.ca.cert.SubjectKeyId })
	for _, test := range []struct {
		version uint16
		timeout int64
		after   time.Duration
		resumes bool
	}{
		{tls.VersionTLS12, 0, 119 * time.Minute, true}, {tls.VersionTLS12, 0, 121 * time.Minute, false},
		{tls.VersionTLS13, 0, 47 * time.Hour, true}, {tls.VersionTLS13, 0, 49 * time.Hour, false},
		{tls.VersionTLS13, 60, 59 * time.Second, true}, {tls.VersionTLS13, 60, 61 * time.Second, false},
		{tls.VersionTLS12, 60, 61 * time.Second, false},
	} {
		spec := m.serverSpec(t)
		spec.SessionTimeout = test.timeout
		srv, s, client := must(NewServer(spec)), newSide(), visitor(m.client, test.version)
		if r := shake(t, s.w.Server(srv), client); r.ok() != nil {
			t.Fatal(r.ok())
		}
		s.now = epoch.Add(test.after)
		if r := shake(t, s.w.Server(srv), client); r.ok() != nil || r.server.DidResume != test.resumes {
			t.Errorf("%x, timeout %d, after %v: resumed %v, %v", test.version, test.timeout, test.after, r.server.DidResume, r.ok())
		}
	}
}

func TestTicket_WhenItIsGarbage_ThenItIsNotTaken(t *testing.T) {
	r := ticketRing{s: newSealer(nil, [32]byte{}, 0)}
	for n := range 64 {
		if r.unwrap(1, tls.VersionTLS13, bytes.Repeat([]byte{byte(n)}, n)) != nil {
			t.Fatalf("%d bytes were taken", n)
		}
	}
	r.renew(1)
	short := append(append([]byte(nil), r.keys[0].id[:]...), make([]byte, ticketNonce)...)
	if r.unwrap(1, tls.VersionTLS13, short) != nil {
		t.Error("an empty ticket was taken")
	}
}

func TestClientSessions_WhenKept_ThenPerEndpointAndBounded(t *testing.T) {
	m := newMesh(t)
	for _, version := range bothVersions {
		spec := m.clientSpec(t)
		spec.Params.MaxVersion = version
		cl, s, c := must(NewClient(spec)), newSide(), newSide()
		srv := must(NewServer(m.serverSpec(t)))
		visit := func(x Target) bool {
			t.Helper()
			r := shake(t, s.w.Server(srv), c.w.Client(cl, &x))
			if r.ok() != nil {
				t.Fatal(r.ok())
			}
			return r.client.DidResume
		}
		if visit(Target{Endpoint: "a"}) || !visit(Target{Endpoint: "a"}) || visit(Target{Endpoint: "b"}) || visit(Target{Endpoint: "a", SNI: "x.test"}) || !visit(Target{Endpoint: "a"}) {
			t.Errorf("%x: sessions are not kept for each endpoint and name", version)
		}
		if err := cl.Update(func(string) *Secret { return nil }); err != nil || visit(Target{Endpoint: "a"}) {
			t.Errorf("%x: a session outlived the secrets (%v)", version, err)
		}
	}
	spec := m.clientSpec(t)
	spec.MaxSessions = 0
	c := newSide()
	if cfg := c.w.Client(must(NewClient(spec)), &Target{}); cfg.ClientSessionCache != nil {
		t.Error("sessions are kept although max_session_keys is 0")
	}
	kept := sessions{max: 2, single: true}
	for range 5 {
		kept.Put("", &tls.ClientSessionState{})
	}
	if _, ok := kept.Get(""); !ok || len(kept.list) != 1 {
		t.Errorf("%d sessions are left", len(kept.list))
	}
}

func TestWorker_WhenMoreIsUsedThanItKeeps_ThenTheOldestGoes(t *testing.T) {
	r := newRecent[int, int](4)
	for i := range 100 {
		r.put(i, i)
		if _, ok := r.get(0); !ok {
			t.Fatalf("entry in use is gone after %d", i)
		}
		if n := len(r.young) + len(r.old); n > 8 {
			t.Fatalf("%d entries", n)
		}
	}
	if _, ok := r.get(50); ok {
		t.Error("an entry that nobody used is still there")
	}
	r.turn()
	r.turn()
	if _, ok := r.get(0); ok {
		t.Error("two sweeps left an entry")
	}
}
