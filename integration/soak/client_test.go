// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// patience is how long anything may take before it counts as stuck.
const patience = 20 * time.Second

// gone tells errors of a peer that went away from errors of content.
func gone(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		errors.Is(err, net.ErrClosed)
}

// The ways of a client to leave.
const (
	stays     = iota
	leaves    // closes after a random number of bytes sent or received
	resets    // the same, with RST
	halfClose // sends FIN after its requests
	forgives  // stays, and accepts any end of the connection
)

// httpConn is the script of one downstream connection.
type httpConn struct {
	run      *run
	rnd      *rand.Rand
	name     string
	plans    []*plan
	pipeline bool
	leave    int
	budget   int // bytes after which it leaves
	slow     bool
	c        *net.TCPConn
	answered chan bool // sequential mode: the writer's turn
	go100    chan bool
}

func (h *httpConn) failf(format string, a ...any) {
	h.run.failf(h.name+": "+format, a...)
}

func (r *run) httpClient(rnd *rand.Rand, name string) {
	small := rnd.IntN(3) == 0
	port := r.http
	if small {
		port = r.small
	}
	h := &httpConn{run: r, rnd: rnd, name: name, pipeline: rnd.IntN(2) == 0, slow: rnd.IntN(12) == 0}
	if rnd.IntN(5) == 0 {
		h.leave = 1 + rnd.IntN(3)
		h.budget = rnd.IntN([]int{300, 20 << 10, 2 << 20}[rnd.IntN(3)])
	}
	n := 1 + rnd.IntN(6)
	if h.pipeline && rnd.IntN(3) == 0 {
		n = 1 + rnd.IntN(20)
	}
	limit := 5 << 20
	if h.slow {
		limit = 100 << 10
	}
	for i := range n {
		p := newPlan(rnd, r.nextID(), small, limit)
		p.Aborts = h.leave != stays
		if h.pipeline {
			p.Expect = false
		}
		p.Last = i == n-1 && rnd.IntN(4) == 0
		h.plans = append(h.plans, p)
		if p.Act == actEarly {
			break // what comes behind it gets no answer
		}
	}
	h.serve(port)
}

// serve plays the connection: one goroutine writes, this one reads.
func (h *httpConn) serve(port int) {
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		if h.leave != forgives {
			h.failf("connect: %v", err)
		}
		return
	}
	h.c = c.(*net.TCPConn)
	defer c.Close()
	if h.slow {
		h.c.SetReadBuffer(8 << 10)
	}
	h.answered, h.go100 = make(chan bool, 1), make(chan bool, 1)
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		h.write(rand.New(rand.NewPCG(h.rnd.Uint64(), 5)))
	}()
	h.read()
	c.Close()
	close(h.answered)
	close(h.go100)
	<-wrote
}

// head writes p's head.
func (h *httpConn) head(b *bytes.Buffer, p *plan) {
	fmt.Fprintf(b, "%s %s HTTP/1.1\r\nhost: soak\r\nx-id: %d\r\nx-plan: %s\r\n", p.Method, p.Route, p.ID, p.encode())
	switch {
	case p.Chunked:
		b.WriteString("transfer-encoding: chunked\r\n")
	case p.Method == "POST" || p.Method == "PUT":
		fmt.Fprintf(b, "content-length: %d\r\n", p.Body)
	}
	if p.Expect {
		b.WriteString("expect: 100-continue\r\n")
	}
	if p.Last {
		b.WriteString("connection: close\r\n")
	}
	b.WriteString("\r\n")
}

// write sends all requests; in sequential mode each waits for the answer before it.
func (h *httpConn) write(rnd *rand.Rand) {
	w := &fragments{c: h.c, rnd: rnd, slow: h.slow}
	sent := 0
	send := func() bool {
		if h.leave == leaves || h.leave == resets {
			if sent += w.buf.Len(); sent >= h.budget {
				w.buf.Truncate(max(0, w.buf.Len()-(sent-h.budget)))
				w.flush()
				if h.leave == resets {
					h.c.SetLinger(0)
				}
				h.c.Close()
				return false
			}
		}
		return w.flush()
	}
	for i, p := range h.plans {
		if i > 0 && !h.pipeline && !<-h.answered {
			return
		}
		h.head(&w.buf, p)
		if p.Expect {
			if !send() || !<-h.go100 {
				return
			}
		}
		src := &source{id: p.bodyStream(), left: p.Body}
		for src.left > 0 {
			n := min(1+rnd.IntN([]int{20, 2000, 100 << 10}[rnd.IntN(3)]), src.left)
			if p.Chunked {
				fmt.Fprintf(&w.buf, "%x\r\n", n)
			}
			io.CopyN(&w.buf, src, int64(n))
			if p.Chunked {
				w.buf.WriteString("\r\n")
			}
			if w.buf.Len() > 64<<10 && !send() {
				return
			}
		}
		if p.Chunked {
			w.buf.WriteString("0\r\n")
			if p.Trailer {
				fmt.Fprintf(&w.buf, "x-sum: %d\r\n", p.Body)
			}
			w.buf.WriteString("\r\n")
		}
		if h.pipeline && i < len(h.plans)-1 && rnd.IntN(3) > 0 && w.buf.Len() < 32<<10 {
			continue // leaves together with the next one
		}
		if !send() {
			return
		}
	}
	if h.leave == halfClose {
		h.c.CloseWrite()
	}
}

// slowly is the client's side of a slow reader.
type slowly struct {
	c    net.Conn
	slow bool
	n    int
}

func (s *slowly) Read(p []byte) (int, error) {
	if s.slow && s.n < 40 {
		s.n++
		time.Sleep(3 * time.Millisecond)
		p = p[:min(len(p), 3000)]
	}
	s.c.SetReadDeadline(time.Now().Add(patience))
	return s.c.Read(p)
}

// read expects one answer for each request, in order.
func (h *httpConn) read() {
	br := bufio.NewReader(&slowly{c: h.c, slow: h.slow})
	for i, p := range h.plans {
		resp, err := h.answer(br, p)
		if err != nil {
			if h.leave == stays && !(p.dirty() && p.breaks()) {
				h.failf("request %d of %d, no answer: %v; plan %s", i+1, len(h.plans), err, p.encode())
			}
			return
		}
		if !h.check(resp, p) {
			return
		}
		h.run.answered.Add(1)
		if resp.Close {
			if !p.Last && p.Act != actEarly && h.leave == stays && !h.run.churn && !(p.dirty() && (p.Body > 0 || p.Chunked)) { // an error before the body was there
				h.failf("the connection is closed after a clean request: %s: %d %v", p.encode(), resp.StatusCode, resp.Header)
			}
			if n, err := br.Read(make([]byte, 1)); n > 0 || err != io.EOF && !gone(err) {
				h.failf("after connection: close: %d bytes, %v", n, err)
			}
			return
		}
		if !h.pipeline {
			h.answered <- true
		}
	}
	if n := br.Buffered(); n > 0 {
		h.failf("%d bytes behind the last answer: %q", n, peek(br))
	}
}

// answer reads a head, skipping 100 (Continue).
func (h *httpConn) answer(br *bufio.Reader, p *plan) (*http.Response, error) {
	for {
		resp, err := http.ReadResponse(br, &http.Request{Method: p.Method})
		if err != nil {
			if !gone(err) {
				h.failf("request %d: an answer that is not HTTP or stuck: %v; plan %s", p.ID, err, p.encode())
			}
			return nil, err
		}
		switch {
		case resp.StatusCode == 100 && p.Expect:
			h.go100 <- true
		case resp.StatusCode < 200:
			h.failf("request %d got a %d", p.ID, resp.StatusCode)
		default:
			if p.Expect {
				select {
				case h.go100 <- true: // answered without a 100
				default:
				}
			}
			return resp, nil
		}
	}
}

// check reads the answer's body and compares everything with the plan; false ends the connection.
func (h *httpConn) check(resp *http.Response, p *plan) bool {
	if resp.Header.Get("x-id") == "" { // the proxy's own answer
		b, _ := io.ReadAll(resp.Body)
		want := p.Act == actStall && resp.StatusCode == 504 || p.Route == "/chaos" && (resp.StatusCode == 503 || resp.StatusCode == 502)
		if !want && h.leave == stays {
			h.failf("request %d got %d %q; plan %s", p.ID, resp.StatusCode, b, p.encode())
		}
		h.run.count("answers", strconv.Itoa(resp.StatusCode))
		return true
	}
	if resp.Header.Get("x-id") != strconv.FormatUint(p.ID, 10) {
		h.failf("request %d got the answer of %s", p.ID, resp.Header.Get("x-id"))
		return false
	}
	if resp.StatusCode != p.Status || resp.Header.Get("server") != "envoy" {
		h.failf("request %d got status %d, server %q; plan %s", p.ID, resp.StatusCode, resp.Header.Get("server"), p.encode())
	}
	k := &checker{id: p.respStream()}
	_, err := io.Copy(k, resp.Body)
	switch {
	case err != nil && !gone(err):
		h.failf("request %d: %v; plan %s", p.ID, err, p.encode())
		return false
	case err != nil:
		if h.leave == stays && !p.breaks() {
			h.failf("request %d: the answer breaks off after %d bytes: %v; plan %s", p.ID, k.n, err, p.encode())
		}
		return false
	case p.Method != "HEAD" && k.n != p.Resp:
		h.failf("request %d: the answer has %d bytes; plan %s", p.ID, k.n, p.encode())
	case p.breaks():
		h.failf("request %d: an answer that broke off looks complete; plan %s", p.ID, p.encode())
	case p.RTrailer && p.Method != "HEAD" && resp.Trailer.Get("x-sum") != strconv.Itoa(p.Resp):
		h.failf("request %d: trailers %v", p.ID, resp.Trailer)
	}
	h.run.count("answers", strconv.Itoa(resp.StatusCode))
	return true
}

// tunnelClient plays one WebSocket or TCP connection.
func (r *run) tunnelClient(rnd *rand.Rand, name string, ws bool) {
	p := &plan{ID: r.nextID(), Method: "GET", Route: "/ws", WS: ws, Status: 101, Up: size(rnd, 3<<20), Down: size(rnd, 3<<20),
		Order: []string{"client", "server", "both", "close"}[rnd.IntN(4)], SlowBody: rnd.IntN(8) == 0}
	if ws && (p.Order == "server" || p.Order == "both") {
		p.Order = "close" // a WebSocket whose server has finished is over
	}
	slow := rnd.IntN(6) == 0
	if slow {
		p.Up, p.Down = min(p.Up, 200<<10), min(p.Down, 200<<10)
	}
	leave := stays
	if rnd.IntN(6) == 0 {
		leave, p.Aborts = leaves+rnd.IntN(2), true
	}
	port := r.tcp
	if ws {
		port = []int{r.http, r.small}[rnd.IntN(2)]
	}
	nc, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		r.failf("%s: connect: %v", name, err)
		return
	}
	c := nc.(*net.TCPConn)
	defer c.Close()
	if slow {
		c.SetReadBuffer(8 << 10)
	}
	w := &fragments{c: c, rnd: rnd}
	br := bufio.NewReader(&slowly{c: c, slow: slow})
	if ws {
		fmt.Fprintf(&w.buf, "GET /ws HTTP/1.1\r\nhost: soak\r\nconnection: upgrade\r\nupgrade: websocket\r\nx-id: %d\r\nx-plan: %s\r\n\r\n", p.ID, p.encode())
		w.flush()
		resp, err := http.ReadResponse(br, &http.Request{Method: "GET"})
		if err != nil || resp.StatusCode != 101 || resp.Header.Get("x-id") != strconv.FormatUint(p.ID, 10) {
			r.failf("%s: upgrade %d: %v %v", name, p.ID, resp, err)
			return
		}
		r.answered.Add(1)
	} else {
		w.buf.WriteString(p.encode() + "\n")
	}
	budget := -1
	if leave != stays {
		budget = rnd.IntN(p.Up + p.Down + 1)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		src := &source{id: p.bodyStream(), left: p.Up}
		for src.left > 0 {
			io.CopyN(&w.buf, src, int64(1+rnd.IntN(64<<10)))
			if !w.flush() {
				if p.Order != "close" && leave == stays {
					r.failf("%s: tunnel %d (%s): cannot send", name, p.ID, p.encode())
				}
				return
			}
			if budget >= 0 && src.off > budget {
				if leave == resets {
					c.SetLinger(0)
				}
				c.Close()
				return
			}
		}
		w.flush()
		if p.Order != "close" || p.ID%2 == 0 {
			c.CloseWrite()
		}
	}()
	k := &checker{id: p.respStream()}
	_, err = io.Copy(k, br)
	switch {
	case leave != stays:
	case p.Order == "close" && !ws && (err == nil || gone(err)):
	case err != nil:
		r.failf("%s: tunnel %d (%s): after %d bytes: %v", name, p.ID, p.encode(), k.n, err)
	case k.n != p.Down:
		r.failf("%s: tunnel %d (%s): %d bytes from the server, then %v", name, p.ID, p.encode(), k.n, err)
	}
	if strings.HasPrefix(p.Order, "close") || leave != stays {
		c.Close()
	}
	<-done
	r.count("tunnels", p.Order)
}
