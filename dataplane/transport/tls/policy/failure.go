// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"crypto/x509"
	"errors"
	"strconv"
	"strings"

	"sidecar/dataplane/identity"
)

// Reason says which of Envoy's ssl.* counters a failed handshake belongs to.
type Reason uint8

// The reasons.
const (
	ConnectionError  Reason = iota // ssl.connection_error: everything the others are not
	FailVerifyError                // ssl.fail_verify_error: the chain
	FailVerifySAN                  // ssl.fail_verify_san
	FailVerifyHash                 // ssl.fail_verify_cert_hash
	FailVerifyNoCert               // ssl.fail_verify_no_cert: a required client certificate is missing
	Uncounted                      // none of them
)

// Failure is a peer that was refused. Immutable.
type Failure struct {
	Reason Reason
	Text   string // Envoy's words, as in %UPSTREAM_TRANSPORT_FAILURE_REASON% between "CERTIFICATE_VERIFY_FAILED:" and ":TLS_error_end"
}

// Error returns Envoy's text of the whole failure.
func (f *Failure) Error() string {
	text := f.Text
	if text != "" {
		text += ":"
	}
	return "TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:" + text + "TLS_error_end"
}

// noClientCertificate is crypto/tls's error for a client that has no certificate; the library has no value for it.
const noClientCertificate = "tls: client didn't provide a certificate"

// Classify tells which counter the error of a handshake belongs to.
func Classify(err error) Reason {
	var f *Failure
	switch {
	case err == nil:
		return ConnectionError
	case errors.As(err, &f):
		return f.Reason
	case err.Error() == noClientCertificate:
		return FailVerifyNoCert
	}
	return ConnectionError
}

var (
	failHash       = &Failure{FailVerifyHash, "verify cert failed: cert hash and spki"}
	failNoRoots    = &Failure{Uncounted, ""} // a name is to be verified, but nothing says whose word for it counts
	failUnverified = &Failure{FailVerifyError, "verify cert failed"}
	failPrecheck   = &Failure{FailVerifyError, "verify cert failed: SPIFFE precheck failed"}
	failTrust      = &Failure{FailVerifyError, "verify cert failed: no trust bundle store"}
	failKeyUsage   = &Failure{ConnectionError, "KEY_USAGE_BIT_INCORRECT"}
)

// textRevocation is what Envoy puts before the texts about revocation.
const textRevocation = "certificate revocation check against provided CRLs failed: "

// The X509_V_ERR texts that are needed, in BoringSSL's words.
const (
	textExpired       = "certificate has expired"
	textNotYetValid   = "certificate is not yet valid"
	textNoIssuer      = "unable to get local issuer certificate"
	textSelfSigned    = "self signed certificate"
	textPurpose       = "unsupported certificate purpose"
	textTooLong       = "certificate chain too long"
	textRevoked       = textRevocation + "certificate revoked"
	textNoCRL         = textRevocation + "unable to get certificate CRL"
	textCRLExpired    = textRevocation + "CRL has expired"
	textCRLNotYet     = textRevocation + "CRL is not yet valid"
	textCRLCritical   = textRevocation + "unhandled critical CRL extension"
	textCRLSignature  = textRevocation + "CRL signature failure"
	textSignature     = "certificate signature failure"
	textInvalidCA     = "invalid CA certificate"
	textNotPermitted  = "permitted subtree violation"
	textUnhandledCrit = "unhandled critical extension"
)

// maxShown bounds the names of a certificate that an error shows; they come from the peer.
const maxShown = 32

// sanFailure is a certificate none of whose names was expected.
func sanFailure(c *identity.Certificate) *Failure {
	return &Failure{FailVerifySAN, "verify cert failed: SAN matcher, certificate SANs are [" + shownSANs(c) + "]"}
}

// sanListFailure is a certificate that has not the name want.
func sanListFailure(c *identity.Certificate, want string) *Failure {
	return &Failure{FailVerifySAN, "verify cert failed: verify SAN list, expected SANs: [" + want + "], certificate SANs: [" + shownSANs(c) + "]"}
}

func shownSANs(c *identity.Certificate) string {
	return strings.Join(c.SANs[:min(len(c.SANs), maxShown)], ", ")
}

// chainFailure is a certificate at depth (0 is the leaf) that was refused.
func chainFailure(depth int, text string) *Failure {
	return &Failure{FailVerifyError, "verify cert failed: X509_verify_cert: certificate verification error at depth " + strconv.Itoa(depth) + ": " + text}
}

// fromX509 puts an error of crypto/x509 into Envoy's words. leaf is what was verified.
func fromX509(leaf *x509.Certificate, chain []*x509.Certificate, err error) *Failure {
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	var critical x509.UnhandledCriticalExtension
	depth := func(c *x509.Certificate) int {
		for i, x := range chain {
			if x.Equal(c) {
				return i
			}
		}
		return 0
	}
	switch {
	case errors.As(err, &invalid):
		return chainFailure(depth(invalid.Cert), invalidText(&invalid))
	case errors.As(err, &unknown):
		// One that may not sign has not signed itself, says BoringSSL.
		if string(leaf.RawIssuer) == string(leaf.RawSubject) && (leaf.KeyUsage == 0 || leaf.KeyUsage&x509.KeyUsageCertSign != 0) {
			return chainFailure(0, textSelfSigned)
		}
		return chainFailure(deepest(chain), textNoIssuer)
	case errors.As(err, &critical):
		return chainFailure(0, textUnhandledCrit)
	}
	return chainFailure(0, textSignature)
}

func invalidText(e *x509.CertificateInvalidError) string {
	switch e.Reason {
	case x509.Expired:
		if strings.Contains(e.Detail, "is before") {
			return textNotYetValid
		}
		return textExpired
	case x509.NotAuthorizedToSign:
		return textInvalidCA
	case x509.TooManyIntermediates:
		return textTooLong
	case x509.IncompatibleUsage:
		return textPurpose
	case x509.CANotAuthorizedForThisName, x509.UnconstrainedName:
		return textNotPermitted
	}
	return textSignature
}

// deepest is how far up the presented certificates lead: each is issued by the next.
func deepest(chain []*x509.Certificate) int {
	n := 0
	for n+1 < len(chain) && string(chain[n].RawIssuer) == string(chain[n+1].RawSubject) {
		n++
	}
	return n
}
