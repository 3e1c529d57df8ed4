// SPDX-License-Identifier: Apache-2.0

package hostset

import "slices"

// SameMembers tells whether two generations have the same hosts, whatever their weights, health and order. Either may be nil, which is empty.
// Cost: one comparison per host while the order is the same.
func SameMembers(a, b *Hosts) bool {
	var x, y []*Host
	if a != nil {
		x = a.order
	}
	if b != nil {
		y = b.order
	}
	if len(x) != len(y) {
		return false
	}
	if slices.Equal(x, y) {
		return true
	}
	set := make(map[*Host]struct{}, len(x))
	for _, h := range x {
		set[h] = struct{}{}
	}
	for _, h := range y {
		if _, ok := set[h]; !ok {
			return false
		}
	}
	return true
}
