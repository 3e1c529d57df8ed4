// SPDX-License-Identifier: Apache-2.0

package match

import "bytes"

// Query is a compiled envoy.config.route.v3.QueryParameterMatcher. Immutable; Match allocates nothing.
type Query struct {
	Name string // compared byte for byte, not decoded
	// Present: any value will do (present_match true or no specifier). Absent: present_match false.
	Present, Absent bool
	Str             String
}

// Match reports whether the path (with its query) fulfils the matcher. The first of several parameters of that name counts; neither names nor
// values are percent-decoded.
func (m *Query) Match(path []byte) bool {
	v, ok := QueryParam(path, m.Name)
	switch {
	case m.Absent:
		return !ok
	case !ok || m.Present:
		return ok
	}
	return m.Str.Match(v)
}

// QueryParam returns the value, not percent-decoded, of the first parameter with that name in the query of path.
func QueryParam(path []byte, name string) ([]byte, bool) {
	i := bytes.IndexByte(path, '?')
	if i < 0 {
		return nil, false
	}
	q := path[i+1:]
	for {
		part := q
		end := bytes.IndexByte(q, '&')
		if end >= 0 {
			part = q[:end]
		}
		key, val := part, []byte(nil)
		if eq := bytes.IndexByte(part, '='); eq >= 0 {
			key, val = part[:eq], part[eq+1:]
		}
		if string(key) == name {
			return val, true
		}
		if end < 0 {
			return nil, false
		}
		q = q[end+1:]
	}
}
