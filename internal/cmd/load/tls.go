// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// tlsOptions say how the client speaks TLS. The directory holds server-KEY.pem, client-KEY.pem and client-KEY.key.
type tlsOptions struct {
	dir, key   string
	serverName string
	mutual, h2 bool
	sessions   tls.ClientSessionCache // Nil makes every handshake a full one.
}

// The parameters every peer is measured with. A peer that agrees on others fails the measurement.
const (
	wantVersion = tls.VersionTLS13
	wantGroup   = tls.X25519
	wantSuite   = tls.TLS_AES_128_GCM_SHA256
)

// config returns nil when TLS is off. The server must show exactly the certificate in the directory: chains are not what is measured.
func (o *tlsOptions) config() (*tls.Config, error) {
	if o.dir == "" {
		return nil, nil
	}
	leaf, err := o.leaf("server")
	if err != nil {
		return nil, err
	}
	c := &tls.Config{ServerName: o.serverName, MinVersion: wantVersion, CurvePreferences: []tls.CurveID{wantGroup}, InsecureSkipVerify: true,
		ClientSessionCache: o.sessions, DynamicRecordSizingDisabled: true}
	if o.sessions == nil {
		c.ClientSessionCache = forgetful{}
	}
	if o.h2 {
		c.NextProtos = []string{"h2"}
	}
	if o.mutual {
		pair, err := tls.LoadX509KeyPair(filepath.Join(o.dir, "client-"+o.key+".pem"), filepath.Join(o.dir, "client-"+o.key+".key"))
		if err != nil {
			return nil, err
		}
		c.Certificates = []tls.Certificate{pair}
	}
	c.VerifyConnection = func(s tls.ConnectionState) error { return checkState(s, leaf, o.h2) }
	return c, nil
}

// leaf reads the certificate that the other side must show.
func (o *tlsOptions) leaf(role string) ([]byte, error) {
	name := role + "-" + o.key + ".pem"
	text, err := os.ReadFile(filepath.Join(o.dir, name))
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s holds no PEM block", name)
	}
	return block.Bytes, nil
}

// serverConfig is config for the HTTP/2 backend.
func (o *tlsOptions) serverConfig() (*tls.Config, error) {
	if o.dir == "" {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(o.dir, "server-"+o.key+".pem"), filepath.Join(o.dir, "server-"+o.key+".key"))
	if err != nil {
		return nil, err
	}
	c := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: wantVersion, CurvePreferences: []tls.CurveID{wantGroup}, NextProtos: []string{"h2"},
		DynamicRecordSizingDisabled: true}
	if o.mutual {
		leaf, err := o.leaf("client")
		if err != nil {
			return nil, err
		}
		c.ClientAuth = tls.RequireAnyClientCert
		c.VerifyConnection = func(s tls.ConnectionState) error { return checkState(s, leaf, true) }
	}
	return c, nil
}

// forgetful takes tickets, so that servers make them as they do for every client of a mesh, and never resumes.
type forgetful struct{}

func (forgetful) Get(string) (*tls.ClientSessionState, bool) { return nil, false }
func (forgetful) Put(string, *tls.ClientSessionState)        {}

// checkState refuses what would not be comparable.
func checkState(s tls.ConnectionState, leaf []byte, h2 bool) error {
	switch {
	case s.Version != wantVersion || s.CipherSuite != wantSuite || s.CurveID != wantGroup:
		return fmt.Errorf("agreed on %s, %s, %s", tls.VersionName(s.Version), tls.CipherSuiteName(s.CipherSuite), s.CurveID)
	case len(s.PeerCertificates) == 0 || !bytes.Equal(s.PeerCertificates[0].Raw, leaf):
		return errors.New("another certificate")
	case h2 && s.NegotiatedProtocol != "h2":
		return fmt.Errorf("protocol %q instead of h2", s.NegotiatedProtocol)
	}
	return nil
}

// wire is the byte stream of one client connection: a socket, and TLS on it or not. It blocks until its handshake is over, and never after that.
type wire struct {
	fd      int
	tls     *tls.Conn // Nil without TLS.
	open    bool      // Connected and non-blocking.
	drained bool      // The last read took all there was; the next event clears it.
}

// errWouldBlock is temporary, so that tls.Conn can be asked again.
var errWouldBlock error = wouldBlock{}

type wouldBlock struct{}

func (wouldBlock) Error() string   { return "would block" }
func (wouldBlock) Timeout() bool   { return true }
func (wouldBlock) Temporary() bool { return true }

func connectWire(sa *unix.SockaddrInet4, c *tls.Config) (*wire, error) {
	fd, err := dial(sa)
	if err != nil {
		return nil, err
	}
	w := &wire{fd: fd}
	if c != nil {
		w.tls = tls.Client(socket{w}, c)
		if err := w.tls.Handshake(); err != nil {
			unix.Close(fd)
			return nil, fmt.Errorf("handshake: %w", err)
		}
	}
	w.open = true
	return w, unix.SetNonblock(fd, true)
}

// acceptWire is connectWire for an accepted socket, which it closes when it fails. The handshake stops the backend: a proxy makes few connections.
func acceptWire(fd int, c *tls.Config) (*wire, error) {
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	w := &wire{fd: fd}
	if c != nil {
		limit := unix.NsecToTimeval(int64(acceptTimeout))
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit)
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer)
		w.tls = tls.Server(socket{w}, c)
		if err := w.tls.Handshake(); err != nil {
			unix.Close(fd)
			return nil, err
		}
	}
	w.open = true
	return w, unix.SetNonblock(fd, true)
}

// acceptTimeout bounds each wait of a backend's handshake.
const acceptTimeout = 2 * time.Second

// receive reads plain text; errWouldBlock when there is none.
func (w *wire) receive(b []byte) (int, error) {
	if w.tls != nil {
		return w.tls.Read(b)
	}
	return socket{w}.Read(b)
}

// send writes all of b. What is in flight is far below a socket's buffer: one that is full is an error, and not waited for.
func (w *wire) send(b []byte) (err error) {
	if w.tls != nil {
		_, err = w.tls.Write(b)
	} else {
		_, err = socket{w}.Write(b)
	}
	return err
}

// socket is the wire as tls.Conn sees it. It has no addresses and no deadlines.
type socket struct{ w *wire }

func (s socket) Read(b []byte) (int, error) {
	if s.w.drained {
		return 0, errWouldBlock
	}
	for {
		read := rawRead
		if !s.w.open {
			read = unix.Read // a handshake waits in it
		}
		n, err := read(s.w.fd, b)
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return 0, errWouldBlock
		case err != nil:
			return 0, os.NewSyscallError("read", err)
		case n == 0:
			return 0, io.EOF
		default:
			s.w.drained = s.w.open && n < len(b)
			return n, nil
		}
	}
}

func (s socket) Write(b []byte) (int, error) {
	for {
		write := rawWrite
		if !s.w.open {
			write = unix.Write
		}
		n, err := write(s.w.fd, b)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return max(n, 0), os.NewSyscallError("write", err)
		}
		if n < len(b) {
			return n, io.ErrShortWrite
		}
		return n, nil
	}
}

func (s socket) Close() error                     { return unix.Close(s.w.fd) }
func (s socket) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (s socket) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (s socket) SetDeadline(time.Time) error      { return nil }
func (s socket) SetReadDeadline(time.Time) error  { return nil }
func (s socket) SetWriteDeadline(time.Time) error { return nil }
