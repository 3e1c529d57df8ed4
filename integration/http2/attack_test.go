// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
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

	// deaf connections read nothing, rude ones do not acknowledge SETTINGS; settings are what they send.
	deaf, rude bool
	settings   []xh2.Setting

	// once attacks hold one connection for the whole time; lawful ones are not cut off, as every frame is one that a client may send.
	once, lawful bool

	growth int64 // bound for the memory, if not maxGrowth

	leaves bool // the attacker itself ends its connections
	tls    bool // the listener has TLS, and run has all that is sent
	evil   bool // the upstream attacks, over HTTP/2

	upstream string // Http2ProtocolOptions of the cluster, "" for HTTP/1
	hcm      string // further fields of the connection manager, each followed by a comma
}

var attacks = []attack{
	{name: "nothing, for comparison", lawful: true, run: func(a *attacker) {
		for a.going() {
			time.Sleep(10 * time.Millisecond)
		}
	}},
	{name: "requests at full speed, for comparison", lawful: true, run: func(a *attacker) {
		_ = a.f.WriteWindowUpdate(0, 1<<30)
		for a.going() {
			for a.open.Load() < 90 {
				a.open.Add(1)
				a.request("GET", "/", true)
			}
			a.flush()
			a.wait()
		}
	}},
	{name: "connections that come and go", lawful: true, leaves: true, counter: "http.h.downstream_cx_total", run: func(*attacker) {}},
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
			a.head(a.take(), true, a.fields("GET", "/slow"), bomb)
			a.room()
		}
	}},
	{name: "cookie crumbs at window zero", counter: "http2.header_overflow", settings: []xh2.Setting{{ID: xh2.SettingInitialWindowSize, Val: 0}}, run: func(a *attacker) {
		// The crumb goes into the table once; then every octet is a cookie.
		crumb := append([]byte("\x60\x7f\x81\x03"), bytes.Repeat([]byte("c"), 512)...)
		crumbs := append(crumb, bytes.Repeat([]byte{0xbe}, 15<<10)...)
		for a.going() {
			a.head(a.take(), true, a.fields("GET", "/8000000"), crumbs)
			a.room()
		}
	}},
	{name: "Huffman expansion", counter: "http.h.downstream_rq_too_many_premature_resets", run: func(a *attacker) {
		long := []byte("\x10\x01a\xff")                                      // a literal; its value's length follows
		long = append(append(long, 0x81, 0x7c), make([]byte, 127+0x3e01)...) // 16,000 octets of zeros are 25,600 times "0"
		for a.going() {
			id := a.take()
			_ = a.f.WriteHeaders(xh2.HeadersFrameParam{StreamID: id, BlockFragment: a.fields("GET", "/slow"), EndStream: true})
			for range 3 {
				_ = a.f.WriteContinuation(id, false, long)
			}
			_ = a.f.WriteContinuation(id, true, nil)
			a.room()
		}
	}},
	{name: "broken HPACK", counter: "http.h.downstream_cx_protocol_error", run: func(a *attacker) {
		broken := []string{"\x80", "\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "\xff\x70", "\x82\x20", "\x3f\xff\xff\x7f", "\x00\x84\xff\xff\xff\xff", "\x00\x81\x00", "\x00\x7f\xff\xff\xff\xff\x0f"}
		a.head(a.take(), true, []byte(broken[rand.IntN(len(broken))]), a.fields("GET", "/"))
		for a.flush(); a.going(); time.Sleep(time.Millisecond) {
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
	{name: "SETTINGS resize the windows of 1000 streams", lawful: true, run: func(a *attacker) {
		for range 1000 {
			a.request("GET", "/slow", true)
		}
		for a.going() {
			for i := range 100 {
				_ = a.f.WriteSettings(xh2.Setting{ID: xh2.SettingInitialWindowSize, Val: uint32(i % 2)})
			}
			a.flush()
			time.Sleep(100 * time.Microsecond)
		}
	}},
	{name: "SETTINGS never acknowledged", lawful: true, rude: true, run: func(a *attacker) {
		for a.going() {
			_ = a.f.WritePing(false, [8]byte{})
			a.flush()
			time.Sleep(time.Millisecond)
		}
	}},
	{name: "RST_STREAM of streams that are over", counter: "http.h.downstream_cx_protocol_error", run: func(a *attacker) {
		id := a.request("GET", "/", true)
		for a.going() {
			_ = a.f.WriteRSTStream(id, xh2.ErrCodeCancel)
			a.room()
		}
	}},
	{name: "streams beyond max_concurrent_streams", counter: "http2.tx_reset", hcm: "http2_protocol_options: {max_concurrent_streams: 100},", run: func(a *attacker) {
		for a.going() {
			a.request("GET", "/slow", true)
			a.room()
		}
	}},
	{name: "requests, answers not read", lawful: true, deaf: true, counter: "http.h.downstream_rq_total", run: func(a *attacker) {
		for a.going() {
			a.request("GET", "/1000", true)
			a.room()
		}
	}},
	{name: "malformed requests, answers not read", counter: "http2.rx_messaging_error", deaf: true, run: func(a *attacker) {
		for a.going() {
			a.head(a.take(), true, []byte{0x82, 0x86})
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
	{name: "one-byte drip", lawful: true, run: drip1},
	{name: "one-byte drip, h2 upstream", upstream: "{}", lawful: true, run: drip1},
	{name: "slow read, 90 streams of 8 MB at window zero", counter: "http.h.downstream_rq_idle_timeout", once: true, growth: maxGrowthHeld, lawful: true,
		settings: []xh2.Setting{{ID: xh2.SettingInitialWindowSize, Val: 0}}, run: func(a *attacker) { held(a) }},
	{name: "slow read at window zero, h2 upstream", upstream: "{}", counter: "http.h.downstream_rq_idle_timeout", once: true, growth: maxGrowthHeld, lawful: true,
		settings: []xh2.Setting{{ID: xh2.SettingInitialWindowSize, Val: 0}}, run: func(a *attacker) { held(a) }},
	{name: "slow read, socket not read", counter: "http.h.downstream_rq_idle_timeout", once: true, growth: maxGrowthHeld, lawful: true, deaf: true,
		settings: []xh2.Setting{{ID: xh2.SettingInitialWindowSize, Val: 1 << 30}}, run: func(a *attacker) {
			_ = a.f.WriteWindowUpdate(0, 1<<30)
			held(a)
		}},

	// TLS: connections that begin a handshake.
	{name: "TLS: a ClientHello and no more", tls: true, lawful: true, leaves: true, counter: "http.h.downstream_cx_ssl_total", run: func(a *attacker) {
		_, _ = a.c.Write(hello())
		_, _ = a.c.Read(make([]byte, 1)) // the server has done its part
	}},
	{name: "TLS: handshakes", tls: true, lawful: true, leaves: true, counter: "http.h.downstream_cx_ssl_total", run: func(a *attacker) {
		_ = tls.Client(a.c, &tls.Config{InsecureSkipVerify: true}).Handshake()
	}},

	// Upstreams that attack; clients ask them all the time.
	{name: "upstream: rapid reset", evil: true, lawful: true, counter: "cluster.b.http2.rx_reset", run: func(a *attacker) {
		for a.going() {
			if id := a.next(); id != 0 {
				_ = a.f.WriteRSTStream(id, xh2.ErrCodeInternal)
			}
			a.flush()
		}
	}},
	{name: "upstream: refuses every stream", evil: true, lawful: true, counter: "cluster.b.http2.rx_reset", run: func(a *attacker) {
		for a.going() {
			if id := a.next(); id != 0 {
				_ = a.f.WriteRSTStream(id, xh2.ErrCodeRefusedStream)
			}
			a.flush()
		}
	}},
	{name: "upstream: GOAWAY at once", evil: true, counter: "cluster.b.upstream_cx_close_notify", run: func(a *attacker) {
		a.first()
		_ = a.f.WriteGoAway(0, xh2.ErrCodeNo, nil)
		for a.going() {
			a.flush()
			_ = a.f.WritePing(false, [8]byte{})
			time.Sleep(time.Millisecond)
		}
	}},
	{name: "upstream: CONTINUATION flood", evil: true, counter: "cluster.b.upstream_cx_protocol_error", run: func(a *attacker) {
		id := a.first()
		_ = a.f.WriteHeaders(xh2.HeadersFrameParam{StreamID: id, BlockFragment: a.status("200")})
		for a.going() {
			_ = a.f.WriteContinuation(id, false, bytes.Repeat([]byte("\x00\x04name\x05value"), 1000))
			a.room()
		}
	}},
	{name: "upstream: HPACK bomb", evil: true, counter: "cluster.b.http2.header_overflow", run: func(a *attacker) {
		bomb := append([]byte("\x40\x01a\x7f\xc1\x1e"), bytes.Repeat([]byte("v"), 4000)...)
		bomb = append(bomb, bytes.Repeat([]byte{0xbe}, 12<<10)...)
		for a.going() {
			if id := a.next(); id != 0 {
				a.head(id, true, a.status("200"), bomb)
			}
			a.flush()
		}
	}},
	{name: "upstream: 1xx without end", evil: true, lawful: true, counter: "cluster.b.upstream_rq_total", run: func(a *attacker) {
		id := a.first()
		for a.going() {
			a.head(id, false, a.status("103", "link", "</a>"))
			a.room()
		}
	}},
	{name: "upstream: empty DATA flood", evil: true, counter: "cluster.b.http2.inbound_empty_frames_flood", run: func(a *attacker) {
		id := a.first()
		a.head(id, false, a.status("200"))
		for a.going() {
			_ = a.f.WriteData(id, false, nil)
			a.room()
		}
	}},
	{name: "upstream: content at full speed, for comparison", evil: true, lawful: true, run: func(a *attacker) {
		id := a.first()
		a.head(id, false, a.status("200"))
		for a.going() {
			_ = a.f.WriteData(id, false, make([]byte, 16<<10))
			a.room()
		}
	}},
	{name: "upstream: PING flood, answers not read", evil: true, deaf: true, counter: "cluster.b.http2.outbound_control_flood", run: func(a *attacker) {
		for a.going() {
			_ = a.f.WritePing(false, [8]byte{})
			a.room()
		}
	}},
	{name: "upstream: SETTINGS flood", evil: true, deaf: true, lawful: true, counter: "cluster.b.http2.outbound_control_flood", run: func(a *attacker) {
		for a.going() {
			_ = a.f.WriteSettings(xh2.Setting{ID: xh2.SettingInitialWindowSize, Val: 65535})
			a.room()
		}
	}},
	{name: "upstream: unknown frames", evil: true, lawful: true, run: func(a *attacker) {
		for a.going() {
			_ = a.f.WriteRawFrame(0x77, 0, 0, nil)
			a.room()
		}
	}},
}

// drip1 uploads content an octet at a time.
func drip1(a *attacker) {
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
	d, err := time.ParseDuration(cmp.Or(os.Getenv("ATTACK"), "400ms"))
	if err != nil {
		t.Fatal(err)
	}
	addr := backend(t, nil)
	foes, friends := cast(t, "attackers", "0"), cast(t, "others", "-20")
	var home string // of the others' backend
	friends.hear(&home)
	var table strings.Builder
	rows := tabwriter.NewWriter(&table, 0, 0, 1, ' ', tabwriter.Debug)
	fmt.Fprintln(rows, "| attack\t RSS +MiB\t others' p50 ms\t p99\t max\t connections\t cut off\t counter\t")
	fmt.Fprintln(rows, "|---\t---\t---\t---\t---\t---\t---\t---\t")
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			friends.t, foes.t = t, t
			var c config
			socket, b := "", addr
			if a.tls {
				socket = downstreamTLS(false)
			}
			if a.evil {
				foes.tell(raid{Attack: a.name})
				foes.hear(&b)
				a.upstream = "{}"
			}
			c.cluster("b", b, "", a.upstream)
			c.listener("h", "b", socket, fmt.Sprintf("stream_idle_timeout: %.3fs, delayed_close_timeout: 0.1s, %s", d.Seconds()/2, a.hcm))
			c.cluster("o", home, "", "")
			c.listener("other", "o", "", "")
			p := start(t, c.String()) // a fresh process, whose memory is small
			var warm comfort
			friends.tell(errand{p.Addr["other"], 200 * time.Millisecond})
			friends.hear(&warm)
			fmt.Fprintln(rows, a.test(t, p, foes, friends, d))
		})
	}
	_ = rows.Flush()
	t.Logf("%v each, %d connections attack at once, bounds: memory %d MiB, others' p99 %v\n%s", d, attackers, maxGrowth>>20, maxP99, &table)
}

// test attacks for d, and checks what must hold. The result is a row of the table.
func (k *attack) test(t *testing.T, p *proxy, foes, friends *actor, d time.Duration) (row string) {
	before, rss := p.Stats(), p.RSS()
	foes.tell(raid{k.name, p.Addr["h"], d})
	friends.tell(errand{p.Addr["other"], d})
	peak, done := rss, make(chan comfort)
	go func() {
		var o comfort
		friends.hear(&o)
		done <- o
	}()
	var o comfort
	for over := false; !over; {
		select {
		case o = <-done:
			over = true
		case <-time.After(20 * time.Millisecond):
		}
		peak = max(peak, p.RSS())
	}
	var sum toll
	foes.hear(&sum)
	p.Alive(t)
	after := p.Stats()
	moved := after[k.counter] - before[k.counter]
	t.Logf("RSS %d MiB; others: %d requests%s", rss>>20, o.Requests, changes(before, after))
	ended, counter := fmt.Sprintf("%d: %s", sum.CutOff, strings.Join(sum.Ends, ", ")), fmt.Sprintf("%s +%d", k.counter, moved)
	if k.lawful && sum.CutOff == 0 {
		ended = "lawful"
	}
	if k.counter == "" {
		counter = "–"
	}
	row = fmt.Sprintf("| %s\t %.1f\t %s\t %s\t %s\t %d\t %s\t %s\t", k.name, float64(peak-rss)/(1<<20), millis(o.P50), millis(o.P99), millis(o.Max),
		sum.Connections, ended, counter)
	if o.Failed > 0 {
		row += fmt.Sprintf(" %d failed", o.Failed)
	}
	if envoy {
		return row
	}
	if o.Failed > 0 {
		t.Errorf("%d requests of others failed: %v", o.Failed, o.Err)
	}
	if sum.Err != "" {
		t.Errorf("the attackers: %s", sum.Err)
	}
	if o.P99 > maxP99 {
		t.Errorf("others' p99 is %v", o.P99)
	}
	if bound := cmp.Or(k.growth, maxGrowth); peak-rss > bound {
		t.Errorf("memory grew by %d MiB, the bound is %d", (peak-rss)>>20, bound>>20)
	}
	if k.counter != "" && moved == 0 {
		t.Errorf("%s has not moved", k.counter)
	}
	if !k.lawful && sum.CutOff == 0 {
		t.Error("no attacker was cut off")
	}
	return row
}

// millis prints d in milliseconds.
func millis(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d)/float64(time.Millisecond)) }

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
