// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"sidecar/internal/testctl"
)

// The size of the world under churn.
const (
	churnClusters  = 500
	churnEndpoints = 4 // of each cluster
	churnListeners = 50
	churnUntouched = 10 // listeners whose connections must never be cut
)

// churnSpan is how long the churn runs: XDS_CHURN=60s is the full run of 1,000 updates, the default is short.
func churnSpan() (time.Duration, int) {
	d, err := time.ParseDuration(os.Getenv("XDS_CHURN"))
	if err != nil {
		d = 5 * time.Second
	}
	return d, max(int(d/(60*time.Millisecond)), 10)
}

// churn is one run.
type churn struct {
	t     *testing.T
	p     *peer
	x     *proxy
	ports []int
	back  [2]*backend // of the probes
	far   [2]*backend // of everything else

	clusters  map[string]*clusterv3.Cluster
	listeners map[string]*listenerv3.Listener
	version   int
	probe     [2]*rawClient // of the route and the endpoint probe
	routeLat  []time.Duration
	edsLat    []time.Duration
	nacks     int
	mirror    int // which backend the probe cluster has
	every     int // one update of so many is invalid
	envoy     bool
}

// wideBackend listens on all loopback addresses, so that every endpoint can have an address of its own.
func wideBackend(t *testing.T, name string) *backend {
	ln, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &backend{name: name, port: ln.Addr().(*net.TCPAddr).Port}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["X-Backend"] = []string{name}
		_, _ = io.WriteString(w, name)
	})}
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() { _ = srv.Close() })
	return b
}

func (c *churn) assignment(i, turn int) *endpointv3.ClusterLoadAssignment {
	a := assignment(fmt.Sprintf("c%d", i))
	for k := range churnEndpoints {
		n := i*churnEndpoints + k
		ad := address(c.far[k%2].port)
		ad.GetSocketAddress().Address = fmt.Sprintf("127.%d.%d.%d", 1+n/60000, n/250%240, 1+n%250)
		e := &endpointv3.LbEndpoint{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: ad}}}
		if turn > 0 {
			if k == turn%churnEndpoints {
				continue // one endpoint is away
			}
			e.LoadBalancingWeight = wrapperspb.UInt32(uint32(1 + (turn+k)%5))
		}
		a.Endpoints[0].LbEndpoints = append(a.Endpoints[0].LbEndpoints, e)
	}
	return a
}

// table is the route configuration of a listener: ten clusters by path, a weighted split, and the version in a header.
func (c *churn) table(i, version int) *routev3.RouteConfiguration {
	rc := routes(fmt.Sprintf("r%d", i), "probe")
	rc.ResponseHeadersToAdd = []*corev3.HeaderValueOption{{Header: &corev3.HeaderValue{Key: "x-version", Value: strconv.Itoa(version)}}}
	var list []*routev3.Route
	for k := range churnClusters / churnListeners {
		n := i*(churnClusters/churnListeners) + k
		w := uint32(version % 50)
		list = append(list, &routev3.Route{Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: fmt.Sprintf("/c%d/", k)}},
			Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_WeightedClusters{
				WeightedClusters: &routev3.WeightedCluster{Clusters: []*routev3.WeightedCluster_ClusterWeight{
					{Name: fmt.Sprintf("c%d", n), Weight: wrapperspb.UInt32(100 - w)},
					{Name: fmt.Sprintf("c%d", (n+1)%churnClusters), Weight: wrapperspb.UInt32(w)}}}}}}})
	}
	rc.VirtualHosts[0].Routes = append(list, rc.VirtualHosts[0].Routes...)
	return rc
}

func (c *churn) listener(i, version int) *listenerv3.Listener {
	name := fmt.Sprintf("l%d", i)
	h := hcm(name)
	h.ServerName = fmt.Sprintf("v%d", version)
	h.RouteSpecifier = &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{RouteConfigName: fmt.Sprintf("r%d", i%churnListeners), ConfigSource: adsSource(0)}}
	return listenerWith(name, c.ports[i], h)
}

// full is the complete state of CDS or LDS for SotW; only is what delta sends.
func (c *churn) full(url string, only []res) []res {
	if c.p.delta {
		return only
	}
	var out []res
	have := map[string]bool{}
	for _, r := range only {
		have[r.name] = true
	}
	if url == cdsURL {
		for _, n := range sorted(c.clusters) {
			if !have[n] {
				out = append(out, res{name: n, m: c.clusters[n]})
			}
		}
	} else {
		for _, n := range sorted(c.listeners) {
			if !have[n] {
				out = append(out, res{name: n, m: c.listeners[n]})
			}
		}
	}
	return append(out, only...)
}

func sorted[V any](m map[string]V) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// latest waits for a request among those since mark.
func (c *churn) latest(mark int, what string, fits func(testctl.Request) bool) testctl.Request {
	c.t.Helper()
	end := time.Now().Add(patience)
	for {
		c.p.mu.Lock()
		for _, r := range c.p.reqs[min(mark, len(c.p.reqs)):] {
			if fits(r) {
				c.p.mu.Unlock()
				return r
			}
		}
		c.p.mu.Unlock()
		if time.Now().After(end) {
			c.t.Fatalf("no request: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func (c *churn) mark() int {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	return len(c.p.reqs)
}

// send pushes and checks the verdict: bad is the name that must be refused, "" for none.
func (c *churn) send(url string, list []res, bad string, between func(), removed ...string) {
	c.t.Helper()
	c.version++
	m := c.mark()
	n := c.p.push(url, strconv.Itoa(c.version), list, removed...)
	if between != nil {
		between()
	}
	r := c.latest(m, "answer to "+n, func(r testctl.Request) bool { return r.Nonce == n })
	switch {
	case bad == "" && r.Nacked:
		c.t.Errorf("refused: %s", r.Error)
	case bad != "" && (!r.Nacked || !strings.Contains(r.Error, bad)):
		c.t.Errorf("%s is not refused by name: %v %q", bad, r.Nacked, r.Error)
	case bad != "":
		c.nacks++
	}
}

// step makes update i.
func (c *churn) step(i int) {
	if i%c.every == c.every-1 {
		c.invalid(i / c.every)
		return
	}
	turn := i / 5
	switch i % 5 {
	case 0: // a route configuration, seen at its listener
		c.version++
		v := c.version
		n := c.p.push(rdsURL, strconv.Itoa(v), of(c.table(0, v)))
		began := time.Now()
		c.probe[0].until(c.t, "/probe", func(h string) bool { return strings.Contains(h, fmt.Sprintf("x-version: %d\r\n", v)) })
		c.routeLat = append(c.routeLat, time.Since(began))
		c.latest(0, n, func(r testctl.Request) bool { return r.Nonce == n })
		c.send(rdsURL, of(c.table(1+turn%(churnListeners-1), c.version+1)), "", nil)
	case 1: // an assignment, seen at the probe's cluster
		c.mirror = 1 - c.mirror
		b := c.back[c.mirror]
		c.version++
		n := c.p.push(edsURL, strconv.Itoa(c.version), of(assignment("probe", b.port)))
		began := time.Now()
		c.probe[1].until(c.t, "/probe", func(h string) bool { return strings.Contains(h, "x-backend: "+b.name+"\r\n") })
		c.edsLat = append(c.edsLat, time.Since(began))
		c.latest(0, n, func(r testctl.Request) bool { return r.Nonce == n })
		c.send(edsURL, of(c.assignment(turn%churnClusters, 1+turn)), "", nil)
	case 2: // a cluster changes
		name := fmt.Sprintf("c%d", turn*7%churnClusters)
		cl := edsCluster(name, 0)
		cl.ConnectTimeout = durationpb.New(time.Second + time.Duration(turn)*time.Millisecond)
		c.clusters[name] = cl
		c.send(cdsURL, c.full(cdsURL, of(cl)), "", func() {
			if c.envoy { // it would warm for ever
				c.version++
				c.p.push(edsURL, strconv.Itoa(c.version), of(c.assignment(turn*7%churnClusters, 1)))
			}
		})
	case 3: // a cluster comes, the one before it goes
		name, old := fmt.Sprintf("extra%d", turn), fmt.Sprintf("extra%d", turn-1)
		cl := edsCluster(name, 0)
		delete(c.clusters, old)
		c.clusters[name] = cl
		m := c.mark()
		c.send(cdsURL, c.full(cdsURL, of(cl)), "", func() {
			c.latest(m, "EDS for "+name, func(r testctl.Request) bool { return r.TypeURL == edsURL && slices.Contains(r.Names, name) })
			c.version++
			c.p.push(edsURL, strconv.Itoa(c.version), of(assignment(name, c.back[0].port)))
		}, old)
	default: // listeners come, go and change
		k := churnListeners + turn%5
		name := fmt.Sprintf("l%d", k)
		if c.listeners[name] != nil {
			delete(c.listeners, name)
			c.send(ldsURL, c.full(ldsURL, nil), "", nil, name)
			return
		}
		c.listeners[name] = c.listener(k, turn)
		n := churnUntouched + turn%(churnListeners-churnUntouched)
		change := c.listener(n, turn+1)
		c.listeners[change.Name] = change
		c.send(ldsURL, c.full(ldsURL, of(c.listeners[name], change)), "", nil)
	}
}

// invalid pushes a bad resource of each type in turn, beside what there is.
func (c *churn) invalid(i int) {
	bad := fmt.Sprintf("bad%d", i)
	switch i % 4 {
	case 0:
		c.send(cdsURL, c.full(cdsURL, of(badCluster(bad))), bad, nil)
		if c.p.delta {
			c.send(cdsURL, nil, "", nil, bad)
		}
	case 1:
		c.send(ldsURL, c.full(ldsURL, of(badListener(bad, c.ports[len(c.ports)-1]))), bad, nil)
		if c.p.delta {
			c.send(ldsURL, nil, "", nil, bad)
		}
	case 2:
		c.send(rdsURL, of(badRoutes("r3")), "r3", nil)
	default:
		c.send(edsURL, of(badAssignment("c5")), "c5", nil)
	}
}

// rawClient speaks just enough HTTP/1.1 over one connection to cost little.
type rawClient struct {
	addr string
	conn net.Conn
	r    *bufio.Reader
}

// do makes one request and returns the response head. eof tells that the connection ended in good order before an answer.
func (c *rawClient) do(path string) (head string, eof bool, err error) {
	if c.conn == nil {
		if c.conn, err = net.DialTimeout("tcp", c.addr, 5*time.Second); err != nil {
			return "", false, err
		}
		c.r = bufio.NewReader(c.conn)
	}
	_ = c.conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err = c.conn.Write([]byte("GET " + path + " HTTP/1.1\r\nHost: churn\r\n\r\n")); err != nil {
		c.close()
		return "", false, err
	}
	var b bytes.Buffer
	length := 0
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			c.close()
			return "", err == io.EOF && b.Len() == 0, err
		}
		b.Write(line)
		if v, ok := bytes.CutPrefix(line, []byte("content-length: ")); ok {
			length, _ = strconv.Atoi(string(bytes.TrimSpace(v)))
		}
		if len(line) == 2 {
			break
		}
	}
	if _, err := c.r.Discard(length); err != nil {
		c.close()
		return "", false, err
	}
	if bytes.Contains(b.Bytes(), []byte("connection: close\r\n")) {
		c.close()
	}
	return b.String(), false, nil
}

func (c *rawClient) close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

// until asks until the head fits.
func (c *rawClient) until(t *testing.T, path string, fits func(string) bool) {
	t.Helper()
	end := time.Now().Add(patience)
	for {
		h, _, err := c.do(path)
		if err == nil && fits(h) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("no effect at %s: %v\n%s", c.addr, err, h)
		}
	}
}

// traffic is the load: paced requests over keep-alive connections.
type traffic struct {
	total, failed, cut, again atomic.Int64
	first                     atomic.Pointer[string]
	quit                      chan struct{}
	wg                        sync.WaitGroup
}

func (l *traffic) fail(format string, args ...any) {
	l.failed.Add(1)
	s := fmt.Sprintf(format, args...)
	l.first.CompareAndSwap(nil, &s)
}

// run keeps one connection to a listener busy; strict: it must never end.
func (l *traffic) run(port int, strict bool, pause time.Duration) {
	l.wg.Go(func() {
		c := &rawClient{addr: fmt.Sprintf("127.0.0.1:%d", port)}
		defer c.close()
		for i := 0; ; i++ {
			select {
			case <-l.quit:
				return
			default:
			}
			fresh := c.conn == nil
			h, eof, err := c.do(fmt.Sprintf("/c%d/x", i%10))
			l.total.Add(1)
			switch {
			case err != nil && strict:
				l.cut.Add(1)
				l.fail("port %d: %v", port, err)
			case err != nil && !eof:
				l.fail("port %d: %v", port, err)
			case err != nil && fresh:
				l.fail("port %d: a new connection was closed", port)
			case err != nil:
				l.again.Add(1) // a drained connection
			case !strings.HasPrefix(h, "HTTP/1.1 200 "):
				l.fail("port %d: %s", port, h)
			case strict && c.conn == nil:
				l.cut.Add(1)
				l.fail("port %d: told to close", port)
			}
			time.Sleep(pause)
		}
	})
}

// rss is the resident memory of a process in KiB.
func rss(pid int) int {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, _ := strconv.Atoi(strings.Fields(v)[0])
			return n
		}
	}
	return 0
}

// cpu is the CPU time of a process.
func cpu(pid int) time.Duration {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 13 {
		return 0
	}
	u, _ := strconv.Atoi(f[11])
	s, _ := strconv.Atoi(f[12])
	return time.Duration(u+s) * 10 * time.Millisecond
}

func quantile(l []time.Duration, q float64) time.Duration {
	if len(l) == 0 {
		return 0
	}
	s := slices.Clone(l)
	slices.Sort(s)
	return s[min(int(float64(len(s))*q), len(s)-1)].Round(10 * time.Microsecond)
}

// begin brings the whole world up.
func (c *churn) begin(delta, envoy bool) {
	t := c.t
	s := newScript(t)
	c.back = [2]*backend{wideBackend(t, "A"), wideBackend(t, "B")}
	if c.far = c.back; churnRate() > 0 {
		b := steadyBackend(t)
		c.far = [2]*backend{b, b}
	}
	for range churnListeners + 6 {
		c.ports = append(c.ports, port(t))
	}
	c.clusters, c.listeners = map[string]*clusterv3.Cluster{}, map[string]*listenerv3.Listener{}
	c.x = start(t, options{ctl: s.Addr(), delta: delta, noReady: true, workers: 1, drain: 5, envoy: envoy})
	c.p = s.accept()
	c.p.asked(cdsURL)
	var names []string
	var eds, rds, lds []res
	for i := range churnClusters {
		n := fmt.Sprintf("c%d", i)
		c.clusters[n] = edsCluster(n, 0)
		names = append(names, n)
		eds = append(eds, of(c.assignment(i, 0))...)
	}
	c.clusters["probe"] = edsCluster("probe", 0)
	eds = append(eds, of(assignment("probe", c.back[0].port))...)
	var cds []res
	for _, n := range sorted(c.clusters) {
		cds = append(cds, res{name: n, m: c.clusters[n]})
	}
	c.p.acked(c.p.push(cdsURL, "0", cds))
	c.p.asked(edsURL, names...)
	c.p.acked(c.p.push(edsURL, "0", eds))
	c.p.asked(ldsURL)
	var tables []string
	for i := range churnListeners {
		l := c.listener(i, 0)
		c.listeners[l.Name] = l
		lds = append(lds, of(l)...)
		rds = append(rds, of(c.table(i, 0))...)
		tables = append(tables, fmt.Sprintf("r%d", i))
	}
	c.p.acked(c.p.push(ldsURL, "0", lds))
	c.p.asked(rdsURL, tables...)
	c.p.acked(c.p.push(rdsURL, "0", rds))
	c.x.live()
	c.probe = [2]*rawClient{{addr: fmt.Sprintf("127.0.0.1:%d", c.ports[0])}, {addr: fmt.Sprintf("127.0.0.1:%d", c.ports[0])}}
}

// TestChurn_WhenEverythingChangesUnderLoad_ThenNothingFails is the long-haul test. Environment: XDS_CHURN (span, default 5s; 60s is the full run),
// XDS_CHURN_PAUSE (of each of the 28 load connections between requests, default 2ms), XDS_CHURN_RATE (requests per second of a further load from
// processes of their own, default none), XDS_CHURN_ENVOY (run Envoy, for its figures).
func TestChurn_WhenEverythingChangesUnderLoad_ThenNothingFails(t *testing.T) {
	for _, delta := range []bool{false, true} {
		t.Run(map[bool]string{false: "sotw", true: "delta"}[delta], func(t *testing.T) { churnRun(t, delta) })
	}
}

func churnRun(t *testing.T, delta bool) {
	envoy := os.Getenv("XDS_CHURN_ENVOY") != ""
	c := &churn{t: t, envoy: envoy}
	c.begin(delta, envoy)
	pause := 2 * time.Millisecond
	if d, err := time.ParseDuration(os.Getenv("XDS_CHURN_PAUSE")); err == nil {
		pause = d
	}
	l := &traffic{quit: make(chan struct{})}
	for i := range 2 * churnUntouched {
		l.run(c.ports[i%churnUntouched], true, pause)
	}
	for i := range 8 {
		l.run(c.ports[churnUntouched+i], false, pause)
	}
	span, n := churnSpan()
	var more *steady
	if r := churnRate(); r > 0 {
		more = startSteady(t, c.ports[1], r, span)
	}
	if c.every = 50; n < 500 {
		c.every = 10 // the short run refuses something of every type too
	}
	pid := c.x.Cmd.Process.Pid
	began, used := time.Now(), cpu(pid)
	var memory []int
	next := began
	for i := range n {
		if envoy && i%c.every == c.every-1 {
			continue // it would lose the siblings
		}
		c.step(i)
		if s := time.Since(began); len(memory) < int(s/time.Second) {
			memory = append(memory, rss(pid))
		}
		next = next.Add(span / time.Duration(n))
		time.Sleep(time.Until(next))
	}
	took := time.Since(began)
	used = cpu(pid) - used
	close(l.quit)
	l.wg.Wait()
	if more != nil {
		more.check(t)
	}
	if f := l.failed.Load(); f > 0 {
		t.Errorf("%d of %d requests failed, %d connections cut on untouched listeners; first: %s", f, l.total.Load(), l.cut.Load(), *l.first.Load())
	}
	t.Logf("%d updates in %s, %d NACKs by name; %d requests (%.0f/s), %d reconnects after drains, CPU %.0f %% of a core", n, took.Round(time.Millisecond), c.nacks,
		l.total.Load(), float64(l.total.Load())/took.Seconds(), l.again.Load(), 100*used.Seconds()/took.Seconds())
	t.Logf("push to effect: routes p50 %s p99 %s, endpoints p50 %s p99 %s", quantile(c.routeLat, 0.5), quantile(c.routeLat, 0.99), quantile(c.edsLat, 0.5), quantile(c.edsLat, 0.99))
	if mean := func(l []int) int {
		s := 0
		for _, v := range l {
			s += v
		}
		return s / max(len(l), 1)
	}; len(memory) >= 30 {
		was, is := mean(memory[10:20]), mean(memory[len(memory)-10:])
		t.Logf("RSS %d KiB in the second 10 s, %d KiB in the last 10 s", was, is)
		if is-was > 3<<10 && !envoy {
			t.Errorf("RSS grew by %d KiB", is-was)
		}
	}
	if !envoy {
		c.x.wants(map[string]int64{"cluster_manager.warming_clusters": 0, "listener_manager.total_listeners_warming": 0})
	}
}
