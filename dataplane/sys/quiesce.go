// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Quiesce makes a listening socket refuse new connections while those in its accept queue can still be taken: closing a socket whose queue is not
// empty resets them. A Unix socket refuses at once; a TCP socket drops opening segments from now on (clients repeat them, after a second, and are
// refused then), and a handshake that was under way may still finish for one round trip. Control side; no rights are needed.
func Quiesce(fd FD, a Addr) error {
	if a.IsUnix() {
		return unix.Shutdown(int(fd), unix.SHUT_RD)
	}
	// The filter sees segments from the TCP header on. Byte 13 holds the flags: SYN without ACK opens a connection. Accepted sockets inherit the
	// filter, where such a segment has no business either.
	prog := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 13},
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: 0x12},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 0x02, Jt: 0, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff},
	}
	f := unix.SockFprog{Len: uint16(len(prog)), Filter: (*unix.SockFilter)(unsafe.Pointer(&prog[0]))}
	return unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &f)
}

// Resume undoes Quiesce on a TCP socket; a Unix socket cannot go back and says so with an error. Control side.
func Resume(fd FD, a Addr) error {
	if a.IsUnix() {
		return unix.EINVAL
	}
	return unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
}
