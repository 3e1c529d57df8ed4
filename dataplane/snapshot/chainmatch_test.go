// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func pfx(s ...string) (out []netip.Prefix) {
	for _, x := range s {
		out = append(out, netip.MustParsePrefix(x))
	}
	return out
}

func chain(name string, m ChainMatch) *FilterChain { return &FilterChain{Name: name, Match: m} }

// Destination port → destination address → server name → transport → application protocols → direct source → source type → source address → source
// port; the most specific branch at each step and no way back (envoy-behaviour 68).
func TestFind_WhenChainsCompete_ThenEnvoysOrderWithoutBacktracking(t *testing.T) {
	base := ChainInput{Dst: ap("10.0.0.1:443"), Src: ap("192.0.2.7:5000"), DirectSrc: ap("192.0.2.7:5000"), Transport: "raw_buffer"}
	with := func(f func(*ChainInput)) ChainInput { in := base; f(&in); return in }
	any := chain("any", ChainMatch{})
	for _, test := range []struct {
		name   string
		chains []*FilterChain
		in     ChainInput
		want   string
	}{
		{"nothing", nil, base, ""},
		{"catch-all", []*FilterChain{any}, base, "any"},
		{"port beats all", []*FilterChain{any, chain("port", ChainMatch{DestPort: 443}), chain("ip", ChainMatch{DestRanges: pfx("10.0.0.1/32")})}, base, "port"},
		{"other port", []*FilterChain{any, chain("port", ChainMatch{DestPort: 80})}, base, "any"},
		{"no way back from the port", []*FilterChain{any, chain("port", ChainMatch{DestPort: 443, SourcePorts: []uint16{1}})}, base, ""},
		{"longest destination", []*FilterChain{chain("8", ChainMatch{DestRanges: pfx("10.0.0.0/8")}), chain("32", ChainMatch{DestRanges: pfx("10.0.0.1/32")}),
			chain("24", ChainMatch{DestRanges: pfx("10.0.0.0/24")})}, base, "32"},
		{"no way back from the destination", []*FilterChain{chain("dst", ChainMatch{DestRanges: pfx("10.0.0.0/8"), SourceRanges: pfx("203.0.113.0/24")}),
			chain("src", ChainMatch{SourceRanges: pfx("192.0.2.0/24")})}, base, ""},
		{"v4-mapped destination", []*FilterChain{chain("v4", ChainMatch{DestRanges: pfx("10.0.0.0/8")})},
			with(func(in *ChainInput) { in.Dst = ap("[::ffff:10.0.0.1]:443") }), "v4"},
		{"exact name", sni(), with(func(in *ChainInput) { in.SNI = "a.wild.test" }), "exact"},
		{"one label", sni(), with(func(in *ChainInput) { in.SNI = "b.wild.test" }), "wild"},
		{"several labels", sni(), with(func(in *ChainInput) { in.SNI = "x.y.wild.test" }), "wild"},
		{"longer suffix", sni(), with(func(in *ChainInput) { in.SNI = "x.deep.wild.test" }), "deep"},
		{"not the bare domain", sni(), with(func(in *ChainInput) { in.SNI = "wild.test" }), "none"},
		{"no name", sni(), base, "none"},
		{"name beats protocol", []*FilterChain{chain("sni", ChainMatch{ServerNames: []string{"a.test"}}), chain("alpn", ChainMatch{ALPN: []string{"h2"}})},
			with(func(in *ChainInput) { in.SNI, in.ALPN = "a.test", []string{"h2"} }), "sni"},
		{"no way back from the name", []*FilterChain{chain("sni", ChainMatch{ServerNames: []string{"a.test"}, ALPN: []string{"h2"}}), any},
			with(func(in *ChainInput) { in.SNI = "a.test" }), ""},
		{"transport", []*FilterChain{chain("tls", ChainMatch{Transport: "tls"}), any}, with(func(in *ChainInput) { in.Transport = "tls" }), "tls"},
		{"other transport", []*FilterChain{chain("tls", ChainMatch{Transport: "tls"}), any}, base, "any"},
		{"first protocol that matches", []*FilterChain{chain("h1", ChainMatch{ALPN: []string{"http/1.1"}}), chain("h2", ChainMatch{ALPN: []string{"h2"}})},
			with(func(in *ChainInput) { in.ALPN = []string{"x", "h2", "http/1.1"} }), "h2"},
		{"protocol not offered", []*FilterChain{chain("h2", ChainMatch{ALPN: []string{"h2"}}), any}, base, "any"},
		{"direct source", []*FilterChain{chain("lb", ChainMatch{DirectSourceRanges: pfx("198.51.100.0/24")}), any},
			with(func(in *ChainInput) { in.DirectSrc = ap("198.51.100.9:1") }), "lb"},
		{"external", types(), base, "external"},
		{"loopback", types(), with(func(in *ChainInput) { in.Src = ap("127.0.0.1:9") }), "local"},
		{"another loopback address", types(), with(func(in *ChainInput) { in.Src = ap("127.0.0.2:9") }), "external"},
		{"the same address", types(), with(func(in *ChainInput) { in.Src = ap("10.0.0.1:9") }), "local"},
		{"any type", []*FilterChain{chain("local", ChainMatch{SourceType: 1}), any}, base, "any"},
		{"longest source", []*FilterChain{chain("net", ChainMatch{SourceRanges: pfx("192.0.2.0/24")}), chain("host", ChainMatch{SourceRanges: pfx("192.0.2.7/32")})}, base, "host"},
		{"source port", []*FilterChain{chain("port", ChainMatch{SourcePorts: []uint16{1, 5000}}), any}, base, "port"},
		{"other source port", []*FilterChain{chain("port", ChainMatch{SourcePorts: []uint16{1}}), any}, base, "any"},
		{"source address beats its port", []*FilterChain{chain("port", ChainMatch{SourcePorts: []uint16{5000}}), chain("ip", ChainMatch{SourceRanges: pfx("192.0.2.0/24")})}, base, "ip"},
		{"unix socket", []*FilterChain{chain("local", ChainMatch{SourceType: 1}), any}, ChainInput{Transport: "raw_buffer"}, "local"},
	} {
		x, err := NewChainIndex(test.chains)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		got := ""
		if c := x.Find(&test.in); c != nil {
			got = c.Name
		}
		if got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
		l := &Listener{Match: x, Default: chain("default", ChainMatch{})}
		if c := l.Choose(&test.in); test.want == "" && c.Name != "default" || test.want != "" && c.Name != test.want {
			t.Errorf("%s: chose %s", test.name, c.Name)
		}
		if n := testing.AllocsPerRun(10, func() { x.Find(&test.in) }); n != 0 {
			t.Errorf("%s: %v allocations", test.name, n)
		}
	}
}

func sni() []*FilterChain {
	return []*FilterChain{chain("none", ChainMatch{}), chain("wild", ChainMatch{ServerNames: []string{"*.wild.test"}}),
		chain("exact", ChainMatch{ServerNames: []string{"A.wild.test", "z.test"}}), chain("deep", ChainMatch{ServerNames: []string{"*.deep.wild.test"}})}
}

func types() []*FilterChain {
	return []*FilterChain{chain("any", ChainMatch{}), chain("local", ChainMatch{SourceType: 1}), chain("external", ChainMatch{SourceType: 2})}
}

func TestNewChainIndex_WhenChainsCannotBeToldApart_ThenRefused(t *testing.T) {
	for _, test := range []struct {
		chains []*FilterChain
		want   string
	}{
		{[]*FilterChain{chain("a", ChainMatch{}), chain("b", ChainMatch{})}, "'b' has the same matching rules defined as 'a'"},
		{[]*FilterChain{chain("a", ChainMatch{ServerNames: []string{"x.test", "y.test"}}), chain("b", ChainMatch{ServerNames: []string{"Y.test"}})}, "same matching rules"},
		{[]*FilterChain{chain("a", ChainMatch{SourcePorts: []uint16{1, 1}})}, "same matching rules"},
		{[]*FilterChain{chain("a", ChainMatch{ServerNames: []string{"w*.test"}})}, "partial wildcards"},
		{[]*FilterChain{chain("a", ChainMatch{ServerNames: []string{"*"}})}, "partial wildcards"},
		{[]*FilterChain{chain("a", ChainMatch{ServerNames: []string{"*.x.test"}}), chain("b", ChainMatch{ServerNames: []string{".X.test"}})}, "same matching rules"},
	} {
		if _, err := NewChainIndex(test.chains); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v, want %s", err, test.want)
		}
	}
}

func TestPredicate_WhenNested_ThenEvaluated(t *testing.T) {
	port := func(a, b uint16) *ListenerPredicate {
		return &ListenerPredicate{IsPort: true, PortStart: a, PortEnd: b}
	}
	for _, test := range []struct {
		p    *ListenerPredicate
		want string
	}{
		{nil, "false false false"},
		{&ListenerPredicate{Any: true}, "true true true"},
		{port(80, 82), "true true false"},
		{&ListenerPredicate{Not: port(80, 82)}, "false false true"},
		{&ListenerPredicate{Or: []*ListenerPredicate{port(80, 81), port(82, 83)}}, "true false true"},
		{&ListenerPredicate{And: []*ListenerPredicate{port(80, 82), {Not: port(80, 81)}}}, "false true false"},
	} {
		if got := fmt.Sprint(test.p.Eval(80), test.p.Eval(81), test.p.Eval(82)); got != test.want {
			t.Errorf("%+v: %s, want %s", test.p, got, test.want)
		}
	}
}
