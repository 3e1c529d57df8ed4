// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// KindInfo is what the documentation needs to know of one Table.
type KindInfo struct {
	// Kind is the plural used in messages: "http filters".
	Kind string
	Rows []RowInfo
	// Later lists known type URLs that are refused until a later issue, with the feature they wait for.
	Later map[string]string
}

// RowInfo describes one row.
type RowInfo struct {
	Name    string
	Message protoreflect.FullName
	Status  Status
	Trust   Trust
	Notes   string
}

// Info returns the table's description, rows sorted by name.
func (t *Table[C]) Info() KindInfo {
	k := KindInfo{Kind: t.kind, Later: t.later}
	for i := range t.rows {
		r := &t.rows[i]
		k.Rows = append(k.Rows, RowInfo{r.Name, r.Message.ProtoReflect().Descriptor().FullName(), r.Status, r.Trust, r.Notes})
	}
	return k
}

// Section is one chapter of the documentation: a top-level message (a resource type, the bootstrap), or the rows of one kind of extension.
// Its messages are described by the schema its compiler checks them with; the same message may be listed differently elsewhere.
type Section struct {
	// Title of the chapter; "" for the kind's own name.
	Title   string
	Message protoreflect.FullName
	Kind    *KindInfo
	Schema  *Schema
}

// Document renders docs/xds-support.md from the tables that the program itself runs on.
type Document struct {
	Intro    string
	Sections []Section
}

// Markdown returns the document. The same tables give the same bytes.
func (d Document) Markdown() string {
	w := &docWriter{}
	w.b.WriteString(strings.TrimSpace(d.Intro) + "\n")
	for _, s := range d.Sections {
		w.schema, w.done = s.Schema, map[protoreflect.FullName]bool{}
		title := s.Title
		if title == "" && s.Kind != nil {
			title = strings.ToUpper(s.Kind.Kind[:1]) + s.Kind.Kind[1:]
		}
		w.b.WriteString("\n## " + title + "\n")
		if s.Kind != nil {
			w.kind(*s.Kind)
		}
		w.message(s.Message)
	}
	return w.b.String()
}

type docWriter struct {
	b      strings.Builder
	schema *Schema
	done   map[protoreflect.FullName]bool // described in this chapter
}

func (w *docWriter) kind(k KindInfo) {
	w.b.WriteByte('\n')
	w.b.WriteString("| name | message | status | security posture | notes |\n|---|---|---|---|---|\n")
	for _, r := range k.Rows {
		fmt.Fprintf(&w.b, "| `%s` | `%s` | %s | %s | %s |\n", r.Name, r.Message, r.Status, r.Trust, cell(r.Notes))
	}
	if len(k.Later) > 0 {
		w.b.WriteString("\nKnown, refused for now:\n\n")
		for _, u := range slices.Sorted(maps.Keys(k.Later)) {
			fmt.Fprintf(&w.b, "- `%s`: %s\n", u[strings.LastIndexByte(u, '/')+1:], cell(k.Later[u]))
		}
	}
	for _, r := range k.Rows {
		w.message(r.Message)
	}
}

// message writes the table of a message and then those of the messages it leads to, each once in the chapter.
func (w *docWriter) message(name protoreflect.FullName) {
	if w.done[name] {
		return
	}
	w.done[name] = true
	if w.schema == nil || name == "" {
		return
	}
	fields, ok := w.schema.Table(name)
	md, err := messageByName(name)
	if !ok || err != nil {
		return
	}
	fmt.Fprintf(&w.b, "\n### %s\n\n| field | support | notes |\n|---|---|---|\n", name)
	keys := slices.SortedFunc(maps.Keys(fields), func(a, b string) int { return before(md, a, b) })
	for _, key := range keys {
		if key == "*" {
			continue
		}
		s := fields[key]
		note := s.Why
		if len(s.Values) > 0 {
			note = strings.TrimSpace("only `" + strings.Join(s.Values, "`, `") + "`; else " + s.Else.String() + ". " + note)
		}
		fmt.Fprintf(&w.b, "| `%s` | %s | %s |\n", key, s.Class, cell(note))
	}
	w.rest(md, fields)
	for _, key := range keys {
		if next := leadsTo(md, key); next != "" && fields[key].Class == ClassSupported {
			w.message(next)
		}
	}
}

// rest names the fields no table lists.
func (w *docWriter) rest(md protoreflect.MessageDescriptor, fields Fields) {
	var names []string
	for i := range md.Fields().Len() {
		if n := string(md.Fields().Get(i).Name()); !listed(fields, n) {
			names = append(names, "`"+n+"`")
		}
	}
	if len(names) == 0 {
		return
	}
	sort.Strings(names)
	class := fields["*"].Class // refused when there is no such entry
	fmt.Fprintf(&w.b, "\nEverything else is %s: %s.\n", class, strings.Join(names, ", "))
}

func listed(fields Fields, name string) bool {
	_, ok := fields[name]
	return ok
}

// before sorts fields as the message declares them, dotted overrides behind, by name.
func before(md protoreflect.MessageDescriptor, a, b string) int {
	fa, fb := md.Fields().ByName(protoreflect.Name(a)), md.Fields().ByName(protoreflect.Name(b))
	switch {
	case fa != nil && fb != nil:
		return fa.Index() - fb.Index()
	case fa != nil:
		return -1
	case fb != nil:
		return 1
	}
	return strings.Compare(a, b)
}

func leadsTo(md protoreflect.MessageDescriptor, key string) protoreflect.FullName {
	fd := md.Fields().ByName(protoreflect.Name(key))
	if fd == nil {
		return ""
	}
	if fd.IsMap() {
		fd = fd.MapValue()
	}
	if fd.Message() == nil {
		return ""
	}
	return fd.Message().FullName()
}

func cell(s string) string { return strings.ReplaceAll(strings.ReplaceAll(s, "|", "\\|"), "\n", " ") }
