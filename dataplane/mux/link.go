// SPDX-License-Identifier: Apache-2.0

package mux

import (
	"sidecar/dataplane/buf"
	"sidecar/dataplane/conn"
	"sidecar/dataplane/fault"
	"sidecar/dataplane/http2"
	"sidecar/dataplane/loop"
	"sidecar/dataplane/sys"
)

// Got is the outcome of Next.
type Got uint8

// The outcomes.
const (
	Nothing Got = iota // nothing more now
	Event              // Ev is filled
	Failed             // the peer broke the protocol: the machine has queued its GOAWAY
	Gone               // the peer has ended the connection, or it broke
)

// Bounds of one run, beyond the number of events, which is the owner's: a peer that sends as fast as it is read, or asks for what costs much, would else keep
// the worker. The rest is the next turn's.
const (
	maxReads = 4               // of 256 KiB
	maxTurn  = sys.Millisecond // of the turn that the run is in
	// clockEvery is how many events pass between two looks at the clock. Every read but the first one is preceded by a look.
	clockEvery = 16
)

// Shared is what all links of a worker share.
type Shared struct {
	// Worker
	L       *loop.Loop
	H2      http2.Shared
	Ev      http2.Event // of the link whose task runs
	Links   loop.Slab[Link]
	streams loop.Slab[Stream]
	bufs    *buf.Pool
}

// NewShared makes what the links of a worker share.
func NewShared(l *loop.Loop) *Shared {
	return &Shared{L: l, H2: http2.Shared{Bufs: &l.Bufs}, bufs: &l.Bufs}
}

// Streams is the number of streams in use.
func (s *Shared) Streams() int { return s.streams.Live() }

// Link is one HTTP/2 connection. It is embedded in what owns it, a server or a pool's member.
type Link struct {
	// Worker
	H2     http2.Conn
	C      *conn.Conn
	Counts http2.Counters
	sh     *Shared
	task   *loop.Task
	used   int     // input that the last event refers to
	reads  int     // of this run
	events int     // of this run
	busy   bool    // the owner's task runs: it flushes when it is done
	inside int     // calls of the machine for streams that have not come back; more than 0 between them is what a panic left
	first  *Stream // of those that linger, by when they began
	last   *Stream
	idle   int // how many linger
	active int // streams that streams_active has
}

// Init makes k the link on c, in the given role; task is the owner's, which calls Begin, Next and Flush.
func (k *Link) Init(sh *Shared, c *conn.Conn, task *loop.Task, r http2.Role, o *http2.Options) {
	k.C, k.sh, k.task, k.used, k.busy, k.inside, k.active = c, sh, task, 0, false, 0, 0
	k.H2.Init(r, o, &sh.H2, &k.Counts, sh.L.Rand(), sh.L.Now())
}

// Free gives back what the link holds; its streams are over. The connection is the owner's to close.
func (k *Link) Free() {
	k.H2.Free()
	k.C, k.task = nil, nil
}

// Resting tells whether the link may change its worker: no stream, and no byte that was read and not used or is to be sent.
func (k *Link) Resting() bool { return k.used == 0 && k.H2.Resting() && k.C.Movable() }

// Pack takes a Resting link apart: its machine, for Unpack; the connection is the owner's to pack.
func (k *Link) Pack() *http2.Conn {
	p := k.H2.Pack()
	k.C, k.task = nil, nil
	return p
}

// Unpack makes k the link on c that was packed on another worker.
func (k *Link) Unpack(sh *Shared, c *conn.Conn, task *loop.Task, p *http2.Conn) {
	k.C, k.sh, k.task, k.used, k.busy, k.inside, k.active = c, sh, task, 0, false, 0, 0
	k.H2.Unpack(p, &sh.H2, &k.Counts)
}

// Torn tells that a panic left the machine in the middle of something: no stream of the link can trust it, so its owner must end the connection. The
// owner asks before each Next.
func (k *Link) Torn() bool { return k.inside > 0 }

// Tear says that the machine cannot be trusted, and wakes the owner to see that.
func (k *Link) Tear() {
	k.inside++
	k.rouse()
}

// rouse has the owner of a Torn link look at it.
func (k *Link) rouse() {
	if k.Torn() && k.task != nil {
		k.sh.L.Ready(k.task)
	}
}

// Begin opens a run of the owner's task: output that is queued until Flush leaves with it.
func (k *Link) Begin() { k.busy, k.reads, k.events = true, 0, 0 }

// Next brings the next event, in Shared.Ev. What it refers to of the input is valid until the next call of Next or Flush.
func (k *Link) Next(now sys.Nanos) Got {
	k.consume()
	if k.events++; k.events%clockEvery == 0 && k.late() {
		k.sh.L.Later(k.task)
		return Nothing
	}
	for {
		n, st := k.H2.Next(k.C.In(), now, &k.sh.Ev)
		k.used = n
		switch st {
		case http2.Got:
			return Event
		case http2.Failed:
			return Failed
		case http2.Blocked:
			k.consume()
			return Nothing // until output has left
		}
		k.consume()
		if k.reads == maxReads || k.reads > 0 && k.C.MayRead() && k.late() {
			k.sh.L.Later(k.task)
			return Nothing
		}
		k.reads++
		switch k.C.Fill() {
		case conn.Blocked:
			return Nothing
		case conn.More:
			k.C.Spill() // what runs while an event is handled may use the shared scratch
		default:
			return Gone
		}
	}
}

// late tells whether the turn has taken maxTurn.
func (k *Link) late() bool { return k.sh.L.K.Now() >= k.sh.L.Now()+maxTurn }

func (k *Link) consume() {
	if k.used > 0 {
		k.C.Discard(k.used)
		k.used = 0
	}
}

// maxRounds bounds how often Flush looks for streams that waited for room in the output.
const maxRounds = 16

// Flush ends the run: streams that were refused credit and have some now send, and everything that is pending leaves in one system call. While the
// connection still holds output, the machine keeps the rest.
func (k *Link) Flush(now sys.Nanos) {
	k.consume()
	for range maxRounds {
		any := k.writable(now)
		if k.C == nil {
			return // what ran has closed the connection
		}
		if p := k.H2.Pending(); len(p) > 0 && k.C.Queued() == 0 {
			k.C.Send(p, nil)
			k.H2.Sent(len(p))
		}
		if !any {
			break
		}
	}
	k.busy = false
	if k.H2.Writable() {
		k.Wake() // the write made room, and nothing else may come to tell
	}
}

// Wake has the owner's task run, to flush what was queued outside of it.
func (k *Link) Wake() {
	if !k.busy {
		k.sh.L.Ready(k.task)
	}
}

// FailAll tells the user of every stream that it is over because of the connection.
func (k *Link) FailAll(why fault.Kind, now sys.Nanos) {
	gone := why == fault.ConnectionTerminate
	if gone {
		k.H2.Stop()
	}
	for h2 := k.H2.Oldest(); h2 != nil; h2 = k.H2.Oldest() {
		s := Of(h2)
		s.Reset, s.Remote = why, gone
		s.run(now)
		if k.H2.Oldest() == h2 { // its user holds on to it
			s.free()
		}
	}
}
