// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"sidecar/xds/bootstrap"
	"sidecar/xds/registry"
)

// Defaults of a dial.
const (
	// ConnectTimeout is Envoy's default connect_timeout.
	ConnectTimeout = 5 * time.Second
	// PingMin is the shortest HTTP/2 keep-alive interval used, whatever is configured: istiod answers faster pings than 15 s with GOAWAY.
	PingMin = 30 * time.Second
)

// Endpoint is one address of a gRPC server.
type Endpoint struct {
	// Network is "tcp" or "unix".
	Network string
	// Address is host:port (host a name or an IP), or a socket path ("@name" for an abstract one).
	Address string
	// Priority of the endpoint; lower ones are tried first.
	Priority uint32
	// Host is the name of the endpoint, for auto_host_sni: its hostname, or the name that is resolved.
	Host string
}

// Target is a gRPC server to dial. Immutable after TargetOf.
type Target struct {
	// Name of the bootstrap cluster, or the stat prefix: for messages.
	Name      string
	Endpoints []Endpoint
	// Authority is the :authority header.
	Authority string
	// Metadata is sent with each stream.
	Metadata       map[string]string
	ConnectTimeout time.Duration
	// TCPKeepalive is the idle time before the first probe; 0 means the system's default.
	TCPKeepalive time.Duration
	// security is nil for plain text.
	security *security
	// Ping is the HTTP/2 keep-alive interval; 0 sends none, which is Envoy's default.
	Ping, PingTimeout time.Duration
	// HTTP2: the cluster speaks HTTP/2. gRPC does so in any case.
	HTTP2 bool
}

// TargetOf resolves a gRPC service of the bootstrap into something to dial. It refuses, with the field, what would change who is talked
// to: TLS that cannot be had as configured, cluster types without addresses of their own.
func TargetOf(s bootstrap.GRPCService) (*Target, error) {
	if s.Cluster == nil {
		e, err := parseTargetURI(s.Target)
		if err != nil {
			return nil, fmt.Errorf("google_grpc.target_uri: %w", err)
		}
		t := &Target{Name: s.Name, Endpoints: []Endpoint{e}, Authority: first(s.Authority, authorityOf(e)), Metadata: s.Metadata, ConnectTimeout: ConnectTimeout}
		if s.SSL != nil {
			if t.security, err = newSSL(s.Name, first(s.TargetName, hostOf(e)), s.SSL); err != nil {
				return nil, fmt.Errorf("google_grpc.channel_credentials.ssl_credentials: %w", err)
			}
		}
		return t, nil
	}
	c := s.Cluster
	t := &Target{Name: c.GetName(), Authority: first(s.Authority, c.GetName()), Metadata: s.Metadata, ConnectTimeout: ConnectTimeout}
	if d := c.GetConnectTimeout(); d != nil {
		t.ConnectTimeout = d.AsDuration()
	}
	if k := c.GetUpstreamConnectionOptions().GetTcpKeepalive().GetKeepaliveTime(); k != nil {
		t.TCPKeepalive = time.Duration(k.GetValue()) * time.Second
	}
	t.ping(c)
	t.HTTP2 = c.GetHttp2ProtocolOptions() != nil || http2Options(c) != nil
	var errs []error
	fail := func(at registry.Path, format string, args ...any) {
		errs = append(errs, fmt.Errorf("cluster %q: %w", c.GetName(), &registry.FieldError{Path: at, Err: fmt.Errorf(format, args...)}))
	}
	t.checkCluster(c, fail)
	t.secure(c, s.Secrets, func(err error) { errs = append(errs, fmt.Errorf("cluster %q: %w", c.GetName(), err)) })
	t.endpoints(c.GetLoadAssignment(), fail)
	if len(errs) == 0 && len(t.Endpoints) == 0 {
		fail("load_assignment", "has no endpoint")
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	slices.SortStableFunc(t.Endpoints, func(a, b Endpoint) int { return int(a.Priority) - int(b.Priority) })
	return t, nil
}

type failFunc func(at registry.Path, format string, args ...any)

func (t *Target) checkCluster(c *clusterv3.Cluster, fail failFunc) {
	switch c.GetType() {
	case clusterv3.Cluster_STATIC, clusterv3.Cluster_STRICT_DNS, clusterv3.Cluster_LOGICAL_DNS:
	default:
		fail("type", "a control plane can be reached through STATIC, STRICT_DNS and LOGICAL_DNS clusters, not %s", c.GetType())
	}
	if c.GetClusterType() != nil {
		fail("cluster_type", "a control plane cannot be reached through a custom cluster")
	}
	if len(c.GetTransportSocketMatches()) > 0 {
		fail("transport_socket_matches", "not supported for a control plane: %w", registry.ErrLater)
	}
}

// secure takes over the transport socket.
func (t *Target) secure(c *clusterv3.Cluster, secrets []*tlsv3.Secret, fail func(error)) {
	ts := c.GetTransportSocket()
	if ts == nil || (ts.GetTypedConfig() == nil && ts.GetName() == "envoy.transport_sockets.raw_buffer") {
		return
	}
	s, err := newSecurity(c.GetName(), ts, secrets)
	for _, e := range registry.Flatten(err) {
		fail(e)
	}
	if err == nil && s.good != nil {
		t.security = s
	}
}

// ping reads the HTTP/2 keep-alive of the deprecated field; the typed option wins only where that is not set.
func (t *Target) ping(c *clusterv3.Cluster) {
	k := c.GetHttp2ProtocolOptions().GetConnectionKeepalive()
	if k == nil {
		k = http2Options(c).GetConnectionKeepalive()
	}
	if k.GetInterval() == nil {
		return
	}
	t.Ping = max(k.GetInterval().AsDuration(), PingMin)
	t.PingTimeout = k.GetTimeout().AsDuration()
}

func (t *Target) endpoints(cla *endpointv3.ClusterLoadAssignment, fail failFunc) {
	for i, l := range cla.GetEndpoints() {
		for j, e := range l.GetLbEndpoints() {
			at := registry.Path("load_assignment").Index("endpoints", i).Index("lb_endpoints", j).Field("endpoint.address")
			switch a := e.GetEndpoint().GetAddress().GetAddress().(type) {
			case *corev3.Address_SocketAddress:
				if a.SocketAddress.GetNamedPort() != "" {
					fail(at.Field("socket_address.named_port"), "named ports are not supported")
					continue
				}
				host := e.GetEndpoint().GetHostname()
				if host == "" && net.ParseIP(a.SocketAddress.GetAddress()) == nil {
					host = a.SocketAddress.GetAddress()
				}
				t.Endpoints = append(t.Endpoints, Endpoint{"tcp",
					net.JoinHostPort(a.SocketAddress.GetAddress(), strconv.Itoa(int(a.SocketAddress.GetPortValue()))), l.GetPriority(), host})
			case *corev3.Address_Pipe:
				t.Endpoints = append(t.Endpoints, Endpoint{"unix", a.Pipe.GetPath(), l.GetPriority(), e.GetEndpoint().GetHostname()})
			default:
				fail(at, "only socket_address and pipe are supported")
			}
		}
	}
}

// parseTargetURI reads the gRPC name syntax as far as it needs no resolver plug-in.
func parseTargetURI(uri string) (Endpoint, error) {
	scheme, rest, ok := strings.Cut(uri, ":")
	if ok {
		switch scheme {
		case "unix":
			return Endpoint{Network: "unix", Address: strings.TrimPrefix(rest, "//")}, nil
		case "unix-abstract":
			return Endpoint{Network: "unix", Address: "@" + rest}, nil
		case "dns":
			rest = strings.TrimPrefix(rest, "//")
			uri = strings.TrimPrefix(rest[strings.LastIndexByte(rest, '/')+1:], "/")
		case "ipv4", "ipv6":
			uri = rest
		}
	}
	if _, _, err := net.SplitHostPort(uri); err != nil || strings.Contains(uri, "/") {
		return Endpoint{}, fmt.Errorf("%q is not host:port, unix:path or dns:host:port", uri)
	}
	return Endpoint{Network: "tcp", Address: uri}, nil
}

func authorityOf(e Endpoint) string {
	if e.Network == "unix" {
		return "localhost"
	}
	return e.Address
}

// hostOf is the name that the certificate of e must carry.
func hostOf(e Endpoint) string {
	host, _, err := net.SplitHostPort(authorityOf(e))
	if err != nil {
		return authorityOf(e)
	}
	return host
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// dial connects to one endpoint: lowest priority value first, in random order within it, all within the connect timeout.
func (t *Target) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, t.ConnectTimeout)
	defer cancel()
	order := slices.Clone(t.Endpoints)
	rand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	slices.SortStableFunc(order, func(a, b Endpoint) int { return int(a.Priority) - int(b.Priority) })
	d := net.Dialer{KeepAlive: t.TCPKeepalive}
	var errs []error
	for _, e := range order {
		c, err := d.DialContext(ctx, e.Network, e.Address)
		if err == nil {
			return &dialed{c, e.Host}, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}
