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
	ETIMEDOUT    = Errno(unix.ETIMEDOUT)
	EHOSTUNREACH = Errno(unix.EHOSTUNREACH)
	ENETUNREACH  = Errno(unix.ENETUNREACH)
	EMFILE       = Errno(unix.EMFILE)
	ENFILE       = Errno(unix.ENFILE)
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
