// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"testing"

	"sidecar/dataplane/filter"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/snapshot"
)

// stamp is a filter that marks both heads.
func stamp(name string) *probe {
	return &probe{phases: filter.RequestHead | filter.ResponseHead, head: func(_ *filter.Ctx, _ filter.Dir, h *httpmsg.Head, _ bool) filter.Verdict {
		h.AddString(httpmsg.KeyOf("x-"+name), "1")
		return filter.Continue
	}}
}

func TestDiscovered_WhenTheConfigurationChangesInARequest_ThenTheRequestKeepsItsOwn(t *testing.T) {
	r := newRig(t, 1)
	a, b := stamp("a"), stamp("b")
	d := filter.NewDynamic(false)
	r.hcm.Filters = append(r.hcm.Filters, snapshot.HTTPFilter{Name: "ext", Config: d})
	c := r.dial()
	c.write(get)
	r.turn()
	got, _ := c.read()
	r.want("without a configuration", got, "HTTP/1.1 500 Internal Server Error\r\n", "content-length: 0\r\n")
	var u *peer
	d.Set(a)
	c.write(get)
	r.turn()
	d.Set(b)
	r.want("upstream", r.serve(&u, ok3), "x-a: 1\r\n")
	got, _ = c.read()
	r.want("client", got, "x-a: 1\r\n")
	c.write(get)
	r.turn()
	r.want("upstream", r.serve(&u, ok3), "x-b: 1\r\n")
	got, _ = c.read()
	r.want("client", got, "x-b: 1\r\n")
	if a.made != 1 || a.done != 1 || b.made != 1 || b.done != 1 {
		t.Errorf("made %d and %d, done %d and %d", a.made, b.made, a.done, b.done)
	}
	d.Set(nil)
	c.write(get)
	r.turn()
	got, _ = c.read()
	r.want("without a configuration again", got, "HTTP/1.1 500 ")
	r.check()
}

func TestDiscovered_WhenItIsDisabled_ThenRequestsPass(t *testing.T) {
	r := newRig(t, 1)
	r.hcm.Filters = append(r.hcm.Filters, snapshot.HTTPFilter{Name: "ext", Disabled: true, Config: filter.NewDynamic(false)})
	c := r.dial()
	c.write(get)
	r.turn()
	var u *peer
	r.serve(&u, ok3)
	got, _ := c.read()
	r.want("client", got, "HTTP/1.1 200 OK\r\n")
	r.check()
}
