// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// Class says what happens when a field is set.
type Class uint8

const (
	// ClassRefused: the resource is rejected with the field's path. It is the zero value, so a field that no table lists is refused.
	ClassRefused Class = iota
	// ClassSupported: the field is honoured as Envoy documents it.
	ClassSupported
	// ClassWhole: the field and everything below it is honoured; the walker does not descend (the compiler checks it by itself).
	ClassWhole
	// ClassAdvisory: the field only advises or tunes; it is accepted, not honoured, and listed as a warning.
	ClassAdvisory
)

// String returns the word used in docs/xds-support.md.
func (c Class) String() string {
	switch c {
	case ClassSupported, ClassWhole:
		return "supported"
	case ClassAdvisory:
		return "accepted with a warning"
	default:
		return "refused"
	}
}

// Support is what a table says about one field.
type Support struct {
	Class Class
	// Why is printed behind the path for refused and advisory fields, and in the notes column of the documentation for supported ones.
	Why string
	// Values, when not empty, are the only values accepted: enum value names, `true`/`false`, or decimal numbers (wrapper messages count
	// as their value). Another value is treated as Else.
	Values []string
	// Else is the class of a value outside Values: ClassRefused (default) or ClassAdvisory.
	Else Class
	// NotYet marks a refusal that a later issue lifts; its errors wrap ErrLater.
	NotYet bool
}

// Supported marks a field that is honoured. A message field is walked further with the table of its own message.
var Supported = Support{Class: ClassSupported}

// Whole marks a message field that is honoured with everything below it: the walker does not descend. Use it where the compiler itself
// checks every field (matchers, header options) or where all fields exist for the reader only.
var Whole = Support{Class: ClassWhole}

// Warn marks a field that only advises or tunes: accepted, not honoured, shown at /xds with this reason.
func Warn(why string) Support { return Support{Class: ClassAdvisory, Why: why} }

// Refuse marks a field that is refused, with a better reason than "not supported".
func Refuse(why string) Support { return Support{Class: ClassRefused, Why: why} }

// Later marks a field that is refused because a later issue brings the feature.
func Later(feature string) Support {
	return Support{Class: ClassRefused, Why: laterText(feature), NotYet: true}
}

// WarnLater marks a field that is accepted without effect, with a warning, until a later issue brings the feature.
func WarnLater(feature string) Support {
	return Support{Class: ClassAdvisory, Why: laterText(feature), NotYet: true}
}

func laterText(feature string) string { return "waits for a later issue (" + feature + ")" }

// Only marks a field of which just some values are honoured; any other set value is refused.
func Only(values ...string) Support { return Support{Class: ClassSupported, Values: values} }

// OnlyElseWarn is Only, with a warning instead of a refusal for every other value.
func OnlyElseWarn(why string, values ...string) Support {
	return Support{Class: ClassSupported, Values: values, Else: ClassAdvisory, Why: why}
}

// Note returns a copy of s with a note for the documentation (or, for refused and advisory fields, the reason).
func (s Support) Note(why string) Support {
	s.Why = why
	return s
}

// Fields is the table of one message: proto field name → support. A field that is set and not listed is refused. A dotted key
// (`common_http_protocol_options.max_headers_count`) overrides the table of the nested message when it is reached through this one;
// list elements are reached without an index (`virtual_hosts.routes.tracing`). The key `*` covers every field that is not listed.
type Fields map[string]Support

// Messages maps the full name of a message (`envoy.config.cluster.v3.Cluster`) to its table.
type Messages map[protoreflect.FullName]Fields

// Schema is the assembled and checked set of message tables. It is immutable; any number of goroutines may walk with it.
type Schema struct {
	tables map[protoreflect.FullName]*table
}

type table struct {
	fields Fields
	plans  []plan   // by index of the field in its message
	dotted []string // sorted dotted keys; empty for most tables
}

// plan is what the walker does with one field of one message.
type plan struct {
	sup    Support
	listed bool
	shape  shape
	child  *table // of the message the field leads to; nil when it has none
}

// shape is how a field is descended into.
type shape uint8

const (
	shapeUnknown shape = iota // not planned
	shapeLeaf                 // a scalar, or a google.protobuf message
	shapeMessage
	shapeList
	shapeMap
)

// planOf works out how fd is descended into.
func (s *Schema) planOf(fd protoreflect.FieldDescriptor) plan {
	el := fd
	if fd.IsMap() {
		el = fd.MapValue()
	}
	md := el.Message()
	if md == nil || leaf(md.FullName()) {
		return plan{shape: shapeLeaf}
	}
	p := plan{shape: shapeMessage, child: s.tables[md.FullName()]}
	switch {
	case fd.IsMap():
		p.shape = shapeMap
	case fd.IsList():
		p.shape = shapeList
	}
	return p
}

// plan fills the plans of a table when all tables are known.
func (s *Schema) plan(md protoreflect.MessageDescriptor, t *table) {
	t.plans = make([]plan, md.Fields().Len())
	rest, hasRest := t.fields["*"]
	for i := range t.plans {
		fd := md.Fields().Get(i)
		p := s.planOf(fd)
		p.sup, p.listed = t.fields[string(fd.Name())]
		if !p.listed && hasRest {
			p.sup, p.listed = rest, true
		}
		t.plans[i] = p
	}
}

// NewSchema joins tables and checks them: every message must be linked in (see protos.go), every listed field must exist, a message
// has one table only, and a Supported message field must lead to a message that has a table (or be Whole). All errors are returned
// at once, joined.
func NewSchema(sets ...Messages) (*Schema, error) {
	s := &Schema{tables: map[protoreflect.FullName]*table{}}
	var bad []string
	for _, set := range sets {
		for name, f := range set {
			if _, dup := s.tables[name]; dup {
				bad = append(bad, fmt.Sprintf("%s: two tables", name))
				continue
			}
			md, err := messageByName(name)
			if err != nil {
				bad = append(bad, fmt.Sprintf("%s: not linked in (add its package to protos.go)", name))
				continue
			}
			t, errs := newTable(md, f)
			bad = append(bad, errs...)
			s.tables[name] = t
		}
	}
	for name, t := range s.tables {
		md, err := messageByName(name)
		if err != nil {
			continue
		}
		bad = append(bad, s.checkReach(md, t)...)
		s.plan(md, t)
	}
	if len(bad) > 0 {
		sort.Strings(bad)
		return nil, fmt.Errorf("registry: %s", strings.Join(slices.Compact(bad), "; "))
	}
	return s, nil
}

// MustSchema is NewSchema for tables that are constants of the program: it panics on an error, which is a programming mistake that every
// test run finds.
func MustSchema(sets ...Messages) *Schema {
	s, err := NewSchema(sets...)
	if err != nil {
		panic(err)
	}
	return s
}

// Table returns the table of a message, and whether it has one.
func (s *Schema) Table(name protoreflect.FullName) (Fields, bool) {
	t, ok := s.tables[name]
	if !ok {
		return nil, false
	}
	return t.fields, true
}

// Names returns the messages that have a table, sorted.
func (s *Schema) Names() []protoreflect.FullName {
	out := make([]protoreflect.FullName, 0, len(s.tables))
	for n := range s.tables {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

func messageByName(name protoreflect.FullName) (protoreflect.MessageDescriptor, error) {
	mt, err := protoregistry.GlobalTypes.FindMessageByName(name)
	if err != nil {
		return nil, err
	}
	return mt.Descriptor(), nil
}

func newTable(md protoreflect.MessageDescriptor, f Fields) (*table, []string) {
	t := &table{fields: f}
	var bad []string
	for key, sup := range f {
		if key == "*" {
			continue
		}
		if strings.Contains(key, ".") {
			if !dottedExists(md, key) {
				bad = append(bad, fmt.Sprintf("%s: no field %q", md.FullName(), key))
			}
			t.dotted = append(t.dotted, key)
			continue
		}
		fd := md.Fields().ByName(protoreflect.Name(key))
		if fd == nil {
			bad = append(bad, fmt.Sprintf("%s: no field %q", md.FullName(), key))
			continue
		}
		bad = append(bad, checkValues(fd, sup)...)
	}
	sort.Strings(t.dotted)
	return t, bad
}

func checkValues(fd protoreflect.FieldDescriptor, sup Support) []string {
	if len(sup.Values) == 0 || fd.Kind() != protoreflect.EnumKind {
		return nil
	}
	var bad []string
	for _, v := range sup.Values {
		if fd.Enum().Values().ByName(protoreflect.Name(v)) == nil {
			bad = append(bad, fmt.Sprintf("%s: no enum value %q", fd.FullName(), v))
		}
	}
	return bad
}

func dottedExists(md protoreflect.MessageDescriptor, key string) bool {
	parts := strings.Split(key, ".")
	for i, p := range parts {
		fd := md.Fields().ByName(protoreflect.Name(p))
		if fd == nil {
			return false
		}
		if i == len(parts)-1 {
			return true
		}
		if fd.IsMap() {
			fd = fd.MapValue()
		}
		if fd.Message() == nil {
			return false
		}
		md = fd.Message()
	}
	return true
}

// checkReach reports Supported message fields whose message has no table, so that "unlisted" can never mean "unchecked".
func (s *Schema) checkReach(md protoreflect.MessageDescriptor, t *table) []string {
	var bad []string
	for key, sup := range t.fields {
		if sup.Class != ClassSupported || key == "*" || strings.Contains(key, ".") {
			continue
		}
		fd := md.Fields().ByName(protoreflect.Name(key))
		if fd == nil {
			continue
		}
		if fd.IsMap() {
			fd = fd.MapValue()
		}
		if fd.Message() == nil || leaf(fd.Message().FullName()) {
			continue
		}
		if _, ok := s.tables[fd.Message().FullName()]; !ok {
			bad = append(bad, fmt.Sprintf("%s.%s: %s has no table (mark the field Whole if the compiler checks it)",
				md.FullName(), key, fd.Message().FullName()))
		}
	}
	return bad
}

// leaf reports whether a message is a value rather than a structure: the walker never descends into it. An Any is a leaf because only the
// row of its type knows its table (Table.Compile walks it).
func leaf(name protoreflect.FullName) bool {
	return strings.HasPrefix(string(name), "google.protobuf.")
}
