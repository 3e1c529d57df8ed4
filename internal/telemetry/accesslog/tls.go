// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"strconv"
	"time"

	"sidecar/dataplane/identity"
)

// The values of a TLS session (sub of opTLS).
const (
	tlsPeerURI uint8 = iota
	tlsPeerDNS
	tlsPeerIP
	tlsPeerEmail
	tlsPeerOther
	tlsPeerSubject
	tlsPeerIssuer
	tlsPeerFingerprint256
	tlsPeerFingerprint1
	tlsPeerSerial
	tlsChainFingerprints256
	tlsChainFingerprints1
	tlsChainSerials
	tlsIssuerFingerprint256
	tlsIssuerSerial
	tlsPeerCert
	tlsPeerStart
	tlsPeerEnd
	tlsLocalURI
	tlsLocalDNS
	tlsLocalIP
	tlsLocalEmail
	tlsLocalOther
	tlsLocalSubject
	tlsCipher
	tlsVersion
	tlsGroup
	tlsServerName
)

// The session that an opTLS reads (sub2).
const (
	tlsDownstream uint8 = iota
	tlsUpstream
)

// bothTLS are the operators that exist for either side, with DOWNSTREAM_ or UPSTREAM_ in front; downstreamTLS only with DOWNSTREAM_.
var (
	bothTLS = map[string]uint8{"PEER_URI_SAN": tlsPeerURI, "PEER_DNS_SAN": tlsPeerDNS, "PEER_IP_SAN": tlsPeerIP, "LOCAL_URI_SAN": tlsLocalURI,
		"LOCAL_DNS_SAN": tlsLocalDNS, "LOCAL_IP_SAN": tlsLocalIP, "PEER_SUBJECT": tlsPeerSubject, "PEER_ISSUER": tlsPeerIssuer, "PEER_CERT": tlsPeerCert,
		"TLS_CIPHER": tlsCipher, "TLS_VERSION": tlsVersion, "TLS_GROUP": tlsGroup}
	downstreamTLS = map[string]uint8{"PEER_EMAIL_SAN": tlsPeerEmail, "PEER_OTHERNAME_SAN": tlsPeerOther, "LOCAL_EMAIL_SAN": tlsLocalEmail,
		"LOCAL_OTHERNAME_SAN": tlsLocalOther, "LOCAL_SUBJECT": tlsLocalSubject, "PEER_FINGERPRINT_256": tlsPeerFingerprint256,
		"PEER_FINGERPRINT_1": tlsPeerFingerprint1, "PEER_SERIAL": tlsPeerSerial, "PEER_CHAIN_FINGERPRINTS_256": tlsChainFingerprints256,
		"PEER_CHAIN_FINGERPRINTS_1": tlsChainFingerprints1, "PEER_CHAIN_SERIALS": tlsChainSerials,
		"PEER_ISSUER_FINGERPRINT_256": tlsIssuerFingerprint256, "PEER_ISSUER_SERIAL": tlsIssuerSerial}
	certTimes = map[string]uint8{"PEER_CERT_V_START": tlsPeerStart, "PEER_CERT_V_END": tlsPeerEnd}
)

// addTLS adds the operators of TLS sessions.
func addTLS(d map[string]opDef) {
	for side, prefix := range [...]string{"DOWNSTREAM_", "UPSTREAM_"} {
		for n, value := range bothTLS {
			d[prefix+n] = plain(opTLS, value, uint8(side))
		}
		for n, value := range certTimes {
			d[prefix+n] = opDef{paramsOptional, false, func(c command) (op, error) {
				f, err := compileTime(c.params, false)
				return op{code: opTLS, sub: value, sub2: uint8(side), max: -1, time: f}, err
			}}
		}
	}
	for n, value := range downstreamTLS {
		d["DOWNSTREAM_"+n] = plain(opTLS, value, tlsDownstream)
	}
	d["UPSTREAM_SERVER_NAME"] = plain(opTLS, tlsServerName, tlsUpstream)
	d["DOWNSTREAM_HANDSHAKE_DURATION"] = plain(opHandshake)
}

// session prints a fact of one of the two TLS sessions; nothing without one. It does not allocate.
func (o *op) session(b []byte, r *Record) ([]byte, kind) {
	s := r.UpstreamTLS
	if o.sub2 == tlsDownstream && r.Conn != nil {
		s = r.Conn.TLS
	}
	if s == nil {
		return b, absent
	}
	switch o.sub {
	case tlsCipher:
		return str(b, s.Cipher)
	case tlsVersion:
		return str(b, s.Version)
	case tlsGroup:
		return str(b, s.Group)
	case tlsServerName:
		return str(b, s.SNI)
	case tlsLocalURI, tlsLocalDNS, tlsLocalIP, tlsLocalEmail, tlsLocalOther, tlsLocalSubject:
		return certificate(b, s.Local, o.sub-tlsLocalURI+tlsPeerURI)
	case tlsPeerStart, tlsPeerEnd:
		if s.Peer == nil {
			return b, absent
		}
		at := s.Peer.NotBefore
		if o.sub == tlsPeerEnd {
			at = s.Peer.NotAfter
		}
		return o.time.appendTime(b, time.Unix(at, 0)), text
	}
	return certificate(b, s.Peer, o.sub)
}

// certificate prints a fact of a certificate, by the name that the fact has for a peer's.
func certificate(b []byte, c *identity.Certificate, fact uint8) ([]byte, kind) {
	if c == nil {
		return b, absent
	}
	from := len(b)
	switch fact {
	case tlsPeerURI:
		b = appendList(b, c.URIs)
	case tlsPeerDNS:
		b = appendList(b, c.DNSNames)
	case tlsPeerIP:
		b = appendList(b, c.IPs)
	case tlsPeerEmail:
		b = appendList(b, c.Emails)
	case tlsPeerOther:
		b = appendList(b, c.OtherNames)
	case tlsPeerSubject:
		b = append(b, c.Subject...)
	case tlsPeerIssuer:
		b = append(b, c.Issuer...)
	case tlsPeerSerial:
		b = append(b, c.Serial...)
	case tlsPeerFingerprint256:
		b = c.AppendFingerprint256(b, 0)
	case tlsPeerFingerprint1:
		b = c.AppendFingerprint1(b, 0)
	case tlsChainFingerprints256, tlsChainFingerprints1, tlsChainSerials:
		for i := range c.ChainLen() {
			if i > 0 {
				b = append(b, ',')
			}
			switch fact {
			case tlsChainFingerprints256:
				b = c.AppendFingerprint256(b, i)
			case tlsChainFingerprints1:
				b = c.AppendFingerprint1(b, i)
			default:
				b = append(b, c.ChainSerial(i)...)
			}
		}
	case tlsIssuerFingerprint256, tlsIssuerSerial:
		switch {
		case c.ChainLen() < 2: // the peer did not say
		case fact == tlsIssuerSerial:
			b = append(b, c.ChainSerial(1)...)
		default:
			b = c.AppendFingerprint256(b, 1)
		}
	case tlsPeerCert:
		b = c.AppendPEM(b)
	}
	if len(b) == from {
		return b, absent
	}
	return b, text
}

func appendList(b []byte, list []string) []byte {
	for i, s := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, s...)
	}
	return b
}

// handshake prints when the handshake was done, in milliseconds on the record's clock: as in Envoy, that is before a request's own start.
func handshake(b []byte, r *Record) ([]byte, kind) {
	if r.Conn == nil || r.Conn.TLS == nil {
		return b, absent
	}
	return strconv.AppendInt(b, r.Handshake/int64(time.Millisecond), 10), number
}
