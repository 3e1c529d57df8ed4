// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/proto"
)

// load makes requests from some goroutines until stop is called, and counts those that fail.
type load struct {
	total, failed atomic.Int64
	first         atomic.Pointer[string]
	quit          chan struct{}
	wg            sync.WaitGroup
}

// newLoad asks port; fresh makes a connection for each request. ok judges an answer.
func newLoad(t testing.TB, port, workers int, fresh bool, pause time.Duration, ok func(int, string) bool) *load {
	l := &load{quit: make(chan struct{})}
	for range workers {
		c := newClient(t, port)
		if fresh {
			c.http.Transport = &oneShot
		}
		l.wg.Go(func() {
			for {
				select {
				case <-l.quit:
					return
				default:
				}
				l.total.Add(1)
				if code, body := c.get("/"); !ok(code, body) {
					l.failed.Add(1)
					s := fmt.Sprintf("%d %s", code, body)
					l.first.CompareAndSwap(nil, &s)
				}
				if pause > 0 {
					time.Sleep(pause)
				}
			}
		})
	}
	return l
}

// stop ends the load and demands that nothing failed.
func (l *load) stop(t testing.TB) {
	t.Helper()
	close(l.quit)
	l.wg.Wait()
	if n := l.failed.Load(); n > 0 || l.total.Load() == 0 {
		t.Errorf("%d of %d requests failed, first: %s", n, l.total.Load(), *l.first.Load())
	}
}

func good(code int, _ string) bool { return code == 200 }

func TestRoute_WhenItsClusterIsPushedWithIt_ThenNoRequestFails(t *testing.T) {
	if oracle {
		t.Skip("Envoy answers 503 until the endpoints are in")
	}
	variants(t, func(t *testing.T, delta bool) {
		w := live(t, delta)
		l := newLoad(t, w.port, 4, false, 0, good)
		was := "a"
		for i := range 10 {
			now := fmt.Sprintf("new%d", i)
			backend := w.b
			if i%2 == 1 {
				backend = w.a
			}
			// Clusters, routes and the removal of the old cluster without waiting for anything; endpoints come late.
			v := fmt.Sprint(i + 2)
			w.p.push(cdsURL, v, of(edsCluster(now, 0)), was)
			w.p.push(rdsURL, v, of(routes("r", now)))
			w.p.asked(edsURL, now)
			time.Sleep(20 * time.Millisecond)
			w.p.acked(w.p.push(edsURL, v, of(assignment(now, backend.port))))
			w.c.answers(t, 200, backend.name)
			was = now
		}
		l.stop(t)
		w.proxy.wants(map[string]int64{"cluster_manager.active_clusters": 2, "cluster_manager.warming_clusters": 0})
	})
}

func TestListener_WhenItMovesToAnotherNameOnItsAddress_ThenNoConnectionIsRefused(t *testing.T) {
	variants(t, func(t *testing.T, delta bool) {
		w := live(t, delta)
		l := newLoad(t, w.port, 4, true, 0, good)
		was := "l"
		for i := range 20 {
			now := fmt.Sprintf("l%d", i)
			w.p.acked(w.p.push(ldsURL, fmt.Sprint(i+2), of(rdsListener(now, w.port, "r", 0)), was))
			time.Sleep(20 * time.Millisecond)
			was = now
		}
		l.stop(t)
		w.proxy.wants(map[string]int64{"listener_manager.listener_added": 21, "listener_manager.listener_removed": 20, "listener_manager.total_listeners_active": 1})
	})
}

func TestListener_WhenTwoExchangeAddresses_ThenBothAreRefusedAndStay(t *testing.T) {
	variants(t, func(t *testing.T, delta bool) {
		w := live(t, delta)
		p1, p2 := port(t), port(t)
		keep := rdsListener("l", w.port, "r", 0)
		w.p.acked(w.p.push(ldsURL, "2", of(keep, inlineListener("x", p1, "a"), inlineListener("y", p2, "nope"))))
		newClient(t, p1).answers(t, 200, "A")
		newClient(t, p2).answers(t, 503, "")
		w.p.nacked(w.p.push(ldsURL, "3", of(keep, inlineListener("x", p2, "a"), inlineListener("y", p1, "nope"))), "duplicate address", "x", "y")
		newClient(t, p1).answers(t, 200, "A")
		newClient(t, p2).answers(t, 503, "")
		// One that names a static address of somebody else, and one whose port another process has.
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		taken := ln.Addr().(*net.TCPAddr).Port
		w.p.nacked(w.p.push(ldsURL, "4", of(keep, inlineListener("x", p1, "a"), inlineListener("y", p2, "nope"), inlineListener("z", taken, "a"))),
			"z", "ddress already in use")
		w.c.answers(t, 200, "A")
	})
}

func TestListener_WhenNamedLikeAStaticOne_ThenItIsIgnored(t *testing.T) {
	variants(t, func(t *testing.T, delta bool) {
		sp := port(t)
		w := live(t, delta, func(o *options) {
			o.static = fmt.Sprintf(`  - name: fixed
    address: {socket_address: {address: 127.0.0.1, port_value: %d}}
    filter_chains: [{filters: [{name: envoy.filters.network.http_connection_manager, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: fixed, route_config: {virtual_hosts: [{name: v, domains: ["*"], routes: [{match: {prefix: "/"}, direct_response: {status: 200, body: {inline_string: fixed}}}]}]}, http_filters: [{name: envoy.filters.http.router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]}}]}]
`, sp)
		})
		newClient(t, sp).answers(t, 200, "fixed")
		w.p.acked(w.p.push(ldsURL, "2", of(rdsListener("l", w.port, "r", 0), inlineListener("fixed", port(t), "a"))))
		w.p.acked(w.p.push(ldsURL, "3", of(rdsListener("l", w.port, "r", 0)), "fixed"))
		w.p.acked(w.p.push(cdsURL, "2", of(edsCluster("a", 0), staticCluster("ctl", 1))))
		w.p.acked(w.p.push(cdsURL, "3", of(edsCluster("a", 0)), "ctl"))
		newClient(t, sp).answers(t, 200, "fixed")
		w.c.answers(t, 200, "A")
		w.proxy.wants(map[string]int64{"control_plane.connected_state": 1, "cluster_manager.cluster_removed": 0, "listener_manager.listener_removed": 0})
	})
}

// chained has one filter chain for each loopback source, so that a test chooses the chain by the address it dials from.
func chained(name string, port int, clusters ...string) *listenerv3.Listener {
	l := inlineListener(name, port, clusters[0])
	base := l.FilterChains[0]
	l.FilterChains = nil
	for i, c := range clusters {
		fc := proto.Clone(base).(*listenerv3.FilterChain)
		fc.Name = fmt.Sprintf("c%d", i)
		fc.FilterChainMatch = &listenerv3.FilterChainMatch{SourcePrefixRanges: sourceRange(fmt.Sprintf("127.0.0.%d", 11+i))}
		fc.Filters = inlineListener(name, port, c).FilterChains[0].Filters
		l.FilterChains = append(l.FilterChains, fc)
	}
	return l
}

func TestListener_WhenOneChainChanges_ThenOnlyItsConnectionsDrain(t *testing.T) {
	variants(t, func(t *testing.T, delta bool) {
		w := live(t, delta, func(o *options) { o.drain = 1 })
		lp := port(t)
		keep := rdsListener("l", w.port, "r", 0)
		w.p.acked(w.p.push(cdsURL, "2", of(edsCluster("a", 0), staticCluster("b", w.b.port))))
		w.p.acked(w.p.push(ldsURL, "2", of(keep, chained("x", lp, "a", "a"))))
		c0, c1 := clientFrom(t, lp, "127.0.0.11"), clientFrom(t, lp, "127.0.0.12")
		c0.answers(t, 200, "A")
		c1.answers(t, 200, "A")
		conn0, conn1 := *c0.last.Load(), *c1.last.Load()
		w.p.acked(w.p.push(ldsURL, "3", of(keep, chained("x", lp, "a", "b"))))
		newFrom := clientFrom(t, lp, "127.0.0.12")
		newFrom.answers(t, 200, "B")
		c1.answers(t, 200, "B") // its connection ends and the next one meets the new chain
		for range 20 {
			c0.answers(t, 200, "A")
			time.Sleep(20 * time.Millisecond)
		}
		time.Sleep(1200 * time.Millisecond)
		c0.answers(t, 200, "A")
		if *c0.last.Load() != conn0 {
			t.Error("the connection of the unchanged chain was closed")
		}
		if *c1.last.Load() == conn1 {
			t.Error("the connection of the changed chain was kept")
		}
		w.proxy.wants(map[string]int64{"listener_manager.listener_in_place_updated": 1, "listener_manager.listener_modified": 1})
	})
}
