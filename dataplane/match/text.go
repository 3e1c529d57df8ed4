// SPDX-License-Identifier: Apache-2.0

package match

import (
	"bytes"
	"unsafe"
)

// noCopy views s as bytes. Callers only read.
func noCopy(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

// StringKind is the kind of a String matcher.
type StringKind uint8

// The kinds of envoy.type.matcher.v3.StringMatcher.
const (
	StringAny StringKind = iota // matches everything; not a StringMatcher
	StringExact
	StringPrefix
	StringSuffix
	StringContains
	StringRegex
)

// String is a compiled envoy.type.matcher.v3.StringMatcher. Immutable; Match allocates nothing. The zero value matches everything.
type String struct {
	Kind       StringKind
	Text       string // lower case when IgnoreCase
	IgnoreCase bool   // ASCII only, as Envoy's
	Regex      *Regex
}

// NewString makes a matcher of a kind other than StringRegex.
func NewString(kind StringKind, text string, ignoreCase bool) String {
	if ignoreCase {
		text = string(AppendLower(nil, noCopy(text)))
	}
	return String{Kind: kind, Text: text, IgnoreCase: ignoreCase}
}

// Match reports whether b matches.
func (m *String) Match(b []byte) bool {
	switch m.Kind {
	case StringExact:
		return len(b) == len(m.Text) && m.equal(b)
	case StringPrefix:
		return len(b) >= len(m.Text) && m.equal(b[:len(m.Text)])
	case StringSuffix:
		return len(b) >= len(m.Text) && m.equal(b[len(b)-len(m.Text):])
	case StringContains:
		if !m.IgnoreCase {
			return bytes.Contains(b, noCopy(m.Text))
		}
		for i := 0; i+len(m.Text) <= len(b); i++ {
			if m.equal(b[i : i+len(m.Text)]) {
				return true
			}
		}
		return false
	case StringRegex:
		return m.Regex.Match(b)
	}
	return true
}

// MatchString is Match for a string.
func (m *String) MatchString(s string) bool { return m.Match(noCopy(s)) }

// equal compares b, which is as long as Text, with Text.
func (m *String) equal(b []byte) bool {
	if !m.IgnoreCase {
		return string(b) == m.Text
	}
	return EqualLower(b, m.Text)
}

// EqualLower reports whether b in lower case (ASCII) equals s, which is lower case.
func EqualLower(b []byte, s string) bool {
	if len(b) != len(s) {
		return false
	}
	for i, c := range b {
		if Lower(c) != s[i] {
			return false
		}
	}
	return true
}

// Lower is the lower case of an ASCII letter, any other byte as it is.
func Lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// AppendLower appends s in lower case (ASCII).
func AppendLower(b, s []byte) []byte {
	for _, c := range s {
		b = append(b, Lower(c))
	}
	return b
}

// AppendLowerReversed appends s in lower case, last byte first.
func AppendLowerReversed(b, s []byte) []byte {
	for i := len(s) - 1; i >= 0; i-- {
		b = append(b, Lower(s[i]))
	}
	return b
}
