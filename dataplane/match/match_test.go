// SPDX-License-Identifier: Apache-2.0

package match

import (
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"sidecar/dataplane/httpmsg"
)

// TestXXHash64_WhenInputsAreKnown_ThenSumsAreThePublishedOnes.
func TestXXHash64_WhenInputsAreKnown_ThenSumsAreThePublishedOnes(t *testing.T) {
	for _, tc := range []struct {
		in   string
		want uint64
	}{
		{"", 0xef46db3751d8e999},
		{"a", 0xd24ec4f1a98c6e5b},
		{"as", 0x1c330fb2d66be179},
		{"asd", 0x631c37ce72a97393},
		{"asdf", 0x415872f599cea71e},
		// 63 bytes: all of the lanes and the tail.
		{"Call me Ishmael. Some years ago--never mind how long precisely-", 0x02a2e85470d6fd96},
	} {
		if got := XXHash64([]byte(tc.in), 0); got != tc.want {
			t.Errorf("%q: %#x, want %#x", tc.in, got, tc.want)
		}
	}
	if XXHash64([]byte("a"), 1) == XXHash64([]byte("a"), 0) {
		t.Error("the seed has no effect")
	}
}

func TestRegex_WhenTextIsGiven_ThenTheWholeMustMatchAsInRE2(t *testing.T) {
	for _, tc := range []struct {
		re, text string
		want     bool
	}{
		{"/a", "/a", true}, {"/a", "/ab", false}, {"/a.*", "/abc", true}, {"/a.+", "/a", false}, {"/a.+", "/ab", true}, {".*", "", true},
		{"a|ab", "ab", true}, {"(?i)/AB", "/ab", true}, {"^/a$", "/a", true}, {"/a.*", "/a\nb", false}, {"(?s)/a.*", "/a\nb", true},
		{"/a.*", "/a\xff", false}, {".*", "é", true}, {"[^/]+", "\xe9", false}, {".*b", "aab", true}, {".*b", "aac", false}, {"x{2,3}", "xxxx", false},
		{"(?:/x)+y", "/x/xy", true}, {"", "", true},
	} {
		r, err := CompileRegex(tc.re)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.MatchString(tc.text); got != tc.want {
			t.Errorf("%q on %q: %v", tc.re, tc.text, got)
		}
	}
	for re, want := range map[string]string{"(a": "missing ): (a", "[a": "missing ]: [a", "a)": "unexpected ): a)", "*a": "no argument for repetition operator: *",
		strings.Repeat("a", maxRegex+1): "regular expression is longer than 16384 bytes"} {
		if _, err := CompileRegex(re); err == nil || err.Error() != want {
			t.Errorf("%.20q: %v, want %q", re, err, want)
		}
	}
}

// FuzzRegex: the shortcuts before the automaton never change the answer, and nothing that matches lacks the literal prefix.
func FuzzRegex(f *testing.F) {
	for _, s := range []string{"/a.*|/a", "/a(b|c)+d|/abd", "(?i)k.*|K", "^x+y$|xxy", "a.+|a\xff", "\\/a|/a"} {
		re, text, _ := strings.Cut(s, "|/")
		f.Add(re, text)
	}
	f.Fuzz(func(t *testing.T, re, text string) {
		r, err := CompileRegex(re)
		if err != nil {
			return
		}
		want := utf8.ValidString(text) && regexp.MustCompile(`\A(?:`+re+`)\z`).MatchString(text)
		if got := r.MatchString(text); got != want {
			t.Fatalf("%q on %q: got %v, want %v", re, text, got, want)
		}
		if want && !strings.HasPrefix(text, r.LiteralPrefix()) {
			t.Fatalf("%q matches %q without its prefix %q", re, text, r.LiteralPrefix())
		}
	})
}

func TestReplaceAll_WhenGroupsAreNamed_ThenTheyAreFilledIn(t *testing.T) {
	for _, tc := range []struct{ re, subst, in, want string }{
		{"^/(.+)/.+$", `\1`, "/envoy.io/some/path", "envoy.io/some"}, {"one", "two", "/xxx/one/yyy/one/zzz", "/xxx/two/yyy/two/zzz"},
		{"^(.*?)one(.*)$", `\1two\2`, "/xxx/one/yyy/one", "/xxx/two/yyy/one"}, {"(/)(a)", `\2\1\0\\`, "/a", `a//a\`}, {"x*", "-", "ab", "-a-b-"},
	} {
		r, err := CompileRegex(tc.re)
		if err != nil || r.CheckSubst(tc.subst) != "" {
			t.Fatal(err, r.CheckSubst(tc.subst))
		}
		if got := string(r.AppendReplaceAll([]byte("<"), []byte(tc.in), tc.subst)); got != "<"+tc.want {
			t.Errorf("%q %q on %q: %q, want %q", tc.re, tc.subst, tc.in, got, tc.want)
		}
	}
	r, _ := CompileRegex("(a)")
	for _, bad := range []string{`\2`, `\x`, `\`} {
		if r.CheckSubst(bad) == "" {
			t.Errorf("substitution %q passes", bad)
		}
	}
}

func head(pairs ...string) *httpmsg.Head {
	h := &httpmsg.Head{}
	h.Reset(&httpmsg.Arena{})
	h.SetPath([]byte("/p?k=v&k=w&e="))
	h.SetHost([]byte("h.test"))
	for i := 0; i < len(pairs); i += 2 {
		h.AddString(httpmsg.KeyOf(pairs[i]), pairs[i+1])
	}
	return h
}

func TestValueMatcher_WhenMetadataIsGiven_ThenItIsLookedUpByPath(t *testing.T) {
	md := map[string]any{"f": map[string]any{"a": map[string]any{"s": "x", "n": 5.0, "b": true, "l": []any{"y", "x"}, "z": nil}}}
	exact := ValueMatcher{Kind: ValueString, Str: NewString(StringExact, "x", false)}
	for _, tc := range []struct {
		key    string
		m      ValueMatcher
		invert bool
		want   bool
	}{
		{"s", exact, false, true}, {"n", exact, false, false}, {"s", exact, true, false}, {"missing", exact, true, true},
		{"n", ValueMatcher{Kind: ValueDoubleRange, Start: 5, End: 6}, false, true}, {"n", ValueMatcher{Kind: ValueDoubleExact, Start: 4}, false, false},
		{"b", ValueMatcher{Kind: ValueBool, Want: true}, false, true}, {"z", ValueMatcher{Kind: ValueNull}, false, true},
		{"missing", ValueMatcher{Kind: ValueNull}, false, false}, {"s", ValueMatcher{Kind: ValuePresent, Want: true}, false, true},
		{"l", ValueMatcher{Kind: ValueListOneOf, Sub: []ValueMatcher{exact}}, false, true},
		{"s", ValueMatcher{Kind: ValueOr, Sub: []ValueMatcher{{Kind: ValueNull}, exact}}, false, true},
	} {
		m := Metadata{Namespace: "f", Path: []string{"a", tc.key}, Value: tc.m, Invert: tc.invert}
		if got := m.Match(md); got != tc.want {
			t.Errorf("%s %+v: %v", tc.key, tc.m, got)
		}
		if m.Match(nil) != tc.invert {
			t.Errorf("%s: without metadata", tc.key)
		}
	}
}

func TestMatchers_WhenTheyRun_ThenNothingIsAllocated(t *testing.T) {
	h := head("x-h", "v1", "x-h", "v2", "cookie", `a=b; k="v"`, "n", "-5")
	re, _ := CompileRegex("v[0-9]+x?")
	str, rng := NewHeader("x-h"), NewHeader("n")
	str.Kind, str.Str = HeaderString, String{Kind: StringRegex, Regex: re}
	rng.Kind, rng.Start, rng.End = HeaderRange, -10, 0
	low := NewString(StringContains, "2", true)
	ck := Cookie{Name: "k", Str: NewString(StringExact, "v", false)}
	qp := Query{Name: "k", Str: NewString(StringPrefix, "v", false)}
	prefixes := Prefixes{netip.MustParsePrefix("10.0.0.0/8")}
	ip := netip.MustParseAddr("::ffff:10.1.2.3")
	ok := true
	if n := testing.AllocsPerRun(200, func() {
		ok = ok && str.Match(h) && rng.Match(h) && low.Match(h.Value(1)) && ck.Match(h) && qp.Match(h.Path()) && prefixes.Contains(ip)
	}); n != 0 || !ok {
		t.Errorf("%v allocations, all matched: %v", n, ok)
	}
}
