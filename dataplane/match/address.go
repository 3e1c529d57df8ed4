// SPDX-License-Identifier: Apache-2.0

package match

import "net/netip"

// Prefixes is a list of envoy.config.core.v3.CidrRange. Immutable.
type Prefixes []netip.Prefix

// Contains reports whether ip is in one of the ranges; an IPv4-mapped IPv6 address counts as IPv4.
func (p Prefixes) Contains(ip netip.Addr) bool {
	ip = ip.Unmap()
	for _, r := range p {
		if r.Contains(ip) {
			return true
		}
	}
	return false
}

// IntRange is envoy.type.v3.Int64Range: [Start, End).
type IntRange struct{ Start, End int64 }

// Contains reports whether n is in the range.
func (r IntRange) Contains(n int64) bool { return n >= r.Start && n < r.End }
