// SPDX-License-Identifier: Apache-2.0

package tls

import (
	"bytes"
	"testing"
)

// FuzzStream damages the records of an established session: whatever a peer, or somebody between, makes of them, nothing panics, and what is opened is
// what was sent, in its order up to the damage.
func FuzzStream(f *testing.F) {
	f.Add(uint8(0), []byte{})
	f.Add(uint8(1), []byte{1, 3})          // drop a record
	f.Add(uint8(3), []byte{2, 0, 3, 5})    // repeat one, swap two
	f.Add(uint8(4), []byte{4, 7, 5, 40})   // flip a bit, cut the end
	f.Add(uint8(0), []byte{6, 22, 6, 255}) // insert bytes
	f.Fuzz(func(t *testing.T, how uint8, ops []byte) {
		srv, cli := couple(t, variants[int(how)%len(variants)], 1<<20)
		var sent []byte
		var recs [][]byte
		for i := range 8 {
			msg := bytes.Repeat([]byte{byte('a' + i)}, 50*i+1)
			sent = append(sent, msg...)
			cli.Seal(msg)
			recs = append(recs, bytes.Clone(cli.Out))
			cli.Out = cli.Out[:0]
		}
		in := damage(recs, ops)
		chunk := int(how)%97 + 1
		for len(in) > 0 && srv.st == More {
			n := min(chunk, len(in))
			srv.in = append(srv.in, in[:n]...)
			in = in[n:]
			srv.step()
		}
		if !bytes.HasPrefix(sent, srv.plain) {
			t.Errorf("opened %q", srv.plain)
		}
		if len(ops) < 2 && len(srv.plain) != len(sent) {
			t.Errorf("%d of %d bytes: %v", len(srv.plain), len(sent), srv.Err())
		}
	})
}

// damage applies pairs of operation and argument.
func damage(recs [][]byte, ops []byte) []byte {
	cut := -1
	for i := 0; i+1 < len(ops) && i < 32; i += 2 {
		at := int(ops[i+1]) % len(recs)
		r := recs[at]
		switch ops[i] % 7 {
		case 1:
			recs[at] = nil
		case 2:
			recs[at] = append(bytes.Clone(r), r...)
		case 3:
			to := (at + 1) % len(recs)
			recs[at], recs[to] = recs[to], r
		case 4:
			if len(r) > 0 {
				r[int(ops[i+1])%len(r)] ^= 1 << (i % 8)
			}
		case 5:
			cut = int(ops[i+1]) * 4
		case 6:
			recs[at] = append([]byte{ops[i+1], 3, 3, 0, ops[i]}, r...)
		}
	}
	in := bytes.Join(recs, nil)
	if cut >= 0 {
		in = in[:min(cut, len(in))]
	}
	return in
}

// FuzzHandshake gives a server bytes that no peer of ours would send, whole and in pieces.
func FuzzHandshake(f *testing.F) {
	_, cc := variants[0].configs()
	s := engine().Client(cc)
	s.Shake(nil)
	f.Add(uint8(0), bytes.Clone(s.Out))
	f.Add(uint8(3), bytes.Clone(s.Out))
	s.Abort()
	f.Add(uint8(0), []byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add(uint8(1), []byte{22, 3, 1, 0, 0, 21, 3, 3, 0, 2, 2, 40})
	f.Fuzz(func(t *testing.T, how uint8, in []byte) {
		var first State
		for i, chunk := range []int{len(in) + 1, int(how)%13 + 1} {
			sc, _ := variants[int(how)%len(variants)].configs()
			e := engine()
			srv := &end{Session: e.Server(sc)}
			for rest := in; len(rest) > 0 && srv.State() < Failed; {
				n := min(chunk, len(rest))
				srv.in = append(srv.in, rest[:n]...)
				rest = rest[n:]
				for was := -1; was != len(srv.in) && srv.State() < Open; {
					was = len(srv.in)
					srv.step()
				}
			}
			if i == 0 {
				first = srv.State()
			} else if first != srv.State() {
				t.Errorf("whole: state %v, in pieces: %v", first, srv.State())
			}
			srv.Abort()
			if e.Close(); e.Stacks() != 0 {
				t.Errorf("%d stacks left", e.Stacks())
			}
		}
	})
}
