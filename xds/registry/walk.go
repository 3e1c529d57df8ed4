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
// honoured, in field order, with paths below at. A message without a table yields one refusal for each of its set fields. It never
// descends into google.protobuf messages; the content of an Any is walked by Table.Compile when its row is known.
func (s *Schema) Walk(m proto.Message, at Path, unknown UnknownFields) []Finding {
	w := walker{schema: s, unknown: unknown}
	w.message(m.ProtoReflect(), at, nil, 0)
	return w.out
}

type walker struct {
	// Immutable
	schema  *Schema
	unknown UnknownFields
	// Result
	out []Finding
}

// scope is one enclosing table that has dotted keys, with the dotted path walked since.
type scope struct {
	t      *table
	prefix string
}

func (w *walker) message(m protoreflect.Message, at Path, scopes []scope, depth int) {
	if depth > walkDepthMax {
		w.add(at, ClassRefused, "nested too deeply (limit "+strconv.Itoa(walkDepthMax)+")")
		return
	}
	t := w.schema.tables[m.Descriptor().FullName()]
	if raw := m.GetUnknown(); len(raw) > 0 {
		w.unknownFields(raw, at)
	}
	if t != nil && len(t.dotted) > 0 {
		scopes = append(slices.Clip(scopes), scope{t: t})
	}
	start := len(w.out)
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		w.field(t, fd, v, at, scopes, depth)
		return true
	})
	// Range has no defined order; findings are sorted so that a NACK text is the same each time.
	part := w.out[start:]
	if len(part) > 1 {
		sort.SliceStable(part, func(i, j int) bool { return part[i].Path < part[j].Path })
	}
}

func (w *walker) field(t *table, fd protoreflect.FieldDescriptor, v protoreflect.Value, at Path, scopes []scope, depth int) {
	name := string(fd.Name())
	sup, ok := lookup(t, fd, name, scopes)
	if !ok {
		w.add(at.Field(name), ClassRefused, "field is not supported")
		return
	}
	if sup.Class == ClassRefused || sup.Class == ClassAdvisory {
		w.out = append(w.out, Finding{Path: at.Field(name), Class: sup.Class, Reason: reason(sup), Later: sup.NotYet})
		return
	}
	if len(sup.Values) > 0 && !fd.IsList() && !fd.IsMap() {
		if got := scalarText(fd, v); !slices.Contains(sup.Values, got) {
			w.add(at.Field(name), sup.Else, valueReason(got, sup))
			return
		}
	}
	if sup.Class == ClassWhole {
		return
	}
	w.descend(fd, v, at, pushName(scopes, name), depth)
}

func (w *walker) descend(fd protoreflect.FieldDescriptor, v protoreflect.Value, at Path, scopes []scope, depth int) {
	name := string(fd.Name())
	switch {
	case fd.IsMap():
		if md := fd.MapValue().Message(); md == nil || leaf(md.FullName()) {
			return
		}
		v.Map().Range(func(k protoreflect.MapKey, e protoreflect.Value) bool {
			w.message(e.Message(), at.Key(name, k.String()), scopes, depth+1)
			return true
		})
	case fd.Message() == nil || leaf(fd.Message().FullName()):
	case fd.IsList():
		l := v.List()
		for i := range l.Len() {
			w.message(l.Get(i).Message(), at.Index(name, i), scopes, depth+1)
		}
	default:
		w.message(v.Message(), at.Field(name), scopes, depth+1)
	}
}

// lookup finds the support of a field: the outermost dotted override first (the row knows best), then the message's own table.
func lookup(t *table, fd protoreflect.FieldDescriptor, name string, scopes []scope) (Support, bool) {
	for _, sc := range scopes {
		if sc.prefix == "" {
			continue
		}
		if sup, ok := sc.t.fields[sc.prefix+"."+name]; ok {
			return sup, true
		}
	}
	if t == nil {
		return Support{}, false
	}
	if sup, ok := t.byNum[fd.Number()]; ok {
		return sup, true
	}
	return t.rest, t.hasRest
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

func (w *walker) add(at Path, c Class, reason string) {
	w.out = append(w.out, Finding{Path: at, Class: c, Reason: reason})
}

// unknownFields reports the numbers of fields that the linked API does not know, each once.
func (w *walker) unknownFields(raw []byte, at Path) {
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
			w.add(at, class, fmt.Sprintf("unknown field number %d", num))
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
