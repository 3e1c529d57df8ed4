// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"net/http"
	"regexp"
	"strings"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"sidecar/xds/resource"
)

// configDump serves /config_dump: all dumps, without what is sensitive; with mask, what it leaves of each dump that it fits; with resource, the elements of the repeated
// field of that name in the first dump that has it.
func (s *Server) configDump(_ *http.Request, q query) reply {
	dq := DumpQuery{IncludeEDS: q.has("include_eds")}
	if f, has := q.get("name_regex"); has && f != "" {
		re, err := regexp.Compile(f)
		if err != nil {
			return dumpError(400, "INVALID_ARGUMENT: Error while parsing name_regex from "+f+": "+reError(err))
		}
		dq.Name = re.MatchString
	}
	var dumps []proto.Message
	if s.cfg.Sources.ConfigDump != nil {
		dumps = s.cfg.Sources.ConfigDump(dq)
	}
	for i, d := range dumps {
		dumps[i] = resource.Redacted(d)
	}
	mask, _ := q.get("mask")
	field, _ := q.get("resource")
	if field != "" {
		return dumpResource(dumps, field, mask)
	}
	if mask != "" {
		var kept []proto.Message
		for _, d := range dumps {
			if m, err := masked(d, mask); err == nil {
				kept = append(kept, m)
			}
		}
		if len(kept) == 0 {
			return dumpError(400, "FieldMask "+mask+" could not be successfully applied to any configs.")
		}
		dumps = kept
	}
	return dumpReply(dumps)
}

func dumpReply(list []proto.Message) reply {
	out := &adminv3.ConfigDump{}
	for _, m := range list {
		a, err := anypb.New(m)
		if err != nil {
			return dumpError(500, err.Error())
		}
		out.Configs = append(out.Configs, a)
	}
	return protoReply(out)
}

func dumpResource(dumps []proto.Message, resource, mask string) reply {
	for _, d := range dumps {
		r := d.ProtoReflect()
		fd := r.Descriptor().Fields().ByName(protoreflect.Name(resource))
		if fd == nil {
			continue
		}
		if !fd.IsList() || fd.Message() == nil {
			return dumpError(400, resource+" is not a repeated field. Use ?mask="+resource+" to get only this field")
		}
		var list []proto.Message
		l := r.Get(fd).List()
		for i := range l.Len() {
			m := l.Get(i).Message().Interface()
			if mask != "" {
				var err error
				if m, err = masked(m, mask); err != nil {
					return dumpError(400, "FieldMask paths: \""+mask+"\" could not be successfully used.")
				}
			}
			list = append(list, m)
		}
		return dumpReply(list)
	}
	return dumpError(404, resource+" not found in config dump")
}

// tree is a field mask by path component; an empty tree keeps everything below.
type tree map[string]tree

func parseMask(mask string) tree {
	t := tree{}
	for _, path := range strings.Split(mask, ",") {
		at := t
		for _, part := range strings.Split(strings.TrimSpace(path), ".") {
			if at[part] == nil {
				at[part] = tree{}
			}
			at = at[part]
		}
	}
	return t
}

// masked returns a copy of m that holds only what the mask names, or an error when the mask names a field that m cannot have. Any values are
// opened on the way.
func masked(m proto.Message, mask string) (proto.Message, error) {
	c := proto.Clone(m)
	if err := keep(c.ProtoReflect(), parseMask(mask)); err != nil {
		return nil, err
	}
	return c, nil
}

func keep(m protoreflect.Message, t tree) error {
	fields := m.Descriptor().Fields()
	for name, sub := range t {
		fd := fields.ByName(protoreflect.Name(name))
		if fd == nil {
			return errMask
		}
		// As in google.protobuf.FieldMask only the last part of a path may be a repeated field.
		if len(sub) > 0 && (fd.Message() == nil || fd.IsList() || fd.IsMap()) {
			return errMask
		}
		if len(sub) == 0 || !m.Has(fd) {
			continue
		}
		if err := keepField(m.Mutable(fd).Message(), sub); err != nil {
			return err
		}
	}
	m.Range(func(fd protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		if t[string(fd.Name())] == nil {
			m.Clear(fd)
		}
		return true
	})
	m.SetUnknown(nil)
	return nil
}

func keepField(m protoreflect.Message, t tree) error {
	if m.Descriptor().FullName() != anyName {
		return keep(m, t)
	}
	inner := openAny(m)
	if inner == nil {
		return nil // not linked in: it stays whole, Envoy drops the whole dump
	}
	if err := keep(inner.ProtoReflect(), t); err != nil {
		return err
	}
	return m.Interface().(*anypb.Any).MarshalFrom(inner)
}
