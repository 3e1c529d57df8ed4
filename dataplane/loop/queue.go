// SPDX-License-Identifier: Apache-2.0

package loop

import "math/bits"

// taskRing is the run queue: a growable ring, because every live task may be queued once and tasks are bounded by connections.
type taskRing struct {
	a    []*Task
	head int
	n    int
}

func (q *taskRing) push(t *Task) {
	if q.n == len(q.a) {
		b := make([]*Task, max(64, 2*len(q.a)))
		for i := range q.n {
			b[i] = q.a[(q.head+i)&(len(q.a)-1)]
		}
		q.a, q.head = b, 0
	}
	q.a[(q.head+q.n)&(len(q.a)-1)] = t
	q.n++
}

func (q *taskRing) pop() *Task {
	t := q.a[q.head]
	q.a[q.head] = nil
	q.head = (q.head + 1) & (len(q.a) - 1)
	q.n--
	return t
}

// remove takes t out; rare, so a scan is fine.
func (q *taskRing) remove(t *Task) {
	for i := range q.n {
		if q.a[(q.head+i)&(len(q.a)-1)] == t {
			for j := i; j < q.n-1; j++ {
				q.a[(q.head+j)&(len(q.a)-1)] = q.a[(q.head+j+1)&(len(q.a)-1)]
			}
			q.n--
			q.a[(q.head+q.n)&(len(q.a)-1)] = nil
			return
		}
	}
}

// rng is wyrand-like: one multiplication per draw, good enough for balancing and sampling, not for secrets.
type rng struct{ s uint64 }

func (r *rng) seed(s uint64) { r.s = s }

func (r *rng) next() uint64 {
	r.s += 0xa0761d6478bd642f
	hi, lo := bits.Mul64(r.s, r.s^0xe7037ed1a0b428db)
	return hi ^ lo
}

// Slab is a free list of objects of one type that keep their address for the life of the worker. Get does not zero: owners reset what they use.
type Slab[T any] struct {
	free []*T
	live int
}

// slabChunk is how many objects one heap allocation makes.
const slabChunk = 32

// Get takes an object.
func (s *Slab[T]) Get() *T {
	if len(s.free) == 0 {
		c := make([]T, slabChunk)
		for i := range c {
			s.free = append(s.free, &c[i])
		}
	}
	t := s.free[len(s.free)-1]
	s.free = s.free[:len(s.free)-1]
	s.live++
	return t
}

// Put gives an object back.
func (s *Slab[T]) Put(t *T) {
	s.live--
	s.free = append(s.free, t)
}

// Live is the number of objects handed out.
func (s *Slab[T]) Live() int { return s.live }
