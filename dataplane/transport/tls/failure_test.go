// SPDX-License-Identifier: Apache-2.0

package tls

import (
	"crypto/tls"
	"errors"
	"fmt"
	"testing"
)

// What Envoy 1.40 logged for the same peers, where it has a word.
func TestFailureText_WhenHandshakesFail_ThenEnvoysWords(t *testing.T) {
	const own = "TLS_error:|%d:SSL_routines:OPENSSL_internal:%s:TLS_error_end"
	text := func(code int, name string) string { return fmt.Sprintf(own, code, name) }
	for in, want := range map[string]string{
		"GET / HTTP/1.1\r\n\r\n":           text(268435612, "HTTP_REQUEST"),
		"\x00\x01\x02\x03\x04\x05\x06\x07": text(268435703, "WRONG_VERSION_NUMBER"),
		"\x15\x03\x01\x00\x02\x02\x30":     text(268436504, "TLSV1_ALERT_UNKNOWN_CA"),
		"\x15\x03\x01\x00\x02\x02\x2a":     text(268436498, "SSLV3_ALERT_BAD_CERTIFICATE"),
	} {
		sc, _ := variants[0].configs()
		s := engine().Server(sc)
		s.Shake([]byte(in))
		if got := FailureText(s.Err()); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
	sc, cc := variants[0].configs()
	cc.MinVersion, cc.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	e := engine()
	srv, cli := &end{Session: e.Server(sc)}, &end{Session: e.Client(cc)}
	converse(cli, srv, 1<<20)
	if got := FailureText(srv.Err()); got != text(268435696, "UNSUPPORTED_PROTOCOL") {
		t.Error(got)
	}
	if got := FailureText(cli.Err()); got != text(268436526, "TLSV1_ALERT_PROTOCOL_VERSION") {
		t.Error(got)
	}
	srv, cli = couple(t, variants[0], 1<<20)
	cli.Seal([]byte("x"))
	cli.Out[8] ^= 1
	converse(cli, srv, 1<<20)
	if got := FailureText(srv.Err()); got != text(268435595, "DECRYPTION_FAILED_OR_BAD_RECORD_MAC") {
		t.Error(got)
	}
	if got := FailureText(errors.New("TLS_error:|1:a b:TLS_error_end")); got != "TLS_error:|1:a_b:TLS_error_end" || FailureText(nil) != "" {
		t.Error(got)
	}
}
