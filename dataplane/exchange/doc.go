// SPDX-License-Identifier: Apache-2.0

// Package exchange is the HTTP application machine: the server side of a downstream HTTP/1.1 connection (Server) and one request with its response
// (Exchange), from the head that the codec hands out to the one access-log record.
//
// One Task, the Server's, runs both sides of a request: the readiness of the downstream connection and, while it is lent, of the upstream
// connection queue the same task, and Advance looks at whatever can move. So there is no callback and no order of events to get wrong.
//
// The exchange knows no codec: it pulls the request and the response out of a source each and pushes them into a sender (stream.go), and tells its
// client, the downstream connection, how it ended. An h2Server is the client of the streams of one HTTP/2 connection: its task decodes, each exchange
// has a task and a timer of its own, and what they send leaves in one write when the connection's task is done.
//
//	Server:    idle ─▶ head ─▶ active ─▶ idle …            any ─▶ linger ─▶ closed
//	Exchange:  head ─▶ filter ⇄ paused ─▶ pick ⇄ waitPool ─▶ relay ─▶ done
//	                     └ buffer            ▲                 │ └▶ tunnel ─▶ done
//	                                         └── backoff ◀─────┘
//	           any before the response began ─▶ reply ─▶ done
//
// Back-pressure is credit: a direction moves while the far connection has Room; without room the near side is not read.
//
// Ownership: a Server belongs to its connection; an Exchange comes from the worker's slab while a request is in flight and owns both heads in its
// arenas. Bodies are borrowed views of the loop's scratch and are copied only into the encode scratch or the far connection's queue, and into the
// replay buffer when a retry or a mirror may need them.
//
// Bounds: heads by max_request_headers_kb, unsent bytes per connection by per_connection_buffer_limit_bytes, replay and filter buffers by the same,
// requests served in one Advance by maxPerRun, bytes moved in one Advance by maxMove.
package exchange
