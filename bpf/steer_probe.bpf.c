// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The steering decision as a socket filter, because the kernel cannot run an
 * sk_reuseport program on request (BPF_PROG_TEST_RUN) but can run this. Time
 * and randomness come from the test. Only tests load this object.
 */
#include "steer_policy.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

__u64 probe_now;
__u64 probe_tried;
__u32 probe_rnd;
__u32 probe_live; /* take time and randomness from the kernel, for benchmarks */
__u64 probe_cost; /* result */

SEC("socket")
int steer_probe(void *ctx)
{
	__u64 now = probe_now, choice;
	__u32 rnd = probe_rnd;

	if (probe_live) {
		now = bpf_ktime_get_ns();
		rnd = bpf_get_prandom_u32();
	}
	choice = choose(probe_tried, now, rnd, nworkers);
	probe_cost = CHOICE_COST(choice);
	return CHOICE_WORKER(choice);
}

/* The same frame without a decision: what a benchmark subtracts. */
SEC("socket")
int steer_nothing(void *ctx)
{
	return 0;
}
