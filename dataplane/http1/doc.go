// SPDX-License-Identifier: Apache-2.0

// Package http1 holds the HTTP/1.x codecs (RFC 9112) of both sides as pure machines: bytes in, messages out, and messages in, bytes out. They
// do no I/O, keep no bytes, allocate nothing and do not care where the input is cut: any split gives the same heads, bodies and faults.
//
// A Decoder serves one direction of one connection. It never owns memory: Head copies the head into the caller's arena, Body returns slices
// of the caller's buffer. Bounds: a head or a trailer section has at most Options.MaxHeadBytes bytes and Options.MaxHeaders lines, a chunk-size
// line at most maxChunkLine bytes.
//
// The grammar is the strict one of RFC 9112. What Envoy takes and this package does not is listed in docs/differences.md; Options.Lax takes it
// too. What the Append functions write is always strict.
package http1
