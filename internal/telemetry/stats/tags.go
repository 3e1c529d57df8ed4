// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
)

// Tag is one label of a stat.
type Tag struct{ Name, Value string }

// TagRule extracts one tag from a name: group 1 is what is cut out of the name, group 2 (or 1 when there is no second) the value.
type TagRule struct {
	Name  string
	Regex string
}

const (
	seg  = `[^\.]+`
	addr = `(?:\d{1,3}\.){3}\d{1,3}_\d+|\[[a-fA-F_\d]+\]_\d+`
)

// DefaultTags are Envoy's default tags for the stats that exist here, in Envoy's order, which is also the order of the labels.
var DefaultTags = []TagRule{
	{"envoy.response_code", `_rq(_(\d{3}))$`},
	{"envoy.response_code_class", `_rq_((\d))xx$`},
	{"envoy.virtual_cluster", `^vhost\.` + seg + `\.vcluster\.((` + seg + `)\.)`},
	{"envoy.tcp_prefix", `^tcp\.((` + seg + `)\.)`},
	{"envoy.grpc_bridge_method", `^cluster\.` + seg + `\.grpc\.` + seg + `\.((` + seg + `)\.)`},
	{"envoy.grpc_bridge_service", `^cluster\.` + seg + `\.grpc\.((` + seg + `)\.)`},
	{"envoy.cluster_name", `^cluster\.((` + seg + `)\.)`},
	{"envoy.worker_id", `^listener\.(?:` + addr + `|` + seg + `)\.worker(_(\d+))\.|^server\.worker(_(\d+))\.|^thread_local_cluster_manager\.worker(_(\d+))\.|^listener_manager\.worker(_(\d+))\.`},
	{"envoy.rds_route_config", `^http\.` + seg + `\.rds\.(([\w\-\./]+)\.)\w+$`},
	{"envoy.http_conn_manager_prefix", `^listener\..*?\.http\.((` + seg + `)\.)`},
	{"envoy.http_conn_manager_prefix", `^http\.((` + seg + `)\.)`},
	{"envoy.listener_address", `^listener\.((` + addr + `|` + seg + `)\.)`},
	{"envoy.virtual_host", `^vhost\.((` + seg + `)\.)`},
	{"envoy.route", `^vhost\.` + seg + `\.route\.((` + seg + `)\.)`},
	{"envoy.proxy_protocol_version", `^proxy_proto\.(?:` + seg + `\.)?(versions\.v(\d)\.)\w+$`},
	{"envoy.proxy_protocol_prefix", `^proxy_proto\.((` + seg + `)\.)(?:versions\.v\d\.)?\w+$`},
}

// Tags extracts tags. Immutable.
type Tags struct {
	rules []tagRule
	fixed []Tag
}

type tagRule struct {
	name    string
	re      *regexp.Regexp
	prefix  []string // a match is at the begin of the name and begins with one of these; nil: unknown
	part    string   // what every match begins with; both spare most names the regex
	segment bool     // the regex is ^prefix and one segment in its group, as most are: no regex is needed
}

// literals finds the literals that can follow the anchor of a regex, or the one that an unanchored regex begins with.
func literals(src string) (prefixes []string, part string) {
	re, err := syntax.Parse(rewrite(src), syntax.Perl)
	if err != nil {
		return nil, ""
	}
	if p := anchored(re); p != nil {
		return p, ""
	}
	if c, err := regexp.Compile(rewrite(src)); err == nil {
		part, _ = c.LiteralPrefix()
	}
	return nil, part
}

// anchored lists what a match of re, which must be at the begin of the text, can begin with; nil when that is not known.
func anchored(re *syntax.Regexp) []string {
	switch {
	case re.Op == syntax.OpConcat && len(re.Sub) > 1 && re.Sub[0].Op == syntax.OpBeginText:
		return begins(re.Sub[1])
	case re.Op == syntax.OpAlternate:
		return union(re.Sub, anchored)
	}
	return nil
}

// begins lists the literals that re can begin with.
func begins(re *syntax.Regexp) []string {
	switch re.Op {
	case syntax.OpLiteral:
		if re.Flags&syntax.FoldCase == 0 {
			return []string{string(re.Rune)}
		}
	case syntax.OpConcat, syntax.OpCapture:
		return begins(re.Sub[0])
	case syntax.OpAlternate:
		return union(re.Sub, begins)
	}
	return nil
}

func union(subs []*syntax.Regexp, of func(*syntax.Regexp) []string) (out []string) {
	for _, s := range subs {
		l := of(s)
		if l == nil {
			return nil
		}
		out = append(out, l...)
	}
	return out
}

// TagsConfig is stats_config.stats_tags and use_all_default_tags.
type TagsConfig struct {
	UseDefaults bool // default true
	Rules       []TagRule
	Fixed       []Tag // fixed_value
}

// NewTags compiles the rules: custom ones come after the defaults. A rule without a regex names a default tag. The regexes are ECMAScript
// in Envoy; the look-ahead (?=\.) that Envoy's own and Istio's rules use is rewritten, any other look-around is refused.
func NewTags(cfg TagsConfig) (*Tags, error) {
	t := &Tags{fixed: slices.Clone(cfg.Fixed)}
	var rules []TagRule
	if cfg.UseDefaults {
		rules = slices.Clone(DefaultTags)
	}
	for i, r := range cfg.Rules {
		if r.Regex != "" {
			rules = append(rules, r)
			continue
		}
		found := false
		for _, d := range DefaultTags {
			if d.Name == r.Name {
				found = true
				if !cfg.UseDefaults {
					rules = append(rules, d)
				}
			}
		}
		if !found {
			return nil, fmt.Errorf("stats_tags[%d]: no regex specified for tag specifier and no default regex for name: '%s'", i, r.Name)
		}
	}
	for i, r := range rules {
		re, err := compileTag(r.Regex)
		if err != nil {
			return nil, fmt.Errorf("stats_tags[%d]: %s: %w", i, r.Name, err)
		}
		prefix, part := literals(r.Regex)
		segment := len(prefix) == 1 && r.Regex == "^"+regexp.QuoteMeta(prefix[0])+`((`+seg+`)\.)`
		t.rules = append(t.rules, tagRule{r.Name, re, prefix, part, segment})
	}
	return t, nil
}

// rewrite takes the look-ahead out of the form that Envoy and Istio use: "(?=\.).*?\." says that the rest begins with a dot, which before a
// lazy wildcard is the same as an optional dotted part.
func rewrite(src string) string {
	s := strings.ReplaceAll(src, `(?=\.).*?\.`, `(?:\..*?)??\.`)
	return strings.ReplaceAll(s, `(?=\.)\.`, `\.`)
}

func compileTag(src string) (*regexp.Regexp, error) {
	s := rewrite(src)
	for _, la := range []string{"(?=", "(?!", "(?<=", "(?<!"} {
		if strings.Contains(s, la) {
			return nil, fmt.Errorf("look-around %s…) is not supported", la)
		}
	}
	re, err := regexp.Compile(s)
	if err != nil {
		return nil, fmt.Errorf("invalid regex: %w", err)
	}
	if re.NumSubexp() == 0 {
		return nil, fmt.Errorf("regex has no group")
	}
	return re, nil
}

// may is false for names that cannot match.
func (r *tagRule) may(name string) bool {
	for _, p := range r.prefix {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return r.prefix == nil && strings.Contains(name, r.part)
}

// find is FindStringSubmatchIndex of a name for which may is true.
func (r *tagRule) find(name string) []int {
	if r.part != "" { // what a match begins with: nothing before its first place can matter
		at := strings.Index(name, r.part)
		m := r.re.FindStringSubmatchIndex(name[at:])
		for i := range m {
			if m[i] >= 0 {
				m[i] += at
			}
		}
		return m
	}
	if !r.segment {
		return r.re.FindStringSubmatchIndex(name)
	}
	n := len(r.prefix[0])
	if i := strings.IndexByte(name[n:], '.'); i > 0 {
		return []int{0, n + i + 1, n, n + i + 1, n, n + i}
	}
	return nil
}

// Extract returns the name without its tags, the fixed tags and then those of the rules, in rule order, as Envoy.
func (t *Tags) Extract(name string) (string, []Tag) {
	tags := slices.Clone(t.fixed)
	var cuts [][2]int
	for i := range t.rules {
		r := &t.rules[i]
		if !r.may(name) {
			continue
		}
		if slices.ContainsFunc(tags, func(x Tag) bool { return x.Name == r.name }) {
			continue
		}
		m := r.find(name)
		if m == nil {
			continue
		}
		if r.name == "envoy.listener_address" && strings.HasPrefix(name, "listener.admin.") {
			continue // the admin listener has no address of its own
		}
		// Rules with alternatives have several pairs of groups: the pair that took part counts.
		g := 1
		for g*2+1 < len(m) && m[g*2] < 0 {
			g++
		}
		if g*2+1 >= len(m) {
			continue
		}
		cut := [2]int{m[g*2], m[g*2+1]}
		val := cut
		if g*2+3 < len(m) && m[g*2+2] >= 0 {
			val = [2]int{m[g*2+2], m[g*2+3]}
		}
		tags = append(tags, Tag{r.name, name[val[0]:val[1]]})
		cuts = append(cuts, cut)
	}
	if len(cuts) == 0 {
		return name, tags
	}
	slices.SortFunc(cuts, func(a, b [2]int) int { return a[0] - b[0] })
	var b strings.Builder
	at := 0
	for _, c := range cuts {
		if c[0] > at {
			b.WriteString(name[at:c[0]])
		}
		at = max(at, c[1])
	}
	b.WriteString(name[at:])
	return b.String(), tags
}
