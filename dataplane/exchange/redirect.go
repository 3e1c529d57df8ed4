// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"bytes"

	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/route"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/stats"
)

// internalRedirect follows a redirect of the upstream itself if the route's policy says so; true means that the response was thrown away and the
// request goes on at its new place.
func (x *Exchange) internalRedirect(now sys.Nanos) bool {
	p := x.entry.Forward.InternalRedirect
	if !redirectCode(p, x.resp.Status) {
		return false
	}
	b, cl := x.ch.hcm, x.cl.Block
	loc := x.resp.Get(httpmsg.IDLocation)
	scheme, host, path, ok := splitURL(loc)
	switch {
	case !x.has(xReqEnd) || x.req.Body != httpmsg.BodyNone && !x.has(xKeepBody) && !x.has(xPrebuf), !ok:
		b.Inc(stats.HCMPassthroughInternalRedirectBadLocation)
		cl.Inc(stats.ClusterUpstreamInternalRedirectFailedTotal)
		return false
	case x.redirects >= max(p.Max, 1):
		b.Inc(stats.HCMPassthroughInternalRedirectTooManyRedirects)
		cl.Inc(stats.ClusterUpstreamInternalRedirectFailedTotal)
		return false
	case !p.CrossScheme && string(scheme) != string(x.req.SchemeBytes()):
		b.Inc(stats.HCMPassthroughInternalRedirectUnsafeScheme)
		cl.Inc(stats.ClusterUpstreamInternalRedirectFailedTotal)
		return false
	}
	old := x.req
	oldEntry := x.entry
	x.setOriginalURL()
	x.req.SetHost(host)
	x.req.SetPath(path)
	x.req.SetScheme(string(scheme))
	if x.resp.Status == 303 && old.Method != httpmsg.MethodHead && old.Method != httpmsg.MethodGet {
		x.req.SetMethod("GET")
		x.req.Body = httpmsg.BodyNone
		x.req.Remove(keyCL)
	}
	e, vh, v := x.table.Match(&x.q)
	if v != route.Matched || e.Kind != route.ActionForward {
		x.req, x.entry = old, oldEntry
		x.req.Remove(keyOriginalURL)
		b.Inc(stats.HCMPassthroughInternalRedirectNoRoute)
		cl.Inc(stats.ClusterUpstreamInternalRedirectFailedTotal)
		return false
	}
	cl.Inc(stats.ClusterUpstreamInternalRedirectSucceededTotal)
	x.redirects++
	x.rec.Code, x.rec.Details = x.resp.Status, "internal_redirect"
	x.rec.End = x.since(now)
	x.rec.Resp = &x.resp
	x.writeLog()
	x.release(x.drainResponse())
	x.resp.Reset(&x.respA)
	x.respA.Reset(arenaKeep)
	x.fl &^= xRespHead
	x.entry, x.vh = e, vh
	x.rec.RouteName, x.rec.VirtualHost, x.rec.RouteMeta, x.rec.VHostMeta = e.Name, vh.Name, e.Metadata, vh.Metadata
	x.rec.Code, x.rec.Details, x.rec.Resp = 0, "", nil
	x.dropBudget()
	x.row, x.cl, x.host = nil, nil, nil
	x.routeAt, x.perTryAt = 0, 0 // the new route has timeouts of its own
	if x.req.Body == httpmsg.BodyNone {
		// A 303 made it a GET: a body that was kept would reach the upstream as a request of its own.
		x.fl &^= xKeepBody | xPrebuf
		x.env.giveBuf(x.body)
		x.body = nil
	}
	x.tried = x.tried[:0]
	x.attempts, x.connTries, x.retries = 0, 0, 0
	x.rec.Tried = x.rec.Tried[:0]
	x.to(stPick)
	return true
}

// setOriginalURL leaves the request's own URL in x-envoy-original-url.
func (x *Exchange) setOriginalURL() {
	b := append(x.reqA.Tail(), x.req.SchemeBytes()...)
	b = append(b, "://"...)
	b = append(b, x.req.Host()...)
	b = append(b, x.req.Path()...)
	x.req.SetSpan(keyOriginalURL, x.reqA.Take(b))
}

func redirectCode(p *route.InternalRedirect, status uint16) bool {
	if len(p.Codes) == 0 {
		return status == 302
	}
	for _, c := range p.Codes {
		if c == uint32(status) {
			return true
		}
	}
	return false
}

// splitURL takes an absolute http or https URL apart; anything else is refused, relative references as well.
func splitURL(u []byte) (scheme, host, path []byte, ok bool) {
	rest := u
	switch {
	case bytes.HasPrefix(u, []byte("http://")):
		scheme, rest = u[:4], u[7:]
	case bytes.HasPrefix(u, []byte("https://")):
		scheme, rest = u[:5], u[8:]
	default:
		return nil, nil, nil, false
	}
	i := bytes.IndexAny(rest, "/?#")
	if i < 0 {
		i = len(rest)
	}
	host, path = rest[:i], rest[i:]
	if j := bytes.IndexByte(path, '#'); j >= 0 {
		path = path[:j]
	}
	if len(path) == 0 || path[0] != '/' {
		path = append([]byte("/"), path...)
	}
	return scheme, host, path, httpmsg.ValidAuthority(host, false)
}
