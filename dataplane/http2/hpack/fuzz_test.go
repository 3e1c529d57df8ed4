// SPDX-License-Identifier: Apache-2.0

package hpack

import (
	"bytes"
	"testing"

	oracle "golang.org/x/net/http2/hpack"
)

// cut splits data into blocks: each is a length octet with so many octets behind it, the last may be shorter.
func cut(data []byte) (blocks [][]byte) {
	for len(data) > 0 {
		n := min(int(data[0]), len(data)-1)
		blocks = append(blocks, data[1:1+n])
		data = data[1+n:]
	}
	return blocks
}

// join is the inverse of cut for blocks of at most 255 octets.
func join(blocks ...[]byte) (data []byte) {
	for _, b := range blocks {
		data = append(append(data, byte(len(b))), b...)
	}
	return data
}

// leadingUpdates counts the size updates that a block begins with.
func leadingUpdates(block []byte) (n int) {
	for len(block) > 0 && block[0]>>5 == 1 {
		long := block[0]&31 == 31
		for block = block[1:]; long && len(block) > 0; block = block[1:] {
			long = block[0]&0x80 != 0
		}
		n++
	}
	return n
}

// FuzzDecoder decodes blocks side by side with the oracle. This package may refuse what the oracle takes only for rules that the oracle does not have.
func FuzzDecoder(f *testing.F) {
	f.Add(uint16(4096), join(unhex(f, "828684418cf1e3c2e5f23a6ba0ab90f4ff"), unhex(f, "828684be5886a8eb10649cbf"), unhex(f, "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf")))
	f.Add(uint16(256), join(unhex(f, "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3"), unhex(f, "4883640effc1c0bf")))
	f.Add(uint16(64), join(unhex(f, "203f2182"), unhex(f, "4003616263016440036162630165be7e0166"), unhex(f, "10870f"), unhex(f, "1f8080808001"), []byte{0x80}))
	f.Add(uint16(100), join(unhex(f, "400261620163"), unhex(f, "7e0164"), unhex(f, "7e0165be"), unhex(f, "7f0080"), unhex(f, "7fffffffff7f")))
	f.Fuzz(func(t *testing.T, size uint16, data []byte) {
		d, o := newDecoder(uint32(size)), oracle.NewDecoder(uint32(size), nil)
		for _, block := range cut(data) {
			kept := bytes.Clone(block)
			got, e := decodeAll(t, d, block)
			want, err := oracleFields(o, block)
			if !bytes.Equal(kept, block) {
				t.Fatal("the block was changed")
			}
			if n := min(len(got), len(want)); !equal(got[:n], want[:n]) {
				t.Fatalf("%x: %v\nwant %v", block, got, want)
			}
			switch {
			case e == None && err != nil && leadingUpdates(block) == 2:
				return // the oracle takes a second update only while its table is empty; RFC 7541 section 4.2 allows two
			case e == None && err != nil:
				t.Fatalf("%x: taken, oracle: %v", block, err)
			case e != None && err == nil && e != IntegerTooLong && e != UpdateMisplaced:
				t.Fatalf("%x: %v, the oracle takes it", block, e)
			case e == None && len(got) != len(want):
				t.Fatalf("%x: %v\nwant %v", block, got, want)
			case e != None || err != nil:
				return
			}
		}
	})
}

// FuzzHuffman compares the decoder of strings with the oracle's.
func FuzzHuffman(f *testing.F) {
	for _, s := range []string{"", "ff", "ffff", "f1e3c2e5f23a6ba0ab90f4ff", "fffffffc", "ffffffff", "fffff1", "1c6490b2cd39ba7f", "00", "07", "1f",
		"94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007"} {
		f.Add(unhex(f, s))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		want, err := oracle.HuffmanDecodeToString(src)
		got, ok := decodeHuffman(make([]byte, 0, huffRoom(len(src))), src)
		if ok != (err == nil) || ok && string(got) != want {
			t.Fatalf("%x: %q, %v; oracle: %q, %v", src, got, ok, want, err)
		}
		wire := oracle.AppendHuffmanString(nil, string(src))
		if got, ok := decodeHuffman(make([]byte, 0, huffRoom(len(wire))), wire); !ok || !bytes.Equal(got, src) {
			t.Fatalf("%x: %q, %v, want %q", wire, got, ok, src)
		}
	})
}

var fuzzNames = []string{":authority", ":method", ":path", ":scheme", ":status", ":protocol", "content-type", "x-request-id", "cookie", "accept-encoding",
	"traceparent", "x-a", "x-b", "accept-language", "if-none-match", "authorization"}

// script turns data into blocks of fields and changes of the peer's table size.
func script(data []byte, block func([]header), resize func(uint32)) {
	var hs []header
	for len(data) >= 2 {
		op, arg := data[0], data[1]
		data = data[2:]
		switch {
		case op >= 0xf0:
			resize(uint32(arg) << (op & 7))
		case op >= 0xe0:
			block(hs)
			hs = nil
		default:
			h := header{name: fuzzNames[op&15], sensitive: op >= 0xd0}
			if op&0x40 != 0 && op&15 >= 11 {
				h.name = "x-" + string('a'+arg%26)
			}
			n := min(int(arg&63), len(data))
			if op&0x20 != 0 { // one of a few values
				h.value = string(bytes.Repeat([]byte{'a' + arg&3}, int(arg)))
			} else {
				h.value = string(data[:n])
				data = data[n:]
			}
			hs = append(hs, h)
		}
	}
	block(hs)
}

// FuzzEncoder checks that whatever is encoded, under whatever table sizes, both decoders read the same.
func FuzzEncoder(f *testing.F) {
	f.Add([]byte("\x06\x03abc\x26\x10\x07\x04wxyz\xe0\x00\x06\x03abc\xf0\x00\xf5\x80\xe0\x00\x26\x10\x07\x04wxyz\xe0\x00"))
	f.Add([]byte("\xf0\xc8\x2b\x10\x2b\x11\x2b\x12\x2b\x13\x2b\x10\xe0\x00\x2b\x10\x2b\x11\x2b\x12\x2b\x13\x2b\x10\xe0\x00\xf0\x00\xe0\x00\x6b\x01\x6b\x02\x6b\x01\x6b\x02\xdb\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, d, o := newEncoder(DefaultTable), newDecoder(DefaultTable), oracle.NewDecoder(DefaultTable, nil)
		var wire []byte
		script(data, func(want []header) {
			wire = encodeAll(e, wire[:0], want)
			checkTable(t, &e.table)
			if got, err := decodeAll(t, d, wire); err != None || !equal(got, want) {
				t.Fatalf("%x: %v, %v\nwant %v", wire, got, err, want)
			}
			if got, err := oracleFields(o, wire); err != nil || !equal(got, want) {
				t.Fatalf("%x: oracle %v, %v\nwant %v", wire, got, err, want)
			}
			if d.size != e.size || d.max != e.max || tableText(&d.table) != tableText(&e.table) {
				t.Fatalf("tables differ:\n%s\n--\n%s", tableText(&d.table), tableText(&e.table))
			}
		}, func(n uint32) {
			e.SetPeerTable(n)
			d.SetMaxTable(n)
			o.SetAllowedMaxDynamicTableSize(n)
		})
	})
}
