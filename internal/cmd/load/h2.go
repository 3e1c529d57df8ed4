// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// h2 is one HTTP/2 connection of the client or the backend, fed with bytes and leaving bytes in out. It shares nothing with the sidecar's own HTTP/2, whose faults it
// must not hide: header blocks and the names of frames are golang.org/x/net's. It is small because it may give up: whatever it does not expect is an error.
type h2 struct {
	side    h2Side
	preface []byte // Still to come from a client.
	in      []byte // An incomplete frame, bounded by maxFrameSize.
	out     []byte // For the owner to write once per turn, and to empty.

	enc     *hpack.Encoder
	encoded bytes.Buffer
	encGen  uint32 // Counts insertions into the encoder's table.
	dec     *hpack.Decoder
	fields  fields // Of the block being decoded.
	seen    []seenBlock

	settled    bool   // The peer's SETTINGS have come.
	maxStreams uint32 // The peer's.
	initial    int64  // The peer's window of a new stream.
	window     int64  // What may be sent on the connection.
	unacked    uint32 // Received on the connection and not given back.
	streams    map[uint32]*stream
	free       []*stream
	blocked    []*stream // Owe messages for which there is no window.
}

// h2Side is what client and backend do differently. An error ends the connection.
type h2Side interface {
	headers(c *h2, id uint32, s *stream, f fields, end bool) error
	data(c *h2, s *stream, n int, end bool) error
	// endStream says whether the last message ends the stream; otherwise sent is called after it.
	endStream() bool
	sent(c *h2, s *stream)
}

// stream is one request. What is sent in DATA are gRPC messages of messageSize bytes.
type stream struct {
	id      uint32
	window  int64  // What may be sent.
	unacked uint32 // Received and not given back.
	owed    int    // Messages to be sent.
	last    bool   // Nothing follows them.
	waits   bool   // In blocked.

	// Side
	answered bool  // The response's headers have been sent, or have come.
	got      int64 // Bytes of DATA: all, or those of an incomplete message.
	length   int64 // The response's Content-Length; -1 without.
	begun    time.Time
}

const (
	maxFrameSize = 16 << 10
	frameHead    = 9
	messageSize  = 5 + 100
	// Windows given to the peer: a stream's, and what is added to a connection's 65,535. Half of one is given back at a time.
	streamWindow = 1 << 20
	connWindow   = 16 << 20
	// maxSeen bounds the header blocks remembered.
	maxSeen = 8
)

// message is a gRPC message: not compressed, 100 bytes.
var message = append([]byte{0, 0, 0, 0, messageSize - 5}, bytes.Repeat([]byte("m"), messageSize-5)...)

func newH2(side h2Side) *h2 {
	c := &h2{side: side, initial: 65535, window: 65535, maxStreams: 1<<31 - 1, streams: map[uint32]*stream{}, out: make([]byte, 0, 64<<10)}
	c.enc = hpack.NewEncoder(&c.encoded)
	c.dec = hpack.NewDecoder(4096, c.fields.take)
	return c
}

// begin leaves the first frames in out.
func (c *h2) begin() {
	c.out = appendFrame(c.out, http2.FrameSettings, 0, 0, 6)
	c.out = binary.BigEndian.AppendUint16(c.out, uint16(http2.SettingInitialWindowSize))
	c.out = binary.BigEndian.AppendUint32(c.out, streamWindow)
	c.windowUpdate(0, connWindow)
}

func appendFrame(b []byte, t http2.FrameType, flags http2.Flags, id uint32, length int) []byte {
	b = append(b, byte(length>>16), byte(length>>8), byte(length), byte(t), byte(flags))
	return binary.BigEndian.AppendUint32(b, id)
}

func (c *h2) windowUpdate(id, n uint32) {
	c.out = binary.BigEndian.AppendUint32(appendFrame(c.out, http2.FrameWindowUpdate, 0, id, 4), n)
}

// fields are what is looked at in a header block; -1 is not there.
type fields struct{ status, grpcStatus, length int64 }

func (f *fields) take(h hpack.HeaderField) {
	var to *int64
	switch h.Name {
	case ":status":
		to = &f.status
	case "grpc-status":
		to = &f.grpcStatus
	case "content-length":
		to = &f.length
	default:
		return
	}
	n, err := strconv.ParseInt(h.Value, 10, 64)
	if err != nil {
		n = -2
	}
	*to = n
}

// seenBlock is a block of indexed fields alone: while nothing is inserted, the same bytes mean the same fields.
type seenBlock struct {
	raw []byte
	fields
}

// indexed reports whether a block has nothing but indexed fields, and so neither changes nor depends on more than the table as it is.
func indexed(b []byte) bool {
	for i := 0; i < len(b); i++ {
		if b[i] < 0x80 {
			return false
		}
		if b[i] == 0xff {
			for i++; i < len(b) && b[i] >= 0x80; i++ {
			}
		}
	}
	return true
}

func (c *h2) decode(raw []byte) (fields, error) {
	same := indexed(raw)
	if same {
		for i := range c.seen {
			if bytes.Equal(c.seen[i].raw, raw) {
				return c.seen[i].fields, nil
			}
		}
	} else {
		c.seen = c.seen[:0]
	}
	c.fields = fields{-1, -1, -1}
	if _, err := c.dec.Write(raw); err != nil {
		return c.fields, err
	}
	if err := c.dec.Close(); err != nil {
		return c.fields, err
	}
	if same && len(c.seen) < maxSeen {
		c.seen = append(c.seen, seenBlock{slices.Clone(raw), c.fields})
	}
	return c.fields, nil
}

// block is a header list that is sent over and over. From the second time on it is a few bytes, as from any client that uses HPACK's table.
type block struct {
	list []hpack.HeaderField
	raw  []byte
	gen  uint32
}

func (c *h2) sendHeaders(id uint32, b *block, end bool) {
	raw := b.raw
	if raw == nil || b.gen != c.encGen {
		c.encoded.Reset()
		for _, f := range b.list {
			c.enc.WriteField(f)
		}
		raw = c.encoded.Bytes()
		if indexed(raw) {
			b.raw, b.gen = slices.Clone(raw), c.encGen
		} else {
			c.encGen++
		}
	}
	flags := http2.FlagHeadersEndHeaders
	if end {
		flags |= http2.FlagHeadersEndStream
	}
	c.out = append(appendFrame(c.out, http2.FrameHeaders, flags, id, len(raw)), raw...)
}

func (c *h2) open(id uint32) *stream {
	var s *stream
	if n := len(c.free); n > 0 {
		s, c.free = c.free[n-1], c.free[:n-1]
	} else {
		s = new(stream)
	}
	*s = stream{id: id, window: c.initial}
	c.streams[id] = s
	return s
}

func (c *h2) close(s *stream) {
	delete(c.streams, s.id)
	c.free = append(c.free, s)
}

// push sends the messages owed as far as the windows reach.
func (c *h2) push(s *stream) {
	for s.owed > 0 {
		if c.window < messageSize || s.window < messageSize {
			if !s.waits {
				s.waits = true
				c.blocked = append(c.blocked, s)
			}
			return
		}
		c.window -= messageSize
		s.window -= messageSize
		s.owed--
		var flags http2.Flags
		if s.last && s.owed == 0 && c.side.endStream() {
			flags = http2.FlagDataEndStream
		}
		c.out = append(appendFrame(c.out, http2.FrameData, flags, s.id, messageSize), message...)
	}
	if s.last && !c.side.endStream() {
		c.side.sent(c, s)
	}
}

// unblock tries again what waited for a window.
func (c *h2) unblock() {
	waiting := c.blocked
	c.blocked = nil
	for _, s := range waiting {
		s.waits = false
		c.push(s)
	}
}

// feed takes what has been read.
func (c *h2) feed(b []byte) error {
	if len(c.in) > 0 {
		c.in = append(c.in, b...)
		b = c.in
	}
	if n := min(len(c.preface), len(b)); n > 0 {
		if !bytes.Equal(b[:n], c.preface[:n]) {
			return fmt.Errorf("not HTTP/2: %q", b[:n])
		}
		b, c.preface = b[n:], c.preface[n:]
	}
	for len(b) >= frameHead {
		n := int(b[0])<<16 | int(b[1])<<8 | int(b[2])
		if n > maxFrameSize {
			return fmt.Errorf("a frame of %d bytes", n)
		}
		if len(b) < frameHead+n {
			break
		}
		id := binary.BigEndian.Uint32(b[5:])
		if err := c.frame(http2.FrameType(b[3]), http2.Flags(b[4]), id&(1<<31-1), b[frameHead:frameHead+n]); err != nil {
			return fmt.Errorf("%s frame of stream %d: %w", http2.FrameType(b[3]), id, err)
		}
		b = b[frameHead+n:]
	}
	c.in = append(c.in[:0], b...)
	return nil
}

var (
	errContinued = errors.New("header blocks in pieces are not expected")
	errUnknown   = errors.New("not expected")
	errShort     = errors.New("too short")
	errPadding   = errors.New("padding does not fit")
)

// frame takes one whole frame.
func (c *h2) frame(t http2.FrameType, flags http2.Flags, id uint32, p []byte) error {
	switch t {
	case http2.FrameData:
		return c.takeData(flags, id, p)
	case http2.FrameHeaders:
		return c.takeHeaders(flags, id, p)
	case http2.FrameSettings:
		return c.takeSettings(flags, p)
	case http2.FrameWindowUpdate:
		if len(p) != 4 {
			return errShort
		}
		n := int64(binary.BigEndian.Uint32(p) & (1<<31 - 1))
		if id == 0 {
			c.window += n
		} else if s := c.streams[id]; s != nil { // One that is over may still be given to.
			s.window += n
		}
		c.unblock()
		return nil
	case http2.FramePing:
		if flags&http2.FlagPingAck == 0 {
			c.out = append(appendFrame(c.out, t, http2.FlagPingAck, 0, len(p)), p...)
		}
		return nil
	case http2.FrameRSTStream:
		if c.streams[id] == nil {
			return nil // A stream that is over may be reset: an answer that came before the request's end.
		}
		return refusal(p)
	case http2.FrameGoAway:
		return refusal(p[min(4, len(p)):])
	case http2.FrameContinuation, http2.FramePushPromise:
		return errUnknown
	}
	return nil // PRIORITY and what is not known.
}

// refusal is the error code at the head of p.
func refusal(p []byte) error {
	if len(p) < 4 {
		return errShort
	}
	return fmt.Errorf("%w: %s", errUnknown, http2.ErrCode(binary.BigEndian.Uint32(p)))
}

// unpad takes padding off, and priority when the frame has any.
func unpad(flags http2.Flags, priority bool, p []byte) ([]byte, error) {
	pad := 0
	if flags&http2.FlagDataPadded != 0 {
		if len(p) < 1 {
			return nil, errPadding
		}
		pad, p = int(p[0]), p[1:]
	}
	if priority {
		if len(p) < 5 {
			return nil, errShort
		}
		p = p[5:]
	}
	if pad > len(p) {
		return nil, errPadding
	}
	return p[:len(p)-pad], nil
}

func (c *h2) takeHeaders(flags http2.Flags, id uint32, p []byte) error {
	if flags&http2.FlagHeadersEndHeaders == 0 {
		return errContinued
	}
	p, err := unpad(flags, flags&http2.FlagHeadersPriority != 0, p)
	if err != nil {
		return err
	}
	f, err := c.decode(p)
	if err != nil {
		return err
	}
	return c.side.headers(c, id, c.streams[id], f, flags&http2.FlagHeadersEndStream != 0)
}

func (c *h2) takeData(flags http2.Flags, id uint32, p []byte) error {
	if c.unacked += uint32(len(p)); c.unacked >= connWindow/2 {
		c.windowUpdate(0, c.unacked)
		c.unacked = 0
	}
	s, end := c.streams[id], flags&http2.FlagDataEndStream != 0
	if s == nil {
		return errUnknown
	}
	if s.unacked += uint32(len(p)); s.unacked >= streamWindow/2 && !end {
		c.windowUpdate(id, s.unacked)
		s.unacked = 0
	}
	p, err := unpad(flags, false, p)
	if err != nil {
		return err
	}
	return c.side.data(c, s, len(p), end)
}

func (c *h2) takeSettings(flags http2.Flags, p []byte) error {
	if flags&http2.FlagSettingsAck != 0 {
		return nil
	}
	for ; len(p) >= 6; p = p[6:] {
		v := binary.BigEndian.Uint32(p[2:])
		switch http2.SettingID(binary.BigEndian.Uint16(p)) {
		case http2.SettingHeaderTableSize:
			c.enc.SetMaxDynamicTableSizeLimit(v)
			c.encGen++
		case http2.SettingMaxConcurrentStreams:
			c.maxStreams = v
		case http2.SettingInitialWindowSize:
			for _, s := range c.streams {
				s.window += int64(v) - c.initial
			}
			c.initial = int64(v)
		}
	}
	c.settled = true
	c.out = appendFrame(c.out, http2.FrameSettings, http2.FlagSettingsAck, 0, 0)
	c.unblock()
	return nil
}
