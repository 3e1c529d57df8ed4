// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"sidecar/xds/ads"
	"sidecar/xds/resource"
)

// QueueMax bounds the requests that wait to be written; beyond it nothing is read from the server until it takes some.
const QueueMax = 1024

// StreamConfig of a Stream.
type StreamConfig struct {
	// Targets in order of preference: a stream that died without an answer is followed by an attempt at the next one.
	Targets []*Target
	Variant ads.Variant
	// Type is the resource type of a per-type stream; resource.Unknown means the aggregated stream.
	Type resource.Type
	// Node goes out with the messages that the session marks.
	Node *corev3.Node
	// Sink gets the events. Required.
	Sink Sink
	// Clock stamps responses. Required when resources have TTLs; nil counts from the creation of the stream.
	Clock Clock
	// Stats may be nil.
	Stats Stats
}

// methods are the gRPC methods per type: SotW, delta.
var methods = map[resource.Type][2]string{
	resource.Unknown:            {"/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources", "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"},
	resource.Listener:           {"/envoy.service.listener.v3.ListenerDiscoveryService/StreamListeners", "/envoy.service.listener.v3.ListenerDiscoveryService/DeltaListeners"},
	resource.RouteConfiguration: {"/envoy.service.route.v3.RouteDiscoveryService/StreamRoutes", "/envoy.service.route.v3.RouteDiscoveryService/DeltaRoutes"},
	resource.Cluster:            {"/envoy.service.cluster.v3.ClusterDiscoveryService/StreamClusters", "/envoy.service.cluster.v3.ClusterDiscoveryService/DeltaClusters"},
	resource.Endpoints:          {"/envoy.service.endpoint.v3.EndpointDiscoveryService/StreamEndpoints", "/envoy.service.endpoint.v3.EndpointDiscoveryService/DeltaEndpoints"},
	resource.Secret:             {"/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets", "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets"},
	resource.Runtime:            {"/envoy.service.runtime.v3.RuntimeDiscoveryService/StreamRuntime", "/envoy.service.runtime.v3.RuntimeDiscoveryService/DeltaRuntime"},
	resource.ScopedRoute:        {"/envoy.service.route.v3.ScopedRoutesDiscoveryService/StreamScopedRoutes", "/envoy.service.route.v3.ScopedRoutesDiscoveryService/DeltaScopedRoutes"},
	resource.VirtualHost:        {"", "/envoy.service.route.v3.VirtualHostDiscoveryService/DeltaVirtualHosts"},
	resource.ExtensionConfig:    {"/envoy.service.extension.v3.ExtensionConfigDiscoveryService/StreamExtensionConfigs", "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/DeltaExtensionConfigs"},
}

// Stream is a Runner over gRPC. Each attempt has a connection of its own, a goroutine that opens and reads, and one that writes.
type Stream struct {
	// Immutable
	cfg    StreamConfig
	method string
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	// Shared, under mu
	mu      sync.Mutex
	wake    *sync.Cond
	queue   []ads.Send // waiting to be written, at most QueueMax while reading goes on
	permit  bool       // the next response may be read
	running bool       // an attempt is under way
	deaf    bool       // its writer has stopped: requests are dropped
	timer   *time.Timer
	closed  bool
	target  int
}

// NewStream returns a stream that Start opens. It fails when there is no target, no sink, or no method for the type.
func NewStream(cfg StreamConfig) (*Stream, error) {
	m, ok := methods[cfg.Type]
	switch {
	case !ok:
		return nil, fmt.Errorf("%s has no discovery service of its own", cfg.Type)
	case len(cfg.Targets) == 0:
		return nil, errors.New("no control plane to connect to")
	case cfg.Sink == nil:
		return nil, errors.New("no sink")
	}
	if cfg.Clock == nil {
		start := time.Now()
		cfg.Clock = func() time.Duration { return time.Since(start) }
	}
	if cfg.Stats == nil {
		cfg.Stats = noStats{}
	}
	s := &Stream{cfg: cfg, method: m[cfg.Variant]}
	s.wake = sync.NewCond(&s.mu)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

// Start implements Runner.
func (s *Stream) Start() { s.Do(ads.Reconnect{}) }

// Do implements Runner.
func (s *Stream) Do(a ads.Action) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	switch a := a.(type) {
	case ads.Send:
		// A message for a stream that just died is lost with it; the session says everything again on the next one.
		if s.running && !s.deaf {
			s.queue = append(s.queue, a)
			s.wake.Broadcast()
		}
	case ads.Read:
		s.permit = true
		s.wake.Broadcast()
	case ads.Reconnect:
		if s.timer == nil && !s.running {
			s.timer = time.AfterFunc(a.After, s.begin)
		}
	}
}

// Close implements Runner.
func (s *Stream) Close() {
	s.mu.Lock()
	s.closed = true
	if s.timer != nil {
		s.timer.Stop()
	}
	s.wake.Broadcast()
	s.mu.Unlock()
	s.cancel()
	s.wg.Wait()
}

// begin starts one attempt.
func (s *Stream) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timer = nil
	if s.closed || s.running {
		return
	}
	s.running, s.deaf, s.permit, s.queue = true, false, true, nil
	t := s.cfg.Targets[s.target%len(s.cfg.Targets)]
	s.wg.Add(1)
	go s.attempt(t)
}

// attempt is the life of one stream: dial, open, read to the end, report.
func (s *Stream) attempt(t *Target) {
	defer s.wg.Done()
	ctx, cancel := context.WithCancel(s.ctx)
	got, err := s.serve(ctx, cancel, t)
	cancel()
	s.mu.Lock()
	s.running = false
	s.queue = nil
	if !got {
		s.target++
	}
	closed := s.closed
	s.wake.Broadcast()
	s.mu.Unlock()
	if !closed {
		s.cfg.Stats.Failed(err)
		s.cfg.Sink(ads.Closed{Err: err})
	}
}

// serve reports whether any response came, and why the stream ended (never nil).
func (s *Stream) serve(ctx context.Context, cancel context.CancelFunc, t *Target) (bool, error) {
	cc, err := t.Connect()
	if err != nil {
		return false, err
	}
	defer func() { _ = cc.Close() }()
	for k, v := range t.Metadata {
		ctx = metadata.AppendToOutgoingContext(ctx, k, v)
	}
	desc := &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}
	st, err := cc.NewStream(ctx, desc, s.method)
	if err != nil {
		return false, fmt.Errorf("control plane %q: %w", t.Name, err)
	}
	s.cfg.Stats.Connected(true)
	defer s.cfg.Stats.Connected(false)
	s.cfg.Sink(ads.Opened{})
	var writer sync.WaitGroup
	writer.Add(1)
	go func() {
		defer writer.Done()
		s.write(ctx, cancel, st)
	}()
	got, err := s.read(ctx, st)
	cancel()
	s.mu.Lock()
	s.wake.Broadcast()
	s.mu.Unlock()
	writer.Wait()
	if errors.Is(err, io.EOF) {
		err = errors.New("the server ended the stream")
	}
	return got, fmt.Errorf("control plane %q: %w", t.Name, err)
}

// Connect makes a connection to a target, dialled on first use and again whenever it breaks. The caller closes it.
func (t *Target) Connect() (*grpc.ClientConn, error) {
	creds := insecure.NewCredentials()
	if t.security != nil {
		creds = tlsCredentials{t.security}
	}
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return t.dial(ctx) }),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.MaxCallSendMsgSize(math.MaxInt32)),
		grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(), grpc.WithIdleTimeout(0), grpc.WithUserAgent("sidecar"),
	}
	if t.Authority != "" {
		opts = append(opts, grpc.WithAuthority(t.Authority))
	}
	// The connection lives for one attempt, so gRPC's own backoff never comes into play; but it also bounds the attempt from below.
	opts = append(opts, grpc.WithConnectParams(grpc.ConnectParams{
		Backoff: backoff.Config{BaseDelay: t.ConnectTimeout, Multiplier: 1, MaxDelay: t.ConnectTimeout}, MinConnectTimeout: t.ConnectTimeout,
	}))
	if t.Ping > 0 {
		opts = append(opts, grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: t.Ping, Timeout: t.PingTimeout}))
	}
	cc, err := grpc.NewClient("passthrough:///control-plane", opts...)
	if err != nil {
		return nil, fmt.Errorf("control plane %q: %w", t.Name, err)
	}
	return cc, nil
}

// read passes responses up, each after its permit.
func (s *Stream) read(ctx context.Context, st grpc.ClientStream) (bool, error) {
	got := false
	for {
		if !s.mayRead(ctx) {
			return got, context.Cause(ctx)
		}
		ev, size, err := s.receive(st)
		if err != nil {
			return got, err
		}
		got = true
		ev.Now = s.cfg.Clock()
		s.cfg.Stats.Received(ev.TypeURL, size)
		s.cfg.Sink(ev)
	}
}

// mayRead waits for the session's permission and for room in the request queue, and takes the permission. False when the stream is over.
//
// While it waits nobody reads, so a server that ends the stream is noticed only then; the session is busy with a response at that time,
// or the server does not take our requests, so nothing is lost by it.
func (s *Stream) mayRead(ctx context.Context) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.closed && ctx.Err() == nil && (!s.permit || len(s.queue) >= QueueMax) {
		s.wake.Wait()
	}
	s.permit = false
	return !s.closed && ctx.Err() == nil
}

func (s *Stream) receive(st grpc.ClientStream) (ads.Response, int, error) {
	if s.cfg.Variant == ads.Delta {
		m := &discoveryv3.DeltaDiscoveryResponse{}
		if err := st.RecvMsg(m); err != nil {
			return ads.Response{}, 0, err
		}
		return deltaResponse(m), proto.Size(m), nil
	}
	m := &discoveryv3.DiscoveryResponse{}
	if err := st.RecvMsg(m); err != nil {
		return ads.Response{}, 0, err
	}
	return sotwResponse(m), proto.Size(m), nil
}

// write sends queued requests until the stream ends. A failed write ends it; the reader then gets the reason from the server.
func (s *Stream) write(ctx context.Context, cancel context.CancelFunc, st grpc.ClientStream) {
	defer func() {
		s.mu.Lock()
		s.deaf, s.queue = true, nil
		s.wake.Broadcast()
		s.mu.Unlock()
	}()
	for {
		m, ok := s.next(ctx)
		if !ok {
			return
		}
		var err error
		if s.cfg.Variant == ads.Delta {
			err = st.SendMsg(deltaRequest(m, s.cfg.Node))
		} else {
			err = st.SendMsg(sotwRequest(m, s.cfg.Node))
		}
		if err != nil {
			// io.EOF means the stream is already over and RecvMsg has the status; anything else must end it here.
			if !errors.Is(err, io.EOF) {
				cancel()
			}
			return
		}
		s.cfg.Stats.Sent(m.TypeURL, m.Nack)
	}
}

func (s *Stream) next(ctx context.Context) (ads.Send, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.queue) == 0 {
		if s.closed || ctx.Err() != nil {
			return ads.Send{}, false
		}
		s.wake.Wait()
	}
	if s.closed || ctx.Err() != nil {
		return ads.Send{}, false
	}
	m := s.queue[0]
	s.queue[0] = ads.Send{}
	s.queue = s.queue[1:]
	s.wake.Broadcast()
	return m, true
}
