// SPDX-License-Identifier: Apache-2.0

package identity

// ForwardClientCert is forward_client_cert_details of the HTTP connection manager, with Envoy's numbers.
type ForwardClientCert uint8

// The modes.
const (
	Sanitize          ForwardClientCert = iota // remove the header
	ForwardOnly                                // pass it on when the connection is mutual TLS
	AppendForward                              // append this client's element when the connection is mutual TLS
	SanitizeSet                                // replace the header when the connection is mutual TLS
	AlwaysForwardOnly                          // pass it on in any case
)

// ClientCertDetails is set_current_client_cert_details: what an element tells beside By and Hash.
type ClientCertDetails struct {
	Subject, Cert, Chain, URI, DNS bool
}

// XFCC is what becomes of the x-forwarded-client-cert header of a request.
type XFCC uint8

// The outcomes.
const (
	XFCCKeep   XFCC = iota // leave it as it is
	XFCCRemove             // remove it
	XFCCSet                // its value is Element alone
	XFCCAppend             // append a comma and Element to what is there, or set it
)

// Decide tells what becomes of the header of a request on a connection with session s (nil: plain text). Every mode but AlwaysForwardOnly removes
// the header unless the client showed a certificate.
func (m ForwardClientCert) Decide(s *Session) XFCC {
	switch {
	case m == AlwaysForwardOnly:
		return XFCCKeep
	case m == Sanitize, s == nil, s.Peer == nil:
		return XFCCRemove
	case m == AppendForward:
		return XFCCAppend
	case m == SanitizeSet:
		return XFCCSet
	}
	return XFCCKeep
}

// AppendElement appends the element that describes the client of s, which must have a peer certificate:
// By=…;Hash=…;Cert="…";Chain="…";Subject="…";URI=…;DNS=…. By is repeated for each URI of the proxy's own certificate; URI and Subject are there
// even when they are empty. Names are as they are in the certificate, but for bytes that no header may have: they are percent-encoded.
func (d ClientCertDetails) AppendElement(b []byte, s *Session) []byte {
	if s.Local != nil {
		for _, u := range s.Local.URIs {
			b = append(appendName(append(b, "By="...), u), ';')
		}
	}
	b = s.Peer.AppendFingerprint256(append(b, "Hash="...), 0)
	if d.Cert {
		b = append(s.Peer.AppendPEM(append(b, `;Cert="`...)), '"')
	}
	if d.Chain {
		b = append(s.Peer.AppendChainPEM(append(b, `;Chain="`...)), '"')
	}
	if d.Subject {
		b = append(append(append(b, `;Subject="`...), s.Peer.Subject...), '"')
	}
	if d.URI {
		for _, u := range s.Peer.URIs {
			b = appendName(append(b, ";URI="...), u)
		}
		if len(s.Peer.URIs) == 0 {
			b = append(b, ";URI="...)
		}
	}
	if d.DNS {
		for _, n := range s.Peer.DNSNames {
			b = appendName(append(b, ";DNS="...), n)
		}
	}
	return b
}

// appendName appends a name of a certificate, which may hold any ASCII byte: a line end would begin another header for the next one who reads it.
func appendName(b []byte, name string) []byte {
	for i := range len(name) {
		if c := name[i]; c >= ' ' && c < 0x7f {
			b = append(b, c)
			continue
		}
		const digits = "0123456789ABCDEF"
		b = append(b, '%', digits[name[i]>>4], digits[name[i]&15])
	}
	return b
}
