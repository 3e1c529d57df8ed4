// SPDX-License-Identifier: Apache-2.0

// Package pool keeps the connections of one worker to one upstream host: idle ones in a LIFO list, connecting ones, busy ones, and a
// FIFO of requests that wait. It lends HTTP/1.1 connections whole, and HTTP/2 connections by the stream, as many as the peer takes; which of both a
// connection is, ALPN may decide, and the pool remembers it for the connections to come. It applies the cluster's circuit breakers, counts Envoy's
// upstream_cx_* and upstream_rq_* stats, and decides nothing about retries: a request that cannot be served gets a fault.Kind.
//
// With preconnect_policy it makes connections ahead of the requests: see ahead.go.
//
// Everything is data: a request waits with a Waiter, and the pool queues the waiter's task when there is a result.
//
// Bounds: connections by circuit_breakers.max_connections (one per pool is always allowed, as in Envoy), waiting requests by
// max_pending_requests, requests by max_requests, requests on one connection by max_requests_per_connection.
package pool
