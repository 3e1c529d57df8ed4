// SPDX-License-Identifier: Apache-2.0

// Package sys is the only door to the kernel: the Kernel interface, its Linux implementation, and the plain values that cross it (file
// descriptors, errnos, addresses, nanoseconds). internal/simsys implements the same interface for the deterministic simulation.
package sys

import (
	"encoding/binary"
	"net/netip"
	"strings"
)

// Nanos is a point on, or a length of, the monotonic clock in nanoseconds.
type Nanos int64

// Common lengths.
const (
	Millisecond Nanos = 1e6
	Second      Nanos = 1e9
)

// FD is a file descriptor; -1 is none.
type FD int32

// Addr is a socket address: TCP (IP valid) or Unix (Path not empty; a leading '@' means the abstract namespace), or the address of an internal listener
// (see InternalAddr). Comparable; usable as a map key. The zero Addr is none.
type Addr struct {
	IP   netip.AddrPort
	Path string
}

// AddrOf makes a TCP address.
func AddrOf(ip netip.AddrPort) Addr { return Addr{IP: ip} }

// internalPrefix is how Envoy writes internal addresses. No Unix path begins like that.
const internalPrefix = "envoy://"

// InternalAddr is the address of an endpoint behind an internal listener (envoy_internal_address). The name has no slash.
func InternalAddr(listener, endpoint string) Addr {
	return Addr{Path: internalPrefix + listener + "/" + endpoint}
}

// Internal returns the listener and the endpoint of an internal address; ok is false for all others.
func (a Addr) Internal() (listener, endpoint string, ok bool) {
	if rest, is := strings.CutPrefix(a.Path, internalPrefix); is {
		listener, endpoint, ok = strings.Cut(rest, "/")
	}
	return listener, endpoint, ok
}

// IsPipe tells whether a is a Unix socket address.
func (a Addr) IsPipe() bool { return a.Path != "" && !strings.HasPrefix(a.Path, internalPrefix) }

// IsUnix tells whether a is a Unix socket address or an internal one: it has no IP.
func (a Addr) IsUnix() bool { return a.Path != "" }

// IsZero tells whether a is no address.
func (a Addr) IsZero() bool { return a.Path == "" && !a.IP.IsValid() }

// Append appends Envoy's text form: "1.2.3.4:80", "[::1]:80", or the path ("@/name" for abstract sockets).
func (a Addr) Append(b []byte) []byte {
	if a.Path != "" {
		return append(b, a.Path...)
	}
	if !a.IP.IsValid() {
		return b
	}
	if ip := a.IP.Addr(); ip.Is4() {
		return appendUint16(append(appendIPv4(b, ip.As4()), ':'), a.IP.Port())
	}
	return a.IP.AppendTo(b)
}

// octets are the numbers of an IPv4 address with a dot behind, the first byte lowest, and how long that is.
var octets = func() (t [256]struct{ text, len uint32 }) {
	for i := range t {
		b := append(appendUint16(make([]byte, 0, 4), uint16(i)), '.')
		t[i].len = uint32(len(b))
		t[i].text = binary.LittleEndian.Uint32(b[:4])
	}
	return t
}()

// appendIPv4 is netip's AppendTo for addresses that nearly every request prints.
func appendIPv4(b []byte, ip [4]byte) []byte {
	var t [4 * len("255.")]byte
	n := uint32(0)
	for _, v := range ip {
		o := &octets[v]
		binary.LittleEndian.PutUint32(t[n:], o.text)
		n += o.len
	}
	return append(b, t[:n-1]...)
}

// appendUint16 appends v in decimal.
func appendUint16(b []byte, v uint16) []byte {
	n := uint32(v)
	switch {
	case n < 10:
		return append(b, byte('0'+n))
	case n < 100:
		return append(b, byte('0'+n/10), byte('0'+n%10))
	case n < 1000:
		return append(b, byte('0'+n/100), byte('0'+n/10%10), byte('0'+n%10))
	case n < 10000:
		return append(b, byte('0'+n/1000), byte('0'+n/100%10), byte('0'+n/10%10), byte('0'+n%10))
	}
	return append(b, byte('0'+n/10000), byte('0'+n/1000%10), byte('0'+n/100%10), byte('0'+n/10%10), byte('0'+n%10))
}

// AppendIP appends the address without the port.
func (a Addr) AppendIP(b []byte) []byte {
	if a.Path != "" {
		return append(b, a.Path...)
	}
	if !a.IP.IsValid() {
		return b
	}
	return AppendIP(b, a.IP.Addr())
}

// AppendIP is ip.AppendTo(b), faster for IPv4.
func AppendIP(b []byte, ip netip.Addr) []byte {
	if ip.Is4() {
		return appendIPv4(b, ip.As4())
	}
	return ip.AppendTo(b)
}

// AppendPort appends the port; nothing for Unix addresses.
func (a Addr) AppendPort(b []byte) []byte {
	if a.Path != "" || !a.IP.IsValid() {
		return b
	}
	return appendUint16(b, a.IP.Port())
}

// String is Append as a string; for logs and admin, not for the request path.
func (a Addr) String() string { return string(a.Append(nil)) }
