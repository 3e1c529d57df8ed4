// SPDX-License-Identifier: Apache-2.0

package hpack

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"sidecar/dataplane/httpmsg"
)

func TestDecoder_WhenABlockIsBroken_ThenItsErrorIsNamed(t *testing.T) {
	tests := []struct {
		name, wire string
		want       Error
		fields     int // decoded before the error
	}{
		{"index 0", "82 80", BadIndex, 1},
		{"index behind the tables", "82 be", BadIndex, 1},
		{"index far behind the tables", "ff ff ff ff ff 0f", IntegerTooLong, 0},
		{"index of 32 bits", "ff 80 ff ff ff 0f", BadIndex, 0},
		{"name index behind the tables", "7e 01 61", BadIndex, 0},
		{"name index of a literal never indexed", "1f 2f 01 61", BadIndex, 0},
		{"integer of six octets", "ff 80 80 80 80 80 00", IntegerTooLong, 0},
		{"integer padded to five octets", "0f 80 80 80 80 00 01 61", None, 1},
		{"integer over 32 bits", "ff ff ff ff ff 7f", IntegerTooLong, 0},
		{"truncated index", "ff", Truncated, 0},
		{"truncated index, later", "ff 80 80", Truncated, 0},
		{"no name", "40", Truncated, 0},
		{"truncated name", "40 03 61 62", Truncated, 0},
		{"no value", "40 01 61", Truncated, 0},
		{"truncated value", "82 40 01 61 02 62", Truncated, 1},
		{"length that never ends", "40 7f ff ff ff ff ff ff", IntegerTooLong, 0},
		{"length of 32 bits", "40 7f 80 ff ff ff 0f", Truncated, 0},
		{"Huffman: EOS", "40 01 61 84 ff ff ff ff", BadHuffman, 0},
		{"Huffman: EOS inside", "40 01 61 85 ff ff ff fc 1f", BadHuffman, 0},
		{"Huffman: an octet of padding", "40 01 61 82 1f ff", BadHuffman, 0},
		{"Huffman: only padding of an octet", "40 01 61 81 ff", BadHuffman, 0},
		{"Huffman: zeros as padding", "40 01 61 81 18", BadHuffman, 0},
		{"Huffman: good padding", "40 01 61 81 1f", None, 1},
		{"Huffman: empty", "40 01 61 80", None, 1},
		{"Huffman: bad name", "40 81 18 01 61", BadHuffman, 0},
		{"update after a field", "82 20", UpdateMisplaced, 1},
		{"three updates", "20 20 20 82", UpdateMisplaced, 0},
		{"two updates", "20 3f e1 1f 82", None, 1},
		{"update over the limit", "3f e2 1f", UpdateTooLarge, 0},
		{"update without end", "3f ff ff ff ff ff ff 01", IntegerTooLong, 0},
		{"only an update", "20", None, 0},
		{"empty block", "", None, 0},
		{"empty name", "40 00 01 61", None, 1},
	}
	for _, test := range tests {
		d := newDecoder(DefaultTable)
		got, err := decodeAll(t, d, unhex(t, test.wire))
		if err != test.want || len(got) != test.fields {
			t.Errorf("%s: %v after %d fields, want %v after %d", test.name, err, len(got), test.want, test.fields)
		}
		if d.Error().String() == "" {
			t.Errorf("%s: no text", test.name)
		}
	}
}

func TestDecoder_WhenOurLimitFalls_ThenThePeerMustFollow(t *testing.T) {
	const insert = "40 01 61 01 62"
	tests := []struct {
		name   string
		limits []uint32
		wire   string
		want   Error
	}{
		{"no update", []uint32{100}, "82", UpdateMissing},
		{"no update, empty block", []uint32{100}, "", UpdateMissing},
		{"update to the limit", []uint32{100}, "3f 45 82", None},
		{"update below", []uint32{100}, "20 82", None},
		{"update above", []uint32{100}, "3f 46 82", UpdateTooLarge},
		{"limit rises: no update", []uint32{8192}, "be", None},
		{"limit rises: update", []uint32{8192}, "3f e1 3f be", None},
		{"limit falls and rises: final update only", []uint32{0, 4096}, "3f e1 1f 82", UpdateTooLarge},
		{"limit falls and rises: both updates", []uint32{0, 4096}, "20 3f e1 1f 82", None},
		{"limit falls and rises: lowest only", []uint32{0, 4096}, "20 82", None},
		{"limit falls and rises: the table was emptied", []uint32{0, 4096}, "20 3f e1 1f be", BadIndex},
		{"limit falls but covers what is in use", []uint32{4096}, "be", None},
	}
	for _, test := range tests {
		d := newDecoder(DefaultTable)
		if _, err := decodeAll(t, d, unhex(t, insert)); err != None {
			t.Fatal(err)
		}
		for _, n := range test.limits {
			d.SetMaxTable(n)
		}
		if _, err := decodeAll(t, d, unhex(t, test.wire)); err != test.want {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
}

func TestEncoder_WhenThePeersLimitChanges_ThenTheNextBlockSaysSo(t *testing.T) {
	tests := []struct {
		name   string
		own    uint32
		limits []uint32
		want   string
	}{
		{"nothing", 4096, nil, "82"},
		{"same", 4096, []uint32{4096}, "82"},
		{"more than we spend", 4096, []uint32{65536}, "82"},
		{"none", 4096, []uint32{0}, "20 82"},
		{"less", 4096, []uint32{100}, "3f 45 82"},
		{"none, then all", 4096, []uint32{0, 4096}, "20 3f e1 1f 82"},
		{"several", 4096, []uint32{100, 10, 50}, "20 3f 13 82"},
		{"we spend less", 100, nil, "3f 45 82"},
		{"we spend less, peer has more", 100, []uint32{65536}, "3f 45 82"},
		{"we spend more", 8192, []uint32{65536}, "3f e1 3f 82"},
	}
	for _, test := range tests {
		e := newEncoder(test.own)
		for _, n := range test.limits {
			e.SetPeerTable(n)
		}
		block := []header{{":method", "GET", false}}
		if got, want := encodeAll(e, nil, block), unhex(t, test.want); !bytes.Equal(got, want) {
			t.Errorf("%s: %x, want %x", test.name, got, want)
		}
		if got := encodeAll(e, nil, block); !bytes.Equal(got, []byte{0x82}) {
			t.Errorf("%s: second block %x", test.name, got)
		}
	}
}

func TestEncoder_WhenAFieldComesAgain_ThenThePolicyDecidesWhatIsIndexed(t *testing.T) {
	tests := []struct {
		h    header
		want [3]string // the same field in three blocks
	}{
		{header{":method", "GET", false}, [3]string{"82", "82", "82"}},
		{header{":scheme", "https", false}, [3]string{"87", "87", "87"}},
		{header{":status", "404", false}, [3]string{"8d", "8d", "8d"}},
		{header{"accept-encoding", "gzip, deflate", false}, [3]string{"90", "90", "90"}},
		{header{":method", "PUT", false}, [3]string{"4203505554", "be", "be"}},         // first
		{header{"content-type", "a", false}, [3]string{"5f0161", "be", "be"}},          // first
		{header{":path", "/a", false}, [3]string{"04022f61", "44022f61", "be"}},        // second
		{header{"accept-language", "a", false}, [3]string{"0f020161", "510161", "be"}}, // second, a static name without an ID
		{header{"x", "a", false}, [3]string{"0001780161", "4001780161", "be"}},         // second
		{header{"date", "a", false}, [3]string{"0f120161", "0f120161", "0f120161"}},    // never
		{header{"if-none-match", "a", false}, [3]string{"0f1a0161", "0f1a0161", "0f1a0161"}},
		{header{"etag", "a", false}, [3]string{"0f130161", "0f130161", "0f130161"}},
		{header{"cookie", "a", false}, [3]string{"0f110161", "0f110161", "0f110161"}},
		{header{"grpc-timeout", "a", false}, [3]string{"400c677270632d74696d656f75740161", "0f2f0161", "0f2f0161"}}, // never, but its name
		{header{"x", "a", true}, [3]string{"1001780161", "1001780161", "1001780161"}},                               // never indexed
		{header{"cookie", "a", true}, [3]string{"1f110161", "1f110161", "1f110161"}},
		{header{":method", "GET", true}, [3]string{"1203474554", "1203474554", "1203474554"}},
		{header{"content-type", strings.Repeat("a", 2030), false}, [3]string{"0f10", "0f10", "0f10"}}, // too large to be worth it
	}
	for _, test := range tests {
		e := newEncoder(DefaultTable)
		for i, want := range test.want {
			got := encodeAll(e, nil, []header{test.h})
			if w := unhex(t, want); !bytes.Equal(got, w) && !(len(test.h.value) > 100 && bytes.HasPrefix(got, w)) {
				t.Errorf("%v, block %d: %x, want %s", test.h, i, got, want)
			}
		}
	}
}

func TestEncoder_WhenStatusIsAppended_ThenEveryCodeReadsBack(t *testing.T) {
	e, d := newEncoder(DefaultTable), newDecoder(DefaultTable)
	for range 2 {
		for status := uint16(100); status < 1000; status++ {
			got, err := decodeAll(t, d, e.AppendStatus(e.Begin(nil), status))
			if want := []header{{":status", fmt.Sprint(status), false}}; err != None || !equal(got, want) {
				t.Fatalf("%d: %v, %v", status, got, err)
			}
		}
	}
}

func TestDecoder_WhenAnEntryIsMarked_ThenLaterReferencesCarryIt(t *testing.T) {
	d := newDecoder(DefaultTable)
	var f Field
	read := func(wire string) {
		t.Helper()
		if d.Decode(unhex(t, wire)); !d.Next(&f) {
			t.Fatal(d.Error())
		}
	}
	read("4001610162")
	d.SetMark(7)
	read("82") // static: no entry
	d.SetMark(9)
	if read("be"); f.Mark != 7 {
		t.Errorf("mark %d, want 7", f.Mark)
	}
	read("0e0161") // literal without indexing: no entry
	d.SetMark(9)
	if read("7e0163"); f.Mark != 0 {
		t.Errorf("a new entry has mark %d", f.Mark)
	}
	if read("bf"); f.Mark != 7 {
		t.Errorf("mark %d, want 7", f.Mark)
	}
	if read("82"); f.Mark != 0 {
		t.Errorf("a static entry has mark %d", f.Mark)
	}
}

// A literal may take its name from the entry that its own insertion evicts (RFC 7541 section 4.4), also when the table's bytes move at that moment.
func TestDecoder_WhenANameIsEvictedByItsOwnField_ThenItIsWhole(t *testing.T) {
	for _, size := range []uint32{64, 100, 600, 4096} {
		d := newDecoder(size)
		name := strings.Repeat("n", int(size)/4)
		block := append(appendString([]byte{0x40}, []byte(name)), appendString(nil, []byte("v"))...)
		if _, err := decodeAll(t, d, block); err != None {
			t.Fatal(err)
		}
		for i := range 500 {
			value := strings.Repeat(string(rune('a'+i%26)), (i*37)%int(size))
			if d.count == 0 {
				if _, err := decodeAll(t, d, block); err != None {
					t.Fatal(err)
				}
			}
			got, err := decodeAll(t, d, appendString(appendInteger(nil, 0x40, 6, staticCount+d.count), []byte(value)))
			if err != None || !equal(got, []header{{name, value, false}}) {
				t.Fatalf("size %d, %d: %v, %v", size, i, got, err)
			}
		}
	}
}

func TestTables_WhenFilledForLong_ThenTheirMemoryIsBounded(t *testing.T) {
	for _, size := range []uint32{0, 33, 300, 4096, 1 << 16} {
		e, d := newEncoder(size), newDecoder(DefaultTable)
		d.SetMaxTable(max(size, DefaultTable))
		e.SetPeerTable(size)
		for i := range 1000 {
			long := strings.Repeat("v", (i*131)%int(size/2+1))
			h := header{"content-type", fmt.Sprint(i, long[:min(len(long), 40+i%2*len(long))]), false}
			if got, err := decodeAll(t, d, encodeAll(e, nil, []header{h})); err != None || !equal(got, []header{h}) {
				t.Fatal(got, err)
			}
		}
		for _, x := range []*table{&e.table, &d.table} {
			if cap(x.b) > max(minBytes, int(size)*3/2) || len(x.ring) > max(minRing, int(size)/16) {
				t.Errorf("size %d: %d octets, %d entries", size, cap(x.b), len(x.ring))
			}
		}
	}
}

func TestScratch_WhenABlockWasLarge_ThenItIsNotKept(t *testing.T) {
	s := new(Scratch)
	var d, other Decoder
	d.Init(DefaultTable, s)
	other.Init(DefaultTable, s)
	for _, n := range []int{10, keepScratch, 10} {
		wire := append([]byte{0x00, 0x01, 'a'}, appendInteger(nil, 0x80, 7, uint32(n*5/8))...)
		wire = append(wire, bytes.Repeat([]byte{0}, n*5/8)...) // zeros are '0', five bits each
		if n*5/8*8%5 != 0 {
			wire[len(wire)-1] |= 1<<(n*5/8*8%5) - 1
		}
		if got, err := decodeAll(t, &d, wire); err != None || len(got) != 1 || len(got[0].value) < n*9/10 {
			t.Fatal(n, err)
		}
	}
	other.Decode(nil)
	if cap(s.b) > keepScratch {
		t.Errorf("%d octets kept", cap(s.b))
	}
}

// The fields come through the loop of the owner: nothing is allocated once the tables have their size.
func TestAllocs_WhenTheTablesAreWarm_ThenThereAreNone(t *testing.T) {
	e, d := newEncoder(DefaultTable), newDecoder(DefaultTable)
	names := [][]byte{[]byte("content-type"), []byte("x-request-id"), []byte("x-tenant"), []byte("authorization"), []byte("cookie")}
	values := make([][]byte, 97)
	for i := range values {
		values[i] = bytes.Repeat([]byte{byte('a' + i%26)}, 10+i)
	}
	huffman := unhex(t, "828684018cf1e3c2e5f23a6ba0ab90f4ff") // not indexed: the tables of e and d stay the same
	var wire []byte
	var f Field
	i, fields := 0, 0
	turn := func() {
		i++
		v := values[i%len(values)]
		wire = e.AppendStatus(e.Begin(wire[:0]), uint16(200+i%300))
		wire = e.AppendPseudo(wire, PseudoPath, v, false)
		for j, n := range names {
			wire = e.AppendField(wire, httpmsg.LookupBytes(n), n, values[(i*7+j)%len(values)], j == 3)
		}
		for d.Decode(wire); d.Next(&f); {
			d.SetMark(1)
			fields++
		}
		for d.Decode(huffman); d.Next(&f); {
			fields++
		}
		if d.Error() != None {
			t.Fatal(d.Error())
		}
	}
	for range 1000 {
		turn()
	}
	if n := testing.AllocsPerRun(1000, turn); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if fields < 2000*11 {
		t.Errorf("%d fields", fields)
	}
}
