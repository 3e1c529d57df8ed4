// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"

	"sidecar/dataplane/identity"
	transport "sidecar/dataplane/transport/tls"
)

// Bounds of a worker's memory of TLS. Each is a number of entries; the one generation before the current one is kept too.
const (
	maxContexts = 4096 // contexts with ready configurations
	maxTargets  = 4096 // (endpoint, server name, protocols) of one client context
	maxVerified = 4096 // verified peers, over all contexts
	maxSessions = 1024 // client sessions of one target, whatever max_session_keys says
)

// Handshakes is what a Worker needs to know of the handshakes of its thread.
type Handshakes struct {
	Now Clock
	// Peer and Local attach what was found to the handshake that is running; nil = nobody asks.
	Peer  func(c *identity.Certificate, validated bool)
	Local func(c *identity.Certificate)
	// Staple tells what became of a client's wish for an OCSP response; nil = nobody asks.
	Staple func(transport.Staple)
	// Sign wraps keys whose signatures are slow, so that they are made elsewhere while the handshake waits; nil = sign at once.
	Sign func(crypto.Signer) crypto.Signer
}

// On are the handshakes of one engine.
func On(e *transport.Engine, now Clock) Handshakes {
	return Handshakes{Now: now, Sign: e.Signer,
		Peer: func(c *identity.Certificate, validated bool) {
			if s := e.Current(); s != nil {
				s.SetPeer(c, validated)
			}
		},
		Local: func(c *identity.Certificate) {
			if s := e.Current(); s != nil {
				s.SetLocal(c)
			}
		},
		Staple: func(x transport.Staple) {
			if s := e.Current(); s != nil {
				s.SetStaple(x)
			}
		}}
}

// Worker makes configurations for the handshakes of one worker. Worker-owned.
type Worker struct {
	h        Handshakes
	servers  recent[*Server, *serverUse]
	clients  recent[*Client, *clientUse]
	verified recent[verifiedKey, verdict]
	peers    recent[peerKey, *identity.Certificate]
}

// verifiedKey names a verification whose outcome may be used again: who decided (its hash covers roots, matchers, hashes, revocation), on what.
type verifiedKey struct {
	rules [sha256.Size]byte
	want  wanted
	peer  peerKey
}

// peerKey is the hash of a leaf and of the certificates that came with it.
type peerKey struct{ leaf, rest [sha256.Size]byte }

// NewWorker makes the TLS memory of one worker.
func NewWorker(h Handshakes) *Worker {
	return &Worker{h: h, servers: newRecent[*Server, *serverUse](maxContexts), clients: newRecent[*Client, *clientUse](maxContexts),
		verified: newRecent[verifiedKey, verdict](maxVerified), peers: newRecent[peerKey, *identity.Certificate](maxVerified)}
}

// recent is a map of bounded size that forgets what was not used lately: entries live in the young generation, and what is found in the old one moves
// over. When the young one is full it becomes the old one.
type recent[K comparable, V any] struct {
	young, old map[K]V
	max        int
}

func newRecent[K comparable, V any](limit int) recent[K, V] { return recent[K, V]{max: limit} }

func (r *recent[K, V]) get(k K) (V, bool) {
	v, ok := r.young[k]
	if ok {
		return v, true
	}
	if v, ok = r.old[k]; ok {
		delete(r.old, k)
		r.put(k, v)
	}
	return v, ok
}

func (r *recent[K, V]) put(k K, v V) {
	if r.young == nil {
		r.young = map[K]V{}
	}
	if _, there := r.young[k]; !there && len(r.young) >= r.max {
		r.turn()
	}
	r.young[k] = v
}

// turn begins a new generation and forgets what the last but one had.
func (r *recent[K, V]) turn() { r.old, r.young = r.young, map[K]V{} }

// Sweep forgets contexts, sessions and results that were not used since the Sweep before the last. The worker calls it when it adopts a snapshot, at
// most every few minutes.
func (w *Worker) Sweep() {
	w.servers.turn()
	w.clients.turn()
	w.verified.turn()
	w.peers.turn()
}

// serverUse is a server state made ready for one worker.
type serverUse struct {
	w     *Worker
	st    *serverState
	outer *tls.Config
	ready map[choice]*tls.Config
	ring  ticketRing
	keys  []crypto.Signer // of the certificates, wrapped
}

// Server returns the configuration for a handshake that begins now, nil while the context is not Ready. It must not be changed, and is good for this
// worker only.
func (w *Worker) Server(s *Server) *tls.Config {
	st := s.state.Load()
	if st == nil {
		return nil
	}
	u, _ := w.servers.get(s)
	if u == nil || u.st != st {
		u = w.newServerUse(st)
		w.servers.put(s, u)
	}
	return u.outer
}

func (w *Worker) newServerUse(st *serverState) *serverUse {
	u := &serverUse{w: w, st: st, ready: map[choice]*tls.Config{}}
	for i := range st.certs {
		u.keys = append(u.keys, w.signer(st.certs[i].Certificate))
	}
	if st.seal != nil {
		u.ring.s = st.seal
	}
	// crypto/tls asks the outer configuration for nothing but the choice; it must still allow every version that a choice allows.
	u.outer = u.config(choice{})
	u.outer.GetConfigForClient = u.answer
	for i := range st.certs {
		p := &st.certs[i].param
		u.outer.MinVersion, u.outer.MaxVersion = min(u.outer.MinVersion, p.MinVersion), max(u.outer.MaxVersion, p.MaxVersion)
	}
	return u
}

// signer wraps a key for this worker: RSA signatures take a millisecond, and a key that is no plain ECDSA key is somewhere else.
func (w *Worker) signer(c *Certificate) crypto.Signer {
	if w.h.Sign == nil || !slow(c.Key) {
		return c.Key
	}
	return w.h.Sign(c.Key)
}

// answer is GetConfigForClient: it settles certificate, stapling and ALPN. When client and server have no protocol in common the handshake goes on
// without ALPN, as in BoringSSL; crypto/tls alone would end it.
func (u *serverUse) answer(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	c, staple, err := u.st.choose(hello, u.w.h.Now)
	if u.w.h.Staple != nil {
		u.w.h.Staple(staple)
	}
	if err != nil {
		return nil, err
	}
	if u.w.h.Local != nil {
		u.w.h.Local(u.st.certs[c.cert].id)
	}
	cfg := u.ready[c]
	if cfg == nil {
		cfg = u.config(c)
		u.ready[c] = cfg
	}
	return cfg, nil
}

// config makes the configuration of one choice.
func (u *serverUse) config(c choice) *tls.Config {
	st := u.st
	x := &st.certs[c.cert]
	own := tls.Certificate{Certificate: x.Chain, PrivateKey: u.keys[c.cert], Leaf: x.Leaf}
	if c.staple {
		own.OCSPStaple = x.Staple.DER
	}
	cfg := &tls.Config{Certificates: []tls.Certificate{own}, Time: u.w.h.Now, VerifyConnection: u.verify, SessionTicketsDisabled: st.seal == nil,
		DynamicRecordSizingDisabled: true}
	x.param.apply(cfg)
	if c.alpn {
		cfg.NextProtos = st.spec.ALPN
	}
	switch {
	case st.spec.RequireClientCert || st.verify.demands():
		cfg.ClientAuth = tls.RequireAnyClientCert
	case st.verify.asks():
		cfg.ClientAuth = tls.RequestClientCert
	}
	if v := st.verify.v; cfg.ClientAuth != tls.NoClientCert && !v.SuppressCAList {
		cfg.ClientCAs = advertised(v)
	}
	if st.seal != nil {
		cfg.WrapSession = func(_ tls.ConnectionState, ss *tls.SessionState) ([]byte, error) {
			return u.ring.wrap(u.w.h.Now().Unix(), ss)
		}
		cfg.UnwrapSession = func(id []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
			return u.ring.unwrap(u.w.h.Now().Unix(), cs.Version, id), nil
		}
	}
	return cfg
}

// advertised are the authorities whose names a CertificateRequest carries.
func advertised(v *Validation) *x509.CertPool {
	if v.SPIFFE == nil {
		if v.CA == nil {
			return nil
		}
		return v.CA.pool
	}
	p := x509.NewCertPool()
	for _, td := range sortedKeys(v.SPIFFE) {
		for _, c := range v.SPIFFE[td].Certs {
			p.AddCert(c)
		}
	}
	return p
}

// verify is VerifyConnection of servers; it runs for resumed sessions too.
func (u *serverUse) verify(cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		return nil // crypto/tls has refused the client when it must have one
	}
	if !u.st.verify.asks() {
		return nil // require_client_certificate with nothing to validate by: who it says it is must not reach x-forwarded-client-cert
	}
	return u.w.verify(u.st.verify, &cs, wanted{})
}

// attach tells who the peer says it is, without having validated anything.
func (w *Worker) attach(cs *tls.ConnectionState) {
	if w.h.Peer != nil {
		w.h.Peer(w.peer(peerKeyOf(cs.PeerCertificates), cs.PeerCertificates), false)
	}
}

// verify validates the peer of a handshake, or finds that it did lately, and attaches who it is.
func (w *Worker) verify(f *verifier, cs *tls.ConnectionState, want wanted) error {
	if !cs.DidResume {
		if fail := keyUsage(cs); fail != nil {
			return fail
		}
	}
	k := verifiedKey{rules: f.hash, want: want, peer: peerKeyOf(cs.PeerCertificates)}
	now := w.h.Now().Unix()
	v, ok := w.verified.get(k)
	if !ok || now < v.from || now >= v.until {
		var fail *Failure
		if v, fail = f.check(w.h.Now, cs.PeerCertificates, w.peer(k.peer, cs.PeerCertificates), want); fail != nil {
			return fail
		}
		if now < v.until {
			w.verified.put(k, v)
		}
	}
	if w.h.Peer != nil {
		w.h.Peer(v.peer, v.validated)
	}
	return nil
}

// peer interns the facts of a peer's certificates.
func (w *Worker) peer(k peerKey, certs []*x509.Certificate) *identity.Certificate {
	if c, ok := w.peers.get(k); ok {
		return c
	}
	c := identity.New(certs[0], certs)
	w.peers.put(k, c)
	return c
}

func peerKeyOf(certs []*x509.Certificate) peerKey {
	k := peerKey{leaf: sha256.Sum256(certs[0].Raw)}
	if len(certs) > 1 {
		h := newHasher()
		for _, c := range certs[1:] {
			h.bytes("", c.Raw)
		}
		k.rest = h.sum()
	}
	return k
}

// clientUse is a client state made ready for one worker.
type clientUse struct {
	w       *Worker
	st      *clientState
	key     crypto.Signer
	targets recent[key, *clientTarget]
}

// clientTarget is the configuration for one target, and its sessions.
type clientTarget struct {
	u        *clientUse
	cfg      *tls.Config
	cert     tls.Certificate
	want     wanted
	sessions sessions
}

// Client returns the configuration for a handshake with t that begins now, nil while the context is not Ready. It must not be changed, and is good
// for this worker only.
func (w *Worker) Client(c *Client, t *Target) *tls.Config {
	st := c.state.Load()
	if st == nil {
		return nil
	}
	u, _ := w.clients.get(c)
	if u == nil || u.st != st {
		u = &clientUse{w: w, st: st, targets: newRecent[key, *clientTarget](maxTargets)}
		if st.cert != nil {
			u.key = w.signer(st.cert)
		}
		w.clients.put(c, u)
	}
	k := st.key(t)
	x, ok := u.targets.get(k)
	if !ok {
		x = u.target(k)
		u.targets.put(k, x)
	}
	return x.cfg
}

func (u *clientUse) target(k key) *clientTarget {
	st := u.st
	x := &clientTarget{u: u, want: wanted{san: k.san}, sessions: sessions{max: min(st.spec.MaxSessions, maxSessions)}}
	if st.spec.AutoSANFromSNI {
		x.want.exactDNS = k.sni
	}
	// Envoy verifies names by matchers only; the standard library would insist on the server name. VerifyConnection is always set (see verify).
	x.cfg = &tls.Config{ServerName: k.sni, NextProtos: k.protocols(), Time: u.w.h.Now, InsecureSkipVerify: true, VerifyConnection: x.verify, //nolint:gosec // see above
		DynamicRecordSizingDisabled: true}
	st.param.apply(x.cfg)
	if st.spec.MaxSessions > 0 {
		x.cfg.ClientSessionCache = &x.sessions
	} else {
		x.cfg.SessionTicketsDisabled = true
	}
	if st.cert != nil {
		x.cert = tls.Certificate{Certificate: st.cert.Chain, PrivateKey: u.key, Leaf: st.cert.Leaf}
		// A function, so that the certificate is sent whatever authorities the server names, as Envoy does.
		x.cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &x.cert, nil }
	}
	return x
}

// verify is VerifyConnection of clients; it runs for resumed sessions too.
func (x *clientTarget) verify(cs tls.ConnectionState) error {
	u := x.u
	x.sessions.single = cs.Version == tls.VersionTLS13
	if u.w.h.Local != nil && u.st.id != nil {
		u.w.h.Local(u.st.id)
	}
	f := u.st.verify
	if len(cs.PeerCertificates) == 0 {
		return failUnverified // crypto/tls does not let this happen: servers always have a certificate
	}
	if !f.asks() && x.want == (wanted{}) { // no validation context: Envoy takes any certificate
		u.w.attach(&cs)
		return nil
	}
	return u.w.verify(f, &cs, x.want)
}
