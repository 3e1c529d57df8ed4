// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"net/netip"
	"runtime/debug"
	"strings"
	"testing"

	"sidecar/dataplane/conn"
	"sidecar/dataplane/hostset"
	"sidecar/dataplane/http2"
	"sidecar/dataplane/identity"
	"sidecar/dataplane/lb"
	"sidecar/dataplane/loop"
	"sidecar/dataplane/route"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/dataplane/upstream"
	"sidecar/internal/nettest"
	"sidecar/internal/telemetry/accesslog"
	"sidecar/internal/telemetry/stats"
)

// rig drives one worker's exchanges on one thread: the test plays the client and the upstreams with raw non-blocking sockets.
type rig struct {
	t      testing.TB
	k      *nettest.Clock
	l      *loop.Loop
	env    *Env
	reg    *stats.Registry
	lis    *snapshot.Listener
	fc     *snapshot.FilterChain
	hcm    *snapshot.HCM
	in     *snapshot.Interner
	table  *route.Table
	vh     *route.VirtualHost
	left   conn.Members
	log    []string
	quiet  bool
	gone   int
	ups    []*backend
	row    *snapshot.Cluster
	rowOf  map[string]*snapshot.Cluster
	order  int
	tls    *identity.Session // of client connections
	format *accesslog.Format
}

const logText = "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %BYTES_RECEIVED% %BYTES_SENT% attempts=%UPSTREAM_REQUEST_ATTEMPT_COUNT% route=%ROUTE_NAME%"

var logFormat = func() *accesslog.Format {
	f, err := accesslog.Compile(logText)
	if err != nil {
		panic(err)
	}
	return f
}()

// Log implements AccessLogger.
func (r *rig) Log(_ []*accesslog.Logger, rec *accesslog.Record) {
	if r.quiet {
		return
	}
	r.log = append(r.log, string(r.format.Append(nil, rec)))
}

// backend is an upstream host.
type backend struct{ *nettest.Backend }

func newBackend(t testing.TB) *backend { return &backend{nettest.Listen(t)} }

// accept takes the next connection, nil when there is none.
func (b *backend) accept() *peer {
	if p := b.Accept(); p != nil {
		return &peer{p}
	}
	return nil
}

// peer is the test's end of a connection.
type peer struct{ *nettest.Peer }

func (p *peer) read() (s string, eof bool) { return p.Read() }
func (p *peer) close()                     { p.Close() }
func (p *peer) closeWrite()                { p.CloseWrite() }
func (p *peer) write(s string) {
	p.T.Helper()
	p.Write(s)
}

func must(t testing.TB, err error) {
	t.Helper()
	nettest.Must(t, err)
}

// newRig makes a worker with one listener, one cluster "c" of n backends and one route "/" to it.
func newRig(t testing.TB, backends int) *rig {
	r := &rig{t: t, k: nettest.NewClock(), reg: stats.NewRegistry(1), in: snapshot.NewInterner(), rowOf: map[string]*snapshot.Cluster{}, format: logFormat}
	l, err := loop.New(loop.Config{Kernel: r.k, Seed: 1}, func(loop.Msg) {})
	must(t, err)
	t.Cleanup(l.Close)
	loop.OnPanic = func(_ int, reason any) { t.Errorf("contained panic: %v\n%s", reason, debug.Stack()) }
	r.l = l
	r.env = NewEnv(l, upstream.NewManager(l, 1), 1, nil)
	r.env.Logs = r
	r.env.LocalIP = netip.MustParseAddr("10.9.8.7")
	r.hcm = &snapshot.HCM{StatPrefix: "t", Routes: r.in.Table("rt"), ServerName: "envoy", GenerateRequestID: true, RejectFragment: true,
		StreamIdle: 300 * sys.Second, DrainTimeout: 5 * sys.Second, DelayedClose: sys.Second, ConnIdle: 3600 * sys.Second,
		Router: snapshot.Router{DynamicStats: true}, AccessLogs: []*accesslog.Logger{{Format: logFormat}},
		Scope: r.reg.Scope("http.t.", stats.HCMDef), ListenerScope: r.reg.Scope("listener.l.http.t.", stats.HCMListenerDef)}
	r.hcm.H1.AllowAbsoluteURL = true
	r.hcm.H2.SetDefaults(http2.Server)
	r.fc = &snapshot.FilterChain{HTTP: r.hcm}
	r.lis = &snapshot.Listener{Name: "l", BufferLimit: 1 << 20}
	r.left.OnLeave = func(*conn.Member) { r.gone++ }
	var addrs []sys.Addr
	for range backends {
		b := newBackend(t)
		r.ups = append(r.ups, b)
		addrs = append(addrs, b.Addr)
	}
	r.row = r.cluster("c", addrs...)
	e := &route.Entry{Name: "r", Path: route.PathMatch{Kind: route.PathPrefix, Text: "/"}, Forward: r.forward("c"), RequestBodyLimit: -1}
	r.vh = &route.VirtualHost{Name: "v", Domains: []string{"*"}, Routes: []*route.Entry{e}}
	r.table = &route.Table{Name: "rt", VHosts: []*route.VirtualHost{r.vh}}
	return r
}

func (r *rig) forward(cluster string) *route.Forward {
	return &route.Forward{Cluster: r.in.Cluster(cluster), Timeout: 15 * sys.Second, IdleTimeout: route.Unset, MaxStream: route.Unset,
		GrpcTimeoutMax: route.Unset}
}

// route is the first route.
func (r *rig) route() *route.Entry { return r.vh.Routes[0] }

func (r *rig) cluster(name string, addrs ...sys.Addr) *snapshot.Cluster {
	spec := lb.Default(lb.RoundRobin)
	in := hostset.Input{Localities: []hostset.LocalityInput{{}}}
	for _, a := range addrs {
		in.Localities[0].Endpoints = append(in.Localities[0].Endpoints, hostset.Endpoint{Addr: a})
	}
	br := snapshot.Breaker{MaxConnections: 1024, MaxPending: 1024, MaxRequests: 1024, MaxRetries: 3, MaxPools: 1024}
	row := &snapshot.Cluster{ClusterConfig: &snapshot.ClusterConfig{Name: name, StatName: name, Ref: r.in.Cluster(name),
		ConnectTimeout: 5 * sys.Second, BufferLimit: 1 << 20, LB: spec.Factory(), IdleTimeout: 3600 * sys.Second,
		Breakers: [2]snapshot.Breaker{br, br}, Limits: &snapshot.Usage{}, Traffic: r.reg.Scope("cluster."+name+".", stats.ClusterDef)},
		Hosts: spec.Build(nil, in)}
	row.H2.SetDefaults(http2.Client)
	r.rowOf[name] = row
	return row
}

// publish freezes what the test has set up and hands it to the worker.
func (r *rig) publish() {
	r.table.Freeze()
	b := snapshot.NewBuilder(r.env.Snap, r.in)
	for _, row := range r.rowOf {
		b.SetCluster(row.Ref, row)
	}
	b.SetTable(r.hcm.Routes, r.table)
	r.in.Publish()
	s := b.Freeze()
	r.env.Up.Reconcile(r.env.Snap, s)
	r.env.Snap = s
}

// dial opens a client connection.
func (r *rig) dial() *peer {
	if r.env.Snap == nil {
		r.publish()
	}
	fd, p := nettest.Pair(r.t)
	c, e := conn.Adopt(r.l, fd, r.lis.BufferLimit, nil)
	if e != 0 {
		r.t.Fatal(e)
	}
	s := NewServer(r.env, c, r.lis, r.fc, r.connInfo(), nil)
	r.left.Join(&s.Place)
	return &peer{p}
}

func (r *rig) connInfo() *accesslog.ConnInfo {
	i := accesslog.NewConnInfo(1, r.l.Wall(), sys.AddrOf(netip.MustParseAddrPort("192.0.2.7:4711")),
		sys.AddrOf(netip.MustParseAddrPort("192.0.2.1:8080")))
	i.TLS = r.tls
	return i
}

// turn runs the loop until nothing is left to do now.
func (r *rig) turn() {
	for range 8 {
		r.l.Turn(false)
	}
	for r.l.Queued() > 0 {
		r.l.Turn(false)
	}
}

// wait moves the clock.
func (r *rig) wait(d sys.Nanos) {
	r.k.Skew += d
	r.turn()
}

func (r *rig) stat(def *stats.Def, prefix string, id int) int64 {
	s := r.reg.Scope(prefix, def)
	defer s.Release()
	v, _ := s.Value(id)
	return v
}

func (r *rig) hcmStat(id int) int64     { return r.stat(stats.HCMDef, "http.t.", id) }
func (r *rig) clusterStat(id int) int64 { return r.stat(stats.ClusterDef, "cluster.c.", id) }

// check asserts that everything was given back.
func (r *rig) check() {
	r.t.Helper()
	if n := r.env.Active(); n != 0 {
		r.t.Errorf("%d exchanges are still in flight", n)
	}
	for i := range r.row.Limits.Requests {
		u := r.row.Limits
		if a, b, c := u.Requests[i].Load(), u.Pending[i].Load(), u.Retries[i].Load(); a|b|c != 0 {
			r.t.Errorf("breakers do not balance: requests %d, pending %d, retries %d", a, b, c)
		}
	}
	for _, id := range []int{stats.HCMDownstreamRqActive} {
		if n := r.hcmStat(id); n != 0 {
			r.t.Errorf("gauge %s is %d", stats.HCMDef.Stats[id].Name, n)
		}
	}
	for _, id := range []int{stats.ClusterUpstreamRqActive, stats.ClusterUpstreamRqPendingActive} {
		if n := r.clusterStat(id); n != 0 {
			r.t.Errorf("gauge %s is %d", stats.ClusterDef.Stats[id].Name, n)
		}
	}
}

// lines makes text comparable: CRLF to newline, what changes from run to run to a placeholder.
func lines(s string) string {
	s = strings.ReplaceAll(s, "\r\n", "\n")
	out := strings.Split(s, "\n")
	for i, l := range out {
		for _, p := range []string{"date: ", "x-request-id: ", "x-envoy-upstream-service-time: "} {
			if strings.HasPrefix(l, p) {
				out[i] = p + "#"
			}
		}
	}
	return strings.Join(out, "\n")
}

func (r *rig) expect(what, got, want string) {
	r.t.Helper()
	if got = lines(got); got != want {
		r.t.Errorf("%s:\n--- got\n%s\n--- want\n%s", what, got, want)
	}
}

func writeSome(p *peer, b []byte) (n int, full bool) { return p.WriteSome(b) }
