// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Listen is Bind and StartListening in one step. Control side.
func Listen(a Addr, o *ListenOpts) (FD, error) {
	fd, err := Bind(a, o)
	if err != nil {
		return -1, err
	}
	if err := StartListening(fd, a, o); err != nil {
		CloseFD(fd)
		return -1, err
	}
	return fd, nil
}

// Bind makes a bound, non-blocking socket that does not listen yet: the kernel refuses connections to it. It is made by raw calls because net.Listen
// gives MPTCP sockets, to which no reuseport program can be attached. Control side.
func Bind(a Addr, o *ListenOpts) (FD, error) {
	rsa, n, family, e := rawAddr(a)
	if e != 0 {
		return -1, fmt.Errorf("invalid address %s", a)
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	if err := bindTo(fd, family, &rsa, n, a, o); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return FD(fd), nil
}

func bindTo(fd, family int, rsa *unix.RawSockaddrAny, n uint32, a Addr, o *ListenOpts) error {
	set := func(level, name, v int) error { return unix.SetsockoptInt(fd, level, name, v) }
	if family != unix.AF_UNIX {
		_ = set(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		if o.ReusePort {
			if err := set(unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
				return fmt.Errorf("enable_reuse_port: %w", err)
			}
		}
		if o.Transparent {
			level, name := unix.SOL_IP, unix.IP_TRANSPARENT
			if family == unix.AF_INET6 {
				level, name = unix.SOL_IPV6, unix.IPV6_TRANSPARENT
			}
			if err := set(level, name, 1); err != nil {
				return fmt.Errorf("transparent: %w", err)
			}
		}
		if o.FreeBind {
			if err := set(unix.SOL_IP, unix.IP_FREEBIND, 1); err != nil {
				return fmt.Errorf("freebind: %w", err)
			}
		}
		if family == unix.AF_INET6 {
			v := 0
			if o.V6Only {
				v = 1
			}
			_ = set(unix.SOL_IPV6, unix.IPV6_V6ONLY, v)
		}
	}
	if family != unix.AF_UNIX {
		_ = set(unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) // accepted sockets inherit it, which saves a call for each
	}
	if err := apply(fd, o.Pre); err != nil {
		return err
	}
	if family == unix.AF_UNIX && a.Path[0] != '@' {
		_ = unix.Unlink(a.Path) // a socket file of an earlier process; Envoy removes it too
	}
	if _, _, en := unix.Syscall(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(rsa)), uintptr(n)); en != 0 {
		return fmt.Errorf("cannot bind '%s': %w", a, bindText(en))
	}
	if o.Mode != 0 && family == unix.AF_UNIX && a.Path[0] != '@' {
		if err := unix.Chmod(a.Path, o.Mode); err != nil {
			return fmt.Errorf("cannot change mode of '%s': %w", a, err)
		}
	}
	return apply(fd, o.Bound)
}

// StartListening makes a socket of Bind accept connections; again on a listening socket it only changes the backlog. Control side.
func StartListening(fd FD, a Addr, o *ListenOpts) error {
	if o.FastOpen > 0 && !a.IsUnix() {
		if err := unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_FASTOPEN, o.FastOpen); err != nil {
			return fmt.Errorf("tcp_fast_open_queue_length: %w", err)
		}
	}
	backlog := o.Backlog
	if backlog <= 0 {
		backlog = 65535 // the kernel caps it at net.core.somaxconn
	}
	if err := unix.Listen(int(fd), backlog); err != nil {
		return fmt.Errorf("cannot listen on '%s': %w", a, bindText(errnoOfUnix(err)))
	}
	return apply(int(fd), o.Listening)
}

func errnoOfUnix(err error) unix.Errno { return unix.Errno(errnoOf(err)) }

// BoundAddr is the address that fd is really bound to (port 0 resolved), or a if the kernel does not say. Control side.
func BoundAddr(fd FD, a Addr) Addr {
	if a.IsUnix() {
		return a
	}
	k := Linux{}
	if got, e := k.LocalAddr(fd); e == 0 {
		return got
	}
	return a
}

// bindError prints the C library's text with its usual capital, as Envoy's messages do.
type bindError unix.Errno

func bindText(e unix.Errno) error { return bindError(e) }

func (e bindError) Error() string {
	s := unix.Errno(e).Error()
	if s != "" && s[0] >= 'a' && s[0] <= 'z' {
		s = string(s[0]-'a'+'A') + s[1:]
	}
	return s
}

// Unwrap gives the errno.
func (e bindError) Unwrap() error { return unix.Errno(e) }

func apply(fd int, opts []SockOpt) error {
	k := Linux{}
	for i := range opts {
		if e := k.SetOpt(FD(fd), opts[i]); e != 0 {
			return fmt.Errorf("socket_options: setsockopt(%d, %d): %s", opts[i].Level, opts[i].Name, e)
		}
	}
	return nil
}

// CloseFD closes a descriptor on the control side.
func CloseFD(fd FD) { _ = unix.Close(int(fd)) }
