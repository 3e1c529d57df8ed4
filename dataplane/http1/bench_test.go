// SPDX-License-Identifier: Apache-2.0

package http1

import (
	"bytes"
	"strings"
	"testing"

	"sidecar/dataplane/fault"
	"sidecar/dataplane/httpmsg"
)

const fiveHeaders = "GET /api/v1/items?id=42 HTTP/1.1\r\nHost: service.example.com\r\nUser-Agent: load/1.0\r\nAccept: */*\r\n" +
	"X-Request-Id: 7f3c1b9a-6c1e-4c52-9f0e-0d7b6a1c2e3f\r\nX-Forwarded-For: 10.1.2.3\r\n\r\n"

var twentyHeaders = strings.TrimSuffix(fiveHeaders, "\r\n") + strings.Repeat("X-Some-Header: some value of a header\r\n", 15) + "\r\n"

const okResponse = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\nDate: Tue, 01 Jan 2030 00:00:00 GMT\r\n\r\nhello"

func benchHead(b *testing.B, in string) {
	buf := []byte(in)
	a, h, d := new(httpmsg.Arena), new(httpmsg.Head), request(strict())
	b.SetBytes(int64(len(in)))
	for b.Loop() {
		a.Reset(1 << 16)
		h.Reset(a)
		if _, st, _ := d.Head(buf, h); st != Done {
			b.Fatal("not done")
		}
	}
}

func BenchmarkHeadFive(b *testing.B)   { benchHead(b, fiveHeaders) }
func BenchmarkHeadTwenty(b *testing.B) { benchHead(b, twentyHeaders) }

func BenchmarkResponse(b *testing.B) {
	buf := []byte(okResponse)
	a, h, d := new(httpmsg.Arena), new(httpmsg.Head), response(strict())
	for b.Loop() {
		a.Reset(1 << 16)
		h.Reset(a)
		d.BeginResponse(httpmsg.MethodGet, false)
		n, _, _ := d.Head(buf, h)
		if _, _, end, _ := d.Body(buf[n:], nil); !end {
			b.Fatal("no end")
		}
	}
}

func benchEncode(b *testing.B, in string, o *Options) {
	h := newHead()
	if _, st, k := request(strict()).Head([]byte(in), h); st != Done {
		b.Fatal(k)
	}
	out := make([]byte, 0, 4096)
	for b.Loop() {
		out = AppendRequestHead(out[:0], h, o)
	}
}

func BenchmarkEncodeFive(b *testing.B)       { benchEncode(b, fiveHeaders, strict()) }
func BenchmarkEncodeTwenty(b *testing.B)     { benchEncode(b, twentyHeaders, strict()) }
func BenchmarkEncodeProperCase(b *testing.B) { benchEncode(b, fiveHeaders, &Options{ProperCase: true}) }

func BenchmarkChunked(b *testing.B) {
	chunk := AppendChunk(nil, bytes.Repeat([]byte("x"), 4096))
	d := request(strict())
	d.arm(phSize)
	b.SetBytes(int64(len(chunk)))
	for b.Loop() {
		for in := chunk; len(in) > 0; {
			n, _, _, k := d.Body(in, nil)
			if k != fault.None {
				b.Fatal(k)
			}
			in = in[n:]
		}
	}
}
