// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"sidecar/internal/testctl"
)

// world is a proxy that is live: clusters a (EDS, backend A), listener l with RDS r to cluster a.
type world struct {
	t     *testing.T
	s     *script
	p     *peer
	proxy *proxy
	a, b  *backend
	port  int
	c     *client
	fetch time.Duration
}

// live brings a proxy up over the script, answering in Envoy's order.
func live(t *testing.T, delta bool, more ...func(*options)) *world {
	t.Helper()
	w := &world{t: t, s: newScript(t), a: newBackend(t, "A"), b: newBackend(t, "B"), port: port(t), fetch: 0}
	o := options{ctl: w.s.Addr(), delta: delta, noReady: true}
	for _, fn := range more {
		fn(&o)
	}
	w.proxy = start(t, o)
	w.p = w.s.accept()
	w.p.asked(cdsURL)
	w.p.acked(w.p.push(cdsURL, "1", of(edsCluster("a", w.fetch))))
	w.p.asked(edsURL, "a")
	w.p.acked(w.p.push(edsURL, "1", of(assignment("a", w.a.port))))
	w.p.asked(ldsURL)
	w.p.acked(w.p.push(ldsURL, "1", of(rdsListener("l", w.port, "r", 0))))
	w.p.asked(rdsURL, "r")
	w.p.acked(w.p.push(rdsURL, "1", of(routes("r", "a"))))
	w.proxy.live()
	w.c = newClient(t, w.port)
	w.c.answers(t, 200, "A")
	return w
}

func TestStart_WhenAnsweredStepByStep_ThenOrderIsCDSThenEDSThenLDSThenRDSThenWorkers(t *testing.T) {
	variants(t, func(t *testing.T, delta bool) {
		s := newScript(t)
		a := newBackend(t, "A")
		lp := port(t)
		x := start(t, options{ctl: s.Addr(), delta: delta, noReady: true})
		p := s.accept()
		first := p.asked(cdsURL)
		if first.Node.GetId() != "t" {
			t.Errorf("node %v in the first request", first.Node)
		}
		p.acked(p.push(cdsURL, "1", of(edsCluster("a", 0), edsCluster("b", 0)))) // during start-up the ACK does not wait
		p.asked(edsURL, "a", "b")
		time.Sleep(100 * time.Millisecond)
		for _, r := range p.requests() {
			if r.TypeURL == ldsURL {
				t.Fatal("LDS is asked for before the clusters are warm")
			}
		}
		p.acked(p.push(edsURL, "1", of(assignment("a", a.port), assignment("b"))))
		p.asked(ldsURL)
		p.acked(p.push(ldsURL, "1", of(rdsListener("l", lp, "r", 0), rdsListener("l2", port(t), "r", 0))))
		p.asked(rdsURL, "r")
		if code, body := x.get("/ready"); code != 503 {
			t.Errorf("/ready is %d %s before RDS", code, body)
		}
		if n := x.stat("listener_manager.workers_started"); n != 0 {
			t.Error("workers started before the listeners are warm")
		}
		p.acked(p.push(rdsURL, "1", of(routes("r", "a"))))
		x.live()
		newClient(t, lp).answers(t, 200, "A")
		n := 0
		for _, r := range p.requests() {
			if r.TypeURL == rdsURL && r.Nonce == "" {
				n++
			}
			if r.Node != nil && r.TypeURL != cdsURL {
				t.Error("the node goes out once for each stream")
			}
		}
		if n != 1 {
			t.Errorf("%d requests for one route configuration of two listeners", n)
		}
	})
}

func TestCDSAck_WhenClustersWarm_ThenItIsWithheld(t *testing.T) {
	variants(t, func(t *testing.T, delta bool) {
		w := live(t, delta)
		n1 := w.p.push(cdsURL, "2", of(edsCluster("a", 0), edsCluster("b", 0)))
		w.p.asked(edsURL, "b")
		w.p.silent(n1)
		n2 := w.p.push(cdsURL, "3", of(edsCluster("a", 0), edsCluster("b", 0), staticCluster("s", w.b.port)))
		w.p.silent(n2)
		r := w.p.push(rdsURL, "2", of(routes("r", "s"))) // routes are answered meanwhile, and the static cluster serves already
		w.p.acked(r)
		w.c.answers(t, 200, "B")
		w.p.acked(w.p.push(edsURL, "2", of(assignment("b", w.b.port))))
		w.p.acked(n2)
		answers := 0
		var order []string
		for _, r := range w.p.requests() {
			if r.TypeURL == cdsURL && (r.Nonce == n1 || r.Nonce == n2) {
				answers++
				order = append(order, r.Nonce)
			}
		}
		want := []string{n2}
		if delta {
			want = []string{n1, n2}
		}
		if fmt.Sprint(order) != fmt.Sprint(want) {
			t.Errorf("CDS answers %v, want %v", order, want)
		}
	})
}

func TestNack_WhenSomeResourcesAreBad_ThenEachIsNamedAndSiblingsServe(t *testing.T) {
	if oracle {
		t.Skip("Envoy loses siblings")
	}
	variants(t, func(t *testing.T, delta bool) {
		w := live(t, delta)
		keep := of(edsCluster("a", 0))
		n := w.p.push(cdsURL, "2", append(keep, of(badCluster("bad1"), staticCluster("good", w.b.port), badCluster("bad2"))...))
		w.p.nacked(n, "bad1", "bad2", "lb_policy")
		if r := w.p.answer(n); !delta && r.Version != "1" {
			t.Errorf("the NACK carries version %q, want the last accepted one", r.Version)
		}
		lp := port(t)
		w.p.nacked(w.p.push(ldsURL, "2", append(of(badListener("bad3", port(t))), of(rdsListener("l", w.port, "r", 0), inlineListener("l2", lp, "good"), badListener("bad4", port(t)))...)),
			"bad3", "bad4", "filter_chains[0].filters[0]")
		newClient(t, lp).answers(t, 200, "B")
		w.c.answers(t, 200, "A")
		// RDS and EDS: the bad one keeps its last good version.
		w.p.nacked(w.p.push(rdsURL, "2", of(badRoutes("r"))), "r", "virtual_hosts[1]")
		w.p.nacked(w.p.push(edsURL, "2", of(badAssignment("a"))), `"a"`, "endpoints[0].lb_endpoints[0]")
		w.c.answers(t, 200, "A")
		// Bytes that are no protobuf: named as far as the name can be read, nothing is removed for it.
		list := append(of(edsCluster("a", 0), staticCluster("good", w.b.port)), res{name: "junk", url: cdsURL, raw: []byte{0x0a, 4, 'j', 'u', 'n', 'k', 0xff, 0xff}})
		w.p.nacked(w.p.push(cdsURL, "3", list), "junk", "malformed")
		list = append(of(edsCluster("a", 0)), res{name: "good", url: cdsURL, raw: []byte{0xff, 0xff, 0xff}})
		w.p.nacked(w.p.push(cdsURL, "4", list), "malformed")
		time.Sleep(2200 * time.Millisecond) // longer than a removed cluster is kept for its routes
		newClient(t, lp).answers(t, 200, "B")
		w.proxy.wants(map[string]int64{"cluster_manager.cluster_removed": 0, "cluster_manager.cds.update_rejected": 3, "listener_manager.lds.update_rejected": 1,
			"http.l.rds.r.update_rejected": 1, "cluster.a.update_rejected": 1})
		// A good update ends it.
		w.p.acked(w.p.push(rdsURL, "3", of(routes("r", "good"))))
		w.c.answers(t, 200, "B")
	})
}

func TestNoop_WhenContentIsTheSame_ThenNothingMoves(t *testing.T) {
	variants(t, func(t *testing.T, delta bool) {
		w := live(t, delta)
		w.c.answers(t, 200, "A")
		before := *w.c.last.Load()
		names := []string{"cluster_manager.cluster_added", "cluster_manager.cluster_modified", "cluster_manager.cluster_removed", "cluster_manager.cluster_updated",
			"listener_manager.listener_modified", "listener_manager.listener_in_place_updated", "listener_manager.listener_create_success",
			"http.l.rds.r.config_reload", "cluster.a.membership_change"}
		was := w.proxy.stats()
		for i := range 3 {
			v := fmt.Sprint(i + 2)
			if delta {
				v = ""
			}
			w.p.acked(w.p.push(cdsURL, v, of(edsCluster("a", 0))))
			w.p.acked(w.p.push(edsURL, v, of(assignment("a", w.a.port))))
			w.p.acked(w.p.push(ldsURL, v, of(rdsListener("l", w.port, "r", 0))))
			w.p.acked(w.p.push(rdsURL, v, of(routes("r", "a"))))
		}
		w.c.answers(t, 200, "A")
		if *w.c.last.Load() != before {
			t.Error("the connection was closed")
		}
		is := w.proxy.stats()
		for _, n := range names {
			if was[n] != is[n] {
				t.Errorf("%s moved from %d to %d", n, was[n], is[n])
			}
		}
		if got := is["cluster_manager.cds.update_success"]; got != 4 {
			t.Errorf("cds.update_success %d, want 4", got)
		}
	})
}

func TestRemoval_WhenRoutesOrEndpointsAreAbsentOrRemoved_ThenTheyStay(t *testing.T) {
	variants(t, func(t *testing.T, delta bool) {
		w := live(t, delta)
		w.p.acked(w.p.push(edsURL, "2", nil, "a"))
		w.p.acked(w.p.push(rdsURL, "2", nil, "r"))
		w.p.acked(w.p.push(edsURL, "3", of(assignment("nobody", 1))))
		w.c.answers(t, 200, "A")
		// An assignment without endpoints does empty the cluster.
		w.p.acked(w.p.push(edsURL, "4", of(assignment("a"))))
		w.c.answers(t, 503, "no healthy upstream")
		w.p.acked(w.p.push(edsURL, "5", of(assignment("a", w.a.port))))
		w.c.answers(t, 200, "A")
		// A listener that is gone refuses, a cluster that is gone answers 503 (when its routes stay).
		w.p.acked(w.p.push(cdsURL, "2", nil, "a"))
		w.c.answers(t, 503, "")
		w.p.acked(w.p.push(ldsURL, "2", nil, "l"))
		eventually(t, "connections are refused", func() bool {
			code, _ := newClient(t, w.port).get("/")
			return code == 0
		})
	})
}

func TestWarming_WhenAClusterChangesAndNoEndpointsCome_ThenItWarmsFromThoseItHas(t *testing.T) {
	if oracle {
		t.Skip("Envoy warms for ever")
	}
	variants(t, func(t *testing.T, delta bool) {
		w := live(t, delta)
		c := edsCluster("a", 0)
		c.AltStatName = "renamed"
		w.p.acked(w.p.push(cdsURL, "2", of(c)))
		w.c.answers(t, 200, "A")
		w.proxy.wants(map[string]int64{"cluster_manager.warming_clusters": 0, "cluster.renamed.membership_total": 1, "cluster_manager.cluster_modified": 1})
		for k := range w.proxy.stats() {
			if strings.HasPrefix(k, "cluster.a.") {
				t.Fatalf("%s is still listed", k)
			}
		}
	})
}

func TestWarming_WhenFetchTimesOut_ThenEmptyOrForEver(t *testing.T) {
	variants(t, func(t *testing.T, delta bool) {
		w := live(t, delta)
		lp, lp0 := port(t), port(t)
		// A cluster with a timeout goes on empty; one with 0 waits and so does the CDS answer.
		n := w.p.push(cdsURL, "2", of(edsCluster("a", 0), edsCluster("soon", 300*time.Millisecond)))
		w.p.acked(n)
		w.proxy.wants(map[string]int64{"cluster.soon.init_fetch_timeout": 1, "cluster_manager.active_clusters": 3})
		w.p.acked(w.p.push(ldsURL, "2", of(rdsListener("l", w.port, "r", 0), rdsListener("soon", lp, "never1", 300*time.Millisecond), rdsListener("never", lp0, "never2", 0))))
		newClient(t, lp).answers(t, 404, "")
		w.proxy.wants(map[string]int64{"http.soon.rds.never1.init_fetch_timeout": 1, "listener_manager.total_listeners_warming": 1, "listener_manager.total_listeners_active": 2})
		if code, body := newClient(t, lp0).get("/"); code != 0 {
			t.Errorf("a warming listener answers %d %q", code, body)
		}
		w.p.acked(w.p.push(rdsURL, "2", of(routes("never2", "a"), routes("never1", "a"))))
		newClient(t, lp0).answers(t, 200, "A")
		newClient(t, lp).answers(t, 200, "A")
	})
}

func TestReconnect_WhenTheStreamIsLost_ThenEverythingIsAskedForAgainAndTrafficGoesOn(t *testing.T) {
	variants(t, func(t *testing.T, delta bool) {
		w := live(t, delta)
		w.p.conv.End(nil)
		p := w.s.accept()
		r := p.await("LDS", func(r testctl.Request) bool { return r.TypeURL == ldsURL })
		p.asked(edsURL, "a")
		p.asked(rdsURL, "r")
		c := p.await("CDS", func(r testctl.Request) bool { return r.TypeURL == cdsURL })
		if c.Node.GetId() != "t" {
			t.Error("no node in the first request of the new stream")
		}
		if delta {
			if c.Initial["a"] != "1" || r.Initial["l"] != "1" {
				t.Errorf("initial versions %v %v", c.Initial, r.Initial)
			}
		} else if c.Version != "1" || c.Nonce != "" {
			t.Errorf("first request has version %q nonce %q", c.Version, c.Nonce)
		}
		w.c.answers(t, 200, "A")
		p.acked(p.push(rdsURL, "2", of(routes("r", "nope"))))
		w.c.answers(t, 503, "")
		w.proxy.wants(map[string]int64{"cluster_manager.cds.update_failure": 1, "listener_manager.lds.update_failure": 1, "control_plane.connected_state": 1})
		w.s.Close() // the control plane is dead
		p.t = t
		w.proxy.wants(map[string]int64{"control_plane.connected_state": 0})
		for range 20 {
			if code, _ := w.c.get("/"); code != 503 {
				t.Fatalf("status %d without a control plane", code)
			}
		}
	})
}

func TestStart_WhenTheFirstCDSIsRejected_ThenItGoesOn(t *testing.T) {
	variants(t, func(t *testing.T, delta bool) {
		s := newScript(t)
		x := start(t, options{ctl: s.Addr(), delta: delta, noReady: true})
		p := s.accept()
		p.asked(cdsURL)
		p.nacked(p.push(cdsURL, "1", of(badCluster("bad"))), "bad")
		p.asked(ldsURL)
		p.acked(p.push(ldsURL, "1", nil))
		x.live()
		x.wants(map[string]int64{"cluster_manager.cds.update_rejected": 1, "listener_manager.lds.update_success": 1, "listener_manager.workers_started": 1})
	})
}

func TestTTL_WhenItEnds_ThenOnlyThatResourceGoesAndHeartbeatsKeepIt(t *testing.T) {
	if oracle {
		t.Skip("a SotW heartbeat drops every cluster of Envoy")
	}
	variants(t, func(t *testing.T, delta bool) {
		w := live(t, delta)
		list := of(edsCluster("a", 0), staticCluster("brief", w.b.port))
		list[1].ttl = 600 * time.Millisecond
		w.p.acked(w.p.push(cdsURL, "2", list))
		began := time.Now()
		for range 4 {
			time.Sleep(250 * time.Millisecond)
			w.p.acked(w.p.push(cdsURL, "2", []res{{name: "brief", beat: true, ttl: 600 * time.Millisecond, version: "2"}}))
		}
		w.proxy.wants(map[string]int64{"cluster_manager.active_clusters": 3, "cluster_manager.cluster_removed": 0})
		last := time.Now()
		w.proxy.wants(map[string]int64{"cluster_manager.active_clusters": 2, "cluster_manager.cluster_removed": 1})
		if d := time.Since(last); d > 5*time.Second || time.Since(began) < 1500*time.Millisecond {
			t.Errorf("expired after %s", d)
		}
		w.c.answers(t, 200, "A")
	})
}
