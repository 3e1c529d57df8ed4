// SPDX-License-Identifier: Apache-2.0

// Package registry holds the two explicit tables that say what of Envoy's API is supported.
//
//   - Row and Table: one row for every extension (HTTP filter, network filter, transport socket, access logger, ...), keyed by the type
//     URL of its configuration message. An unknown type URL is an error that names it.
//   - Schema: for every configuration message, the fields that are honoured. Everything else that is set is refused with its full path,
//     or warned about where it only advises or tunes. Nothing is ever ignored in silence.
//
// Both tables are plain values that a program assembles at start (no init functions, no global maps), so tests build tiny ones, and both
// are checked when they are assembled: a misspelt field, a message reached without a table, or a duplicate type URL is a start-up error.
// docs/xds-support.md is rendered from them.
//
// Owner: control tower (any goroutine; all values are immutable after assembly). Limits: nesting of TypedStruct 16, of the walker 64.
package registry
