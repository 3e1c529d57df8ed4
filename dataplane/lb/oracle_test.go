// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sidecar/dataplane/hostset"
	"sidecar/dataplane/match"
	"sidecar/dataplane/sys"
)

var update = flag.Bool("update", false, "record testdata/envoy_hash.json from the envoy binary on the path")

// hashCase is one cluster that was put in front of the real Envoy, and the hosts it chose for the keys key-0, key-1, ... (by port).
type hashCase struct {
	Name            string     `json:"name"`
	Policy          string     `json:"policy"` // RING_HASH or MAGLEV
	MinRing         uint64     `json:"min_ring,omitempty"`
	MaxRing         uint64     `json:"max_ring,omitempty"`
	Murmur          bool       `json:"murmur,omitempty"`
	TableSize       uint64     `json:"table_size,omitempty"`
	Hostnames       bool       `json:"hostnames,omitempty"`
	LocalityWeights bool       `json:"locality_weights,omitempty"`
	Panic           *float64   `json:"panic,omitempty"`
	Balance         uint32     `json:"balance,omitempty"` // hash_balance_factor: requests are held, each pick sees those before it
	Hosts           []caseHost `json:"hosts"`
	Picks           []int      `json:"picks,omitempty"` // 0 = no host
}

type caseHost struct {
	Port           int    `json:"port"`
	Weight         uint32 `json:"weight,omitempty"`
	Hostname       string `json:"hostname,omitempty"`
	HashKey        string `json:"hash_key,omitempty"`
	Zone           string `json:"zone,omitempty"`
	LocalityWeight uint32 `json:"locality_weight,omitempty"`
	Priority       uint32 `json:"priority,omitempty"`
	Health         string `json:"health,omitempty"`
}

const (
	oracleKeys  = 500
	oracleHolds = 120 // picks of a case whose requests stay in flight
)

func (c *hashCase) picks() int {
	if c.Balance > 0 {
		return oracleHolds
	}
	return oracleKeys
}

const goldenFile = "testdata/envoy_hash.json"

func loadHashCases(t *testing.T) []hashCase {
	t.Helper()
	b, err := os.ReadFile(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	var cases []hashCase
	if err := json.Unmarshal(b, &cases); err != nil {
		t.Fatal(err)
	}
	return cases
}

func (c *hashCase) spec() *Spec {
	s := Default(RingHash)
	if c.Policy == "MAGLEV" {
		s = Default(Maglev)
	}
	if c.MinRing > 0 {
		s.MinRing = c.MinRing
	}
	if c.MaxRing > 0 {
		s.MaxRing = c.MaxRing
	}
	if c.TableSize > 0 {
		s.TableSize = c.TableSize
	}
	if c.Panic != nil {
		s.Hosts.PanicPercent = uint32(*c.Panic)
	}
	s.BalanceFactor = c.Balance
	s.Murmur, s.UseHostname, s.Hosts.LocalityWeighted = c.Murmur, c.Hostnames, c.LocalityWeights
	return &s
}

func (c *hashCase) input() hostset.Input {
	var in hostset.Input
	byName := map[string]hostset.EDSHealth{"": hostset.EDSUnknown, "UNHEALTHY": hostset.EDSUnhealthy, "DEGRADED": hostset.EDSDegraded,
		"DRAINING": hostset.EDSDraining, "TIMEOUT": hostset.EDSTimeout, "HEALTHY": hostset.EDSHealthy}
	for _, h := range c.Hosts {
		l := hostset.LocalityInput{Locality: hostset.Locality{Zone: h.Zone}, Priority: h.Priority, Weight: h.LocalityWeight}
		n := len(in.Localities)
		if n == 0 || in.Localities[n-1].Locality != l.Locality || in.Localities[n-1].Priority != l.Priority {
			in.Localities = append(in.Localities, l)
			n++
		}
		g := &in.Localities[n-1]
		g.Endpoints = append(g.Endpoints, hostset.Endpoint{
			Addr:     sys.AddrOf(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(h.Port))),
			Hostname: h.Hostname, HashKey: h.HashKey, Weight: h.Weight, Health: byName[h.Health],
		})
	}
	return in
}

func TestHashing_WhenEnvoyHasTheSameHosts_ThenEveryKeyMapsToTheSameHost(t *testing.T) {
	if *update {
		record(t)
	}
	for _, c := range loadHashCases(t) {
		t.Run(c.Name, func(t *testing.T) {
			s := c.spec()
			if err := s.Check(); err != nil {
				t.Fatal(err)
			}
			p := s.Factory()(1, s.Build(nil, c.input()))
			if len(c.Picks) != c.picks() {
				t.Fatalf("%d picks recorded", len(c.Picks))
			}
			wrong := 0
			for i, want := range c.Picks {
				h := p.Pick(&Query{Hash: match.XXHash64(fmt.Appendf(nil, "key-%d", i), 0), HasHash: true})
				got := 0
				if h != nil {
					got = int(h.Addr.IP.Port())
					if c.Balance > 0 {
						h.RqActive.Add(1)
					}
				}
				if got != want {
					if wrong++; wrong < 5 {
						t.Errorf("key-%d: host %d, envoy chose %d", i, got, want)
					}
				}
			}
			if wrong > 0 {
				t.Errorf("%d of %d keys differ", wrong, len(c.Picks))
			}
		})
	}
}

// record runs Envoy on loopback with the clusters of the golden file and writes what it chose.
func record(t *testing.T) {
	cases := loadHashCases(t)
	ports := map[int]bool{}
	held := make(chan int)
	for _, c := range cases {
		for _, h := range c.Hosts {
			ports[h.Port] = true
		}
	}
	for p := range ports {
		ln, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", p))
		if err != nil {
			t.Fatal(err)
		}
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("x-hold") != "" {
				held <- p
				<-r.Context().Done() // until Envoy goes
			}
			fmt.Fprint(w, p)
		})}
		go func() { _ = srv.Serve(ln) }()
		t.Cleanup(func() { _ = srv.Close() })
	}
	const front = 25598
	conf := filepath.Join(t.TempDir(), "envoy.json")
	b, err := json.Marshal(envoyConfig(cases, front))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(conf, b, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("envoy", "-c", conf, "--concurrency", "1", "--disable-hot-restart", "--log-level", "error")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for i := range cases {
		c := &cases[i]
		c.Picks = make([]int, c.picks())
		for k := range c.Picks {
			if c.Balance > 0 {
				go func() { _, _ = ask(front, c.Name, fmt.Sprintf("key-%d", k), true) }()
				c.Picks[k] = <-held
				continue
			}
			if c.Picks[k], err = ask(front, c.Name, fmt.Sprintf("key-%d", k), false); err != nil {
				t.Fatal(err)
			}
		}
	}
	writeCases(t, cases)
}

func writeCases(t *testing.T, cases []hashCase) {
	t.Helper()
	var out strings.Builder
	for i, c := range cases {
		b, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		sep := ",\n"
		if i == 0 {
			sep = "[\n"
		}
		out.WriteString(sep)
		out.Write(b)
	}
	out.WriteString("\n]\n")
	if err := os.WriteFile(goldenFile, []byte(out.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// ask sends one request and returns the port of the backend that answered; 0 for a 503.
// With hold the backend says that it got the request and does not answer.
func ask(front int, cluster, key string, hold bool) (int, error) {
	var last error
	for range 100 {
		req, err := http.NewRequest("GET", fmt.Sprintf("http://127.0.0.1:%d/", front), nil)
		if err != nil {
			return 0, err
		}
		req.Header.Set("x-cluster", cluster)
		req.Header.Set("x-key", key)
		if hold {
			req.Header.Set("x-hold", "1")
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			last = err
			time.Sleep(100 * time.Millisecond)
			continue
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			return 0, err
		}
		if resp.StatusCode == 503 && string(body) == "no healthy upstream" {
			return 0, nil
		}
		n := 0
		if _, err := fmt.Sscan(string(body), &n); err != nil {
			return 0, fmt.Errorf("status %d body %q: %w", resp.StatusCode, body, err)
		}
		return n, nil
	}
	return 0, errors.Join(errors.New("envoy does not answer"), last)
}

type obj = map[string]any

func envoyConfig(cases []hashCase, front int) obj {
	var clusters []obj
	for _, c := range cases {
		clusters = append(clusters, c.cluster())
	}
	hcm := obj{
		"@type":       "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
		"stat_prefix": "x",
		"route_config": obj{"virtual_hosts": []obj{{"name": "v", "domains": []string{"*"}, "routes": []obj{{
			"match": obj{"prefix": "/"},
			"route": obj{"cluster_header": "x-cluster", "hash_policy": []obj{{"header": obj{"header_name": "x-key"}}}},
		}}}}},
		"http_filters": []obj{{"name": "r", "typed_config": obj{"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}},
	}
	listener := obj{
		"name": "l", "address": obj{"socket_address": obj{"address": "127.0.0.1", "port_value": front}},
		"filter_chains": []obj{{"filters": []obj{{"name": "h", "typed_config": hcm}}}},
	}
	return obj{"static_resources": obj{"listeners": []obj{listener}, "clusters": clusters}}
}

func (c *hashCase) cluster() obj {
	var locs []obj
	for i, h := range c.Hosts {
		if i == 0 || h.Zone != c.Hosts[i-1].Zone || h.Priority != c.Hosts[i-1].Priority {
			l := obj{"locality": obj{"zone": h.Zone}, "priority": h.Priority, "lb_endpoints": []obj{}}
			if h.LocalityWeight > 0 {
				l["load_balancing_weight"] = h.LocalityWeight
			}
			locs = append(locs, l)
		}
		ep := obj{"endpoint": obj{"hostname": h.Hostname, "address": obj{"socket_address": obj{"address": "127.0.0.1", "port_value": h.Port}}}}
		if h.Weight > 0 {
			ep["load_balancing_weight"] = h.Weight
		}
		if h.HashKey != "" {
			ep["metadata"] = obj{"filter_metadata": obj{"envoy.lb": obj{"hash_key": h.HashKey}}}
		}
		if h.Health != "" {
			ep["health_status"] = h.Health
		}
		l := locs[len(locs)-1]
		l["lb_endpoints"] = append(l["lb_endpoints"].([]obj), ep)
	}
	common := obj{}
	if c.Panic != nil {
		common["healthy_panic_threshold"] = obj{"value": *c.Panic}
	}
	if c.LocalityWeights {
		common["locality_weighted_lb_config"] = obj{}
	}
	hashing := obj{}
	if c.Hostnames {
		hashing["use_hostname_for_hashing"] = true
	}
	if c.Balance > 0 {
		hashing["hash_balance_factor"] = c.Balance
	}
	common["consistent_hashing_lb_config"] = hashing
	cl := obj{"name": c.Name, "type": "STATIC", "lb_policy": c.Policy, "common_lb_config": common,
		"load_assignment": obj{"cluster_name": c.Name, "endpoints": locs}}
	if c.Hostnames {
		cl["type"] = "STRICT_DNS" // the only type for which Envoy takes use_hostname_for_hashing
	}
	if c.Policy == "MAGLEV" {
		if c.TableSize > 0 {
			cl["maglev_lb_config"] = obj{"table_size": c.TableSize}
		}
		return cl
	}
	ring := obj{}
	if c.MinRing > 0 {
		ring["minimum_ring_size"] = c.MinRing
	}
	if c.MaxRing > 0 {
		ring["maximum_ring_size"] = c.MaxRing
	}
	if c.Murmur {
		ring["hash_function"] = "MURMUR_HASH_2"
	}
	cl["ring_hash_lb_config"] = ring
	return cl
}
