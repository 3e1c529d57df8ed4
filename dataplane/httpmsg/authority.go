// SPDX-License-Identifier: Apache-2.0

package httpmsg

// hostChars marks the bytes of a registered name (RFC 3986 section 3.2.2), percent signs included.
var hostChars = func() (t [256]bool) {
	for c := range 256 {
		t[c] = '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
	}
	for _, c := range "-._~!$&'()*+,;=%" {
		t[c] = true
	}
	return t
}()

// ValidAuthority reports whether b is uri-host [":" port] (RFC 9110 section 7.2): not empty, without userinfo, with a port of digits up to 65535
// if any. lax takes what Envoy takes: also nothing at all, userinfo, and anything behind the colon.
func ValidAuthority(b []byte, lax bool) bool {
	if lax {
		for _, c := range b {
			if !hostChars[c] && c != '@' && c != ':' && c != '[' && c != ']' {
				return false
			}
		}
		return true
	}
	host, port, ok := splitAuthority(b)
	if !ok || len(host) == 0 {
		return false
	}
	return len(port) == 0 || validPort(port)
}

// ValidHostPort reports whether b is uri-host ":" port with both present, the authority form of CONNECT (RFC 9112 section 3.2.3).
func ValidHostPort(b []byte) bool {
	host, port, ok := splitAuthority(b)
	return ok && len(host) > 0 && len(port) > 0 && validPort(port)
}

// ValidUserinfo reports whether b is userinfo (RFC 3986 section 3.2.1).
func ValidUserinfo(b []byte) bool {
	for _, c := range b {
		if !hostChars[c] && c != ':' {
			return false
		}
	}
	return true
}

func validPort(b []byte) bool {
	n := 0
	for _, c := range b {
		if c < '0' || c > '9' {
			return false
		}
		if n = n*10 + int(c-'0'); n > 65535 {
			return false
		}
	}
	return len(b) > 0
}

// splitAuthority cuts b at its port colon and checks the host part.
func splitAuthority(b []byte) (host, port []byte, ok bool) {
	i := 0
	if len(b) > 0 && b[0] == '[' { // IP literal
		for i = 1; i < len(b) && b[i] != ']'; i++ {
			if c := b[i]; c != ':' && c != '.' && !isHex(c) {
				return nil, nil, false
			}
		}
		if i >= len(b) || i < 3 {
			return nil, nil, false
		}
		i++
	} else {
		for i < len(b) && hostChars[b[i]] {
			i++
		}
	}
	if i == len(b) {
		return b, nil, true
	}
	if b[i] != ':' {
		return nil, nil, false
	}
	return b[:i], b[i+1:], true
}

func isHex(c byte) bool { return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F' }

// StripPort returns the authority without its port, if it has one.
func StripPort(authority []byte) []byte {
	if i := PortStart(authority); i >= 0 {
		return authority[:i]
	}
	return authority
}

// PortStart returns the index of the colon before the port of an authority, or -1. As in Envoy, anything behind the last colon is a port, unless
// that colon is inside an IPv6 literal or (an address without brackets) not the only one.
func PortStart(authority []byte) int {
	last := -1
	for i := len(authority) - 1; i >= 0; i-- {
		switch authority[i] {
		case ']':
			return last
		case ':':
			if last >= 0 {
				return -1
			}
			last = i
		}
	}
	return last
}
