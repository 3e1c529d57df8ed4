// SPDX-License-Identifier: Apache-2.0

package lb

import "math"

// bounded applies hash_balance_factor: when host n carries more than its bounded share of the requests in flight, the hosts are tried in a
// random order that only depends on the hash, and the first with room (else the least overloaded) is taken. Cost: one load of each host's
// counter, as Envoy's O(hosts).
func (p *hashing) bounded(t *table, n int, hash uint64) int {
	var active uint64
	for _, h := range t.hosts {
		active += uint64(max(h.RqActive.Load(), 0))
	}
	total := ((active+1)*uint64(p.spec.BalanceFactor) + 99) / 100
	least, load := n, overload(t, n, total)
	if load <= 1 {
		return n
	}
	p.shuffle.start(uint32(hash), len(t.hosts))
	for range t.hosts {
		k := p.shuffle.next()
		if t.order != nil {
			k = int(t.order[k])
		}
		if t.hosts[k] == t.hosts[n] {
			continue
		}
		f := overload(t, k, total)
		if f <= 1 {
			return k
		}
		if f < load {
			least, load = k, f
		}
	}
	return least
}

// overload is the requests of host n over the slots it may fill.
func overload(t *table, n int, total uint64) float64 {
	slots := max(math.Ceil(float64(total)*t.weight[n]), 1)
	return float64(max(t.hosts[n].RqActive.Load(), 0)) / slots
}

// shuffle yields a seeded permutation: the Mersenne Twister (MT19937) and the incremental shuffle that Envoy uses, so that the same hash tries
// the same hosts. Scratch memory, worker-owned.
type shuffle struct {
	mt    [624]uint32
	at    int
	order []uint32
	n, i  int
}

func (s *shuffle) start(seed uint32, n int) {
	s.mt[0] = seed
	for i := 1; i < len(s.mt); i++ {
		s.mt[i] = 1812433253*(s.mt[i-1]^s.mt[i-1]>>30) + uint32(i)
	}
	s.at = len(s.mt)
	s.n, s.i = n, 0
	for i := range n {
		s.order[i] = uint32(i)
	}
}

// next returns the next host number; it may be called n times after start.
func (s *shuffle) next() int {
	k := uint32(s.n - s.i)
	x := k
	for x >= k {
		x = uint32(uint64(s.random()) / ((1 << 32) / uint64(k)))
	}
	s.order[s.i], s.order[s.i+int(x)] = s.order[s.i+int(x)], s.order[s.i]
	s.i++
	return int(s.order[s.i-1])
}

func (s *shuffle) random() uint32 {
	if s.at == len(s.mt) {
		for i := range s.mt {
			y := s.mt[i]&0x80000000 | s.mt[(i+1)%624]&0x7fffffff
			s.mt[i] = s.mt[(i+397)%624] ^ y>>1
			if y&1 != 0 {
				s.mt[i] ^= 0x9908b0df
			}
		}
		s.at = 0
	}
	y := s.mt[s.at]
	s.at++
	y ^= y >> 11
	y ^= y << 7 & 0x9d2c5680
	y ^= y << 15 & 0xefc60000
	return y ^ y>>18
}
