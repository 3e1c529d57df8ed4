// SPDX-License-Identifier: Apache-2.0

package hpack

import (
	"bytes"
	"strings"
	"testing"

	oracle "golang.org/x/net/http2/hpack"
)

func TestHuffman_WhenTheOracleEncodes_ThenAllOctetsAndLengthsDecode(t *testing.T) {
	var all []byte
	for i := range 256 {
		all = append(all, byte(i))
	}
	inputs := [][]byte{nil, all, bytes.Repeat(all, 3), []byte(strings.Repeat("www.example.com/", 300))}
	for i := range 256 {
		for n := 1; n <= 12; n++ {
			inputs = append(inputs, bytes.Repeat([]byte{byte(i)}, n), append(bytes.Repeat([]byte{'a'}, n), byte(i), byte(i*7)))
		}
	}
	for _, in := range inputs {
		wire := oracle.AppendHuffmanString(nil, string(in))
		if got, ok := decodeHuffman(make([]byte, 0, huffRoom(len(wire))), wire); !ok || !bytes.Equal(got, in) {
			t.Errorf("%x: %q, %v, want %q", wire, got, ok, in)
		}
	}
}

// oracleFields decodes a block with the oracle.
func oracleFields(d *oracle.Decoder, block []byte) ([]header, error) {
	var out []header
	d.SetEmitFunc(func(f oracle.HeaderField) { out = append(out, header{f.Name, f.Value, f.Sensitive}) })
	if _, err := d.Write(block); err != nil {
		return out, err
	}
	return out, d.Close()
}

func grpcBlock(i int) []header {
	return []header{{":method", "POST", false}, {":scheme", "http", false}, {":path", "/echo.Echo/Unary", false}, {":authority", "echo.default.svc:8080", false},
		{"content-type", "application/grpc", false}, {"te", "trailers", false}, {"user-agent", "grpc-go/1.85.0", false},
		{"grpc-timeout", string(rune('1'+i%9)) + "00m", false}, {"x-request-id", strings.Repeat(string(rune('a'+i%26)), 36), false},
		{"authorization", "Bearer secret", true}, {"x-tenant", "blue", false}, {"accept-language", "en", false}}
}

func TestEncoder_WhenABlockRepeats_ThenTheOracleReadsItAndItShrinks(t *testing.T) {
	for _, size := range []uint32{0, 64, 256, 4096, 1 << 16} {
		e, d, o := newEncoder(4096), newDecoder(DefaultTable), oracle.NewDecoder(DefaultTable, nil)
		e.SetPeerTable(size)
		var last int
		for i := range 300 {
			wire := encodeAll(e, nil, grpcBlock(i))
			want := grpcBlock(i)
			if got, err := oracleFields(o, wire); err != nil || !equal(got, want) {
				t.Fatalf("size %d block %d: oracle: %v, %v", size, i, got, err)
			}
			if got, err := decodeAll(t, d, wire); err != None || !equal(got, want) {
				t.Fatalf("size %d block %d: %v, %v", size, i, got, err)
			}
			checkTable(t, &e.table)
			last = len(wire)
		}
		if size >= 4096 && last > 75 {
			t.Errorf("size %d: %d octets in the end", size, last)
		}
	}
}
