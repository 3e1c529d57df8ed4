// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// walkDepthMax bounds the nesting the walker follows; protobuf itself stops at 10,000, configuration never passes 64.
const walkDepthMax = 64

// Finding is one set field that is not honoured.
type Finding struct {
	// Path is the full path of the field, in proto field names.
	Path Path
	// Class is ClassRefused or ClassAdvisory.
	Class Class
	// Reason says why, without the path.
	Reason string
	// Later: a later issue brings the feature.
	Later bool
}

// Err returns the finding as an error with its path; it wraps ErrLater when a later issue brings the feature.
func (f Finding) Err() error {
	if f.Later {
		return &FieldError{Path: f.Path, Err: laterError(f.Reason)}
	}
	return &FieldError{Path: f.Path, Err: errors.New(f.Reason)}
}

// laterError is a reason that is ErrLater.
type laterError string

func (e laterError) Error() string        { return string(e) }
func (e laterError) Is(target error) bool { return target == ErrLater }

// String returns "path: reason", the text of errors and warnings.
func (f Finding) String() string { return f.Path.String() + ": " + f.Reason }

// UnknownFields says what the walker makes of fields that the linked API does not know (newer Envoy fields, garbage).
type UnknownFields uint8

const (
	// UnknownWarn reports them as advisory: Envoy's default for dynamic resources accepts them.
	UnknownWarn UnknownFields = iota
	// UnknownRefuse refuses them: `--reject-unknown-dynamic-fields`, and static configuration by default.
	UnknownRefuse
	// UnknownIgnore is silent: `--ignore-unknown-dynamic-fields`, `--allow-unknown-static-fields`.
	UnknownIgnore
)

// Walk compares every set field of m (recursively, through messages that have a table) with the schema and returns the ones that are not
// honoured, in path order per message, with paths below at. A message without a table yields one refusal for each of its set fields. It
// never descends into google.protobuf messages; the content of an Any is walked by Table.Compile when its row is known.
//
// It costs about as much as the walk itself: nothing is allocated per field unless there is a finding.
func (s *Schema) Walk(m proto.Message, at Path, unknown UnknownFields) []Finding {
	w := walker{schema: s, unknown: unknown, at: at}
	w.visit = w.field
	r := m.ProtoReflect()
	w.message(r, s.tables[r.Descriptor().FullName()], nil)
	return w.out
}

type walker struct {
	// Immutable
	schema  *Schema
	unknown UnknownFields
	at      Path // of the message Walk was called with
	visit   func(protoreflect.FieldDescriptor, protoreflect.Value) bool

	// Position
	cur   frame
	steps []step // from the top message to the current one

	// Result
	out []Finding
}

// frame is the message being walked.
type frame struct {
	t      *table
	scopes []scope
}

// step is one field on the way down.
type step struct {
	name  string
	index int    // of a list element; -1 otherwise
	key   string // of a map entry
	isMap bool
}

// scope is one enclosing table that has dotted keys, with the dotted path walked since.
type scope struct {
	t      *table
	prefix string
}

func (w *walker) message(m protoreflect.Message, t *table, scopes []scope) {
	if len(w.steps) > walkDepthMax {
		w.add("", ClassRefused, "nested too deeply (limit "+strconv.Itoa(walkDepthMax)+")")
		return
	}
	if raw := m.GetUnknown(); len(raw) > 0 {
		w.unknownFields(raw)
	}
	if t != nil && len(t.dotted) > 0 {
		scopes = append(slices.Clip(scopes), scope{t: t})
	}
	start, saved := len(w.out), w.cur
	w.cur = frame{t, scopes}
	m.Range(w.visit)
	w.cur = saved
	// Range has no defined order; findings are sorted so that a NACK text is the same each time.
	if part := w.out[start:]; len(part) > 1 {
		sort.SliceStable(part, func(i, j int) bool { return part[i].Path < part[j].Path })
	}
}

func (w *walker) field(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
	f := w.cur
	var p *plan
	if f.t != nil {
		p = &f.t.plans[fd.Index()]
	}
	sup, ok := Support{}, false
	if len(f.scopes) > 0 {
		sup, ok = override(f.scopes, string(fd.Name()))
	}
	if !ok && p != nil {
		sup, ok = p.sup, p.listed
	}
	name := string(fd.Name())
	switch {
	case !ok:
		w.add(name, ClassRefused, "field is not supported")
		return true
	case sup.Class == ClassRefused || sup.Class == ClassAdvisory:
		w.add(name, sup.Class, reason(sup))
		w.out[len(w.out)-1].Later = sup.NotYet
		return true
	}
	if len(sup.Values) > 0 && !fd.IsList() && !fd.IsMap() {
		if got := scalarText(fd, v); !slices.Contains(sup.Values, got) {
			w.add(name, sup.Else, valueReason(got, sup))
			return true
		}
	}
	if sup.Class == ClassWhole {
		return true
	}
	w.descend(fd, v, p, name)
	return true
}

func (w *walker) descend(fd protoreflect.FieldDescriptor, v protoreflect.Value, p *plan, name string) {
	var here plan
	if p == nil || p.shape == shapeUnknown {
		here = w.schema.planOf(fd) // reached through an override only
		p = &here
	}
	if p.shape == shapeLeaf {
		if negative(fd, v) {
			w.add(name, ClassRefused, "invalid duration: expected a positive duration")
		}
		return
	}
	scopes := pushName(w.cur.scopes, name)
	w.steps = append(w.steps, step{name: name, index: -1})
	top := len(w.steps) - 1
	switch p.shape {
	case shapeMap:
		w.steps[top].isMap = true
		v.Map().Range(func(k protoreflect.MapKey, e protoreflect.Value) bool {
			w.steps[top].key = k.String()
			w.message(e.Message(), p.child, scopes)
			return true
		})
	case shapeList:
		l := v.List()
		for i := range l.Len() {
			w.steps[top].index = i
			w.message(l.Get(i).Message(), p.child, scopes)
		}
	default:
		w.message(v.Message(), p.child, scopes)
	}
	w.steps = w.steps[:top]
}

// negative tells whether a field is a google.protobuf.Duration below zero, which no field of Envoy's API may hold.
func negative(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
	if fd.Message() == nil || fd.IsList() || fd.IsMap() || fd.Message().FullName() != "google.protobuf.Duration" {
		return false
	}
	d := fd.Message().Fields()
	m := v.Message()
	return m.Get(d.ByName("seconds")).Int() < 0 || m.Get(d.ByName("nanos")).Int() < 0
}

// override finds the support of a field in the dotted keys of enclosing tables, the outermost first: the row knows best.
func override(scopes []scope, name string) (Support, bool) {
	for _, sc := range scopes {
		if sc.prefix == "" {
			continue
		}
		if sup, ok := sc.t.fields[sc.prefix+"."+name]; ok {
			return sup, true
		}
	}
	return Support{}, false
}

// pushName extends every scope by one name and drops those whose dotted keys cannot match any more.
func pushName(scopes []scope, name string) []scope {
	if len(scopes) == 0 {
		return nil
	}
	out := make([]scope, 0, len(scopes))
	for _, sc := range scopes {
		p := name
		if sc.prefix != "" {
			p = sc.prefix + "." + name
		}
		i := sort.SearchStrings(sc.t.dotted, p+".")
		if i < len(sc.t.dotted) && strings.HasPrefix(sc.t.dotted[i], p+".") {
			out = append(out, scope{t: sc.t, prefix: p})
		}
	}
	return out
}

// add reports field name of the current message; "" means the message itself.
func (w *walker) add(name string, c Class, reason string) {
	at := w.at
	for _, s := range w.steps {
		switch {
		case s.isMap:
			at = at.Key(s.name, s.key)
		case s.index >= 0:
			at = at.Index(s.name, s.index)
		default:
			at = at.Field(s.name)
		}
	}
	if name != "" {
		at = at.Field(name)
	}
	w.out = append(w.out, Finding{Path: at, Class: c, Reason: reason})
}

// unknownFields reports the numbers of fields that the linked API does not know, each once.
func (w *walker) unknownFields(raw []byte) {
	if w.unknown == UnknownIgnore {
		return
	}
	class := ClassAdvisory
	if w.unknown == UnknownRefuse {
		class = ClassRefused
	}
	seen := map[protowire.Number]bool{}
	for len(raw) > 0 {
		num, _, n := protowire.ConsumeField(raw)
		if n < 0 {
			return
		}
		raw = raw[n:]
		if !seen[num] {
			seen[num] = true
			w.add("", class, fmt.Sprintf("unknown field number %d", num))
		}
	}
}

func reason(s Support) string {
	if s.Why != "" {
		return s.Why
	}
	if s.Class == ClassAdvisory {
		return "field has no effect"
	}
	return "field is not supported"
}

func valueReason(got string, s Support) string {
	text := fmt.Sprintf("value %s is not supported (supported: %s)", got, strings.Join(s.Values, ", "))
	if s.Why != "" {
		text += ": " + s.Why
	}
	return text
}

// scalarText renders a scalar or wrapper value as Support.Values writes it.
func scalarText(fd protoreflect.FieldDescriptor, v protoreflect.Value) string {
	if fd.Kind() == protoreflect.EnumKind {
		if ev := fd.Enum().Values().ByNumber(v.Enum()); ev != nil {
			return string(ev.Name())
		}
		return strconv.Itoa(int(v.Enum()))
	}
	if md := fd.Message(); md != nil {
		inner := md.Fields().ByName("value")
		if !leaf(md.FullName()) || inner == nil || inner.Message() != nil {
			return "(message)"
		}
		return scalarText(inner, v.Message().Get(inner))
	}
	return v.String()
}
