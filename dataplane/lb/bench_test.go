// SPDX-License-Identifier: Apache-2.0

package lb

import "testing"

func BenchmarkPick(b *testing.B) {
	for _, k := range []Kind{RoundRobin, LeastRequest, Random, RingHash, Maglev} {
		for name, weights := range map[string][]uint32{"equal": ones(10), "weighted": {1, 2, 3, 4, 5, 6, 7, 8, 9, 10}} {
			b.Run(k.name()+"/"+name, func(b *testing.B) {
				s := spec(k)
				p := s.Factory()(1, s.Build(nil, input(weights...)))
				q := Query{HasHash: true}
				b.ReportAllocs()
				for b.Loop() {
					q.Rand += 0x9E3779B97F4A7C15
					q.Hash += 0x9E3779B97F4A7C15
					p.Pick(&q)
				}
			})
		}
	}
}

func (k Kind) name() string { return (&Spec{Kind: k}).Name() }
