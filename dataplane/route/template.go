// SPDX-License-Identifier: Apache-2.0

package route

import "sidecar/dataplane/match"

// Template is a compiled URI template (envoy.extensions.path.match.uri_template, path.rewrite.uri_template). Immutable.
type Template struct {
	Source string
	Regex  *match.Regex // match: the whole path, one group per variable
	Subst  string       // rewrite: RE2 substitution over the groups of the match template
}

func (t *Template) match(path []byte) bool { return t.Regex.Match(path) }

func (t *Template) literalPrefix() string { return t.Regex.LiteralPrefix() }

func (t *Template) appendRewrite(b []byte, m *Template, path []byte) []byte {
	if m == nil {
		return append(b, path...)
	}
	return m.Regex.AppendReplaceAll(b, path, t.Subst)
}
