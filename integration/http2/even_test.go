// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// four is the number of workers of these tests.
const four = 4

// loads is the "workers" of /steering.
type loads []struct {
	Score, Connections, Requests int
	MovedIn                      int `json:"moved_in"`
	MovedOut                     int `json:"moved_out"`
}

func (p *proxy) loads() loads {
	var s struct{ Workers loads }
	if err := json.Unmarshal([]byte(p.Get("/steering")), &s); err != nil || len(s.Workers) != four {
		p.T.Fatalf("/steering: %v, %d workers", err, len(s.Workers))
	}
	return s.Workers
}

// each is downstream_cx_active or _total of listeners by worker.
func (p *proxy) each(what string, listeners ...string) (n [four]int64) {
	st := p.Stats()
	for _, l := range listeners {
		for i := range n {
			n[i] += st[fmt.Sprintf("listener.%s.worker_%d.downstream_cx_%s", l, i, what)]
		}
	}
	return n
}

// sum is of all workers.
func sum(n [four]int64) (s int64) {
	for _, x := range n {
		s += x
	}
	return s
}

// link is a client's connection of either version.
type link struct {
	c  net.Conn
	r  *bufio.Reader
	h2 *http2.ClientConn // nil: HTTP/1.1
}

// link opens a connection to a listener; conf may be nil.
func (p *proxy) link(listener string, conf *tls.Config, h2 bool) *link {
	p.T.Helper()
	c, err := net.Dial("tcp", p.Addr[listener])
	if err != nil {
		p.T.Fatal(err)
	}
	p.T.Cleanup(func() { c.Close() })
	if conf != nil {
		s := tls.Client(c, conf)
		if err := s.Handshake(); err != nil {
			p.T.Fatal(err)
		}
		c = s
	}
	l := &link{c: c, r: bufio.NewReader(c)}
	if h2 {
		if l.h2, err = (&http2.Transport{AllowHTTP: true}).NewClientConn(c); err != nil {
			p.T.Fatal(err)
		}
		if err := l.h2.Ping(context.Background()); err != nil {
			p.T.Fatal(err)
		}
	}
	return l
}

// get asks for path and checks that the answer has size bytes.
func (l *link) get(ctx context.Context, path string, size int) error {
	req, err := http.NewRequestWithContext(ctx, "GET", "http://a.test"+path, nil)
	if err != nil {
		return err
	}
	var resp *http.Response
	if l.h2 != nil {
		resp, err = l.h2.RoundTrip(req)
	} else if err = req.Write(l.c); err == nil {
		resp, err = http.ReadResponse(l.r, req)
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || len(b) != size || resp.Close {
		return fmt.Errorf("%s: status %d, %d bytes, close %v, %v", path, resp.StatusCode, len(b), resp.Close, err)
	}
	return nil
}

func evenConfig(t *testing.T) string {
	var c config
	c.listener("plain", "b", "", "")
	c.listener("tls", "b", downstreamTLS(true), "")
	c.cluster("b", backend(t, nil), "", "{}")
	for i, l := range c.listeners { // both have port 0: their statistics need names
		c.listeners[i] = strings.Replace(l, "address:", "stat_prefix: "+[]string{"plain", "tls"}[i]+", address:", 1)
	}
	return c.String()
}

// A connection with many requests in flight counts for more than one: new connections come to the workers that have little to do. When the requests are
// over, the idle connections spread.
func TestEven_WhenFewConnectionsCarryAllRequests_ThenNewOnesGoElsewhere(t *testing.T) {
	p := start(t, evenConfig(t), "--concurrency", fmt.Sprint(four))
	if !strings.Contains(p.Get("/steering"), `"mode": "ebpf"`) {
		t.Skip("without eBPF the kernel places connections")
	}
	var all []*link
	p.Until("a connection on every worker", func() bool { // a machine that is busy may stall one, which then gets none
		for _, l := range all {
			l.c.Close()
		}
		p.Until("the last ones to end", func() bool { return sum(p.each("active", "plain")) == 0 })
		all = nil
		for range four {
			all = append(all, p.link("plain", nil, true))
		}
		return p.each("active", "plain") == [four]int64{1, 1, 1, 1}
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var slow sync.WaitGroup
	want := []int{0, 3, 10, 20}
	for i, l := range all {
		for range want[i] {
			slow.Go(func() { _ = l.get(ctx, "/slow", 0) })
		}
	}
	var idle []int // workers, by requests in flight
	p.Until("requests in flight to show", func() bool {
		ls := p.loads()
		idle = []int{0, 1, 2, 3}
		slices.SortFunc(idle, func(a, b int) int { return ls[a].Requests - ls[b].Requests })
		for i, w := range idle {
			if ls[w].Requests != want[i] {
				return false
			}
		}
		return true
	})
	for range 8 {
		all = append(all, p.link("plain", nil, true))
	}
	got := p.each("active", "plain")
	if got[idle[3]]+got[idle[2]] > 3 { // it would be 6 by numbers; one may come while both others are stalled by the machine
		t.Errorf("connections by worker %v, where %v is the order of requests in flight: want the new ones on the first two", got, idle)
	}
	cancel()
	slow.Wait()
	p.Until("idle connections to spread", func() bool { return p.spread("plain") })
	for _, l := range all {
		if err := l.get(t.Context(), "/", len("hello, world\n")); err != nil {
			t.Error(err)
		}
	}
	p.Alive(t)
}

// spread tells whether no worker has more connections than another by 4, from which on they move.
func (p *proxy) spread(listeners ...string) bool {
	n := p.each("active", listeners...)
	return slices.Max(n[:])-slices.Min(n[:]) < 4
}

// Connections of every kind that the kernel has put on one worker spread, and nobody notices: requests go on, without an error and on the same
// connections, also while they move.
func TestEven_WhenConnectionsPileUpOnOneWorker_ThenTheyMoveWithoutLoss(t *testing.T) {
	p := start(t, evenConfig(t), "--concurrency", fmt.Sprint(four), "--steering", "plain")
	conf := endTLS(t, "client", "http/1.1")
	conf2 := endTLS(t, "client", "h2")
	kinds := []func() *link{
		func() *link { return p.link("plain", nil, false) },
		func() *link { return p.link("plain", nil, true) },
		func() *link { return p.link("tls", conf, false) },
		func() *link { return p.link("tls", conf2, true) },
	}
	both := []string{"plain", "tls"}
	const piled = 6 // of each kind
	var all []*link
	total := 0
	for _, open := range kinds {
		for n := 0; n < piled; { // until enough are on worker 0
			before := p.each("total", both...)
			l := open()
			total++
			var now [four]int64
			p.Until("the connection to be counted", func() bool { now = p.each("total", both...); return now != before })
			if now[0] == before[0] {
				l.c.Close()
				continue
			}
			all = append(all, l)
			n++
		}
	}
	for i, l := range all {
		if i%3 == 0 { // some never had a request
			continue
		}
		if err := l.get(t.Context(), "/100000", 100000); err != nil {
			t.Fatal(err)
		}
	}
	// A third of them has requests with pauses in which it may move, or not.
	var stop atomic.Bool
	var busy sync.WaitGroup
	var served atomic.Int64
	for i, l := range all {
		if i%3 == 1 {
			busy.Go(func() {
				for !stop.Load() {
					if err := l.get(t.Context(), "/70000", 70000); err != nil {
						t.Errorf("connection %d: %v", i, err)
						return
					}
					served.Add(1)
					time.Sleep(time.Duration(i) * 100 * time.Millisecond)
				}
			})
		}
	}
	p.Until("connections to spread", func() bool { return sum(p.each("active", both...)) == int64(len(all)) && p.spread(both...) })
	stop.Store(true)
	busy.Wait()
	for range 3 {
		for i, l := range all {
			if err := l.get(t.Context(), "/30000", 30000); err != nil {
				t.Errorf("connection %d: %v", i, err)
			}
		}
	}
	in, out := 0, 0
	for _, l := range p.loads() {
		in, out = in+l.MovedIn, out+l.MovedOut
	}
	if in != out || in < len(all)/2 {
		t.Errorf("%d connections moved out, %d in", out, in)
	}
	st := p.Stats()
	for name, want := range map[string]int64{"http.plain.downstream_cx_active": 2 * piled, "http.tls.downstream_cx_active": 2 * piled,
		"http.tls.downstream_cx_ssl_active": 2 * piled, "http.plain.downstream_cx_http1_active": piled, "http.plain.downstream_cx_http2_active": piled,
		"http.tls.downstream_cx_http1_active": piled, "http.tls.downstream_cx_http2_active": piled,
		"http.plain.downstream_cx_total": st["http.plain.downstream_cx_destroy"] + 2*piled, "http.plain.downstream_cx_protocol_error": 0} {
		if st[name] != want {
			t.Errorf("%s: %d, want %d", name, st[name], want)
		}
	}
	for _, l := range all {
		l.c.Close()
	}
	p.Until("every connection to be gone", func() bool {
		st := p.Stats()
		return p.each("active", both...) == [four]int64{} && st["http.plain.downstream_cx_active"]+st["http.tls.downstream_cx_active"] == 0
	})
	if st := p.Stats(); st["http.plain.downstream_cx_destroy_remote"]+st["http.tls.downstream_cx_destroy_remote"] != int64(total) {
		t.Errorf("%d connections were opened, and ended by the client: %d and %d", total, st["http.plain.downstream_cx_destroy_remote"],
			st["http.tls.downstream_cx_destroy_remote"])
	}
	p.Alive(t)
}
