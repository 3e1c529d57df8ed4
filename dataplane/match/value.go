// SPDX-License-Identifier: Apache-2.0

package match

// ValueKind is the kind of a Value matcher.
type ValueKind uint8

// The kinds of envoy.type.matcher.v3.ValueMatcher.
const (
	ValueNull ValueKind = iota
	ValueDoubleRange
	ValueDoubleExact
	ValueString
	ValueBool
	ValuePresent
	ValueListOneOf
	ValueOr
)

// ValueMatcher is a compiled envoy.type.matcher.v3.ValueMatcher over plain values (nil, float64, string, bool, []any, map[string]any).
// Immutable.
type ValueMatcher struct {
	Kind       ValueKind
	Start, End float64 // double range [Start, End), or Start exactly
	Str        String
	Want       bool           // bool_match, present_match
	Sub        []ValueMatcher // list_match one_of (one), or_match
}

// Match reports whether v matches; ok is false when there is no value at all.
func (m *ValueMatcher) Match(v any, ok bool) bool {
	switch m.Kind {
	case ValueNull:
		return ok && v == nil
	case ValueDoubleRange:
		n, is := v.(float64)
		return is && n >= m.Start && n < m.End
	case ValueDoubleExact:
		n, is := v.(float64)
		return is && n == m.Start
	case ValueString:
		s, is := v.(string)
		return is && m.Str.MatchString(s)
	case ValueBool:
		b, is := v.(bool)
		return is && b == m.Want
	case ValuePresent:
		return ok && v != nil && m.Want
	case ValueListOneOf:
		l, is := v.([]any)
		if !is {
			return false
		}
		for _, e := range l {
			if m.Sub[0].Match(e, true) {
				return true
			}
		}
		return false
	case ValueOr:
		for i := range m.Sub {
			if m.Sub[i].Match(v, ok) {
				return true
			}
		}
	}
	return false
}

// Metadata is a compiled envoy.type.matcher.v3.MetadataMatcher. Immutable.
type Metadata struct {
	Namespace string // filter
	Path      []string
	Value     ValueMatcher
	Invert    bool
}

// Match reports whether filter metadata (by namespace, nested plain values) fulfils the matcher.
func (m *Metadata) Match(md map[string]any) bool {
	v, ok := md[m.Namespace]
	for _, key := range m.Path {
		inner, is := v.(map[string]any)
		if !is {
			v, ok = nil, false
			break
		}
		v, ok = inner[key]
	}
	return m.Value.Match(v, ok) != m.Invert
}

// FilterState is a compiled envoy.type.matcher.v3.FilterStateMatcher with string_match. Immutable.
type FilterState struct {
	Key string
	Str String
}

// Match reports whether the filter state fulfils the matcher.
func (m *FilterState) Match(fs map[string]string) bool {
	v, ok := fs[m.Key]
	return ok && m.Str.MatchString(v)
}
