// SPDX-License-Identifier: Apache-2.0

package export

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_stats/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"sidecar/dataplane/fault"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/identity"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/accesslog"
	"sidecar/internal/telemetry/stats"
)

func address(s string) sys.Addr { return sys.AddrOf(netip.MustParseAddrPort(s)) }

func fullRecord() *accesslog.Record {
	r := &accesslog.Record{}
	r.Reset()
	r.Conn = accesslog.NewConnInfo(1, 5, address("10.0.0.1:1000"), address("[::1]:80"))
	r.Conn.TLS = &identity.Session{Version: "TLSv1.3", SNI: "sni.test", Peer: &identity.Certificate{URIs: []string{"spiffe://td/a"}, Subject: "CN=a"}}
	r.Start, r.End, r.LastDownRx, r.LastDownTx = 1_700_000_000_000_000_005, 2_000_000_001, 0, 3
	arena := &httpmsg.Arena{}
	req, resp := &httpmsg.Head{}, &httpmsg.Head{}
	req.Reset(arena)
	resp.Reset(arena)
	req.MethodName, req.Scheme = arena.PutString("POST"), arena.PutString("https")
	req.Authority, req.Target = arena.PutString("a.test"), arena.PutString("/x?y=\xff")
	for _, f := range [][2]string{{"user-agent", "ua"}, {"referer", "rf"}, {"x-forwarded-for", "1.2.3.4"}, {"x-request-id", "id"}, {"x-envoy-original-path", "/o"}, {"x-a", "1"}, {"x-a", "2"}} {
		req.AddString(httpmsg.KeyOf(f[0]), f[1])
	}
	resp.AddString(httpmsg.KeyOf("x-b"), strings.Repeat("b", 300))
	trailers := &httpmsg.Fields{}
	trailers.Reset(arena)
	trailers.AddString(httpmsg.KeyOf("grpc-status"), "0")
	r.Req, r.Resp, r.RespTrailers = req, resp, trailers
	r.BytesIn, r.BytesOut, r.Up.WireIn, r.Up.WireOut, r.Down.WireIn, r.Down.WireOut = 1, 2, 3, 4, 5, 6
	r.Down.HeadIn, r.Down.HeadOut, r.Up.HeadIn, r.Up.HeadOut = 7, 8, 9, 10
	r.Protocol, r.Code, r.Details, r.Flags = "HTTP/2", 503, "via_upstream", fault.FlagUF|fault.FlagUAEX|fault.FlagDR|fault.FlagDF
	r.UpstreamFailure, r.RouteName, r.Cluster, r.Attempts, r.StreamID = "why", "route", "cl", 2, "stream"
	r.UpstreamRemote, r.UpstreamLocal = address("10.0.0.2:2000"), sys.Addr{Path: "/sock"}
	r.DynamicMeta = map[string]any{"ns": map[string]any{"k": []any{"v", 1.5, true, nil}}}
	r.Type = accesslog.DownstreamEnd
	r.GrpcMessages = accesslog.GrpcMessages{Requests: 3, Responses: 400}
	return r
}

const fullEntry = `{"logEntry": [{"commonProperties": {"downstreamRemoteAddress": {"socketAddress": {"address": "10.0.0.1", "portValue": 1000}},
 "downstreamLocalAddress": {"socketAddress": {"address": "::1", "portValue": 80}}, "downstreamDirectRemoteAddress": {"socketAddress": {"address": "10.0.0.1", "portValue": 1000}},
 "tlsProperties": {"tlsVersion": "TLSv1_3", "tlsSniHostname": "sni.test", "peerCertificateProperties": {"subjectAltName": [{"uri": "spiffe://td/a"}], "subject": "CN=a"}},
 "startTime": "2023-11-14T22:13:20.000000005Z", "timeToLastRxByte": "0s", "timeToLastDownstreamTxByte": "0.000000003s", "duration": "2.000000001s",
 "upstreamRemoteAddress": {"socketAddress": {"address": "10.0.0.2", "portValue": 2000}}, "upstreamLocalAddress": {"pipe": {"path": "/sock"}}, "upstreamCluster": "cl",
 "responseFlags": {"upstreamConnectionFailure": true, "unauthorizedDetails": {"reason": "EXTERNAL_SERVICE"}, "dnsResolutionFailure": true, "downstreamRemoteReset": true},
 "metadata": {"filterMetadata": {"ns": {"k": ["v", 1.5, true, null]}}}, "upstreamTransportFailureReason": "why", "routeName": "route", "upstreamRequestAttemptCount": 2,
 "filterStateObjects": {"envoy.filters.http.grpc_stats": {"@type": "type.googleapis.com/envoy.extensions.filters.http.grpc_stats.v3.FilterObject", "requestMessageCount": "3", "responseMessageCount": "400"}},
 "streamId": "stream", "downstreamWireBytesSent": "6", "downstreamWireBytesReceived": "5", "upstreamWireBytesSent": "4", "upstreamWireBytesReceived": "3", "accessLogType": "DownstreamEnd"},
 "protocolVersion": "HTTP2", "request": {"requestMethod": "POST", "scheme": "https", "authority": "a.test", "path": "/x?y=!", "userAgent": "ua", "referer": "rf",
 "forwardedFor": "1.2.3.4", "requestId": "id", "originalPath": "/o", "requestHeadersBytes": "138", "requestBodyBytes": "1", "requestHeaders": {"x-a": "1,2"},
 "upstreamHeaderBytesSent": "10", "downstreamHeaderBytesReceived": "7"},
 "response": {"responseCode": 503, "responseHeadersBytes": "303", "responseBodyBytes": "2", "responseHeaders": {"x-b": "BBB"}, "responseTrailers": {"grpc-status": "0"},
 "responseCodeDetails": "via_upstream", "upstreamHeaderBytesReceived": "9", "downstreamHeaderBytesSent": "8"}}]}`

func TestWire_WhenARecordIsEncoded_ThenItIsTheEntryOfTheAPI(t *testing.T) {
	f := accesslog.NewWire(&accesslog.Wire{Request: []httpmsg.Key{httpmsg.KeyOf("X-A"), httpmsg.KeyOf("x-none")}, Response: []httpmsg.Key{httpmsg.KeyOf("x-b")},
		Trailers: []httpmsg.Key{httpmsg.KeyOf("grpc-status")}, GrpcStats: true})
	got, want := &alsv3.StreamAccessLogsMessage_HTTPAccessLogEntries{}, &alsv3.StreamAccessLogsMessage_HTTPAccessLogEntries{}
	chunk := f.Append(nil, fullRecord())
	if err := proto.Unmarshal(chunk, got); err != nil {
		t.Fatal(err)
	}
	if err := protojson.Unmarshal([]byte(strings.Replace(fullEntry, "BBB", strings.Repeat("b", 300), 1)), want); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(got, want) {
		t.Errorf("got  %s\nwant %s", protojson.Format(got), protojson.Format(want))
	}
	if n := entries(f.Append(chunk, fullRecord())); n != 2 {
		t.Errorf("%d entries counted", n)
	}
	tcp := &alsv3.StreamAccessLogsMessage_TCPAccessLogEntries{}
	r := &accesslog.Record{}
	r.Reset()
	r.Conn, r.BytesIn, r.BytesOut, r.Type = accesslog.NewConnInfo(1, 5, address("10.0.0.1:1000"), address("10.0.0.2:80")), 300, 4, accesslog.TCPConnectionEnd
	r.Tunnel = &accesslog.TunnelAnswer{Head: []accesslog.StateField{{Name: ":status", Value: "200"}}}
	w := &accesslog.Wire{TCP: true, Tunnel: []string{accesslog.TunnelHeadState, accesslog.TunnelTrailersState}}
	if err := proto.Unmarshal(accesslog.NewWire(w).Append(nil, r), tcp); err != nil || len(tcp.LogEntry) != 1 {
		t.Fatal(err, tcp)
	}
	e := tcp.LogEntry[0]
	if e.ConnectionProperties.ReceivedBytes != 300 || e.ConnectionProperties.SentBytes != 4 || e.CommonProperties.AccessLogType != datav3.AccessLogType_TcpConnectionEnd ||
		e.CommonProperties.TimeToLastRxByte != nil || e.CommonProperties.ResponseFlags != nil {
		t.Error(protojson.Format(e))
	}
	head := &corev3.HeaderMap{}
	if err := e.CommonProperties.FilterStateObjects[accesslog.TunnelHeadState].UnmarshalTo(head); err != nil || len(e.CommonProperties.FilterStateObjects) != 1 ||
		len(head.Headers) != 1 || head.Headers[0].Key != ":status" || head.Headers[0].Value != "200" {
		t.Error(err, protojson.Format(e))
	}
}

func TestAllocsWire(t *testing.T) {
	f := accesslog.NewWire(&accesslog.Wire{Request: []httpmsg.Key{httpmsg.KeyOf("X-A")}})
	r := fullRecord()
	b := make([]byte, 0, 64<<10)
	if n := testing.AllocsPerRun(100, func() { b = f.Append(b[:0], r) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// collector is an access log service; it takes nothing before gate is closed.
type collector struct {
	alsv3.UnimplementedAccessLogServiceServer
	gate chan struct{}
	got  chan *alsv3.StreamAccessLogsMessage
}

func (c *collector) StreamAccessLogs(s alsv3.AccessLogService_StreamAccessLogsServer) error {
	<-c.gate
	for {
		m, err := s.Recv()
		if err != nil {
			return s.SendAndClose(&alsv3.StreamAccessLogsResponse{})
		}
		c.got <- m
	}
}

func newCollector(t *testing.T) (*collector, func() (*grpc.ClientConn, error), *grpc.Server) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{gate: make(chan struct{}), got: make(chan *alsv3.StreamAccessLogsMessage, 10000)}
	srv := grpc.NewServer()
	alsv3.RegisterAccessLogServiceServer(srv, c)
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(srv.Stop)
	return c, func() (*grpc.ClientConn, error) {
		return grpc.NewClient(ln.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	}, srv
}

func newServices(t *testing.T) (*Services, *stats.Scope) {
	t.Helper()
	node, err := proto.Marshal(&corev3.Node{Id: "me"})
	if err != nil {
		t.Fatal(err)
	}
	reg := stats.NewRegistry(1)
	v := NewServices(1, reg, node, false)
	return v, reg.Scope("access_logs.grpc_access_log.", stats.GRPCAccessLogDef)
}

func TestServices_WhenEntriesAreLogged_ThenTheFirstMessageTellsWhoAndEqualServicesShareAStream(t *testing.T) {
	c, dial, _ := newCollector(t)
	close(c.gate)
	v, sc := newServices(t)
	spec := Service{Key: "k", LogName: "log", FlushSize: 16 << 10, FlushEvery: time.Second, Dial: dial}
	s, err := v.Open(spec)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := v.Open(spec); again != s {
		t.Error("an equal service has another sink")
	}
	l := []*accesslog.Logger{{Format: accesslog.NewWire(&accesslog.Wire{}), Sink: s}}
	w := accesslog.Writer{}
	if w.Log(l, fullRecord(), 0); w.Soonest() != int64(time.Second) && w.Dirty() {
		t.Errorf("flush in %d", w.Soonest())
	}
	w.FlushQuick()
	m := <-c.got
	if m.Identifier.GetLogName() != "log" || m.Identifier.GetNode().GetId() != "me" || len(m.GetHttpLogs().GetLogEntry()) != 1 {
		t.Error(protojson.Format(m))
	}
	for range 3 {
		w.Log(l, fullRecord(), 0)
	}
	w.FlushQuick()
	if m := <-c.got; m.Identifier != nil || len(m.GetHttpLogs().GetLogEntry()) != 3 {
		t.Error(protojson.Format(m))
	}
	w.Log(l, fullRecord(), 0)
	w.Flush()
	v.Close()
	select {
	case <-c.got:
	default:
		t.Error("the last entry is lost at the end")
	}
	for id, want := range map[int]int64{stats.GRPCAccessLogWritten: 5, stats.GRPCAccessLogEntriesFlushed: 5, stats.GRPCAccessLogDropped: 0} {
		if n, _ := sc.Value(id); n != want {
			t.Errorf("stat %d is %d, want %d", id, n, want)
		}
	}
}

func TestServices_WhenTheServerStallsOrIsGone_ThenWorkersDropAndGoOn(t *testing.T) {
	c, dial, srv := newCollector(t)
	v, sc := newServices(t)
	defer v.Close()
	s, err := v.Open(Service{Key: "k", LogName: "log", FlushSize: 1 << 10, FlushEvery: time.Second, Dial: dial})
	if err != nil {
		t.Fatal(err)
	}
	l := []*accesslog.Logger{{Format: accesslog.NewWire(&accesslog.Wire{}), Sink: s}}
	w, r := accesslog.Writer{}, fullRecord()
	count := func(id int) int64 { n, _ := sc.Value(id); return n }
	for n := 0; count(stats.GRPCAccessLogDropped) == 0; n++ {
		if w.Log(l, r, 0); n > 1_000_000 {
			t.Fatal("a stalled server takes everything")
		}
	}
	close(c.gate)
	w.Flush()
	eventually(t, "entries after the stall", func() bool { return count(stats.GRPCAccessLogEntriesFlushed) == count(stats.GRPCAccessLogWritten) })
	srv.Stop()
	eventually(t, "failures", func() bool {
		w.Log(l, r, 0)
		w.Flush()
		return count(stats.GRPCAccessLogEntriesFlushFailed) > 0
	})
}
