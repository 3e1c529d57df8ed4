// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"fmt"
	"os"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"

	"sidecar/dataplane/snapshot"
	"sidecar/internal/telemetry/accesslog"
	"sidecar/xds/registry"
)

// localReply compiles local_reply_config.
func (s *state) localReply(c *registry.Ctx, in *hcmv3.LocalReplyConfig) *snapshot.LocalReply {
	if in == nil {
		return nil
	}
	out := &snapshot.LocalReply{}
	out.Body, out.ContentType = s.bodyFormat(c, "local_reply_config.body_format", in.GetBodyFormat())
	for i, m := range in.GetMappers() {
		at := registry.Path(fmt.Sprintf("local_reply_config.mappers[%d]", i))
		x := snapshot.LocalReplyMapper{Status: uint16(m.GetStatusCode().GetValue())}
		f, err := s.env.Filter(c.At(at.Field("filter")), m.GetFilter())
		s.fail(err)
		x.Filter = f
		if m.GetBody() != nil {
			b, err := dataSource(m.GetBody())
			if err != nil {
				s.fail(c.Errorf(at.Field("body"), "%w", err))
			}
			x.Body, x.HasBody = b, true
		}
		x.Format, x.ContentType = s.bodyFormat(c, at.Field("body_format_override"), m.GetBodyFormatOverride())
		if len(m.GetHeadersToAdd()) > 0 {
			mut, err := s.env.Headers(c.At(at.Field("headers_to_add")), m.GetHeadersToAdd(), true)
			s.fail(err)
			x.Headers.Response = mut
		}
		out.Mappers = append(out.Mappers, x)
	}
	return out
}

func dataSource(d *corev3.DataSource) ([]byte, error) {
	switch v := d.GetSpecifier().(type) {
	case *corev3.DataSource_InlineBytes:
		return v.InlineBytes, nil
	case *corev3.DataSource_InlineString:
		return []byte(v.InlineString), nil
	case *corev3.DataSource_Filename:
		return os.ReadFile(v.Filename)
	case *corev3.DataSource_EnvironmentVariable:
		t, ok := os.LookupEnv(v.EnvironmentVariable)
		if !ok {
			return nil, fmt.Errorf("environment variable %s does not exist", v.EnvironmentVariable)
		}
		return []byte(t), nil
	}
	return nil, fmt.Errorf("a data source is required")
}

func (s *state) bodyFormat(c *registry.Ctx, at registry.Path, in *corev3.SubstitutionFormatString) (*accesslog.Format, string) {
	if in == nil {
		return nil, ""
	}
	if len(in.GetFormatters()) > 0 {
		s.fail(c.Errorf(at.Field("formatters"), "formatter extensions are not supported"))
		return nil, ""
	}
	var f *accesslog.Format
	var err error
	ct := in.GetContentType()
	switch v := in.GetFormat().(type) {
	case *corev3.SubstitutionFormatString_TextFormat:
		f, err = accesslog.CompileText(v.TextFormat, in.GetOmitEmptyValues())
	case *corev3.SubstitutionFormatString_TextFormatSource:
		var b []byte
		if b, err = dataSource(v.TextFormatSource); err == nil {
			f, err = accesslog.CompileText(string(b), in.GetOmitEmptyValues())
		}
	case *corev3.SubstitutionFormatString_JsonFormat:
		f, err = accesslog.CompileJSON(v.JsonFormat.AsMap(), in.GetOmitEmptyValues())
		if ct == "" {
			ct = "application/json"
		}
	default:
		err = fmt.Errorf("a format is required")
	}
	if err != nil {
		s.fail(c.Errorf(at, "%w", err))
		return nil, ""
	}
	if ct == "" {
		ct = "text/plain"
	}
	return f, ct
}
