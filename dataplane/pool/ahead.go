// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/stats"
)

// Connections are made ahead of the requests that will need them as preconnect_policy says: so many that they take a multiple of the streams that run or
// wait.

// maxAhead bounds the connections that one request starts; the ratios are at most 3.
const maxAhead = 3

// Anticipate starts one connection ahead of a request that is expected next, if the streams of the pool, that one included, times ratio
// (predictive_preconnect_ratio) are more than its connections take. It tells whether it did.
func (p *Pool) Anticipate(ratio float32) bool {
	if p.draining || !p.wants(ratio, 1) || !p.eligible() {
		return false
	}
	n := p.connecting.n
	ok := p.dial() == 0 && p.connecting.n > n
	p.settle()
	return ok
}

// SetHealthy tells whether the host is healthy: none is connected to ahead otherwise.
func (p *Pool) SetHealthy(is bool) { p.healthy = is }

// Load is how many streams wait and run, and how many more the connections take, those included that are being made. Worker-owned.
type Load struct{ Waiting, Active, Spare int }

// Short tells whether the streams that wait and run, and one that comes, times ratio, are more than the connections take.
func (l *Load) Short(ratio float32) bool {
	return float32(l.Waiting+l.Active+1)*ratio > float32(l.Spare+l.Active)
}

// settle brings the sum over all pools up to date. Whatever lets the owner of the sum run calls it at its end.
func (p *Pool) settle() {
	if p.sum == nil {
		return
	}
	now := Load{p.waiting, p.active, p.spare()}
	p.sum.Waiting += now.Waiting - p.told.Waiting
	p.sum.Active += now.Active - p.told.Active
	p.sum.Spare += now.Spare - p.told.Spare
	p.told = now
}

// grow starts the connection that a request needs, and those ahead of further ones. The errno is that of the former.
func (p *Pool) grow() sys.Errno {
	started := 0
	if p.short() {
		n := p.connecting.n
		if e := p.dial(); e != 0 || p.connecting.n == n { // or at the limit of connections
			return e
		}
		started = 1
	}
	p.further(maxAhead - started)
	return 0
}

// further starts connections, limit at most, until they take the streams that run or wait times per_upstream_preconnect_ratio.
func (p *Pool) further(limit int) {
	ratio := p.cfg.Preconnect.PerHost
	if ratio <= 1 || p.draining {
		return
	}
	for range limit {
		if !p.wants(ratio, 0) || !p.eligible() {
			return
		}
		if n := p.connecting.n; p.dial() != 0 || p.connecting.n == n {
			return
		}
	}
}

// wants tells whether the streams that run, wait and come, times ratio, are more than the connections take.
func (p *Pool) wants(ratio float32, coming int) bool {
	return p.healthy && float32(p.active+p.waiting+coming)*ratio > float32(p.spare()+p.active)
}

// eligible tells whether the host's metadata allows connections ahead, and counts when it does not.
func (p *Pool) eligible() bool {
	if !p.ahead {
		p.block.Inc(stats.ClusterUpstreamCxPreconnectSkipped)
	}
	return p.ahead
}

// spare is how many more streams the connections take.
func (p *Pool) spare() int {
	n := p.connecting.n * p.expected()
	for _, l := range [...]*list{&p.idle, &p.busy} {
		for m := l.head; m != nil; m = m.next {
			switch {
			case m.k != nil:
				n += max(m.slots(), 0)
			case m.st == mIdle:
				n++
			}
		}
	}
	return n
}

// expected is how many streams a connection that is being made will take.
func (p *Pool) expected() int {
	if p.http2 {
		return int(min(p.cfg.H2.MaxConcurrentStreams, 1<<20))
	}
	return 1
}
