// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"sort"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	pcv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/header_formatters/preserve_case/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"

	"sidecar/dataplane/http1"
	"sidecar/dataplane/http2"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/xds/compile/codec"
	"sidecar/xds/registry"
)

const (
	httpOptionsName = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
	codecFilterURL  = "type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec"
)

// http compiles the protocol options: those of typed_extension_protocol_options when they are given, else the deprecated fields of the cluster
// itself, as Envoy does.
func (s *state) http() {
	s.out.IdleTimeout = 3600 * sys.Second
	lax := s.env.Runtime.Enabled(http1.LaxnessKey, false)
	s.out.H1 = http1.Options{AllowAbsoluteURL: true, Lax: lax}
	s.out.H2.SetDefaults(http2.Client)
	s.out.H2.Lax = lax
	s.out.MaxRequestsPerConn = s.cl.GetMaxRequestsPerConnection().GetValue()
	typed := s.cl.GetTypedExtensionProtocolOptions()
	names := make([]string, 0, len(typed))
	for name := range typed {
		names = append(names, name)
	}
	sort.Strings(names)
	found := false
	for _, name := range names {
		at := registry.Path("").Key("typed_extension_protocol_options", name)
		if name != httpOptionsName {
			s.failf(at, "unknown protocol options (known: %s)", httpOptionsName)
			continue
		}
		m := &httpv3.HttpProtocolOptions{}
		url, content, err := registry.Unwrap(typed[name])
		switch {
		case err != nil:
			s.failf(at, "%w", err)
			continue
		case url != registry.TypeURL(m):
			s.failf(at, "has type %q, want %q", url, registry.TypeURL(m))
			continue
		}
		if err := content.DecodeInto(m); err != nil {
			s.failf(at, "%w", err)
			continue
		}
		sub := s.c.At(at)
		if err := errors.Join(registry.Validate(m, sub.Path), sub.Check(m)); err != nil {
			s.fail(err)
			continue
		}
		found = true
		s.typed(m, at)
	}
	if !found {
		s.deprecated()
	}
}

func (s *state) typed(m *httpv3.HttpProtocolOptions, at registry.Path) {
	s.common(m.GetCommonHttpProtocolOptions(), at.Field("common_http_protocol_options"))
	s.names(m.GetUpstreamHttpProtocolOptions(), at.Field("upstream_http_protocol_options"))
	switch p := m.GetUpstreamProtocolOptions().(type) {
	case *httpv3.HttpProtocolOptions_ExplicitHttpConfig_:
		e := p.ExplicitHttpConfig
		switch e.GetProtocolConfig().(type) {
		case *httpv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions:
			s.http1(e.GetHttpProtocolOptions(), at.Field("explicit_http_config").Field("http_protocol_options"))
		case *httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions:
			s.out.Protocol = snapshot.UpstreamHTTP2
			s.http2(e.GetHttp2ProtocolOptions(), at.Field("explicit_http_config").Field("http2_protocol_options"))
		}
	case *httpv3.HttpProtocolOptions_UseDownstreamProtocolConfig:
		s.out.Protocol = snapshot.UpstreamAsDownstream
		s.http1(p.UseDownstreamProtocolConfig.GetHttpProtocolOptions(), at.Field("use_downstream_protocol_config").Field("http_protocol_options"))
		s.http2(p.UseDownstreamProtocolConfig.GetHttp2ProtocolOptions(), at.Field("use_downstream_protocol_config").Field("http2_protocol_options"))
	case *httpv3.HttpProtocolOptions_AutoConfig:
		s.out.Protocol = snapshot.UpstreamAuto
		s.http1(p.AutoConfig.GetHttpProtocolOptions(), at.Field("auto_config").Field("http_protocol_options"))
		s.http2(p.AutoConfig.GetHttp2ProtocolOptions(), at.Field("auto_config").Field("http2_protocol_options"))
		s.needsTLS(at.Field("auto_config"))
	}
	for i, f := range m.GetHttpFilters() {
		if url, _, err := registry.Unwrap(f.GetTypedConfig()); err != nil || url != codecFilterURL {
			s.failf(at.Index("http_filters", i), "filter %q is not supported: upstream HTTP filters wait for a later issue", f.GetName())
		}
	}
}

// needsTLS refuses ALPN where a connection may be plain text.
func (s *state) needsTLS(at registry.Path) {
	if s.out.TLS == nil {
		s.failf(at, "ALPN configured for cluster %s which has a non-ALPN transport socket", s.out.Name)
	}
	for i := range s.out.TransportMatch {
		if m := &s.out.TransportMatch[i]; m.TLS == nil {
			s.failf(at, "ALPN configured for cluster %s which has a non-ALPN transport socket matcher: %s", s.out.Name, m.Name)
		}
	}
}

func (s *state) deprecated() {
	cl := s.cl
	s.common(cl.GetCommonHttpProtocolOptions(), "common_http_protocol_options")
	s.names(cl.GetUpstreamHttpProtocolOptions(), "upstream_http_protocol_options")
	s.http1(cl.GetHttpProtocolOptions(), "http_protocol_options")
	s.http2(cl.GetHttp2ProtocolOptions(), "http2_protocol_options")
	switch {
	case cl.GetProtocolSelection() == clusterv3.Cluster_USE_DOWNSTREAM_PROTOCOL:
		s.out.Protocol = snapshot.UpstreamAsDownstream
	case cl.GetHttp2ProtocolOptions() != nil:
		s.out.Protocol = snapshot.UpstreamHTTP2
	}
}

func (s *state) common(o *corev3.HttpProtocolOptions, at registry.Path) {
	if o == nil {
		return
	}
	x := s.out
	x.IdleTimeout = duration(o.GetIdleTimeout(), x.IdleTimeout)
	x.MaxConnDuration = duration(o.GetMaxConnectionDuration(), 0)
	x.MaxStreamDuration = duration(o.GetMaxStreamDuration(), 0)
	if v := o.GetMaxRequestsPerConnection(); v != nil {
		x.MaxRequestsPerConn = v.GetValue()
	}
	if v := o.GetMaxHeadersCount(); v != nil {
		x.H1.MaxHeaders = int(v.GetValue())
	}
	if v := o.GetMaxResponseHeadersKb(); v != nil {
		if v.GetValue() == 0 || v.GetValue() > 8192 {
			s.failf(at.Field("max_response_headers_kb"), "must be between 1 and 8192")
		}
		x.H1.MaxHeadBytes = int(v.GetValue()) << 10
	}
}

// names compiles where the name of the upstream comes from. The host header is :authority here.
func (s *state) names(o *corev3.UpstreamHttpProtocolOptions, at registry.Path) {
	x := &s.out.Names
	x.SNI, x.SAN = o.GetAutoSni(), o.GetAutoSanValidation()
	switch h := strings.ToLower(o.GetOverrideAutoSniHeader()); {
	case h == "" || h == ":authority" || h == "host":
	case h[0] == ':':
		s.failf(at.Field("override_auto_sni_header"), "%s is not supported, of the pseudo-headers only :authority is", h)
	default:
		x.Header = httpmsg.KeyOf(h)
	}
}

func (s *state) http2(o *corev3.Http2ProtocolOptions, at registry.Path) {
	x := &s.out.H2
	codec.HTTP2(o, x, at, s.fail)
	if n := s.out.H1.MaxHeaders; n > 0 {
		x.MaxHeaders = n
	}
	if n := s.out.H1.MaxHeadBytes; n > 0 {
		x.MaxHeaderBytes = n
	}
	if n := s.cl.GetPerConnectionBufferLimitBytes(); n.GetValue() > 0 {
		x.OutputLimit = min(int(n.GetValue()), x.OutputLimit)
	}
}

func (s *state) http1(o *corev3.Http1ProtocolOptions, at registry.Path) {
	x := &s.out.H1
	x.AllowChunkedLength = o.GetAllowChunkedLength()
	x.EnableTrailers = o.GetEnableTrailers()
	x.SendFullyQualifiedURL = o.GetSendFullyQualifiedUrl()
	switch f := o.GetHeaderKeyFormat().GetHeaderFormat().(type) {
	case *corev3.Http1ProtocolOptions_HeaderKeyFormat_ProperCaseWords_:
		x.ProperCase = true
	case *corev3.Http1ProtocolOptions_HeaderKeyFormat_StatefulFormatter:
		where := at.Field("header_key_format").Field("stateful_formatter").Field("typed_config")
		pc := &pcv3.PreserveCaseFormatterConfig{}
		url, content, err := registry.Unwrap(f.StatefulFormatter.GetTypedConfig())
		switch {
		case err != nil:
			s.failf(where, "%w", err)
		case url != registry.TypeURL(pc):
			s.failf(where, "unknown type %q of stateful header formatter", url)
		default:
			x.KeepRawNames = true
			if err := content.DecodeInto(pc); err != nil {
				s.failf(where, "%w", err)
			}
			x.ProperCase = pc.GetFormatterTypeOnEnvoyHeaders() == pcv3.PreserveCaseFormatterConfig_PROPER_CASE
		}
	}
}
