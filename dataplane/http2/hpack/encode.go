// SPDX-License-Identifier: Apache-2.0

package hpack

import (
	"bytes"

	"sidecar/dataplane/httpmsg"
)

// seenSlots bounds the values that the encoder remembers as seen once.
const seenSlots = 64

// Encoder encodes the header blocks of one direction of one connection, in the order in which they are sent: a block that was encoded must be sent. Owner: one
// worker. What goes into the dynamic table is the business of policy.go.
type Encoder struct {
	table

	slots []uint32 // pairs of numbers of entries, by hash of name and of name with value; always verified against the entry
	seen  [seenSlots]uint32

	own     uint32 // our bound on the table
	lowest  uint32 // lowest table size since the last block
	pending bool   // the table size changed since the last block
}

// Init makes e ready for a peer that has not sent SETTINGS. maxTable bounds the table whatever the peer offers, in octets.
func (e *Encoder) Init(maxTable uint32) {
	*e = Encoder{own: maxTable}
	e.max = DefaultTable
	e.SetPeerTable(DefaultTable)
}

// SetPeerTable obeys the peer's SETTINGS_HEADER_TABLE_SIZE. The next block starts with the size updates that follow from it (section 4.2).
func (e *Encoder) SetPeerTable(n uint32) {
	n = min(n, e.own)
	if n == e.max {
		return
	}
	if !e.pending {
		e.pending, e.lowest = true, n
	}
	e.lowest = min(e.lowest, n)
	e.resize(n)
}

// Begin starts a block: it appends the size updates that are due. Every block starts with it. When the size fell and rose again, the update for the lowest
// says 0 and empties the table: some decoders in wide use refuse a second update while theirs holds anything.
func (e *Encoder) Begin(dst []byte) []byte {
	if !e.pending {
		return dst
	}
	e.pending = false
	if e.lowest < e.max {
		e.evict(0)
		dst = append(dst, 0x20)
	}
	return appendInteger(dst, 0x20, 5, e.max)
}

// AppendField appends an ordinary field. name is lower case and id is httpmsg.LookupBytes(name). sensitive makes it a never-indexed literal (section 7.1.3): set it
// when the field was received as one.
func (e *Encoder) AppendField(dst []byte, id httpmsg.ID, name, value []byte, sensitive bool) []byte {
	if id != httpmsg.IDOther {
		return e.AppendKnown(dst, id, value, sensitive)
	}
	k := otherName(name)
	return e.append(dst, &k, value, sensitive)
}

// AppendKnown is AppendField for a well-known name; id is not IDOther.
func (e *Encoder) AppendKnown(dst []byte, id httpmsg.ID, value []byte, sensitive bool) []byte {
	return e.append(dst, &knownNames[id], value, sensitive)
}

// AppendPseudo appends a pseudo-header; p is neither PseudoNone nor PseudoOther.
func (e *Encoder) AppendPseudo(dst []byte, p Pseudo, value []byte, sensitive bool) []byte {
	if !sensitive {
		if i := staticPseudo(p, value); i > 0 {
			return append(dst, 0x80|i)
		}
	}
	return e.append(dst, &pseudoKeys[p], value, sensitive)
}

// AppendStatus appends :status, from 100 to 999.
func (e *Encoder) AppendStatus(dst []byte, status uint16) []byte {
	if status == 200 {
		return append(dst, 0x88)
	}
	v := [3]byte{'0' + byte(status/100%10), '0' + byte(status/10%10), '0' + byte(status%10)}
	return e.AppendPseudo(dst, PseudoStatus, v[:], false)
}

// append encodes one field of the name k.
func (e *Encoder) append(dst []byte, k *nameKey, value []byte, sensitive bool) []byte {
	if sensitive {
		return e.appendLiteral(dst, 0x10, k, value)
	}
	if k.policy == never || e.max == 0 {
		if k.id == httpmsg.IDAcceptEncoding && string(value) == staticTable[staticGzip][1] {
			return append(dst, 0x80|staticGzip)
		}
		if k.static == 0 && k.policy == never && e.findName(k) == 0 && e.worth(k.name, value) {
			return e.appendInserted(dst, k, value, hashBytes(k.hash, value)) // for its name
		}
		return e.appendLiteral(dst, 0, k, value)
	}
	h := hashBytes(k.hash, value)
	if number := e.find(h, k, value); number != 0 {
		return appendInteger(dst, 0x80, 7, e.index(number))
	}
	if k.id == httpmsg.IDAcceptEncoding && string(value) == staticTable[staticGzip][1] {
		return append(dst, 0x80|staticGzip)
	}
	if !e.worth(k.name, value) || k.policy == second && !e.again(h) {
		return e.appendLiteral(dst, 0, k, value)
	}
	return e.appendInserted(dst, k, value, h)
}

// worth tells whether a field may enter the table: one that takes more than half of it would push out too much.
func (e *Encoder) worth(name, value []byte) bool {
	return uint64(len(name)+len(value)+FieldOverhead) <= uint64(e.max/2)
}

// again tells whether a field with this hash was seen lately, and remembers it.
func (e *Encoder) again(h uint32) bool {
	s := &e.seen[h%seenSlots]
	if *s == h {
		return true
	}
	*s = h
	return false
}

// index is the index of a live entry (section 2.3.3).
func (e *Encoder) index(number uint32) uint32 { return staticCount + 1 + e.last - number }

// find returns the number of the live entry with this name and value, 0 if there is none.
func (e *Encoder) find(h uint32, k *nameKey, value []byte) uint32 {
	if len(e.slots) == 0 {
		return 0
	}
	i := h & uint32(len(e.slots)-1)
	if number := e.slots[i]; e.holds(number, k, value) {
		return number
	}
	if number := e.slots[i^1]; e.holds(number, k, value) {
		return number
	}
	return 0
}

// holds tells whether the number is of a live entry with this name and value.
func (e *Encoder) holds(number uint32, k *nameKey, value []byte) bool {
	if !e.live(number) {
		return false
	}
	x := e.entry(number)
	return e.same(x, k) && bytes.Equal(e.value(x), value)
}

// findName returns the number of a live entry with this name, 0 if none is known.
func (e *Encoder) findName(k *nameKey) uint32 {
	if len(e.slots) == 0 {
		return 0
	}
	i := k.hash & uint32(len(e.slots)-1)
	if number := e.slots[i]; e.live(number) && e.same(e.entry(number), k) {
		return number
	}
	if number := e.slots[i^1]; e.live(number) && e.same(e.entry(number), k) {
		return number
	}
	return 0
}

// same tells whether x has the name.
func (e *Encoder) same(x *entry, k *nameKey) bool {
	if x.id != k.id || x.pseudo != k.pseudo {
		return false
	}
	return k.id != httpmsg.IDOther || k.pseudo != PseudoNone || bytes.Equal(e.name(x), k.name)
}

// appendLiteral appends a literal of a kind, which is the pattern of its first octet, with its name by index where there is one. It inserts nothing.
func (e *Encoder) appendLiteral(dst []byte, kind byte, k *nameKey, value []byte) []byte {
	index := uint32(k.static)
	if index == 0 {
		if number := e.findName(k); number != 0 {
			index = e.index(number)
		}
	}
	if kind == 0x40 {
		dst = appendInteger(dst, kind, 6, index)
	} else {
		dst = appendInteger(dst, kind, 4, index)
	}
	if index == 0 {
		dst = appendString(dst, k.name)
	}
	return appendString(dst, value)
}

// appendInserted appends a literal with incremental indexing and inserts it.
func (e *Encoder) appendInserted(dst []byte, k *nameKey, value []byte, h uint32) []byte {
	dst = e.appendLiteral(dst, 0x40, k, value)
	ring := len(e.ring)
	if e.insert(k.name, value, k.id, k.pseudo) == nil {
		return dst
	}
	if len(e.ring) != ring {
		e.rehash()
		return dst
	}
	e.put(h, e.last)
	e.put(k.hash, e.last)
	return dst
}

// put files the number under a hash in the place of a dead one or of the older of the two.
func (e *Encoder) put(h, number uint32) {
	i := h & uint32(len(e.slots)-1)
	if e.last-e.slots[i] < e.last-e.slots[i^1] {
		i ^= 1
	}
	e.slots[i] = number
}

// rehash files all live entries anew after the ring has grown.
func (e *Encoder) rehash() {
	e.slots = make([]uint32, 4*len(e.ring))
	for number := e.last - e.count + 1; number != e.last+1; number++ {
		x := e.entry(number)
		h := hashBytes(0, e.name(x))
		e.put(hashBytes(h, e.value(x)), number)
		e.put(h, number)
	}
}

// appendInteger appends v with a prefix of bits bits behind the pattern of kind (section 5.1).
func appendInteger(dst []byte, kind byte, bits uint, v uint32) []byte {
	limit := uint32(1)<<bits - 1
	if v < limit {
		return append(dst, kind|byte(v))
	}
	dst = append(dst, kind|byte(limit))
	for v -= limit; v >= 0x80; v >>= 7 {
		dst = append(dst, byte(v)|0x80)
	}
	return append(dst, byte(v))
}

// appendString appends s as it is (section 5.2).
func appendString(dst, s []byte) []byte {
	return append(appendInteger(dst, 0, 7, uint32(len(s))), s...)
}
