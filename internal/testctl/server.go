// SPDX-License-Identifier: Apache-2.0

package testctl

import (
	"context"
	"fmt"
	"math"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	clusterservice "github.com/envoyproxy/go-control-plane/envoy/service/cluster/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	endpointservice "github.com/envoyproxy/go-control-plane/envoy/service/endpoint/v3"
	listenerservice "github.com/envoyproxy/go-control-plane/envoy/service/listener/v3"
	routeservice "github.com/envoyproxy/go-control-plane/envoy/service/route/v3"
	secretservice "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/log"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/config"
	"github.com/envoyproxy/go-control-plane/pkg/server/sotw/v3"
	serverv3 "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// recordMax bounds the requests a Server remembers; the oldest go first.
const recordMax = 100_000

// Config of a Server.
type Config struct {
	// Listen is host:port ("127.0.0.1:0" when empty) or "unix:PATH".
	Listen string
	// PerType switches the consistency rule of aggregated streams off: needed when clients use one stream per type.
	PerType bool
	// Ordered makes SotW responses of an aggregated stream come in order (WithOrderedADS).
	Ordered bool
	// Heartbeat is the interval at which resources with a TTL are refreshed; 0 sends no heartbeats.
	Heartbeat time.Duration
	// Credentials make the server speak TLS; nil is plain text.
	Credentials credentials.TransportCredentials
	// Errors, when not nil, gets the server's own error messages.
	Errors func(string)
}

// Resources of one snapshot.
type Resources struct {
	Listeners, Routes, Clusters, Endpoints, Secrets []types.Resource
	// TTL by resource name; resources without one never expire.
	TTL map[string]time.Duration
}

// Request is one recorded discovery request.
type Request struct {
	Stream  int64
	Delta   bool
	TypeURL string
	// Node is nil in messages that carry none (Server: the library fills it in for SotW before anyone sees the request).
	Node *corev3.Node
	// Names is resource_names or resource_names_subscribe; Removed is resource_names_unsubscribe.
	Names, Removed []string
	// Version is version_info of a SotW request; Initial is initial_resource_versions of a delta one.
	Version string
	Initial map[string]string
	Nonce   string
	// Error is the text of a NACK; Nacked tells one with an empty text.
	Nacked bool
	Error  string
}

// Server is an embedded go-control-plane server.
type Server struct {
	// Immutable
	cache    cache.SnapshotCache
	grpc     *grpc.Server
	listener net.Listener
	cancel   context.CancelFunc
	done     chan struct{}

	// Shared, under mu
	mu       sync.Mutex
	requests []Request
	streams  int
	opened   int
	changed  chan struct{} // closed and replaced with every record
}

// NewServer listens and serves until Close.
func NewServer(cfg Config) (*Server, error) {
	l, err := listen(cfg.Listen)
	if err != nil {
		return nil, err
	}
	logger := log.LoggerFuncs{}
	if cfg.Errors != nil {
		logger.ErrorFunc = func(f string, a ...any) { cfg.Errors(fmt.Sprintf(f, a...)) }
	}
	ctx, cancel := context.WithCancel(context.Background())
	snapshots := cache.NewSnapshotCache(!cfg.PerType, cache.IDHash{}, logger)
	if cfg.Heartbeat > 0 {
		snapshots = cache.NewSnapshotCacheWithHeartbeating(ctx, !cfg.PerType, cache.IDHash{}, logger, cfg.Heartbeat)
	}
	s := &Server{cache: snapshots, listener: l, cancel: cancel, done: make(chan struct{}), changed: make(chan struct{})}
	var opts []config.XDSOption
	if cfg.Ordered {
		opts = append(opts, sotw.WithOrderedADS())
	}
	srv := serverv3.NewServer(ctx, s.cache, s.callbacks(), opts...)
	options := []grpc.ServerOption{grpc.MaxRecvMsgSize(math.MaxInt32), grpc.MaxSendMsgSize(math.MaxInt32), grpc.MaxConcurrentStreams(math.MaxInt32)}
	if cfg.Credentials != nil {
		options = append(options, grpc.Creds(cfg.Credentials))
	}
	s.grpc = grpc.NewServer(options...)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(s.grpc, srv)
	listenerservice.RegisterListenerDiscoveryServiceServer(s.grpc, srv)
	routeservice.RegisterRouteDiscoveryServiceServer(s.grpc, srv)
	clusterservice.RegisterClusterDiscoveryServiceServer(s.grpc, srv)
	endpointservice.RegisterEndpointDiscoveryServiceServer(s.grpc, srv)
	secretservice.RegisterSecretDiscoveryServiceServer(s.grpc, srv)
	go func() {
		defer close(s.done)
		_ = s.grpc.Serve(l)
	}()
	return s, nil
}

func listen(addr string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			return nil, err
		}
		return net.Listen("unix", path)
	}
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	return net.Listen("tcp", addr)
}

// Addr returns host:port, or the path of the socket.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Set makes r the configuration of the node with this id. All types get the same version.
func (s *Server) Set(node, version string, r Resources) error {
	ttl := func(in []types.Resource) []types.ResourceWithTTL {
		out := make([]types.ResourceWithTTL, len(in))
		for i, m := range in {
			out[i].Resource = m
			if d := r.TTL[cache.GetResourceName(m)]; d > 0 {
				out[i].TTL = &d
			}
		}
		return out
	}
	snap, err := cache.NewSnapshotWithTTLs(version, map[resourcev3.Type][]types.ResourceWithTTL{
		resourcev3.ListenerType: ttl(r.Listeners), resourcev3.RouteType: ttl(r.Routes), resourcev3.ClusterType: ttl(r.Clusters),
		resourcev3.EndpointType: ttl(r.Endpoints), resourcev3.SecretType: ttl(r.Secrets),
	})
	if err != nil {
		return err
	}
	return s.cache.SetSnapshot(context.Background(), node, snap)
}

// Requests returns a copy of what was recorded, oldest first.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Request(nil), s.requests...)
}

// Streams returns how many streams are open now, and how many were opened in all.
func (s *Server) Streams() (open, total int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.streams, s.opened
}

// Wait waits until match is true for some recorded request, oldest first, and returns it.
func (s *Server) Wait(ctx context.Context, match func(Request) bool) (Request, error) {
	from := 0
	for {
		s.mu.Lock()
		all, changed := s.requests, s.changed
		s.mu.Unlock()
		for ; from < len(all); from++ {
			if match(all[from]) {
				return all[from], nil
			}
		}
		select {
		case <-ctx.Done():
			return Request{}, fmt.Errorf("no such request among %d: %w", len(all), ctx.Err())
		case <-changed:
		}
	}
}

// Close ends all streams and stops.
func (s *Server) Close() {
	s.cancel()
	s.grpc.Stop()
	<-s.done
}

func (s *Server) record(r Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.requests) >= recordMax {
		s.requests = append([]Request(nil), s.requests[recordMax/2:]...)
	}
	s.requests = append(s.requests, r)
	s.touch()
}

func (s *Server) stream(delta int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams += delta
	s.opened += max(delta, 0)
	s.touch()
}

// touch wakes the waiters. The caller holds mu.
func (s *Server) touch() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Server) callbacks() serverv3.Callbacks {
	return serverv3.CallbackFuncs{
		StreamOpenFunc:        func(context.Context, int64, string) error { s.stream(1); return nil },
		DeltaStreamOpenFunc:   func(context.Context, int64, string) error { s.stream(1); return nil },
		StreamClosedFunc:      func(int64, *corev3.Node) { s.stream(-1) },
		DeltaStreamClosedFunc: func(int64, *corev3.Node) { s.stream(-1) },
		StreamRequestFunc: func(id int64, r *discoveryv3.DiscoveryRequest) error {
			s.record(sotwRecord(id, r))
			return nil
		},
		StreamDeltaRequestFunc: func(id int64, r *discoveryv3.DeltaDiscoveryRequest) error {
			s.record(deltaRecord(id, r))
			return nil
		},
	}
}

func sotwRecord(id int64, r *discoveryv3.DiscoveryRequest) Request {
	return Request{
		Stream: id, TypeURL: r.GetTypeUrl(), Node: r.GetNode(), Names: r.GetResourceNames(), Version: r.GetVersionInfo(), Nonce: r.GetResponseNonce(),
		Nacked: r.GetErrorDetail() != nil, Error: r.GetErrorDetail().GetMessage(),
	}
}

func deltaRecord(id int64, r *discoveryv3.DeltaDiscoveryRequest) Request {
	return Request{
		Stream: id, Delta: true, TypeURL: r.GetTypeUrl(), Node: r.GetNode(), Names: r.GetResourceNamesSubscribe(), Removed: r.GetResourceNamesUnsubscribe(),
		Initial: r.GetInitialResourceVersions(), Nonce: r.GetResponseNonce(), Nacked: r.GetErrorDetail() != nil, Error: r.GetErrorDetail().GetMessage(),
	}
}
