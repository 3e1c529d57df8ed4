// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"math"
	"net/netip"
	"strconv"
	"testing"

	"sidecar/dataplane/conn"
	"sidecar/dataplane/hostset"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/loop"
	"sidecar/dataplane/pool"
	"sidecar/dataplane/route"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/dataplane/transport/tls/policy"
	"sidecar/internal/telemetry/stats"
)

// clock is Linux with a clock that the test moves.
type clock struct {
	*sys.Linux
	now sys.Nanos
}

func (c *clock) Now() sys.Nanos { return c.now }

type rig struct {
	l *loop.Loop
	k *clock
	m *Manager
	c *Cluster
	s *stats.Scope
}

func newRig(t *testing.T, change func(*snapshot.ClusterConfig)) *rig {
	t.Helper()
	r := &rig{k: &clock{Linux: sys.NewLinux(), now: 1000 * sys.Second}}
	var err error
	if r.l, err = loop.New(loop.Config{Kernel: r.k, Seed: 1}, func(loop.Msg) {}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.l.Close)
	ctx, err := policy.NewClient(policy.ClientSpec{Scope: "c"})
	if err != nil {
		t.Fatal(err)
	}
	b := snapshot.Breaker{MaxConnections: 1024, MaxPending: 1024, MaxRequests: 1024, MaxPools: math.MaxUint32}
	cfg := &snapshot.ClusterConfig{Name: "c", Ref: &route.ClusterRef{Name: "c"}, Type: snapshot.ClusterOriginalDst, TLS: ctx, Limits: &snapshot.Usage{},
		Breakers: [2]snapshot.Breaker{b, b}, Names: snapshot.Names{SNI: true}}
	r.s = stats.NewRegistry(1).Scope("cluster.c.", stats.ClusterDef)
	cfg.Traffic = r.s
	if change != nil {
		change(cfg)
	}
	r.m = NewManager(r.l, 1)
	r.c = r.m.Get(&snapshot.Cluster{ClusterConfig: cfg, Hosts: &hostset.Hosts{}})
	return r
}

func (r *rig) pool(h *hostset.Host, name string) *pool.Pool {
	return r.c.Pool(h, 0, pool.HTTP1, []byte(name))
}

func TestServerName_WhenAskedFor_ThenTheHostOfTheRequestOrItsHeader(t *testing.T) {
	sni := httpmsg.KeyOf("x-sni")
	for _, x := range []struct{ name, authority, header, want string }{
		{"a name", "a.test", "", "a.test"},
		{"with a port", "A.test:8080", "", "A.test"},
		{"an address", "1.2.3.4:80", "", "1.2.3.4"},
		{"an IPv6 address", "[::1]:80", "", "::1"},
		{"an IPv6 address without a port", "[::1]", "", "::1"},
		{"a header", "a.test", "b.test:1", "b.test"},
		{"no authority", "", "", ""},
	} {
		r := newRig(t, func(c *snapshot.ClusterConfig) { c.Names.Header = sni })
		var a httpmsg.Arena
		var h httpmsg.Head
		h.Reset(&a)
		h.SetHost([]byte(x.authority))
		h.AddString(httpmsg.KeyOf("x-other"), "o")
		h.AddString(sni, x.header) // an empty one does not count
		if got := string(a.Bytes(r.c.ServerName(&h))); got != x.want {
			t.Errorf("%s: %q, want %q", x.name, got, x.want)
		}
		if x.header != "" {
			h.AddString(sni, "second.test")
			if got := string(a.Bytes(r.c.ServerName(&h))); got != x.want {
				t.Errorf("%s twice: %q, want %q", x.name, got, x.want)
			}
		}
		r.c.cfg.Names = snapshot.Names{Header: sni}
		if got := a.Bytes(r.c.ServerName(&h)); len(got) > 0 {
			t.Errorf("%s: %q although nothing asks", x.name, got)
		}
	}
}

func TestPool_WhenARequestHasNoNameThatTheCertificateMustHave_ThenThereIsNone(t *testing.T) {
	h := &hostset.Host{}
	for _, x := range []struct {
		name  string
		names snapshot.Names
		plain bool
		want  bool
	}{
		{"must be in the certificate", snapshot.Names{SAN: true}, false, false},
		{"server name as well", snapshot.Names{SNI: true, SAN: true}, false, false},
		{"server name only", snapshot.Names{SNI: true}, false, true},
		{"plain text", snapshot.Names{SAN: true}, true, true},
	} {
		r := newRig(t, func(c *snapshot.ClusterConfig) {
			c.Names = x.names
			if x.plain {
				c.TLS = nil
			}
		})
		if got := r.pool(h, "") != nil; got != x.want {
			t.Errorf("%s: %v", x.name, got)
		}
		if r.c.Unnamed(h, pool.HTTP1) == nil {
			t.Errorf("%s: none for what is no request", x.name)
		}
	}
}

func TestPool_WhenNamesDiffer_ThenSoDoThePools(t *testing.T) {
	h, other := &hostset.Host{}, &hostset.Host{}
	for _, x := range []struct {
		name     string
		sni, san bool
		plain    bool // in plain text
		a, b     string
		same     bool
	}{
		{"equal", true, false, false, "a.test", "a.test", true},
		{"different", true, false, false, "a.test", "b.test", false},
		{"name and none", true, false, false, "a.test", "", false},
		{"addresses are no server names", true, false, false, "1.2.3.4", "::1", true},
		{"digits are no address", true, false, false, "1.2.3", "", false},
		{"addresses are in certificates", true, true, false, "1.2.3.4", "::1", false},
		{"only in certificates", false, true, false, "a.test", "b.test", false},
		{"plain text", true, true, true, "a.test", "b.test", true},
	} {
		r := newRig(t, func(c *snapshot.ClusterConfig) {
			c.Names = snapshot.Names{SNI: x.sni, SAN: x.san}
			if x.plain {
				c.TLS = nil
			}
		})
		a := r.pool(h, x.a)
		if b := r.pool(h, x.b); a == nil || b == nil || (a == b) != x.same {
			t.Errorf("%s: same pool %v", x.name, a == b)
		}
		if r.pool(other, x.a) == a || r.c.Pool(h, 1, pool.HTTP1, []byte(x.a)) == a || r.c.Pool(h, 0, pool.Auto, []byte(x.a)) == a {
			t.Errorf("%s: shared with another host, priority or codec", x.name)
		}
	}
	if r := newRig(t, nil); r.pool(h, string(make([]byte, maxName+1))) != nil || r.pool(h, string(make([]byte, maxName))) == nil {
		t.Error("the bound on the length of a name")
	}
}

func TestPool_WhenThereAreTooManyNames_ThenTheLeastRecentlyUsedGoes(t *testing.T) {
	r := newRig(t, nil)
	h := &hostset.Host{}
	first := r.pool(h, "0")
	second := r.pool(h, "1.a")
	for i := 2; i < maxNamed; i++ {
		r.pool(h, strconv.Itoa(i)+".a")
	}
	if r.pool(h, "0") != first {
		t.Fatal("gone too early")
	}
	r.pool(h, "one.more")
	if n := len(r.c.names.byKey); n != maxNamed {
		t.Errorf("%d pools", n)
	}
	if r.pool(h, "0") != first || r.pool(h, "1.a") == second {
		t.Error("it was not the least recently used one that went")
	}
	n := 0
	for x := r.c.names.newest; x != nil; x = x.older {
		if n++; x.older != nil && x.older.newer != x || n > maxNamed {
			t.Fatal("the order of use is broken")
		}
	}
	if n != maxNamed {
		t.Errorf("%d pools in the order of use", n)
	}
}

func TestPool_WhenAPoolWithANameHasNoConnections_ThenItIsForgotten(t *testing.T) {
	r := newRig(t, nil)
	r.pool(&hostset.Host{}, "a.test")
	r.pool(&hostset.Host{}, "b.test")
	r.k.now += namedSweep - sys.Second
	r.l.Turn(false)
	if n := len(r.c.names.byKey); n != 2 {
		t.Fatalf("%d pools", n)
	}
	r.k.now += sys.Second
	r.l.Turn(false)
	if n := len(r.c.names.byKey); n != 0 || r.c.names.newest != nil || r.c.names.oldest != nil {
		t.Errorf("%d pools are left", n)
	}
}

func TestPool_WhenAHostGoes_ThenSoDoItsPoolsOfAllNames(t *testing.T) {
	r := newRig(t, nil)
	a, b := &hostset.Host{}, &hostset.Host{}
	r.pool(a, "a.test")
	r.pool(a, "")
	keep := r.pool(b, "a.test")
	r.c.dropHost(a)
	if r.c.pools() != 1 || r.pool(b, "a.test") != keep {
		t.Errorf("%d pools are left", r.c.pools())
	}
}

func TestPool_WhenMaxConnectionPoolsAreInUse_ThenNoFurtherOne(t *testing.T) {
	r := newRig(t, func(c *snapshot.ClusterConfig) { c.Breakers[0].MaxPools = 2 })
	h := &hostset.Host{}
	r.pool(h, "a.test")
	r.c.cfg.Limits.Pools[0].Add(2) // on other workers
	if r.pool(h, "b.test") != nil || r.pool(h, "") != nil {
		t.Error("a third pool")
	}
	if v, _ := r.s.Value(stats.ClusterUpstreamCxPoolOverflow); v != 2 {
		t.Errorf("overflow %d", v)
	}
	if r.c.Pool(h, 1, pool.HTTP1, []byte("b.test")) == nil {
		t.Error("the other priority has a limit of its own")
	}
}

func TestPool_WhenTheNameIsKnown_ThenFindingItsPoolAllocatesNothing(t *testing.T) {
	r := newRig(t, func(c *snapshot.ClusterConfig) {
		c.Names = snapshot.Names{SNI: true, SAN: true, Header: httpmsg.KeyOf("x-sni")}
	})
	h := &hostset.Host{}
	var a httpmsg.Arena
	var head httpmsg.Head
	head.Reset(&a)
	head.SetHost([]byte("Some-1.Test:8080"))
	look := func() {
		if r.c.Pool(h, 0, pool.HTTP2, a.Bytes(r.c.ServerName(&head))) == nil {
			t.Fatal("no pool")
		}
	}
	look()
	if n := testing.AllocsPerRun(100, look); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestPool_WhenNamesDifferInCase_ThenTheConnectionIsSharedUnderTheFirst(t *testing.T) {
	r := newRig(t, nil)
	r.m.TLS = conn.NewTLS(r.l, nil)
	h := &hostset.Host{Addr: sys.AddrOf(netip.MustParseAddrPort("127.0.0.1:1"))} // nobody listens there
	a := r.pool(h, "a.test")
	w := &waiter{}
	w.task.Init(w)
	w.w.Init(&w.task)
	b := r.pool(h, "A.test")
	if a == b {
		t.Error("a pool without connections keeps the name of a request that is over")
	}
	if b.Get(&w.w) != pool.Queued {
		t.Fatal("no connection")
	}
	if r.pool(h, "a.TEST") != b {
		t.Error("another connection for the same name")
	}
	if len(r.c.names.byKey) != 1 || r.c.names.newest.spelled != "A.test" {
		t.Errorf("%d pools, %q", len(r.c.names.byKey), r.c.names.newest.spelled)
	}
}
