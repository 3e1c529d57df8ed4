// SPDX-License-Identifier: Apache-2.0

package parity

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// H2Options says how the harness's end of an HTTP/2 connection behaves.
type H2Options struct {
	// Settings are "NAME=value" pairs of the first SETTINGS frame (INITIAL_WINDOW_SIZE=0), or numbers in place of names.
	Settings []string `json:"settings"`
	// NoAck leaves SETTINGS and PING without their acknowledgement.
	NoAck bool `json:"no_ack"`
	// NoWindow sends no WINDOW_UPDATE for what has been received.
	NoWindow bool `json:"no_window"`
	// NoPreface opens the connection without a word.
	NoPreface bool `json:"no_preface"`
	// Show lists frame types (SETTINGS, WINDOW_UPDATE, PING) that are shown; otherwise they are left out.
	Show []string `json:"show"`
}

// h2End is the harness's end of an HTTP/2 connection. It takes any frame apart without judging it, acknowledges SETTINGS and PING, returns
// flow-control windows, and keeps what it saw stream by stream, so that the order of frames of different streams does not show.
type h2End struct {
	opt    H2Options
	server bool
	w      io.Writer

	mu      *sync.Mutex // the connection's; guards everything down to wmu
	cond    *sync.Cond
	in      bytes.Buffer
	fr      *http2.Framer
	dec     *hpack.Decoder
	block   []byte // the header block that CONTINUATION goes on with
	blockOf uint32
	blockEn bool
	streams map[uint32]*h2Stream
	ids     []uint32
	notes   []string // what concerns the whole connection, in order
	broken  string
	goaway  bool
	window  map[uint32]int64 // room to send; 0 is the connection
	initial int64
	maxSize int

	table atomic.Uint32 // the peer's HEADER_TABLE_SIZE

	wmu      sync.Mutex
	tableSet uint32 // what enc has been told
	encBuf   bytes.Buffer
	enc      *hpack.Encoder
}

// h2Stream is what arrived on one stream.
type h2Stream struct {
	id     uint32
	text   strings.Builder // rendered header blocks
	blocks int
	final  bool // a header block with a final status, or any of a request, has come
	method string
	path   string
	body   []byte
	ended  bool
	reset  string
	late   []string // frames behind the end
}

const (
	h2FrameHeader = 9
	// h2WriteWait bounds how long a DATA frame waits for the peer's window.
	h2WriteWait = 1500 * time.Millisecond
)

func newH2End(mu *sync.Mutex, cond *sync.Cond, w io.Writer, server bool, opt H2Options) *h2End {
	e := &h2End{mu: mu, cond: cond, w: w, server: server, opt: opt, streams: map[uint32]*h2Stream{}, window: map[uint32]int64{0: 65535}, initial: 65535, maxSize: 16384}
	e.fr = http2.NewFramer(io.Discard, &e.in)
	e.fr.AllowIllegalReads = true
	e.fr.SetMaxReadFrameSize(1<<24 - 1)
	e.dec = hpack.NewDecoder(4096, nil)
	e.dec.SetMaxStringLength(1 << 24)
	e.enc = hpack.NewEncoder(&e.encBuf)
	e.table.Store(4096)
	e.tableSet = 4096
	return e
}

// preface returns the first bytes of this end.
func (e *h2End) preface() ([]byte, error) {
	var out []byte
	if !e.server {
		out = append(out, http2.ClientPreface...)
	}
	b, err := e.encode(&Frame{Type: "SETTINGS", Set: e.opt.Settings})
	return append(out, b...), err
}

// feed takes received bytes and returns what has to be answered at once. The caller holds mu.
func (e *h2End) feed(b []byte) (answer []byte) {
	e.in.Write(b)
	for e.broken == "" && e.in.Len() >= h2FrameHeader {
		p := e.in.Bytes()
		size := int(p[0])<<16 | int(p[1])<<8 | int(p[2])
		if e.in.Len() < h2FrameHeader+size {
			break
		}
		f, err := e.fr.ReadFrame()
		if err != nil {
			e.broken = "unreadable frame " + err.Error()
			break
		}
		answer = append(answer, e.frame(f)...)
	}
	e.cond.Broadcast()
	return answer
}

func (e *h2End) stream(id uint32) *h2Stream {
	s := e.streams[id]
	if s == nil {
		s = &h2Stream{id: id}
		e.streams[id] = s
		e.ids = append(e.ids, id)
	}
	return s
}

func (e *h2End) shown(kind string) bool { return slices.Contains(e.opt.Show, kind) }

func (e *h2End) note(kind, format string, a ...any) {
	if e.shown(kind) {
		e.notes = append(e.notes, kind+" "+fmt.Sprintf(format, a...))
	}
}

func (e *h2End) frame(f http2.Frame) (answer []byte) {
	id := f.Header().StreamID
	switch f := f.(type) {
	case *http2.HeadersFrame:
		e.block, e.blockOf, e.blockEn = append([]byte(nil), f.HeaderBlockFragment()...), id, f.StreamEnded()
		if f.HeadersEnded() {
			e.headers()
		}
	case *http2.ContinuationFrame:
		e.block = append(e.block, f.HeaderBlockFragment()...)
		if f.HeadersEnded() {
			e.headers()
		}
	case *http2.DataFrame:
		s := e.stream(id)
		s.body = append(s.body, f.Data()...)
		s.ended = s.ended || f.StreamEnded()
		if n := uint32(f.Header().Length); n > 0 && !e.opt.NoWindow {
			answer = append(answer, rawFrame(http2.FrameWindowUpdate, 0, 0, u32(n))...)
			if !s.ended {
				answer = append(answer, rawFrame(http2.FrameWindowUpdate, 0, id, u32(n))...)
			}
		}
	case *http2.RSTStreamFrame:
		s := e.stream(id)
		if s.reset != "" {
			s.late = append(s.late, "RST_STREAM "+f.ErrCode.String())
		} else {
			s.reset = f.ErrCode.String()
		}
	case *http2.GoAwayFrame:
		e.goaway = true
		e.notes = append(e.notes, fmt.Sprintf("GOAWAY last=%d %s", f.LastStreamID, f.ErrCode))
	case *http2.SettingsFrame:
		answer = e.settings(f)
	case *http2.PingFrame:
		e.note("PING", "ack=%v", f.IsAck())
		if !f.IsAck() && !e.opt.NoAck {
			answer = rawFrame(http2.FramePing, http2.FlagPingAck, 0, f.Data[:])
		}
	case *http2.WindowUpdateFrame:
		e.note("WINDOW_UPDATE", "%d +%d", id, f.Increment)
		if _, ok := e.window[id]; !ok {
			e.window[id] = e.initial
		}
		e.window[id] += int64(f.Increment)
	case *http2.PushPromiseFrame, *http2.PriorityFrame:
		e.notes = append(e.notes, fmt.Sprintf("%s %d", f.Header().Type, id))
	default:
		e.notes = append(e.notes, fmt.Sprintf("frame of type %d on %d", f.Header().Type, id))
	}
	return answer
}

func (e *h2End) settings(f *http2.SettingsFrame) []byte {
	if f.IsAck() {
		e.note("SETTINGS", "ack")
		return nil
	}
	var list []string
	f.ForeachSetting(func(s http2.Setting) error {
		list = append(list, fmt.Sprintf("%s=%d", s.ID, s.Val))
		switch s.ID {
		case http2.SettingInitialWindowSize:
			for id := range e.window {
				if id != 0 {
					e.window[id] += int64(s.Val) - e.initial
				}
			}
			e.initial = int64(s.Val)
		case http2.SettingHeaderTableSize:
			e.table.Store(min(s.Val, 4096))
		case http2.SettingMaxFrameSize:
			e.maxSize = int(min(s.Val, 1<<20))
		}
		return nil
	})
	sort.Strings(list)
	e.note("SETTINGS", "%s", strings.Join(list, " "))
	if e.opt.NoAck {
		return nil
	}
	return rawFrame(http2.FrameSettings, http2.FlagSettingsAck, 0, nil)
}

// headers decodes a complete header block.
func (e *h2End) headers() {
	s := e.stream(e.blockOf)
	fields, err := e.dec.DecodeFull(e.block)
	if err != nil {
		e.broken = "undecodable header block: " + err.Error()
		return
	}
	var lines []string
	pseudo, status := 0, ""
	for _, f := range fields {
		switch f.Name {
		case ":status":
			status = f.Value
		case ":method":
			s.method = f.Value
		case ":path":
			s.path = f.Value
		}
		if strings.HasPrefix(f.Name, ":") {
			pseudo++
		}
		lines = append(lines, f.Name+": "+f.Value)
	}
	prefix := ""
	if s.final && pseudo == 0 {
		prefix = "trailer "
	}
	s.final = s.final || e.server || !strings.HasPrefix(status, "1")
	s.blocks++
	sort.SliceStable(lines, func(i, j int) bool { return h2FieldName(lines[i]) < h2FieldName(lines[j]) })
	if prefix != "" {
		s.flushBody()
	}
	for _, l := range lines {
		s.text.WriteString(prefix + printable(l) + "\n")
	}
	s.ended = s.ended || e.blockEn
	if _, ok := e.window[s.id]; !ok {
		e.window[s.id] = e.initial
	}
}

// h2FieldName is the name of "name: value"; pseudo-header names keep their colon and sort first.
func h2FieldName(line string) string {
	i := strings.Index(line[min(1, len(line)):], ":")
	if i < 0 {
		return line
	}
	return line[:i+1]
}

func (s *h2Stream) flushBody() {
	if len(s.body) > 0 {
		fmt.Fprintf(&s.text, "body %s\n", quoteBody(s.body))
		s.body = nil
	}
}

// render shows one stream.
func (s *h2Stream) render() string {
	text := s.text.String()
	if len(s.body) > 0 {
		text += fmt.Sprintf("body %s\n", quoteBody(s.body))
	}
	if s.ended {
		text += "END_STREAM\n"
	}
	if s.reset != "" {
		text += "RST_STREAM " + s.reset + "\n"
	}
	for _, l := range s.late {
		text += l + "\n"
	}
	if !s.ended && s.reset == "" {
		text += "(stream open)\n"
	}
	return text
}

// render shows the connection: its streams by number, then what concerns all. The caller holds mu.
func (e *h2End) render() (text string, units []string) {
	ids := slices.Clone(e.ids)
	slices.Sort(ids)
	var w strings.Builder
	for _, id := range ids {
		one := e.streams[id].render()
		units = append(units, one)
		fmt.Fprintf(&w, "stream %d\n%s", id, one)
	}
	for _, n := range e.notes {
		w.WriteString(n + "\n")
	}
	if e.broken != "" {
		w.WriteString(e.broken + "\n")
	}
	return w.String(), units
}

// finished counts streams that are over on the peer's side. The caller holds mu.
func (e *h2End) finished() (n int) {
	for _, s := range e.streams {
		if s.ended || s.reset != "" {
			n++
		}
	}
	return n
}

// write sends bytes; a failed write shows as the end of the connection.
func (e *h2End) write(b []byte) {
	if len(b) > 0 {
		e.w.Write(b)
	}
}

// send encodes and writes frames. DATA waits for the peer's window unless it is marked raw.
func (e *h2End) send(frames ...*Frame) error {
	for _, f := range frames {
		if f.Type == "DATA" && !f.Flood {
			if err := e.sendData(f); err != nil {
				return err
			}
			continue
		}
		var all []byte
		for i := 0; i < max(1, f.Repeat); i++ {
			one := *f
			one.Stream += uint32(i * f.Step)
			e.wmu.Lock()
			b, err := e.encode(&one)
			if err == nil && f.Repeat < 2 {
				e.write(b)
			}
			e.wmu.Unlock()
			if err != nil {
				return err
			}
			all = append(all, b...)
		}
		if f.Repeat > 1 {
			e.write(all)
		}
		time.Sleep(time.Duration(f.Then))
	}
	return nil
}

// sendData writes a DATA frame in pieces that fit the peer's windows and frame size.
func (e *h2End) sendData(f *Frame) error {
	body, err := Unescape(f.Body)
	if err != nil {
		return err
	}
	deadline := time.Now().Add(h2WriteWait)
	wake := time.AfterFunc(h2WriteWait, func() { e.mu.Lock(); e.cond.Broadcast(); e.mu.Unlock() })
	defer wake.Stop()
	for {
		n := 0
		e.mu.Lock()
		for len(body) > 0 {
			if _, ok := e.window[f.Stream]; !ok {
				e.window[f.Stream] = e.initial
			}
			n = int(min(int64(len(body)), int64(e.maxSize), e.window[0], e.window[f.Stream]))
			if n > 0 || time.Now().After(deadline) {
				break
			}
			e.cond.Wait()
		}
		if len(body) > 0 && n <= 0 {
			e.mu.Unlock()
			return nil // The peer gives no room: what it answers shows that.
		}
		e.window[0] -= int64(n)
		e.window[f.Stream] -= int64(n)
		e.mu.Unlock()
		flags := http2.Flags(0)
		if f.End && n == len(body) {
			flags = http2.FlagDataEndStream
		}
		e.wmu.Lock()
		e.write(rawFrame(http2.FrameData, flags, f.Stream, body[:n]))
		e.wmu.Unlock()
		if body = body[n:]; len(body) == 0 {
			time.Sleep(time.Duration(f.Then))
			return nil
		}
	}
}

func u32(v uint32) []byte { return []byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)} }

func rawFrame(t http2.FrameType, flags http2.Flags, stream uint32, payload []byte) []byte {
	n := len(payload)
	out := append([]byte{byte(n >> 16), byte(n >> 8), byte(n), byte(t), byte(flags)}, u32(stream)...)
	return append(out, payload...)
}

// number reads a decimal number, or one of names.
func number(s string, names map[string]uint32) (uint32, error) {
	if v, ok := names[s]; ok {
		return v, nil
	}
	v, err := strconv.ParseUint(s, 0, 32)
	if err != nil {
		return 0, fmt.Errorf("%q is neither a number nor a known name", s)
	}
	return uint32(v), nil
}
