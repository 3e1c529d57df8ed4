// SPDX-License-Identifier: Apache-2.0

package parity

import (
	"encoding/json"
	"fmt"
	"strings"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Frame is one HTTP/2 frame to send, well-formed or not. In a case file it is a map with the frame type as its first key and the stream as its
// value: {HEADERS: 1, end: true, fields: [":method: GET"]}, {DATA: 1, body: x, end: true}, {RST_STREAM: 1, code: CANCEL}.
type Frame struct {
	// Type is HEADERS, CONTINUATION, DATA, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, a number, or RAW (Body as it is).
	Type   string `json:"-"`
	Stream uint32 `json:"-"`
	// Fields are "name: value" lines of a header block, in order; escapes are as in wire text.
	Fields []string `json:"fields"`
	// Body is the payload (behind the fixed part of a GOAWAY).
	Body string `json:"body"`
	End  bool   `json:"end"`
	// More leaves END_HEADERS out: CONTINUATION is to follow.
	More bool `json:"more"`
	Ack  bool `json:"ack"`
	// Flags are or-ed to what the other fields say.
	Flags uint8 `json:"flags"`
	// Code is an error code by name or number.
	Code string `json:"code"`
	// Last is the last stream of a GOAWAY, Add the increment of a WINDOW_UPDATE.
	Last uint32 `json:"last"`
	Add  uint32 `json:"add"`
	// Set holds "NAME=value" settings.
	Set []string `json:"set"`
	// Repeat sends the frame that many times in one write, each on a stream number higher by Step.
	Repeat int `json:"repeat"`
	Step   int `json:"step"`
	// Flood sends DATA without regard to windows and frame size.
	Flood bool `json:"flood"`
	// Then is slept behind the frame.
	Then Duration `json:"then"`
}

var frameTypes = map[string]uint32{"DATA": 0, "HEADERS": 1, "PRIORITY": 2, "RST_STREAM": 3, "SETTINGS": 4, "PUSH_PROMISE": 5, "PING": 6, "GOAWAY": 7,
	"WINDOW_UPDATE": 8, "CONTINUATION": 9, "RAW": 256}

var settingNames = map[string]uint32{"HEADER_TABLE_SIZE": 1, "ENABLE_PUSH": 2, "MAX_CONCURRENT_STREAMS": 3, "INITIAL_WINDOW_SIZE": 4, "MAX_FRAME_SIZE": 5,
	"MAX_HEADER_LIST_SIZE": 6, "ENABLE_CONNECT_PROTOCOL": 8}

var codeNames = func() map[string]uint32 {
	m := map[string]uint32{"": 0}
	for c := uint32(0); c < 14; c++ {
		m[http2.ErrCode(c).String()] = c
	}
	return m
}()

// UnmarshalJSON takes the one key that is a frame type for Type and its value for Stream.
func (f *Frame) UnmarshalJSON(b []byte) error {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(b, &all); err != nil {
		return err
	}
	for k, v := range all {
		if _, err := number(k, frameTypes); err != nil {
			continue
		}
		if f.Type != "" {
			return fmt.Errorf("a frame of two types: %s", b)
		}
		f.Type = k
		if err := json.Unmarshal(v, &f.Stream); err != nil {
			return fmt.Errorf("frame %s: the stream: %w", k, err)
		}
		delete(all, k)
	}
	if f.Type == "" {
		return fmt.Errorf("no frame type in %s", b)
	}
	rest, err := json.Marshal(all)
	if err != nil {
		return err
	}
	type plain Frame
	dec := json.NewDecoder(strings.NewReader(string(rest)))
	dec.DisallowUnknownFields()
	return dec.Decode((*plain)(f))
}

// encode renders one frame. HEADERS longer than a frame may be are continued in CONTINUATION frames. The caller holds wmu.
func (e *h2End) encode(f *Frame) ([]byte, error) {
	body, err := Unescape(f.Body)
	if err != nil {
		return nil, err
	}
	t, err := number(f.Type, frameTypes)
	if err != nil {
		return nil, err
	}
	if f.Type == "RAW" {
		return body, nil
	}
	flags := http2.Flags(f.Flags)
	if f.End {
		flags |= http2.FlagDataEndStream
	}
	if f.Ack {
		flags |= http2.FlagSettingsAck
	}
	payload := body
	switch f.Type {
	case "HEADERS", "CONTINUATION":
		block, err := e.headerBlock(f.Fields)
		if err != nil {
			return nil, err
		}
		return headerFrames(t, flags, f, append(block, body...)), nil
	case "RST_STREAM", "GOAWAY":
		code, err := number(f.Code, codeNames)
		if err != nil {
			return nil, err
		}
		payload = append(u32(code), body...)
		if f.Type == "GOAWAY" {
			payload = append(u32(f.Last), payload...)
		}
	case "WINDOW_UPDATE":
		if f.Body == "" {
			payload = u32(f.Add)
		}
	case "PING":
		if f.Body == "" {
			payload = make([]byte, 8)
		}
	case "SETTINGS":
		for _, s := range f.Set {
			name, value, _ := strings.Cut(s, "=")
			id, err := number(name, settingNames)
			if err != nil {
				return nil, err
			}
			v, err := number(value, nil)
			if err != nil {
				return nil, err
			}
			payload = append(append(payload, byte(id>>8), byte(id)), u32(v)...)
		}
	}
	return rawFrame(http2.FrameType(t), flags, f.Stream, payload), nil
}

// headerFrames cuts a block into frames of the smallest size that every peer takes.
func headerFrames(t uint32, flags http2.Flags, f *Frame, block []byte) (out []byte) {
	const size = 16384
	for {
		n := min(len(block), size)
		if n == len(block) && !f.More {
			flags |= http2.FlagHeadersEndHeaders
		}
		out = append(out, rawFrame(http2.FrameType(t), flags, f.Stream, block[:n])...)
		if block = block[n:]; len(block) == 0 {
			return out
		}
		t, flags = uint32(http2.FrameContinuation), 0
	}
}

// headerBlock encodes fields.
func (e *h2End) headerBlock(fields []string) ([]byte, error) {
	e.encBuf.Reset()
	if size := e.table.Load(); size != e.tableSet {
		e.enc.SetMaxDynamicTableSize(size) // tells so in this block
		e.tableSet = size
	}
	for _, line := range fields {
		name := h2FieldName(line)
		value := strings.TrimPrefix(strings.TrimPrefix(line[len(name):], ":"), " ")
		n, err := Unescape(name)
		if err != nil {
			return nil, err
		}
		v, err := Unescape(value)
		if err != nil {
			return nil, err
		}
		e.enc.WriteField(hpack.HeaderField{Name: string(n), Value: string(v)})
	}
	return append([]byte(nil), e.encBuf.Bytes()...), nil
}

// h2Request turns a Req step into frames on a stream.
func h2Request(s *Step, stream uint32, scheme string) ([]*Frame, error) {
	f := strings.Fields(s.Req)
	if len(f) < 2 || len(f) > 3 {
		return nil, fmt.Errorf("req %q: want METHOD TARGET [HOST]", s.Req)
	}
	host := "a.test"
	if len(f) == 3 {
		host = f[2]
	}
	pseudo := [][2]string{{":method", f[0]}, {":scheme", scheme}, {":authority", host}, {":path", f[1]}}
	var head, rest []string
	own := map[string]bool{}
	for _, h := range s.Headers {
		if strings.HasPrefix(h, ":") {
			own[h2FieldName(h)] = true
			head = append(head, h)
		} else {
			rest = append(rest, h)
		}
	}
	var lead []string
	for _, p := range pseudo {
		if !own[p[0]] && p[1] != "-" && (f[0] != "CONNECT" || own[":protocol"] || p[0] == ":method" || p[0] == ":authority") {
			lead = append(lead, p[0]+": "+p[1])
		}
	}
	fields := append(append(lead, head...), rest...)
	bare := s.Body == "" && len(s.Trailers) == 0
	frames := []*Frame{{Type: "HEADERS", Stream: stream, Fields: fields, End: bare && !s.Open}}
	if s.Body != "" {
		frames = append(frames, &Frame{Type: "DATA", Stream: stream, Body: s.Body, End: len(s.Trailers) == 0 && !s.Open})
	}
	if len(s.Trailers) > 0 {
		frames = append(frames, &Frame{Type: "HEADERS", Stream: stream, Fields: s.Trailers, End: true})
	}
	return frames, nil
}

// h2Reply turns one part of a scripted reply into frames; last says that no other part follows.
func h2Reply(r *Reply, stream uint32, last bool) []*Frame {
	var frames []*Frame
	interim := r.Status >= 100 && r.Status < 200
	end := last && !r.Open && !interim && r.Reset == "" && !r.Hang
	if r.Status != 0 {
		fields := append([]string{fmt.Sprintf(":status: %d", r.Status)}, r.Headers...)
		frames = append(frames, &Frame{Type: "HEADERS", Stream: stream, Fields: fields, End: end && r.Body == "" && len(r.Trailers) == 0})
	}
	if r.Body != "" || r.Status == 0 && end && len(r.Trailers) == 0 {
		frames = append(frames, &Frame{Type: "DATA", Stream: stream, Body: r.Body, End: end && len(r.Trailers) == 0})
	}
	if len(r.Trailers) > 0 {
		frames = append(frames, &Frame{Type: "HEADERS", Stream: stream, Fields: r.Trailers, End: end})
	}
	for _, f := range r.Frames {
		one := *f
		if one.Stream == 0 && one.Type != "GOAWAY" && one.Type != "SETTINGS" && one.Type != "PING" {
			one.Stream = stream
		}
		frames = append(frames, &one)
	}
	if r.Reset != "" {
		frames = append(frames, &Frame{Type: "RST_STREAM", Stream: stream, Code: r.Reset})
	}
	return frames
}
