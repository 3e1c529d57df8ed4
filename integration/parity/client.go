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
	c    *net.TCPConn

	mu      sync.Mutex
	cond    *sync.Cond
	got     []byte
	methods []string
	awaited int // final responses awaited so far
	read    int // raw bytes awaited so far
	end     string
	raw     bool
}

func dialClient(name string, o ConnOptions, v *vars) (*clientConn, error) {
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
	c.c = conn.(*net.TCPConn)
	go c.readAll()
	return c, nil
}

func (c *clientConn) readAll() {
	buf := make([]byte, 64<<10)
	for {
		n, err := c.c.Read(buf)
		c.mu.Lock()
		c.got = append(c.got, buf[:n]...)
		if err != nil && c.end == "" {
			c.end = endOf(err)
		}
		c.cond.Broadcast()
		c.mu.Unlock()
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
	c.await(timeout, func() bool { return countResponses(c.got, c.methods, c.end != "") >= c.awaited })
}

func (c *clientConn) awaitBytes(n int, timeout time.Duration) {
	c.read += n
	c.await(timeout, func() bool { return len(c.got) >= c.read })
}

func (c *clientConn) write(b []byte) {
	if c.c != nil {
		c.c.SetWriteDeadline(time.Now().Add(3 * time.Second))
		c.c.Write(b) // A failed write shows in the transcript as the end of the connection.
	}
}

func (c *clientConn) shut(how string) {
	if c.c == nil {
		return
	}
	switch how {
	case "fin":
		c.c.CloseWrite()
		return
	case "rst":
		c.c.SetLinger(0)
	}
	c.mu.Lock()
	if c.end == "" {
		c.end = "own"
	}
	c.mu.Unlock()
	c.c.Close()
}

// render shows the received stream and how the connection stands.
func (c *clientConn) render() (string, []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	end := c.end
	if end == "" {
		end = "open"
	}
	if c.raw {
		return fmt.Sprintf("raw %s\nend %s\n", quoteBody(c.got), end), nil
	}
	text, units := renderResponses(c.got, c.methods, c.end != "")
	return text + "end " + end + "\n", units
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
