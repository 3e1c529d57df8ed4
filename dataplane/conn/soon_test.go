// SPDX-License-Identifier: Apache-2.0

package conn

import (
	"bytes"
	"crypto/tls"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sidecar/dataplane/loop"
	"sidecar/dataplane/sys"
)

// counting counts the sends that reach the kernel.
type counting struct {
	*sys.Linux
	sends int
}

func (k *counting) Send(fd sys.FD, p []byte) (int, sys.Errno) { k.sends++; return k.Linux.Send(fd, p) }

func (k *counting) Send2(fd sys.FD, a, b []byte) (int, sys.Errno) {
	k.sends++
	return k.Linux.Send2(fd, a, b)
}

func countingRig(t *testing.T) (*rig, *counting) {
	k := &counting{Linux: sys.NewLinux()}
	l, err := loop.New(loop.Config{Kernel: k}, func(loop.Msg) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return &rig{t, l}, k
}

func TestSendSoon_WhenOtherThingsFollowInTheTurn_ThenThePeerGetsEverythingInOrder(t *testing.T) {
	big := strings.Repeat("b", maxSoon+1)
	for _, tc := range []struct {
		name  string
		do    func(c *Conn)
		early string // before the turn ends
		want  string
		end   string
		sends int
	}{
		{"nothing", func(*Conn) {}, "", "head", "open", 1},
		{"more of the kind", func(c *Conn) { c.SendSoon([]byte("+1")); c.SendSoon([]byte("+2")) }, "", "head+1+2", "open", 1},
		{"a send that does not wait", func(c *Conn) { c.Send([]byte("+now"), nil) }, "head+now", "head+now", "open", 2},
		{"a send, and more of the kind", func(c *Conn) { c.Send([]byte("+now"), nil); c.SendSoon([]byte("+soon")) }, "head+now", "head+now+soon", "open", 3},
		{"more than the bound", func(c *Conn) { c.SendSoon([]byte(big)) }, "head" + big, "head" + big, "open", 2},
		{"settle", func(c *Conn) { c.Settle(); c.Settle() }, "head", "head", "open", 1},
		{"close", (*Conn).Close, "head", "head", "eof", 1},
		{"close after flush", (*Conn).CloseAfterFlush, "head", "head", "eof", 1},
		{"close for writing", (*Conn).CloseWrite, "head", "head", "eof", 1},
		{"release", func(c *Conn) { c.Release() }, "head", "head", "open", 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, k := countingRig(t)
			c, o, peer := r.pair(false, 64<<10)
			r.turns()
			o.runs = 0
			c.SendSoon([]byte("head"))
			if got, _ := drain(peer); len(got) != 0 || k.sends != 0 || c.Queued() != 0 || c.Room() != 64<<10 {
				t.Errorf("%q sent at once, %d sends; %d bytes refused", got, k.sends, c.Queued())
			}
			tc.do(c)
			got, end := drain(peer)
			if string(got) != tc.early {
				t.Errorf("%.30q before the end of the turn, want %.30q", got, tc.early)
			}
			r.l.Turn(false)
			if end == "open" {
				var more []byte
				more, end = drain(peer)
				got = append(got, more...)
			}
			if string(got) != tc.want || end != tc.end || k.sends != tc.sends {
				t.Errorf("peer got %.30q, %s, in %d sends; want %.30q, %s, %d", got, end, k.sends, tc.want, tc.end, tc.sends)
			}
			if int(c.BytesOut) != len(tc.want) {
				t.Errorf("counted %d of %d bytes", c.BytesOut, len(tc.want))
			}
			if n := r.l.Bufs.Outstanding(); n != 0 || tc.early == "" && o.runs != 0 {
				t.Errorf("%d bytes left, %d wake-ups", n, o.runs)
			}
		})
	}
}

func TestSendSoon_WhenThePeerDoesNotRead_ThenTheOwnerHearsAndNothingCountsTwice(t *testing.T) {
	r := newRig(t)
	c, o, peer := r.pair(false, 64<<10)
	r.turns()
	_ = unix.SetsockoptInt(int(c.FD()), unix.SOL_SOCKET, unix.SO_SNDBUF, 4096)
	o.runs = 0
	piece := bytes.Repeat([]byte("0123456789abcdef"), 512)
	sent := 0
	for c.Queued() == 0 {
		c.SendSoon(piece)
		sent += len(piece)
		r.l.Turn(false)
	}
	r.l.Turn(false)
	if o.runs == 0 {
		t.Error("not woken when output was refused")
	}
	c.SendSoon(piece) // goes behind what was refused
	sent += len(piece)
	var got []byte
	for end := time.Now().Add(5 * time.Second); len(got) < sent && time.Now().Before(end); r.l.Turn(false) {
		b, _ := drain(peer)
		got = append(got, b...)
	}
	if len(got) != sent || int(c.BytesOut) != sent || c.Queued() != 0 {
		t.Errorf("peer got %d, counted %d, sent %d", len(got), c.BytesOut, sent)
	}
	for i := range got {
		if got[i] != piece[i%len(piece)] {
			t.Fatalf("byte %d differs", i)
		}
	}
}

func TestSendSoon_WhenThePeerIsGone_ThenTheOwnerIsWoken(t *testing.T) {
	r := newRig(t)
	c, o, peer := r.pair(false, 64<<10)
	r.turns()
	unix.Close(peer)
	o.runs = 0
	c.SendSoon([]byte("x"))
	if c.Broken() {
		t.Error("failed before it was sent")
	}
	r.l.Turn(false)
	r.l.Turn(false)
	if !c.Broken() || o.runs == 0 || c.Err() != sys.EPIPE {
		t.Errorf("broken %v, %d wake-ups, %v", c.Broken(), o.runs, c.Err())
	}
}

func TestSendSoon_WhenOverTLS_ThenRecordsLeaveTogetherAndCountAtOnce(t *testing.T) {
	r, k := countingRig(t)
	w := NewTLS(r.l, nil)
	defer w.Close()
	srv, cli := configs(tls.VersionTLS13, "ecdsa", false)
	o, peer := r.secured(w, srv, cli, 64<<10, nil)
	over, _ := done(peer.Handshake)
	r.until("the handshake", func() bool { return over() && !o.c.Shaking() })
	r.turns()
	k.sends, o.c.BytesOut = 0, 0
	o.c.SendSoon([]byte("one "))
	o.c.SendSoon([]byte("two "))
	if k.sends != 0 || o.c.BytesOut != 8 || o.c.Queued() != 0 {
		t.Errorf("%d sends, %d counted, %d refused", k.sends, o.c.BytesOut, o.c.Queued())
	}
	o.c.Close() // with close_notify behind it
	got := make([]byte, 0, 64)
	over, err := done(func() error {
		b := make([]byte, 64)
		for {
			n, err := peer.Read(b)
			if got = append(got, b[:n]...); err != nil {
				return err
			}
		}
	})
	r.until("the end", over)
	if string(got) != "one two " || err().Error() != "EOF" || k.sends != 2 || o.c.BytesOut != 8 {
		t.Errorf("peer got %q and %v in %d sends, %d counted", got, err(), k.sends, o.c.BytesOut)
	}
}

func TestSendSoon_WhenSteady_ThenNothingIsAllocated(t *testing.T) {
	if raced {
		t.Skip("the race detector allocates")
	}
	r := newRig(t)
	c, _, peer := r.pair(false, 64<<10)
	r.turns()
	b, msg := make([]byte, 64), []byte("message")
	if n := testing.AllocsPerRun(200, func() {
		c.SendSoon(msg)
		r.l.Turn(false)
		_, _ = unix.Read(peer, b)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
