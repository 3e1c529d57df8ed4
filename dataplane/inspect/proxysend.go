// SPDX-License-Identifier: Apache-2.0

package inspect

import (
	"encoding/binary"
	"net/netip"
	"strconv"
)

// AppendProxyHeader appends the PROXY protocol header, of version 1 or 2, for a TCP connection from src to dst. Two addresses of one family are named as
// they are; otherwise the header says that it knows nothing.
func AppendProxyHeader(b []byte, version uint8, src, dst netip.AddrPort) []byte {
	s, d := src.Addr().Unmap(), dst.Addr().Unmap()
	known := s.IsValid() && d.IsValid() && s.Is4() == d.Is4()
	if version == 1 {
		switch {
		case !known:
			return append(b, v1Signature+"UNKNOWN\r\n"...)
		case s.Is4():
			b = append(b, v1Signature+"TCP4 "...)
		default:
			b = append(b, v1Signature+"TCP6 "...)
		}
		b = append(s.AppendTo(b), ' ')
		b = append(d.AppendTo(b), ' ')
		b = append(strconv.AppendUint(b, uint64(src.Port()), 10), ' ')
		return append(strconv.AppendUint(b, uint64(dst.Port()), 10), "\r\n"...)
	}
	b = append(b, v2Signature...)
	if !known {
		return append(b, 0x20, 0, 0, 0) // LOCAL, UNSPEC
	}
	if s.Is4() {
		b = append(b, 0x21, 0x11, 0, 12) // PROXY, TCP over IPv4, the length of what follows
	} else {
		b = append(b, 0x21, 0x21, 0, 36)
	}
	b = append(append(b, s.AsSlice()...), d.AsSlice()...)
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, src.Port()), dst.Port())
}
