// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"sync/atomic"

	"sidecar/dataplane/route"
)

// Interner hands out the refs by which snapshots are indexed: one per cluster name and one per route configuration name. Control-owned writer;
// readers (cluster_header on workers) see an immutable map through one atomic pointer, rebuilt in batches.
type Interner struct {
	// Control
	clusters map[string]*route.ClusterRef
	tables   map[string]*route.TableRef

	// Atomic
	view atomic.Pointer[map[string]*route.ClusterRef]
}

// NewInterner makes an empty interner.
func NewInterner() *Interner {
	return &Interner{clusters: map[string]*route.ClusterRef{}, tables: map[string]*route.TableRef{}}
}

// Cluster returns the ref of a cluster name.
func (in *Interner) Cluster(name string) *route.ClusterRef {
	r := in.clusters[name]
	if r == nil {
		r = &route.ClusterRef{Name: name, ID: uint32(len(in.clusters))}
		in.clusters[name] = r
	}
	return r
}

// Table returns the ref of a route configuration name.
func (in *Interner) Table(name string) *route.TableRef {
	r := in.tables[name]
	if r == nil {
		r = &route.TableRef{Name: name, ID: uint32(len(in.tables))}
		in.tables[name] = r
	}
	return r
}

// Publish makes all names interned so far visible to ClusterByName. Called before a snapshot that needs them is published; it does nothing
// when no name is new.
func (in *Interner) Publish() {
	old := in.view.Load()
	if old != nil && len(*old) == len(in.clusters) {
		return
	}
	m := make(map[string]*route.ClusterRef, len(in.clusters))
	for k, v := range in.clusters {
		m[k] = v
	}
	in.view.Store(&m)
}

func (in *Interner) find(name []byte) *route.ClusterRef {
	if m := in.view.Load(); m != nil {
		return (*m)[string(name)]
	}
	return nil
}
