// SPDX-License-Identifier: Apache-2.0

// Package http2 tests the real sidecar process with what others wrote to test HTTP/2 and gRPC, with WebSockets over
// every pair of codecs, with attacks, and with certificates that are wrong in every way.
//
//	go test ./integration/http2                            # about a minute; every attack takes 0.4 s
//	ATTACK=60s go test ./integration/http2 -run Attack -v  # every attack for a minute; prints memory, latencies and counters
//	SIDECAR_BIN=./sidecar go test ./integration/http2      # a binary that is built already
//	SIDECAR_BIN=envoy go test ./integration/http2 -v       # Envoy, to see what it does
//
// h2spec runs from its Go packages, the gRPC interop cases from those of grpc-go; golang.org/x/net is the attacker's framer. A sidecar that is attacked must
// grow by no more than a bound, cut the attacker off, count that as Envoy does, and serve others meanwhile; of Envoy it is only shown. Attackers and others are
// processes of their own; what is printed is a Markdown table. On a machine with automatic groups of sessions (sched_autogroup_enabled) the niceness of the
// others counts within the session only: latencies say something on a quiet machine.
package http2
