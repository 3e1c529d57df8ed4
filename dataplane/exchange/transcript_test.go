// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/match"
	"sidecar/dataplane/route"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/stats"
)

var update = flag.Bool("update", false, "rewrite the expected output of the transcripts")

// script runs one transcript: blocks of a command line, input lines, "----", and what could be seen afterwards, indented. An input line gets CRLF
// unless it ends with a backslash.
//
//	set KEY=VALUE…              before the first connection
//	client N                    sends the input on client connection N, dialling it when it is new
//	upstream K.N                answers on the Nth connection that host K accepted
//	close|fin|rst client N, close|fin|rst upstream K.N
//	refuse K                    host K stops listening
//	wait DURATION               moves the clock
//	stats                       prints counters that moved
type script struct {
	t       *testing.T
	r       *rig
	split   bool // one byte at a time
	clients map[string]*peer
	ups     map[string]*peer
	count   map[int]int
	order   []string
	logged  int
	done    map[string]bool
}

func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no transcripts", err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			text, err := os.ReadFile(f)
			must(t, err)
			got := runScript(t, string(text), false)
			if *update {
				must(t, os.WriteFile(f, []byte(got), 0o644))
				return
			}
			diff(t, string(text), got)
		})
	}
}

// TestTranscripts_WhenInputComesByteByByte_ThenSameOutcome is chunk invariance at the exchange level. Files whose chunk boundaries follow the reads
// say so in their first line.
func TestTranscripts_WhenInputComesByteByByte_ThenSameOutcome(t *testing.T) {
	files, _ := filepath.Glob("testdata/*.txt")
	for _, f := range files {
		text, err := os.ReadFile(f)
		must(t, err)
		if strings.HasPrefix(string(text), "# no split") {
			continue
		}
		t.Run(filepath.Base(f), func(t *testing.T) { diff(t, string(text), runScript(t, string(text), true)) })
	}
}

func diff(t *testing.T, want, got string) {
	t.Helper()
	if want == got {
		return
	}
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := 0; i < len(w) || i < len(g); i++ {
		var a, b string
		if i < len(w) {
			a = w[i]
		}
		if i < len(g) {
			b = g[i]
		}
		if a != b {
			t.Fatalf("line %d:\n want %q\n got  %q\n\nfull output:\n%s", i+1, a, b, got)
		}
	}
}

func runScript(t *testing.T, text string, split bool) string {
	s := &script{t: t, split: split, clients: map[string]*peer{}, ups: map[string]*peer{}, count: map[int]int{}, done: map[string]bool{}}
	s.r = newRig(t, 3)
	s.r.rowOf = map[string]*snapshot.Cluster{}
	s.r.row = s.r.cluster("c", s.r.ups[0].Addr)
	s.r.cluster("two", s.r.ups[0].Addr, s.r.ups[1].Addr, s.r.ups[2].Addr)
	s.r.cluster("shadow", s.r.ups[2].Addr)
	s.r.cluster("none")
	var out strings.Builder
	ls := strings.Split(text, "\n")
	for i := 0; i < len(ls); {
		line := ls[i]
		i++
		if line == "" || line[0] == '#' {
			if i < len(ls) || line != "" {
				out.WriteString(line + "\n")
			}
			continue
		}
		out.WriteString(line + "\n")
		var input strings.Builder
		for i < len(ls) && ls[i] != "----" {
			out.WriteString(ls[i] + "\n")
			if l := ls[i]; strings.HasSuffix(l, "\\") {
				input.WriteString(l[:len(l)-1])
			} else {
				input.WriteString(l + "\r\n")
			}
			i++
		}
		i++
		for i < len(ls) && strings.HasPrefix(ls[i], "  ") {
			i++
		}
		out.WriteString("----\n")
		s.command(line, input.String())
		s.observe(&out, line)
	}
	s.end()
	return out.String()
}

func (s *script) end() {
	for _, p := range s.clients {
		p.close()
	}
	s.r.turn()
	s.r.wait(1000 * sys.Second)
	s.r.check()
	if n := s.r.env.Connections(); n != 0 {
		s.t.Errorf("%d connections are left", n)
	}
	if n := s.r.env.shadows.Live(); n != 0 {
		s.t.Errorf("%d mirrored requests are left", n)
	}
	for _, p := range s.ups {
		p.close()
	}
}

func (s *script) send(p *peer, input string) {
	if !s.split {
		p.write(input)
		return
	}
	for i := range len(input) {
		if _, err := unix.Write(p.FD, []byte(input[i:i+1])); err != nil {
			return // the other side has had enough
		}
		s.r.turn()
	}
}

func (s *script) command(line, input string) {
	f := strings.Fields(line)
	switch f[0] {
	case "set":
		for _, kv := range f[1:] {
			k, v, _ := strings.Cut(kv, "=")
			s.set(k, v)
		}
		return
	case "client":
		p := s.clients[f[1]]
		if p == nil {
			p = s.r.dial()
			s.clients[f[1]] = p
			s.order = append(s.order, "c"+f[1])
		}
		s.send(p, input)
	case "upstream":
		p := s.ups[f[1]]
		if p == nil {
			s.t.Fatalf("%s: there is no such connection", line)
		}
		s.send(p, input)
	case "close", "fin", "rst":
		m := s.clients
		if f[1] == "upstream" {
			m = s.ups
		}
		p := m[f[2]]
		switch f[0] {
		case "fin":
			p.closeWrite()
		default:
			p.close()
			delete(m, f[2])
		}
	case "refuse":
		k, _ := strconv.Atoi(f[1])
		unix.Close(s.r.ups[k].FD)
		s.r.ups[k].FD = -1
	case "wait":
		d, err := time.ParseDuration(f[1])
		must(s.t, err)
		s.r.wait(sys.Nanos(d))
	case "stats":
	default:
		s.t.Fatalf("unknown command %q", line)
	}
	s.r.turn()
}

func (s *script) observe(out *strings.Builder, line string) {
	show := func(who, text string, eof bool) {
		if text != "" {
			text = lines(text)
			text = strings.TrimSuffix(text, "\n")
			for _, l := range strings.Split(text, "\n") {
				fmt.Fprintf(out, "  %s| %s\n", who, l)
			}
		}
		if eof && !s.done[who] {
			s.done[who] = true
			fmt.Fprintf(out, "  %s| <end>\n", who)
		}
	}
	for k, b := range s.r.ups {
		for b.FD >= 0 {
			p := b.accept()
			if p == nil {
				break
			}
			s.count[k]++
			name := fmt.Sprintf("%d.%d", k, s.count[k])
			s.ups[name] = p
			s.order = append(s.order, "u"+name)
			fmt.Fprintf(out, "  u%s| <connected>\n", name)
		}
	}
	for _, who := range s.order {
		m := s.clients
		if who[0] == 'u' {
			m = s.ups
		}
		if p := m[who[1:]]; p != nil {
			text, eof := p.read()
			show(who, text, eof)
		}
	}
	for ; s.logged < len(s.r.log); s.logged++ {
		fmt.Fprintf(out, "  log| %s\n", s.r.log[s.logged])
	}
	if strings.HasPrefix(line, "stats") {
		s.stats(out)
	}
	out.WriteString("")
}

func (s *script) stats(out *strings.Builder) {
	for _, d := range []struct {
		prefix string
		def    *stats.Def
	}{{"http.t.", stats.HCMDef}, {"cluster.c.", stats.ClusterDef}, {"cluster.two.", stats.ClusterDef}} {
		sc := s.r.reg.Scope(d.prefix, d.def)
		for i := range d.def.Stats {
			st := &d.def.Stats[i]
			if st.Kind == stats.Histogram || st.Kind == stats.Text || strings.Contains(st.Name, "bytes") {
				continue
			}
			if v, _ := sc.Value(i); v != 0 {
				fmt.Fprintf(out, "  %s%s: %d\n", d.prefix, st.Name, v)
			}
		}
		sc.Release()
	}
}

// set changes the configuration of the rig.
func (s *script) set(k, v string) {
	r := s.r
	h, e, f := r.hcm, r.route(), r.route().Forward
	dur := func() sys.Nanos {
		d, err := time.ParseDuration(v)
		must(s.t, err)
		return sys.Nanos(d)
	}
	num := func() int { n, err := strconv.Atoi(v); must(s.t, err); return n }
	retry := func() *route.Retry {
		if f.Retry == nil {
			f.Retry = &route.Retry{Num: 1, MaxSelect: 1}
		}
		return f.Retry
	}
	switch k {
	case "cluster":
		f.Cluster = r.in.Cluster(v)
	case "retry_on":
		on, ok := route.ParseRetryOn([]byte(v))
		if !ok {
			s.t.Fatal("retry_on", v)
		}
		retry().On = on
	case "num_retries":
		retry().Num = uint32(num())
	case "codes":
		retry().Codes = []uint32{uint32(num())}
	case "per_try":
		retry().PerTry = dur()
	case "previous_hosts":
		retry().PreviousHosts, retry().MaxSelect = true, 8
	case "timeout":
		f.Timeout = dur()
	case "mirror":
		f.Mirrors = []route.Mirror{{Cluster: r.in.Cluster(v)}}
	case "upgrade":
		h.Upgrades = []snapshot.HCMUpgrade{{Type: v, Enabled: true}}
	case "idle":
		h.ConnIdle = dur()
	case "stream_idle":
		h.StreamIdle = dur()
	case "request_timeout":
		h.RequestTimeout = dur()
	case "headers_timeout":
		h.HeadersTimeout = dur()
	case "max_stream":
		h.MaxStream = dur()
	case "max_conn_duration":
		h.MaxConnDuration = dur()
	case "delayed_close":
		h.DelayedClose = dur()
	case "max_requests_per_connection":
		h.MaxRequestsPerConn = uint32(num())
	case "upstream_max_requests":
		r.row.MaxRequestsPerConn = uint32(num())
	case "upstream_idle":
		r.row.IdleTimeout = dur()
	case "max_connections":
		r.row.Breakers[0].MaxConnections = uint32(num())
	case "max_pending":
		r.row.Breakers[0].MaxPending = uint32(num())
	case "max_requests":
		r.row.Breakers[0].MaxRequests = uint32(num())
	case "max_retries":
		r.rowOf["c"].Breakers[0].MaxRetries = uint32(num())
	case "use_remote_address":
		h.UseRemoteAddr = true
	case "codec":
		h.Codec = map[string]snapshot.Codec{"http1": snapshot.CodecHTTP1, "http2": snapshot.CodecHTTP2}[v]
	case "http10":
		h.H1.AcceptHTTP10 = true
	case "proxy_100":
		h.Proxy100Continue = true
	case "via":
		h.Via = v
	case "normalize":
		h.NormalizePath = true
	case "attempts":
		r.vh.IncludeAttempts, r.vh.IncludeAttemptsResp = true, true
	case "trailers":
		h.H1.EnableTrailers = true
		r.row.H1.EnableTrailers = true
	case "redirect":
		e.Kind, e.Forward, e.Redirect = route.ActionRedirect, nil, &route.Redirect{Host: v, Code: 301}
	case "direct":
		e.Kind, e.Forward, e.Direct = route.ActionDirect, nil, &route.Direct{Status: uint16(num()), Body: []byte("hello")}
	case "internal_redirect":
		f.InternalRedirect = &route.InternalRedirect{Max: uint32(num())}
	case "buffer_limit":
		r.lis.BufferLimit = num()
	case "maintenance":
		r.row.MaintenanceKey = "m"
		s.t.Fatal("not here")
	case "connect":
		e.Path = route.PathMatch{Kind: route.PathConnect}
		f.Upgrades = []route.Upgrade{{Type: "connect", Enabled: true, Connect: v == "terminate"}}
	case "strict":
		h.Router.StrictCheck = []httpmsg.Key{httpmsg.KeyOf(v)}
	case "internal":
		h.UseRemoteAddr = true
		h.InternalRanges = []netip.Prefix{netip.MustParsePrefix(v)}
	case "upstream_log":
		h.Router.UpstreamLogs = h.AccessLogs
	case "log_interval":
		h.LogFlushInterval = dur()
	case "suppress":
		h.Router.SuppressEnvoyHeaders = true
	case "server":
		h.ServerHeader = snapshot.ServerPassThrough
	case "host_auto":
		f.HostAuto = true
	default:
		s.t.Fatalf("unknown setting %s", k)
	}
	_ = match.Fraction{}
}
