// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"testing"

	xhpack "golang.org/x/net/http2/hpack"

	"sidecar/dataplane/buf"
	"sidecar/dataplane/fault"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/sys"
)

func newHead() *httpmsg.Head {
	h := new(httpmsg.Head)
	h.Reset(new(httpmsg.Arena))
	return h
}

func newFields() *httpmsg.Fields {
	f := new(httpmsg.Fields)
	f.Reset(new(httpmsg.Arena))
	return f
}

func defaults(r Role) *Options {
	o := new(Options)
	o.SetDefaults(r)
	return o
}

func shared() *Shared { return &Shared{Bufs: new(buf.Pool)} }

// request builds a request head from "METHOD scheme authority path" and fields "name=value".
func request(line string, fields ...string) *httpmsg.Head {
	h := newHead()
	w := strings.Split(line, " ")
	h.SetMethod(w[0])
	h.SetScheme(w[1])
	h.SetHost([]byte(w[2]))
	h.SetPath([]byte(w[3]))
	h.Body = httpmsg.BodyChunked
	h.Version = httpmsg.HTTP2
	addFields(&h.Fields, fields)
	return h
}

func response(status int, fields ...string) *httpmsg.Head {
	h := newHead()
	h.Status, h.Body = uint16(status), httpmsg.BodyChunked
	addFields(&h.Fields, fields)
	return h
}

func addFields(f *httpmsg.Fields, fields []string) {
	for _, s := range fields {
		n, v, _ := strings.Cut(s, "=")
		f.AddString(httpmsg.KeyOf(n), v)
	}
}

// show renders a head.
func show(h *httpmsg.Head) string {
	var b strings.Builder
	if h.Status > 0 {
		fmt.Fprintf(&b, "%s %d", h.Version, h.Status)
	} else {
		fmt.Fprintf(&b, "%s %s %s %q host=%q(%d)", h.Version, h.MethodBytes(), h.SchemeBytes(), h.Path(), h.Host(), h.HostCount)
	}
	fmt.Fprintf(&b, " body=%s", [...]string{"none", fmt.Sprint(h.Length), "chunked", "close"}[h.Body])
	for _, f := range []struct {
		on   bool
		name string
	}{{h.KeepAlive, "keep-alive"}, {h.Upgrade, "upgrade"}, {h.ExpectContinue, "expect"}, {h.TrailersOK, "te"}} {
		if f.on {
			b.WriteString(" " + f.name)
		}
	}
	showFields(&b, &h.Fields)
	return b.String()
}

func showFields(b *strings.Builder, f *httpmsg.Fields) {
	for i := range f.List {
		if l := &f.List[i]; !l.Dead {
			fmt.Fprintf(b, " %s=%q", f.Name(i), f.Value(i))
			if l.Sensitive {
				b.WriteString("!")
			}
		}
	}
}

var frameNames = []string{"DATA", "HEADERS", "PRIORITY", "RST_STREAM", "SETTINGS", "PUSH_PROMISE", "PING", "GOAWAY", "WINDOW_UPDATE", "CONTINUATION"}

// peer is the other end of a Conn in a transcript: it writes frames from text and reads them into text.
type peer struct {
	encBuf bytes.Buffer
	enc    *xhpack.Encoder
	dec    *xhpack.Decoder
	fields []string
	block  []byte
	rest   []byte // of the output: an incomplete frame
	skip   int    // octets of preface to come
}

func newPeer() *peer {
	p := new(peer)
	p.enc = xhpack.NewEncoder(&p.encBuf)
	p.dec = xhpack.NewDecoder(4096, func(f xhpack.HeaderField) {
		s := fmt.Sprintf("%s=%q", f.Name, f.Value)
		if f.Sensitive {
			s += "!"
		}
		p.fields = append(p.fields, s)
	})
	return p
}

// encodeBlock encodes fields "name=value"; a name that ends in '!' is never indexed.
func (p *peer) encodeBlock(fields []string) []byte {
	p.encBuf.Reset()
	for _, s := range fields {
		i := strings.IndexByte(s[1:], '=') + 1
		n, v := s[:i], s[i+1:]
		f := xhpack.HeaderField{Name: strings.TrimSuffix(n, "!"), Value: v, Sensitive: strings.HasSuffix(n, "!")}
		if strings.HasPrefix(v, "\"") {
			f.Value, _ = strconv.Unquote(v)
		}
		p.enc.WriteField(f)
	}
	return bytes.Clone(p.encBuf.Bytes())
}

// frame writes one frame from words: TYPE id [flags and arguments]; see TestTranscripts.
func (p *peer) frame(t *testing.T, words []string) []byte {
	t.Helper()
	if words[0] == "PREFACE" {
		return []byte(preface)
	}
	if words[0] == "HEX" {
		b, err := hex.DecodeString(strings.Join(words[1:], ""))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	typ := -1
	for i, n := range frameNames {
		if n == words[0] {
			typ = i
		}
	}
	if words[0] == "UNKNOWN" {
		typ = 0xfe
	}
	if typ < 0 {
		t.Fatalf("no frame %q", words[0])
	}
	id, _ := strconv.Atoi(words[1])
	var flags byte
	var payload, prefix, suffix []byte
	var fields []string
	for _, w := range words[2:] {
		name, value, hasValue := strings.Cut(w, "=")
		n, _ := strconv.Atoi(value)
		switch {
		case w == "END_STREAM" || w == "ACK":
			flags |= 1
		case w == "END_HEADERS":
			flags |= flagEndHeaders
		case name == "pad" && hasValue:
			flags |= flagPadded
			prefix, suffix = []byte{byte(n)}, make([]byte, n)
		case name == "dep" && hasValue:
			flags |= flagPriority
			prefix = append(prefix, byte(n>>24), byte(n>>16), byte(n>>8), byte(n), 15)
		case name == "x" && hasValue:
			b, err := hex.DecodeString(value)
			if err != nil {
				t.Fatal(err)
			}
			payload = append(payload, b...)
		case name == "zeros" && hasValue:
			payload = append(payload, make([]byte, n)...)
		case name == "u32" && hasValue:
			v, _ := strconv.ParseUint(value, 10, 32)
			payload = append(payload, byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
		case strings.HasPrefix(w, "set") && hasValue && name[3] >= '0' && name[3] <= '9':
			k, _ := strconv.Atoi(name[3:])
			v, _ := strconv.ParseUint(value, 10, 32)
			payload = append(payload, byte(k>>8), byte(k), byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
		case w[0] == '"':
			s, err := strconv.Unquote(w)
			if err != nil {
				t.Fatal(w, err)
			}
			payload = append(payload, s...)
		case hasValue || w[0] == ':':
			fields = append(fields, w)
		default:
			t.Fatalf("what is %q in %q?", w, words)
		}
	}
	if typ == int(ftHeaders) && len(fields) > 0 {
		payload = append(payload, p.encodeBlock(fields)...)
	}
	payload = append(append(prefix, payload...), suffix...)
	return append(appendHeader(nil, len(payload), frameType(typ), flags, uint32(id)), payload...)
}

// read renders the frames in b, which goes on where the last call stopped.
func (p *peer) read(b []byte) string {
	var out strings.Builder
	if p.skip > 0 {
		n := min(p.skip, len(b))
		p.skip -= n
		b = b[n:]
	}
	b = append(p.rest, b...)
	for len(b) >= frameHeader {
		h := parseHeader(b)
		if len(b) < frameHeader+int(h.length) {
			break
		}
		out.WriteString("out " + p.render(h, b[frameHeader:frameHeader+int(h.length)]) + "\n")
		b = b[frameHeader+int(h.length):]
	}
	p.rest = bytes.Clone(b)
	return out.String()
}

func (p *peer) render(h header, b []byte) string {
	s := fmt.Sprintf("%s %d", frameNames[h.typ], h.id)
	u32 := func(b []byte) uint32 { return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3]) }
	switch h.typ {
	case ftData:
		if len(b) > 64 {
			s += fmt.Sprintf(" [%d]", len(b))
		} else {
			s += fmt.Sprintf(" %q", b)
		}
	case ftHeaders, ftContinuation:
		p.block = append(p.block, b...)
		if h.flags&flagEndHeaders != 0 {
			p.fields = nil
			if _, err := p.dec.Write(p.block); err != nil {
				return s + " " + err.Error()
			}
			if err := p.dec.Close(); err != nil {
				return s + " " + err.Error()
			}
			s += " " + strings.Join(p.fields, " ")
			p.block = nil
		} else {
			s += fmt.Sprintf(" [%d] ...", len(b))
		}
	case ftRstStream:
		s += " " + Code(u32(b)).String()
	case ftSettings:
		if h.flags&flagAck != 0 {
			return s + " ACK"
		}
		for ; len(b) > 0; b = b[6:] {
			s += fmt.Sprintf(" %d=%d", uint16(b[0])<<8|uint16(b[1]), u32(b[2:]))
		}
	case ftPing:
		if h.flags&flagAck != 0 {
			s += " ACK"
		}
		s += fmt.Sprintf(" %x", b)
	case ftGoaway:
		s += fmt.Sprintf(" last=%d %s", u32(b), Code(u32(b[4:])))
	case ftWindowUpdate:
		s += fmt.Sprintf(" +%d", u32(b))
	}
	if h.flags&flagEndStream != 0 && (h.typ == ftData || h.typ == ftHeaders) {
		s += " END_STREAM"
	}
	return s
}

// endpoint is a Conn with an owner that keeps what it gets, for tests that look at one side.
type endpoint struct {
	c       Conn
	ev      Event
	counts  Counters
	streams map[uint32]*Stream
	log     strings.Builder
	data    []byte // content of consecutive Data events, which depend on the cuts
	dataID  uint32
	auto    bool // consume what comes at once
	keep    bool // streams that are over are not released
}

func newEndpoint(r Role, o *Options) *endpoint {
	e := &endpoint{streams: map[uint32]*Stream{}, auto: true}
	e.c.Init(r, o, shared(), &e.counts, 1, sys.Second)
	return e
}

func (e *endpoint) flushData() {
	if e.dataID != 0 {
		if len(e.data) > 64 {
			fmt.Fprintf(&e.log, "data %d [%d]\n", e.dataID, len(e.data))
		} else {
			fmt.Fprintf(&e.log, "data %d %q\n", e.dataID, e.data)
		}
	}
	e.data, e.dataID = nil, 0
}

// feed gives in to the machine and logs what it reports; what was not used is returned.
func (e *endpoint) feed(in []byte, now sys.Nanos) (rest []byte, st Status) {
	for {
		if e.ev.Head == nil && e.c.role == Server {
			e.ev.Head = newHead()
		}
		n, st := e.c.Next(in, now, &e.ev)
		in = in[n:]
		if st != Got {
			return in, st
		}
		e.event()
	}
}

func (e *endpoint) event() {
	ev := &e.ev
	s := ev.Stream
	end := ""
	if ev.End {
		end = " end"
	}
	if ev.Kind != EventData || ev.ID != e.dataID {
		e.flushData()
	}
	switch ev.Kind {
	case EventHead:
		fmt.Fprintf(&e.log, "head %d %s%s\n", ev.ID, show(s.Head), end)
		if e.c.role == Server {
			e.streams[ev.ID] = s
			s.Trailers = newFields()
			ev.Head = nil
		} else {
			s.Head = newHead()
		}
	case EventData:
		e.dataID = ev.ID
		e.data = append(e.data, ev.Data...)
		if e.auto {
			e.c.Consumed(s, len(ev.Data))
		}
		if ev.End {
			e.flushData()
			fmt.Fprintf(&e.log, "end %d\n", ev.ID)
		}
	case EventTrailers:
		fmt.Fprintf(&e.log, "trailers %d", ev.ID)
		showFields(&e.log, s.Trailers)
		e.log.WriteString("\n")
	case EventReset:
		fmt.Fprintf(&e.log, "reset %d %s %s remote=%v unprocessed=%v known=%v\n", ev.ID, ev.Code, ev.Fault.Row().Details, ev.Remote, ev.Unprocessed, s != nil)
	case EventGoaway:
		fmt.Fprintf(&e.log, "goaway last=%d %s\n", ev.ID, ev.Code)
	case EventSettings:
		fmt.Fprintf(&e.log, "settings slots=%d connect=%v\n", e.c.Slots(), e.c.ExtendedConnect())
	}
	if s != nil && s.Closed() && !e.keep {
		delete(e.streams, s.ID())
		e.c.Release(s)
	}
}

// take returns the output.
func (e *endpoint) take() []byte {
	b := bytes.Clone(e.c.Pending())
	e.c.Sent(len(b))
	return b
}

// counted renders the counters.
func (e *endpoint) counted() string {
	var b strings.Builder
	for {
		k, n, ok := e.counts.Take()
		if !ok {
			return b.String()
		}
		fmt.Fprintf(&b, "count %s %d\n", k, n)
	}
}

func details(k fault.Kind) string { return k.Row().Details }
