// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"testing"

	"sidecar/dataplane/fault"
)

func TestDynamic_WhenThereIsNoConfiguration_ThenRequestsAreAnswered(t *testing.T) {
	d := NewDynamic(false)
	c := &Ctx{}
	f := d.Current()
	if v := f.New(c).OnHead(c, Request, nil, true); f.Phases() != RequestHead || v != Reply || c.Local.Status != 500 || c.Local.Flags != fault.FlagNFCF {
		t.Errorf("phases %v, verdict %v, answer %+v", f.Phases(), v, c.Local)
	}
	if n := testing.AllocsPerRun(100, func() { d.Current().New(c) }); n != 0 {
		t.Errorf("%v allocations for an exchange", n)
	}
}
