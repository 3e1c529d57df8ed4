// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"sidecar/dataplane/hostset"
	"sidecar/dataplane/lb"
	"sidecar/dataplane/pool"
)

// maxAnticipated bounds the connections that one request starts ahead; the ratio is at most 3.
const maxAnticipated = 3

// anticipate starts connections to the hosts that are next, before a request gets its pool: until the connections of the cluster take the streams that
// wait, run and come, times predictive_preconnect_ratio.
func (c *Cluster) anticipate(prio int, codec pool.Codec, name []byte) {
	ratio := c.cfg.Preconnect.Predictive
	for range maxAnticipated {
		if !c.load.Short(ratio) {
			return
		}
		c.query = lb.Query{Rand: c.m.l.Rand(), Now: c.m.l.Now()}
		h := c.ahead.Peek(&c.query)
		if h == nil {
			return
		}
		if p := c.find(h, prio, codec, name); p == nil || !p.Anticipate(ratio) {
			return
		}
	}
}

// newPool makes a pool that knows whether its host is healthy, where that counts.
func (c *Cluster) newPool(cfg pool.Config) *pool.Pool {
	if c.ahead != nil {
		cfg.Sum = &c.load
	}
	p := pool.New(cfg)
	if pre := &c.cfg.Preconnect; pre.PerHost > 1 || pre.Predictive > 1 {
		p.SetHealthy(c.healthy(cfg.Host))
	}
	return p
}

// healthy looks a host up: its health is part of a generation. Hosts of ORIGINAL_DST clusters are.
func (c *Cluster) healthy(h *hostset.Host) bool {
	if c.onDemand != nil {
		return true
	}
	for i := range c.row.Hosts.Priorities {
		for j := range c.row.Hosts.Priorities[i].Hosts {
			if e := &c.row.Hosts.Priorities[i].Hosts[j]; e.Host == h {
				return membershipOf(e) == healthy
			}
		}
	}
	return false
}
