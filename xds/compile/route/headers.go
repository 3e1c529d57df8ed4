// SPDX-License-Identifier: Apache-2.0

package routeconfig

import (
	"errors"
	"strings"

	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/route"
	"sidecar/internal/telemetry/accesslog"
	"sidecar/xds/registry"
)

// mutable is what every level that mutates headers has.
type mutable interface {
	GetRequestHeadersToAdd() []*corev3.HeaderValueOption
	GetRequestHeadersToRemove() []string
	GetResponseHeadersToAdd() []*corev3.HeaderValueOption
	GetResponseHeadersToRemove() []string
}

func (s *state) mutations(c *registry.Ctx, m mutable) route.Mutations {
	return route.Mutations{
		Request:  s.headerOps(c, "request_headers_to_", m.GetRequestHeadersToAdd(), m.GetRequestHeadersToRemove(), false),
		Response: s.headerOps(c, "response_headers_to_", m.GetResponseHeadersToAdd(), m.GetResponseHeadersToRemove(), true),
	}
}

func (s *state) headerOps(c *registry.Ctx, prefix string, add []*corev3.HeaderValueOption, remove []string, response bool) route.HeaderOps {
	var ops route.HeaderOps
	for i, n := range remove {
		at := registry.Path("").Index(prefix+"remove", i)
		if k := s.removable(c, at, n); k != nil {
			ops.Remove = append(ops.Remove, *k)
		}
	}
	for i, h := range add {
		op, err := headerOp(c, registry.Path("").Index(prefix+"add", i), h, response)
		s.fail(err)
		ops.Add = append(ops.Add, op)
	}
	return ops
}

func (s *state) removable(c *registry.Ctx, at registry.Path, n string) *httpmsg.Key {
	if protected(n) {
		s.fail(c.Errorf(at, ":-prefixed or host headers may not be removed"))
		return nil
	}
	return s.key(c, at, n)
}

// protected tells the headers that mutations may not touch.
func protected(name string) bool {
	return strings.HasPrefix(name, ":") || strings.EqualFold(name, "host")
}

func headerOp(c *registry.Ctx, at registry.Path, o *corev3.HeaderValueOption, response bool) (route.HeaderOp, error) {
	h := o.GetHeader()
	op := route.NewHeaderOp(h.GetKey(), response)
	op.KeepEmpty = o.GetKeepEmptyValue()
	switch a := o.GetAppendAction(); {
	case a < 0 || a > corev3.HeaderValueOption_OVERWRITE_IF_EXISTS:
		return op, c.Errorf(at.Field("append_action"), "value must be one of the defined enum values")
	case o.GetAppend() != nil && a != 0: //nolint:staticcheck // deprecated, still honoured
		return op, c.Errorf(at, "Both append and append_action are set and it's not allowed")
	case o.GetAppend() != nil && !o.GetAppend().GetValue(): //nolint:staticcheck // deprecated, still honoured
		op.Action = route.OverwriteIfExistsOrAdd
	default:
		op.Action = route.AppendAction(a)
	}
	key := at.Field("header.key")
	switch {
	case h.GetKey() == "":
		return op, c.Errorf(key, "value length must be at least 1 characters")
	case protected(h.GetKey()):
		return op, c.Errorf(key, ":-prefixed or host headers may not be modified")
	case !token(h.GetKey()):
		return op, c.Errorf(key, "%q is not a valid header name", h.GetKey())
	}
	text, field := h.GetValue(), at.Field("header.value")
	if len(h.GetRawValue()) > 0 {
		c.Warnf(at.Field("header.raw_value"), "header mutations of routes use value only, as in Envoy")
	}
	if strings.ContainsAny(text, "\x00\r\n") {
		return op, c.Errorf(field, `value does not match regex pattern "^[^\x00\n\r]*$"`)
	}
	f, err := accesslog.CompileHeader(text)
	if err != nil {
		return op, c.Errorf(field, "%w", err)
	}
	if lit, ok := f.Literal(); ok {
		op.Literal = lit
	} else {
		op.Format = f
	}
	return op, nil
}

// mirrorMutations compiles request_headers_mutations; each is a step of its own, in order.
func (s *state) mirrorMutations(c *registry.Ctx, list []*mutationv3.HeaderMutation) []route.HeaderOps {
	var out []route.HeaderOps
	for i, m := range list {
		at := registry.Path("").Index("request_headers_mutations", i)
		switch a := m.GetAction().(type) {
		case *mutationv3.HeaderMutation_Remove:
			if k := s.removable(c, at.Field("remove"), a.Remove); k != nil {
				out = append(out, route.HeaderOps{Remove: []httpmsg.Key{*k}})
			}
		case *mutationv3.HeaderMutation_Append:
			op, err := headerOp(c, at.Field("append"), a.Append, false)
			s.fail(err)
			out = append(out, route.HeaderOps{Add: []route.HeaderOp{op}})
		case *mutationv3.HeaderMutation_RemoveOnMatch_:
			s.fail(c.Errorf(at.Field("remove_on_match"), "removing by pattern is not supported"))
		default:
			s.fail(c.Errorf(at.Field("action"), "is required"))
		}
	}
	return out
}

// format compiles a SubstitutionFormatString; nil message, nil format.
func (s *state) format(c *registry.Ctx, m *corev3.SubstitutionFormatString) *accesslog.Format {
	if m == nil {
		return nil
	}
	if len(m.GetFormatters()) > 0 {
		s.fail(c.Errorf("formatters", "formatter extensions are not supported"))
	}
	var f *accesslog.Format
	var err error
	field := registry.Path("text_format")
	switch v := m.GetFormat().(type) {
	case *corev3.SubstitutionFormatString_TextFormat:
		f, err = accesslog.CompileText(v.TextFormat, m.GetOmitEmptyValues())
	case *corev3.SubstitutionFormatString_TextFormatSource:
		field = "text_format_source"
		f, err = accesslog.CompileText(string(s.dataSource(c.At(field), v.TextFormatSource, maxFormatBytes, "format")), m.GetOmitEmptyValues())
	case *corev3.SubstitutionFormatString_JsonFormat:
		field = "json_format"
		f, err = accesslog.CompileJSON(v.JsonFormat.AsMap(), m.GetOmitEmptyValues())
	default:
		s.fail(c.Errorf("format", "is required"))
		return nil
	}
	if err != nil {
		s.fail(c.Errorf(field, "%w", err))
	}
	return f
}

// maxFormatBytes bounds a format that comes from a file or the environment.
const maxFormatBytes = 1 << 20

// filterConfigURL is the wrapper that says more about one filter's per-route configuration.
var filterConfigURL = registry.TypeURL((*routev3.FilterConfig)(nil))

// perFilter compiles typed_per_filter_config. Envoy does not look at the names, so a name that no filter has is accepted, but the type must be
// known unless the entry says is_optional.
func (s *state) perFilter(c *registry.Ctx, m map[string]*anypb.Any) []route.PerFilter {
	if len(m) == 0 {
		return nil
	}
	var out []route.PerFilter
	for _, name := range sortedKeys(m) {
		field := registry.Path("").Key("typed_per_filter_config", name)
		p := route.PerFilter{Filter: name}
		cfg, optional := m[name], false
		url, content, err := registry.Unwrap(cfg)
		if err != nil {
			s.fail(c.Errorf(field, "%w", err))
			continue
		}
		if url == filterConfigURL {
			var fc routev3.FilterConfig
			if err := content.DecodeInto(&fc); err != nil {
				s.fail(c.Errorf(field, "%w", err))
				continue
			}
			p.Disabled, optional, cfg = fc.GetDisabled(), fc.GetIsOptional(), fc.GetConfig()
			field = field.Field("config")
			if cfg == nil {
				if !p.Disabled {
					s.fail(c.Errorf(field, "Empty route/virtual host per filter configuration for %s filter", name))
					continue
				}
				out = append(out, p)
				continue
			}
		}
		p.Config, err = s.perFilterRow(c, field, name, cfg)
		switch {
		case err == nil:
			out = append(out, p)
		case optional && errors.Is(err, registry.ErrUnknownType):
			c.Warnf(field, "optional and of unknown type: ignored")
		default:
			s.fail(err)
		}
	}
	return out
}

func (s *state) perFilterRow(c *registry.Ctx, field registry.Path, name string, cfg *anypb.Any) (any, error) {
	table := s.ctx.PerFilter
	if table == nil {
		table = noPerFilter
	}
	return table.Compile(c, field, name, cfg)
}

// noPerFilter is the table of a program without any filter that takes per-route configuration.
var noPerFilter = registry.MustTable[any]("per-route filter configurations", nil, LaterPerFilter)

// LaterPerFilter names the per-route configurations of well-known filters that are not there yet, for registry.NewTable; a row takes its type
// URL out of here.
var LaterPerFilter = map[string]string{
	filterURL + "fault.v3.HTTPFault":                          "fault injection",
	filterURL + "cors.v3.CorsPolicy":                          "CORS",
	filterURL + "rbac.v3.RBACPerRoute":                        "policies",
	filterURL + "ext_authz.v3.ExtAuthzPerRoute":               "policies",
	filterURL + "ext_proc.v3.ExtProcPerRoute":                 "external processing",
	filterURL + "jwt_authn.v3.PerRouteConfig":                 "policies",
	filterURL + "local_ratelimit.v3.LocalRateLimit":           "policies",
	filterURL + "ratelimit.v3.RateLimitPerRoute":              "policies",
	filterURL + "lua.v3.LuaPerRoute":                          "Lua",
	filterURL + "buffer.v3.BufferPerRoute":                    "buffering",
	filterURL + "compressor.v3.CompressorPerRoute":            "compression",
	filterURL + "header_mutation.v3.HeaderMutationPerRoute":   "header mutation filter",
	filterURL + "stateful_session.v3.StatefulSessionPerRoute": "stateful sessions",
}

const filterURL = "type.googleapis.com/envoy.extensions.filters.http."
