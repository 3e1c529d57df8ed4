// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"bytes"
	"fmt"
	"strings"

	xh2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// h2peer is the test's end of an HTTP/2 connection: frames by golang.org/x/net.
type h2peer struct {
	*peer
	out bytes.Buffer
	in  bytes.Buffer
	fr  *xh2.Framer
	enc *hpack.Encoder
	hb  bytes.Buffer
	dec *hpack.Decoder
}

func (r *rig) h2(p *peer, client bool) *h2peer {
	h := &h2peer{peer: p}
	h.fr = xh2.NewFramer(&h.out, &h.in)
	h.fr.AllowIllegalWrites = true
	h.fr.SetMaxReadFrameSize(1 << 24)
	h.enc = hpack.NewEncoder(&h.hb)
	h.dec = hpack.NewDecoder(4096, nil)
	if client {
		h.out.WriteString(xh2.ClientPreface)
	}
	must(r.t, h.fr.WriteSettings())
	must(r.t, h.fr.WriteSettingsAck())
	return h
}

// dialH2 opens a client connection that speaks HTTP/2.
func (r *rig) dialH2() *h2peer { return r.h2(r.dial(), true) }

// send writes the frames that were queued.
func (h *h2peer) send() {
	h.write(h.out.String())
	h.out.Reset()
}

// block encodes name, value pairs.
func (h *h2peer) block(kv ...string) []byte {
	h.hb.Reset()
	for i := 0; i < len(kv); i += 2 {
		must(h.t, h.enc.WriteField(hpack.HeaderField{Name: kv[i], Value: kv[i+1]}))
	}
	return append([]byte(nil), h.hb.Bytes()...)
}

func (h *h2peer) headers(id uint32, end bool, kv ...string) {
	must(h.t, h.fr.WriteHeaders(xh2.HeadersFrameParam{StreamID: id, BlockFragment: h.block(kv...), EndHeaders: true, EndStream: end}))
}

func (h *h2peer) get(id uint32, path string) {
	h.headers(id, true, ":method", "GET", ":scheme", "http", ":authority", "x.test", ":path", path)
}

func (h *h2peer) post(id uint32, path string, kv ...string) {
	h.headers(id, false, append([]string{":method", "POST", ":scheme", "http", ":authority", "x.test", ":path", path}, kv...)...)
}

func (h *h2peer) data(id uint32, s string, end bool) { must(h.t, h.fr.WriteData(id, end, []byte(s))) }

// frames reads what came and names it, one line a frame; SETTINGS, their acknowledgement and WINDOW_UPDATE are left out.
func (h *h2peer) frames() (string, bool) {
	text, eof := h.read()
	h.in.WriteString(text)
	var out []string
	for {
		rest := h.in.Bytes()
		if len(rest) < 9 || len(rest) < 9+int(rest[0])<<16+int(rest[1])<<8+int(rest[2]) {
			break
		}
		f, err := h.fr.ReadFrame()
		if err != nil {
			out = append(out, err.Error())
			break
		}
		if s := h.name(f); s != "" {
			out = append(out, s)
		}
	}
	return strings.Join(out, "\n"), eof
}

func (h *h2peer) name(f xh2.Frame) string {
	end := func(on bool) string {
		if on {
			return " end"
		}
		return ""
	}
	id := f.Header().StreamID
	switch f := f.(type) {
	case *xh2.HeadersFrame:
		fields, err := h.dec.DecodeFull(f.HeaderBlockFragment())
		must(h.t, err)
		s := fmt.Sprintf("%d HEADERS%s", id, end(f.StreamEnded()))
		for _, x := range fields {
			switch x.Name {
			case "date", "x-request-id", "x-envoy-upstream-service-time":
				x.Value = "#"
			}
			s += " " + x.Name + "=" + x.Value
		}
		return s
	case *xh2.DataFrame:
		d := string(f.Data())
		if len(d) > 40 {
			d = fmt.Sprintf("(%d)", len(d))
		}
		return fmt.Sprintf("%d DATA%s %s", id, end(f.StreamEnded()), d)
	case *xh2.RSTStreamFrame:
		return fmt.Sprintf("%d RST %v", id, f.ErrCode)
	case *xh2.GoAwayFrame:
		return fmt.Sprintf("GOAWAY %d %v", f.LastStreamID, f.ErrCode)
	case *xh2.PingFrame:
		return fmt.Sprintf("PING ack=%v", f.IsAck())
	}
	return ""
}

// increment is what a WINDOW_UPDATE for the stream brings, 0 for any other frame.
func increment(f xh2.Frame, id uint32) int {
	if w, ok := f.(*xh2.WindowUpdateFrame); ok && w.StreamID == id {
		return int(w.Increment)
	}
	return 0
}
