// SPDX-License-Identifier: Apache-2.0

package hpack

import "sidecar/dataplane/httpmsg"

// DefaultTable is the size of both tables before any SETTINGS (RFC 9113 section 6.5.2), in octets.
const DefaultTable = 4096

// FieldOverhead is what a field counts besides its name and value: in a table (RFC 7541 section 4.1) and against SETTINGS_MAX_HEADER_LIST_SIZE.
const FieldOverhead = 32

// Pseudo numbers the pseudo-header names (RFC 9113 section 8.3, RFC 8441).
type Pseudo uint8

// The pseudo-headers.
const (
	PseudoNone Pseudo = iota // an ordinary field
	PseudoAuthority
	PseudoMethod
	PseudoPath
	PseudoScheme
	PseudoStatus
	PseudoProtocol
	PseudoOther // a name that starts with ':' and is none of these: no message may carry it
	numPseudo
)

var pseudoNames = [numPseudo]string{PseudoAuthority: ":authority", PseudoMethod: ":method", PseudoPath: ":path", PseudoScheme: ":scheme",
	PseudoStatus: ":status", PseudoProtocol: ":protocol"}

// String returns the name, "" for PseudoNone and PseudoOther.
func (p Pseudo) String() string { return pseudoNames[p] }

// parsePseudo numbers a name that starts with ':'.
func parsePseudo(name []byte) Pseudo {
	for p := PseudoAuthority; p < PseudoOther; p++ {
		if string(name) == pseudoNames[p] {
			return p
		}
	}
	return PseudoOther
}

// Field is one decoded field. Name and Value are views: read only, valid until the next call of the Decoder that filled them (or of a
// Decoder that shares its Scratch). Nothing of their grammar has been checked.
type Field struct {
	Name, Value []byte
	ID          httpmsg.ID // httpmsg.LookupBytes(Name); IDOther for pseudo-headers
	Pseudo      Pseudo
	Sensitive   bool // never-indexed literal (section 7.1.3): must be sent on as one

	// Mark is what the caller gave Decoder.SetMark when it met the same table entry before, 0 if it did not: so what was found out about an entry,
	// such as that its bytes are valid, holds for every later reference to it.
	Mark uint8
}

// Size is what the field counts against a header list limit: name, value and FieldOverhead.
func (f *Field) Size() int { return len(f.Name) + len(f.Value) + FieldOverhead }

// Error says why a header block is a COMPRESSION_ERROR.
type Error uint8

// The errors. The connection cannot go on after any of them: the tables of the two ends differ from here on.
const (
	None            Error = iota
	Truncated             // the block ends inside a field
	IntegerTooLong        // an integer of more than maxIntegerBytes octets or over 32 bits
	BadIndex              // index 0 or beyond the tables
	BadHuffman            // EOS inside, or padding that is too long or not all ones
	UpdateMisplaced       // a size update after the first field, or more than two
	UpdateTooLarge        // a size update over the table size we allow
	UpdateMissing         // we lowered the table size and the block does not start with a size update
)

var errorNames = [...]string{"none", "truncated block", "integer too long", "bad index", "bad huffman code", "misplaced table size update",
	"table size update over the limit", "missing table size update"}

// String names the error for logs and tests.
func (e Error) String() string { return errorNames[e] }
