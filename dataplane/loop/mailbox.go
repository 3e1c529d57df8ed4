// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"sync/atomic"

	"sidecar/dataplane/sys"
)

// Msg is one message to a worker: a kind and a payload whose ownership moves with it.
type Msg struct {
	Kind    uint8
	Payload any
}

// mailboxSize bounds the messages that wait.
const mailboxSize = 4096

// Mailbox is a bounded queue of many producers and one consumer (Vyukov's ring): the only way into a worker besides the snapshot pointer.
type Mailbox struct {
	wake     sys.FD
	sleeping atomic.Bool
	tail     atomic.Uint64
	head     uint64 // consumer
	cells    []mailCell
}

type mailCell struct {
	seq atomic.Uint64
	msg Msg
}

func (b *Mailbox) init(wake sys.FD) {
	b.wake = wake
	b.cells = make([]mailCell, mailboxSize)
	for i := range b.cells {
		b.cells[i].seq.Store(uint64(i))
	}
}

// Post hands m over; false means the mailbox is full and m still belongs to the caller. Any thread.
func (b *Mailbox) Post(m Msg) bool {
	for {
		t := b.tail.Load()
		c := &b.cells[t%mailboxSize]
		switch d := int64(c.seq.Load() - t); {
		case d == 0:
			if b.tail.CompareAndSwap(t, t+1) {
				c.msg = m
				c.seq.Store(t + 1)
				b.Wake()
				return true
			}
		case d < 0:
			return false
		}
	}
}

// Wake makes a sleeping worker run a turn; it costs a system call only if the worker sleeps. Any thread.
func (b *Mailbox) Wake() {
	if b.sleeping.CompareAndSwap(true, false) {
		sys.WakeEventFD(b.wake)
	}
}

func (b *Mailbox) take() (Msg, bool) {
	c := &b.cells[b.head%mailboxSize]
	if c.seq.Load() != b.head+1 {
		return Msg{}, false
	}
	m := c.msg
	c.msg = Msg{}
	c.seq.Store(b.head + mailboxSize)
	b.head++
	return m, true
}

// sleep raises the flag; false if a message is there already.
func (b *Mailbox) sleep() bool {
	b.sleeping.Store(true)
	if b.cells[b.head%mailboxSize].seq.Load() == b.head+1 {
		b.sleeping.Store(false)
		return false
	}
	return true
}

func (b *Mailbox) awake() { b.sleeping.Store(false) }
