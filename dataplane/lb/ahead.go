// SPDX-License-Identifier: Apache-2.0

package lb

import "sidecar/dataplane/hostset"

// Peeker is a policy whose next picks can be told.
type Peeker interface {
	// Peek returns the host of a pick to come, one further with each call, nil when it cannot be told or is too far ahead. The picks that follow are
	// those that were told, unless the hosts change before or the query refuses one.
	Peek(q *Query) *hostset.Host
}

// maxTold bounds the picks that are told ahead; they are also no more than there are healthy hosts, as in Envoy.
const maxTold = 64

// told is a pick that was made ahead.
type told struct {
	host  *hostset.Host
	panic bool // in panic mode
}

// Peek implements Peeker: the pick is made now and kept. Which host has the fewest requests later cannot be told.
func (p *policy) Peek(q *Query) *hostset.Host {
	if p.spec.Kind == LeastRequest || len(p.told) >= min(maxTold, p.healthy) {
		return nil
	}
	q.InPanic = false
	h := p.pick(q)
	if h != nil {
		p.told = append(p.told, told{h, q.InPanic})
	}
	return h
}

// foretold returns the oldest pick that was made ahead, nil when there is none or q refuses it.
func (p *policy) foretold(q *Query) *hostset.Host {
	if len(p.told) == 0 {
		return nil
	}
	t := p.told[0]
	p.told = p.told[:copy(p.told, p.told[1:])]
	if q.rejects(t.host) {
		return nil
	}
	q.InPanic = t.panic
	return t.host
}

// forget drops the picks that were made ahead from other hosts, and counts the healthy ones.
func (p *policy) forget(h *hostset.Hosts) {
	clear(p.told)
	p.told, p.healthy = p.told[:0], 0
	if h.Plan == nil {
		return
	}
	for i := range h.Priorities {
		p.healthy += len(h.Priorities[i].Sources[hostset.SourceHealthy].Hosts)
	}
}
