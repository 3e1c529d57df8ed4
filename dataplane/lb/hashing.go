// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"math"
	"slices"
	"sort"
	"strconv"
	"strings"

	"sidecar/dataplane/hostset"
	"sidecar/dataplane/match"
)

// tables are the rings or Maglev tables of one generation, one for each priority. Immutable; built on the control side, shared by all workers.
type tables struct {
	key    tableKey
	byPrio []*table
}

// tableKey is what tables were made with.
type tableKey struct {
	kind      Kind
	min, max  uint64
	size      uint64
	murmur    bool
	hostnames bool
	localized bool
	bounded   bool // the configuration order is kept
}

// table maps hashes to hosts for one priority.
type table struct {
	hosts  []*hostset.Host
	weight []float64 // normalised: they add up to 1
	order  []uint32  // positions in hosts in configuration order, which bounded loads shuffle; nil when that is the order of hosts

	// Ring hash: points sorted by hash, and whose they are.
	points []uint64
	owner  []uint32

	// Maglev: slot to host, in the narrowest of the three that fits.
	size   uint64
	slot8  []uint8
	slot16 []uint16
	slot32 []uint32

	// Smallest and largest number of points or slots of a host.
	minShare, maxShare uint64
}

// TableStats is what the ring_hash_lb.* and maglev_lb.* gauges of a cluster say; of the last priority, as Envoy's.
type TableStats struct {
	Size                   uint64 // points of the ring; 0 for Maglev
	MinPerHost, MaxPerHost uint64 // min/max_hashes_per_host or min/max_entries_per_host
}

// StatsOf returns the table figures of a generation, and whether it has tables.
func StatsOf(h *hostset.Hosts) (TableStats, bool) {
	ts, ok := h.Prepared.(*tables)
	if !ok || len(ts.byPrio) == 0 {
		return TableStats{}, false
	}
	t := ts.byPrio[len(ts.byPrio)-1]
	return TableStats{Size: uint64(len(t.points)), MinPerHost: t.minShare, MaxPerHost: t.maxShare}, true
}

func (s *Spec) tableKey() tableKey {
	k := tableKey{kind: s.Kind, hostnames: s.UseHostname, localized: s.Hosts.LocalityWeighted, bounded: s.BalanceFactor > 0}
	if s.Kind == RingHash {
		k.min, k.max, k.murmur = s.MinRing, s.MaxRing, s.Murmur
	} else {
		k.size = s.TableSize
	}
	return k
}

// makeTables builds the tables of h, taking those of priorities that did not change from prev.
func (s *Spec) makeTables(prev, h *hostset.Hosts) *tables {
	ts := &tables{key: s.tableKey(), byPrio: make([]*table, len(h.Priorities))}
	var old *tables
	if prev != nil {
		if o, ok := prev.Prepared.(*tables); ok && o.key == ts.key {
			old = o
		}
	}
	for i := range h.Priorities {
		pr := &h.Priorities[i]
		if old != nil && i < len(old.byPrio) && h.Plan.Panic[i] == prev.Plan.Panic[i] && samePriority(pr, &prev.Priorities[i]) {
			ts.byPrio[i] = old.byPrio[i]
			continue
		}
		ts.byPrio[i] = s.makeTable(pr, h.Plan.Panic[i])
	}
	return ts
}

// samePriority tells whether hostset shared a priority between two generations.
func samePriority(a, b *hostset.Priority) bool {
	return len(a.Groups) == len(b.Groups) && (len(a.Groups) == 0 || &a.Groups[0] == &b.Groups[0])
}

// weighted is a host with its normalised weight.
type weighted struct {
	host   *hostset.Host
	weight float64
}

// normalise lists the eligible hosts of a priority with weights that add up to 1, and the smallest and largest of them.
func normalise(pr *hostset.Priority, panicking, localized bool) (out []weighted, lo, hi float64) {
	lo = 1
	add := func(hosts []hostset.Entry, share float64) {
		var sum uint64
		for i := range hosts {
			sum += uint64(hosts[i].Weight)
		}
		for i := range hosts {
			w := float64(hosts[i].Weight) * share / float64(sum)
			out = append(out, weighted{hosts[i].Host, w})
			lo, hi = min(lo, w), max(hi, w)
		}
	}
	if !localized {
		set := hostset.SourceHealthy
		if panicking {
			set = hostset.SourceAll
		}
		add(pr.Sources[set].Hosts, 1)
		return out, lo, hi
	}
	order := make([]int, len(pr.Groups))
	var sum uint64
	for i := range order {
		order[i] = i
		sum += uint64(pr.Groups[i].Weight)
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return compareLocality(pr.Groups[a].Locality, pr.Groups[b].Locality)
	})
	for _, i := range order {
		g := &pr.Groups[i]
		if g.Weight == 0 {
			continue
		}
		hosts := g.Hosts
		if !panicking {
			hosts = pr.Sources[hostset.SourceOf(i, hostset.Healthy)].Hosts
		}
		add(hosts, float64(g.Weight)/float64(sum))
	}
	return out, lo, hi
}

func compareLocality(a, b *hostset.Locality) int {
	if c := strings.Compare(a.Region, b.Region); c != 0 {
		return c
	}
	if c := strings.Compare(a.Zone, b.Zone); c != 0 {
		return c
	}
	return strings.Compare(a.SubZone, b.SubZone)
}

// keyOf is the text that stands for a host in tables.
func (s *Spec) keyOf(h *hostset.Host) string {
	switch {
	case h.HashKey != "":
		return h.HashKey
	case s.UseHostname && h.Hostname != "":
		return h.Hostname
	}
	return h.Key
}

func (s *Spec) makeTable(pr *hostset.Priority, panicking bool) *table {
	list, lo, hi := normalise(pr, panicking, s.Hosts.LocalityWeighted)
	t := &table{}
	if len(list) == 0 {
		return t
	}
	if s.Kind == Maglev {
		s.fillMaglev(t, list, hi)
		return t
	}
	s.fillRing(t, list, lo)
	return t
}

func (t *table) setHosts(list []weighted) {
	t.hosts = make([]*hostset.Host, len(list))
	t.weight = make([]float64, len(list))
	for i := range list {
		t.hosts[i], t.weight[i] = list[i].host, list[i].weight
	}
}

// fillRing puts points for every host on the ring, in number proportional to its weight: hash of KEY_0, KEY_1, ... The least host gets a whole
// number of points where the maximum allows; running sums spread the fractions of the others. Explicit conversions keep the compiler from
// fusing multiply and add, which would round otherwise than Envoy does.
func (s *Spec) fillRing(t *table, list []weighted, lo float64) {
	t.setHosts(list)
	scale := min(math.Ceil(float64(lo*float64(s.MinRing)))/lo, float64(s.MaxRing))
	size := uint64(math.Ceil(scale))
	type point struct {
		hash  uint64
		owner uint32
	}
	ring := make([]point, 0, size)
	t.minShare = size
	current, target := 0.0, 0.0
	var key []byte
	for i := range list {
		target += float64(scale * list[i].weight)
		key = append(append(key[:0], s.keyOf(list[i].host)...), '_')
		stem := len(key)
		count := uint64(0)
		for current < target {
			key = strconv.AppendUint(key[:stem], count, 10)
			h := uint64(0)
			if s.Murmur {
				h = Murmur2(key, murmurSeed)
			} else {
				h = match.XXHash64(key, 0)
			}
			ring = append(ring, point{h, uint32(i)})
			count++
			current++
		}
		t.minShare, t.maxShare = min(t.minShare, count), max(t.maxShare, count)
	}
	sort.SliceStable(ring, func(a, b int) bool { return ring[a].hash < ring[b].hash })
	t.points, t.owner = make([]uint64, len(ring)), make([]uint32, len(ring))
	for i := range ring {
		t.points[i], t.owner[i] = ring[i].hash, ring[i].owner
	}
}

// fillMaglev fills the table of the Maglev paper (listing 1), with turns in proportion to weights, hosts in the order of their keys.
func (s *Spec) fillMaglev(t *table, list []weighted, hi float64) {
	if s.BalanceFactor > 0 {
		t.order = ranks(list, s.keyOf)
	}
	slices.SortStableFunc(list, func(a, b weighted) int { return strings.Compare(s.keyOf(a.host), s.keyOf(b.host)) })
	t.setHosts(list)
	t.size = s.TableSize
	type entry struct{ offset, skip, next, count uint64 }
	entries := make([]entry, len(list))
	targets := make([]float64, len(list))
	for i := range list {
		key := []byte(s.keyOf(list[i].host))
		entries[i] = entry{offset: match.XXHash64(key, 0) % t.size, skip: match.XXHash64(key, 1)%(t.size-1) + 1}
	}
	slots := make([]uint32, t.size)
	taken := make([]bool, t.size)
	filled := uint64(0)
	for turn := 1; filled < t.size; turn++ {
		for i := range entries {
			if filled == t.size {
				break
			}
			if float64(float64(turn)*list[i].weight) < targets[i] {
				continue
			}
			targets[i] += hi
			e := &entries[i]
			c := (e.offset + e.skip*e.next) % t.size
			for taken[c] {
				e.next++
				c = (e.offset + e.skip*e.next) % t.size
			}
			taken[c], slots[c] = true, uint32(i)
			e.next++
			e.count++
			filled++
		}
	}
	t.minShare = t.size
	for i := range entries {
		t.minShare, t.maxShare = min(t.minShare, entries[i].count), max(t.maxShare, entries[i].count)
	}
	t.pack(slots)
}

// ranks returns for each entry the place that it will have when the list is sorted by key.
func ranks(list []weighted, key func(*hostset.Host) string) []uint32 {
	sorted := make([]uint32, len(list))
	for i := range sorted {
		sorted[i] = uint32(i)
	}
	slices.SortStableFunc(sorted, func(a, b uint32) int { return strings.Compare(key(list[a].host), key(list[b].host)) })
	out := make([]uint32, len(list))
	for rank, i := range sorted {
		out[i] = uint32(rank)
	}
	return out
}

// pack stores slots in the narrowest type that holds the host numbers.
func (t *table) pack(slots []uint32) {
	switch {
	case len(t.hosts) <= 1<<8:
		t.slot8 = make([]uint8, len(slots))
		for i, v := range slots {
			t.slot8[i] = uint8(v)
		}
	case len(t.hosts) <= 1<<16:
		t.slot16 = make([]uint16, len(slots))
		for i, v := range slots {
			t.slot16[i] = uint16(v)
		}
	default:
		t.slot32 = slots
	}
}

// lookup returns the number of the host for a hash at the given attempt; -1 when the table is empty.
func (t *table) lookup(hash uint64, attempt int) int {
	switch {
	case len(t.points) > 0:
		lo, hi := 0, len(t.points)
		for lo < hi {
			mid := int(uint(lo+hi) >> 1)
			if t.points[mid] < hash {
				lo = mid + 1
			} else {
				hi = mid
			}
		}
		return int(t.owner[(lo+attempt)%len(t.points)])
	case t.size > 0:
		if attempt > 0 {
			hash ^= math.MaxUint64 - uint64(attempt) + 1
		}
		c := hash % t.size
		switch {
		case t.slot8 != nil:
			return int(t.slot8[c])
		case t.slot16 != nil:
			return int(t.slot16[c])
		}
		return int(t.slot32[c])
	}
	return -1
}

// hashing is ring hash and Maglev.
type hashing struct {
	// Immutable
	spec *Spec

	// Worker
	hosts   *hostset.Hosts
	tables  *tables
	shuffle *shuffle // bounded loads only
}

func newHashing(s *Spec, h *hostset.Hosts) *hashing {
	p := &hashing{spec: s}
	p.Update(h)
	return p
}

// Update moves to another generation, whose tables Spec.Build made. A generation without tables has no host to pick.
func (p *hashing) Update(h *hostset.Hosts) {
	p.hosts = h
	p.tables, _ = h.Prepared.(*tables)
	if p.spec.BalanceFactor > 0 && p.tables != nil {
		n := 0
		for _, t := range p.tables.byPrio {
			n = max(n, len(t.hosts))
		}
		p.shuffle = &shuffle{order: make([]uint32, n)}
	}
}

// Pick implements Policy.
func (p *hashing) Pick(q *Query) *hostset.Host {
	if p.tables == nil {
		return nil
	}
	hash := q.Hash
	if !q.HasHash {
		rnd := q.Rand
		hash = next(&rnd)
	}
	plan := p.hosts.Plan
	prio := 0
	if q.TriedPriorities == 0 {
		prio, _ = plan.Choose(hash)
	} else {
		prio, _ = plan.ChooseOther(hash, q.TriedPriorities)
	}
	q.InPanic = q.InPanic || plan.Panic[prio]
	t := p.tables.byPrio[prio]
	var h *hostset.Host
	for i := range q.attempts() {
		n := t.lookup(hash, i)
		if n < 0 {
			return nil
		}
		if p.spec.BalanceFactor > 0 {
			n = p.bounded(t, n, hash)
		}
		h = t.hosts[n]
		if !q.rejects(h) {
			return h
		}
	}
	if q.AvoidTried {
		for i := range uint64(min(len(t.hosts), len(q.Tried)+1)) {
			if other := t.hosts[(hash+i)%uint64(len(t.hosts))]; !q.rejects(other) {
				return other
			}
		}
	}
	return h
}
