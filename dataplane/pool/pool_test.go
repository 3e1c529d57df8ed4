// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"testing"

	"sidecar/dataplane/fault"
	"sidecar/dataplane/hostset"
	"sidecar/dataplane/loop"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/internal/nettest"
	"sidecar/internal/telemetry/stats"
)

// owner is a task that takes what its waiter gets.
type owner struct {
	task loop.Task
	w    Waiter
	m    *Member
	k    fault.Kind
	runs int
}

func (o *owner) Advance(sys.Nanos) loop.Step {
	o.runs++
	if m, k, _ := o.w.Take(); m != nil || k != fault.None {
		o.m, o.k = m, k
	}
	return loop.Idle
}

func newOwner() *owner {
	o := &owner{}
	o.task.Init(o)
	o.w.Init(&o.task)
	return o
}

type rig struct {
	t    *testing.T
	k    *nettest.Clock
	l    *loop.Loop
	p    *Pool
	cfg  *snapshot.ClusterConfig
	sc   *stats.Scope
	ln   *nettest.Backend
	slab loop.Slab[Member]
	id   uint64
}

func check(t *testing.T, err error) {
	t.Helper()
	nettest.Must(t, err)
}

func newRig(t *testing.T, change func(*snapshot.ClusterConfig, *hostset.Host)) *rig {
	r := &rig{t: t, k: nettest.NewClock()}
	l, err := loop.New(loop.Config{Kernel: r.k, Seed: 1}, func(loop.Msg) {})
	check(t, err)
	t.Cleanup(l.Close)
	loop.OnPanic = func(_ int, reason any) { t.Errorf("panic: %v", reason) }
	r.l = l
	r.ln = nettest.Listen(t)
	b := snapshot.Breaker{MaxConnections: 2, MaxPending: 2, MaxRequests: 3}
	r.cfg = &snapshot.ClusterConfig{BufferLimit: 1 << 20, ConnectTimeout: sys.Second, IdleTimeout: 10 * sys.Second,
		Breakers: [2]snapshot.Breaker{b, b}, Limits: &snapshot.Usage{}}
	h := &hostset.Host{Addr: r.ln.Addr}
	if change != nil {
		change(r.cfg, h)
	}
	r.sc = stats.NewRegistry(1).Scope("cluster.c.", stats.ClusterDef)
	r.p = New(Config{Loop: l, Host: h, Cluster: r.cfg, Block: r.sc.Block(1), Slab: &r.slab, NextID: &r.id})
	return r
}

func (r *rig) turn() {
	for range 4 {
		r.l.Turn(false)
	}
}

func (r *rig) counts(idle, connecting, busy, waiting int) {
	r.t.Helper()
	i, c, b, w := r.p.Counts()
	if i != idle || c != connecting || b != busy || w != waiting {
		r.t.Errorf("idle %d connecting %d busy %d waiting %d, want %d %d %d %d", i, c, b, w, idle, connecting, busy, waiting)
	}
}

func (r *rig) value(id int) int64 {
	v, _ := r.sc.Value(id)
	return v
}

func (r *rig) get() *owner {
	o := newOwner()
	if r.p.Get(&o.w) != Queued {
		o.Advance(0)
	}
	return o
}

func TestPool_WhenReleased_ThenNewestIdleIsLentFirst(t *testing.T) {
	r := newRig(t, nil)
	a, b := r.get(), r.get()
	r.turn()
	if a.m == nil || b.m == nil {
		t.Fatal("no connections")
	}
	r.counts(0, 0, 2, 0)
	first, second := a.m, b.m
	first.Release(true)
	second.Release(true)
	r.counts(2, 0, 0, 0)
	if c := r.get(); c.m != second || !c.m.Reused() || c.m.Requests() != 2 {
		t.Error("not the newest idle connection")
	}
}

func TestPool_WhenOverItsLimits_ThenWaitsThenOverflows(t *testing.T) {
	r := newRig(t, nil)
	a, b := r.get(), r.get()
	r.turn()
	c, d := r.get(), r.get() // two connections are the limit: they wait
	r.counts(0, 0, 2, 2)
	e := r.get()
	if e.k != fault.Overflow || r.value(stats.ClusterUpstreamRqPendingOverflow) != 1 {
		t.Errorf("fifth request: %v", e.k)
	}
	a.m.Release(true)
	r.turn()
	if c.m == nil || d.m != nil {
		t.Error("not first come, first served")
	}
	b.m.Release(false)
	r.turn()
	if d.m == nil {
		t.Error("the last one was not given a new connection")
	}
	r.counts(0, 0, 2, 0)
}

func TestPool_WhenMaxRequestsIsReached_ThenOverflow(t *testing.T) {
	r := newRig(t, func(c *snapshot.ClusterConfig, _ *hostset.Host) { c.Breakers[0].MaxRequests = 1 })
	a := r.get()
	r.turn()
	b := r.get()
	r.turn()
	if b.k != fault.Overflow || r.value(stats.ClusterUpstreamRqActiveOverflow) != 1 {
		t.Errorf("second request: member %v, fault %v", b.m, b.k)
	}
	a.m.Release(true)
	if n := r.cfg.Limits.Requests[0].Load(); n != 0 {
		t.Errorf("%d requests are counted", n)
	}
}

func TestPool_WhenCancelled_ThenTheConnectionStaysForTheNext(t *testing.T) {
	r := newRig(t, nil)
	a := r.get()
	a.w.Cancel()
	r.turn()
	r.counts(1, 0, 0, 0)
	if a.m != nil || r.cfg.Limits.Pending[0].Load() != 0 || r.value(stats.ClusterUpstreamRqCancelled) != 1 {
		t.Error("the cancelled request got something")
	}
	b := newOwner()
	if r.p.Get(&b.w) != Ready {
		t.Error("the warm connection was not used")
	}
	b.w.Cancel() // before it was taken
	r.counts(1, 0, 0, 0)
}

func TestPool_WhenRefused_ThenAllWaitingLearnIt(t *testing.T) {
	r := newRig(t, nil)
	addr := r.p.host.Addr
	r.p.host.Addr = sys.Addr{Path: "@no-such-listener"}
	a := r.get()
	r.turn()
	if a.k != fault.ConnectFailed || !r.p.Empty() || r.cfg.Limits.Connections[0].Load() != 0 {
		t.Errorf("fault %v, empty %v", a.k, r.p.Empty())
	}
	r.p.host.Extra = []sys.Addr{{Path: "@nor-this-one"}, addr}
	b := r.get()
	r.turn()
	if b.m == nil {
		t.Error("the additional address was not tried")
	}
}

func TestPool_WhenIdleTooLongOrClosedByThePeer_ThenDropped(t *testing.T) {
	r := newRig(t, nil)
	a := r.get()
	r.turn()
	a.m.Release(true)
	r.k.Skew += 9 * sys.Second
	r.turn()
	r.counts(1, 0, 0, 0)
	r.k.Skew += 2 * sys.Second
	r.turn()
	r.counts(0, 0, 0, 0)
	if r.value(stats.ClusterUpstreamCxIdleTimeout) != 1 {
		t.Error("idle timeout is not counted")
	}
	r.ln.Accept().Close()
	b := r.get()
	r.turn()
	peer := r.ln.Accept()
	b.m.Release(true)
	peer.Close()
	r.turn()
	r.counts(0, 0, 0, 0)
	if r.value(stats.ClusterUpstreamCxActive) != 0 || r.slab.Live() != 0 {
		t.Error("something is left")
	}
}

func TestPool_WhenDrained_ThenBusyEndsWithItsRequest(t *testing.T) {
	r := newRig(t, nil)
	a, b := r.get(), r.get()
	r.turn()
	a.m.Release(true)
	r.p.Drain()
	r.counts(0, 0, 1, 0)
	b.m.Release(true)
	if !r.p.Empty() {
		t.Error("not empty")
	}
}

func TestPool_WhenConnectionIsTooOld_ThenNotReused(t *testing.T) {
	r := newRig(t, func(c *snapshot.ClusterConfig, _ *hostset.Host) { c.MaxConnDuration = 5 * sys.Second })
	a := r.get()
	r.turn()
	r.k.Skew += 6 * sys.Second
	r.turn()
	a.m.Release(true)
	r.counts(0, 0, 0, 0)
	if r.value(stats.ClusterUpstreamCxMaxDurationReached) != 1 {
		t.Error("not counted")
	}
}

func TestPool_WhenAWaiterOverflows_ThenTheNextIsNotLeftWaiting(t *testing.T) {
	r := newRig(t, func(c *snapshot.ClusterConfig, _ *hostset.Host) {
		c.Breakers[0].MaxRequests, c.Breakers[0].MaxPending = 1, 5
	})
	a := r.get()
	r.turn()
	b, c := r.get(), r.get() // one more connection is allowed: it comes up while the only place under max_requests is taken
	r.turn()
	if b.k != fault.Overflow || c.k != fault.Overflow {
		t.Errorf("faults %v and %v: a connection is idle and nobody would wake the waiters", b.k, c.k)
	}
	r.counts(1, 0, 1, 0)
	r.k.Skew += 11 * sys.Second
	r.turn()
	r.counts(0, 0, 1, 0) // its idle timeout runs
	a.m.Release(false)
}
