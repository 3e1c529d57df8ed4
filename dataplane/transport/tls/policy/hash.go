// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"maps"
	"slices"
)

// hasher makes an unambiguous digest of labelled values.
type hasher struct{ h hash.Hash }

func newHasher() hasher { return hasher{sha256.New()} }

func (x hasher) bytes(label string, b []byte) {
	var n [8]byte
	binary.BigEndian.PutUint32(n[:4], uint32(len(label)))
	binary.BigEndian.PutUint32(n[4:], uint32(len(b)))
	x.h.Write(n[:])
	x.h.Write([]byte(label))
	x.h.Write(b)
}

func (x hasher) text(label, s string) { x.bytes(label, []byte(s)) }

func (x hasher) number(label string, n int) {
	x.bytes(label, binary.BigEndian.AppendUint64(nil, uint64(n)))
}

func (x hasher) flag(b bool) {
	if b {
		x.bytes("yes", nil)
	} else {
		x.bytes("no", nil)
	}
}

func (x hasher) sum() (out [sha256.Size]byte) {
	x.h.Sum(out[:0])
	return out
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
