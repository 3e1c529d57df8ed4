// SPDX-License-Identifier: Apache-2.0

package hostset

// PlanConfig is the part of a cluster's configuration that decides which hosts a pick may see. Comparable.
type PlanConfig struct {
	PanicPercent     uint32 // healthy_panic_threshold, 0..100; 0 = panic mode is off
	LocalityWeighted bool   // locality_weighted_lb_config
	FailOnPanic      bool   // zone_aware_lb_config.fail_traffic_on_panic
}

// DefaultPanicPercent is the panic threshold when the configuration names none.
const DefaultPanicPercent = 50

// PlanPriorityMax is the number of priorities a plan knows: 0..MaxPriority.
const PlanPriorityMax = MaxPriority + 1

// Plan says which share of the picks each priority takes. Immutable. All slices have one element for each priority; Healthy and Degraded
// together add up to 100.
type Plan struct {
	Healthy  []uint8 // percent of picks that go to the healthy hosts of the priority
	Degraded []uint8 // percent of picks that go to its degraded hosts
	Panic    []bool  // the priority is in panic: all its hosts are eligible

	// Availability, 0..100: what Healthy and Degraded were made from. Retries on other priorities plan again from these.
	HealthyAvail, DegradedAvail []uint8
}

// Choose returns the priority that hash falls on, and whether it is its degraded hosts' turn.
func (p *Plan) Choose(hash uint64) (int, Health) {
	return choose(hash, p.Healthy, p.Degraded)
}

func choose(hash uint64, healthy, degraded []uint8) (int, Health) {
	n := int(hash%100) + 1
	sum := 0
	for i, load := range healthy {
		if sum += int(load); n <= sum {
			return i, Healthy
		}
	}
	for i, load := range degraded {
		if sum += int(load); n <= sum {
			return i, Degraded
		}
	}
	return 0, Healthy
}

// ChooseOther is Choose for a retry with the previous_priorities plugin: priorities whose bit is set in tried (bit i = priority i, i < 32) are
// left out as if they had no available host. When that leaves nothing, all priorities count again. Allocates nothing.
func (p *Plan) ChooseOther(hash uint64, tried uint32) (int, Health) {
	var ha, da, hl, dl [PlanPriorityMax]uint8
	n := min(len(p.HealthyAvail), PlanPriorityMax)
	left := 0
	for i := range n {
		if i < 32 && tried&(1<<i) != 0 {
			continue
		}
		ha[i], da[i] = p.HealthyAvail[i], p.DegradedAvail[i]
		left += int(ha[i]) + int(da[i])
	}
	if left == 0 {
		return p.Choose(hash)
	}
	distribute(hl[:n], dl[:n], ha[:n], da[:n])
	return choose(hash, hl[:n], dl[:n])
}

// makePlan computes the plan of a generation as Envoy's load balancer base does.
func makePlan(h *Hosts) *Plan {
	n := len(h.Priorities)
	mem := make([]uint8, 4*n)
	p := &Plan{Healthy: mem[:n:n], Degraded: mem[n : 2*n : 2*n], HealthyAvail: mem[2*n : 3*n : 3*n], DegradedAvail: mem[3*n:], Panic: make([]bool, n)}
	for i := range h.Priorities {
		p.HealthyAvail[i], p.DegradedAvail[i] = availability(&h.Priorities[i], h)
	}
	total := totalAvailability(p.HealthyAvail, p.DegradedAvail)
	if total > 0 {
		distribute(p.Healthy, p.Degraded, p.HealthyAvail, p.DegradedAvail)
	}
	panicAt := min(h.Config.PanicPercent, 100)
	if panicAt == 0 && total == 0 { // nothing is eligible; the whole load falls on priority 0, where picks find no host
		p.Healthy[0] = 100
		return p
	}
	all := true
	for i := range h.Priorities {
		p.Panic[i] = total < 100 && inPanic(&h.Priorities[i], panicAt)
		all = all && p.Panic[i]
	}
	if all {
		planTotalPanic(p, h)
	}
	return p
}

// availability is the percentage of healthy and of degraded hosts, raised by the overprovisioning factor and capped at 100.
func availability(pr *Priority, h *Hosts) (healthy, degraded uint8) {
	if len(pr.Hosts) == 0 {
		return 0, 0
	}
	ok, deg, all := uint64(pr.Healthy), uint64(pr.DegradedN), uint64(len(pr.Hosts))
	if h.WeightedPriorityHealth {
		ok, deg, all = 0, 0, 0
		for i := range pr.Hosts {
			e := &pr.Hosts[i]
			all += uint64(e.Weight)
			switch e.Health {
			case Healthy:
				ok += uint64(e.Weight)
			case Degraded:
				deg += uint64(e.Weight)
			case Unhealthy:
			}
		}
	}
	over := uint64(h.Overprovisioning)
	return uint8(min(100, over*ok/all)), uint8(min(100, over*deg/all))
}

func totalAvailability(healthy, degraded []uint8) int {
	sum := 0
	for i := range healthy {
		sum += int(healthy[i]) + int(degraded[i])
	}
	return min(sum, 100)
}

// distribute fills hl and dl from the availabilities: as much as possible goes to the first priorities, healthy hosts before degraded ones of
// all priorities, and what rounding leaves goes to the first available one. The availabilities must not all be 0.
func distribute(hl, dl, ha, da []uint8) {
	total := totalAvailability(ha, da)
	left := 100
	firstHealthy, firstDegraded := -1, -1
	for i, a := range ha {
		if firstHealthy < 0 && a > 0 {
			firstHealthy = i
		}
		load := min(left, int(a)*100/total)
		hl[i] = uint8(load)
		left -= load
	}
	for i, a := range da {
		if firstDegraded < 0 && a > 0 {
			firstDegraded = i
		}
		load := min(left, int(a)*100/total)
		dl[i] = uint8(load)
		left -= load
	}
	switch {
	case left == 0:
	case firstHealthy >= 0:
		hl[firstHealthy] += uint8(left)
	default:
		dl[firstDegraded] += uint8(left)
	}
}

func inPanic(pr *Priority, threshold uint32) bool {
	percent := 0.0
	if n := len(pr.Hosts); n > 0 {
		percent = 100*float64(pr.Healthy)/float64(n) + 100*float64(pr.DegradedN)/float64(n)
	}
	return percent < float64(threshold)
}

// planTotalPanic spreads the load by the number of hosts, whatever their health.
func planTotalPanic(p *Plan, h *Hosts) {
	clear(p.Healthy)
	clear(p.Degraded)
	if h.Total == 0 {
		p.Healthy[0] = 100
		return
	}
	left, first := 100, -1
	for i := range h.Priorities {
		n := len(h.Priorities[i].Hosts)
		if first < 0 && n > 0 {
			first = i
		}
		load := 100 * n / h.Total
		p.Healthy[i] = uint8(load)
		left -= load
	}
	p.Healthy[first] += uint8(left)
}
