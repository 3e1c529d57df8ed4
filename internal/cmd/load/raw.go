// SPDX-License-Identifier: Apache-2.0

package main

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// System calls of the event loops, made without telling Go's scheduler. It would hand the loop's place to another thread whenever a call takes its time,
// and that exchange of threads costs more than the call: the load tool shares its core, so that what it wastes keeps the proxy waiting.

func rawRead(fd int, b []byte) (int, error)  { return raw(unix.SYS_READ, fd, b) }
func rawWrite(fd int, b []byte) (int, error) { return raw(unix.SYS_WRITE, fd, b) }

func raw(call uintptr, fd int, b []byte) (int, error) {
	n, _, e := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	if e != 0 {
		return -1, e
	}
	return int(n), nil
}

func rawEpollWait(fd int, events []unix.EpollEvent, timeout int) (int, error) {
	n, _, e := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(events))), uintptr(len(events)), uintptr(timeout), 0, 0)
	if e != 0 {
		return -1, e
	}
	return int(n), nil
}
