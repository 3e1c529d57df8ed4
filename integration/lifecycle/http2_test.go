// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/h2c"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// streamed is how many messages the test's streaming call brings.
const streamed = 2000

// health is a gRPC service with a unary call that may fail and a streaming one.
type health struct {
	healthpb.UnimplementedHealthServer
}

func (health) Check(ctx context.Context, r *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	if r.Service == "missing" {
		return nil, status.Error(codes.NotFound, "no such service: ü")
	}
	return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}, grpc.SetTrailer(ctx, metadata.Pairs("x-tr", "1"))
}

func (health) Watch(_ *healthpb.HealthCheckRequest, s grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	for range streamed {
		if err := s.Send(&healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}); err != nil {
			return err
		}
	}
	return nil
}

// echo answers with the body of the request, and with what it was as a trailer; gRPC goes to g.
func echo(g http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			g.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Trailer", "X-Saw")
		c := http.NewResponseController(w)
		_ = c.EnableFullDuplex()
		_ = c.Flush() // else a short answer gets a content-length, and over HTTP/1 no trailers
		n, _ := io.Copy(w, r.Body)
		w.Header().Set("X-Saw", fmt.Sprintf("%s %d %s", r.Proto, n, r.Trailer.Get("X-Sum")))
	})
}

const http2Config = `
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}
static_resources:
  listeners:
  - name: l
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: t
          http_protocol_options: {enable_trailers: true}
          route_config:
            virtual_hosts:
            - name: v
              domains: ["*"]
              routes:
              - {match: {prefix: /h1}, route: {cluster: h1}}
              - {match: {prefix: /}, route: {cluster: h2}}
          http_filters:
          - name: router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: h1
    load_assignment: &hosts {cluster_name: h, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: PORT}}}}]}]}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http_protocol_options: {enable_trailers: true}}
  - name: h2
    load_assignment: *hosts
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
`

// startHTTP2 starts a backend that speaks HTTP/1 and HTTP/2, and the proxy in front of it.
func startHTTP2(t *testing.T) *proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	healthpb.RegisterHealthServer(g, health{})
	s := &http.Server{Handler: h2c.NewHandler(echo(g), &http2.Server{})}
	go func() { _ = s.Serve(ln) }()
	t.Cleanup(func() { _ = s.Close() })
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return start(t, strings.ReplaceAll(http2Config, "PORT", port))
}

func TestHTTP2_WhenEveryPairOfCodecs_ThenBodiesAndTrailersBothWays(t *testing.T) {
	p := startHTTP2(t)
	clients := map[string]*http.Client{
		"h1": {Transport: &http.Transport{}},
		"h2": {Transport: &http2.Transport{AllowHTTP: true, DialTLSContext: func(_ context.Context, network, addr string, _ *tls.Config) (net.Conn, error) {
			return net.Dial(network, addr)
		}}},
	}
	for down, c := range clients {
		for _, up := range []string{"h1", "h2"} {
			for _, size := range []int{0, 1, 70_000, 5 << 20} {
				t.Run(fmt.Sprintf("%s to %s, %d bytes", down, up, size), func(t *testing.T) {
					body := bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size]
					req, err := http.NewRequest("POST", "http://"+p.Addr["l"]+"/"+up, io.MultiReader(bytes.NewReader(body)))
					if err != nil {
						t.Fatal(err)
					}
					req.ContentLength = -1
					req.Trailer = http.Header{"X-Sum": {"abc"}}
					resp, err := c.Do(req)
					if err != nil {
						t.Fatal(err)
					}
					defer resp.Body.Close()
					got, err := io.ReadAll(resp.Body)
					if err != nil || !bytes.Equal(got, body) {
						t.Fatalf("%d of %d bytes, %v", len(got), size, err)
					}
					version := map[string]string{"h1": "HTTP/1.1", "h2": "HTTP/2.0"}[up]
					if saw, want := resp.Trailer.Get("X-Saw"), fmt.Sprintf("%s %d abc", version, size); saw != want {
						t.Errorf("the upstream saw %q, want %q", saw, want)
					}
				})
			}
		}
	}
}

func TestHTTP2_WhenGRPC_ThenCallsStreamsAndStatuses(t *testing.T) {
	p := startHTTP2(t)
	cc, err := grpc.NewClient(p.Addr["l"], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	c := healthpb.NewHealthClient(cc)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var tr metadata.MD
	if _, err := c.Check(ctx, &healthpb.HealthCheckRequest{}, grpc.Trailer(&tr)); err != nil || strings.Join(tr["x-tr"], "") != "1" {
		t.Errorf("%v, trailers %v", err, tr)
	}
	if _, err := c.Check(ctx, &healthpb.HealthCheckRequest{Service: "missing"}); status.Code(err) != codes.NotFound ||
		status.Convert(err).Message() != "no such service: ü" {
		t.Error(err)
	}
	w, err := c.Watch(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for ; err == nil; n++ {
		_, err = w.Recv()
	}
	if err != io.EOF || n-1 != streamed {
		t.Errorf("%d messages, %v", n-1, err)
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for range 50 {
				if _, err := c.Check(ctx, &healthpb.HealthCheckRequest{}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	p.Until("all streams gone", func() bool {
		return strings.Contains(p.get("/stats?filter=rq_active"), "cluster.h2.upstream_rq_active: 0") &&
			strings.Contains(p.get("/stats?filter=rq_active"), "http.t.downstream_rq_active: 0")
	})
}
