// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"testing"
	"time"

	"sidecar/dataplane/conn"
	"sidecar/dataplane/fault"
	"sidecar/dataplane/hostset"
	"sidecar/dataplane/http2"
	"sidecar/dataplane/mux"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/dataplane/transport/tls/policy"
	"sidecar/internal/telemetry/stats"
)

// autoRig is a rig whose pool speaks what ALPN says, to an upstream at a.
func autoRig(t *testing.T, a sys.Addr) *rig {
	ctx, err := policy.NewClient(policy.ClientSpec{Scope: "c"})
	check(t, err)
	r := newRig(t, func(c *snapshot.ClusterConfig, h *hostset.Host) {
		c.TLS, h.Addr = ctx, a
		c.H2.SetDefaults(http2.Client)
		many := snapshot.Breaker{MaxConnections: 8, MaxPending: 8, MaxRequests: 8}
		c.Breakers = [2]snapshot.Breaker{many, many}
	})
	r.p = New(Config{Loop: r.l, Host: r.p.host, Cluster: r.cfg, Block: r.sc.Block(1), Slab: &r.slab, NextID: &r.id, Codec: Auto, TLS: conn.NewTLS(r.l, nil),
		Mux: mux.NewShared(r.l)})
	return r
}

// settle turns until every owner has a connection.
func (r *rig) settle(owners ...*owner) {
	r.t.Helper()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(100 * time.Microsecond) {
		r.turn()
		waiting := 0
		for _, o := range owners {
			if o.k != fault.None {
				r.t.Fatalf("no connection: %v %q", o.k, o.w.Why())
			}
			if o.m == nil {
				waiting++
			}
		}
		if waiting == 0 {
			return
		}
		if time.Now().After(end) {
			r.t.Fatalf("%d of %d still wait", waiting, len(owners))
		}
	}
}

func TestPool_WhenALPNDecides_ThenTheFirstConnectionTellsForAllThatWait(t *testing.T) {
	for _, x := range []struct {
		name         string
		alpn         []string
		http2        bool
		connections  int64
		http1, h2cxs int64
	}{
		{"both", []string{"h2", "http/1.1"}, true, 1, 0, 1},
		{"http/1.1 only", []string{"http/1.1"}, false, 3, 3, 0},
		{"no ALPN", nil, false, 3, 3, 0},
	} {
		t.Run(x.name, func(t *testing.T) {
			a, _ := upstream(t, x.alpn...)
			r := autoRig(t, a)
			owners := []*owner{r.get(), r.get(), r.get()}
			r.counts(0, 1, 0, 3) // it may be HTTP/2: one connection will do
			r.settle(owners...)
			for _, o := range owners {
				if o.m.HTTP2() != x.http2 {
					t.Errorf("HTTP/2: %v", o.m.HTTP2())
				}
			}
			if n := r.value(stats.ClusterUpstreamCxTotal); n != x.connections {
				t.Errorf("%d connections, want %d", n, x.connections)
			}
			if a, b := r.value(stats.ClusterUpstreamCxHTTP1Total), r.value(stats.ClusterUpstreamCxHTTP2Total); a != x.http1 || b != x.h2cxs {
				t.Errorf("%d of HTTP/1 and %d of HTTP/2, want %d and %d", a, b, x.http1, x.h2cxs)
			}
			for _, o := range owners {
				if o.m.HTTP2() {
					o.m.ReleaseStream(false)
				} else {
					o.m.Release(false)
				}
			}
			r.turn()
			before, _, _, _ := r.p.Counts()
			more := []*owner{r.get(), r.get()}
			if _, connecting, _, _ := r.p.Counts(); !x.http2 && (before != 0 || connecting != 2) {
				t.Errorf("%d idle; %d are connecting for two requests, although HTTP/1 is known", before, connecting)
			}
			r.settle(more...)
		})
	}
}

func TestPool_WhenTheUpstreamChangesItsProtocol_ThenBothKindsServe(t *testing.T) {
	a, _ := upstream(t, "http/1.1")
	b, _ := upstream(t, "h2")
	r := autoRig(t, a)
	one := r.get()
	r.settle(one)
	r.p.host.Addr = b // as a server behind a load balancer
	two := r.get()
	r.settle(two)
	if one.m.HTTP2() || !two.m.HTTP2() {
		t.Fatalf("HTTP/2: %v, then %v", one.m.HTTP2(), two.m.HTTP2())
	}
	one.m.Release(true)
	three := r.get()
	r.settle(three)
	if r.value(stats.ClusterUpstreamCxTotal) != 2 {
		t.Error("a stream was free")
	}
	two.m.ReleaseStream(false)
	three.m.ReleaseStream(false)
	r.turn()
	r.counts(2, 0, 0, 0)
	r.p.Drain()
	r.turn()
	if !r.p.Empty() {
		t.Error("not empty")
	}
}
