// SPDX-License-Identifier: Apache-2.0

// Package transport moves discovery messages between control planes and ads.Session. It is the only user of gRPC in the control tower.
//
// A Runner feeds one session: it reports events to a sink and carries out the session's actions. Stream does it over gRPC (aggregated or
// one stream per resource type, SotW or delta), Rest by polling over HTTP, File from a watched file. The controller owns the session; for every event from
// the sink it calls Session.Step and hands each action back to Runner.Do, which ignores the ones that are not for it.
//
// Flow control: after a response nothing more is read until the session says Read, and not before the queue of requests has room, so a
// control plane that floods or does not read makes neither side grow. Time and backoff: the session decides the pause (Reconnect), every
// attempt dials anew, so DNS answers and socket files are always fresh.
//
// Non-aggregated mode opens one stream per resource type with all names on it; Envoy opens one per subscription. Servers see the same
// requests with more names each.
//
// TLS: an envoy_grpc cluster's UpstreamTlsContext holds for the connection as it would for traffic; see security.
//
// Owner: the controller calls; each Runner has its own goroutines (a reader and a writer per gRPC stream, one per file). Limits: 1,024
// queued requests, responses up to 2 GiB - 1.
package transport
