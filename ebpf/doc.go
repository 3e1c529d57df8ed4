// SPDX-License-Identifier: Apache-2.0

// Package ebpf decides which worker gets a new connection. Every worker has a
// listening socket of its own (SO_REUSEPORT) for each address; the kernel's
// choice among them, a hash, is blind: of eight long-lived connections on four
// workers one often gets four, and a worker that is stuck gets its quarter.
//
// The best rung of the ladder is a program of type sk_reuseport that takes the
// least loaded worker which is neither stalled nor draining (bpf/steer_policy.h
// has the rule: an exact comparison of up to 16 workers, the better of random
// pairs above). It needs CAP_BPF and nothing else; CAP_SYS_ADMIN does too.
// Without it the ladder goes down by itself and says why: see [Mode].
//
// # Data
//
// Each worker writes its load to its [Slot], plain memory that is mapped from
// the program's map. Each listener has an instance of the program with its own
// socket array; all share the load map and the counters. Sockets are plain file
// descriptors that stay the caller's. They must not be MPTCP sockets, as those
// of net.Listen are.
//
// On kernels before 5.11 maps and programs count against RLIMIT_MEMLOCK, which
// this package does not change: with the default of 64 KiB, listeners beyond
// the first few fall to a lower rung.
//
// # The object
//
// steer_bpfel.o is compiled from bpf/ and committed, so that building needs no
// clang. It serves every little-endian architecture. To make it again:
//
//	go generate ./ebpf
//	git diff --exit-code -- ebpf
//
// With the same major version of clang (14) the bytes are the same on every
// machine and from every directory; another version gives other bytes that do
// the same. probe_bpfel_test.o has the same decision as a socket filter, which
// unit tests can run; it is not part of the program.
package ebpf
