// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"bytes"
	"io"
	"net"
	"sync/atomic"
	"time"

	xh2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// burst is how many bytes of frames the attacker writes at once.
const burst = 32 << 10

// attacker is one connection that sends frames as fast as they are taken. Its socket buffers are small, so that what is not read stays in the proxy.
type attacker struct {
	c     net.Conn
	out   bytes.Buffer
	f     *xh2.Framer
	block bytes.Buffer
	enc   *hpack.Encoder
	id    uint32 // of the next stream
	stop  *atomic.Bool
	cut   bool          // the proxy has ended the connection
	code  atomic.Int64  // of the GOAWAY that came, plus one
	open  atomic.Int64  // streams that have not ended, for attacks that count them
	over  chan struct{} // a stream has ended
	asked chan uint32   // upstream: streams with a request
}

// newAttacker attacks on c.
func newAttacker(c net.Conn, stop *atomic.Bool) *attacker {
	a := &attacker{c: c, id: 1, stop: stop, over: make(chan struct{}, 1), asked: make(chan uint32, 1000)}
	a.f = xh2.NewFramer(&a.out, nil)
	a.f.AllowIllegalWrites = true
	a.enc = hpack.NewEncoder(&a.block)
	return a
}

// dial opens a connection of a client. Unless deaf, what comes is read and thrown away.
func (k *attack) dial(addr string, stop *atomic.Bool) (*attacker, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	a := newAttacker(c, stop)
	if k.tls {
		return a, nil
	}
	a.out.WriteString(xh2.ClientPreface)
	a.greet(k, c)
	return a, nil
}

// greet sends SETTINGS and begins to read.
func (a *attacker) greet(k *attack, in io.Reader) {
	_ = a.f.WriteSettings(k.settings...)
	if !k.rude {
		_ = a.f.WriteSettingsAck()
	}
	a.flush()
	if k.deaf {
		_ = a.c.(*net.TCPConn).SetReadBuffer(4 << 10)
	} else {
		go a.read(in)
	}
}

// read throws away what comes, and remembers the code of a GOAWAY.
func (a *attacker) read(in io.Reader) {
	f := xh2.NewFramer(nil, in)
	f.SetMaxReadFrameSize(1 << 24)
	for {
		fr, err := f.ReadFrame()
		if err != nil {
			return
		}
		if g, ok := fr.(*xh2.GoAwayFrame); ok {
			a.code.Store(int64(g.ErrCode) + 1)
		}
		if h, ok := fr.(*xh2.HeadersFrame); ok {
			select {
			case a.asked <- h.StreamID:
			default:
			}
		}
		if t := fr.Header(); t.Type == xh2.FrameRSTStream || (t.Type == xh2.FrameData || t.Type == xh2.FrameHeaders) && t.Flags.Has(xh2.FlagDataEndStream) {
			a.open.Add(-1)
			select {
			case a.over <- struct{}{}:
			default:
			}
		}
	}
}

// end tells how the connection ended.
func (a *attacker) end() string {
	if code := a.code.Load(); code > 0 {
		return "GOAWAY " + xh2.ErrCode(code-1).String()
	}
	return "closed"
}

// going tells whether the attack goes on: neither the time is over nor the connection.
func (a *attacker) going() bool { return !a.cut && a.code.Load() == 0 && !a.stop.Load() }

// flush writes what was queued. A write that is not taken for a while is tried again: the proxy may have stopped reading, which is an answer too.
func (a *attacker) flush() {
	b := a.out.Bytes()
	for len(b) > 0 && a.code.Load() == 0 && !a.stop.Load() {
		_ = a.c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		n, err := a.c.Write(b)
		b = b[n:]
		if ne, ok := err.(net.Error); err != nil && (!ok || !ne.Timeout()) {
			a.cut = true
			break
		}
	}
	a.out.Reset()
}

// room flushes once there is a burst.
func (a *attacker) room() {
	if a.out.Len() >= burst {
		a.flush()
	}
}

// wait waits for a stream to end.
func (a *attacker) wait() {
	for n := a.open.Load(); n > 0 && a.open.Load() == n && a.going(); {
		select {
		case <-a.over:
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// next waits for a request, of an upstream; 0 when none came.
func (a *attacker) next() uint32 {
	select {
	case id := <-a.asked:
		return id
	case <-time.After(20 * time.Millisecond):
		return 0
	}
}

// first waits for the first request.
func (a *attacker) first() (id uint32) {
	for id == 0 && a.going() {
		id = a.next()
	}
	return id
}

// status encodes the head of an answer, with name, value pairs behind it.
func (a *attacker) status(code string, kv ...string) []byte {
	a.block.Reset()
	for i, kv := 0, append([]string{":status", code}, kv...); i < len(kv); i += 2 {
		_ = a.enc.WriteField(hpack.HeaderField{Name: kv[i], Value: kv[i+1]})
	}
	return bytes.Clone(a.block.Bytes())
}

// head sends a whole block.
func (a *attacker) head(id uint32, end bool, block ...[]byte) {
	_ = a.f.WriteHeaders(xh2.HeadersFrameParam{StreamID: id, BlockFragment: bytes.Join(block, nil), EndHeaders: true, EndStream: end})
}

// fields encodes name, value pairs behind a request's pseudo-headers.
func (a *attacker) fields(method, path string, kv ...string) []byte {
	a.block.Reset()
	for _, h := range [][2]string{{":method", method}, {":scheme", "http"}, {":authority", "a.test"}, {":path", path}} {
		_ = a.enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
	}
	for i := 0; i < len(kv); i += 2 {
		_ = a.enc.WriteField(hpack.HeaderField{Name: kv[i], Value: kv[i+1]})
	}
	return a.block.Bytes()
}

// take is the identifier of the next stream.
func (a *attacker) take() uint32 {
	a.id += 2
	return a.id - 2
}

// request opens a stream.
func (a *attacker) request(method, path string, end bool) uint32 {
	id := a.take()
	a.head(id, end, a.fields(method, path))
	return id
}
