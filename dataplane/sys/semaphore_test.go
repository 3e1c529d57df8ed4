// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestSemaphore_WhenManyThreadsWait_ThenEachPermitWakesOne(t *testing.T) {
	const threads, permits = 4, 20_000
	var s Semaphore
	var took atomic.Int64
	var done sync.WaitGroup
	for range threads {
		done.Go(func() {
			for range permits {
				s.Acquire()
				took.Add(1)
			}
		})
	}
	for range 2 {
		done.Go(func() {
			for range threads * permits / 2 {
				s.Release()
			}
		})
	}
	over := make(chan struct{})
	go func() { done.Wait(); close(over) }()
	select {
	case <-over:
	case <-time.After(30 * time.Second):
		t.Fatalf("%d of %d permits taken", took.Load(), threads*permits)
	}
	if n, w := s.permits.Load(), s.waiting.Load(); n != 0 || w != 0 {
		t.Errorf("%d permits, %d waiting", n, w)
	}
}

func TestSemaphore_WhenThereIsNoPermit_ThenTheThreadWaits(t *testing.T) {
	var s Semaphore
	over := make(chan struct{})
	go func() { s.Acquire(); close(over) }()
	for s.waiting.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	select {
	case <-over:
		t.Fatal("went on without a permit")
	default:
	}
	s.Release()
	<-over
	s.Release()
	s.Acquire() // one that was there before
}
