// SPDX-License-Identifier: Apache-2.0

package routeconfig

import (
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"sidecar/dataplane/route"
	"sidecar/dataplane/sys"
	"sidecar/xds/compile/matcher"
	"sidecar/xds/registry"
)

// The back-off of retries when it is not configured; the maximum is ten times the base.
const (
	defaultRetryBase      = 25 * sys.Millisecond
	defaultRateLimitedMax = 300 * sys.Second
)

// maxHostSelection bounds host_selection_retry_max_attempts: each is one more walk of the load balancer on the request path.
const maxHostSelection = 1000

func (s *state) retry(c *registry.Ctx, p *routev3.RetryPolicy) *route.Retry {
	r := &route.Retry{
		Num: 1, PerTry: s.nanos(c, "per_try_timeout", p.GetPerTryTimeout(), 0), PerTryIdle: s.nanos(c, "per_try_idle_timeout", p.GetPerTryIdleTimeout(), 0),
		Codes: p.GetRetriableStatusCodes(), MaxSelect: 1, Base: defaultRetryBase, Max: 10 * defaultRetryBase,
	}
	http, _ := route.ParseRetryOn([]byte(p.GetRetryOn()))
	grpc, _ := route.ParseRetryGrpcOn([]byte(p.GetRetryOn()))
	r.On = http | grpc
	for _, word := range strings.Split(p.GetRetryOn(), ",") {
		word = strings.TrimSpace(word)
		_, isHTTP := route.ParseRetryOn([]byte(word))
		_, isGRPC := route.ParseRetryGrpcOn([]byte(word))
		if word != "" && !isHTTP && !isGRPC {
			c.Warnf("retry_on", "unknown condition %q has no effect", word)
		}
	}
	if p.GetNumRetries() != nil {
		r.Num = p.GetNumRetries().GetValue()
	}
	switch n := p.GetHostSelectionRetryMaxAttempts(); {
	case n > maxHostSelection:
		c.Warnf("host_selection_retry_max_attempts", "cut to %d", maxHostSelection)
		r.MaxSelect = maxHostSelection
	case n > 0:
		r.MaxSelect = int(n)
	}
	if b := p.GetRetryBackOff(); b != nil {
		at := c.At("retry_back_off")
		if b.GetBaseInterval() == nil {
			s.fail(at.Errorf("base_interval", "value is required"))
		}
		// Back-off timers count milliseconds, and 0 would retry without a pause.
		r.Base = max(s.nanos(at, "base_interval", b.GetBaseInterval(), defaultRetryBase), sys.Millisecond)
		r.Max = max(s.nanos(at, "max_interval", b.GetMaxInterval(), 10*r.Base), 0)
		if b.GetMaxInterval() != nil && r.Max < r.Base {
			s.fail(at.Errorf("max_interval", "retry_policy.max_interval must greater than or equal to the base_interval"))
		}
	}
	if b := p.GetRateLimitedRetryBackOff(); b != nil {
		at := c.At("rate_limited_retry_back_off")
		r.RateLimitedMax = s.nanos(at, "max_interval", b.GetMaxInterval(), defaultRateLimitedMax)
		if len(b.GetResetHeaders()) == 0 {
			s.fail(at.Errorf("reset_headers", "value must contain at least 1 item(s)"))
		}
		for i, h := range b.GetResetHeaders() {
			if k := s.key(at, registry.Path("").Index("reset_headers", i).Field("name"), h.GetName()); k != nil {
				r.RateLimited = append(r.RateLimited, route.ResetHeader{Key: *k, UnixTS: h.GetFormat() == routev3.RetryPolicy_UNIX_TIMESTAMP})
			}
		}
	}
	for i, h := range p.GetRetriableHeaders() {
		r.Headers = add(s, r.Headers, c, registry.Path("").Index("retriable_headers", i), h, matcher.Header)
	}
	for i, h := range p.GetRetriableRequestHeaders() {
		r.RequestHeaders = add(s, r.RequestHeaders, c, registry.Path("").Index("retriable_request_headers", i), h, matcher.Header)
	}
	s.hostPredicates(c, p, r)
	return r
}

// The extensions without fields that routes may name.
const (
	previousHostsURL   = "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
	previousRoutesURL  = "type.googleapis.com/envoy.extensions.internal_redirect.previous_routes.v3.PreviousRoutesConfig"
	safeCrossSchemeURL = "type.googleapis.com/envoy.extensions.internal_redirect.safe_cross_scheme.v3.SafeCrossSchemeConfig"
)

func (s *state) hostPredicates(c *registry.Ctx, p *routev3.RetryPolicy, r *route.Retry) {
	for i, h := range p.GetRetryHostPredicate() {
		at := registry.Path("").Index("retry_host_predicate", i).Field("typed_config")
		url, _, err := registry.Unwrap(h.GetTypedConfig())
		switch {
		case err != nil:
			s.fail(c.Errorf(at, "%w", err))
		case url == previousHostsURL:
			r.PreviousHosts = true
		default:
			s.fail(c.Errorf(at, "%w %q of retry host predicate %q", registry.ErrUnknownType, url, h.GetName()))
		}
	}
}

func (s *state) internalRedirect(c *registry.Ctx, a *routev3.RouteAction) *route.InternalRedirect {
	p := a.GetInternalRedirectPolicy()
	if p == nil {
		//nolint:staticcheck // deprecated, still honoured
		if a.GetInternalRedirectAction() != routev3.RouteAction_HANDLE_INTERNAL_REDIRECT {
			return nil
		}
		out := &route.InternalRedirect{Max: 1, Codes: []uint32{302}}
		//nolint:staticcheck // deprecated, still honoured
		if m := a.GetMaxInternalRedirects(); m != nil {
			out.Max = m.GetValue()
		}
		return out
	}
	c = c.At("internal_redirect_policy")
	out := &route.InternalRedirect{Max: 1, CrossScheme: p.GetAllowCrossSchemeRedirect()}
	if p.GetMaxInternalRedirects() != nil {
		out.Max = p.GetMaxInternalRedirects().GetValue()
	}
	for i, code := range p.GetRedirectResponseCodes() {
		switch code {
		case 301, 302, 303, 307, 308:
			out.Codes = append(out.Codes, code)
		default:
			c.Warnf(registry.Path("").Index("redirect_response_codes", i), "%d is not a redirect and has no effect", code)
		}
	}
	if len(p.GetRedirectResponseCodes()) == 0 {
		out.Codes = []uint32{302}
	}
	for i, n := range p.GetResponseHeadersToCopy() {
		if k := s.key(c, registry.Path("").Index("response_headers_to_copy", i), n); k != nil {
			out.CopyHeaders = append(out.CopyHeaders, *k)
		}
	}
	for i, e := range p.GetPredicates() {
		at := registry.Path("").Index("predicates", i).Field("typed_config")
		url, _, err := registry.Unwrap(e.GetTypedConfig())
		switch {
		case err != nil:
			s.fail(c.Errorf(at, "%w", err))
		case url == previousRoutesURL:
			out.PreviousRoutes = true
		case url == safeCrossSchemeURL:
			out.SafeCrossScheme = true
		default:
			s.fail(c.Errorf(at, "%w %q of internal redirect predicate %q", registry.ErrUnknownType, url, e.GetName()))
		}
	}
	return out
}
