// SPDX-License-Identifier: Apache-2.0

package inspect

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"net/netip"

	"sidecar/dataplane/httpmsg"
)

// Proxy is a PROXY protocol header (HAProxy's proxy-protocol.txt). Src and Dst are valid unless Local.
type Proxy struct {
	Src, Dst netip.AddrPort
	TLVs     []byte // version 2: the TLVs, all well-formed, as a view into the prefix; for NextTLV
	Len      int    // bytes of the header, to be consumed before the connection's own bytes
	Version  uint8  // 1 or 2
	Local    bool   // UNKNOWN or LOCAL: the connection's own addresses hold
}

// TLV types with a meaning here.
const (
	TLVALPN      = 0x01
	TLVAuthority = 0x02
	TLVCRC32C    = 0x03
	TLVNoop      = 0x04
	TLVUniqueID  = 0x05
	TLVSSL       = 0x20
	TLVNetNS     = 0x30
)

const (
	v1Signature = "PROXY "
	v1Max       = 107 // with CRLF
	v2Signature = "\r\n\r\n\x00\r\nQUIT\n"
	v2Header    = 16
)

// MaxProxy is the length of the longest header.
const MaxProxy = v2Header + 1<<16 - 1

// ProxyHeader parses a PROXY protocol header of a version that is allowed. NoMatch: the bytes have no signature of an allowed version. Reject: malformed, a
// family other than TCP or UDP over IP, or a wrong checksum.
func ProxyHeader(prefix []byte, allowV1, allowV2 bool) (p Proxy, v Verdict) {
	more := false
	if allowV1 {
		switch v = signature(prefix, v1Signature); v {
		case Match:
			return proxyV1(prefix)
		case NeedMore:
			more = true
		}
	}
	if allowV2 {
		switch v = signature(prefix, v2Signature); v {
		case Match:
			return proxyV2(prefix)
		case NeedMore:
			more = true
		}
	}
	if more {
		return p, NeedMore
	}
	return p, NoMatch
}

func signature(b []byte, s string) Verdict {
	n := min(len(b), len(s))
	switch {
	case string(b[:n]) != s[:n]:
		return NoMatch
	case n < len(s):
		return NeedMore
	}
	return Match
}

// proxyV1: "PROXY" SP ("TCP4" | "TCP6") SP src SP dst SP port SP port CRLF, or "PROXY UNKNOWN" and anything.
func proxyV1(b []byte) (p Proxy, v Verdict) {
	b = b[:min(len(b), v1Max)]
	end := bytes.IndexByte(b, '\n')
	if end < 0 {
		if len(b) == v1Max {
			return p, Reject
		}
		return p, NeedMore
	}
	if b[end-1] != '\r' {
		return p, Reject
	}
	p.Len, p.Version = end+1, 1
	line := b[len(v1Signature) : end-1]
	var word [5][]byte
	n := 0
	for more := true; more; n++ {
		i := bytes.IndexByte(line, ' ')
		if more = i >= 0; !more {
			i = len(line)
		}
		if n < len(word) {
			word[n] = line[:i]
		}
		line = line[min(i+1, len(line)):]
	}
	if string(word[0]) == "UNKNOWN" {
		p.Local = true
		return p, Match
	}
	six := string(word[0]) == "TCP6"
	if n != len(word) || !six && string(word[0]) != "TCP4" {
		return Proxy{}, Reject
	}
	src, ok1 := endpoint(word[1], word[3], six)
	dst, ok2 := endpoint(word[2], word[4], six)
	if !ok1 || !ok2 {
		return Proxy{}, Reject
	}
	p.Src, p.Dst = src, dst
	return p, Match
}

func endpoint(addr, port []byte, six bool) (ap netip.AddrPort, ok bool) {
	a, ok := httpmsg.ParseAddr(addr)
	if !ok || a.Is6() != six || len(port) == 0 || len(port) > 5 || len(port) > 1 && port[0] == '0' {
		return ap, false
	}
	n := 0
	for _, c := range port {
		if c < '0' || c > '9' {
			return ap, false
		}
		n = n*10 + int(c-'0')
	}
	return netip.AddrPortFrom(a, uint16(n)), n <= 65535
}

// proxyV2: signature, version and command, family and protocol, length, addresses, TLVs.
func proxyV2(b []byte) (p Proxy, v Verdict) {
	if len(b) > 12 && b[12]>>4 != 2 || len(b) > 12 && b[12]&15 > 1 {
		return p, Reject
	}
	if len(b) < v2Header {
		return p, NeedMore
	}
	family, proto := b[13]>>4, b[13]&15
	p.Len, p.Version, p.Local = v2Header+int(binary.BigEndian.Uint16(b[14:])), 2, b[12]&15 == 0
	size := 0
	switch {
	case p.Local:
	case proto != 1 && proto != 2:
		return Proxy{}, Reject
	case family == 1:
		size = 12
	case family == 2:
		size = 36
	default:
		return Proxy{}, Reject
	}
	if p.Len < v2Header+size {
		return Proxy{}, Reject
	}
	if len(b) < p.Len {
		return Proxy{}, NeedMore
	}
	if p.Local {
		return p, Match // the rest is to be skipped unread
	}
	a := b[v2Header:]
	if size == 12 {
		p.Src = netip.AddrPortFrom(netip.AddrFrom4([4]byte(a[:4])), binary.BigEndian.Uint16(a[8:]))
		p.Dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte(a[4:8])), binary.BigEndian.Uint16(a[10:]))
	} else {
		p.Src = netip.AddrPortFrom(netip.AddrFrom16([16]byte(a[:16])), binary.BigEndian.Uint16(a[32:]))
		p.Dst = netip.AddrPortFrom(netip.AddrFrom16([16]byte(a[16:32])), binary.BigEndian.Uint16(a[34:]))
	}
	p.TLVs = b[v2Header+size : p.Len : p.Len]
	for list := p.TLVs; len(list) > 0; {
		typ, value, rest, ok := NextTLV(list)
		if !ok || typ == TLVCRC32C && !checksumOK(b[:p.Len], p.Len-len(list)+3, value) {
			return Proxy{}, Reject
		}
		list = rest
	}
	return p, Match
}

// NextTLV cuts the first TLV off list; ok is false at the end and for a truncated one.
func NextTLV(list []byte) (typ byte, value, rest []byte, ok bool) {
	if len(list) < 3 {
		return 0, nil, nil, false
	}
	n := 3 + int(binary.BigEndian.Uint16(list[1:]))
	if n > len(list) {
		return 0, nil, nil, false
	}
	return list[0], list[3:n:n], list[n:], true
}

var fourZeros [4]byte // read only; a local one would escape

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksumOK verifies the CRC32C of header, whose four checksum bytes at offset at count as zeros.
func checksumOK(header []byte, at int, value []byte) bool {
	if len(value) != 4 {
		return false
	}
	sum := crc32.Update(0, castagnoli, header[:at])
	sum = crc32.Update(sum, castagnoli, fourZeros[:])
	sum = crc32.Update(sum, castagnoli, header[at+4:])
	return sum == binary.BigEndian.Uint32(value)
}
