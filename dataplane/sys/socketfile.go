// SPDX-License-Identifier: Apache-2.0

package sys

import "golang.org/x/sys/unix"

// SocketFile identifies the file of a Unix socket that this process has bound. The zero value stands for none.
type SocketFile struct {
	path     string
	dev, ino uint64
}

// SocketFileOf notes the file of an address after Bind; zero for TCP and abstract addresses. Control side.
func SocketFileOf(a Addr) SocketFile {
	if a.Path == "" || a.Path[0] == '@' {
		return SocketFile{}
	}
	var st unix.Stat_t
	if err := unix.Stat(a.Path, &st); err != nil {
		return SocketFile{}
	}
	return SocketFile{path: a.Path, dev: st.Dev, ino: st.Ino}
}

// Remove deletes the file unless another one has taken its place. Control side.
func (f SocketFile) Remove() {
	var st unix.Stat_t
	if f.path != "" && unix.Stat(f.path, &st) == nil && st.Dev == f.dev && st.Ino == f.ino {
		_ = unix.Unlink(f.path)
	}
}
