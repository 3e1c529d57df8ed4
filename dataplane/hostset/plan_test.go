// SPDX-License-Identifier: Apache-2.0

package hostset

import (
	"slices"
	"testing"
)

// level makes one priority of n hosts, of which ok are healthy and deg degraded.
func level(prio uint32, base, n, ok, deg int) LocalityInput {
	e := eps(seq(base, base+n)...)
	for i := range e {
		switch {
		case i < ok:
		case i < ok+deg:
			e[i].Health = EDSDegraded
		default:
			e[i].Health = EDSUnhealthy
		}
	}
	return LocalityInput{Priority: prio, Endpoints: e}
}

// The tables of Envoy's documentation on priority levels, degraded endpoints and panic thresholds, with 100 hosts in each level.
func TestPlan_WhenHealthVaries_ThenLoadsAreEnvoys(t *testing.T) {
	for _, c := range []struct {
		name              string
		ok, deg           []int
		panicAt           uint32
		healthy, degraded []uint8
		panics            []bool
	}{
		{"two levels, all healthy", []int{100, 100}, nil, 50, []uint8{100, 0}, nil, []bool{false, false}},
		{"72 percent is enough", []int{72, 72}, nil, 50, []uint8{100, 0}, nil, []bool{false, false}},
		{"71 percent is not", []int{71, 71}, nil, 50, []uint8{99, 1}, nil, []bool{false, false}},
		{"half", []int{50, 100}, nil, 50, []uint8{70, 30}, nil, []bool{false, false}},
		{"a quarter", []int{25, 100}, nil, 50, []uint8{35, 65}, nil, []bool{false, false}},
		{"none in the first", []int{0, 100}, nil, 50, []uint8{0, 100}, nil, []bool{false, false}},
		{"quarter and quarter", []int{25, 25}, nil, 0, []uint8{50, 50}, nil, []bool{false, false}},
		{"three levels", []int{25, 25, 25}, nil, 0, []uint8{35, 35, 30}, nil, []bool{false, false, false}},
		{"three levels, not enough", []int{20, 20, 20}, nil, 0, []uint8{34, 33, 33}, nil, []bool{false, false, false}},
		{"three levels, some left", []int{25, 25, 100}, nil, 50, []uint8{35, 35, 30}, nil, []bool{false, false, false}},
		{"one level panics", []int{5, 65}, nil, 50, []uint8{8, 92}, nil, []bool{true, false}},
		{"all panic", []int{20, 20}, nil, 50, []uint8{50, 50}, nil, []bool{true, true}},
		{"nothing healthy", []int{0, 0}, nil, 50, []uint8{50, 50}, nil, []bool{true, true}},
		{"nothing healthy, no panic", []int{0, 0}, nil, 0, []uint8{100, 0}, nil, []bool{false, false}},
		{"degraded take the rest", []int{50}, []int{50}, 50, []uint8{70}, []uint8{30}, []bool{false}},
		{"degraded only", []int{0}, []int{100}, 50, []uint8{0}, []uint8{100}, []bool{false}},
		{"healthy of the second level before degraded of the first", []int{25, 25}, []int{75, 75}, 50, []uint8{35, 35}, []uint8{30, 0},
			[]bool{false, false}},
		{"rounding goes to the first degraded", []int{0, 0, 0}, []int{23, 23, 23}, 0, []uint8{0, 0, 0}, []uint8{34, 33, 33},
			[]bool{false, false, false}},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := Input{Config: PlanConfig{PanicPercent: c.panicAt}}
			for i, ok := range c.ok {
				deg := 0
				if c.deg != nil {
					deg = c.deg[i]
				}
				in.Localities = append(in.Localities, level(uint32(i), 1000*i, 100, ok, deg))
			}
			p := Build(nil, in).Plan
			want := c.degraded
			if want == nil {
				want = make([]uint8, len(c.ok))
			}
			if !slices.Equal(p.Healthy, c.healthy) || !slices.Equal(p.Degraded, want) || !slices.Equal(p.Panic, c.panics) {
				t.Errorf("healthy %v degraded %v panic %v, want %v %v %v", p.Healthy, p.Degraded, p.Panic, c.healthy, want, c.panics)
			}
		})
	}
}

func TestPlan_WhenWeightsCount_ThenHealthIsByWeight(t *testing.T) {
	in := Input{WeightedPriorityHealth: true, Localities: []LocalityInput{level(0, 0, 2, 1, 0), level(1, 10, 1, 1, 0)}}
	in.Localities[0].Endpoints[0].Weight = 9
	in.Localities[0].Endpoints[1].Weight = 11
	if p := Build(nil, in).Plan; p.Healthy[0] != 63 || p.Healthy[1] != 37 {
		t.Errorf("loads %v", p.Healthy)
	}
	in.Overprovisioning = 100
	if p := Build(nil, in).Plan; p.Healthy[0] != 45 || p.Healthy[1] != 55 {
		t.Errorf("loads without overprovisioning %v", p.Healthy)
	}
}

func TestPlan_WhenPrioritiesSkip_ThenEmptyLevelsTakeNothing(t *testing.T) {
	h := Build(nil, Input{Config: PlanConfig{PanicPercent: 50}, Localities: []LocalityInput{level(3, 0, 2, 2, 0), level(1, 10, 2, 1, 0)}})
	if want := []uint8{0, 70, 0, 30}; !slices.Equal(h.Plan.Healthy, want) {
		t.Errorf("loads %v, want %v", h.Plan.Healthy, want)
	}
}

func TestPlan_WhenPrioritiesWereTried_ThenOthersAreChosen(t *testing.T) {
	h := Build(nil, Input{Localities: []LocalityInput{level(0, 0, 2, 2, 0), level(1, 10, 2, 1, 0), level(2, 20, 2, 2, 0)}})
	count := func(tried uint32) (out [3]int) {
		for i := range uint64(100) {
			p, _ := h.Plan.ChooseOther(i, tried)
			out[p]++
		}
		return out
	}
	for tried, want := range map[uint32][3]int{0: {100, 0, 0}, 1: {0, 70, 30}, 3: {0, 0, 100}, 7: {100, 0, 0}} {
		if got := count(tried); got != want {
			t.Errorf("tried %b: %v, want %v", tried, got, want)
		}
	}
	if n := testing.AllocsPerRun(100, func() { h.Plan.ChooseOther(5, 1) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestBuild_WhenLocalitiesAreWeighted_ThenSharesFollowAvailability(t *testing.T) {
	a, b := level(0, 0, 10, 5, 0), level(0, 20, 10, 10, 0)
	a.Locality.Zone, a.Weight, b.Locality.Zone, b.Weight = "a", 2, "b", 1
	h := Build(nil, Input{Config: PlanConfig{LocalityWeighted: true}, Localities: []LocalityInput{a, b}})
	g := h.Priorities[0].Groups
	if g[0].HealthyShare != 1.4 || g[1].HealthyShare != 1 {
		t.Errorf("shares %v and %v", g[0].HealthyShare, g[1].HealthyShare)
	}
	if n := len(h.Priorities[0].Sources[SourceOf(0, Healthy)].Hosts); n != 5 {
		t.Errorf("%d healthy hosts in zone a", n)
	}
}
