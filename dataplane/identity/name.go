// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"encoding/asn1"
	"encoding/hex"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// shortNames are the attribute types that have a name in RFC 2253 output; every other one is written as dotted numbers.
var shortNames = map[string]string{
	"2.5.4.3": "CN", "2.5.4.4": "SN", "2.5.4.5": "serialNumber", "2.5.4.6": "C", "2.5.4.7": "L", "2.5.4.8": "ST", "2.5.4.9": "street",
	"2.5.4.10": "O", "2.5.4.11": "OU", "2.5.4.12": "title", "2.5.4.13": "description", "2.5.4.17": "postalCode", "2.5.4.41": "name",
	"2.5.4.42": "GN", "2.5.4.43": "initials", "2.5.4.44": "generationQualifier", "2.5.4.46": "dnQualifier", "2.5.4.65": "pseudonym",
	"1.2.840.113549.1.9.1": "emailAddress", "1.2.840.113549.1.9.2": "unstructuredName",
	"0.9.2342.19200300.100.1.25": "DC", "0.9.2342.19200300.100.1.1": "UID",
}

// attribute is AttributeTypeAndValue with the value as it is encoded.
type attribute struct {
	Type  asn1.ObjectIdentifier
	Value asn1.RawValue
}

// relativeSET is RelativeDistinguishedName; encoding/asn1 takes a type whose name ends in SET for one.
type relativeSET []attribute

// Name renders a DER-encoded distinguished name in the form of RFC 2253 that Envoy shows: last part first, short attribute names, bytes
// outside ASCII as \XX. A name that does not parse is empty.
func Name(der []byte) string {
	var seq []relativeSET
	if rest, err := asn1.Unmarshal(der, &seq); err != nil || len(rest) > 0 {
		return ""
	}
	var b strings.Builder
	for i := len(seq) - 1; i >= 0; i-- {
		// Within a multi-valued part the order is reversed too.
		for j := len(seq[i]) - 1; j >= 0; j-- {
			a := &seq[i][j]
			if b.Len() > 0 {
				if j == len(seq[i])-1 {
					b.WriteByte(',')
				} else {
					b.WriteByte('+')
				}
			}
			id := a.Type.String()
			short, known := shortNames[id]
			if !known {
				short = id
			}
			b.WriteString(short)
			b.WriteByte('=')
			value(&b, &a.Value, known)
		}
	}
	return b.String()
}

// value writes one attribute value; unknown types and values that are no strings are dumped as # and hex of their DER (RFC 2253 2.4).
func value(b *strings.Builder, v *asn1.RawValue, known bool) {
	text, ok := directoryString(v)
	if !ok || !known {
		b.WriteByte('#')
		b.WriteString(strings.ToUpper(hex.EncodeToString(v.FullBytes)))
		return
	}
	for i := range len(text) {
		ch := text[i]
		switch {
		case ch < ' ' || ch >= 0x7f:
			const digits = "0123456789ABCDEF"
			b.WriteByte('\\')
			b.WriteByte(digits[ch>>4])
			b.WriteByte(digits[ch&15])
			continue
		case strings.IndexByte(`,+"\<>;`, ch) >= 0, i == 0 && (ch == ' ' || ch == '#'), i == len(text)-1 && ch == ' ':
			b.WriteByte('\\')
		}
		b.WriteByte(ch)
	}
}

// directoryString decodes the string types of X.520 to UTF-8.
func directoryString(v *asn1.RawValue) (string, bool) {
	if v.Class != asn1.ClassUniversal || v.IsCompound {
		return "", false
	}
	switch v.Tag {
	case asn1.TagUTF8String:
		return string(v.Bytes), utf8.Valid(v.Bytes)
	case asn1.TagPrintableString, asn1.TagIA5String, asn1.TagNumericString:
		return string(v.Bytes), true
	case asn1.TagT61String:
		r := make([]rune, len(v.Bytes))
		for i, c := range v.Bytes {
			r[i] = rune(c)
		}
		return string(r), true
	case asn1.TagBMPString:
		if len(v.Bytes)%2 != 0 {
			return "", false
		}
		u := make([]uint16, len(v.Bytes)/2)
		for i := range u {
			u[i] = uint16(v.Bytes[2*i])<<8 | uint16(v.Bytes[2*i+1])
		}
		return string(utf16.Decode(u)), true
	}
	return "", false
}
