// SPDX-License-Identifier: Apache-2.0

package inspect

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"io"
	"net"
	"strings"
	"testing"

	"sidecar/dataplane/httpmsg"
)

// hello returns the first flight of Go's own TLS client.
func hello(t testing.TB, c *tls.Config) []byte {
	t.Helper()
	client, server := net.Pipe()
	defer server.Close()
	go func() { _ = tls.Client(client, c).Handshake(); client.Close() }()
	head := make([]byte, recordHeader)
	if _, err := io.ReadFull(server, head); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, binary.BigEndian.Uint16(head[3:]))
	if _, err := io.ReadFull(server, body); err != nil {
		t.Fatal(err)
	}
	return append(head, body...)
}

// refragment cuts the content of one record into records of n bytes.
func refragment(rec []byte, n int) (out []byte) {
	for body := rec[recordHeader:]; len(body) > 0; {
		k := min(n, len(body))
		out = append(out, recordHandshake, 3, 1, byte(k>>8), byte(k))
		out = append(out, body[:k]...)
		body = body[k:]
	}
	return out
}

func protocols(list []byte) string {
	var s []string
	for {
		var p []byte
		if p, list = NextProtocol(list); p == nil {
			return strings.Join(s, ",")
		}
		s = append(s, string(p))
	}
}

func TestClientHello_WhenSplitAnywhere_ThenSameNameAndProtocols(t *testing.T) {
	for _, c := range []struct {
		name   string
		protos []string
	}{{"Svc.Example.COM", []string{"h2", "http/1.1"}}, {"a.test", nil}, {"10.0.0.1", []string{"istio-peer-exchange", "istio"}}} {
		rec := hello(t, &tls.Config{ServerName: c.name, NextProtos: c.protos, InsecureSkipVerify: true})
		want := strings.ToLower(c.name)
		if net.ParseIP(c.name) != nil {
			want = "" // RFC 6066: no addresses
		}
		for _, size := range []int{1, 2, 3, 7, 40, 200, 1 << 14} {
			b := refragment(rec, size)
			for i := range b {
				if h, v := ClientHello(b[:i], 0, make([]byte, HelloMem)); v != NeedMore {
					t.Fatalf("records of %d: verdict %d after %d of %d bytes: %q", size, v, i, len(b), h.ServerName)
				}
			}
			for _, tail := range []string{"", "\x16\x03\x01", "more"} {
				h, v := ClientHello(append(b, tail...), 0, make([]byte, HelloMem))
				if v != Match || string(h.ServerName) != want || protocols(h.ALPN) != strings.Join(c.protos, ",") {
					t.Fatalf("records of %d: verdict %d, %q, %q", size, v, h.ServerName, h.ALPN)
				}
			}
		}
	}
}

func TestClientHello_WhenNotTLS_ThenNoMatchAtOnce(t *testing.T) {
	for _, s := range []string{"G", "\x15\x03", "\x16\x02", "\x80\x2e\x01"} {
		if _, v := ClientHello([]byte(s), 0, nil); v != NoMatch {
			t.Errorf("%q: %d", s, v)
		}
	}
	for _, s := range []string{"", "\x16", "\x16\x03", "\x16\x03\x01\x00"} {
		if _, v := ClientHello([]byte(s), 0, nil); v != NeedMore {
			t.Errorf("%q: %d", s, v)
		}
	}
}

func TestClientHello_WhenMalformed_ThenRejected(t *testing.T) {
	good := hello(t, &tls.Config{ServerName: "a.test", NextProtos: []string{"h2"}})
	name := bytes.Index(good, []byte("a.test"))
	alpn := bytes.Index(good, []byte("\x00\x03\x02h2"))
	mutate := func(at int, b ...byte) []byte {
		m := bytes.Clone(good)
		copy(m[at:], b)
		return m
	}
	for what, b := range map[string][]byte{
		"record length 0":         []byte("\x16\x03\x01\x00\x00"),
		"record too long":         []byte("\x16\x03\x01\x50\x00"),
		"not a client hello":      mutate(5, 2),
		"nul in name":             mutate(name, 0),
		"name length":             mutate(name-1, 7),
		"name type":               mutate(name-3, 1),
		"empty name":              mutate(name-2, 0, 0),
		"protocol list length":    mutate(alpn, 0, 4),
		"empty protocol":          mutate(alpn+2, 0),
		"protocol over its list":  mutate(alpn+2, 3),
		"session id too long":     mutate(5+4+2+32, 33),
		"other type in the midst": append(refragment(good, 100)[:105], 0x17, 3, 3, 0, 1, 0),
		"short body":              []byte("\x16\x03\x01\x00\x06\x01\x00\x00\x02\x03\x03"),
	} {
		if h, v := ClientHello(b, 0, make([]byte, HelloMem)); v != Reject || h.TooLarge || h.ServerName != nil {
			t.Errorf("%s: %d %+v", what, v, h)
		}
	}
	if h, v := ClientHello(good[:20], 100, nil); v != Reject || !h.TooLarge {
		t.Errorf("over the limit: %d %+v", v, h)
	}
	if _, v := ClientHello(good, 0, make([]byte, 4)); v != Reject {
		t.Errorf("storage too small: %d", v)
	}
}

func TestHTTP(t *testing.T) {
	for _, c := range []struct {
		in      string
		version httpmsg.Version
		v       Verdict
	}{
		{"GET / HTTP/1.1\r\n", httpmsg.HTTP11, Match}, {"GET / HTTP/1.1\n", httpmsg.HTTP11, Match}, {"GET / HTTP/1.0\r\nHost", httpmsg.HTTP10, Match},
		{"OPTIONS * HTTP/1.1\r\n", httpmsg.HTTP11, Match}, {Preface, httpmsg.HTTP2, Match}, {Preface + "x", httpmsg.HTTP2, Match}, {"PRI * HTTP/2.0\r\n\r\nSM\r\n\rx", 0, NoMatch},
		{"PR", 0, NeedMore}, {"PROPFIND / HTTP/1.1\r\n", httpmsg.HTTP11, Match}, {"", 0, NeedMore}, {"GE", 0, NeedMore}, {"GET / HTTP/1.1\r", 0, NeedMore},
		{"GET / HTTP/2.0\r\n", 0, NoMatch}, {"GET /\r\n", 0, NoMatch}, {"get / HTTP/1.1\r\n", 0, NoMatch}, {"FOO / HTTP/1.1\r\n", 0, NoMatch},
		{"\x16\x03\x01", 0, NoMatch}, {"SSH-2.0-x\r\n", 0, NoMatch}, {"GET\n", 0, NoMatch}, {"ABCDEFGHIJKL", 0, NoMatch}, {"GET / HTTP/1.1 \r\n", 0, NoMatch},
		{"GET /" + strings.Repeat("a", MaxRequestLine), 0, NoMatch}, {"GET /a b HTTP/1.1\r\n", httpmsg.HTTP11, Match},
	} {
		checkPrefixes(t, []byte(c.in), func(b []byte) (any, Verdict) { x, v := HTTP(b); return x, v })
		if version, v := HTTP([]byte(c.in)); v != c.v || version != c.version {
			t.Errorf("%.40q: %s %d", c.in, version, v)
		}
	}
}

// checkPrefixes checks that a verdict, once given, stays.
func checkPrefixes(t *testing.T, b []byte, f func([]byte) (any, Verdict)) {
	t.Helper()
	last, lastV := any(nil), NeedMore
	for i := 0; i <= len(b); i++ {
		x, v := f(b[:i])
		if lastV != NeedMore && (v != lastV || x != last) {
			t.Fatalf("%q: %d (%v) after %d bytes, before that %d (%v)", b, v, x, i, lastV, last)
		}
		last, lastV = x, v
	}
}

// v2 builds a version 2 header.
func v2(verCmd, family byte, addrs, tlvs string) string {
	n := len(addrs) + len(tlvs)
	return v2Signature + string([]byte{verCmd, family, byte(n >> 8), byte(n)}) + addrs + tlvs
}

const (
	addr4 = "\x01\x02\x03\x04\x05\x06\x07\x08\x00\x50\x01\xbb"
	addr6 = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x50\x01\xbb"
)

// sealed sets the checksum TLV.
func sealed(s string) string {
	b := []byte(s)
	at := bytes.Index(b, []byte("\x03\x00\x04\x00\x00\x00\x00")) + 3
	binary.BigEndian.PutUint32(b[at:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return string(b)
}

func TestProxyHeader(t *testing.T) {
	crc := sealed(v2(0x21, 0x11, addr4, "\x05\x00\x02id\x03\x00\x04\x00\x00\x00\x00\x04\x00\x01\x00"))
	for _, c := range []struct {
		in, src, dst string
		v            Verdict
	}{
		{"PROXY TCP4 1.2.3.4 5.6.7.8 80 443\r\n", "1.2.3.4:80", "5.6.7.8:443", Match},
		{"PROXY TCP6 2001:db8::1 ::1 80 443\r\n", "[2001:db8::1]:80", "[::1]:443", Match},
		{"PROXY UNKNOWN\r\n", "", "", Match}, {"PROXY UNKNOWN ff x y\r\n", "", "", Match},
		{"PROXY TCP4 1.2.3.4 5.6.7.8 80 65535\r\nGET /", "1.2.3.4:80", "5.6.7.8:65535", Match},
		{"PROXY TCP4 1.2.3.4 5.6.7.8 80 65536\r\n", "", "", Reject}, {"PROXY TCP4 1.2.3.4 5.6.7.8 080 1\r\n", "", "", Reject},
		{"PROXY TCP4 1.2.3.4 5.6.7.8 80 443\n", "", "", Reject}, {"PROXY TCP4 1.2.3.4  5.6.7.8 80 443\r\n", "", "", Reject},
		{"PROXY TCP4 1.2.3.4 5.6.7.8 80 443 \r\n", "", "", Reject}, {"PROXY TCP4 ::1 ::1 80 443\r\n", "", "", Reject},
		{"PROXY TCP6 1.2.3.4 5.6.7.8 80 443\r\n", "", "", Reject}, {"PROXY TCP4 1.2.3.4\r\n", "", "", Reject}, {"PROXY UDP4 1.2.3.4 5.6.7.8 80 443\r\n", "", "", Reject},
		{"PROXY " + strings.Repeat("x", 101), "", "", Reject}, {"proxy TCP4", "", "", NoMatch}, {"PROX", "", "", NeedMore}, {"", "", "", NeedMore}, {"GET /", "", "", NoMatch},
		{v2(0x21, 0x11, addr4, ""), "1.2.3.4:80", "5.6.7.8:443", Match}, {v2(0x21, 0x21, addr6, ""), "[2001:db8::1]:80", "[::1]:443", Match},
		{v2(0x21, 0x12, addr4, ""), "1.2.3.4:80", "5.6.7.8:443", Match}, {v2(0x20, 0, "", ""), "", "", Match}, {v2(0x20, 0x11, addr4, "junk"), "", "", Match},
		{v2(0x21, 0, "", "junk"), "", "", Reject}, {v2(0x21, 0x31, strings.Repeat("u", 216), ""), "", "", Reject}, {v2(0x22, 0x11, addr4, ""), "", "", Reject},
		{v2(0x11, 0x11, addr4, ""), "", "", Reject}, {v2(0x21, 0x13, addr4, ""), "", "", Reject}, {v2(0x21, 0x21, addr4, ""), "", "", Reject},
		{v2(0x21, 0x11, addr4, "\x01\x00\x02h"), "", "", Reject}, {v2(0x21, 0x11, addr4, "\x01\x00"), "", "", Reject},
		{v2(0x21, 0x11, addr4, "\x01\x00\x02h2"), "1.2.3.4:80", "5.6.7.8:443", Match}, {crc, "1.2.3.4:80", "5.6.7.8:443", Match},
		{strings.Replace(crc, "id", "ie", 1), "", "", Reject}, {v2(0x21, 0x11, addr4, "\x03\x00\x02ab"), "", "", Reject},
	} {
		checkPrefixes(t, []byte(c.in), proxyAll)
		p, v := ProxyHeader([]byte(c.in), true, true)
		if v != c.v {
			t.Errorf("%q: verdict %d, want %d", c.in, v, c.v)
			continue
		}
		if v == Match && (p.Local != (c.src == "") || !p.Local && (p.Src.String() != c.src || p.Dst.String() != c.dst)) {
			t.Errorf("%q: %+v", c.in, p)
		}
		if v == Match && p.Len != strings.Index(c.in+"GET /", "GET /") {
			t.Errorf("%q: length %d", c.in, p.Len)
		}
	}
}

func proxyAll(b []byte) (any, Verdict) {
	p, v := ProxyHeader(b, true, true)
	p.TLVs = nil
	return [2]any{p.Len, p.Src}, v
}

func TestProxyHeader_WhenVersionIsDisallowed_ThenNoMatch(t *testing.T) {
	one, two := "PROXY TCP4 1.2.3.4 5.6.7.8 80 443\r\n", v2(0x21, 0x11, addr4, "")
	for _, c := range []struct {
		in     string
		v1, v2 bool
		v      Verdict
	}{{one, false, true, NoMatch}, {two, true, false, NoMatch}, {one, true, false, Match}, {two, false, true, Match}} {
		if _, v := ProxyHeader([]byte(c.in), c.v1, c.v2); v != c.v {
			t.Errorf("%q: %d", c.in, v)
		}
	}
}

func TestNextTLV(t *testing.T) {
	p, _ := ProxyHeader([]byte(v2(0x21, 0x11, addr4, "\x01\x00\x02h2\xea\x00\x00\x05\x00\x01x")), true, true)
	var got []string
	for list := p.TLVs; ; {
		typ, v, rest, ok := NextTLV(list)
		if !ok {
			break
		}
		got = append(got, hex.EncodeToString([]byte{typ})+"="+string(v))
		list = rest
	}
	if s := strings.Join(got, " "); s != "01=h2 ea= 05=x" {
		t.Error(s)
	}
}

func TestAllocs_WhenInspecting_ThenNone(t *testing.T) {
	rec := refragment(hello(t, &tls.Config{ServerName: "a.test", NextProtos: []string{"h2"}}), 50)
	mem := make([]byte, HelloMem)
	crc := []byte(sealed(v2(0x21, 0x11, addr4, "\x03\x00\x04\x00\x00\x00\x00")))
	six := []byte("PROXY TCP6 2001:db8::1 ::1 80 443\r\n")
	get := []byte("GET / HTTP/1.1\r\n")
	if n := testing.AllocsPerRun(100, func() {
		ClientHello(rec, 0, mem)
		ProxyHeader(crc, true, true)
		ProxyHeader(six, true, true)
		HTTP(get)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzInspect(f *testing.F) {
	f.Add(hello(f, &tls.Config{ServerName: "a.test", NextProtos: []string{"h2"}})[:200])
	f.Add(refragment(hello(f, &tls.Config{ServerName: "a.test", NextProtos: []string{"h2"}}), 300))
	f.Add([]byte("PROXY TCP6 2001:db8::1 ::1 80 443\r\n"))
	f.Add([]byte(v2(0x21, 0x21, addr6, "\x03\x00\x04\x00\x00\x00\x00")))
	f.Add([]byte("GET / HTTP/1.1\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		b = b[:min(len(b), 700)]
		checkPrefixes(t, b, func(b []byte) (any, Verdict) {
			h, v := ClientHello(b, 600, make([]byte, 64))
			return string(h.ServerName) + "|" + string(h.ALPN), v
		})
		checkPrefixes(t, b, proxyAll)
		checkPrefixes(t, b, func(b []byte) (any, Verdict) { x, v := HTTP(b); return x, v })
	})
}
