// SPDX-License-Identifier: Apache-2.0

package sys

import "golang.org/x/sys/unix"

// The errnos that the data plane handles by name.
const (
	EAGAIN       = Errno(unix.EAGAIN)
	EINTR        = Errno(unix.EINTR)
	EINPROGRESS  = Errno(unix.EINPROGRESS)
	ECONNREFUSED = Errno(unix.ECONNREFUSED)
	ECONNRESET   = Errno(unix.ECONNRESET)
	ECONNABORTED = Errno(unix.ECONNABORTED)
	EPIPE        = Errno(unix.EPIPE)
	EPROTO       = Errno(unix.EPROTO)
	ETIMEDOUT    = Errno(unix.ETIMEDOUT)
	EHOSTUNREACH = Errno(unix.EHOSTUNREACH)
	ENETUNREACH  = Errno(unix.ENETUNREACH)
	EMFILE       = Errno(unix.EMFILE)
	ENFILE       = Errno(unix.ENFILE)
	ENOBUFS      = Errno(unix.ENOBUFS)
	ENOMEM       = Errno(unix.ENOMEM)
	ENOSYS       = Errno(unix.ENOSYS)
	EPERM        = Errno(unix.EPERM)
	EINVAL       = Errno(unix.EINVAL)
	EADDRINUSE   = Errno(unix.EADDRINUSE)
	ENOENT       = Errno(unix.ENOENT)
	ENOTCONN     = Errno(unix.ENOTCONN)
)

// String is the C library's text, for logs and for Envoy's transport failure reasons.
func (e Errno) String() string {
	if e == 0 {
		return "success"
	}
	return unix.Errno(e).Error()
}

// NoDelay turns Nagle's algorithm off.
var NoDelay = SockOpt{Level: unix.IPPROTO_TCP, Name: unix.TCP_NODELAY, Int: 1}

// KeepAlive turns TCP keepalive on.
var KeepAlive = SockOpt{Level: unix.SOL_SOCKET, Name: unix.SO_KEEPALIVE, Int: 1}

// KeepCount, KeepIdle and KeepInterval tune TCP keepalive; seconds.
func KeepCount(n int) SockOpt {
	return SockOpt{Level: unix.IPPROTO_TCP, Name: unix.TCP_KEEPCNT, Int: n}
}
func KeepIdle(n int) SockOpt {
	return SockOpt{Level: unix.IPPROTO_TCP, Name: unix.TCP_KEEPIDLE, Int: n}
}
func KeepInterval(n int) SockOpt {
	return SockOpt{Level: unix.IPPROTO_TCP, Name: unix.TCP_KEEPINTVL, Int: n}
}

// Title is the text with a capital first letter and underscores for blanks, as Envoy writes errnos into details strings ("Connection_refused").
func (e Errno) Title() string {
	b := []byte(e.String())
	for i, c := range b {
		if c == ' ' {
			b[i] = '_'
		}
	}
	if len(b) > 0 && b[0] >= 'a' && b[0] <= 'z' {
		b[0] -= 'a' - 'A'
	}
	return string(b)
}
