// SPDX-License-Identifier: Apache-2.0

package policy

import "crypto/tls"

// Params is TlsParameters, as far as crypto/tls can express it. Zero values stand for "unset". Immutable.
type Params struct {
	MinVersion, MaxVersion uint16
	CipherSuites           []uint16 // for TLS 1.2 and older; a set, the library orders it
	Curves                 []tls.CurveID
}

// Envoy's defaults. A set of suites without order: the library prefers AES-GCM where the hardware has it, as [A|B] does in Envoy.
var (
	defaultSuites = []uint16{
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
		tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	}
	defaultCurves = []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256} // measured: the API's text does not name the first one
)

// over returns p with what it leaves unset taken from base.
func (p Params) over(base Params) Params {
	if p.MinVersion == 0 {
		p.MinVersion = base.MinVersion
	}
	if p.MaxVersion == 0 {
		p.MaxVersion = base.MaxVersion
	}
	if len(p.CipherSuites) == 0 {
		p.CipherSuites = base.CipherSuites
	}
	if len(p.Curves) == 0 {
		p.Curves = base.Curves
	}
	return p
}

// defaults are the parameters of a context that sets none.
func defaults(maxVersion uint16) Params {
	return Params{tls.VersionTLS12, maxVersion, defaultSuites, defaultCurves}
}

func (p Params) apply(c *tls.Config) {
	c.MinVersion, c.MaxVersion, c.CipherSuites, c.CurvePreferences = p.MinVersion, p.MaxVersion, p.CipherSuites, p.Curves
}
