// SPDX-License-Identifier: Apache-2.0

// Package stats holds counters, gauges and histograms under Envoy's names. A Def lists the stats that one kind of thing has (a cluster, a
// listener…); a Scope is one such thing with its name; a Block is one worker's private share of a Scope, written by that worker only and
// readable by anyone at any time. So the request path pays one atomic add on a private line and admin never waits for a worker.
package stats

import (
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
	// Hidden gauges are set once and never listed by usedonly (rare).
	Hidden bool
}

// Def is the fixed list of stats of one kind of scope; the index in Stats is the id that Block methods take.
type Def struct {
	Name  string
	Stats []Stat
	// Codes, when not empty, adds lazily made counters "<Codes><status>" and "<Codes><class>xx", for example "upstream_rq_".
	Codes []string
}

// Registry owns all scopes. Control side and admin; guarded by a mutex that no worker takes except once per (worker, scope), on first use.
type Registry struct {
	shards int

	mu     sync.Mutex
	scopes map[string]*Scope
	order  []*Scope
}

// NewRegistry makes a registry for the given number of workers; shard 0 belongs to the control side, worker w writes shard w+1.
func NewRegistry(workers int) *Registry {
	return &Registry{shards: workers + 1, scopes: make(map[string]*Scope)}
}

// Scope returns the scope with this prefix ("cluster.name.", with the final dot) and definition, making it on first use, and counts a
// reference; Release gives it back. Two definitions may share a prefix.
func (r *Registry) Scope(prefix string, def *Def) *Scope {
	key := def.Name + "\x00" + prefix
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.scopes[key]
	if s == nil {
		s = &Scope{Prefix: prefix, Def: def, reg: r, key: key, blocks: make([]atomic.Pointer[Block], r.shards)}
		r.scopes[key] = s
		r.order = append(r.order, s)
	}
	s.refs++
	return s
}

// Each calls fn for every live scope in creation order. fn must not call back into the registry.
func (r *Registry) Each(fn func(*Scope)) {
	r.mu.Lock()
	list := append([]*Scope(nil), r.order...)
	r.mu.Unlock()
	for _, s := range list {
		fn(s)
	}
}

// Scope is one thing with stats.
type Scope struct {
	// Immutable
	Prefix string
	Def    *Def
	reg    *Registry
	key    string

	// Control, under the registry's mutex
	refs int

	// Atomic
	blocks []atomic.Pointer[Block]
	texts  sync.Map // stat id -> string
}

// Release drops one reference; the last one removes the scope from the registry (its numbers are gone, as Envoy's).
func (s *Scope) Release() {
	r := s.reg
	r.mu.Lock()
	defer r.mu.Unlock()
	s.refs--
	if s.refs > 0 || r.scopes[s.key] != s {
		return
	}
	delete(r.scopes, s.key)
	for i, o := range r.order {
		if o == s {
			r.order = append(r.order[:i], r.order[i+1:]...)
			break
		}
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

// Value sums a counter or gauge over all shards; used tells whether it was ever written (Envoy's usedonly).
func (s *Scope) Value(id int) (v int64, used bool) {
	for i := range s.blocks {
		if b := s.blocks[i].Load(); b != nil {
			c := &b.cells[id]
			v += c.v.Load()
			used = used || c.used.Load()
		}
	}
	return v, used
}

// Block is one shard's share of a scope. Writers use plain atomic adds; no allocation except the first time a status code or a histogram
// decade appears.
type Block struct {
	cells []cell
	codes [][]atomic.Pointer[codePage]
	hists []*Hist
	def   *Def
}

type cell struct {
	v    atomic.Int64
	used atomic.Bool
}

type codePage [10]atomic.Int64

func newBlock(d *Def) *Block {
	b := &Block{cells: make([]cell, len(d.Stats)), def: d}
	for i := range d.Stats {
		if d.Stats[i].Kind == Histogram {
			if b.hists == nil {
				b.hists = make([]*Hist, len(d.Stats))
			}
			b.hists[i] = new(Hist)
		}
	}
	if len(d.Codes) > 0 {
		b.codes = make([][]atomic.Pointer[codePage], len(d.Codes))
		for i := range b.codes {
			b.codes[i] = make([]atomic.Pointer[codePage], 60)
		}
	}
	return b
}

// Inc adds one.
func (b *Block) Inc(id int) { b.Add(id, 1) }

// Dec subtracts one (gauges).
func (b *Block) Dec(id int) { b.Add(id, -1) }

// Add adds n.
func (b *Block) Add(id int, n int64) {
	c := &b.cells[id]
	c.v.Add(n)
	if !c.used.Load() {
		c.used.Store(true)
	}
}

// Set sets a gauge of this shard.
func (b *Block) Set(id int, v int64) {
	c := &b.cells[id]
	c.v.Store(v)
	if !c.used.Load() {
		c.used.Store(true)
	}
}

// Load reads this shard's value.
func (b *Block) Load(id int) int64 { return b.cells[id].v.Load() }

// Record adds one sample to a histogram.
func (b *Block) Record(id int, v uint64) { b.hists[id].Record(v) }

// Code counts a response with the given status under Def.Codes[set]; statuses outside 100..599 are not counted by code.
func (b *Block) Code(set int, status uint16) {
	if status < 100 || status > 599 {
		return
	}
	p := &b.codes[set][status/10]
	pg := p.Load()
	if pg == nil {
		pg = new(codePage)
		p.Store(pg)
	}
	pg[status%10].Add(1)
}

// CodeValue sums one status over all shards.
func (s *Scope) CodeValue(set int, status uint16) int64 {
	var v int64
	for i := range s.blocks {
		if b := s.blocks[i].Load(); b != nil {
			if pg := b.codes[set][status/10].Load(); pg != nil {
				v += pg[status%10].Load()
			}
		}
	}
	return v
}
