/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The steering decision: which worker gets the next connection. Included by
 * the program that steers and by the probe that unit tests run, so that both
 * verify and execute the same code.
 *
 * cost(worker) = active + pending, where
 *   active   what the worker says it carries (connections, or any other unit),
 *   pending  picked - accepted - rescued, clamped to 0..backlog: connections
 *            sent to the worker that nobody has accepted yet. The kernel does
 *            not show a program the accept queue's length; this difference
 *            stands for it and reveals a stall long before stall_ns is over.
 *
 * A worker that is stalled or draining is chosen only when there is no other.
 */
#ifndef SIDECAR_STEER_POLICY_H
#define SIDECAR_STEER_POLICY_H

#include "bpf.h"

/* Slots in the load map and in a socket array; ebpf.MaxWorkers in Go. */
#define STEER_MAX_WORKERS 64

/* Up to here every worker is compared; above, two random ones are. */
#define STEER_EXACT_MAX 16

/* worker_load.flags */
#define WORKER_DRAINING 1

/* Cost classes. Real costs stay below 2^33. */
#define COST_STALLED (1ULL << 40)
#define COST_DRAINING (1ULL << 41)
#define COST_NONE (1ULL << 42) /* has been tried */

/* No worker left to choose. */
#define NO_WORKER STEER_MAX_WORKERS

/*
 * A choice is a worker and its cost in one word: cost << 8 | rank << 7 | worker.
 * The rank decides between two equal costs.
 */
#define CHOICE(cost, rank, worker) ((__u64)(cost) << 8 | (rank) << 7 | (worker))
#define CHOICE_WORKER(choice) ((__u32)(choice)&127)
#define CHOICE_COST(choice) ((choice) >> 8)

/* Pairs of workers that are tried until one of a pair is neither stalled nor draining. */
#define STEER_PAIRS 4

/*
 * One worker's load. User space maps the array and writes the first cache line
 * with plain stores; programs write the second. Keep ebpf.Slot in Go equal.
 */
struct worker_load {
	/* Written by the worker's thread. */
	__u64 connections; /* active << 32 | accepted: one store moves a
			      connection from pending to active */
	__u64 busy_since;  /* CLOCK_MONOTONIC, ns; 0 while parked in epoll_wait */
	__u32 resync_mark; /* user space only */
	__u32 resync_armed; /* user space only */
	__u64 resync_at;   /* user space only */
	/* Written by any thread, rarely. */
	__u32 flags;
	__u32 rescued; /* accepted on this worker's behalf by another thread */
	__u8 pad0[24];
	/* Written by programs. */
	__u32 picked;
	__u32 skipped; /* times it was found stalled or draining while a worker
			  was being chosen */
	__u8 pad1[56];
};

_Static_assert(sizeof(struct worker_load) == 128, "two cache lines");
_Static_assert(__builtin_offsetof(struct worker_load, picked) == 64,
	       "program-written fields start the second cache line");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, STEER_MAX_WORKERS);
	__type(key, __u32);
	__type(value, struct worker_load);
} load SEC(".maps");

/* Set by the loader. */
volatile const __u32 nworkers = 1;
volatile const __u32 backlog = 1024;
volatile const __s64 stall_ns = 0x7fffffffffffffffLL;

static __always_inline __u64 worker_cost(struct worker_load *w, __u64 now)
{
	__u64 connections = READ_ONCE(w->connections);
	__u64 busy_since = READ_ONCE(w->busy_since);
	__s32 pending = READ_ONCE(w->picked) - (__u32)connections - READ_ONCE(w->rescued);
	__u64 cost = connections >> 32;

	if (pending > 0)
		cost += (__u32)pending < backlog ? (__u32)pending : backlog;
	if (busy_since && (__s64)(now - busy_since) > stall_ns)
		cost |= COST_STALLED;
	if (READ_ONCE(w->flags) & WORKER_DRAINING)
		cost |= COST_DRAINING;
	return cost;
}

/* cost_of returns COST_NONE for a worker in the set tried. */
GLOBAL_FUNC __u64 cost_of(__u32 worker, __u64 tried, __u64 now)
{
	struct worker_load *w;
	__u64 cost;

	if (tried >> (worker & 63) & 1)
		return COST_NONE;
	w = bpf_map_lookup_elem(&load, &worker);
	if (!w)
		return COST_NONE;
	cost = worker_cost(w, now);
	if (cost >= COST_STALLED)
		__sync_fetch_and_add(&w->skipped, 1);
	return cost;
}

/* scale maps 32 random bits to 0..n-1. */
static __always_inline __u64 scale(__u32 rnd, __u32 n)
{
	return (__u64)rnd * n >> 32;
}

/*
 * least_of_four compares four workers. Ties go to the first at or after start,
 * so the rank of a worker is its distance from there; those before it come
 * last, at 65 to 127. Cost and rank are compared as one number.
 */
static __always_inline __u64 least_of_four(__u64 least, __u32 first, __u64 tried, __u64 now,
					   __u32 start)
{
	__u32 i;

#pragma unroll
	for (i = first; i < first + 4; i++) {
		__u64 key = cost_of(i, tried, now) << 7 | ((i - start) & 127);

		if (key < least)
			least = key;
	}
	return least;
}

/* choose_exact compares up to STEER_EXACT_MAX workers; result as of choose. */
static __always_inline __u64 choose_exact(__u64 tried, __u64 now, __u32 rnd, __u32 n)
{
	__u32 start = scale(rnd, n);
	__u64 least = COST_NONE << 7;

	least = least_of_four(least, 0, tried, now, start);
	if (n > 4)
		least = least_of_four(least, 4, tried, now, start);
	if (n > 8)
		least = least_of_four(least, 8, tried, now, start);
	if (n > 12)
		least = least_of_four(least, 12, tried, now, start);
	if (least >= COST_NONE << 7)
		return CHOICE(COST_NONE, 0, NO_WORKER);
	return CHOICE(least >> 7, 0, (least + start) & 127);
}

/* choose_sampled takes the better of two random workers; result as of choose. */
static __always_inline __u64 choose_sampled(__u64 tried, __u64 now, __u32 rnd, __u32 n)
{
	__u64 best = CHOICE(COST_NONE, 0, 0);
	__u32 i;

#pragma unroll
	for (i = 0; i < STEER_PAIRS; i++) {
		/* Two different workers, from the high and the low bits. */
		__u64 a = scale(rnd, n), b = scale(rnd << 16, n - 1);
		__u64 choice_a, choice_b;

		if (b >= a)
			b++;
		choice_a = CHOICE(cost_of(a, tried, now), 0, a);
		choice_b = CHOICE(cost_of(b, tried, now), 1, b);
		if (choice_a < best)
			best = choice_a;
		if (choice_b < best)
			best = choice_b;
		if (CHOICE_COST(best) < COST_STALLED)
			break;
		rnd = rnd * 1664525 + 1013904223;
	}
	if (CHOICE_COST(best) >= COST_NONE)
		return CHOICE(COST_NONE, 0, NO_WORKER);
	return best;
}

/*
 * choose returns the choice for a connection among n workers: one that is not
 * in the set tried, or NO_WORKER when there is none or none was found. rnd: 32
 * random bits.
 *
 * There are no loops in here. Without CAP_PERFMON the verifier also walks the
 * branches that a CPU might take by mistake, knows little there, and does not
 * find the end of a loop.
 */
GLOBAL_FUNC __u64 choose(__u64 tried, __u64 now, __u32 rnd, __u32 n)
{
	if (n > STEER_EXACT_MAX)
		return choose_sampled(tried, now, rnd, n);
	/* Workers that do not exist have been tried. */
	return choose_exact(tried | ~0ULL << (n & 63), now, rnd, n);
}

#endif
