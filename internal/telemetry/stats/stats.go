// SPDX-License-Identifier: Apache-2.0

// Package stats holds counters, gauges and histograms under Envoy's names. A Def lists the stats that one kind of thing has (a cluster, a
// listener…); a Scope is one such thing with its name; a Block is one worker's private share of a Scope, written by that worker only and
// readable by anyone at any time. So the request path pays one atomic add on a private line and admin never waits for a worker.
package stats

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// Kind tells counters from gauges from histograms.
type Kind uint8

// The kinds.
const (
	Counter Kind = iota
	Gauge
	Histogram
	// Text is a text readout; its value lives in the Scope and not in blocks.
	Text
)

// Unit is what a histogram counts.
type Unit uint8

// The units.
const (
	Unspecified Unit = iota
	Milliseconds
	Microseconds
	Bytes
	Percent
)

// Stat is one named value of a Def.
type Stat struct {
	Name string // without the scope's prefix
	Kind Kind
	Unit Unit
	// Hidden stats are listed only with hidden=include or showonly.
	Hidden bool
	// Lazy stats are made by Envoy when they are first counted: they are listed only once used.
	Lazy bool
	// Wide gauges use all 64 bits: one that would be below zero is a great number, not 0.
	Wide bool
	// FromCodes, when not 0, makes the value the number of all responses that Block.Code counted in set FromCodes-1; nobody writes it.
	FromCodes int
}

// Def is the fixed list of stats of one kind of scope; the index in Stats is the id that Block methods take.
type Def struct {
	Name  string
	Stats []Stat
	// Lazy scopes are listed only once some shard wrote to them.
	Lazy bool
	// Codes, when not empty, adds lazily made counters "<Codes><status>", "<Codes><class>xx" and "<Codes>completed", for example
	// "upstream_rq_"; Block.Code counts all three at once.
	Codes []string
}

// Registry owns all scopes. Control side and admin; guarded by a mutex that no worker takes except once per (worker, scope), on first use.
type Registry struct {
	shards int

	mu     sync.Mutex
	scopes map[scopeKey]*Scope
	seq    uint64

	// Atomic
	flushed atomic.Bool
}

// Flushed tells whether Flush ever ran: until then server.state and other values that Envoy fills at the flush are not there.
func (r *Registry) Flushed() bool { return r.flushed.Load() }

type scopeKey struct {
	def    *Def
	prefix string
}

// NewRegistry makes a registry for the given number of workers; shard 0 belongs to the control side, worker w writes shard w+1.
func NewRegistry(workers int) *Registry {
	return &Registry{shards: workers + 1, scopes: make(map[scopeKey]*Scope)}
}

// Scope returns the scope with this prefix ("cluster.name.", with the final dot) and definition, making it on first use, and counts a
// reference; Release gives it back. ':' in a prefix becomes '_', as in Envoy. Two definitions may share a prefix.
func (r *Registry) Scope(prefix string, def *Def) *Scope {
	key := scopeKey{def, Sanitize(prefix)}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.scopes[key]
	if s == nil {
		r.seq++
		s = &Scope{Prefix: key.prefix, Def: def, reg: r, seq: r.seq, blocks: make([]atomic.Pointer[Block], r.shards)}
		r.scopes[key] = s
	}
	s.refs++
	return s
}

// Sanitize is the change that Envoy makes to every part of a stat name that comes from configuration: "://" becomes "_" and ':' and NUL
// become '_'.
func Sanitize(name string) string {
	if strings.IndexByte(name, ':') < 0 && strings.IndexByte(name, 0) < 0 {
		return name
	}
	return sanitizer.Replace(name)
}

var sanitizer = strings.NewReplacer("://", "_", ":/", "_", ":", "_", "\x00", "_")

// Each calls fn for every live scope in creation order, without a lock held.
func (r *Registry) Each(fn func(*Scope)) {
	for _, s := range r.list() {
		fn(s)
	}
}

func (r *Registry) list() []*Scope {
	r.mu.Lock()
	list := make([]*Scope, 0, len(r.scopes))
	for _, s := range r.scopes {
		list = append(list, s)
	}
	r.mu.Unlock()
	slices.SortFunc(list, func(a, b *Scope) int { return cmp.Compare(a.seq, b.seq) })
	return list
}

// Scope is one thing with stats.
type Scope struct {
	// Immutable
	Prefix string
	Def    *Def
	reg    *Registry
	seq    uint64

	// Control, under the registry's mutex
	refs int

	// Atomic
	blocks []atomic.Pointer[Block]
	texts  sync.Map // stat id -> string
	merged sync.Map // stat id -> *histMerged, as of the last Flush
	source atomic.Pointer[func(id int) (int64, bool)]
	allow  atomic.Pointer[allowSet]
	prom   atomic.Pointer[promScope]
}

// Below returns the scope of the same registry whose prefix is that of s and sub, as Registry.Scope does.
func (s *Scope) Below(sub string, def *Def) *Scope { return s.reg.Scope(s.Prefix+sub, def) }

// Release drops one reference; the last one removes the scope from the registry (its numbers are gone, as Envoy's).
func (s *Scope) Release() {
	r := s.reg
	r.mu.Lock()
	defer r.mu.Unlock()
	s.refs--
	if key := (scopeKey{s.Def, s.Prefix}); s.refs <= 0 && r.scopes[key] == s {
		delete(r.scopes, key)
	}
}

// Block returns the share of the given shard, making it on first use. Only the shard's owner writes to it.
func (s *Scope) Block(shard int) *Block {
	if b := s.blocks[shard].Load(); b != nil {
		return b
	}
	b := newBlock(s.Def)
	if s.blocks[shard].CompareAndSwap(nil, b) {
		return b
	}
	return s.blocks[shard].Load()
}

// Control is the share of the control side (shard 0); it may be written by several goroutines.
func (s *Scope) Control() *Block { return s.Block(0) }

// SetText sets a text readout.
func (s *Scope) SetText(id int, v string) { s.texts.Store(id, v) }

// Text reads a text readout.
func (s *Scope) Text(id int) string {
	if v, ok := s.texts.Load(id); ok {
		return v.(string)
	}
	return ""
}

// SetSource makes gauges that fn knows be computed when they are read; nobody writes them. fn may be called by any goroutine, and stays until it
// is replaced.
func (s *Scope) SetSource(fn func(id int) (v int64, ok bool)) { s.source.Store(&fn) }

// Value sums a counter or gauge over all shards; used tells whether it was ever written (Envoy's usedonly).
func (s *Scope) Value(id int) (v int64, used bool) {
	if set := s.Def.Stats[id].FromCodes; set > 0 {
		v = s.CodeTotal(set - 1)
		return v, v > 0
	}
	if fn := s.source.Load(); fn != nil {
		if v, ok := (*fn)(id); ok {
			return v, v != 0 || s.Touched()
		}
	}
	for i := range s.blocks {
		if b := s.blocks[i].Load(); b != nil {
			v += b.cells[id].Load()
			used = used || b.isUsed(id)
		}
	}
	return v, used
}

// Touched tells whether any shard ever asked for its block.
func (s *Scope) Touched() bool {
	for i := range s.blocks {
		if s.blocks[i].Load() != nil {
			return true
		}
	}
	return false
}

// Block is one shard's share of a scope. Writers use plain atomic adds; no allocation except the first time a status code, a histogram or
// a histogram decade appears.
type Block struct {
	cells []atomic.Int64
	used  []atomic.Uint64 // one bit per cell
	codes []atomic.Pointer[codeSet]
	hists []atomic.Pointer[Hist]
}

// codeSet holds the statuses 100..599 in pages of ten, and all others together.
type codeSet struct {
	pages [50]atomic.Pointer[codePage]
	other atomic.Int64
	bare  atomic.Int64 // Complete
}

type codePage [10]atomic.Int64

func newBlock(d *Def) *Block {
	n := len(d.Stats)
	b := &Block{cells: make([]atomic.Int64, n), used: make([]atomic.Uint64, (n+63)/64)}
	for i := range d.Stats {
		if d.Stats[i].Kind == Histogram {
			b.hists = make([]atomic.Pointer[Hist], n-i) // the ids of histograms come after all counters and gauges, see hist
			break
		}
	}
	if len(d.Codes) > 0 {
		b.codes = make([]atomic.Pointer[codeSet], len(d.Codes))
	}
	return b
}

func (b *Block) isUsed(id int) bool { return b.used[id>>6].Load()&(1<<(id&63)) != 0 }

func (b *Block) mark(id int) {
	if w := &b.used[id>>6]; w.Load()&(1<<(id&63)) == 0 {
		w.Or(1 << (id & 63))
	}
}

// Inc adds one.
func (b *Block) Inc(id int) { b.Add(id, 1) }

// Dec subtracts one (gauges).
func (b *Block) Dec(id int) { b.Add(id, -1) }

// Add adds n.
func (b *Block) Add(id int, n int64) {
	b.cells[id].Add(n)
	b.mark(id)
}

// Set sets a gauge of this shard.
func (b *Block) Set(id int, v int64) {
	b.cells[id].Store(v)
	b.mark(id)
}

// Load reads this shard's value.
func (b *Block) Load(id int) int64 { return b.cells[id].Load() }

// Record adds one sample to a histogram.
func (b *Block) Record(id int, v uint64) {
	p := &b.hists[id-(len(b.cells)-len(b.hists))]
	h := p.Load()
	if h == nil {
		// Shard 0 has several writers: whoever comes second must use the first one's.
		p.CompareAndSwap(nil, new(Hist))
		h = p.Load()
	}
	h.Record(v)
	b.mark(id)
}

// hist is the histogram id, nil when it has no sample.
func (b *Block) hist(id int) *Hist {
	if i := id - (len(b.cells) - len(b.hists)); i >= 0 && i < len(b.hists) {
		return b.hists[i].Load()
	}
	return nil
}

// Code counts a response with the given status under Def.Codes[set]; statuses outside 100..599 count as completed only.
func (b *Block) Code(set int, status uint16) {
	p := &b.codes[set]
	cs := p.Load()
	if cs == nil {
		p.CompareAndSwap(nil, new(codeSet))
		cs = p.Load()
	}
	if status < 100 || status > 599 {
		cs.other.Add(1)
		return
	}
	q := &cs.pages[status/10-10]
	pg := q.Load()
	if pg == nil {
		q.CompareAndSwap(nil, new(codePage))
		pg = q.Load()
	}
	pg[status%10].Add(1)
}

// Complete counts a response under Def.Codes[set] without its status: only "completed" grows.
func (b *Block) Complete(set int) {
	p := &b.codes[set]
	if p.Load() == nil {
		p.CompareAndSwap(nil, new(codeSet))
	}
	p.Load().bare.Add(1)
}

// CodeValue sums one status over all shards.
func (s *Scope) CodeValue(set int, status uint16) int64 {
	if status < 100 || status > 599 {
		return 0
	}
	var v int64
	for i := range s.blocks {
		b := s.blocks[i].Load()
		if b == nil {
			continue
		}
		if cs := b.codes[set].Load(); cs != nil {
			if pg := cs.pages[status/10-10].Load(); pg != nil {
				v += pg[status%10].Load()
			}
		}
	}
	return v
}

// CodeTotal is the number of responses counted under Def.Codes[set], over all shards.
func (s *Scope) CodeTotal(set int) int64 {
	var v int64
	s.eachCode(set, func(_ int, n int64) { v += n })
	return v
}

// eachCode calls fn for every status that was counted, status 0 meaning all outside 100..599 and 1 those that Complete counted; a status may come
// once per shard.
func (s *Scope) eachCode(set int, fn func(status int, n int64)) {
	for i := range s.blocks {
		b := s.blocks[i].Load()
		if b == nil || set >= len(b.codes) {
			continue
		}
		cs := b.codes[set].Load()
		if cs == nil {
			continue
		}
		if n := cs.other.Load(); n > 0 {
			fn(0, n)
		}
		if n := cs.bare.Load(); n > 0 {
			fn(1, n)
		}
		for p := range cs.pages {
			if pg := cs.pages[p].Load(); pg != nil {
				for d := range pg {
					if n := pg[d].Load(); n > 0 {
						fn(p*10+100+d, n)
					}
				}
			}
		}
	}
}
