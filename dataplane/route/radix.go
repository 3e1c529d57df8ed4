// SPDX-License-Identifier: Apache-2.0

package route

import (
	"cmp"
	"slices"
	"strings"
)

// radix is an immutable compressed trie from byte strings to ascending lists of numbers. The zero radix is empty.
type radix struct{ nodes []radixNode }

// radixNode is one node; its key is the key of its parent, then one byte of the parent's edges, then label.
type radixNode struct {
	label string
	edges string  // first bytes of the children, ascending
	kids  int32   // index of the first child; the others follow
	up    int32   // nearest proper ancestor that has a list, or -1
	list  []int32 // ascending; empty for a node that is only a fork
}

type radixKey struct {
	key string
	val int32
}

// newRadix builds a trie. Equal keys share a list, sorted.
func newRadix(keys []radixKey) radix {
	if len(keys) == 0 {
		return radix{}
	}
	keys = slices.Clone(keys)
	slices.SortFunc(keys, func(a, b radixKey) int {
		return cmp.Or(strings.Compare(a.key, b.key), cmp.Compare(a.val, b.val))
	})
	r := radix{nodes: make([]radixNode, 1, len(keys)+1)}
	// The work list is explicit: prefixes may nest as deep as there are keys.
	type job struct {
		node, up int32
		depth    int
		keys     []radixKey
	}
	jobs := []job{{0, -1, 0, keys}}
	for len(jobs) > 0 {
		j := jobs[len(jobs)-1]
		jobs = jobs[:len(jobs)-1]
		common := commonPrefix(j.keys[0].key[j.depth:], j.keys[len(j.keys)-1].key[j.depth:])
		if j.node == 0 {
			common = 0 // the root has no label, so that the walk may start without a comparison
		}
		n := radixNode{label: j.keys[0].key[j.depth : j.depth+common], up: j.up}
		at := j.depth + common
		rest := j.keys
		for len(rest) > 0 && len(rest[0].key) == at {
			n.list = append(n.list, rest[0].val)
			rest = rest[1:]
		}
		up := j.up
		if len(n.list) > 0 {
			up = j.node
		}
		n.kids = int32(len(r.nodes))
		var edges []byte
		for len(rest) > 0 {
			c := rest[0].key[at]
			end := 1
			for end < len(rest) && rest[end].key[at] == c {
				end++
			}
			jobs = append(jobs, job{n.kids + int32(len(edges)), up, at + 1, rest[:end]})
			edges = append(edges, c)
			rest = rest[end:]
		}
		n.edges = string(edges)
		r.nodes = append(r.nodes, make([]radixNode, len(edges))...)
		r.nodes[j.node] = n
	}
	return r
}

func commonPrefix(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// deepest returns the index of the node with a list whose key is the longest prefix of p, or -1; the shorter ones follow by up.
func (r *radix) deepest(p []byte) int32 {
	if len(r.nodes) == 0 {
		return -1
	}
	at := int32(0)
	for {
		n := &r.nodes[at]
		if len(p) < len(n.label) || string(p[:len(n.label)]) != n.label {
			return n.up
		}
		p = p[len(n.label):]
		if len(p) > 0 {
			if i := strings.IndexByte(n.edges, p[0]); i >= 0 {
				at = n.kids + int32(i)
				p = p[1:]
				continue
			}
		}
		if len(n.list) > 0 {
			return at
		}
		return n.up
	}
}
