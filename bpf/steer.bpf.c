// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Steers each new connection of a reuseport group to the least loaded worker.
 * One instance of the program per listener: the socket array is the listener's
 * own (index: worker), the load map and the counters are shared by all.
 *
 * Nothing here refuses a connection. When no socket can be selected, the
 * program passes without a selection and the kernel's hash decides.
 */
#include "steer_policy.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Workers that are tried until one has a socket. */
#define STEER_TRIES 8

struct {
	__uint(type, BPF_MAP_TYPE_REUSEPORT_SOCKARRAY);
	__uint(max_entries, STEER_MAX_WORKERS);
	__type(key, __u32);
	__type(value, __u64);
} socks SEC(".maps");

/* Indices into stats; ebpf.Stats in Go. */
enum {
	STAT_SELECTED,	/* a worker was selected */
	STAT_MIGRATED,	/* the program ran for a connection of a closed listener */
	STAT_UNHEALTHY, /* selected although stalled or draining, for want of others */
	STAT_EMPTY,	/* tries that met a slot without a socket */
	STAT_REFUSED,	/* tries that failed for another reason */
	STAT_FALLBACK,	/* left to the kernel's hash */
	STATS,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, STATS);
	__type(key, __u32);
	__type(value, __u64);
} stats SEC(".maps");

/*
 * An array of counters, not a struct of them: clang would turn counting into
 * pointer arithmetic, which the verifier forbids those without CAP_PERFMON.
 */
static __always_inline void count(__u32 stat)
{
	__u64 *counter = bpf_map_lookup_elem(&stats, &stat);

	if (counter)
		*counter += 1;
}

/* steer selects the least costly worker that has a socket; see steer_policy.h. */
static __always_inline int steer(struct sk_reuseport_md *ctx)
{
	__u64 now = bpf_ktime_get_ns(), tried = 0;
	__u32 rnd = bpf_get_prandom_u32(), i;

#pragma unroll
	for (i = 0; i < STEER_TRIES; i++) {
		__u64 choice = choose(tried, now, rnd, nworkers);
		__u32 worker = CHOICE_WORKER(choice);
		struct worker_load *w;
		long err;

		if (worker >= STEER_MAX_WORKERS)
			break;
		err = bpf_sk_select_reuseport(ctx, &socks, &worker, 0);
		if (!err) {
			w = bpf_map_lookup_elem(&load, &worker);
			if (w)
				__sync_fetch_and_add(&w->picked, 1);
			count(STAT_SELECTED);
			if (CHOICE_COST(choice) >= COST_STALLED)
				count(STAT_UNHEALTHY);
			return SK_PASS;
		}
		count(err == -ENOENT ? STAT_EMPTY : STAT_REFUSED);
		tried |= 1ULL << (worker & 63);
	}
	count(STAT_FALLBACK);
	return SK_PASS;
}

/* Linux 5.14 and later: also runs for the connections of a closed listener. */
SEC("sk_reuseport/migrate")
int steer_migrate(struct sk_reuseport_md *ctx)
{
	if (ctx->migrating_sk)
		count(STAT_MIGRATED);
	return steer(ctx);
}

/* Older kernels: the connections of a closed listener are lost. */
SEC("sk_reuseport")
int steer_select(struct sk_reuseport_md *ctx)
{
	return steer(ctx);
}
