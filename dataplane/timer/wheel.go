// SPDX-License-Identifier: Apache-2.0

// Package timer is a hierarchical timer wheel with intrusive entries: arming, moving and disarming cost nanoseconds and never allocate. Time is
// handed in; the wheel reads no clock.
package timer

import "math/bits"

const (
	levels   = 5
	slotBits = 6
	slots    = 1 << slotBits // per level: 64 ms, 4 s, 4.4 min, 4.7 h, 12 days
	// Tick is the resolution in nanoseconds.
	Tick = 1_000_000
)

// Entry is one timer. It belongs to one owner and one wheel; the zero value is disarmed.
type Entry[T any] struct {
	next, prev *Entry[T]
	at         int64 // tick where it sits in the wheel
	want       int64 // tick where it really fires; later than at when it was pushed back lazily
	level      int8
	slot       int8
	armed      bool
	fired      bool
	// Owner is what the wheel's user finds on expiry; set once. A typed pointer: an interface would cost 8 bytes for every idle connection.
	Owner *T
}

// Armed tells whether the entry waits in a wheel.
func (e *Entry[T]) Armed() bool { return e.armed }

// Fired tells whether the entry expired since it was last armed or disarmed.
func (e *Entry[T]) Fired() bool { return e.fired }

// Wheel is a set of armed entries.
type Wheel[T any] struct {
	now   int64 // ticks
	heads [levels][slots]*Entry[T]
	used  [levels]uint64
	n     int
}

// Init sets the wheel's start time.
func (w *Wheel[T]) Init(nanos int64) { w.now = nanos / Tick }

// Len is the number of armed entries.
func (w *Wheel[T]) Len() int { return w.n }

// Arm sets e to fire at the given time, rounded up to a tick. An armed entry that moves later stays where it is and is put right when its old
// slot comes up, so pushing an idle deadline back costs one store.
func (w *Wheel[T]) Arm(e *Entry[T], nanos int64) {
	t := (nanos + Tick - 1) / Tick
	if t <= w.now {
		t = w.now + 1
	}
	e.fired = false
	if e.armed {
		if t >= e.at {
			e.want = t
			return
		}
		w.unlink(e)
	}
	e.want = t
	w.link(e, t)
}

// Disarm takes e out of the wheel; it will not fire.
func (w *Wheel[T]) Disarm(e *Entry[T]) {
	e.fired = false
	if e.armed {
		w.unlink(e)
	}
}

func (w *Wheel[T]) link(e *Entry[T], t int64) {
	d := max(t-w.now, 0)
	l := min(max(bits.Len64(uint64(d))-1, 0)/slotBits, levels-1)
	if d >= 1<<(slotBits*levels) {
		t = w.now + 1<<(slotBits*levels) - 1 // further than 12 days: come back and link again
	}
	s := (t >> (slotBits * l)) & (slots - 1)
	e.at, e.level, e.slot, e.armed = t, int8(l), int8(s), true
	h := w.heads[l][s]
	e.next, e.prev = h, nil
	if h != nil {
		h.prev = e
	}
	w.heads[l][s] = e
	w.used[l] |= 1 << s
	w.n++
}

func (w *Wheel[T]) unlink(e *Entry[T]) {
	if e.prev != nil {
		e.prev.next = e.next
	} else {
		w.heads[e.level][e.slot] = e.next
		if e.next == nil {
			w.used[e.level] &^= 1 << e.slot
		}
	}
	if e.next != nil {
		e.next.prev = e.prev
	}
	e.next, e.prev, e.armed = nil, nil, false
	w.n--
}

// Next returns the time of the earliest slot that holds anything, or -1. Nothing fires before it; something may only cascade then.
func (w *Wheel[T]) Next() int64 {
	if w.n == 0 {
		return -1
	}
	best := int64(-1)
	for l := range levels {
		if w.used[l] == 0 {
			continue
		}
		cur := w.now >> (slotBits * l)
		r := bits.RotateLeft64(w.used[l], -int(cur&(slots-1)))
		off := int64(bits.TrailingZeros64(r))
		if off == 0 && l > 0 {
			// The current slot of a higher level is a whole turn away, because it cascades when time enters it.
			if r &^= 1; r != 0 {
				off = int64(bits.TrailingZeros64(r))
			} else {
				off = slots
			}
		}
		t := (cur + off) << (slotBits * l)
		if best < 0 || t < best {
			best = t
		}
	}
	return best * Tick
}

// Advance moves time to nanos and appends every expired entry to out. Entries that were pushed back are linked again.
func (w *Wheel[T]) Advance(nanos int64, out []*Entry[T]) []*Entry[T] {
	target := nanos / Tick
	for w.now < target {
		if w.n == 0 {
			w.now = target
			break
		}
		// Skip ahead to the next tick at which a slot of any level comes up.
		next := w.Next() / Tick
		if next > target {
			w.now = target
			break
		}
		if next <= w.now {
			next = w.now + 1
		}
		w.now = next
		for l := levels - 1; l > 0; l-- {
			if w.now&(1<<(slotBits*l)-1) == 0 {
				w.cascade(l, int(w.now>>(slotBits*l))&(slots-1))
			}
		}
		out = w.expire(int(w.now&(slots-1)), out)
	}
	return out
}

func (w *Wheel[T]) take(l, s int) *Entry[T] {
	h := w.heads[l][s]
	w.heads[l][s] = nil
	w.used[l] &^= 1 << s
	return h
}

func (w *Wheel[T]) cascade(l, s int) {
	for e := w.take(l, s); e != nil; {
		n := e.next
		w.n--
		t := max(e.want, w.now)
		w.link(e, t)
		e = n
	}
}

func (w *Wheel[T]) expire(s int, out []*Entry[T]) []*Entry[T] {
	for e := w.take(0, s); e != nil; {
		n := e.next
		e.next, e.prev, e.armed = nil, nil, false
		w.n--
		if e.want > w.now {
			w.link(e, e.want)
		} else {
			e.fired = true
			out = append(out, e)
		}
		e = n
	}
	return out
}
