// SPDX-License-Identifier: Apache-2.0

package inspect

import (
	"net/netip"
	"testing"
)

func TestAppendProxyHeader_WhenItIsReadBack_ThenTheSame(t *testing.T) {
	for _, x := range []struct{ src, dst, v1 string }{
		{"10.0.0.1:1234", "10.0.0.2:80", "PROXY TCP4 10.0.0.1 10.0.0.2 1234 80\r\n"},
		{"[::ffff:10.0.0.1]:1234", "10.0.0.2:80", "PROXY TCP4 10.0.0.1 10.0.0.2 1234 80\r\n"},
		{"[fd00::1]:65535", "[fd00::2]:1", "PROXY TCP6 fd00::1 fd00::2 65535 1\r\n"},
		{"10.0.0.1:1234", "[fd00::2]:1", "PROXY UNKNOWN\r\n"},
		{"", "10.0.0.2:80", "PROXY UNKNOWN\r\n"},
	} {
		src, _ := netip.ParseAddrPort(x.src)
		dst, _ := netip.ParseAddrPort(x.dst)
		for version := uint8(1); version <= 2; version++ {
			b := AppendProxyHeader(nil, version, src, dst)
			if version == 1 && string(b) != x.v1 {
				t.Errorf("%q", b)
			}
			p, v := ProxyHeader(b, version == 1, version == 2)
			if v != Match || p.Len != len(b) || p.Version != version {
				t.Fatalf("version %d: %q is %v, %+v", version, b, v, p)
			}
			if p.Local != (x.v1 == "PROXY UNKNOWN\r\n") || !p.Local && (p.Src != netip.AddrPortFrom(src.Addr().Unmap(), src.Port()) || p.Dst != dst) {
				t.Errorf("version %d: %+v", version, p)
			}
		}
	}
}
