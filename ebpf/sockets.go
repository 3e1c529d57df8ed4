// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// maxChainCPUs bounds the CPU table of the classic program: each entry is one
// comparison and two instructions.
const maxChainCPUs = 256

// cpus returns the CPUs that the process may run on, by their real numbers,
// which need not be 0..n-1 (cpusets). Never empty. Threads that are pinned
// later do not change it, so it is read once.
func cpus() []int {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil || set.Count() == 0 {
		return []int{0} // more CPUs than the set can hold
	}
	list := make([]int, 0, set.Count())
	for cpu := 0; len(list) < set.Count(); cpu++ {
		if set.IsSet(cpu) {
			list = append(list, cpu)
		}
	}
	return list
}

// checkSockets refuses sockets that no rung can steer. The options of the lower
// rungs can be set on nearly any socket and then do nothing.
func checkSockets(fds []int) error {
	for worker, fd := range fds {
		if fd < 0 {
			continue
		}
		for _, c := range []struct {
			option int
			ok     func(v int) bool
			text   string
		}{
			{unix.SO_DOMAIN, func(v int) bool { return v == unix.AF_INET || v == unix.AF_INET6 }, "not an IP socket"},
			{unix.SO_PROTOCOL, func(v int) bool { return v != unix.IPPROTO_MPTCP }, "an MPTCP socket"},
			{unix.SO_PROTOCOL, func(v int) bool { return v == unix.IPPROTO_TCP }, "not a TCP socket"},
			{unix.SO_REUSEPORT, func(v int) bool { return v != 0 }, "SO_REUSEPORT is not set"},
			{unix.SO_ACCEPTCONN, func(v int) bool { return v != 0 }, "not listening"},
		} {
			v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, c.option)
			if err != nil {
				return fmt.Errorf("worker %d: socket %d: %w", worker, fd, err)
			}
			if !c.ok(v) {
				return fmt.Errorf("worker %d: socket %d: %s", worker, fd, c.text)
			}
		}
	}
	return nil
}

// attachIncomingCPU gives each worker's socket one of the CPUs in list, in turn. Where
// several workers share one, the kernel's hash decides among them; a CPU that
// nobody has goes by the hash too.
func attachIncomingCPU(fds, list []int) error {
	if err := detachProgram(fds); err != nil {
		return err
	}
	for worker, fd := range fds {
		if fd < 0 {
			continue
		}
		err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_INCOMING_CPU, list[worker%len(list)])
		if err != nil {
			resetIncomingCPU(fds)
			return fmt.Errorf("worker %d: SO_INCOMING_CPU: %w", worker, err)
		}
	}
	return nil
}

// attachClassic gives the group a classic BPF program. Its result is an index
// into the group, in which sockets stand in the order of their listen calls.
func attachClassic(fds, list []int) error {
	resetIncomingCPU(fds)
	n, leader := 0, -1
	for _, fd := range fds {
		if fd >= 0 {
			n, leader = n+1, fd
		}
	}
	code := classicProgram(list, n)
	prog := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	err := unix.SetsockoptSockFprog(leader, unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF, &prog)
	if err != nil {
		return fmt.Errorf("SO_ATTACH_REUSEPORT_CBPF: %w", err)
	}
	return nil
}

// classicProgram maps the i-th CPU of the list to socket i modulo n. With fewer
// CPUs than sockets, each CPU serves several, chosen at random: else some
// workers would never get a connection. CPUs that are not in the list (the
// network card's interrupts know no cpuset) count by their number.
func classicProgram(list []int, n int) []unix.SockFilter {
	const (
		ancillary = 0xfffff000 // SKF_AD_OFF
		adCPU     = ancillary + 36
		adRandom  = ancillary + 56
	)
	stmt := func(code uint16, k uint32) unix.SockFilter { return unix.SockFilter{Code: code, K: k} }
	list = list[:min(len(list), maxChainCPUs)]
	perCPU := (n + len(list) - 1) / len(list)
	prog := []unix.SockFilter{
		// X = len(list) * (random modulo perCPU)
		stmt(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, adRandom),
		stmt(unix.BPF_ALU|unix.BPF_MOD|unix.BPF_K, uint32(perCPU)),
		stmt(unix.BPF_ALU|unix.BPF_MUL|unix.BPF_K, uint32(len(list))),
		stmt(unix.BPF_MISC|unix.BPF_TAX, 0),
		stmt(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, adCPU),
	}
	// A = index of the CPU. Each pair skips itself when the CPU is another; the
	// jump after a hit is a 32-bit one and leads to the tail.
	for i, cpu := range list {
		left := uint32(len(list)-i-1) * 3
		prog = append(prog,
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(cpu), Jf: 2},
			stmt(unix.BPF_LD|unix.BPF_IMM, uint32(i)),
			stmt(unix.BPF_JMP|unix.BPF_JA, left))
	}
	return append(prog,
		stmt(unix.BPF_ALU|unix.BPF_ADD|unix.BPF_X, 0),
		stmt(unix.BPF_ALU|unix.BPF_MOD|unix.BPF_K, uint32(n)),
		stmt(unix.BPF_RET|unix.BPF_A, 0))
}

// attachPlain removes what another rung, or the process we inherited the
// sockets from, has left behind.
func attachPlain(fds []int) {
	// Nothing below this rung: a failure leaves a group that still accepts.
	_ = detachProgram(fds)
	resetIncomingCPU(fds)
}

// detachProgram removes the group's program, of either kind, if it has one.
func detachProgram(fds []int) error {
	for _, fd := range fds {
		if fd < 0 {
			continue
		}
		err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_REUSEPORT_BPF, 0)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("SO_DETACH_REUSEPORT_BPF: %w", err)
		}
		break // it is a property of the group
	}
	return nil
}

func resetIncomingCPU(fds []int) {
	for _, fd := range fds {
		if fd >= 0 {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_INCOMING_CPU, -1)
		}
	}
}

// probeSockets tries a rung without eBPF on a socket of its own.
func probeSockets(mode Mode, release string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	}
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		return fmt.Errorf("SO_REUSEPORT: %w", err)
	}
	switch mode {
	case ModeIncomingCPU:
		// Older kernels accept the option and ignore it within a group.
		if major, minor := parseRelease(release); major < 6 || major == 6 && minor < 2 {
			return fmt.Errorf("SO_INCOMING_CPU steers since Linux 6.2, this is %s", release)
		}
		return attachIncomingCPU([]int{fd}, []int{0})
	case ModeClassic:
		return attachClassic([]int{fd}, []int{0})
	default:
		return nil
	}
}

// kernelRelease returns what uname -r prints.
func kernelRelease() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(name.Release[:])
}

// parseRelease reads the first two numbers of a kernel release; 0, 0 if there
// are none.
func parseRelease(release string) (major, minor int) {
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n != 2 {
		return 0, 0
	}
	return major, minor
}
