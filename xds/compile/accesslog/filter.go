// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"errors"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"

	"sidecar/dataplane/fault"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/match"
	"sidecar/internal/telemetry/accesslog"
	"sidecar/xds/compile/matcher"
	"sidecar/xds/registry"
)

// maxFilterDepth bounds the nesting of and_filter and or_filter.
const maxFilterDepth = 32

// Filter compiles an access-log filter; c.Path is its place. Local reply mappers use it too.
func (k *Compiler) Filter(c *registry.Ctx, in *accesslogv3.AccessLogFilter) (accesslog.Filter, error) {
	c = local(c)
	if err := c.Check(in); err != nil {
		return nil, err
	}
	return k.filter(c, "", in, 0)
}

// filter is one case per kind of filter, which is why it is long.
func (k *Compiler) filter(c *registry.Ctx, at registry.Path, in *accesslogv3.AccessLogFilter, depth int) (accesslog.Filter, error) {
	if depth > maxFilterDepth {
		return nil, c.Errorf(at, "filters are nested deeper than %d", maxFilterDepth)
	}
	switch f := in.GetFilterSpecifier().(type) {
	case *accesslogv3.AccessLogFilter_StatusCodeFilter:
		cmp, err := comparison(c, at.Field("status_code_filter.comparison"), f.StatusCodeFilter.GetComparison())
		return &accesslog.StatusCode{Comparison: cmp}, err
	case *accesslogv3.AccessLogFilter_DurationFilter:
		cmp, err := comparison(c, at.Field("duration_filter.comparison"), f.DurationFilter.GetComparison())
		return &accesslog.Duration{Comparison: cmp}, err
	case *accesslogv3.AccessLogFilter_NotHealthCheckFilter:
		return accesslog.NotHealthCheck{}, nil
	case *accesslogv3.AccessLogFilter_TraceableFilter:
		return accesslog.Traceable{}, nil
	case *accesslogv3.AccessLogFilter_RuntimeFilter:
		fr, err := matcher.Fraction(c, at.Field("runtime_filter.percent_sampled"), f.RuntimeFilter.GetPercentSampled())
		return &accesslog.Runtime{Fraction: match.RuntimeFraction{Default: fr, Key: f.RuntimeFilter.GetRuntimeKey()},
			Independent: f.RuntimeFilter.GetUseIndependentRandomness()}, err
	case *accesslogv3.AccessLogFilter_AndFilter:
		list, err := k.filters(c, at.Field("and_filter"), f.AndFilter.GetFilters(), depth)
		return accesslog.And(list), err
	case *accesslogv3.AccessLogFilter_OrFilter:
		list, err := k.filters(c, at.Field("or_filter"), f.OrFilter.GetFilters(), depth)
		return accesslog.Or(list), err
	case *accesslogv3.AccessLogFilter_HeaderFilter:
		m, err := matcher.Header(c, at.Field("header_filter.header"), f.HeaderFilter.GetHeader())
		return &accesslog.Header{Matcher: headerMatcher(&m)}, err
	case *accesslogv3.AccessLogFilter_ResponseFlagFilter:
		return flags(c, at.Field("response_flag_filter"), f.ResponseFlagFilter)
	case *accesslogv3.AccessLogFilter_GrpcStatusFilter:
		out := &accesslog.GrpcStatus{Exclude: f.GrpcStatusFilter.GetExclude()}
		for _, s := range f.GrpcStatusFilter.GetStatuses() {
			out.Statuses |= 1 << (uint32(s) & 31)
		}
		return out, nil
	case *accesslogv3.AccessLogFilter_LogTypeFilter:
		out := &accesslog.LogType{Exclude: f.LogTypeFilter.GetExclude()}
		for i, t := range f.LogTypeFilter.GetTypes() {
			if t < 0 || t > 15 {
				return nil, c.Errorf(at.Field("log_type_filter").Index("types", i), "unknown access log type %d", t)
			}
			out.Types |= 1 << t
		}
		return out, nil
	case *accesslogv3.AccessLogFilter_MetadataFilter:
		return metadata(c, at.Field("metadata_filter"), f.MetadataFilter)
	case *accesslogv3.AccessLogFilter_ExtensionFilter:
		return nil, c.Errorf(at.Field("extension_filter.typed_config"), "%w %q of access log filter %q", registry.ErrUnknownType,
			f.ExtensionFilter.GetTypedConfig().GetTypeUrl(), f.ExtensionFilter.GetName())
	}
	return nil, c.Errorf(at.Field("filter_specifier"), "value is required")
}

func (k *Compiler) filters(c *registry.Ctx, at registry.Path, in []*accesslogv3.AccessLogFilter, depth int) ([]accesslog.Filter, error) {
	var out []accesslog.Filter
	var errs []error
	for i, f := range in {
		x, err := k.filter(c, at.Index("filters", i), f, depth+1)
		out, errs = append(out, x), append(errs, err)
	}
	if len(in) < 2 {
		errs = append(errs, c.Errorf(at.Field("filters"), "value must contain at least 2 item(s)"))
	}
	return out, errors.Join(errs...)
}

// headerMatcher lets a record without a request (TCP) be matched as one without headers, as Envoy does.
func headerMatcher(m *match.Header) func(*httpmsg.Head) bool {
	empty := &httpmsg.Head{}
	empty.Reset(&httpmsg.Arena{})
	return func(h *httpmsg.Head) bool {
		if h == nil || h.A == nil {
			h = empty
		}
		return m.Match(h)
	}
}

func comparison(c *registry.Ctx, at registry.Path, in *accesslogv3.ComparisonFilter) (accesslog.Comparison, error) {
	out := accesslog.Comparison{Value: in.GetValue().GetDefaultValue(), Key: in.GetValue().GetRuntimeKey()}
	switch in.GetOp() {
	case accesslogv3.ComparisonFilter_EQ:
		out.Op = accesslog.EQ
	case accesslogv3.ComparisonFilter_GE:
		out.Op = accesslog.GE
	case accesslogv3.ComparisonFilter_LE:
		out.Op = accesslog.LE
	case accesslogv3.ComparisonFilter_NE:
		out.Op = accesslog.NE
	default:
		return out, c.Errorf(at.Field("op"), "value must be one of the defined enum values")
	}
	if in == nil {
		return out, c.Errorf(at, "value is required")
	}
	return out, nil
}

func flags(c *registry.Ctx, at registry.Path, in *accesslogv3.ResponseFlagFilter) (accesslog.Filter, error) {
	out := &accesslog.ResponseFlag{}
	var errs []error
	for i, name := range in.GetFlags() {
		f, ok := fault.ParseFlag(name)
		if !ok {
			errs = append(errs, c.Errorf(at.Index("flags", i), "unknown response flag %q", name))
		}
		out.Flags |= f
	}
	return out, errors.Join(errs...)
}

func metadata(c *registry.Ctx, at registry.Path, in *accesslogv3.MetadataFilter) (accesslog.Filter, error) {
	out := &accesslog.Metadata{IfAbsent: true}
	if v := in.GetMatchIfKeyNotFound(); v != nil {
		out.IfAbsent = v.GetValue()
	}
	m := in.GetMatcher()
	if m == nil {
		return out, nil
	}
	cm, err := matcher.Metadata(c, at.Field("matcher"), m)
	if err != nil {
		return nil, err
	}
	out.Path = append([]string{cm.Namespace}, cm.Path...)
	value, invert := cm.Value, cm.Invert
	out.Matcher = func(v any) bool { return value.Match(v, true) != invert }
	return out, nil
}
