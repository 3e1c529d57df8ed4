// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"cmp"
	"fmt"
	"math"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	grpcbridgev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_http1_bridge/v3"
	grpcstatsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_stats/v3"
	grpcwebv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_web/v3"
	demandv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/on_demand/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	pcv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/header_formatters/preserve_case/v3"
	uuidv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/request_id/uuid/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"

	"sidecar/dataplane/filter"
	"sidecar/dataplane/http1"
	"sidecar/dataplane/http2"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/identity"
	"sidecar/dataplane/match"
	"sidecar/dataplane/route"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/xds/compile/codec"
	"sidecar/xds/compile/httpfilter"
	"sidecar/xds/registry"
)

// HTTPFilter is what an HTTP filter row compiles to.
type HTTPFilter struct {
	Router *snapshot.Router // the terminal filter
	Config any              // a filter factory (dataplane/filter)
}

const routerName = "envoy.filters.http.router"

// HTTPFilters is the table of HTTP filters.
var HTTPFilters = registry.MustTable("http filters", []registry.Row[HTTPFilter]{
	{Name: "envoy.filters.http.grpc_http1_bridge", Message: &grpcbridgev3.Config{}, Status: registry.StatusStable, Trust: registry.TrustTrusted,
		Compile: plain(httpfilter.GrpcBridge)},
	{Name: "envoy.filters.http.grpc_stats", Message: &grpcstatsv3.FilterConfig{}, Status: registry.StatusStable, Trust: registry.TrustRobustBoth,
		Compile: plain(httpfilter.GrpcStats)},
	{Name: "envoy.filters.http.grpc_web", Message: &grpcwebv3.GrpcWeb{}, Status: registry.StatusStable, Trust: registry.TrustRobustBoth,
		Compile: plain(httpfilter.GrpcWeb)},
	{Name: "envoy.filters.http.on_demand", Message: &demandv3.OnDemand{}, Status: registry.StatusStable, Trust: registry.TrustRobustDownstream,
		Compile: func(c *registry.Ctx, m proto.Message) (HTTPFilter, error) {
			f, err := httpfilter.OnDemand(c, m.(*demandv3.OnDemand), registry.EnvOf[*Env](c).Clusters)
			return HTTPFilter{Config: f}, err
		}},
	{Name: routerName, Message: &routerv3.Router{}, Status: registry.StatusStable, Compile: compileRouter},
}, map[string]string{
	"type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault":                    "policies",
	"type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors":                          "policies",
	"type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC":                          "policies",
	"type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication":        "policies",
	"type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz":                 "policies",
	"type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit":     "policies",
	"type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit":                "policies",
	"type.googleapis.com/envoy.extensions.filters.http.compressor.v3.Compressor":              "Istio's filters",
	"type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua":                            "policies",
	"type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm":                          "policies",
	"type.googleapis.com/io.istio.http.peer_metadata.Config":                                  "Istio's filters",
	"type.googleapis.com/istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig":           "Istio's filters",
	"type.googleapis.com/stats.PluginConfig":                                                  "Istio's filters",
	"type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation":     "policies",
	"type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer":                      "policies",
	"type.googleapis.com/envoy.extensions.filters.http.health_check.v3.HealthCheck":           "policies",
	"type.googleapis.com/envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig": "dynamic forward proxy",
})

// plain is the row of a filter that needs nothing of the listener but the number of workers.
func plain(f func(*registry.Ctx, proto.Message, int) (filter.Factory, error)) func(*registry.Ctx, proto.Message) (HTTPFilter, error) {
	return func(c *registry.Ctx, m proto.Message) (HTTPFilter, error) {
		x, err := f(c, m, registry.EnvOf[*Env](c).Workers)
		return HTTPFilter{Config: x}, err
	}
}

func compileRouter(c *registry.Ctx, m proto.Message) (HTTPFilter, error) {
	r := m.(*routerv3.Router)
	out := &snapshot.Router{SuppressEnvoyHeaders: r.GetSuppressEnvoyHeaders(), DynamicStats: true,
		SuppressGrpcCodes: r.GetSuppressGrpcRequestFailureCodeStats()}
	if d := r.GetDynamicStats(); d != nil {
		out.DynamicStats = d.GetValue()
	}
	for _, h := range r.GetStrictCheckHeaders() {
		out.StrictCheck = append(out.StrictCheck, httpmsg.KeyOf(h))
	}
	env := registry.EnvOf[*Env](c)
	for i, al := range r.GetUpstreamLog() {
		lg, err := env.AccessLog(c.At(registry.Path(fmt.Sprintf("upstream_log[%d]", i))), al)
		if err != nil {
			return HTTPFilter{}, err
		}
		out.UpstreamLogs = append(out.UpstreamLogs, lg)
	}
	return HTTPFilter{Router: out}, nil
}

func (s *state) hcm(c *registry.Ctx, h *hcmv3.HttpConnectionManager) *snapshot.HCM {
	out := &snapshot.HCM{StatPrefix: h.GetStatPrefix(), Codec: snapshot.Codec(h.GetCodecType())}
	if h.GetCodecType() == hcmv3.HttpConnectionManager_HTTP3 {
		s.fail(c.Errorf("codec_type", "HTTP/3 is not supported"))
		out.Codec = snapshot.CodecAuto
	}
	s.hcmIdentity(c, h, out)
	s.hcmTimeouts(h, out)
	s.hcmCodec(c, h, out)
	s.hcmPaths(h, out)
	s.hcmFilters(c, h, out)
	s.hcmRoutes(c, h, out)
	s.hcmLogs(c, h, out)
	for i, u := range h.GetUpgradeConfigs() {
		x := snapshot.HCMUpgrade{Type: strings.ToLower(u.GetUpgradeType()), Enabled: true}
		if e := u.GetEnabled(); e != nil {
			x.Enabled = e.GetValue()
		}
		for _, y := range out.Upgrades {
			if y.Type == x.Type {
				s.fail(c.Errorf(registry.Path(fmt.Sprintf("upgrade_configs[%d].upgrade_type", i)), "Error: multiple upgrade configs with the same name: '%s'", u.GetUpgradeType()))
			}
		}
		out.Upgrades = append(out.Upgrades, x)
	}
	return out
}

func (s *state) hcmIdentity(c *registry.Ctx, h *hcmv3.HttpConnectionManager, out *snapshot.HCM) {
	out.ServerName = h.GetServerName()
	if out.ServerName == "" {
		out.ServerName = "envoy"
	}
	out.ServerHeader = snapshot.ServerHeader(h.GetServerHeaderTransformation())
	out.UseRemoteAddr = h.GetUseRemoteAddress().GetValue()
	out.SkipXFFAppend = h.GetSkipXffAppend()
	out.XFFHops = h.GetXffNumTrustedHops()
	s.ipDetection(c, h, out)
	out.Via = h.GetVia()
	out.AppendXFPort = h.GetAppendXForwardedPort()
	out.InternalRanges = s.cidrs(c, "internal_address_config.cidr_ranges", h.GetInternalAddressConfig().GetCidrRanges())
	out.InternalUnix = h.GetInternalAddressConfig().GetUnixSockets()
	out.GenerateRequestID = true
	if v := h.GetGenerateRequestId(); v != nil {
		out.GenerateRequestID = v.GetValue()
	}
	out.PreserveExternalRequestID = h.GetPreserveExternalRequestId()
	out.AlwaysSetRequestIDInResponse = h.GetAlwaysSetRequestIdInResponse()
	out.Proxy100Continue = h.GetProxy_100Continue()
	out.StripAnyPort = h.GetStripAnyHostPort()
	out.StripMatchingPort = h.GetStripMatchingHostPort()
	out.StripTrailingDot = h.GetStripTrailingHostDot()
	out.ForwardClientCert = identity.ForwardClientCert(h.GetForwardClientCertDetails())
	if d := h.GetSetCurrentClientCertDetails(); d != nil {
		out.ClientCertDetails = identity.ClientCertDetails{Subject: d.GetSubject().GetValue(), Cert: d.GetCert(), Chain: d.GetChain(), URI: d.GetUri(), DNS: d.GetDns()}
	}
	out.SchemeOverwrite = h.GetSchemeHeaderTransformation().GetSchemeToOverwrite()
	out.RequestIDSampling, out.PackTraceReason = true, true
	u := s.uuidExtension(c, h.GetRequestIdExtension())
	if v := u.GetPackTraceReason(); v != nil {
		out.PackTraceReason = v.GetValue()
	}
	if v := u.GetUseRequestIdForTraceSampling(); v != nil {
		out.RequestIDSampling = v.GetValue()
	}
	if t := h.GetTracing(); t != nil {
		out.Tracing = &snapshot.Tracing{Client: percent(t.GetClientSampling(), 100), Random: percent(t.GetRandomSampling(), 100),
			Overall: percent(t.GetOverallSampling(), 100)}
	}
}

// jitter is the most that a percentage adds to d.
func jitter(d sys.Nanos, p *typev3.Percent) sys.Nanos {
	return sys.Nanos(math.Ceil(float64(d) * p.GetValue() / 100))
}

// percent converts a double percentage to parts per 10,000, Envoy's resolution for sampling.
func percent(p *typev3.Percent, def float64) match.Fraction {
	v := def
	if p != nil {
		v = p.GetValue()
	}
	return match.Fraction{Num: uint32(v * 100), Den: 10000}
}

func (s *state) hcmTimeouts(h *hcmv3.HttpConnectionManager, out *snapshot.HCM) {
	out.RequestTimeout = nanos(h.GetRequestTimeout(), 0)
	out.HeadersTimeout = nanos(h.GetRequestHeadersTimeout(), 0)
	out.StreamIdle = nanos(h.GetStreamIdleTimeout(), 300*sys.Second)
	out.DrainTimeout = nanos(h.GetDrainTimeout(), 5*sys.Second)
	out.DrainJitter = jitter(out.DrainTimeout, h.GetDrainTimeoutJitter())
	out.DelayedClose = nanos(h.GetDelayedCloseTimeout(), sys.Second)
	o := h.GetCommonHttpProtocolOptions()
	out.ConnIdle = nanos(o.GetIdleTimeout(), 3600*sys.Second)
	out.MaxConnDuration = nanos(o.GetMaxConnectionDuration(), 0)
	out.MaxConnJitter = jitter(out.MaxConnDuration, o.GetMaxConnectionDurationJitter())
	out.MaxStream = nanos(o.GetMaxStreamDuration(), 0)
	out.MaxRequestsPerConn = o.GetMaxRequestsPerConnection().GetValue()
}

func (s *state) hcmCodec(c *registry.Ctx, h *hcmv3.HttpConnectionManager, out *snapshot.HCM) {
	o := h.GetCommonHttpProtocolOptions()
	x := HTTP1Options(c, "http_protocol_options", h.GetHttpProtocolOptions(), s.fail)
	if v := h.GetMaxRequestHeadersKb(); v != nil {
		x.MaxHeadBytes = int(v.GetValue()) << 10
	}
	if v := o.GetMaxHeadersCount(); v != nil {
		x.MaxHeaders = int(v.GetValue())
	}
	x.Underscores = http1.Underscore(o.GetHeadersWithUnderscoresAction())
	x.Lax = s.env.Runtime.Enabled(http1.LaxnessKey, false)
	out.H1 = x
	if one := h.GetHttp2ProtocolOptions().GetMaxHeaderFieldSizeKb().GetValue(); int(one)<<10 > cmp.Or(x.MaxHeadBytes, http1.DefaultMaxHeadBytes) {
		s.fail(c.Errorf("http2_protocol_options.max_header_field_size_kb", "must not exceed max_request_headers_kb"))
	}
	out.StreamErrors = h.GetStreamErrorOnInvalidHttpMessage().GetValue()
	if v := h.GetHttpProtocolOptions().GetOverrideStreamErrorOnInvalidHttpMessage(); v != nil {
		out.StreamErrors = v.GetValue()
	}
	y := &out.H2
	y.SetDefaults(http2.Server)
	codec.HTTP2(h.GetHttp2ProtocolOptions(), y, "http2_protocol_options", func(err error) { s.fail(c.Errorf("", "%w", err)) })
	if v := h.GetStreamErrorOnInvalidHttpMessage(); v != nil && h.GetHttp2ProtocolOptions().GetOverrideStreamErrorOnInvalidHttpMessage() == nil {
		y.StreamErrors = v.GetValue() // before the deprecated field of HTTP/2
	}
	y.Underscores, y.Lax = x.Underscores, x.Lax
	if x.MaxHeadBytes > 0 {
		y.MaxHeaderBytes = x.MaxHeadBytes
	}
	if x.MaxHeaders > 0 {
		y.MaxHeaders = x.MaxHeaders
	}
	if n := s.l.BufferLimit; n > 0 {
		y.OutputLimit = min(n, y.OutputLimit)
	}
}

// HTTP1Options compiles Http1ProtocolOptions; the cluster room uses it too.
func HTTP1Options(c *registry.Ctx, field registry.Path, p *corev3.Http1ProtocolOptions, fail func(error)) http1.Options {
	x := http1.Options{AllowAbsoluteURL: true, AcceptHTTP10: p.GetAcceptHttp_10(), DefaultHost: p.GetDefaultHostForHttp_10(),
		EnableTrailers: p.GetEnableTrailers(), AllowChunkedLength: p.GetAllowChunkedLength(), AllowCustomMethods: p.GetAllowCustomMethods(),
		SendFullyQualifiedURL: p.GetSendFullyQualifiedUrl()}
	if v := p.GetAllowAbsoluteUrl(); v != nil {
		x.AllowAbsoluteURL = v.GetValue()
	}
	switch f := p.GetHeaderKeyFormat().GetHeaderFormat().(type) {
	case *corev3.Http1ProtocolOptions_HeaderKeyFormat_ProperCaseWords_:
		x.ProperCase = true
	case *corev3.Http1ProtocolOptions_HeaderKeyFormat_StatefulFormatter:
		url, content, err := registry.Unwrap(f.StatefulFormatter.GetTypedConfig())
		pc := &pcv3.PreserveCaseFormatterConfig{}
		at := field.Field("header_key_format").Field("stateful_formatter").Field("typed_config")
		switch {
		case err != nil:
			fail(c.Errorf(at, "%w", err))
		case url != registry.TypeURL(pc):
			fail(c.Errorf(at, "unknown type %q of stateful header formatter", url))
		default:
			x.KeepRawNames = true
			if err := content.DecodeInto(pc); err != nil {
				fail(c.Errorf(at, "%w", err))
			}
			x.ProperCase = pc.GetFormatterTypeOnEnvoyHeaders() == pcv3.PreserveCaseFormatterConfig_PROPER_CASE
			if pc.GetForwardReasonPhrase() {
				fail(c.Errorf(at.Field("forward_reason_phrase"), "not supported: reason phrases are the proxy's own"))
			}
		}
	}
	return x
}

func (s *state) hcmPaths(h *hcmv3.HttpConnectionManager, out *snapshot.HCM) {
	rt := s.env.Runtime
	if v := h.GetNormalizePath(); v != nil {
		out.NormalizePath = v.GetValue()
	} else {
		out.NormalizePath = rt.Enabled("http_connection_manager.normalize_path", false)
	}
	out.MergeSlashes = h.GetMergeSlashes()
	switch h.GetPathWithEscapedSlashesAction() {
	case hcmv3.HttpConnectionManager_REJECT_REQUEST:
		out.EscapedSlashes = httpmsg.SlashReject
	case hcmv3.HttpConnectionManager_UNESCAPE_AND_REDIRECT:
		out.EscapedSlashes = httpmsg.SlashUnescapeRedirect
	case hcmv3.HttpConnectionManager_UNESCAPE_AND_FORWARD:
		out.EscapedSlashes = httpmsg.SlashUnescapeForward
	case hcmv3.HttpConnectionManager_IMPLEMENTATION_SPECIFIC_DEFAULT:
		switch rt.Number("http_connection_manager.path_with_escaped_slashes_action", 0) {
		case 2:
			out.EscapedSlashes = httpmsg.SlashReject
		case 3:
			out.EscapedSlashes = httpmsg.SlashUnescapeRedirect
		case 4:
			out.EscapedSlashes = httpmsg.SlashUnescapeForward
		}
	}
	out.RejectFragment = rt.Enabled("envoy.reloadable_features.http_reject_path_with_fragment", true)
}

func (s *state) hcmFilters(c *registry.Ctx, h *hcmv3.HttpConnectionManager, out *snapshot.HCM) {
	n := len(h.GetHttpFilters())
	routed := false
	for i, f := range h.GetHttpFilters() {
		at := registry.Path(fmt.Sprintf("http_filters[%d]", i))
		if d := f.GetConfigDiscovery(); d != nil {
			if x := s.discovered(c.At(at.Field("config_discovery")), f.GetName(), d, i == n-1); x != nil {
				if x.IsTerminal() {
					out.Router.DynamicStats, routed = true, true
					s.terminalEnabled(c, at, f)
				}
				out.Filters = append(out.Filters, snapshot.HTTPFilter{Name: f.GetName(), Disabled: f.GetDisabled(), Config: x})
			}
			continue
		}
		x, err := HTTPFilters.Compile(c, at.Field("typed_config"), f.GetName(), f.GetTypedConfig())
		if err != nil {
			if f.GetIsOptional() {
				c.Warnf(at, "optional filter %q is skipped: %s", f.GetName(), err)
				continue
			}
			s.fail(err)
			continue
		}
		switch {
		case x.Router != nil && i != n-1:
			s.fail(c.Errorf(at, "Error: terminal filter named %s of type envoy.filters.http.router must be the last filter in a http filter chain.", f.GetName()))
		case x.Router != nil:
			out.Router = *x.Router
			routed = true
			s.terminalEnabled(c, at, f)
		default:
			out.Filters = append(out.Filters, snapshot.HTTPFilter{Name: f.GetName(), Disabled: f.GetDisabled(), Config: x.Config})
		}
	}
	if n > 0 && !routed && len(s.errs) == 0 {
		last := h.GetHttpFilters()[n-1].GetName()
		s.fail(c.Errorf("http_filters", "Error: non-terminal filter named %s of type %s is the last filter in a http filter chain.", last, last))
	}
	if n == 0 {
		out.Router.DynamicStats = true
	}
}

func (s *state) terminalEnabled(c *registry.Ctx, at registry.Path, f *hcmv3.HttpFilter) {
	if f.GetDisabled() {
		s.fail(c.Errorf(at.Field("disabled"), "a terminal filter cannot be disabled"))
	}
}

func (s *state) hcmRoutes(c *registry.Ctx, h *hcmv3.HttpConnectionManager, out *snapshot.HCM) {
	switch r := h.GetRouteSpecifier().(type) {
	case *hcmv3.HttpConnectionManager_Rds:
		name := r.Rds.GetRouteConfigName()
		out.Routes, out.RDS = s.env.Table(name), true
		s.out.RDS = append(s.out.RDS, RDS{Ref: out.Routes, Name: name, Source: r.Rds.GetConfigSource(), FetchTimeout: fetchTimeout(r.Rds.GetConfigSource()), StatPrefix: clean(h.GetStatPrefix())})
	case *hcmv3.HttpConnectionManager_RouteConfig:
		t, err := s.env.Routes(c.At("route_config"), r.RouteConfig)
		if err != nil {
			s.fail(err)
			return
		}
		ref := &route.TableRef{Name: t.Name, Inline: t}
		out.Routes = ref
		s.out.Inline = append(s.out.Inline, Inline{Ref: ref, Table: t, Config: r.RouteConfig})
	case *hcmv3.HttpConnectionManager_ScopedRoutes:
		s.hcmScoped(c, h, out)
	default:
		s.fail(c.Errorf("route_specifier", "a route configuration is required"))
	}
}

func (s *state) hcmLogs(c *registry.Ctx, h *hcmv3.HttpConnectionManager, out *snapshot.HCM) {
	out.AccessLogs = s.accessLogs(c, "access_log", h.GetAccessLog())
	out.LogFlushInterval = nanos(h.GetAccessLogFlushInterval(), 0)
	out.LogOnNewRequest = h.GetFlushAccessLogOnNewRequest()
	if o := h.GetAccessLogOptions(); o != nil {
		out.LogFlushInterval = nanos(o.GetAccessLogFlushInterval(), out.LogFlushInterval)
		out.LogOnNewRequest = out.LogOnNewRequest || o.GetFlushAccessLogOnNewRequest()
	}
	out.LocalReply = s.localReply(c, h.GetLocalReplyConfig())
}

// uuidExtension is the only request id extension; nil without one.
func (s *state) uuidExtension(c *registry.Ctx, x *hcmv3.RequestIDExtension) *uuidv3.UuidRequestIdConfig {
	if x.GetTypedConfig() == nil {
		return nil
	}
	url, content, err := registry.Unwrap(x.GetTypedConfig())
	u := &uuidv3.UuidRequestIdConfig{}
	switch {
	case err != nil:
	case url != registry.TypeURL(u):
		err = fmt.Errorf("unknown type %q of request id extension", url)
	default:
		err = content.DecodeInto(u)
	}
	if err != nil {
		s.fail(c.Errorf("request_id_extension.typed_config", "%w", err))
	}
	return u
}
