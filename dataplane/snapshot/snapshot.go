// SPDX-License-Identifier: Apache-2.0

// Package snapshot is the immutable model where the two towers meet: the control side builds a Snapshot, publishes it by one atomic pointer, and
// workers adopt it at a turn boundary. A snapshot owns no descriptor, timer, goroutine or lock, so releasing one is garbage collection.
// Clusters and route tables sit in paged copy-on-write arrays indexed by interned refs: changing one costs one page, never the rest.
package snapshot

import (
	"maps"

	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/match"
	"sidecar/dataplane/route"
)

const pageSize = 128

type page[T any] [pageSize]*T

// Paged is an immutable sparse array of pointers with structural sharing. The zero value is empty.
type Paged[T any] struct{ pages []*page[T] }

// Get returns entry id, nil when absent.
func (p *Paged[T]) Get(id uint32) *T {
	i := id / pageSize
	if int(i) >= len(p.pages) || p.pages[i] == nil {
		return nil
	}
	return p.pages[i][id%pageSize]
}

// Changed calls fn for every id whose pointer differs between old and p. Cost: pages, plus the entries of pages that differ.
func (p *Paged[T]) Changed(old *Paged[T], fn func(id uint32, was, is *T)) {
	n := max(len(p.pages), len(old.pages))
	for i := range n {
		var a, b *page[T]
		if i < len(old.pages) {
			a = old.pages[i]
		}
		if i < len(p.pages) {
			b = p.pages[i]
		}
		if a == b {
			continue
		}
		for j := range pageSize {
			var x, y *T
			if a != nil {
				x = a[j]
			}
			if b != nil {
				y = b[j]
			}
			if x != y {
				fn(uint32(i*pageSize+j), x, y)
			}
		}
	}
}

// Each calls fn for every present entry.
func (p *Paged[T]) Each(fn func(id uint32, v *T)) {
	for i, pg := range p.pages {
		if pg == nil {
			continue
		}
		for j, v := range pg {
			if v != nil {
				fn(uint32(i*pageSize+j), v)
			}
		}
	}
}

// Snapshot is one generation of the whole configuration. Deeply immutable after Builder.Freeze; Epoch strictly increases.
type Snapshot struct {
	Epoch     uint64
	Listeners []*Listener // active listeners, bound or virtual, in no particular order
	Clusters  Paged[Cluster]
	Routes    Paged[route.Table]
	Runtime   *match.Runtime
	Scopes    map[*route.ScopesRef]*route.Scopes // of connection managers with scoped routes; few
	byName    *names
}

// names maps cluster names to refs for cluster_header; shared by all snapshots (it only grows; see Interner).
type names struct{ in *Interner }

// Cluster returns the cluster of ref, nil when the cluster does not exist in this snapshot (503 NC).
func (s *Snapshot) Cluster(ref *route.ClusterRef) *Cluster {
	if ref == nil {
		return nil
	}
	c := s.Clusters.Get(ref.ID)
	if c != nil && c.Ref != ref && c.Ref != nil {
		return nil // the name was released, and another one has its number now
	}
	return c
}

// ClusterByName finds a cluster by the bytes of its name, for cluster_header and weighted cluster_header.
func (s *Snapshot) ClusterByName(name []byte) *Cluster {
	if s.byName == nil {
		return nil
	}
	return s.Cluster(s.byName.in.find(name))
}

// Table returns the route table of ref, nil while it is not known.
func (s *Snapshot) Table(ref *route.TableRef) *route.Table {
	switch {
	case ref == nil:
		return nil
	case ref.Inline != nil:
		return ref.Inline
	}
	t := s.Routes.Get(ref.ID)
	if t != nil && t.Ref != ref && t.Ref != nil {
		return nil
	}
	return t
}

// RoutesOf returns the route table for a request of an HTTP connection manager, nil while there is none for it.
func (s *Snapshot) RoutesOf(h *HCM, head *httpmsg.Head) *route.Table {
	if h.Scoped == nil {
		return s.Table(h.Routes)
	}
	scopes := s.Scopes[h.Scoped]
	if scopes == nil {
		return nil
	}
	return s.Table(scopes.Find(h.Scoped, head))
}

// Builder makes the next snapshot from the previous one. Control side; single use.
type Builder struct {
	next   *Snapshot
	owned  map[*page[Cluster]]bool
	ownedR map[*page[route.Table]]bool
}

// NewBuilder starts from prev, which may be nil.
func NewBuilder(prev *Snapshot, in *Interner) *Builder {
	n := &Snapshot{byName: &names{in}}
	if prev != nil {
		n.Listeners = prev.Listeners
		n.Clusters.pages = append([]*page[Cluster](nil), prev.Clusters.pages...)
		n.Routes.pages = append([]*page[route.Table](nil), prev.Routes.pages...)
		n.Runtime = prev.Runtime
		n.Scopes = prev.Scopes
		n.Epoch = prev.Epoch
	}
	return &Builder{next: n, owned: map[*page[Cluster]]bool{}, ownedR: map[*page[route.Table]]bool{}}
}

func setPage[T any](p *Paged[T], owned map[*page[T]]bool, id uint32, v *T) {
	i := int(id / pageSize)
	for len(p.pages) <= i {
		p.pages = append(p.pages, nil)
	}
	pg := p.pages[i]
	switch {
	case pg == nil:
		pg = new(page[T])
		owned[pg] = true
		p.pages[i] = pg
	case !owned[pg]:
		c := *pg
		pg = &c
		owned[pg] = true
		p.pages[i] = pg
	}
	pg[id%pageSize] = v
}

// SetCluster puts, replaces or (nil) removes a cluster.
func (b *Builder) SetCluster(ref *route.ClusterRef, c *Cluster) {
	setPage(&b.next.Clusters, b.owned, ref.ID, c)
}

// SetTable puts, replaces or (nil) removes a route table.
func (b *Builder) SetTable(ref *route.TableRef, t *route.Table) {
	setPage(&b.next.Routes, b.ownedR, ref.ID, t)
}

// SetListeners replaces the list of active listeners.
func (b *Builder) SetListeners(l []*Listener) { b.next.Listeners = l }

// SetScopes puts, replaces or (nil) removes the scopes of connection managers.
func (b *Builder) SetScopes(changed map[*route.ScopesRef]*route.Scopes) {
	next := make(map[*route.ScopesRef]*route.Scopes, len(b.next.Scopes)+len(changed))
	maps.Copy(next, b.next.Scopes)
	for ref, s := range changed {
		if next[ref] = s; s == nil {
			delete(next, ref)
		}
	}
	b.next.Scopes = next
}

// SetRuntime replaces the runtime generation.
func (b *Builder) SetRuntime(r *match.Runtime) { b.next.Runtime = r }

// Freeze gives the snapshot its epoch and hands it out; the builder must not be used again.
func (b *Builder) Freeze() *Snapshot {
	s := b.next
	s.Epoch++
	b.next = nil
	return s
}
