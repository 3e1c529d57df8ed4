// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	"sidecar/dataplane/conn"
	"sidecar/dataplane/hostset"
	"sidecar/dataplane/lb"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/dataplane/transport/tls/policy"
	"sidecar/dataplane/worker"
	"sidecar/internal/telemetry/stats"
)

// certificate is self-signed for test.local, with an RSA key.
func certificate(t *testing.T) (chain, key []byte) {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	x := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"test.local"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, x, x, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	p, _ := x509.MarshalPKCS8PrivateKey(k)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: p})
}

// echo is an upstream that wants a client certificate and sends back what it gets.
func echo(t *testing.T, chain, key []byte) sys.Addr {
	t.Helper()
	cert, err := tls.X509KeyPair(chain, key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(chain)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if _, err := io.Copy(c, c); err == nil {
					_ = c.(*tls.Conn).CloseWrite()
				}
			}()
		}
	}()
	return sys.AddrOf(ln.Addr().(*net.TCPAddr).AddrPort())
}

func TestOffload_WhenBothSidesSpeakTLSWithRSAKeys_ThenSignedElsewhereAndEveryByteArrives(t *testing.T) {
	b := newBench(t)
	b.Start()
	chain, key := certificate(t)
	own, err := policy.ParseCertificate(chain, key, "<inline>", "<inline>")
	if err != nil {
		t.Fatal(err)
	}
	cas, err := policy.ParseBundle(chain, "<inline>")
	if err != nil {
		t.Fatal(err)
	}
	srv, err := policy.NewServer(policy.ServerSpec{Scope: "l", Certificates: []policy.Ref[policy.Certificate]{{Inline: own}}})
	if err != nil {
		t.Fatal(err)
	}
	cli, err := policy.NewClient(policy.ClientSpec{Scope: "c", SNI: "test.local", Certificate: policy.Ref[policy.Certificate]{Inline: own},
		Validation: policy.Ref[policy.Validation]{Inline: &policy.Validation{CA: cas}}})
	if err != nil {
		t.Fatal(err)
	}
	in := snapshot.NewInterner()
	spec := lb.Default(lb.RoundRobin)
	hosts := spec.Build(nil, hostset.Input{Localities: []hostset.LocalityInput{{Endpoints: []hostset.Endpoint{{Addr: echo(t, chain, key), Weight: 1}}}}})
	cl := &snapshot.ClusterConfig{Name: "c", StatName: "c", Ref: in.Cluster("c"), ConnectTimeout: 10 * sys.Second, BufferLimit: 64 << 10, LB: spec.Factory(),
		Limits: &snapshot.Usage{}, Traffic: b.reg.Scope("cluster.c.", stats.ClusterDef), TLS: cli}
	cl.Breakers[0] = snapshot.Breaker{MaxConnections: 100, MaxPending: 100, MaxPools: 100}
	build := snapshot.NewBuilder(nil, in)
	build.SetCluster(cl.Ref, &snapshot.Cluster{ClusterConfig: cl, Hosts: hosts})
	l := b.listener("l", "127.0.0.1:0")
	l.BufferLimit = 64 << 10
	l.Default = &snapshot.FilterChain{Name: "fc", TLS: srv, TCP: &snapshot.TCPProxy{StatPrefix: "t", Cluster: cl.Ref, Scope: b.reg.Scope("tcp.t.", stats.TCPDef)}}
	b.prepare(l)
	snap := build.Freeze()
	snap.Epoch, snap.Listeners = 1, []*snapshot.Listener{l}
	b.Publish(snap)
	if !b.Settle(1, 5*time.Second) {
		t.Fatal("not adopted")
	}
	msg := bytes.Repeat([]byte("0123456789abcdef"), 20<<10)
	var w sync.WaitGroup
	for range 8 {
		w.Go(func() {
			c, err := tls.Dial("tcp", b.addr("l").IP.String(), &tls.Config{ServerName: "test.local", InsecureSkipVerify: true}) //nolint:gosec // test
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			go func() { _, _ = c.Write(msg); _ = c.CloseWrite() }()
			if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, msg) {
				t.Errorf("%v, %d of %d bytes", err, len(got), len(msg))
			}
		})
	}
	w.Wait()
	counts := make(chan conn.TLSCounts, workers)
	b.Call(func(w *worker.Worker) { counts <- w.TLS().Counts() })
	var sum conn.TLSCounts
	for range workers {
		n := <-counts
		sum.Done, sum.Failed, sum.Active = sum.Done+n.Done, sum.Failed+n.Failed, sum.Active+n.Active
		sum.Signatures += n.Signatures
	}
	// One signature as server, one as client of the upstream; those that resume there need none.
	if sum.Done != 16 || sum.Failed+uint64(sum.Active) != 0 || sum.Signatures < 9 {
		t.Error(fmt.Sprintf("%+v", sum))
	}
}
