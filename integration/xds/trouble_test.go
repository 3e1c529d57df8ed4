// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"sidecar/internal/testctl"
)

func TestControlPlane_WhenItSendsNonsense_ThenTheLastGoodConfigurationServes(t *testing.T) {
	variants(t, func(t *testing.T, delta bool) {
		w := live(t, delta)
		l := newLoad(t, w.port, 2, false, time.Millisecond, good)
		// A type nobody asked for and one that does not exist: no answer at all.
		n1 := w.p.push("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret", "2", nil)
		n2 := w.p.push("type.googleapis.com/no.such.Type", "2", nil)
		w.p.silent(n1)
		w.p.silent(n2)
		// Duplicate names.
		w.p.nacked(w.p.push(cdsURL, "2", of(edsCluster("a", 0), staticCluster("dup", 1), staticCluster("dup", 2))), "dup")
		// A resource of another type in the envelope of this one.
		w.p.nacked(w.p.push(cdsURL, "3", append(of(edsCluster("a", 0)), res{name: "odd", url: ldsURL, raw: []byte{0x0a, 3, 'o', 'd', 'd'}})))
		// An Any without type.
		w.p.nacked(w.p.push(cdsURL, "4", append(of(edsCluster("a", 0)), res{name: "none", raw: []byte{0x0a, 4, 'n', 'o', 'n', 'e'}})))
		// No nonce, no version.
		w.p.conv.Send(plain(delta))
		w.p.await("ACK with an empty nonce", func(r testctl.Request) bool {
			return r.TypeURL == rdsURL && r.Nonce == "" && len(r.Initial) == 0 && !r.Nacked
		})
		// Bytes that are no protobuf reset the stream; the next one is as good.
		w.p.conv.Send(testctl.Garbage([]byte{0xff, 0xff, 0xff, 0xff}))
		p := w.s.accept()
		p.asked(cdsURL)
		l.stop(t)
		p.acked(p.push(rdsURL, "9", of(routes("r", "a"))))
	})
}

// plain is an RDS response without nonce and version.
func plain(delta bool) any {
	if delta {
		return &discoveryv3.DeltaDiscoveryResponse{TypeUrl: rdsURL}
	}
	return &discoveryv3.DiscoveryResponse{TypeUrl: rdsURL}
}

func TestControlPlane_WhenItFloods_ThenEveryResponseIsAnsweredInTime(t *testing.T) {
	variants(t, func(t *testing.T, delta bool) {
		w := live(t, delta)
		const n = 2000
		began := time.Now()
		var last string
		for i := range n {
			cl := "a"
			if i%2 == 0 {
				cl = "nope"
			}
			last = w.p.push(rdsURL, fmt.Sprint(i), of(routes("r", cl)))
		}
		w.p.acked(last)
		acks := 0
		for _, r := range w.p.requests() {
			if r.TypeURL == rdsURL && strings.HasPrefix(r.Nonce, "RouteConfiguration-") {
				acks++
			}
		}
		t.Logf("%d responses in %s", n, time.Since(began))
		if acks < n {
			t.Errorf("%d answers to %d responses", acks, n)
		}
		w.c.answers(t, 200, "A")
	})
}

func TestControlPlane_WhenItTakesNoRequests_ThenTheDataPlaneGoesOn(t *testing.T) {
	variants(t, func(t *testing.T, delta bool) {
		w := live(t, delta)
		w.p.conv.End(nil)
		ctxStalled := w.s.accept() // opened, and then nothing ever comes
		l := newLoad(t, w.port, 2, false, time.Millisecond, good)
		time.Sleep(500 * time.Millisecond)
		l.stop(t)
		if code, _ := w.proxy.get("/ready"); code != 200 {
			t.Errorf("/ready is %d", code)
		}
		ctxStalled.acked(ctxStalled.push(rdsURL, "2", of(routes("r", "a"))))
	})
}

func TestPerType_WhenThereIsNoADS_ThenEachTypeHasItsStream(t *testing.T) {
	variants(t, func(t *testing.T, delta bool) {
		s := newScript(t)
		a := newBackend(t, "A")
		lp := port(t)
		x := start(t, options{ctl: s.Addr(), delta: delta, perType: true, noReady: true})
		p := s.accept()
		if !strings.Contains(p.conv.Method, "ClusterDiscoveryService") {
			t.Fatalf("first stream is %s", p.conv.Method)
		}
		p.asked(cdsURL)
		p.acked(p.push(cdsURL, "1", of(staticCluster("a", a.port))))
		p2 := s.accept()
		if !strings.Contains(p2.conv.Method, "ListenerDiscoveryService") {
			t.Fatalf("second stream is %s", p2.conv.Method)
		}
		p2.acked(p2.push(ldsURL, "1", of(inlineListener("l", lp, "a"))))
		x.live()
		newClient(t, lp).answers(t, 200, "A")
		// EDS and RDS from sources of their own.
		e := edsCluster("e", 0)
		e.EdsClusterConfig.EdsConfig = grpcSource(delta)
		h := hcm("own")
		h.RouteSpecifier = &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{RouteConfigName: "own", ConfigSource: grpcSource(delta)}}
		lp2 := port(t)
		n := p.push(cdsURL, "2", of(staticCluster("a", a.port), e))
		p3 := s.accept()
		if !strings.Contains(p3.conv.Method, "EndpointDiscoveryService") {
			t.Fatalf("third stream is %s", p3.conv.Method)
		}
		p3.asked(edsURL, "e")
		p3.acked(p3.push(edsURL, "1", of(assignment("e", a.port))))
		p.acked(n)
		p2.acked(p2.push(ldsURL, "2", of(inlineListener("l", lp, "a"), listenerWith("own", lp2, h))))
		p4 := s.accept()
		if !strings.Contains(p4.conv.Method, "RouteDiscoveryService") {
			t.Fatalf("fourth stream is %s", p4.conv.Method)
		}
		p4.asked(rdsURL, "own")
		p4.acked(p4.push(rdsURL, "1", of(routes("own", "e"))))
		newClient(t, lp2).answers(t, 200, "A")
		x.wants(map[string]int64{"cluster_manager.cds.control_plane.connected_state": 1, "listener_manager.lds.control_plane.connected_state": 1})
	})
}

// file writes a DiscoveryResponse as JSON and moves it into place.
func file(t *testing.T, path, url string, list []res) {
	t.Helper()
	d := &discoveryv3.DiscoveryResponse{TypeUrl: url, VersionInfo: "1"}
	for i := range list {
		d.Resources = append(d.Resources, list[i].any())
	}
	b, err := protojson.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	move(t, path, b)
}

func move(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func TestPath_WhenFilesChange_ThenTheyTakeEffectAndBrokenOnesDoNot(t *testing.T) {
	dir := t.TempDir()
	cds, lds := filepath.Join(dir, "cds.json"), filepath.Join(dir, "lds.json")
	a, b := newBackend(t, "A"), newBackend(t, "B")
	lp := port(t)
	file(t, cds, cdsURL, of(staticCluster("a", a.port)))
	file(t, lds, ldsURL, of(inlineListener("l", lp, "a")))
	src := func(p string) string {
		return fmt.Sprintf("{resource_api_version: V3, path_config_source: {path: %s}}", p)
	}
	s := newScript(t)
	x := start(t, options{ctl: s.Addr(), cds: src(cds), lds: src(lds)})
	c := newClient(t, lp)
	c.answers(t, 200, "A")
	move(t, cds, []byte("{ not json"))
	eventually(t, "update_failure or update_rejected", func() bool {
		st := x.stats()
		return st["cluster_manager.cds.update_failure"]+st["cluster_manager.cds.update_rejected"] > 0
	})
	c.answers(t, 200, "A")
	file(t, cds, cdsURL, of(staticCluster("a", b.port)))
	c.answers(t, 200, "B")
	file(t, lds, ldsURL, nil)
	eventually(t, "refused", func() bool { code, _ := newClient(t, lp).get("/"); return code == 0 })
}
