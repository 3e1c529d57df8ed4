// SPDX-License-Identifier: Apache-2.0

package httpmsg

import (
	"bytes"
	"net/netip"
)

// QueryParam returns the first value of a query parameter as it stands in path, percent-encoding included; ok is false when the parameter is not there.
// As in Envoy, names are compared undecoded, only '&' separates, and a parameter without '=' has an empty value.
func QueryParam(path []byte, name string) (value []byte, ok bool) {
	i := bytes.IndexByte(path, '?')
	if i < 0 {
		return nil, false
	}
	q := path[i+1:]
	if j := bytes.IndexByte(q, '#'); j >= 0 {
		q = q[:j]
	}
	for len(q) > 0 {
		item := q
		if j := bytes.IndexByte(q, '&'); j >= 0 {
			item, q = q[:j], q[j+1:]
		} else {
			q = nil
		}
		n := bytes.IndexByte(item, '=')
		if n < 0 {
			n = len(item)
		}
		if string(item[:n]) == name {
			return item[min(n+1, len(item)):], true
		}
	}
	return nil, false
}

// AppendDecoded appends v with percent-encoding undone; malformed escapes stay, '+' is no blank.
func AppendDecoded(b, v []byte) []byte {
	for i := 0; i < len(v); i++ {
		if c := escaped(v, i); c >= 0 {
			b = append(b, byte(c))
			i += 2
			continue
		}
		b = append(b, v[i])
	}
	return b
}

// NextCookie cuts the first cookie-pair off the value of a Cookie field (RFC 6265 section 4.2.1). The value comes without its quotes. Pairs without
// '=' are skipped; ok is false at the end.
func NextCookie(line []byte) (name, value, rest []byte, ok bool) {
	for len(line) > 0 {
		pair := line
		if i := bytes.IndexByte(line, ';'); i >= 0 {
			pair, line = line[:i], line[i+1:]
		} else {
			line = nil
		}
		for len(pair) > 0 && pair[0] == ' ' {
			pair = pair[1:]
		}
		i := bytes.IndexByte(pair, '=')
		if i < 0 {
			continue
		}
		value = pair[i+1:]
		if n := len(value); n >= 2 && value[0] == '"' && value[n-1] == '"' {
			value = value[1 : n-1]
		}
		return pair[:i], value, line, true
	}
	return nil, nil, nil, false
}

// Cookie returns the value of the first cookie with that name (case counts) in any Cookie field.
func (f *Fields) Cookie(name string) ([]byte, bool) {
	for i := f.Find(IDCookie, 0); i >= 0; i = f.Find(IDCookie, i+1) {
		line := f.Value(i)
		for {
			n, v, rest, ok := NextCookie(line)
			if !ok {
				break
			}
			if string(n) == name {
				return v, true
			}
			line = rest
		}
	}
	return nil, false
}

// ForwardedFor returns the element of X-Forwarded-For that is skip elements left of the last one, all fields taken as one list, and how many
// elements there are in all; ok is false when there are not that many. Empty elements count, as they do in Envoy.
func (f *Fields) ForwardedFor(skip int) (item []byte, total int, ok bool) {
	for i := len(f.List) - 1; i >= 0; i-- {
		if f.List[i].ID != IDForwardedFor || f.List[i].Dead {
			continue
		}
		for v, more := f.Value(i), true; more; {
			var it []byte
			if j := bytes.LastIndexByte(v, ','); j >= 0 {
				it, v = v[j+1:], v[:j]
			} else {
				it, more = v, false
			}
			if total == skip {
				item, ok = bytes.TrimSpace(it), true
			}
			total++
		}
	}
	return item, total, ok
}

// ParseAddr parses an IPv4 or IPv6 address without zone and without allocating.
func ParseAddr(b []byte) (netip.Addr, bool) {
	if bytes.IndexByte(b, ':') < 0 {
		a, ok := parseV4(b)
		return netip.AddrFrom4(a), ok
	}
	var a [16]byte
	at, gap := 0, -1
	if len(b) >= 2 && b[0] == ':' && b[1] == ':' {
		gap, b = 0, b[2:]
	}
	for len(b) > 0 {
		n := 0
		for n < len(b) && b[n] != ':' {
			n++
		}
		if n == len(b) && bytes.IndexByte(b, '.') >= 0 { // embedded IPv4
			v4, ok := parseV4(b)
			if !ok || at > 12 {
				return netip.Addr{}, false
			}
			at += copy(a[at:], v4[:])
			break
		}
		g, ok := parseGroup(b[:n])
		if !ok || at > 14 {
			return netip.Addr{}, false
		}
		a[at], a[at+1] = byte(g>>8), byte(g)
		at += 2
		switch b = b[n:]; {
		case len(b) == 0:
		case len(b) == 1:
			return netip.Addr{}, false // a colon at the end
		case b[1] != ':':
			b = b[1:]
		case gap >= 0:
			return netip.Addr{}, false
		default:
			gap, b = at, b[2:]
		}
	}
	switch {
	case gap >= 0 && at < 16:
		n := copy(a[16-(at-gap):], a[gap:at])
		clear(a[gap : 16-n])
	case gap >= 0 || at != 16:
		return netip.Addr{}, false
	}
	return netip.AddrFrom16(a), true
}

func parseGroup(b []byte) (g int, ok bool) {
	if len(b) == 0 || len(b) > 4 {
		return 0, false
	}
	for _, c := range b {
		v := unhex(c)
		if v < 0 {
			return 0, false
		}
		g = g<<4 | v
	}
	return g, true
}

func parseV4(b []byte) (a [4]byte, ok bool) {
	i := 0
	for k := range a {
		start, n := i, 0
		for i < len(b) && b[i] >= '0' && b[i] <= '9' && i-start < 3 {
			n = n*10 + int(b[i]-'0')
			i++
		}
		if i == start || n > 255 || i-start > 1 && b[start] == '0' {
			return a, false
		}
		a[k] = byte(n)
		if k < 3 {
			if i >= len(b) || b[i] != '.' {
				return a, false
			}
			i++
		}
	}
	return a, i == len(b)
}
