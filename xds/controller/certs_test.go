// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"crypto/x509"
	"math"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"sidecar/xds/ads"
	"sidecar/xds/resource"
)

// certified is a context that presents one certificate.
type certified struct {
	*context
	own Material
}

func (x *certified) Materials() (own, authorities []Material) {
	if x.state == "" && len(x.refs) > 0 {
		return nil, nil
	}
	return []Material{x.own}, []Material{x.own}
}

func certificateUntil(end time.Time) *x509.Certificate {
	return &x509.Certificate{SerialNumber: big.NewInt(0xa0b), NotBefore: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), NotAfter: end, DNSNames: []string{"a.test"},
		URIs: []*url.URL{{Scheme: "spiffe", Host: "td", Path: "/ns/a"}}, IPAddresses: []net.IP{net.IPv4(1, 2, 3, 4)}}
}

func TestCerts_WhenACertificateIsShown_ThenItHasEnvoysShape(t *testing.T) {
	end := time.Date(2026, 2, 1, 3, 4, 5, 0, time.UTC)
	d := certificateDetails(&Material{Certificate: certificateUntil(end), Path: "/c.pem"}, end.Add(-50*time.Hour))
	b, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	got := strings.ReplaceAll(strings.ReplaceAll(string(b), ", ", ","), ": ", ":")
	want := `{"path":"/c.pem","serial_number":"0a0b","subject_alt_names":[{"dns":"a.test"},{"uri":"spiffe://td/ns/a"},{"ip_address":"1.2.3.4"}],` +
		`"days_until_expiration":"2","valid_from":"2026-01-02T03:04:05Z","expiration_time":"2026-02-01T03:04:05Z"}`
	if got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
	if d := certificateDetails(&Material{Certificate: certificateUntil(end)}, end.Add(time.Second)); d.DaysUntilExpiration != 0 {
		t.Errorf("expired: %d days", d.DaysUntilExpiration)
	}
}

func TestExpiry_WhenACertificateIsNotRenewed_ThenTheGaugeFallsAndOneLineIsWritten(t *testing.T) {
	s := newSecretRig(t, ads.Delta)
	go func() { // FirstExpiry is for other goroutines
		for {
			select {
			case fn := <-s.c.events:
				fn()
			case <-s.c.stop:
				return
			}
		}
	}()
	days := func() uint32 {
		t.Helper()
		n, ok := s.c.FirstExpiry()
		if !ok {
			t.Fatal("no answer")
		}
		return n
	}
	if n := days(); n != math.MaxUint32 {
		t.Errorf("%d days without any certificate", n)
	}
	lines := 0
	s.c.cfg.Log = func(_, _, format string, _ ...any) {
		if strings.Contains(format, "expires at") {
			lines++
		}
	}
	x := &certified{needing(0, "cert"), Material{Certificate: certificateUntil(time.Now().Add(50 * time.Hour))}}
	s.contexts["l"] = []TLSContext{x}
	s.start()
	s.listener("l")
	if n := days(); n != math.MaxUint32 {
		t.Errorf("%d days while the secret is missing", n)
	}
	s.secret(secretOf("cert", "one"))
	if n := days(); n != 2 || lines != 0 {
		t.Errorf("%d days, %d lines", n, lines)
	}
	x.own.Certificate = certificateUntil(time.Now().Add(30 * time.Minute))
	s.secret(secretOf("cert", "two"))
	for range 3 {
		if n := days(); n != 0 {
			t.Errorf("%d days", n)
		}
	}
	if lines != 1 {
		t.Errorf("%d lines", lines)
	}
	s.push(resource.Listener, []proto.Message{}, "l")
	if n := days(); n != math.MaxUint32 {
		t.Errorf("%d days when the listener is gone", n)
	}
}

func TestSecret_WhenItIsOfAnotherKind_ThenItIsRefusedAtOnce(t *testing.T) {
	s := newSecretRig(t, ads.Delta)
	s.start()
	x := needing(0, "cert", "ca")
	x.refs[0].Fits = func(content any) error {
		if content == "ca material" {
			return errString("tls_certificate is expected")
		}
		return nil
	}
	s.contexts["l"] = []TLSContext{x}
	s.listener("l")
	if e := s.secret(secretOf("cert", "ca material")); e != `SDS "cert": tls_certificate is expected` {
		t.Errorf("NACK %q", e)
	}
	s.contexts["m"] = []TLSContext{x}
	s.secret(secretOf("ca", "ca material"))
	y := needing(0, "ca")
	y.refs[0].Fits = x.refs[0].Fits
	s.contexts["m"] = []TLSContext{y}
	if e := s.push(resource.Listener, []proto.Message{listenerOf("m", 10007, "", "c")}); !strings.Contains(e, `transport_socket: secret "ca": tls_certificate is expected`) {
		t.Errorf("NACK %q", e)
	}
}

type errString string

func (e errString) Error() string { return string(e) }
