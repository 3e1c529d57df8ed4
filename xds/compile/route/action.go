// SPDX-License-Identifier: Apache-2.0

package routeconfig

import (
	"maps"
	"math"
	"os"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"sidecar/dataplane/route"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/accesslog"
	"sidecar/internal/telemetry/stats"
	"sidecar/xds/compile/matcher"
	"sidecar/xds/registry"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// defaultTimeout is RouteAction.timeout when it is not set.
const defaultTimeout = 15 * sys.Second

func (s *state) forward(c *registry.Ctx, a *routev3.RouteAction, e *route.Entry, vh *route.VirtualHost) *route.Forward {
	f := &route.Forward{
		NotFoundStatus: 503, HostAuto: a.GetAutoHostRewrite().GetValue(), AppendXFH: a.GetAppendXForwardedHost(),
		Timeout: s.nanos(c, "timeout", a.GetTimeout(), defaultTimeout), IdleTimeout: s.nanos(c, "idle_timeout", a.GetIdleTimeout(), route.Unset),
		MetadataMatch: s.metadata(c, "metadata_match", a.GetMetadataMatch()),
		//nolint:staticcheck // deprecated, still honoured
		MaxGrpcTimeout: s.nanos(c, "max_grpc_timeout", a.GetMaxGrpcTimeout(), route.Unset),
		//nolint:staticcheck // deprecated, still honoured
		GrpcOffset: s.nanos(c, "grpc_timeout_offset", a.GetGrpcTimeoutOffset(), 0), MaxStream: route.Unset, GrpcTimeoutMax: route.Unset,
		IncludeVHRateLimits: a.GetIncludeVhRateLimits().GetValue(), //nolint:staticcheck // carried
	}
	if d := a.GetMaxStreamDuration(); d != nil {
		m := c.At("max_stream_duration")
		f.NewTimeouts = true
		f.MaxStream = s.nanos(m, "max_stream_duration", d.GetMaxStreamDuration(), route.Unset)
		f.GrpcTimeoutMax = s.nanos(m, "grpc_timeout_header_max", d.GetGrpcTimeoutHeaderMax(), route.Unset)
		f.GrpcTimeoutOffset = s.nanos(m, "grpc_timeout_header_offset", d.GetGrpcTimeoutHeaderOffset(), 0)
	}
	switch a.GetClusterNotFoundResponseCode() {
	case routev3.RouteAction_SERVICE_UNAVAILABLE:
	case routev3.RouteAction_NOT_FOUND:
		f.NotFoundStatus = 404
	case routev3.RouteAction_INTERNAL_SERVER_ERROR:
		f.NotFoundStatus = 500
	default:
		s.fail(c.Errorf("cluster_not_found_response_code", "value must be one of the defined enum values"))
	}
	switch a.GetPriority() {
	case corev3.RoutingPriority_DEFAULT:
	case corev3.RoutingPriority_HIGH:
		f.HighPriority = true
	default:
		s.fail(c.Errorf("priority", "value must be one of the defined enum values"))
	}
	s.target(c, a, f)
	s.rewrites(c, a, e, f)
	if f.Retry = vh.Retry; a.GetRetryPolicy() != nil {
		f.Retry = s.retry(c.At("retry_policy"), a.GetRetryPolicy())
	}
	if f.Mirrors = s.mirrors(c, a.GetRequestMirrorPolicies()); len(f.Mirrors) == 0 {
		f.Mirrors = vh.Mirrors
	}
	f.Hash = s.hash(c, a.GetHashPolicy())
	s.upgrades(c, a, f)
	f.InternalRedirect = s.internalRedirect(c, a)
	return f
}

func (s *state) target(c *registry.Ctx, a *routev3.RouteAction, f *route.Forward) {
	switch t := a.GetClusterSpecifier().(type) {
	case *routev3.RouteAction_Cluster:
		if t.Cluster == "" {
			s.fail(c.Errorf("cluster", "value length must be at least 1 characters"))
			return
		}
		f.Cluster = s.cluster(c, "cluster", "", t.Cluster)
	case *routev3.RouteAction_ClusterHeader:
		f.ClusterHeader = s.key(c, "cluster_header", t.ClusterHeader)
	case *routev3.RouteAction_WeightedClusters:
		f.Weighted = s.weighted(c.At("weighted_clusters"), t.WeightedClusters)
	case *routev3.RouteAction_ClusterSpecifierPlugin, *routev3.RouteAction_InlineClusterSpecifierPlugin: // refused by the table
	default:
		s.fail(c.Errorf("cluster_specifier", "is required"))
	}
}

func (s *state) weighted(c *registry.Ctx, w *routev3.WeightedCluster) *route.Weighted {
	out := &route.Weighted{RuntimeKeyPrefix: w.GetRuntimeKeyPrefix(), UseHashPolicy: w.GetUseHashPolicy().GetValue()}
	if n := w.GetHeaderName(); n != "" {
		out.HeaderKey = s.key(c, "header_name", n)
	}
	if len(w.GetClusters()) == 0 {
		s.fail(c.Errorf("clusters", "value must contain at least 1 item(s)"))
	}
	total := uint64(0)
	for i, cw := range w.GetClusters() {
		at := c.At(registry.Path("").Index("clusters", i))
		wc := route.WeightedCluster{Name: cw.GetName(), Weight: cw.GetWeight().GetValue(), HostLiteral: cw.GetHostRewriteLiteral(),
			MetadataMatch: s.metadata(at, "metadata_match", cw.GetMetadataMatch()), Mutations: s.mutations(at, cw),
			PerFilter: s.perFilter(at, cw.GetTypedPerFilterConfig())}
		switch {
		case cw.GetName() != "" && cw.GetClusterHeader() != "":
			s.fail(at.Errorf("", "Only one of name or cluster_header can be specified"))
		case cw.GetName() != "":
			wc.Cluster = s.cluster(at, "name", "weighted ", cw.GetName())
		case cw.GetClusterHeader() != "":
			wc.ClusterHeader = s.key(at, "cluster_header", cw.GetClusterHeader())
		default:
			s.fail(at.Errorf("", "At least one of name or cluster_header need to be specified"))
		}
		if cw.GetWeight() == nil {
			s.fail(at.Errorf("weight", "Field 'weight' is missing"))
		}
		if out.RuntimeKeyPrefix != "" {
			wc.RuntimeKey = out.RuntimeKeyPrefix + "." + cw.GetName()
		}
		total += uint64(wc.Weight)
		out.Clusters = append(out.Clusters, wc)
	}
	switch {
	case total > math.MaxUint32:
		s.fail(c.Errorf("clusters", "The sum of weights of all weighted clusters exceeds 4294967295"))
	case total == 0 && len(w.GetClusters()) > 0:
		s.fail(c.Errorf("clusters", "Sum of weights in the weighted_cluster must be greater than 0."))
	}
	out.Total = uint32(min(total, math.MaxUint32))
	return out
}

func (s *state) rewrites(c *registry.Ctx, a *routev3.RouteAction, e *route.Entry, f *route.Forward) {
	n := 0
	if a.GetPrefixRewrite() != "" {
		f.PrefixRewrite, f.HasPrefixRewrite = a.GetPrefixRewrite(), true
		n++
	}
	if a.GetRegexRewrite() != nil {
		var err error
		f.RegexRewrite, f.RegexSubst, err = matcher.Substitute(c, "regex_rewrite", a.GetRegexRewrite())
		s.fail(err)
		n++
	}
	if a.GetPathRewritePolicy() != nil {
		f.PathTemplate = s.rewriteTemplate(c, a.GetPathRewritePolicy(), e)
		n++
	}
	if a.GetPathRewrite() != "" {
		f.PathFormat = s.headerFormat(c, "path_rewrite", a.GetPathRewrite())
		n++
	}
	if n > 1 {
		s.fail(c.Errorf("", "Specify only one of prefix_rewrite, regex_rewrite or path_rewrite_policy"))
	}
	for name, v := range map[string]string{"prefix_rewrite": a.GetPrefixRewrite(), "host_rewrite_literal": a.GetHostRewriteLiteral()} {
		s.plainText(c, registry.Path(name), v)
	}
	switch h := a.GetHostRewriteSpecifier().(type) {
	case *routev3.RouteAction_HostRewriteLiteral:
		f.HostLiteral = h.HostRewriteLiteral
	case *routev3.RouteAction_HostRewriteHeader:
		if h.HostRewriteHeader != "" {
			f.HostHeader = s.key(c, "host_rewrite_header", h.HostRewriteHeader)
		}
	case *routev3.RouteAction_HostRewritePathRegex:
		var err error
		f.HostRegex, f.HostSubst, err = matcher.Substitute(c, "host_rewrite_path_regex", h.HostRewritePathRegex)
		s.fail(err)
	case *routev3.RouteAction_HostRewrite:
		if h.HostRewrite != "" {
			// Unlike path_rewrite, an absent value is "-" here, as in the binary.
			s.plainText(c, "host_rewrite", h.HostRewrite)
			var err error
			if f.HostFormat, err = accesslog.CompileText(h.HostRewrite, false); err != nil {
				s.fail(c.Errorf("host_rewrite", "%w", err))
			}
		}
	}
}

// plainText refuses the bytes that would end a line of an HTTP/1 message.
func (s *state) plainText(c *registry.Ctx, field registry.Path, v string) {
	if strings.ContainsAny(v, "\x00\r\n") {
		s.fail(c.Errorf(field, `value does not match regex pattern "^[^\x00\n\r]*$"`))
	}
}

func (s *state) headerFormat(c *registry.Ctx, field registry.Path, text string) *accesslog.Format {
	s.plainText(c, field, text)
	f, err := accesslog.CompileHeader(text)
	if err != nil {
		s.fail(c.Errorf(field, "%w", err))
	}
	return f
}

func (s *state) mirrors(c *registry.Ctx, list []*routev3.RouteAction_RequestMirrorPolicy) []route.Mirror {
	var out []route.Mirror
	for i, p := range list {
		at := c.At(registry.Path("").Index("request_mirror_policies", i))
		m := route.Mirror{KeepHost: p.GetDisableShadowHostSuffixAppend(), HostLiteral: p.GetHostRewriteLiteral(),
			TraceSampled: p.GetTraceSampled() == nil || p.GetTraceSampled().GetValue(), Mutations: s.mirrorMutations(at, p.GetRequestHeadersMutations())}
		s.plainText(at, "host_rewrite_literal", m.HostLiteral)
		switch name, hdr := p.GetCluster(), p.GetClusterHeader(); {
		case name != "" && hdr != "":
			s.fail(at.Errorf("", "Only one of cluster '%s' or cluster_header '%s' in request mirror policy can be specified", name, hdr))
		case name != "":
			m.Cluster = s.cluster(at, "cluster", "shadow ", name)
		case hdr != "":
			m.ClusterHeader = s.key(at, "cluster_header", hdr)
		default:
			s.fail(at.Errorf("", "Exactly one of cluster or cluster_header in request mirror policy need to be specified"))
		}
		if rf := p.GetRuntimeFraction(); rf != nil {
			var err error
			m.Fraction, err = matcher.RuntimeFraction(at, "runtime_fraction", rf)
			s.fail(err)
		}
		out = append(out, m)
	}
	if len(out) > 0 && s.t.AsyncClient == nil && s.ctx.Stats != nil {
		s.t.AsyncClient = s.ctx.Stats.Scope("http.async-client.", stats.AsyncClientDef)
	}
	return out
}

func (s *state) hash(c *registry.Ctx, list []*routev3.RouteAction_HashPolicy) []route.HashPolicy {
	var out []route.HashPolicy
	for i, p := range list {
		at := c.At(registry.Path("").Index("hash_policy", i))
		h := route.HashPolicy{Terminal: p.GetTerminal(), TTL: route.Unset}
		switch v := p.GetPolicySpecifier().(type) {
		case *routev3.RouteAction_HashPolicy_Header_:
			h.Kind = route.HashHeader
			if k := s.key(at, "header.header_name", v.Header.GetHeaderName()); k != nil {
				h.Header = *k
			}
			if r := v.Header.GetRegexRewrite(); r != nil {
				var err error
				h.Regex, h.Subst, err = matcher.Substitute(at, "header.regex_rewrite", r)
				s.fail(err)
			}
		case *routev3.RouteAction_HashPolicy_Cookie_:
			h.Kind, h.Cookie, h.Path = route.HashCookie, v.Cookie.GetName(), v.Cookie.GetPath()
			h.TTL = s.nanos(at, "cookie.ttl", v.Cookie.GetTtl(), route.Unset)
			s.cookie(at.At("cookie"), v.Cookie, &h)
		case *routev3.RouteAction_HashPolicy_ConnectionProperties_:
			if !v.ConnectionProperties.GetSourceIp() {
				continue
			}
			h.Kind = route.HashSourceIP
		case *routev3.RouteAction_HashPolicy_QueryParameter_:
			if h.Kind, h.Query = route.HashQuery, v.QueryParameter.GetName(); h.Query == "" {
				s.fail(at.Errorf("query_parameter.name", "value length must be at least 1 characters"))
			}
		case *routev3.RouteAction_HashPolicy_FilterState_: // refused by the table
			continue
		default:
			s.fail(at.Errorf("policy_specifier", "is required"))
			continue
		}
		out = append(out, h)
	}
	return out
}

// cookie checks that nothing of a generated cookie can break out of its Set-Cookie line.
func (s *state) cookie(c *registry.Ctx, v *routev3.RouteAction_HashPolicy_Cookie, h *route.HashPolicy) {
	if !token(h.Cookie) {
		s.fail(c.Errorf("name", "%q is not a valid cookie name", h.Cookie))
	}
	if strings.ContainsAny(h.Path, "\x00\r\n;") {
		s.fail(c.Errorf("path", "must not contain control characters or ';'"))
	}
	for i, a := range v.GetAttributes() {
		at := registry.Path("").Index("attributes", i)
		if !token(a.GetName()) {
			s.fail(c.Errorf(at.Field("name"), "%q is not a valid attribute name", a.GetName()))
		}
		if strings.ContainsAny(a.GetValue(), "\x00\r\n;") {
			s.fail(c.Errorf(at.Field("value"), "must not contain control characters or ';'"))
		}
		h.Attrs = append(h.Attrs, route.CookieAttr{Name: a.GetName(), Value: a.GetValue()})
	}
}

func (s *state) upgrades(c *registry.Ctx, a *routev3.RouteAction, f *route.Forward) {
	seen := map[string]bool{}
	for i, u := range a.GetUpgradeConfigs() {
		at := c.At(registry.Path("").Index("upgrade_configs", i))
		low := strings.ToLower(u.GetUpgradeType())
		if low == "" {
			s.fail(at.Errorf("upgrade_type", "value length must be at least 1 characters"))
		}
		if seen[low] {
			s.fail(at.Errorf("upgrade_type", "Duplicate upgrade %s", u.GetUpgradeType()))
		}
		seen[low] = true
		if u.GetConnectConfig() != nil && low != "connect" && low != "connect-udp" {
			s.fail(at.Errorf("connect_config", "Non-CONNECT upgrade type %s has ConnectConfig", u.GetUpgradeType()))
		}
		f.Upgrades = append(f.Upgrades, route.Upgrade{Type: low, Enabled: u.GetEnabled() == nil || u.GetEnabled().GetValue(),
			Connect: u.GetConnectConfig() != nil})
		if x := u.GetConnectConfig(); x != nil {
			f.ConnectPost = x.GetAllowPost()
			f.ConnectProxy = 0
			if p := x.GetProxyProtocolConfig(); p != nil {
				f.ConnectProxy = 1 + uint8(p.GetVersion())
			}
		}
	}
}

func (s *state) redirect(c *registry.Ctx, a *routev3.RedirectAction) *route.Redirect {
	r := &route.Redirect{HTTPS: a.GetHttpsRedirect(), Scheme: a.GetSchemeRedirect(), Host: a.GetHostRedirect(), StripQuery: a.GetStripQuery()}
	if a.GetPortRedirect() > 65535 {
		s.fail(c.Errorf("port_redirect", "value must be less than or equal to 65535"))
	}
	r.Port = uint16(a.GetPortRedirect())
	switch a.GetResponseCode() {
	case routev3.RedirectAction_MOVED_PERMANENTLY:
		r.Code = 301
	case routev3.RedirectAction_FOUND:
		r.Code = 302
	case routev3.RedirectAction_SEE_OTHER:
		r.Code = 303
	case routev3.RedirectAction_TEMPORARY_REDIRECT:
		r.Code = 307
	case routev3.RedirectAction_PERMANENT_REDIRECT:
		r.Code = 308
	default:
		s.fail(c.Errorf("response_code", "value must be one of the defined enum values"))
	}
	for name, v := range map[string]string{"scheme_redirect": r.Scheme, "host_redirect": r.Host, "path_redirect": a.GetPathRedirect(), "prefix_rewrite": a.GetPrefixRewrite()} {
		s.plainText(c, registry.Path(name), v)
	}
	switch p := a.GetPathRewriteSpecifier().(type) {
	case *routev3.RedirectAction_PathRedirect:
		r.Path, r.HasPath = p.PathRedirect, p.PathRedirect != ""
	case *routev3.RedirectAction_PrefixRewrite:
		r.Prefix, r.HasPrefix = p.PrefixRewrite, p.PrefixRewrite != ""
	case *routev3.RedirectAction_RegexRewrite:
		var err error
		r.Regex, r.RegexSubst, err = matcher.Substitute(c, "regex_rewrite", p.RegexRewrite)
		s.fail(err)
	case *routev3.RedirectAction_PathRewrite:
		if p.PathRewrite != "" {
			r.PathFormat = s.headerFormat(c, "path_rewrite", p.PathRewrite)
		}
	}
	return r
}

func (s *state) direct(c *registry.Ctx, a *routev3.DirectResponseAction) *route.Direct {
	d := &route.Direct{Status: uint16(min(a.GetStatus(), 999))}
	if a.GetStatus() < 200 || a.GetStatus() >= 600 {
		s.fail(c.Errorf("status", "value must be inside range [200, 600)"))
	}
	d.Body = s.dataSource(c.At("body"), a.GetBody(), s.t.MaxDirectBody, "response body")
	d.Format = s.format(c.At("body_format"), a.GetBodyFormat())
	if d.Format != nil || len(d.Body) > 0 {
		d.ContentType = "text/plain"
	}
	if d.Format != nil && d.Format.IsJSON() {
		d.ContentType = "application/json"
	}
	if ct := a.GetBodyFormat().GetContentType(); ct != "" {
		s.plainText(c, "body_format.content_type", ct)
		d.ContentType = ct
	}
	return d
}

// dataSource reads a DataSource of at most limit bytes; nil is empty. what names it in errors.
func (s *state) dataSource(c *registry.Ctx, d *corev3.DataSource, limit uint32, what string) []byte {
	if d == nil {
		return nil
	}
	if d.GetWatchedDirectory() != nil {
		s.fail(c.Errorf("watched_directory", "watching is not supported here"))
	}
	var b []byte
	switch v := d.GetSpecifier().(type) {
	case *corev3.DataSource_InlineString:
		b = []byte(v.InlineString)
	case *corev3.DataSource_InlineBytes:
		b = v.InlineBytes
	case *corev3.DataSource_EnvironmentVariable:
		b = []byte(os.Getenv(v.EnvironmentVariable))
	case *corev3.DataSource_Filename:
		var err error
		if b, err = s.ctx.readFile(v.Filename); err != nil {
			s.fail(c.Errorf("filename", "file %s does not exist or cannot be read", v.Filename))
		}
	default:
		s.fail(c.Errorf("specifier", "is required"))
	}
	if uint64(len(b)) > uint64(limit) {
		s.fail(c.Errorf("", "%s size is %d bytes; maximum is %d", what, len(b), limit))
		return nil
	}
	return b
}
