// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"testing"
	"time"

	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/dataplane/transport/tls/policy"
	"sidecar/internal/telemetry/stats"
)

// certificate is self-signed.
func certificate(t *testing.T) *policy.Certificate {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	x := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"test.local"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, x, x, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	key, _ := x509.MarshalPKCS8PrivateKey(k)
	c, err := policy.ParseCertificate(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), "<inline>", "<inline>")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// until turns the loop until cond.
func (r *rig) until(what string, cond func() bool) {
	r.t.Helper()
	for end := time.Now().Add(5 * time.Second); !cond(); time.Sleep(50 * time.Microsecond) {
		if time.Now().After(end) {
			r.t.Fatal("timeout: " + what)
		}
		r.l.Turn(false)
	}
}

// goes runs fn beside the loop.
func goes(fn func() error) chan error {
	ch := make(chan error, 1)
	go func() { ch <- fn() }()
	return ch
}

func TestTLS_WhenOnePortIsPermissive_ThenPlainAndTLSGetTheirChains(t *testing.T) {
	r := newRig(t)
	srv, err := policy.NewServer(policy.ServerSpec{Scope: "l", Certificates: []policy.Ref[policy.Certificate]{{Inline: certificate(t)}}, ALPN: []string{"h2", "http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	cfg := r.config("l", func(c *snapshot.Listener) {
		c.Filters = []snapshot.ListenerFilter{{Kind: snapshot.FilterTLSInspector}}
		c.Chains = []*snapshot.FilterChain{{Name: "tls", DrainKey: 2, TCP: &snapshot.TCPProxy{}, TLS: srv, Match: snapshot.ChainMatch{Transport: "tls"}}}
		if c.Match, err = snapshot.NewChainIndex(c.Chains); err != nil {
			t.Fatal(err)
		}
	})
	_, a := r.listen(cfg, "127.0.0.1:0", false)
	plain, err := net.Dial("tcp", a.IP.String())
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	_, _ = plain.Write([]byte("GET / HTTP/1.1\r\n"))
	r.until("plain", func() bool { return len(r.served) == 1 })
	raw, err := net.Dial("tcp", a.IP.String())
	if err != nil {
		t.Fatal(err)
	}
	c := tls.Client(raw, &tls.Config{ServerName: "test.local", InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}) //nolint:gosec // test
	defer c.Close()
	over := goes(c.Handshake)
	r.until("TLS", func() bool { return len(r.served) == 2 && r.served[1].info.TLS != nil })
	if err := <-over; err != nil {
		t.Fatal(err)
	}
	p, s := r.served[0], r.served[1]
	if p.fc.Name != "all" || p.info.TLS != nil || s.fc.Name != "tls" || s.info.TLS.ALPN != "http/1.1" || s.info.TLS.SNI != "test.local" || s.c.Session() != s.info.TLS {
		t.Errorf("%s %v, %s %+v", p.fc.Name, p.info.TLS, s.fc.Name, s.info.TLS)
	}
	p.c.Fill()
	if string(p.c.In()) != "GET / HTTP/1.1\r\n" || len(s.c.In()) != 0 {
		t.Errorf("%q %q", p.c.In(), s.c.In())
	}
}

func TestTLS_WhenTheSecretIsMissingOrTheClientStalls_ThenClosedAndCounted(t *testing.T) {
	for _, missing := range []bool{true, false} {
		r := newRig(t)
		spec := policy.ServerSpec{Scope: "l", Certificates: []policy.Ref[policy.Certificate]{{Secret: "later"}}}
		if !missing {
			spec.Certificates[0] = policy.Ref[policy.Certificate]{Inline: certificate(t)}
		}
		srv, err := policy.NewServer(spec)
		if err != nil {
			t.Fatal(err)
		}
		cfg := r.config("l", func(c *snapshot.Listener) { c.Default.TLS, c.Default.ConnectTimeout = srv, 20*sys.Millisecond })
		_, a := r.listen(cfg, "127.0.0.1:0", false)
		c, err := net.Dial("tcp", a.IP.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if missing {
			over := goes(func() error { _, err := c.Read(make([]byte, 1)); return err })
			var end error
			r.until("close", func() bool {
				select {
				case end = <-over:
				default:
				}
				return end != nil
			})
			if end != io.EOF || len(r.served) != 0 || r.active != 0 {
				t.Errorf("%v, %d served, %d active", end, len(r.served), r.active)
			}
		} else {
			r.until("timeout", func() bool { return len(r.served) == 1 && r.served[0].c.Broken() })
			if got := r.served[0].info.Extra().TransportFailure; got != "" || r.served[0].c.TransportFailure() == nil {
				t.Errorf("%q", got)
			}
		}
		for id, want := range map[int]int64{stats.ListenerDownstreamCxTotal: 1, stats.ListenerDownstreamCxDestroy: 1 * btoi(missing),
			stats.ListenerDownstreamCxTransportSocketConnectTimeout: 1 - btoi(missing)} {
			if got, _ := cfg.Scope.Value(id); got != want {
				t.Errorf("missing %v: stat %d is %d, want %d", missing, id, got, want)
			}
		}
	}
}

func btoi(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
