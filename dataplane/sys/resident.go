// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ReleaseText tells the kernel that the read-only pages of the program's own file need not stay mapped. After start-up most of them (compilers,
// validation, descriptors read once) are never touched again; those that are come back from the page cache at the cost of a minor fault. It
// returns the number of bytes advised. Control side, once after initialisation.
func ReleaseText() int {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return 0
	}
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return 0
	}
	defer f.Close()
	n := 0
	for sc := bufio.NewScanner(f); sc.Scan(); {
		line := sc.Text()
		if !strings.HasSuffix(line, exe) {
			continue
		}
		var lo, hi uintptr
		var perm string
		if c, _ := fmt.Sscanf(line, "%x-%x %s", &lo, &hi, &perm); c != 3 || strings.Contains(perm, "w") {
			continue // writable pages hold what was changed
		}
		if _, _, e := unix.Syscall(unix.SYS_MADVISE, lo, hi-lo, unix.MADV_DONTNEED); e == 0 {
			n += int(hi - lo)
		}
	}
	return n
}

// ProcessCPU is the CPU time that the process has used since it started, in user and kernel mode.
func ProcessCPU() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
