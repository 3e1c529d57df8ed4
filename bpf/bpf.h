/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The part of the kernel's BPF interface that our programs use. Everything
 * here is stable user-kernel ABI, so neither libbpf, nor kernel headers, nor
 * CO-RE relocations are needed, and the objects build with -nostdinc.
 */
#ifndef SIDECAR_BPF_H
#define SIDECAR_BPF_H

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed int __s32;
typedef signed long long __s64;

#define SEC(name) __attribute__((section(name), used))
#define __always_inline inline __attribute__((always_inline))

/*
 * A function with external linkage that is not inlined: the verifier checks it
 * once, for any arguments, instead of once for each path that leads to a call.
 */
#define GLOBAL_FUNC __attribute__((noinline))

/* Map definitions are read from BTF: a number is the length of an array type. */
#define __uint(name, val) int(*name)[val]
#define __type(name, val) typeof(val) *name

#define READ_ONCE(x) (*(const volatile typeof(x) *)&(x))

/* enum bpf_map_type */
#define BPF_MAP_TYPE_ARRAY 2
#define BPF_MAP_TYPE_PERCPU_ARRAY 6
#define BPF_MAP_TYPE_REUSEPORT_SOCKARRAY 20

/* Flags of BPF_MAP_CREATE. */
#define BPF_F_MMAPABLE 1024 /* 1 << 10 */

/* enum sk_action */
#define SK_PASS 1

/* -ENOENT: an empty slot; see bpf_sk_select_reuseport. */
#define ENOENT 2

/* Context of BPF_PROG_TYPE_SK_REUSEPORT. */
struct sk_reuseport_md {
	__u64 data;
	__u64 data_end;
	__u32 len;
	__u32 eth_protocol;
	__u32 ip_protocol;
	__u32 bind_inany;
	__u32 hash;
	__u32 unused;
	void *sk;           /* since Linux 5.14 */
	void *migrating_sk; /* since Linux 5.14; NULL for a new connection */
};

/* Helpers, by their number in the kernel's list. */
static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static __u64 (*const bpf_ktime_get_ns)(void) = (void *)5;
static __u32 (*const bpf_get_prandom_u32)(void) = (void *)7;
static long (*const bpf_sk_select_reuseport)(void *ctx, void *map, void *key,
					     __u64 flags) = (void *)82;

#endif
