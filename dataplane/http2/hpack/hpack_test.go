// SPDX-License-Identifier: Apache-2.0

package hpack

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"sidecar/dataplane/httpmsg"
)

// header is a field in the tests; sensitive ones are never indexed.
type header struct {
	name, value string
	sensitive   bool
}

func newDecoder(size uint32) *Decoder {
	d := new(Decoder)
	d.Init(size, new(Scratch))
	return d
}

func newEncoder(size uint32) *Encoder {
	e := new(Encoder)
	e.Init(size)
	return e
}

// decodeAll decodes a block and checks what every field must hold.
func decodeAll(t testing.TB, d *Decoder, block []byte) ([]header, Error) {
	t.Helper()
	var out []header
	var f Field
	for d.Decode(block); d.Next(&f); {
		if want := httpmsg.LookupBytes(f.Name); f.ID != want {
			t.Errorf("%q: id %d, want %d", f.Name, f.ID, want)
		}
		if pseudo := len(f.Name) > 0 && f.Name[0] == ':'; pseudo != (f.Pseudo != PseudoNone) {
			t.Errorf("%q: pseudo %d", f.Name, f.Pseudo)
		} else if f.Pseudo != PseudoNone && f.Pseudo != PseudoOther && f.Pseudo.String() != string(f.Name) {
			t.Errorf("%q: pseudo %v", f.Name, f.Pseudo)
		}
		if f.Size() != len(f.Name)+len(f.Value)+32 {
			t.Errorf("%q: size %d", f.Name, f.Size())
		}
		out = append(out, header{string(f.Name), string(f.Value), f.Sensitive})
		checkTable(t, &d.table)
	}
	checkTable(t, &d.table)
	if d.Next(&f) {
		t.Error("a field after the end")
	}
	return out, d.Error()
}

// encodeAll encodes one block.
func encodeAll(e *Encoder, dst []byte, hs []header) []byte {
	dst = e.Begin(dst)
	for _, h := range hs {
		if p := parsePseudo([]byte(h.name)); p != PseudoOther {
			dst = e.AppendPseudo(dst, p, []byte(h.value), h.sensitive)
			continue
		}
		dst = e.AppendField(dst, httpmsg.Lookup(h.name), []byte(h.name), []byte(h.value), h.sensitive)
	}
	return dst
}

// checkTable checks the bounds that table documents.
func checkTable(t testing.TB, x *table) {
	t.Helper()
	size := uint32(0)
	for i := uint32(0); i < x.count; i++ {
		e := x.entry(x.last - i)
		size += uint32(len(x.name(e)) + len(x.value(e)) + 32)
	}
	if size != x.size || size > x.max {
		t.Fatalf("size %d, counted %d, at most %d", x.size, size, x.max)
	}
}

func equal(a, b []header) bool { return fmt.Sprint(a) == fmt.Sprint(b) }

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// tableText prints the dynamic table, newest entry first.
func tableText(x *table) string {
	var s []string
	for i := uint32(0); i < x.count; i++ {
		e := x.entry(x.last - i)
		s = append(s, string(x.name(e))+": "+string(x.value(e)))
	}
	return strings.Join(s, "\n")
}
