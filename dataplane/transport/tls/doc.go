// SPDX-License-Identifier: Apache-2.0

// Package tls is the TLS transport of the data plane (RFC 5246, RFC 8446): bytes in, bytes out, no I/O, over the standard library's crypto/tls.
//
// A Session is one connection. Its handshake needs a stack of its own, because the library cannot resume one that met "would block": it runs as a
// coroutine on the worker's thread, parked whenever it waits for the peer's next record or for a signature. Afterwards records are opened and sealed
// inline, on the caller's stack. The library is handed whole records only, one at a time: so it never waits in the middle of one, never holds bytes
// that epoll does not know of, and costs one allocation of 24 bytes for each record that it opens (an internal reader of crypto/tls that escapes; no
// public call avoids it).
//
// An Engine is what the sessions of one worker share. Everything here belongs to that worker's thread, except Job.Run.
//
// # Configurations
//
// A session is given a ready *crypto/tls.Config. Its callbacks (GetConfigForClient, GetCertificate, GetClientCertificate, VerifyConnection, the
// private key) run inside the coroutine of the handshake that they serve, but crypto/tls does not tell most of them which one that is. Hence a
// configuration belongs to one worker: it is made with that worker's Engine, and Engine.Current is the session whose handshake runs:
//
//   - the verification attaches what it found as Engine.Current().SetPeer (and SetLocal for the certificate that was chosen), interned:
//     connections with one certificate share what is known of it;
//   - a private key is wrapped with Engine.Signer if signing is slow or happens elsewhere: the handshake is then parked while a Job is signed on
//     another thread.
//
// Callbacks must not keep the tls.ConnectionState: it holds the certificates of the whole chain.
package tls
