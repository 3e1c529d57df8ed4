// SPDX-License-Identifier: Apache-2.0

package route

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/match"
)

// query makes a request to match.
func query(method, host, path string, headers ...string) *Query {
	h := &httpmsg.Head{}
	h.Reset(&httpmsg.Arena{})
	h.SetMethod(method)
	h.SetHost([]byte(host))
	h.SetPath([]byte(path))
	h.SetScheme("http")
	for i := 0; i+1 < len(headers); i += 2 {
		h.AddString(httpmsg.KeyOf(headers[i]), headers[i+1])
	}
	return &Query{Head: h}
}

func exactHeader(name, value string) match.Header {
	m := match.NewHeader(name)
	m.Kind, m.Str = match.HeaderString, match.NewString(match.StringExact, value, false)
	return m
}

func regex(t testing.TB, src string) *match.Regex {
	t.Helper()
	r, err := match.CompileRegex(src)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// table makes a table with one virtual host.
func table(routes ...*Entry) *Table {
	t := &Table{VHosts: []*VirtualHost{{Name: "v", Domains: []string{"*"}, Routes: routes}}}
	t.Freeze()
	return t
}

// linear is what Match must agree with: the first route in order, asked one by one.
func linear(t *Table, q *Query) *Entry {
	path := t.matchPath(q.Head)
	for _, e := range t.VHosts[0].Routes {
		if len(path) == 0 && e.Path.Kind != PathConnect {
			continue
		}
		if e.Path.Match(path, q.Head) && e.Cond.Match(q) {
			return e
		}
	}
	return nil
}

// pieces makes paths that collide often.
var pieces = []string{"/", "/a", "/A", "/b", "/ab", "a", "/aB/", "//", ".", "", "/a/b/c"}

func randomText(r *rand.Rand) string {
	s := ""
	for range r.IntN(4) {
		s += pieces[r.IntN(len(pieces))]
	}
	return s
}

var regexes = []string{"/a.*", ".*", ".+b", "/a/[^/]+", "(?i)/a/b", "/(a|b)/.*", "/a", "^/ab$", "/a+/b", "[a-z/]*"}

func randomTable(t testing.TB, r *rand.Rand) *Table {
	var routes []*Entry
	for i := range 1 + r.IntN(30) {
		e := &Entry{Name: fmt.Sprint(i)}
		e.Path = PathMatch{Kind: PathKind(r.IntN(5)), Text: randomText(r), IgnoreCase: r.IntN(3) == 0}
		if e.Path.Kind == PathRegex {
			e.Path.Regex = regex(t, regexes[r.IntN(len(regexes))])
		}
		switch r.IntN(4) {
		case 0:
			e.Cond = &Conditions{Headers: []match.Header{exactHeader("k", string('0'+byte(r.IntN(3))))}}
		case 1:
			e.Cond = &Conditions{Fraction: &match.RuntimeFraction{Default: match.Fraction{Num: uint32(r.IntN(101)), Den: 100}}}
		}
		routes = append(routes, e)
	}
	tab := &Table{IgnorePathParameters: r.IntN(4) == 0, VHosts: []*VirtualHost{{Domains: []string{"*"}, Routes: routes}}}
	tab.Freeze()
	return tab
}

func TestMatch_WhenTablesAreRandom_ThenItAgreesWithTheLinearScan(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	hits := 0
	for range 3000 {
		tab := randomTable(t, r)
		for range 20 {
			q := query([]string{"GET", "CONNECT"}[r.IntN(2)], "h", randomText(r)+[]string{"", "?x", ";p?y", "#f"}[r.IntN(4)], "k", string('0'+byte(r.IntN(3))))
			q.Rand = r.Uint64()
			got, _, _ := tab.Match(q)
			want := linear(tab, q)
			if got != want {
				t.Fatalf("path %q: got %v, want %v", q.Head.Path(), name(got), name(want))
			}
			if got != nil {
				hits++
			}
		}
	}
	if hits < 10_000 {
		t.Errorf("only %d hits: the test does not test", hits)
	}
}

// TestMatch_WhenManyRoutesShareAPath_ThenHeadersSplitThemAndTheLinearScanAgrees.
func TestMatch_WhenManyRoutesShareAPath_ThenHeadersSplitThemAndTheLinearScanAgrees(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	names := []string{"k", "l", ":authority", ":method"}
	values := []string{"a", "b", "c", "GET", ""}
	hits, fans := 0, 0
	for range 150 {
		var routes []*Entry
		for i := range 250 {
			e := &Entry{Name: fmt.Sprint(i), Path: PathMatch{Kind: PathKind(r.IntN(3)), Text: []string{"/", "/a"}[r.IntN(2)], IgnoreCase: r.IntN(2) == 0}}
			e.Cond = &Conditions{}
			for range 1 + r.IntN(3) {
				m := exactHeader(names[r.IntN(len(names))], values[r.IntN(len(values))])
				m.Invert, m.MissingAsEmpty, m.Str.IgnoreCase = r.IntN(8) == 0, r.IntN(8) == 0, r.IntN(8) == 0
				e.Cond.Headers = append(e.Cond.Headers, m)
			}
			if len(e.Cond.Headers) == 0 && r.IntN(4) > 0 {
				e.Cond.GRPC = true
			}
			routes = append(routes, e)
		}
		tab := table(routes...)
		fans += len(tab.VHosts[0].index.fans)
		for range 30 {
			var headers []string
			for range r.IntN(4) {
				headers = append(headers, names[r.IntN(2)], values[r.IntN(len(values))])
			}
			q := query("GET", values[r.IntN(len(values))], []string{"/", "/a", "/A", "/a/"}[r.IntN(4)], headers...)
			got, _, _ := tab.Match(q)
			if want := linear(tab, q); got != want {
				t.Fatalf("%v: got %v, want %v", headers, name(got), name(want))
			}
			if got != nil {
				hits++
			}
		}
	}
	if hits < 2000 || fans < 50 {
		t.Errorf("%d hits, %d fans: the test does not test", hits, fans)
	}
}

func name(e *Entry) string {
	if e == nil {
		return "(none)"
	}
	return e.Name + " " + e.Path.Text
}

// FuzzMatch builds a table from lines ("kind text") and compares index and linear scan.
func FuzzMatch(f *testing.F) {
	f.Add("p /a\ne /a/b\ns /a\nP /A\nE /a\np \nc", "/a/b?x", true)
	f.Add("p /\np /aaaa\np /aa\np /aaa", "/aaa", false)
	f.Fuzz(func(t *testing.T, spec, path string, connect bool) {
		var routes []*Entry
		for i, line := range strings.Split(spec, "\n") {
			kind, text, _ := strings.Cut(line, " ")
			e := &Entry{Name: fmt.Sprint(i), Path: PathMatch{Text: text}}
			switch kind {
			case "e", "E":
				e.Path.Kind = PathExact
			case "s", "S":
				e.Path.Kind = PathSeparated
			case "c":
				e.Path.Kind = PathConnect
			}
			e.Path.IgnoreCase = kind == "E" || kind == "S" || kind == "P"
			if i%3 == 2 {
				e.Cond = &Conditions{Headers: []match.Header{exactHeader("k", "v")}}
			}
			routes = append(routes, e)
		}
		tab := table(routes...)
		method := "GET"
		if connect {
			method = "CONNECT"
		}
		q := query(method, "h", path, "k", []string{"v", "w"}[len(path)%2])
		if got, _, _ := tab.Match(q); got != linear(tab, q) {
			t.Fatalf("path %q in %q: got %v, want %v", path, spec, name(got), name(linear(tab, q)))
		}
	})
}

// TestFindVirtualHost_WhenDomainsOverlap_ThenEnvoysOrderHolds: exact, longest suffix, longest prefix, "*"; a wildcard takes at least one byte.
func TestFindVirtualHost_WhenDomainsOverlap_ThenEnvoysOrderHolds(t *testing.T) {
	tab := &Table{}
	for _, d := range []string{"*", "foo.test", "FOO2.test:8080", "*.foo.test", "*-bar.foo.test", "*foo.test", "foo.*", "foo.t*", "a.*.b", ""} {
		tab.VHosts = append(tab.VHosts, &VirtualHost{Name: d, Domains: []string{d}})
	}
	tab.Freeze()
	for host, want := range map[string]string{
		"foo.test": "foo.test", "FOO.test": "foo.test", "x.foo.test": "*.foo.test", "x-bar.foo.test": "*-bar.foo.test",
		"-bar.foo.test": "*.foo.test", ".foo.test": "*foo.test", "xfoo.test": "*foo.test", "foo.test:80": "foo.t*", "foo.com": "foo.*",
		"foo.t": "foo.*", "foo.tx": "foo.t*", "foo.": "*", "a.x.b": "*", "a.*.b": "a.*.b", "foo2.test:8080": "FOO2.test:8080",
		"foo2.test": "*", "": "", "x.y.foo.test": "*.foo.test", "foo.test.": "foo.t*",
	} {
		if got := tab.FindVirtualHost(query("GET", host, "/")); got == nil || got.Name != want {
			t.Errorf("%q: got %v, want %q", host, got, want)
		}
	}
	tab.IgnorePort = true
	for host, want := range map[string]string{"foo.test:80": "foo.test", "foo.test:abc": "foo.test", "foo2.test:8080": "*", "[::1]:80": "*"} {
		if got := tab.FindVirtualHost(query("GET", host, "/")); got == nil || got.Name != want {
			t.Errorf("ignore port, %q: got %v, want %q", host, got, want)
		}
	}
	k := httpmsg.KeyOf("X-VH")
	tab.VHostHeader = &k
	if got := tab.FindVirtualHost(query("GET", "zz", "/", "x-vh", "foo.test")); got == nil || got.Name != "foo.test" {
		t.Errorf("vhost_header: got %v", got)
	}
	if got := tab.FindVirtualHost(query("GET", "foo.test", "/")); got != nil {
		t.Errorf("vhost_header missing: got %v", got)
	}
}

func TestMatch_WhenTLSIsRequired_ThenPlainRequestsAreRedirected(t *testing.T) {
	tab := table(&Entry{Name: "e"})
	for _, tc := range []struct {
		require          uint8
		secure, internal bool
		want             Verdict
	}{
		{RequireTLSAll, false, true, TLSRedirect}, {RequireTLSAll, true, false, Matched},
		{RequireTLSExternalOnly, false, false, TLSRedirect}, {RequireTLSExternalOnly, false, true, Matched}, {RequireTLSNone, false, false, Matched},
	} {
		tab.VHosts[0].RequireTLS = tc.require
		q := query("GET", "h:80", "/p?q")
		q.Secure = tc.secure
		if tc.internal {
			q.Head.AddString(httpmsg.IDEnvoyInternal.Key(), "true")
		}
		if _, _, v := tab.Match(q); v != tc.want {
			t.Errorf("%+v: got %v", tc, v)
		}
		if got := string(TLSLocation(nil, q.Head, q)); got != "https://h:80/p?q" {
			t.Errorf("location %q", got)
		}
	}
}

func TestMatch_WhenForwardedProtoIsEmpty_ThenNoRouteIsFound(t *testing.T) {
	tab := table(&Entry{Name: "e"})
	if _, vh, v := tab.Match(query("GET", "h", "/", "x-forwarded-proto", "")); v != NotFound || vh == nil {
		t.Errorf("got %v", v)
	}
	if _, _, v := tab.Match(query("GET", "h", "/", "x-forwarded-proto", "gopher")); v != Matched {
		t.Errorf("got %v", v)
	}
}

// many makes n routes of a kind, the last of which answers lastPath.
func many(t testing.TB, kind string, n int) (*Table, string, string) {
	var routes []*Entry
	path := func(i int) string { return fmt.Sprintf("/service-%d/api/v%d", i*7919%n, i) }
	for i := range n {
		e := &Entry{Name: fmt.Sprint(i), Path: PathMatch{Kind: PathPrefix, Text: path(i)}}
		switch {
		case kind == "exact", kind == "mixed" && i%3 == 1:
			e.Path.Kind = PathExact
		case kind == "header":
			e.Path.Text = "/"
			e.Cond = &Conditions{Headers: []match.Header{exactHeader("k", fmt.Sprint("v", i))}}
			if i == n-1 {
				e.Cond = &Conditions{Headers: []match.Header{exactHeader("k", "v")}}
			}
		case kind == "regex":
			e.Path = PathMatch{Kind: PathRegex, Regex: regex(t, path(i)+"/?[a-z]*")}
		case kind == "mixed" && i%3 == 2:
			e.Path.IgnoreCase = true
			e.Cond = &Conditions{Headers: []match.Header{exactHeader("k", "v")}}
		}
		routes = append(routes, e)
	}
	return table(routes...), path(0), path(n - 1)
}

func TestMatch_WhenThereAreManyRoutes_ThenTheLastIsFoundWithoutAllocation(t *testing.T) {
	for _, kind := range []string{"prefix", "exact", "mixed", "regex"} {
		tab, first, last := many(t, kind, 10_000)
		for want, p := range map[string]string{"0": first, "9999": last} {
			q := query("GET", "h", p, "k", "v")
			var e *Entry
			if n := testing.AllocsPerRun(100, func() { e, _, _ = tab.Match(q) }); n != 0 {
				t.Errorf("%s: %v allocations", kind, n)
			}
			if e == nil || e.Name != want {
				t.Errorf("%s %s: got %v", kind, p, name(e))
			}
		}
	}
}

// TestMatch_WhenThereAreManyRoutes_ThenFewAreTried counts work instead of time: the conditions that are tried for the last route.
func TestMatch_WhenThereAreManyRoutes_ThenFewAreTried(t *testing.T) {
	for _, kind := range []string{"prefix", "exact", "mixed", "regex"} {
		tab, _, last := many(t, kind, 10_000)
		x := tab.VHosts[0].index
		tried := len(x.exact[last]) + len(x.exactCI[last])
		for n := x.prefix.deepest([]byte(last)); n >= 0; n = x.prefix.nodes[n].up {
			tried += len(x.prefix.nodes[n].list)
		}
		for n := x.prefixCI.deepest([]byte(last)); n >= 0; n = x.prefixCI.nodes[n].up {
			tried += len(x.prefixCI.nodes[n].list)
		}
		if tried > 8 {
			t.Errorf("%s: %d routes are tried for the last path", kind, tried)
		}
	}
}

// TestMatch_WhenPrefixesNestDeeply_ThenItStaysBounded: 10,000 prefixes, each one byte longer.
func TestMatch_WhenPrefixesNestDeeply_ThenItStaysBounded(t *testing.T) {
	var routes []*Entry
	long := "/" + strings.Repeat("a", 10_000)
	for i := range 10_000 {
		routes = append(routes, &Entry{Name: fmt.Sprint(i), Path: PathMatch{Text: long[:len(long)-i]}})
	}
	tab := table(routes...)
	for _, n := range []int{2, 77, 9_000} {
		e, _, _ := tab.Match(query("GET", "h", long[:n]))
		if want := fmt.Sprint(len(long) - n); e == nil || e.Name != want {
			t.Errorf("length %d: got %v, want %s", n, name(e), want)
		}
	}
}

func BenchmarkMatch(b *testing.B) {
	for _, kind := range []string{"prefix", "exact", "mixed", "regex", "header"} {
		tab, first, last := many(b, kind, 10_000)
		for _, p := range []struct{ name, path string }{{"first", first}, {"last", last}} {
			b.Run(kind+"/"+p.name, func(b *testing.B) {
				q := query("GET", "h", p.path, "k", "v")
				b.ReportAllocs()
				for b.Loop() {
					tab.Match(q)
				}
			})
		}
	}
}
