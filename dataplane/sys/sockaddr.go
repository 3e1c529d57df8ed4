// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// addrOfRaw turns the kernel's sockaddr of length n into an Addr. v4-mapped v6 addresses stay as they are received on a v6 socket and are unmapped,
// because Envoy shows and matches them as IPv4.
func addrOfRaw(rsa *unix.RawSockaddrAny, n uint32) Addr {
	switch rsa.Addr.Family {
	case unix.AF_INET:
		p := (*unix.RawSockaddrInet4)(unsafe.Pointer(rsa))
		return Addr{IP: netip.AddrPortFrom(netip.AddrFrom4(p.Addr), swap16(p.Port))}
	case unix.AF_INET6:
		p := (*unix.RawSockaddrInet6)(unsafe.Pointer(rsa))
		a := netip.AddrFrom16(p.Addr)
		if p.Scope_id != 0 && !a.Is4In6() {
			a = a.WithZone(strconv.Itoa(int(p.Scope_id)))
		}
		return Addr{IP: netip.AddrPortFrom(a.Unmap(), swap16(p.Port))}
	case unix.AF_UNIX:
		p := (*unix.RawSockaddrUnix)(unsafe.Pointer(rsa))
		l := int(n) - 2
		if l <= 0 {
			return Addr{Path: ""}
		}
		if p.Path[0] == 0 { // abstract: the length says where the name ends
			b := make([]byte, l)
			b[0] = '@'
			for i := 1; i < l; i++ {
				b[i] = byte(p.Path[i])
			}
			return Addr{Path: string(b)}
		}
		b := make([]byte, 0, l)
		for i := 0; i < l && p.Path[i] != 0; i++ {
			b = append(b, byte(p.Path[i]))
		}
		return Addr{Path: string(b)}
	}
	return Addr{}
}

func swap16(p uint16) uint16 {
	b := (*[2]byte)(unsafe.Pointer(&p))
	return binary.BigEndian.Uint16(b[:])
}

// rawAddr turns an Addr into the kernel's form.
func rawAddr(a Addr) (rsa unix.RawSockaddrAny, n uint32, family int, e Errno) {
	switch {
	case a.Path != "":
		p := (*unix.RawSockaddrUnix)(unsafe.Pointer(&rsa))
		p.Family = unix.AF_UNIX
		if len(a.Path) >= len(p.Path) {
			return rsa, 0, 0, EINVAL
		}
		for i := 0; i < len(a.Path); i++ {
			p.Path[i] = int8(a.Path[i])
		}
		if a.Path[0] == '@' {
			p.Path[0] = 0
			return rsa, uint32(2 + len(a.Path)), unix.AF_UNIX, 0
		}
		return rsa, uint32(3 + len(a.Path)), unix.AF_UNIX, 0
	case !a.IP.IsValid():
		return rsa, 0, 0, EINVAL
	case a.IP.Addr().Is4() || a.IP.Addr().Is4In6():
		p := (*unix.RawSockaddrInet4)(unsafe.Pointer(&rsa))
		p.Family = unix.AF_INET
		p.Addr = a.IP.Addr().Unmap().As4()
		p.Port = swap16(a.IP.Port())
		return rsa, unix.SizeofSockaddrInet4, unix.AF_INET, 0
	}
	p := (*unix.RawSockaddrInet6)(unsafe.Pointer(&rsa))
	p.Family = unix.AF_INET6
	p.Addr = a.IP.Addr().As16()
	p.Port = swap16(a.IP.Port())
	if z := a.IP.Addr().Zone(); z != "" {
		if id, err := strconv.Atoi(z); err == nil {
			p.Scope_id = uint32(id)
		}
	}
	return rsa, unix.SizeofSockaddrInet6, unix.AF_INET6, 0
}
