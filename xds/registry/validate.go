// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"errors"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Validate runs the generated validation rules (protoc-gen-validate) of m and returns every violation with its field path below at, or
// nil. Messages without rules are valid. It does not look inside Any.
func Validate(m proto.Message, at Path) error {
	v, ok := m.(interface{ ValidateAll() error })
	if !ok {
		return nil
	}
	err := v.ValidateAll()
	if err == nil {
		return nil
	}
	var out []error
	violations(err, m.ProtoReflect().Descriptor(), at, &out)
	if len(out) == 0 {
		out = append(out, &FieldError{Path: at, Err: err})
	}
	return errors.Join(out...)
}

// violation is what every generated validation error implements.
type violation interface {
	Field() string
	Reason() string
	Cause() error
}

func violations(err error, md protoreflect.MessageDescriptor, at Path, out *[]error) {
	if m, ok := err.(interface{ AllErrors() []error }); ok {
		for _, e := range m.AllErrors() {
			violations(e, md, at, out)
		}
		return
	}
	v, ok := err.(violation)
	if !ok {
		*out = append(*out, &FieldError{Path: at, Err: err})
		return
	}
	name, next := protoName(md, v.Field())
	if cause := v.Cause(); cause != nil {
		before := len(*out)
		violations(cause, next, at.Join(name), out)
		if len(*out) > before {
			return
		}
	}
	*out = append(*out, &FieldError{Path: at.Join(name), Err: errors.New(v.Reason())})
}

// protoName turns the Go name the generated code reports (`LoadAssignment`, `Endpoints[3]`) into the proto field name, and returns the
// message the field leads to when it is one.
func protoName(md protoreflect.MessageDescriptor, goName string) (Path, protoreflect.MessageDescriptor) {
	base, index, _ := strings.Cut(goName, "[")
	if index != "" {
		index = "[" + index
	}
	if md != nil {
		for i := range md.Fields().Len() {
			fd := md.Fields().Get(i)
			if goCamel(string(fd.Name())) != base {
				continue
			}
			next := fd.Message()
			if fd.IsMap() {
				next = fd.MapValue().Message()
			}
			return Path(string(fd.Name()) + index), next
		}
		for i := range md.Oneofs().Len() {
			if od := md.Oneofs().Get(i); goCamel(string(od.Name())) == base {
				return Path(string(od.Name()) + index), nil
			}
		}
	}
	return Path(base + index), nil
}

// goCamel is protoc-gen-go's rule: an underscore before a lower-case letter is dropped and the letter raised; a first letter is raised.
func goCamel(s string) string {
	var b strings.Builder
	up := true
	for i := range len(s) {
		c := s[i]
		switch {
		case c == '_' && i+1 < len(s) && s[i+1] >= 'a' && s[i+1] <= 'z':
			up = true
		case up && c >= 'a' && c <= 'z':
			b.WriteByte(c - 'a' + 'A')
			up = false
		default:
			b.WriteByte(c)
			up = false
		}
	}
	return b.String()
}
