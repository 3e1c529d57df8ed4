// SPDX-License-Identifier: Apache-2.0

package match

import (
	"bytes"
	"regexp"
	"regexp/syntax"
	"strings"
	"unicode/utf8"
)

// Regex is a regular expression in RE2 syntax that must match the whole text, as Envoy's safe_regex does. Immutable; Match allocates nothing
// once the regexp package has warmed its pool.
type Regex struct {
	src    string
	full   *regexp.Regexp // \A(?:src)\z
	find   *regexp.Regexp // src, for ReplaceAll
	prefix string         // every match begins with it
	suffix string         // every match ends with it
	shape  regexShape
}

// regexShape names expressions that need no automaton.
type regexShape uint8

const (
	shapeGeneral   regexShape = iota
	shapeLiteral              // the text equals prefix
	shapePrefixAny            // prefix, then .*
	shapePrefixOne            // prefix, then .+
)

// maxRegex bounds the source of one expression in bytes; what Envoy takes in practice (its program size limit) is far below.
const maxRegex = 16 << 10

// CompileRegex compiles src. The error is lower case and names what is wrong with the expression.
func CompileRegex(src string) (*Regex, error) {
	if len(src) > maxRegex {
		return nil, errRegexTooLong
	}
	find, err := regexp.Compile(src)
	if err != nil {
		return nil, reword(err)
	}
	full, err := regexp.Compile(`\A(?:` + src + `)\z`)
	if err != nil {
		return nil, reword(err)
	}
	r := &Regex{src: src, full: full, find: find}
	if tree, err := syntax.Parse(src, syntax.Perl); err == nil {
		tree = tree.Simplify()
		r.analyse(tree)
	}
	return r, nil
}

type regexError string

func (e regexError) Error() string { return string(e) }

const errRegexTooLong = regexError("regular expression is longer than 16384 bytes")

// re2Text are RE2's words for what can be wrong, which users know from Envoy's NACKs.
var re2Text = map[syntax.ErrorCode]string{
	syntax.ErrMissingParen: "missing )", syntax.ErrUnexpectedParen: "unexpected )", syntax.ErrMissingBracket: "missing ]",
	syntax.ErrTrailingBackslash: "trailing \\", syntax.ErrMissingRepeatArgument: "no argument for repetition operator",
	syntax.ErrInvalidRepeatSize: "bad repetition operator", syntax.ErrInvalidRepeatOp: "bad repetition operator",
	syntax.ErrInvalidPerlOp: "invalid perl operator", syntax.ErrInvalidCharRange: "invalid character class range",
	syntax.ErrInvalidCharClass: "invalid character class", syntax.ErrInvalidEscape: "invalid escape sequence",
	syntax.ErrInvalidUTF8: "invalid UTF-8", syntax.ErrInvalidNamedCapture: "invalid named capture group",
}

func reword(err error) error {
	if e, ok := err.(*syntax.Error); ok {
		if text := re2Text[e.Code]; text != "" {
			return regexError(text + ": " + e.Expr)
		}
		return regexError(string(e.Code) + ": " + e.Expr)
	}
	return err
}

// String returns the expression as configured.
func (r *Regex) String() string { return r.src }

// LiteralPrefix returns text with which every match begins; it may be empty.
func (r *Regex) LiteralPrefix() string { return r.prefix }

// Match reports whether the whole of b matches. Like RE2 in its UTF-8 mode, text that is not UTF-8 never matches.
func (r *Regex) Match(b []byte) bool {
	if len(b) < len(r.prefix) || string(b[:len(r.prefix)]) != r.prefix || !bytes.HasSuffix(b, noCopy(r.suffix)) {
		return false
	}
	switch r.shape {
	case shapeLiteral:
		return len(b) == len(r.prefix)
	case shapePrefixAny:
		return utf8.Valid(b) && bytes.IndexByte(b[len(r.prefix):], '\n') < 0
	case shapePrefixOne:
		return len(b) > len(r.prefix) && utf8.Valid(b) && bytes.IndexByte(b[len(r.prefix):], '\n') < 0
	}
	return utf8.Valid(b) && r.full.Match(b)
}

// MatchString is Match for a string.
func (r *Regex) MatchString(s string) bool { return r.Match(noCopy(s)) }

func (r *Regex) analyse(tree *syntax.Regexp) {
	p, whole := literal(tree)
	if strings.ContainsRune(p, utf8.RuneError) {
		return
	}
	r.prefix = p
	if whole {
		r.shape = shapeLiteral
		return
	}
	if s := lastLiteral(tree); !strings.ContainsRune(s, utf8.RuneError) {
		r.suffix = s
	}
	if tree.Op == syntax.OpStar && dot(tree.Sub[0]) {
		r.shape = shapePrefixAny
	}
	if tree.Op == syntax.OpConcat && len(tree.Sub) == 2 && tree.Sub[0].Op == syntax.OpLiteral && len(p) > 0 {
		switch last := tree.Sub[1]; {
		case last.Op == syntax.OpStar && dot(last.Sub[0]):
			r.shape = shapePrefixAny
		case last.Op == syntax.OpPlus && dot(last.Sub[0]):
			r.shape = shapePrefixOne
		}
	}
}

func dot(re *syntax.Regexp) bool { return re.Op == syntax.OpAnyCharNotNL }

// literal returns the text that every match of re begins with, and whether re matches exactly that and nothing else.
func literal(re *syntax.Regexp) (string, bool) {
	switch re.Op {
	case syntax.OpLiteral:
		if re.Flags&syntax.FoldCase == 0 {
			return string(re.Rune), true
		}
	case syntax.OpEmptyMatch:
		return "", true
	case syntax.OpCapture:
		return literal(re.Sub[0])
	case syntax.OpPlus:
		s, _ := literal(re.Sub[0])
		return s, false
	case syntax.OpConcat:
		var b strings.Builder
		for i, sub := range re.Sub {
			// An anchor at the very start is what full match does anyway.
			if i == 0 && (sub.Op == syntax.OpBeginText || sub.Op == syntax.OpBeginLine) {
				continue
			}
			s, whole := literal(sub)
			b.WriteString(s)
			if !whole {
				return b.String(), false
			}
		}
		return b.String(), true
	}
	return "", false
}

// lastLiteral returns text that every match of re ends with.
func lastLiteral(re *syntax.Regexp) string {
	switch re.Op {
	case syntax.OpLiteral:
		if re.Flags&syntax.FoldCase == 0 {
			return string(re.Rune)
		}
	case syntax.OpCapture:
		return lastLiteral(re.Sub[0])
	case syntax.OpConcat:
		return lastLiteral(re.Sub[len(re.Sub)-1])
	}
	return ""
}

// AppendReplaceAll appends src with every match of the expression replaced by subst, which refers to groups as \0 to \9 and to a backslash
// as \\ (RE2's GlobalReplace). It allocates; only routes that rewrite by regex pay for it.
func (r *Regex) AppendReplaceAll(b, src []byte, subst string) []byte {
	last := 0
	for _, m := range r.find.FindAllSubmatchIndex(src, -1) {
		b = append(b, src[last:m[0]]...)
		for i := 0; i < len(subst); i++ {
			c := subst[i]
			if c != '\\' || i+1 == len(subst) {
				b = append(b, c)
				continue
			}
			i++
			if c = subst[i]; c < '0' || c > '9' {
				b = append(b, c)
				continue
			}
			if g := int(c-'0') * 2; g+1 < len(m) && m[g] >= 0 {
				b = append(b, src[m[g]:m[g+1]]...)
			}
		}
		last = m[1]
	}
	return append(b, src[last:]...)
}

// CheckSubst reports what is wrong with a substitution for r, "" when nothing is: a reference to a group that is not there, or a backslash
// before anything but a digit or a backslash.
func (r *Regex) CheckSubst(subst string) string {
	for i := 0; i < len(subst); i++ {
		if subst[i] != '\\' {
			continue
		}
		i++
		switch {
		case i == len(subst):
			return "substitution ends in a lone backslash"
		case subst[i] == '\\':
		case subst[i] < '0' || subst[i] > '9':
			return `substitution has a backslash that is not followed by a digit or a backslash`
		case int(subst[i]-'0') > r.find.NumSubexp():
			return `substitution refers to group \` + subst[i:i+1] + ` that the expression does not have`
		}
	}
	return ""
}
