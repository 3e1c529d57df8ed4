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
	loc := x.resp.Find(httpmsg.IDLocation, 0)
	if loc < 0 || !x.has(xReqEnd) || x.req.Body != httpmsg.BodyNone && !x.has(xKeepBody) && !x.has(xPrebuf) {
		x.cl.Block.Inc(stats.ClusterUpstreamInternalRedirectFailedTotal)
		return false
	}
	scheme, host, path, ok := splitURL(x.resp.Value(loc))
	// As Envoy decides it: only what is https and came over TLS is secure.
	from := "http"
	if x.side.TLS != nil && string(x.req.SchemeBytes()) == "https" {
		from = "https"
	}
	switch {
	case !ok:
		return x.refuseRedirect(stats.HCMPassthroughInternalRedirectBadLocation)
	case !p.CrossScheme && scheme != from:
		return x.refuseRedirect(stats.HCMPassthroughInternalRedirectUnsafeScheme)
	case x.redirects >= p.Max:
		return x.refuseRedirect(stats.HCMPassthroughInternalRedirectTooManyRedirects)
	}
	old, oldEntry := x.req, x.entry
	x.setOriginalURL(from)
	x.req.SetHost(host)
	x.req.SetPath(path)
	x.req.SetScheme(scheme)
	if x.resp.Status == 303 && old.Method != httpmsg.MethodHead && old.Method != httpmsg.MethodGet {
		x.req.SetMethod("GET")
		x.req.Body = httpmsg.BodyNone
		x.req.Remove(keyCL)
	}
	e, vh, v := x.table.Match(&x.q)
	refused := 0
	switch {
	case v != route.Matched:
		refused = stats.HCMPassthroughInternalRedirectNoRoute
	case p.SafeCrossScheme && scheme == "https" && from == "http", p.PreviousRoutes && !x.takeRoute(oldEntry.Name, e.Name):
		refused = stats.HCMPassthroughInternalRedirectPredicate
	default:
		x.followRedirect(now, e, vh)
		return true
	}
	x.req, x.entry = old, oldEntry
	x.req.Remove(keyOriginalURL)
	return x.refuseRedirect(refused)
}

// refuseRedirect counts a redirect that is passed on to the client, and why.
func (x *Exchange) refuseRedirect(why int) bool {
	x.ch.hcm.Inc(why)
	x.cl.Block.Inc(stats.ClusterUpstreamInternalRedirectFailedTotal)
	return false
}

// followRedirect logs the response that redirects, throws it away and starts the request again at e. What the old route has given the exchange (retry
// policy, hash cookie, timeouts) stays behind.
func (x *Exchange) followRedirect(now sys.Nanos, e *route.Entry, vh *route.VirtualHost) {
	x.cl.Block.Inc(stats.ClusterUpstreamInternalRedirectSucceededTotal)
	x.copyToRequest(x.entry.Forward.InternalRedirect.CopyHeaders)
	x.redirects++
	x.countAgain()
	x.rec.Code, x.rec.Details = x.resp.Status, "internal_redirect"
	x.rec.End = x.since(now)
	x.rec.Resp = &x.resp
	x.writeLog()
	x.release(x.drainResponse())
	x.resp.Reset(&x.respA)
	x.respA.Reset(arenaKeep)
	x.fl &^= xRespHead | xAltTimeout
	x.entry, x.vh = e, vh
	x.rec.RouteName, x.rec.VirtualHost, x.rec.RouteMeta, x.rec.VHostMeta = e.Name, vh.Name, e.Metadata, vh.Metadata
	x.rec.Code, x.rec.Details, x.rec.Resp = 0, "", nil
	x.dropBudget()
	x.row, x.cl, x.host = nil, nil, nil
	x.plan, x.planned = route.RetryPlan{}, false
	x.cookie, x.hasHash = nil, false
	x.routeAt, x.perTryAt = 0, 0
	if x.req.Body == httpmsg.BodyNone {
		// A 303 made it a GET: a body that was kept would reach the upstream as a request of its own.
		x.fl &^= xKeepBody | xPrebuf
		x.env.giveBuf(x.body)
		x.body = nil
	}
	x.tried = x.tried[:0]
	x.attempts, x.connTries, x.retries = 0, 0, 0
	x.forgetUpstream()
	x.to(stPick)
}

// forgetUpstream clears what the record knows of the upstream that has redirected: the new place may be answered without one.
func (x *Exchange) forgetUpstream() {
	r := &x.rec
	r.Cluster, r.ClusterRaw, r.ClusterMeta = "", "", nil
	r.UpstreamHost, r.UpstreamHostName, r.HostMeta = sys.Addr{}, "", nil
	r.UpstreamLocal, r.UpstreamRemote, r.UpstreamConnID, r.UpstreamRequests = sys.Addr{}, sys.Addr{}, 0, 0
	r.UpstreamProtocol, r.UpstreamTLS, r.UpstreamFailure, r.UpstreamDetectedClose = "", nil, "", ""
	r.Attempts, r.Tried = 0, r.Tried[:0]
}

// countAgain counts the request that a redirect makes, as Envoy does.
func (x *Exchange) countAgain() {
	x.ch.hcm.Inc(stats.HCMDownstreamRqTotal)
	if x.req.Version == httpmsg.HTTP2 {
		x.ch.hcm.Inc(stats.HCMDownstreamRqHTTP2Total)
		return
	}
	x.ch.hcm.Inc(stats.HCMDownstreamRqHTTP1Total)
}

// takeRoute notes that a redirect leads from one route to another and tells whether it is the first to do so, which is what the predicate
// previous_routes asks. There are as many pairs as there are names of routes at most, as a pair that is there ends the redirects.
func (x *Exchange) takeRoute(from, to string) bool {
	for _, t := range x.taken {
		if t == [2]string{from, to} {
			return false
		}
	}
	x.taken = append(x.taken, [2]string{from, to})
	return true
}

// copyToRequest gives the request the fields of the response that response_headers_to_copy names; one that the response does not have is removed.
func (x *Exchange) copyToRequest(keys []httpmsg.Key) {
	for _, k := range keys {
		x.req.Remove(k)
		for i := x.resp.FindKey(k, 0); i >= 0; i = x.resp.FindKey(k, i+1) {
			x.req.Add(k, x.resp.Value(i))
		}
	}
}

// setOriginalURL leaves the request's own URL in x-envoy-original-url.
func (x *Exchange) setOriginalURL(scheme string) {
	b := append(x.reqA.Tail(), scheme...)
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
func splitURL(u []byte) (scheme string, host, path []byte, ok bool) {
	colon := bytes.Index(u, []byte("://"))
	switch {
	case colon == len("http") && bytes.EqualFold(u[:colon], []byte("http")):
		scheme = "http"
	case colon == len("https") && bytes.EqualFold(u[:colon], []byte("https")):
		scheme = "https"
	default:
		return "", nil, nil, false
	}
	rest := u[colon+len("://"):]
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
	for _, c := range path {
		if c <= ' ' || c >= 0x7f {
			return "", nil, nil, false // would end the request line, or is no URI
		}
	}
	return scheme, host, path, httpmsg.ValidAuthority(host, false)
}
