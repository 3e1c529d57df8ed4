// SPDX-License-Identifier: Apache-2.0

package parity

import (
	"crypto/tls"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

// clientConn is one client connection of a case; a goroutine collects everything that arrives.
type clientConn struct {
	name string
	c    net.Conn // tcp, or the TLS connection over it
	tcp  *net.TCPConn
	tls  *tls.Conn
	h2   *h2End // nil for a connection without HTTP/2
	next uint32 // the stream of the next request

	mu      sync.Mutex
	cond    *sync.Cond
	got     []byte
	methods []string
	awaited int // final responses awaited so far
	read    int // raw bytes awaited so far
	end     string
	raw     bool
}

func dialClient(name string, o ConnOptions, v *vars, sessions map[string]tls.ClientSessionCache) (*clientConn, error) {
	to, ip := o.To, o.IP
	if to == "" {
		to = "main"
	}
	if ip == "" {
		ip = "127.0.0.1"
	}
	port, ok := v.ports[to]
	if !ok {
		return nil, fmt.Errorf("connection %s: no listener %q", name, to)
	}
	d := net.Dialer{Timeout: 2 * time.Second}
	if o.From != "" || o.FromPort != 0 {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(o.From), Port: o.FromPort}
	}
	c := &clientConn{name: name}
	c.cond = sync.NewCond(&c.mu)
	conn, err := d.Dial("tcp", net.JoinHostPort(ip, strconv.Itoa(port)))
	if err != nil {
		c.end = "refused"
		return c, nil
	}
	c.tcp = conn.(*net.TCPConn)
	c.c = c.tcp
	if o.TLS != nil {
		if err := c.handshake(o.TLS, sessions); err != nil {
			return nil, err
		}
	}
	if o.H2 {
		c.h2, c.next = newH2End(&c.mu, c.cond, deadlineWriter{c.c}, false, o.H2Options), 1
	}
	if c.end != "" {
		return c, nil
	}
	if o.H2 && !o.NoPreface {
		b, err := c.h2.preface()
		if err != nil {
			return nil, err
		}
		c.write(b)
	}
	go c.readAll()
	return c, nil
}

// handshake puts TLS on the connection; a handshake that fails shows as the end of the connection.
func (c *clientConn) handshake(o *TLSEnd, sessions map[string]tls.ClientSessionCache) error {
	cfg, err := o.config(false)
	if err != nil {
		return err
	}
	if o.Session != "" {
		if sessions[o.Session] == nil {
			sessions[o.Session] = tls.NewLRUClientSessionCache(4)
		}
		cfg.ClientSessionCache = sessions[o.Session]
	}
	c.tls = tls.Client(c.tcp, cfg)
	c.c = c.tls
	c.tcp.SetDeadline(time.Now().Add(handshakeWait))
	if err := c.tls.Handshake(); err != nil {
		c.end = endOf(err)
		c.tcp.Close()
	}
	c.tcp.SetDeadline(time.Time{})
	return nil
}

const (
	handshakeWait = 3 * time.Second
	writeWait     = 3 * time.Second
)

// deadlineWriter bounds each write, so that a peer that does not read cannot hold a case up.
type deadlineWriter struct{ net.Conn }

func (w deadlineWriter) Write(b []byte) (int, error) {
	w.SetWriteDeadline(time.Now().Add(writeWait))
	return w.Conn.Write(b)
}

func (c *clientConn) readAll() {
	buf := make([]byte, 64<<10)
	for {
		n, err := c.c.Read(buf)
		c.mu.Lock()
		c.got = append(c.got, buf[:n]...)
		var answer []byte
		if c.h2 != nil {
			answer = c.h2.feed(buf[:n])
		}
		if err != nil && c.end == "" {
			c.end = endOf(err)
		}
		c.cond.Broadcast()
		c.mu.Unlock()
		if len(answer) > 0 {
			c.h2.wmu.Lock()
			c.h2.write(answer)
			c.h2.wmu.Unlock()
		}
		if err != nil {
			return
		}
	}
}

// await blocks until ok() under the lock, the end of the connection, or the timeout.
func (c *clientConn) await(timeout time.Duration, ok func() bool) {
	expired := false
	t := time.AfterFunc(timeout, func() { c.mu.Lock(); expired = true; c.cond.Broadcast(); c.mu.Unlock() })
	defer t.Stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for !ok() && c.end == "" && !expired {
		c.cond.Wait()
	}
}

func (c *clientConn) awaitResponses(n int, timeout time.Duration) {
	c.awaited += n
	if c.h2 != nil {
		c.await(timeout, func() bool { return c.h2.finished() >= c.awaited })
		return
	}
	c.await(timeout, func() bool { return countResponses(c.got, c.methods, c.end != "") >= c.awaited })
}

func (c *clientConn) awaitBytes(n int, timeout time.Duration) {
	c.read += n
	c.await(timeout, func() bool { return len(c.got) >= c.read })
}

func (c *clientConn) write(b []byte) {
	if c.c != nil {
		deadlineWriter{c.c}.Write(b) // A failed write shows in the transcript as the end of the connection.
	}
}

func (c *clientConn) shut(how string) {
	if c.c == nil {
		return
	}
	switch how {
	case "fin":
		c.c.(interface{ CloseWrite() error }).CloseWrite()
		return
	case "truncate": // a FIN without TLS's close_notify
		c.tcp.CloseWrite()
		return
	case "rst":
		c.tcp.SetLinger(0)
	}
	c.mu.Lock()
	if c.end == "" {
		c.end = "own"
	}
	c.mu.Unlock()
	if how == "rst" {
		c.tcp.Close()
		return
	}
	c.c.Close()
}

// render shows the received stream and how the connection stands.
func (c *clientConn) render() (string, []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.renderLocked()
}

// renderLocked is render for a caller that holds mu.
func (c *clientConn) renderLocked() (string, []string) {
	end := c.end
	if end == "" {
		end = "open"
	}
	head := ""
	if c.tls != nil {
		head = renderTLS(c.tls, false)
	}
	if c.h2 != nil {
		text, units := c.h2.render()
		return head + text + "end " + end + "\n", units
	}
	if c.raw {
		return head + fmt.Sprintf("raw %s\nend %s\n", quoteBody(c.got), end), nil
	}
	text, units := renderResponses(c.got, c.methods, c.end != "")
	return head + text + "end " + end + "\n", units
}

// methodsOf guesses the request methods in raw bytes: the first token of each head.
func methodsOf(b []byte) []string {
	var out []string
	for _, head := range strings.SplitAfter(string(b), "\r\n\r\n") {
		if m, _, ok := strings.Cut(head, " "); ok && m != "" && len(m) < 12 {
			out = append(out, m)
		}
	}
	return out
}

// clientHello returns the first flight of a TLS client.
func clientHello(h *Hello) []byte {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	go tls.Client(a, &tls.Config{ServerName: h.SNI, NextProtos: h.ALPN, InsecureSkipVerify: h.SNI == "", MinVersion: tls.VersionTLS12,
		CurvePreferences: []tls.CurveID{tls.X25519}}).Handshake()
	b.SetReadDeadline(time.Now().Add(time.Second))
	buf := make([]byte, 16<<10)
	n, _ := b.Read(buf)
	return buf[:n]
}
