// SPDX-License-Identifier: Apache-2.0

package tls

import (
	"crypto"
	"crypto/rand"
	"errors"
	"io"
	"slices"
)

// Signer makes key asynchronous in the handshakes of e: a signature parks the handshake and shows as Session.Job, to be run elsewhere. For keys whose
// signatures are slow (RSA) or made by somebody else; an ECDSA signature is cheaper than the way to another thread. Outside of a handshake it signs
// at once. A key that can also decrypt keeps that ability (RSA key exchange of TLS 1.2).
func (e *Engine) Signer(key crypto.Signer) crypto.Signer {
	a := asyncSigner{e, key}
	if d, ok := key.(crypto.Decrypter); ok {
		return &asyncDecrypter{a, d}
	}
	return &a
}

type asyncSigner struct {
	e   *Engine
	key crypto.Signer
}

// Public returns the public key.
func (a *asyncSigner) Public() crypto.PublicKey { return a.key.Public() }

// Sign parks the running handshake until the signature is there. The library's source of randomness stays on this thread; Job brings its own.
func (a *asyncSigner) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	s := a.e.current
	if s == nil || s.co == nil {
		return a.key.Sign(random, digest, opts)
	}
	return s.park(&Job{key: a.key, input: slices.Clone(digest), opts: opts})
}

type asyncDecrypter struct {
	asyncSigner
	dec crypto.Decrypter
}

// Decrypt parks the running handshake until the plaintext is there.
func (a *asyncDecrypter) Decrypt(random io.Reader, msg []byte, opts crypto.DecrypterOpts) ([]byte, error) {
	s := a.e.current
	if s == nil || s.co == nil {
		return a.dec.Decrypt(random, msg, opts)
	}
	return s.park(&Job{dec: a.dec, input: slices.Clone(msg), dopts: opts})
}

// Job is a private-key operation that a handshake waits for. The owner takes it from Session.Job, has Run called on any thread, and brings it back to
// the worker's thread with Done.
type Job struct {
	// Immutable
	key   crypto.Signer
	dec   crypto.Decrypter
	input []byte
	opts  crypto.SignerOpts
	dopts crypto.DecrypterOpts

	// Whoever runs it, then Worker
	out []byte
	err error

	// Worker
	s     *Session // nil when the session ended meanwhile
	taken bool
}

// Run does the operation. Any thread; once.
func (j *Job) Run() {
	defer func() {
		if recover() != nil {
			j.out, j.err = nil, errSign
		}
	}()
	if j.dec != nil {
		j.out, j.err = j.dec.Decrypt(rand.Reader, j.input, j.dopts)
		return
	}
	j.out, j.err = j.key.Sign(rand.Reader, j.input, j.opts)
}

// Refuse makes the operation fail with err instead of running it.
func (j *Job) Refuse(err error) { j.out, j.err = nil, err }

var errSign = errors.New("tls: panic in a private key")

// park gives the handshake's thread back until j is done.
func (s *Session) park(j *Job) ([]byte, error) {
	j.s, s.job = s, j
	s.co.yield(sigSign)
	if s.mute {
		return nil, errDead
	}
	s.job = nil
	return j.out, j.err
}

// Job is the operation that the handshake waits for: once for each, nil afterwards and in other states.
func (s *Session) Job() *Job {
	if s.st != Signing || s.job == nil || s.job.taken {
		return nil
	}
	s.job.taken = true
	return s.job
}

// Done brings a job back that was run or refused and goes on with its handshake, with in as in Shake. The session is nil when it ended meanwhile.
func (j *Job) Done(in []byte) (taken int) {
	s := j.s
	if s == nil || s.st != Signing || s.job != j {
		return 0
	}
	s.in, s.give = in, 0
	s.e.resume(s)
	taken = len(in) - len(s.in)
	s.in, s.give = nil, 0
	return taken
}

// Session is whom the job belongs to; nil when it ended meanwhile.
func (j *Job) Session() *Session { return j.s }
