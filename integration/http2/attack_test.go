// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	xh2 "golang.org/x/net/http2"
)

const (
	// attackers is how many connections attack at once.
	attackers = 2

	// maxGrowth bounds how much memory an attack may cost.
	maxGrowth = 32 << 20

	// maxGrowthHeld bounds the memory of streams that are not read: 90 on one connection, 8 MB each.
	maxGrowthHeld = 16 << 20

	// maxP99 is how long the requests of others may take meanwhile. It only tells served from starved, as attackers, backend and clients share the
	// machine with the process; the figure is printed.
	maxP99 = 2 * time.Second
)

// attack is one way to harm a proxy that speaks HTTP/2.
type attack struct {
	name string

	// run attacks on one connection until that is cut off or the time is over.
	run func(a *attacker)

	// counter is what must have moved.
	counter string

	// deaf connections read nothing; settings are what they send.
	deaf     bool
	settings []xh2.Setting

	// once attacks hold one connection for the whole time; lawful ones are not cut off, as every frame is one that a client may send.
	once, lawful bool

	growth int64 // bound for the memory, if not maxGrowth

	upstream string // Http2ProtocolOptions of the cluster, "" for HTTP/1
}

var attacks = []attack{
	{name: "rapid reset", counter: "http.h.downstream_rq_too_many_premature_resets", run: func(a *attacker) {
		for a.going() {
			_ = a.f.WriteRSTStream(a.request("GET", "/slow", true), xh2.ErrCodeCancel)
			a.room()
		}
	}},
	{name: "rapid reset, h2 upstream", upstream: "{}", counter: "http.h.downstream_rq_too_many_premature_resets", run: func(a *attacker) {
		for a.going() {
			_ = a.f.WriteRSTStream(a.request("GET", "/slow", true), xh2.ErrCodeCancel)
			a.room()
		}
	}},
	{name: "late resets, h2 upstream", upstream: "{}", lawful: true, counter: "cluster.b.upstream_rq_tx_reset", run: func(a *attacker) {
		for a.going() { // the upstream works for each: resets this late are not premature
			first := a.id
			for range 100 {
				a.request("GET", "/slow", true)
			}
			a.flush()
			for deadline := time.Now().Add(1100 * time.Millisecond); time.Now().Before(deadline) && a.going(); {
				time.Sleep(10 * time.Millisecond)
			}
			for id := first; id < a.id; id += 2 {
				_ = a.f.WriteRSTStream(id, xh2.ErrCodeCancel)
			}
		}
		a.flush()
	}},
	{name: "made you reset: window overflow", counter: "http2.tx_reset", run: func(a *attacker) {
		for a.going() {
			_ = a.f.WriteWindowUpdate(a.request("GET", "/slow", true), 1<<31-1)
			a.room()
		}
	}},
	{name: "made you reset: content after the end", counter: "http2.tx_reset", run: func(a *attacker) {
		for a.going() {
			_ = a.f.WriteData(a.request("GET", "/slow", true), false, []byte("x"))
			a.room()
		}
	}},
	{name: "made you reset: zero increment", counter: "http2.inbound_window_update_frames_flood", run: func(a *attacker) {
		for a.going() {
			_ = a.f.WriteWindowUpdate(a.request("GET", "/slow", true), 0)
			a.room()
		}
	}},
	{name: "CONTINUATION flood, full", counter: "http2.header_overflow", run: func(a *attacker) {
		continuations(a, bytes.Repeat([]byte("\x00\x04name\x05value"), 1000))
	}},
	{name: "CONTINUATION flood, one octet", counter: "http2.header_overflow", run: func(a *attacker) { continuations(a, []byte{0}) }},
	{name: "CONTINUATION flood, empty", counter: "http2.inbound_empty_frames_flood", run: func(a *attacker) { continuations(a, nil) }},
	{name: "HPACK bomb", counter: "http2.header_overflow", run: func(a *attacker) {
		// One entry fills the table; every octet after it is that entry again.
		bomb := append([]byte("\x40\x01a\x7f\xc1\x1e"), bytes.Repeat([]byte("v"), 4000)...)
		bomb = append(bomb, bytes.Repeat([]byte{0xbe}, 12<<10)...)
		for a.going() {
			id := a.id
			a.id += 2
			_ = a.f.WriteHeaders(xh2.HeadersFrameParam{StreamID: id, BlockFragment: append(bytes.Clone(a.fields("GET", "/slow")), bomb...), EndHeaders: true, EndStream: true})
			a.room()
		}
	}},
	{name: "cookie crumbs at window zero", counter: "http2.header_overflow", settings: []xh2.Setting{{ID: xh2.SettingInitialWindowSize, Val: 0}}, run: func(a *attacker) {
		// The crumb goes into the table once; then every octet is a cookie.
		crumb := append([]byte("\x60\x7f\x81\x03"), bytes.Repeat([]byte("c"), 512)...)
		crumbs := append(crumb, bytes.Repeat([]byte{0xbe}, 15<<10)...)
		for a.going() {
			id := a.id
			a.id += 2
			_ = a.f.WriteHeaders(xh2.HeadersFrameParam{StreamID: id, BlockFragment: append(bytes.Clone(a.fields("GET", "/8000000")), crumbs...), EndHeaders: true, EndStream: true})
			a.room()
		}
	}},
	{name: "PING flood, answers not read", counter: "http2.outbound_control_flood", deaf: true, run: func(a *attacker) {
		for a.going() {
			_ = a.f.WritePing(false, [8]byte{})
			a.room()
		}
	}},
	{name: "PING flood, answers read", lawful: true, run: func(a *attacker) {
		for a.going() {
			_ = a.f.WritePing(false, [8]byte{})
			a.room()
		}
	}},
	{name: "SETTINGS flood", counter: "http2.outbound_control_flood", deaf: true, run: func(a *attacker) {
		for a.going() {
			_ = a.f.WriteSettings(xh2.Setting{ID: xh2.SettingInitialWindowSize, Val: 65535})
			a.room()
		}
	}},
	{name: "SETTINGS with many entries", counter: "http.h.downstream_cx_protocol_error", run: func(a *attacker) {
		list := make([]xh2.Setting, 2000)
		for i := range list {
			list[i] = xh2.Setting{ID: xh2.SettingInitialWindowSize, Val: uint32(i)}
		}
		for a.going() {
			_ = a.f.WriteSettings(list...)
			a.room()
		}
	}},
	{name: "malformed requests, answers not read", counter: "http2.rx_messaging_error", deaf: true, run: func(a *attacker) {
		for a.going() {
			id := a.id
			a.id += 2
			_ = a.f.WriteHeaders(xh2.HeadersFrameParam{StreamID: id, BlockFragment: []byte{0x82, 0x86}, EndHeaders: true, EndStream: true})
			a.room()
		}
	}},
	{name: "empty DATA flood", counter: "http2.inbound_empty_frames_flood", run: func(a *attacker) {
		id := a.request("POST", "/", false)
		for a.going() {
			_ = a.f.WriteData(id, false, nil)
			a.room()
		}
	}},
	{name: "padding flood", counter: "http2.inbound_empty_frames_flood", run: func(a *attacker) {
		id := a.request("POST", "/", false)
		pad := make([]byte, 255)
		for a.going() {
			_ = a.f.WriteDataPadded(id, false, nil, pad)
			a.room()
		}
	}},
	{name: "PRIORITY flood", counter: "http2.inbound_priority_frames_flood", run: func(a *attacker) {
		for a.going() {
			_ = a.f.WritePriority(a.id, xh2.PriorityParam{StreamDep: 0, Weight: 7})
			a.room()
		}
	}},
	{name: "WINDOW_UPDATE flood", counter: "http2.inbound_window_update_frames_flood", run: func(a *attacker) {
		for a.going() {
			_ = a.f.WriteWindowUpdate(0, 1)
			a.room()
		}
	}},
	{name: "unknown frames", lawful: true, run: func(a *attacker) {
		for a.going() {
			_ = a.f.WriteRawFrame(0x77, 0, 1, make([]byte, 100))
			a.room()
		}
	}},
	{name: "tiny windows", lawful: true, settings: []xh2.Setting{{ID: xh2.SettingInitialWindowSize, Val: 0}}, run: func(a *attacker) {
		var ids []uint32
		for range 90 {
			ids = append(ids, a.request("GET", "/8000000", true))
		}
		a.flush()
		time.Sleep(100 * time.Millisecond)
		for a.going() { // a byte of window for each stream: a frame of one byte comes back
			for _, id := range ids {
				_ = a.f.WriteWindowUpdate(id, 1)
			}
			a.flush()
			time.Sleep(5 * time.Millisecond)
		}
	}},
	{name: "one-byte drip", lawful: true, run: func(a *attacker) {
		id, left := a.request("POST", "/", false), 60000
		for a.going() {
			_ = a.f.WriteData(id, left == 1, []byte("x"))
			if left--; left == 0 {
				id, left = a.request("POST", "/", false), 60000
				a.flush()
				time.Sleep(20 * time.Millisecond) // window comes back
			}
			a.room()
		}
	}},
	{name: "slow read, 90 streams of 8 MB at window zero", counter: "http.h.downstream_rq_idle_timeout", once: true, growth: maxGrowthHeld, lawful: true,
		settings: []xh2.Setting{{ID: xh2.SettingInitialWindowSize, Val: 0}}, run: func(a *attacker) { held(a) }},
	{name: "slow read at window zero, h2 upstream", upstream: "{}", counter: "http.h.downstream_rq_idle_timeout", once: true, growth: maxGrowthHeld, lawful: true,
		settings: []xh2.Setting{{ID: xh2.SettingInitialWindowSize, Val: 0}}, run: func(a *attacker) { held(a) }},
	{name: "slow read, socket not read", counter: "http.h.downstream_rq_idle_timeout", once: true, growth: maxGrowthHeld, lawful: true, deaf: true,
		settings: []xh2.Setting{{ID: xh2.SettingInitialWindowSize, Val: 1 << 30}}, run: func(a *attacker) {
			_ = a.f.WriteWindowUpdate(0, 1<<30)
			held(a)
		}},
}

// continuations begins a header block that never ends.
func continuations(a *attacker, piece []byte) {
	_ = a.f.WriteHeaders(xh2.HeadersFrameParam{StreamID: a.id, BlockFragment: a.fields("GET", "/"), EndStream: true})
	for a.going() {
		_ = a.f.WriteContinuation(a.id, false, piece)
		a.room()
	}
}

// held asks for 90 × 8 MB and does not read them.
func held(a *attacker) {
	for range 90 {
		a.request("GET", "/8000000", true)
	}
	a.flush()
	for a.going() {
		time.Sleep(20 * time.Millisecond)
	}
}

func TestAttack_WhenFramesHarm_ThenMemoryOthersAndTheProcessDoNotSuffer(t *testing.T) {
	d, err := time.ParseDuration(cmp.Or(os.Getenv("ATTACK"), "800ms"))
	if err != nil {
		t.Fatal(err)
	}
	addr := backend(t, nil)
	var table strings.Builder
	rows := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(rows, "attack\tpeak RSS +MiB (bound)\tothers' p50\tp99\tmax\tfailed\tconnections\tcut off\tcounter\tmoved")
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			var c config
			c.cluster("b", addr, "", a.upstream)
			c.listener("h", "b", "", fmt.Sprintf("stream_idle_timeout: %.3fs, delayed_close_timeout: 0.1s,", d.Seconds()/2))
			c.cluster("o", addr, "", "")
			c.listener("other", "o", "", "")
			p := start(t, c.String()) // a fresh process, whose memory is small
			warm := &others{p: p}
			warm.during(200 * time.Millisecond)
			fmt.Fprintln(rows, a.test(t, p, d))
		})
	}
	_ = rows.Flush()
	t.Logf("%v each, by %d connections at once; others' p99 may be %v\n%s", d, attackers, maxP99, &table)
}

// test attacks for d, and checks what must hold. The result is a row of the table.
func (k *attack) test(t *testing.T, p *proxy, d time.Duration) (row string) {
	before, rss := p.stats(), p.rss()
	var stop atomic.Bool
	var conns, cut atomic.Int64
	var codes sync.Map
	var wg sync.WaitGroup
	for range attackers {
		wg.Go(func() {
			for !stop.Load() {
				a, err := dialAttacker(p.addr["h"], &stop, k.deaf, k.settings...)
				if err != nil {
					t.Error(err)
					return
				}
				k.run(a)
				conns.Add(1)
				if !stop.Load() {
					cut.Add(1)
					codes.Store(a.end(), true)
				}
				a.c.Close()
				if k.once {
					return
				}
			}
		})
	}
	peak := rss
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !stop.Load() {
			peak = max(peak, p.rss())
			time.Sleep(20 * time.Millisecond)
		}
	}()
	o := &others{p: p}
	o.during(d)
	stop.Store(true)
	wg.Wait()
	<-done
	p.alive(t)
	after := p.stats()
	moved := after[k.counter] - before[k.counter]
	t.Logf("RSS %d MiB; others: %d requests%s", rss>>20, len(o.took), changes(before, after))
	ended := strconv.FormatInt(cut.Load(), 10) + " " + names(&codes)
	if k.lawful && cut.Load() == 0 {
		ended = "lawful"
	}
	row = fmt.Sprintf("%s\t%.1f (%d)\t%v\t%v\t%v\t%d\t%d\t%s\t%s\t%d", k.name, float64(peak-rss)/(1<<20), cmp.Or(k.growth, maxGrowth)>>20,
		o.at(50), o.at(99), o.at(100), o.failed, conns.Load(), ended, cmp.Or(k.counter, "-"), moved)
	if envoy {
		return row
	}
	if o.failed > 0 {
		t.Errorf("%d requests of others failed: %v", o.failed, o.err)
	}
	if o.at(99) > maxP99 {
		t.Errorf("others' p99 is %v", o.at(99))
	}
	if bound := cmp.Or(k.growth, maxGrowth); peak-rss > bound {
		t.Errorf("memory grew by %d MiB", (peak-rss)>>20)
	}
	if k.counter != "" && moved == 0 {
		t.Errorf("%s has not moved", k.counter)
	}
	if !k.lawful && cut.Load() == 0 {
		t.Error("no attacker was cut off")
	}
	return row
}

// names lists how connections ended.
func names(codes *sync.Map) string {
	var s []string
	codes.Range(func(c, _ any) bool { s = append(s, c.(string)); return true })
	slices.Sort(s)
	return strings.Join(s, ", ")
}

// changes tells which of the counters that concern the codec moved.
func changes(before, after map[string]int64) string {
	var s []string
	for k, v := range after {
		if v != before[k] && (strings.HasPrefix(k, "http2.") || strings.Contains(k, "protocol_error") || strings.Contains(k, "premature")) {
			s = append(s, fmt.Sprintf("\n\t%s +%d", k, v-before[k]))
		}
	}
	slices.Sort(s)
	return strings.Join(s, "")
}

// others are clients that do no harm, one of each version.
type others struct {
	p      *proxy
	mu     sync.Mutex
	took   []time.Duration
	failed int
	err    error
}

// during sends requests for d.
func (o *others) during(d time.Duration) {
	end := time.Now().Add(d)
	var wg sync.WaitGroup
	for _, http2 := range []bool{false, true} {
		wg.Go(func() {
			tr := &http.Transport{Protocols: new(http.Protocols)}
			defer tr.CloseIdleConnections()
			tr.Protocols.SetHTTP1(!http2)
			tr.Protocols.SetUnencryptedHTTP2(http2)
			cl := &http.Client{Transport: tr, Timeout: patience}
			for time.Now().Before(end) {
				from := time.Now()
				err := ask(cl, "http://"+o.p.addr["other"]+"/1000")
				o.mu.Lock()
				if o.took = append(o.took, time.Since(from)); err != nil {
					o.failed++
					o.err = err
				}
				o.mu.Unlock()
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	wg.Wait()
	slices.Sort(o.took)
}

func ask(cl *http.Client, url string) error {
	resp, err := cl.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 || len(b) != 1000 {
		return fmt.Errorf("status %d, %d bytes, %v", resp.StatusCode, len(b), err)
	}
	return nil
}

// at is a percentile of the latencies.
func (o *others) at(percent int) time.Duration {
	if len(o.took) == 0 {
		return 0
	}
	return o.took[min(len(o.took)*percent/100, len(o.took)-1)].Round(10 * time.Microsecond)
}
