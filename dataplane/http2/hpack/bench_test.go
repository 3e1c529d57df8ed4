// SPDX-License-Identifier: Apache-2.0

package hpack

import (
	"testing"

	"sidecar/dataplane/httpmsg"

	oracle "golang.org/x/net/http2/hpack"
)

// benchFields is a gRPC request as it comes back on every stream of a connection.
func benchFields() (pseudo []Field, fields []Field) {
	for _, h := range grpcBlock(1) {
		f := Field{Name: []byte(h.name), Value: []byte(h.value), ID: httpmsg.Lookup(h.name), Sensitive: h.sensitive}
		if h.name[0] == ':' {
			f.Pseudo = parsePseudo(f.Name)
			pseudo = append(pseudo, f)
			continue
		}
		fields = append(fields, f)
	}
	return pseudo, fields
}

func appendBench(e *Encoder, dst []byte, pseudo, fields []Field) []byte {
	dst = e.Begin(dst)
	for i := range pseudo {
		dst = e.AppendPseudo(dst, pseudo[i].Pseudo, pseudo[i].Value, pseudo[i].Sensitive)
	}
	for i := range fields {
		f := &fields[i]
		dst = e.AppendField(dst, f.ID, f.Name, f.Value, f.Sensitive)
	}
	return dst
}

func BenchmarkEncode(b *testing.B) {
	e := newEncoder(DefaultTable)
	pseudo, fields := benchFields()
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		dst = appendBench(e, dst[:0], pseudo, fields)
	}
}

func benchDecode(b *testing.B, warm []byte, wire []byte) {
	d := newDecoder(DefaultTable)
	var f Field
	for d.Decode(warm); d.Next(&f); {
	}
	b.ReportAllocs()
	for b.Loop() {
		for d.Decode(wire); d.Next(&f); {
		}
		if d.Error() != None {
			b.Fatal(d.Error())
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	e := newEncoder(DefaultTable)
	pseudo, fields := benchFields()
	warm := append(appendBench(e, nil, pseudo, fields), appendBench(e, nil, pseudo, fields)...)
	benchDecode(b, warm, appendBench(e, nil, pseudo, fields))
}

// BenchmarkDecodeHuffman decodes literals that are not indexed, as clients send paths and identifiers.
func BenchmarkDecodeHuffman(b *testing.B) {
	wire := []byte{0x82, 0x86}
	for _, v := range []string{"/api/v1/items?id=42", "7f3c1b9a-6c1e-4c52-9f0e-0d7b6a1c2e3f", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"} {
		wire = append(wire, 0x04)
		wire = appendInteger(wire, 0x80, 7, uint32(oracle.HuffmanEncodeLength(v)))
		wire = oracle.AppendHuffmanString(wire, v)
	}
	benchDecode(b, nil, wire)
}
