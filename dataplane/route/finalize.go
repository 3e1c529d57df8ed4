// SPDX-License-Identifier: Apache-2.0

package route

import (
	"bytes"

	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/match"
)

// FinalizeRequest prepares the request head for its way upstream, once per request and before the load balancer: header mutations of the
// four levels, then the host, then the path. auto_host_rewrite comes later, when the host is known: SetAutoHost.
func (e *Entry) FinalizeRequest(c *Choice, h *httpmsg.Head, q *Query) {
	if e.requests || c != nil && c.WC != nil {
		e.eachLevel(c, func(m *Mutations) { m.Request.Apply(h, q.Rec) })
	}
	f := e.Forward
	if f == nil {
		return
	}
	e.rewriteHost(f, c, h, q)
	e.rewritePath(f, h, q)
}

// FinalizeResponse applies the response header mutations of the four levels to an upstream's response or to a local reply of a matched route
// (direct response, redirect, and what the router answers itself, such as 503).
func (e *Entry) FinalizeResponse(c *Choice, h *httpmsg.Head, q *Query) {
	if e.responses || c != nil && c.WC != nil {
		e.eachLevel(c, func(m *Mutations) { m.Response.Apply(h, q.Rec) })
	}
}

// FinalizeLocal applies response header mutations to a local reply as Envoy does: those of the matched entry, and none at all when no route
// was found (404) or for the redirect of require_tls, where e is nil.
func (t *Table) FinalizeLocal(e *Entry, c *Choice, h *httpmsg.Head, q *Query) {
	if e != nil {
		e.FinalizeResponse(c, h, q)
	}
}

// eachLevel calls fn for the weighted cluster first and then route, virtual host, table, or with most_specific_header_mutations_wins table,
// virtual host, route; what comes later wins.
func (e *Entry) eachLevel(c *Choice, fn func(m *Mutations)) {
	t := e.VHost.Table
	if c != nil && c.WC != nil {
		fn(&c.WC.Mutations)
	}
	if t.MostSpecificWins {
		fn(&t.Mutations)
		fn(&e.VHost.Mutations)
		fn(&e.Mutations)
		return
	}
	fn(&e.Mutations)
	fn(&e.VHost.Mutations)
	fn(&t.Mutations)
}

func (e *Entry) rewriteHost(f *Forward, c *Choice, h *httpmsg.Head, q *Query) {
	if c != nil && c.WC != nil && c.WC.HostLiteral != "" {
		h.Authority = h.A.PutString(c.WC.HostLiteral)
	}
	switch {
	case f.HostLiteral != "":
		setHost(f, h, q, h.A.PutString(f.HostLiteral))
	case f.HostHeader != nil:
		if v, ok := match.FieldValue(h, *f.HostHeader); ok && len(v) > 0 {
			setHost(f, h, q, h.A.Put(v))
		}
	case f.HostFormat != nil:
		b := h.A.Tail()
		at := len(b)
		b = f.HostFormat.Append(b, q.Rec)
		oneLine(b[at:])
		if v := h.A.Take(b); v.Len > 0 {
			setHost(f, h, q, v)
		}
	case f.HostRegex != nil:
		setHost(f, h, q, h.A.Take(f.HostRegex.AppendReplaceAll(h.A.Tail(), pathOnly(h.Path()), f.HostSubst)))
	}
}

// SetAutoHost is auto_host_rewrite: the host of the request becomes the name of the upstream host that was picked.
func (f *Forward) SetAutoHost(h *httpmsg.Head, q *Query, hostname string) {
	if hostname != "" {
		setHost(f, h, q, h.A.PutString(hostname))
	}
}

// setHost replaces the authority and leaves its traces: x-envoy-original-host, and x-forwarded-host with append_x_forwarded_host unless the old
// host is the last one in it already.
func setHost(f *Forward, h *httpmsg.Head, q *Query, host httpmsg.Span) {
	old := h.Host()
	if len(old) > 0 {
		if f.AppendXFH {
			appendForwardedHost(h, old)
		}
		if !q.NoEnvoyHeaders {
			h.SetSpan(keyOriginalHost, h.Authority)
		}
	}
	h.Authority = host
}

func appendForwardedHost(h *httpmsg.Head, host []byte) {
	if xfh := h.Get(httpmsg.IDForwardedHost); len(xfh) > 0 {
		last := xfh[bytes.LastIndexByte(xfh, ',')+1:]
		if bytes.Equal(last, host) {
			return
		}
	}
	appendField(h, keyForwardedHost, h.A.Put(host), true)
}

func (e *Entry) rewritePath(f *Forward, h *httpmsg.Head, q *Query) {
	var formatted httpmsg.Span
	if f.PathFormat != nil {
		formatted = h.A.Take(f.PathFormat.AppendHeader(h.A.Tail(), q.Rec))
	}
	if !f.HasPrefixRewrite && f.RegexRewrite == nil && f.PathTemplate == nil && formatted.Len == 0 {
		return
	}
	old := h.Path()
	if !q.NoEnvoyHeaders {
		h.SetSpan(keyOriginalPath, h.Target)
	}
	path := pathOnly(old)
	b := h.A.Tail()
	switch {
	case formatted.Len > 0:
		b = appendTarget(b, h.A.Bytes(formatted))
	case f.HasPrefixRewrite:
		b = append(b, f.PrefixRewrite...)
		b = append(b, path[e.Path.matched(path):]...)
	case f.RegexRewrite != nil:
		b = f.RegexRewrite.AppendReplaceAll(b, path, f.RegexSubst)
	default:
		b = f.PathTemplate.appendRewrite(b, e.Path.Template, path)
	}
	b = append(b, old[len(path):]...)
	h.Target = h.A.Take(b)
}

// Location appends the URL of a redirect for the request h.
func (r *Redirect) Location(b []byte, h *httpmsg.Head, q *Query) []byte {
	scheme := h.SchemeBytes()
	switch {
	case r.Scheme != "":
		b = append(b, r.Scheme...)
		scheme = b[len(b)-len(r.Scheme):]
	case r.HTTPS:
		b = append(b, "https"...)
		scheme = b[len(b)-len("https"):]
	default:
		b = append(b, scheme...)
	}
	host := h.Host()
	if r.Host == "" && dropPort(host, scheme, h.Get(httpmsg.IDForwardedProto), r.Port != 0) {
		host = host[:portColon(host)]
	}
	b = append(b, "://"...)
	if r.Host != "" {
		b = append(b, r.Host...)
	} else {
		b = append(b, host...)
	}
	if r.Port != 0 {
		b = append(b, ':')
		b = appendUint(b, uint64(r.Port))
	}
	return r.appendPath(b, h.Path(), q)
}

// dropPort tells whether the port of the request's host is left out: when another one is put in its place, or when it is the default of the
// scheme that the redirect leaves.
func dropPort(host, newScheme, proto []byte, replaced bool) bool {
	i := portColon(host)
	if i < 0 {
		return false
	}
	if replaced {
		return true
	}
	if bytes.Equal(newScheme, proto) {
		return false
	}
	port := string(host[i:])
	return string(proto) == "https" && port == ":443" || string(proto) == "http" && port == ":80"
}

// portColon is the index of the colon before the port, or -1.
func portColon(host []byte) int {
	if len(host) > 0 && host[0] == '[' {
		if i := bytes.LastIndex(host, []byte("]:")); i >= 0 {
			return i + 1
		}
		return -1
	}
	return bytes.LastIndexByte(host, ':')
}

// appendTarget adds a formatted path; what would end the target or the request line, which values of other headers may hold, is encoded.
func appendTarget(b, v []byte) []byte {
	for _, c := range v {
		if c <= ' ' || c == 0x7f {
			b = append(b, '%', "0123456789ABCDEF"[c>>4], "0123456789ABCDEF"[c&15])
			continue
		}
		b = append(b, c)
	}
	return b
}

func (r *Redirect) appendPath(b, old []byte, q *Query) []byte {
	path := pathOnly(old)
	query := old[len(path):]
	if r.StripQuery {
		query = nil
	}
	if r.PathFormat != nil {
		at := len(b)
		if b = r.PathFormat.AppendHeader(b, q.Rec); len(b) > at {
			oneLine(b[at:])
			if bytes.IndexByte(b[at:], '?') >= 0 {
				return b // its own query counts
			}
			return append(b, query...)
		}
	}
	switch {
	case r.HasPath:
		b = append(b, r.Path...)
		if bytes.IndexByte([]byte(r.Path), '?') >= 0 {
			return b
		}
	case r.HasPrefix:
		b = append(b, r.Prefix...)
		n := len(path)
		if r.entry != nil {
			n = r.entry.Path.matched(path)
		}
		b = append(b, path[n:]...)
	case r.Regex != nil:
		b = r.Regex.AppendReplaceAll(b, path, r.RegexSubst)
	default:
		b = append(b, path...)
	}
	return append(b, query...)
}

// TLSLocation appends the URL of the 301 that Verdict TLSRedirect asks for: the same authority and path under https.
func TLSLocation(b []byte, h *httpmsg.Head, _ *Query) []byte {
	b = append(b, "https://"...)
	b = append(b, h.Host()...)
	return append(b, h.Path()...)
}

// Location appends the location header of a direct response and reports whether it has one: a 201 or 3xx names the request's own URL.
func (d *Direct) Location(b []byte, h *httpmsg.Head, q *Query) ([]byte, bool) {
	if d.Status != 201 && d.Status/100 != 3 {
		return b, false
	}
	return selfRedirect.Location(b, h, q), true
}

var selfRedirect = &Redirect{}

func appendUint(b []byte, n uint64) []byte {
	if n >= 10 {
		b = appendUint(b, n/10)
	}
	return append(b, byte('0'+n%10))
}

// The fields that finalizing sets.
var (
	keyOriginalPath  = httpmsg.IDEnvoyOriginalPath.Key()
	keyOriginalHost  = httpmsg.IDEnvoyOriginalHost.Key()
	keyForwardedHost = httpmsg.IDForwardedHost.Key()
)
