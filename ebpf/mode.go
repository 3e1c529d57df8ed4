// SPDX-License-Identifier: Apache-2.0

package ebpf

import "fmt"

// MaxWorkers is the number of workers that eBPF steering can choose among:
// STEER_MAX_WORKERS in bpf/steer_policy.h. With more workers the ladder starts
// at [ModeIncomingCPU].
const MaxWorkers = 64

// Mode is a rung of the steering ladder: how the kernel finds the worker for a
// new connection. A smaller value is a better rung; the values are what the
// steering mode gauge shows.
type Mode uint8

const (
	// ModeEBPF chooses the least loaded worker and moves the connections of a
	// closed listening socket to other workers. Linux 5.14, CAP_BPF.
	ModeEBPF Mode = iota
	// ModeEBPFSelect is ModeEBPF without the moving. Linux 5.8, CAP_BPF.
	ModeEBPFSelect
	// ModeIncomingCPU prefers the worker that belongs to the CPU on which the
	// connection arrived, by SO_INCOMING_CPU. Linux 6.2, no privilege.
	ModeIncomingCPU
	// ModeClassic is the same by a classic BPF program. Linux 4.6, no privilege.
	ModeClassic
	// ModePlain leaves the choice to the kernel's hash of the addresses.
	ModePlain

	modes = int(ModePlain) + 1
)

var modeNames = [modes]string{"ebpf", "ebpf_select", "incoming_cpu", "classic_bpf", "plain"}

// String returns the name used on the admin port and in logs.
func (m Mode) String() string {
	if int(m) >= modes {
		return fmt.Sprintf("Mode(%d)", uint8(m))
	}
	return modeNames[m]
}

// ParseMode is the inverse of [Mode.String].
func ParseMode(name string) (Mode, error) {
	for m, n := range modeNames {
		if n == name {
			return Mode(m), nil
		}
	}
	return ModePlain, fmt.Errorf("steering mode %q: not one of %v", name, modeNames)
}

// eBPF reports whether the mode runs one of our programs.
func (m Mode) eBPF() bool { return m <= ModeEBPFSelect }

// Rung is the report on one mode of the ladder.
type Rung struct {
	Mode Mode
	// OK is true for the mode that was chosen; modes below it are not tried.
	OK bool
	// Reason says why the mode is not in use, with the kernel's error. It is
	// empty if OK.
	Reason string
}
