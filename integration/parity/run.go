// SPDX-License-Identifier: Apache-2.0

package parity

import (
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"
)

// Runner runs groups against one binary.
type Runner struct {
	// Bin is the proxy to run.
	Bin string
	// Ports is the pool of listening ports; see NewRunner.
	ports *portPool
	// Keep leaves the scratch directory of each group in place.
	Keep bool
}

// NewRunner returns a runner for bin that listens on ports "FIRST-LAST".
func NewRunner(bin, ports string) (*Runner, error) {
	p, err := newPortPool(ports)
	return &Runner{Bin: bin, ports: p}, err
}

// groupRun is the state of one group on one proxy.
type groupRun struct {
	g        *Group
	r        *Runner
	v        *vars
	norm     *normaliser
	backNorm []rule // for what backends show
	backends map[string]*backend
	hole     *blackhole
	p        *proxy
	logs     map[string]int64                  // bytes of each log file already read
	base     statSnapshot                      // gauges of the proxy at rest
	sessions map[string]tls.ClientSessionCache // of the case
}

const (
	defaultTimeout = 1500 * time.Millisecond
	defaultSettle  = 25 * time.Millisecond
	// matchWait is how long late log lines and counters may stand still short of the expectation before the case is given up.
	matchWait = 450 * time.Millisecond
	// leakWait is how long gauges may take to come back to rest after a case.
	leakWait = 2 * time.Second
	// stableWait is how long log and counters must not move when there is no expectation.
	stableWait = 300 * time.Millisecond
)

// RunGroup runs the selected cases of a group on a fresh process and returns their results by case name. want holds expectations: with one,
// a case waits until late log lines and counters agree; without, until they stand still.
func (r *Runner) RunGroup(g *Group, selected func(string) bool, want map[string]*Result) (map[string]*Result, error) {
	out := map[string]*Result{}
	run, err := r.openAndStart(g)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", g.Name, err)
	}
	defer func() { run.close() }()
	for _, c := range g.Cases {
		if !selected(g.Name + "/" + c.Name) {
			continue
		}
		if run.p == nil || !run.p.alive() {
			if err := run.start(); err != nil {
				out[c.Name] = &Result{Case: c.Name, Sections: []Section{{"error", err.Error() + "\n"}}}
				run.p = nil
				if len(out) > 2 {
					return out, nil
				}
				continue
			}
		}
		res, err := run.runCase(c, want[c.Name])
		if err != nil {
			res.add("error", err.Error()+"\n")
		}
		if !run.p.alive() {
			res.add("error", "the proxy ended: "+run.p.cmd.ProcessState.String()+"\n"+run.p.output.tail()+"\n")
		}
		out[c.Name] = res
	}
	for _, c := range g.Validate {
		if selected(g.Name + "/" + c.Name) {
			out[c.Name] = run.validate(c)
		}
	}
	return out, nil
}

// openAndStart opens the group's ports and starts the proxy. A port that somebody else took between the choice and the bind is no answer of
// the proxy: such a start is tried again on other ports. Any other failure to start is left to the first case.
func (r *Runner) openAndStart(g *Group) (run *groupRun, err error) {
	for range 3 {
		if run, err = r.open(g); err != nil {
			if errors.Is(err, syscall.EADDRINUSE) {
				continue
			}
			return nil, err
		}
		if len(g.Cases) == 0 {
			return run, nil
		}
		err = run.start()
		if err == nil {
			return run, nil
		}
		run.p = nil
		if !strings.Contains(strings.ToLower(err.Error()), "address already in use") {
			return run, nil
		}
		run.close()
	}
	return nil, err
}

func (r *Runner) open(g *Group) (*groupRun, error) {
	dir, err := os.MkdirTemp("", "parity-")
	if err != nil {
		return nil, err
	}
	run := &groupRun{g: g, r: r, v: &vars{ports: map[string]int{}, dir: dir}, backends: map[string]*backend{}}
	for _, n := range g.portNames() {
		if run.v.ports[n], err = r.ports.take(); err != nil {
			return nil, err
		}
	}
	for _, n := range append(append([]string{}, defaultBackends...), g.Backends...) {
		if run.backends[n], err = newBackend(n, run.v.ports[n], g.BackendTLS[n]); err != nil {
			return nil, err
		}
	}
	if run.hole, err = newBlackhole(run.v.ports["blackhole"]); err != nil {
		return nil, err
	}
	if run.backNorm, err = rules(g.NormaliseBackend); err != nil {
		return nil, err
	}
	run.norm, err = newNormaliser(run.v, g.Normalise)
	return run, err
}

func (run *groupRun) start() error {
	text, err := run.g.bootstrap(run.v)
	if err != nil {
		return err
	}
	run.logs, run.base = map[string]int64{}, nil
	for _, f := range run.logFiles() {
		os.Remove(f)
	}
	if err := run.writeFiles(run.g.Files); err != nil {
		return err
	}
	run.p, err = startProxy(run.r.Bin, run.v.dir, text, run.v.ports["admin"], run.g.Args)
	return err
}

func (run *groupRun) close() {
	if run.p != nil {
		run.p.stop()
	}
	for _, b := range run.backends {
		b.close()
	}
	if run.hole != nil {
		run.hole.close()
	}
	if run.r.Keep {
		fmt.Fprintf(os.Stderr, "%s: kept %s\n", run.g.Name, run.v.dir)
	} else {
		os.RemoveAll(run.v.dir)
	}
}

// settleGauges waits until nothing of the case is left in the proxy. It returns the gauges that stay up: a leak. They count as the
// normal state from then on, so that one leak does not slow down or fail every later case.
func (run *groupRun) settleGauges() (leaked string, err error) {
	for deadline := time.Now().Add(leakWait); ; time.Sleep(5 * time.Millisecond) {
		now, err := readStats(run.v.ports["admin"], run.norm)
		if err != nil {
			return "", err
		}
		if leaked = now.busy(run.base); leaked == "" || time.Now().After(deadline) {
			run.base = now
			return leaked, nil
		}
	}
}

func (run *groupRun) runCase(c *Case, want *Result) (*Result, error) {
	res := &Result{Case: c.Name}
	for name, b := range run.backends {
		_, tcp := c.TCP[name]
		b.begin(expandReplies(run.v, c.Backend[name]), c.TCP[name], tcp, c.BackendH2[name])
	}
	before, err := readStats(run.v.ports["admin"], run.norm)
	if err != nil {
		return res, err
	}
	run.readLogs(true)
	run.sessions = map[string]tls.ClientSessionCache{}
	conns, order, stepErr := map[string]*clientConn{}, []string(nil), error(nil)
	for i, s := range c.Steps {
		if s.Admin != "" {
			name, text := run.admin(i, s)
			res.add(name, text)
			continue
		}
		if stepErr = run.step(c, s, conns, &order); stepErr != nil {
			break
		}
	}
	settle := time.Duration(c.Settle)
	if settle == 0 {
		settle = defaultSettle
	}
	time.Sleep(settle)
	for _, n := range order {
		text, units := conns[n].render()
		if c.AnyEnd || run.g.AnyEnd {
			text = strings.NewReplacer("end fin\n", "end ended\n", "end rst\n", "end ended\n").Replace(text)
		}
		if c.Summary {
			text = countUnits(run.norm, units)
		}
		res.add("conn "+n, run.norm.text(text))
	}
	for _, n := range sortedKeys(run.backends) {
		if text := run.backends[n].render(c.Summary); text != "" {
			res.add("backend "+n, run.backendText(text))
		}
	}
	for _, n := range order {
		conns[n].shut("close")
	}
	run.closeRaw(c)
	err = run.late(c, res, before.plus(run.clockDigits(c, conns)), want, conns)
	for _, b := range run.backends {
		b.closeConns()
	}
	if stepErr != nil {
		err = stepErr
	}
	if err == nil {
		leaked := ""
		leaked, err = run.settleGauges()
		res.add("leaked gauges", leaked)
	}
	return res, err
}

// closeRaw ends the backends' side of raw connections: one ends only when both sides have, and the proxy logs it then.
func (run *groupRun) closeRaw(c *Case) {
	if len(c.TCP) == 0 && !c.WireBytes {
		return
	}
	time.Sleep(defaultSettle)
	for name, b := range run.backends {
		if _, raw := c.TCP[name]; raw || c.WireBytes {
			b.closeConns()
		}
	}
}

// backendText normalises what a backend shows.
func (run *groupRun) backendText(text string) string {
	text = run.norm.text(text)
	for _, r := range run.backNorm {
		text = r.re.ReplaceAllString(text, r.out)
	}
	return text
}

var serviceTime = regexp.MustCompile(`(?i)x-envoy-upstream-service-time: (\d+)`)

// clockDigits returns, per byte counter, how many bytes the digits of x-envoy-upstream-service-time beyond the first added to it, and how many
// the machine's own address adds to X-Forwarded-For, so that byte counts depend neither on how long a backend took nor on the machine.
func (run *groupRun) clockDigits(c *Case, conns map[string]*clientConn) statSnapshot {
	out := statSnapshot{}
	for name, cc := range conns {
		l := run.g.Listeners[c.listenerOf(name)]
		if l == nil {
			continue
		}
		prefix := c.listenerOf(name)
		if p, ok := l.HCM["stat_prefix"].(string); ok {
			prefix = p
		}
		cc.mu.Lock()
		for _, m := range serviceTime.FindAllSubmatch(cc.got, -1) {
			out["http."+prefix+".downstream_cx_tx_bytes_total"] += int64(len(m[1]) - 1)
		}
		cc.mu.Unlock()
	}
	if extra := len(localIP()) - len("127.0.0.1"); extra != 0 {
		for name, b := range run.backends {
			out["cluster."+name+".upstream_cx_tx_bytes_total"] += int64(extra * b.count("<local-ip>", run.norm))
		}
	}
	return out
}

func expandReplies(v *vars, in []*Reply) []*Reply {
	for _, r := range in {
		for _, p := range []*string{&r.Send, &r.Body} {
			if s, err := v.expand(*p); err == nil {
				*p = s
			}
		}
		for i := range r.Headers {
			if s, err := v.expand(r.Headers[i]); err == nil {
				r.Headers[i] = s
			}
		}
		expandReplies(v, r.Then)
	}
	return in
}

// late adds the log and stats sections, which the proxy completes some time after the client saw the answer.
func (run *groupRun) late(c *Case, res *Result, before statSnapshot, want *Result, conns map[string]*clientConn) error {
	patience := matchWait
	if want != nil && Diff(want.early(), res.early(), c.Ignore, c.Ours) != "" {
		patience = defaultSettle // The case has failed already.
	}
	ignore := append(append([]string{}, run.g.IgnoreStats...), c.IgnoreStats...)
	wire := run.wireBytes(c, conns)
	n := len(res.Sections)
	changed, last := time.Now(), ""
	for {
		after, err := readStats(run.v.ports["admin"], run.norm)
		if err != nil {
			return err
		}
		res.Sections = res.Sections[:n]
		for name, text := range run.readLogs(false) {
			res.add("log "+name, text)
		}
		logs := res.Sections[n:]
		sort.Slice(logs, func(i, j int) bool { return logs[i].Name < logs[j].Name })
		res.add("stats", after.moved(before, ignore, wire))
		if want != nil {
			probe := &Result{Sections: res.Sections[n:]}
			late := &Result{}
			for _, s := range want.Sections {
				if s.Name == "stats" || strings.HasPrefix(s.Name, "log ") {
					late.add(s.Name, s.Text)
				}
			}
			lateOurs := map[string]string{}
			for k, v := range c.Ours {
				if k == "stats" || strings.HasPrefix(k, "log") {
					lateOurs[k] = v
				}
			}
			if Diff(late, probe, c.Ignore, lateOurs) == "" {
				return nil
			}
		}
		if now := res.String(); now != last {
			last, changed = now, time.Now()
		}
		if want != nil {
			if time.Since(changed) > patience {
				return nil
			}
			time.Sleep(10 * time.Millisecond)
			continue
		}
		// A stalled proxy must not pass for a settled one: the clients are gone, so no downstream connection may be left.
		if quiet := time.Since(changed); quiet > stableWait && !after.downstreamOpen() || quiet > 5*stableWait {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (run *groupRun) logFiles() []string {
	files, _ := filepath.Glob(filepath.Join(run.v.dir, "*.log"))
	return files
}

// readLogs returns the lines written since the last mark, by file; mark moves the marks.
func (run *groupRun) readLogs(mark bool) map[string]string {
	out := map[string]string{}
	for _, f := range run.logFiles() {
		b, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		from := min(run.logs[f], int64(len(b)))
		if mark {
			run.logs[f] = int64(len(b))
		} else if len(b) > int(from) {
			out[strings.TrimSuffix(filepath.Base(f), ".log")] = run.norm.text(printableLines(string(b[from:])))
		}
	}
	return out
}

// printableLines quotes lines that are not valid UTF-8, so that a golden stays a text file.
func printableLines(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		if !utf8.ValidString(l) {
			lines[i] = strconv.Quote(l)
		}
	}
	return strings.Join(lines, "\n")
}

func countUnits(n *normaliser, units []string) string {
	count := map[string]int{}
	for _, u := range units {
		count[n.text(u)]++
	}
	var w strings.Builder
	for _, u := range sortedKeys(count) {
		fmt.Fprintf(&w, "%d times\n%s", count[u], u)
	}
	return w.String()
}

func (run *groupRun) step(c *Case, s *Step, conns map[string]*clientConn, order *[]string) error {
	if s.Wait > 0 {
		time.Sleep(time.Duration(s.Wait))
		return nil
	}
	if s.Write != nil {
		return run.writeFiles(s.Write)
	}
	if s.Seen != "" {
		return run.awaitSeen(s)
	}
	name := s.Conn
	if name == "" {
		name = "c"
	}
	cc := conns[name]
	if cc == nil {
		var err error
		if cc, err = dialClient(name, c.Conns[name], run.v, run.sessions); err != nil {
			return err
		}
		if l := run.g.Listeners[c.listenerOf(name)]; l != nil && l.TCPProxy != nil {
			cc.raw = true
		}
		conns[name] = cc
		*order = append(*order, name)
	}
	cc.raw = cc.raw || s.Read > 0 || s.Hello != nil
	timeout := time.Duration(s.Timeout)
	if timeout == 0 {
		timeout = defaultTimeout
	}
	for i := 0; i < max(1, s.Repeat); i++ {
		send := run.send
		if cc.h2 != nil && s.Send == "" {
			send = run.sendH2
		}
		if err := send(cc, s); err != nil {
			return err
		}
		run.awaitStep(cc, s, timeout)
	}
	if s.Close != "" {
		cc.shut(s.Close)
	}
	if s.ExpectClose > 0 {
		cc.await(time.Duration(s.ExpectClose), func() bool { return false })
	}
	return nil
}

func (c *Case) listenerOf(conn string) string {
	if to := c.Conns[conn].To; to != "" {
		return to
	}
	return "main"
}

func (run *groupRun) send(cc *clientConn, s *Step) error {
	var b []byte
	var err error
	switch {
	case s.Req != "":
		if b, err = buildRequest(s); err != nil {
			return err
		}
	case s.Send != "":
		text, err := run.v.expand(s.Send)
		if err != nil {
			return err
		}
		if b, err = Unescape(text); err != nil {
			return err
		}
	case s.Hello != nil:
		b = clientHello(s.Hello)
		for s.Hello.Split > 0 && len(b) > s.Hello.Split {
			cc.write(b[:s.Hello.Split])
			b = b[s.Hello.Split:]
			time.Sleep(2 * time.Millisecond)
		}
	}
	if !cc.raw && len(b) > 0 {
		methods := methodsOf(b)
		if s.Req != "" {
			methods = methods[:1]
		}
		if s.Method != "" {
			methods = []string{s.Method}
		}
		cc.mu.Lock()
		cc.methods = append(cc.methods, methods...)
		cc.mu.Unlock()
	}
	cc.write(b)
	return nil
}

func (run *groupRun) awaitStep(cc *clientConn, s *Step, timeout time.Duration) {
	switch {
	case s.Until != "":
		text := ""
		cc.await(timeout, func() bool { text, _ = cc.renderLocked(); return strings.Contains(text, s.Until) })
	case s.Read > 0:
		cc.awaitBytes(s.Read, timeout)
	case s.Recv != nil && *s.Recv > 0:
		cc.awaitResponses(*s.Recv, timeout)
	case s.Recv == nil && (s.Req != "" && !s.Open || s.Send != "" && cc.h2 == nil) && !cc.raw:
		cc.awaitResponses(1, timeout)
	}
}
