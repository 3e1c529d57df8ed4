// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	internalv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/bootstrap/internal_listener/v3"
	downstreamv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/downstream_connections/v3"

	"sidecar/xds/registry"
)

const (
	defaultFetchTimeout   = 15 * time.Second
	defaultRequestTimeout = time.Second
	maxConnectionsURL     = "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"
)

var schema = registry.MustSchema(Messages)

// Schema returns the field tables the bootstrap is checked with, for the documentation.
func Schema() *registry.Schema { return schema }

// digester turns the message into Config, collecting every fault.
type digester struct {
	c        *Config
	errs     []error
	warnings []registry.Finding
}

func (d *digester) fail(at registry.Path, format string, args ...any) {
	if len(d.errs) < errorsMax {
		d.errs = append(d.errs, &registry.FieldError{Path: at, Err: fmt.Errorf(format, args...)})
	}
}

// check runs the generated validation and the field table.
func (d *digester) check(o Options) {
	d.errs = append(d.errs, registry.Flatten(registry.Validate(d.c.Proto, ""))...)
	unknown := registry.UnknownRefuse
	if o.AllowUnknown {
		unknown = registry.UnknownWarn
	}
	for _, f := range schema.Walk(d.c.Proto, "", unknown) {
		if f.Class == registry.ClassAdvisory {
			d.warnings = append(d.warnings, f)
			continue
		}
		d.errs = append(d.errs, f.Err())
	}
	seen := map[string]int{}
	for i, cl := range d.c.Clusters() {
		if first, dup := seen[cl.GetName()]; dup {
			d.fail(registry.Path("static_resources").Index("clusters", i).Field("name"),
				"duplicate cluster name %q (first is clusters[%d])", cl.GetName(), first)
			continue
		}
		seen[cl.GetName()] = i
	}
}

func (d *digester) digest() {
	p, c := d.c.Proto, d.c
	c.Node = nodeOf(p)
	p.Node = c.Node // as Envoy's config dump shows it
	d.admin()
	d.runtime()
	d.extensions()
	d.overload()
	if t := p.GetStatsFlushInterval(); t != nil {
		c.StatsFlushInterval = t.AsDuration()
	}
	dyn := p.GetDynamicResources()
	if a := dyn.GetAdsConfig(); a != nil {
		if a.GetApiType() == corev3.ApiConfigSource_REST {
			d.fail("dynamic_resources.ads_config.api_type", "an aggregated stream needs gRPC, not REST")
		}
		c.ADS = d.api(a, "dynamic_resources.ads_config")
		c.ADS.Aggregated = true
	}
	c.LDS = d.source(dyn.GetLdsConfig(), "dynamic_resources.lds_config")
	c.CDS = d.source(dyn.GetCdsConfig(), "dynamic_resources.cds_config")
	rtds := slices.ContainsFunc(c.Runtime, func(l RuntimeLayer) bool { return l.RTDS.remote() })
	if (c.ADS != nil || c.LDS.remote() || c.CDS.remote() || rtds) && (c.Node.GetId() == "" || c.Node.GetCluster() == "") {
		d.fail("node", "id and cluster must be set (here, or with --service-node and --service-cluster) to use dynamic resources")
	}
}

// remote reports whether the source talks to a server, which needs to know who asks.
func (s *Source) remote() bool { return s != nil && s.Kind != SourcePath }

// Source digests a ConfigSource found anywhere in the configuration (an EDS or RDS config); at is its path, for errors.
func (c *Config) Source(s *corev3.ConfigSource, at registry.Path) (*Source, error) {
	d := digester{c: c}
	for _, f := range schema.Walk(s, at, registry.UnknownWarn) {
		if f.Class == registry.ClassRefused {
			d.errs = append(d.errs, f.Err())
		}
	}
	out := d.source(s, at)
	return out, errors.Join(d.errs...)
}

func (d *digester) source(s *corev3.ConfigSource, at registry.Path) *Source {
	if s == nil {
		return nil
	}
	out := &Source{InitialFetchTimeout: defaultFetchTimeout}
	if t := s.GetInitialFetchTimeout(); t != nil {
		out.InitialFetchTimeout = t.AsDuration()
		if out.InitialFetchTimeout < 0 {
			d.fail(at.Field("initial_fetch_timeout"), "must not be negative")
		}
	}
	switch k := s.GetConfigSourceSpecifier().(type) {
	case *corev3.ConfigSource_Ads:
		out.Kind = SourceADS
		if d.c.Proto.GetDynamicResources().GetAdsConfig() == nil {
			d.fail(at.Field("ads"), "dynamic_resources.ads_config is not set")
		}
	case *corev3.ConfigSource_Path:
		out.Kind, out.Path = SourcePath, k.Path
	case *corev3.ConfigSource_PathConfigSource:
		out.Kind, out.Path = SourcePath, k.PathConfigSource.GetPath()
		out.WatchedDirectory = k.PathConfigSource.GetWatchedDirectory().GetPath()
	case *corev3.ConfigSource_ApiConfigSource:
		out.Kind = SourceGRPC
		out.API = d.api(k.ApiConfigSource, at.Field("api_config_source"))
	default:
		d.fail(at, "no config source is set")
	}
	return out
}

func (d *digester) api(a *corev3.ApiConfigSource, at registry.Path) *API {
	out := &API{NodeInEvery: !a.GetSetNodeOnFirstMessageOnly()}
	switch a.GetApiType() {
	case corev3.ApiConfigSource_DELTA_GRPC, corev3.ApiConfigSource_AGGREGATED_DELTA_GRPC:
		out.Delta = true
	}
	switch a.GetApiType() {
	case corev3.ApiConfigSource_AGGREGATED_GRPC, corev3.ApiConfigSource_AGGREGATED_DELTA_GRPC:
		out.Aggregated = true
	}
	if a.GetApiType() == corev3.ApiConfigSource_REST {
		d.rest(a, at, out)
		return out
	}
	if len(a.GetClusterNames()) > 0 {
		d.fail(at.Field("cluster_names"), "use grpc_services")
	}
	if len(a.GetGrpcServices()) == 0 {
		d.fail(at.Field("grpc_services"), "at least one is needed")
	}
	if len(a.GetGrpcServices()) > 2 {
		d.fail(at.Field("grpc_services"), "at most two are supported (the second for fail-over), got %d", len(a.GetGrpcServices()))
	}
	for i, g := range a.GetGrpcServices() {
		out.Services = append(out.Services, d.grpcService(g, at.Index("grpc_services", i)))
	}
	return out
}

// rest digests api_type REST.
func (d *digester) rest(a *corev3.ApiConfigSource, at registry.Path, out *API) {
	out.REST, out.RequestTimeout, out.RefreshDelay = true, defaultRequestTimeout, a.GetRefreshDelay().AsDuration()
	if t := a.GetRequestTimeout(); t != nil {
		out.RequestTimeout = t.AsDuration()
	}
	if len(a.GetGrpcServices()) > 0 {
		d.fail(at.Field("grpc_services"), "REST has none, it has cluster_names")
	}
	if a.GetRefreshDelay() == nil || out.RefreshDelay <= 0 {
		d.fail(at.Field("refresh_delay"), "refresh_delay is required for REST API configuration sources")
	}
	if len(a.GetClusterNames()) != 1 {
		d.fail(at.Field("cluster_names"), "exactly one is needed, got %d", len(a.GetClusterNames()))
		return
	}
	s := GRPCService{Name: a.GetClusterNames()[0]}
	if s.Cluster = d.c.Cluster(s.Name); s.Cluster == nil {
		d.fail(at.Index("cluster_names", 0), "there is no static cluster %q", s.Name)
	}
	out.Services = []GRPCService{s}
}

// GRPC digests a GrpcService found anywhere in the configuration; at is its path, for errors.
func (c *Config) GRPC(g *corev3.GrpcService, at registry.Path) (GRPCService, error) {
	d := digester{c: c}
	for _, f := range schema.Walk(g, at, registry.UnknownWarn) {
		if f.Class == registry.ClassRefused {
			d.errs = append(d.errs, f.Err())
		}
	}
	out := d.grpcService(g, at)
	return out, errors.Join(d.errs...)
}

func (d *digester) grpcService(g *corev3.GrpcService, at registry.Path) GRPCService {
	var out GRPCService
	switch t := g.GetTargetSpecifier().(type) {
	case *corev3.GrpcService_EnvoyGrpc_:
		out.Name, out.Authority = t.EnvoyGrpc.GetClusterName(), t.EnvoyGrpc.GetAuthority()
		out.Cluster = d.c.Cluster(out.Name)
		out.Secrets = d.c.Proto.GetStaticResources().GetSecrets()
		if out.Cluster == nil {
			d.fail(at.Field("envoy_grpc.cluster_name"), "there is no static cluster %q", out.Name)
		}
	case *corev3.GrpcService_GoogleGrpc_:
		out.Name, out.Target = t.GoogleGrpc.GetStatPrefix(), t.GoogleGrpc.GetTargetUri()
		out.SSL = t.GoogleGrpc.GetChannelCredentials().GetSslCredentials()
		if at := at.Field("google_grpc.channel_credentials.ssl_credentials.root_certs"); out.SSL != nil && out.SSL.GetRootCerts() == nil {
			d.fail(at, "must be set: there are no roots of our own")
		}
		d.channelArgs(&out, t.GoogleGrpc.GetChannelArgs().GetArgs(), at.Field("google_grpc.channel_args"))
	default:
		d.fail(at, "envoy_grpc or google_grpc must be set")
	}
	for i, h := range g.GetInitialMetadata() {
		if strings.Contains(h.GetValue(), "%") {
			d.fail(at.Index("initial_metadata", i).Field("value"), "formatter operators are not supported here")
		}
		if out.Metadata == nil {
			out.Metadata = map[string]string{}
		}
		out.Metadata[strings.ToLower(h.GetKey())] = h.GetValue()
	}
	return out
}

// Arguments of a gRPC channel that change who is talked to.
const (
	argTargetName = "grpc.ssl_target_name_override"
	argAuthority  = "grpc.default_authority"
)

// channelArgs honours the arguments that change who is talked to, each of which also stands in for the other: over TLS the name of the target wins, in plain
// text the authority. Others tune a library that is not used here.
func (d *digester) channelArgs(out *GRPCService, args map[string]*corev3.GrpcService_GoogleGrpc_ChannelArgs_Value, at registry.Path) {
	for _, name := range slices.Sorted(maps.Keys(args)) {
		at := at.Field(fmt.Sprintf("args[%q]", name))
		if name != argTargetName && name != argAuthority {
			d.warnings = append(d.warnings, registry.Finding{Path: at, Class: registry.ClassAdvisory, Reason: "only tunes Envoy's gRPC library"})
			continue
		}
		if _, ok := args[name].GetValueSpecifier().(*corev3.GrpcService_GoogleGrpc_ChannelArgs_Value_StringValue); !ok {
			d.fail(at, "must be a string_value")
		}
	}
	name, authority := args[argTargetName].GetStringValue(), args[argAuthority].GetStringValue()
	out.TargetName = orDefault(name, hostOf(authority))
	if out.Authority = orDefault(authority, name); out.SSL != nil {
		out.Authority = orDefault(name, authority)
	}
}

// hostOf is an authority without its port.
func hostOf(authority string) string {
	if host, _, err := net.SplitHostPort(authority); err == nil {
		return host
	}
	return authority
}

func (d *digester) admin() {
	a := d.c.Proto.GetAdmin()
	if a == nil {
		return
	}
	out := &d.c.Admin
	out.AccessLog, out.AccessLogPath, out.AllowPaths = a.GetAccessLog(), a.GetAccessLogPath(), a.GetAllowPaths()
	if a.GetAddress() == nil {
		return // Envoy, too, then has no admin listener
	}
	switch t := a.GetAddress().GetAddress().(type) {
	case *corev3.Address_SocketAddress:
		if t.SocketAddress.GetNamedPort() != "" {
			d.fail("admin.address.socket_address.named_port", "named ports are not supported")
		}
		if t.SocketAddress.GetProtocol() != corev3.SocketAddress_TCP {
			d.fail("admin.address.socket_address.protocol", "only TCP is possible")
		}
		if net.ParseIP(t.SocketAddress.GetAddress()) == nil {
			d.fail("admin.address.socket_address.address", "malformed IP address: %s", t.SocketAddress.GetAddress())
		}
		out.Network = "tcp"
		out.Address = net.JoinHostPort(t.SocketAddress.GetAddress(), strconv.Itoa(int(t.SocketAddress.GetPortValue())))
	case *corev3.Address_Pipe:
		out.Network, out.Address, out.Mode = "unix", t.Pipe.GetPath(), t.Pipe.GetMode()
	default:
		d.fail("admin.address", "only socket_address and pipe are supported")
	}
}

func (d *digester) runtime() {
	if r := d.c.Proto.GetLayeredRuntime(); r != nil && len(r.GetLayers()) == 0 {
		d.c.Runtime = []RuntimeLayer{{Admin: true}} // observed: no layers at all means one unnamed admin layer
		return
	}
	admin := false
	names := map[string]bool{}
	for i, l := range d.c.Proto.GetLayeredRuntime().GetLayers() {
		at := registry.Path("layered_runtime").Index("layers", i)
		if names[l.GetName()] {
			d.fail(at.Field("name"), "duplicate layer name %q", l.GetName())
		}
		names[l.GetName()] = true
		if l.GetAdminLayer() != nil {
			if admin {
				d.fail(at.Field("admin_layer"), "there can be only one admin layer")
			}
			admin = true
		}
		x := RuntimeLayer{Name: l.GetName(), Static: l.GetStaticLayer(), Admin: l.GetAdminLayer() != nil}
		if r := l.GetRtdsLayer(); r != nil {
			at := at.Field("rtds_layer.rtds_config")
			if x.RTDS = d.source(r.GetRtdsConfig(), at); x.RTDS == nil {
				d.fail(at, "must be set")
			}
			x.Resource = r.GetName()
		}
		d.c.Runtime = append(d.c.Runtime, x)
	}
}

// extensions names each bootstrap extension: those that only serve others are warned about, anything else is refused.
func (d *digester) extensions() {
	for i, e := range d.c.Proto.GetBootstrapExtensions() {
		at := registry.Path("").Index("bootstrap_extensions", i)
		url, content, err := registry.Unwrap(e.GetTypedConfig())
		if err != nil {
			d.fail(at.Field("typed_config"), "%w", err)
			continue
		}
		if x := (&internalv3.InternalListener{}); url == registry.TypeURL(x) {
			d.internalListener(at.Field("typed_config"), content, x)
			continue
		}
		what, ok := laterExtensions[url]
		if !ok {
			d.fail(at.Field("typed_config"), "%w %q of bootstrap extension %q", registry.ErrUnknownType, url, e.GetName())
			continue
		}
		d.warnings = append(d.warnings, registry.Finding{
			Path: at, Class: registry.ClassAdvisory, Later: true,
			Reason: fmt.Sprintf("%s waits for a later issue (%s)", e.GetName(), what),
		})
	}
}

// internalListener is how much the connections to internal listeners hold.
func (d *digester) internalListener(at registry.Path, content registry.Content, x *internalv3.InternalListener) {
	if err := content.DecodeInto(x); err != nil {
		d.fail(at, "%w", err)
		return
	}
	if err := x.ValidateAll(); err != nil {
		d.fail(at, "%w", err)
	}
	d.c.InternalBuffer = int(x.GetBufferSizeKb().GetValue()) << 10
}

func (d *digester) overload() {
	for i, m := range d.c.Proto.GetOverloadManager().GetResourceMonitors() {
		at := registry.Path("overload_manager").Index("resource_monitors", i).Field("typed_config")
		url, content, err := registry.Unwrap(m.GetTypedConfig())
		if err != nil {
			d.fail(at, "%w", err)
			continue
		}
		if url != maxConnectionsURL {
			d.fail(at, "%w %q of resource monitor %q (known: envoy.resource_monitors.global_downstream_max_connections)",
				registry.ErrUnknownType, url, m.GetName())
			continue
		}
		var cfg downstreamv3.DownstreamConnectionsConfig
		if err := content.DecodeInto(&cfg); err != nil {
			d.fail(at, "%w", err)
			continue
		}
		d.errs = append(d.errs, registry.Flatten(registry.Validate(&cfg, at))...)
		d.c.MaxDownstreamConnections = cfg.GetMaxActiveDownstreamConnections()
	}
}
