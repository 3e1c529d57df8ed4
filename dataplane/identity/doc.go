// SPDX-License-Identifier: Apache-2.0

// Package identity holds what is known of the two ends of a TLS session: facts of certificates, ready to be rendered into access logs, headers
// (x-forwarded-client-cert) and route matches. Values are immutable and shared by any number of connections; they keep the DER encoding of the
// chain and nothing of crypto/tls, so an idle connection costs a pointer. Certificates come from the network: nothing here panics on them, and
// what they may contain is bounded (see the constants).
package identity
