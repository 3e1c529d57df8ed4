// SPDX-License-Identifier: Apache-2.0

// Package hpack compresses HTTP/2 header blocks (RFC 7541): a Decoder and an Encoder per connection, both plain values without input or output.
//
// A Decoder walks one complete header block as an iterator over borrowed fields, so that the caller counts fields and bytes, copies what it wants
// into its own arena, and may stop early. An Encoder appends fields to the caller's buffer. Neither allocates once its tables have grown to their working
// size. A table's memory grows with what is in it, to at most three times its size in HPACK's terms (SETTINGS_HEADER_TABLE_SIZE); what Huffman coding needs is
// shared by a worker (Scratch).
//
// The Encoder sends strings raw: on the networks of a mesh the bytes that Huffman coding saves cost both ends more time than the wire does.
package hpack
