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
	minChunks = 8        // chunks in being at most, twice the flush size if that is more; with none free lines are dropped and counted
	keepMax   = 64 << 10 // a chunk that grew larger (one huge line) is not reused
	maxFlush  = 16 << 20 // a larger flush size counts as this
)

// Sink is where lines of one destination go: per worker a Buffer that only this worker writes, and a mutex-guarded one for the control side.
// Lines are never cut; lines of different workers come in any order. Who can still log to a sink, or has lines in it, holds a pointer to it, so a
// sink is out of use when nothing points to it; the consumer's half, Queue, does not.
type Sink struct {
	// Immutable
	Path string
	// FlushEvery, when not 0, is how long lines wait at most in a worker, in nanoseconds, instead of the workers' common flush interval. Set before use.
	FlushEvery int64
	bufs       []Buffer // index worker+1; 0 belongs to the control side
	q          *Queue
}

// Queue is the consumer's half of a sink (internal/export): it takes the chunks that all buffers have handed over.
type Queue struct {
	// Immutable
	wake chan struct{}
	bufs []Buffer // those of the sink
	ids  Counters
	min  int64 // handed-over bytes above which the consumer is woken

	// Control
	mu sync.Mutex // bufs[0]

	// Atomic
	waiting atomic.Int64 // bytes handed over and not yet drained
}

// Counters are the ids of a sink's statistics.
type Counters struct {
	Lines, Dropped int // of a line that was written, or for which there was no room
	Bytes          int // of its bytes, until the consumer has written them; -1 = not counted
}

// FileCounters are those of stats.FilesystemDef.
var FileCounters = Counters{Lines: stats.FilesystemWriteBuffered, Dropped: stats.FilesystemWriteDropped, Bytes: stats.FilesystemWriteTotalBuffered}

// NewSink makes a sink for the given number of workers; fs counts its lines by ids. The consumer is woken when
// more than flushSize bytes wait (--file-flush-min-size-kb; a worker keeps at most 16 KiB of them for itself), when a worker's flush interval is over,
// and for a worker's first line.
func NewSink(path string, workers int, fs *stats.Scope, ids Counters, flushSize int) (*Sink, *Queue) {
	flushSize = min(max(flushSize, 0), maxFlush)
	chunks := minChunks
	for chunks*chunkSize < 2*flushSize {
		chunks *= 2
	}
	bufs := make([]Buffer, workers+1)
	q := &Queue{wake: make(chan struct{}, 1), bufs: bufs, ids: ids, min: int64(flushSize)}
	for i := range bufs {
		bufs[i].q, bufs[i].stat, bufs[i].shard, bufs[i].chunks = q, fs, i, uint32(chunks)
	}
	return &Sink{Path: path, bufs: bufs, q: q}, q
}

// Buffer returns the buffer of a worker.
func (s *Sink) Buffer(worker int) *Buffer { return &s.bufs[worker+1] }

// Write appends one line from the control side (admin requests); safe for concurrent use, never blocks on the destination.
func (s *Sink) Write(line []byte) {
	s.q.mu.Lock()
	defer s.q.mu.Unlock()
	b := &s.bufs[0]
	if c := b.begin(); c != nil {
		b.end(append(c, line...), len(c))
	}
}

// Wake is readable when chunks are to be drained.
func (q *Queue) Wake() <-chan struct{} { return q.wake }

// Collect hands over what the control side has written; the consumer calls it before a drain at the flush interval.
func (q *Queue) Collect() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.bufs[0].Flush()
}

// Drain calls fn for every chunk that was handed over and gives the chunk back afterwards. One consumer at a time.
func (q *Queue) Drain(fn func(chunk []byte)) {
	for i := range q.bufs {
		b := &q.bufs[i]
		for {
			c, ok := b.full.pop()
			if !ok {
				break
			}
			q.waiting.Add(-int64(len(c)))
			fn(c)
			if cap(c) > keepMax {
				b.made.Add(^uint32(0))
				continue
			}
			b.free.push(c[:0])
		}
	}
}

// Buffer collects the lines of one worker for one sink. It never blocks: chunks travel to the consumer and back through two rings.
type Buffer struct {
	// Immutable
	q      *Queue
	stat   *stats.Scope
	shard  int
	chunks uint32 // bound of made, a power of two

	// Worker
	cur   []byte
	limit int // a chunk with this many bytes is handed over; 0 makes the first line travel alone
	block *stats.Block

	// Atomic
	full, free ring
	made       atomic.Uint32 // chunks in being
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
	if b.cur != nil {
		return b.cur
	}
	if c, ok := b.free.pop(); ok {
		b.cur = c
		return c
	}
	if b.block == nil {
		b.block = b.stat.Block(b.shard)
		b.full.slots, b.free.slots = make([][]byte, b.chunks), make([][]byte, b.chunks)
	}
	if b.made.Load() >= b.chunks {
		b.block.Inc(b.q.ids.Dropped)
		return nil
	}
	b.made.Add(1)
	b.cur = make([]byte, 0, chunkSize+2048)
	return b.cur
}

func (b *Buffer) end(c []byte, before int) {
	b.cur = c
	b.block.Inc(b.q.ids.Lines)
	if id := b.q.ids.Bytes; id >= 0 {
		b.block.Add(id, int64(len(c)-before))
	}
	if len(c) >= b.limit {
		b.filled()
	}
}

// filled hands a full chunk over. The first line of all is not made to wait, so that whoever watches a new log sees that it works (Envoy's too).
// With a flush size below a chunk, chunks go on growing while the consumer is behind: small ones must not use up the places.
func (b *Buffer) filled() {
	switch {
	case b.limit == 0:
		b.limit = min(chunkSize, int(b.q.min)+1)
		b.Flush()
	case len(b.cur) < chunkSize && b.full.len() >= b.chunks/2:
	case b.handOver() > b.q.min:
		b.q.signal()
	}
}

// Flush hands over what is buffered and wakes the consumer; the worker calls it at the file flush interval and when it stops.
func (b *Buffer) Flush() {
	if len(b.cur) > 0 {
		b.handOver()
		b.q.signal()
	}
}

// handOver queues the chunk and returns how many bytes the sink has waiting.
func (b *Buffer) handOver() int64 {
	n := int64(len(b.cur))
	b.full.push(b.cur) // cannot be full: there are at most as many chunks as places
	b.cur = nil
	return b.q.waiting.Add(n)
}

func (q *Queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// ring is a bounded queue with one producer, which makes the slots (a power of two of them), and one consumer.
type ring struct {
	slots      [][]byte
	head, tail atomic.Uint32 // head: next to pop (consumer), tail: next to push (producer)
}

// push appends c; the caller knows that there is room.
func (q *ring) push(c []byte) {
	t := q.tail.Load()
	q.slots[t%uint32(len(q.slots))] = c
	q.tail.Store(t + 1)
}

func (q *ring) len() uint32 { return q.tail.Load() - q.head.Load() }

func (q *ring) pop() ([]byte, bool) {
	h := q.head.Load()
	if h == q.tail.Load() {
		return nil, false
	}
	i := h % uint32(len(q.slots))
	c := q.slots[i]
	q.slots[i] = nil
	q.head.Store(h + 1)
	return c, true
}

// Writer is one worker's hand on all sinks: it logs and remembers which buffers hold lines, so that the flush tick touches only those.
type Writer struct {
	// Worker
	Worker int
	dirty  []*Sink
}

// Log writes r to every logger that wants it.
func (w *Writer) Log(loggers []*Logger, r *Record, rnd uint64) {
	for _, l := range loggers {
		b := l.Sink.Buffer(w.Worker)
		was := len(b.cur) > 0
		if b.Log(l, r, rnd) && !was {
			w.mark(l.Sink)
		}
	}
}

// mark remembers s once; one whose buffer handed itself over meanwhile may still be in the list. Bounded by the number of sinks.
func (w *Writer) mark(s *Sink) {
	for _, d := range w.dirty {
		if d == s {
			return
		}
	}
	w.dirty = append(w.dirty, s)
}

// Dirty tells whether a flush tick is needed.
func (w *Writer) Dirty() bool { return len(w.dirty) > 0 }

// Soonest is the shortest interval of sinks with one of their own that hold lines, in nanoseconds; 0 when none does.
func (w *Writer) Soonest() int64 {
	var n int64
	for _, s := range w.dirty {
		if s.FlushEvery > 0 && (n == 0 || s.FlushEvery < n) {
			n = s.FlushEvery
		}
	}
	return n
}

// FlushQuick hands over what sinks with an interval of their own hold.
func (w *Writer) FlushQuick() { w.flush(func(s *Sink) bool { return s.FlushEvery > 0 }) }

// Flush hands over everything buffered.
func (w *Writer) Flush() { w.flush(func(*Sink) bool { return true }) }

func (w *Writer) flush(which func(*Sink) bool) {
	keep := w.dirty[:0]
	for _, s := range w.dirty {
		if which(s) {
			s.Buffer(w.Worker).Flush()
		} else {
			keep = append(keep, s)
		}
	}
	clear(w.dirty[len(keep):])
	w.dirty = keep
}
