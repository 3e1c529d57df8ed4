// SPDX-License-Identifier: Apache-2.0

package tls

import (
	"io"
	"net"
	"time"
)

// wire is the face of a Session towards crypto/tls: a net.Conn that never waits. Reading takes what the caller of the running Session method brought,
// writing always succeeds, because the library can resume neither a handshake nor a write that failed.
type wire Session

// again is the temporary error after which crypto/tls can go on reading records.
type again struct{}

func (*again) Error() string   { return "tls: no whole record yet" }
func (*again) Timeout() bool   { return true }
func (*again) Temporary() bool { return true }

// Read hands out the next whole record, or what is left of the one that was begun.
func (w *wire) Read(p []byte) (int, error) {
	for w.give == 0 {
		if w.mute {
			return 0, errDead
		}
		if w.give = (*Session)(w).whole(w.in); w.give > 0 {
			break
		}
		if w.co == nil {
			return 0, errAgain
		}
		w.co.yield(sigRead)
	}
	n := copy(p, w.in[:w.give])
	w.in, w.give = w.in[n:], w.give-n
	if w.co != nil {
		if w.got += int32(n); w.got > maxHandshake {
			return n, ErrTooLong
		}
	}
	return n, nil
}

// Write takes everything: back-pressure is the owner's, above TLS.
func (w *wire) Write(p []byte) (int, error) {
	if w.mute {
		return len(p), nil
	}
	w.Out = append(w.e.Pool.Grow(w.Out, len(p)), p...)
	return len(p), nil
}

// Close does nothing: the socket belongs to the owner.
func (w *wire) Close() error { return nil }

// LocalAddr is not known here.
func (w *wire) LocalAddr() net.Addr { return nowhere{} }

// RemoteAddr is not known here.
func (w *wire) RemoteAddr() net.Addr { return nowhere{} }

// SetDeadline does nothing: timeouts are the owner's.
func (w *wire) SetDeadline(time.Time) error { return nil }

// SetReadDeadline does nothing.
func (w *wire) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline does nothing; the library calls it around close_notify.
func (w *wire) SetWriteDeadline(time.Time) error { return nil }

// SessionOf returns the session behind the Conn of a tls.ClientHelloInfo.
func SessionOf(c net.Conn) *Session {
	w, _ := c.(*wire)
	return (*Session)(w)
}

// nowhere is the address of a connection whose socket somebody else has.
type nowhere struct{}

func (nowhere) Network() string { return "tcp" }
func (nowhere) String() string  { return "" }

var (
	_ net.Conn  = (*wire)(nil)
	_ io.Writer = (*wire)(nil)
)
