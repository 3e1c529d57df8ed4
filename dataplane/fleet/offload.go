// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"runtime"
	"sync"
	"time"

	"sidecar/dataplane/conn"
	"sidecar/dataplane/loop"
	"sidecar/dataplane/sys"
	"sidecar/dataplane/worker"
)

const (
	// workersPerSigner is how many workers share a goroutine that makes signatures; there is always one. More would take the P of a worker that waits
	// for events (the process has one P more than workers), which then waits for the end of a signature: most of a millisecond for RSA.
	workersPerSigner = 2
	// maxSignatures bounds those that wait; beyond it workers sign themselves.
	maxSignatures = 256
	// deliverFor bounds how long a signature waits for room in its worker's mailbox; the handshake's timeout ends what it belonged to.
	deliverFor = time.Second
)

// offload makes the signatures of handshakes whose key is slow, while their workers serve others.
type offload struct {
	jobs chan signature
	due  sys.Semaphore // a permit for each job, and for each signer at the end
	done sync.WaitGroup

	// Control
	signers int
}

type signature struct {
	w   *worker.Worker
	s   *conn.Signature
	cpu int // where the worker ran
}

func newOffload() *offload { return &offload{jobs: make(chan signature, maxSignatures)} }

func (o *offload) start(workers int) {
	o.signers = max(workers/workersPerSigner, 1)
	for range o.signers {
		o.done.Go(o.run)
	}
}

// stop ends the goroutines; the workers must have ended.
func (o *offload) stop() {
	close(o.jobs)
	for range o.signers {
		o.due.Release()
	}
	o.done.Wait()
}

// Offload takes a signature over, unless too many wait. Worker threads.
func (o *offload) Offload(w *worker.Worker, s *conn.Signature) bool {
	select {
	case o.jobs <- signature{w, s, sys.CPU()}:
		o.due.Release()
		return true
	default:
		return false
	}
}

func (o *offload) run() {
	runtime.LockOSThread() // ends with its goroutine: no other inherits the priority
	_ = sys.Polite()
	for {
		o.due.Acquire()
		j, more := <-o.jobs
		if !more {
			return
		}
		j.s.Run()
		for end := time.Now().Add(deliverFor); !j.w.Post(loop.Msg{Kind: worker.MsgSigned, Payload: j.s}) && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		if len(o.jobs) > 0 && sys.CPU() == j.cpu { // the worker may want its processor back: the scheduler alone would let the next signature begin
			sys.Yield()
		}
	}
}
