// SPDX-License-Identifier: Apache-2.0

package conn

import (
	"sidecar/dataplane/transport/tls"
	"sidecar/dataplane/transport/tls/policy"
	"sidecar/internal/telemetry/stats"
)

// countOpen counts a handshake that is done, and what it agreed on.
func (x *secure) countOpen() {
	b, s := x.ssl, x.s.Info()
	if b == nil {
		return
	}
	b.Inc(stats.SSLHandshake)
	x.countStaple()
	if s.Resumed {
		b.Inc(stats.SSLSessionReused)
	}
	if s.Peer == nil {
		b.Inc(stats.SSLNoCertificate)
	}
	for _, name := range [...]string{"ciphers." + s.Cipher, "curves." + s.Group, "versions." + s.Version} {
		if id, ok := stats.SSLNamed(name); ok {
			b.Inc(id)
		}
	}
}

// failures are the counters of policy.Reason.
var failures = [...]int{policy.ConnectionError: stats.SSLConnectionError, policy.FailVerifyError: stats.SSLFailVerifyError,
	policy.FailVerifySAN: stats.SSLFailVerifySAN, policy.FailVerifyHash: stats.SSLFailVerifyCertHash,
	policy.FailVerifyNoCert: stats.SSLFailVerifyNoCert}

// countFailed counts a handshake that failed, or a bad record, by the reason.
func (x *secure) countFailed(why error) {
	if x.ssl != nil {
		if r := policy.Classify(why); r != policy.Uncounted {
			x.ssl.Inc(failures[r])
		}
		if x.s.Info() == nil {
			x.countStaple()
		}
	}
}

// countStaple counts what a handshake did about OCSP, once it is over.
func (x *secure) countStaple() {
	s := x.s.Staple()
	if s == tls.StapleNotAsked {
		return
	}
	x.ssl.Inc(stats.SSLOCSPStapleRequests)
	x.ssl.Inc([...]int{tls.StapleSent: stats.SSLOCSPStapleResponses, tls.StapleOmitted: stats.SSLOCSPStapleOmitted,
		tls.StapleFailed: stats.SSLOCSPStapleFailed}[s])
}
