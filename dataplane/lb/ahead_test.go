// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"math/rand/v2"
	"testing"

	"sidecar/dataplane/hostset"
)

func TestPeek_WhenPicksFollow_ThenTheyAreThoseThatWereTold(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for name, c := range map[string]struct {
		kind    Kind
		weights []uint32
	}{
		"round robin": {RoundRobin, ones(5)}, "weighted round robin": {RoundRobin, []uint32{1, 2, 3, 4, 10}}, "random": {Random, ones(5)},
	} {
		s := spec(c.kind)
		h := s.Build(nil, input(c.weights...))
		plain, told := s.Factory()(7, h), s.Factory()(7, h)
		var ahead []*hostset.Host
		for range 200 {
			for range rnd.IntN(3) {
				q := Query{Rand: rnd.Uint64()}
				if p := told.(Peeker).Peek(&q); p != nil {
					ahead = append(ahead, p)
				} else if len(ahead) != len(c.weights) {
					t.Fatalf("%s: told %d picks of %d hosts", name, len(ahead), len(c.weights))
				}
			}
			q := Query{Rand: rnd.Uint64()}
			got := told.Pick(&q)
			if len(ahead) > 0 {
				if got != ahead[0] {
					t.Fatalf("%s: picked %v, told %v", name, got, ahead[0])
				}
				ahead = ahead[1:]
			}
			if c.kind == RoundRobin && got != plain.Pick(&q) {
				t.Fatalf("%s: telling changes the sequence", name)
			}
		}
	}
}

func TestPeek_WhenItCannotBeTold_ThenNothing(t *testing.T) {
	s := spec(LeastRequest)
	if s.Factory()(1, s.Build(nil, input(ones(3)...))).(Peeker).Peek(&Query{Rand: 1}) != nil {
		t.Error("least request tells")
	}
	for _, k := range []Kind{RingHash, Maglev} {
		s := spec(k)
		if _, tells := s.Factory()(1, s.Build(nil, input(ones(3)...))).(Peeker); tells {
			t.Errorf("%s tells", s.Name())
		}
	}
	s = spec(RoundRobin)
	if s.Factory()(1, s.Build(nil, hostset.Input{})).(Peeker).Peek(&Query{Rand: 1}) != nil {
		t.Error("no hosts")
	}
}

func TestPeek_WhenHostsChangeOrAreRefused_ThenWhatWasToldIsForgotten(t *testing.T) {
	s := spec(RoundRobin)
	h := s.Build(nil, input(ones(4)...))
	p := s.Factory()(1, h)
	gone := p.(Peeker).Peek(&Query{Rand: 1})
	p.(Peeker).Peek(&Query{Rand: 1})
	var left []hostset.Endpoint
	for _, e := range endpoints(80, ones(4)...) {
		if e.Addr != gone.Addr {
			left = append(left, e)
		}
	}
	p.Update(s.Build(h, hostset.Input{Localities: []hostset.LocalityInput{{Endpoints: left}}}))
	for range 8 {
		if p.Pick(&Query{Rand: 1}) == gone {
			t.Fatal("picked a host that is gone")
		}
	}
	tried := p.(Peeker).Peek(&Query{Rand: 1})
	if got := p.Pick(&Query{Rand: 1, Tried: []*hostset.Host{tried}, AvoidTried: true}); got == tried || got == nil {
		t.Errorf("picked %v although it was tried", got)
	}
}

func TestPeek_WhenRepeated_ThenNoAllocations(t *testing.T) {
	s := spec(RoundRobin)
	p := s.Factory()(1, s.Build(nil, input(ones(4)...)))
	q := &Query{Rand: 1}
	step := func() {
		p.(Peeker).Peek(q)
		p.Pick(q)
	}
	step()
	if n := testing.AllocsPerRun(100, step); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
