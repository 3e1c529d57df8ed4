// SPDX-License-Identifier: Apache-2.0

package match

import (
	"testing"

	"sidecar/dataplane/httpmsg"
)

func TestFieldValue_WhenTheNameIsAPseudoHeader_ThenItsValue(t *testing.T) {
	h := &httpmsg.Head{}
	var a httpmsg.Arena
	h.Reset(&a)
	h.SetPath([]byte("/p"))
	h.SetHost([]byte("a.test"))
	h.SetMethod("GET")
	h.Add(httpmsg.KeyOf("x-a"), []byte("one"))
	for name, want := range map[string]string{":authority": "a.test", "host": "a.test", ":path": "/p", ":method": "GET", "x-a": "one"} {
		if v, ok := FieldValue(h, httpmsg.KeyOf(name)); !ok || string(v) != want {
			t.Errorf("%s is %q, %v, want %q", name, v, ok, want)
		}
	}
	for _, name := range []string{":nothing", "x-b"} {
		if v, ok := FieldValue(h, httpmsg.KeyOf(name)); ok {
			t.Errorf("%s is %q", name, v)
		}
	}
}
