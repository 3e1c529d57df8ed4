// SPDX-License-Identifier: Apache-2.0

// Package mux joins the HTTP/2 machine to a connection of a worker: Link is the connection with its many streams, Stream is one of them as a message
// exchange sees it. It moves bytes and knows nothing of requests; exchange serves the downstream role with it, pool the upstream role.
//
// A Link is pulled by its owner's task: Next reads and decodes up to the next event, Flush writes everything that was queued since in one system
// call. Whoever queues output wakes the task, so that a connection is written once per turn.
//
// A user that panics loses its stream (User.Poison), not the link; a panic out of the machine leaves the link Torn, and its owner ends it.
//
// Bounds: what a Stream keeps of its input is bounded by the window that the machine gives the peer, as window is returned only when content has left
// for the other side; what it keeps of its output by Slack, and by what local replies and replayed bodies bring at once.
package mux
