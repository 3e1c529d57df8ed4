// SPDX-License-Identifier: Apache-2.0

package tls

// Identity is what one certificate says about its owner, in the forms that filters, XFCC and access logs print. Immutable and shared: connections with
// the same certificate have the same Identity, so it may be compared by pointer. Made by the verification (see policy).
type Identity struct {
	SHA256  string // of the DER certificate, lower-case hex (%DOWNSTREAM_PEER_FINGERPRINT_256%)
	SHA1    string // likewise (%DOWNSTREAM_PEER_FINGERPRINT_1%)
	Serial  string // lower-case hex (%DOWNSTREAM_PEER_SERIAL%)
	Subject string // RFC 2253 (%DOWNSTREAM_PEER_SUBJECT%)
	Issuer  string // RFC 2253 (%DOWNSTREAM_PEER_ISSUER%)

	URISANs   []string // in the order of the certificate
	DNSSANs   []string
	IPSANs    []string
	EmailSANs []string

	NotBefore int64  // Unix seconds
	NotAfter  int64  // Unix seconds
	DER       []byte // the certificate, for those who print it as PEM
	Chain     []byte // PEM of the chain that the peer presented, leaf first; nil unless somebody prints it
}

// Info is what a handshake agreed on.
type Info struct {
	ALPN    string    // negotiated protocol; "" if none
	SNI     string    // server name of the ClientHello; "" if absent
	Version uint16    // tls.VersionTLS12, …
	Cipher  uint16    // tls.TLS_AES_128_GCM_SHA256, …
	Group   uint16    // key exchange: tls.X25519, …; 0 if none
	Resumed bool      // by a session ticket
	Peer    *Identity // nil if the peer showed no certificate, or nobody looked at it
	Local   *Identity // of our own certificate; nil if none was chosen or nobody said so
}
