// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sidecar/integration/proc"
)

// maxRSS bounds the process after the traffic; the real need is a fraction.
const maxRSS = 256 << 20

// maxPipes bounds the ends of the pipes that two workers keep for splicing.
const maxPipes = 2 * 2 * 16

// otherSlack is how many eBPF objects and files may come with the configuration's changes: the steering of one listener stays for the next.
const otherSlack = 6

// run is one soak: the process, its backends, and what was seen.
type run struct {
	t        *testing.T
	seed     uint64
	dir      string
	ports    [2]int
	next     int
	admin    int
	http     int
	small    int
	tcp      int
	extra    int  // of the listener that comes and goes
	churn    bool // the configuration changes all the time
	p        *proc.Proxy
	stopping atomic.Bool
	failures atomic.Int64
	ids      atomic.Uint64
	answered atomic.Int64
	backends map[string]*backend

	mu       sync.Mutex
	requests map[string]uint64 // x-request-id to request
	counts   map[string]map[string]int
}

// failf notes a failure; the first few are shown.
func (r *run) failf(format string, a ...any) {
	if r.failures.Add(1) <= 12 {
		r.t.Errorf(format, a...)
	}
}

func (r *run) nextID() uint64 { return r.ids.Add(1) }

func (r *run) count(what, which string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.counts[what] == nil {
		r.counts[what] = map[string]int{}
	}
	r.counts[what][which]++
}

// requestID checks that no two requests have one id; the tries of one request share theirs.
func (r *run) requestID(id uint64, rid string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if was, ok := r.requests[rid]; len(rid) != 36 || ok && was != id {
		r.failf("x-request-id %q of request %d is the one of %d", rid, id, was)
	}
	r.requests[rid] = id
}

// listen takes a port of the range.
func (r *run) listen() net.Listener {
	for range r.ports[1] - r.ports[0] {
		ln, err := net.Listen("tcp", fmt.Sprintf(":%d", r.next)) // 127.0.0.2 is another host of the same backend
		if r.next++; r.next > r.ports[1] {
			r.next = r.ports[0]
		}
		if err == nil {
			return ln
		}
	}
	r.t.Fatal("no free port")
	return nil
}

func (r *run) port() int {
	ln := r.listen()
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}

func env(name, def string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return def
}

func number(t *testing.T, name, def string) int {
	n, err := strconv.Atoi(env(name, def))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

func TestMain(m *testing.M) {
	if bin := os.Getenv("SOAK_BIN"); bin != "" {
		proc.Binary, _ = filepath.Abs(bin) // the process runs elsewhere
	}
	proc.Run(m, nil)
}

func TestSoak_WhenPeersAreRandom_ThenEveryByteIsRightAndNothingIsHeld(t *testing.T) { soak(t, false) }

func TestSoak_WhenTheConfigurationChangesAllTheTime_ThenTheSame(t *testing.T) { soak(t, true) }

func soak(t *testing.T, churn bool) {
	d, err := time.ParseDuration(env("SOAK", "1500ms"))
	if err != nil {
		t.Fatal(err)
	}
	seed := uint64(number(t, "SOAK_SEED", strconv.Itoa(int(time.Now().UnixNano()%1e6))))
	r := &run{t: t, seed: seed, churn: churn, dir: t.TempDir(), backends: map[string]*backend{}, requests: map[string]uint64{}, counts: map[string]map[string]int{}}
	if _, err := fmt.Sscanf(env("SOAK_PORTS", "29000-29499"), "%d-%d", &r.ports[0], &r.ports[1]); err != nil {
		t.Fatal(err)
	}
	r.next = r.ports[0] + os.Getpid()%(r.ports[1]-r.ports[0])
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("seed %d; again: SOAK_SEED=%d SOAK=%v", seed, seed, d)
		}
	})
	r.start()
	r.warm()
	before := r.process()
	r.traffic(d)
	r.settle(before)
	r.finish()
	t.Logf("seed %d: %d requests, answers %v, tunnels %v, vandals %v, versions %v", seed, r.ids.Load(), r.counts["answers"], r.counts["tunnels"], r.counts["vandals"],
		r.counts["versions"])
}

// start makes the backends and the process.
func (r *run) start() {
	for _, n := range []string{"clean", "other", "chaos", "retry", "mirror"} {
		r.backends[n] = newBackend(r, n, serveHTTP)
	}
	r.backends["mirror"].mirror = true
	r.backends["tcp"] = newBackend(r, "tcp", serveTCP)
	r.admin, r.http, r.small, r.tcp, r.extra = r.port(), r.port(), r.port(), r.port(), r.port()
	cmd, out := proc.Configured(r.t, r.bootstrap(), "--concurrency", "2", "--file-flush-interval-msec", "50", "-l", "info")
	r.t.Cleanup(func() {
		for _, b := range r.backends {
			b.close()
		}
	})
	r.p = proc.Launch(r.t, cmd, out)
	r.t.Cleanup(func() { r.stopping.Store(true) })
	r.p.Admin = fmt.Sprintf("127.0.0.1:%d", r.admin)
	r.p.Until("live", func() bool { return r.p.Get("/ready") == "LIVE\n" })
}

// stats reads all counters and gauges.
func (r *run) stats() map[string]int64 {
	m := r.p.Stats()
	if len(m) == 0 {
		r.t.Fatalf("admin says nothing:\n%s", r.p.Log)
	}
	return m
}

// process is what the kernel says of the process.
type process struct {
	sockets, pipes, sum, threads, rss int
	others                            map[string]int // what else is open
}

func (r *run) process() process {
	p := process{others: map[string]int{}}
	dir := fmt.Sprintf("/proc/%d", r.p.Cmd.Process.Pid)
	fds, _ := os.ReadDir(dir + "/fd")
	for _, fd := range fds {
		switch to, _ := os.Readlink(filepath.Join(dir, "fd", fd.Name())); {
		case strings.HasPrefix(to, "socket:"):
			p.sockets++
		case strings.HasPrefix(to, "pipe:"):
			p.pipes++
		default:
			p.others[filepath.Base(to)]++
			p.sum++
		}
	}
	b, _ := os.ReadFile(dir + "/status")
	for _, line := range strings.Split(string(b), "\n") {
		fmt.Sscanf(line, "Threads: %d", &p.threads)
		fmt.Sscanf(line, "VmRSS: %d kB", &p.rss)
	}
	p.rss <<= 10
	return p
}

// warm makes everything that is made once, so that descriptors and threads can be compared.
func (r *run) warm() {
	for i := range 8 {
		rnd := rand.New(rand.NewPCG(r.seed, uint64(1000+i)))
		p := &plan{ID: r.nextID(), Route: "/clean", Method: "GET", Status: 200, Resp: 10, Framing: "cl", Last: true}
		h := &httpConn{run: r, rnd: rnd, name: "warm-up", plans: []*plan{p}}
		h.serve([]int{r.http, r.small}[i%2])
	}
	http.DefaultClient.CloseIdleConnections()
	time.Sleep(100 * time.Millisecond)
}

// traffic runs all clients for d.
func (r *run) traffic(d time.Duration) {
	var wg sync.WaitGroup
	end := time.Now().Add(d)
	for i := range number(r.t, "SOAK_CLIENTS", "24") {
		wg.Add(1)
		go func() {
			defer wg.Done()
			rnd := rand.New(rand.NewPCG(r.seed, uint64(i)))
			for n := 0; time.Now().Before(end) && r.failures.Load() == 0; n++ {
				name := fmt.Sprintf("client %d.%d", i, n)
				switch rnd.IntN(11) {
				case 10:
					r.vandal(rnd, name)
				case 0:
					r.tunnelClient(rnd, name, true)
				case 1, 2:
					r.tunnelClient(rnd, name, false)
				case 3:
					if r.churn {
						r.passer(rnd, name)
						continue
					}
					r.httpClient(rnd, name)
				default:
					r.httpClient(rnd, name)
				}
			}
		}()
	}
	if r.churn {
		wg.Add(1)
		go func() { defer wg.Done(); r.change(rand.New(rand.NewPCG(r.seed, 999)), end) }()
	}
	wg.Wait()
}

// zero are the gauges that must come back to nothing once the clients have left.
var zero = []string{".downstream_cx_active", ".downstream_rq_active", ".upstream_rq_active", ".upstream_rq_pending_active", ".downstream_cx_http1_active",
	".downstream_cx_upgrades_active", ".downstream_pre_cx_active", ".rq_pending_open", ".cx_open", ".rq_open", ".rq_retry_open"}

// settle waits until nothing is held, and says what is if that does not come.
func (r *run) settle(before process) {
	var why []string
	for deadline := time.Now().Add(6 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		http.DefaultClient.CloseIdleConnections()
		if why = r.held(before); len(why) == 0 {
			return
		}
	}
	r.failf("still held after the clients have left:\n  %s", strings.Join(why, "\n  "))
}

func (r *run) held(before process) (why []string) {
	s := r.stats()
	for k, v := range s {
		if v == 0 || strings.HasPrefix(k, "listener.admin.") || strings.HasPrefix(k, "http.admin.") {
			continue
		}
		if v < 0 {
			why = append(why, fmt.Sprintf("%s is %d", k, v))
		}
		for _, z := range zero {
			if strings.HasSuffix(k, z) {
				why = append(why, fmt.Sprintf("%s is %d", k, v))
			}
		}
	}
	var up, open int64
	for _, c := range clusters {
		up += s["cluster."+c.name+".upstream_cx_active"]
	}
	for _, b := range r.backends {
		open += b.open.Load()
	}
	if up != open {
		why = append(why, fmt.Sprintf("upstream_cx_active is %d, the backends have %d connections", up, open))
	}
	p := r.process()
	if p.sockets > before.sockets+int(up) {
		why = append(why, fmt.Sprintf("%d sockets, %d before, %d idle upstream connections: %v", p.sockets, before.sockets, up, r.sockets()))
	}
	if p.pipes > maxPipes {
		why = append(why, fmt.Sprintf("%d pipe ends", p.pipes))
	}
	if p.sum > before.sum+otherSlack {
		why = append(why, fmt.Sprintf("other descriptors: %v, before %v", p.others, before.others))
	}
	sort.Strings(why)
	return why
}

// sockets tells the TCP state (1 established, 8 close-wait, 7 closed) and the hexadecimal ports of the process's sockets that do not listen.
func (r *run) sockets() (list []string) {
	own := map[string]bool{}
	dir := fmt.Sprintf("/proc/%d/fd", r.p.Cmd.Process.Pid)
	fds, _ := os.ReadDir(dir)
	for _, fd := range fds {
		to, _ := os.Readlink(filepath.Join(dir, fd.Name()))
		var inode string
		if n, _ := fmt.Sscanf(to, "socket:[%s", &inode); n == 1 {
			own[strings.TrimSuffix(inode, "]")] = true
		}
	}
	b, _ := os.ReadFile("/proc/net/tcp")
	for _, line := range strings.Split(string(b), "\n") {
		if f := strings.Fields(line); len(f) > 9 && own[f[9]] {
			delete(own, f[9])
			if f[3] != "0A" {
				list = append(list, f[1][9:]+">"+f[2][9:]+" state "+f[3]+" queues "+f[4])
			}
		}
	}
	return append(list, fmt.Sprintf("%d sockets that are not in the TCP table", len(own)))
}

// finish checks what is only known at the end: access log, memory, threads, panics.
func (r *run) finish() {
	if r.p.Ended() {
		r.failf("the process ended: %v\n%s", r.p.Cmd.ProcessState, r.p.Log)
		return
	}
	s := r.stats()
	total := s["http.soak.downstream_rq_total"]
	var lines []string
	for deadline := time.Now().Add(3 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		b, _ := os.ReadFile(filepath.Join(r.dir, "access.log"))
		if lines = strings.Split(strings.TrimSuffix(string(b), "\n"), "\n"); int64(len(lines)) >= total {
			break
		}
	}
	if int64(len(lines)) != total {
		r.failf("%d access-log lines, %d requests", len(lines), total)
	}
	seen := map[string]bool{}
	for _, l := range lines {
		id, _, _ := strings.Cut(l, " ")
		if id != "-" && seen[id] {
			r.failf("request %s is logged twice: %s", id, l)
		}
		seen[id] = true
	}
	if n := r.answered.Load(); n > total {
		r.failf("%d answers, %d requests", n, total)
	}
	p := r.process()
	if p.rss > maxRSS {
		r.failf("RSS is %d MiB", p.rss>>20)
	}
	if p.threads > 40 {
		r.failf("%d threads", p.threads)
	}
	log := r.p.Log.String()
	if i := strings.Index(log, "panic"); i >= 0 {
		r.failf("the log has a panic:\n%s", log[i:min(len(log), i+3000)])
	}
	r.t.Logf("RSS %d MiB, %d threads, %d sockets, other descriptors %v", p.rss>>20, p.threads, p.sockets, p.others)
}
