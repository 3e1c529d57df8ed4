// SPDX-License-Identifier: Apache-2.0

package hostset

import (
	"math"
	"slices"
	"sync/atomic"

	"sidecar/dataplane/sys"
)

// The values of envoy.config.core.v3.HealthStatus.
const (
	EDSUnknown EDSHealth = iota
	EDSHealthy
	EDSUnhealthy
	EDSDraining
	EDSTimeout
	EDSDegraded
)

// String returns Envoy's name of the status.
func (e EDSHealth) String() string {
	names := [...]string{"UNKNOWN", "HEALTHY", "UNHEALTHY", "DRAINING", "TIMEOUT", "DEGRADED"}
	if int(e) < len(names) {
		return names[e]
	}
	return "UNKNOWN"
}

// Fold returns the load-balancing health of an EDS status: UNHEALTHY, DRAINING and TIMEOUT are unhealthy, DEGRADED is degraded, the rest
// healthy.
func (e EDSHealth) Fold() Health {
	switch e {
	case EDSUnhealthy, EDSDraining, EDSTimeout:
		return Unhealthy
	case EDSDegraded:
		return Degraded
	}
	return Healthy
}

// MaxPriority is the highest priority a locality may have (ClusterLoadAssignment's own limit).
const MaxPriority = 128

// DefaultOverprovisioning is the overprovisioning factor in percent when none is given.
const DefaultOverprovisioning = 140

// Endpoint is one member as discovery gave it.
type Endpoint struct {
	Addr     sys.Addr
	Extra    []sys.Addr
	Hostname string
	HashKey  string // metadata envoy.lb hash_key
	Metadata Metadata
	MetaHash uint64 // of the content of Metadata; 0 = no metadata. Equal hashes mean equal metadata.
	Canary   bool   // metadata envoy.lb canary
	Weight   uint32 // 0 = 1
	Health   EDSHealth
}

// Metadata is filter_metadata in the form it was received in. It is converted only when a host is made of it, not for every endpoint of every
// update.
type Metadata interface{ Map() map[string]any }

// LocalityInput is one locality of one priority. Several with the same locality and priority are merged; the last weight wins.
type LocalityInput struct {
	Locality  Locality
	Priority  uint32 // <= MaxPriority
	Weight    uint32 // 0 = none
	Endpoints []Endpoint
}

// Input is the membership of a cluster in plain values, from EDS, a static load assignment, or DNS.
type Input struct {
	Localities             []LocalityInput
	Overprovisioning       uint32 // percent; 0 = DefaultOverprovisioning
	WeightedPriorityHealth bool
	Drop                   []Drop
	Dedup                  bool // EDS: of several endpoints with one address only the first counts
	Config                 PlanConfig
	Now                    sys.Nanos // the workers' monotonic clock; the slow start of new hosts counts from here
}

// lastID makes Host.ID unique in the process.
var lastID atomic.Uint64

// NewHost makes a host for an endpoint. Build calls it for members; workers call it for original destinations.
func NewHost(ep *Endpoint, loc *Locality, now sys.Nanos) *Host {
	h := &Host{
		Addr: ep.Addr, Extra: ep.Extra, Key: ep.Addr.String(), HashKey: ep.HashKey, Hostname: ep.Hostname, Locality: loc,
		Canary: ep.Canary, metaHash: ep.MetaHash, ID: lastID.Add(1), AddedAt: now,
	}
	if ep.Metadata != nil {
		h.Metadata = ep.Metadata.Map()
	}
	return h
}

// is tells whether ep in loc is this same host, so that the pointer survives.
func (h *Host) is(ep *Endpoint, loc *Locality) bool {
	return h.Addr == ep.Addr && h.Locality == loc && h.metaHash == ep.MetaHash && h.Hostname == ep.Hostname && h.HashKey == ep.HashKey &&
		h.Canary == ep.Canary && slices.Equal(h.Extra, ep.Extra)
}

// Build makes the generation after prev (nil at first) from in. A host keeps its pointer while address, locality, hostname and metadata are
// the same; groups, priorities and everything below them are shared with prev where nothing changed. When nothing at all changed, prev itself
// is returned. Pure except for host ids. Cost: one comparison per endpoint; an index over all of them only when endpoints were added or moved.
func Build(prev *Hosts, in Input) *Hosts {
	if in.Overprovisioning == 0 {
		in.Overprovisioning = DefaultOverprovisioning
	}
	b := builder{prev: prev, in: &in}
	if prev != nil {
		b.last = prev.order
	}
	b.collect()
	h := &Hosts{
		Generation: 1, Overprovisioning: in.Overprovisioning, DropOverload: in.Drop, WeightedPriorityHealth: in.WeightedPriorityHealth,
		Total: len(b.order), Config: in.Config, order: b.order,
	}
	same := b.finish(h)
	if prev != nil {
		h.Generation = prev.Generation + 1
		if same && slices.Equal(prev.DropOverload, in.Drop) {
			return prev
		}
	}
	h.Plan = makePlan(h)
	for i := range h.Priorities {
		for j := range h.Priorities[i].Hosts {
			h.MaxWeight = max(h.MaxWeight, h.Priorities[i].Hosts[j].Weight)
		}
	}
	return h
}

// Retire marks the hosts of prev that next no longer has as Left. The control side calls it when it publishes next in the place of prev, so
// that a worker only has to look at the hosts it has pools for. A host that comes back later is another host. Either may be nil.
func Retire(prev, next *Hosts) {
	if prev == nil || prev == next {
		return
	}
	var now []*Host
	if next != nil {
		now = next.order
	}
	i := 0
	for i < len(prev.order) && i < len(now) && prev.order[i] == now[i] {
		i++
	}
	a, b := prev.order[i:], now[i:]
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	if len(a) == 0 {
		return
	}
	gone := make(map[*Host]struct{}, len(a))
	for _, h := range a {
		gone[h] = struct{}{}
	}
	for _, h := range now { // all of it: a static assignment may name a host twice
		delete(gone, h)
	}
	for h := range gone {
		h.left.Store(true)
	}
}

// builder is the state of one Build.
type builder struct {
	prev *Hosts
	in   *Input

	pos   int // next host of last that is expected
	last  []*Host
	index map[sys.Addr]*Host    // prev by address; made at the first endpoint that is not where it was
	seen  map[sys.Addr]struct{} // addresses taken so far; made at the same moment

	prios []protoPriority
	order []*Host
	locs  map[Locality]*Locality
}

type protoPriority struct {
	groups []Group
	byLoc  map[Locality]int
}

// collect turns the input into groups.
func (b *builder) collect() {
	b.prios = make([]protoPriority, 1)
	total := 0
	for i := range b.in.Localities {
		total += len(b.in.Localities[i].Endpoints)
	}
	b.order = make([]*Host, 0, total)
	for i := range b.in.Localities {
		l := &b.in.Localities[i]
		for len(b.prios) <= int(min(l.Priority, MaxPriority)) {
			b.prios = append(b.prios, protoPriority{})
		}
		p := &b.prios[min(l.Priority, MaxPriority)]
		loc := b.locality(l.Locality)
		g := p.group(loc)
		g.Weight = l.Weight
		if g.Hosts == nil {
			g.Hosts = make([]Entry, 0, len(l.Endpoints))
		}
		for j := range l.Endpoints {
			ep := &l.Endpoints[j]
			h := b.host(ep, loc)
			if h == nil {
				continue
			}
			b.order = append(b.order, h)
			g.Hosts = append(g.Hosts, Entry{Host: h, Weight: max(ep.Weight, 1), Health: ep.Health.Fold(), EDS: ep.Health})
		}
	}
}

func (p *protoPriority) group(loc *Locality) *Group {
	if i, ok := p.byLoc[*loc]; ok {
		return &p.groups[i]
	}
	if p.byLoc == nil {
		p.byLoc = map[Locality]int{}
	}
	p.byLoc[*loc] = len(p.groups)
	p.groups = append(p.groups, Group{Locality: loc})
	return &p.groups[len(p.groups)-1]
}

// locality returns the cluster's stable pointer for l.
func (b *builder) locality(l Locality) *Locality {
	if b.locs == nil {
		b.locs = map[Locality]*Locality{}
		if b.prev != nil {
			for i := range b.prev.Priorities {
				for j := range b.prev.Priorities[i].Groups {
					p := b.prev.Priorities[i].Groups[j].Locality
					b.locs[*p] = p
				}
			}
		}
	}
	p := b.locs[l]
	if p == nil {
		p = &l
		b.locs[l] = p
	}
	return p
}

// host returns the host of ep, an old one where it is the same; nil for a duplicate.
func (b *builder) host(ep *Endpoint, loc *Locality) *Host {
	for skip := 0; skip < 2 && b.pos+skip < len(b.last); skip++ { // skip 1: one endpoint was removed here
		h := b.last[b.pos+skip]
		if !h.is(ep, loc) {
			continue
		}
		if b.seen != nil {
			if _, dup := b.seen[ep.Addr]; dup {
				return nil
			}
			b.seen[ep.Addr] = struct{}{}
		}
		b.pos += skip + 1
		return h
	}
	b.makeIndex()
	if b.in.Dedup {
		if _, dup := b.seen[ep.Addr]; dup {
			return nil
		}
		b.seen[ep.Addr] = struct{}{}
	}
	if h := b.index[ep.Addr]; h != nil && h.is(ep, loc) {
		return h
	}
	h := NewHost(ep, loc, b.in.Now)
	if !b.in.Dedup { // the next one with this address is the same host
		b.index[ep.Addr] = h
	}
	return h
}

func (b *builder) makeIndex() {
	if b.index != nil {
		return
	}
	b.index = make(map[sys.Addr]*Host, len(b.last))
	for _, h := range b.last {
		b.index[h.Addr] = h
	}
	if b.in.Dedup {
		b.seen = make(map[sys.Addr]struct{}, cap(b.order))
		for _, h := range b.order {
			b.seen[h.Addr] = struct{}{}
		}
	}
}

// finish shares what did not change with prev, derives the rest, and tells whether everything is the same.
func (b *builder) finish(h *Hosts) bool {
	settings := b.prev != nil && b.prev.Config == h.Config && b.prev.Overprovisioning == h.Overprovisioning &&
		b.prev.WeightedPriorityHealth == h.WeightedPriorityHealth
	same := settings && len(b.prev.Priorities) == len(b.prios)
	h.Priorities = make([]Priority, len(b.prios))
	for i := range b.prios {
		groups := b.prios[i].groups
		if b.prev == nil || i >= len(b.prev.Priorities) {
			h.Priorities[i] = newPriority(groups, h)
			same = false
			continue
		}
		old := &b.prev.Priorities[i]
		equal := len(old.Groups) == len(groups)
		for j := range groups {
			if j >= len(old.Groups) || !shareGroup(&groups[j], &old.Groups[j]) {
				equal = false
			}
		}
		if equal && settings {
			h.Priorities[i] = *old
			continue
		}
		same = false
		h.Priorities[i] = newPriority(groups, h)
	}
	return same
}

// shareGroup makes g use the memory of old when their hosts are equal, and tells whether the groups are equal altogether.
func shareGroup(g, old *Group) bool {
	if g.Locality != old.Locality || !slices.Equal(g.Hosts, old.Hosts) {
		return false
	}
	g.Hosts = old.Hosts
	return g.Weight == old.Weight
}

func newPriority(groups []Group, h *Hosts) Priority {
	p := Priority{Groups: groups}
	switch len(groups) {
	case 0:
	case 1:
		p.Hosts = groups[0].Hosts
	default:
		n := 0
		for i := range groups {
			n += len(groups[i].Hosts)
		}
		p.Hosts = make([]Entry, 0, n)
		for i := range groups {
			p.Hosts = append(p.Hosts, groups[i].Hosts...)
		}
	}
	p.Healthy, p.DegradedN = countHealth(p.Hosts)
	p.Sources = append(p.Sources, newSet(p.Hosts), newSet(only(p.Hosts, Healthy, p.Healthy)), newSet(only(p.Hosts, Degraded, p.DegradedN)))
	if !h.Config.LocalityWeighted {
		return p
	}
	for i := range groups {
		g := &groups[i]
		ok, degraded := countHealth(g.Hosts)
		p.Sources = append(p.Sources, newSet(only(g.Hosts, Healthy, ok)), newSet(only(g.Hosts, Degraded, degraded)))
		g.HealthyShare = localityShare(g, ok, h.Overprovisioning)
		g.DegradedShare = localityShare(g, degraded, h.Overprovisioning)
	}
	return p
}

// localityShare is the effective weight of a locality: its weight, lowered when too few of its hosts are eligible.
func localityShare(g *Group, eligible int, over uint32) float64 {
	if len(g.Hosts) == 0 {
		return 0
	}
	return float64(g.Weight) * math.Min(1, float64(over)/100*float64(eligible)/float64(len(g.Hosts)))
}

func countHealth(hosts []Entry) (ok, degraded int) {
	for i := range hosts {
		switch hosts[i].Health {
		case Healthy:
			ok++
		case Degraded:
			degraded++
		case Unhealthy:
		}
	}
	return ok, degraded
}

// only returns the n hosts of the given health; hosts itself when that is all of them.
func only(hosts []Entry, want Health, n int) []Entry {
	if n == len(hosts) {
		return hosts
	}
	if n == 0 {
		return nil
	}
	out := make([]Entry, 0, n)
	for i := range hosts {
		if hosts[i].Health == want {
			out = append(out, hosts[i])
		}
	}
	return out
}

func newSet(hosts []Entry) Set {
	for i := 1; i < len(hosts); i++ {
		if hosts[i].Weight != hosts[0].Weight {
			return Set{hosts, true}
		}
	}
	return Set{hosts, false}
}
