// SPDX-License-Identifier: Apache-2.0

package filter

// Pool keeps the instances of one factory between exchanges, so that a filter with state per exchange does not allocate for each. Every worker has a list
// of its own. T is the instance; what it keeps between uses is its own affair.
type Pool[T any] struct {
	shards []shard[T]
}

// maxKept bounds the instances that one worker keeps.
const maxKept = 1024

type shard[T any] struct {
	free []*T
	_    [64]byte // workers write side by side
}

// NewPool makes the pool of a factory for the given number of workers.
func NewPool[T any](workers int) Pool[T] { return Pool[T]{make([]shard[T], workers+1)} }

// Get takes an instance.
func (p *Pool[T]) Get(c *Ctx) *T {
	s := &p.shards[c.Shard]
	n := len(s.free)
	if n == 0 {
		return new(T)
	}
	t := s.free[n-1]
	s.free = s.free[:n-1]
	return t
}

// Put gives one back; call it from OnDone.
func (p *Pool[T]) Put(c *Ctx, t *T) {
	if s := &p.shards[c.Shard]; len(s.free) < maxKept {
		s.free = append(s.free, t)
	}
}
