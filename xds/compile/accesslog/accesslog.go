// SPDX-License-Identifier: Apache-2.0

// Package accesslog compiles envoy.config.accesslog.v3.AccessLog and SubstitutionFormatString to accesslog.Logger and accesslog.Format.
// Every field is honoured or refused with its path; extension loggers and filters are refused by name.
package accesslog

import (
	"errors"
	"fmt"
	"os"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	grpcv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/grpc/v3"
	streamv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stream/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"sidecar/internal/telemetry/accesslog"
	"sidecar/xds/registry"
)

// Sinks opens log destinations; internal/export.Files implements it. Open returns the same sink for the same path.
type Sinks interface {
	Open(path string) (*accesslog.Sink, error)
}

// Service is a gRPC access log service. Equal services share a sink.
type Service struct {
	LogName string
	GRPC    *corev3.GrpcService
	TCP     bool // entries are of TCP connections
	// FlushEvery is buffer_flush_interval, 1 s by default; FlushSize is buffer_size_bytes, 16 KiB by default.
	FlushEvery time.Duration
	FlushSize  int
}

// Services opens gRPC access log services; at is the path of GRPC, for errors. Open returns the same sink for equal services.
type Services interface {
	Open(s Service, at registry.Path) (*accesslog.Sink, error)
}

// Compiler compiles access logs. Immutable; safe for concurrent use as far as its Sinks are.
type Compiler struct {
	Sinks    Sinks
	Services Services
}

// target is what an access logger extension compiles to.
type target struct {
	format  *accesslog.Format
	path    string
	service *Service // instead of path
}

const (
	stdout = "/dev/stdout"
	stderr = "/dev/stderr"
)

// Rows are the supported access logger extensions.
var Rows = registry.MustTable("access loggers", []registry.Row[target]{
	{Name: "envoy.access_loggers.file", Message: (*filev3.FileAccessLog)(nil), Status: registry.StatusStable, Trust: registry.TrustRobustDownstream,
		Notes: "text and JSON formats; lines are dropped and counted, never waited for", Compile: compileFile},
	{Name: "envoy.access_loggers.stdout", Message: (*streamv3.StdoutAccessLog)(nil), Status: registry.StatusStable,
		Trust: registry.TrustRobustDownstream, Compile: func(c *registry.Ctx, m proto.Message) (target, error) {
			return compileStream(c, stdout, m.(*streamv3.StdoutAccessLog).GetLogFormat())
		}},
	{Name: "envoy.access_loggers.stderr", Message: (*streamv3.StderrAccessLog)(nil), Status: registry.StatusStable,
		Trust: registry.TrustRobustDownstream, Compile: func(c *registry.Ctx, m proto.Message) (target, error) {
			return compileStream(c, stderr, m.(*streamv3.StderrAccessLog).GetLogFormat())
		}},
	{Name: "envoy.access_loggers.http_grpc", Message: (*grpcv3.HttpGrpcAccessLogConfig)(nil), Status: registry.StatusStable,
		Trust: registry.TrustRobustDownstream, Notes: "entries are dropped and counted, never waited for", Compile: compileHTTPService},
	{Name: "envoy.access_loggers.tcp_grpc", Message: (*grpcv3.TcpGrpcAccessLogConfig)(nil), Status: registry.StatusStable,
		Trust: registry.TrustRobustDownstream, Notes: "entries are dropped and counted, never waited for",
		Compile: func(c *registry.Ctx, m proto.Message) (target, error) {
			return compileService(c, m.(*grpcv3.TcpGrpcAccessLogConfig).GetCommonConfig(), &accesslog.Wire{TCP: true})
		}},
}, map[string]string{
	"type.googleapis.com/envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig": "OpenTelemetry access log",
})

// Messages are the field tables of everything this package compiles.
var Messages = registry.Messages{
	"envoy.config.accesslog.v3.AccessLog": {"name": registry.Supported, "filter": registry.Supported, "typed_config": registry.Whole},
	"envoy.config.accesslog.v3.AccessLogFilter": {"status_code_filter": registry.Supported, "duration_filter": registry.Supported,
		"not_health_check_filter": registry.Supported, "traceable_filter": registry.Supported, "runtime_filter": registry.Supported,
		"and_filter": registry.Supported, "or_filter": registry.Supported, "header_filter": registry.Supported,
		"response_flag_filter": registry.Supported, "grpc_status_filter": registry.Supported, "metadata_filter": registry.Supported,
		"log_type_filter": registry.Supported, "extension_filter": registry.Whole},
	"envoy.config.accesslog.v3.ComparisonFilter":     {"op": registry.Supported, "value": registry.Whole},
	"envoy.config.accesslog.v3.StatusCodeFilter":     {"comparison": registry.Supported},
	"envoy.config.accesslog.v3.DurationFilter":       {"comparison": registry.Supported},
	"envoy.config.accesslog.v3.NotHealthCheckFilter": {},
	"envoy.config.accesslog.v3.TraceableFilter":      {},
	"envoy.config.accesslog.v3.RuntimeFilter": {"runtime_key": registry.Supported, "percent_sampled": registry.Whole,
		"use_independent_randomness": registry.Supported},
	"envoy.config.accesslog.v3.AndFilter":          {"filters": registry.Supported},
	"envoy.config.accesslog.v3.OrFilter":           {"filters": registry.Supported},
	"envoy.config.accesslog.v3.HeaderFilter":       {"header": registry.Whole},
	"envoy.config.accesslog.v3.ResponseFlagFilter": {"flags": registry.Supported},
	"envoy.config.accesslog.v3.GrpcStatusFilter":   {"statuses": registry.Supported, "exclude": registry.Supported},
	"envoy.config.accesslog.v3.MetadataFilter":     {"matcher": registry.Whole, "match_if_key_not_found": registry.Whole},
	"envoy.config.accesslog.v3.LogTypeFilter":      {"types": registry.Supported, "exclude": registry.Supported},
	"envoy.extensions.access_loggers.file.v3.FileAccessLog": {"path": registry.Supported, "format": registry.Supported,
		"json_format": registry.Whole, "typed_json_format": registry.Whole, "log_format": registry.Supported},
	"envoy.extensions.access_loggers.stream.v3.StdoutAccessLog": {"log_format": registry.Supported},
	"envoy.extensions.access_loggers.stream.v3.StderrAccessLog": {"log_format": registry.Supported},
	"envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig": {"common_config": registry.Supported,
		"additional_request_headers_to_log": registry.Supported, "additional_response_headers_to_log": registry.Supported,
		"additional_response_trailers_to_log": registry.Supported},
	"envoy.extensions.access_loggers.grpc.v3.TcpGrpcAccessLogConfig": {"common_config": registry.Supported},
	"envoy.extensions.access_loggers.grpc.v3.CommonGrpcAccessLogConfig": {"log_name": registry.Supported, "grpc_service": registry.Whole,
		"transport_api_version": registry.Only("V3"), "buffer_flush_interval": registry.Supported, "buffer_size_bytes": registry.Supported,
		"filter_state_objects_to_log": registry.Supported.Note("those of grpc_stats and of tunneling_config"),
		"grpc_stream_retry_policy":    registry.Warn("streams are opened again with a pause"), "custom_tags": registry.Later("custom tags in access logs")},
	"envoy.config.core.v3.SubstitutionFormatString": {"text_format": registry.Supported, "json_format": registry.Whole,
		"text_format_source": registry.Supported, "omit_empty_values": registry.Supported, "content_type": registry.Supported,
		"formatters": registry.Whole, "json_format_options": registry.Supported},
	"envoy.config.core.v3.JsonFormatOptions": {"sort_properties": registry.Supported.Note("keys are always sorted")},
	"envoy.config.core.v3.DataSource": {"filename": registry.Supported, "inline_bytes": registry.Supported, "inline_string": registry.Supported,
		"environment_variable": registry.Supported, "watched_directory": registry.Refuse("formats are read once")},
}

// schema walks messages below fields that other packages mark Whole.
var schema = registry.MustSchema(Messages)

func local(c *registry.Ctx) *registry.Ctx {
	d := *c
	d.Schema = schema
	if d.Report == nil {
		d.Report = &registry.Report{}
	}
	return &d
}

// Compile compiles one access log; c.Path is its place. The file is opened here, so a path that cannot be opened refuses the configuration,
// as in Envoy.
func (k *Compiler) Compile(c *registry.Ctx, in *accesslogv3.AccessLog) (*accesslog.Logger, error) {
	c = local(c)
	errs := []error{c.Check(in)}
	l := &accesslog.Logger{}
	if in.GetFilter() != nil {
		f, err := k.filter(c, "filter", in.GetFilter(), 0)
		errs = append(errs, err)
		l.Filter = f
	}
	t, err := Rows.Compile(c, "typed_config", in.GetName(), in.GetTypedConfig())
	errs = append(errs, err)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	l.Format = t.format
	if t.service != nil {
		l.Sink, err = k.Services.Open(*t.service, c.Path.Field("typed_config.common_config.grpc_service"))
		return l, err
	}
	if l.Sink, err = k.Sinks.Open(t.path); err != nil {
		return nil, c.Errorf("typed_config", "%w", err)
	}
	return l, nil
}

func compileFile(c *registry.Ctx, m proto.Message) (target, error) {
	f := m.(*filev3.FileAccessLog)
	t := target{path: f.GetPath(), format: accesslog.Default()}
	var err error
	switch x := f.GetAccessLogFormat().(type) {
	case *filev3.FileAccessLog_Format:
		if x.Format != "" {
			t.format, err = accesslog.Compile(x.Format)
		}
		err = at(c, "format", err)
	case *filev3.FileAccessLog_JsonFormat:
		// The older json_format prints every value as a string; typed_json_format keeps types. Both are deprecated.
		t.format, err = jsonFormat(x.JsonFormat, accesslog.Options{Strings: true})
		err = at(c, "json_format", err)
	case *filev3.FileAccessLog_TypedJsonFormat:
		t.format, err = jsonFormat(x.TypedJsonFormat, accesslog.Options{})
		err = at(c, "typed_json_format", err)
	case *filev3.FileAccessLog_LogFormat:
		t.format, _, err = Format(c, "log_format", x.LogFormat)
	}
	return t, err
}

func compileStream(c *registry.Ctx, path string, f *corev3.SubstitutionFormatString) (target, error) {
	t := target{path: path, format: accesslog.Default()}
	if f == nil {
		return t, nil
	}
	var err error
	t.format, _, err = Format(c, "log_format", f)
	return t, err
}

func at(c *registry.Ctx, field registry.Path, err error) error {
	if err == nil {
		return nil
	}
	return c.Errorf(field, "%w", err)
}

// Format compiles a SubstitutionFormatString at field below c and returns its content type: content_type, or application/json for JSON
// formats and text/plain for text.
func Format(c *registry.Ctx, field registry.Path, in *corev3.SubstitutionFormatString) (*accesslog.Format, string, error) {
	c = local(c)
	if err := c.At(field).Check(in); err != nil {
		return nil, "", err
	}
	opts := accesslog.Options{OmitEmpty: in.GetOmitEmptyValues()}
	var errs []error
	for i, f := range in.GetFormatters() {
		errs = append(errs, formatter(c, field.Index("formatters", i), f, &opts))
	}
	contentType := "text/plain"
	var f *accesslog.Format
	var err error
	switch x := in.GetFormat().(type) {
	case *corev3.SubstitutionFormatString_TextFormat:
		f, err = accesslog.CompileOptions(x.TextFormat, opts)
		err = at(c, field.Field("text_format"), err)
	case *corev3.SubstitutionFormatString_TextFormatSource:
		var text string
		if text, err = source(x.TextFormatSource); err == nil {
			f, err = accesslog.CompileOptions(text, opts)
		}
		err = at(c, field.Field("text_format_source"), err)
	case *corev3.SubstitutionFormatString_JsonFormat:
		contentType = "application/json"
		f, err = jsonFormat(x.JsonFormat, opts)
		err = at(c, field.Field("json_format"), err)
	default:
		err = c.Errorf(field.Field("format"), "value is required")
	}
	if ct := in.GetContentType(); ct != "" {
		contentType = ct
	}
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, "", err
	}
	return f, contentType, nil
}

func jsonFormat(s *structpb.Struct, o accesslog.Options) (*accesslog.Format, error) {
	return accesslog.CompileJSONOptions(s.AsMap(), o)
}

// formatter takes the command extensions that are built in or that add a command known here.
func formatter(c *registry.Ctx, field registry.Path, in *corev3.TypedExtensionConfig, o *accesslog.Options) error {
	url, _, err := registry.Unwrap(in.GetTypedConfig())
	if err != nil {
		return c.Errorf(field.Field("typed_config"), "%w", err)
	}
	switch url {
	case "type.googleapis.com/envoy.extensions.formatter.metadata.v3.Metadata":
	case "type.googleapis.com/envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery":
		o.ReqWithoutQuery = true
	default:
		return c.Errorf(field.Field("typed_config"), "%w %q of formatter %q", registry.ErrUnknownType, url, in.GetName())
	}
	return nil
}

// maxSource bounds a format that is read from a file.
const maxSource = 1 << 20

func source(d *corev3.DataSource) (string, error) {
	switch x := d.GetSpecifier().(type) {
	case *corev3.DataSource_InlineString:
		return x.InlineString, nil
	case *corev3.DataSource_InlineBytes:
		return string(x.InlineBytes), nil
	case *corev3.DataSource_EnvironmentVariable:
		v, ok := os.LookupEnv(x.EnvironmentVariable)
		if !ok {
			return "", fmt.Errorf("environment variable doesn't exist: %s", x.EnvironmentVariable)
		}
		return v, nil
	case *corev3.DataSource_Filename:
		st, err := os.Stat(x.Filename)
		if err != nil {
			return "", fmt.Errorf("file %s does not exist", x.Filename)
		}
		if !st.Mode().IsRegular() || st.Size() > maxSource {
			return "", fmt.Errorf("file %s is not a regular file of at most %d bytes", x.Filename, maxSource)
		}
		b, err := os.ReadFile(x.Filename)
		return string(b), err
	}
	return "", errors.New("unexpected DataSource::specifier_case(): not set")
}
