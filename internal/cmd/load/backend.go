// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// peer is one accepted connection of a backend. tail holds an incomplete request head (bounded by maxHead), pending what the kernel did not take.
type peer struct {
	*wire
	tail    []byte
	pending []byte
	armed   bool
	h2      *h2 // Of the HTTP/2 backend.
}

const maxHead = 64 << 10

// service answers what arrives on a connection. It returns the bytes to send (valid until the next call) and whether to keep the connection.
type service interface {
	open(*peer) []byte
	data(p *peer, b []byte) ([]byte, bool)
	// endless says that open's bytes are to be sent again and again.
	endless() bool
}

// httpBackend answers every request head with the same 200.
type httpBackend struct {
	response []byte
	out      []byte
}

func newHTTPBackend(body int) *httpBackend {
	head := fmt.Sprintf("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n", body)
	return &httpBackend{response: append([]byte(head), bytes.Repeat([]byte("x"), body)...), out: make([]byte, 0, 1<<20)}
}

func (h *httpBackend) open(*peer) []byte { return nil }
func (h *httpBackend) endless() bool     { return false }

func (h *httpBackend) data(p *peer, b []byte) ([]byte, bool) {
	if len(p.tail) > 0 {
		p.tail = append(p.tail, b...)
		b = p.tail
	}
	h.out = h.out[:0]
	for {
		i := bytes.Index(b, []byte("\r\n\r\n"))
		if i < 0 {
			break
		}
		b = b[i+4:]
		h.out = append(h.out, h.response...)
	}
	p.tail = append(p.tail[:0], b...)
	return h.out, len(p.tail) < maxHead
}

type echoBackend struct{}

func (echoBackend) open(*peer) []byte                     { return nil }
func (echoBackend) endless() bool                         { return false }
func (echoBackend) data(_ *peer, b []byte) ([]byte, bool) { return b, true }

type sourceBackend struct{ block []byte }

func newSourceBackend() *sourceBackend { return &sourceBackend{bytes.Repeat([]byte("s"), 1<<20)} }

func (s *sourceBackend) open(*peer) []byte                 { return s.block }
func (s *sourceBackend) endless() bool                     { return true }
func (s *sourceBackend) data(*peer, []byte) ([]byte, bool) { return nil, true }

// serve runs a backend until the process is killed.
func serve(o options, s service) error {
	ln, err := listen(o.addr)
	if err != nil {
		return err
	}
	p, err := newPoller()
	if err != nil {
		return err
	}
	tc, err := o.tls.serverConfig()
	if err != nil {
		return err
	}
	const listener = -1
	if err := p.add(ln, listener, unix.EPOLLIN); err != nil {
		return err
	}
	peers := make([]*peer, 1<<16) // Indexed by descriptor; the descriptor limit bounds it.
	scratch := make([]byte, 256<<10)
	fmt.Println("ready")
	for {
		events, err := p.wait(-1)
		if err != nil {
			return err
		}
		for _, e := range events {
			if e.Fd == listener {
				acceptAll(p, ln, peers, s, tc)
				continue
			}
			c := peers[e.Fd]
			if c == nil {
				continue
			}
			if !c.serve(p, e.Events, scratch, s) {
				peers[c.fd] = nil
				unix.Close(c.fd)
			}
		}
	}
}

func acceptAll(p *poller, ln int, peers []*peer, s service, tc *tls.Config) {
	for {
		fd, _, err := unix.Accept4(ln, unix.SOCK_CLOEXEC)
		if err != nil {
			return
		}
		if fd >= len(peers) {
			unix.Close(fd)
			continue
		}
		w, err := acceptWire(fd, tc)
		if err != nil {
			if err != io.EOF { // One who only looked whether the port is open.
				fmt.Fprintln(os.Stderr, "load: accept:", err)
			}
			continue
		}
		c := &peer{wire: w}
		peers[fd] = c
		p.add(fd, int32(fd), unix.EPOLLIN)
		c.send(p, s.open(c), s)
	}
}

// serve handles one event; false ends the connection.
func (c *peer) serve(p *poller, events uint32, scratch []byte, s service) bool {
	if events&unix.EPOLLOUT != 0 {
		if s.endless() {
			return c.send(p, s.open(c), s)
		}
		if !c.flush(p) {
			return false
		}
	}
	if events&(unix.EPOLLIN|unix.EPOLLHUP|unix.EPOLLERR) == 0 || len(c.pending) > 0 {
		return true
	}
	c.drained = false
	for {
		n, err := c.receive(scratch)
		if err == errWouldBlock {
			return true
		}
		if err != nil {
			return false
		}
		out, keep := s.data(c, scratch[:n])
		if !keep || !c.send(p, out, s) {
			return false
		}
		if c.tls == nil { // TLS keeps what it has read, and is asked until it has no more.
			return true
		}
	}
}

func (c *peer) send(p *poller, b []byte, s service) bool {
	if c.tls != nil {
		return len(b) == 0 || c.wire.send(b) == nil
	}
	for len(b) > 0 {
		n, err := rawWrite(c.fd, b)
		if err == unix.EINTR {
			continue
		}
		if err == unix.EAGAIN {
			if !s.endless() {
				c.pending = append(c.pending[:0], b...)
			}
			return c.arm(p, true)
		}
		if err != nil {
			return false
		}
		b = b[n:]
	}
	return !s.endless() || c.arm(p, true)
}

func (c *peer) flush(p *poller) bool {
	n, err := rawWrite(c.fd, c.pending)
	if err != nil && err != unix.EAGAIN {
		return false
	}
	c.pending = c.pending[max(n, 0):]
	return len(c.pending) > 0 || c.arm(p, false)
}

func (c *peer) arm(p *poller, out bool) bool {
	if c.armed == out {
		return true
	}
	c.armed = out
	events := uint32(unix.EPOLLIN)
	if out {
		events |= unix.EPOLLOUT
	}
	return p.mod(c.fd, int32(c.fd), events) == nil
}

// relay is the io.Copy peer: what a Go programmer writes first. The runtime uses splice between TCP sockets.
func relay(o options) error {
	ln, err := net.Listen("tcp", o.addr)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			u, err := net.Dial("tcp", o.to)
			if err != nil {
				return
			}
			defer u.Close()
			go func() {
				io.Copy(u, c)
				u.(*net.TCPConn).CloseWrite()
			}()
			io.Copy(c, u)
		}()
	}
}
