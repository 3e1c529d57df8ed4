// SPDX-License-Identifier: Apache-2.0

// Package grpc is what the exchange and its filters know of gRPC over HTTP: how its statuses and those of HTTP translate, how a message is percent
// encoded, where the frames of a body begin, what a path names, and the statistics of Envoy's gRPC filters. Plain values; nothing allocates.
package grpc
