// SPDX-License-Identifier: Apache-2.0

// Package buf is a worker's private pool of byte buffers. Buffers hold bytes only while bytes are in flight: a connection that is idle owns none.
// They contain no pointers, so the collector never looks inside. Nothing here is safe for concurrent use; a buffer never leaves its worker.
package buf

import "math/bits"

const (
	minShift = 10 // 1 KiB
	maxShift = 24 // 16 MiB
	// keepBytes bounds what the free lists hold per size class; the rest, and every larger buffer, goes back to the heap. With eleven classes up to 1 MiB a
	// pool keeps 11 MiB at most, and by and by nothing (Trim).
	keepBytes = 1 << 20
)

// Pool hands out buffers in power-of-two sizes. The zero value is ready.
type Pool struct {
	// Worker
	free    [maxShift + 1][][]byte
	out     int // bytes handed out and not returned
	flights []*Flight
	flying  int
}

// Flight is the buffers of one connection that has bytes in flight. Idle connections have none.
type Flight struct {
	In     []byte // unread input: a window into the worker's scratch, or into InBuf
	InBuf  []byte // own buffer behind In, from the pool; nil while In is empty or in the scratch
	Out    []byte // unsent output, from the pool; nil while nothing is queued
	OutOff int    // bytes of Out that the kernel has taken
	Ahead  int    // how many of the next bytes of Out were counted when they were queued
}

// flightChunk is how many flights one heap allocation makes.
const flightChunk = 32

// GetFlight takes an empty flight.
func (p *Pool) GetFlight() *Flight {
	if len(p.flights) == 0 {
		c := make([]Flight, flightChunk)
		for i := range c {
			p.flights = append(p.flights, &c[i])
		}
	}
	f := p.flights[len(p.flights)-1]
	p.flights = p.flights[:len(p.flights)-1]
	p.flying++
	return f
}

// PutFlight takes a flight back whose buffers were given back.
func (p *Pool) PutFlight(f *Flight) {
	p.flying--
	p.flights = append(p.flights, f)
}

// Flights is the number of flights handed out: the connections with bytes in flight.
func (p *Pool) Flights() int { return p.flying }

func class(n int) int {
	if n <= 1<<minShift {
		return minShift
	}
	return bits.Len(uint(n - 1))
}

// Get returns a buffer of length 0 and capacity at least n. Buffers above 16 MiB come straight from the heap.
func (p *Pool) Get(n int) []byte {
	c := class(n)
	if c > maxShift {
		return make([]byte, 0, n)
	}
	p.out += 1 << c
	if l := p.free[c]; len(l) > 0 {
		b := l[len(l)-1]
		l[len(l)-1] = nil
		p.free[c] = l[:len(l)-1]
		return b
	}
	return make([]byte, 0, 1<<c)
}

// Put takes a buffer back; nil is ignored. The caller must not touch it again.
func (p *Pool) Put(b []byte) {
	c := cap(b)
	if c == 0 {
		return
	}
	k := bits.Len(uint(c - 1))
	if c != 1<<k || k > maxShift || k < minShift {
		return
	}
	p.out -= c
	if (len(p.free[k])+1)<<k <= keepBytes {
		p.free[k] = append(p.free[k], b[:0])
	}
}

// Grow returns a buffer with the content of b and room for extra more bytes; b belongs to the pool afterwards if it was replaced.
func (p *Pool) Grow(b []byte, extra int) []byte {
	if cap(b)-len(b) >= extra {
		return b
	}
	n := p.Get(len(b) + extra)
	n = append(n, b...)
	p.Put(b)
	return n
}

// Outstanding is the number of bytes handed out: back to zero when nothing is in flight.
func (p *Pool) Outstanding() int { return p.out }

// Trim drops half of what is free, at least one of each kind; the owner calls it from a slow timer. What traffic needs comes back with its next use, and
// what a burst has left is gone after a few calls.
func (p *Pool) Trim() {
	p.flights = halve(p.flights)
	for i := range p.free {
		p.free[i] = halve(p.free[i])
	}
}

func halve[T any](l []T) []T {
	n := len(l) / 2
	if n == 0 {
		return nil
	}
	clear(l[n:])
	return l[:n]
}
