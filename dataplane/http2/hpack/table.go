// SPDX-License-Identifier: Apache-2.0

package hpack

import "sidecar/dataplane/httpmsg"

// minRing and minBytes are what a table allocates with its first entry; it doubles as it fills.
const (
	minRing  = 16
	minBytes = 512
)

// entry is one field of a dynamic table: its name and, right behind it, its value, in the table's bytes.
type entry struct {
	at         uint32 // position of the name, counted from the first byte ever inserted, modulo 2^32
	nlen, vlen uint32
	id         httpmsg.ID
	pseudo     Pseudo
	mark       uint8
}

// table is a dynamic table (RFC 7541 section 2.3.2). Entries are numbered by order of insertion, the first is 1; the live ones are the last count numbers.
// Their bytes lie one after the other in b, so that making room is one move. Bounds: size ≤ max; the ring has at most max/32 entries rounded up to a
// power of two, b at most max*3/2 bytes (or minBytes).
type table struct {
	ring  []entry // a power of two long, indexed by number
	b     []byte
	base  uint32 // position of b[0]
	last  uint32 // number of the newest entry
	count uint32
	size  uint32 // section 4.1
	max   uint32
}

func (t *table) entry(number uint32) *entry { return &t.ring[number&uint32(len(t.ring)-1)] }

// live tells whether the entry with this number is still there.
func (t *table) live(number uint32) bool { return t.last-number < t.count }

// name and value are views that hold until the next insertion.
func (t *table) name(e *entry) []byte {
	o := e.at - t.base
	return t.b[o : o+e.nlen : o+e.nlen]
}

func (t *table) value(e *entry) []byte {
	o := e.at - t.base + e.nlen
	return t.b[o : o+e.vlen : o+e.vlen]
}

// both are such views of the name and of the value.
func (t *table) both(e *entry) (name, value []byte) {
	o := int(e.at - t.base)
	v := o + int(e.nlen)
	end := v + int(e.vlen)
	return t.b[o:v:v], t.b[v:end:end]
}

// resize sets the maximum size and evicts what is over it.
func (t *table) resize(max uint32) {
	t.max = max
	t.evict(max)
}

// evict removes the oldest entries until at most size is in use. Their bytes stay readable until the next insertion.
func (t *table) evict(size uint32) {
	for t.size > size {
		e := t.entry(t.last - t.count + 1)
		t.size -= e.nlen + e.vlen + FieldOverhead
		t.count--
	}
}

// fits tells whether n more bytes go in without moving the others.
func (t *table) fits(n int) bool { return cap(t.b)-len(t.b) >= n }

// insert adds an entry and evicts for it (section 4.4). It returns nil when the field is larger than the table, which is then empty. The name may be one of
// the table's own only if fits(len(name)+len(value)); the value never is.
func (t *table) insert(name, value []byte, id httpmsg.ID, p Pseudo) *entry {
	n := len(name) + len(value)
	if uint64(n)+FieldOverhead > uint64(t.max) {
		t.evict(0)
		return nil
	}
	size := uint32(n) + FieldOverhead
	t.evict(t.max - size)
	if int(t.count) == len(t.ring) {
		t.growRing()
	}
	if !t.fits(n) {
		t.makeRoom(n)
	}
	at := t.base + uint32(len(t.b))
	t.b = append(append(t.b, name...), value...)
	t.last++
	t.count++
	t.size += size
	e := t.entry(t.last)
	*e = entry{at: at, nlen: uint32(len(name)), vlen: uint32(len(value)), id: id, pseudo: p}
	return e
}

func (t *table) growRing() {
	old := t.ring
	t.ring = make([]entry, max(minRing, 2*len(old)))
	for i := uint32(0); i < t.count; i++ {
		number := t.last - i
		*t.entry(number) = old[number&uint32(len(old)-1)]
	}
}

// makeRoom moves the live bytes to the front, of a larger slice when less than a quarter would be left free.
func (t *table) makeRoom(n int) {
	from := len(t.b)
	if t.count > 0 {
		from = int(t.entry(t.last-t.count+1).at - t.base)
	}
	live := t.b[from:]
	t.base += uint32(from)
	need, c := len(live)+n, max(cap(t.b), minBytes)
	bound := max(minBytes, int(t.max)+int(t.max)/2)
	for c < need+need/4 && c < bound {
		c = min(2*c, bound)
	}
	if c == cap(t.b) {
		t.b = t.b[:copy(t.b[:c], live)]
		return
	}
	t.b = append(make([]byte, 0, c), live...)
}
