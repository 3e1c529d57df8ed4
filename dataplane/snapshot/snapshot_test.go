// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"sidecar/dataplane/route"
)

// A snapshot must equal a plain map whatever was set and removed, and older snapshots must not change.
func TestBuilder_WhenChangedAtRandom_ThenSnapshotsEqualAMapAndStay(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	in := NewInterner()
	var refs []*route.ClusterRef
	for i := range 700 {
		refs = append(refs, in.Cluster(fmt.Sprint("c", i)))
	}
	type gen struct {
		s *Snapshot
		m map[uint32]*Cluster
	}
	gens := []gen{{nil, map[uint32]*Cluster{}}}
	for range 60 {
		last := gens[len(gens)-1]
		b := NewBuilder(last.s, in)
		m := maps.Clone(last.m)
		want := map[uint32]bool{}
		for range rng.IntN(40) {
			ref := refs[rng.IntN(len(refs))]
			var c *Cluster
			if rng.IntN(3) > 0 {
				c = row(ref)
			}
			b.SetCluster(ref, c)
			if c == nil {
				delete(m, ref.ID)
			} else {
				m[ref.ID] = c
			}
		}
		s := b.Freeze()
		for _, ref := range refs {
			if last.m[ref.ID] != m[ref.ID] {
				want[ref.ID] = true
			}
		}
		var old Paged[Cluster]
		if last.s != nil {
			old = last.s.Clusters
			if s.Epoch != last.s.Epoch+1 {
				t.Fatalf("epoch %d after %d", s.Epoch, last.s.Epoch)
			}
		}
		s.Clusters.Changed(&old, func(id uint32, was, is *Cluster) {
			if !want[id] || was != last.m[id] || is != m[id] {
				t.Fatalf("Changed reports %d", id)
			}
			delete(want, id)
		})
		if len(want) > 0 {
			t.Fatalf("Changed misses %v", want)
		}
		gens = append(gens, gen{s, m})
	}
	for i, g := range gens[1:] {
		n := 0
		g.s.Clusters.Each(func(id uint32, c *Cluster) {
			if c != g.m[id] {
				t.Fatalf("generation %d: entry %d differs", i, id)
			}
			n++
		})
		if n != len(g.m) {
			t.Fatalf("generation %d: %d entries, want %d", i, n, len(g.m))
		}
		for _, ref := range refs {
			if g.s.Cluster(ref) != g.m[ref.ID] {
				t.Fatalf("generation %d: %s differs", i, ref.Name)
			}
		}
	}
}

func TestBuilder_WhenOneEntryChanges_ThenOtherPagesAreShared(t *testing.T) {
	in := NewInterner()
	b := NewBuilder(nil, in)
	var last *route.ClusterRef
	for i := range 10 * pageSize {
		last = in.Cluster(fmt.Sprint(i))
		b.SetCluster(last, row(last))
	}
	one := b.Freeze()
	b = NewBuilder(one, in)
	b.SetCluster(last, nil)
	two := b.Freeze()
	same := 0
	for i := range one.Clusters.pages {
		if one.Clusters.pages[i] == two.Clusters.pages[i] {
			same++
		}
	}
	if same != 9 {
		t.Errorf("%d of 10 pages shared", same)
	}
	if one.Cluster(last) == nil || two.Cluster(last) != nil || two.Cluster(nil) != nil || (&Snapshot{}).Cluster(last) != nil {
		t.Error("lookup")
	}
}

func TestClusterByName_WhenPublished_ThenFoundWithoutAllocation(t *testing.T) {
	in := NewInterner()
	b := NewBuilder(nil, in)
	c := row(in.Cluster("web"))
	b.SetCluster(c.Ref, c)
	in.Publish()
	s := b.Freeze()
	name := []byte("web")
	if s.ClusterByName(name) != c || s.ClusterByName([]byte("other")) != nil || (&Snapshot{}).ClusterByName(name) != nil {
		t.Error("lookup by name")
	}
	if n := testing.AllocsPerRun(100, func() { s.ClusterByName(name) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func row(ref *route.ClusterRef) *Cluster {
	return &Cluster{ClusterConfig: &ClusterConfig{Name: ref.Name, Ref: ref}}
}

func TestCluster_WhenTheNameWasReleasedAndTheNumberReused_ThenTheOldRefFindsNothing(t *testing.T) {
	in := NewInterner()
	b := NewBuilder(nil, in)
	old := in.Cluster("old")
	b.SetCluster(old, row(old))
	one := b.Freeze()
	in.ReleaseCluster("old")
	b = NewBuilder(one, in)
	b.SetCluster(old, nil)
	next := in.Cluster("next")
	b.SetCluster(next, row(next))
	in.Publish()
	two := b.Freeze()
	if next.ID != old.ID || two.Cluster(old) != nil || two.Cluster(next) == nil || two.ClusterByName([]byte("old")) != nil {
		t.Errorf("numbers %d, %d; old finds %v", old.ID, next.ID, two.Cluster(old))
	}
}
