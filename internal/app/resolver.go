// SPDX-License-Identifier: Apache-2.0

package app

import (
	"net/netip"
	"slices"
	"sync"

	"sidecar/internal/resolve"
	"sidecar/xds/compile/cluster"
)

// dnsResolver watches every name of a DNS cluster and hands the answers of all of them over together. Until each name was tried once nothing is
// handed over, so that a cluster warms with its full membership.
type dnsResolver struct{ r *resolve.Resolver }

// Watch implements controller.Resolver.
func (d dnsResolver) Watch(spec *cluster.DNS, onUpdate func(answers func(i int) []netip.Addr)) (stop func()) {
	w := &dnsWatch{answers: make([][]netip.Addr, len(spec.Assignment.Targets)), tried: make([]bool, len(spec.Assignment.Targets)), onUpdate: onUpdate}
	w.left = len(w.tried)
	var cancels []func()
	if w.left == 0 {
		onUpdate(func(int) []netip.Addr { return nil })
	}
	for i, t := range spec.Assignment.Targets {
		cancels = append(cancels, d.r.Watch(t.Name, resolve.Options(spec.Options), func(res resolve.Result) { w.result(i, res) }))
	}
	return func() {
		for _, c := range cancels {
			c()
		}
	}
}

type dnsWatch struct {
	onUpdate func(answers func(i int) []netip.Addr)

	mu      sync.Mutex
	answers [][]netip.Addr
	tried   []bool
	left    int
}

// result keeps the last good answer of a name; a failure changes nothing but the count of names that were tried.
func (w *dnsWatch) result(i int, res resolve.Result) {
	w.mu.Lock()
	defer w.mu.Unlock()
	first := !w.tried[i]
	if first {
		w.tried[i] = true
		w.left--
	}
	if !first && slices.Equal(w.answers[i], res.Addrs) {
		return
	}
	w.answers[i] = res.Addrs
	if w.left > 0 {
		return
	}
	now := slices.Clone(w.answers)
	w.onUpdate(func(i int) []netip.Addr { return now[i] })
}
