// SPDX-License-Identifier: Apache-2.0

package hpack

import (
	"sidecar/dataplane/httpmsg"
)

// Bounds of what a peer may send.
const (
	// maxIntegerBytes bounds the octets behind the prefix of an integer; five are enough for 32 bits.
	maxIntegerBytes = 5

	// maxUpdates bounds the size updates of a block: the lowest size since the last block and the final one (section 4.2).
	maxUpdates = 2

	// keepScratch bounds what a Scratch keeps between blocks, in octets.
	keepScratch = 128 << 10
)

// Scratch is where decoders put what Huffman coding hides. One serves all decoders of a worker, as a block is decoded in one go. The zero value is ready.
// Bound: 8/5 of the longest block while it is decoded, keepScratch otherwise.
type Scratch struct{ b []byte }

// room returns an empty slice with n octets behind what the current field already uses.
func (s *Scratch) room(n int) []byte {
	if cap(s.b)-len(s.b) < n {
		s.b = make([]byte, 0, max(n, 256)) // the field's older views keep the old bytes
	}
	return s.b[len(s.b):]
}

// Decoder decodes the header blocks of one direction of one connection, in their order: every block must be decoded, to its end. Owner: one worker.
//
//	for d.Decode(block); d.Next(&f); { … }
//	if d.Error() != hpack.None { COMPRESSION_ERROR }
type Decoder struct {
	table
	scratch *Scratch

	allowed uint32 // our table size limit that the peer knows of
	lowest  uint32 // with must: what the first size update may say at most
	must    bool   // the next block must start with a size update

	block   []byte
	at      int    // block[at:] is what is left of it
	current uint32 // number of the table entry behind the last field, 0 if none
	updates uint8  // size updates of this block
	fields  bool   // a field was seen in this block
	err     Error
}

// Init makes d ready. maxTable is the table size that both ends start with: DefaultTable in HTTP/2, whatever our SETTINGS say. s may be shared with
// other decoders of the same worker.
func (d *Decoder) Init(maxTable uint32, s *Scratch) {
	*d = Decoder{scratch: s, allowed: maxTable}
	d.max = maxTable
}

// SetScratch has d share s from now on, with the decoders of another worker; between two blocks only.
func (d *Decoder) SetScratch(s *Scratch) { d.scratch = s }

// SetMaxTable sets the limit on the peer's table size. Call it when the peer has acknowledged our SETTINGS_HEADER_TABLE_SIZE. A limit below the size in use
// evicts at once and obliges the peer to start its next block with a size update (section 4.2).
func (d *Decoder) SetMaxTable(n uint32) {
	d.allowed = n
	if n < d.max {
		d.lowest, d.must = n, true
		d.resize(n)
	}
}

// Decode starts on one complete block (section 3), which must stay unchanged until the last Next of it.
func (d *Decoder) Decode(block []byte) {
	d.block, d.at, d.current, d.updates, d.fields, d.err = block, 0, 0, 0, false, None
	if cap(d.scratch.b) > keepScratch {
		d.scratch.b = nil
	}
}

// Error tells what ended the block: None at its end.
func (d *Decoder) Error() Error { return d.err }

// SetMark stores m with the table entry that the last field came from or was put into; nothing happens when there is none.
func (d *Decoder) SetMark(m uint8) {
	if d.current != 0 {
		d.entry(d.current).mark = m
	}
}

// Next decodes one field. It returns false at the end of the block and on an error.
func (d *Decoder) Next(f *Field) bool {
	for d.err == None {
		if d.at >= len(d.block) {
			if d.must {
				d.fail(UpdateMissing)
			}
			return false
		}
		c := d.block[d.at]
		if c >= 0x80 && !d.must { // 1: indexed (section 6.1)
			d.fields = true
			return d.indexed(f, c)
		}
		if c>>5 == 1 { // 001: size update (section 6.3)
			d.sizeUpdate()
			continue
		}
		if d.must {
			d.fail(UpdateMissing)
			break
		}
		d.fields = true
		if c >= 0x40 { // 01: literal with incremental indexing (section 6.2.1)
			return d.literal(f, 6, true)
		}
		if !d.literal(f, 4, false) { // 0000, 0001: literal without indexing, never indexed (sections 6.2.2, 6.2.3)
			return false
		}
		f.Sensitive = c >= 0x10
		return true
	}
	return false
}

func (d *Decoder) fail(e Error) bool {
	d.err = e
	d.block, d.at = nil, 0
	return false
}

// integer reads an integer with a prefix of bits bits (section 5.1).
func (d *Decoder) integer(bits uint) (uint32, bool) {
	limit := uint32(1)<<bits - 1
	v := uint32(d.block[d.at]) & limit
	if v < limit {
		d.at++
		return v, true
	}
	sum := uint64(v)
	for i, c := range d.block[d.at+1:] {
		sum += uint64(c&0x7f) << (7 * uint(i))
		if c < 0x80 {
			if sum > 1<<32-1 {
				break
			}
			d.at += i + 2
			return uint32(sum), true
		}
		if i+1 == maxIntegerBytes {
			return 0, d.fail(IntegerTooLong)
		}
	}
	if len(d.block)-d.at <= maxIntegerBytes && sum <= 1<<32-1 {
		return 0, d.fail(Truncated)
	}
	return 0, d.fail(IntegerTooLong)
}

// sizeUpdate obeys a dynamic table size update.
func (d *Decoder) sizeUpdate() {
	if d.fields || d.updates == maxUpdates {
		d.fail(UpdateMisplaced)
		return
	}
	n, ok := d.integer(5)
	if !ok {
		return
	}
	d.updates++
	if n > d.allowed || d.must && n > d.lowest {
		d.fail(UpdateTooLarge)
		return
	}
	d.must = false
	d.resize(n)
}

// find returns the entry of an index: a static field, or a dynamic entry with its number.
func (d *Decoder) find(index uint32) (static *Field, number uint32, ok bool) {
	if index <= staticCount {
		return &staticFields[index], 0, index > 0
	}
	if index -= staticCount + 1; index < d.count {
		return nil, d.last - index, true
	}
	return nil, 0, false
}

// indexed reads an indexed field that begins with c.
func (d *Decoder) indexed(f *Field, c byte) bool {
	index := uint32(c & 0x7f)
	if index < 0x7f {
		d.at++
	} else {
		var ok bool
		if index, ok = d.integer(7); !ok {
			return false
		}
	}
	static, number, ok := d.find(index)
	if !ok {
		return d.fail(BadIndex)
	}
	d.current = number
	if static != nil {
		*f = *static
		return true
	}
	e := d.entry(number)
	f.Name, f.Value = d.both(e)
	f.ID, f.Pseudo, f.Mark, f.Sensitive = e.id, e.pseudo, e.mark, false
	return true
}

// literal reads a literal whose name index has a prefix of bits bits, and inserts it when insert is set.
func (d *Decoder) literal(f *Field, bits uint, insert bool) bool {
	d.scratch.b = d.scratch.b[:0]
	d.current = 0
	index, ok := d.integer(bits)
	if !ok {
		return false
	}
	own := false
	*f = Field{}
	if index == 0 {
		if f.Name, ok = d.str(); !ok {
			return false
		}
		if len(f.Name) > 0 && f.Name[0] == ':' {
			f.Pseudo = parsePseudo(f.Name)
		} else {
			f.ID = httpmsg.LookupBytes(f.Name)
		}
	} else {
		static, number, ok := d.find(index)
		if !ok {
			return d.fail(BadIndex)
		}
		if static != nil {
			f.Name, f.ID, f.Pseudo = static.Name, static.ID, static.Pseudo
		} else {
			e := d.entry(number)
			f.Name, f.ID, f.Pseudo = d.name(e), e.id, e.pseudo
			own = true
		}
	}
	if f.Value, ok = d.str(); !ok {
		return false
	}
	if !insert {
		return true
	}
	if own && !d.fits(len(f.Name)+len(f.Value)) {
		f.Name = append(d.scratch.room(len(f.Name)), f.Name...)
	}
	if d.insert(f.Name, f.Value, f.ID, f.Pseudo) != nil {
		d.current = d.last
		if own {
			f.Name = d.name(d.entry(d.last))
		}
	}
	return true
}

// str reads a string literal (section 5.2): a view of the block, or of the scratch when it is Huffman coded.
func (d *Decoder) str() ([]byte, bool) {
	if d.at >= len(d.block) {
		return nil, d.fail(Truncated)
	}
	huffman := d.block[d.at] >= 0x80
	n, ok := d.integer(7)
	if !ok {
		return nil, false
	}
	rest := d.block[d.at:]
	if uint64(n) > uint64(len(rest)) {
		return nil, d.fail(Truncated)
	}
	s := rest[:n:n]
	d.at += int(n)
	if !huffman {
		return s, true
	}
	out, ok := decodeHuffman(d.scratch.room(huffRoom(len(s))), s)
	if !ok {
		return nil, d.fail(BadHuffman)
	}
	d.scratch.b = d.scratch.b[:len(d.scratch.b)+len(out)]
	return out[:len(out):len(out)], true
}
