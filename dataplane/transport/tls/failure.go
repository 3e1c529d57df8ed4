// SPDX-License-Identifier: Apache-2.0

package tls

import (
	"crypto/tls"
	"errors"
	"net"
	"reflect"
	"strconv"
	"strings"
)

// prefix begins every failure text, as Envoy prints BoringSSL's error queue.
const prefix = "TLS_error:"

// sslErrors is BoringSSL's library number, in the upper byte of its error codes; alerts of the peer begin at alertReasons.
const (
	sslErrors    = 16 << 24
	alertReasons = 1000
)

// alertNames are BoringSSL's reasons for alerts of the peer (RFC 8446 section 6).
var alertNames = map[uint64]string{0: "SSLV3_ALERT_CLOSE_NOTIFY", 10: "SSLV3_ALERT_UNEXPECTED_MESSAGE", 20: "SSLV3_ALERT_BAD_RECORD_MAC",
	21: "TLSV1_ALERT_DECRYPTION_FAILED", 22: "TLSV1_ALERT_RECORD_OVERFLOW", 40: "SSLV3_ALERT_HANDSHAKE_FAILURE", 41: "SSLV3_ALERT_NO_CERTIFICATE",
	42: "SSLV3_ALERT_BAD_CERTIFICATE", 43: "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE", 44: "SSLV3_ALERT_CERTIFICATE_REVOKED",
	45: "SSLV3_ALERT_CERTIFICATE_EXPIRED", 46: "SSLV3_ALERT_CERTIFICATE_UNKNOWN", 47: "SSLV3_ALERT_ILLEGAL_PARAMETER", 48: "TLSV1_ALERT_UNKNOWN_CA",
	49: "TLSV1_ALERT_ACCESS_DENIED", 50: "TLSV1_ALERT_DECODE_ERROR", 51: "TLSV1_ALERT_DECRYPT_ERROR", 70: "TLSV1_ALERT_PROTOCOL_VERSION",
	71: "TLSV1_ALERT_INSUFFICIENT_SECURITY", 80: "TLSV1_ALERT_INTERNAL_ERROR", 86: "TLSV1_ALERT_INAPPROPRIATE_FALLBACK", 90: "TLSV1_ALERT_USER_CANCELLED",
	100: "TLSV1_ALERT_NO_RENEGOTIATION", 110: "TLSV1_ALERT_UNSUPPORTED_EXTENSION", 112: "TLSV1_ALERT_UNRECOGNIZED_NAME",
	116: "TLSV1_ALERT_CERTIFICATE_REQUIRED", 120: "TLSV1_ALERT_NO_APPLICATION_PROTOCOL"}

// ownReasons are BoringSSL's reasons for what we found ourselves, by a part of the library's text.
var ownReasons = []struct {
	text   string
	name   string
	reason uint64
}{
	{"invalid signature by the", "BAD_SIGNATURE", 114},
	{"unsupported versions", "UNSUPPORTED_PROTOCOL", 240},
	{"server selected unsupported protocol version", "UNSUPPORTED_PROTOCOL", 240},
	{"no cipher suite supported by both", "NO_SHARED_CIPHER", 184},
	{"didn't provide a certificate", "PEER_DID_NOT_RETURN_A_CERTIFICATE:peer_did_not_provide_required_client_certificate", 192},
	{"no ECDHE curve supported by both", "NO_SHARED_GROUP", 266},
	{"no mutually supported", "NO_COMMON_SIGNATURE_ALGORITHMS", 253},
	{"bad record MAC", "DECRYPTION_FAILED_OR_BAD_RECORD_MAC", 139},
	{"oversized record", "ENCRYPTED_LENGTH_TOO_LONG", 138},
	{"unexpected message", "UNEXPECTED_MESSAGE", 223},
	{"error decoding message", "DECODE_ERROR", 130},
	{"received record with version", "WRONG_VERSION_NUMBER", 247},
}

// FailureText is why TLS failed, in the words of %DOWNSTREAM_TRANSPORT_FAILURE_REASON% and %UPSTREAM_TRANSPORT_FAILURE_REASON%; "" for nil. Errors that have such a text already (those of policy) keep it; what BoringSSL has no word for is the library's text.
func FailureText(err error) string {
	if err == nil {
		return ""
	}
	text := err.Error()
	if strings.HasPrefix(text, prefix) {
		return strings.ReplaceAll(text, " ", "_")
	}
	var header tls.RecordHeaderError
	if errors.As(err, &header) {
		switch string(header.RecordHeader[:4]) {
		case "GET ", "POST", "HEAD", "PUT ":
			return reason(156, "HTTP_REQUEST")
		case "CONN":
			return reason(155, "HTTPS_PROXY_REQUEST")
		}
		return reason(247, "WRONG_VERSION_NUMBER")
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "remote error" {
		if v := reflect.ValueOf(op.Err); v.CanUint() { // the library's type of an alert is not exported
			if n := alertNames[v.Uint()]; n != "" {
				return reason(alertReasons+v.Uint(), n)
			}
		}
	}
	for i := range ownReasons {
		if r := &ownReasons[i]; strings.Contains(text, r.text) {
			if strings.HasSuffix(text, "ECDSA verification failure") {
				return strings.Replace(reason(r.reason, r.name), prefix, prefix+"|436207716:ECDSA_routines:OPENSSL_internal:BAD_SIGNATURE", 1)
			}
			return reason(r.reason, r.name)
		}
	}
	return prefix + strings.ReplaceAll(strings.TrimPrefix(text, "tls: "), " ", "_") + ":TLS_error_end"
}

func reason(code uint64, name string) string {
	return prefix + "|" + strconv.FormatUint(sslErrors+code, 10) + ":SSL_routines:OPENSSL_internal:" + name + ":TLS_error_end"
}
