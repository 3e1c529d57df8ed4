// SPDX-License-Identifier: Apache-2.0

package lb

import "encoding/binary"

// murmurSeed is the seed of the C++ standard library's hash, which Envoy's MURMUR_HASH_2 rings use.
const murmurSeed uint64 = 0xc70f6907

// Murmur2 is the 64-bit MurmurHash2 variant of RingHashLbConfig.HashFunction MURMUR_HASH_2.
func Murmur2(b []byte, seed uint64) uint64 {
	const mul uint64 = 0xc6a4a7935bd1e995
	mix := func(v uint64) uint64 { return v ^ v>>47 }
	h := seed ^ uint64(len(b))*mul
	for ; len(b) >= 8; b = b[8:] {
		h = (h ^ mix(binary.LittleEndian.Uint64(b)*mul)*mul) * mul
	}
	if len(b) > 0 {
		var tail uint64
		for i := len(b) - 1; i >= 0; i-- {
			tail = tail<<8 | uint64(b[i])
		}
		h = (h ^ tail) * mul
	}
	h = mix(h) * mul
	return mix(h)
}

// next is one step of splitmix64: it makes more random numbers from the bits of a query without any shared state.
func next(state *uint64) uint64 {
	*state += 0x9E3779B97F4A7C15
	z := *state
	z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
	z = (z ^ z>>27) * 0x94D049BB133111EB
	return z ^ z>>31
}
