// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// briskSlice is the time slice that a worker asks for, the least there is. A worker seldom runs longer than this at a time, so it costs nothing; and a
// thread that wakes up goes before those with longer slices, instead of waiting until theirs are over. Signers ask for the same: who has run for longer
// than its slice can be interrupted, and Yield gives no more than one slice away.
const briskSlice = 100_000 // ns

// Polite makes the calling thread, which must be locked, take no processor from another that runs: it lets brisk threads go first and gets its fair share
// of what is left. Its nice value stays: a higher one counts against everybody on the machine and not only against the workers, so that a busy one
// starves it, and then those who wait for what the thread holds (a P of the runtime, the end of a collection). A policy other than SCHED_NORMAL stays. No
// rights are needed. An error changes nothing and may be ignored: the thread competes as any other then.
//
// A longer slice, which would let workers go first more often, is given away as a whole with each Yield: beside busy loops 3 ms cost half of the handshakes.
func Polite() error {
	a, err := unix.SchedGetAttr(0, 0)
	if err != nil || a.Policy != unix.SCHED_NORMAL { // somebody has decided
		return err
	}
	a.Policy, a.Runtime = unix.SCHED_BATCH, uint64(briskSlice)
	return unix.SchedSetAttr(0, a, 0)
}

// Yield lets others go first that want the calling thread's processor; for threads that work without a pause.
func Yield() { _, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }

// CPU is the number of the processor that the calling thread runs on at this moment.
func CPU() int {
	var n uint32
	_, _, _ = unix.RawSyscall(unix.SYS_GETCPU, uintptr(unsafe.Pointer(&n)), 0, 0)
	return int(n)
}

// Brisk makes the calling thread, which must be locked, run soon after it wakes up, whoever else wants its processor. A policy other than SCHED_NORMAL stays. No rights are needed. Kernels
// before 6.12 do not know it and ignore it.
func Brisk() error {
	a, err := unix.SchedGetAttr(0, 0)
	if err != nil || a.Policy != unix.SCHED_NORMAL { // somebody has decided
		return err
	}
	a.Runtime = uint64(briskSlice)
	return unix.SchedSetAttr(0, a, 0)
}
