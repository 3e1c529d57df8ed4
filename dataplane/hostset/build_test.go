// SPDX-License-Identifier: Apache-2.0

package hostset

import (
	"fmt"
	"net/netip"
	"testing"
	"unsafe"

	"sidecar/dataplane/sys"
)

func addr(i int) sys.Addr {
	return sys.AddrOf(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 80))
}

// eps makes endpoints for the given host numbers.
func eps(n ...int) []Endpoint {
	out := make([]Endpoint, len(n))
	for i, k := range n {
		out[i].Addr = addr(k)
	}
	return out
}

func seq(from, to int) []int {
	var out []int
	for i := from; i < to; i++ {
		out = append(out, i)
	}
	return out
}

func one(e []Endpoint) Input {
	return Input{Dedup: true, Localities: []LocalityInput{{Endpoints: e}}}
}

func hosts(h *Hosts, prio int) []*Host {
	var out []*Host
	for _, e := range h.Priorities[prio].Hosts {
		out = append(out, e.Host)
	}
	return out
}

func TestBuild_WhenEndpointsComeAndGo_ThenHostsKeepTheirPointers(t *testing.T) {
	old := Build(nil, one(eps(1, 2, 3, 4, 5)))
	known := map[sys.Addr]*Host{}
	for _, h := range hosts(old, 0) {
		known[h.Addr] = h
	}
	for name, list := range map[string][]int{
		"removed": {1, 2, 4, 5}, "two removed": {1, 5}, "added": {1, 2, 9, 3, 4, 5}, "first gone": {2, 3, 4, 5},
		"reordered": {5, 4, 3, 2, 1}, "replaced": {1, 7, 8, 4, 5}, "all new": {11, 12}, "none": {},
	} {
		t.Run(name, func(t *testing.T) {
			h := Build(old, one(eps(list...)))
			if len(h.order) != len(list) || h.Total != len(list) {
				t.Fatalf("%d hosts, want %d", h.Total, len(list))
			}
			for i, got := range h.order {
				if got.Addr != addr(list[i]) {
					t.Errorf("host %d is %s, want %s", i, got.Addr, addr(list[i]))
				}
				if was := known[got.Addr]; was != nil && was != got {
					t.Errorf("%s lost its pointer", got.Addr)
				}
			}
			if h.Generation != old.Generation+1 {
				t.Errorf("generation %d", h.Generation)
			}
		})
	}
}

func TestBuild_WhenIdentityChanges_ThenANewHostIsMade(t *testing.T) {
	base := Endpoint{Addr: addr(1), Hostname: "h", HashKey: "k", MetaHash: 7}
	old := Build(nil, one([]Endpoint{base}))
	for name, c := range map[string]struct {
		change func(*Endpoint)
		same   bool
	}{
		"nothing":  {func(*Endpoint) {}, true},
		"weight":   {func(e *Endpoint) { e.Weight = 5 }, true},
		"health":   {func(e *Endpoint) { e.Health = EDSDegraded }, true},
		"hostname": {func(e *Endpoint) { e.Hostname = "x" }, false},
		"metadata": {func(e *Endpoint) { e.MetaHash = 8 }, false},
		"hash key": {func(e *Endpoint) { e.HashKey = "x" }, false},
		"canary":   {func(e *Endpoint) { e.Canary = true }, false},
		"extra":    {func(e *Endpoint) { e.Extra = []sys.Addr{addr(2)} }, false},
	} {
		t.Run(name, func(t *testing.T) {
			ep := base
			c.change(&ep)
			h := Build(old, one([]Endpoint{ep}))
			if same := h.order[0] == old.order[0]; same != c.same {
				t.Errorf("same pointer: %v, want %v", same, c.same)
			}
			if (h == old) != (name == "nothing") {
				t.Error("an unchanged generation is the previous one, a changed one is not")
			}
		})
	}
	moved := one([]Endpoint{base})
	moved.Localities[0].Locality.Zone = "z"
	if h := Build(old, moved); h.order[0] == old.order[0] {
		t.Error("a host that moved to another locality must be another host")
	}
}

func TestBuild_WhenOneLocalityChanges_ThenTheOthersAreShared(t *testing.T) {
	in := Input{Dedup: true}
	for i := range 4 {
		in.Localities = append(in.Localities, LocalityInput{Locality: Locality{Zone: fmt.Sprint(i)}, Priority: uint32(i / 2), Weight: 1,
			Endpoints: eps(seq(100*i, 100*i+50)...)})
	}
	old := Build(nil, in)
	in.Localities[3].Endpoints = eps(seq(300, 351)...)
	h := Build(old, in)
	if &h.Priorities[0].Groups[0] != &old.Priorities[0].Groups[0] || &h.Priorities[0].Hosts[0] != &old.Priorities[0].Hosts[0] {
		t.Error("priority 0 did not change and must be shared")
	}
	if &h.Priorities[1].Groups[0].Hosts[0] != &old.Priorities[1].Groups[0].Hosts[0] {
		t.Error("locality 2 did not change and must be shared")
	}
	if len(h.Priorities[1].Hosts) != 101 || h.Priorities[1].Groups[1].Locality != old.Priorities[1].Groups[1].Locality {
		t.Error("locality 3 has one more host and the same pointer")
	}
}

func TestBuild_WhenOneOf100000EndpointsChanges_ThenTheWorkIsNotPerHost(t *testing.T) {
	e := eps(seq(0, 100000)...)
	old := Build(nil, one(e))
	changed := append([]Endpoint(nil), e...)
	changed[50000].Weight = 9
	var h *Hosts
	allocs := testing.AllocsPerRun(1, func() { h = Build(old, one(changed)) })
	if allocs > 40 {
		t.Errorf("%v allocations for one changed weight", allocs)
	}
	for i := range h.order {
		if h.order[i] != old.order[i] {
			t.Fatalf("host %d lost its pointer", i)
		}
	}
	if h.Priorities[0].Hosts[50000].Weight != 9 || !h.Priorities[0].Sources[SourceAll].Weighted {
		t.Error("the change is missing")
	}
}

func TestBuild_WhenAddressesRepeat_ThenDedupKeepsTheFirst(t *testing.T) {
	in := Input{Dedup: true, Localities: []LocalityInput{
		{Priority: 1, Endpoints: eps(1, 2, 1)}, {Priority: 0, Endpoints: eps(2, 3)},
	}}
	h := Build(nil, in)
	if len(h.Priorities[1].Hosts) != 2 || len(h.Priorities[0].Hosts) != 1 || h.Total != 3 {
		t.Fatalf("%d and %d hosts", len(h.Priorities[1].Hosts), len(h.Priorities[0].Hosts))
	}
	if again := Build(h, in); again != h {
		t.Error("the same input again must be no change")
	}
	in.Dedup = false
	if h := Build(nil, in); h.Total != 5 || h.order[0] != h.order[2] {
		t.Error("a static assignment may name a host twice, and it is one host")
	}
}

func TestBuild_WhenLocalitiesRepeat_ThenTheyMergeAndTheLastWeightWins(t *testing.T) {
	h := Build(nil, Input{Localities: []LocalityInput{
		{Locality: Locality{Zone: "a"}, Weight: 3, Endpoints: eps(1)},
		{Locality: Locality{Zone: "b"}, Weight: 1, Endpoints: eps(2)},
		{Locality: Locality{Zone: "a"}, Weight: 5, Endpoints: eps(3)},
	}})
	g := h.Priorities[0].Groups
	if len(g) != 2 || len(g[0].Hosts) != 2 || g[0].Weight != 5 {
		t.Errorf("groups %+v", g)
	}
}

func TestBuild_WhenHealthIsGiven_ThenItIsFolded(t *testing.T) {
	var e []Endpoint
	for i := range 6 {
		e = append(e, Endpoint{Addr: addr(i), Health: EDSHealth(i)})
	}
	h := Build(nil, one(e))
	p := h.Priorities[0]
	if p.Healthy != 2 || p.DegradedN != 1 || len(p.Sources[SourceHealthy].Hosts) != 2 || len(p.Sources[SourceDegraded].Hosts) != 1 {
		t.Errorf("healthy %d degraded %d", p.Healthy, p.DegradedN)
	}
	for i, want := range []Health{Healthy, Healthy, Unhealthy, Unhealthy, Unhealthy, Degraded} {
		if got := p.Hosts[i].Health; got != want {
			t.Errorf("%s: %d, want %d", EDSHealth(i), got, want)
		}
	}
}

func TestBuild_WhenThereAreNoEndpoints_ThenTheGenerationIsUsable(t *testing.T) {
	h := Build(nil, Input{})
	if len(h.Priorities) != 1 || h.Plan.Healthy[0] != 100 || h.Total != 0 {
		t.Errorf("%+v", h)
	}
}

func TestRetire_WhenHostsLeave_ThenOnlyTheyAreMarked(t *testing.T) {
	for name, next := range map[string][]int{"first": {2, 3, 4}, "middle": {1, 2, 4}, "last": {1, 2, 3}, "all": {}, "swapped": {1, 4, 3, 9}, "none": {1, 2, 3, 4}, "more": {0, 1, 2, 3, 4, 5}} {
		t.Run(name, func(t *testing.T) {
			old := Build(nil, one(eps(1, 2, 3, 4)))
			h := Build(old, one(eps(next...)))
			Retire(nil, old)
			Retire(old, h)
			stays := map[sys.Addr]bool{}
			for _, n := range next {
				stays[addr(n)] = true
			}
			for _, host := range old.order {
				if host.Left() == stays[host.Addr] {
					t.Errorf("%s: left %v", host.Addr, host.Left())
				}
			}
		})
	}
	old := Build(nil, one(eps(1)))
	Retire(old, nil)
	if !old.order[0].Left() {
		t.Error("a removed cluster's hosts have left")
	}
	static := Build(nil, Input{Localities: []LocalityInput{{Endpoints: eps(1, 1, 2)}}})
	Retire(static, Build(static, Input{Localities: []LocalityInput{{Endpoints: eps(1, 2)}}}))
	if static.order[0].Left() {
		t.Error("a host that is named once less is still there")
	}
}

func TestHost_Size(t *testing.T) {
	if n := unsafe.Sizeof(Host{}); n > 344 {
		t.Errorf("Host has %d bytes: 100,000 hosts must fit the memory budget", n)
	}
	if n := unsafe.Sizeof(Entry{}); n > 16 {
		t.Errorf("Entry has %d bytes", n)
	}
}
