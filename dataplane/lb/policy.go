// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"math"
	"slices"

	"sidecar/dataplane/hostset"
	"sidecar/dataplane/sys"
)

// policy is round robin, least request and random: they differ only in how one host is taken from a list.
type policy struct {
	// Immutable
	spec *Spec

	// Worker
	hosts   *hostset.Hosts
	prios   []prioState
	told    []told // picks that were made ahead, oldest first
	healthy int    // hosts
	seed    uint64
	now     sys.Nanos // of the latest query; slow start in Update counts with it
}

// prioState is the position in one priority.
type prioState struct {
	sources    []source // as hostset.Priority.Sources
	localities [2]edf   // over groups, by healthy and degraded share; empty unless localities are weighted
}

// source is the position in one list of hosts.
type source struct {
	hosts []hostset.Entry
	turn  uint64 // unweighted round robin
	sched edf    // empty when all weights are equal
}

func newPolicy(s *Spec, seed uint64, h *hostset.Hosts) *policy {
	p := &policy{spec: s, seed: seed}
	p.Update(h)
	return p
}

// Update moves to another generation. Round robin positions stay; weighted schedules begin anew at a random point. It allocates: it runs at a
// turn boundary, not on the request path.
func (p *policy) Update(h *hostset.Hosts) {
	p.hosts = h
	p.forget(h)
	if h.Plan == nil { // not made by hostset.Build: nothing to pick from
		p.prios = nil
		return
	}
	if p.spec.SlowStart.Window > 0 {
		p.latest(h)
	}
	old := p.prios
	p.prios = make([]prioState, len(h.Priorities))
	for i := range h.Priorities {
		pr := &h.Priorities[i]
		st := &p.prios[i]
		st.sources = make([]source, len(pr.Sources))
		for j := range pr.Sources {
			src := &st.sources[j]
			src.hosts = pr.Sources[j].Hosts
			if i < len(old) && j < len(old[i].sources) {
				src.turn = old[i].sources[j].turn
			} else {
				src.turn = next(&p.seed)
			}
			if p.scheduled(&pr.Sources[j]) {
				src.sched = newEDF(len(src.hosts), func(k int) float64 { return p.weight(&src.hosts[k]) }, p.unit())
			}
		}
		if h.Config.LocalityWeighted {
			st.localities[0] = newEDF(len(pr.Groups), func(k int) float64 { return pr.Groups[k].HealthyShare }, p.unit())
			st.localities[1] = newEDF(len(pr.Groups), func(k int) float64 { return pr.Groups[k].DegradedShare }, p.unit())
		}
	}
}

func (p *policy) unit() float64 { return float64(next(&p.seed)>>11) / (1 << 53) }

// latest moves the clock to when the newest host came: a policy that had no query yet knows no other time.
func (p *policy) latest(h *hostset.Hosts) {
	for i := range h.Priorities {
		for j := range h.Priorities[i].Hosts {
			p.now = max(p.now, h.Priorities[i].Hosts[j].AddedAt)
		}
	}
}

// scheduled tells whether a list needs a weighted schedule: weights differ, or a host is in its slow start.
func (p *policy) scheduled(set *hostset.Set) bool {
	if p.spec.Kind == Random || len(set.Hosts) < 2 {
		return false
	}
	if set.Weighted {
		return true
	}
	if p.spec.SlowStart.Window > 0 {
		for i := range set.Hosts {
			if p.now-set.Hosts[i].AddedAt < p.spec.SlowStart.Window {
				return true
			}
		}
	}
	return false
}

// Pick implements Policy.
func (p *policy) Pick(q *Query) *hostset.Host {
	if h := p.foretold(q); h != nil {
		return h
	}
	return p.pick(q)
}

func (p *policy) pick(q *Query) *hostset.Host {
	if len(p.prios) == 0 {
		return nil
	}
	if q.Now > 0 {
		p.now = q.Now
	}
	rnd := q.Rand
	var h *hostset.Host
	for range q.attempts() {
		src := p.source(q, &rnd)
		if src == nil {
			return nil
		}
		h = p.take(src, &rnd)
		if h == nil || !q.rejects(h) {
			return h
		}
		if q.AvoidTried {
			if other := scan(src.hosts, q, next(&rnd)); other != nil {
				return other
			}
		}
	}
	return h
}

// attempts is how many picks a query may cost: one, and one more for each time a configured predicate may refuse.
func (q *Query) attempts() int {
	if len(q.Tried) == 0 && !q.OmitCanary {
		return 1
	}
	return 1 + min(max(q.MaxTries, 0), selectionAttemptsMax)
}

func (q *Query) rejects(h *hostset.Host) bool {
	return (q.OmitCanary && h.Canary) || (len(q.Tried) > 0 && slices.Contains(q.Tried, h))
}

// scan finds a host that was not tried, looking at no more hosts than it takes to be past all tried ones.
func scan(hosts []hostset.Entry, q *Query, rnd uint64) *hostset.Host {
	n := uint64(len(hosts))
	for i := range min(n, uint64(len(q.Tried)+1)) {
		if h := hosts[(rnd+i)%n].Host; !q.rejects(h) {
			return h
		}
	}
	return nil
}

// source chooses priority, health and locality.
func (p *policy) source(q *Query, rnd *uint64) *source {
	plan := p.hosts.Plan
	var prio int
	var health hostset.Health
	if q.TriedPriorities == 0 {
		prio, health = plan.Choose(next(rnd))
	} else {
		prio, health = plan.ChooseOther(next(rnd), q.TriedPriorities)
	}
	st := &p.prios[prio]
	if plan.Panic[prio] {
		q.InPanic = true
		if p.hosts.Config.FailOnPanic {
			return nil
		}
		return &st.sources[hostset.SourceAll]
	}
	i := hostset.SourceHealthy
	if health == hostset.Degraded {
		i = hostset.SourceDegraded
	}
	if e := &st.localities[i-hostset.SourceHealthy]; len(e.heap) > 0 {
		g := int(e.top())
		share := p.hosts.Priorities[prio].Groups[g].HealthyShare
		if health == hostset.Degraded {
			share = p.hosts.Priorities[prio].Groups[g].DegradedShare
		}
		e.again(share)
		return &st.sources[hostset.SourceOf(g, health)]
	}
	return &st.sources[i]
}

// take takes one host from a list.
func (p *policy) take(src *source, rnd *uint64) *hostset.Host {
	n := uint64(len(src.hosts))
	if n == 0 {
		return nil
	}
	if len(src.sched.heap) > 0 {
		e := &src.hosts[src.sched.top()]
		src.sched.again(p.weight(e))
		return e.Host
	}
	switch p.spec.Kind {
	case LeastRequest:
		return p.leastActive(src.hosts, rnd)
	case Random:
		return src.hosts[next(rnd)%n].Host
	default:
		src.turn++
		return src.hosts[src.turn%n].Host
	}
}

// leastActive is least request over hosts of equal weight: the least loaded of choice_count random ones, or of all of them.
func (p *policy) leastActive(hosts []hostset.Entry, rnd *uint64) *hostset.Host {
	n := uint64(len(hosts))
	if p.spec.FullScan {
		return p.scanActive(hosts, rnd)
	}
	best := hosts[next(rnd)%n].Host
	load := best.RqActive.Load()
	for range p.spec.ChoiceCount - 1 {
		h := hosts[next(rnd)%n].Host
		if l := h.RqActive.Load(); l < load {
			best, load = h, l
		}
	}
	return best
}

// scanActive is selection_method FULL_SCAN: the least loaded of all hosts, one of them at random when several are.
func (p *policy) scanActive(hosts []hostset.Entry, rnd *uint64) *hostset.Host {
	var best *hostset.Host
	var load int64
	var ties uint64
	for i := range hosts {
		h := hosts[i].Host
		l := h.RqActive.Load()
		switch {
		case best == nil || l < load:
			best, load, ties = h, l, 1
		case l == load:
			ties++
			if next(rnd)%ties == 0 {
				best = h
			}
		}
	}
	return best
}

// weight is what a host counts for now.
func (p *policy) weight(e *hostset.Entry) float64 {
	w := float64(e.Weight)
	if p.spec.Kind == LeastRequest {
		active := float64(max(e.RqActive.Load(), 0)) + 1
		switch p.spec.ActiveRequestBias {
		case 0:
		case 1:
			w /= active
		default:
			w /= math.Pow(active, p.spec.ActiveRequestBias)
		}
	}
	if s := &p.spec.SlowStart; s.Window > 0 {
		if age := p.now - e.AddedAt; age < s.Window {
			f := float64(max(age, sys.Millisecond)) / float64(s.Window)
			if s.Aggression != 1 && s.Aggression > 0 {
				f = math.Pow(f, 1/s.Aggression)
			}
			w *= max(f, s.MinShare)
		}
	}
	return w
}
