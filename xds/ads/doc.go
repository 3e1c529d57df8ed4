// SPDX-License-Identifier: Apache-2.0

// Package ads is the xDS session: the rules of the state-of-the-world and the incremental (delta) protocol as one pure machine per
// stream. It has no goroutine, no clock, no socket and no protobuf, so that it can be simulated step by step.
//
// Events go in (stream opened or closed, response, verdict, subscription change, tick), actions come out (send a request, deliver a batch,
// read the next response, reconnect after a pause, a resource expired). The session keeps what the protocol needs: subscriptions,
// nonces, accepted versions, which resources are held and until when. It never looks into a resource: Deliver hands the bytes up, the
// caller decodes, validates and applies them, and only its Verdict makes the session answer. So no response is ever acknowledged before
// it was fully validated.
//
// One Session serves one stream at a time: an aggregated stream (ADS) with many types, or a per-type stream with one.
//
// Rules kept, beside the protocol text (numbers are of the project's list of observed Envoy behaviour):
//
//   - Wildcard subscriptions use the legacy empty list, also in delta and after a reconnect (11).
//   - On a new stream everything is subscribed again in the order of Config.Types: CDS, EDS, LDS, RDS; SotW with the last accepted
//     version and an empty nonce, delta with initial_resource_versions of everything held (12, 13). Node goes with the first message.
//   - SotW absence removes only for the full-state types (LDS, CDS, SRDS). EDS and RDS responses are partial.
//   - A NACK carries the last accepted version in SotW, only nonce and text in delta (6); it names every bad resource.
//   - While the verdict says Hold (clusters warm), answers wait: SotW then answers only the last nonce, delta each in order (1).
//   - A response for a type that is not subscribed is dropped without an answer (25). Resources nobody asked for are dropped (8).
//   - A response of heartbeats only refreshes TTLs, also on a full-state type (28; Envoy drops every cluster there).
//   - Reconnects wait a uniform time in [0, 500 ms·2^n), at most 30 s; a stream that delivered a response resets n (27).
//
// Owner: the controller goroutine. Not safe for concurrent use.
package ads
