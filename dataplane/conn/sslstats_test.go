// SPDX-License-Identifier: Apache-2.0

package conn

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"sidecar/dataplane/transport/tls/policy"
	"sidecar/internal/telemetry/accesslog"
	"sidecar/internal/telemetry/stats"
)

// serverContext serves with the certificate of certs, and wants client certificates that v accepts.
func serverContext(t *testing.T, v *policy.Validation) *policy.Server {
	t.Helper()
	c := certs()["ecdsa"]
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	own, err := policy.ParseCertificate(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), "<inline>", "<inline>")
	if err != nil {
		t.Fatal(err)
	}
	s, err := policy.NewServer(policy.ServerSpec{Scope: "l", Certificates: []policy.Ref[policy.Certificate]{{Inline: own}},
		RequireClientCert: v != nil, Validation: policy.Ref[policy.Validation]{Inline: v}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func bundle(t *testing.T, kind string) *policy.Bundle {
	t.Helper()
	b, err := policy.ParseBundle(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certs()[kind].Certificate[0]}), "<inline>")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTLS_WhenHandshakesEnd_ThenTheyCountAsInEnvoy(t *testing.T) {
	trusted := &policy.Validation{CA: bundle(t, "ecdsa")}
	good := map[string]int64{"handshake": 1, "ciphers.TLS_AES_128_GCM_SHA256": 1, "curves.X25519": 1, "versions.TLSv1.3": 1}
	with := func(more map[string]int64) map[string]int64 {
		m := maps.Clone(good)
		maps.Copy(m, more)
		return m
	}
	omitted := map[string]int64{"ocsp_staple_requests": 1, "ocsp_staple_omitted": 1}
	for _, x := range []struct {
		name  string
		v     *policy.Validation
		bare  bool // the client has no certificate
		plain bool // the client speaks no TLS
		want  map[string]int64
	}{
		{name: "server only", bare: true, want: with(map[string]int64{"no_certificate": 1})},
		{name: "mutual", v: trusted, want: good},
		{name: "no client certificate", v: trusted, bare: true, want: map[string]int64{"fail_verify_no_cert": 1}},
		{name: "another authority", v: &policy.Validation{CA: bundle(t, "rsa")}, want: map[string]int64{"fail_verify_error": 1}},
		{name: "another certificate", v: &policy.Validation{CA: trusted.CA, Hashes: [][32]byte{{1}}}, want: map[string]int64{"fail_verify_cert_hash": 1}},
		{name: "plain text", plain: true, want: map[string]int64{"connection_error": 1}},
	} {
		t.Run(x.name, func(t *testing.T) {
			r := newRig(t)
			w := NewTLS(r.l, nil)
			c, _, fd := r.pair(true, 0)
			p := file(t, fd)
			unix.Close(fd)
			defer p.Close()
			o := &relay{c: c, l: r.l}
			o.task.Init(o)
			c.SetOwner(&o.task)
			scope := stats.NewRegistry(1).Scope("listener.l.ssl.", stats.SSLDef)
			if !w.Accept(c, serverContext(t, x.v), 0, &accesslog.ConnInfo{}, nil, scope.Block(1)) {
				t.Fatal("the context is not ready")
			}
			_, cli := configs(tls.VersionTLS13, "ecdsa", !x.bare)
			if own := certs()["ecdsa"]; !x.bare { // shown whatever authorities the server names
				cli.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &own, nil }
			}
			cli.CurvePreferences = []tls.CurveID{tls.X25519}
			go talk(p, cli, x.plain)
			r.until("end", func() bool { return o.done || o.c.Broken() })
			got := map[string]int64{}
			for id, s := range stats.SSLDef.Stats {
				if v, _ := scope.Value(id); v != 0 {
					got[s.Name] = v
				}
			}
			want := maps.Clone(x.want)
			if !x.plain {
				maps.Copy(want, omitted)
			}
			if !maps.Equal(got, want) {
				t.Errorf("%v, want %v", got, want)
			}
		})
	}
}

// talk shakes hands and ends the connection.
func talk(p net.Conn, cli *tls.Config, plain bool) {
	if plain {
		_, _ = p.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
		return
	}
	c := tls.Client(p, cli)
	if c.Handshake() == nil {
		_ = c.CloseWrite()
	}
}
