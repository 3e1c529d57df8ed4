// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"strings"
	"testing"

	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/route"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
)

func TestLocalReply_WhenMapped_ThenStatusBodyAndHeadersChange(t *testing.T) {
	r := newRig(t, 1)
	f := httpmsg.KeyOf("x-mapped")
	r.hcm.LocalReply = &snapshot.LocalReply{Mappers: []snapshot.LocalReplyMapper{{Status: 418, HasBody: true, Body: []byte("teapot"),
		Headers: route.Mutations{Response: route.HeaderOps{Add: []route.HeaderOp{{Key: f, Literal: "yes"}}}}}}}
	r.vh.Domains = []string{"other"}
	c := r.dial()
	c.write(get)
	r.turn()
	got, _ := c.read()
	r.want("client", got, "HTTP/1.1 418 Unknown", "x-mapped: yes\r\n", "\r\n\r\nteapot")
	if !strings.HasPrefix(r.log[0], "418 NR route_not_found") {
		t.Errorf("log %q", r.log)
	}
}

func TestDirect_WhenRedirectOrBody_ThenEnvoysForm(t *testing.T) {
	for _, c := range []struct {
		name  string
		entry route.Entry
		req   string
		want  []string
		not   string
	}{
		{"redirect", route.Entry{Kind: route.ActionRedirect, Redirect: &route.Redirect{Host: "h.test", Code: 301}}, get,
			[]string{"301 Moved Permanently", "location: http://h.test/a?b=c\r\n", "content-length: 0\r\n"}, "connection: close"},
		{"redirect of HEAD", route.Entry{Kind: route.ActionRedirect, Redirect: &route.Redirect{Host: "h.test", Code: 301}},
			"HEAD /a HTTP/1.1\r\nHost: x.test\r\n\r\n", []string{"location: ", "transfer-encoding: chunked\r\n"}, "content-length"},
		{"redirect with unread body", route.Entry{Kind: route.ActionRedirect, Redirect: &route.Redirect{Host: "h.test", Code: 301}}, post5,
			[]string{"connection: close\r\n"}, "chunked"},
		{"direct", route.Entry{Kind: route.ActionDirect, Direct: &route.Direct{Status: 200, Body: []byte("hello")}}, get,
			[]string{"content-length: 5\r\n", "content-type: text/plain\r\n", "\r\n\r\nhello"}, "location"},
		{"direct 204", route.Entry{Kind: route.ActionDirect, Direct: &route.Direct{Status: 204, Body: []byte("hello")}}, get,
			[]string{"204 No Content"}, "hello"},
		{"direct 302", route.Entry{Kind: route.ActionDirect, Direct: &route.Direct{Status: 302}}, get,
			[]string{"location: http://x.test/a?b=c\r\n"}, "connection"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, 1)
			e := c.entry
			e.Path, e.Name = route.PathMatch{Kind: route.PathPrefix, Text: "/"}, "d"
			r.vh.Routes = []*route.Entry{&e}
			p := r.dial()
			p.write(c.req)
			r.turn()
			got, _ := p.read()
			r.want("client", got, c.want...)
			if strings.Contains(got, c.not) {
				t.Errorf("%q in\n%s", c.not, got)
			}
			r.check()
		})
	}
}

func TestHash_WhenCookieIsMissing_ThenTheResponseSetsIt(t *testing.T) {
	r := newRig(t, 1)
	r.route().Forward.Hash = []route.HashPolicy{{Kind: route.HashCookie, Cookie: "sid", TTL: 30 * sys.Second, Path: "/p"}}
	c := r.dial()
	c.write(get)
	r.turn()
	var u *peer
	r.serve(&u, ok3)
	got, _ := c.read()
	r.want("client", got, "set-cookie: sid=\"", "; Max-Age=30; Path=/p; HttpOnly\r\n")
}

func TestMutations_WhenRouteHasThem_ThenUpstreamResponsesAndRouterRepliesGetThem(t *testing.T) {
	r := newRig(t, 1)
	op := func(name string) route.HeaderOps {
		return route.HeaderOps{Add: []route.HeaderOp{{Key: httpmsg.KeyOf(name), Literal: "1"}}}
	}
	r.route().Mutations = route.Mutations{Request: op("x-req"), Response: op("x-resp")}
	c := r.dial()
	c.write(get)
	r.turn()
	var u *peer
	r.want("upstream", r.serve(&u, ok3), "x-req: 1\r\n")
	got, _ := c.read()
	r.want("client", got, "x-resp: 1\r\n")
	c.write(get)
	r.turn()
	u.close()
	r.turn()
	got, _ = c.read()
	r.want("client", got, "503 ", "x-resp: 1\r\n")
}
