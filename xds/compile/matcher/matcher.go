// SPDX-License-Identifier: Apache-2.0

// Package matcher compiles Envoy's matcher messages (string, regex, header, query parameter, cookie, value, metadata, filter state, runtime
// fraction, CIDR range) to the plain matchers of dataplane/match. It checks every field of these messages by itself, so field tables may mark
// them Whole. Errors carry the field path; a nil or empty message is an error and never a panic.
package matcher

import (
	"math"
	"net/netip"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"sidecar/dataplane/match"
	"sidecar/xds/registry"
)

// Regex compiles a RegexMatcher. max_program_size is RE2's own measure and cannot be taken here: it is warned about.
func Regex(c *registry.Ctx, field registry.Path, m *matcherv3.RegexMatcher) (*match.Regex, error) {
	if m.GetRegex() == "" {
		return nil, c.Errorf(field.Field("regex"), "value length must be at least 1 characters")
	}
	if m.GetGoogleRe2().GetMaxProgramSize() != nil {
		c.Warnf(field.Field("google_re2.max_program_size"), "the size of the compiled expression is not limited by RE2's measure")
	}
	r, err := match.CompileRegex(m.GetRegex())
	if err != nil {
		return nil, c.Errorf(field.Field("regex"), "%w", err)
	}
	return r, nil
}

// Substitute compiles a RegexMatchAndSubstitute. A substitution that RE2 would fail on at run time is refused.
func Substitute(c *registry.Ctx, field registry.Path, m *matcherv3.RegexMatchAndSubstitute) (*match.Regex, string, error) {
	if m.GetPattern() == nil {
		return nil, "", c.Errorf(field.Field("pattern"), "value is required")
	}
	r, err := Regex(c, field.Field("pattern"), m.GetPattern())
	if err != nil {
		return nil, "", err
	}
	if why := r.CheckSubst(m.GetSubstitution()); why != "" {
		return nil, "", c.Errorf(field.Field("substitution"), "%s", why)
	}
	return r, m.GetSubstitution(), nil
}

// String compiles a StringMatcher.
func String(c *registry.Ctx, field registry.Path, m *matcherv3.StringMatcher) (match.String, error) {
	kind, text := match.StringAny, ""
	switch p := m.GetMatchPattern().(type) {
	case *matcherv3.StringMatcher_Exact:
		return match.NewString(match.StringExact, p.Exact, m.GetIgnoreCase()), nil
	case *matcherv3.StringMatcher_Prefix:
		kind, text = match.StringPrefix, p.Prefix
	case *matcherv3.StringMatcher_Suffix:
		kind, text = match.StringSuffix, p.Suffix
	case *matcherv3.StringMatcher_Contains:
		kind, text = match.StringContains, p.Contains
	case *matcherv3.StringMatcher_SafeRegex:
		if m.GetIgnoreCase() {
			return match.String{}, c.Errorf(field.Field("ignore_case"), "ignore_case has no effect for safe_regex")
		}
		r, err := Regex(c, field.Field("safe_regex"), p.SafeRegex)
		return match.String{Kind: match.StringRegex, Regex: r}, err
	case *matcherv3.StringMatcher_Custom:
		return match.String{}, c.Errorf(field.Field("custom"), "custom string matchers are not supported")
	default:
		return match.String{}, c.Errorf(field.Field("match_pattern"), "is required")
	}
	if text == "" {
		return match.String{}, c.Errorf(field, "value length must be at least 1 characters")
	}
	return match.NewString(kind, text, m.GetIgnoreCase()), nil
}

// Header compiles a HeaderMatcher. No specifier means that the header must be present.
func Header(c *registry.Ctx, field registry.Path, m *routev3.HeaderMatcher) (match.Header, error) {
	if m.GetName() == "" {
		return match.Header{}, c.Errorf(field.Field("name"), "value length must be at least 1 characters")
	}
	h := match.NewHeader(m.GetName())
	h.Invert, h.MissingAsEmpty = m.GetInvertMatch(), m.GetTreatMissingHeaderAsEmpty()
	h.Kind = match.HeaderString
	var err error
	text := func(kind match.StringKind, s string) { h.Str = match.NewString(kind, s, false) }
	switch s := m.GetHeaderMatchSpecifier().(type) {
	case nil:
		h.Kind = match.HeaderPresent
	case *routev3.HeaderMatcher_PresentMatch:
		h.Kind, h.Want = match.HeaderPresent, s.PresentMatch
	case *routev3.HeaderMatcher_StringMatch:
		h.Str, err = String(c, field.Field("string_match"), s.StringMatch)
	case *routev3.HeaderMatcher_SafeRegexMatch:
		h.Str.Kind = match.StringRegex
		h.Str.Regex, err = Regex(c, field.Field("safe_regex_match"), s.SafeRegexMatch)
	case *routev3.HeaderMatcher_RangeMatch:
		h.Kind, h.Start, h.End = match.HeaderRange, s.RangeMatch.GetStart(), s.RangeMatch.GetEnd()
	case *routev3.HeaderMatcher_ExactMatch:
		// The deprecated field cannot ask for an empty value; in Envoy empty text matches any value.
		if s.ExactMatch != "" {
			text(match.StringExact, s.ExactMatch)
		}
	case *routev3.HeaderMatcher_PrefixMatch:
		text(match.StringPrefix, s.PrefixMatch)
	case *routev3.HeaderMatcher_SuffixMatch:
		text(match.StringSuffix, s.SuffixMatch)
	case *routev3.HeaderMatcher_ContainsMatch:
		text(match.StringContains, s.ContainsMatch)
	default:
		err = c.Errorf(field, "unknown header match specifier")
	}
	return h, err
}

// Query compiles a QueryParameterMatcher. No specifier means that the parameter must be present.
func Query(c *registry.Ctx, field registry.Path, m *routev3.QueryParameterMatcher) (match.Query, error) {
	if m.GetName() == "" {
		return match.Query{}, c.Errorf(field.Field("name"), "value length must be at least 1 characters")
	}
	q := match.Query{Name: m.GetName()}
	var err error
	switch s := m.GetQueryParameterMatchSpecifier().(type) {
	case nil:
		q.Present = true
	case *routev3.QueryParameterMatcher_PresentMatch:
		q.Present, q.Absent = s.PresentMatch, !s.PresentMatch
	case *routev3.QueryParameterMatcher_StringMatch:
		q.Str, err = String(c, field.Field("string_match"), s.StringMatch)
	default:
		err = c.Errorf(field, "unknown query parameter match specifier")
	}
	return q, err
}

// Cookie compiles a CookieMatcher.
func Cookie(c *registry.Ctx, field registry.Path, m *routev3.CookieMatcher) (match.Cookie, error) {
	if m.GetName() == "" {
		return match.Cookie{}, c.Errorf(field.Field("name"), "value length must be at least 1 characters")
	}
	s, err := String(c, field.Field("string_match"), m.GetStringMatch())
	return match.Cookie{Name: m.GetName(), Str: s, Invert: m.GetInvertMatch()}, err
}

// maxValueDepth bounds the nesting of ValueMatcher.
const maxValueDepth = 16

// Value compiles a ValueMatcher.
func Value(c *registry.Ctx, field registry.Path, m *matcherv3.ValueMatcher) (match.ValueMatcher, error) {
	return value(c, field, m, 0)
}

func value(c *registry.Ctx, field registry.Path, m *matcherv3.ValueMatcher, depth int) (match.ValueMatcher, error) {
	var v match.ValueMatcher
	if depth > maxValueDepth {
		return v, c.Errorf(field, "nested too deeply (limit %d)", maxValueDepth)
	}
	var err error
	switch p := m.GetMatchPattern().(type) {
	case *matcherv3.ValueMatcher_NullMatch_:
		v.Kind = match.ValueNull
	case *matcherv3.ValueMatcher_DoubleMatch:
		switch d := p.DoubleMatch.GetMatchPattern().(type) {
		case *matcherv3.DoubleMatcher_Range:
			v.Kind, v.Start, v.End = match.ValueDoubleRange, d.Range.GetStart(), d.Range.GetEnd()
		case *matcherv3.DoubleMatcher_Exact:
			v.Kind, v.Start = match.ValueDoubleExact, d.Exact
		default:
			err = c.Errorf(field.Field("double_match.match_pattern"), "is required")
		}
		if math.IsNaN(v.Start) || math.IsNaN(v.End) {
			err = c.Errorf(field.Field("double_match"), "is not a number")
		}
	case *matcherv3.ValueMatcher_StringMatch:
		v.Kind = match.ValueString
		v.Str, err = String(c, field.Field("string_match"), p.StringMatch)
	case *matcherv3.ValueMatcher_BoolMatch:
		v.Kind, v.Want = match.ValueBool, p.BoolMatch
	case *matcherv3.ValueMatcher_PresentMatch:
		v.Kind, v.Want = match.ValuePresent, p.PresentMatch
	case *matcherv3.ValueMatcher_ListMatch:
		v.Kind = match.ValueListOneOf
		if p.ListMatch.GetOneOf() == nil {
			return v, c.Errorf(field.Field("list_match"), "one_of is required")
		}
		var sub match.ValueMatcher
		sub, err = value(c, field.Field("list_match.one_of"), p.ListMatch.GetOneOf(), depth+1)
		v.Sub = []match.ValueMatcher{sub}
	case *matcherv3.ValueMatcher_OrMatch:
		v.Kind = match.ValueOr
		for i, o := range p.OrMatch.GetValueMatchers() {
			sub, serr := value(c, field.Field("or_match").Index("value_matchers", i), o, depth+1)
			if serr != nil {
				return v, serr
			}
			v.Sub = append(v.Sub, sub)
		}
	default:
		err = c.Errorf(field.Field("match_pattern"), "is required")
	}
	return v, err
}

// Metadata compiles a MetadataMatcher.
func Metadata(c *registry.Ctx, field registry.Path, m *matcherv3.MetadataMatcher) (match.Metadata, error) {
	out := match.Metadata{Namespace: m.GetFilter(), Invert: m.GetInvert()}
	if len(m.GetPath()) == 0 {
		return out, c.Errorf(field.Field("path"), "value must contain at least 1 item(s)")
	}
	for _, s := range m.GetPath() {
		out.Path = append(out.Path, s.GetKey())
	}
	var err error
	out.Value, err = Value(c, field.Field("value"), m.GetValue())
	return out, err
}

// FilterState compiles a FilterStateMatcher with string_match.
func FilterState(c *registry.Ctx, field registry.Path, m *matcherv3.FilterStateMatcher) (match.FilterState, error) {
	out := match.FilterState{Key: m.GetKey()}
	if m.GetAddressMatch() != nil {
		return out, c.Errorf(field.Field("address_match"), "address matches of filter state are not supported")
	}
	var err error
	out.Str, err = String(c, field.Field("string_match"), m.GetStringMatch())
	return out, err
}

// Fraction compiles a FractionalPercent; nil is none.
func Fraction(c *registry.Ctx, field registry.Path, m *typev3.FractionalPercent) (match.Fraction, error) {
	den := uint32(100)
	switch m.GetDenominator() {
	case typev3.FractionalPercent_HUNDRED:
	case typev3.FractionalPercent_TEN_THOUSAND:
		den = 10_000
	case typev3.FractionalPercent_MILLION:
		den = 1_000_000
	default:
		return match.Fraction{Num: 0, Den: 100}, c.Errorf(field.Field("denominator"), "value must be one of the defined enum values")
	}
	return match.Fraction{Num: m.GetNumerator(), Den: den}, nil
}

// RuntimeFraction compiles a RuntimeFractionalPercent.
func RuntimeFraction(c *registry.Ctx, field registry.Path, m *corev3.RuntimeFractionalPercent) (*match.RuntimeFraction, error) {
	if m.GetDefaultValue() == nil {
		return nil, c.Errorf(field.Field("default_value"), "value is required")
	}
	f, err := Fraction(c, field.Field("default_value"), m.GetDefaultValue())
	return &match.RuntimeFraction{Default: f, Key: m.GetRuntimeKey()}, err
}

// CIDRs compiles a list of CidrRange, the repeated field name below c. Bits behind the prefix length are cleared, as in Envoy.
func CIDRs(c *registry.Ctx, name string, list []*corev3.CidrRange) (match.Prefixes, error) {
	var out match.Prefixes
	for i, r := range list {
		at := registry.Path("").Index(name, i)
		ip, err := netip.ParseAddr(r.GetAddressPrefix())
		if err != nil || ip.Zone() != "" {
			return nil, c.Errorf(at.Field("address_prefix"), "malformed IP address: %s", r.GetAddressPrefix())
		}
		n := int(min(r.GetPrefixLen().GetValue(), 128))
		p, err := ip.Prefix(min(n, ip.BitLen()))
		if err != nil {
			return nil, c.Errorf(at.Field("prefix_len"), "is out of range")
		}
		out = append(out, p)
	}
	return out, nil
}
