// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// conn is one client connection: need is the rest of the body to come, -1 while the head is read.
type conn struct {
	*wire
	index int32
	need  int
	head  []byte
	begun time.Time
	busy  bool
}

// client is the HTTP load generator. One request is in flight per connection.
type client struct {
	o       options
	sa      *unix.SockaddrInet4
	tls     *tls.Config // Nil without TLS.
	p       *poller
	conns   []*conn
	idle    []int32
	request []byte
	scratch []byte
	hist    *histogram
	res     Result

	// Open loop: request k is due at begin + k*interval; sent counts requests begun.
	interval time.Duration
	begin    time.Time
	due      int64
	sent     int64
}

func httpRequest(o options) []byte {
	return []byte("GET " + o.path + " HTTP/1.1\r\nHost: " + o.host + "\r\nUser-Agent: load\r\nAccept: */*\r\nX-Bench: 1\r\n\r\n")
}

func newClient(o options) (*client, error) {
	sa, err := sockaddr(o.addr)
	if err != nil {
		return nil, err
	}
	tc, err := o.tls.config()
	if err != nil {
		return nil, err
	}
	p, err := newPoller()
	if err != nil {
		return nil, err
	}
	c := &client{o: o, sa: sa, tls: tc, p: p, scratch: make([]byte, 256<<10), hist: newHistogram(),
		request: httpRequest(o)}
	for i := 0; i < o.conns; i++ {
		k := &conn{index: int32(i), need: -1, head: make([]byte, 0, 4<<10)}
		c.conns = append(c.conns, k)
		if err := c.connect(k); err != nil {
			return nil, fmt.Errorf("connection %d: %w", i, err)
		}
		c.idle = append(c.idle, k.index)
	}
	return c, nil
}

func (c *client) connect(k *conn) (err error) {
	if k.wire, err = connectWire(c.sa, c.tls); err != nil {
		return err
	}
	k.need, k.head, k.busy = -1, k.head[:0], false
	return c.p.add(k.fd, k.index, unix.EPOLLIN)
}

// send begins a request whose latency counts from begun.
func (c *client) send(k *conn, begun time.Time) {
	k.begun, k.busy, k.need, k.head = begun, true, -1, k.head[:0]
	if err := k.send(c.request); err != nil {
		c.fail(k, err)
	}
}

// fail counts an error and replaces the connection; when that fails too the run cannot go on.
func (c *client) fail(k *conn, why error) {
	c.res.fail(why)
	unix.Close(k.fd)
	if err := c.connect(k); err != nil {
		fmt.Fprintln(os.Stderr, "load http: reconnect:", err)
		os.Exit(1)
	}
	c.idle = append(c.idle, k.index)
}

var (
	errHead    = errors.New("not a 200 with one Content-Length")
	errSurplus = errors.New("bytes without a request")
)

// receive reads what is there; it reports whether the response is complete. TLS keeps what it has read, so it is asked until it has no more.
func (c *client) receive(k *conn) bool {
	k.drained = false
	for {
		n, err := k.receive(c.scratch)
		if err == errWouldBlock {
			return false
		}
		if err == nil && !k.busy {
			err = errSurplus
		}
		if err == nil {
			c.res.Bytes += int64(n)
			err = k.take(c.scratch[:n])
		}
		if err != nil {
			c.fail(k, err)
			return false
		}
		if k.need == 0 {
			return true
		}
		if k.tls == nil {
			return false
		}
	}
}

// take counts the response's bytes down: need is 0 when it is complete.
func (k *conn) take(b []byte) error {
	if k.need < 0 {
		k.head = append(k.head, b...)
		end := bytes.Index(k.head, []byte("\r\n\r\n"))
		if end < 0 {
			if len(k.head) > maxHead {
				return errHead
			}
			return nil
		}
		length, ok := checkHead(k.head[:end+2])
		if !ok {
			return errHead
		}
		b = k.head[end+4:]
		k.need = length
	}
	if len(b) > k.need {
		return errSurplus
	}
	k.need -= len(b)
	return nil
}

// checkHead wants a 200 with one Content-Length and returns the length.
func checkHead(head []byte) (length int, ok bool) {
	if !bytes.HasPrefix(head, []byte("HTTP/1.1 200 ")) {
		return 0, false
	}
	found := false
	for len(head) > 0 {
		eol := bytes.IndexByte(head, '\n')
		if eol < 0 {
			return 0, false
		}
		line := head[:eol]
		head = head[eol+1:]
		const name = "content-length:"
		if len(line) <= len(name) || !bytes.EqualFold(line[:len(name)], []byte(name)) {
			continue
		}
		if found {
			return 0, false
		}
		found = true
		for _, d := range bytes.TrimSpace(line[len(name):]) {
			if d < '0' || d > '9' || length > 1<<30 {
				return 0, false
			}
			length = length*10 + int(d-'0')
		}
	}
	return length, found
}

// runHTTP is the measuring client.
func runHTTP(o options) error {
	c, err := newClient(o)
	if err != nil {
		return err
	}
	const timer = -1
	if o.rate > 0 {
		c.interval = time.Duration(float64(time.Second) / o.rate)
		fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
		if err != nil {
			return err
		}
		tick := unix.NsecToTimespec(int64(c.interval))
		if err := unix.TimerfdSettime(fd, 0, &unix.ItimerSpec{Interval: tick, Value: tick}, nil); err != nil {
			return err
		}
		if err := c.p.add(fd, timer, unix.EPOLLIN); err != nil {
			return err
		}
		c.begin = time.Now()
		return c.loop(func() { drainTimer(fd) })
	}
	for _, i := range c.idle {
		c.send(c.conns[i], time.Now())
	}
	c.idle = c.idle[:0]
	return c.loop(nil)
}

func drainTimer(fd int) {
	var b [8]byte
	rawRead(fd, b[:])
}

func (c *client) loop(tick func()) error {
	span := newPeriod(c.o)
	for {
		events, err := c.p.wait(100)
		if err != nil {
			return err
		}
		c.res.Backlog = c.due - c.sent
		if done, err := span.turn(time.Now(), &c.res, c.hist); done {
			return err
		}
		for _, e := range events {
			if e.Fd < 0 {
				tick()
				continue
			}
			if k := c.conns[e.Fd]; c.receive(k) {
				c.finish(k)
			}
		}
		c.dispatch()
	}
}

func (c *client) finish(k *conn) {
	now := time.Now()
	c.hist.add(now.Sub(k.begun))
	c.res.Requests++
	k.busy = false
	if c.interval == 0 {
		c.send(k, now)
		return
	}
	c.idle = append(c.idle, k.index)
}

// dispatch sends what is due, on whichever connection is free; a late one keeps its scheduled time. In a closed loop it only restarts
// replaced connections.
func (c *client) dispatch() {
	if c.interval > 0 {
		c.due = int64(time.Since(c.begin) / c.interval)
	}
	for len(c.idle) > 0 && (c.interval == 0 || c.sent < c.due) {
		k := c.conns[c.idle[len(c.idle)-1]]
		c.idle = c.idle[:len(c.idle)-1]
		begun := time.Now()
		if c.interval > 0 {
			c.sent++
			begun = c.begin.Add(time.Duration(c.sent) * c.interval)
		}
		c.send(k, begun)
	}
}

// runIdle makes one request on every connection, one after the other, prints "start" and holds them until standard input closes.
func runIdle(o options) error {
	c, err := newClient(o)
	if err != nil {
		return err
	}
	c.interval = 1 // finish must not send again.
	for _, k := range c.conns {
		c.send(k, time.Now())
		deadline := time.Now().Add(5 * time.Second)
		for k.busy {
			events, err := c.p.wait(100)
			if err != nil {
				return err
			}
			for _, e := range events {
				if x := c.conns[e.Fd]; c.receive(x) {
					c.finish(x)
				}
			}
			if c.res.Errors > 0 || time.Now().After(deadline) {
				return errors.New("a request failed")
			}
		}
	}
	fmt.Println("start")
	io.Copy(io.Discard, os.Stdin)
	return printJSON(c.res)
}

// runRaw measures raw TCP: size 0 only reads; otherwise messages of size bytes go back and forth.
func runRaw(o options, size int) error {
	sa, err := sockaddr(o.addr)
	if err != nil {
		return err
	}
	p, err := newPoller()
	if err != nil {
		return err
	}
	fds := make([]int, o.conns)
	got := make([]int, o.conns)
	begun := make([]time.Time, o.conns)
	message, scratch, hist := make([]byte, size), make([]byte, 1<<20), newHistogram()
	for i := range fds {
		if fds[i], err = dialRaw(p, sa, int32(i)); err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
		begun[i] = time.Now()
		if size > 0 {
			rawWrite(fds[i], message)
		}
	}
	var res Result
	span := newPeriod(o)
	for {
		events, err := p.wait(100)
		if err != nil {
			return err
		}
		if done, err := span.turn(time.Now(), &res, hist); done {
			return err
		}
		for _, e := range events {
			i := e.Fd
			n, err := rawRead(fds[i], scratch)
			if err == unix.EAGAIN || err == unix.EINTR {
				continue
			}
			if err != nil || n == 0 {
				return fmt.Errorf("connection %d ended: %v", i, err)
			}
			res.Bytes += int64(n)
			if got[i] += n; size == 0 || got[i] < size {
				continue
			}
			if got[i] > size {
				return fmt.Errorf("connection %d: %d bytes for %d", i, got[i], size)
			}
			got[i] = 0
			res.Requests++
			t := time.Now()
			hist.add(t.Sub(begun[i]))
			begun[i] = t
			if m, err := rawWrite(fds[i], message); err != nil || m != size {
				return fmt.Errorf("connection %d: write %d: %v", i, m, err)
			}
		}
	}
}

// dialRaw connects and listens for what arrives.
func dialRaw(p *poller, sa *unix.SockaddrInet4, index int32) (int, error) {
	w, err := connectWire(sa, nil)
	if err != nil {
		return -1, err
	}
	return w.fd, p.add(w.fd, index, unix.EPOLLIN)
}
