// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"testing"

	"sidecar/dataplane/filter"
	"sidecar/dataplane/loop"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/worker"
)

func TestAnswer_WhenAMailboxIsFull_ThenItComesBehindTheSnapshot(t *testing.T) {
	b := newBench(t)
	b.Answer([]filter.Demand{{Name: "early"}}) // nobody runs, so nobody has asked
	if len(b.owed[0]) != 0 {
		t.Error("answers are kept for workers that do not run")
	}
	w := b.workers[0]
	for w.Post(loop.Msg{Kind: worker.MsgCall, Payload: func(*worker.Worker) {}}) {
	}
	b.started = true // the test turns the workers itself
	defer func() { b.started = false }()
	b.Publish(&snapshot.Snapshot{Epoch: 1})
	b.Answer([]filter.Demand{{Name: "a"}})
	b.Answer([]filter.Demand{{Name: "b"}})
	if !b.behind[0] || len(b.owed[0]) != 2 || !b.pending() {
		t.Fatalf("behind %v, owed %v", b.behind[0], b.owed[0])
	}
	if len(b.owed[1]) != 0 {
		t.Error("a worker with room waits for the others")
	}
	for range 20 {
		w.Turn(false)
	}
	b.Reap()
	if b.behind[0] || len(b.owed[0]) != 0 || b.pending() {
		t.Errorf("behind %v, owed %v", b.behind[0], b.owed[0])
	}
	for range 2 {
		w.Turn(false)
	}
	if w.Epoch() != 1 {
		t.Errorf("epoch %d", w.Epoch())
	}
}
