// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"testing"
	"time"

	"sidecar/dataplane/conn"
	"sidecar/dataplane/fault"
	"sidecar/dataplane/hostset"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/dataplane/transport/tls/policy"
	"sidecar/internal/nettest"
	"sidecar/internal/telemetry/stats"
)

// upstream speaks TLS with a self-signed certificate for test.local; it knows protocols for ALPN.
func upstream(t *testing.T, protocols ...string) (a sys.Addr, ca []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	x := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"test.local"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, x, x, k.Public(), k)
	check(t, err)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: k}},
		NextProtos: protocols})
	check(t, err)
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { _ = c.(*tls.Conn).Handshake() }() // and then silence
		}
	}()
	return sys.AddrOf(ln.Addr().(*net.TCPAddr).AddrPort()), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// today is the test's kernel with the real time of day.
type today struct{ *nettest.Clock }

func (k today) WallNanos() int64 { return k.Linux.WallNanos() }

func TestPool_WhenTheClusterSpeaksTLS_ThenReadyAfterTheHandshakeOrAFaultThatSaysWhy(t *testing.T) {
	a, ca := upstream(t, "http/1.1")
	_, other := upstream(t, "http/1.1")
	for _, x := range []struct {
		name   string
		ca     []byte
		secret string
		why    string
	}{
		{"trusted", ca, "", ""},
		{"another CA", other, "", "TLS_error:|268435581:SSL_routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify_cert_failed:_X509_verify_cert:_" +
			"certificate_verification_error_at_depth_0:_self_signed_certificate:TLS_error_end"},
		{"no secret yet", nil, "later", conn.SecretMissing},
	} {
		spec := policy.ClientSpec{Scope: "c", SNI: "test.local", Validation: policy.Ref[policy.Validation]{Secret: x.secret}}
		if x.ca != nil {
			b, err := policy.ParseBundle(x.ca, "<inline>")
			check(t, err)
			spec.Validation.Inline = &policy.Validation{CA: b}
		}
		cl, err := policy.NewClient(spec)
		check(t, err)
		r := newRig(t, func(c *snapshot.ClusterConfig, h *hostset.Host) { c.TLS, h.Addr = cl, a })
		r.l.K = today{r.k} // certificates are made at the real time
		w := conn.NewTLS(r.l, nil)
		r.p.tls = w
		o := newOwner()
		out := r.p.Get(&o.w)
		if out == Failed {
			_, o.k, _ = o.w.Take()
		}
		for end := time.Now().Add(5 * time.Second); o.m == nil && o.k == fault.None; time.Sleep(100 * time.Microsecond) {
			if time.Now().After(end) {
				t.Fatal(x.name + ": no answer")
			}
			r.turn()
		}
		if ok := x.why == ""; ok != (o.m != nil) || o.w.Why() != x.why || ok && !o.m.C.Secure() || !ok && o.k != fault.ConnectFailed {
			t.Errorf("%s: %v %v %q", x.name, o.m != nil, o.k, o.w.Why())
		}
		if n, fail := r.value(stats.ClusterUpstreamCxTotal), r.value(stats.ClusterUpstreamCxConnectFail); n != 1 || (fail == 1) != (x.why != "") {
			t.Errorf("%s: %d connections, %d failed", x.name, n, fail)
		}
	}
}
