// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"sidecar/dataplane/fault"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/sys"
)

func addr(s string) sys.Addr {
	if s == "" || s == "-" {
		return sys.Addr{}
	}
	return sys.AddrOf(netip.MustParseAddrPort(s))
}

func head(method, path, host string, fields ...string) *httpmsg.Head {
	h := &httpmsg.Head{}
	h.Reset(&httpmsg.Arena{})
	if method != "" {
		h.MethodName, h.Target = h.A.PutString(method), h.A.PutString(path)
		h.Authority, h.Scheme = h.A.PutString(host), h.A.PutString("http")
	}
	for i := 0; i < len(fields); i += 2 {
		h.AddString(key(fields[i]), fields[i+1])
	}
	return h
}

// golden is what a running Envoy 1.40 wrote for one request or connection: by operator, the value in a JSON log and in a text log.
type golden map[string][2]string

func goldens(t *testing.T) map[string]golden {
	raw, err := os.ReadFile("testdata/envoy.json")
	if err != nil {
		t.Fatal(err)
	}
	var g map[string]golden
	if err := json.Unmarshal(raw, &g); err != nil {
		t.Fatal(err)
	}
	return g
}

func (g golden) text(op string) string { return g["%"+op+"%"][1] }

func (g golden) num(op string) uint64 { n, _ := strconv.ParseUint(g.text(op), 10, 64); return n }

// base fills what all recorded cases share and what only the clock and the kernel decided.
func (g golden) base() *Record {
	r := &Record{}
	r.Reset()
	sec, ns, _ := strings.Cut(g.text("START_TIME(%s.%9f)"), ".")
	s, _ := strconv.ParseInt(sec, 10, 64)
	n, _ := strconv.ParseInt(ns, 10, 64)
	r.Start = s*1e9 + n
	local, remote := addr(g.text("DOWNSTREAM_LOCAL_ADDRESS")), addr(g.text("DOWNSTREAM_REMOTE_ADDRESS"))
	r.Conn = NewConnInfo(g.num("CONNECTION_ID"), r.Start, remote, local)
	r.Conn.ConnSide = &ConnSide{Local: local, DirectLocal: local, Listener: g.text("LISTENER_NAME"), FilterChain: "fcname",
		ListenerMeta: map[string]any{"l": map[string]any{"k": "lv"}}, FilterChainMeta: map[string]any{"fc": map[string]any{"k": "fcv"}}}
	r.End = int64(g.num("DURATION")) * 1e6
	r.Down.WireIn, r.Down.WireOut = g.num("DOWNSTREAM_WIRE_BYTES_RECEIVED"), g.num("DOWNSTREAM_WIRE_BYTES_SENT")
	r.Down.HeadIn, r.Down.HeadOut = g.num("DOWNSTREAM_HEADER_BYTES_RECEIVED"), g.num("DOWNSTREAM_HEADER_BYTES_SENT")
	r.Down.PlainIn, r.Down.PlainOut = g.num("DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED"), g.num("DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT")
	return r
}

func upstream(r *Record, host string) {
	r.UpstreamHost, r.Cluster, r.ClusterRaw, r.Attempts = addr(host), "b1alt", "b1", 1
	r.ClusterMeta = map[string]any{"c": map[string]any{"k": "cv", "n": 1.25}}
	r.HostMeta = map[string]any{"h": map[string]any{"k": "hv"}}
}

func (g golden) http(code uint16, details string, req, resp *httpmsg.Head) *Record {
	r := g.base()
	r.Protocol, r.Code, r.Details, r.Req, r.Resp, r.Type = "HTTP/1.1", code, details, req, resp, DownstreamEnd
	r.LastDownTx, r.FirstDownTx, r.LastDownRx = r.End+1, r.End, 0
	if req.MethodName.Len > 0 {
		r.FilterState = map[string]string{"k": `v"al`}
		r.VHostMeta = map[string]any{"v": map[string]any{"k": "vv"}}
	}
	return r
}

var routeMeta = map[string]any{"ns": map[string]any{"s": "strvalue", "i": 5.0, "f": 1.5, "big": 12345678901234.0, "huge": 1e21, "small": 0.1,
	"t": true, "l": []any{1.0, "a", nil, 2.5}, "m": map[string]any{"x": "y", "b": 1.0, "a": map[string]any{"q": "w"}}, "n": nil,
	"q": "a\"b\\c\td"}}

func records(all map[string]golden) map[string]*Record {
	out := map[string]*Record{}
	g := all["http0"]
	r := g.http(200, "via_upstream", head("GET", "/w/p?q=v%20al&e=&a%20b=1+2", "ex.test:80", "x-a", "abcdef", "user-agent", `ua"x`,
		"x-envoy-original-path", "/r/p?q=v%20al&e=&a%20b=1+2"), head("", "", "", "server", "envoy"))
	r.Resp.Status, r.BytesOut, r.RouteName, r.RouteMeta = 200, 2, "rt", routeMeta
	upstream(r, "127.0.0.1:24503")
	r.UpstreamHostName, r.UpstreamRemote, r.UpstreamProtocol = "hn:88", r.UpstreamHost, "HTTP/1.1"
	out["http0"] = r

	g = all["http1"]
	r = g.http(200, "direct_response", head("POST", "/d", "ex.test", "content-type", "application/grpc"),
		head("", "", "", "server", "envoy", "grpc-status", "2"))
	r.Resp.Status, r.RouteMeta = 200, routeMeta
	out["http1"] = r

	g = all["http2"]
	r = g.http(503, g.text("RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)"), head("GET", "/x", "ex.test", "x-envoy-original-host", "orig.test"),
		head("", "", "", "server", "envoy"))
	r.Resp.Status, r.BytesOut, r.Flags = 503, 98, fault.FlagUF
	upstream(r, "127.0.0.1:24599")
	out["http2"] = r

	g = all["http5"]
	r = g.http(400, "http1.codec_error", head("", "", ""), head("", "", "", "server", "envoy"))
	r.Resp.Status, r.BytesOut, r.Flags = 400, 11, fault.FlagDPE
	out["http5"] = r

	for name, host := range map[string]string{"tcp0": "127.0.0.1:24503", "tcpdead0": "127.0.0.1:24599"} {
		g = all[name]
		r = g.base()
		r.Type = TCPConnectionEnd
		r.BytesIn, r.BytesOut = g.num("BYTES_RECEIVED"), g.num("BYTES_SENT")
		upstream(r, host)
		if name == "tcp0" {
			r.UpstreamRemote, r.UpstreamHostName = r.UpstreamHost, "hn:88"
		} else {
			r.Flags = fault.FlagUF | fault.FlagURX
			r.Conn.Own().LocalClose = "tcp_initializion_failure:0"
		}
		out[name] = r
	}
	return out
}

func TestAppend_WhenEnvoyWroteTheSameRequest_ThenTextAndJSONAreEqual(t *testing.T) {
	t.Setenv("GOLDV", "gold-value")
	all := goldens(t)
	for name, r := range records(all) {
		checked := 0
		for tmpl, want := range all[name] {
			if strings.HasPrefix(tmpl, "%EMIT_TIME") {
				continue // the moment of formatting, which no record knows
			}
			checked++
			f, err := Compile(tmpl)
			if err != nil {
				t.Errorf("%s: %v", tmpl, err)
				continue
			}
			if got := string(f.Append(nil, r)); got != want[1] {
				t.Errorf("%s text %s: got %q, Envoy %q", name, tmpl, got, want[1])
			}
			j, err := CompileJSON(map[string]any{"k": tmpl}, false)
			if err != nil {
				t.Fatal(err)
			}
			if got, wantJ := string(j.Append(nil, r)), `{"k":`+want[0]+"}\n"; got != wantJ {
				t.Errorf("%s JSON %s: got %s, Envoy %s", name, tmpl, got, wantJ)
			}
		}
		if checked < 100 {
			t.Errorf("%s: only %d operators compared", name, checked)
		}
	}
}

func TestCompileJSON_WhenTreeIsNested_ThenLineIsEnvoys(t *testing.T) {
	tree := map[string]any{"lit": map[string]any{"n": 5.0, "f": 1.5, "b": true, "z": nil, "s": "x\"y", "neg": -3.0, "big": 1e20},
		"l": []any{"%PROTOCOL%", "%REQ(zz)%", 1.0, []any{}, map[string]any{}}, "o": map[string]any{"a": "%REQ(zz)%", "b": map[string]any{"c": "%REQ(zz)%"}},
		"mix": "%REQ(zz)% %PROTOCOL%", "Z": "1", "a": "2", "_": "3", "esc": "%REQ(x-esc)%", "esc2": "p%REQ(x-esc)%", "empty": "", "é": "ü", "k\"": "v"}
	r := &Record{}
	r.Reset()
	r.Protocol = "HTTP/1.1"
	r.Req = head("GET", "/", "h", "x-esc", "q\"b\\t\xc3\xa9\xff/<>\tz")
	for _, tc := range []struct {
		omit bool
		want string
	}{
		{false, `{"Z":"1","_":"3","a":"2","empty":"","esc":"q\u0022b\u005ct\u00c3\u00a9\u00ff/<>\u0009z","esc2":"pq\u0022b\u005ct\u00c3\u00a9\u00ff/<>\u0009z","k\"":"v","l":["HTTP/1.1",null,1,[],{}],"lit":{"b":true,"big":1e+20,"f":1.5,"n":5,"neg":-3,"s":"x\"y","z":null},"mix":"- HTTP/1.1","o":{"a":null,"b":{"c":null}},"é":"ü"}` + "\n"},
		{true, `{"Z":"1","_":"3","a":"2","empty":"","esc":"q\u0022b\u005ct\u00c3\u00a9\u00ff/<>\u0009z","esc2":"pq\u0022b\u005ct\u00c3\u00a9\u00ff/<>\u0009z","k\"":"v","l":["HTTP/1.1",1,[]],"lit":{"b":true,"big":1e+20,"f":1.5,"n":5,"neg":-3,"s":"x\"y"},"mix":" HTTP/1.1","é":"ü"}` + "\n"},
	} {
		f, err := CompileJSON(tree, tc.omit)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(f.Append(nil, r)); got != tc.want {
			t.Errorf("omit %v:\n%s\n%s", tc.omit, got, tc.want)
		}
	}
}

func TestCompileJSON_WhenValueNeedsEscapes_ThenFormIsEnvoys(t *testing.T) {
	f, err := CompileJSON(map[string]any{"a": "%REQ(x)%", "b": "p%REQ(x)%", "d": "%QUERY_PARAMS(DECODED)%", "q": "%QUERY_PARAM(x)%"}, false)
	if err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]string{
		`q"b`: `q\"b`, `a\b`: `a\\b`, "a\tb": `a\tb`, "\xc3\xa9": "\xc3\xa9", "\xc3\xa9\"\\\t\x01": "\xc3\xa9" + `\"\\\t\u0001`, "\xff\"": `\u00ff\u0022`,
		"</>&'": "</>&'", "\U0001f600": "\U0001f600",
	} {
		r := &Record{Req: head("GET", "/?q=%41%20%2B+%7e~!$&x=%2&x=%zz&y", "h", "x", in)}
		got := string(f.Append(nil, r))
		if want := `{"a":"` + want + `","b":"p` + want + `","d":"q=A%20++~~!$&x=2&x=zz&y","q":"%2"}` + "\n"; got != want {
			t.Errorf("%q:\n got %s want %s", in, got, want)
		}
	}
}

func TestDefault_WhenHTTPAndTCP_ThenLineIsEnvoysByteForByte(t *testing.T) {
	all := goldens(t)
	recs := records(all)
	recs["http0"].Resp.AddString(key("x-envoy-upstream-service-time"), "1")
	recs["http0"].Req.AddString(key("x-request-id"), "6db0abd2-17c6-47c7-956b-a737e64ce066")
	for name, want := range map[string]string{
		"http0":    `[2026-11-21T09:44:43.638Z] "GET /r/p?q=v%20al&e=&a%20b=1+2 HTTP/1.1" 200 - 0 2 1 1 "-" "ua"x" "6db0abd2-17c6-47c7-956b-a737e64ce066" "ex.test:80" "127.0.0.1:24503"` + "\n",
		"http5":    `[2026-11-21T09:44:45.151Z] "- - HTTP/1.1" 400 DPE 0 11 0 - "-" "-" "-" "-" "-"` + "\n",
		"tcpdead0": `[2026-11-21T09:44:46.053Z] "- - -" 0 UF,URX 0 0 1 - "-" "-" "-" "-" "127.0.0.1:24599"` + "\n",
	} {
		if got := string(Default().Append(nil, recs[name])); got != want {
			t.Errorf("%s\ngot  %swant %s", name, got, want)
		}
	}
}

func TestCompile_WhenSyntaxIsWrong_ThenErrorSaysWhatAndWhere(t *testing.T) {
	for tmpl, want := range map[string]string{
		"%FOO%": "FOO", "%REQ%": "REQ requires parameters", "%REQ()%": "REQ requires parameters", "%PROTOCOL(x)%": "does not take any parameters",
		"%DURATION:3%": "does not take any parameters", "%START_TIME(%n)%": "newline", "%START_TIME(x):3%": "length", "%REQ(a?b?c)%": "alternative",
		"abc%": "position 3", "%REQ(a": "position 0", "%protocol%": "position 0", "%REQ(a b)%": "invalid characters", "%REQ(a):x%": "position 0",
		"%METADATA(FOO:a)%": "FOO is not supported", "%FILTER_STATE()%": "empty", "%FILTER_STATE(a:FOO)%": "PLAIN/TYPED/FIELD",
		"%COMMON_DURATION(DS_RX_BEG)%": "DS_RX_BEG", "%COMMON_DURATION(a:b:xs)%": "xs", "%GRPC_STATUS(FOO)%": "FOO", "%PATH(x)%": "'WQ'/'NQ'",
		`%COALESCE({"operators":["FOO"]})%`: "FOO", `%COALESCE({})%`: "operators", `%COALESCE(x)%`: "parse", `%COALESCE({"operators":[]})%`: "empty",
		`%COALESCE({"operators":[5]})%`: "index 0", "%CEL(request.path)%": "CEL", "%REQ(a)%%REQ(b)": "position 8", "%%%": "position 2",
		"%DYNAMIC_METADATA()%": "requires parameters",
	} {
		if _, err := Compile(tmpl); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", tmpl, err, want)
		}
	}
	if _, err := CompileJSON(map[string]any{"a": map[string]any{"b": []any{"%NOPE%"}}}, false); err == nil || !strings.HasPrefix(err.Error(), "a.b[0]: ") {
		t.Errorf("no path: %v", err)
	}
}

func TestCompileHeader_WhenValueIsAbsent_ThenEmptyAndOldSpellingsWork(t *testing.T) {
	r := goldenRecord(t)
	for tmpl, want := range map[string]string{
		"[%REQ(zz)%]": "[]", "%RESPONSE_FLAGS%": "-", `%UPSTREAM_METADATA(["h", "k"])%`: "hv", "%PER_REQUEST_STATE(k)%": `v"al`, "a%%b": "a%b",
		"%UPSTREAM_METADATA(h:k)%": "hv", "%CLUSTER_METADATA(c:k):1%": "c",
	} {
		f, err := CompileHeader(tmpl)
		if err != nil {
			t.Errorf("%s: %v", tmpl, err)
			continue
		}
		if got := string(f.AppendHeader(nil, r)); got != want {
			t.Errorf("%s: got %q want %q", tmpl, got, want)
		}
	}
	if f := must(Compile("a%%b")); true {
		if s, ok := f.Literal(); !ok || s != "a%b" {
			t.Errorf("literal %q %v", s, ok)
		}
	}
	if _, ok := must(Compile("%PROTOCOL%")).Literal(); ok {
		t.Error("an operator is no literal")
	}
}

func goldenRecord(t *testing.T) *Record { return records(goldens(t))["http0"] }

func TestStartTime_WhenPatternIsGiven_ThenPrintedAsStrftime(t *testing.T) {
	r := &Record{Start: time.Date(2024, 1, 5, 3, 4, 5, 60_700_000, time.UTC).UnixNano()}
	for pattern, want := range map[string]string{
		"%d|%-d|%_d|%e|%H|%-H|%k": "05|5| 5| 5|03|3| 3", "%^b %^A": "JAN FRIDAY", "%s.%3f": "1704423845.060", "%E*S": "05.0607", "%I%p": "03AM",
		"%U %W %V %G %u %w %j": "00 01 01 2024 5 5 005", "100%": "100%", "%Q": "%Q",
	} {
		f, err := Compile("%START_TIME(" + pattern + ")%")
		if err != nil {
			t.Fatal(err)
		}
		if got := string(f.Append(nil, r)); got != want {
			t.Errorf("%s: got %q want %q", pattern, got, want)
		}
	}
}

func TestAppend_WhenBufferIsLargeEnough_ThenNothingIsAllocated(t *testing.T) {
	r := goldenRecord(t)
	tree := map[string]any{}
	var text strings.Builder
	for tmpl := range goldens(t)["http0"] {
		tree[tmpl] = tmpl
		text.WriteString(tmpl)
	}
	j, err := CompileJSON(tree, true)
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]*Format{"text": must(Compile(text.String())), "json": j, "default": Default()} {
		b := make([]byte, 0, 64<<10)
		if n := testing.AllocsPerRun(50, func() { b = f.Append(b[:0], r) }); n != 0 {
			t.Errorf("%s: %v allocations a line", name, n)
		}
	}
}

func FuzzCompile(f *testing.F) {
	f.Add(DefaultHTTP, "v\"\\\xff")
	f.Add(`%COALESCE({"operators":["PROTOCOL",{"command":"REQ","param":"x","max_length":1}]}):1%`, "")
	f.Add("%START_TIME(%E9S%-d%5f%s%E*S%Ez)%%REQ(a?b):3%%METADATA(ROUTE:a)%", "\x00\x7f")
	f.Fuzz(func(t *testing.T, tmpl, value string) {
		r := &Record{Req: head("GET", "/?"+value, value, "x", value), Details: value, Conn: NewConnInfo(0, 0, sys.Addr{}, sys.Addr{})}
		r.Conn.Own().SNI = value
		if c, err := CompileHeader(tmpl); err == nil {
			c.AppendHeader(nil, r)
		}
		if c, err := CompileJSON(map[string]any{"k": tmpl, "l": "%REQ(x)%" + "%%" + "%RESPONSE_CODE_DETAILS%"}, false); err == nil {
			if line := c.Append(nil, r); !json.Valid(bytes.TrimSpace(line)) {
				t.Fatalf("%q makes %q", tmpl, line)
			}
		}
	})
}
