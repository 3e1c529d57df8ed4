// SPDX-License-Identifier: Apache-2.0

// Package policy says with whom TLS is spoken and how: certificates and their choice, validation of the peer, session resumption, and the ready
// configurations of crypto/tls that follow from them. It knows no protobuf and does no I/O.
//
// A Server or Client is one DownstreamTlsContext or UpstreamTlsContext: an immutable spec, and one atomic pointer to the state derived from it and
// from the secrets it names. The control side calls Update when a secret changed; handshakes that begin afterwards read the new state, running
// connections keep what they have, and neither the snapshot nor a listener changes. A failed Update leaves the state as it was.
//
// A Worker turns states into *tls.Config values for the handshakes of one worker and keeps what speeds them up: verification results, interned
// identities, client sessions. It belongs to that worker's thread, so nothing is locked. No configuration is cloned or changed for a connection.
//
// The peer is validated in VerifyConnection, which crypto/tls also calls for resumed sessions, never in VerifyPeerCertificate. Configurations of
// clients set InsecureSkipVerify, because Envoy validates no host name by itself, and always come with VerifyConnection.
//
// A session ticket is sealed with a key derived from the context's hash (listener, filter chain, validation context, names of the certificates), and
// the hash is authenticated with it: another context cannot open it, and a full handshake follows.
package policy
