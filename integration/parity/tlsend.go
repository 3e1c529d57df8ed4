// SPDX-License-Identifier: Apache-2.0

package parity

import (
	"crypto/tls"
	"fmt"
	"strings"
)

// TLSEnd is the harness's end of a TLS connection: of a client or of a backend.
type TLSEnd struct {
	// Cert names the certificate that is presented; a backend's default is "server".
	Cert string   `json:"cert"`
	SNI  string   `json:"sni"`
	ALPN []string `json:"alpn"`
	// Min and Max are versions such as "1.2".
	Min string `json:"min"`
	Max string `json:"max"`
	// Ciphers are names of crypto/tls, for TLS 1.2.
	Ciphers []string `json:"ciphers"`
	// Session names a session cache of the case: connections with the same one resume. "" keeps no session.
	Session string `json:"session"`
	// CA names the authority that a backend wants client certificates from; they are required then, and not verified with NoVerify.
	CA       string `json:"ca"`
	NoVerify bool   `json:"no_verify"`
}

var tlsVersions = map[string]uint16{"": 0, "1.0": tls.VersionTLS10, "1.1": tls.VersionTLS11, "1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}

func (e *TLSEnd) config(server bool) (*tls.Config, error) {
	cfg := &tls.Config{ServerName: e.SNI, NextProtos: e.ALPN, InsecureSkipVerify: true, MinVersion: tlsVersions[e.Min], MaxVersion: tlsVersions[e.Max],
		CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP256}} // P-256 is what the ECDSA certificates are of
	for _, name := range e.Ciphers {
		for _, s := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
			if s.Name == name {
				cfg.CipherSuites = append(cfg.CipherSuites, s.ID)
			}
		}
	}
	cert := e.Cert
	if server && cert == "" {
		cert = "server"
	}
	if cert != "" {
		c, err := harnessPKI.get(cert)
		if err != nil {
			return nil, err
		}
		if server {
			cfg.Certificates = []tls.Certificate{*c}
		} else {
			cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c, nil }
		}
	}
	if server && e.CA != "" {
		pool, err := harnessPKI.pool(e.CA)
		if err != nil {
			return nil, err
		}
		cfg.ClientCAs, cfg.ClientAuth = pool, tls.RequireAndVerifyClientCert
		if e.NoVerify {
			cfg.ClientAuth = tls.RequireAnyClientCert
		}
	}
	return cfg, nil
}

// renderTLS shows what a handshake came to.
func renderTLS(c *tls.Conn, server bool) string {
	s := c.ConnectionState()
	if !s.HandshakeComplete {
		return ""
	}
	var w strings.Builder
	fmt.Fprintf(&w, "tls %s %s", tls.VersionName(s.Version), tls.CipherSuiteName(s.CipherSuite))
	if server {
		fmt.Fprintf(&w, " sni=%s", s.ServerName)
	}
	fmt.Fprintf(&w, " alpn=%s", s.NegotiatedProtocol)
	if len(s.PeerCertificates) > 0 {
		fmt.Fprintf(&w, " peer=%s", s.PeerCertificates[0].Subject.CommonName)
	}
	if s.DidResume {
		w.WriteString(" resumed")
	}
	return w.String() + "\n"
}
