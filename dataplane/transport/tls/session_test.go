// SPDX-License-Identifier: Apache-2.0

package tls

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"sidecar/dataplane/buf"
	"sidecar/dataplane/identity"
)

// pki is one CA with a server and a client certificate of each kind; made once, because RSA keys take long.
var pki = sync.OnceValue(func() *authority {
	a := &authority{pool: x509.NewCertPool()}
	a.key, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	a.cert = a.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true}, a.key.Public(), nil)
	a.pool.AddCert(a.cert)
	ek, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	rk, _ := rsa.GenerateKey(rand.Reader, 2048)
	a.ecdsa, a.rsa = a.leaf(ek), a.leaf(rk)
	return a
})

type authority struct {
	key        *ecdsa.PrivateKey
	cert       *x509.Certificate
	pool       *x509.CertPool
	ecdsa, rsa tls.Certificate
}

func (a *authority) sign(t *x509.Certificate, pub any, parent *x509.Certificate) *x509.Certificate {
	t.SerialNumber = big.NewInt(time.Now().UnixNano())
	t.NotBefore, t.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	if parent == nil {
		parent = t
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, pub, a.key)
	if err != nil {
		panic(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return c
}

func (a *authority) leaf(k crypto.Signer) tls.Certificate {
	id, _ := url.Parse("spiffe://td/ns/n/sa/s")
	c := a.sign(&x509.Certificate{DNSNames: []string{"test.local"}, URIs: []*url.URL{id}}, k.Public(), a.cert)
	return tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: k, Leaf: c}
}

// variant is one way to shake hands.
type variant struct {
	name   string
	vers   uint16
	rsa    bool
	mutual bool
}

var variants = []variant{
	{"1.3", tls.VersionTLS13, false, false}, {"1.3 mutual", tls.VersionTLS13, false, true}, {"1.3 mutual RSA", tls.VersionTLS13, true, true},
	{"1.2", tls.VersionTLS12, false, false}, {"1.2 mutual", tls.VersionTLS12, false, true}, {"1.2 mutual RSA", tls.VersionTLS12, true, true},
}

func (v variant) configs() (srv, cli *tls.Config) {
	a := pki()
	cert := a.ecdsa
	if v.rsa {
		cert = a.rsa
	}
	srv = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: v.vers, MaxVersion: v.vers, NextProtos: []string{"h2", "http/1.1"},
		DynamicRecordSizingDisabled: true}
	cli = &tls.Config{ServerName: "test.local", RootCAs: a.pool, MinVersion: v.vers, MaxVersion: v.vers, NextProtos: []string{"http/1.1"},
		DynamicRecordSizingDisabled: true}
	if v.mutual {
		srv.ClientAuth, srv.ClientCAs = tls.RequireAndVerifyClientCert, a.pool
		cli.Certificates = []tls.Certificate{cert}
	}
	return srv, cli
}

// end is a session with the bytes on their way to it and what it read.
type end struct {
	*Session
	in    []byte
	plain []byte
	st    Status
}

// step lets e work on what is there: the handshake, then records.
func (e *end) step() {
	if e.State() < Open {
		e.in = e.in[e.Shake(e.in):]
		if j := e.Job(); j != nil {
			j.Run()
			e.in = e.in[j.Done(e.in):]
		}
	}
	if e.State() != Open || e.st != More {
		return
	}
	n, rest, st := e.Unseal(e.in, 0)
	e.plain = append(e.plain, e.in[:n]...)
	e.in, e.st = e.in[rest:], st
}

// carry moves at most max bytes from one session's output to the other's input.
func carry(from, to *end, max int) bool {
	n := min(len(from.Out), max)
	to.in = append(to.in, from.Out[:n]...)
	from.Out = from.Out[n:]
	return n > 0
}

// converse runs both ends until nothing moves.
func converse(a, b *end, max int) {
	a.step()
	b.step()
	for carry(a, b, max) || carry(b, a, max) {
		a.step()
		b.step()
	}
}

func engine() *Engine { return &Engine{Pool: &buf.Pool{}} }

func couple(t testing.TB, v variant, max int) (srv, cli *end) {
	t.Helper()
	sc, cc := v.configs()
	e := engine()
	if v.rsa {
		sc.Certificates[0].PrivateKey = e.Signer(sc.Certificates[0].PrivateKey.(crypto.Signer))
	}
	srv, cli = &end{Session: e.Server(sc)}, &end{Session: e.Client(cc)}
	converse(cli, srv, max)
	if srv.State() != Open || cli.State() != Open {
		t.Fatalf("%s: server %v %v, client %v %v", v.name, srv.State(), srv.Err(), cli.State(), cli.Err())
	}
	return srv, cli
}

func TestHandshake_WhenInputIsSplitAnywhere_ThenTheSameSession(t *testing.T) {
	for _, v := range variants {
		for _, max := range []int{1, 7, 1 << 20} {
			srv, cli := couple(t, v, max)
			for _, e := range []*end{srv, cli} {
				i := e.Info()
				if i.ALPN != "http/1.1" || i.SNI != "test.local" || i.Version != VersionName(v.vers) || i.Group == "" || i.Cipher == "" || i.Resumed {
					t.Errorf("%s: %+v", v.name, i)
				}
			}
			for _, n := range []int{1, 13, 16384, 16385, 100000} {
				msg := bytes.Repeat([]byte("0123456789abcde\n"), n/16+1)[:n]
				cli.Seal(msg)
				srv.Seal(msg)
				srv.plain, cli.plain = nil, nil
				converse(cli, srv, max)
				if !bytes.Equal(srv.plain, msg) || !bytes.Equal(cli.plain, msg) {
					t.Fatalf("%s by %d: %d and %d of %d bytes", v.name, max, len(srv.plain), len(cli.plain), n)
				}
			}
			if n := srv.e.Stacks(); n != 2 || len(srv.e.idle) != 2 {
				t.Errorf("%d stacks, %d idle", n, len(srv.e.idle))
			}
		}
	}
}

func TestSigner_WhenTheKeyIsElsewhere_ThenTheHandshakeWaitsAndInputDoesNotWakeIt(t *testing.T) {
	sc, cc := variant{vers: tls.VersionTLS13, rsa: true}.configs()
	e := engine()
	sc.Certificates[0].PrivateKey = e.Signer(sc.Certificates[0].PrivateKey.(crypto.Signer))
	srv, cli := &end{Session: e.Server(sc)}, &end{Session: e.Client(cc)}
	cli.Shake(nil)
	hello := bytes.Clone(cli.Out)
	cli.Out = nil
	if n := srv.Shake(hello); n != len(hello) || srv.State() != Signing {
		t.Fatalf("took %d, state %v", n, srv.State())
	}
	if srv.Shake(hello) != 0 || srv.Ready(hello) || srv.State() != Signing {
		t.Error("input went on with a handshake that waits for a signature")
	}
	j := srv.Job()
	if j == nil || srv.Job() != nil || j.Session() != srv.Session {
		t.Fatal("the job must be handed out once")
	}
	var w sync.WaitGroup
	w.Go(j.Run)
	w.Wait()
	j.Done(nil)
	if srv.State() != Shaking {
		t.Fatalf("state %v: %v", srv.State(), srv.Err())
	}
	converse(cli, srv, 1<<20)
	if srv.State() != Open || cli.State() != Open {
		t.Errorf("%v %v, %v %v", srv.State(), srv.Err(), cli.State(), cli.Err())
	}
	if n := j.Done(nil); n != 0 {
		t.Error("a job counts once")
	}
}

func TestAbort_WhenTheHandshakeIsParked_ThenItsStackIsFree(t *testing.T) {
	for _, rsa := range []bool{false, true} {
		sc, cc := variant{vers: tls.VersionTLS12, rsa: rsa}.configs()
		e := engine()
		sc.Certificates[0].PrivateKey = e.Signer(sc.Certificates[0].PrivateKey.(crypto.Signer))
		srv, cli := &end{Session: e.Server(sc)}, &end{Session: e.Client(cc)}
		cli.Shake(nil)
		srv.Shake(bytes.Clone(cli.Out))
		j := srv.Job()
		if j == nil {
			t.Fatal("no job")
		}
		srv.Abort()
		cli.Abort()
		if srv.State() != Failed || cli.State() != Failed || len(e.idle) != 2 || len(srv.Out) != 0 {
			t.Errorf("%v %v, %d idle stacks, %d bytes out", srv.State(), cli.State(), len(e.idle), len(srv.Out))
		}
		j.Run()
		if j.Session() != nil || j.Done(nil) != 0 {
			t.Error("a late signature reached an aborted session")
		}
		e.Close()
		if e.Stacks() != 0 {
			t.Errorf("%d stacks", e.Stacks())
		}
	}
}

func TestCurrent_WhenACallbackRuns_ThenItFindsItsSession(t *testing.T) {
	sc, cc := variant{vers: tls.VersionTLS13, mutual: true}.configs()
	e := engine()
	peer, local := &identity.Certificate{Subject: "CN=peer"}, &identity.Certificate{}
	sc.VerifyConnection = func(tls.ConnectionState) error { e.Current().SetPeer(peer, true); return nil }
	var hello *Session
	cert := sc.Certificates[0]
	sc.Certificates = nil
	sc.GetCertificate = func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		hello = SessionOf(h.Conn)
		e.Current().SetLocal(local)
		return &cert, nil
	}
	srv, cli := &end{Session: e.Server(sc)}, &end{Session: e.Client(cc)}
	converse(cli, srv, 1<<20)
	if i := srv.Info(); i.Peer != peer || i.Local != local || !i.Validated || hello != srv.Session || e.Current() != nil || cli.Info().Peer != nil {
		t.Errorf("%+v", i)
	}
}

func TestHandshake_WhenTheVerificationRefuses_ThenBothFailAndTheAlertGoesOut(t *testing.T) {
	sc, cc := variant{vers: tls.VersionTLS13, mutual: true}.configs()
	e := engine()
	why := errors.New("no")
	sc.VerifyConnection = func(tls.ConnectionState) error { return why }
	srv, cli := &end{Session: e.Server(sc)}, &end{Session: e.Client(cc)}
	converse(cli, srv, 1<<20)
	if srv.State() != Failed || !errors.Is(srv.Err(), why) || cli.st != Bad || cli.State() != Failed {
		t.Errorf("%v %v, %v %v", srv.State(), srv.Err(), cli.st, cli.Err())
	}
	var op *net.OpError
	if !errors.As(cli.Err(), &op) || op.Op != "remote error" {
		t.Errorf("the client got no alert: %v", cli.Err())
	}
}

func TestClose_WhenEitherSideEnds_ThenNotifiedAndTheOtherWayGoesOn(t *testing.T) {
	for _, v := range variants {
		srv, cli := couple(t, v, 1<<20)
		cli.Seal([]byte("last"))
		cli.CloseNotify()
		cli.Seal([]byte("dropped"))
		converse(cli, srv, 1)
		if string(srv.plain) != "last" || srv.st != Closed || !srv.PeerClosed() || cli.PeerClosed() {
			t.Fatalf("%s: %q %v", v.name, srv.plain, srv.st)
		}
		srv.Seal([]byte("reply"))
		srv.CloseNotify()
		converse(cli, srv, 3)
		if string(cli.plain) != "reply" || cli.st != Closed {
			t.Errorf("%s: %q %v", v.name, cli.plain, cli.st)
		}
	}
}

func TestUnseal_WhenARecordIsBad_ThenEarlierPlaintextFirstAndAnAlert(t *testing.T) {
	srv, cli := couple(t, variants[0], 1<<20)
	cli.Seal([]byte("good"))
	n := len(cli.Out)
	cli.Seal([]byte("evil"))
	cli.Out[n+8] ^= 1
	converse(cli, srv, 1<<20)
	if string(srv.plain) != "good" || srv.st != Bad || srv.State() != Failed || cli.State() != Failed {
		t.Errorf("%q %v %v, client %v", srv.plain, srv.st, srv.Err(), cli.Err())
	}
	if p, _, st := srv.Unseal(nil, 0); p != 0 || st != Bad {
		t.Error("a failed session must stay failed")
	}
	srv.Seal([]byte("x"))
	srv.CloseNotify()
	if len(srv.Out) != 0 {
		t.Error("output after the alert")
	}
}

func TestHandshake_WhenThePeerSpeaksSomethingElse_ThenFailsAtOnce(t *testing.T) {
	sc, _ := variants[0].configs()
	for _, in := range []string{"GET / HTTP/1.1\r\n", "\x80\x2e\x01\x00\x02", "SSH-2.0", "\x16\x03\x01\xff\xff", "PRI * HTTP/2.0"} {
		s := engine().Server(sc)
		if s.Shake([]byte(in)[:4]) != 0 || s.State() != Fresh || s.e.Stacks() != 0 {
			t.Error("a stack before the first record")
		}
		s.Shake([]byte(in))
		if s.State() != Failed || s.Err() == nil {
			t.Errorf("%q: %v", in, s.State())
		}
	}
}

func TestHandshake_WhenThePeerFloods_ThenBounded(t *testing.T) {
	sc, _ := variants[0].configs()
	s := engine().Server(sc)
	in := append([]byte{22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff}, make([]byte, 16384-4)...) // a ClientHello of 64 KiB, without end
	for i := 0; s.State() < Failed; i++ {
		if i > 10 {
			t.Fatal("not bounded")
		}
		s.Shake(in)
	}
	s = engine().Server(sc)
	var all []byte
	for range maxHandshake { // alerts of level warning, each a record
		all = append(all, 21, 3, 1, 0, 2, 1, 90)
	}
	s.Shake(all)
	if s.State() != Failed {
		t.Errorf("%v", s.State())
	}
}

func TestHandshake_WhenTheLibraryPanics_ThenOnlyThisSessionFails(t *testing.T) {
	sc, cc := variants[0].configs()
	e := engine()
	sc.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { panic("bug") }
	srv, cli := &end{Session: e.Server(sc)}, &end{Session: e.Client(cc)}
	converse(cli, srv, 1<<20)
	var p *PanicError
	if srv.State() != Failed || !errors.As(srv.Err(), &p) || e.Current() != nil {
		t.Errorf("%v %v", srv.State(), srv.Err())
	}
	srv.Abort()
	cli.Abort()
	if e.Stacks() != 1 {
		t.Errorf("%d stacks", e.Stacks())
	}
	sc.GetConfigForClient = nil
	srv, cli = &end{Session: e.Server(sc)}, &end{Session: e.Client(cc)}
	converse(cli, srv, 1<<20)
	if srv.State() != Open {
		t.Error(srv.Err())
	}
}

func TestSession_WhenItTalksToTheLibraryOverASocket_ThenEveryByte(t *testing.T) {
	for _, v := range variants {
		sc, cc := v.configs()
		a, b := net.Pipe()
		done := make(chan error, 1)
		msg := bytes.Repeat([]byte("abcdefgh"), 1<<17)
		go func() {
			c := tls.Client(b, cc)
			go func() { _, _ = c.Write(msg); _ = c.CloseWrite() }()
			got, err := io.ReadAll(c)
			if err == nil && !bytes.Equal(got, msg) {
				err = fmt.Errorf("%d bytes", len(got))
			}
			done <- err
			b.Close()
		}()
		s := &end{Session: engine().Server(sc)}
		in, out := make([]byte, 5000), make(chan []byte, 1<<10)
		go func() {
			for p := range out {
				_, _ = a.Write(p)
			}
		}()
		for s.st == More {
			n, err := a.Read(in)
			if err != nil {
				t.Fatal(err)
			}
			s.in = append(s.in, in[:n]...)
			was := len(s.plain)
			s.step()
			s.Seal(s.plain[was:])
			if s.st == Closed {
				s.CloseNotify()
			}
			out <- s.Out
			s.Out = nil
		}
		close(out)
		if err := <-done; err != nil || !bytes.Equal(s.plain, msg) {
			t.Errorf("%s: %v, %d bytes", v.name, err, len(s.plain))
		}
	}
}

func TestRecords_WhenSteady_ThenOneSmallAllocationForEachOneRead(t *testing.T) {
	srv, cli := couple(t, variants[0], 1<<20)
	msg := bytes.Repeat([]byte("x"), 300)
	in := make([]byte, 0, 64<<10)
	n := testing.AllocsPerRun(200, func() {
		cli.Seal(msg)
		in = append(in[:0], cli.Out...)
		cli.Out = cli.Out[:0]
		if p, rest, st := srv.Unseal(in, 0); p != len(msg) || rest != len(in) || st != More {
			t.Fatal(p, rest, st)
		}
	})
	if n > 1 && !raced {
		t.Errorf("%v allocations for each record", n)
	}
}
