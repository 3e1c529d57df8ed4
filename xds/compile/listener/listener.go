// SPDX-License-Identifier: Apache-2.0

// Package listener compiles envoy.config.listener.v3.Listener, with its listener filters, filter chains and network filters (HTTP connection
// manager, TCP proxy), to the plain model of dataplane/snapshot. Nothing is opened here. Every error carries its field path; all of them are
// returned at once, joined.
package listener

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"strings"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"sidecar/dataplane/filter"
	"sidecar/dataplane/match"
	"sidecar/dataplane/route"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/accesslog"
	"sidecar/internal/telemetry/stats"
	"sidecar/xds/compile/httpfilter"
	"sidecar/xds/compile/secret"
	"sidecar/xds/compile/transportsocket"
	"sidecar/xds/registry"
)

// Env is what compiling a listener needs from the driver (registry.Ctx.Env).
type Env struct {
	Stats   *stats.Registry
	Workers int
	Cluster func(name string) *route.ClusterRef
	Table   func(name string) *route.TableRef
	// Scopes returns the ref of the scoped routes with a key that are in use already, or nil.
	Scopes func(key string) *route.ScopesRef
	// Discovered returns the discovered filter with a key that is in use already, or nil.
	Discovered func(key string) *filter.Dynamic
	// Clusters resolves where clusters come from on demand.
	Clusters httpfilter.ClusterSources
	// Routes compiles an inline route_config.
	Routes func(c *registry.Ctx, rc *routev3.RouteConfiguration) (*route.Table, error)
	// AccessLog compiles one access log.
	AccessLog func(c *registry.Ctx, al *accesslogv3.AccessLog) (*accesslog.Logger, error)
	// Filter compiles one access-log filter (local reply mappers use them).
	Filter func(c *registry.Ctx, f *accesslogv3.AccessLogFilter) (accesslog.Filter, error)
	// Headers compiles header additions to responses (local reply mappers) or requests (tunnels).
	Headers func(c *registry.Ctx, in []*corev3.HeaderValueOption, response bool) (route.HeaderOps, error)
	Runtime *match.Runtime
	Secrets *secret.Compiler // for what TLS contexts hold inline
}

// RDS is a route configuration that a listener waits for.
type RDS struct {
	Ref          *route.TableRef
	Name         string
	Source       *corev3.ConfigSource
	FetchTimeout time.Duration // initial_fetch_timeout; default 15 s, 0 = wait for ever
	StatPrefix   string        // of the connection manager
}

// Inline is a route configuration that came with the listener.
type Inline struct {
	Ref    *route.TableRef // Ref.Inline is Table
	Table  *route.Table
	Config *routev3.RouteConfiguration // as received, for dumps
}

// Result is a compiled listener and what the controller must do for it.
type Result struct {
	Listener *snapshot.Listener
	RDS      []RDS
	Inline   []Inline
	Scoped   []Scoped
	Filters  []DiscoveredFilter
	Places   []DiscoveredPlace
	TLS      []transportsocket.Server // contexts of filter chains, with the secrets that they wait for
}

// state carries one listener's compilation.
type state struct {
	env  *Env
	out  *Result
	l    *snapshot.Listener
	errs []error
}

func (s *state) fail(err error) {
	if err != nil {
		s.errs = append(s.errs, err)
	}
}

// Compile compiles l at c.Path. c.Env must be *Env. hash is the resource's content hash.
func Compile(c *registry.Ctx, l *listenerv3.Listener, hash uint64) (*Result, error) {
	env := registry.EnvOf[*Env](c)
	s := &state{env: env, out: &Result{Listener: &snapshot.Listener{}}}
	s.l = s.out.Listener
	s.fail(c.Check(l))
	s.base(c, l, hash)
	s.addresses(c, l)
	s.listenerFilters(c, l)
	s.chains(c, l)
	s.l.AccessLogs = s.accessLogs(c, "access_log", l.GetAccessLog())
	s.keys(l)
	if err := errors.Join(s.errs...); err != nil {
		return nil, err
	}
	s.scopes()
	return s.out, nil
}

func (s *state) base(c *registry.Ctx, l *listenerv3.Listener, hash uint64) {
	x := s.l
	x.Name, x.Hash = l.GetName(), hash
	x.Bind = true
	if b := l.GetBindToPort(); b != nil {
		x.Bind = b.GetValue()
	} else if b := l.GetDeprecatedV1().GetBindToPort(); b != nil {
		x.Bind = b.GetValue()
	}
	switch l.GetTrafficDirection() {
	case corev3.TrafficDirection_INBOUND:
		x.Direction = snapshot.Inbound
	case corev3.TrafficDirection_OUTBOUND:
		x.Direction = snapshot.Outbound
	}
	x.DrainModifyOnly = l.GetDrainType() == listenerv3.Listener_MODIFY_ONLY
	x.UseOriginalDst = l.GetUseOriginalDst().GetValue()
	x.Transparent = l.GetTransparent().GetValue()
	x.BufferLimit = 1 << 20
	if v := l.GetPerConnectionBufferLimitBytes(); v != nil {
		x.BufferLimit = int(v.GetValue())
	}
	if v := l.GetMaxConnectionsToAcceptPerSocketEvent(); v != nil {
		if v.GetValue() == 0 {
			s.fail(c.Errorf("max_connections_to_accept_per_socket_event", "value must be greater than 0"))
		}
		x.MaxAccept = int(v.GetValue())
	}
	if n := s.env.Runtime.Number("envoy.resource_limits.listener."+x.Name+".connection_limit", 0); n > 0 {
		x.MaxConns = uint64(n)
	}
	x.IgnoreGlobalLimit = l.GetIgnoreGlobalConnLimit()
	x.FiltersTimeout = nanos(l.GetListenerFiltersTimeout(), 15*sys.Second)
	x.ContinueOnTimeout = l.GetContinueOnListenerFiltersTimeout()
	x.Metadata = plainMetadata(l.GetMetadata())
}

// nanos converts d; def stands for an absent field.
func nanos(d *durationpb.Duration, def sys.Nanos) sys.Nanos {
	if d == nil {
		return def
	}
	return sys.Nanos(d.AsDuration())
}

func plainMetadata(m *corev3.Metadata) map[string]any {
	if len(m.GetFilterMetadata()) == 0 {
		return nil
	}
	out := make(map[string]any, len(m.GetFilterMetadata()))
	for k, v := range m.GetFilterMetadata() {
		out[k] = v.AsMap()
	}
	return out
}

func (s *state) addresses(c *registry.Ctx, l *listenerv3.Listener) {
	opts := s.listenOpts(c, l)
	add := func(field registry.Path, a *corev3.Address, so *listenerv3.AdditionalAddress) {
		addr, v6compat, mode, err := Address(c, field, a)
		if err != nil {
			s.fail(err)
			return
		}
		o := opts
		o.V6Only = !v6compat
		o.Mode = mode
		o.ReusePort = !addr.IsUnix()
		if x := so.GetSocketOptions(); x != nil {
			o.Pre, o.Bound, o.Listening = nil, nil, nil
			s.socketOptions(c, field.Field("socket_options").Field("socket_options"), x.GetSocketOptions(), &o)
		}
		if so.GetTcpKeepalive() != nil {
			o.Pre = append(o.Pre, keepalive(so.GetTcpKeepalive())...)
		}
		s.l.Addrs = append(s.l.Addrs, snapshot.ListenAddr{Addr: addr, Opts: o})
	}
	if l.GetInternalListener() != nil {
		s.internal(c, l)
		return
	}
	if l.GetAddress() == nil {
		s.fail(c.Errorf("address", "a listener needs an address"))
		return
	}
	add("address", l.GetAddress(), nil)
	for i, a := range l.GetAdditionalAddresses() {
		add(registry.Path("").Index("additional_addresses", i).Field("address"), a.GetAddress(), a)
	}
	seen := map[sys.Addr]bool{}
	for _, a := range s.l.Addrs {
		if seen[a.Addr] {
			s.fail(c.Errorf("additional_addresses", "duplicate address '%s'", a.Addr))
		}
		seen[a.Addr] = true
	}
}

// internal makes a listener without a socket, which connections of this process reach by its name.
func (s *state) internal(c *registry.Ctx, l *listenerv3.Listener) {
	s.l.Internal = true
	if strings.Contains(l.GetName(), "/") {
		s.fail(c.Errorf("name", "%q has a slash, which ends the name in an internal address", l.GetName()))
	}
	if l.GetAddress() != nil {
		s.fail(c.Errorf("address", "error adding listener named '%s': address should not be used when an internal listener config is provided", l.GetName()))
	}
	for field, set := range map[registry.Path]bool{
		"additional_addresses": len(l.GetAdditionalAddresses()) > 0, "bind_to_port": l.GetBindToPort() != nil, "transparent": l.GetTransparent() != nil,
		"freebind": l.GetFreebind() != nil, "socket_options": len(l.GetSocketOptions()) > 0, "tcp_backlog_size": l.GetTcpBacklogSize() != nil,
		"tcp_fast_open_queue_length": l.GetTcpFastOpenQueueLength() != nil, "tcp_keepalive": l.GetTcpKeepalive() != nil,
		"connection_balance_config": l.GetConnectionBalanceConfig() != nil, "enable_reuse_port": l.GetEnableReusePort() != nil, "use_original_dst": l.GetUseOriginalDst() != nil,
		"max_connections_to_accept_per_socket_event": l.GetMaxConnectionsToAcceptPerSocketEvent() != nil,
	} {
		if set {
			s.fail(c.Errorf(field, "error adding listener named '%s': has unsupported tcp listener feature", l.GetName()))
		}
	}
}

func (s *state) listenOpts(c *registry.Ctx, l *listenerv3.Listener) sys.ListenOpts {
	o := sys.ListenOpts{Transparent: l.GetTransparent().GetValue(), FreeBind: l.GetFreebind().GetValue(),
		FastOpen: int(l.GetTcpFastOpenQueueLength().GetValue()), Backlog: int(l.GetTcpBacklogSize().GetValue())}
	s.socketOptions(c, "socket_options", l.GetSocketOptions(), &o)
	if k := l.GetTcpKeepalive(); k != nil {
		o.Pre = append(o.Pre, keepalive(k)...)
	}
	return o
}

func keepalive(k *corev3.TcpKeepalive) []sys.SockOpt {
	out := []sys.SockOpt{sys.KeepAlive}
	if v := k.GetKeepaliveProbes(); v != nil {
		out = append(out, sys.KeepCount(int(v.GetValue())))
	}
	if v := k.GetKeepaliveTime(); v != nil {
		out = append(out, sys.KeepIdle(int(v.GetValue())))
	}
	if v := k.GetKeepaliveInterval(); v != nil {
		out = append(out, sys.KeepInterval(int(v.GetValue())))
	}
	return out
}

func (s *state) socketOptions(c *registry.Ctx, field registry.Path, in []*corev3.SocketOption, o *sys.ListenOpts) {
	for i, so := range in {
		at := registry.Path(fmt.Sprintf("%s[%d]", field, i))
		if so.GetType() != nil {
			s.fail(c.Errorf(at.Field("type"), "socket type filters are not supported"))
		}
		x := sys.SockOpt{Level: int(so.GetLevel()), Name: int(so.GetName())}
		switch v := so.GetValue().(type) {
		case *corev3.SocketOption_IntValue:
			x.Int = int(v.IntValue)
		case *corev3.SocketOption_BufValue:
			x.Buf = v.BufValue
		}
		switch so.GetState() {
		case corev3.SocketOption_STATE_PREBIND:
			o.Pre = append(o.Pre, x)
		case corev3.SocketOption_STATE_BOUND:
			o.Bound = append(o.Bound, x)
		default:
			o.Listening = append(o.Listening, x)
		}
	}
}

// keys computes the two hashes that decide how a changed listener is taken over: SocketKey changes when anything but the filter chains did.
func (s *state) keys(l *listenerv3.Listener) {
	c := proto.Clone(l).(*listenerv3.Listener)
	c.FilterChains, c.DefaultFilterChain = nil, nil
	s.l.SocketKey = hashProto(c)
}

func hashProto(m proto.Message) uint64 {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return 0
	}
	h := fnv.New64a()
	_, _ = h.Write(b)
	return h.Sum64()
}

func mixHash(h uint64, s string) uint64 {
	f := fnv.New64a()
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], h)
	_, _ = f.Write(b[:])
	_, _ = f.Write([]byte(s))
	return f.Sum64()
}

// scopes makes the stat scopes once the listener is known to be good, so that a rejected one leaves nothing behind.
func (s *state) scopes() {
	x := s.l
	x.Scope = s.env.Stats.Scope("listener."+x.StatName+".", stats.ListenerDef)
	for w := range s.env.Workers {
		x.WorkerScopes = append(x.WorkerScopes, s.env.Stats.Scope(fmt.Sprintf("listener.%s.worker_%d.", x.StatName, w), stats.ListenerWorkerDef))
	}
	for _, c := range append(append([]*snapshot.FilterChain(nil), x.Chains...), x.Default) {
		if c == nil {
			continue
		}
		if c.TLS != nil && x.TLSStats.SSL == nil {
			x.TLSStats = snapshot.NewTLSScopes(s.env.Stats, "listener."+x.StatName+".", "server_ssl_socket_factory")
		}
		s.chainScopes(c)
	}
}

func (s *state) chainScopes(c *snapshot.FilterChain) {
	if h := c.HTTP; h != nil {
		h.Scope = s.env.Stats.Scope("http."+clean(h.StatPrefix)+".", stats.HCMDef)
		h.ListenerScope = s.env.Stats.Scope("listener."+s.l.StatName+".http."+clean(h.StatPrefix)+".", stats.HCMListenerDef)
		h.H1Scope = s.env.Stats.Scope("http1.", stats.H1Def)
		h.H2Scope = s.env.Stats.Scope("http2.", stats.HTTP2Def)
	}
	if t := c.TCP; t != nil {
		t.Scope = s.env.Stats.Scope("tcp."+clean(t.StatPrefix)+".", stats.TCPDef)
		if t.OnDemand != nil {
			t.DemandScope = s.env.Stats.Scope("tcp."+clean(t.StatPrefix)+".", stats.TCPDemandDef)
		}
	}
}

// clean replaces what Envoy replaces in stat names.
func clean(s string) string { return strings.ReplaceAll(s, ":", "_") }

func (s *state) accessLogs(c *registry.Ctx, field string, in []*accesslogv3.AccessLog) []*accesslog.Logger {
	var out []*accesslog.Logger
	for i, al := range in {
		lg, err := s.env.AccessLog(c.At(registry.Path(fmt.Sprintf("%s[%d]", field, i))), al)
		if err != nil {
			s.fail(err)
			continue
		}
		out = append(out, lg)
	}
	return out
}
