// SPDX-License-Identifier: Apache-2.0

package resource

import (
	udpav1 "github.com/cncf/xds/go/udpa/annotations"
	udpatypev1 "github.com/cncf/xds/go/udpa/type/v1"
	xdstypev3 "github.com/cncf/xds/go/xds/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
)

// redacted stands for every text and byte string of a field that the API calls sensitive, as in Envoy's dumps.
const redacted = "[redacted]"

// Redacted returns m without what the API marks as sensitive (private keys, passwords, ticket keys, generic secrets), at any depth, inside Any and
// TypedStruct too: texts and bytes become "[redacted]", other values are cleared. m itself is never changed; it is returned when nothing is sensitive.
func Redacted(m proto.Message) proto.Message {
	if !redact(m.ProtoReflect(), false, true, 0) {
		return m
	}
	m = proto.Clone(m)
	redact(m.ProtoReflect(), false, false, 0)
	return m
}

func sensitive(fd protoreflect.FieldDescriptor) bool {
	on, _ := proto.GetExtension(fd.Options(), udpav1.E_Sensitive).(bool)
	return on
}

// redact walks m and tells whether anything was sensitive; all makes everything so, dry changes nothing.
func redact(m protoreflect.Message, all, dry bool, depth int) (found bool) {
	if depth > canonicalDepthMax {
		return false
	}
	if a, ok := m.Interface().(*anypb.Any); ok {
		return redactAny(a, all, dry, depth)
	}
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		hide := all || sensitive(fd)
		found = found || hide
		if dry && hide {
			return false
		}
		found = redactField(m, fd, v, hide, dry, depth) || found
		return !(dry && found)
	})
	return found
}

func redactField(m protoreflect.Message, fd protoreflect.FieldDescriptor, v protoreflect.Value, hide, dry bool, depth int) (found bool) {
	switch {
	case fd.IsMap():
		if fd.MapValue().Message() == nil {
			if hide {
				m.Clear(fd)
			}
			return hide
		}
		v.Map().Range(func(_ protoreflect.MapKey, e protoreflect.Value) bool {
			found = redact(e.Message(), hide, dry, depth+1) || found
			return true
		})
	case fd.IsList() && fd.Message() != nil:
		for i := range v.List().Len() {
			found = redact(v.List().Get(i).Message(), hide, dry, depth+1) || found
		}
	case fd.IsList():
		if hide {
			m.Clear(fd)
		}
	case fd.Message() != nil:
		return redact(v.Message(), hide, dry, depth+1)
	case !hide:
	case fd.Kind() == protoreflect.StringKind:
		m.Set(fd, protoreflect.ValueOfString(redacted))
	case fd.Kind() == protoreflect.BytesKind:
		m.Set(fd, protoreflect.ValueOfBytes([]byte(redacted)))
	default:
		m.Clear(fd)
	}
	return found
}

func redactAny(a *anypb.Any, all, dry bool, depth int) bool {
	inner, err := a.UnmarshalNew()
	if err != nil {
		// A type that is not linked in is not read by anyone here; what it holds cannot be told.
		if all && !dry {
			a.Value = nil
		}
		return all
	}
	var found bool
	switch s := inner.(type) {
	case *xdstypev3.TypedStruct:
		found = redactTyped(s.GetTypeUrl(), s.GetValue(), all, depth)
	case *udpatypev1.TypedStruct:
		found = redactTyped(s.GetTypeUrl(), s.GetValue(), all, depth)
	default:
		found = redact(inner.ProtoReflect(), all, dry, depth+1)
	}
	if !found || dry {
		return found
	}
	if b, err := proto.Marshal(inner); err == nil {
		a.Value = b
	}
	return true
}

// redactTyped redacts the JSON form of a message; s is a copy of the caller's.
func redactTyped(url string, s *structpb.Struct, all bool, depth int) bool {
	mt, err := protoregistry.GlobalTypes.FindMessageByURL(url)
	if err != nil {
		return false
	}
	return redactStruct(s, mt.Descriptor(), all, depth+1)
}

func redactStruct(s *structpb.Struct, d protoreflect.MessageDescriptor, all bool, depth int) (found bool) {
	if depth > canonicalDepthMax {
		return false
	}
	if d.FullName() == "google.protobuf.Any" {
		mt, err := protoregistry.GlobalTypes.FindMessageByURL(s.GetFields()["@type"].GetStringValue())
		if err != nil {
			return false
		}
		d = mt.Descriptor()
	}
	for name, v := range s.GetFields() {
		fd := d.Fields().ByJSONName(name)
		if fd == nil {
			fd = d.Fields().ByTextName(name)
		}
		if fd == nil {
			continue
		}
		hide := all || sensitive(fd)
		found = redactValue(v, fd.Message(), hide, depth) || hide || found
	}
	return found
}

func redactValue(v *structpb.Value, d protoreflect.MessageDescriptor, hide bool, depth int) (found bool) {
	switch k := v.GetKind().(type) {
	case *structpb.Value_StructValue:
		if d != nil && !d.IsMapEntry() {
			return redactStruct(k.StructValue, d, hide, depth+1)
		}
		for _, e := range k.StructValue.GetFields() {
			var of protoreflect.MessageDescriptor
			if d != nil {
				of = d.Fields().ByNumber(2).Message()
			}
			found = redactValue(e, of, hide, depth+1) || found
		}
	case *structpb.Value_ListValue:
		for _, e := range k.ListValue.GetValues() {
			found = redactValue(e, d, hide, depth+1) || found
		}
	case *structpb.Value_StringValue:
		if hide {
			k.StringValue = redacted
		}
	}
	return found || hide
}
