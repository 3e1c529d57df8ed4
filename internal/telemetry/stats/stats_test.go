// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"sync"
	"testing"
)

func TestBlock_WhenWritten_ThenScopeSumsAllShards(t *testing.T) {
	r := NewRegistry(2)
	s := r.Scope("cluster.a:b.", ClusterDef)
	if s.Prefix != "cluster.a_b." || s != r.Scope("cluster.a:b.", ClusterDef) {
		t.Fatalf("prefix %q", s.Prefix)
	}
	if s.Touched() {
		t.Error("a new scope has no blocks")
	}
	s.Block(1).Inc(ClusterUpstreamRqTotal)
	s.Block(2).Add(ClusterUpstreamRqTotal, 4)
	if v, used := s.Value(ClusterUpstreamRqTotal); v != 5 || !used {
		t.Errorf("total %d %v", v, used)
	}
	if v, used := s.Value(ClusterUpstreamCxTotal); v != 0 || used {
		t.Errorf("untouched %d %v", v, used)
	}
	s.Block(1).Code(ClusterCodes, 200)
	s.Block(2).Code(ClusterCodes, 200)
	s.Block(2).Code(ClusterCodes, 999)
	if v, _ := s.Value(ClusterUpstreamRqCompleted); v != 3 || s.CodeValue(ClusterCodes, 200) != 2 {
		t.Errorf("completed %d, 200: %d", v, s.CodeValue(ClusterCodes, 200))
	}
	s.Release()
	s.Release()
	n := 0
	r.Each(func(*Scope) { n++ })
	if n != 0 {
		t.Errorf("%d scopes after the last release", n)
	}
}

func TestDefs_WhenListed_ThenNamesAreUniqueAndHistogramsComeLast(t *testing.T) {
	for _, d := range Defs() {
		seen := map[string]bool{}
		hist := false
		for _, st := range d.Stats {
			if seen[st.Name] || st.Name == "" {
				t.Errorf("%s: %q repeated or empty", d.Name, st.Name)
			}
			seen[st.Name] = true
			if hist && (st.Kind == Counter || st.Kind == Gauge) {
				t.Errorf("%s: %s after a histogram", d.Name, st.Name)
			}
			hist = hist || st.Kind == Histogram
			if st.FromCodes > len(d.Codes) {
				t.Errorf("%s: %s names code set %d", d.Name, st.Name, st.FromCodes)
			}
		}
	}
}

func TestBlock_WhenWarm_ThenWritesDoNotAllocate(t *testing.T) {
	s := NewRegistry(1).Scope("c.", ClusterDef)
	b := s.Block(1)
	write := func() {
		b.Inc(ClusterUpstreamRqTotal)
		b.Set(ClusterUpstreamRqActive, 3)
		b.Code(ClusterCodes, 204)
		b.Record(ClusterUpstreamRqTime, 17)
	}
	write()
	if n := testing.AllocsPerRun(100, write); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestScope_WhenShardZeroHasSeveralWriters_ThenNothingIsLost(t *testing.T) {
	s := NewRegistry(1).Scope("c.", ClusterDef)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 1000 {
				s.Control().Inc(ClusterUpstreamRqTotal)
				s.Control().Code(ClusterCodes, uint16(100+i%500))
				s.Control().Record(ClusterUpstreamRqTime, uint64(i))
			}
		})
	}
	wg.Wait()
	if v, _ := s.Value(ClusterUpstreamRqTotal); v != 8000 || s.CodeTotal(ClusterCodes) != 8000 {
		t.Errorf("%d, %d", v, s.CodeTotal(ClusterCodes))
	}
	var n uint64
	for _, b := range s.Hist(ClusterUpstreamRqTime, 0).AppendBuckets(nil) {
		n += b.Count
	}
	if n != 8000 {
		t.Errorf("%d samples", n)
	}
}
