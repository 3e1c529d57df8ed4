// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"context"
	"fmt"
	"net"
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

// driverTries is how often a run may be made: the driver gives a request 100 ms, which a busy machine may exceed.
const driverTries = 3

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
	d.binary = filepath.Join(filepath.Dir(binary), "driver")
	if out, err := exec.Command("go", "build", "-o", d.binary, controlPlane+"/pkg/test/main").CombinedOutput(); err != nil {
		return d, fmt.Errorf("go build: %w: %s", err, out)
	}
	return d, nil
})

// batchLine is what the driver prints after it has called every listener once.
var batchLine = regexp.MustCompile(`request batch (\d+), ok (\d+), failed (\d+)`)

// drive runs the driver against a proxy with its sample bootstrap, in which only the ports differ, and returns what failed behind the first batch of an
// update.
func drive(t *testing.T, mode string, mux, tls bool) string {
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
	if mode == "rest" { // the sample polls each 0.5 to 1 s
		updates, batches, delay = 2, 3, "1100ms"
	}
	cmd := exec.CommandContext(ctx, d.binary, "-xds="+mode, fmt.Sprint("-mux=", mux), fmt.Sprint("-tls=", tls), fmt.Sprint("-port=", control),
		fmt.Sprint("-gateway=", gateway), fmt.Sprint("-als=", als), fmt.Sprint("-base=", ports(t, 8)), fmt.Sprint("-upstream=", newBackend(t, "echo").port),
		"-message=echo", "-delay="+delay, fmt.Sprint("-u=", updates), fmt.Sprint("-r=", batches))
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
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
	if err := cmd.Wait(); err != nil {
		return fmt.Sprintf("the driver says %v:\n%s", err, log.String())
	}
	ran, bad := 0, ""
	for _, m := range batchLine.FindAllStringSubmatch(log.String(), -1) {
		ran++
		if m[1] != "0" && m[3] != "0" {
			bad += fmt.Sprintf("batch %s: %s of %d failed\n", m[1], m[3], num(m[2])+num(m[3]))
		}
	}
	if ran != updates*batches {
		t.Fatalf("%d batches:\n%s", ran, log.String())
	}
	for name, n := range p.stats() {
		if strings.HasSuffix(name, ".update_rejected") && n > 0 {
			t.Errorf("%s is %d", name, n)
		}
	}
	if n := p.stat("access_logs.grpc_access_log.logs_written"); n == 0 && mode != "rest" { // that sample has no HTTP/2 to the log service
		t.Error("no access log was written")
	}
	return bad
}

func num(s string) int {
	n, _ := strconv.Atoi(s)
	return n
}

// TestDriver_WhenGoControlPlanePlaysItsOwnTest_ThenNoBatchFailsAfterTheFirst is what go-control-plane runs against Envoy: snapshots in which
// clusters, routes, virtual hosts and scopes have other names, with batches of requests to six or eight listeners after each.
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
				bad := ""
				for range driverTries {
					if bad = drive(t, of, mode == "mux", tls); bad == "" {
						return
					}
					t.Log(bad)
				}
				t.Error(bad)
			})
		}
	}
}
