// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"fmt"
	"strings"

	udpatype "github.com/cncf/xds/go/udpa/type/v1"
	xdstype "github.com/cncf/xds/go/xds/type/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
)

// Type URLs of the two wrappers that carry an extension's configuration as a Struct.
const (
	XDSTypedStructURL  = "type.googleapis.com/xds.type.v3.TypedStruct"
	UDPATypedStructURL = "type.googleapis.com/udpa.type.v1.TypedStruct"
)

// typedStructDepthMax bounds TypedStruct inside TypedStruct.
const typedStructDepthMax = 16

// Content is the configuration inside an Any after unwrapping: either the bytes of the message, or a Struct in its JSON form.
type Content struct {
	bytes []byte
	value *structpb.Struct
	json  bool
}

// Unwrap returns the type URL of the configuration that cfg carries and its content, looking through xds.type.v3.TypedStruct and
// udpa.type.v1.TypedStruct (nested at most 16 deep). It does not need the inner type to be linked in.
func Unwrap(cfg *anypb.Any) (string, Content, error) {
	url := cfg.GetTypeUrl()
	var value *structpb.Struct
	switch canonicalURL(url) {
	case XDSTypedStructURL:
		var ts xdstype.TypedStruct
		if err := proto.Unmarshal(cfg.GetValue(), &ts); err != nil {
			return "", Content{}, fmt.Errorf("malformed TypedStruct: %w", err)
		}
		url, value = ts.GetTypeUrl(), ts.GetValue()
	case UDPATypedStructURL:
		var ts udpatype.TypedStruct
		if err := proto.Unmarshal(cfg.GetValue(), &ts); err != nil {
			return "", Content{}, fmt.Errorf("malformed TypedStruct: %w", err)
		}
		url, value = ts.GetTypeUrl(), ts.GetValue()
	default:
		return url, Content{bytes: cfg.GetValue()}, nil
	}
	for range typedStructDepthMax {
		if url == "" {
			return "", Content{}, fmt.Errorf("TypedStruct without type_url")
		}
		if c := canonicalURL(url); c != XDSTypedStructURL && c != UDPATypedStructURL {
			return url, Content{value: value, json: true}, nil
		}
		inner := value.GetFields()
		url = firstString(inner, "type_url", "typeUrl")
		value = inner["value"].GetStructValue()
	}
	return "", Content{}, fmt.Errorf("TypedStruct nested too deeply (limit %d)", typedStructDepthMax)
}

func firstString(f map[string]*structpb.Value, keys ...string) string {
	for _, k := range keys {
		if s := f[k].GetStringValue(); s != "" {
			return s
		}
	}
	return ""
}

// DecodeInto decodes the content into m. Unknown fields of a Struct are dropped, as Envoy does for TypedStruct in dynamic resources.
func (c Content) DecodeInto(m proto.Message) error { return c.decode(m, UnknownIgnore) }

// DecodeStrict is DecodeInto, but with UnknownRefuse an unknown field of a Struct is an error: Envoy's rule for static resources.
func (c Content) DecodeStrict(m proto.Message, unknown UnknownFields) error {
	return c.decode(m, unknown)
}

func (c Content) decode(m proto.Message, unknown UnknownFields) error {
	if !c.json {
		if err := proto.Unmarshal(c.bytes, m); err != nil {
			return fmt.Errorf("malformed %s: %s", m.ProtoReflect().Descriptor().FullName(), protoReason(err))
		}
		return nil
	}
	if c.value == nil {
		return nil
	}
	text, err := protojson.Marshal(c.value)
	if err != nil {
		return fmt.Errorf("malformed TypedStruct value: %s", protoReason(err))
	}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: unknown != UnknownRefuse}).Unmarshal(text, m); err != nil {
		return fmt.Errorf("TypedStruct value does not fit %s: %s", m.ProtoReflect().Descriptor().FullName(), protoReason(err))
	}
	return nil
}

// Struct returns the JSON form for content that came as a TypedStruct, and whether it did.
func (c Content) Struct() (*structpb.Struct, bool) { return c.value, c.json }

// protoReason strips the decorations of the protobuf library's error texts (they contain a random no-break space by design).
func protoReason(err error) string {
	s := strings.ReplaceAll(err.Error(), "\u00a0", " ")
	s = strings.TrimPrefix(s, "proto: ")
	return s
}
