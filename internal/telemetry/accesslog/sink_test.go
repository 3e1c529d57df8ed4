// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"

	"sidecar/dataplane/fault"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/match"
	"sidecar/internal/telemetry/stats"
)

func TestBuffer_WhenConsumerIsSlow_ThenLinesAreDroppedWholeAndCounted(t *testing.T) {
	reg := stats.NewRegistry(1)
	fs := reg.Scope("filesystem.", stats.FilesystemDef)
	s, q := NewSink("x", 1, fs, FileCounters, 64<<10)
	l := &Logger{Format: must(Compile("%RESPONSE_CODE_DETAILS%\n")), Sink: s}
	w := Writer{Worker: 0}
	const lines = 4000
	line := strings.Repeat("x", 99)
	for range lines {
		w.Log([]*Logger{l}, &Record{Details: line}, 0)
	}
	w.Flush()
	got := 0
	q.Drain(func(c []byte) {
		if len(c)%100 != 0 {
			t.Errorf("chunk of %d bytes cuts a line", len(c))
		}
		got += len(c) / 100
	})
	dropped, _ := fs.Value(stats.FilesystemWriteDropped)
	written, _ := fs.Value(stats.FilesystemWriteBuffered)
	if int64(got) != written || written+dropped != lines || dropped == 0 {
		t.Errorf("got %d, buffered %d, dropped %d", got, written, dropped)
	}
	if max := minChunks * (chunkSize + 100) / 100; got > max {
		t.Errorf("%d lines kept, bound is %d", got, max)
	}
	w.Log([]*Logger{l}, &Record{Details: line}, 0)
	if !w.Dirty() {
		t.Error("after a drain there is room again")
	}
}

func TestSink_WhenWorkersAndConsumerRunTogether_ThenEveryLineArrivesOnceInOrder(t *testing.T) {
	const workers, lines = 4, 5000
	reg := stats.NewRegistry(workers)
	fs := reg.Scope("filesystem.", stats.FilesystemDef)
	s, q := NewSink("x", workers, fs, FileCounters, 64<<10)
	l := &Logger{Format: must(Compile("%RESPONSE_CODE_DETAILS%\n")), Sink: s}
	var wg, done sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			wr := Writer{Worker: w}
			for i := range lines {
				wr.Log([]*Logger{l}, &Record{Details: fmt.Sprintf("%d:%d", w, i)}, 0)
				if i%7 == 0 {
					wr.Flush()
				}
			}
			wr.Flush()
		})
	}
	var out bytes.Buffer
	stop := make(chan struct{})
	done.Go(func() {
		for {
			q.Drain(func(c []byte) { out.Write(c) })
			select {
			case <-stop:
				q.Drain(func(c []byte) { out.Write(c) })
				return
			case <-q.Wake():
			}
		}
	})
	wg.Wait()
	close(stop)
	done.Wait()
	last := [workers]int{}
	n := 0
	for _, line := range strings.Fields(out.String()) {
		var w, i int
		if _, err := fmt.Sscanf(line, "%d:%d", &w, &i); err != nil {
			t.Fatalf("%q", line)
		}
		if i < last[w] {
			t.Fatalf("worker %d: line %d after %d", w, i, last[w])
		}
		last[w] = i + 1
		n++
	}
	dropped, _ := fs.Value(stats.FilesystemWriteDropped)
	if int64(n)+dropped != workers*lines {
		t.Errorf("%d lines, %d dropped", n, dropped)
	}
}

func TestWriter_WhenWarm_ThenLoggingDoesNotAllocate(t *testing.T) {
	fs := stats.NewRegistry(1).Scope("filesystem.", stats.FilesystemDef)
	s, q := NewSink("x", 1, fs, FileCounters, 64<<10)
	l := []*Logger{{Filter: And{&StatusCode{Comparison{Op: GE, Value: 200}}, Or{&ResponseFlag{}, &Duration{Comparison{Op: GE}}}}, Format: Default(), Sink: s}}
	w := Writer{}
	r := goldenRecord(t)
	run := func() {
		w.Log(l, r, 1)
		w.Flush()
		q.Drain(func([]byte) {})
	}
	run()
	if n := testing.AllocsPerRun(200, run); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestFilters_WhenRecordIsGiven_ThenDecisionIsEnvoys(t *testing.T) {
	rt := match.NewRuntime(map[string]match.Value{"code": {Num: 500, IsNum: true}, "frac": {Num: 0, IsNum: true}, "few": {Num: 100, IsNum: true}})
	rec := func(mod func(*Record)) *Record {
		r := &Record{Code: 404, End: 5_500_000, Runtime: rt, RequestID: []byte("00000032-aaaa"), Type: DownstreamEnd}
		mod(r)
		return r
	}
	none := func(*Record) {}
	half := match.RuntimeFraction{Default: match.Fraction{Num: 50, Den: 100}}
	for name, tc := range map[string]struct {
		f    Filter
		mod  func(*Record)
		rnd  uint64
		want bool
	}{
		"status eq":             {&StatusCode{Comparison{EQ, 404, ""}}, none, 0, true},
		"status runtime":        {&StatusCode{Comparison{GE, 400, "code"}}, none, 0, false},
		"status runtime absent": {&StatusCode{Comparison{GE, 400, "nope"}}, none, 0, true},
		"status ne":             {&StatusCode{Comparison{NE, 404, ""}}, none, 0, false},
		"duration le":           {&Duration{Comparison{LE, 5, ""}}, none, 0, true},
		"duration ge":           {&Duration{Comparison{GE, 6, ""}}, none, 0, false},
		"health":                {NotHealthCheck{}, func(r *Record) { r.HealthCheck = true }, 0, false},
		"traceable":             {Traceable{}, func(r *Record) { r.TraceReason = TraceForced }, 0, true},
		"not traceable":         {Traceable{}, none, 0, false},
		"runtime by id":         {&Runtime{Fraction: half}, none, 0, false}, // 0x32 = 50
		"runtime independent":   {&Runtime{Fraction: half, Independent: true}, none, 49, true},
		"runtime bad id":        {&Runtime{Fraction: half}, func(r *Record) { r.RequestID = []byte("zz") }, 49, true},
		"runtime key":           {&Runtime{Fraction: match.RuntimeFraction{Default: match.Fraction{Num: 100, Den: 100}, Key: "frac"}}, none, 0, false},
		"runtime numerator":     {&Runtime{Fraction: match.RuntimeFraction{Default: match.Fraction{Den: 1000000}, Key: "few"}, Independent: true}, none, 100, false},
		"runtime numerator hit": {&Runtime{Fraction: match.RuntimeFraction{Default: match.Fraction{Den: 1000000}, Key: "few"}, Independent: true}, none, 99, true},
		"sampled":               {Traceable{}, func(r *Record) { r.TraceReason = TraceSampled }, 0, false},
		"any flag":              {&ResponseFlag{}, func(r *Record) { r.Flags = fault.FlagNR }, 0, true},
		"no flag":               {&ResponseFlag{}, none, 0, false},
		"flag":                  {&ResponseFlag{fault.FlagNR}, func(r *Record) { r.Flags = fault.FlagUH | fault.FlagNR }, 0, true},
		"grpc from http":        {&GrpcStatus{Statuses: 1 << 12}, none, 0, true},
		"grpc exclude":          {&GrpcStatus{Statuses: 1 << 12, Exclude: true}, none, 0, false},
		"grpc header":           {&GrpcStatus{Statuses: 1 << 5}, func(r *Record) { r.Resp = head("", "", "", "grpc-status", "5") }, 0, true},
		"log type":              {&LogType{Types: 1 << DownstreamEnd}, none, 0, true},
		"log type exclude":      {&LogType{Types: 1 << DownstreamEnd, Exclude: true}, none, 0, false},
		"metadata absent":       {&Metadata{Path: []string{"a", "b"}, IfAbsent: true}, none, 0, true},
		"metadata":              {&Metadata{Path: []string{"a", "b"}, Matcher: func(v any) bool { return v == "x" }}, func(r *Record) { r.DynamicMeta = map[string]any{"a": map[string]any{"b": "x"}} }, 0, true},
		"header":                {&Header{func(h *httpmsg.Head) bool { return h == nil }}, none, 0, true},
		"and":                   {And{NotHealthCheck{}, &ResponseFlag{}}, none, 0, false},
		"or":                    {Or{NotHealthCheck{}, &ResponseFlag{}}, none, 0, true},
		"empty and":             {And{}, none, 0, true},
	} {
		if got := tc.f.Match(rec(tc.mod), tc.rnd); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
