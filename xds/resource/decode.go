// SPDX-License-Identifier: Apache-2.0

package resource

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"

	"sidecar/xds/registry"
)

// MaxBytes is the default limit for one encoded resource. 100,000 endpoints are about 6 MB; nothing legitimate comes near.
const MaxBytes = 64 << 20

// Hash identifies content: equal for two resources that mean the same, whatever the wire order of their fields or map entries.
type Hash [16]byte

// Error is why one resource was refused. Its text is `LDS "name": path: reason`.
type Error struct {
	Type Type
	// Name of the resource; "" when it could not be found, then Index tells which one of its response it was.
	Name  string
	Index int
	// Path of the field inside the resource; "" when the resource as a whole is meant.
	Path registry.Path
	// Reason in lower case, without the path.
	Reason string
}

// Error returns the full text.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Type.String())
	if e.Name != "" {
		fmt.Fprintf(&b, " %q: ", e.Name)
	} else {
		fmt.Fprintf(&b, " resource #%d: ", e.Index)
	}
	if e.Path != "" {
		b.WriteString(string(e.Path) + ": ")
	}
	b.WriteString(e.Reason)
	return b.String()
}

// Errors turns any error about one resource (joined, with registry.FieldError leaves) into one *Error per bad field.
func Errors(t Type, name string, err error) []*Error {
	var out []*Error
	for _, leaf := range registry.Flatten(err) {
		e := &Error{Type: t, Name: name, Reason: leaf.Error()}
		var own *Error
		var fe *registry.FieldError
		switch {
		case errors.As(leaf, &own):
			e = own
		case errors.As(leaf, &fe):
			e.Path, e.Reason = fe.Path, fe.Err.Error()
		}
		out = append(out, e)
	}
	return out
}

// Decoded is one resource that unmarshals and passes the generated validation.
type Decoded struct {
	Type Type
	// Name inside the message: the one that counts, also when a delta response calls it something else outside.
	Name string
	// Hash of the content, independent of the order of fields on the wire, also inside the Any messages that are linked in.
	Hash Hash
	// Message has the type's Go type (*listenerv3.Listener, ...). Owned by the caller.
	Message proto.Message
}

// Options of Decode. The zero value is ready to use.
type Options struct {
	// MaxBytes limits one encoded resource; 0 means the package's MaxBytes.
	MaxBytes int
}

// Decode decodes the resource in body (the value of an Any with type URL url) as type t. All violations come back at once as a joined
// error of *Error.
func Decode(t Type, url string, body []byte, o Options) (*Decoded, error) {
	name := Peek(body)
	fail := func(format string, args ...any) error {
		return &Error{Type: t, Name: name, Reason: fmt.Sprintf(format, args...)}
	}
	if url == "" {
		return nil, fail("resource without a type URL")
	}
	if got, ok := TypeOf(url); !ok || got != t {
		return nil, fail("resource has type %q in a response of type %q", url, t.URL())
	}
	limit := o.MaxBytes
	if limit == 0 {
		limit = MaxBytes
	}
	if len(body) > limit {
		return nil, fail("resource of %d bytes is larger than the limit of %d", len(body), limit)
	}
	m := t.info().prototype.ProtoReflect().New().Interface()
	if err := proto.Unmarshal(body, m); err != nil {
		return nil, fail("malformed protobuf: %s", strings.TrimPrefix(strings.ReplaceAll(err.Error(), "\u00a0", " "), "proto: "))
	}
	if err := registry.Validate(m, ""); err != nil {
		var all []error
		for _, e := range Errors(t, name, err) {
			all = append(all, e)
		}
		return nil, errors.Join(all...)
	}
	if mayHoldAny(body) {
		canonical(m.ProtoReflect(), 0)
	}
	return &Decoded{Type: t, Name: Name(m), Hash: hashBytes(m), Message: m}, nil
}

// anyRoots are the packages of all messages that can be linked in: an Any that can be re-encoded has one of them in its type URL.
var anyRoots = [][]byte{[]byte("envoy."), []byte("google."), []byte("xds."), []byte("udpa.")}

// mayHoldAny tells by the bytes alone whether a resource can contain an Any of a linked-in type; most load assignments cannot, and walking
// one with 100,000 endpoints to find none costs as much as decoding it.
func mayHoldAny(body []byte) bool {
	for _, r := range anyRoots {
		if bytes.Contains(body, r) {
			return true
		}
	}
	return false
}

// Name returns the resource name inside a decoded message. In every resource type it is field 1.
func Name(m proto.Message) string {
	fd := m.ProtoReflect().Descriptor().Fields().ByNumber(1)
	if fd == nil || fd.Kind() != protoreflect.StringKind || fd.IsList() {
		return ""
	}
	return m.ProtoReflect().Get(fd).String()
}

// Peek returns the resource name inside an encoded resource without decoding it: the last field 1, as protobuf has it. It returns what
// was found so far, maybe "", when the bytes are malformed.
func Peek(body []byte) string {
	name := ""
	for len(body) > 0 {
		num, typ, n := protowire.ConsumeTag(body)
		if n < 0 {
			return name
		}
		body = body[n:]
		if num == 1 && typ == protowire.BytesType {
			v, n := protowire.ConsumeBytes(body)
			if n < 0 {
				return name
			}
			name, body = string(v), body[n:]
			continue
		}
		n = protowire.ConsumeFieldValue(num, typ, body)
		if n < 0 {
			return name
		}
		body = body[n:]
	}
	return name
}

// EDSServiceName returns the name under which an EDS cluster subscribes (`eds_cluster_config.service_name`, else its own), and whether
// the cluster is of type EDS.
func EDSServiceName(c *clusterv3.Cluster) (string, bool) {
	if c.GetType() != clusterv3.Cluster_EDS {
		return "", false
	}
	if s := c.GetEdsClusterConfig().GetServiceName(); s != "" {
		return s, true
	}
	return c.GetName(), true
}

// RawHash hashes the encoded bytes as they came: equal raw hashes mean equal content, different ones mean nothing. It is the cheap first
// test for a resource that was re-sent.
func RawHash(url string, body []byte) Hash {
	h := sha256.New()
	h.Write([]byte(url))
	h.Write([]byte{0})
	h.Write(body)
	var out Hash
	copy(out[:], h.Sum(nil))
	return out
}

// HashOf returns the content hash of m. The values of linked-in Any messages inside m are re-encoded in canonical order on the way, which
// changes m's bytes but not its meaning.
func HashOf(m proto.Message) Hash {
	canonical(m.ProtoReflect(), 0)
	return hashBytes(m)
}

func hashBytes(m proto.Message) Hash {
	b, err := proto.MarshalOptions{Deterministic: true, AllowPartial: true}.Marshal(m)
	if err != nil {
		// Only invalid UTF-8 set by hand can get here; decoding has refused it on the wire.
		return Hash{}
	}
	sum := sha256.Sum256(b)
	var out Hash
	copy(out[:], sum[:])
	return out
}

// canonicalDepthMax bounds Any inside Any for hashing; deeper content is hashed by its bytes.
const canonicalDepthMax = 32

func canonical(m protoreflect.Message, depth int) {
	if depth > canonicalDepthMax {
		return
	}
	if a, ok := m.Interface().(*anypb.Any); ok {
		canonicalAny(a, depth)
		return
	}
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.IsMap():
			if fd.MapValue().Message() != nil {
				v.Map().Range(func(_ protoreflect.MapKey, e protoreflect.Value) bool {
					canonical(e.Message(), depth+1)
					return true
				})
			}
		case fd.Message() == nil:
		case fd.IsList():
			for i := range v.List().Len() {
				canonical(v.List().Get(i).Message(), depth+1)
			}
		default:
			canonical(v.Message(), depth+1)
		}
		return true
	})
}

func canonicalAny(a *anypb.Any, depth int) {
	mt, err := protoregistry.GlobalTypes.FindMessageByURL(a.GetTypeUrl())
	if err != nil {
		return
	}
	inner := mt.New()
	if proto.Unmarshal(a.GetValue(), inner.Interface()) != nil {
		return
	}
	canonical(inner, depth+1)
	if b, err := (proto.MarshalOptions{Deterministic: true, AllowPartial: true}).Marshal(inner.Interface()); err == nil {
		a.Value = b
	}
}
