// SPDX-License-Identifier: Apache-2.0

package hpack

import "encoding/binary"

// The code of RFC 7541 appendix B is canonical: codes of one length follow each other in the order of their symbols, and longer codes follow shorter ones.
// So the lengths say everything; EOS is the last code of 30 bits.
var huffLengths = [256]uint8{
	13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
	6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
	13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
	15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
	20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
	22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
	26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
	20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
}

const (
	shortBits = 11 // the first table's index: most pairs of letters fit
	maxBits   = 30
)

// pair is what shortBits bits begin with: one or two whole symbols, or none (0) when the first code is longer.
// Bits 0-7 and 8-15 symbols, 16-19 bits of the first, 20-23 bits of all, 24-25 number of symbols.
type pair uint32

var (
	huffPairs   [1 << shortBits]pair
	huffSymbols [256]uint8          // symbols in the order of their codes
	huffLimit   [maxBits + 1]uint32 // the first 32-bit window, left aligned, that begins with a code longer than this
	huffOffset  [maxBits + 1]uint32 // code of length n, plus this, is its place in huffSymbols
)

func init() {
	var code, place uint32
	var single [1 << shortBits]uint16 // symbol, length<<8
	for n := uint32(1); n <= maxBits; n++ {
		code <<= 1
		huffOffset[n] = place - code
		for s := range huffLengths {
			if uint32(huffLengths[s]) != n {
				continue
			}
			huffSymbols[place] = uint8(s)
			place++
			if n <= shortBits {
				first := code << (shortBits - n)
				for i := range uint32(1) << (shortBits - n) {
					single[first+i] = uint16(s) | uint16(n)<<8
				}
			}
			code++
		}
		huffLimit[n] = code << (32 - n)
	}
	for w, one := range single {
		n := uint32(one >> 8)
		if n == 0 {
			continue
		}
		e := uint32(one&0xff) | n<<16 | n<<20 | 1<<24
		two := single[w<<n&(1<<shortBits-1)]
		if m := uint32(two >> 8); m > 0 && n+m <= shortBits {
			e = uint32(one&0xff) | uint32(two&0xff)<<8 | n<<16 | (n+m)<<20 | 2<<24
		}
		huffPairs[w] = pair(e)
	}
}

// huffRoom bounds the octets that n coded octets stand for, with the spare octet that the decoder may write.
func huffRoom(n int) int { return n*8/5 + 2 }

// decodeHuffman appends to dst, which has huffRoom(len(src)) free, the octets that src stands for (section 5.2).
func decodeHuffman(dst, src []byte) ([]byte, bool) {
	o := len(dst)
	dst = dst[:cap(dst)]
	var acc uint64 // the next n bits, left aligned; below them lies a prefix of what follows, which or-ing it again does not change
	var n uint
	for len(src) >= 8 {
		acc |= binary.BigEndian.Uint64(src) >> n
		src = src[(63-n)>>3:]
		n |= 56
		for n >= maxBits {
			e := uint32(huffPairs[acc>>(64-shortBits)])
			if e == 0 {
				s, bits := longCode(uint32(acc >> 32))
				if bits == 0 {
					return nil, false
				}
				dst[o] = s
				o++
				acc <<= bits
				n -= bits
				continue
			}
			dst[o], dst[o+1] = uint8(e), uint8(e>>8)
			o += int(e >> 24)
			acc <<= e >> 20 & 15
			n -= uint(e >> 20 & 15)
		}
	}
	return decodeHuffmanTail(dst, o, src, acc, n)
}

// decodeHuffmanTail decodes the last octets with o octets of dst filled and n bits in acc.
func decodeHuffmanTail(dst []byte, o int, src []byte, acc uint64, n uint) ([]byte, bool) {
	for {
		for n <= 56 && len(src) > 0 {
			acc |= uint64(src[0]) << (56 - n)
			n += 8
			src = src[1:]
		}
		window := acc | (1<<(64-n) - 1) // ones behind the end
		e := uint32(huffPairs[window>>(64-shortBits)])
		s, bits := uint8(e), uint(e>>16&15)
		if e == 0 {
			s, bits = longCode(uint32(window >> 32))
		}
		if bits == 0 || bits > n {
			// No whole code is left: it must be padding, less than an octet of ones.
			return dst[:o], n < 8 && window == 1<<64-1
		}
		dst[o] = s
		o++
		acc <<= bits
		n -= bits
	}
}

// longCode decodes a code of more than shortBits bits at the top of w; no bits for EOS.
func longCode(w uint32) (symbol uint8, bits uint) {
	for n := uint(shortBits + 1); n <= maxBits; n++ {
		if w < huffLimit[n] {
			return huffSymbols[w>>(32-n)+huffOffset[n]], n
		}
	}
	return 0, 0
}
