// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"unsafe"

	cebpf "github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Bits of CapEff in /proc/self/status, from linux/capability.h.
const (
	capSysAdmin = 21
	capBPF      = 39
)

// kernel holds what all listeners of the eBPF modes share: the load map and the
// counters, and the specification from which each listener's program is made.
type kernel struct {
	// Immutable
	mode  Mode
	spec  *cebpf.CollectionSpec
	load  *cebpf.Map
	stats *cebpf.Map
	mem   []byte // the load map, mapped
	slots []Slot // the same

	// Control: programs whose listener is gone, ready for another one. Loading
	// one costs the verifier some milliseconds.
	spare []*instance
}

// maxSpare bounds kernel.spare.
const maxSpare = 16

// instance is the program of one listener with its socket array.
type instance struct {
	prog  *cebpf.Program
	socks *cebpf.Map
}

// openKernel makes the shared maps and one program, which proves that the
// kernel takes it. Nothing stays open on failure.
func openKernel(mode Mode, workers int, opts Options) (*kernel, error) {
	if workers > MaxWorkers {
		return nil, fmt.Errorf("%d workers, at most %d can be steered", workers, MaxWorkers)
	}
	spec, err := loadSteer()
	if err != nil {
		return nil, fmt.Errorf("reading the embedded object: %w", err)
	}
	other := "steer_select"
	if mode == ModeEBPFSelect {
		other = "steer_migrate"
	}
	delete(spec.Programs, other)
	err = errors.Join(
		spec.Variables["nworkers"].Set(uint32(workers)),
		spec.Variables["backlog"].Set(opts.Backlog),
		spec.Variables["stall_ns"].Set(opts.StallNanos),
	)
	if err != nil {
		return nil, fmt.Errorf("setting the program's constants: %w", err)
	}
	k := &kernel{mode: mode, spec: spec}
	if err := k.open(workers); err != nil {
		k.close()
		if k.mem != nil {
			_ = unix.Munmap(k.mem) // nobody has seen the slots
		}
		return nil, err
	}
	return k, nil
}

func (k *kernel) open(workers int) (err error) {
	if k.load, err = cebpf.NewMap(k.spec.Maps["load"]); err != nil {
		return fmt.Errorf("creating the load map: %w", err)
	}
	if k.stats, err = cebpf.NewMap(k.spec.Maps["stats"]); err != nil {
		return fmt.Errorf("creating the counter map: %w", err)
	}
	size := MaxWorkers * int(unsafe.Sizeof(Slot{}))
	k.mem, err = unix.Mmap(k.load.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("mapping the load map: %w", err)
	}
	k.slots = unsafe.Slice((*Slot)(unsafe.Pointer(&k.mem[0])), workers)
	inst, err := k.acquire()
	if err != nil {
		return err
	}
	k.spare = append(k.spare, inst)
	return nil
}

// acquire returns a program with an empty socket array.
func (k *kernel) acquire() (*instance, error) {
	if n := len(k.spare); n > 0 {
		inst := k.spare[n-1]
		k.spare = k.spare[:n-1]
		return inst, nil
	}
	coll, err := cebpf.NewCollectionWithOptions(k.spec, cebpf.CollectionOptions{
		MapReplacements: map[string]*cebpf.Map{"load": k.load, "stats": k.stats},
	})
	if err != nil {
		return nil, fmt.Errorf("loading the program: %w", err)
	}
	defer coll.Close()
	name := "steer_migrate"
	if k.mode == ModeEBPFSelect {
		name = "steer_select"
	}
	return &instance{prog: coll.DetachProgram(name), socks: coll.DetachMap("socks")}, nil
}

// release takes an instance back. One that may still steer a living group is
// closed instead: the group keeps it, with an empty array, until it is gone.
func (k *kernel) release(inst *instance, idle bool) {
	if idle && len(k.spare) < maxSpare {
		k.spare = append(k.spare, inst)
		return
	}
	inst.close()
}

// close leaves the slots mapped: a worker may still write to its own, and the
// mapping is two pages.
func (k *kernel) close() {
	for _, inst := range k.spare {
		inst.close()
	}
	k.spare = nil
	k.load.Close()
	k.stats.Close()
}

func (i *instance) close() {
	i.prog.Close()
	i.socks.Close()
}

// attach fills the array and then gives the program to the group, so that it
// never runs over an empty array. On failure the array is empty again.
func (i *instance) attach(fds []int) error {
	leader := -1
	for worker, fd := range fds {
		if fd < 0 {
			continue
		}
		if err := i.socks.Put(uint32(worker), uint64(fd)); err != nil {
			i.empty()
			return fmt.Errorf("worker %d: adding its socket to the socket array: %w", worker, err)
		}
		leader = fd
	}
	err := unix.SetsockoptInt(leader, unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_EBPF, i.prog.FD())
	if err != nil {
		i.empty()
		return fmt.Errorf("SO_ATTACH_REUSEPORT_EBPF: %w", err)
	}
	return nil
}

// empty clears the array and reports whether it was empty already: the kernel
// removes a socket that is closed.
func (i *instance) empty() bool {
	clean := true
	for worker := range uint32(MaxWorkers) {
		if err := i.socks.Delete(worker); err == nil || !errors.Is(err, cebpf.ErrKeyNotExist) {
			clean = false
		}
	}
	return clean
}

// explain adds to a load error what an operator can do about it. The library's
// own hint (MEMLOCK) misleads when the capability is what is missing.
func explain(err error) string {
	if errors.Is(err, unix.EPERM) && !hasCapability(capBPF) && !hasCapability(capSysAdmin) {
		return fmt.Sprintf("CAP_BPF is missing: %v", err)
	}
	return err.Error()
}

// hasCapability reads the effective capabilities of the calling thread.
func hasCapability(bit uint) bool {
	status, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return false
	}
	_, rest, found := bytes.Cut(status, []byte("\nCapEff:"))
	if !found {
		return false
	}
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	set, err := strconv.ParseUint(string(bytes.TrimSpace(line)), 16, 64)
	return err == nil && set>>bit&1 == 1
}
