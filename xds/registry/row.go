// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// ErrUnknownType is wrapped by every error about a type URL that no row answers to; `is_optional` extensions are skipped on it.
var ErrUnknownType = errors.New("unknown type")

// ErrLater is wrapped by refusals that a later issue lifts: what is asked for is known but not there yet.
var ErrLater = errors.New("waits for a later issue")

// Status is the maturity of a row, as in Envoy's extension list.
type Status uint8

const (
	// StatusStable: all fields listed as supported are covered by tests.
	StatusStable Status = iota
	// StatusAlpha: works, may change.
	StatusAlpha
	// StatusPartial: honours a part of the message; the field table says which.
	StatusPartial
)

// String returns the word used in docs/xds-support.md.
func (s Status) String() string { return [...]string{"stable", "alpha", "partial"}[min(int(s), 2)] }

// Trust is the security posture of a row, in Envoy's words.
type Trust uint8

const (
	// TrustRobustDownstream: robust to untrusted downstream.
	TrustRobustDownstream Trust = iota
	// TrustRobustBoth: robust to untrusted downstream and upstream.
	TrustRobustBoth
	// TrustTrusted: requires trusted downstream and upstream.
	TrustTrusted
)

// String returns Envoy's name of the posture.
func (t Trust) String() string {
	return [...]string{"robust_to_untrusted_downstream", "robust_to_untrusted_downstream_and_upstream",
		"requires_trusted_downstream_and_upstream"}[min(int(t), 2)]
}

// Row is one supported extension. C is what its kind compiles to (an HTTP filter factory, a network filter, ...).
type Row[C any] struct {
	// Name is the extension's canonical name: `envoy.filters.http.router`.
	Name string
	// Message is a zero value of the configuration message; its full name makes the type URL.
	Message proto.Message
	// TypeURLs are further type URLs that carry the same message (older names); usually empty.
	TypeURLs []string
	Status   Status
	Trust    Trust
	// Notes is one sentence for docs/xds-support.md.
	Notes string
	// Messages are the field tables of the configuration message and of the messages below it that no other table covers. They must be
	// joined into the Schema by the assembler (Table.Messages returns them).
	Messages Messages
	// Compile builds the model object. m has the type of Message, was validated and walked; it must not be retained.
	// Errors should be made with Ctx.Errorf so that they carry a path.
	Compile func(c *Ctx, m proto.Message) (C, error)
}

// TypeURL returns the row's main type URL.
func (r *Row[C]) TypeURL() string { return TypeURL(r.Message) }

// TypeURL returns `type.googleapis.com/` and the full name of m.
func TypeURL(m proto.Message) string {
	return "type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName())
}

// Ctx is what a Compile function gets: where it is, what it may report to, and the driver's own environment.
type Ctx struct {
	// Path of the message being compiled, below the resource.
	Path Path
	// Schema used to walk nested messages. Never nil inside Compile.
	Schema *Schema
	// Unknown says what to do with unknown fields; follows the command line and whether the resource is static.
	Unknown UnknownFields
	// Report collects warnings; errors are returned. Never nil inside Compile.
	Report *Report
	// Env is the compile driver's environment (cluster names, stat ids, ...); rows get it with EnvOf.
	Env any
}

// EnvOf returns the driver's environment as the type the rows of this driver agree on. It panics on another type: that is a programming
// mistake of the driver, never caused by input.
func EnvOf[T any](c *Ctx) T { return c.Env.(T) }

// At returns a copy of c for the message at field name below c.
func (c *Ctx) At(p Path) *Ctx {
	d := *c
	d.Path = c.Path.Join(p)
	return &d
}

// Errorf returns an error whose text starts with the path of field (below c), or of c itself when field is empty.
func (c *Ctx) Errorf(field Path, format string, args ...any) error {
	return &FieldError{Path: c.Path.Join(field), Err: fmt.Errorf(format, args...)}
}

// Warnf reports an advisory finding at field.
func (c *Ctx) Warnf(field Path, format string, args ...any) {
	c.Report.Warn(Finding{Path: c.Path.Join(field), Class: ClassAdvisory, Reason: fmt.Sprintf(format, args...)})
}

// Check walks m (the message at c.Path) with the schema: advisory findings go to the report, refusals come back as one joined error.
func (c *Ctx) Check(m proto.Message) error {
	var errs []error
	for _, f := range c.Schema.Walk(m, c.Path, c.Unknown) {
		if f.Class == ClassAdvisory {
			c.Report.Warn(f)
			continue
		}
		errs = append(errs, f.Err())
	}
	return errors.Join(errs...)
}

// FieldError is an error at a place inside a resource. Its text is "path: reason".
type FieldError struct {
	Path Path
	Err  error
}

// Error returns "path: reason".
func (e *FieldError) Error() string { return e.Path.String() + ": " + e.Err.Error() }

// Unwrap returns the reason.
func (e *FieldError) Unwrap() error { return e.Err }

// Flatten returns the leaves of a (joined) error in order, so that every bad field is listed on its own. Errors wrapped in a
// single-cause wrapper stay whole. A nil error has no leaves.
func Flatten(err error) []error {
	if err == nil {
		return nil
	}
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		var out []error
		for _, e := range j.Unwrap() {
			out = append(out, Flatten(e)...)
		}
		return out
	}
	return []error{err}
}

// reportMax bounds the warnings kept for one resource; further ones are only counted.
const reportMax = 256

// Report collects the advisory findings of one resource. Not safe for concurrent use: each resource is compiled by one goroutine.
type Report struct {
	Warnings []Finding
	// Dropped counts warnings beyond the limit of 256.
	Dropped int
}

// Warn adds a finding.
func (r *Report) Warn(f Finding) {
	if len(r.Warnings) >= reportMax {
		r.Dropped++
		return
	}
	r.Warnings = append(r.Warnings, f)
}

// Table is the set of rows of one kind of extension. Immutable after NewTable.
type Table[C any] struct {
	kind  string
	rows  []Row[C]
	byURL map[string]int
	later map[string]string
}

// NewTable assembles rows of one kind; kind is the plural used in messages and documents ("http filters"). later names known type URLs
// that are not supported yet and the feature they wait for (their errors wrap ErrLater too). Duplicate type URLs or names are an error.
func NewTable[C any](kind string, rows []Row[C], later map[string]string) (*Table[C], error) {
	t := &Table[C]{kind: kind, rows: slices.Clone(rows), byURL: map[string]int{}, later: later}
	sort.SliceStable(t.rows, func(i, j int) bool { return t.rows[i].Name < t.rows[j].Name })
	for i := range t.rows {
		r := &t.rows[i]
		for _, u := range append([]string{r.TypeURL()}, r.TypeURLs...) {
			if _, dup := t.byURL[u]; dup {
				return nil, fmt.Errorf("registry: %s: two rows for %s", kind, u)
			}
			t.byURL[u] = i
		}
		if i > 0 && t.rows[i-1].Name == r.Name {
			return nil, fmt.Errorf("registry: %s: two rows named %s", kind, r.Name)
		}
	}
	for u := range later {
		if _, dup := t.byURL[u]; dup {
			return nil, fmt.Errorf("registry: %s: %s is both a row and listed for later", kind, u)
		}
	}
	return t, nil
}

// MustTable is NewTable for tables that are constants of the program.
func MustTable[C any](kind string, rows []Row[C], later map[string]string) *Table[C] {
	t, err := NewTable(kind, rows, later)
	if err != nil {
		panic(err)
	}
	return t
}

// Lookup returns the row for a type URL.
func (t *Table[C]) Lookup(typeURL string) (*Row[C], bool) {
	i, ok := t.byURL[canonicalURL(typeURL)]
	if !ok {
		return nil, false
	}
	return &t.rows[i], true
}

// Rows returns the rows sorted by name; the slice must not be changed.
func (t *Table[C]) Rows() []Row[C] { return t.rows }

// Messages returns the field tables of all rows, for NewSchema.
func (t *Table[C]) Messages() []Messages {
	var out []Messages
	for i := range t.rows {
		if t.rows[i].Messages != nil {
			out = append(out, t.rows[i].Messages)
		}
	}
	return out
}

// Compile compiles the extension in cfg, found at field below c (`filters[0].typed_config`): it unwraps TypedStruct, finds the row,
// decodes and validates the message, walks its fields and calls the row. name is the extension's own name field, for messages only.
// A nil or empty cfg is an error: Envoy v3 does not look up extensions by name. The error wraps ErrUnknownType when no row answers.
func (t *Table[C]) Compile(c *Ctx, field Path, name string, cfg *anypb.Any) (C, error) {
	var zero C
	if cfg == nil || cfg.GetTypeUrl() == "" {
		return zero, c.Errorf(field, "%s %q has no typed_config", singular(t.kind), name)
	}
	url, wrapped, err := Unwrap(cfg)
	if err != nil {
		return zero, c.Errorf(field, "%w", err)
	}
	row, ok := t.Lookup(url)
	if !ok {
		return zero, c.Errorf(field, "%w", t.unknown(name, url))
	}
	m := row.Message.ProtoReflect().New().Interface()
	if err := wrapped.DecodeStrict(m, c.Unknown); err != nil {
		return zero, c.Errorf(field, "%w", err)
	}
	sub := c.At(field)
	if err := errors.Join(Validate(m, sub.Path), sub.Check(m)); err != nil {
		return zero, err
	}
	return row.Compile(sub, m)
}

func (t *Table[C]) unknown(name, url string) error {
	if why, ok := t.later[canonicalURL(url)]; ok {
		return fmt.Errorf("%w %q of %s %q is not supported yet: %w", ErrUnknownType, url, singular(t.kind), name, laterError(laterText(why)))
	}
	return fmt.Errorf("%w %q of %s %q (known: %d %s, see docs/xds-support.md)", ErrUnknownType, url, singular(t.kind), name, len(t.rows), t.kind)
}

func singular(kind string) string { return strings.TrimSuffix(kind, "s") }

// canonicalURL keeps the part behind the last slash under the usual prefix: Envoy compares type names, not prefixes.
func canonicalURL(u string) string {
	if i := strings.LastIndexByte(u, '/'); i >= 0 {
		return "type.googleapis.com/" + u[i+1:]
	}
	return "type.googleapis.com/" + u
}
