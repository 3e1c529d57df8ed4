// SPDX-License-Identifier: Apache-2.0

// Package transportsocket compiles transport sockets of filter chains and clusters: raw_buffer, and the TLS contexts, to contexts of
// dataplane/transport/tls/policy. It says which secrets they wait for; fetching those and telling the contexts is the controller's work.
package transportsocket
