// SPDX-License-Identifier: Apache-2.0

package route

import (
	"strings"
	"testing"

	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/match"
)

func scopeHead(host string, fields ...string) *httpmsg.Head {
	h := &httpmsg.Head{}
	h.Reset(&httpmsg.Arena{})
	h.SetHost([]byte(host))
	for i := 0; i < len(fields); i += 2 {
		h.AddString(httpmsg.KeyOf(fields[i]), fields[i+1])
	}
	return h
}

func fragment(name, sep string, index int) ScopeFragment {
	k := httpmsg.KeyOf(name)
	return ScopeFragment{Key: k, Pseudo: match.PseudoOf(k.Name), Separator: sep, Index: index}
}

func element(name, sep, kv, key string) ScopeFragment {
	f := fragment(name, sep, 0)
	f.KeySeparator, f.ElementKey = kv, key
	return f
}

func TestScopes_WhenARequestHasAKey_ThenItsScopeIsFound(t *testing.T) {
	s, err := NewScopes([]Scope{{"one", []string{"a"}, &TableRef{Name: "one"}, false}, {"two", []string{"a", "b"}, &TableRef{Name: "two"}, false},
		{"swapped", []string{"b", "a"}, &TableRef{Name: "swapped"}, false}, {"empty", []string{""}, &TableRef{Name: "empty"}, false}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name  string
		build []ScopeFragment
		head  *httpmsg.Head
		want  string
	}{
		{"host", []ScopeFragment{fragment("Host", "", 0)}, scopeHead("a"), "one"},
		{"other host", []ScopeFragment{fragment("host", "", 0)}, scopeHead("c"), ""},
		{"two fragments", []ScopeFragment{fragment("x", "", 0), fragment("y", "", 0)}, scopeHead("", "x", "a", "y", "b"), "two"},
		{"order counts", []ScopeFragment{fragment("x", "", 0), fragment("y", "", 0)}, scopeHead("", "x", "b", "y", "a"), "swapped"},
		{"one is missing", []ScopeFragment{fragment("x", "", 0), fragment("y", "", 0)}, scopeHead("", "x", "a"), ""},
		{"index", []ScopeFragment{fragment("x", ",", 2)}, scopeHead("", "x", "c,b,a"), "one"},
		{"index beyond", []ScopeFragment{fragment("x", ",", 3)}, scopeHead("", "x", "c,b,a"), ""},
		{"empty element", []ScopeFragment{fragment("x", ",", 1)}, scopeHead("", "x", "c,,a"), "empty"},
		{"long separator", []ScopeFragment{fragment("x", "::", 1)}, scopeHead("", "x", "c::a::"), "one"},
		{"first of two fields", []ScopeFragment{fragment("x", "", 0)}, scopeHead("", "x", "a", "x", "b"), "one"},
		{"element", []ScopeFragment{element("x", ";", "=", "k")}, scopeHead("", "x", "j=1;k=a;k=b"), "one"},
		{"element without value", []ScopeFragment{element("x", ";", "=", "k")}, scopeHead("", "x", "j=1;k"), "empty"},
		{"no such element", []ScopeFragment{element("x", ";", "=", "k")}, scopeHead("", "x", "j=1;kk=a"), ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := ""
			if r := s.Find(&ScopesRef{Builders: tc.build}, tc.head); r != nil {
				got = r.Name
			}
			if got != tc.want {
				t.Errorf("scope %q, want %q", got, tc.want)
			}
		})
	}
}

func TestScopes_WhenTwoHaveOneKey_ThenBothAreNamed(t *testing.T) {
	_, err := NewScopes([]Scope{{Name: "one", Key: []string{"a", "b"}}, {Name: "two", Key: []string{"a", "b"}}})
	if err == nil || !strings.Contains(err.Error(), "scope key conflict found, first scope is 'one', second scope is 'two'") {
		t.Error(err)
	}
}

func TestAllocsScopes(t *testing.T) {
	s, err := NewScopes([]Scope{{"two", []string{"a", "b"}, &TableRef{}, false}})
	if err != nil {
		t.Fatal(err)
	}
	ref := &ScopesRef{Builders: []ScopeFragment{element("x", ";", "=", "k"), fragment("host", "", 0)}}
	h := scopeHead("b", "x", "j=1;k=a")
	if n := testing.AllocsPerRun(100, func() {
		if s.Find(ref, h) == nil {
			t.Fatal("not found")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
