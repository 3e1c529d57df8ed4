// SPDX-License-Identifier: Apache-2.0

package grpcbridge

import (
	"testing"

	"sidecar/dataplane/filter"
	"sidecar/dataplane/httpmsg"
)

// rig is a request whose pieces the test plays.
type rig struct {
	f          *Factory
	c          filter.Ctx
	s          filter.HTTP
	req, resp  httpmsg.Head
	reqA, repA httpmsg.Arena
	tr         httpmsg.Fields
	d          filter.Data
}

func (r *rig) start(v httpmsg.Version, contentType string) filter.Verdict {
	r.reqA.Reset(1 << 20)
	r.repA.Reset(1 << 20)
	r.req.Reset(&r.reqA)
	r.resp.Reset(&r.repA)
	r.tr.Reset(&r.repA)
	r.req.Version, r.req.Body = v, httpmsg.BodyLength
	r.req.SetPath([]byte("/pkg.Svc/M?q=1"))
	r.req.AddString(keyContentType, contentType)
	r.resp.Status, r.resp.Body = 200, httpmsg.BodyChunked
	r.resp.AddString(keyContentType, "application/grpc")
	r.c = filter.Ctx{Shard: 1, Req: &r.req, Resp: &r.resp}
	r.s = r.f.New(&r.c)
	return r.s.OnHead(&r.c, filter.Request, &r.req, false)
}

// pass plays the content in one piece and returns what is made of it.
func (r *rig) pass(d filter.Dir, p string) string {
	r.d.Set([]byte(p))
	r.s.OnData(&r.c, d, &r.d, true)
	return string(r.d.Bytes)
}

// Envoy changes the content type of such a request and leaves its content without a frame.
func TestProtobuf_WhenItComesOverHTTP2_ThenFramedBothWaysAndTrailersStay(t *testing.T) {
	r := &rig{f: New(Config{UpgradeProtobuf: true, IgnoreQuery: true}, 1)}
	if v := r.start(httpmsg.HTTP2, "application/x-protobuf"); v != filter.Buffer {
		t.Fatalf("verdict %d", v)
	}
	if got := r.pass(filter.Request, "hi"); got != "\x00\x00\x00\x00\x02hi" || string(r.req.Path()) != "/pkg.Svc/M" {
		t.Errorf("request %q of %s", got, r.req.Path())
	}
	if v := r.s.OnHead(&r.c, filter.Response, &r.resp, false); v != filter.Buffer {
		t.Fatalf("verdict %d", v)
	}
	if got := r.pass(filter.Response, "\x00\x00\x00\x00\x02ok"); got != "ok" {
		t.Errorf("response %q", got)
	}
	r.tr.AddString(keyStatus, "5")
	r.s.OnTrailers(&r.c, filter.Response, &r.tr)
	if r.resp.Status != 200 || r.resp.Get(httpmsg.IDGrpcStatus) != nil {
		t.Errorf("status %d, grpc-status %q", r.resp.Status, r.resp.Get(httpmsg.IDGrpcStatus))
	}
	r.s.OnDone(&r.c)
}

func TestGRPC_WhenItComesOverHTTP2_ThenUntouched(t *testing.T) {
	r := &rig{f: New(Config{UpgradeProtobuf: true}, 1)}
	if v := r.start(httpmsg.HTTP2, "application/grpc"); v != filter.Continue {
		t.Fatalf("verdict %d", v)
	}
	if v := r.s.OnHead(&r.c, filter.Response, &r.resp, false); v != filter.Continue {
		t.Fatalf("verdict %d", v)
	}
}

func TestIsOK(t *testing.T) {
	for v, want := range map[string]bool{"0": true, "00": true, "+0": true, " 0 ": true, "": false, "+": false, "-0": false, "1": false, "0x": false, "10": false} {
		if isOK([]byte(v)) != want {
			t.Errorf("%q: %v", v, !want)
		}
	}
}

func TestAllocs_WhenACallIsBridged_ThenNone(t *testing.T) {
	r := &rig{f: New(Config{UpgradeProtobuf: true}, 1)}
	in, out, ok := []byte("hello"), []byte("\x00\x00\x00\x00\x02hi"), httpmsg.HTTP11
	if n := testing.AllocsPerRun(100, func() {
		r.start(ok, "application/x-protobuf")
		r.d.Set(in)
		r.s.OnData(&r.c, filter.Request, &r.d, true)
		r.s.OnHead(&r.c, filter.Response, &r.resp, false)
		r.d.Set(out)
		r.s.OnData(&r.c, filter.Response, &r.d, false)
		r.tr.AddString(keyStatus, "0")
		r.s.OnTrailers(&r.c, filter.Response, &r.tr)
		r.s.OnDone(&r.c)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
