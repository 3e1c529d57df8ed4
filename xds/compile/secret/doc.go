// SPDX-License-Identifier: Apache-2.0

// Package secret compiles envoy.extensions.transport_sockets.tls.v3.Secret, and the messages that may stand inline in its place, to the material of
// dataplane/transport/tls/policy. It reads the files and environment variables that a message names, and nothing else happens. Errors carry the field
// path and Envoy's words; a broken pair is refused as a whole, so whoever holds the previous one keeps it.
package secret
