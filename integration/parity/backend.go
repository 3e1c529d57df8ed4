// SPDX-License-Identifier: Apache-2.0

package parity

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// backend is one scripted upstream host. It records every connection of the current case and answers by the case's script.
type backend struct {
	name string
	ln   net.Listener

	mu     sync.Mutex
	http   []*Reply
	tcp    []*Conversation
	isTCP  bool
	served int
	conns  []*backendConn
	h2     H2Options // of the case
	tls    *TLSEnd   // of the group
}

type backendConn struct {
	b    *backend
	c    net.Conn // tcp, or the TLS connection over it
	tcp  *net.TCPConn
	tls  *tls.Conn
	mu   sync.Mutex
	cond *sync.Cond
	h2   *h2End // set when the proxy has sent the preface of HTTP/2
	got  []byte
	end  string // "", "fin", "rst"
	self bool   // the backend ended it
	wake chan struct{}
}

func newBackend(name string, port int, end *TLSEnd) (*backend, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
	if err != nil {
		return nil, err
	}
	b := &backend{name: name, ln: ln, tls: end}
	go b.accept()
	return b, nil
}

func (b *backend) accept() {
	for {
		c, err := b.ln.Accept()
		if err != nil {
			return
		}
		b.mu.Lock()
		bc := &backendConn{b: b, c: c, tcp: c.(*net.TCPConn), wake: make(chan struct{}, 1)}
		bc.cond = sync.NewCond(&bc.mu)
		nth := len(b.conns)
		b.conns = append(b.conns, bc)
		tcp, isTCP := b.tcp, b.isTCP
		b.mu.Unlock()
		go func() {
			if b.tls != nil && !bc.handshake() {
				return
			}
			go bc.readAll()
			if isTCP {
				bc.converse(pick(tcp, nth))
			} else {
				bc.serve()
			}
		}()
	}
}

// handshake puts TLS on the connection; a handshake that fails shows as the end of the connection.
func (c *backendConn) handshake() bool {
	cfg, err := c.b.tls.config(true)
	if err != nil {
		c.end = err.Error()
		return false
	}
	t := tls.Server(c.tcp, cfg)
	c.tcp.SetDeadline(time.Now().Add(handshakeWait))
	err = t.Handshake()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tls, c.c = t, t
	if err != nil {
		c.end = endOf(err)
		c.tcp.Close()
		return false
	}
	c.tcp.SetDeadline(time.Time{})
	return true
}

func pick[T any](list []*T, n int) *T {
	if len(list) == 0 {
		return nil
	}
	return list[min(n, len(list)-1)]
}

// begin installs the script of a case.
func (b *backend) begin(http []*Reply, tcp []*Conversation, isTCP bool, h2 H2Options) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.http, b.tcp, b.isTCP, b.served, b.conns, b.h2 = http, tcp, isTCP, 0, nil, h2
}

// closeConns ends every connection of the case.
func (b *backend) closeConns() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.conns {
		c.mu.Lock()
		conn := c.c
		c.mu.Unlock()
		conn.Close()
	}
}

func (b *backend) close() {
	b.ln.Close()
	b.closeConns()
}

func (c *backendConn) readAll() {
	buf := make([]byte, 64<<10)
	for {
		n, err := c.c.Read(buf)
		c.mu.Lock()
		c.got = append(c.got, buf[:n]...)
		var answer []byte
		if c.h2 != nil {
			answer = c.h2.feed(buf[:n])
		}
		if err != nil && c.end == "" && !c.self {
			c.end = endOf(err)
		}
		c.cond.Broadcast()
		c.mu.Unlock()
		if len(answer) > 0 {
			c.h2.wmu.Lock()
			c.h2.write(answer)
			c.h2.wmu.Unlock()
		}
		select {
		case c.wake <- struct{}{}:
		default:
		}
		if err != nil {
			close(c.wake)
			return
		}
	}
}

// endOf names how the peer ended a connection.
func endOf(err error) string {
	switch {
	case errors.Is(err, io.EOF):
		return "fin"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "rst"
	case errors.Is(err, net.ErrClosed):
		return "closed"
	}
	return "error " + err.Error()
}

// await blocks until ok(received bytes) or the peer's end; it reports whether ok became true.
func (c *backendConn) await(ok func([]byte) bool) bool {
	for {
		c.mu.Lock()
		done, ended := ok(c.got), c.end != ""
		c.mu.Unlock()
		if done || ended {
			return done
		}
		if _, open := <-c.wake; !open {
			c.mu.Lock()
			defer c.mu.Unlock()
			return ok(c.got)
		}
	}
}

func (c *backendConn) shut(how string) bool {
	switch how {
	case "":
		return false
	case "fin":
		c.c.(interface{ CloseWrite() error }).CloseWrite()
		return false
	case "rst":
		c.tcp.SetLinger(0)
	}
	c.mu.Lock()
	c.self = true
	c.mu.Unlock()
	if how == "rst" {
		c.tcp.Close()
		return true
	}
	c.c.Close()
	return true
}

// serve answers requests in order until the connection ends.
func (c *backendConn) serve() {
	if c.speaksH2() {
		c.serveH2()
		return
	}
	offset := 0
	for {
		headEnd := 0
		if !c.await(func(got []byte) bool {
			i := bytes.Index(got[offset:], []byte("\r\n\r\n"))
			headEnd = offset + i + 4
			return i >= 0
		}) {
			return
		}
		c.b.mu.Lock()
		r := pick(c.b.http, c.b.served)
		c.b.served++
		c.b.mu.Unlock()
		if r == nil {
			r = &Reply{Status: 200, Body: c.b.name}
			c.mu.Lock()
			if bytes.HasPrefix(c.got[offset:], []byte("HEAD ")) {
				r = &Reply{Status: 200, Headers: []string{"content-length: 2"}}
			}
			c.mu.Unlock()
		}
		if !r.Early {
			next := 0
			if !c.await(func(got []byte) bool {
				m, n := cutMessage(got[offset:], false, "", false)
				next = offset + n
				return m != nil && m.complete
			}) {
				return
			}
			offset = next
		} else {
			offset = headEnd
		}
		if c.reply(r) {
			return
		}
	}
}

// reply plays one scripted answer; it reports whether the connection serves no more requests.
func (c *backendConn) reply(r *Reply) bool {
	for _, part := range append([]*Reply{r}, r.Then...) {
		time.Sleep(time.Duration(part.Delay))
		if part.Hang {
			return true
		}
		b, err := buildReply(part)
		if err != nil {
			b = []byte("HTTP/1.1 599 broken case file\r\ncontent-length: 0\r\n\r\n")
		}
		if _, err := c.c.Write(b); err != nil {
			return true
		}
		if part.Tunnel {
			c.mu.Lock()
			m, n := cutMessage(c.got, false, "", false)
			c.mu.Unlock()
			if m != nil {
				c.echo(n)
			}
			return true
		}
		if part.Close != "" {
			c.shut(part.Close)
			return true
		}
	}
	return false
}

// echo writes back everything received after offset until the peer's FIN, then sends its own.
func (c *backendConn) echo(offset int) {
	for {
		if !c.await(func(got []byte) bool { return len(got) > offset }) {
			break
		}
		c.mu.Lock()
		chunk := append([]byte(nil), c.got[offset:]...)
		c.mu.Unlock()
		offset += len(chunk)
		if _, err := c.c.Write(chunk); err != nil {
			return
		}
	}
	c.c.(interface{ CloseWrite() error }).CloseWrite()
}

// converse plays a raw connection.
func (c *backendConn) converse(script *Conversation) {
	if script == nil || len(script.Do) == 0 {
		c.echo(0)
		return
	}
	read := 0
	for _, a := range script.Do {
		time.Sleep(time.Duration(a.Delay))
		if a.Read > 0 {
			read += a.Read
			if !c.await(func(got []byte) bool { return len(got) >= read }) {
				return
			}
		}
		if a.ReadAll {
			c.await(func([]byte) bool { return false })
		}
		if b, err := Unescape(a.Send); err == nil && len(b) > 0 {
			c.c.Write(b)
		}
		if a.Fill > 0 {
			c.c.Write(bytes.Repeat([]byte("0123456789abcdef"), a.Fill/16))
		}
		if a.Echo {
			c.echo(0)
		}
		if c.shut(a.Close) {
			return
		}
	}
}

// render shows what the backend saw, one block per connection in order of arrival.
func (b *backend) render(summary bool) string {
	b.mu.Lock()
	conns, isTCP := b.conns, b.isTCP
	b.mu.Unlock()
	var w strings.Builder
	requests := 0
	for i, c := range conns {
		c.mu.Lock()
		got, end := append([]byte(nil), c.got...), c.end
		if c.self {
			end = "own"
		}
		c.mu.Unlock()
		fmt.Fprintf(&w, "connection %d\n%s", i+1, c.renderHead(&requests))
		if c.usesH2() {
			got = nil
		}
		if isTCP {
			fmt.Fprintf(&w, "raw %s\n", quoteBody(got))
			got = nil
		}
		for len(got) > 0 {
			m, n := cutMessage(got, false, "", end != "")
			if m == nil {
				fmt.Fprintf(&w, "raw %s\n", quoteBody(got))
				break
			}
			requests++
			m.render(&w)
			got = got[n:]
			if _, up := m.field("upgrade"); (m.tunnel || up) && len(got) > 0 {
				fmt.Fprintf(&w, "raw %s\n", quoteBody(got))
				break
			}
		}
		if end == "" {
			end = "open"
		}
		fmt.Fprintf(&w, "end %s\n", end)
	}
	if summary {
		if isTCP {
			return fmt.Sprintf("%d connections\n", len(conns))
		}
		return fmt.Sprintf("%d requests\n", requests)
	}
	return w.String()
}

// count tells how often the normalised text of what the backend saw contains s.
func (b *backend) count(s string, n *normaliser) int {
	return strings.Count(n.text(b.render(false)), s)
}

// blackhole is a listening socket whose accept queue is full: a SYN to it is dropped, so a connect times out.
type blackhole struct {
	fd    int
	conns []net.Conn
}

func newBlackhole(port int) (*blackhole, error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	h := &blackhole{fd: fd}
	syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1)
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return nil, err
	}
	if err := syscall.Listen(fd, 0); err != nil {
		return nil, err
	}
	for {
		c, err := net.DialTimeout("tcp", "127.0.0.1:"+strconv.Itoa(port), 50*time.Millisecond)
		if err != nil {
			return h, nil
		}
		h.conns = append(h.conns, c)
		if len(h.conns) > 16 {
			return nil, errors.New("blackhole: the accept queue does not fill")
		}
	}
}

func (h *blackhole) close() {
	for _, c := range h.conns {
		c.Close()
	}
	syscall.Close(h.fd)
}
