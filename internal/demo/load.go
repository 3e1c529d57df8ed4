// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"fmt"
	"io"
	"math/bits"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// generator is a small closed-loop traffic generator: GETs and POSTs over keep-alive connections.
type generator struct {
	base   string
	client *http.Client
	conns  *connections
	done   chan struct{}
	wg     sync.WaitGroup
	total  atomic.Int64
	failed atomic.Int64
	first  atomic.Pointer[string]
	hist   [64 * 8]atomic.Int64 // microseconds: eight steps per power of two
	last   int64
	lastAt time.Time
}

func newGenerator(base string, clients int) *generator {
	return startGenerator(base, clients, &http.Transport{MaxIdleConnsPerHost: clients})
}

// newHTTP2Generator speaks HTTP/2 with prior knowledge.
func newHTTP2Generator(base string, clients int) *generator {
	t := &http.Transport{Protocols: new(http.Protocols)}
	t.Protocols.SetUnencryptedHTTP2(true)
	return startGenerator(base, clients, t)
}

func startGenerator(base string, clients int, t *http.Transport) *generator {
	g := &generator{base: base, done: make(chan struct{}), lastAt: time.Now(), conns: &connections{}, client: &http.Client{Timeout: 10 * time.Second, Transport: t}}
	t.DialContext = g.conns.dial
	for i := range clients {
		g.wg.Add(1)
		go g.run(i)
	}
	return g
}

func (g *generator) run(i int) {
	defer g.wg.Done()
	for n := 0; ; n++ {
		select {
		case <-g.done:
			return
		default:
		}
		start := time.Now()
		err := g.one(fmt.Sprintf("%s/load/%d", g.base, i), n%4 == 3)
		g.record(time.Since(start))
		g.total.Add(1)
		if err != nil {
			g.failed.Add(1)
			text := err.Error()
			g.first.CompareAndSwap(nil, &text)
		}
		time.Sleep(time.Millisecond)
	}
}

func (g *generator) one(url string, post bool) error {
	var r *http.Response
	var err error
	if post {
		// A body that cannot be replayed by the client: a lost request shows as a failure.
		r, err = g.client.Post(url, "text/plain", io.LimitReader(zeros{}, 1000))
	} else {
		r, err = g.client.Get(url)
	}
	if err != nil {
		return err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	if r.StatusCode != 200 {
		return fmt.Errorf("status %d: %s", r.StatusCode, b)
	}
	return nil
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '0'
	}
	return len(p), nil
}

func (g *generator) record(d time.Duration) {
	us := max(uint64(d.Microseconds()), 1)
	e := bits.Len64(us) - 1
	step := 0
	if e >= 3 {
		step = int(us>>(e-3)) & 7
	}
	g.hist[min(e*8+step, len(g.hist)-1)].Add(1)
}

// quantile is the upper edge of the bucket that holds quantile q.
func (g *generator) quantile(q float64) time.Duration {
	var sum int64
	for i := range g.hist {
		sum += g.hist[i].Load()
	}
	left := int64(float64(sum) * q)
	for i := range g.hist {
		if left -= g.hist[i].Load(); left < 0 {
			e, step := i/8, i%8
			us := float64(uint64(1)<<e) * (1 + float64(step+1)/8)
			return time.Duration(us * float64(time.Microsecond)).Round(time.Microsecond)
		}
	}
	return 0
}

func (g *generator) counts() (total, failed int64, first string) {
	if p := g.first.Load(); p != nil {
		first = *p
	}
	return g.total.Load(), g.failed.Load(), first
}

func (g *generator) line() string {
	now, total := time.Now(), g.total.Load()
	rps := float64(total-g.last) / now.Sub(g.lastAt).Seconds()
	g.last, g.lastAt = total, now
	return fmt.Sprintf("%7.0f rps  p50 %-8s p99 %-8s  requests %d  failures %d", rps, g.quantile(0.5), g.quantile(0.99), total, g.failed.Load())
}

func (g *generator) stop() {
	close(g.done)
	g.wg.Wait()
	g.client.CloseIdleConnections()
}
