// SPDX-License-Identifier: Apache-2.0

// Package httpmsg holds HTTP messages in a version-neutral form: a Head is a set of header fields plus pseudo-headers, kept as spans into
// one byte arena that belongs to the exchange. Nothing here allocates once an arena has grown to its working size.
package httpmsg

import "math/bits"

// Arena is the storage that spans point into. It only grows while a message lives; Reset reuses it. Owner: one exchange (worker).
// Bound: the codec's max_request_headers_kb plus what header mutations add.
type Arena struct{ b []byte }

// Span is a piece of an Arena. The zero Span is empty.
type Span struct{ Off, Len uint32 }

// Reset forgets all spans but keeps the memory; an arena that grew over keep bytes is dropped, so that one large head does not pin memory.
func (a *Arena) Reset(keep int) {
	if cap(a.b) > keep {
		a.b = nil
		return
	}
	a.b = a.b[:0]
}

// Put copies p into the arena.
func (a *Arena) Put(p []byte) Span {
	o := len(a.b)
	a.b = append(a.b, p...)
	return Span{uint32(o), uint32(len(p))}
}

// PutString copies s into the arena.
func (a *Arena) PutString(s string) Span {
	o := len(a.b)
	a.b = append(a.b, s...)
	return Span{uint32(o), uint32(len(s))}
}

// Bytes returns the bytes of s: a view, valid until Reset; a later Put may move the arena, but old views stay readable.
func (a *Arena) Bytes(s Span) []byte { return a.b[s.Off : s.Off+s.Len : s.Off+s.Len] }

// Tail returns the whole arena for append-style building: b = append(a.Tail(), ...); span := a.Take(b).
func (a *Arena) Tail() []byte { return a.b }

// Take adopts b, which must be the result of appending to Tail(), and returns the span of what was appended.
func (a *Arena) Take(b []byte) Span {
	o := len(a.b)
	a.b = b
	return Span{uint32(o), uint32(len(b) - o)}
}

// Truncate forgets everything that was put in after the arena was n bytes long; spans into that are dead.
func (a *Arena) Truncate(n int) { a.b = a.b[:n] }

// Len is the number of bytes in use.
func (a *Arena) Len() int { return len(a.b) }

// Field is one header line. Names are lower case (Envoy lower-cases all names; the spelling as received is only kept for
// header_key_format preserve_case, in Raw).
type Field struct {
	Name, Value Span
	Raw         Span   // name as received; empty unless the codec keeps it
	Line        uint32 // length of the line when it was put down as HTTP/1 writes it, "name: value\r\n" from Name.Off on; 0 = it was not
	ID          ID     // well-known name or IDOther
	Dead        bool   // removed; iteration skips it
	Sensitive   bool   // received as an HPACK never-indexed literal, and to be sent on as one (RFC 7541 section 7.1.3)
}

// WholeLine reports that the arena still has f as HTTP/1 writes it, in one piece from Name.Off on. A field whose name or value was replaced since it
// came in is none.
func (f *Field) WholeLine() bool {
	return f.Line != 0 && f.Name.Off+f.Name.Len+uint32(len(": ")) == f.Value.Off && f.Name.Len+f.Value.Len+uint32(len(": \r\n")) == f.Line
}

// Fields is an ordered multi-map of header lines over an Arena. Fields come in by Grow and the methods built on it; then List may be reordered, cut and
// its fields changed, all but their ID.
type Fields struct {
	A    *Arena
	List []Field
	seen uint64 // a bit per ID that came in, shared by those 64 apart: most lookups are for what is not there
}

// Reset empties the list and binds the arena.
func (f *Fields) Reset(a *Arena) { *f = Fields{A: a, List: f.List[:0]} }

// Never reports that certainly no field with that id has come in since Reset.
func (f *Fields) Never(id ID) bool { return f.seen>>(id&63)&1 == 0 }

// IDSet is a set of well-known names, for asking about all of them at once. Make one at start with IDSetOf.
type IDSet uint64

// IDSetOf returns the set of ids, none of which is IDOther.
func IDSetOf(ids ...ID) (s IDSet) {
	for _, id := range ids {
		s |= 1 << (id & 63)
	}
	return s
}

// NeverAny is Never for all ids of a set.
func (f *Fields) NeverAny(s IDSet) bool { return f.seen&uint64(s) == 0 }

// Distinct reports that certainly no two fields have the same name.
func (f *Fields) Distinct() bool { return bits.OnesCount64(f.seen) == len(f.List) }

// Name and Value return the bytes of field i (views).
func (f *Fields) Name(i int) []byte  { return f.A.Bytes(f.List[i].Name) }
func (f *Fields) Value(i int) []byte { return f.A.Bytes(f.List[i].Value) }

// Find returns the index of the first live field with the well-known id at or after from, or -1. id must not be IDOther.
func (f *Fields) Find(id ID, from int) int {
	if f.Never(id) {
		return -1
	}
	return f.find(id, from)
}

//go:noinline
func (f *Fields) find(id ID, from int) int { // by itself, so that Find is inlined
	list := f.List
	for i := max(from, 0); i < len(list); i++ {
		if l := &list[i]; l.ID == id && !l.Dead {
			return i
		}
	}
	return -1
}

// FindName is Find for any lower-case name; it uses the id when name is well known.
func (f *Fields) FindName(name string, from int) int {
	return f.FindKey(Key{Name: name, ID: Lookup(name)}, from)
}

// FindKey is FindName with the Lookup done beforehand (compile time): key.ID == Lookup(key.Name).
func (f *Fields) FindKey(k Key, from int) int {
	if f.Never(k.ID) {
		return -1
	}
	return f.findKey(k, from)
}

func (f *Fields) findKey(k Key, from int) int {
	if k.ID != IDOther {
		return f.find(k.ID, from)
	}
	for i := from; i < len(f.List); i++ {
		l := &f.List[i]
		if l.ID == IDOther && !l.Dead && int(l.Name.Len) == len(k.Name) && string(f.A.Bytes(l.Name)) == k.Name {
			return i
		}
	}
	return -1
}

// Get returns the first value of id, or nil.
func (f *Fields) Get(id ID) []byte {
	if f.Never(id) {
		return nil
	}
	return f.first(id)
}

//go:noinline
func (f *Fields) first(id ID) []byte { // by itself, so that Get is inlined
	if i := f.find(id, 0); i >= 0 {
		return f.Value(i)
	}
	return nil
}

// GetKey returns the first value of k and whether the field is there.
func (f *Fields) GetKey(k Key) ([]byte, bool) {
	if i := f.FindKey(k, 0); i >= 0 {
		return f.Value(i), true
	}
	return nil, false
}

// Grow appends an empty field with that id and returns it, to be filled in place; the pointer is good until the next append.
func (f *Fields) Grow(id ID) *Field {
	f.seen |= 1 << (id & 63)
	n := len(f.List)
	if n < cap(f.List) {
		f.List = f.List[:n+1]
		f.List[n] = Field{ID: id}
	} else {
		f.List = append(f.List, Field{ID: id})
	}
	return &f.List[n]
}

// line puts a field into the arena as HTTP/1 writes it, which makes that a copy (http1.AppendRequestHead).
func line[T string | []byte](a *Arena, name string, v T) (Span, Span, uint32) {
	at := uint32(len(a.b))
	value := at + uint32(len(name)+len(": "))
	a.b = append(append(append(append(a.b, name...), ": "...), v...), "\r\n"...)
	return Span{at, uint32(len(name))}, Span{value, uint32(len(v))}, uint32(len(a.b)) - at
}

// Add appends a field; name must be lower case.
func (f *Fields) Add(k Key, value []byte) {
	l := f.Grow(k.ID)
	l.Name, l.Value, l.Line = line(f.A, k.Name, value)
}

// AddString is Add for a string value.
func (f *Fields) AddString(k Key, value string) {
	l := f.Grow(k.ID)
	l.Name, l.Value, l.Line = line(f.A, k.Name, value)
}

// AddSpan is Add for a value that is already in the arena.
func (f *Fields) AddSpan(k Key, v Span) { f.Add(k, f.A.Bytes(v)) }

// Set replaces the first field k and removes the others, or adds it.
func (f *Fields) Set(k Key, value []byte) {
	l := f.one(k)
	l.Name, l.Value, l.Line = line(f.A, k.Name, value)
}

// SetString is Set for a string value.
func (f *Fields) SetString(k Key, value string) {
	l := f.one(k)
	l.Name, l.Value, l.Line = line(f.A, k.Name, value)
}

// SetSpan is Set for a value that is already in the arena.
func (f *Fields) SetSpan(k Key, v Span) { f.Set(k, f.A.Bytes(v)) }

// one returns the first field k and removes the others, or adds it.
func (f *Fields) one(k Key) *Field {
	i := f.FindKey(k, 0)
	if i < 0 {
		return f.Grow(k.ID)
	}
	for j := f.FindKey(k, i+1); j >= 0; j = f.FindKey(k, j+1) {
		f.List[j].Dead = true
	}
	return &f.List[i]
}

// Remove removes every field k and reports how many there were.
func (f *Fields) Remove(k Key) int {
	n := 0
	for i := f.FindKey(k, 0); i >= 0; i = f.FindKey(k, i+1) {
		f.List[i].Dead = true
		n++
	}
	return n
}

// Live is the number of fields that are not removed.
func (f *Fields) Live() int {
	n := 0
	for i := range f.List {
		if !f.List[i].Dead {
			n++
		}
	}
	return n
}

// CopyFrom makes f a deep copy of src in arena a (explicit clone, for retries and mirrors).
func (f *Fields) CopyFrom(src *Fields, a *Arena) {
	f.Reset(a)
	for i := range src.List {
		l := &src.List[i]
		if l.Dead {
			continue
		}
		nf := f.Grow(l.ID)
		nf.Name = a.Put(src.A.Bytes(l.Name))
		nf.Value = a.Put(src.A.Bytes(l.Value))
		if l.Raw.Len > 0 {
			nf.Raw = a.Put(src.A.Bytes(l.Raw))
		}
		nf.Sensitive = l.Sensitive
	}
}
