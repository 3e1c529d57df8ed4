// SPDX-License-Identifier: Apache-2.0

package match

import (
	"bytes"

	"sidecar/dataplane/httpmsg"
)

// Cookie is a compiled envoy.config.route.v3.CookieMatcher. Immutable; Match allocates nothing.
type Cookie struct {
	Name   string
	Str    String
	Invert bool
}

// Match reports whether the head fulfils the matcher. The first cookie of that name in any cookie field counts. Other than for headers, an
// inverted matcher holds when the cookie is missing.
func (m *Cookie) Match(h *httpmsg.Head) bool {
	v, ok := CookieValue(h, m.Name)
	return (ok && m.Str.Match(v)) != m.Invert
}

// CookieValue returns the value of the first cookie with that name, without the double quotes around it.
func CookieValue(h *httpmsg.Head, name string) ([]byte, bool) {
	for i := h.Find(httpmsg.IDCookie, 0); i >= 0; i = h.Find(httpmsg.IDCookie, i+1) {
		line := h.Value(i)
		for len(line) > 0 {
			part := line
			if end := bytes.IndexByte(line, ';'); end >= 0 {
				part, line = line[:end], line[end+1:]
			} else {
				line = nil
			}
			eq := bytes.IndexByte(part, '=')
			if eq < 0 {
				continue
			}
			key := part[:eq]
			for len(key) > 0 && key[0] == ' ' {
				key = key[1:]
			}
			if string(key) != name {
				continue
			}
			v := part[eq+1:]
			if len(v) >= 2 && v[0] == '"' && v[len(v)-1] == '"' {
				v = v[1 : len(v)-1]
			}
			return v, true
		}
	}
	return nil, false
}
