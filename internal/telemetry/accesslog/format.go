// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"encoding/binary"
	"fmt"
	"regexp"
	"strings"

	"sidecar/dataplane/httpmsg"
)

// DefaultHTTP is the access-log format that Envoy uses for HTTP and TCP when none is configured.
const DefaultHTTP = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% " +
	"%BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" " +
	"\"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n"

// Format is a compiled format (envoy.config.core.v3.SubstitutionFormatString). Immutable and safe for concurrent use.
type Format struct {
	ops  []op
	text []step // of ops: what text formats print
	tail string // the literal behind the last step
	json *node  // nil for text formats
	wire *Wire  // nil but for the gRPC access log
	omit bool   // omit_empty_values
}

// step is one operator of a text format with the literal before it.
type step struct {
	lead string
	op   *op
	// short and n are a lead of at most eight bytes, the first one lowest: one store appends it.
	short uint64
	n     uint8

	plain  bool       // prints, untruncated, the field id of a head, or else pseudo; see view
	resp   bool       // of the response
	id     httpmsg.ID // IDOther: none
	pseudo pseudo     // pseudoNone: none
}

// newStep returns the step for an operator behind lead.
func newStep(lead string, o *op) step {
	s := step{lead: lead, op: o}
	var b [8]byte
	if len(lead) <= len(b) {
		copy(b[:], lead)
		s.lead, s.short, s.n = "", binary.LittleEndian.Uint64(b[:]), uint8(len(lead))
	}
	if (o.code == opReq || o.code == opResp) && o.max < 0 && o.sub == 0 {
		s.resp, s.pseudo = o.code == opResp, pseudoNone
		first, second := &o.a, &o.b
		if first.pseudo == ordinary {
			s.id = first.key.ID
			s.plain = s.id != httpmsg.IDOther
			first = second
		} else {
			s.plain = second.key.Name == ""
		}
		if first.key.Name != "" {
			s.pseudo = first.pseudo
			s.plain = s.plain && first.pseudo >= pseudoMethod && first.pseudo <= pseudoScheme
		}
	}
	return s
}

// view returns what a plain step prints; ok is false when it is absent.
func (st *step) view(r *Record) (v []byte, ok bool) {
	h := r.Req
	if st.resp {
		h = r.Resp
	}
	if h == nil || h.A == nil {
		return nil, false
	}
	if st.id != httpmsg.IDOther {
		if i := h.Find(st.id, 0); i >= 0 {
			return h.Value(i), true
		}
	}
	s := st.pseudo.span(h)
	if s.Len == 0 {
		return nil, false
	}
	return h.A.Bytes(s), true
}

// Default returns the format used when none is configured, for HTTP and TCP alike.
func Default() *Format { return defaultFormat }

var defaultFormat = must(Compile(DefaultHTTP))

func must(f *Format, err error) *Format {
	if err != nil {
		panic(err)
	}
	return f
}

// Compile compiles a text format. The error names an unknown operator or the place where the syntax is wrong.
func Compile(text string) (*Format, error) { return CompileText(text, false) }

// Options of a SubstitutionFormatString.
type Options struct {
	OmitEmpty bool // omit_empty_values: an absent value prints nothing instead of "-"; in JSON it is left out with its key
	Strings   bool // the older JSON format: every value is a string
	// ReqWithoutQuery enables the command of envoy.formatter.req_without_query.
	ReqWithoutQuery bool
}

// CompileText is Compile with omit_empty_values.
func CompileText(text string, omitEmpty bool) (*Format, error) {
	return CompileOptions(text, Options{OmitEmpty: omitEmpty})
}

// CompileOptions is Compile with options.
func CompileOptions(text string, o Options) (*Format, error) {
	ops, err := compileOps(text, o)
	if err != nil {
		return nil, err
	}
	f := &Format{ops: ops, omit: o.OmitEmpty}
	for i := range ops {
		if ops[i].code == opLiteral {
			f.tail = ops[i].text
			continue
		}
		f.text = append(f.text, newStep(f.tail, &ops[i]))
		f.tail = ""
	}
	return f, nil
}

// CompileHeader compiles the value of a header mutation: it also takes the older spellings UPSTREAM_METADATA(["a", "b"]),
// DYNAMIC_METADATA(["a", "b"]) and PER_REQUEST_STATE(key). Render it with AppendHeader.
func CompileHeader(text string) (*Format, error) {
	text = oldState.ReplaceAllString(text, "%FILTER_STATE($1:PLAIN)%")
	text = oldMeta.ReplaceAllStringFunc(text, func(s string) string {
		m := oldMeta.FindStringSubmatch(s)
		var path []string
		for _, p := range oldMetaPart.FindAllStringSubmatch(m[2], -1) {
			path = append(path, p[1])
		}
		return "%" + m[1] + "(" + strings.Join(path, ":") + ")%"
	})
	return CompileText(text, true)
}

var (
	oldState    = regexp.MustCompile(`%PER_REQUEST_STATE\(([^)]*)\)%`)
	oldMeta     = regexp.MustCompile(`%(UPSTREAM_METADATA|DYNAMIC_METADATA)\(\[\s*("[^"]*"(?:\s*,\s*"[^"]*")*)\s*\]\)%`)
	oldMetaPart = regexp.MustCompile(`"([^"]*)"`)
)

func compileOps(text string, opts Options) ([]op, error) {
	var ops []op
	literal := func(s string) {
		if n := len(ops); n > 0 && ops[n-1].code == opLiteral {
			ops[n-1].text += s
			return
		}
		ops = append(ops, op{code: opLiteral, text: s, max: -1})
	}
	err := tokenize(text, literal, func(c command) error {
		o, err := compileCommand(c, opts)
		if err == nil {
			ops = append(ops, o)
		}
		return err
	})
	return ops, err
}

// IsJSON tells whether the format is a JSON one (content type application/json where it makes a body).
func (f *Format) IsJSON() bool { return f.json != nil }

// Literal returns the text of a format without operators; ok is false for all others.
func (f *Format) Literal() (text string, ok bool) {
	switch {
	case f.json != nil:
		return "", false
	case len(f.ops) == 0:
		return "", true
	case len(f.ops) == 1 && (f.ops[0].code == opLiteral || f.ops[0].code == opConst):
		return f.ops[0].text, true
	}
	return "", false
}

// Append appends what the format makes of r: for text formats exactly the text (with no newline of its own), for JSON one object and '\n'.
// It allocates only when b has to grow. r.Conn and every part of r may be nil; it is only read.
func (f *Format) Append(b []byte, r *Record) []byte {
	if f.wire != nil {
		return f.wire.append(b, r)
	}
	if f.json != nil {
		b, _ = f.json.append(b, r, f.omit)
		return append(b, '\n')
	}
	for i := range f.text {
		st := &f.text[i]
		if at := len(b); cap(b)-at >= 8 && st.lead == "" {
			binary.LittleEndian.PutUint64(b[at:at+8], st.short)
			b = b[:at+int(st.n)]
		} else {
			b = st.appendLead(b)
		}
		if st.plain {
			if v, ok := st.view(r); ok {
				b = append(b, v...)
			} else if !f.omit {
				b = append(b, '-')
			}
			continue
		}
		var k kind
		if b, k = st.op.append(b, r, false); k == absent && !f.omit {
			b = append(b, '-')
		}
	}
	return append(b, f.tail...)
}

// appendLead appends the literal where one store does not do.
func (st *step) appendLead(b []byte) []byte {
	if st.lead != "" {
		return append(b, st.lead...)
	}
	var t [8]byte
	binary.LittleEndian.PutUint64(t[:], st.short)
	return append(b, t[:st.n]...)
}

// AppendHeader is Append for header mutations, where an absent value is empty.
func (f *Format) AppendHeader(b []byte, r *Record) []byte {
	if f.json != nil {
		return f.Append(b, r)
	}
	for i := range f.ops {
		b, _ = f.ops[i].append(b, r, false)
	}
	return b
}

// Uses tells whether any operator of the format is the one named, so that callers can skip work that nobody prints.
func (f *Format) Uses(operator string) bool {
	if f.wire != nil {
		return true // entries have everything
	}
	c, err := compileOps("%"+operator+"%", Options{})
	if err != nil || len(c) != 1 {
		return false
	}
	return uses(f.ops, c[0].code) || f.json != nil && f.json.uses(c[0].code)
}

func uses(ops []op, code opcode) bool {
	for i := range ops {
		if ops[i].code == code || uses(ops[i].ops, code) {
			return true
		}
	}
	return false
}

// errAt prefixes an error with the place inside a JSON format.
func errAt(path string, err error) error {
	if path == "" {
		return err
	}
	return fmt.Errorf("%s: %w", path, err)
}
