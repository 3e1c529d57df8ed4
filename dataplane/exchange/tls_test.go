// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"strings"
	"testing"

	"sidecar/dataplane/conn"
	"sidecar/dataplane/identity"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/transport/tls/policy"
	"sidecar/internal/telemetry/accesslog"
)

// logs makes the rig log in that format.
func (r *rig) logs(text string) {
	f, err := accesslog.Compile(text)
	must(r.t, err)
	r.format = f
}

func TestTLS_WhenTheListenerTerminatesIt_ThenRequestsAreHTTPS(t *testing.T) {
	for _, x := range []struct{ name, alpn, xfp, proto, scheme string }{
		{"HTTP/1", "http/1.1", "", "https", "https"},
		{"no ALPN", "", "", "https", "https"},
		{"HTTP/1 behind a proxy", "", "http", "http", "http"},
		{"HTTP/2", "h2", "", "https", "https"},
		{"HTTP/2 keeps its scheme", "h2", "http", "http", "https"},
	} {
		t.Run(x.name, func(t *testing.T) {
			r := newRig(t, 1)
			r.logs("%REQ(:scheme)% %REQ(x-forwarded-proto)% %PROTOCOL%")
			r.tls = &identity.Session{Version: "TLSv1.3", ALPN: x.alpn}
			r.hcm.Codec = snapshot.CodecAuto
			protocol := " HTTP/1.1"
			if x.alpn == "h2" {
				protocol = " HTTP/2"
				c := r.dialH2()
				h := []string{":method", "GET", ":scheme", "https", ":authority", "x.test", ":path", "/"}
				if x.xfp != "" {
					h = append(h, "x-forwarded-proto", x.xfp)
				}
				c.headers(1, true, h...)
				c.send()
			} else {
				c := r.dial()
				head := "GET / HTTP/1.1\r\nhost: x.test\r\n"
				if x.xfp != "" {
					head += "x-forwarded-proto: " + x.xfp + "\r\n"
				}
				c.write(head + "\r\n")
			}
			r.turn()
			u := r.ups[0].accept()
			r.turn()
			head, _ := u.read()
			if !strings.Contains(head, "x-forwarded-proto: "+x.proto+"\r\n") {
				t.Errorf("upstream got %s", head)
			}
			u.write("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
			r.turn()
			if len(r.log) != 1 || r.log[0] != x.scheme+" "+x.proto+protocol {
				t.Errorf("log %q", r.log)
			}
			r.check()
		})
	}
}

func TestTLS_WhenTheUpstreamDoesNotSpeakIt_ThenTheReasonIsToldAsInEnvoy(t *testing.T) {
	r := newRig(t, 1)
	r.logs("%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %UPSTREAM_TRANSPORT_FAILURE_REASON%")
	ctx, err := policy.NewClient(policy.ClientSpec{Scope: "c"})
	must(t, err)
	r.row.TLS = ctx
	r.env.Up.TLS = conn.NewTLS(r.l, nil)
	c := r.dial()
	c.write("GET / HTTP/1.1\r\nhost: x.test\r\n\r\n")
	r.turn()
	u := r.ups[0].accept()
	if hello, _ := u.read(); !strings.HasPrefix(hello, "\x16\x03\x01") {
		t.Fatalf("%q is no ClientHello", hello)
	}
	u.write("HTTP/1.1 400 Bad Request\r\n\r\n")
	r.turn()
	const why = "TLS_error:|268435703:SSL_routines:OPENSSL_internal:WRONG_VERSION_NUMBER:TLS_error_end"
	if want := "503 UF upstream_reset_before_response_started{remote_connection_failure|" + why + "} " + why; len(r.log) != 1 || r.log[0] != want {
		t.Errorf("log %q, want %q", r.log, want)
	}
	r.check()
}

// leaf is a self-signed certificate with these URIs.
func leaf(t *testing.T, uris ...string) *identity.Certificate {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a"}}
	for _, s := range uris {
		u, err := url.Parse(s)
		must(t, err)
		tmpl.URIs = append(tmpl.URIs, u)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
	must(t, err)
	c, err := x509.ParseCertificate(der)
	must(t, err)
	return identity.New(c, nil)
}

func TestTLS_WhenTheClientShowsACertificate_ThenTheModeDecidesWhatIsForwarded(t *testing.T) {
	client, local := leaf(t, "spiffe://td/client"), leaf(t, "spiffe://td/server")
	element := "By=spiffe://td/server;Hash=" + string(client.AppendFingerprint256(nil, 0)) + `;Subject="CN=a";URI=spiffe://td/client`
	for _, x := range []struct {
		mode        identity.ForwardClientCert
		none, given string // of a request without the field, and with "x"
	}{
		{identity.Sanitize, "", ""},
		{identity.ForwardOnly, "", "x"},
		{identity.AppendForward, element, "x," + element},
		{identity.SanitizeSet, element, element},
		{identity.AlwaysForwardOnly, "", "x"},
	} {
		r := newRig(t, 1)
		r.tls = &identity.Session{Peer: client, Local: local, Version: "TLSv1.3"}
		r.hcm.ForwardClientCert, r.hcm.ClientCertDetails = x.mode, identity.ClientCertDetails{Subject: true, URI: true}
		c := r.dial()
		var u *peer
		for _, send := range []struct{ field, want string }{{"", x.none}, {"x-forwarded-client-cert: x\r\n", x.given}} {
			c.write("GET / HTTP/1.1\r\nhost: x.test\r\n" + send.field + "\r\n")
			r.turn()
			if u == nil {
				u = r.ups[0].accept()
			}
			head, _ := u.read()
			_, got, _ := strings.Cut(head, "x-forwarded-client-cert: ")
			if got, _, _ = strings.Cut(got, "\r\n"); got != send.want || strings.Count(head, "client-cert") > 1 {
				t.Errorf("mode %d: %s, want %s", x.mode, got, send.want)
			}
			u.write("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
			r.turn()
		}
		r.check()
	}
}
