// SPDX-License-Identifier: Apache-2.0

package tls

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"

	"sidecar/dataplane/identity"
)

// State is where a session stands.
type State uint8

// The states.
const (
	Fresh   State = iota // a server that has seen no record, a client that has not said hello
	Shaking              // the handshake waits for the peer's next record
	Signing              // the handshake waits for a signature: see Session.Job
	Open                 // records flow
	Failed               // the handshake or a record was bad: see Session.Err. An alert may be in Out
)

// maxHandshake bounds the bytes that a peer may send before the handshake is done: a certificate chain of 100 KiB, as Envoy's default of BoringSSL allows,
// and everything else.
const maxHandshake = 128 << 10

// Errors of Session.Err that the library does not have.
var (
	ErrAborted = errors.New("tls: handshake aborted")
	ErrTooLong = errors.New("tls: handshake has too many bytes")
	errAgain   = &again{}
	errDead    = errors.New("tls: connection is over")
)

// PanicError is a contained panic inside a handshake: a bug, of ours or of the library.
type PanicError struct{ Reason any }

// Error tells the reason.
func (e *PanicError) Error() string { return fmt.Sprint("tls: panic in handshake: ", e.Reason) }

// Session is one TLS connection of either role. Worker-owned; made by Engine.Server and Engine.Client; Abort or an error ends it.
type Session struct {
	// Immutable
	conn *tls.Conn

	// Worker
	e      *Engine
	Out    []byte // ciphertext to send, from the engine's pool: the owner takes it and may leave a buffer to be appended to
	in     []byte // ciphertext that the library has not taken; only inside a call
	give   int    // how much of in it may take: whole records, or what shows that they are none
	co     *coro  // the handshake's stack; nil before and after
	job    *Job   // the signature that is waited for
	err    error
	info   *identity.Session // nil before Open
	peer   *identity.Certificate
	local  *identity.Certificate
	got    int32 // bytes that the library took during the handshake
	st     State
	role   role
	eof    bool // close_notify was received
	valid  bool // what SetPeer said
	staple Staple
	shut   bool // close_notify was sent
	mute   bool // output is dropped: the session is being aborted
	tls13  bool // what was agreed on; false before Open
}

type role uint8

const (
	server role = iota
	client
)

// Server makes a session that waits for a ClientHello. c is shared with other sessions of the same worker and never changed.
func (e *Engine) Server(c *tls.Config) *Session {
	s := &Session{e: e, role: server}
	s.conn = tls.Server((*wire)(s), c)
	return s
}

// Client makes a session that says hello at its first Shake. c must name the server or verify by itself.
func (e *Engine) Client(c *tls.Config) *Session {
	s := &Session{e: e, role: client}
	s.conn = tls.Client((*wire)(s), c)
	return s
}

// State is where the session stands.
func (s *Session) State() State { return s.st }

// Err is why the session failed; nil unless State is Failed.
func (s *Session) Err() error { return s.err }

// SetPeer attaches what is known of the peer's certificate, and whether it was verified; called by the verification during the handshake.
func (s *Session) SetPeer(c *identity.Certificate, validated bool) { s.peer, s.valid = c, validated }

// SetLocal attaches our certificate; called by whatever chooses it.
func (s *Session) SetLocal(c *identity.Certificate) { s.local = c }

// Staple is what became of a client's wish for an OCSP response (RFC 6066 section 8).
type Staple uint8

// The outcomes.
const (
	StapleNotAsked Staple = iota
	StapleSent
	StapleOmitted // there is none, and ocsp_staple_policy does without
	StapleFailed  // ocsp_staple_policy refuses the handshake
)

// SetStaple notes the outcome; called by whatever chooses the certificate.
func (s *Session) SetStaple(x Staple) { s.staple = x }

// Staple is the outcome, for the statistics.
func (s *Session) Staple() Staple { return s.staple }

// Info is what the handshake agreed on; nil before Open. It outlives the session and is shared with others that agreed on the same.
func (s *Session) Info() *identity.Session { return s.info }

// describe makes Info. Nothing of the library's state is kept: it holds the certificates of the whole chain.
func (s *Session) describe() {
	c := s.conn.ConnectionState()
	s.tls13 = c.Version == tls.VersionTLS13
	s.info = s.e.intern(identity.Session{Peer: s.peer, Local: s.local, Validated: s.valid, Resumed: c.DidResume, Version: VersionName(c.Version),
		Cipher: CipherName(c.CipherSuite), Group: GroupName(c.CurveID), SNI: c.ServerName, ALPN: c.NegotiatedProtocol})
	s.peer, s.local = nil, nil
}

// Shake runs the handshake as far as it goes with in, the ciphertext that arrived and was not taken yet, and returns how much it took: whole records
// only. It does nothing without a whole record (except for a client's hello) and while a signature is waited for. What is left after State is Open
// belongs to Open.
func (s *Session) Shake(in []byte) (taken int) {
	switch s.st {
	case Fresh:
		if s.role == server && s.whole(in) == 0 {
			return 0
		}
		s.co = s.e.stack()
		s.co.s = s
	case Shaking:
		if s.whole(in) == 0 {
			return 0
		}
	default:
		return 0
	}
	s.in, s.give = in, 0
	s.e.resume(s)
	taken = len(in) - len(s.in)
	s.in, s.give = nil, 0
	return taken
}

// Patient tells whether the peer can do without what a handshake has left in Out when it is Open: a server of TLS 1.3 has then nothing to say but session
// tickets (RFC 8446 section 4.6.1).
func (s *Session) Patient() bool { return s.role == server && s.tls13 }

// shaken ends the handshake.
func (s *Session) shaken() {
	if s.err != nil {
		s.st = Failed
		return
	}
	s.st = Open
	s.describe()
}

// Ready tells whether Shake could go on with in.
func (s *Session) Ready(in []byte) bool {
	switch s.st {
	case Fresh:
		return s.role == client || s.whole(in) > 0
	case Shaking:
		return s.whole(in) > 0
	}
	return false
}

// SetEngine makes a session that is Open one of another worker's: output buffers come from there. Nil while it is between the two. The configuration that
// the handshake ran with stays, and none of its functions is called any more: crypto/tls asks servers for nothing after the handshake, and clients do not
// move.
func (s *Session) SetEngine(e *Engine) { s.e = e }

// Abort ends a session whose connection is over; a handshake under way is unwound. Nothing goes to Out.
func (s *Session) Abort() {
	s.mute = true
	if s.job != nil {
		s.job.s = nil
		s.job = nil
	}
	if s.co != nil { // every park now returns an error, so the handshake comes to its end
		s.e.resume(s)
	}
	if s.st != Open {
		s.st = Failed
		if s.err == nil {
			s.err = ErrAborted
		}
	}
}

// Status is the outcome of Open.
type Status uint8

// The outcomes.
const (
	More   Status = iota // go on when more ciphertext is there
	Closed               // the peer has said close_notify: what follows is ignored
	Bad                  // a record was bad, or the peer sent an alert: see Err
)

// Unseal opens the whole records at the front of b[at:] and puts their plaintext into b[at:at+plain]. What is left of the ciphertext, the front of a
// record, is b[at+rest:]. Plaintext is always shorter than its record, so one buffer is enough.
func (s *Session) Unseal(b []byte, at int) (plain, rest int, st Status) {
	if s.st != Open {
		return 0, 0, Bad
	}
	s.in, s.give = b[at:], 0
	w := at
	for !s.eof && s.err == nil {
		if s.give = s.whole(s.in); s.give == 0 {
			break
		}
		n, err := s.conn.Read(b[w:])
		w += n
		switch {
		case err == nil:
		case err == io.EOF:
			s.eof = true
		case err != errAgain: // errAgain: the last records were not for us (tickets, key updates)
			s.err, s.st = err, Failed
		}
	}
	plain, rest = w-at, len(b)-at-len(s.in)
	s.in, s.give = nil, 0
	switch {
	case s.err != nil:
		return plain, rest, Bad
	case s.eof:
		return plain, rest, Closed
	}
	return plain, rest, More
}

// Seal appends the records of p to Out.
func (s *Session) Seal(p []byte) {
	if len(p) == 0 || s.st != Open || s.shut { // nothing makes no record, but the library would take its locks
		return
	}
	if _, err := s.conn.Write(p); err != nil && s.err == nil {
		s.err, s.st = err, Failed
	}
}

// CloseNotify appends a close_notify alert to Out (RFC 8446 section 6.1); what is sealed later is dropped. Reading goes on.
func (s *Session) CloseNotify() {
	if s.st == Open && !s.shut {
		s.shut = true
		_ = s.conn.CloseWrite()
	}
}

// PeerClosed tells whether the peer's close_notify was received: an end of the stream without it is a truncation.
func (s *Session) PeerClosed() bool { return s.eof }

const (
	recordHeader = 5
	// maxCiphertext is the largest record of any version (RFC 5246 section 6.2.3).
	maxCiphertext = 16384 + 2048
)

// whole is the length of the record at the front of b, 0 if a part of it is missing. What the library rejects by its header alone, too large
// or no TLS from the start, is handed over as it is, so that a peer which speaks something else hears so at once.
func (s *Session) whole(b []byte) int {
	if len(b) < recordHeader {
		return 0
	}
	n := recordHeader + int(b[3])<<8 + int(b[4])
	first := s.got == 0 && s.st != Open
	if n > recordHeader+maxCiphertext || first && (b[0] != 21 && b[0] != 22 || b[1] >= 0x10) {
		return len(b)
	}
	if len(b) < n {
		return 0
	}
	return n
}
