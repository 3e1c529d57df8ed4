// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"sync"
	"sync/atomic"

	"sidecar/internal/telemetry/stats"
)

// Logger is one configured access log. Immutable.
type Logger struct {
	Filter Filter // nil logs everything
	Format *Format
	Sink   *Sink
}

// Wants tells whether the record is to be logged.
func (l *Logger) Wants(r *Record, rnd uint64) bool { return l.Filter == nil || l.Filter.Match(r, rnd) }

// Bounds of one (worker, sink) pair.
const (
	chunkSize = 16 << 10 // a chunk this full is handed over
	maxChunks = 8        // chunks in being; with none free lines are dropped and counted
	keepMax   = 64 << 10 // a chunk that grew larger (one huge line) is not reused
)

// Sink is where lines of one destination go: per worker a Buffer that only this worker writes, and a mutex-guarded one for the control side.
// The consumer (internal/export) takes full chunks from all of them. Lines are never cut; lines of different workers come in any order.
type Sink struct {
	// Immutable
	Path string
	wake chan struct{}
	bufs []Buffer // index worker+1; 0 belongs to the control side

	// Control
	mu sync.Mutex
}

// NewSink makes a sink for the given number of workers; fs is a scope of stats.FilesystemDef that counts its lines.
func NewSink(path string, workers int, fs *stats.Scope) *Sink {
	s := &Sink{Path: path, wake: make(chan struct{}, 1), bufs: make([]Buffer, workers+1)}
	for i := range s.bufs {
		s.bufs[i].sink, s.bufs[i].stat, s.bufs[i].shard = s, fs, i
	}
	return s
}

// Buffer returns the buffer of a worker.
func (s *Sink) Buffer(worker int) *Buffer { return &s.bufs[worker+1] }

// Write appends one line from the control side (admin requests); safe for concurrent use, never blocks on the destination.
func (s *Sink) Write(line []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := &s.bufs[0]
	if c := b.begin(); c != nil {
		b.end(append(c, line...), len(c))
	}
	b.Flush()
}

// Wake is readable when chunks may be waiting.
func (s *Sink) Wake() <-chan struct{} { return s.wake }

// Drain calls fn for every chunk that was handed over and gives the chunk back afterwards. One consumer at a time.
func (s *Sink) Drain(fn func(chunk []byte)) {
	for i := range s.bufs {
		b := &s.bufs[i]
		for {
			c, ok := b.full.pop()
			if !ok {
				break
			}
			fn(c)
			if cap(c) > keepMax {
				b.made.Add(-1)
				continue
			}
			b.free.push(c[:0])
		}
	}
}

// Buffer collects the lines of one worker for one sink. It never blocks: chunks travel to the consumer and back through two rings.
type Buffer struct {
	// Immutable
	sink  *Sink
	stat  *stats.Scope
	shard int

	// Worker
	cur   []byte
	block *stats.Block

	// Atomic
	full, free ring
	made       atomic.Int32 // chunks in being
}

// Log formats r into the buffer if the logger wants it and reports whether the buffer holds lines that only Flush will hand over.
func (b *Buffer) Log(l *Logger, r *Record, rnd uint64) (pending bool) {
	if !l.Wants(r, rnd) {
		return len(b.cur) > 0
	}
	if c := b.begin(); c != nil {
		n := len(c)
		b.end(l.Format.Append(c, r), n)
	}
	return len(b.cur) > 0
}

// begin returns the chunk to append a line to, nil when there is none (the line is counted as dropped).
func (b *Buffer) begin() []byte {
	if b.block == nil {
		b.block = b.stat.Block(b.shard)
	}
	if b.cur != nil {
		return b.cur
	}
	if c, ok := b.free.pop(); ok {
		b.cur = c
		return c
	}
	if b.made.Load() >= maxChunks {
		b.block.Inc(stats.FilesystemWriteDropped)
		return nil
	}
	b.made.Add(1)
	b.cur = make([]byte, 0, chunkSize+2048)
	return b.cur
}

func (b *Buffer) end(c []byte, before int) {
	b.cur = c
	b.block.Inc(stats.FilesystemWriteBuffered)
	b.block.Add(stats.FilesystemWriteTotalBuffered, int64(len(c)-before))
	if len(c) >= chunkSize {
		b.Flush()
	}
}

// Flush hands over what is buffered; the worker calls it at the file flush interval and when it stops.
func (b *Buffer) Flush() {
	if len(b.cur) == 0 {
		return
	}
	b.full.push(b.cur) // cannot be full: there are at most maxChunks chunks
	b.cur = nil
	select {
	case b.sink.wake <- struct{}{}:
	default:
	}
}

// ring is a bounded queue with one producer and one consumer.
type ring struct {
	slots      [maxChunks][]byte
	head, tail atomic.Uint32 // head: next to pop (consumer), tail: next to push (producer)
}

func (q *ring) push(c []byte) bool {
	t := q.tail.Load()
	if t-q.head.Load() == maxChunks {
		return false
	}
	q.slots[t%maxChunks] = c
	q.tail.Store(t + 1)
	return true
}

func (q *ring) pop() ([]byte, bool) {
	h := q.head.Load()
	if h == q.tail.Load() {
		return nil, false
	}
	c := q.slots[h%maxChunks]
	q.slots[h%maxChunks] = nil
	q.head.Store(h + 1)
	return c, true
}

// Writer is one worker's hand on all sinks: it logs and remembers which buffers hold lines, so that the flush tick touches only those.
type Writer struct {
	// Worker
	Worker int
	dirty  []*Buffer
}

// Log writes r to every logger that wants it.
func (w *Writer) Log(loggers []*Logger, r *Record, rnd uint64) {
	for _, l := range loggers {
		b := l.Sink.Buffer(w.Worker)
		was := len(b.cur) > 0
		if b.Log(l, r, rnd) && !was {
			w.mark(b)
		}
	}
}

// mark remembers b once; a buffer that handed itself over meanwhile may still be in the list. Bounded by the number of sinks.
func (w *Writer) mark(b *Buffer) {
	for _, d := range w.dirty {
		if d == b {
			return
		}
	}
	w.dirty = append(w.dirty, b)
}

// Dirty tells whether a flush tick is needed.
func (w *Writer) Dirty() bool { return len(w.dirty) > 0 }

// Flush hands over everything buffered.
func (w *Writer) Flush() {
	for i, b := range w.dirty {
		b.Flush()
		w.dirty[i] = nil
	}
	w.dirty = w.dirty[:0]
}
