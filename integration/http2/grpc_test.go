// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/grpclog"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/orca"
)

// interopCases are the cases of the interop client that need no cloud. Left out: pick_first_unary, as grpc-go's server names no server, and orca_oob, as
// reports more often than every 30 s are for grpc-go's own tests.
var interopCases = []struct {
	name string
	run  func(context.Context, *grpc.ClientConn, testgrpc.TestServiceClient)
}{
	{"empty_unary", service(interop.DoEmptyUnaryCall)},
	{"large_unary", service(interop.DoLargeUnaryCall)},
	{"client_streaming", service(interop.DoClientStreaming)},
	{"server_streaming", service(interop.DoServerStreaming)},
	{"ping_pong", service(interop.DoPingPong)},
	{"empty_stream", service(interop.DoEmptyStream)},
	{"timeout_on_sleeping_server", service(interop.DoTimeoutOnSleepingServer)},
	{"cancel_after_begin", service(interop.DoCancelAfterBegin)},
	{"cancel_after_first_response", service(interop.DoCancelAfterFirstResponse)},
	{"status_code_and_message", service(interop.DoStatusCodeAndMessage)},
	{"special_status_message", service(interop.DoSpecialStatusMessage)},
	{"custom_metadata", service(interop.DoCustomMetadata)},
	{"unimplemented_method", func(ctx context.Context, cc *grpc.ClientConn, _ testgrpc.TestServiceClient) {
		interop.DoUnimplementedMethod(ctx, cc)
	}},
	{"unimplemented_service", func(ctx context.Context, cc *grpc.ClientConn, _ testgrpc.TestServiceClient) {
		interop.DoUnimplementedService(ctx, testgrpc.NewUnimplementedServiceClient(cc))
	}},
	{"orca_per_rpc", func(ctx context.Context, _ *grpc.ClientConn, c testgrpc.TestServiceClient) {
		interop.DoORCAPerRPCTest(ctx, c)
	}},
}

// service adapts the cases that need no more than a client.
func service(f func(context.Context, testgrpc.TestServiceClient, ...grpc.CallOption)) func(context.Context, *grpc.ClientConn, testgrpc.TestServiceClient) {
	return func(ctx context.Context, _ *grpc.ClientConn, c testgrpc.TestServiceClient) { f(ctx, c) }
}

// racy is a case whose deadline of 1 ms runs at the client and at the server. When the client is late to notice its own, the proxy's answer to the
// server's reset comes first: with Envoy in 9 of 100 runs on a busy machine, with ours in 7. It must pass in one of racyTries.
const (
	racy      = "timeout_on_sleeping_server"
	racyTries = 8
)

// soakCalls is how many calls the two soak cases make.
const soakCalls = 100

func TestGRPC_WhenTheInteropCasesRunThroughTheProxy_ThenAllPass(t *testing.T) {
	grpclog.SetLoggerV2(fatal{grpclog.NewLoggerV2(discard{}, discard{}, discard{})})
	var c config
	c.cluster("plain", interopServer(t, nil), "", "{}")
	c.listener("plain", "plain", "", "")
	c.cluster("tls", interopServer(t, endTLS(t, "server", "h2")), upstreamTLS(), "{}")
	c.listener("tls", "tls", downstreamTLS(true), "")
	p := start(t, c.String())
	for name, addr := range p.Addr {
		t.Run(name, func(t *testing.T) {
			creds := insecure.NewCredentials()
			if name == "tls" {
				creds = credentials.NewTLS(endTLS(t, "client"))
			}
			dial := func() (*grpc.ClientConn, func()) {
				cc, err := grpc.NewClient(addr, grpc.WithTransportCredentials(creds),
					grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"test_backend_metrics_load_balancer": {}}]}`))
				if err != nil {
					t.Fatal(err)
				}
				return cc, func() { cc.Close() }
			}
			cc, closeAll := dial()
			defer closeAll()
			for _, cs := range interopCases {
				t.Run(cs.name, func(t *testing.T) {
					once := func() any {
						return attempt(func(ctx context.Context) { cs.run(ctx, cc, testgrpc.NewTestServiceClient(cc)) })
					}
					failed := once()
					for n := 1; failed != nil && cs.name == racy && n < racyTries; n++ {
						failed = once()
					}
					if failed != nil {
						t.Error(failed)
					}
				})
			}
			soak := interop.SoakTestConfig{RequestSize: 271828, ResponseSize: 314159, PerIterationMaxAcceptableLatency: patience, OverallTimeout: patience,
				ServerAddr: addr, NumWorkers: 4, Iterations: soakCalls}
			t.Run("rpc_soak", func(t *testing.T) {
				soak.ChannelForTest = func() (*grpc.ClientConn, func()) { return cc, func() {} }
				if failed := attempt(func(ctx context.Context) { interop.DoSoakTest(ctx, soak) }); failed != nil {
					t.Error(failed)
				}
			})
			t.Run("channel_soak", func(t *testing.T) {
				soak.ChannelForTest = dial
				if failed := attempt(func(ctx context.Context) { interop.DoSoakTest(ctx, soak) }); failed != nil {
					t.Error(failed)
				}
			})
		})
	}
	p.Alive(t)
}

// attempt runs a case and returns its failure, which comes as a panic of fatal.
func attempt(f func(context.Context)) (failure any) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	defer func() { failure = recover() }()
	f(ctx)
	return nil
}

// fatal is a logger whose last words are a panic: the cases report failures by logging them and ending the process.
type fatal struct{ grpclog.LoggerV2 }

func (fatal) InfoDepth(int, ...any)         {}
func (fatal) WarningDepth(int, ...any)      {}
func (fatal) ErrorDepth(int, ...any)        {}
func (fatal) FatalDepth(_ int, args ...any) { panic(fmt.Sprint(args...)) }

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// interopServer is the interop server of grpc-go.
func interopServer(t *testing.T, conf *tls.Config) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	opts := []grpc.ServerOption{orca.CallMetricsServerOption(nil), grpc.WaitForHandlers(false)}
	if conf != nil {
		opts = append(opts, grpc.Creds(credentials.NewTLS(conf)))
	}
	srv := grpc.NewServer(opts...)
	testgrpc.RegisterTestServiceServer(srv, interop.NewTestServer(interop.NewTestServerOptions{MetricsRecorder: orca.NewServerMetricsRecorder()}))
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(srv.Stop)
	return ln.Addr().String()
}
