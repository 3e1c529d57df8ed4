// SPDX-License-Identifier: Apache-2.0

package identity

// Session is what is known of one established TLS session. Immutable once the handshake is over. Sessions of one context with the same peer share
// the certificates.
type Session struct {
	Peer      *Certificate // nil: the peer showed none
	Local     *Certificate // nil: this end showed none
	Validated bool         // the peer's certificate was verified, and not only accepted (trust_chain_verification: ACCEPT_UNTRUSTED)
	Resumed   bool
	Version   string // "TLSv1.3"
	Cipher    string // OpenSSL's name: "TLS_AES_128_GCM_SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256"
	Group     string // key agreement: "X25519"
	SNI       string // server name that the client asked for
	ALPN      string // negotiated protocol, "" none
}
