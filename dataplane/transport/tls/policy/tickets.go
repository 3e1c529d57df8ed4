// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"slices"
)

// Ticket layout: key id (8), nonce (12), then sealed: time of making in Unix seconds (8), session state. The context's hash is the additional data.
const (
	ticketID    = 8
	ticketNonce = 12
	// ticketEpoch is how long a key derived from the process's own secret seals; it opens for as long again.
	ticketEpoch = 12 * 3600
	// Lifetimes of sessions in seconds when session_timeout is not set: BoringSSL's.
	lifetime12 = 7200
	lifetime13 = 2 * 86400
)

// process is the secret of this process from which ticket keys are derived where a context has none.
var process = func() []byte {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return b
}()

// sealer seals and opens the session tickets of one context. Immutable.
type sealer struct {
	keys    []ticketKey // of the configuration; the first seals. Empty: keys derived from the process's secret by time
	context [sha256.Size]byte
	timeout int64
}

type ticketKey struct {
	id   [ticketID]byte
	aead cipher.AEAD
}

func newSealer(k *TicketKeys, context [sha256.Size]byte, timeout int64) *sealer {
	s := &sealer{context: context, timeout: timeout}
	if k != nil {
		for i := range k.Keys {
			s.keys = append(s.keys, newTicketKey(k.Keys[i][:], context, 0))
		}
	}
	return s
}

// newTicketKey derives the key of one context from a secret.
func newTicketKey(secret []byte, context [sha256.Size]byte, epoch int64) ticketKey {
	info := binary.BigEndian.AppendUint64(append([]byte("sidecar session ticket"), context[:]...), uint64(epoch))
	out, err := hkdf.Key(sha256.New, secret, nil, string(info), ticketID+32)
	if err != nil {
		panic(err) // the length is a constant that HKDF can make
	}
	block, err := aes.NewCipher(out[ticketID:])
	if err != nil {
		panic(err) // the length is a constant that AES has
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err) // AES has the block size that GCM wants
	}
	return ticketKey{[ticketID]byte(out[:ticketID]), aead}
}

// ticketRing holds the keys that a worker uses for one context at a time. Worker-owned.
type ticketRing struct {
	s     *sealer
	epoch int64 // of keys[0]; for keys derived by time
	keys  []ticketKey
}

// renew makes the keys for the time now.
func (r *ticketRing) renew(now int64) {
	if len(r.s.keys) > 0 {
		r.keys = r.s.keys
		return
	}
	if e := now / ticketEpoch; e != r.epoch || r.keys == nil {
		r.epoch = e
		// The process's secret lives as long as the process; the epochs only bound how much one key seals and how long a ticket is taken.
		r.keys = []ticketKey{newTicketKey(process, r.s.context, e), newTicketKey(process, r.s.context, e-1)}
		for i := int64(2); i*ticketEpoch <= r.s.longest(); i++ {
			r.keys = append(r.keys, newTicketKey(process, r.s.context, e-i))
		}
	}
}

// longest is the longest lifetime of a session, bounded to a week as in crypto/tls.
func (s *sealer) longest() int64 {
	if s.timeout > 0 {
		return min(s.timeout, 7*86400)
	}
	return lifetime13
}

func (s *sealer) lifetime(version uint16) int64 {
	switch {
	case s.timeout > 0:
		return s.timeout
	case version == tls.VersionTLS13:
		return lifetime13
	}
	return lifetime12
}

var errTicket = errors.New("tls: cannot seal a session ticket")

// wrap seals a session (tls.Config.WrapSession).
func (r *ticketRing) wrap(now int64, ss *tls.SessionState) ([]byte, error) {
	state, err := ss.Bytes()
	if err != nil {
		return nil, err
	}
	r.renew(now)
	k := &r.keys[0]
	out := make([]byte, ticketID+ticketNonce, ticketID+ticketNonce+8+len(state)+k.aead.Overhead())
	copy(out, k.id[:])
	if _, err := rand.Read(out[ticketID:]); err != nil {
		return nil, errTicket
	}
	plain := append(binary.BigEndian.AppendUint64(make([]byte, 0, 8+len(state)), uint64(now)), state...)
	return k.aead.Seal(out, out[ticketID:], plain, r.s.context[:]), nil
}

// unwrap opens a ticket (tls.Config.UnwrapSession). Nil means a full handshake: unknown key, another context, too old, or garbage.
func (r *ticketRing) unwrap(now int64, version uint16, ticket []byte) *tls.SessionState {
	if len(ticket) < ticketID+ticketNonce {
		return nil
	}
	r.renew(now)
	i := slices.IndexFunc(r.keys, func(k ticketKey) bool { return string(k.id[:]) == string(ticket[:ticketID]) })
	if i < 0 {
		return nil
	}
	plain, err := r.keys[i].aead.Open(nil, ticket[ticketID:ticketID+ticketNonce], ticket[ticketID+ticketNonce:], r.s.context[:])
	if err != nil || len(plain) < 8 {
		return nil
	}
	if age := now - int64(binary.BigEndian.Uint64(plain)); age < 0 || age >= r.s.lifetime(version) {
		return nil
	}
	ss, err := tls.ParseSessionState(plain[8:])
	if err != nil {
		return nil
	}
	return ss
}
