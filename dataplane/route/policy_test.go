// SPDX-License-Identifier: Apache-2.0

package route

import (
	"net/netip"
	"strings"
	"testing"

	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/match"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/accesslog"
)

func withRecord(q *Query) *Query {
	q.Rec = &accesslog.Record{}
	q.Rec.Reset()
	q.Rec.Req = q.Head
	q.Rec.Conn = &accesslog.ConnInfo{Remote: sys.AddrOf(netip.MustParseAddrPort("127.0.0.1:1234")),
		ConnSide: &accesslog.ConnSide{Local: sys.AddrOf(netip.MustParseAddrPort("127.0.0.1:80"))}}
	return q
}

func TestChoose_WhenWeightsComeFromRuntime_ThenTheyOverride(t *testing.T) {
	a, b := &ClusterRef{Name: "a"}, &ClusterRef{Name: "b"}
	f := &Forward{Weighted: &Weighted{Total: 4, RuntimeKeyPrefix: "p",
		Clusters: []WeightedCluster{{Cluster: a, Weight: 1, RuntimeKey: "p.a"}, {Cluster: b, Weight: 3, RuntimeKey: "p.b"}}}}
	draw := func(q *Query) string {
		n := ""
		for i := range uint64(8) {
			q.Rand = i
			if c, ok := f.Choose(q); ok {
				n += c.Ref.Name
			} else {
				n += "-"
			}
		}
		return n
	}
	q := query("GET", "h", "/")
	if got := draw(q); got != "abbbabbb" {
		t.Errorf("configured weights: %s", got)
	}
	set := func(key string, n float64) match.Value { return match.Value{Num: n, IsNum: true} }
	q.Runtime = match.NewRuntime(map[string]match.Value{"p.a": set("a", 2), "p.b": set("b", 0)})
	if got := draw(q); got != "aaaaaaaa" {
		t.Errorf("runtime weights: %s", got)
	}
	q.Runtime = match.NewRuntime(map[string]match.Value{"p.a": set("a", 0), "p.b": set("b", -1)})
	if got := draw(q); got != "--------" {
		t.Errorf("no weight at all: %s", got)
	}
}

// TestHashOf_WhenACookieIsMissing_ThenItIsMadeOnce: value and text as Envoy's.
func TestHashOf_WhenACookieIsMissing_ThenItIsMadeOnce(t *testing.T) {
	ps := []HashPolicy{{Kind: HashCookie, Cookie: "sid", TTL: 30 * sys.Second, Path: "/p", Attrs: []CookieAttr{{"SameSite", "Lax"}, {"Secure", ""}}}}
	q := withRecord(query("GET", "h", "/"))
	h, ok, c := HashOf(ps, q, q.Source())
	if !ok || c == nil {
		t.Fatal("no cookie")
	}
	sum := match.XXHash64([]byte("127.0.0.1:1234127.0.0.1:80"), 0)
	value := string(c.Value[:])
	if h != match.XXHash64(c.Value[:], 0) || len(value) != 16 || value[15] != "0123456789abcdef"[sum&15] || value[0] != "0123456789abcdef"[sum>>60] {
		t.Errorf("hash %x value %s of %x", h, value, sum)
	}
	if got, want := string(c.Append(nil)), `sid="`+value+`"; Max-Age=30; Path=/p; SameSite=Lax; Secure; HttpOnly`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	ps[0].TTL, ps[0].Path, ps[0].Attrs = 0, "", nil
	if _, _, c = HashOf(ps, q, q.Source()); string(c.Append(nil)) != `sid="`+value+`"; HttpOnly` {
		t.Errorf("session cookie: %s", c.Append(nil))
	}
	ps[0].TTL = Unset
	if _, ok, c = HashOf(ps, q, q.Source()); ok || c != nil {
		t.Error("a cookie without ttl is never made")
	}
	q.Head.AddString(httpmsg.IDCookie.Key(), `x=1; sid="abc"`)
	if h, ok, c = HashOf(ps, q, q.Source()); !ok || c != nil || h != match.XXHash64([]byte("abc"), 0) {
		t.Errorf("given cookie: %x %v %v", h, ok, c)
	}
	if _, ok, _ = HashOf([]HashPolicy{{Kind: HashSourceIP}}, q, sys.Addr{Path: "@x"}); ok {
		t.Error("a Unix peer has a source address hash")
	}
}

func TestFromHeaders_WhenTheRequestAsks_ThenThePolicyIsMerged(t *testing.T) {
	r := &Retry{On: RetryReset, Num: 2, Codes: []uint32{418}}
	q := query("GET", "h", "/", "x-envoy-retry-on", "5xx, retriable-status-codes,nope", "x-envoy-retry-grpc-on", "cancelled", "x-envoy-max-retries", "7",
		"x-envoy-retriable-status-codes", "409, x,410", "x-envoy-retriable-header-names", "X-Again, y", "x-envoy-hedge-on-per-try-timeout", "true", "keep", "1")
	var p RetryPlan
	r.FromHeaders(q.Head, &p)
	if p.On != RetryReset|Retry5xx|RetryRetriableStatusCodes|RetryGrpcCancelled || p.Num != 7 {
		t.Errorf("plan %+v", p)
	}
	if !p.RetriableStatus(418) || !p.RetriableStatus(410) || p.RetriableStatus(404) {
		t.Error("codes")
	}
	if !p.RetriableHeaders(query("", "", "", "x-again", "1").Head) || p.RetriableHeaders(query("", "", "", "z", "1").Head) {
		t.Error("header names")
	}
	if q.Head.Live() != 1 {
		t.Errorf("%d headers left, want only keep", q.Head.Live())
	}
	q = query("GET", "h", "/", "x-envoy-max-retries", "9")
	r = &Retry{On: Retry5xx, Num: 1, RequestHeaders: []match.Header{exactHeader("may", "retry")}}
	if r.FromHeaders(q.Head, &p); p.On != 0 {
		t.Error("retriable_request_headers does not hold back")
	}
	if (*Retry)(nil).FromHeaders(query("GET", "h", "/").Head, &p); p.On != 0 {
		t.Error("no policy, no headers, but retries")
	}
	if (*Retry)(nil).FromHeaders(query("GET", "h", "/", "x-envoy-retry-on", "connect-failure").Head, &p); p.On != RetryConnectFailure || p.Num != 1 {
		t.Errorf("headers alone: %+v", p)
	}
}

func TestStatus_WhenAResponseComes_ThenConditionsDecide(t *testing.T) {
	for _, tc := range []struct {
		on      RetryOn
		status  uint16
		headers string
		want    bool
	}{
		{Retry5xx, 500, "", true}, {Retry5xx, 499, "", false}, {RetryGatewayError, 503, "", true}, {RetryGatewayError, 501, "", false},
		{RetryRetriable4xx, 409, "", true}, {RetryRetriable4xx, 404, "", false}, {Retry5xx, 503, "x-envoy-ratelimited", false},
		{RetryEnvoyRateLimited, 503, "x-envoy-ratelimited", true}, {Retry5xx, 503, "x-envoy-overloaded", true},
		{RetryGrpcUnavailable, 200, "grpc-status=14", true}, {RetryGrpcUnavailable, 200, "grpc-status=13", false}, {RetryGrpcCancelled, 200, "", false},
	} {
		p := RetryPlan{On: tc.on, policy: noRetry}
		k, v, _ := strings.Cut(tc.headers, "=")
		h := query("", "", "").Head
		if k != "" {
			h.AddString(httpmsg.KeyOf(k), v)
		}
		h.Status = tc.status
		if got := p.Status(h); got != tc.want {
			t.Errorf("%+v: got %v", tc, got)
		}
	}
}

func TestTimeouts_WhenHeadersAndRouteSpeak_ThenEnvoysRulesHold(t *testing.T) {
	s := sys.Second
	base := Forward{Timeout: 15 * s, MaxGrpcTimeout: Unset, GrpcTimeoutMax: Unset, MaxStream: Unset}
	with := func(fn func(*Forward)) *Forward { f := base; fn(&f); return &f }
	for name, tc := range map[string]struct {
		f       *Forward
		headers []string
		want    Timeouts
	}{
		"route":            {&base, nil, Timeouts{Global: 15 * s}},
		"header":           {&base, []string{"x-envoy-upstream-rq-timeout-ms", "200"}, Timeouts{Global: s / 5, FromHeader: true}},
		"bad header":       {&base, []string{"x-envoy-upstream-rq-timeout-ms", "-1"}, Timeouts{Global: 15 * s}},
		"huge header":      {&base, []string{"x-envoy-upstream-rq-timeout-ms", "18446744073709551615"}, Timeouts{Global: maxMillis * sys.Millisecond, FromHeader: true}},
		"per try":          {with(func(f *Forward) { f.Retry = &Retry{PerTry: 3 * s} }), nil, Timeouts{Global: 15 * s, PerTry: 3 * s}},
		"per try header":   {with(func(f *Forward) { f.Retry = &Retry{PerTry: 3 * s} }), []string{"x-envoy-upstream-rq-per-try-timeout-ms", "1000"}, Timeouts{Global: 15 * s, PerTry: s}},
		"per try too long": {with(func(f *Forward) { f.Retry = &Retry{PerTry: 15 * s} }), nil, Timeouts{Global: 15 * s}},
		"no global":        {with(func(f *Forward) { f.Timeout, f.Retry = 0, &Retry{PerTry: 20 * s} }), nil, Timeouts{PerTry: 20 * s}},
		"new timeouts":     {with(func(f *Forward) { f.NewTimeouts = true }), nil, Timeouts{}},
		"grpc":             {with(func(f *Forward) { f.MaxGrpcTimeout, f.GrpcOffset = 10*s, s }), []string{"content-type", "application/grpc", "grpc-timeout", "3S"}, Timeouts{Global: 2 * s}},
		"grpc capped":      {with(func(f *Forward) { f.MaxGrpcTimeout = 2 * s }), []string{"content-type", "application/grpc", "grpc-timeout", "3S"}, Timeouts{Global: 2 * s}},
		"grpc infinite":    {with(func(f *Forward) { f.MaxGrpcTimeout = 0 }), []string{"content-type", "application/grpc"}, Timeouts{}},
		"not grpc":         {with(func(f *Forward) { f.MaxGrpcTimeout = 2 * s }), []string{"grpc-timeout", "3S"}, Timeouts{Global: 15 * s}},
	} {
		q := query("GET", "h", "/", tc.headers...)
		if got := tc.f.Timeouts(q.Head); got != tc.want {
			t.Errorf("%s: got %+v, want %+v", name, got, tc.want)
		}
	}
	f := with(func(f *Forward) { f.GrpcTimeoutMax, f.GrpcTimeoutOffset, f.MaxStream = 5*s, s, 9*s })
	if got := f.StreamDuration(query("GET", "h", "/", "grpc-timeout", "4S").Head, 7*s); got != 3*s {
		t.Errorf("stream duration by header: %d", got)
	}
	if got := f.StreamDuration(query("GET", "h", "/").Head, 7*s); got != 9*s {
		t.Errorf("stream duration of the route: %d", got)
	}
	if got := base.StreamDuration(query("GET", "h", "/").Head, 7*s); got != 7*s {
		t.Errorf("stream duration by default: %d", got)
	}
	if d, ok := ParseGrpcTimeout([]byte("99999999H")); !ok || d <= 0 {
		t.Errorf("longest grpc-timeout: %d", d)
	}
}

func TestMirrorFinalize_WhenHostHasAPort_ThenTheSuffixGoesBeforeIt(t *testing.T) {
	for _, tc := range []struct {
		m          Mirror
		host, want string
	}{
		{Mirror{}, "a.test", "a.test-shadow"}, {Mirror{}, "a.test:80", "a.test-shadow:80"}, {Mirror{}, "[::1]:80", "[::1]-shadow:80"},
		{Mirror{KeepHost: true}, "a.test", "a.test"}, {Mirror{HostLiteral: "m"}, "a.test", "m"},
	} {
		q := query("GET", tc.host, "/")
		tc.m.Finalize(q.Head, nil)
		if got := string(q.Head.Host()); got != tc.want {
			t.Errorf("%s: got %s, want %s", tc.host, got, tc.want)
		}
	}
}

// TestFinalize_WhenARequestIsPlain_ThenNothingIsAllocated: literal and formatted mutations, prefix and host rewrite, redirect.
func TestFinalize_WhenARequestIsPlain_ThenNothingIsAllocated(t *testing.T) {
	format, err := accesslog.CompileHeader("[%REQ(X-A)%]")
	if err != nil {
		t.Fatal(err)
	}
	lit, dyn := NewHeaderOp("x-lit", false), NewHeaderOp("x-dyn", false)
	lit.Literal, lit.Action, dyn.Format = "v", OverwriteIfExistsOrAdd, format
	e := &Entry{Path: PathMatch{Text: "/api"}, Forward: &Forward{Cluster: &ClusterRef{}, PrefixRewrite: "/", HasPrefixRewrite: true, HostLiteral: "up.test", AppendXFH: true},
		Mutations: Mutations{Request: HeaderOps{Remove: []httpmsg.Key{httpmsg.KeyOf("x-b")}, Add: []HeaderOp{lit, dyn}}}}
	tab := table(e)
	red := &Redirect{HTTPS: true}
	q := withRecord(query("GET", "h.test", "/api/x?y", "x-a", "1", "x-b", "2"))
	arena, saved := q.Head.A, *q.Head
	list := append([]httpmsg.Field(nil), q.Head.List...)
	n := arena.Len()
	var location []byte
	if got := testing.AllocsPerRun(100, func() {
		arena.Truncate(n)
		fields := append(q.Head.List[:0], list...)
		*q.Head = saved
		q.Head.List = fields
		JoinRepeated(q.Head)
		e, _, _ := tab.Match(q)
		c, _ := e.Forward.Choose(q)
		e.FinalizeRequest(&c, q.Head, q)
		e.FinalizeResponse(&c, q.Head, q)
		location = red.Location(location[:0], q.Head, q)
	}); got != 0 {
		t.Errorf("%v allocations", got)
	}
	if string(q.Head.Path()) != "//x?y" || string(q.Head.Host()) != "up.test" || string(location) != "https://up.test//x?y" {
		t.Errorf("path %s host %s location %s", q.Head.Path(), q.Head.Host(), location)
	}
	for name, want := range map[string]string{"x-lit": "v", "x-dyn": "[1]", "x-forwarded-host": "h.test", "x-envoy-original-path": "/api/x?y", "x-envoy-original-host": "h.test"} {
		if v, _ := q.Head.GetKey(httpmsg.KeyOf(name)); string(v) != want {
			t.Errorf("%s: %q, want %q", name, v, want)
		}
	}
}

func TestJoinRepeated_WhenHeadersRepeat_ThenOnlyEnvoysSingleLinesAreJoined(t *testing.T) {
	h := query("GET", "h", "/", "x-forwarded-for", "a", "x-o", "1", "x-forwarded-for", "b", "if-match", "m", "x-o", "2", "if-match", "n", "cookie", "c=1", "cookie", "d=2",
		"x-forwarded-for", "c").Head
	JoinRepeated(h)
	var got []string
	for i := range h.List {
		if !h.List[i].Dead {
			got = append(got, string(h.Name(i))+"="+string(h.Value(i)))
		}
	}
	if s := strings.Join(got, " "); s != "x-forwarded-for=a,b,c x-o=1 if-match=m,n x-o=2 cookie=c=1 cookie=d=2" {
		t.Error(s)
	}
}

func TestApply_WhenAPeersValueHasLineEnds_ThenNoHeaderIsInjected(t *testing.T) {
	f, err := accesslog.CompileHeader("%DYNAMIC_METADATA(ns:tlv)%")
	if err != nil {
		t.Fatal(err)
	}
	q := withRecord(query("GET", "h", "/"))
	q.Rec.DynamicMeta = map[string]any{"ns": map[string]any{"tlv": "a\r\nx-evil: 1\x00"}} // a TLV of the PROXY protocol is any bytes
	op := NewHeaderOp("x-tlv", false)
	op.Format = f
	(&HeaderOps{Add: []HeaderOp{op}}).Apply(q.Head, q.Rec)
	i := q.Head.FindKey(op.Key, 0)
	if i < 0 {
		t.Fatal("no header")
	}
	if v := string(q.Head.Value(i)); v != "a  x-evil: 1 " {
		t.Errorf("the value is %q", v)
	}
}

func TestRewritePath_WhenTheFormattedValueHasBlanks_ThenTheRequestLineStaysWhole(t *testing.T) {
	f, err := accesslog.CompileHeader("/p/%REQ(x-part)%")
	if err != nil {
		t.Fatal(err)
	}
	q := withRecord(query("GET", "h", "/old?a=b"))
	q.Head.AddString(httpmsg.KeyOf("x-part"), "x HTTP/1.1")
	(&Entry{}).rewritePath(&Forward{PathFormat: f}, q.Head, q)
	if got := string(q.Head.Path()); got != "/p/x%20HTTP/1.1?a=b" {
		t.Errorf("the target is %q", got)
	}
}
