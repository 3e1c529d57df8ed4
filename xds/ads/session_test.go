// SPDX-License-Identifier: Apache-2.0

package ads

import (
	"fmt"
	"testing"
	"time"
)

func TestVerdict_WhenAFloodIsHeld_ThenTheOldestIsAnsweredAtTheLimit(t *testing.T) {
	s := New(Config{Variant: Delta, Seed: 1})
	s.Step(Subscribe{TypeURL: clusterURL, Wildcard: true}, nil)
	s.Step(Opened{}, nil)
	var answered []string
	for i := range HeldMax + 3 {
		acts := s.Step(Response{TypeURL: clusterURL, Nonce: fmt.Sprint(i)}, nil)
		for _, a := range s.Step(Verdict{Batch: acts[0].(Deliver).Batch, Hold: true}, nil) {
			if m, ok := a.(Send); ok {
				answered = append(answered, m.Nonce)
			}
		}
	}
	if fmt.Sprint(answered) != "[0 1 2]" {
		t.Errorf("answered %v", answered)
	}
	if n := len(s.Step(Release{TypeURL: clusterURL}, nil)); n != HeldMax {
		t.Errorf("%d answers released, want %d", n, HeldMax)
	}
}

func TestClosed_WhenSeedIsTheSame_ThenPausesAreTheSameAndBounded(t *testing.T) {
	a, b, c := New(Config{Seed: 5}), New(Config{Seed: 5}), New(Config{Seed: 6})
	bound, differs := BackoffBase, false
	for range 40 {
		pa := a.Step(Closed{}, nil)[0].(Reconnect).After
		pb := b.Step(Closed{}, nil)[0].(Reconnect).After
		pc := c.Step(Closed{}, nil)[0].(Reconnect).After
		if pa != pb || pa < 0 || pa >= bound {
			t.Fatalf("pause %v and %v, bound %v", pa, pb, bound)
		}
		differs = differs || pa != pc
		bound = min(2*bound, BackoffMax)
	}
	if !differs {
		t.Error("another seed gives the same pauses")
	}
}

func TestDeadline_WhenResourcesHaveTTLs_ThenItIsTheNextOne(t *testing.T) {
	s := New(Config{Variant: Delta})
	s.Step(Subscribe{TypeURL: clusterURL, Wildcard: true}, nil)
	s.Step(Opened{}, nil)
	if _, ok := s.Deadline(); ok {
		t.Error("a deadline without any TTL")
	}
	acts := s.Step(Response{TypeURL: clusterURL, Nonce: "1", Now: time.Second, Resources: []Raw{
		{Name: "a", HasBody: true, TTL: 9 * time.Second}, {Name: "b", HasBody: true, TTL: 3 * time.Second}, {Name: "c", HasBody: true}}}, nil)
	s.Step(Verdict{Batch: acts[0].(Deliver).Batch}, nil)
	if d, ok := s.Deadline(); !ok || d != 4*time.Second {
		t.Errorf("deadline %v, %v", d, ok)
	}
	s.Step(Tick{Now: 4 * time.Second}, nil)
	if d, ok := s.Deadline(); !ok || d != 10*time.Second {
		t.Errorf("deadline %v, %v", d, ok)
	}
}

// BenchmarkDeltaChange is one changed resource among 10,000 held: it must not cost a walk over all.
func BenchmarkDeltaChange(b *testing.B) {
	s := New(Config{Variant: Delta})
	s.Step(Subscribe{TypeURL: clusterURL, Wildcard: true}, nil)
	s.Step(Opened{}, nil)
	all := Response{TypeURL: clusterURL, Nonce: "0"}
	for i := range 10_000 {
		all.Resources = append(all.Resources, Raw{Name: fmt.Sprint(i), HasBody: true})
	}
	s.Step(Verdict{Batch: s.Step(all, nil)[0].(Deliver).Batch}, nil)
	one := Response{TypeURL: clusterURL, Nonce: "1", Resources: all.Resources[:1]}
	b.ReportAllocs()
	for b.Loop() {
		s.Step(Verdict{Batch: s.Step(one, nil)[0].(Deliver).Batch}, nil)
	}
}
