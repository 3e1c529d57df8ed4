// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Semaphore counts permits; threads wait in the kernel for one (futex). Go's own primitives wake a locked thread through another one, which takes the
// processor of whoever woke it. The zero value has no permit. Safe for concurrent use.
type Semaphore struct {
	// Atomic
	permits atomic.Uint32 // the futex
	waiting atomic.Int32
}

// Commands of futex(2) inside one process.
const (
	futexWait = 0 | 128
	futexWake = 1 | 128
)

// Release adds a permit and wakes one thread that waits. It never blocks.
func (s *Semaphore) Release() {
	s.permits.Add(1)
	if s.waiting.Load() > 0 {
		_, _, _ = unix.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&s.permits)), futexWake, 1, 0, 0, 0)
	}
}

// Acquire takes a permit, and waits for one meanwhile. It blocks the calling thread, which should be locked, and nobody else.
func (s *Semaphore) Acquire() {
	for {
		if n := s.permits.Load(); n > 0 {
			if s.permits.CompareAndSwap(n, n-1) {
				return
			}
			continue
		}
		s.waiting.Add(1)
		_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&s.permits)), futexWait, 0, 0, 0, 0) // not if a permit has come meanwhile
		s.waiting.Add(-1)
	}
}
