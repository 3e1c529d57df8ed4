// SPDX-License-Identifier: Apache-2.0

package upstream

import "sidecar/internal/telemetry/stats"

// maxExtra bounds the statistics that filters make below one cluster: their names come from requests.
const maxExtra = 4096

// extraStats are statistics below a cluster that a filter asked for.
type extraStats struct {
	scope *stats.Scope
	block *stats.Block
}

// Stats is this worker's share of the statistics under "cluster.NAME.SUB", making them on first use; SUB ends with a dot. They live as long as the
// cluster, and a name belongs to one def. Nil when the cluster has too many of them.
func (c *Cluster) Stats(sub []byte, def *stats.Def) *stats.Block {
	if e := c.extra[string(sub)]; e != nil {
		return e.block
	}
	if len(c.extra) >= maxExtra || c.row.Traffic == nil {
		return nil
	}
	if c.extra == nil {
		c.extra = map[string]*extraStats{}
	}
	s := c.row.Traffic.Below(string(sub), def)
	e := &extraStats{scope: s, block: s.Block(c.m.shard)}
	c.extra[string(sub)] = e
	return e.block
}

// dropStats gives the statistics of a cluster that is gone back.
func (c *Cluster) dropStats() {
	for _, e := range c.extra {
		e.scope.Release()
	}
	c.extra = nil
}
