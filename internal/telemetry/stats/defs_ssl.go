// SPDX-License-Identifier: Apache-2.0

package stats

// The ids of SSLDef that are always listed.
const (
	SSLConnectionError = iota
	SSLFailVerifyCertHash
	SSLFailVerifyError
	SSLFailVerifyNoCert
	SSLFailVerifySAN
	SSLHandshake
	SSLNoCertificate
	SSLOCSPStapleFailed
	SSLOCSPStapleOmitted
	SSLOCSPStapleRequests
	SSLOCSPStapleResponses
	SSLSessionReused
	sslFirstNamed // what sessions agreed on, see SSLNamed
)

// What sessions agree on is counted by name; Envoy makes these counters when they are first counted.
var sslNames = []string{
	"ciphers.TLS_AES_128_GCM_SHA256", "ciphers.TLS_AES_256_GCM_SHA384", "ciphers.TLS_CHACHA20_POLY1305_SHA256",
	"ciphers.ECDHE-ECDSA-AES128-GCM-SHA256", "ciphers.ECDHE-ECDSA-AES256-GCM-SHA384", "ciphers.ECDHE-ECDSA-CHACHA20-POLY1305",
	"ciphers.ECDHE-ECDSA-AES128-SHA", "ciphers.ECDHE-ECDSA-AES128-SHA256", "ciphers.ECDHE-ECDSA-AES256-SHA",
	"ciphers.ECDHE-RSA-AES128-GCM-SHA256", "ciphers.ECDHE-RSA-AES256-GCM-SHA384", "ciphers.ECDHE-RSA-CHACHA20-POLY1305",
	"ciphers.ECDHE-RSA-AES128-SHA", "ciphers.ECDHE-RSA-AES128-SHA256", "ciphers.ECDHE-RSA-AES256-SHA",
	"ciphers.AES128-GCM-SHA256", "ciphers.AES256-GCM-SHA384", "ciphers.AES128-SHA", "ciphers.AES128-SHA256", "ciphers.AES256-SHA",
	"curves.P-256", "curves.P-384", "curves.P-521", "curves.X25519", "curves.X25519MLKEM768",
	"versions.TLSv1", "versions.TLSv1.1", "versions.TLSv1.2", "versions.TLSv1.3",
}

// SSLDef is "listener.ADDR.ssl." and "cluster.NAME.ssl.".
var SSLDef = func() *Def {
	d := &Def{Name: "ssl", Stats: []Stat{
		{Name: "connection_error", Kind: Counter},
		{Name: "fail_verify_cert_hash", Kind: Counter},
		{Name: "fail_verify_error", Kind: Counter},
		{Name: "fail_verify_no_cert", Kind: Counter},
		{Name: "fail_verify_san", Kind: Counter},
		{Name: "handshake", Kind: Counter},
		{Name: "no_certificate", Kind: Counter},
		{Name: "ocsp_staple_failed", Kind: Counter},
		{Name: "ocsp_staple_omitted", Kind: Counter},
		{Name: "ocsp_staple_requests", Kind: Counter},
		{Name: "ocsp_staple_responses", Kind: Counter},
		{Name: "session_reused", Kind: Counter},
	}}
	for _, n := range sslNames {
		d.Stats = append(d.Stats, Stat{Name: n, Kind: Counter, Lazy: true})
	}
	return d
}()

var sslIDs = func() map[string]int {
	m := make(map[string]int, len(sslNames))
	for i, n := range sslNames {
		m[n] = sslFirstNamed + i
	}
	return m
}()

// SSLNamed is the id in SSLDef of "ciphers.NAME", "curves.NAME" or "versions.NAME"; ok is false for a name that is not counted.
func SSLNamed(name string) (id int, ok bool) {
	id, ok = sslIDs[name]
	return id, ok
}
