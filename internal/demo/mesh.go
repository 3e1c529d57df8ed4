// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"sidecar/internal/testctl"
)

// mesh is `demo --mtls`: a plain client, its sidecar, mutual TLS and HTTP/2 to the sidecar of a server, and the server. Both sidecars get their
// configuration and their secrets by delta ADS from one control plane, which is the certificate authority as well.
type mesh struct {
	out     io.Writer
	dir     string
	ctl     *testctl.Server
	app     *backend
	ports   meshPorts
	ca      *authority
	client  leaf
	server  leaf
	version int
	sides   []*process
}

// meshNodes are the ids of the two sidecars.
const (
	clientNode = "client"
	serverNode = "server"
)

// rotateEvery is how often the endless demo changes certificates.
const rotateEvery = 3 * time.Second

// meshRotations is how many rotations the self-check makes unless told: each of the four kinds several times.
const meshRotations = 24

func meshMain(once, load bool, rotations int, stdout, stderr io.Writer) int {
	m := &mesh{out: stdout}
	defer m.close()
	if err := m.start(); err != nil {
		fmt.Fprintln(stderr, "demo:", err)
		return 1
	}
	if once {
		return m.once(rotations)
	}
	return m.play(load)
}

func (m *mesh) start() error {
	var err error
	if m.dir, err = os.MkdirTemp("", "sidecar-mesh-"); err != nil {
		return err
	}
	if m.ctl, err = testctl.NewServer(testctl.Config{}); err != nil {
		return err
	}
	if m.app, err = newBackend("app"); err != nil {
		return err
	}
	p, err := freePorts(4)
	if err != nil {
		return err
	}
	m.ports = meshPorts{outbound: p[0], inbound: p[1], clientAdmin: p[2], serverAdmin: p[3], app: m.app.port}
	if m.ca, err = newAuthority(); err != nil {
		return err
	}
	if err := m.reissue(); err != nil {
		return err
	}
	for _, s := range []struct {
		node  string
		admin int
	}{{serverNode, m.ports.serverAdmin}, {clientNode, m.ports.clientAdmin}} {
		side, err := startSidecar(m.dir, s.node, bootstrap(s.node, s.admin, m.ctl.Addr()), s.admin)
		if side != nil {
			m.sides = append(m.sides, side)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *mesh) close() {
	for _, s := range m.sides {
		s.stop()
	}
	if m.ctl != nil {
		m.ctl.Close()
	}
	if m.app != nil {
		m.app.close()
	}
	if m.dir != "" {
		_ = os.RemoveAll(m.dir)
	}
}

// push serves the present certificates as a new version.
func (m *mesh) push() error {
	m.version++
	v := strconv.Itoa(m.version)
	return errors.Join(m.ctl.Set(serverNode, v, m.serverResources()), m.ctl.Set(clientNode, v, m.clientResources()))
}

// reissue gives both workloads new certificates.
func (m *mesh) reissue() (err error) {
	if m.server, err = m.ca.issue(serverNode); err != nil {
		return err
	}
	if m.client, err = m.ca.issue(clientNode); err != nil {
		return err
	}
	return m.push()
}

// rotate makes the next rotation: a new root joins the bundle, the workloads get certificates from it, the old root leaves the bundle, the
// workloads get new certificates once more. check says whether it has taken effect.
func (m *mesh) rotate(i int) (what string, check func() error, err error) {
	switch i % 4 {
	case 0:
		if err := m.ca.addRoot(); err != nil {
			return "", nil, err
		}
		stranger, err := m.ca.issue(clientNode)
		if err != nil {
			return "", nil, err
		}
		newest := m.ca.roots[len(m.ca.roots)-1].serial()
		return "a new root is trusted", func() error {
			return errors.Join(m.accepts(stranger, true), holds(m.ports.serverAdmin, newest), holds(m.ports.clientAdmin, newest))
		}, m.push()
	case 2:
		old, err := m.ca.issueBy(m.ca.dropRoot(), clientNode)
		if err != nil {
			return "", nil, err
		}
		return "the old root is no longer trusted", func() error { return m.accepts(old, false) }, m.push()
	}
	err = m.reissue()
	return "both workloads have new certificates", m.showsNewLeaves, err
}

// accepts tells whether a connection with l to the server's sidecar fares as it should.
func (m *mesh) accepts(l leaf, want bool) error {
	_, err := m.ca.dial(m.inbound(), l)
	switch {
	case want && err != nil:
		return fmt.Errorf("a certificate of a trusted root is refused: %w", err)
	case !want && err == nil:
		return errors.New("a certificate of a root that has left the bundle is accepted")
	}
	return nil
}

// showsNewLeaves tells whether the server's sidecar shows its new certificate to new connections, and the client's sidecar its own.
func (m *mesh) showsNewLeaves() error {
	got, err := m.ca.dial(m.inbound(), m.client)
	if err != nil {
		return err
	}
	if got != m.server.serial {
		return fmt.Errorf("the server's sidecar shows certificate %s, not %s", got, m.server.serial)
	}
	if err := holds(m.ports.clientAdmin, m.client.serial); err != nil {
		return err
	}
	h, _, err := fetch(m.base() + "/check")
	if err != nil {
		return err
	}
	if got := h.Get("x-demo-peer-serial"); got != m.client.serial {
		return fmt.Errorf("the client's sidecar shows certificate %s, not %s", got, m.client.serial)
	}
	return nil
}

// holds tells whether the sidecar with this admin port has a certificate with the serial number in force.
func holds(admin int, serial string) error {
	_, body, err := fetch(fmt.Sprintf("http://127.0.0.1:%d/certs", admin))
	if err == nil && !strings.Contains(body, fmt.Sprintf("%q: %q", "serial_number", serial)) {
		err = fmt.Errorf("certificate %s is not in force yet", serial)
	}
	return err
}

func (m *mesh) base() string     { return "http://" + m.outbound() }
func (m *mesh) outbound() string { return fmt.Sprintf("127.0.0.1:%d", m.ports.outbound) }
func (m *mesh) inbound() string  { return fmt.Sprintf("127.0.0.1:%d", m.ports.inbound) }

// identities makes one request and checks who spoke to whom, and how.
func (m *mesh) identities() (text string, err error) {
	h, body, err := fetch(m.base() + "/")
	if err != nil {
		return "", err
	}
	want := map[string]string{"x-demo-client": spiffeID(clientNode), "x-demo-server": spiffeID(serverNode), "x-demo-tls": "TLSv1.3", "x-demo-protocol": "HTTP/2"}
	for k, v := range want {
		if h.Get(k) != v {
			return "", fmt.Errorf("response header %s is %q, want %q", k, h.Get(k), v)
		}
	}
	if !strings.Contains(body, "app answers GET /") {
		return "", fmt.Errorf("the application did not answer: %q", body)
	}
	return fmt.Sprintf("%s → %s, %s, %s", h.Get("x-demo-client"), h.Get("x-demo-server"), h.Get("x-demo-tls"), h.Get("x-demo-protocol")), nil
}

// await repeats check until it holds.
func (m *mesh) await(check func() error) error {
	end := time.Now().Add(effectTimeout)
	for {
		err := check()
		if err == nil || time.Now().After(end) {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// socketsEach is how many WebSockets the self-check holds over each version of HTTP.
const socketsEach = 4

// once is the self-check: certificates and roots rotate under load, one rotation is broken, and no request may fail and no connection end.
func (m *mesh) once(rotations int) int {
	began := time.Now()
	peers, err := m.identities()
	if err != nil {
		return m.fail(err)
	}
	fmt.Fprintln(m.out, "peers              ", peers)
	ws, err := openSockets(m.outbound(), socketsEach)
	if err != nil {
		return m.fail(err)
	}
	g, g2 := newGenerator(m.base(), 6), newHTTP2Generator(m.base(), 6)
	stop := sync.OnceFunc(func() { g.stop(); g2.stop(); ws.stop() })
	defer stop()
	var slowest time.Duration
	for i := range rotations {
		what, check, err := m.rotate(i)
		if err != nil {
			return m.fail(err)
		}
		t := time.Now()
		if err := m.await(check); err != nil {
			return m.fail(fmt.Errorf("rotation %d (%s) had no effect within %s: %w", i+1, what, effectTimeout, err))
		}
		slowest = max(slowest, time.Since(t))
		time.Sleep(onceDwell)
		if i == rotations/2 {
			if err := m.breakOnce(); err != nil {
				return m.fail(err)
			}
		}
	}
	if peers, err = m.identities(); err != nil {
		return m.fail(err)
	}
	stop()
	total, failed, first := g.counts()
	total2, failed2, first2 := g2.counts()
	open, echoed, wsCut, wsFirst := ws.counts()
	opened, cut := g.conns.opened.Load()+g2.conns.opened.Load(), g.conns.cut.Load()+g2.conns.cut.Load()
	fmt.Fprintf(m.out, `rotations          %d (roots joined %d, left %d), slowest effect %s; 1 broken one refused by both sidecars
requests           HTTP/1.1 %d, failed %d; HTTP/2 %d, failed %d
connections        %d opened, cut %d
WebSockets         %d held all along, half of them over HTTP/2, %d messages echoed, cut %d
latency            p50 %s, p99 %s
elapsed            %s
`, rotations, (rotations+3)/4, (rotations+1)/4, slowest.Round(time.Millisecond), total, failed, total2, failed2, opened, cut, open, echoed, wsCut,
		g.quantile(0.5), g.quantile(0.99), time.Since(began).Round(time.Millisecond))
	if failed+failed2+cut+wsCut > 0 || total == 0 || total2 == 0 || echoed == 0 {
		fmt.Fprintf(m.out, "FAIL %s %s %s\n", first, first2, wsFirst)
		return 1
	}
	fmt.Fprintln(m.out, "OK")
	return 0
}

// breakOnce serves keys that do not belong to their certificates: both sidecars must refuse them and go on with what they have.
func (m *mesh) breakOnce() error {
	before := m.nacks()
	keepClient, keepServer := m.client, m.server
	m.client.key, m.server.key = m.server.key, m.client.key
	if err := m.push(); err != nil {
		return err
	}
	err := m.await(func() error {
		if n := m.nacks() - before; n < 2 {
			return fmt.Errorf("%d of 2 sidecars refused a key that does not match its certificate", n)
		}
		return nil
	})
	m.client, m.server = keepClient, keepServer
	if err == nil {
		err = m.showsNewLeaves() // the last good ones
	}
	return errors.Join(err, m.push())
}

func (m *mesh) nacks() (n int) {
	for _, r := range m.ctl.Requests() {
		if r.Nacked {
			n++
		}
	}
	return n
}

func (m *mesh) fail(err error) int {
	fmt.Fprintf(m.out, "FAIL: %v\n", err)
	for _, s := range m.sides {
		fmt.Fprintln(m.out, s.tail())
	}
	return 1
}

// play runs until Ctrl-C: every few seconds certificates or roots rotate.
func (m *mesh) play(load bool) int {
	p := m.ports
	fmt.Fprintf(m.out, "client side  %s   admin http://127.0.0.1:%d\nserver side  %s (mutual TLS)   admin http://127.0.0.1:%d\napplication  127.0.0.1:%d\n\ntry:\n  curl -i %s/\n  curl http://127.0.0.1:%d/certs\n  curl 'http://127.0.0.1:%d/stats?filter=ssl'\n\nCtrl-C drains and ends.\n\n",
		m.base(), p.clientAdmin, m.inbound(), p.serverAdmin, p.app, m.base(), p.serverAdmin, p.serverAdmin)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var g *generator
	if load {
		g = newGenerator(m.base(), 8)
		defer g.stop()
	}
	moves := time.NewTicker(rotateEvery)
	defer moves.Stop()
	lines := time.NewTicker(time.Second)
	defer lines.Stop()
	for step := 0; ; {
		select {
		case <-ctx.Done():
			fmt.Fprintln(m.out, "\ndraining…")
			return 0
		case <-m.sides[0].exited:
			return m.fail(errors.New("the server's sidecar ended"))
		case <-m.sides[1].exited:
			return m.fail(errors.New("the client's sidecar ended"))
		case <-moves.C:
			what, check, err := m.rotate(step)
			if err == nil {
				err = m.await(check)
			}
			peers := ""
			if err == nil {
				peers, err = m.identities()
			}
			if err != nil {
				return m.fail(err)
			}
			step++
			if !load {
				fmt.Fprintf(m.out, "version %d: %s; %s\n", m.version, what, peers)
			}
		case <-lines.C:
			if g != nil {
				fmt.Fprintf(m.out, "\r%s  rotations %d  \x1b[K", g.line(), step)
			}
		}
	}
}
