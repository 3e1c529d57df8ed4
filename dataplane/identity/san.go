// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"crypto/x509"
	"encoding/asn1"
	"net/netip"
	"unicode/utf8"
)

// The tags of GeneralName (RFC 5280 4.2.1.6).
const (
	tagOther = 0
	tagEmail = 1
	tagDNS   = 2
	tagURI   = 6
	tagIP    = 7
)

var oidSAN = asn1.ObjectIdentifier{2, 5, 29, 17}

// sans reads the subject alternative names from the extension itself: crypto/x509 gives URIs parsed, and their text may differ then.
func (c *Certificate) sans(leaf *x509.Certificate) {
	for i := range leaf.Extensions {
		if e := &leaf.Extensions[i]; e.Id.Equal(oidSAN) {
			c.names(e.Value)
			return
		}
	}
}

func (c *Certificate) names(ext []byte) {
	var seq asn1.RawValue
	if rest, err := asn1.Unmarshal(ext, &seq); err != nil || len(rest) > 0 || seq.Tag != asn1.TagSequence {
		return
	}
	for rest, n := seq.Bytes, 0; len(rest) > 0 && n < maxSANs; n++ {
		var v asn1.RawValue
		var err error
		if rest, err = asn1.Unmarshal(rest, &v); err != nil {
			return
		}
		if v.Class != asn1.ClassContextSpecific {
			continue
		}
		switch v.Tag {
		case tagURI:
			c.URIs = c.add(c.URIs, string(v.Bytes))
		case tagDNS:
			c.DNSNames = c.add(c.DNSNames, string(v.Bytes))
		case tagEmail:
			c.Emails = c.add(c.Emails, string(v.Bytes))
		case tagIP:
			if a, ok := netip.AddrFromSlice(v.Bytes); ok {
				c.IPs = c.add(c.IPs, a.String())
			}
		case tagOther:
			if s, ok := otherName(v.Bytes); ok {
				c.OtherNames = c.add(c.OtherNames, s)
			}
		}
	}
}

// add appends a name to the list of its type and to that of all.
func (c *Certificate) add(list []string, name string) []string {
	c.SANs = append(c.SANs, name)
	return append(list, name)
}

// otherName returns the text of an otherName whose value is a string; values of other types are not shown.
func otherName(b []byte) (string, bool) {
	var id asn1.ObjectIdentifier
	rest, err := asn1.Unmarshal(b, &id)
	if err != nil {
		return "", false
	}
	var explicit, v asn1.RawValue
	if _, err = asn1.Unmarshal(rest, &explicit); err != nil {
		return "", false
	}
	if _, err = asn1.Unmarshal(explicit.Bytes, &v); err != nil {
		return "", false
	}
	switch v.Tag {
	case asn1.TagUTF8String, asn1.TagPrintableString, asn1.TagIA5String:
		return string(v.Bytes), utf8.Valid(v.Bytes)
	}
	return "", false
}
