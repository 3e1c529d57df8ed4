// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
)

// The scripts of a backend that are not what a good backend does.
const (
	actNone   = ""
	actIdle   = "idle"   // answers, then closes the keep-alive connection without having said so
	actMid    = "mid"    // closes in the middle of the response body
	actReset  = "reset"  // RST in the middle of the response body
	actBefore = "before" // closes before it answers
	actRefuse = "refuse" // RST before it answers
	actEarly  = "early"  // answers before it has read the body, then reads on
	actStall  = "stall"  // answers later than the route's timeout
)

// plan is the script of one request: sent to the backend in x-plan, kept by the client as the expectation.
type plan struct {
	ID       uint64
	Route    string `json:",omitempty"`
	Method   string
	Body     int    `json:",omitempty"` // request body length
	Chunked  bool   `json:",omitempty"`
	Trailer  bool   `json:",omitempty"` // the request ends in a trailer
	Expect   bool   `json:",omitempty"`
	Last     bool   `json:",omitempty"` // connection: close
	Status   int    // of the answer
	Resp     int    `json:",omitempty"` // response body length
	Framing  string `json:",omitempty"` // cl, chunked, close
	RTrailer bool   `json:",omitempty"`
	Infos    int    `json:",omitempty"` // 1xx heads before the answer
	SlowHead bool   `json:",omitempty"`
	SlowBody bool   `json:",omitempty"`
	SlowRead bool   `json:",omitempty"`
	Act      string `json:",omitempty"`
	Fails    int    `json:",omitempty"` // the first tries fail
	FailBy   string `json:",omitempty"` // "503", before or refuse
	Aborts   bool   `json:",omitempty"` // the client may go away: the backend forgives an incomplete body
	Vandal   bool   `json:",omitempty"` // the body may be anything
	WS       bool   `json:",omitempty"`
	Up, Down int    `json:",omitempty"` // tunnels: bytes each way
	Order    string `json:",omitempty"` // tunnels: who ends first
}

func (p *plan) encode() string {
	b, err := json.Marshal(p)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// dirty tells whether the answer may be an error.
func (p *plan) dirty() bool { return p.Route == "/chaos" || p.Act == actStall }

// breaks tells whether the answer may break off.
func (p *plan) breaks() bool { return p.Act == actMid || p.Act == actReset }

func (p *plan) bodyless() bool {
	return p.Method == "HEAD" || p.Status == 204 || p.Status == 304
}

// mix is splitmix64's finalizer.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// content writes the bytes of stream id from off on.
func content(b []byte, id uint64, off int) {
	var w [8]byte
	for i := 0; i < len(b); {
		at := off + i
		binary.LittleEndian.PutUint64(w[:], mix(id*0x9e3779b97f4a7c15+uint64(at/8)))
		i += copy(b[i:], w[at%8:])
	}
}

// The streams of one request: its body and its answer's.
func (p *plan) bodyStream() uint64 { return p.ID * 2 }
func (p *plan) respStream() uint64 { return p.ID*2 + 1 }

// checker compares what is written to it with a stream.
type checker struct {
	id  uint64
	n   int
	buf []byte
}

func (c *checker) Write(p []byte) (int, error) {
	if cap(c.buf) < len(p) {
		c.buf = make([]byte, len(p))
	}
	want := c.buf[:len(p)]
	content(want, c.id, c.n)
	for i := range p {
		if p[i] != want[i] {
			return i, fmt.Errorf("byte %d of stream %d: got %q%s, want %q", c.n+i, c.id, p[i:min(len(p), i+48)], c.find(p[i:]), want[i:min(len(p), i+16)])
		}
	}
	c.n += len(p)
	return len(p), nil
}

// find tells where wrong bytes are from: another place of the stream, or a stream with a number nearby.
func (c *checker) find(p []byte) string {
	if len(p) < 16 {
		return ""
	}
	all := make([]byte, 5<<20)
	for d := range 200 {
		for _, id := range []uint64{c.id - uint64(d), c.id + uint64(d)} {
			content(all, id, 0)
			if at := bytes.Index(all, p[:16]); at >= 0 {
				return fmt.Sprintf(" (byte %d of stream %d)", at, id)
			}
		}
	}
	return " (of no stream nearby)"
}

// source reads a stream.
type source struct {
	id        uint64
	off, left int
}

func (s *source) Read(p []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	p = p[:min(len(p), s.left)]
	content(p, s.id, s.off)
	s.off += len(p)
	s.left -= len(p)
	return len(p), nil
}

// size draws a body length: mostly small, sometimes megabytes.
func size(r *rand.Rand, limit int) int {
	n := 0
	switch r.IntN(10) {
	case 0, 1:
	case 2, 3, 4:
		n = r.IntN(200)
	case 5, 6, 7:
		n = r.IntN(20 << 10)
	case 8:
		n = r.IntN(300 << 10)
	default:
		n = r.IntN(5 << 20)
	}
	return min(n, limit)
}

// newPlan draws one request. small says that the listener has a small buffer limit; limit bounds the bodies.
func newPlan(r *rand.Rand, id uint64, small bool, limit int) *plan {
	p := &plan{ID: id, Method: []string{"GET", "GET", "GET", "POST", "POST", "PUT", "HEAD"}[r.IntN(7)], Status: 200}
	p.Route = []string{"/clean", "/clean", "/weighted", "/dns", "/mirror", "/retry", "/chaos", "/chaos", "/slow"}[r.IntN(9)]
	most := limit
	if p.Route == "/retry" || p.Route == "/mirror" {
		if most = min(limit, 200<<10); small {
			most = 3 << 10
		}
	}
	if p.Method == "POST" || p.Method == "PUT" {
		p.Body = size(r, most)
		p.Chunked = r.IntN(2) == 0
		p.Trailer = p.Chunked && r.IntN(4) == 0
		p.Expect = (p.Body > 0 || p.Chunked) && r.IntN(8) == 0
	}
	p.Resp = size(r, limit)
	p.Framing = []string{"cl", "cl", "chunked", "chunked", "close"}[r.IntN(5)]
	p.RTrailer = p.Framing == "chunked" && r.IntN(4) == 0
	switch r.IntN(12) {
	case 0:
		p.Status = 404
	case 1:
		p.Status = 204
	case 2:
		p.Status = 304
	}
	if p.bodyless() {
		p.Framing, p.RTrailer, p.Resp = "cl", false, 0
	}
	p.Infos = max(0, r.IntN(12)-9)
	p.SlowHead, p.SlowBody, p.SlowRead = r.IntN(20) == 0, r.IntN(20) == 0, r.IntN(20) == 0
	switch p.Route {
	case "/retry":
		p.Fails, p.FailBy = r.IntN(3), []string{"503", actBefore, actRefuse}[r.IntN(3)]
	case "/slow":
		p.SlowHead, p.SlowBody, p.SlowRead, p.Body, p.Resp = false, false, false, min(p.Body, 5000), min(p.Resp, 5000)
		if r.IntN(4) == 0 {
			p.Act = actStall
		}
	case "/chaos":
		p.Act = []string{actNone, actIdle, actMid, actReset, actBefore, actRefuse, actIdle}[r.IntN(7)]
		if p.breaks() && (p.Resp < 100 || p.Framing == "close") {
			p.Act = actIdle
		}
	case "/clean":
		if p.Body > 0 && r.IntN(6) == 0 {
			p.Act = actEarly
		}
	}
	return p
}
