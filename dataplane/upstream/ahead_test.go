// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"net/netip"
	"testing"

	"sidecar/dataplane/hostset"
	"sidecar/dataplane/lb"
	"sidecar/dataplane/loop"
	"sidecar/dataplane/pool"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
)

// hosts makes n hosts where nobody listens; those from unwell on are degraded.
func hosts(n, unwell int) hostset.Input {
	in := hostset.Input{Localities: []hostset.LocalityInput{{}}}
	for i := range n {
		e := hostset.Endpoint{Addr: sys.AddrOf(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(1+i)))}
		if i >= unwell {
			e.Health = hostset.EDSDegraded
		}
		in.Localities[0].Endpoints = append(in.Localities[0].Endpoints, e)
	}
	return in
}

// aheadRig is a rig with three hosts, picked in turn.
func aheadRig(t *testing.T, pre snapshot.Preconnect, kind lb.Kind, unwell int) *rig {
	t.Helper()
	r := newRig(t, nil)
	spec := lb.Default(kind)
	cfg := *r.c.cfg
	cfg.Type, cfg.TLS, cfg.Names, cfg.Preconnect, cfg.LB = snapshot.ClusterStatic, nil, snapshot.Names{}, pre, spec.Factory()
	cfg.BufferLimit = 1 << 16
	r.c = r.m.Get(&snapshot.Cluster{ClusterConfig: &cfg, Hosts: spec.Build(nil, hosts(3, unwell))})
	return r
}

// request picks a host and asks its pool for a connection.
func (r *rig) request(t *testing.T) (*hostset.Host, *waiter) {
	t.Helper()
	h := r.c.Pick(&lb.Query{Rand: r.l.Rand()}, sys.Addr{})
	w := &waiter{}
	w.task.Init(w)
	w.w.Init(&w.task)
	r.c.Pool(h, 0, pool.HTTP1, nil).Get(&w.w)
	return h, w
}

type waiter struct {
	task loop.Task
	w    pool.Waiter
}

func (*waiter) Advance(sys.Nanos) loop.Step { return loop.Idle }

// connecting is how many connections are being made to how many hosts.
func (r *rig) connecting() (n, to int) {
	r.c.Each(func(p *pool.Pool) {
		if _, c, _, _ := p.Counts(); c > 0 {
			n, to = n+c, to+1
		}
	})
	return n, to
}

func TestPool_WhenRequestsArePredicted_ThenConnectionsToTheHostsThatAreNext(t *testing.T) {
	r := aheadRig(t, snapshot.Preconnect{Predictive: 1.5}, lb.RoundRobin, 3)
	h, _ := r.request(t)
	if n, to := r.connecting(); n != 3 || to != 3 { // as Envoy: two ahead, one for the request
		t.Fatalf("%d connections to %d hosts", n, to)
	}
	if next := r.c.Pick(&lb.Query{}, sys.Addr{}); next == h {
		t.Error("the same host is next")
	}
	for _, x := range []struct {
		name   string
		pre    snapshot.Preconnect
		kind   lb.Kind
		unwell int
		least  int
		most   int
	}{
		{"off", snapshot.Preconnect{Predictive: 1}, lb.RoundRobin, 3, 1, 1},
		{"at random", snapshot.Preconnect{Predictive: 1.5}, lb.Random, 3, 2, 3}, // the request may take one that was made ahead
		{"cannot be told", snapshot.Preconnect{Predictive: 3}, lb.LeastRequest, 3, 1, 1},
		{"hosts that are not healthy", snapshot.Preconnect{Predictive: 3}, lb.RoundRobin, 0, 1, 1},
	} {
		r := aheadRig(t, x.pre, x.kind, x.unwell)
		r.request(t)
		if n, _ := r.connecting(); n < x.least || n > x.most {
			t.Errorf("%s: %d connections, want %d to %d", x.name, n, x.least, x.most)
		}
	}
}

func TestPool_WhenNothingIsShort_ThenLookingAheadAllocatesNothing(t *testing.T) {
	r := aheadRig(t, snapshot.Preconnect{Predictive: 1.5}, lb.RoundRobin, 3)
	h, w := r.request(t)
	w.w.Cancel()
	if n := testing.AllocsPerRun(100, func() { r.c.Pool(h, 0, pool.HTTP1, nil) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestPool_WhenTheHealthOfAHostChanges_ThenItIsConnectedAheadOrNot(t *testing.T) {
	r := aheadRig(t, snapshot.Preconnect{PerHost: 2}, lb.RoundRobin, 3)
	spec := lb.Default(lb.RoundRobin)
	h := r.c.row.Hosts.Priorities[0].Hosts[0].Host
	p := r.c.Pool(h, 0, pool.HTTP1, nil)
	if !p.Anticipate(2) {
		t.Fatal("a healthy host")
	}
	row := *r.c.row
	row.Hosts = spec.Build(r.c.row.Hosts, hosts(3, 0))
	r.m.Get(&row)
	r.k.now += sweepDelay
	r.l.Turn(false)
	if r.c.Pool(h, 0, pool.HTTP1, nil) != p || p.Anticipate(3) {
		t.Error("a degraded host")
	}
	if q := r.c.Pool(r.c.row.Hosts.Priorities[0].Hosts[1].Host, 0, pool.HTTP1, nil); q.Anticipate(3) {
		t.Error("a degraded host with a new pool")
	}
}
