// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"slices"
	"strings"
	"testing"

	xh2 "golang.org/x/net/http2"

	"sidecar/dataplane/filter"
	"sidecar/dataplane/filters/http/ondemand"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/route"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/stats"
)

// demandRig has the filter on_demand and a route table for the host "known" only. asked is what went to the control side.
type demandRig struct {
	*rig
	asked []filter.Demand
	busy  bool
}

func newDemandRig(t *testing.T, wait sys.Nanos) *demandRig {
	r := &demandRig{rig: newRig(t, 1)}
	r.hcm.Filters = []snapshot.HTTPFilter{{Name: "on_demand", Config: &ondemand.Filter{}}}
	r.vh.Domains = []string{"known"}
	r.table.Ref, r.table.VHDS = r.hcm.Routes, &route.VHDS{Wait: wait}
	r.env.Ask = func(d filter.Demand) bool {
		if r.busy {
			return false
		}
		r.asked = append(r.asked, d)
		return true
	}
	r.publish()
	return r
}

// found makes the snapshot have a host, and answers.
func (r *demandRig) found(host string) {
	vh := &route.VirtualHost{Name: host, Domains: []string{host}, Routes: []*route.Entry{{Name: host, Path: route.PathMatch{Kind: route.PathPrefix, Text: "/"},
		Forward: r.forward("c"), RequestBodyLimit: -1}}}
	r.table = &route.Table{Name: "rt", Ref: r.table.Ref, VHDS: r.table.VHDS, VHosts: append(slices.Clone(r.table.VHosts), vh)}
	r.publish()
	r.answer(host)
}

func (r *demandRig) answer(host string) {
	r.env.Answered(filter.Demand{Routes: r.table.Ref, Name: host})
	r.turn()
}

func (r *demandRig) request(host, rest string) *peer {
	c := r.dial()
	c.write("GET / HTTP/1.1\r\nHost: " + host + "\r\n" + rest + "\r\n")
	r.turn()
	return c
}

func (r *demandRig) settled() {
	r.t.Helper()
	r.check()
	if n := r.env.demands.Len(); n != 0 {
		r.t.Errorf("%d still held", n)
	}
}

func TestDemand_WhenTheHostIsFound_ThenAllThatWaitForItGoOn(t *testing.T) {
	r := newDemandRig(t, 0)
	a, b := r.request("New:80", ""), r.request("new:80", "x-b: 1\r\n")
	other := r.request("other", "")
	if want := (filter.Demand{Routes: r.table.Ref, Name: "new:80"}); len(r.asked) != 2 || r.asked[0] != want || r.asked[1].Name != "other" {
		t.Fatalf("asked for %v", r.asked)
	}
	r.found("new:80")
	var u1, u2 *peer
	for _, x := range []struct {
		c *peer
		u **peer
	}{{a, &u1}, {b, &u2}} {
		r.want("upstream", r.serve(x.u, ok3), "GET / HTTP/1.1\r\n")
		got, _ := x.c.read()
		r.want("client", got, "HTTP/1.1 200 OK\r\n")
	}
	if got, _ := other.read(); got != "" {
		t.Errorf("the request for another host got %q", got)
	}
	r.answer("other")
	got, _ := other.read()
	r.want("a host that is not there", got, "HTTP/1.1 404 Not Found\r\n")
	r.settled()
}

func TestDemand_WhenThereIsARouteOrNobodyToAsk_ThenNothingWaits(t *testing.T) {
	r := newDemandRig(t, 0)
	var u *peer
	c := r.request("known", "")
	r.serve(&u, ok3)
	got, _ := c.read()
	r.want("known host", got, "HTTP/1.1 200 OK\r\n")
	r.busy = true
	got, _ = r.request("new", "").read()
	r.want("busy control side", got, "HTTP/1.1 404 Not Found\r\n")
	r.busy = false
	r.vh.RequireTLS = route.RequireTLSAll
	got, _ = r.request("known", "").read()
	r.want("redirect to TLS", got, "HTTP/1.1 301 Moved Permanently\r\n")
	long := make([]byte, nameMax+1)
	for i := range long {
		long[i] = 'a'
	}
	got, _ = r.request(string(long), "").read()
	r.want("long host", got, "HTTP/1.1 404 Not Found\r\n")
	r.table.VHDS = nil
	got, _ = r.request("new", "").read()
	r.want("without VHDS", got, "HTTP/1.1 404 Not Found\r\n")
	if len(r.asked) != 0 {
		t.Errorf("asked for %v", r.asked)
	}
	r.settled()
}

func TestDemand_WhenTheAnswerIsLate_ThenTheRequestEndsInTime(t *testing.T) {
	r := newDemandRig(t, 2*sys.Second)
	c := r.request("new", "")
	r.wait(1999 * sys.Millisecond)
	if got, _ := c.read(); got != "" {
		t.Fatalf("early answer %q", got)
	}
	r.wait(2 * sys.Millisecond)
	got, _ := c.read()
	r.want("client", got, "HTTP/1.1 404 Not Found\r\n")
	r.found("new") // for nobody
	var u *peer
	c = r.request("new", "")
	r.serve(&u, ok3)
	got, _ = c.read()
	r.want("client", got, "HTTP/1.1 200 OK\r\n")
	r.settled()
}

func TestDemand_WhenClientsLeave_ThenTheirPlaceIsFree(t *testing.T) {
	r := newDemandRig(t, 0)
	a, b := r.request("new", ""), r.request("new", "")
	a.close()
	r.turn()
	if n := r.env.demands.Len(); n != 1 {
		t.Errorf("%d held", n)
	}
	b.close()
	r.turn()
	r.answer("new")
	r.settled()
	if n := r.hcmStat(stats.HCMDownstreamRqRxReset); n != 2 {
		t.Errorf("%d resets", n)
	}
}

func TestDemand_WhenTooManyWait_ThenTheNextGoesOnWithout(t *testing.T) {
	r := newDemandRig(t, 0)
	var all []*peer
	for range filter.HeldMax {
		c := r.dial()
		c.write("GET / HTTP/1.1\r\nHost: new\r\n\r\n")
		all = append(all, c)
	}
	r.turn()
	got, _ := r.request("new", "").read()
	r.want("one too many", got, "HTTP/1.1 404 Not Found\r\n")
	r.answer("new")
	for _, c := range all {
		got, _ := c.read()
		r.want("client", got, "HTTP/1.1 404 Not Found\r\n")
	}
	if len(r.asked) != 1 {
		t.Errorf("asked %d times", len(r.asked))
	}
	r.settled()
}

// clusterRig has a route by cluster_header and takes clusters on demand.
func newClusterRig(t *testing.T) (*demandRig, *filter.ClusterSource) {
	r := newDemandRig(t, 0)
	from := &filter.ClusterSource{Wait: 5 * sys.Second}
	r.hcm.Filters = []snapshot.HTTPFilter{{Name: "on_demand", Config: &ondemand.Filter{Clusters: from}}}
	key := httpmsg.KeyOf("x-cluster")
	r.route().Forward.Cluster, r.route().Forward.ClusterHeader = nil, &key
	r.publish()
	return r, from
}

func TestDemand_WhenARequestComesBetweenAnAnswerAndItsEffect_ThenItIsAskedForAgain(t *testing.T) {
	r := newDemandRig(t, 0)
	a := r.request("new", "")
	b := r.dial()
	b.write("GET / HTTP/1.1\r\nHost: new\r\n\r\n")
	r.env.Answered(filter.Demand{Routes: r.table.Ref, Name: "new"}) // before b's head is read, while a has not gone on
	r.turn()
	got, _ := a.read()
	r.want("client", got, "HTTP/1.1 404 Not Found\r\n")
	if len(r.asked) != 2 {
		t.Errorf("asked %d times", len(r.asked))
	}
	r.answer("new")
	got, _ = b.read()
	r.want("client", got, "HTTP/1.1 404 Not Found\r\n")
	r.settled()
}

func TestDemand_WhenTheClusterIsFound_ThenTheRequestGoesThere(t *testing.T) {
	r, from := newClusterRig(t)
	var u *peer
	c := r.request("known", "x-cluster: c\r\n")
	r.serve(&u, ok3)
	got, _ := c.read()
	r.want("a cluster that is there", got, "HTTP/1.1 200 OK\r\n")
	got, _ = r.request("known", "").read()
	r.want("no cluster named", got, "HTTP/1.1 503 Service Unavailable\r\n")
	c = r.request("known", "x-cluster: new\r\n")
	d := filter.Demand{Clusters: from, Name: "new"}
	if len(r.asked) != 1 || r.asked[0] != d {
		t.Fatalf("asked for %v", r.asked)
	}
	b := newBackend(t)
	r.ups = append(r.ups, b)
	r.cluster("new", b.Addr)
	r.publish()
	r.env.Answered(d)
	r.turn()
	if u = b.accept(); u == nil {
		t.Fatal("no connection to the new cluster")
	}
	u.write(ok3)
	r.turn()
	got, _ = c.read()
	r.want("client", got, "HTTP/1.1 200 OK\r\n")
	r.settled()
}

func TestDemand_WhenTheClusterIsNotThere_ThenTheRequestIsAnsweredOnce(t *testing.T) {
	r, from := newClusterRig(t)
	a, b := r.request("known", "x-cluster: new\r\n"), r.request("known", "x-cluster: late\r\n")
	r.env.Answered(filter.Demand{Clusters: from, Name: "new"})
	r.turn()
	got, _ := a.read()
	r.want("not there", got, "HTTP/1.1 503 Service Unavailable\r\n")
	r.wait(from.Wait + 1)
	got, _ = b.read()
	r.want("no answer", got, "HTTP/1.1 503 Service Unavailable\r\n")
	if len(r.asked) != 2 {
		t.Errorf("asked %d times", len(r.asked))
	}
	r.settled()
}

func TestDemand_WhenTheHostThenItsClusterAreUnknown_ThenBothAreAskedFor(t *testing.T) {
	r, from := newClusterRig(t)
	c := r.request("new", "")
	vh := &route.VirtualHost{Name: "new", Domains: []string{"new"}, Routes: []*route.Entry{{Path: route.PathMatch{Kind: route.PathPrefix, Text: "/"},
		Forward: r.forward("far"), RequestBodyLimit: -1, PerFilter: []route.PerFilter{{Filter: "on_demand", Config: &ondemand.Filter{Clusters: from}}}}}}
	r.table = &route.Table{Name: "rt", Ref: r.table.Ref, VHDS: r.table.VHDS, VHosts: append(slices.Clone(r.table.VHosts), vh)}
	r.publish()
	r.answer("new")
	if len(r.asked) != 2 || r.asked[1] != (filter.Demand{Clusters: from, Name: "far"}) {
		t.Fatalf("asked for %v", r.asked)
	}
	if got, _ := c.read(); got != "" {
		t.Fatalf("early answer %q", got)
	}
	r.env.Answered(r.asked[1])
	r.turn()
	got, _ := c.read()
	r.want("client", got, "HTTP/1.1 503 Service Unavailable\r\n")
	r.settled()
}

func TestDemand_WhenStreamsOfOneConnectionWait_ThenEachGoesItsOwnWay(t *testing.T) {
	r := newDemandRig(t, 0)
	c := r.dialH2()
	ask := func(id uint32, host string, end bool) {
		c.headers(id, end, ":method", "POST", ":scheme", "http", ":authority", host, ":path", "/")
	}
	ask(1, "new", false)
	c.data(1, "hel", false)
	ask(3, "new", true)
	ask(5, "gone", true)
	ask(7, "known", true)
	c.send()
	r.turn()
	var u *peer
	r.serve(&u, ok3)
	if got, _ := c.frames(); !strings.HasPrefix(got, "7 HEADERS :status=200") || strings.Contains(got, "1 HEADERS") {
		t.Errorf("got %s", got)
	}
	if len(r.asked) != 2 || r.env.demands.Len() != 3 {
		t.Fatalf("asked for %v, %d held", r.asked, r.env.demands.Len())
	}
	must(t, c.fr.WriteRSTStream(3, xh2.ErrCodeCancel))
	c.data(1, "lo", true)
	c.send()
	r.turn()
	r.found("new")
	r.want("upstream", r.serve(&u, ok3), "hel", "lo")
	r.answer("gone")
	got, _ := c.frames()
	if !strings.Contains(got, "1 HEADERS :status=200") || !strings.Contains(got, "5 HEADERS end :status=404") || strings.Contains(got, "3 HEADERS") {
		t.Errorf("got %s", got)
	}
	r.settled()
}

func TestDemand_WhenTheScopeThenItsHostAreUnknown_ThenBothAreAskedFor(t *testing.T) {
	r := newDemandRig(t, 0)
	ref := &route.ScopesRef{Builders: []route.ScopeFragment{{Key: httpmsg.KeyOf("x-scope")}}}
	scope := func(table *route.TableRef) {
		s, err := route.NewScopes([]route.Scope{{Name: "s", Key: []string{"one"}, Table: table, OnDemand: true}})
		if err != nil {
			t.Fatal(err)
		}
		b := snapshot.NewBuilder(r.env.Snap, r.in)
		b.SetScopes(map[*route.ScopesRef]*route.Scopes{ref: s})
		r.env.Snap = b.Freeze()
	}
	r.hcm.Scoped = ref
	scope(nil)
	got, _ := r.request("known", "x-scope: two\r\n").read()
	r.want("no such scope", got, "HTTP/1.1 404 Not Found\r\n")
	c := r.request("new", "x-scope: one\r\n")
	if len(r.asked) != 1 || r.asked[0] != (filter.Demand{Scopes: ref, Name: "s"}) {
		t.Fatalf("asked for %v", r.asked)
	}
	scope(r.hcm.Routes)
	r.env.Answered(r.asked[0])
	r.turn()
	if len(r.asked) != 2 || r.asked[1] != (filter.Demand{Routes: r.table.Ref, Name: "new"}) {
		t.Fatalf("asked for %v", r.asked)
	}
	var u *peer
	r.found("new")
	r.serve(&u, ok3)
	got, _ = c.read()
	r.want("client", got, "HTTP/1.1 200 OK\r\n")
	r.settled()
}
