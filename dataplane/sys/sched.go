// SPDX-License-Identifier: Apache-2.0

package sys

import "golang.org/x/sys/unix"

const (
	// politeNice is the priority of threads that work in the background: a tenth of a worker's share when both want the same processor. Less would let
	// a busy machine starve them.
	politeNice = 10

	// briskSlice is the time slice that a worker asks for, the least there is. A worker seldom runs longer than this at a time, so it costs nothing; and
	// a thread that wakes up goes before those with longer slices, instead of waiting until theirs are over.
	briskSlice = 100_000 // ns
)

// Polite makes the calling thread, which must be locked, give way to the workers whenever they have something to do. No rights are needed. An error
// changes nothing and may be ignored: the thread competes as any other then.
func Polite() error {
	return unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_BATCH, Nice: politeNice}, 0)
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
