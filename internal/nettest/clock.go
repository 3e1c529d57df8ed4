// SPDX-License-Identifier: Apache-2.0

package nettest

import "sidecar/dataplane/sys"

// Clock is the Linux kernel with a time that stands still until the test moves it.
type Clock struct {
	*sys.Linux
	Skew         sys.Nanos // since the beginning
	Recvs, Sends int       // system calls that read and write
}

// NewClock makes a kernel at the beginning of its time.
func NewClock() *Clock { return &Clock{Linux: sys.NewLinux()} }

// Now is the monotonic time; it begins at 1,000 s.
func (k *Clock) Now() sys.Nanos { return 1000*sys.Second + k.Skew }

// WallNanos is the time of day.
func (k *Clock) WallNanos() int64 { return 1_700_000_000_000_000_000 + int64(k.Skew) }

// Recv counts.
func (k *Clock) Recv(fd sys.FD, b []byte) (int, sys.Errno) {
	k.Recvs++
	return k.Linux.Recv(fd, b)
}

// Send counts.
func (k *Clock) Send(fd sys.FD, b []byte) (int, sys.Errno) {
	k.Sends++
	return k.Linux.Send(fd, b)
}

// Send2 counts.
func (k *Clock) Send2(fd sys.FD, a, b []byte) (int, sys.Errno) {
	k.Sends++
	return k.Linux.Send2(fd, a, b)
}
