// SPDX-License-Identifier: Apache-2.0

package httpmsg

import "testing"

func TestSetsOfIDsAnswerForEachOfThem(t *testing.T) {
	set := IDSetOf(IDReferer, IDForwardedFor, IDEnvoyDownstreamServiceNode)
	for _, tc := range []struct {
		ids             []ID
		never, distinct bool
	}{
		{nil, true, true},
		{[]ID{IDAccept, IDUserAgent}, true, true},
		{[]ID{IDAccept, IDReferer}, false, true},
		{[]ID{IDEnvoyDownstreamServiceNode}, false, true},
		{[]ID{IDAccept, IDAccept}, true, false},
		{[]ID{IDOther, IDAccept}, true, true},
		{[]ID{IDOther, IDOther}, true, false},
	} {
		var f Fields
		f.Reset(new(Arena))
		for _, id := range tc.ids {
			f.Add(Key{Name: "x", ID: id}, nil)
		}
		if n, d := f.NeverAny(set), f.Distinct(); n != tc.never || d != tc.distinct {
			t.Errorf("%v: never %v, distinct %v", tc.ids, n, d)
		}
	}
}
