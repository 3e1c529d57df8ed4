// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"strings"

	"sidecar/dataplane/identity"
	"sidecar/dataplane/match"
)

// SANType is the type of name that a SANMatcher looks at.
type SANType uint8

// The types.
const (
	SANEmail SANType = iota
	SANDNS
	SANURI
	SANIP
)

// SANMatcher is SubjectAltNameMatcher. Immutable. An exact matcher of DNS names also takes a wildcard in the certificate (RFC 6125 6.4.3).
type SANMatcher struct {
	Type  SANType
	Match match.String
}

func (m *SANMatcher) match(c *identity.Certificate) bool {
	switch m.Type {
	case SANEmail:
		return m.any(c.Emails)
	case SANURI:
		return m.any(c.URIs)
	case SANIP:
		return m.any(c.IPs)
	}
	if m.Match.Kind != match.StringExact {
		return m.any(c.DNSNames)
	}
	return dnsAny(c.DNSNames, m.Match.Text)
}

func (m *SANMatcher) any(names []string) bool {
	for _, n := range names {
		if m.Match.MatchString(n) {
			return true
		}
	}
	return false
}

func dnsAny(patterns []string, name string) bool {
	for _, p := range patterns {
		if dnsNameMatch(name, p) {
			return true
		}
	}
	return false
}

// dnsNameMatch tells whether a certificate's pattern covers name: equal, or with one wildcard in its first label, which is not an A-label.
func dnsNameMatch(name, pattern string) bool {
	if strings.EqualFold(name, pattern) {
		return true
	}
	nameLabel, nameRest, ok1 := strings.Cut(name, ".")
	label, rest, ok2 := strings.Cut(pattern, ".")
	if !ok1 || !ok2 || strings.Contains(rest, "*") || !strings.EqualFold(nameRest, rest) {
		return false
	}
	before, after, ok := strings.Cut(label, "*")
	if !ok || strings.Contains(after, "*") || len(label) >= 4 && strings.EqualFold(label[:4], "xn--") {
		return false
	}
	return len(nameLabel) >= len(before)+len(after) && strings.EqualFold(nameLabel[:len(before)], before) &&
		strings.EqualFold(nameLabel[len(nameLabel)-len(after):], after)
}

// listed tells whether a certificate carries one of the names that the connection asks for (auto_san_validation): a DNS name, or the exact text of
// a URI or an address.
func listed(c *identity.Certificate, name string) bool {
	if dnsAny(c.DNSNames, name) {
		return true
	}
	for _, list := range [][]string{c.URIs, c.IPs} {
		for _, n := range list {
			if n == name {
				return true
			}
		}
	}
	return false
}
