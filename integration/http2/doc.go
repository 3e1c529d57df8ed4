// SPDX-License-Identifier: Apache-2.0

// Package http2 tests the real sidecar process with what others wrote to test HTTP/2 and gRPC.
//
//	go test ./integration/http2
//	SIDECAR_BIN=./sidecar go test ./integration/http2      # a binary that is built already
//	SIDECAR_BIN=envoy go test ./integration/http2 -v       # Envoy, to see what it does
//
// h2spec runs from its Go packages, the gRPC interop cases from those of grpc-go.
package http2
