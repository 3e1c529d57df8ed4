// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// grpcBackend echoes every message of every call, and ends a call with its trailers when the client has ended it: unary and streaming are the same to it.
type grpcBackend struct{}

func (grpcBackend) endless() bool { return false }

func (grpcBackend) open(p *peer) []byte {
	p.h2 = newH2(&grpcSide{head: block{list: []hpack.HeaderField{{Name: ":status", Value: "200"}, {Name: "content-type", Value: "application/grpc"}}},
		tail: block{list: []hpack.HeaderField{{Name: "grpc-status", Value: "0"}, {Name: "grpc-message"}}}})
	p.h2.preface = []byte(http2.ClientPreface)
	p.h2.begin()
	out := p.h2.out
	p.h2.out = p.h2.out[:0]
	return out
}

func (grpcBackend) data(p *peer, b []byte) ([]byte, bool) {
	if err := p.h2.feed(b); err != nil {
		fmt.Fprintln(os.Stderr, "load h2backend:", err)
		return nil, false
	}
	out := p.h2.out
	p.h2.out = p.h2.out[:0]
	return out, true
}

// grpcSide is one connection's.
type grpcSide struct{ head, tail block }

var (
	errCut   = errors.New("a call ends within a message")
	errReuse = errors.New("a second header block")
)

func (*grpcSide) headers(c *h2, id uint32, s *stream, _ fields, end bool) error {
	switch {
	case s != nil:
		return errReuse
	case end:
		return errCut
	}
	c.open(id)
	return nil
}

func (g *grpcSide) data(c *h2, s *stream, n int, end bool) error {
	s.got += int64(n)
	s.owed += int(s.got / messageSize)
	s.got %= messageSize
	if end && s.got > 0 {
		return errCut
	}
	s.last = end
	if s.owed > 0 && !s.answered {
		s.answered = true
		c.sendHeaders(s.id, &g.head, false)
	}
	if !s.answered && end {
		return errCut
	}
	c.push(s)
	return nil
}

func (*grpcSide) endStream() bool { return false }

func (g *grpcSide) sent(c *h2, s *stream) {
	c.sendHeaders(s.id, &g.tail, true)
	c.close(s)
}
