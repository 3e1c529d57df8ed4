// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sidecar/integration/proc"
)

// oracle plays the scripts to Envoy instead of ours.
var oracle = os.Getenv("XDS_ORACLE") != ""

// patience bounds every wait; the machine may be busy.
const patience = 15 * time.Second

// tools is where other programs are built.
var tools string

func TestMain(m *testing.M) {
	proc.Run(m, func(dir string) error { tools = dir; return nil })
}

var lastPort atomic.Uint32

// port hands out loopback ports of this package's range that nobody listens on.
func port(t testing.TB) int {
	t.Helper()
	for range 1000 {
		p := 27000 + int((lastPort.Add(1)+uint32(os.Getpid())*37)%1000)
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p))
		if err == nil {
			_ = ln.Close()
			return p
		}
	}
	t.Fatal("no free port")
	return 0
}

// options of a proxy under test.
type options struct {
	ctl     string // address of the control plane
	delta   bool
	perType bool   // own streams instead of ADS
	timeout string // initial_fetch_timeout of CDS and LDS; "" = default
	static  string // YAML of static_resources.listeners, indented by four
	cds     string // overrides the CDS source
	lds     string
	drain   int // --drain-time-s
	noReady bool
	workers int
	envoy   bool                   // run Envoy instead
	boot    func(admin int) string // the bootstrap; nil = made from the other options
}

// proxy is one process under test.
type proxy struct {
	*proc.Proxy
	t testing.TB
}

func (o *options) source(kind string) string {
	fetch := ""
	if o.timeout != "" {
		fetch = ", initial_fetch_timeout: " + o.timeout
	}
	if o.perType {
		api := "GRPC"
		if o.delta {
			api = "DELTA_GRPC"
		}
		return fmt.Sprintf("{resource_api_version: V3%s, api_config_source: {api_type: %s, transport_api_version: V3, set_node_on_first_message_only: true, grpc_services: [{envoy_grpc: {cluster_name: ctl}}]}}", fetch, api)
	}
	_ = kind
	return "{ads: {}, resource_api_version: V3" + fetch + "}"
}

func (o *options) bootstrap(admin int) string {
	host, p, _ := net.SplitHostPort(o.ctl)
	api := "GRPC"
	if o.delta {
		api = "DELTA_GRPC"
	}
	cds, lds := o.cds, o.lds
	if cds == "" {
		cds = o.source("cds")
	}
	if lds == "" {
		lds = o.source("lds")
	}
	ads := ""
	if !o.perType {
		ads = fmt.Sprintf("  ads_config: {api_type: %s, transport_api_version: V3, set_node_on_first_message_only: true, grpc_services: [{envoy_grpc: {cluster_name: ctl}}]}\n", api)
	}
	static := ""
	if o.static != "" {
		static = "  listeners:\n" + o.static
	}
	return fmt.Sprintf(`node: {id: t, cluster: t}
admin: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}
dynamic_resources:
%s  cds_config: %s
  lds_config: %s
static_resources:
%s  clusters:
  - name: ctl
    type: STATIC
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment: {cluster_name: ctl, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %s, port_value: %s}}}}]}]}
`, admin, ads, cds, lds, static, host, p)
}

// start runs the proxy; unless noReady it is live when start returns.
func start(t *testing.T, o options) *proxy {
	t.Helper()
	bin := proc.Binary
	if oracle || o.envoy {
		var err error
		if bin, err = exec.LookPath("envoy"); err != nil {
			t.Skip("SKIP: no envoy in PATH")
		}
	}
	admin := port(t)
	text := o.boot
	if text == nil {
		text = o.bootstrap
	}
	if o.drain == 0 {
		o.drain = 600
	}
	if o.workers == 0 {
		o.workers = 2
	}
	cmd, out := proc.Configured(t, text(admin), "--concurrency", strconv.Itoa(o.workers), "--drain-time-s", strconv.Itoa(o.drain), "--disable-hot-restart", "-l", "info")
	cmd.Path = bin
	p := &proxy{proc.Launch(t, cmd, out), t}
	p.Admin = fmt.Sprintf("127.0.0.1:%d", admin)
	if !o.noReady {
		p.live()
	}
	return p
}

// live waits until the proxy is ready.
func (p *proxy) live() {
	p.t.Helper()
	eventually(p.t, "LIVE", func() bool {
		code, body := p.get("/ready")
		return code == 200 && strings.HasPrefix(body, "LIVE")
	})
}

func (p *proxy) get(path string) (int, string) {
	c := http.Client{Timeout: 5 * time.Second}
	r, err := c.Get("http://" + p.Admin + path)
	if err != nil {
		return 0, err.Error()
	}
	defer r.Body.Close()
	b, _ := io.ReadAll(r.Body)
	return r.StatusCode, string(b)
}

// stats reads all counters and gauges.
func (p *proxy) stats() map[string]int64 {
	p.t.Helper()
	code, body := p.get("/stats")
	if code != 200 {
		p.t.Fatalf("/stats: %d %s", code, body)
	}
	out := map[string]int64{}
	for line := range strings.Lines(body) {
		k, v, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if n, err := strconv.ParseInt(v, 10, 64); ok && err == nil {
			out[k] = n
		} else if n, err := strconv.ParseUint(v, 10, 64); ok && err == nil {
			out[k] = int64(n) // *.version
		}
	}
	return out
}

func (p *proxy) stat(name string) int64 { return p.stats()[name] }

// wants waits for the values of some stats.
func (p *proxy) wants(want map[string]int64) {
	p.t.Helper()
	end := time.Now().Add(patience)
	for {
		got := p.stats()
		bad := ""
		for k, v := range want {
			if got[k] != v {
				bad += fmt.Sprintf("  %s: %d, want %d\n", k, got[k], v)
			}
		}
		if bad == "" {
			return
		}
		if time.Now().After(end) {
			p.t.Fatalf("stats:\n%s", bad)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	end := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// backend answers every request with its name.
type backend struct {
	name string
	port int
	hits atomic.Int64
}

func newBackend(t testing.TB, name string) *backend {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &backend{name: name, port: ln.Addr().(*net.TCPAddr).Port}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.hits.Add(1)
		if d, err := time.ParseDuration(r.URL.Query().Get("sleep")); err == nil {
			time.Sleep(d)
		}
		w.Header().Set("x-backend", name)
		fmt.Fprint(w, name)
	})}
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() { _ = srv.Close() })
	return b
}

// client of one listener; keep-alive.
type client struct {
	base string
	host string // Host of requests; "" = the address
	http *http.Client
	last atomic.Pointer[net.Conn]
}

func newClient(t testing.TB, port int) *client {
	c := &client{base: fmt.Sprintf("http://127.0.0.1:%d", port)}
	tr := &http.Transport{MaxIdleConnsPerHost: 64, DialContext: func(ctx context.Context, n, a string) (net.Conn, error) {
		x, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, n, a)
		if err == nil {
			c.last.Store(&x)
		}
		return x, err
	}}
	c.http = &http.Client{Transport: tr, Timeout: 10 * time.Second}
	t.Cleanup(tr.CloseIdleConnections)
	return c
}

// get returns status and body; status 0 means no answer.
func (c *client) get(path string) (int, string) {
	req, err := http.NewRequest(http.MethodGet, c.base+path, nil)
	if err != nil {
		return 0, err.Error()
	}
	req.Host = c.host
	r, err := c.http.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return 0, err.Error()
	}
	return r.StatusCode, string(b)
}

// answers waits until GET / gives the status and the body (any when "").
func (c *client) answers(t testing.TB, status int, body string) {
	t.Helper()
	var got string
	var code int
	end := time.Now().Add(patience)
	for {
		code, got = c.get("/")
		if code == status && (body == "" || got == body) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s answers %d %q, want %d %q", c.base, code, got, status, body)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// clientFrom dials from a loopback address.
func clientFrom(t testing.TB, port int, from string) *client {
	c := newClient(t, port)
	tr := &http.Transport{MaxIdleConnsPerHost: 64, DialContext: func(ctx context.Context, n, a string) (net.Conn, error) {
		d := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		x, err := d.DialContext(ctx, n, a)
		if err == nil {
			c.last.Store(&x)
		}
		return x, err
	}}
	c.http.Transport = tr
	t.Cleanup(tr.CloseIdleConnections)
	return c
}

// oneShot makes a connection for every request.
var oneShot = http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext}
