// SPDX-License-Identifier: Apache-2.0

package grpcweb

import (
	"encoding/base64"
	"testing"

	"sidecar/dataplane/filter"
	"sidecar/dataplane/httpmsg"
	"sidecar/internal/telemetry/stats"
)

// nobody is an exchange whose request goes to no cluster.
type nobody struct{ filter.Stream }

func (nobody) ClusterStats([]byte, *stats.Def) *stats.Block { return nil }

// rig is a request whose pieces the test plays.
type rig struct {
	f          *Factory
	c          filter.Ctx
	s          filter.HTTP
	req, resp  httpmsg.Head
	reqA, repA httpmsg.Arena
	d          filter.Data
}

func newRig(r *rig, contentType, accept string) {
	r.reqA.Reset(1 << 20)
	r.repA.Reset(1 << 20)
	r.req.Reset(&r.reqA)
	r.resp.Reset(&r.repA)
	r.req.SetPath([]byte("/pkg.Svc/M"))
	r.req.AddString(keyContentType, contentType)
	r.req.AddString(httpmsg.IDAccept.Key(), accept)
	r.resp.Status = 200
	r.resp.AddString(keyContentType, "application/grpc")
	r.c = filter.Ctx{S: nobody{}, Shard: 1, Req: &r.req, Resp: &r.resp}
	r.s = r.f.New(&r.c)
	r.s.OnHead(&r.c, filter.Request, &r.req, false)
}

// pass plays one piece of content and returns what is made of it.
func (r *rig) pass(d filter.Dir, p []byte, end bool) ([]byte, filter.Verdict) {
	r.d.Set(p)
	v := r.s.OnData(&r.c, d, &r.d, end)
	return r.d.Bytes, v
}

const text = "application/grpc-web-text"

func TestText_WhenTheRequestIsCutAnywhere_ThenTheSameContent(t *testing.T) {
	const want = "\x00\x00\x00\x00\x02hi\x00\x00\x00\x00\x03you!"
	in := []byte(base64.StdEncoding.EncodeToString([]byte(want[:7])) + base64.StdEncoding.EncodeToString([]byte(want[7:])))
	r := &rig{f: New(1)}
	for cut := range len(in) {
		newRig(r, text, "")
		a, _ := r.pass(filter.Request, in[:cut], false)
		got := string(a)
		b, v := r.pass(filter.Request, in[cut:], true)
		if got += string(b); got != want || v != filter.Continue {
			t.Fatalf("cut at %d: %q, verdict %d", cut, got, v)
		}
		r.s.OnDone(&r.c)
	}
}

func TestText_WhenTheRequestIsNoBase64_Then400(t *testing.T) {
	for in, details := range map[string]string{"AAA": "grpc_base_64_decode_failed_bad_size", "AA!A": "grpc_base_64_decode_failed", "A===": "grpc_base_64_decode_failed",
		"AA\r\nAA==": "grpc_base_64_decode_failed", "====": "grpc_base_64_decode_failed", "AA=A": "grpc_base_64_decode_failed"} {
		r := &rig{f: New(1)}
		newRig(r, text, "")
		if _, v := r.pass(filter.Request, []byte(in), true); v != filter.Reply || r.c.Local.Status != 400 || r.c.Local.Details != details {
			t.Errorf("%q: verdict %d, %d %s", in, v, r.c.Local.Status, r.c.Local.Details)
		}
	}
}

func TestText_WhenTheResponseIsCutAnywhere_ThenEachFrameIsEncodedOnItsOwn(t *testing.T) {
	in := []byte("\x00\x00\x00\x00\x02hi\x00\x00\x00\x00\x00\x00\x00\x00\x00\x04last")
	want := base64.StdEncoding.EncodeToString(in[:7]) + base64.StdEncoding.EncodeToString(in[7:12]) + base64.StdEncoding.EncodeToString(in[12:]) +
		base64.StdEncoding.EncodeToString([]byte("\x80\x00\x00\x00\x0fgrpc-status:0\r\n"))
	r := &rig{f: New(1)}
	for cut := range len(in) {
		newRig(r, text, text)
		r.s.OnHead(&r.c, filter.Response, &r.resp, false)
		got := ""
		for _, p := range [][]byte{in[:cut], in[cut:]} {
			b, _ := r.pass(filter.Response, p, false)
			got += string(b)
		}
		var tr httpmsg.Fields
		tr.Reset(&r.repA)
		tr.AddString(keyStatus, "0")
		r.s.OnTrailers(&r.c, filter.Response, &tr)
		if got += string(r.c.Added); len(tr.List) != 0 || got != want {
			t.Fatalf("cut at %d: %q", cut, got)
		}
		r.s.OnDone(&r.c)
	}
}

func TestAllocs_WhenTextPasses_ThenNone(t *testing.T) {
	r := &rig{f: New(1)}
	in, out := []byte("AAAAAAJoaQ=="), []byte("\x00\x00\x00\x00\x02hi")
	var tr httpmsg.Fields
	if n := testing.AllocsPerRun(100, func() {
		newRig(r, text, text)
		r.pass(filter.Request, in, true)
		r.s.OnHead(&r.c, filter.Response, &r.resp, false)
		r.pass(filter.Response, out, false)
		tr.Reset(&r.repA)
		tr.AddString(keyStatus, "0")
		r.s.OnTrailers(&r.c, filter.Response, &tr)
		r.s.OnDone(&r.c)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
