// SPDX-License-Identifier: Apache-2.0

package conn

import (
	"slices"
	"testing"
)

func TestMembers_WhenSampled_ThenEveryOneComesInTurnAndMayLeave(t *testing.T) {
	var s Members
	left := 0
	s.OnLeave = func(*Member) { left++ }
	m := make([]Member, 6)
	for i := range m[:5] {
		s.Join(&m[i])
	}
	take := func(n int, fn func(*Member) bool) (got []int) {
		s.Sample(n, func(x *Member) bool {
			for i := range m {
				if x == &m[i] {
					got = append(got, i)
				}
			}
			return fn(x)
		})
		return got
	}
	all := func(*Member) bool { return true }
	for _, step := range []struct {
		what string
		n    int
		fn   func(*Member) bool
		want []int
	}{
		{"the oldest first", 3, all, []int{0, 1, 2}},
		{"then the others, and from the beginning", 4, all, []int{3, 4, 0, 1}},
		{"never one twice", 9, all, []int{2, 3, 4, 0, 1}},
		{"until it is enough", 9, func(x *Member) bool { return x != &m[3] }, []int{2, 3}},
		{"some leave", 9, func(x *Member) bool {
			if x == &m[4] || x == &m[2] {
				x.Part()
			}
			return true
		}, []int{4, 0, 1, 2, 3}},
		{"the others stay", 9, all, []int{0, 1, 3}},
		{"another takes a place", 9, func(x *Member) bool {
			x.Swap(&m[5])
			return false
		}, []int{0}},
		{"and has it", 9, all, []int{1, 3, 5}},
		{"all leave", 9, func(x *Member) bool { x.Leave(); return true }, []int{1, 3, 5}},
		{"nobody is left", 9, all, nil},
	} {
		if got := take(step.n, step.fn); !slices.Equal(got, step.want) {
			t.Errorf("%s: %v, want %v", step.what, got, step.want)
		}
		for x, n := s.first, 0; x != nil || n != s.Len(); x, n = x.next, n+1 {
			if x == nil || x.list != &s || n > s.Len() {
				t.Fatalf("%s: the list has not %d members", step.what, s.Len())
			}
		}
	}
	if left != 3 || s.first != nil || s.last != nil {
		t.Errorf("%d have left, want 3 (those that part do not)", left)
	}
	s.Join(&m[0])
	if got := take(1, all); !slices.Equal(got, []int{0}) {
		t.Errorf("after the list was empty: %v", got)
	}
}
