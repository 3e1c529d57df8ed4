// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// rr makes records from their text form.
func rr(t testing.TB, lines ...string) (out []dns.RR) {
	t.Helper()
	for _, l := range lines {
		r, err := dns.NewRR(l)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

// files writes a resolv.conf and a hosts file.
func files(t testing.TB, conf, hosts string) Config {
	t.Helper()
	dir := t.TempDir()
	c := Config{ResolvConf: filepath.Join(dir, "resolv.conf"), Hosts: filepath.Join(dir, "hosts")}
	for path, text := range map[string]string{c.ResolvConf: conf, c.Hosts: hosts} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// zone answers like a server: "NAME TYPE" to records, "NAME" to an error code.
type zone struct {
	records map[string][]dns.RR
	codes   map[string]int
	asked   []string
	mu      sync.Mutex
}

func (z *zone) reply(q *dns.Msg) *dns.Msg {
	z.mu.Lock()
	defer z.mu.Unlock()
	name, typ := q.Question[0].Name, dns.TypeToString[q.Question[0].Qtype]
	z.asked = append(z.asked, name+" "+typ)
	m := new(dns.Msg)
	m.SetReply(q)
	key := strings.ToLower(name)
	if code, ok := z.codes[key]; ok {
		m.Rcode = code
		return m
	}
	if code, ok := z.codes[key+" "+typ]; ok {
		m.Rcode = code
		return m
	}
	m.Answer = z.records[key+" "+typ]
	known := len(m.Answer) > 0
	for k := range z.records {
		known = known || strings.HasPrefix(k, key+" ")
	}
	if !known {
		m.Rcode = dns.RcodeNameError
	}
	return m
}

func newZone(t testing.TB, lines ...string) *zone {
	z := &zone{records: map[string][]dns.RR{}, codes: map[string]int{}}
	for _, r := range rr(t, lines...) {
		h := r.Header()
		types := []uint16{h.Rrtype}
		if h.Rrtype == dns.TypeCNAME { // an alias is in the answer for every type
			types = []uint16{dns.TypeA, dns.TypeAAAA}
		}
		for _, typ := range types {
			key := h.Name + " " + dns.TypeToString[typ]
			z.records[key] = append(z.records[key], r)
		}
	}
	return z
}

// serve runs the zone as a real server over UDP and TCP on loopback.
func serve(t testing.TB, handle func(w dns.ResponseWriter, q *dns.Msg, tcp bool)) netip.AddrPort {
	t.Helper()
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp4", pc.LocalAddr().String())
	if err != nil {
		t.Skipf("the TCP port of the same number is taken: %v", err)
	}
	for _, s := range []*dns.Server{
		{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { handle(w, q, false) })},
		{Listener: ln, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { handle(w, q, true) })},
	} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go func() { _ = s.ActivateAndServe() }()
		<-started
		t.Cleanup(func() { _ = s.Shutdown() })
	}
	return netip.MustParseAddrPort(pc.LocalAddr().String())
}

func texts(list []netip.Addr) string {
	var out []string
	for _, ip := range list {
		out = append(out, ip.String())
	}
	return strings.Join(out, " ")
}

func lookupOnce(t testing.TB, c Config, name string, o Options) Result {
	t.Helper()
	r := New(c)
	defer r.Close()
	ch := make(chan Result, 16)
	cancel := r.Watch(name, o, func(res Result) { ch <- res })
	defer cancel()
	select {
	case res := <-ch:
		return res
	case <-time.After(20 * time.Second):
		t.Fatal("no result")
	}
	return Result{}
}

func fake(z *zone) Exchange {
	return func(_ context.Context, q *dns.Msg, _ netip.AddrPort, _ bool) (*dns.Msg, error) {
		return z.reply(q), nil
	}
}

func TestLookup_WhenFamiliesAreAsked_ThenTheyComeAsInEnvoy(t *testing.T) {
	z := newZone(t, "both.test. 60 A 10.0.0.1", "both.test. 50 A 10.0.0.2", "both.test. 40 AAAA fd00::1", "four.test. 60 A 10.0.0.4", "six.test. 60 AAAA fd00::6",
		"alias.test. 30 CNAME Both.test.", "broken.test. 60 A 10.0.0.7", "loop.test. 1 CNAME loop.test.", "other.test. 9 CNAME gone.test.")
	for _, k := range []string{"alias.test. A", "alias.test. AAAA"} {
		typ := strings.Fields(k)[1]
		z.records[k] = append(z.records[k], z.records["both.test. "+typ]...)
	}
	z.codes["broken.test. AAAA"] = dns.RcodeServerFailure
	z.codes["dead.test."] = dns.RcodeServerFailure
	c := files(t, "nameserver 192.0.2.1\n", "")
	c.Exchange = fake(z)
	for _, tc := range []struct {
		name   string
		family uint8
		want   string
		ttl    time.Duration
		err    string
	}{
		{"both.test", Auto, "fd00::1", 40 * time.Second, ""},
		{"both.test", V4Only, "10.0.0.1 10.0.0.2", 50 * time.Second, ""},
		{"both.test", V6Only, "fd00::1", 40 * time.Second, ""},
		{"both.test", V4Preferred, "10.0.0.1 10.0.0.2", 50 * time.Second, ""},
		{"both.test", All, "10.0.0.1 10.0.0.2 fd00::1", 40 * time.Second, ""},
		{"four.test", Auto, "10.0.0.4", time.Minute, ""},
		{"four.test", V6Only, "", 0, ""},
		{"six.test", V4Preferred, "fd00::6", time.Minute, ""},
		{"six.test", All, "fd00::6", time.Minute, ""},
		{"alias.test", V4Only, "10.0.0.1 10.0.0.2", 30 * time.Second, ""},
		{"broken.test", Auto, "10.0.0.7", time.Minute, ""},
		{"broken.test", All, "10.0.0.7", time.Minute, ""},
		{"broken.test", V6Only, "", 0, "the server says SERVFAIL"},
		{"dead.test", Auto, "", 0, "the server says SERVFAIL"},
		{"nowhere.test", Auto, "", 0, ""},
		{"loop.test", Auto, "", 0, ""},
		{"other.test", Auto, "", 0, ""},
		{"10.1.2.3", V6Only, "10.1.2.3", 0, ""},
		{"fd00::9", V4Only, "fd00::9", 0, ""},
		{"bad..name", Auto, "", 0, "is no domain name"},
		{"", Auto, "", 0, "is no domain name"},
	} {
		t.Run(fmt.Sprintf("%s/%d", tc.name, tc.family), func(t *testing.T) {
			res := lookupOnce(t, c, tc.name, Options{Family: tc.family, Refresh: time.Hour})
			if texts(res.Addrs) != tc.want || res.TTL != tc.ttl || (res.Err == nil) != (tc.err == "") {
				t.Errorf("got %q ttl %v err %v, want %q %v", texts(res.Addrs), res.TTL, res.Err, tc.want, tc.ttl)
			}
			if res.Err != nil && !strings.Contains(res.Err.Error(), tc.err) {
				t.Errorf("error %v, want %q", res.Err, tc.err)
			}
		})
	}
}

func TestLookup_WhenTheHostsFileKnows_ThenNobodyIsAsked(t *testing.T) {
	z := newZone(t, "dns.test. 1 A 10.0.0.1")
	c := files(t, "nameserver 192.0.2.1\n", "10.9.9.9 One.test one # comment\nfd00::9 one.test\nnonsense x\n# 1.1.1.1 no.test\n")
	c.Exchange = fake(z)
	for name, want := range map[string]string{"one.test": "10.9.9.9 fd00::9", "ONE": "10.9.9.9", "one.test.": "10.9.9.9 fd00::9", "localhost": "127.0.0.1 ::1", "a.localhost": "127.0.0.1 ::1"} {
		if res := lookupOnce(t, c, name, Options{Family: All}); texts(res.Addrs) != want || res.Err != nil {
			t.Errorf("%s: %q %v", name, texts(res.Addrs), res.Err)
		}
	}
	if len(z.asked) != 0 {
		t.Errorf("asked %v", z.asked)
	}
	if res := lookupOnce(t, c, "dns.test", Options{}); texts(res.Addrs) != "10.0.0.1" {
		t.Errorf("%v", res)
	}
}

func TestLookup_WhenSearchDomainsAreSet_ThenNdotsDecides(t *testing.T) {
	c := files(t, "nameserver 192.0.2.1\nsearch ns.svc.test svc.test\noptions ndots:2\n", "")
	for _, tc := range []struct {
		name     string
		noSearch bool
		want     string
	}{
		{"a", false, "a.ns.svc.test. a.svc.test. a."},
		{"a.b.c", false, "a.b.c. a.b.c.ns.svc.test. a.b.c.svc.test."},
		{"a.", false, "a."},
		{"a", true, "a."},
	} {
		z := newZone(t)
		c.Exchange = fake(z)
		lookupOnce(t, c, tc.name, Options{Family: V4Only, NoSearch: tc.noSearch})
		var got []string
		for _, a := range z.asked {
			got = append(got, strings.Fields(a)[0])
		}
		if strings.Join(got, " ") != tc.want {
			t.Errorf("%s: asked %q, want %q", tc.name, got, tc.want)
		}
	}
	z := newZone(t, "a.svc.test. 5 A 10.0.0.1")
	z.codes["a.ns.svc.test."] = dns.RcodeServerFailure
	c.Exchange = fake(z)
	if res := lookupOnce(t, c, "a", Options{Family: V4Only}); res.Err == nil {
		t.Error("a failing candidate must not lead to another name")
	}
}

func TestLookup_WhenServersAreReal_ThenTruncationAndFailuresAreHandled(t *testing.T) {
	var many []string
	for i := range 100 {
		many = append(many, fmt.Sprintf("many.test. 7 A 10.0.1.%d", i))
	}
	z := newZone(t, append(many, "one.test. 7 A 10.0.0.1")...)
	var tcpAsked atomic.Int32
	good := serve(t, func(w dns.ResponseWriter, q *dns.Msg, tcp bool) {
		m := z.reply(q)
		if tcp {
			tcpAsked.Add(1)
		} else {
			m.Truncate(512)
		}
		_ = w.WriteMsg(m)
	})
	silent := serve(t, func(dns.ResponseWriter, *dns.Msg, bool) {})
	failing := serve(t, func(w dns.ResponseWriter, q *dns.Msg, _ bool) {
		m := new(dns.Msg)
		_ = w.WriteMsg(m.SetRcode(q, dns.RcodeServerFailure))
	})
	lying := serve(t, func(w dns.ResponseWriter, q *dns.Msg, _ bool) {
		m := new(dns.Msg)
		m.SetReply(q)
		m.Question[0].Name = "other.test."
		m.Answer = rr(t, "other.test. 1 A 6.6.6.6")
		_ = w.WriteMsg(m)
	})
	garbage := serve(t, func(w dns.ResponseWriter, _ *dns.Msg, _ bool) { _, _ = w.Write([]byte("nonsense")) })
	c := files(t, "", "")
	o := Options{Family: V4Only, Timeout: 300 * time.Millisecond, Tries: 1, Servers: []netip.AddrPort{good}}
	if res := lookupOnce(t, c, "many.test", o); len(res.Addrs) != 100 || tcpAsked.Load() == 0 {
		t.Errorf("%d addresses, %d TCP queries", len(res.Addrs), tcpAsked.Load())
	}
	for name, first := range map[string]netip.AddrPort{"silent": silent, "failing": failing, "lying": lying, "garbage": garbage} {
		o.Servers = []netip.AddrPort{first, good}
		if res := lookupOnce(t, c, "one.test", o); texts(res.Addrs) != "10.0.0.1" {
			t.Errorf("%s first: %+v", name, res)
		}
		o.Servers = []netip.AddrPort{first}
		if res := lookupOnce(t, c, "one.test", o); res.Err == nil || len(res.Addrs) > 0 {
			t.Errorf("%s alone: %+v", name, res)
		}
	}
	before := tcpAsked.Load()
	o.Servers, o.TCP, o.EDNS = []netip.AddrPort{good}, true, 1232
	if res := lookupOnce(t, c, "one.test", o); texts(res.Addrs) != "10.0.0.1" || tcpAsked.Load() == before {
		t.Errorf("over TCP: %+v", res)
	}
	o.Fallback, o.TCP = true, false
	c2 := Config{ResolvConf: filepath.Join(t.TempDir(), "none"), Hosts: c.Hosts}
	if res := lookupOnce(t, c2, "one.test", o); texts(res.Addrs) != "10.0.0.1" {
		t.Errorf("fallback without a system configuration: %+v", res)
	}
}

func TestWatch_WhenTimePasses_ThenNamesAreRefreshedByRateOrTTL(t *testing.T) {
	for _, tc := range []struct {
		name     string
		o        Options
		ttl      int
		min, max time.Duration
	}{
		{"rate", Options{Refresh: 3 * time.Second}, 100, 3 * time.Second, 3 * time.Second},
		{"default", Options{}, 100, 5 * time.Second, 5 * time.Second},
		{"ttl", Options{RespectTTL: true}, 20, 20 * time.Second, 20 * time.Second},
		{"short ttl", Options{RespectTTL: true, MinTTL: 9 * time.Second}, 2, 9 * time.Second, 9 * time.Second},
		{"ttl 0", Options{RespectTTL: true, Refresh: 2 * time.Second}, 0, 2 * time.Second, 2 * time.Second},
		{"jitter", Options{Refresh: time.Second, Jitter: 2 * time.Second}, 0, time.Second, 3 * time.Second},
		{"failure", Options{Refresh: 4 * time.Second}, -1, 4 * time.Second, 4 * time.Second},
		{"backoff", Options{Refresh: time.Hour, FailBase: time.Second, FailMax: 4 * time.Second}, -1, 0, 4 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := files(t, "nameserver 192.0.2.1\n", "")
			synctest.Test(t, func(t *testing.T) {
				z := newZone(t, fmt.Sprintf("a.test. %d A 10.0.0.1", max(tc.ttl, 0)))
				if tc.ttl < 0 {
					z.codes["a.test."] = dns.RcodeServerFailure
				}
				c.Exchange = fake(z)
				r := New(c)
				var at []time.Time
				tc.o.Family = V4Only
				cancel := r.Watch("a.test", tc.o, func(Result) { at = append(at, time.Now()) })
				time.Sleep(200 * time.Second)
				synctest.Wait()
				cancel()
				n := len(at)
				if n < 5 {
					t.Errorf("%d lookups in 200 s", n)
				}
				different := map[time.Duration]bool{}
				for i := 1; i < n; i++ {
					d := at[i].Sub(at[i-1])
					different[d] = true
					if d < tc.min || d > tc.max {
						t.Errorf("lookup %d came after %v, want %v to %v", i, d, tc.min, tc.max)
					}
				}
				if tc.min != tc.max && len(different) < 3 {
					t.Errorf("no randomness: %v", different)
				}
				time.Sleep(time.Hour)
				synctest.Wait()
				if len(at) != n {
					t.Error("looked up after cancel")
				}
				r.Close()
			})
		})
	}
}

func TestWatch_WhenLookupsFail_ThenTheLastGoodAddressesStay(t *testing.T) {
	c := files(t, "nameserver 192.0.2.1\n", "")
	synctest.Test(t, func(t *testing.T) {
		z := newZone(t, "a.test. 5 A 10.0.0.1")
		c.Exchange = fake(z)
		r := New(c)
		var got []Result
		defer r.Watch("a.test", Options{Family: V4Only, Refresh: time.Second}, func(res Result) { got = append(got, res) })()
		synctest.Wait()
		set := func(code int) {
			z.mu.Lock()
			z.codes["a.test."] = code
			z.mu.Unlock()
			time.Sleep(time.Second)
			synctest.Wait()
		}
		set(dns.RcodeServerFailure)
		set(dns.RcodeNameError)
		set(dns.RcodeRefused)
		if len(got) != 4 {
			t.Fatalf("%d results", len(got))
		}
		if got[1].Err == nil || texts(got[1].Addrs) != "10.0.0.1" {
			t.Errorf("after a failure: %+v", got[1])
		}
		if got[2].Err != nil || len(got[2].Addrs) != 0 {
			t.Errorf("the name is gone, which is an answer: %+v", got[2])
		}
		if got[3].Err == nil || len(got[3].Addrs) != 0 {
			t.Errorf("the last good answer is that there is none: %+v", got[3])
		}
		r.Close()
	})
}

func TestWatch_WhenManyNamesAreSlow_ThenEightAreLookedUpAtATime(t *testing.T) {
	c := files(t, "nameserver 192.0.2.1\n", "")
	synctest.Test(t, func(t *testing.T) {
		var now, most atomic.Int32
		c.Exchange = func(ctx context.Context, _ *dns.Msg, _ netip.AddrPort, _ bool) (*dns.Msg, error) {
			most.Store(max(most.Load(), now.Add(1)))
			defer now.Add(-1)
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(time.Second):
				return nil, errors.New("slow")
			}
		}
		r := New(c)
		var done atomic.Int32
		for i := range 100 {
			r.Watch(fmt.Sprintf("n%d.test", i), Options{Family: V4Only, Tries: 1, Refresh: time.Hour}, func(Result) { done.Add(1) })
		}
		time.Sleep(15 * time.Second)
		synctest.Wait()
		if most.Load() != parallelMax || done.Load() != 100 {
			t.Errorf("%d at a time, %d done", most.Load(), done.Load())
		}
		r.Close()
	})
}

func TestClose_WhenLookupsAreUnderWay_ThenTheyEndAndNothingIsCalled(t *testing.T) {
	c := files(t, "nameserver 192.0.2.1\n", "")
	synctest.Test(t, func(t *testing.T) {
		c.Exchange = func(ctx context.Context, _ *dns.Msg, _ netip.AddrPort, _ bool) (*dns.Msg, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		r := New(c)
		called := 0
		cancel := r.Watch("a.test", Options{}, func(Result) { called++ })
		r.Watch("b.test", Options{}, func(Result) { called++ })
		synctest.Wait()
		cancel()
		cancel()
		r.Close()
		if called != 0 {
			t.Errorf("%d calls", called)
		}
		r.Watch("c.test", Options{}, func(Result) { t.Error("called after Close") })()
		time.Sleep(time.Minute)
	})
}

func TestSystem_WhenFilesChange_ThenTheyAreReadAgain(t *testing.T) {
	c := files(t, "nameserver 192.0.2.1\noptions rotate timeout:3 attempts:4\n", "10.0.0.1 a.test\n")
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(c.ResolvConf, c.Hosts)
		conf, hosts := s.read("a.test")
		if texts(hosts) != "10.0.0.1" || !conf.rotate || conf.timeout != 3*time.Second || conf.tries != 4 || len(conf.servers) != 1 {
			t.Errorf("%+v %v", conf, hosts)
		}
		if err := os.WriteFile(c.Hosts, []byte("10.0.0.22 a.test\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(c.ResolvConf); err != nil {
			t.Fatal(err)
		}
		if _, hosts := s.read("a.test"); texts(hosts) != "10.0.0.1" {
			t.Error("files are looked at every five seconds only")
		}
		time.Sleep(6 * time.Second)
		conf, hosts = s.read("a.test")
		if texts(hosts) != "10.0.0.22" || !slices.Equal(conf.servers, []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")}) {
			t.Errorf("%+v %v", conf, hosts)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	m := new(dns.Msg)
	m.SetQuestion("a.test.", dns.TypeA)
	m.Answer = rr(f, "a.test. 1 CNAME b.test.", "b.test. 1 A 1.2.3.4")
	b, err := m.Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		m := new(dns.Msg)
		if m.Unpack(b) != nil || len(m.Question) != 1 {
			return
		}
		if res := answer(m); len(res.Addrs) > addrsMax {
			t.Fatal("too many addresses")
		}
	})
}
