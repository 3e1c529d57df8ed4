// SPDX-License-Identifier: Apache-2.0

package httpmsg

import (
	"net/netip"
	"strings"
	"testing"
)

func headWithPath(p string) *Head {
	h := new(Head)
	h.Reset(new(Arena))
	h.SetPath([]byte(p))
	return h
}

func TestCleanPath_WhenNormalizing_ThenAsEnvoy(t *testing.T) {
	for _, c := range [][2]string{
		{"/", "/"}, {"/a", "/a"}, {"/a/", "/a/"}, {"/a/./b", "/a/b"}, {"/a/../b", "/b"}, {"/a/..", "/"}, {"/..", "/"}, {"/../../x", "/x"},
		{"/a/.", "/a/"}, {"/a/b/../c/./d", "/a/c/d"}, {"/a/...", "/a/..."}, {"/a/.b", "/a/.b"}, {"/a/..b", "/a/..b"}, {"/a./b", "/a./b"},
		{"/a/%2e%2e/b", "/b"}, {"/a/.%2E/b", "/b"}, {"/a/%2e/b", "/a/b"}, {"/%7Euser", "/~user"}, {"/%41%2d%5f", "/A-_"},
		{"/%3a%2F%2f", "/%3a%2F%2f"}, {"/a\\b", "/a/b"}, {"/a\\..\\b", "/b"}, {"/%", "/%"}, {"/%zz", "/%zz"}, {"/%4", "/%4"}, {"/%252e", "/%252e"},
		{"/a?b/../c", "/a?b/../c"}, {"/a/..?x=%2e", "/?x=%2e"}, {"/a//../b", "/a/b"}, {"//a", "//a"}, {"/\"<", "/%22%3C"}, {"/%5c", "/%5c"},
		{"/a/%2E", "/a/"}, {"/%%370", "/%2570"}, {"/%4%31", "/%2541"}, {"/%x%31", "/%x1"}, {"/%%37%30", "/%2570"}, {"/%%37", "/%7"},
		{"/a|b^", "/a%7Cb%5E"}, {"/a;x=/../b", "/b"}, {"/a/..;/b", "/a/..;/b"}, {"/%2e%2e%2fx", "/..%2fx"},
	} {
		h := headWithPath(c[0])
		if v := h.CleanPath(&PathOptions{Normalize: true}); v != PathOK || string(h.Path()) != c[1] {
			t.Errorf("%q: verdict %d, path %q, want %q", c[0], v, h.Path(), c[1])
		}
	}
	for _, p := range []string{"/%00", "/a#b", "/a/\x00", "/a?b#c"} {
		if v := headWithPath(p).CleanPath(&PathOptions{Normalize: true}); v != PathRejected {
			t.Errorf("%q was not rejected", p)
		}
	}
}

func TestCleanPath_WhenSlashOptionsAreSet_ThenApplied(t *testing.T) {
	for _, c := range []struct {
		in, want string
		o        PathOptions
		v        PathVerdict
	}{
		{"/a%2fb", "/a%2fb", PathOptions{EscapedSlashes: SlashKeep}, PathOK},
		{"/a%2fb", "/a/b", PathOptions{EscapedSlashes: SlashReject}, PathRejected},
		{"/a%5Cb", "/a\\b", PathOptions{EscapedSlashes: SlashReject}, PathRejected},
		{"/a?b=%2f", "/a?b=%2f", PathOptions{EscapedSlashes: SlashReject}, PathOK},
		{"/a%2Fb%5cc?%2f", "/a/b\\c?%2f", PathOptions{EscapedSlashes: SlashUnescapeRedirect}, PathRedirect},
		{"/a%2F..%2fb", "/b", PathOptions{EscapedSlashes: SlashUnescapeForward, Normalize: true}, PathOK},
		{"//a///b//?//", "/a/b/?//", PathOptions{MergeSlashes: true}, PathOK},
		{"/a%2F/b", "/a/b", PathOptions{EscapedSlashes: SlashUnescapeForward, MergeSlashes: true}, PathOK},
		{"/a#b?c", "/a", PathOptions{StripFragment: true}, PathOK},
	} {
		h := headWithPath(c.in)
		if v := h.CleanPath(&c.o); v != c.v || string(h.Path()) != c.want {
			t.Errorf("%q %+v: verdict %d, path %q, want %d %q", c.in, c.o, v, h.Path(), c.v, c.want)
		}
	}
}

func FuzzNormalPath(f *testing.F) {
	f.Add([]byte("/a/%2e%2E/b\\c/./?x"))
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) == 0 || p[0] != '/' {
			return
		}
		b, ok := AppendNormalPath(nil, p)
		if !ok {
			return
		}
		path, _, _ := strings.Cut(string(b), "?")
		if path == "" || path[0] != '/' {
			t.Fatalf("%q became %q", p, b)
		}
		for _, seg := range strings.Split(path, "/") {
			if seg == "." || seg == ".." || strings.EqualFold(seg, "%2e") || strings.EqualFold(seg, "%2e%2e") {
				t.Fatalf("%q became %q, which has a dot segment", p, b)
			}
		}
		again, ok := AppendNormalPath(nil, b)
		if !ok || string(again) != string(b) {
			t.Fatalf("%q became %q and then %q", p, b, again)
		}
		if isNormal(p) && string(b) != string(p) {
			t.Fatalf("%q counts as normal but becomes %q", p, b)
		}
	})
}

func TestQueryParam(t *testing.T) {
	for _, c := range []struct {
		path, name, want string
		ok               bool
	}{
		{"/?a=1&b=2", "b", "2", true}, {"/?a=1&a=2", "a", "1", true}, {"/?a", "a", "", true}, {"/?a=", "a", "", true}, {"/?b=1;a=2", "a", "", false},
		{"/?%61=1", "a", "", false}, {"/a=1", "a", "", false}, {"/?a=b=c", "a", "b=c", true}, {"/?&&a=x", "a", "x", true}, {"/?a=1#b", "a", "1", true},
	} {
		if v, ok := QueryParam([]byte(c.path), c.name); string(v) != c.want || ok != c.ok {
			t.Errorf("%q %q: %q %v", c.path, c.name, v, ok)
		}
	}
	if got := string(AppendDecoded(nil, []byte("%76%zz+%2"))); got != "v%zz+%2" {
		t.Errorf("decoded %q", got)
	}
}

func TestCookie_WhenRepeatedOrQuoted_ThenFirstUnquoted(t *testing.T) {
	h := headWithPath("/")
	h.AddString(IDCookie.Key(), "a=1; b=\"two\";c = 3; novalue; a=9")
	h.AddString(IDCookie.Key(), "d=4; b=5; E=6; q=\"")
	for name, want := range map[string]string{"a": "1", "b": "two", "d": "4", "E": "6", "q": "\""} {
		if v, ok := h.Cookie(name); !ok || string(v) != want {
			t.Errorf("%s: %q %v", name, v, ok)
		}
	}
	for _, name := range []string{"A", "novalue", "e", ""} {
		if v, ok := h.Cookie(name); ok {
			t.Errorf("%s: %q", name, v)
		}
	}
}

func TestForwardedFor_WhenSeveralFields_ThenOneList(t *testing.T) {
	h := headWithPath("/")
	h.AddString(IDForwardedFor.Key(), "1.1.1.1, 2.2.2.2")
	h.AddString(IDForwardedFor.Key(), "3.3.3.3 ,,4.4.4.4")
	for skip, want := range []string{"4.4.4.4", "", "3.3.3.3", "2.2.2.2", "1.1.1.1"} {
		if v, n, ok := h.ForwardedFor(skip); !ok || n != 5 || string(v) != want {
			t.Errorf("skip %d: %q %d %v", skip, v, n, ok)
		}
	}
	if _, n, ok := h.ForwardedFor(5); ok || n != 5 {
		t.Errorf("skip 5: %d %v", n, ok)
	}
}

func TestParseAddr_WhenComparedWithNetip_ThenEqual(t *testing.T) {
	for _, s := range []string{"1.2.3.4", "255.255.255.255", "256.1.1.1", "01.2.3.4", "1.2.3", "1.2.3.4.5", "", "::", "::1", "1::", "1::2", "1:2:3:4:5:6:7:8",
		"1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "1::2::3", "::ffff:1.2.3.4", "::1.2.3.4", "1:2:3:4:5:6:1.2.3.4", "1:2:3:4:5:6:7:1.2.3.4", "fe80::1", "12345::",
		":1", "1:", ":::", "1:::2", "g::", "::g", "1:2:3:4:5:6:7::", "::2:3:4:5:6:7:8", "1::3:4:5:6:7:8", "1.2.3.4:5", "0:0:0:0:0:0:0:0"} {
		checkAddr(t, s)
	}
}

func checkAddr(t *testing.T, s string) {
	want, err := netip.ParseAddr(s)
	got, ok := ParseAddr([]byte(s))
	if ok != (err == nil) || ok && got != want {
		t.Errorf("%q: %v %v, want %v %v", s, got, ok, want, err)
	}
}

func FuzzParseAddr(f *testing.F) {
	f.Add("2001:db8::1:1.2.3.4")
	f.Fuzz(func(t *testing.T, s string) {
		if !strings.Contains(s, "%") {
			checkAddr(t, s)
		}
	})
}

func TestAuthority(t *testing.T) {
	for s, want := range map[string]bool{"a": true, "a.b:80": true, "a:": true, "[::1]": true, "[::1]:8080": true, "": false, ":80": false, "a:b": false,
		"a:65536": false, "a:65535": true, "u@a": false, "a/b": false, "a b": false, "[::1": false, "[]": false, "[::1]x": false, "a:80:80": false, "a%41": true,
		"a\x00": false, "a\\b": false, "::1": false} {
		if got := ValidAuthority([]byte(s), false); got != want {
			t.Errorf("%q: %v", s, got)
		}
	}
	for s, want := range map[string]string{"a": "a", "a:80": "a", "[::1]:80": "[::1]", "[::1]": "[::1]", "::1": "::1", "a:abc": "a", "": ""} {
		if got := StripPort([]byte(s)); string(got) != want {
			t.Errorf("%q: %q", s, got)
		}
	}
}

func TestAllocs_WhenPathIsClean_ThenNone(t *testing.T) {
	h := headWithPath("/a/b/../c%2fd?q=1")
	h.AddString(IDCookie.Key(), "a=1; b=2")
	o := &PathOptions{Normalize: true, MergeSlashes: true, EscapedSlashes: SlashUnescapeForward}
	target, n := h.Target, h.A.Len()
	if got := testing.AllocsPerRun(100, func() {
		h.A.Truncate(n)
		h.Target = target
		h.CleanPath(o)
		h.Cookie("b")
		QueryParam(h.Path(), "q")
		ParseAddr([]byte("2001:db8::1"))
	}); got != 0 {
		t.Errorf("%v allocations", got)
	}
}
