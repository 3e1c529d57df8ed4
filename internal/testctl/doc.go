// SPDX-License-Identifier: Apache-2.0

// Package testctl holds the control planes that tests and the demo talk to: Server is a real go-control-plane server (snapshot cache;
// SotW and delta; aggregated and per-type services), Script is a raw gRPC server under the test's control that can lie, stall, flood and
// send garbage, and that records every request.
//
// Owner: a test, or internal/demo. Both kinds are safe for concurrent use and must be closed.
package testctl
