// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"sync/atomic"

	"sidecar/dataplane/route"
)

// Interner hands out the refs by which snapshots are indexed: one per cluster name and one per route configuration name. Names that nothing
// uses any more are released and their numbers used again, by other refs: whoever still holds the old ref finds nothing (see
// Snapshot.Cluster), never somebody else's row. Control-owned writer; readers (cluster_header on workers) see an immutable view through one
// atomic pointer, renewed in batches.
type Interner struct {
	// Control
	clusters     map[string]*route.ClusterRef
	tables       map[string]*route.TableRef
	freeClusters []uint32
	freeTables   []uint32
	changed      map[string]*route.ClusterRef // since the last Publish; nil value = released

	// Atomic
	view atomic.Pointer[nameView]
}

// nameView is a big map that is rarely copied and a small one with what changed since, so that one new cluster does not cost a copy of all
// names. Immutable.
type nameView struct {
	base, delta map[string]*route.ClusterRef // in delta nil means: not there, whatever base says
}

// NewInterner makes an empty interner.
func NewInterner() *Interner {
	return &Interner{clusters: map[string]*route.ClusterRef{}, tables: map[string]*route.TableRef{}, changed: map[string]*route.ClusterRef{}}
}

// number takes a released number, or the next one.
func number(free *[]uint32, used int) uint32 {
	if n := len(*free); n > 0 {
		id := (*free)[n-1]
		*free = (*free)[:n-1]
		return id
	}
	return uint32(used)
}

// Cluster returns the ref of a cluster name.
func (in *Interner) Cluster(name string) *route.ClusterRef {
	r := in.clusters[name]
	if r == nil {
		r = &route.ClusterRef{Name: name, ID: number(&in.freeClusters, len(in.clusters))}
		in.clusters[name] = r
		in.changed[name] = r
	}
	return r
}

// Known returns the ref of a cluster name if there is one.
func (in *Interner) Known(name string) *route.ClusterRef { return in.clusters[name] }

// ReleaseCluster forgets a cluster name. The caller has removed its row in the snapshot that is going to be published, or an earlier one, and no
// table or filter chain that can still be published holds the ref.
func (in *Interner) ReleaseCluster(name string) {
	r := in.clusters[name]
	if r == nil {
		return
	}
	delete(in.clusters, name)
	in.changed[name] = nil
	in.freeClusters = append(in.freeClusters, r.ID)
}

// Table returns the ref of a route configuration name.
func (in *Interner) Table(name string) *route.TableRef {
	r := in.tables[name]
	if r == nil {
		r = &route.TableRef{Name: name, ID: number(&in.freeTables, len(in.tables))}
		in.tables[name] = r
	}
	return r
}

// ReleaseTable forgets a route configuration name, under the conditions of ReleaseCluster.
func (in *Interner) ReleaseTable(name string) {
	if r := in.tables[name]; r != nil {
		delete(in.tables, name)
		in.freeTables = append(in.freeTables, r.ID)
	}
}

// deltaMax bounds the small map of a view; a bigger one is merged into a new big map.
const deltaMax = 256

// Publish makes the names as they are now visible to ClusterByName. Called before a snapshot that needs them is published. Cost: the names that
// changed lately; every deltaMax changes all of them.
func (in *Interner) Publish() {
	if len(in.changed) == 0 {
		return
	}
	next := &nameView{delta: make(map[string]*route.ClusterRef, len(in.changed))}
	if old := in.view.Load(); old != nil {
		next.base = old.base
		for k, v := range old.delta {
			next.delta[k] = v
		}
	}
	for k, v := range in.changed {
		next.delta[k] = v
	}
	if len(next.delta) > deltaMax {
		next.base, next.delta = make(map[string]*route.ClusterRef, len(in.clusters)), nil
		for k, v := range in.clusters {
			next.base[k] = v
		}
	}
	clear(in.changed)
	in.view.Store(next)
}

func (in *Interner) find(name []byte) *route.ClusterRef {
	v := in.view.Load()
	if v == nil {
		return nil
	}
	if r, ok := v.delta[string(name)]; ok {
		return r
	}
	return v.base[string(name)]
}
