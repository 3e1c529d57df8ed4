// SPDX-License-Identifier: Apache-2.0

package route

import (
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/match"
)

// PathKind is the kind of a path matcher.
type PathKind uint8

// The kinds of envoy.config.route.v3.RouteMatch.path_specifier.
const (
	PathPrefix PathKind = iota
	PathExact
	PathSeparated // path_separated_prefix: the prefix, then the end or '/'
	PathRegex
	PathConnect  // connect_matcher
	PathTemplate // path_match_policy with a URI template
)

// PathMatch is a compiled path matcher. Immutable.
type PathMatch struct {
	Kind       PathKind
	Text       string // as configured
	IgnoreCase bool   // case_sensitive: false; not for PathRegex
	Regex      *match.Regex
	Template   *Template
}

// Match reports whether path (no query) matches. PathConnect matches CONNECT requests of any path.
func (m *PathMatch) Match(path []byte, h *httpmsg.Head) bool {
	switch m.Kind {
	case PathConnect:
		return h.Method == httpmsg.MethodConnect
	case PathExact:
		return len(path) == len(m.Text) && m.begins(path)
	case PathPrefix:
		return m.begins(path)
	case PathSeparated:
		return m.begins(path) && (len(path) == len(m.Text) || path[len(m.Text)] == '/')
	case PathRegex:
		return m.Regex.Match(path)
	case PathTemplate:
		return m.Template.match(path)
	}
	return false
}

func (m *PathMatch) begins(path []byte) bool {
	if len(path) < len(m.Text) {
		return false
	}
	if !m.IgnoreCase {
		return string(path[:len(m.Text)]) == m.Text
	}
	for i := range len(m.Text) {
		if match.Lower(path[i]) != match.Lower(m.Text[i]) {
			return false
		}
	}
	return true
}

// matched is the length of the part of path that prefix_rewrite replaces: the prefix, or all of it.
func (m *PathMatch) matched(path []byte) int {
	if m.Kind == PathPrefix || m.Kind == PathSeparated {
		return min(len(m.Text), len(path))
	}
	return len(path)
}

// Conditions are the conditions of a route beside its path; all must hold. Immutable.
type Conditions struct {
	Headers     []match.Header
	Query       []match.Query
	Cookies     []match.Cookie
	Fraction    *match.RuntimeFraction // nil = always
	GRPC        bool
	Presented   *bool // tls_context.presented
	Validated   *bool // tls_context.validated
	Metadata    []match.Metadata
	FilterState []match.FilterState
}

// Match reports whether all conditions hold.
func (c *Conditions) Match(q *Query) bool {
	if c == nil {
		return true
	}
	if c.Fraction != nil && !q.Runtime.Fraction(*c.Fraction).Hit(q.Rand) {
		return false
	}
	if c.GRPC && !match.GRPC(q.Head) || !match.All(c.Headers, q.Head) {
		return false
	}
	for i := range c.Query {
		if !c.Query[i].Match(q.Head.Path()) {
			return false
		}
	}
	for i := range c.Cookies {
		if !c.Cookies[i].Match(q.Head) {
			return false
		}
	}
	if c.Presented != nil && *c.Presented != q.ClientCert || c.Validated != nil && *c.Validated != q.ClientCertValid {
		return false
	}
	return c.state(q)
}

// state checks the conditions on what filters before the route choice have left.
func (c *Conditions) state(q *Query) bool {
	var md map[string]any
	var fs map[string]string
	if q.Rec != nil {
		md, fs = q.Rec.DynamicMeta, q.Rec.FilterState
	}
	for i := range c.Metadata {
		if !c.Metadata[i].Match(md) {
			return false
		}
	}
	for i := range c.FilterState {
		if !c.FilterState[i].Match(fs) {
			return false
		}
	}
	return true
}

// index finds the first matching route of a virtual host. Every route is filed under text that its path must begin with (or equal); a
// lookup visits only the lists that the path leads to, longest first, and stops in each at the best index found so far. A list ends at its
// first unconditional route: nothing behind it can ever win. Long lists are split once more by the value of a header (fan).
type index struct {
	routes   []*Entry
	exact    map[string][]int32
	prefix   radix
	exactCI  map[string][]int32 // keys in lower case
	prefixCI radix
	connect  []int32        // routes with a connect matcher
	fans     map[int32]*fan // by the first number of a list: what replaces long lists
}

// fan splits a long list of routes under one path by the header that most of them compare with a fixed text.
type fan struct {
	header match.Header       // of the matchers only key and pseudo-header count
	values map[string][]int32 // routes that demand this value
	rest   []int32            // all others
}

// fanMin is the length from which a list is split.
const fanMin = 8

// newFan splits list, or returns nil when it is short or there is no such header.
func (x *index) newFan(list []int32) *fan {
	if len(list) < fanMin {
		return nil
	}
	count := map[string]int{}
	var best match.Header
	for _, n := range list {
		for _, m := range fixed(x.routes[n].Cond) {
			if count[m.Key.Name]++; count[m.Key.Name] > count[best.Key.Name] {
				best = m
			}
		}
	}
	if count[best.Key.Name] < fanMin {
		return nil
	}
	f := &fan{header: best, values: map[string][]int32{}}
	for _, n := range list {
		demanded := false
		for _, m := range fixed(x.routes[n].Cond) {
			if m.Key.Name == best.Key.Name {
				f.values[m.Str.Text] = append(f.values[m.Str.Text], n)
				demanded = true
				break
			}
		}
		if !demanded {
			f.rest = append(f.rest, n)
		}
	}
	return f
}

// fixed lists the header matchers of c that compare with a fixed text.
func fixed(c *Conditions) []match.Header {
	if c == nil {
		return nil
	}
	var out []match.Header
	for _, m := range c.Headers {
		if m.Kind == match.HeaderString && m.Str.Kind == match.StringExact && !m.Str.IgnoreCase && !m.Invert && !m.MissingAsEmpty {
			out = append(out, m)
		}
	}
	return out
}

func newIndex(routes []*Entry) *index {
	x := &index{routes: routes}
	var keys, keysCI []radixKey
	for i, e := range routes {
		n := int32(i)
		m := &e.Path
		switch {
		case m.Kind == PathConnect:
			x.connect = append(x.connect, n)
		case m.Kind == PathExact && m.IgnoreCase:
			put(&x.exactCI, lowerString(m.Text), n)
		case m.Kind == PathExact:
			put(&x.exact, m.Text, n)
		case m.Kind == PathRegex:
			keys = append(keys, radixKey{m.Regex.LiteralPrefix(), n})
		case m.Kind == PathTemplate:
			keys = append(keys, radixKey{m.Template.literalPrefix(), n})
		case m.IgnoreCase:
			keysCI = append(keysCI, radixKey{lowerString(m.Text), n})
		default:
			keys = append(keys, radixKey{m.Text, n})
		}
	}
	x.prefix, x.prefixCI = newRadix(keys), newRadix(keysCI)
	for k, l := range x.exact {
		x.exact[k] = x.prune(l)
	}
	for k, l := range x.exactCI {
		x.exactCI[k] = x.prune(l)
	}
	for i := range x.prefix.nodes {
		x.prefix.nodes[i].list = x.prune(x.prefix.nodes[i].list)
	}
	for i := range x.prefixCI.nodes {
		x.prefixCI.nodes[i].list = x.prune(x.prefixCI.nodes[i].list)
	}
	x.connect = x.prune(x.connect)
	x.split()
	return x
}

// split makes a fan for every long list. Lists do not share routes, so the first number of a list names it.
func (x *index) split() {
	add := func(list []int32) {
		if f := x.newFan(list); f != nil {
			if x.fans == nil {
				x.fans = map[int32]*fan{}
			}
			x.fans[list[0]] = f
		}
	}
	add(x.connect)
	for _, l := range x.exact {
		add(l)
	}
	for _, l := range x.exactCI {
		add(l)
	}
	for i := range x.prefix.nodes {
		add(x.prefix.nodes[i].list)
	}
	for i := range x.prefixCI.nodes {
		add(x.prefixCI.nodes[i].list)
	}
}

// put appends to a list of a map that is made when it is first needed: most virtual hosts have no exact path.
func put(m *map[string][]int32, key string, n int32) {
	if *m == nil {
		*m = map[string][]int32{}
	}
	(*m)[key] = append((*m)[key], n)
}

func lowerString(s string) string { return string(match.AppendLower(nil, []byte(s))) }

// prune cuts a list behind the first route that matches whatever else the request has.
func (x *index) prune(l []int32) []int32 {
	for i, n := range l {
		e := x.routes[n]
		if e.Cond == nil && (e.Path.Kind == PathExact || e.Path.Kind == PathPrefix) {
			return l[: i+1 : i+1]
		}
	}
	return l
}

// find returns the first route, in configured order, that matches path (no query) and the rest of the request.
func (x *index) find(path []byte, q *Query) *Entry {
	best := int32(len(x.routes))
	if len(x.connect) > 0 && q.Head.Method == httpmsg.MethodConnect {
		best = x.scan(x.connect, best, path, q)
	}
	if len(path) > 0 { // a CONNECT without a path can match a connect matcher only
		if len(x.exact) > 0 {
			best = x.scan(x.exact[string(path)], best, path, q)
		}
		best = x.climb(&x.prefix, path, best, path, q)
		if len(x.exactCI) > 0 || len(x.prefixCI.nodes) > 0 {
			q.scratch = match.AppendLower(q.scratch[:0], path)
			best = x.scan(x.exactCI[string(q.scratch)], best, path, q)
			best = x.climb(&x.prefixCI, q.scratch, best, path, q)
		}
	}
	if int(best) == len(x.routes) {
		return nil
	}
	return x.routes[best]
}

// climb scans the lists of all keys of r that key begins with, the longest first.
func (x *index) climb(r *radix, key []byte, best int32, path []byte, q *Query) int32 {
	for n := r.deepest(key); n >= 0; n = r.nodes[n].up {
		best = x.scan(r.nodes[n].list, best, path, q)
	}
	return best
}

// scan returns the first number of list below best whose route matches, else best.
func (x *index) scan(list []int32, best int32, path []byte, q *Query) int32 {
	if len(list) < fanMin || x.fans == nil {
		return x.try(list, best, path, q)
	}
	f := x.fans[list[0]]
	if f == nil {
		return x.try(list, best, path, q)
	}
	best = x.try(f.rest, best, path, q)
	if f.header.Pseudo != match.PseudoNone {
		v, _ := match.PseudoValue(f.header.Pseudo, q.Head)
		return x.try(f.values[string(v)], best, path, q)
	}
	// Any one of several values may be the demanded one.
	for i := q.Head.FindKey(f.header.Key, 0); i >= 0; i = q.Head.FindKey(f.header.Key, i+1) {
		best = x.try(f.values[string(q.Head.Value(i))], best, path, q)
	}
	return best
}

// try asks the routes of list one by one.
func (x *index) try(list []int32, best int32, path []byte, q *Query) int32 {
	for _, n := range list {
		if n >= best {
			break
		}
		e := x.routes[n]
		// Exact paths and plain prefixes have been decided by the way that led here.
		if e.Path.Kind >= PathSeparated && !e.Path.Match(path, q.Head) {
			continue
		}
		if e.Cond.Match(q) {
			return n
		}
	}
	return best
}
