// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"sidecar/integration/proc"
	"sidecar/internal/testctl"
)

// The addresses of the test bed. The services' range 10.96.0.0/16 is routed to the peer.
const (
	podIP  = "10.99.0.1"
	peerIP = "10.99.0.2"
	uid    = 1337 // of the proxy, as in Istio
)

// TestListeners_WhenStripped_ThenAllServeTrafficInANamespace runs each dump in a network namespace of its own.
func TestListeners_WhenStripped_ThenAllServeTrafficInANamespace(t *testing.T) {
	if os.Getenv("ISTIO_TEST_DUMP") != "" {
		inside(t, os.Getenv("ISTIO_TEST_DUMP"))
		return
	}
	if os.Getuid() != 0 {
		t.Skip("SKIP: network namespaces need root")
	}
	for _, tool := range []string{"ip", "iptables", "nsenter"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("SKIP: no %s in PATH", tool)
		}
	}
	for _, name := range dumps {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "-test.run=^TestListeners_", "-test.v", "-test.timeout=120s")
			cmd.Env = append(os.Environ(), "ISTIO_TEST_DUMP="+name, "ISTIO_TEST_BINARY="+proc.Binary)
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
			out, err := cmd.CombinedOutput()
			if err != nil {
				if strings.Contains(err.Error(), "operation not permitted") {
					t.Skip("SKIP: not allowed to make a network namespace")
				}
				t.Errorf("%v\n%s", err, out)
				return
			}
			for l := range strings.Lines(string(out)) {
				if strings.Contains(l, "served") {
					t.Log(strings.TrimSpace(l))
				}
			}
		})
	}
}

// bed is the inside of the namespace.
type bed struct {
	t     *testing.T
	name  string
	d     *dump
	tell  io.Writer
	heard *bufio.Reader
	pid   int
	count int
}

func (b *bed) sh(line string) {
	b.t.Helper()
	if out, err := exec.Command("sh", "-ec", line).CombinedOutput(); err != nil {
		b.t.Fatalf("%s: %v\n%s", line, err, out)
	}
}

// network makes the pod's network, the peer behind it, and Istio's interception rules.
func (b *bed) network() {
	t := b.t
	t.Helper()
	runtime.LockOSThread() // the child is bound to the life of this thread
	peer := exec.Command(os.Args[0])
	peer.Env = append(os.Environ(), "ISTIO_TEST_ROLE=peer")
	peer.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	in, err := peer.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := peer.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := peer.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = peer.Process.Kill(); _ = peer.Wait() })
	b.tell, b.heard, b.pid = in, bufio.NewReader(out), peer.Process.Pid
	if line, err := b.heard.ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("peer: %q %v", line, err)
	}
	b.sh("ip link set lo up; ip link add v0 type veth peer name v1 netns " + fmt.Sprint(b.pid) +
		"; ip addr add " + podIP + "/24 dev v0; ip link set v0 up; ip route add default via " + peerIP +
		"; echo 0 > /proc/sys/net/ipv4/ip_unprivileged_port_start")
	b.sh(fmt.Sprintf("nsenter -t %d -n sh -ec 'ip link set lo up; ip addr add %s/24 dev v1; ip link set v1 up; ip route add local 10.96.0.0/16 dev lo; ip route add default via %s'",
		b.pid, peerIP, podIP))
	if b.name == "plain-none" {
		return
	}
	b.sh(fmt.Sprintf("iptables -t nat -A OUTPUT -p tcp -m owner --uid-owner %d -j RETURN; iptables -t nat -A OUTPUT -p tcp -d 127.0.0.1/32 -j RETURN; iptables -t nat -A OUTPUT -p tcp -j REDIRECT --to-ports 15001", uid))
	if b.name == "plain-tproxy" {
		b.sh("ip rule add fwmark 1337 lookup 133; ip route add local default dev lo table 133; " +
			"iptables -t mangle -A PREROUTING -i v0 -p tcp -m socket --transparent -j MARK --set-mark 1337; " +
			"iptables -t mangle -A PREROUTING -i v0 -p tcp -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN; " +
			"iptables -t mangle -A PREROUTING -i v0 -p tcp -j TPROXY --on-port 15006 --tproxy-mark 1337/0xffffffff")
		return
	}
	b.sh("iptables -t nat -A PREROUTING -i v0 -p tcp -j REDIRECT --to-ports 15006")
}

// backends serve in the pod: the endpoints of the dump, the application ports, and the headless address.
func (b *bed) backends() {
	addrs := map[string]bool{"127.0.0.6:6000": true}
	for _, p := range []int{9080, 9081, 3306, 7777} {
		addrs[fmt.Sprintf("%s:%d", podIP, p)] = true
	}
	for _, a := range b.d.assignments {
		for _, e := range endpoints(a) {
			addrs[e] = true
		}
	}
	for a := range addrs {
		ln, err := net.Listen("tcp", a)
		if err != nil {
			b.t.Fatal(err)
		}
		b.t.Cleanup(func() { _ = ln.Close() })
		go serve(ln, "pod")
	}
}

func endpoints(a *endpointv3.ClusterLoadAssignment) []string {
	var out []string
	for _, l := range a.GetEndpoints() {
		for _, e := range l.GetLbEndpoints() {
			s := e.GetEndpoint().GetAddress().GetSocketAddress()
			out = append(out, fmt.Sprintf("%s:%d", s.GetAddress(), s.GetPortValue()))
		}
	}
	return out
}

// people fills in what the recorded cluster lacked: services without pods get an endpoint in the pod, external names an address of the peer. An
// inbound listener of STRICT mode keeps its chains.
func (b *bed) people() {
	for _, a := range b.d.assignments {
		if len(endpoints(a)) > 0 {
			continue
		}
		var p int
		_, _ = fmt.Sscanf(strings.SplitN(a.ClusterName, "|", 3)[1], "%d", &p)
		a.Endpoints = []*endpointv3.LocalityLbEndpoints{{LoadBalancingWeight: wrapperspb.UInt32(1), LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{
			Endpoint: &endpointv3.Endpoint{Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
				Address: "127.0.0.2", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(p)}}}}}}}}}}
	}
	for _, c := range b.d.clusters {
		for _, l := range c.GetLoadAssignment().GetEndpoints() {
			for _, e := range l.GetLbEndpoints() {
				if s := e.GetEndpoint().GetAddress().GetSocketAddress(); net.ParseIP(s.GetAddress()) == nil {
					s.Address = "10.96.9.9"
				}
			}
		}
	}
}

// peers asks the peer process to talk to an address of the pod.
func (b *bed) peer(addr string, send []byte) string {
	line, err := json.Marshal(order{addr, send})
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := fmt.Fprintf(b.tell, "%s\n", line); err != nil {
		b.t.Fatal(err)
	}
	got, err := b.heard.ReadString('\n')
	if err != nil {
		b.t.Fatal(err)
	}
	out, err := base64.StdEncoding.DecodeString(strings.TrimSpace(got))
	if err != nil {
		b.t.Fatalf("%q: %v", got, err)
	}
	return string(out)
}

// expect checks that an answer names one of the addresses.
func (b *bed) expect(what, got string, addrs ...string) {
	b.t.Helper()
	b.count++
	for _, a := range addrs {
		if strings.Contains(got, "local="+a+" ") {
			return
		}
	}
	b.t.Errorf("%s: got %q, want an answer of %v", what, got, addrs)
}

// closed checks that there was no answer.
func (b *bed) closed(what, got string) {
	b.t.Helper()
	b.count++
	if strings.Contains(got, "local=") || strings.Contains(got, "refused") || strings.Contains(got, "timeout") {
		b.t.Errorf("%s: got %q, want a closed connection", what, got)
	}
}

func (b *bed) local(addr string, send []byte) string {
	got, err := talk(addr, send)
	if err != nil {
		return "error: " + err.Error()
	}
	return got
}

func request(host string) []byte {
	return []byte("GET / HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n")
}

// hello is a TLS ClientHello.
func hello(t *testing.T, name string, alpn ...string) []byte {
	a, z := net.Pipe()
	defer z.Close()
	go func() {
		_ = tls.Client(a, &tls.Config{ServerName: name, NextProtos: alpn, InsecureSkipVerify: true}).Handshake()
		_ = a.Close()
	}()
	_ = z.SetReadDeadline(time.Now().Add(5 * time.Second))
	buf := make([]byte, 16<<10)
	n, err := z.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	// The record may be longer than the first read.
	for n >= 5 && n < 5+int(buf[3])<<8+int(buf[4]) {
		m, err := z.Read(buf[n:])
		if err != nil {
			t.Fatal(err)
		}
		n += m
	}
	return buf[:n]
}

func inside(t *testing.T, name string) {
	b := &bed{t: t, name: name, d: load(t, name)}
	b.network()
	b.people()
	b.d.strip(t)
	b.backends()
	s, err := testctl.NewScript("127.0.0.1:15999")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	startProxy(t, s.Addr(), "127.0.0.1:15000", &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}, AmbientCaps: []uintptr{12}}) // CAP_NET_ADMIN
	for key, why := range b.d.verdicts(t, s) {
		if why != "" {
			t.Errorf("%s is refused after the transform: %s", key, short(why))
		}
	}
	end := time.Now().Add(20 * time.Second)
	for !strings.Contains(b.local("127.0.0.1:15000", []byte("GET /ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")), "LIVE") {
		if time.Now().After(end) {
			t.Fatal("not live")
		}
		time.Sleep(20 * time.Millisecond)
	}
	for _, l := range b.d.listeners {
		was := b.count
		switch l.Name {
		case "virtualOutbound":
			b.outbound()
		case "virtualInbound":
			b.inbound(l)
		default:
			b.service(l)
		}
		if b.count == was {
			t.Errorf("listener %s was not asked anything", l.Name)
		}
	}
	t.Logf("served: %s, %d listeners, %d checks", name, len(b.d.listeners), b.count)
}

// outbound: what no listener has goes where the client meant it to go; the listener's own port goes nowhere.
func (b *bed) outbound() {
	b.expect("passthrough", b.local("10.96.0.77:4444", []byte("hello there")), "10.96.0.77:4444")
	b.expect("passthrough to the pod", b.local(podIP+":7777", []byte("hello there")), podIP+":7777")
	b.closed("black hole", b.local(podIP+":15001", []byte("hello there")))
}

// inbound: the application's ports, what has no port of its own, and the listener's own port, from another machine.
func (b *bed) inbound(l *listenerv3.Listener) {
	for _, fc := range l.GetFilterChains() {
		m := fc.GetFilterChainMatch()
		p := int(m.GetDestinationPort().GetValue())
		what := fmt.Sprintf("inbound %s port %d %s %v", fc.GetName(), p, m.GetTransportProtocol(), m.GetApplicationProtocols())
		http := strings.HasSuffix(fc.GetFilters()[0].GetTypedConfig().GetTypeUrl(), ".HttpConnectionManager")
		if p == 15006 {
			b.closed(what, b.peer(podIP+":15006", []byte("hello there")))
			continue
		}
		addr := fmt.Sprintf("%s:%d", podIP, p)
		if p == 0 {
			addr = podIP + ":7777"
		}
		switch {
		case m.GetTransportProtocol() == "tls" && http: // its TLS is gone with the transform, so the bytes are no request
			b.closed(what, b.peer(addr, hello(b.t, "x", m.GetApplicationProtocols()...)))
		case m.GetTransportProtocol() == "tls":
			bytes := hello(b.t, "x", m.GetApplicationProtocols()...)
			got := b.peer(addr, bytes)
			b.expect(what, got, addr)
			if !strings.Contains(got, fmt.Sprintf("echo=%x", bytes)) {
				b.t.Errorf("%s: the bytes were changed: %q", what, got)
			}
		case http:
			got := b.peer(addr, request("x"))
			b.expect(what, got, addr)
			if strings.HasPrefix(fc.GetName(), "0.0.0.0_") && !strings.Contains(got, "remote=127.0.0.6:") {
				b.t.Errorf("%s: not from 127.0.0.6: %q", what, got)
			}
		default:
			b.expect(what, b.peer(addr, []byte("hello there")), addr)
		}
	}
}

// service is one outbound listener of a service, reached by the address that the client knows.
func (b *bed) service(l *listenerv3.Listener) {
	s := l.GetAddress().GetSocketAddress()
	ip := s.GetAddress()
	if ip == "0.0.0.0" {
		ip = "10.96.0.55"
	}
	to := fmt.Sprintf("%s:%d", ip, s.GetPortValue())
	for _, fc := range l.GetFilterChains() {
		b.chain(l.Name, to, fc)
	}
	if d := l.GetDefaultFilterChain(); d != nil {
		b.chain(l.Name+" default", to, d)
	}
}

func (b *bed) chain(what, to string, fc *listenerv3.FilterChain) {
	a := fc.GetFilters()[0].GetTypedConfig()
	if h := (&hcmv3.HttpConnectionManager{}); a.MessageIs(h) {
		if err := a.UnmarshalTo(h); err != nil {
			b.t.Fatal(err)
		}
		b.http(what, to, b.d.routes[h.GetRds().GetRouteConfigName()])
		return
	}
	p := &tcpv3.TcpProxy{}
	if err := a.UnmarshalTo(p); err != nil {
		b.t.Fatal(err)
	}
	send := []byte("hello there")
	for _, n := range fc.GetFilterChainMatch().GetServerNames() {
		b.expect(what+" "+n, b.local(to, hello(b.t, strings.Replace(n, "*", "a", 1))), b.members(p, to)...)
		send = nil
	}
	if send != nil {
		if members := b.members(p, to); len(members) == 0 {
			b.closed(what, b.local(to, send))
		} else {
			b.expect(what, b.local(to, send), members...)
		}
	}
}

// members are the addresses that a TCP proxy may go to.
func (b *bed) members(p *tcpv3.TcpProxy, to string) []string {
	names := []string{p.GetCluster()}
	for _, w := range p.GetWeightedClusters().GetClusters() {
		names = append(names, w.GetName())
	}
	return b.of(names, to)
}

// of lists the members of clusters; an original destination is where the client wanted to go.
func (b *bed) of(names []string, to string) []string {
	var out []string
	for _, c := range b.d.clusters {
		if !slices.Contains(names, c.Name) {
			continue
		}
		switch {
		case c.GetLoadAssignment() != nil:
			out = append(out, endpoints(c.GetLoadAssignment())...)
		case b.d.assignments[c.Name] != nil:
			out = append(out, endpoints(b.d.assignments[c.Name])...)
		case b.name == "plain-none": // nothing restored a destination
		default:
			out = append(out, to)
		}
	}
	return out
}

// http asks every virtual host.
func (b *bed) http(what, to string, rc *routev3.RouteConfiguration) {
	for _, v := range rc.GetVirtualHosts() {
		host := v.GetDomains()[0]
		if host == "*" {
			host = "no.such.host"
		}
		host = strings.Replace(host, "*", "a", 1)
		var names []string
		for _, r := range v.GetRoutes() {
			names = append(names, r.GetRoute().GetCluster())
			for _, w := range r.GetRoute().GetWeightedClusters().GetClusters() {
				names = append(names, w.GetName())
			}
		}
		got := b.local(to, request(host))
		if want := b.of(names, to); len(want) > 0 {
			b.expect(what+" Host "+host, got, want...)
		} else {
			b.count++
			if !strings.HasPrefix(got, "HTTP/1.1 ") {
				b.t.Errorf("%s Host %s: got %q, want a response", what, host, got)
			}
		}
	}
}
