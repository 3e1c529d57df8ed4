// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	xdstype "github.com/cncf/xds/go/xds/type/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"sidecar/xds/registry"
)

// depthMax bounds nesting of the document; protobuf's own JSON limit is 100 as well.
const depthMax = 100

// errorsMax bounds the errors collected from one document; a thousand wrong lines help nobody.
const errorsMax = 200

var errDepth = errors.New("the document is nested too deeply")

// builder turns a document tree into a message by protojson's rules, but goes on after an error and knows the path of each.
type builder struct {
	// Immutable
	allowUnknown bool
	// Result
	errs     []error
	warnings []registry.Finding
}

func (b *builder) fail(at registry.Path, format string, args ...any) {
	if len(b.errs) < errorsMax {
		b.errs = append(b.errs, &registry.FieldError{Path: at, Err: fmt.Errorf(format, args...)})
	}
}

// message fills m from the object v.
func (b *builder) message(m protoreflect.Message, v any, at registry.Path, depth int) {
	if depth > depthMax {
		b.fail(at, "%w", errDepth)
		return
	}
	object, ok := v.(map[string]any)
	if !ok {
		b.fail(at, "%s expected, got %s", "an object", kindOf(v))
		return
	}
	if a, ok := m.Interface().(*anypb.Any); ok {
		b.anyMessage(a, object, at, depth)
		return
	}
	oneofs := map[protoreflect.Name]string{}
	for _, key := range slices.Sorted(maps.Keys(object)) {
		fd := fieldOf(m.Descriptor(), key)
		if fd == nil {
			b.unknown(at.Field(key))
			continue
		}
		if object[key] == nil && !takesNull(fd) {
			continue
		}
		if od := fd.ContainingOneof(); od != nil && !od.IsSynthetic() {
			if before, dup := oneofs[od.Name()]; dup {
				b.fail(at.Field(key), "only one of %q and %q may be set", before, key)
				continue
			}
			oneofs[od.Name()] = key
		}
		b.field(m, fd, object[key], at.Field(string(fd.Name())), depth)
	}
}

func (b *builder) unknown(at registry.Path) {
	if b.allowUnknown {
		b.warnings = append(b.warnings, registry.Finding{Path: at, Class: registry.ClassAdvisory, Reason: "unknown field, ignored"})
		return
	}
	b.fail(at, "unknown field")
}

// fieldOf finds a field by its proto name or its JSON name.
func fieldOf(md protoreflect.MessageDescriptor, key string) protoreflect.FieldDescriptor {
	if fd := md.Fields().ByName(protoreflect.Name(key)); fd != nil {
		return fd
	}
	return md.Fields().ByJSONName(key)
}

// takesNull reports whether null is a value of the field rather than its absence.
func takesNull(fd protoreflect.FieldDescriptor) bool {
	return fd.Message() != nil && fd.Message().FullName() == "google.protobuf.Value" && !fd.IsList() && !fd.IsMap()
}

func (b *builder) field(m protoreflect.Message, fd protoreflect.FieldDescriptor, v any, at registry.Path, depth int) {
	switch {
	case fd.IsMap():
		b.mapField(m, fd, v, at, depth)
	case fd.IsList():
		list, ok := v.([]any)
		if !ok {
			list = []any{v} // one value stands for a list of one, as Envoy reads it
		}
		dst := m.Mutable(fd).List()
		for i, e := range list {
			el := registry.Path(fmt.Sprintf("%s[%d]", at, i))
			if structured(fd.Message()) {
				b.message(dst.AppendMutable().Message(), e, el, depth+1)
				continue
			}
			if got, ok := b.leaf(fd, []any{e}, el); ok {
				dst.Append(got.List().Get(0))
			}
		}
	case structured(fd.Message()):
		b.message(m.Mutable(fd).Message(), v, at, depth+1)
	default:
		if object, ok := v.(map[string]any); ok && timeForm(fd.Message()) {
			b.seconds(m.Mutable(fd).Message(), object, at)
			return
		}
		if object, ok := v.(map[string]any); ok && wrapper(fd.Message()) {
			m.Mutable(fd) // set, whatever is in it
			if v, at = b.unwrapped(object, at); v == nil {
				return
			}
		}
		if got, ok := b.leaf(fd, v, at); ok {
			m.Set(fd, got)
		}
	}
}

// wrapper reports whether a message is one of google/protobuf/wrappers.proto, which Envoy also takes as an object with the field value; protojson takes only
// the value itself.
func wrapper(md protoreflect.MessageDescriptor) bool {
	return md != nil && md.ParentFile().Path() == "google/protobuf/wrappers.proto"
}

// unwrapped takes the value out of the object that stands for a wrapper; nil when there is none.
func (b *builder) unwrapped(object map[string]any, at registry.Path) (any, registry.Path) {
	for _, key := range slices.Sorted(maps.Keys(object)) {
		if key != "value" {
			b.unknown(at.Field(key))
		}
	}
	return object["value"], at.Field("value")
}

// timeForm reports whether a field is a time, which Envoy also takes as an object of seconds and nanos; protojson takes only text such as "0.5s".
func timeForm(md protoreflect.MessageDescriptor) bool {
	return md != nil && (md.FullName() == "google.protobuf.Duration" || md.FullName() == "google.protobuf.Timestamp")
}

// seconds fills a Duration or Timestamp from an object.
func (b *builder) seconds(m protoreflect.Message, object map[string]any, at registry.Path) {
	for _, key := range slices.Sorted(maps.Keys(object)) {
		fd := fieldOf(m.Descriptor(), key)
		if fd == nil {
			b.unknown(at.Field(key))
			continue
		}
		if object[key] == nil {
			continue
		}
		text, err := json.Marshal(object[key])
		if err != nil {
			b.fail(at.Field(key), "%s", jsonReason(err))
			continue
		}
		// The fields themselves cannot be given to protojson, numbers of their kinds can.
		var i64 wrapperspb.Int64Value
		var i32 wrapperspb.Int32Value
		var value protoreflect.Value
		if fd.Kind() == protoreflect.Int64Kind {
			err = protojson.Unmarshal(text, &i64)
			value = protoreflect.ValueOfInt64(i64.GetValue())
		} else {
			err = protojson.Unmarshal(text, &i32)
			value = protoreflect.ValueOfInt32(i32.GetValue())
		}
		if err != nil {
			b.fail(at.Field(key), "%s", protoReason(err))
			continue
		}
		m.Set(fd, value)
	}
}

func (b *builder) mapField(m protoreflect.Message, fd protoreflect.FieldDescriptor, v any, at registry.Path, depth int) {
	object, ok := v.(map[string]any)
	if !ok {
		b.fail(at, "an object expected, got %s", kindOf(v))
		return
	}
	dst := m.Mutable(fd).Map()
	for _, key := range slices.Sorted(maps.Keys(object)) {
		el := registry.Path(fmt.Sprintf("%s[%q]", at, key))
		if !structured(fd.MapValue().Message()) {
			if got, ok := b.leaf(fd, map[string]any{key: object[key]}, el); ok {
				got.Map().Range(func(k protoreflect.MapKey, e protoreflect.Value) bool {
					dst.Set(k, e)
					return true
				})
			}
			continue
		}
		if fd.MapKey().Kind() != protoreflect.StringKind {
			b.fail(el, "maps with keys of type %s are not supported", fd.MapKey().Kind())
			continue
		}
		b.message(dst.Mutable(protoreflect.ValueOfString(key).MapKey()).Message(), object[key], el, depth+1)
	}
}

// structured reports whether a message is walked field by field; the well-known types have JSON forms of their own.
func structured(md protoreflect.MessageDescriptor) bool {
	return md != nil && (!strings.HasPrefix(string(md.FullName()), "google.protobuf.") || md.FullName() == "google.protobuf.Any")
}

// leaf converts one value with protojson itself, in a message that holds nothing else.
func (b *builder) leaf(fd protoreflect.FieldDescriptor, v any, at registry.Path) (protoreflect.Value, bool) {
	mt, err := protoregistry.GlobalTypes.FindMessageByName(fd.ContainingMessage().FullName())
	if err != nil {
		b.fail(at, "message %s is not linked in", fd.ContainingMessage().FullName())
		return protoreflect.Value{}, false
	}
	text, err := json.Marshal(map[string]any{string(fd.Name()): enumCase(fd, v)})
	if err != nil {
		b.fail(at, "%s", jsonReason(err))
		return protoreflect.Value{}, false
	}
	tmp := mt.New()
	if err := protojson.Unmarshal(text, tmp.Interface()); err != nil {
		b.fail(at, "%s", protoReason(err))
		return protoreflect.Value{}, false
	}
	return tmp.Get(fd), true
}

// enumCase upper-cases enum names that only fit then: Envoy parses them without regard to case.
func enumCase(fd protoreflect.FieldDescriptor, v any) any {
	if fd.Kind() != protoreflect.EnumKind {
		return v
	}
	if list, ok := v.([]any); ok && len(list) == 1 {
		return []any{enumName(fd, list[0])}
	}
	return enumName(fd, v)
}

func enumName(fd protoreflect.FieldDescriptor, v any) any {
	s, ok := v.(string)
	if !ok || fd.Enum().Values().ByName(protoreflect.Name(s)) != nil {
		return v
	}
	if up := strings.ReplaceAll(strings.ToUpper(s), "-", "_"); fd.Enum().Values().ByName(protoreflect.Name(up)) != nil {
		return up
	}
	return v
}

// anyMessage packs the object of an Any. A message that is not linked in is kept as a TypedStruct with its type URL.
func (b *builder) anyMessage(a *anypb.Any, object map[string]any, at registry.Path, depth int) {
	url, ok := object["@type"].(string)
	if !ok || url == "" {
		if len(object) > 0 {
			b.fail(at, `"@type" is missing`)
		}
		return
	}
	rest := maps.Clone(object)
	delete(rest, "@type")
	mt, err := protoregistry.GlobalTypes.FindMessageByURL(url)
	if err != nil {
		b.keepUnknown(a, url, rest, at)
		return
	}
	inner := mt.New()
	switch {
	case !structured(mt.Descriptor()):
		text, _ := json.Marshal(object)
		if err := protojson.Unmarshal(text, a); err != nil {
			b.fail(at, "%s", protoReason(err))
		}
		return
	case url == registry.XDSTypedStructURL || url == registry.UDPATypedStructURL:
		b.checkTypedStruct(rest, at, depth)
	}
	b.message(inner, rest, at, depth+1)
	b.pack(a, inner.Interface(), url, at)
}

func (b *builder) pack(a *anypb.Any, m proto.Message, url string, at registry.Path) {
	bytes, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		b.fail(at, "%s", protoReason(err))
		return
	}
	a.TypeUrl, a.Value = url, bytes
}

// keepUnknown stores the object of an unknown type as xds.type.v3.TypedStruct: registry.Unwrap returns the original type URL.
func (b *builder) keepUnknown(a *anypb.Any, url string, rest map[string]any, at registry.Path) {
	text, err := json.Marshal(rest)
	if err != nil {
		b.fail(at, "%s", jsonReason(err))
		return
	}
	var st structpb.Struct
	if err := protojson.Unmarshal(text, &st); err != nil {
		b.fail(at, "%s", protoReason(err))
		return
	}
	b.pack(a, &xdstype.TypedStruct{TypeUrl: url, Value: &st}, registry.XDSTypedStructURL, at)
}

// checkTypedStruct reports the errors of a TypedStruct's value now, with paths, when its message is linked in. Unknown fields in it are
// accepted, as Envoy does.
func (b *builder) checkTypedStruct(object map[string]any, at registry.Path, depth int) {
	url, _ := object["type_url"].(string)
	if url == "" {
		url, _ = object["typeUrl"].(string)
	}
	mt, err := protoregistry.GlobalTypes.FindMessageByURL(url)
	if err != nil || object["value"] == nil || !structured(mt.Descriptor()) {
		return
	}
	sub := builder{allowUnknown: true}
	sub.message(mt.New(), object["value"], at.Field("value"), depth+1)
	b.errs = append(b.errs, sub.errs...)
	b.warnings = append(b.warnings, sub.warnings...)
}

func kindOf(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case bool:
		return fmt.Sprintf("the boolean %v", v)
	case json.Number:
		return "the number " + v.String()
	case string:
		return fmt.Sprintf("the string %.40q", v)
	case []any:
		return "a list"
	default:
		return "an object"
	}
}

var position = regexp.MustCompile(`(syntax error )?\(line \d+:\d+\): `)

// protoReason strips prefix, random spaces and the meaningless position from a protojson error.
func protoReason(err error) string {
	s := strings.ReplaceAll(err.Error(), "\u00a0", " ")
	return position.ReplaceAllString(strings.TrimPrefix(s, "proto: "), "")
}
