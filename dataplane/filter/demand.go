// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"slices"

	"sidecar/dataplane/route"
	"sidecar/dataplane/sys"
)

// Demand is what a request lacks and the control side may find: a virtual host that a route configuration gets over VHDS, the route configuration of a
// scope, or a cluster (ODCDS). It is a value: requests of one worker that lack the same wait for one answer.
type Demand struct {
	Routes   *route.TableRef  // of a virtual host: its route configuration
	Scopes   *route.ScopesRef // of a scope: where it is one of
	Clusters *ClusterSource   // of a cluster: where it may come from
	Name     string           // the host as requested, in lower case, with its port; the scope; or the cluster
}

// HeldMax bounds a Held: whoever comes then goes on without what it lacks.
const HeldMax = 1024

// Held is the requests or connections of one worker that wait for the control side, by what they lack. An answer wakes them all: what was found is in the
// snapshot that the worker has by then.
type Held[T comparable] struct {
	waiting map[Demand][]T
	n       int
}

// Hold makes x wait for d; the first to do so asks for it. False when it cannot, or when nobody can be asked: ask may be nil.
func (h *Held[T]) Hold(d Demand, x T, ask func(Demand) bool) bool {
	if ask == nil || h.n >= HeldMax {
		return false
	}
	list := h.waiting[d]
	if len(list) == 0 && !ask(d) {
		return false
	}
	if h.waiting == nil {
		h.waiting = map[Demand][]T{}
	}
	h.waiting[d] = append(list, x)
	h.n++
	return true
}

// Leave ends the wait of x, which waits for d.
func (h *Held[T]) Leave(d Demand, x T) {
	h.n--
	list := h.waiting[d]
	if i := slices.Index(list, x); i >= 0 {
		list = slices.Delete(list, i, i+1)
	}
	if h.waiting[d] = list; len(list) == 0 {
		delete(h.waiting, d)
	}
}

// Take ends the wait of all that wait for d: those that come from now on have to ask again.
func (h *Held[T]) Take(d Demand) []T {
	list := h.waiting[d]
	delete(h.waiting, d)
	h.n -= len(list)
	return list
}

// Len is how many wait.
func (h *Held[T]) Len() int { return h.n }

// ClusterSource is where clusters come from on demand. Immutable.
type ClusterSource struct {
	Wait   sys.Nanos // how long a request waits; 0 = not at all
	Config any       // the control side's
}
