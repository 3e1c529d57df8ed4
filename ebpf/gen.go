// SPDX-License-Identifier: Apache-2.0

package ebpf

//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -target bpfel -cc clang -cflags "-O2 -g -Wall -Wextra -Werror -Wno-unused-parameter -mcpu=v2 -nostdinc" -type worker_load steer ../bpf/steer.bpf.c
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -target bpfel -cc clang -cflags "-O2 -g -Wall -Wextra -Werror -Wno-unused-parameter -mcpu=v2 -nostdinc" -output-suffix _test probe ../bpf/steer_probe.bpf.c
