// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Linux is the real Kernel. Calls that cannot block use RawSyscall, which keeps the worker's P and saves 10 to 15 % of CPU per request; a long wait
// goes through Syscall6, so that the collector and the scheduler can take the P meanwhile. A wait of at most BriefWait keeps the P as well: taking
// it and giving it back at every pause between two requests costs Go's monitor thread 5 to 10 % of the CPU at moderate load. A stop-the-world does
// not suffer: it interrupts the wait by signal, again each 100 µs.
type Linux struct {
	iov [16]unix.Iovec
	msg unix.Msghdr
	evs [maxEvents]unix.EpollEvent // kept here: zeroing 6 KiB of stack per wait would cost more than the wait
}

// NewLinux makes a kernel door for one worker.
func NewLinux() *Linux { return &Linux{} }

var _ Kernel = (*Linux)(nil)

// started and startedAt are one instant: in Go's reading of CLOCK_MONOTONIC, which goes through the vDSO, and on the clock itself, which x/sys asks
// with a system call (0.3 µs, several times in every turn).
var started, startedAt = readClocks()

func readClocks() (time.Time, Nanos) {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return time.Now(), Nanos(ts.Sec*1e9 + ts.Nsec)
}

// Now reads CLOCK_MONOTONIC, the same clock as the eBPF program's bpf_ktime_get_ns.
func (k *Linux) Now() Nanos { return startedAt + Nanos(time.Since(started)) }

// WallNanos reads CLOCK_REALTIME.
func (k *Linux) WallNanos() int64 { return time.Now().UnixNano() }

// EpollCreate makes an epoll instance.
func (k *Linux) EpollCreate() (FD, Errno) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	return FD(fd), errnoOf(err)
}

func errnoOf(err error) Errno {
	if err == nil {
		return 0
	}
	if e, ok := err.(unix.Errno); ok {
		return Errno(e)
	}
	return EINVAL
}

func (k *Linux) epollCtl(ep, fd FD, op int, token uint64, ev Events) Errno {
	var e unix.EpollEvent
	e.Events = uint32(ev)
	e.Fd = int32(uint32(token))
	e.Pad = int32(uint32(token >> 32))
	_, _, en := unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(ep), uintptr(op), uintptr(fd), uintptr(unsafe.Pointer(&e)), 0, 0)
	return Errno(en)
}

// EpollAdd registers fd.
func (k *Linux) EpollAdd(ep, fd FD, token uint64, ev Events) Errno {
	return k.epollCtl(ep, fd, unix.EPOLL_CTL_ADD, token, ev)
}

// EpollMod changes a registration.
func (k *Linux) EpollMod(ep, fd FD, token uint64, ev Events) Errno {
	return k.epollCtl(ep, fd, unix.EPOLL_CTL_MOD, token, ev)
}

// EpollDel removes a registration.
func (k *Linux) EpollDel(ep, fd FD) Errno { return k.epollCtl(ep, fd, unix.EPOLL_CTL_DEL, 0, 0) }

// maxEvents bounds one EpollWait.
const maxEvents = 512

// EpollWait waits for at most min(len(out), 512) events.
func (k *Linux) EpollWait(ep FD, out []Event, timeout Nanos) (int, Errno) {
	n := min(len(out), maxEvents)
	var r uintptr
	var en unix.Errno
	ms := -1
	if timeout >= 0 {
		ms = int((timeout + Millisecond - 1) / Millisecond)
	}
	if timeout >= 0 && timeout <= BriefWait {
		r, _, en = unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(ep), uintptr(unsafe.Pointer(&k.evs[0])), uintptr(n), uintptr(ms), 0, 0)
	} else {
		r, _, en = unix.Syscall6(unix.SYS_EPOLL_PWAIT, uintptr(ep), uintptr(unsafe.Pointer(&k.evs[0])), uintptr(n), uintptr(ms), 0, 0)
	}
	if en != 0 {
		if en == unix.EINTR {
			return 0, 0
		}
		return 0, Errno(en)
	}
	for i := range int(r) {
		out[i] = Event{Events(k.evs[i].Events), uint64(uint32(k.evs[i].Fd)) | uint64(uint32(k.evs[i].Pad))<<32}
	}
	return int(r), 0
}

// Accept takes one connection: non-blocking, close-on-exec.
func (k *Linux) Accept(fd FD) (FD, Addr, Errno) {
	var rsa unix.RawSockaddrAny
	n := uint32(unix.SizeofSockaddrAny)
	r, _, en := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(fd), uintptr(unsafe.Pointer(&rsa)), uintptr(unsafe.Pointer(&n)),
		unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if en != 0 {
		return -1, Addr{}, Errno(en)
	}
	return FD(r), addrOfRaw(&rsa, n), 0
}

// Connect starts a connection.
func (k *Linux) Connect(a Addr, o *DialOpts) (FD, Errno) {
	rsa, n, family, e := rawAddr(a)
	if e != 0 {
		return -1, e
	}
	r, _, en := unix.RawSyscall(unix.SYS_SOCKET, uintptr(family), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if en != 0 {
		return -1, Errno(en)
	}
	fd := FD(r)
	if o != nil {
		if e := k.dialOpts(fd, family, o); e != 0 {
			k.Close(fd)
			return -1, e
		}
	}
	if family != unix.AF_UNIX {
		k.setInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}
	_, _, en = unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&rsa)), uintptr(n))
	if en != 0 && en != unix.EINPROGRESS {
		k.Close(fd)
		return -1, Errno(en)
	}
	return fd, 0
}

func (k *Linux) dialOpts(fd FD, family int, o *DialOpts) Errno {
	if o.Mark != 0 {
		if e := k.setInt(fd, unix.SOL_SOCKET, unix.SO_MARK, o.Mark); e != 0 {
			return e
		}
	}
	if o.KeepAlive && family != unix.AF_UNIX {
		k.setInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
		for _, x := range [...]struct{ name, v int }{{unix.TCP_KEEPIDLE, o.KeepIdle}, {unix.TCP_KEEPINTVL, o.KeepIntvl}, {unix.TCP_KEEPCNT, o.KeepCnt}} {
			if x.v > 0 {
				k.setInt(fd, unix.IPPROTO_TCP, x.name, x.v)
			}
		}
	}
	if o.FreeBind && family != unix.AF_UNIX {
		k.setInt(fd, unix.SOL_IP, unix.IP_FREEBIND, 1)
	}
	if o.Transparent && family != unix.AF_UNIX {
		if e := k.setInt(fd, unix.SOL_IP, unix.IP_TRANSPARENT, 1); e != 0 {
			return e
		}
	}
	for i := range o.Opts {
		if e := k.SetOpt(fd, o.Opts[i]); e != 0 {
			return e
		}
	}
	if o.Bind.IsZero() || family == unix.AF_UNIX {
		return 0
	}
	rsa, n, bf, e := rawAddr(o.Bind)
	if e != 0 || bf != family {
		return e // a bind address of the other family does not apply (Envoy ignores it too)
	}
	if o.Bind.IP.Port() == 0 {
		// The port is chosen at connect, so that one source address is not limited to 28,000 ports in all.
		k.setInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	}
	_, _, en := unix.RawSyscall(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&rsa)), uintptr(n))
	return Errno(en)
}

func (k *Linux) setInt(fd FD, level, name, v int) Errno {
	x := int32(v)
	_, _, en := unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name), uintptr(unsafe.Pointer(&x)), 4, 0)
	return Errno(en)
}

func (k *Linux) getInt(fd FD, level, name int) (int, Errno) {
	var x int32
	n := uint32(4)
	_, _, en := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name), uintptr(unsafe.Pointer(&x)), uintptr(unsafe.Pointer(&n)), 0)
	return int(x), Errno(en)
}

// ConnectResult reads SO_ERROR.
func (k *Linux) ConnectResult(fd FD) Errno {
	v, e := k.getInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if e != 0 {
		return e
	}
	return Errno(v)
}

// Recv reads without blocking. recvfrom is cheaper than read: it skips the VFS layer.
func (k *Linux) Recv(fd FD, b []byte) (int, Errno) {
	if len(b) == 0 {
		return 0, EINVAL
	}
	r, _, en := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_DONTWAIT, 0, 0)
	if en != 0 {
		return 0, Errno(en)
	}
	return int(r), 0
}

// Send writes without blocking and without SIGPIPE.
func (k *Linux) Send(fd FD, b []byte) (int, Errno) {
	if len(b) == 0 {
		return 0, 0
	}
	r, _, en := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
	if en != 0 {
		return 0, Errno(en)
	}
	return int(r), 0
}

// Writev sends up to 16 slices with sendmsg, because writev would raise SIGPIPE.
func (k *Linux) Writev(fd FD, v [][]byte) (int, Errno) {
	n := 0
	for _, b := range v {
		if len(b) == 0 {
			continue
		}
		if n == len(k.iov) {
			break
		}
		k.iov[n].Base = &b[0]
		k.iov[n].SetLen(len(b))
		n++
	}
	if n == 0 {
		return 0, 0
	}
	k.msg.Iov = &k.iov[0]
	k.msg.SetIovlen(n)
	r, _, en := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&k.msg)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	for i := range n {
		k.iov[i].Base = nil
	}
	if en != 0 {
		return 0, Errno(en)
	}
	return int(r), 0
}

// Send2 sends two slices in one call.
func (k *Linux) Send2(fd FD, a, b []byte) (int, Errno) {
	if len(a) == 0 {
		return k.Send(fd, b)
	}
	if len(b) == 0 {
		return k.Send(fd, a)
	}
	k.iov[0].Base = &a[0]
	k.iov[0].SetLen(len(a))
	k.iov[1].Base = &b[0]
	k.iov[1].SetLen(len(b))
	k.msg.Iov = &k.iov[0]
	k.msg.SetIovlen(2)
	r, _, en := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&k.msg)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	k.iov[0].Base, k.iov[1].Base = nil, nil
	if en != 0 {
		return 0, Errno(en)
	}
	return int(r), 0
}

// Splice moves bytes between a socket and a pipe inside the kernel.
func (k *Linux) Splice(from, to FD, limit int) (int, Errno) {
	r, _, en := unix.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(limit), unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
	if en != 0 {
		return 0, Errno(en)
	}
	return int(r), 0
}

// Pipe makes a non-blocking pipe of about the given size.
func (k *Linux) Pipe(size int) (FD, FD, Errno) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		return -1, -1, errnoOf(err)
	}
	if size > 0 {
		_, _ = unix.FcntlInt(uintptr(p[1]), unix.F_SETPIPE_SZ, size) // best effort: the per-user limit may refuse
	}
	return FD(p[0]), FD(p[1]), 0
}

// ReadPipe reads from a non-blocking pipe.
func (k *Linux) ReadPipe(fd FD, b []byte) (int, Errno) {
	if len(b) == 0 {
		return 0, 0
	}
	r, _, en := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	if en != 0 {
		return 0, Errno(en)
	}
	return int(r), 0
}

// Shutdown closes one direction.
func (k *Linux) Shutdown(fd FD, write bool) Errno {
	how := unix.SHUT_RD
	if write {
		how = unix.SHUT_WR
	}
	_, _, en := unix.RawSyscall(unix.SYS_SHUTDOWN, uintptr(fd), uintptr(how), 0)
	return Errno(en)
}

// Reset closes with RST.
func (k *Linux) Reset(fd FD) Errno {
	l := unix.Linger{Onoff: 1, Linger: 0}
	_, _, _ = unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_LINGER, uintptr(unsafe.Pointer(&l)), unsafe.Sizeof(l), 0)
	return k.Close(fd)
}

// Close closes fd.
func (k *Linux) Close(fd FD) Errno {
	_, _, en := unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0)
	return Errno(en)
}

// PeerAddr is getpeername.
func (k *Linux) PeerAddr(fd FD) (Addr, Errno) {
	var rsa unix.RawSockaddrAny
	n := uint32(unix.SizeofSockaddrAny)
	_, _, en := unix.RawSyscall(unix.SYS_GETPEERNAME, uintptr(fd), uintptr(unsafe.Pointer(&rsa)), uintptr(unsafe.Pointer(&n)))
	if en != 0 {
		return Addr{}, Errno(en)
	}
	return addrOfRaw(&rsa, n), 0
}

// LocalAddr is getsockname.
func (k *Linux) LocalAddr(fd FD) (Addr, Errno) {
	var rsa unix.RawSockaddrAny
	n := uint32(unix.SizeofSockaddrAny)
	_, _, en := unix.RawSyscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&rsa)), uintptr(unsafe.Pointer(&n)))
	if en != 0 {
		return Addr{}, Errno(en)
	}
	return addrOfRaw(&rsa, n), 0
}

const (
	soOriginalDst = 80 // SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST
)

// OriginalDst asks conntrack for the destination before REDIRECT. With TPROXY the socket's own local address is the original destination and this
// call fails with ENOENT.
func (k *Linux) OriginalDst(fd FD, v6 bool) (Addr, Errno) {
	var rsa unix.RawSockaddrAny
	n := uint32(unix.SizeofSockaddrAny)
	level := unix.SOL_IP
	if v6 {
		level = unix.SOL_IPV6
	}
	_, _, en := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), soOriginalDst, uintptr(unsafe.Pointer(&rsa)), uintptr(unsafe.Pointer(&n)), 0)
	if en != 0 {
		return Addr{}, Errno(en)
	}
	return addrOfRaw(&rsa, n), 0
}

// SetOpt sets one socket option.
func (k *Linux) SetOpt(fd FD, o SockOpt) Errno {
	if o.Buf == nil {
		return k.setInt(fd, o.Level, o.Name, o.Int)
	}
	if len(o.Buf) == 0 {
		return EINVAL
	}
	_, _, en := unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(o.Level), uintptr(o.Name), uintptr(unsafe.Pointer(&o.Buf[0])), uintptr(len(o.Buf)), 0)
	return Errno(en)
}

// WakeFD makes a non-blocking eventfd.
func (k *Linux) WakeFD() (FD, Errno) {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	return FD(fd), errnoOf(err)
}

// Wake adds one to an eventfd; safe from any thread.
func (k *Linux) Wake(fd FD) Errno { return WakeEventFD(fd) }

// WakeEventFD is Wake for threads that have no Kernel of their own.
func WakeEventFD(fd FD) Errno {
	one := uint64(1)
	_, _, en := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&one)), 8)
	return Errno(en)
}

// DrainWake resets an eventfd.
func (k *Linux) DrainWake(fd FD) {
	var v uint64
	_, _, _ = unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&v)), 8)
}
