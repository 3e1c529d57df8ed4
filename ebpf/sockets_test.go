// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

// runClassic interprets the instructions that classicProgram uses, as the
// kernel does, on the given CPU and random number.
func runClassic(t *testing.T, prog []unix.SockFilter, cpu, random uint32) uint32 {
	t.Helper()
	var a, x uint32
	for pc := 0; pc < len(prog); pc++ {
		in := prog[pc]
		switch in.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			switch in.K {
			case 0xfffff000 + 36:
				a = cpu
			case 0xfffff000 + 56:
				a = random
			default:
				t.Fatalf("load of %#x", in.K)
			}
		case unix.BPF_LD | unix.BPF_IMM:
			a = in.K
		case unix.BPF_MISC | unix.BPF_TAX:
			x = a
		case unix.BPF_ALU | unix.BPF_MOD | unix.BPF_K:
			a %= in.K
		case unix.BPF_ALU | unix.BPF_MUL | unix.BPF_K:
			a *= in.K
		case unix.BPF_ALU | unix.BPF_ADD | unix.BPF_X:
			a += x
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			if a == in.K {
				pc += int(in.Jt)
			} else {
				pc += int(in.Jf)
			}
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(in.K)
		case unix.BPF_RET | unix.BPF_A:
			return a
		default:
			t.Fatalf("instruction %d: code %#x", pc, in.Code)
		}
	}
	t.Fatal("ran off the end")
	return 0
}

func TestClassicProgram_WhenCPUsAndSocketsDiffer_ThenEverySocketIsReached(t *testing.T) {
	wide := make([]int, 300)
	for i := range wide {
		wide[i] = i
	}
	for _, test := range []struct {
		cpus    []int
		sockets int
	}{
		{[]int{0}, 1}, {[]int{0, 1}, 2}, {[]int{4, 6}, 2}, {[]int{4, 6}, 4}, {[]int{1, 3, 5}, 4},
		{[]int{0, 1, 2, 3, 4, 5, 6, 7}, 4}, {[]int{7}, 64}, {wide, 256},
	} {
		t.Run(fmt.Sprintf("%d CPUs, %d sockets", len(test.cpus), test.sockets), func(t *testing.T) {
			prog := classicProgram(test.cpus, test.sockets)
			reached := make(map[uint32]bool)
			for i, cpu := range test.cpus {
				for random := range uint32(128) {
					s := runClassic(t, prog, uint32(cpu), random)
					if s >= uint32(test.sockets) {
						t.Fatalf("CPU %d: socket %d", cpu, s)
					}
					reached[s] = true
					// As many CPUs as sockets: each its own.
					if len(test.cpus) == test.sockets && s != uint32(i) {
						t.Fatalf("CPU %d, number %d in the list: socket %d", cpu, i, s)
					}
				}
			}
			if len(reached) != test.sockets {
				t.Errorf("%d of %d sockets reached", len(reached), test.sockets)
			}
			// A CPU that we may not run on, and yet interrupts do.
			if s := runClassic(t, prog, 1000, 5); s >= uint32(test.sockets) {
				t.Errorf("a foreign CPU: socket %d", s)
			}
		})
	}
}
