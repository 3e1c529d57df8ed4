// SPDX-License-Identifier: Apache-2.0

package http1

import (
	"encoding/binary"
	"math/bits"
)

const (
	lo8 = 0x0101010101010101
	hi8 = 0x8080808080808080
)

// pad goes behind what a parser reads, so that it can load eight bytes anywhere: line ends, at which every search stops.
const pad = "\n\n\n\n\n\n\n\n"

// controls flags the bytes of x that are control characters (below 0x20, or DEL); the lowest flag is always true, as a subtraction borrows only upwards.
func controls(x uint64) uint64 {
	y := x ^ 0x7f*lo8
	return ((x-0x20*lo8)&^x | (y-lo8)&^y) & hi8
}

// control returns the index of the first byte at or after i that is a control character, or len(b).
func control(b []byte, i int) int {
	for ; i+8 <= len(b); i += 8 {
		if m := controls(binary.LittleEndian.Uint64(b[i:])); m != 0 {
			return i + bits.TrailingZeros64(m)>>3
		}
	}
	for ; i < len(b); i++ {
		if c := b[i]; c < 0x20 || c == 0x7f {
			return i
		}
	}
	return i
}

// firstControl is control for a b with a pad, at which it stops.
func firstControl(b []byte, i int) int {
	for {
		if m := controls(binary.LittleEndian.Uint64(b[i:])); m != 0 {
			return i + bits.TrailingZeros64(m)>>3
		}
		i += 8
	}
}

// visible returns how many of the bytes that b starts with are of 0x21..0x7e, which is what a request target may hold (RFC 3986, plus what Envoy lets
// through).
func visible(b []byte) int {
	i := 0
	for ; i+8 <= len(b); i += 8 {
		x := binary.LittleEndian.Uint64(b[i:])
		if m := (x | (x - 0x21*lo8) | (x ^ 0x7f*lo8 - lo8)) & hi8; m != 0 { // the lowest flag is true, see controls
			return i + bits.TrailingZeros64(m)>>3
		}
	}
	for i < len(b) && b[i] > ' ' && b[i] < 0x7f {
		i++
	}
	return i
}

// plain reports whether all of b is visible.
func plain(b []byte) bool { return visible(b) == len(b) }

// token maps a tchar (RFC 9110 section 5.6.2) to its lower case; every other byte to 0.
var token = func() (t [256]byte) {
	for c := '0'; c <= '9'; c++ {
		t[c] = byte(c)
	}
	for c := 'a'; c <= 'z'; c++ {
		t[c], t[c-'a'+'A'] = byte(c), byte(c)
	}
	for _, c := range "!#$%&'*+-.^_`|~" {
		t[c] = byte(c)
	}
	return t
}()

// blankLine returns the index of the first CR LF CR LF at or after i, or -1. It looks at every fourth byte only: the last one of a candidate.
func blankLine(b []byte, i int) int {
	for i += 3; i < len(b); {
		switch c := b[i]; {
		case c > '\r':
			i += 4
		case c == '\n':
			if b[i-1] == '\r' && b[i-2] == '\n' && b[i-3] == '\r' {
				return i - 3
			}
			i += 2 // this LF may be the second byte
		case c == '\r':
			i++ // the first or the third byte
		default:
			i += 4
		}
	}
	return -1
}

// isToken reports whether b is a non-empty token.
func isToken(b []byte) bool {
	for _, c := range b {
		if token[c] == 0 {
			return false
		}
	}
	return len(b) > 0
}

// equalFold compares b with lower, which must be lower-case ASCII.
func equalFold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' }

// trimBlanks removes optional whitespace (RFC 9110 section 5.6.3) at both ends.
func trimBlanks(b []byte) []byte {
	for len(b) > 0 && isBlank(b[0]) {
		b = b[1:]
	}
	for len(b) > 0 && isBlank(b[len(b)-1]) {
		b = b[:len(b)-1]
	}
	return b
}

// nextItem cuts the first element off a comma-separated list (RFC 9110 section 5.6.1) and returns it without surrounding whitespace.
func nextItem(list []byte) (item, rest []byte) {
	for i, c := range list {
		if c == ',' {
			return trimBlanks(list[:i]), list[i+1:]
		}
	}
	return trimBlanks(list), nil
}

// hasItem reports whether the comma-separated list has the element lower, in any case.
func hasItem(list []byte, lower string) bool {
	for len(list) > 0 {
		var it []byte
		if it, list = nextItem(list); equalFold(it, lower) {
			return true
		}
	}
	return false
}

// parseLength reads a Content-Length value: digits only, and no overflow (RFC 9110 section 8.6).
func parseLength(b []byte) (int64, bool) {
	for len(b) > 1 && b[0] == '0' {
		b = b[1:]
	}
	if len(b) == 0 || len(b) > 19 {
		return 0, false
	}
	var n int64 // of 19 digits only the last can overflow, and then the sign shows it
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, n >= 0
}

func appendInt(b []byte, n int64) []byte {
	var t [20]byte
	i := len(t)
	for {
		i--
		t[i] = byte('0' + n%10)
		if n /= 10; n == 0 {
			return append(b, t[i:]...)
		}
	}
}
