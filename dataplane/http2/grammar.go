// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"encoding/binary"
	"math"
	"strings"
)

// nameClass says what a byte is in a field name (RFC 9113 section 8.2.1): a name may have lower-case token characters only.
var nameClass = func() (t [256]uint8) {
	for c := range 256 {
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c > ' ' && c < 0x7f && strings.IndexByte("!#$%&'*+-.^`|~", byte(c)) >= 0:
			t[c] = nameByte
		case c == '_':
			t[c] = nameUnderscore
		}
	}
	return t
}()

const (
	nameBad uint8 = iota
	nameByte
	nameUnderscore
)

// validName reports whether b is a field name, and whether it has an underscore.
func validName(b []byte) (ok, underscore bool) {
	for _, c := range b {
		switch nameClass[c] {
		case nameBad:
			return false, false
		case nameUnderscore:
			underscore = true
		}
	}
	return len(b) > 0, underscore
}

const (
	lo8 = 0x0101010101010101
	hi8 = 0x8080808080808080
)

// validValue reports whether b is a field value: no control characters but tab (RFC 9110 section 5.5), no blank at either end (RFC 9113 section 8.2.1).
func validValue(b []byte) bool {
	if len(b) == 0 {
		return true
	}
	if first, last := b[0], b[len(b)-1]; first == ' ' || first == '\t' || last == ' ' || last == '\t' {
		return false
	}
	for len(b) >= 8 {
		x := binary.LittleEndian.Uint64(b)
		y := x ^ 0x7f*lo8
		if ((x-0x20*lo8)&^x|(y-lo8)&^y)&hi8 != 0 { // most likely a control character
			for _, c := range b[:8] {
				if control(c) {
					return false
				}
			}
		}
		b = b[8:]
	}
	for _, c := range b {
		if control(c) {
			return false
		}
	}
	return true
}

func control(c byte) bool { return c < ' ' && c != '\t' || c == 0x7f }

// validMethod reports whether b is a token (RFC 9110 section 9.1).
func validMethod(b []byte) bool {
	for _, c := range b {
		if nameClass[c] == nameBad && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return len(b) > 0
}

// validScheme: RFC 3986 section 3.1.
func validScheme(b []byte) bool {
	for i, c := range b {
		alpha := 'a' <= c|0x20 && c|0x20 <= 'z'
		if !alpha && (i == 0 || (c < '0' || c > '9') && c != '+' && c != '-' && c != '.') {
			return false
		}
	}
	return len(b) > 0
}

// trimBlanks removes blanks at both ends.
func trimBlanks(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

// validPath reports whether the octets are those that HTTP/1 lets through.
func validPath(b []byte) bool {
	for ; len(b) >= 8; b = b[8:] {
		x := binary.LittleEndian.Uint64(b)
		if (x|(x-0x21*lo8)|(x^0x7f*lo8-lo8))&hi8 != 0 {
			return false
		}
	}
	for _, c := range b {
		if c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return true
}

// parseLength reads a Content-Length value: digits only, and no overflow (RFC 9110 section 8.6).
func parseLength(b []byte) (int64, bool) {
	var n int64
	for _, c := range b {
		if c < '0' || c > '9' || n > (math.MaxInt64-int64(c-'0'))/10 {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, len(b) > 0
}

// framingLookalike: with underscores read as hyphens, some read these names as framing; they never pass (as in http1).
func framingLookalike(name []byte) bool {
	return sameButUnderscores(name, "content-length") || sameButUnderscores(name, "transfer-encoding")
}

func sameButUnderscores(name []byte, s string) bool {
	if len(name) != len(s) {
		return false
	}
	for i, c := range name {
		if c == '_' {
			c = '-'
		}
		if c != s[i] {
			return false
		}
	}
	return true
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
