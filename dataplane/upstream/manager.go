// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"sidecar/dataplane/conn"
	"sidecar/dataplane/hostset"
	"sidecar/dataplane/lb"
	"sidecar/dataplane/loop"
	"sidecar/dataplane/mux"
	"sidecar/dataplane/pool"
	"sidecar/dataplane/route"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/stats"
)

// sweepDelay collects several host updates into one look for pools of removed hosts: the balancer already avoids them, only their idle connections
// linger that long.
const sweepDelay = 50 * sys.Millisecond

// defaultCleanup is Cluster.cleanup_interval.
const defaultCleanup = 5 * sys.Second

// Manager is all clusters of one worker.
type Manager struct {
	// Immutable
	TLS      *conn.TLS      // for clusters with a TLS context; set before the first Get. Without it they have no connections
	Internal *conn.Internal // for endpoints behind internal listeners
	l        *loop.Loop
	shard    int
	// Mux is what the worker's HTTP/2 connections share, in both directions.
	Mux *mux.Shared

	// Worker
	clusters []*Cluster // by route.ClusterRef.ID; nil until used
	draining []*Cluster // replaced or removed, still with connections
	members  loop.Slab[pool.Member]
	nextID   uint64
	task     loop.Task
	timer    loop.Timer
	wakeAt   sys.Nanos
	name     [maxName]byte // scratch: a name in lower case
}

// NewManager makes the manager of one worker; shard is its stats shard (worker index + 1).
func NewManager(l *loop.Loop, shard int) *Manager {
	m := &Manager{l: l, shard: shard, Mux: mux.NewShared(l)}
	m.task.Init(m)
	m.timer.Init(&m.task)
	return m
}

// Get returns the worker's face of a cluster row, bringing it up to date; nil for nil.
func (m *Manager) Get(row *snapshot.Cluster) *Cluster {
	if row == nil {
		return nil
	}
	id := row.Ref.ID
	if int(id) < len(m.clusters) {
		if c := m.clusters[id]; c != nil {
			if c.row == row {
				return c
			}
			if c.cfg == row.ClusterConfig {
				c.update(row)
				return c
			}
			m.retire(c)
		}
	} else {
		m.clusters = append(m.clusters, make([]*Cluster, int(id)+1-len(m.clusters))...)
	}
	c := newCluster(m, row)
	m.clusters[id] = c
	return c
}

// Lookup is Get for the cluster that ref names in s.
func (m *Manager) Lookup(s *snapshot.Snapshot, ref *route.ClusterRef) *Cluster {
	return m.Get(s.Cluster(ref))
}

// Reconcile moves the worker's clusters from one snapshot to the next: clusters that are gone or replaced drain, changed hosts reach the
// balancers. Cost: what changed. Called once per adopted snapshot; old may be nil.
func (m *Manager) Reconcile(old, next *snapshot.Snapshot) {
	if old == nil {
		return
	}
	next.Clusters.Changed(&old.Clusters, func(id uint32, _, is *snapshot.Cluster) {
		if int(id) >= len(m.clusters) || m.clusters[id] == nil {
			return
		}
		if is == nil {
			m.retire(m.clusters[id])
			return
		}
		m.Get(is)
	})
}

// retire takes c out of service and drains its pools.
func (m *Manager) retire(c *Cluster) {
	m.clusters[c.cfg.Ref.ID] = nil
	c.retired = true
	c.drain()
	m.draining = append(m.draining, c)
	m.wakeIn(sweepDelay)
}

func (m *Manager) wakeIn(d sys.Nanos) {
	if at := m.l.Now() + d; !m.timer.Armed() || at < m.wakeAt {
		m.wakeAt = at
		m.l.Arm(&m.timer, at)
	}
}

// Advance does the housekeeping: pools of removed hosts, on-demand hosts, drained clusters.
func (m *Manager) Advance(now sys.Nanos) loop.Step {
	again := sys.Nanos(0)
	for _, c := range m.clusters {
		if c == nil || !c.dirty && c.onDemand == nil && len(c.names.byKey) == 0 {
			continue
		}
		c.sweep()
		for _, n := range [...]sys.Nanos{c.cleanup(now), c.sweepNames()} {
			if n > 0 && (again == 0 || n < again) {
				again = n
			}
		}
	}
	keep := m.draining[:0]
	for _, c := range m.draining {
		c.reap()
		if c.pools() > 0 {
			keep = append(keep, c)
		} else {
			c.dropStats()
		}
	}
	clear(m.draining[len(keep):])
	m.draining = keep
	if len(keep) > 0 && (again == 0 || again > sys.Second) {
		again = sys.Second
	}
	if again > 0 {
		m.wakeIn(again)
	}
	return loop.Idle
}

// CloseIdle drains every pool: idle connections close now, busy ones after their request. For shutdown.
func (m *Manager) CloseIdle() {
	for _, c := range m.clusters {
		if c != nil {
			c.drain()
		}
	}
}

// Each calls fn for every cluster that the worker has used; for dumps by message.
func (m *Manager) Each(fn func(*Cluster)) {
	for _, c := range m.clusters {
		if c != nil {
			fn(c)
		}
	}
}

// Cluster is one worker's face of a cluster.
type Cluster struct {
	// Immutable
	Cfg   *snapshot.ClusterConfig
	Block *stats.Block // stats.ClusterDef of this worker
	cfg   *snapshot.ClusterConfig
	m     *Manager

	// Worker
	row      *snapshot.Cluster
	lb       lb.Policy
	byHost   [codecs * priorities]map[*hostset.Host]*pool.Pool // see poolAt
	lastHost *hostset.Host                                     // one-entry cache in front of byHost[0]
	lastPool *pool.Pool
	lastAt   int
	names    names
	query    lb.Query                 // scratch: Peek is an interface call
	ahead    lb.Peeker                // nil: which hosts come next cannot be told, or nobody asks
	load     pool.Load                // with ahead: of all pools
	onDemand map[sys.Addr]*demandHost // ORIGINAL_DST
	extra    map[string]*extraStats   // made on demand by filters
	dirty    bool                     // hosts changed since the last sweep
	retired  bool
}

// demandHost is a host that a connection's original destination made.
type demandHost struct {
	h    *hostset.Host
	used sys.Nanos
}

func newCluster(m *Manager, row *snapshot.Cluster) *Cluster {
	c := &Cluster{Cfg: row.ClusterConfig, cfg: row.ClusterConfig, m: m, row: row, Block: row.Traffic.Block(m.shard)}
	if c.cfg.Type == snapshot.ClusterOriginalDst {
		c.onDemand = map[sys.Addr]*demandHost{}
		m.wakeIn(c.cleanupEvery())
	} else {
		c.lb = row.LB(m.l.Rand(), row.Hosts)
		if c.cfg.Preconnect.Predictive > 1 {
			c.ahead, _ = c.lb.(lb.Peeker)
		}
	}
	return c
}

func (c *Cluster) update(row *snapshot.Cluster) {
	c.row = row
	if c.lb != nil {
		c.lb.Update(row.Hosts)
	}
	if c.pools() > 0 {
		c.dirty = true
		c.m.wakeIn(sweepDelay)
	}
}

// Row is the cluster row of the adopted snapshot.
func (c *Cluster) Row() *snapshot.Cluster { return c.row }

// Retired tells whether the configuration no longer has this cluster in this form.
func (c *Cluster) Retired() bool { return c.retired }

// Pick chooses a host, nil when there is none. dst is the connection's original destination, for ORIGINAL_DST clusters only.
func (c *Cluster) Pick(q *lb.Query, dst sys.Addr) *hostset.Host {
	if c.onDemand != nil {
		return c.demand(dst)
	}
	return c.lb.Pick(q)
}

// demand finds or makes the host of an original destination.
func (c *Cluster) demand(dst sys.Addr) *hostset.Host {
	if dst.IsZero() {
		return nil
	}
	now := c.m.l.Now()
	if d := c.onDemand[dst]; d != nil {
		d.used = now
		return d.h
	}
	h := &hostset.Host{Addr: dst, Key: dst.String(), Locality: &hostset.Locality{}}
	c.onDemand[dst] = &demandHost{h, now}
	c.m.wakeIn(c.cleanupEvery())
	return h
}

func (c *Cluster) cleanupEvery() sys.Nanos {
	if c.cfg.CleanupInterval > 0 {
		return c.cfg.CleanupInterval
	}
	return defaultCleanup
}

// cleanup drops on-demand hosts that were not used for an interval and returns when to look again, 0 for never.
func (c *Cluster) cleanup(now sys.Nanos) sys.Nanos {
	if len(c.onDemand) == 0 {
		return 0
	}
	every := c.cleanupEvery()
	for a, d := range c.onDemand {
		if now-d.used < every {
			continue
		}
		if c.inUse(d.h) {
			continue
		}
		delete(c.onDemand, a)
		c.dropHost(d.h)
	}
	return every
}

// inUse tells whether a pool of h has a request.
func (c *Cluster) inUse(h *hostset.Host) bool {
	used := false
	c.each(func(of *hostset.Host, p *pool.Pool) {
		if of == h {
			_, _, busy, waiting := p.Counts()
			used = used || busy+waiting > 0
		}
	})
	return used
}

// Codec is what a request to the cluster goes as; http2 says whether it came as HTTP/2.
func (c *Cluster) Codec(http2 bool) pool.Codec {
	switch c.cfg.Protocol {
	case snapshot.UpstreamHTTP2:
		return pool.HTTP2
	case snapshot.UpstreamAuto:
		return pool.Auto
	case snapshot.UpstreamAsDownstream:
		if http2 {
			return pool.HTTP2
		}
	}
	return pool.HTTP1
}

// Pools of a host are kept apart by these.
const (
	codecs     = 3
	priorities = 2
)

func poolAt(prio int, codec pool.Codec) int { return prio + priorities*int(codec) }

// Pool returns the pool of h at a priority (0 default, 1 high) for requests with a name (see ServerName), making it on first use; nil when there are too
// many, the name is too long for TLS, or there is none although the certificate must have it: nobody may choose not to have it checked.
func (c *Cluster) Pool(h *hostset.Host, prio int, codec pool.Codec, name []byte) *pool.Pool {
	if c.Nameless(h, name) {
		return nil
	}
	if c.ahead != nil && !c.retired {
		c.anticipate(prio, codec, name)
	}
	return c.find(h, prio, codec, name)
}

// Unnamed is Pool at the default priority for what is no request and so has no name for its upstream.
func (c *Cluster) Unnamed(h *hostset.Host, codec pool.Codec) *pool.Pool {
	if c.ahead != nil && !c.retired {
		c.anticipate(0, codec, nil)
	}
	return c.find(h, 0, codec, nil)
}

func (c *Cluster) find(h *hostset.Host, prio int, codec pool.Codec, name []byte) *pool.Pool {
	if len(name) > 0 {
		if sni, san := c.wanted(h, name); sni || san {
			return c.named(h, prio, codec, name, sni, san)
		}
	}
	at := poolAt(prio, codec)
	if h == c.lastHost && at == c.lastAt {
		return c.lastPool
	}
	p := c.byHost[at][h]
	if p == nil {
		if !c.room(prio) {
			return nil
		}
		p = c.newPool(c.config(h, prio, codec))
		if c.byHost[at] == nil {
			c.byHost[at] = map[*hostset.Host]*pool.Pool{}
		}
		c.byHost[at][h] = p
		if c.retired {
			p.Drain() // a request that began before goes on with this cluster, but nothing looks after its idle connections
		}
	}
	if prio == 0 {
		c.lastHost, c.lastPool, c.lastAt = h, p, at
	}
	return p
}

func (c *Cluster) config(h *hostset.Host, prio int, codec pool.Codec) pool.Config {
	return pool.Config{Loop: c.m.l, Host: h, Cluster: c.cfg, Block: c.Block, Prio: prio, Slab: &c.m.members, NextID: &c.m.nextID, TLS: c.m.TLS, Internal: c.m.Internal,
		Mux: c.m.Mux, Codec: codec, Shard: c.m.shard}
}

func (c *Cluster) pools() int {
	n := len(c.names.byKey)
	for i := range c.byHost {
		n += len(c.byHost[i])
	}
	return n
}

// each calls fn for every pool.
func (c *Cluster) each(fn func(*hostset.Host, *pool.Pool)) {
	for i := range c.byHost {
		for h, p := range c.byHost[i] {
			fn(h, p)
		}
	}
	for k, n := range c.names.byKey {
		fn(k.h, n.p)
	}
}

// sweep drains the pools of hosts that are no longer members.
func (c *Cluster) sweep() {
	if !c.dirty {
		return
	}
	c.dirty = false
	if c.onDemand != nil {
		return
	}
	member := make(map[*hostset.Host]membership, c.pools())
	c.each(func(h *hostset.Host, _ *pool.Pool) { member[h] = gone })
	for i := range c.row.Hosts.Priorities {
		for j := range c.row.Hosts.Priorities[i].Hosts {
			e := &c.row.Hosts.Priorities[i].Hosts[j]
			if _, ok := member[e.Host]; ok {
				member[e.Host] = membershipOf(e)
			}
		}
	}
	for h, is := range member {
		if is == gone {
			c.dropHost(h)
		}
	}
	c.each(func(h *hostset.Host, p *pool.Pool) { p.SetHealthy(member[h] == healthy) })
}

// membership is what a generation of hosts says of one.
type membership uint8

const (
	gone membership = iota
	unwell
	healthy
)

func membershipOf(e *hostset.Entry) membership {
	if e.Health == hostset.Healthy {
		return healthy
	}
	return unwell
}

// dropHost drains the pools of h and forgets them: what is still busy is closed by the pool itself when its request is over.
func (c *Cluster) dropHost(h *hostset.Host) {
	for prio := range c.byHost {
		p := c.byHost[prio][h]
		if p == nil {
			continue
		}
		p.Drain()
		delete(c.byHost[prio], h)
	}
	for k, n := range c.names.byKey {
		if k.h == h {
			c.forget(n)
		}
	}
	if c.lastHost == h {
		c.lastHost, c.lastPool = nil, nil
	}
}

func (c *Cluster) drain() {
	c.each(func(_ *hostset.Host, p *pool.Pool) { p.Drain() })
}

// reap forgets pools that have drained.
func (c *Cluster) reap() {
	for prio := range c.byHost {
		for h, p := range c.byHost[prio] {
			if p.Empty() {
				delete(c.byHost[prio], h)
			}
		}
	}
	c.sweepNames()
	c.lastHost, c.lastPool = nil, nil
}

// Each calls fn for every pool; for dumps.
func (c *Cluster) Each(fn func(*pool.Pool)) {
	c.each(func(_ *hostset.Host, p *pool.Pool) { fn(p) })
}
