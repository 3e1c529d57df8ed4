// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"golang.org/x/sys/unix"
)

// h2Client keeps -streams requests in flight on each of -conns connections. With -stream a request is a call that never ends, in which one message is in flight, and
// what is counted are messages. The first thing that is not as it should be ends the run.
type h2Client struct {
	o     options
	conns []*h2Conn
	hist  *histogram
	res   Result
	now   time.Time // Of the turn.
}

// h2Conn is one connection: the client's side of its h2.
type h2Conn struct {
	*wire
	*h2
	client  *h2Client
	request block
	nextID  uint32
}

// sendBuffer holds what all streams of a connection may send in one turn.
const sendBuffer = 1 << 20

func requestFields(o options) []hpack.HeaderField {
	scheme := "http"
	if o.tls.dir != "" {
		scheme = "https"
	}
	method, path := "GET", o.path
	if o.grpc {
		method, path = "POST", "/bench.Echo/Echo"
	}
	list := []hpack.HeaderField{{Name: ":method", Value: method}, {Name: ":scheme", Value: scheme}, {Name: ":path", Value: path}, {Name: ":authority", Value: o.host}}
	if o.grpc {
		list = append(list, hpack.HeaderField{Name: "te", Value: "trailers"}, hpack.HeaderField{Name: "content-type", Value: "application/grpc"})
	} else {
		list = append(list, hpack.HeaderField{Name: "accept", Value: "*/*"})
	}
	return append(list, hpack.HeaderField{Name: "user-agent", Value: "load"}, hpack.HeaderField{Name: "x-bench", Value: "1"})
}

// runH2 is the measuring client.
func runH2(o options) error {
	sa, err := sockaddr(o.addr)
	if err != nil {
		return err
	}
	o.tls.h2 = true
	tc, err := o.tls.config()
	if err != nil {
		return err
	}
	p, err := newPoller()
	if err != nil {
		return err
	}
	if o.stream && !o.grpc {
		return errors.New("-stream needs -grpc")
	}
	c := &h2Client{o: o, hist: newHistogram(), now: time.Now()}
	for i := range o.conns {
		k := &h2Conn{client: c, nextID: 1, request: block{list: requestFields(o)}}
		if k.wire, err = connectWire(sa, tc); err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
		if err := unix.SetsockoptInt(k.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer); err != nil {
			return err
		}
		k.h2 = newH2(k)
		k.out = append(k.out, http2.ClientPreface...)
		k.begin()
		if err := k.flush(); err != nil {
			return err
		}
		if err := p.add(k.fd, int32(i), unix.EPOLLIN); err != nil {
			return err
		}
		c.conns = append(c.conns, k)
	}
	return c.loop(p)
}

func (c *h2Client) loop(p *poller) error {
	span, scratch := newPeriod(c.o), make([]byte, 256<<10)
	for {
		events, err := p.wait(100)
		if err != nil {
			return err
		}
		c.now = time.Now()
		if done, err := span.turn(c.now, &c.res, c.hist); done {
			return err
		}
		for _, e := range events {
			if err := c.conns[e.Fd].turn(scratch); err != nil {
				return fmt.Errorf("connection %d: %w", e.Fd, err)
			}
		}
	}
}

// turn reads all there is, lets finished requests be followed by the next, and writes once.
func (k *h2Conn) turn(scratch []byte) error {
	k.drained = false
	began := k.settled
	for {
		n, err := k.receive(scratch)
		if err == errWouldBlock {
			break
		}
		if err != nil {
			return err
		}
		k.client.res.Bytes += int64(n)
		if err := k.feed(scratch[:n]); err != nil {
			return err
		}
		if k.tls == nil && n < len(scratch) {
			break
		}
	}
	if !began && k.settled {
		streams := k.client.o.streams
		if uint32(streams) > k.maxStreams {
			return fmt.Errorf("the peer takes %d streams only", k.maxStreams)
		}
		for range streams {
			k.next()
		}
	}
	return k.flush()
}

func (k *h2Conn) flush() error {
	if len(k.out) == 0 {
		return nil
	}
	err := k.send(k.out)
	k.out = k.out[:0]
	return err
}

// next begins a request.
func (k *h2Conn) next() {
	s := k.h2.open(k.nextID)
	k.nextID += 2
	s.begun, s.length = k.client.now, -1
	k.sendHeaders(s.id, &k.request, !k.client.o.grpc)
	if k.client.o.grpc {
		s.owed, s.last = 1, !k.client.o.stream
		k.push(s)
	}
}

func (k *h2Conn) endStream() bool   { return true }
func (k *h2Conn) sent(*h2, *stream) {}

var errBody = errors.New("the body has another length")

func (k *h2Conn) headers(_ *h2, _ uint32, s *stream, f fields, end bool) error {
	switch {
	case s == nil:
		return errUnknown
	case !s.answered && f.status != 200:
		return fmt.Errorf("status %d, grpc-status %d", f.status, f.grpcStatus)
	case !s.answered && end:
		return errBody
	case !s.answered:
		s.answered, s.length = true, f.length
		return nil
	case !end || !k.client.o.grpc || f.grpcStatus != 0:
		return fmt.Errorf("trailers with grpc-status %d", f.grpcStatus)
	case k.client.o.stream || s.got != messageSize:
		return errBody
	}
	k.finish(s)
	return nil
}

func (k *h2Conn) data(_ *h2, s *stream, n int, end bool) error {
	s.got += int64(n)
	switch {
	case !s.answered, k.client.o.grpc && end:
		return errUnknown
	case k.client.o.stream:
		for ; s.got >= messageSize; s.got -= messageSize {
			k.count(s)
			s.begun = k.client.now
			s.owed++
		}
		k.push(s)
	case end && s.length >= 0 && s.got != s.length, end && s.got == 0:
		return errBody
	case end:
		k.finish(s)
	}
	return nil
}

func (k *h2Conn) count(s *stream) {
	k.client.res.Requests++
	k.client.hist.add(k.client.now.Sub(s.begun))
}

// finish counts the request and begins the next.
func (k *h2Conn) finish(s *stream) {
	k.count(s)
	k.h2.close(s)
	k.next()
}
