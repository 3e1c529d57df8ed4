// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"fmt"
	"math/rand"
	"strings"
	"testing"

	xh2 "golang.org/x/net/http2"

	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/stats"
)

// h2stress has clients open, feed, reset and abandon streams at random against an upstream that answers, resets, says GOAWAY and breaks at random; in the
// end nothing may be held.
func h2stress(t *testing.T, seed int64, up snapshot.UpstreamProtocol) {
	rnd := rand.New(rand.NewSource(seed))
	r := newRig(t, 1)
	r.row.Protocol = up
	r.quiet = true
	r.lis.BufferLimit, r.row.BufferLimit = 32<<10, 32<<10
	var clients []*h2peer
	ids := map[*h2peer]uint32{}
	type upstream struct {
		h    *h2peer
		open []uint32
		raw  *peer
	}
	var ups []*upstream
	data := strings.Repeat("d", 9000)
	for range 400 {
		if len(clients) < 3 {
			c := r.dialH2()
			c.send()
			clients, ids[c] = append(clients, c), 1
		}
		i := rnd.Intn(len(clients))
		c := clients[i]
		id := ids[c]
		switch rnd.Intn(9) {
		case 0, 1:
			c.get(id, "/g")
			ids[c] += 2
		case 2, 3:
			c.post(id, "/p")
			c.data(id, data[:rnd.Intn(len(data))], rnd.Intn(2) == 0)
			ids[c] += 2
		case 4:
			if id > 1 {
				must(t, c.fr.WriteRSTStream(1+2*uint32(rnd.Intn(int(id/2))), xh2.ErrCodeCancel))
			}
		case 5:
			if id > 1 {
				must(t, c.fr.WriteWindowUpdate(0, 20000))
				must(t, c.fr.WriteWindowUpdate(1+2*uint32(rnd.Intn(int(id/2))), 20000))
			}
		case 6:
			if rnd.Intn(6) == 0 {
				c.close()
				clients = append(clients[:i], clients[i+1:]...)
				continue
			}
		case 7:
			if id > 1 {
				c.headers(id-2, true, "x-t", "1")
			}
		default:
			r.k.Skew += sys.Millisecond * sys.Nanos(rnd.Intn(3000))
		}
		if out := c.out.String(); out != "" {
			c.out.Reset()
			_, _ = writeSome(c.peer, []byte(out))
		}
		r.turn()
		if got, eof := c.read(); eof {
			_ = got
			c.close()
			clients = append(clients[:i], clients[i+1:]...)
		}
		for p := r.ups[0].accept(); p != nil; p = r.ups[0].accept() {
			u := &upstream{raw: p}
			if up == snapshot.UpstreamHTTP2 {
				u.h = r.h2(p, false)
				u.h.in.Reset()
			}
			ups = append(ups, u)
		}
		for j := 0; j < len(ups); j++ {
			u := ups[j]
			text, eof := u.raw.read()
			if eof || rnd.Intn(60) == 0 {
				u.raw.close()
				ups = append(ups[:j], ups[j+1:]...)
				j--
				continue
			}
			if u.h == nil {
				if strings.Contains(text, " HTTP/1.1\r\n") && rnd.Intn(3) > 0 {
					n := rnd.Intn(60000)
					_, _ = writeSome(u.raw, []byte(fmt.Sprintf("HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s", n, strings.Repeat("z", n/(1+rnd.Intn(2))))))
				}
				continue
			}
			u.h.in.WriteString(strings.TrimPrefix(text, xh2.ClientPreface))
			for u.h.in.Len() >= 9 {
				b := u.h.in.Bytes()
				if len(b) < 9+int(b[0])<<16+int(b[1])<<8+int(b[2]) {
					break
				}
				f, err := u.h.fr.ReadFrame()
				if err != nil {
					break
				}
				switch f.(type) {
				case *xh2.HeadersFrame:
					u.open = append(u.open, f.Header().StreamID)
				case *xh2.RSTStreamFrame:
					for k, id := range u.open {
						if id == f.Header().StreamID {
							u.open = append(u.open[:k], u.open[k+1:]...)
							break
						}
					}
				}
			}
			if n := len(u.open); n > 0 {
				k := rnd.Intn(n)
				id := u.open[k]
				u.open = append(u.open[:k], u.open[k+1:]...)
				switch rnd.Intn(6) {
				case 0:
					must(t, u.h.fr.WriteRSTStream(id, xh2.ErrCodeRefusedStream))
				case 1:
					must(t, u.h.fr.WriteRSTStream(id, xh2.ErrCodeInternal))
				case 2:
					must(t, u.h.fr.WriteGoAway(id, xh2.ErrCodeNo, nil))
				default:
					u.h.headers(id, false, ":status", "200")
					u.h.data(id, data[:rnd.Intn(len(data))], false)
					u.h.headers(id, true, "x-t", "1")
				}
				out := u.h.out.String()
				u.h.out.Reset()
				_, _ = writeSome(u.raw, []byte(out))
			}
		}
		r.turn()
	}
	for _, c := range clients {
		c.close()
	}
	r.turn()
	for _, u := range ups {
		u.raw.close()
	}
	r.turn()
	r.wait(3 * 3600 * sys.Second)
	r.check()
	if a, b := r.env.Connections(), r.env.Mux.Streams(); a != 0 || b != 0 {
		t.Errorf("seed %d: %d connections, %d streams are left", seed, a, b)
	}
	if total, done := r.hcmStat(stats.HCMDownstreamRqTotal), r.hcmStat(stats.HCMDownstreamRqCompleted); total < 50 || done < 10 {
		t.Errorf("seed %d: only %d requests, %d answers", seed, total, done)
	}
	if n := r.l.Stats().Panics; n != 0 {
		t.Errorf("seed %d: %d panics", seed, n)
	}
	if n := r.l.Bufs.Outstanding(); n != 0 {
		t.Errorf("seed %d: %d bytes of buffers are left", seed, n)
	}
}

func TestStress_WhenHTTP2PeersDoWhatTheyLike_ThenNothingIsHeld(t *testing.T) {
	for seed := range int64(20) {
		h2stress(t, seed, snapshot.UpstreamHTTP2)
		h2stress(t, 100+seed, snapshot.UpstreamHTTP1)
	}
}
