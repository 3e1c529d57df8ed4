// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"testing"

	"sidecar/dataplane/hostset"
	"sidecar/dataplane/http2"
	"sidecar/dataplane/match"
	"sidecar/dataplane/mux"
	"sidecar/dataplane/snapshot"
	"sidecar/internal/telemetry/stats"
)

// nobody is a matcher that no host fulfils.
var nobody = &match.Metadata{Namespace: "x", Path: []string{"y"}, Value: match.ValueMatcher{Kind: match.ValuePresent}}

// aheadRig is a rig with room for 16 connections, whose load is summed up.
func aheadRig(t *testing.T, pre snapshot.Preconnect, codec Codec) (*rig, *Load) {
	r := newRig(t, func(c *snapshot.ClusterConfig, _ *hostset.Host) {
		c.Preconnect = pre
		c.H2.SetDefaults(http2.Client)
		many := snapshot.Breaker{MaxConnections: 16, MaxPending: 16, MaxRequests: 16}
		c.Breakers = [2]snapshot.Breaker{many, many}
	})
	sum := &Load{}
	r.p = New(Config{Loop: r.l, Host: r.p.host, Cluster: r.cfg, Block: r.sc.Block(1), Slab: &r.slab, NextID: &r.id, Codec: codec, Mux: mux.NewShared(r.l), Sum: sum})
	return r, sum
}

func (r *rig) sums(sum *Load, waiting, active, spare int) {
	r.t.Helper()
	if want := (Load{waiting, active, spare}); *sum != want {
		r.t.Errorf("load %+v, want %+v", *sum, want)
	}
}

func TestPool_WhenConnectionsAreMadeAhead_ThenForAMultipleOfTheStreams(t *testing.T) {
	r, sum := aheadRig(t, snapshot.Preconnect{PerHost: 1.5}, HTTP1)
	a := r.get()
	r.counts(0, 2, 0, 1)
	r.sums(sum, 1, 0, 2)
	r.turn()
	r.counts(1, 0, 1, 0)
	r.sums(sum, 0, 1, 1)
	a.m.Release(true)
	r.sums(sum, 0, 0, 2)
	a = r.get() // enough are there
	r.counts(1, 0, 1, 0)
	b := r.get() // 2 streams want 3 connections
	r.counts(0, 1, 2, 0)
	r.turn()
	r.counts(1, 0, 2, 0)
	r.sums(sum, 0, 2, 1)
	b.m.Release(false)
	a.m.Release(true)
	r.counts(2, 0, 0, 0)
	r.sums(sum, 0, 0, 2)
	r.p.Drain()
	r.sums(sum, 0, 0, 0)
	if n := r.value(stats.ClusterUpstreamCxTotal); n != 3 {
		t.Errorf("%d connections", n)
	}
}

func TestPool_WhenOneRequestComes_ThenItStartsNoMoreThanThree(t *testing.T) {
	r, _ := aheadRig(t, snapshot.Preconnect{PerHost: 3}, HTTP1)
	r.get()
	r.counts(0, 3, 0, 1)
	r.get()
	r.counts(0, 6, 0, 2)
}

func TestPool_WhenConnectionsTakeManyStreams_ThenOneIsEnough(t *testing.T) {
	r, sum := aheadRig(t, snapshot.Preconnect{PerHost: 3}, HTTP2)
	a := r.get()
	r.counts(0, 1, 0, 1)
	r.turn()
	b := r.get()
	r.counts(0, 0, 1, 0)
	if sum.Waiting != 0 || sum.Active != 2 || sum.Spare < 2 {
		t.Errorf("load %+v", *sum)
	}
	a.m.ReleaseStream(false)
	b.m.ReleaseStream(false)
	if sum.Active != 0 {
		t.Errorf("load %+v", *sum)
	}
}

func TestPool_WhenTheHostIsNotToBeConnectedAhead_ThenOnDemandOnly(t *testing.T) {
	r, _ := aheadRig(t, snapshot.Preconnect{PerHost: 2, Hosts: nobody}, HTTP1)
	r.get()
	r.counts(0, 1, 0, 1)
	if r.p.Anticipate(2) {
		t.Error("anticipated")
	}
	if n := r.value(stats.ClusterUpstreamCxPreconnectSkipped); n != 2 {
		t.Errorf("skipped %d", n)
	}
	r, _ = aheadRig(t, snapshot.Preconnect{PerHost: 2}, HTTP1)
	r.p.SetHealthy(false)
	r.get()
	r.counts(0, 1, 0, 1)
	if r.p.Anticipate(2) || r.value(stats.ClusterUpstreamCxPreconnectSkipped) != 0 {
		t.Error("an unhealthy host")
	}
}

func TestPool_WhenARequestIsExpected_ThenAConnectionAheadOfIt(t *testing.T) {
	r, sum := aheadRig(t, snapshot.Preconnect{Predictive: 1.5}, HTTP1)
	if !sum.Short(1.5) {
		t.Error("an empty pool is not short")
	}
	if !r.p.Anticipate(1.5) || !r.p.Anticipate(1.5) || r.p.Anticipate(1.5) {
		t.Error("not two connections")
	}
	r.counts(0, 2, 0, 0)
	r.sums(sum, 0, 0, 2)
	if sum.Short(1.5) {
		t.Error("two connections are short for one request")
	}
	r.turn()
	r.counts(2, 0, 0, 0)
	a := r.get()
	if a.m == nil {
		t.Error("had to wait")
	}
	r.p.Drain()
	if r.p.Anticipate(3) {
		t.Error("anticipated while draining")
	}
	a.m.Release(true)
	r.sums(sum, 0, 0, 0)
}

func TestPool_WhenTheLimitIsReached_ThenNoneAhead(t *testing.T) {
	r, _ := aheadRig(t, snapshot.Preconnect{PerHost: 3}, HTTP1)
	r.cfg.Breakers[0].MaxConnections = 2
	r.get()
	r.counts(0, 2, 0, 1)
	if n := r.value(stats.ClusterUpstreamCxOverflow); n != 1 {
		t.Errorf("overflow %d", n)
	}
}

func TestPool_WhenAConnectionAheadFails_ThenTheNextRequestTriesAgain(t *testing.T) {
	r, sum := aheadRig(t, snapshot.Preconnect{PerHost: 1.5}, HTTP1)
	a := r.get()
	r.turn()
	good := r.p.host.Addr
	r.p.host.Addr.Path = "\x00nobody listens here"
	if b := r.get(); b.m == nil { // takes the one that is there; that ahead fails
		t.Fatal("had to wait")
	}
	r.turn()
	r.counts(0, 0, 2, 0)
	r.sums(sum, 0, 2, 0)
	r.p.host.Addr = good
	c := r.get()
	r.turn()
	if c.m == nil || a.m == nil {
		t.Error("no connection")
	}
}

func TestPool_WhenLoadIsSteady_ThenLookingAheadAllocatesNothing(t *testing.T) {
	r, _ := aheadRig(t, snapshot.Preconnect{PerHost: 1.5, Predictive: 1.5}, HTTP1)
	a := r.get()
	r.turn()
	a.m.Release(true)
	o := newOwner()
	step := func() {
		if r.p.Get(&o.w) != Ready {
			t.Fatal("had to wait")
		}
		m, _, _ := o.w.Take()
		m.Release(true)
	}
	step()
	if n := testing.AllocsPerRun(100, step); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
