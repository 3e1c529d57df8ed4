// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"sidecar/dataplane/http1"
	"sidecar/dataplane/sys"
)

var update = flag.Bool("update", false, "rewrite the expected output of the transcripts")

// TestTranscripts runs testdata/*.txt. A transcript is a sequence of cases: comment lines with '#', a line "server" or "client" with options, and steps:
// "> FRAME ..." is a frame of the peer, "! ..." something the owner does, and "| ..." the expected events and output behind the steps before it. Each case is
// also run with every frame fed byte by byte and cut at every place.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no transcripts", err)
	}
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txt"), func(t *testing.T) { transcript(t, name) })
	}
}

// transcriptCase is one case: the directive and groups of steps with what is expected behind them.
type transcriptCase struct {
	directive string
	lines     []string // comments, steps and nothing else, in order; an expected block is the line "|"
	want      []string // expected blocks
}

func transcript(t *testing.T, name string) {
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	var cur *transcriptCase
	flush := func() {
		if cur == nil {
			return
		}
		got := cur.play(t, 0)
		for cut := 1; cut <= 3; cut++ {
			if again := cur.play(t, cut); strings.Join(again, "\n--\n") != strings.Join(got, "\n--\n") {
				t.Errorf("%s: cut %d:\n%s\nwhole:\n%s", cur.directive, cut, strings.Join(again, "--\n"), strings.Join(got, "--\n"))
			}
		}
		out.WriteString(cur.directive + "\n")
		i := 0
		for _, l := range cur.lines {
			if l != "|" {
				out.WriteString(l + "\n")
				continue
			}
			for _, g := range strings.Split(strings.TrimSuffix(got[i], "\n"), "\n") {
				out.WriteString("| " + g + "\n")
			}
			if !*update && got[i] != cur.want[i] {
				t.Errorf("%s: %s: block %d\ngot:\n%swant:\n%s", name, cur.directive, i, got[i], cur.want[i])
			}
			i++
		}
		cur = nil
	}
	for sc := bufio.NewScanner(strings.NewReader(string(text))); sc.Scan(); {
		line := sc.Text()
		switch {
		case cur != nil && (strings.HasPrefix(line, "> ") || strings.HasPrefix(line, "! ")):
			cur.lines = append(cur.lines, line)
		case cur != nil && strings.HasPrefix(line, "|"):
			if n := len(cur.lines); n == 0 || cur.lines[n-1] != "|" {
				cur.lines = append(cur.lines, "|")
				cur.want = append(cur.want, "")
			}
			if l := strings.TrimPrefix(strings.TrimPrefix(line, "|"), " "); l != "" {
				cur.want[len(cur.want)-1] += l + "\n"
			}
		case strings.HasPrefix(line, "server"), strings.HasPrefix(line, "client"):
			flush()
			cur = &transcriptCase{directive: line}
		default:
			flush()
			out.WriteString(line + "\n")
		}
	}
	flush()
	if *update {
		if err := os.WriteFile(name, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// play runs a case and returns what happened up to each expectation. cut 0 feeds whole frames, 1 single bytes, 2 and 3 cut pieces of other sizes.
func (tc *transcriptCase) play(t *testing.T, cut int) (blocks []string) {
	t.Helper()
	words := strings.Fields(tc.directive)
	role := Server
	if words[0] == "client" {
		role = Client
	}
	o := defaults(role)
	o.StreamWindow, o.ConnWindow = initialWindow, initialWindow
	o.MaxStreamWindow, o.MaxConnWindow = initialWindow, initialWindow
	for _, w := range words[1:] {
		name, value, _ := strings.Cut(w, "=")
		n, _ := strconv.Atoi(value)
		setOption(t, o, name, n)
	}
	e := newEndpoint(role, o)
	p := newPeer()
	e.c.now = sys.Second
	if role == Client {
		p.skip = len(preface)
	}
	var input []byte
	now := sys.Second
	if role == Server {
		input = append(input, preface...)
	}
	input = append(input, p.frame(t, []string{"SETTINGS", "0"})...)
	p.read(e.take())
	e.run(input, cut, now)
	p.read(e.take())
	e.log.Reset()
	for _, l := range tc.lines {
		switch {
		case l == "|":
			e.flushData()
			blocks = append(blocks, e.log.String()+p.read(e.take())+e.counted())
			e.log.Reset()
		case l[0] == '>':
			e.run(p.frame(t, splitWords(l[2:])), cut, now)
		default:
			e.act(t, splitWords(l[2:]), &now)
		}
	}
	return blocks
}

// splitWords splits at blanks outside of quotes.
func splitWords(s string) (w []string) {
	quoted, start := false, 0
	for i := 0; i <= len(s); i++ {
		switch {
		case i == len(s) || s[i] == ' ' && !quoted:
			if i > start {
				w = append(w, s[start:i])
			}
			start = i + 1
		case s[i] == '"':
			quoted = !quoted
		}
	}
	return w
}

func setOption(t *testing.T, o *Options, name string, n int) {
	switch name {
	case "streams":
		o.MaxConcurrentStreams = uint32(n)
	case "streamerrors":
		o.StreamErrors = true
	case "connect":
		o.AllowConnect = true
	case "headers":
		o.MaxHeaders = n
	case "bytes":
		o.MaxHeaderBytes = n
	case "window":
		o.StreamWindow = int32(n)
	case "connwindow":
		o.ConnWindow = int32(n)
	case "maxwindow":
		o.MaxStreamWindow = int32(n)
	case "maxconnwindow":
		o.MaxConnWindow = int32(n)
	case "lax":
		o.Lax = true
	case "table":
		o.HpackTableSize = uint32(n)
	case "empty":
		o.MaxEmptyFrames = uint32(n)
	case "premature":
		o.PrematureResets = uint32(n)
	case "controls":
		o.MaxOutboundControl = uint32(n)
	case "frames":
		o.MaxOutboundFrames = uint32(n)
	case "prio":
		o.MaxPriorityPerStream = uint32(n)
	case "updates":
		o.MaxWindowUpdatePerData = uint32(n)
	case "room":
		o.OutputLimit = n
	case "drop":
		o.Underscores = http1.UnderscoreDrop
	case "reject":
		o.Underscores = http1.UnderscoreReject
	case "keepalive":
		o.KeepaliveInterval, o.KeepaliveTimeout, o.KeepaliveJitter = sys.Nanos(n)*sys.Second, 5*sys.Second, 0
	case "keepaliveidle":
		o.KeepaliveIdle, o.KeepaliveTimeout = sys.Nanos(n)*sys.Second, 5*sys.Second
	default:
		t.Fatalf("no option %q", name)
	}
}

// run feeds in, cut in one way.
func (e *endpoint) run(in []byte, cut int, now sys.Nanos) {
	step := len(in)
	if cut > 0 {
		step = 2*cut*cut - 1 // 1, 7, 17
	}
	for len(in) > 0 {
		n := min(step, len(in))
		rest, st := e.feed(in[:n:n], now)
		if st == Failed {
			e.flushData()
			if !strings.Contains(e.log.String(), "failed") {
				fmt.Fprintf(&e.log, "failed %s %s\n", e.ev.Code, details(e.ev.Fault))
			}
			return
		}
		if st == Blocked {
			e.log.WriteString("blocked\n")
			return
		}
		in = in[n-len(rest):]
	}
}

// act is what the owner does in a transcript.
func (e *endpoint) act(t *testing.T, w []string, now *sys.Nanos) {
	t.Helper()
	e.flushData()
	num := func(i int) int {
		n, err := strconv.Atoi(w[i])
		if err != nil {
			t.Fatal(w, err)
		}
		return n
	}
	end := w[len(w)-1] == "end"
	if end {
		w = w[:len(w)-1]
	}
	var s *Stream
	if len(w) > 1 {
		if n, err := strconv.Atoi(w[1]); err == nil {
			s = e.streams[uint32(n)]
		}
	}
	switch w[0] {
	case "open":
		h := request(strings.Join(w[1:5], " "), w[5:]...)
		h.Upgrade = strings.Contains(strings.Join(w, " "), "upgrade=")
		if s = e.c.OpenStream(h, end, *now); s == nil {
			e.log.WriteString("no stream\n")
			return
		}
		s.Head, s.Trailers = newHead(), newFields()
		e.streams[s.ID()] = s
	case "head":
		e.c.SendHead(s, response(num(2), w[3:]...), end)
	case "length":
		h := response(200)
		h.Body, h.Length = 1, int64(num(2))
		e.c.SendHead(s, h, end)
	case "data":
		p, err := strconv.Unquote(w[2])
		if err != nil {
			p = strings.Repeat("x", num(2))
		}
		if n := e.c.SendData(s, []byte(p), end); n < len(p) {
			fmt.Fprintf(&e.log, "took %d of %d\n", n, len(p))
		}
	case "trailers":
		f := newFields()
		addFields(f, w[2:])
		e.c.SendTrailers(s, f)
	case "reset":
		e.c.SendReset(s, Code(num(2)))
	case "release":
		e.c.Release(s)
		delete(e.streams, s.ID())
		return
	case "consumed":
		e.c.Consumed(s, num(2))
	case "credit":
		fmt.Fprintf(&e.log, "credit %d\n", e.c.Credit(s))
	case "writable":
		for s := e.c.NextWritable(); s != nil; s = e.c.NextWritable() {
			fmt.Fprintf(&e.log, "writable %d credit %d\n", s.ID(), min(int(s.sendWin), e.c.connCredit()))
		}
	case "goaway":
		e.c.SendGoaway(uint32(num(1)), CodeNo)
	case "last":
		e.c.SendGoaway(e.c.LastStream(), CodeNo)
	case "hold":
		e.auto = false
	case "keep":
		e.keep = true
	case "slots":
		fmt.Fprintf(&e.log, "slots %d\n", e.c.Slots())
	case "wait":
		*now += sys.Nanos(num(1)) * sys.Second
		e.c.OnTime(*now)
		if e.c.Dead() {
			e.run([]byte{0}, 0, *now)
		}
	case "flush":
		e.log.WriteString("flush\n")
		e.take()
	default:
		t.Fatalf("what is %q?", w)
	}
	if s != nil && s.Closed() && !e.keep && e.streams[s.ID()] == s {
		delete(e.streams, s.ID())
		e.c.Release(s)
	}
}
