// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// backend is one scripted upstream server. It does what the plan in the request says.
type backend struct {
	run    *run
	name   string
	ln     net.Listener
	mirror bool
	open   atomic.Int64 // connections
	seen   atomic.Int64 // requests
	wg     sync.WaitGroup

	mu    sync.Mutex
	tries map[uint64]int
	conns map[net.Conn]bool
}

func newBackend(r *run, name string, serve func(*backend, net.Conn)) *backend {
	b := &backend{run: r, name: name, tries: map[uint64]int{}, conns: map[net.Conn]bool{}}
	b.ln = r.listen()
	b.wg.Add(1)
	go func() {
		defer b.wg.Done()
		for {
			c, err := b.ln.Accept()
			if err != nil {
				return
			}
			b.open.Add(1)
			b.mu.Lock()
			b.conns[c] = true
			b.mu.Unlock()
			b.wg.Add(1)
			go func() {
				defer b.wg.Done()
				serve(b, c)
				c.Close()
				b.mu.Lock()
				delete(b.conns, c)
				b.mu.Unlock()
				b.open.Add(-1)
			}()
		}
	}()
	return b
}

func (b *backend) port() int { return b.ln.Addr().(*net.TCPAddr).Port }

func (b *backend) close() {
	b.ln.Close()
	b.mu.Lock()
	for c := range b.conns {
		c.Close()
	}
	b.mu.Unlock()
	b.wg.Wait()
}

func (b *backend) failf(format string, a ...any) {
	b.run.failf("backend "+b.name+": "+format, a...)
}

// serveHTTP serves one connection.
func serveHTTP(b *backend, c net.Conn) {
	br := bufio.NewReader(c)
	for {
		req, err := http.ReadRequest(br)
		if err != nil {
			if err != io.EOF && !gone(err) {
				b.failf("a head that is not HTTP: %v (buffered %q)", err, peek(br))
			}
			return
		}
		p := &plan{}
		if err := json.Unmarshal([]byte(req.Header.Get("x-plan")), p); err != nil {
			b.failf("a request without a plan: %s %s %v: %v", req.Method, req.RequestURI, req.Header, err)
			return
		}
		b.seen.Add(1)
		if !b.one(c, br, req, p) {
			return
		}
	}
}

func peek(br *bufio.Reader) []byte {
	p, _ := br.Peek(min(br.Buffered(), 200))
	return p
}

// one answers one request; false ends the connection.
func (b *backend) one(c net.Conn, br *bufio.Reader, req *http.Request, p *plan) bool {
	rnd := rand.New(rand.NewPCG(p.ID, 77))
	if req.Method != p.Method || req.URL.Path != p.Route || req.Header.Get("x-id") != strconv.FormatUint(p.ID, 10) {
		b.failf("request %d is mixed up: %s %s x-id=%s", p.ID, req.Method, req.RequestURI, req.Header.Get("x-id"))
		return false
	}
	if b.mirror {
		if req.Host != "soak-shadow" {
			b.failf("mirrored request %d has host %q", p.ID, req.Host)
		}
		if !b.body(req, p, rnd) {
			return false
		}
		_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nyes")
		return err == nil
	}
	if req.Host != "soak" {
		b.failf("request %d has host %q", p.ID, req.Host)
	}
	b.run.requestID(p.ID, req.Header.Get("x-request-id"))
	if p.WS {
		b.webSocket(c, br, req, p)
		return false
	}
	act := p.Act
	if p.Fails > 0 {
		b.mu.Lock()
		n := b.tries[p.ID]
		b.tries[p.ID]++
		b.mu.Unlock()
		if n < p.Fails {
			return b.failTry(c, req, p, rnd)
		}
	}
	if act == actEarly {
		if !b.respond(c, p, rnd) {
			return false
		}
		return b.body(req, p, rnd) && p.Framing != "close"
	}
	if act == actBefore && rnd.IntN(2) == 0 {
		return false
	}
	if !b.body(req, p, rnd) {
		return false
	}
	switch act {
	case actBefore:
		return false
	case actRefuse:
		reset(c)
		return false
	case actStall:
		time.Sleep(1500 * time.Millisecond)
	}
	return b.respond(c, p, rnd) && act == actNone && p.Framing != "close"
}

func (b *backend) failTry(c net.Conn, req *http.Request, p *plan, rnd *rand.Rand) bool {
	if rnd.IntN(2) == 0 && !b.body(req, p, rnd) {
		return false
	}
	switch p.FailBy {
	case "503":
		if _, err := io.WriteString(c, "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy"); err != nil {
			return false
		}
		return b.body(req, p, rnd)
	case actRefuse:
		reset(c)
	}
	return false
}

func reset(c net.Conn) {
	c.(*net.TCPConn).SetLinger(0)
	c.Close()
}

// body reads and checks the request's body; false when it broke off.
func (b *backend) body(req *http.Request, p *plan, rnd *rand.Rand) bool {
	if p.Vandal {
		_, err := io.Copy(io.Discard, req.Body)
		return err == nil
	}
	if req.Body == http.NoBody && p.Body > 0 {
		b.failf("request %d came without its body", p.ID)
		return false
	}
	k := checker{id: p.bodyStream()}
	buf := make([]byte, 1+rnd.IntN(64<<10))
	for i := 0; ; i++ {
		n, err := req.Body.Read(buf)
		if _, bad := k.Write(buf[:n]); bad != nil {
			b.failf("request %d (%s): %v", p.ID, p.encode(), bad)
			return false
		}
		if err == io.EOF {
			break
		}
		if err == http.ErrBodyReadAfterClose {
			return true // read by an earlier call
		}
		if err != nil {
			if !p.Aborts && p.Act != actEarly && p.Fails == 0 && !b.run.stopping.Load() {
				b.failf("request %d (%s) broke off after %d bytes: %v", p.ID, p.encode(), k.n, err)
			}
			return false
		}
		if p.SlowRead && i < 30 {
			time.Sleep(2 * time.Millisecond)
		}
	}
	req.Body.Close()
	if k.n != p.Body {
		b.failf("request %d (%s): %d bytes of body", p.ID, p.encode(), k.n)
		return false
	}
	if p.Trailer && !b.mirror && req.Trailer.Get("x-sum") != strconv.Itoa(p.Body) {
		b.failf("request %d: trailers %v", p.ID, req.Trailer)
	}
	return true
}

// respond writes the answer that the plan asks for; false ends the connection.
func (b *backend) respond(c net.Conn, p *plan, rnd *rand.Rand) bool {
	var head bytes.Buffer
	for range p.Infos {
		fmt.Fprintf(&head, "HTTP/1.1 10%d Info\r\nx-info: %d\r\n\r\n", 2+rnd.IntN(2), p.ID)
	}
	fmt.Fprintf(&head, "HTTP/1.1 %d Whatever\r\nx-id: %d\r\n", p.Status, p.ID)
	stop := -1
	if p.breaks() {
		stop = rnd.IntN(p.Resp)
	}
	switch {
	case p.Status == 204 || p.Status == 304:
	case p.Framing == "cl":
		fmt.Fprintf(&head, "content-length: %d\r\n", p.Resp)
	case p.Framing == "chunked":
		head.WriteString("transfer-encoding: chunked\r\n")
	}
	head.WriteString("\r\n")
	w := &fragments{c: c, rnd: rnd, slow: p.SlowBody}
	if p.SlowHead {
		for head.Len() > 0 {
			if _, err := c.Write(head.Next(1 + rnd.IntN(20))); err != nil {
				return false
			}
			time.Sleep(time.Millisecond)
		}
	} else {
		w.buf.Write(head.Bytes())
	}
	if p.Method != "HEAD" {
		src := &source{id: p.respStream(), left: p.Resp}
		for sent := 0; src.left > 0; {
			n := min(1+rnd.IntN([]int{20, 2000, 100 << 10}[rnd.IntN(3)]), src.left)
			if stop >= 0 && sent+n > stop {
				w.flush()
				if p.Act == actReset {
					reset(c)
				}
				return false
			}
			part := make([]byte, n)
			io.ReadFull(src, part)
			if p.Framing == "chunked" {
				fmt.Fprintf(&w.buf, "%x\r\n", n)
			}
			w.buf.Write(part)
			if p.Framing == "chunked" {
				w.buf.WriteString("\r\n")
			}
			sent += n
			if w.buf.Len() > 64<<10 && !w.flush() {
				return false
			}
		}
		if p.Framing == "chunked" {
			w.buf.WriteString("0\r\n")
			if p.RTrailer {
				fmt.Fprintf(&w.buf, "x-sum: %d\r\n", p.Resp)
			}
			w.buf.WriteString("\r\n")
		}
	}
	return w.flush()
}

// fragments writes what is gathered in pieces of random size.
type fragments struct {
	c    net.Conn
	rnd  *rand.Rand
	buf  bytes.Buffer
	slow bool
}

func (w *fragments) flush() bool {
	few := w.rnd.IntN(3) == 0
	for i := 0; w.buf.Len() > 0; i++ {
		n := w.buf.Len()
		if few && i < 8 {
			n = 1 + w.rnd.IntN(min(n, 3000))
		}
		if _, err := w.c.Write(w.buf.Next(n)); err != nil {
			w.buf.Reset()
			return false
		}
		if w.slow && i < 10 {
			time.Sleep(2 * time.Millisecond)
		}
	}
	return true
}

// webSocket answers 101 and runs the tunnel.
func (b *backend) webSocket(c net.Conn, br *bufio.Reader, req *http.Request, p *plan) {
	if req.Header.Get("upgrade") != "websocket" {
		b.failf("request %d has no upgrade: %v", p.ID, req.Header)
		return
	}
	fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nx-id: %d\r\n\r\n", p.ID)
	b.tunnel(c, br, p)
}

// tunnel is the server's half of a byte stream: order "client" and "server" say who sends FIN first, "close" that the server closes outright once it
// has sent everything, whatever the client still sends.
func (b *backend) tunnel(c net.Conn, r io.Reader, p *plan) {
	rnd := rand.New(rand.NewPCG(p.ID, 78))
	got := make(chan bool, 1)
	go func() { got <- b.drink(c, r, p, rnd.IntN(4) == 0) }()
	if p.Order == "client" && !<-got {
		return
	}
	w := &fragments{c: c, rnd: rnd, slow: p.SlowBody}
	src := &source{id: p.respStream(), left: p.Down}
	for src.left > 0 {
		io.CopyN(&w.buf, src, int64(1+rnd.IntN(64<<10)))
		if !w.flush() {
			if !p.Aborts {
				b.failf("tunnel %d (%s): cannot send", p.ID, p.encode())
			}
			return
		}
	}
	switch p.Order {
	case "client":
	case "close":
		if !p.WS {
			return // with bytes unread this is a RST: the proxy passes on what it got before
		}
		c.(*net.TCPConn).CloseWrite() // the proxy ends the tunnel; everything must reach the client although it still sends
		<-got
	default:
		c.(*net.TCPConn).CloseWrite()
		<-got
	}
}

// drink reads and checks what the client sends, to its FIN.
func (b *backend) drink(c net.Conn, r io.Reader, p *plan, slow bool) bool {
	k := &checker{id: p.bodyStream()}
	buf := make([]byte, 32<<10)
	for i := 0; ; i++ {
		c.SetReadDeadline(time.Now().Add(patience))
		n, err := r.Read(buf)
		if _, bad := k.Write(buf[:n]); bad != nil {
			b.failf("tunnel %d (%s): %v", p.ID, p.encode(), bad)
			return false
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			if !p.Aborts && p.Order != "close" && !b.run.stopping.Load() {
				b.failf("tunnel %d (%s) broke after %d bytes from the client: %v", p.ID, p.encode(), k.n, err)
			}
			return false
		}
		if slow && i < 30 {
			time.Sleep(2 * time.Millisecond)
		}
	}
	if k.n != p.Up && !p.Aborts && p.Order != "close" {
		b.failf("tunnel %d (%s): FIN after %d bytes from the client", p.ID, p.encode(), k.n)
	}
	return k.n == p.Up
}

// serveTCP reads the plan's line and runs the tunnel.
func serveTCP(b *backend, c net.Conn) {
	br := bufio.NewReader(c)
	line, err := br.ReadBytes('\n')
	if err != nil {
		return // a client that left before it said anything
	}
	p := &plan{}
	if err := json.Unmarshal(line, p); err != nil {
		b.failf("first line %q: %v", line, err)
		return
	}
	b.seen.Add(1)
	b.tunnel(c, br, p)
}
