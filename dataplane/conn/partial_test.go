// SPDX-License-Identifier: Apache-2.0

package conn

import (
	"bytes"
	"crypto/tls"
	"io"
	"testing"
)

func TestTLS_WhenTheKernelTakesAPartOfARecord_ThenTheRestFollows(t *testing.T) {
	r := newRig(t)
	w := NewTLS(r.l, nil)
	srv, cli := configs(tls.VersionTLS13, "ecdsa", false)
	srv.SessionTicketsDisabled = true // nothing waits for the first record
	o, p := r.secured(w, srv, cli, 1<<20, nil)
	over, _ := done(p.Handshake)
	r.until("handshake", func() bool { return over() && o.c.Session() != nil })
	head, body := pattern(100), pattern(maxPlain-100)
	o.c.Send(head, body)
	if n := r.l.Bufs.Outstanding(); n != 0 || r.l.Bufs.Flights() != 0 || o.c.BytesOut != maxPlain {
		t.Errorf("%d bytes held for a record that was taken whole, %d counted", n, o.c.BytesOut)
	}
	msg, partial := append(head, body...), false
	for range 3 * (8 << 20) / maxPlain { // more than two sockets hold
		before := o.c.BytesOut
		o.c.Send(body, head)
		msg = append(append(msg, body...), head...)
		if o.c.Queued() > 0 {
			partial = o.c.BytesOut > before
			break
		}
	}
	if sum := uint64(len(msg)) - o.c.BytesOut; !partial || o.c.Queued() > maxPlain+maxOverhead || sum == 0 || sum > maxPlain {
		t.Fatalf("%d bytes queued, %d of %d counted: no record was taken in part", o.c.Queued(), o.c.BytesOut, len(msg))
	}
	o.c.Send(head, nil) // behind what is left
	msg = append(msg, head...)
	got := make([]byte, len(msg))
	over, err := done(func() error { _, err := io.ReadFull(p, got); return err })
	r.until("all", over)
	if err() != nil || !bytes.Equal(got, msg) || o.c.BytesOut != uint64(len(msg)) || r.l.Bufs.Outstanding() != 0 || r.l.Bufs.Flights() != 0 {
		t.Errorf("%v, %d of %d counted, %d bytes left", err(), o.c.BytesOut, len(msg), r.l.Bufs.Outstanding())
	}
	o.c.Close()
}
