// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"sidecar/dataplane/filter"
	"sidecar/xds/ads"
	"sidecar/xds/resource"
)

// demandRig has route configuration r with VHDS.
func demandRig(t *testing.T) *rig {
	r := vhdsRig(t)
	r.push(resource.RouteConfiguration, list(vhdsRoutesOf("r", "own")))
	r.push(resource.VirtualHost, list(vhostOf("r/a", "c", "a")))
	return r
}

// lack is a worker's demand for a host of r.
func (r *rig) lack(host string) {
	d := filter.Demand{Routes: r.c.routes["r"].ref, Name: host}
	r.c.demand(d)
	r.c.settleEvent()
}

// answered returns and forgets the names that workers were told of.
func (r *rig) answered() string {
	var out []string
	for _, d := range r.p.answers {
		out = append(out, d.Name)
	}
	r.p.answers = nil
	slices.Sort(out)
	return strings.Join(out, " ")
}

func (r *rig) expectAnswers(t *testing.T, what, want string) {
	t.Helper()
	if got := r.answered(); got != want {
		t.Errorf("%s: answered %q, want %q", what, got, want)
	}
}

// added lists what requests of VHDS asked for since the last call.
func (r *rig) added() string {
	var out []string
	for _, s := range r.w.sent {
		if s.TypeURL == resource.VirtualHost.URL() {
			out = append(out, s.Add...)
			for _, n := range s.Remove {
				out = append(out, "-"+n)
			}
		}
	}
	r.w.sent = nil
	return strings.Join(out, " ")
}

func TestDemand_WhenAHostIsAskedFor_ThenWorkersHearWhenItServes(t *testing.T) {
	r := demandRig(t)
	r.added()
	r.lack("b")
	r.lack("b")
	if got := r.added(); got != "r/b" {
		t.Errorf("asked for %q", got)
	}
	r.expectAnswers(t, "before the response", "")
	r.push(resource.VirtualHost, list(vhostOf("r/z", "c", "z")))
	r.expectAnswers(t, "another host came", "")
	if e := r.push(resource.VirtualHost, list(vhostOf("r/b", "c", "own"))); e == "" {
		t.Error("a domain twice is accepted")
	}
	r.expectAnswers(t, "the host was refused", "")
	r.push(resource.VirtualHost, list(vhostOf("r/b", "c", "b")))
	r.expectAnswers(t, "the host came", "b")
	if got := r.hosts("r"); got != "own a z b" {
		t.Errorf("serves %s", got)
	}
	r.added()
	r.lack("b") // of a worker that has not adopted the snapshot
	r.expectAnswers(t, "the host is there", "b")
	r.push(resource.VirtualHost, nil, "r/b")
	r.lack("b")
	if got := r.added(); got != "r/b" {
		t.Errorf("asked for %q after the host was removed", got)
	}
	r.push(resource.VirtualHost, nil, "r/b")
	r.expectAnswers(t, "the host is not there", "b")
	r.added()
	r.lack("b") // of another worker, on its way while the answer came
	r.expectAnswers(t, "the answer holds", "b")
	r.c.start = r.c.start.Add(-missingFor)
	r.lack("b")
	if got := r.added(); got != "r/b" {
		t.Errorf("asked for %q when the answer was old", got)
	}
}

func TestDemand_WhenTheRoutesGetAlongWithout_ThenNobodyWaits(t *testing.T) {
	r := demandRig(t)
	r.added()
	r.lack("b")
	r.lack("q")
	r.push(resource.VirtualHost, nil, "r/q")
	r.answered()
	r.push(resource.RouteConfiguration, list(routesTo("r", "c")))
	r.expectAnswers(t, "no vhds any more", "b")
	if got := r.added(); got != "-r/b -r/q" {
		t.Errorf("requests %q", got)
	}
	r.lack("b")
	r.expectAnswers(t, "no vhds", "b")
	r.c.demand(filter.Demand{Routes: r.c.internTable("gone"), Name: "x"})
	r.c.settleEvent()
	r.expectAnswers(t, "no such routes", "x")
}

func TestDemand_WhenVeryManyAreMissing_ThenTheOldestIsForgotten(t *testing.T) {
	r := demandRig(t)
	var names []string
	for i := range demandsMax {
		r.c.demand(filter.Demand{Routes: r.c.routes["r"].ref, Name: fmt.Sprint("h", i)})
		names = append(names, fmt.Sprint("r/h", i))
	}
	r.c.settleEvent()
	r.added()
	r.lack("more")
	r.expectAnswers(t, "an answer is awaited for all", "more")
	if got := r.added(); got != "" {
		t.Errorf("asked for %q", got)
	}
	r.push(resource.VirtualHost, nil, names[:2]...)
	r.answered()
	r.lack("more")
	if got := r.added(); got != "r/more -r/h0" {
		t.Errorf("requests %q", got)
	}
	s := r.c.routes["r"].vhds.src
	if n := len(s.demands.asked); n != demandsMax {
		t.Errorf("%d names", n)
	}
}

func TestDemand_WhenAnAliasIsAnswered_ThenItsRequestsHear(t *testing.T) {
	r := demandRig(t)
	r.lack("b1")
	r.lack("b2")
	f := r.c.routes["r"].vhds.src.feed
	x := raw(vhostOf("r/bs", "c", "b1", "b2"))
	x.Aliases = []string{"r/b1", "r/b2"}
	if rej := r.c.applyVirtualHosts(f, ads.Deliver{Version: "9", Changed: []ads.Raw{x}}); len(rej) > 0 {
		t.Fatal(rej)
	}
	r.c.settleEvent()
	r.expectAnswers(t, "aliases", "b1 b2")
}
