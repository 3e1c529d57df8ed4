// SPDX-License-Identifier: Apache-2.0

package inspect

import (
	"crypto/tls"
	"testing"
)

func BenchmarkClientHello(b *testing.B) {
	rec := hello(b, &tls.Config{ServerName: "service.example.com", NextProtos: []string{"h2", "http/1.1"}})
	mem := make([]byte, HelloMem)
	for b.Loop() {
		if _, v := ClientHello(rec, 0, mem); v != Match {
			b.Fatal(v)
		}
	}
}

func BenchmarkHTTP(b *testing.B) {
	in := []byte("GET /api/v1/items?id=42 HTTP/1.1\r\nHost: a\r\n\r\n")
	for b.Loop() {
		if _, v := HTTP(in); v != Match {
			b.Fatal(v)
		}
	}
}

func BenchmarkProxyV2(b *testing.B) {
	in := []byte(sealed(v2(0x21, 0x11, addr4, "\x03\x00\x04\x00\x00\x00\x00")))
	for b.Loop() {
		if _, v := ProxyHeader(in, true, true); v != Match {
			b.Fatal(v)
		}
	}
}
