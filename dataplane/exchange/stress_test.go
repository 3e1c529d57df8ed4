// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"bytes"
	"fmt"
	"math/rand"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sidecar/dataplane/route"
	"sidecar/dataplane/sys"
)

// The stress test plays clients and upstreams that read and write pieces of random size, and some that break off. Its oracles: every answered
// request gets exactly the answer that belongs to it, every request is logged once, and in the end nothing is held.

// pattern is the body of n bytes that belongs to a request id.
func pattern(id, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte('a' + (id*7+i+i/251)%26)
	}
	return b
}

func chunked(rnd *rand.Rand, p []byte) []byte {
	var out []byte
	for len(p) > 0 {
		n := min(1+rnd.Intn(20000), len(p))
		out = append(out, fmt.Sprintf("%x\r\n", n)...)
		out = append(append(out, p[:n]...), "\r\n"...)
		p = p[n:]
	}
	return append(out, "0\r\n\r\n"...)
}

// stressPeer is one socket with what it still wants to write.
type stressPeer struct {
	*peer
	out  []byte
	in   []byte
	dead bool
}

var stressBuf [200000]byte

func (p *stressPeer) step(rnd *rand.Rand) {
	if p.dead {
		return
	}
	if len(p.out) > 0 {
		n, err := unix.Write(p.FD, p.out[:min(1+rnd.Intn(100000), len(p.out))])
		if err != nil && err != unix.EAGAIN {
			p.dead = true
		}
		p.out = p.out[max(n, 0):]
	}
	buf := stressBuf[:1+rnd.Intn(len(stressBuf))]
	n, err := unix.Read(p.FD, buf)
	switch {
	case n > 0:
		p.in = append(p.in, buf[:n]...)
	case n == 0 && err == nil, err != nil && err != unix.EAGAIN:
		p.dead = true
	}
}

// message cuts one complete message off in: its head, its decoded body, and the rest; ok is false while it is incomplete.
func message(in []byte) (head string, body, rest []byte, ok bool) {
	i := bytes.Index(in, []byte("\r\n\r\n"))
	if i < 0 {
		return "", nil, in, false
	}
	head, rest = string(in[:i]), in[i+4:]
	switch {
	case strings.Contains(head, "transfer-encoding: chunked"):
		for {
			j := bytes.Index(rest, []byte("\r\n"))
			if j < 0 {
				return "", nil, in, false
			}
			n, err := strconv.ParseInt(string(rest[:j]), 16, 64)
			if err != nil {
				panic("bad chunk size " + string(rest[:j]))
			}
			if len(rest) < j+2+int(n)+2 {
				return "", nil, in, false
			}
			body = append(body, rest[j+2:j+2+int(n)]...)
			rest = rest[j+2+int(n)+2:]
			if n == 0 {
				return head, body, rest, true
			}
		}
	default:
		n := 0
		if j := strings.Index(head, "content-length: "); j >= 0 {
			fmt.Sscanf(head[j+16:], "%d", &n)
		}
		if len(rest) < n {
			return "", nil, in, false
		}
		return head, rest[:n], rest[n:], true
	}
}

func headerInt(head, name string) int {
	j := strings.Index(head, name+": ")
	if j < 0 {
		return -1
	}
	n := 0
	fmt.Sscanf(head[j+len(name)+2:], "%d", &n)
	return n
}

type stressClient struct {
	stressPeer
	id     int // request in flight, -1 when none
	size   int
	left   int
	fragil bool // may break off
}

func stress(t *testing.T, seed int64, breaking bool) {
	rnd := rand.New(rand.NewSource(seed))
	r := newRig(t, 2)
	r.lis.BufferLimit = 64 << 10
	r.row = r.cluster("c", r.ups[0].Addr, r.ups[1].Addr)
	r.row.BufferLimit = 64 << 10
	r.row.MaxRequestsPerConn = 7
	if seed%2 == 0 {
		r.route().Forward.Retry = &route.Retry{On: route.Retry5xx, Num: 2, MaxSelect: 1}
	}
	var clients []*stressClient
	var ups []*stressPeer
	next, sent, answered := 0, 0, 0
	for range 8 {
		clients = append(clients, &stressClient{stressPeer: stressPeer{peer: r.dial()}, id: -1, left: 6, fragil: breaking && rnd.Intn(3) == 0})
	}
	for round := 0; round < 40000; round++ {
		busy := false
		for _, c := range clients {
			if c.dead {
				continue
			}
			if c.id < 0 && c.left > 0 && len(c.in) == 0 {
				c.id, c.size = next, []int{0, 10, 3000, 40000, 250000}[rnd.Intn(5)]
				next++
				c.left--
				sent++
				body := pattern(c.id, c.size)
				switch {
				case c.size == 0:
					c.out = append(c.out, fmt.Sprintf("GET /%d HTTP/1.1\r\nhost: x\r\n\r\n", c.id)...)
				case rnd.Intn(2) == 0:
					c.out = append(c.out, fmt.Sprintf("POST /%d HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n", c.id, c.size)...)
					c.out = append(c.out, body...)
				default:
					c.out = append(c.out, fmt.Sprintf("POST /%d HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n", c.id)...)
					c.out = append(c.out, chunked(rnd, body)...)
				}
			}
			c.step(rnd)
			if c.fragil && rnd.Intn(60) == 0 {
				c.close()
				c.dead = true
				continue
			}
			if head, body, rest, ok := message(c.in); ok {
				if strings.HasPrefix(head, "HTTP/1.1 200") {
					if got := headerInt(head, "x-id"); got != c.id {
						t.Fatalf("seed %d: client waits for %d and got %d", seed, c.id, got)
					}
					if !bytes.Equal(body, pattern(c.id+1, c.size)) {
						t.Fatalf("seed %d: answer %d has %d bytes, want %d; or differs", seed, c.id, len(body), c.size)
					}
				} else if !breaking {
					t.Fatalf("seed %d: %s", seed, head)
				}
				answered++
				c.id = -1
				c.in = append([]byte(nil), rest...)
			}
			busy = busy || !c.dead && (c.id >= 0 || c.left > 0)
		}
		for _, b := range r.ups {
			if p := b.accept(); p != nil {
				ups = append(ups, &stressPeer{peer: p})
			}
		}
		for _, u := range ups {
			if u.dead {
				continue
			}
			u.step(rnd)
			head, body, rest, ok := message(u.in)
			if !ok {
				if breaking && len(u.in) > 0 && rnd.Intn(200) == 0 {
					u.close()
					u.dead = true
				}
				continue
			}
			u.in = append([]byte(nil), rest...)
			id := 0
			fmt.Sscanf(head[strings.IndexByte(head, '/')+1:], "%d", &id)
			if !bytes.Equal(body, pattern(id, len(body))) {
				t.Fatalf("seed %d: request %d arrived with another body", seed, id)
			}
			resp := pattern(id+1, len(body))
			if rnd.Intn(2) == 0 {
				u.out = append(u.out, fmt.Sprintf("HTTP/1.1 200 OK\r\nx-id: %d\r\ncontent-length: %d\r\n\r\n", id, len(resp))...)
				u.out = append(u.out, resp...)
			} else {
				u.out = append(u.out, fmt.Sprintf("HTTP/1.1 200 OK\r\nx-id: %d\r\ntransfer-encoding: chunked\r\n\r\n", id)...)
				u.out = append(u.out, chunked(rnd, resp)...)
			}
			if breaking && rnd.Intn(20) == 0 {
				u.out = u.out[:rnd.Intn(len(u.out))]
			}
			if breaking && rnd.Intn(20) == 0 {
				u.close()
				u.dead = true
			}
		}
		r.l.Turn(false)
		r.k.Skew += sys.Millisecond
		if !busy {
			break
		}
	}
	if !breaking && answered != sent {
		t.Errorf("seed %d: %d of %d requests were answered", seed, answered, sent)
	}
	for _, c := range clients {
		if !c.dead {
			c.close()
		}
	}
	r.turn()
	r.wait(3 * 3600 * sys.Second)
	r.check()
	if n := len(r.log); breaking && n > sent || !breaking && n != sent {
		t.Errorf("seed %d: %d log records for %d requests", seed, n, sent)
	}
	if n := r.env.Connections(); n != 0 {
		t.Errorf("seed %d: %d connections are left", seed, n)
	}
	for _, u := range ups {
		if !u.dead {
			u.close()
		}
	}
}

func TestStress_WhenPeersArePatient_ThenEveryAnswerBelongsToItsRequest(t *testing.T) {
	for seed := range int64(6) {
		stress(t, seed, false)
	}
}

func TestStress_WhenPeersBreakOff_ThenNothingIsHeld(t *testing.T) {
	for seed := range int64(12) {
		stress(t, 100+seed, true)
	}
}
