// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// controlPlane is the module whose end-to-end test runs here.
const controlPlane = "github.com/envoyproxy/go-control-plane"

const (
	// driverTries is how often the driver runs while the machine is too busy to judge: it gives a request 100 ms.
	driverTries = 3
	// tardy is what a request takes on such a machine with no proxy in its way; through one there are two such ways.
	tardy = 50 * time.Millisecond
	// witnessPause is the time between two batches of the witness.
	witnessPause = 200 * time.Millisecond
)

// ports hands out n consecutive ports, which port gives to nobody else.
func ports(t testing.TB, n int) int {
	t.Helper()
	for range 100 {
		last := int((lastPort.Add(uint32(n)) + uint32(os.Getpid())*37) % 1000)
		base := 27000 + last - n + 1
		free := last >= n-1 // it does not wrap around
		for i := 0; i < n && free; i++ {
			ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", base+i))
			if free = err == nil; free {
				_ = ln.Close()
			}
		}
		if free {
			return base
		}
	}
	t.Fatal("no free ports")
	return 0
}

// driver builds go-control-plane's end-to-end test and finds its sample bootstraps, once.
var driver = sync.OnceValues(func() (d struct{ binary, samples string }, err error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", controlPlane).Output()
	if err != nil {
		return d, fmt.Errorf("go list: %w", err)
	}
	d.samples = filepath.Join(strings.TrimSpace(string(out)), "sample")
	d.binary = filepath.Join(tools, "driver")
	if out, err := exec.Command("go", "build", "-o", d.binary, controlPlane+"/pkg/test/main").CombinedOutput(); err != nil {
		return d, fmt.Errorf("go build: %w: %s", err, out)
	}
	return d, nil
})

// batchLine is what the driver prints after it has called every listener once.
var batchLine = regexp.MustCompile(`request batch (\d+), ok (\d+), failed (\d+)`)

// driven is what came of one run of the driver.
type driven struct {
	lost  string        // the batches that lost requests, but for the first of an update; "" = none
	alone time.Duration // the slowest request of the witness
}

// drive runs the driver against a proxy with its sample bootstrap, in which only the ports differ. What the proxy answers must be right in every batch, the
// first included (see wrong): where Envoy says 503 or 404 until its polls and streams agree again, the old configuration serves.
func drive(t *testing.T, mode string, mux, tls bool) driven {
	t.Helper()
	d, err := driver()
	if err != nil {
		t.Fatal(err)
	}
	sample, err := os.ReadFile(filepath.Join(d.samples, "bootstrap-"+mode+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	control, gateway, als := port(t), port(t), port(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	updates, batches, delay := 3, 4, "300ms"
	if mode == "rest" { // the sample polls each 0.5 to 1 s, so some batches of the driver's default delay come between two polls
		updates, batches, delay = 2, 5, "500ms"
	}
	cmd := exec.CommandContext(ctx, d.binary, "-xds="+mode, fmt.Sprint("-mux=", mux), fmt.Sprint("-tls=", tls), fmt.Sprint("-port=", control),
		fmt.Sprint("-gateway=", gateway), fmt.Sprint("-als=", als), fmt.Sprint("-base=", ports(t, 8)), fmt.Sprint("-upstream=", newBackend(t, "echo").port),
		"-message=echo", "-delay="+delay, fmt.Sprint("-u=", updates), fmt.Sprint("-r=", batches))
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := start(t, options{drain: 1, noReady: true, boot: func(admin int) string {
		text := string(sample)
		for old, now := range map[int]int{18000: control, 18001: gateway, 18090: als, 19000: admin} {
			text = strings.ReplaceAll(text, fmt.Sprint("port_value: ", old), fmt.Sprint("port_value: ", now))
		}
		return text
	}})
	alone := witness(t, tls)
	err = cmd.Wait()
	r := driven{alone: alone()}
	ran := 0
	for _, m := range batchLine.FindAllStringSubmatch(out.String(), -1) {
		ran++
		if m[1] != "0" && m[3] != "0" {
			r.lost += fmt.Sprintf("batch %s: %s of %d failed\n", m[1], m[3], num(m[2])+num(m[3]))
		}
	}
	if err != nil { // no batch of an update was whole
		r.lost += fmt.Sprintf("the driver says %v:\n%s", err, out.String())
	} else if ran != updates*batches {
		t.Fatalf("%d batches:\n%s", ran, out.String())
	}
	stats := p.stats()
	for name, n := range stats {
		if n > 0 && wrong(name, mode) {
			t.Errorf("%s is %d", name, n)
		}
	}
	if stats["access_logs.grpc_access_log.logs_written"] == 0 && mode != "rest" { // that sample has no HTTP/2 to the log service
		t.Error("no access log was written")
	}
	return r
}

// wrong tells whether a counter says that a request got a wrong answer, or the control plane a refusal. Two modes of the driver break what they push: delta
// takes the virtual hosts of old route configurations away before the new ones have theirs, delta-ads sends types in random order on the aggregated stream.
func wrong(name, mode string) bool {
	switch name {
	case "http.http.downstream_rq_4xx", "http.http.no_route":
		return mode != "delta"
	case "http.http.downstream_rq_5xx", "http.http.no_cluster", "tcp.tcp.downstream_cx_no_route":
		return mode != "delta-ads"
	}
	return strings.HasSuffix(name, ".update_rejected")
}

// witness calls a server of this process as the driver calls the proxy, six new connections at once, until stopped. It returns how long the slowest took.
func witness(t *testing.T, tls bool) (stop func() time.Duration) {
	serve := httptest.NewServer
	if tls {
		serve = httptest.NewTLSServer
	}
	s := serve(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "echo") }))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	over, worst := make(chan struct{}), make(chan time.Duration)
	go func() {
		defer s.Close()
		slowest := time.Duration(0)
		for {
			slowest = max(slowest, batchAlone(t, s))
			select {
			case <-over:
				worst <- slowest
				return
			case <-time.After(witnessPause):
			}
		}
	}()
	return func() time.Duration {
		close(over)
		return <-worst
	}
}

// batchAlone makes one batch and returns how long its slowest request took.
func batchAlone(t *testing.T, s *httptest.Server) (slowest time.Duration) {
	took := make(chan time.Duration)
	for range 6 {
		go func() {
			began := time.Now()
			tr := s.Client().Transport.(*http.Transport).Clone()
			tr.DisableKeepAlives = true
			r, err := (&http.Client{Transport: tr}).Get(s.URL)
			if err == nil {
				_, err = io.Copy(io.Discard, r.Body)
				_ = r.Body.Close()
			}
			if err != nil {
				t.Errorf("without a proxy: %v", err)
			}
			took <- time.Since(began)
		}()
	}
	for range 6 {
		slowest = max(slowest, <-took)
	}
	return slowest
}

func num(s string) int {
	n, _ := strconv.Atoi(s)
	return n
}

// TestDriver_WhenGoControlPlanePlaysItsOwnTest_ThenNoBatchFailsAfterTheFirst is what go-control-plane runs against Envoy: snapshots in which
// clusters, routes, virtual hosts and scopes have other names, with batches of requests to six or eight listeners after each. The driver does not tell
// requests that were late from those that failed. A run with a batch that lost some is made again only when the witness was late in it too.
func TestDriver_WhenGoControlPlanePlaysItsOwnTest_ThenNoBatchFailsAfterTheFirst(t *testing.T) {
	if testing.Short() {
		t.Skip("short: go-control-plane's driver is not run")
	}
	for _, mode := range []string{"ads", "delta-ads", "xds", "delta", "rest", "mux"} {
		for _, tls := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s tls=%v", mode, tls), func(t *testing.T) {
				t.Parallel()
				of := mode
				if mode == "mux" {
					of = "xds"
				}
				for range driverTries {
					r := drive(t, of, mode == "mux", tls)
					switch {
					case r.lost == "":
						return
					case r.alone < tardy:
						t.Fatalf("without a proxy %v at most\n%s", r.alone, r.lost)
					}
					t.Logf("without a proxy up to %v\n%s", r.alone, r.lost)
				}
				t.Skip("SKIP: the machine is too busy for the driver's 100 ms")
			})
		}
	}
}
