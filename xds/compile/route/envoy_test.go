// SPDX-License-Identifier: Apache-2.0

package routeconfig

import (
	"bufio"
	"encoding/json"
	"net/netip"
	"os"
	"slices"
	"testing"

	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/route"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/accesslog"
)

// recorded is one route configuration and what Envoy 1.40 made of requests under it (testdata/envoy-1.40.jsonl, one per line). The recording
// listener had use_remote_address and counted 127.0.0.1 as internal.
type recorded struct {
	Config   json.RawMessage `json:"config"`
	Requests []exchange      `json:"requests"`
}

// exchange is one request and its outcome. Fields lists what the upstream (or, for Answer, the client) got beside what was sent.
type exchange struct {
	Method, Host, Path string
	Sent               [][2]string `json:",omitempty"`

	Status   int
	Location string      `json:",omitempty"`
	UpHost   string      `json:",omitempty"`
	UpPath   string      `json:",omitempty"`
	Upstream [][2]string `json:",omitempty"`
	Answer   [][2]string `json:",omitempty"`
}

// ofHCM are fields that the connection manager or the router set, not the route.
var ofHCM = map[string]bool{
	"x-forwarded-proto": true, "x-request-id": true, "x-envoy-expected-rq-timeout-ms": true, "x-forwarded-for": true, "x-envoy-internal": true,
	"x-envoy-external-address": true,
}

func TestRoutes_WhenRequestsAreSent_ThenTheOutcomeIsTheOneRecordedFromEnvoy(t *testing.T) {
	f, err := os.Open("testdata/envoy-1.40.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	n, bad := 0, 0
	for lines.Scan() {
		var rec recorded
		if err := json.Unmarshal(lines.Bytes(), &rec); err != nil {
			t.Fatal(err)
		}
		tab, _, err := Compile(newContext(), parse(t, string(rec.Config)), "")
		if err != nil {
			t.Errorf("refused: %v\n%s", err, rec.Config)
			continue
		}
		for _, want := range rec.Requests {
			got := replay(tab, want)
			n++
			g, _ := json.Marshal(got)
			w, _ := json.Marshal(want)
			if string(g) == string(w) {
				continue
			}
			if bad++; bad < 20 {
				t.Errorf("%s\n  got  %s\n  want %s", rec.Config, g, w)
			}
		}
	}
	if n < 1000 {
		t.Errorf("only %d recorded requests", n)
	}
}

// replay routes one request as the exchange does and describes the outcome.
func replay(tab *route.Table, in exchange) exchange {
	out := exchange{Method: in.Method, Host: in.Host, Path: in.Path, Sent: in.Sent}
	q := request(in.Method, in.Host, in.Path)
	answer := request("", "", "").Head
	for _, h := range in.Sent {
		if k := httpmsg.KeyOf(h[0]); len(k.Name) > 5 && k.Name[:5] == "resp-" {
			answer.AddString(httpmsg.KeyOf(k.Name[5:]), h[1])
			q.Head.AddString(k, h[1])
		} else {
			q.Head.AddString(k, h[1])
		}
	}
	q.Head.SetString(httpmsg.IDForwardedProto.Key(), "http")
	route.JoinRepeated(q.Head)
	rec := &accesslog.Record{}
	rec.Reset()
	rec.Req, rec.Resp, rec.Protocol = q.Head, answer, "HTTP/1.1"
	rec.Conn = &accesslog.ConnInfo{Remote: sys.AddrOf(netip.MustParseAddrPort("127.0.0.1:1234"))}
	q.Rec = rec
	e, _, verdict := tab.Match(q)
	switch {
	case verdict == route.TLSRedirect:
		out.Status, out.Location = 301, string(route.TLSLocation(nil, q.Head, q))
	case verdict == route.NotFound:
		out.Status = 404
	case e.Kind == route.ActionRedirect:
		out.Status, out.Location = int(e.Redirect.Code), string(e.Redirect.Location(nil, q.Head, q))
	case e.Kind == route.ActionDirect:
		out.Status = int(e.Direct.Status)
		if b, ok := e.Direct.Location(nil, q.Head, q); ok {
			answer.Add(httpmsg.IDLocation.Key(), b)
		}
		e.FinalizeResponse(nil, answer, q)
		out.Location = string(answer.Get(httpmsg.IDLocation))
	case e.Kind == route.ActionNonForwarding:
		out.Status = 503
	default:
		c, ok := e.Forward.Choose(q)
		if !ok {
			out.Status = 503
			break
		}
		e.FinalizeRequest(&c, q.Head, q)
		rec.Code, answer.Status = 200, 200
		e.FinalizeResponse(&c, answer, q)
		out.Status, out.UpHost, out.UpPath = 200, string(q.Head.Host()), string(q.Head.Path())
		out.Upstream, out.Answer = fields(q.Head, in.Sent), fields(answer, nil)
	}
	return out
}

// fields lists the fields of a head in sorted order, without those of the connection manager and those that are as they were sent.
func fields(h *httpmsg.Head, sent [][2]string) [][2]string {
	var out [][2]string
	for i := range h.List {
		f := [2]string{string(h.Name(i)), string(h.Value(i))}
		if !h.List[i].Dead && !ofHCM[f[0]] && !slices.Contains(sent, f) {
			out = append(out, f)
		}
	}
	slices.SortFunc(out, func(a, b [2]string) int { return slices.Compare(a[:], b[:]) })
	return out
}
