// SPDX-License-Identifier: Apache-2.0

package route

import (
	"sidecar/dataplane/match"
	"sidecar/dataplane/sys"
)

// Choice is the cluster that a request goes to.
type Choice struct {
	Ref  *ClusterRef      // nil when the cluster is named by a request header
	Name []byte           // the value of cluster_header when Ref is nil: a view into the request head
	WC   *WeightedCluster // the weighted cluster that was drawn, nil for a route without any
}

// Choose picks the cluster of a request: the plain one, a weighted one by the request's random value, or the one that cluster_header names. It
// is false when the header is missing or empty (503 NC cluster_not_found).
func (f *Forward) Choose(q *Query) (Choice, bool) {
	key := f.ClusterHeader
	var c Choice
	switch {
	case f.Cluster != nil:
		return Choice{Ref: f.Cluster}, true
	case f.Weighted != nil:
		if c.WC = f.Weighted.pick(f, q); c.WC == nil {
			return c, false
		}
		if c.Ref = c.WC.Cluster; c.Ref != nil {
			return c, true
		}
		key = c.WC.ClusterHeader
	}
	if key == nil {
		return c, false
	}
	v, ok := match.FieldValue(q.Head, *key)
	c.Name = v
	return c, ok && len(v) > 0
}

// pick draws one cluster: value modulo the sum of the weights, where value is the number in the header_name field if there is exactly one
// such field, else the hash of the route's hash policy with use_hash_policy, else the request's random value.
func (w *Weighted) pick(f *Forward, q *Query) *WeightedCluster {
	total := uint64(w.Total)
	if w.RuntimeKeyPrefix != "" {
		total = 0
		for i := range w.Clusters {
			total += w.weight(i, q.Runtime)
		}
	}
	if total == 0 {
		return nil
	}
	value := q.Rand
	if w.UseHashPolicy {
		if h, ok, _ := HashOf(f.Hash, q, q.Source()); ok {
			value = h
		}
	} else if w.HeaderKey != nil {
		i := q.Head.FindKey(*w.HeaderKey, 0)
		if v, ok := match.FieldValue(q.Head, *w.HeaderKey); ok && (i < 0 || q.Head.FindKey(*w.HeaderKey, i+1) < 0) {
			if n, ok := match.ParseUint(v); ok {
				value = n
			}
		}
	}
	value %= total
	for i := range w.Clusters {
		n := w.weight(i, q.Runtime)
		if value < n {
			return &w.Clusters[i]
		}
		value -= n
	}
	return nil
}

func (w *Weighted) weight(i int, rt *match.Runtime) uint64 {
	c := &w.Clusters[i]
	if c.RuntimeKey == "" {
		return uint64(c.Weight)
	}
	n := rt.Number(c.RuntimeKey, float64(c.Weight))
	return uint64(min(max(n, 0), 1<<32-1))
}

// Source is the downstream address as hash policies see it.
func (q *Query) Source() sys.Addr {
	if q.Rec == nil || q.Rec.Conn == nil {
		return sys.Addr{}
	}
	return q.Rec.Conn.Remote
}
