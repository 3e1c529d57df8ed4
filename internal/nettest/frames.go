// SPDX-License-Identifier: Apache-2.0

package nettest

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	xh2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Frames is the peer's end of an HTTP/2 connection. What its Framer writes goes to Out, for the test to send in pieces as it likes.
type Frames struct {
	*xh2.Framer
	Out bytes.Buffer
	In  bytes.Buffer // what was received and not read
	t   testing.TB
	hb  bytes.Buffer
	enc *hpack.Encoder
	dec *hpack.Decoder
}

// NewFrames begins a connection: preface of a client, SETTINGS, and the acknowledgement of the other side's.
func NewFrames(t testing.TB, client bool, settings ...xh2.Setting) *Frames {
	f := &Frames{t: t, dec: hpack.NewDecoder(4096, nil)}
	f.Framer = xh2.NewFramer(&f.Out, &f.In)
	f.AllowIllegalWrites = true
	f.SetMaxReadFrameSize(1 << 24)
	f.enc = hpack.NewEncoder(&f.hb)
	if client {
		f.Out.WriteString(xh2.ClientPreface)
	}
	Must(t, f.WriteSettings(settings...))
	Must(t, f.WriteSettingsAck())
	return f
}

// Take returns what was written since.
func (f *Frames) Take() string {
	s := f.Out.String()
	f.Out.Reset()
	return s
}

// Block encodes name, value pairs.
func (f *Frames) Block(kv ...string) []byte {
	f.hb.Reset()
	for i := 0; i < len(kv); i += 2 {
		Must(f.t, f.enc.WriteField(hpack.HeaderField{Name: kv[i], Value: kv[i+1]}))
	}
	return bytes.Clone(f.hb.Bytes())
}

// Headers writes a whole header block.
func (f *Frames) Headers(id uint32, end bool, kv ...string) {
	Must(f.t, f.WriteHeaders(xh2.HeadersFrameParam{StreamID: id, BlockFragment: f.Block(kv...), EndHeaders: true, EndStream: end}))
}

// Get writes a request without content.
func (f *Frames) Get(id uint32, path string) {
	f.Headers(id, true, ":method", "GET", ":scheme", "http", ":authority", "x.test", ":path", path)
}

// Post writes the head of a request with content.
func (f *Frames) Post(id uint32, path string, kv ...string) {
	f.Headers(id, false, append([]string{":method", "POST", ":scheme", "http", ":authority", "x.test", ":path", path}, kv...)...)
}

// Data writes content.
func (f *Frames) Data(id uint32, s string, end bool) { Must(f.t, f.WriteData(id, end, []byte(s))) }

// Feed takes what was received.
func (f *Frames) Feed(received string) { f.In.WriteString(received) }

// Next is the next whole frame of what was received, nil when there is none. Its content is valid until the next call.
func (f *Frames) Next() xh2.Frame {
	rest := f.In.Bytes()
	if len(rest) < 9 || len(rest) < 9+int(rest[0])<<16+int(rest[1])<<8+int(rest[2]) {
		return nil
	}
	fr, err := f.ReadFrame()
	Must(f.t, err)
	return fr
}

// Names takes what was received and tells the whole frames of it, a line each; SETTINGS, their acknowledgement and WINDOW_UPDATE are left out.
func (f *Frames) Names(received string) string {
	f.Feed(received)
	var out []string
	for fr := f.Next(); fr != nil; fr = f.Next() {
		if s := f.Name(fr); s != "" {
			out = append(out, s)
		}
	}
	return strings.Join(out, "\n")
}

// Name tells what a frame is: values that change from run to run are #, long content is its length.
func (f *Frames) Name(fr xh2.Frame) string {
	end := func(on bool) string {
		if on {
			return " end"
		}
		return ""
	}
	id := fr.Header().StreamID
	switch fr := fr.(type) {
	case *xh2.HeadersFrame:
		fields, err := f.dec.DecodeFull(fr.HeaderBlockFragment())
		Must(f.t, err)
		s := fmt.Sprintf("%d HEADERS%s", id, end(fr.StreamEnded()))
		for _, x := range fields {
			switch x.Name {
			case "date", "x-request-id", "x-envoy-upstream-service-time":
				x.Value = "#"
			}
			s += " " + x.Name + "=" + x.Value
		}
		return s
	case *xh2.DataFrame:
		d := string(fr.Data())
		if len(d) > 40 {
			d = fmt.Sprintf("(%d)", len(d))
		}
		return fmt.Sprintf("%d DATA%s %s", id, end(fr.StreamEnded()), d)
	case *xh2.RSTStreamFrame:
		return fmt.Sprintf("%d RST %v", id, fr.ErrCode)
	case *xh2.GoAwayFrame:
		return fmt.Sprintf("GOAWAY %d %v", fr.LastStreamID, fr.ErrCode)
	case *xh2.PingFrame:
		return fmt.Sprintf("PING ack=%v", fr.IsAck())
	}
	return ""
}

// Increment is what a WINDOW_UPDATE for the stream brings, 0 for any other frame.
func Increment(fr xh2.Frame, id uint32) int {
	if w, ok := fr.(*xh2.WindowUpdateFrame); ok && w.StreamID == id {
		return int(w.Increment)
	}
	return 0
}
