// SPDX-License-Identifier: Apache-2.0

package export

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"
	"weak"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protowire"

	"sidecar/internal/telemetry/accesslog"
	"sidecar/internal/telemetry/stats"
)

const (
	streamAccessLogs = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
	// reopenAfter is the pause before a stream that broke, or could not be opened, is tried again; entries of that time are lost and counted.
	reopenAfter = 500 * time.Millisecond
	// lastWords bounds how long the end of a service waits for its last entries to be taken.
	lastWords = time.Second
)

// Service is one gRPC access log service.
type Service struct {
	// Key tells services apart: equal ones share a sink and a stream.
	Key     string
	LogName string
	TCP     bool
	// FlushEvery and FlushSize bound how long and how much entries wait.
	FlushEvery time.Duration
	FlushSize  int
	// Dial makes the connection; Metadata goes out with the stream.
	Dial     func() (*grpc.ClientConn, error)
	Metadata map[string]string
}

// Services owns the gRPC access log streams of the process; each has one goroutine. Like a file, a service ends when nobody can reach its sink any
// more. Safe for concurrent use by the control side.
type Services struct {
	// Immutable
	workers int
	node    []byte // encoded envoy.config.core.v3.Node
	scope   *stats.Scope
	dry     bool

	// Control, under mu
	mu     sync.Mutex
	byKey  map[string]*service
	open   map[*service]struct{}
	closed bool

	// Atomic
	running sync.WaitGroup
}

// NewServices makes an empty set. node is the encoded node that identifies the proxy; dry checks only (--mode validate).
func NewServices(workers int, reg *stats.Registry, node []byte, dry bool) *Services {
	return &Services{workers: workers, node: node, dry: dry, byKey: map[string]*service{}, open: map[*service]struct{}{},
		scope: reg.Scope("access_logs.grpc_access_log.", stats.GRPCAccessLogDef)}
}

var serviceCounters = accesslog.Counters{Lines: stats.GRPCAccessLogWritten, Dropped: stats.GRPCAccessLogDropped, Bytes: -1}

// Open returns the sink of a service.
func (v *Services) Open(s Service) (*accesslog.Sink, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return nil, errors.New("shutting down")
	}
	if x := v.byKey[s.Key]; x != nil {
		if sink := x.sink.Value(); sink != nil {
			return sink, nil
		}
	}
	sink, q := accesslog.NewSink(s.LogName, v.workers, v.scope, serviceCounters, s.FlushSize)
	sink.FlushEvery = int64(s.FlushEvery)
	x := &service{Service: s, owner: v, sink: weak.Make(sink), q: q, block: v.scope.Control()}
	x.ctx, x.stop = context.WithCancel(context.Background())
	x.done = make(chan struct{})
	if !v.dry {
		v.open[x] = struct{}{}
		runtime.AddCleanup(sink, v.unused, x)
		v.running.Go(x.run)
	}
	v.byKey[s.Key] = x
	return sink, nil
}

// unused ends a service whose sink nobody can reach any more.
func (v *Services) unused(x *service) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.byKey[x.Key] == x {
		delete(v.byKey, x.Key)
	}
	v.end(x)
}

// end asks x to send what is left. Under mu.
func (v *Services) end(x *service) {
	if _, ok := v.open[x]; ok {
		delete(v.open, x)
		close(x.done)
		time.AfterFunc(lastWords, x.stop)
	}
}

// Close sends what workers have handed over, for at most a second, and ends every stream. Call it after the workers have stopped and flushed.
func (v *Services) Close() {
	v.mu.Lock()
	v.closed = true
	for x := range v.open {
		v.end(x)
	}
	v.mu.Unlock()
	v.running.Wait()
}

// service is one destination and its goroutine. A server that takes nothing stalls only that goroutine: the rings fill, and then entries are dropped.
type service struct {
	// Immutable
	Service
	owner *Services
	sink  weak.Pointer[accesslog.Sink]
	q     *accesslog.Queue
	done  chan struct{}
	ctx   context.Context
	stop  context.CancelFunc
	block *stats.Block

	// the goroutine's own
	cc     *grpc.ClientConn
	stream grpc.ClientStream
	cancel context.CancelFunc
	spoke  bool // the stream has its identifier
	again  time.Time
}

func (x *service) run() {
	defer x.stop()
	for {
		select {
		case <-x.q.Wake():
			x.q.Drain(x.send)
		case <-x.done:
			x.q.Collect()
			x.q.Drain(x.send)
			x.finish()
			return
		}
	}
}

// send sends one chunk, which is the encoded list of entries.
func (x *service) send(chunk []byte) {
	n := entries(chunk)
	if x.stream == nil && !x.connect() {
		x.block.Add(stats.GRPCAccessLogEntriesFlushFailed, n)
		return
	}
	if err := x.stream.SendMsg(x.message(chunk)); err != nil {
		x.block.Add(stats.GRPCAccessLogEntriesFlushFailed, n)
		x.drop()
		return
	}
	x.spoke = true
	x.block.Add(stats.GRPCAccessLogEntriesFlushed, n)
}

// entries counts the log entries of a chunk.
func entries(chunk []byte) (n int64) {
	for len(chunk) > 0 {
		_, _, size := protowire.ConsumeField(chunk)
		if size < 0 {
			return n
		}
		chunk = chunk[size:]
		n++
	}
	return n
}

// message encodes a StreamAccessLogsMessage; the first of a stream says who speaks.
func (x *service) message(chunk []byte) []byte {
	const identifier, httpLogs, tcpLogs = 1, 2, 3
	b := make([]byte, 0, len(chunk)+len(x.owner.node)+len(x.LogName)+32)
	if !x.spoke {
		var id []byte
		id = protowire.AppendTag(id, 1, protowire.BytesType)
		id = protowire.AppendBytes(id, x.owner.node)
		id = protowire.AppendTag(id, 2, protowire.BytesType)
		id = protowire.AppendString(id, x.LogName)
		b = protowire.AppendTag(b, identifier, protowire.BytesType)
		b = protowire.AppendBytes(b, id)
	}
	field := protowire.Number(httpLogs)
	if x.TCP {
		field = tcpLogs
	}
	b = protowire.AppendTag(b, field, protowire.BytesType)
	return protowire.AppendBytes(b, chunk)
}

func (x *service) connect() bool {
	now := time.Now()
	if now.Before(x.again) {
		return false
	}
	x.again = now.Add(reopenAfter)
	if x.cc == nil {
		cc, err := x.Dial()
		if err != nil {
			return false
		}
		x.cc = cc
	}
	ctx, cancel := context.WithCancel(x.ctx)
	for k, v := range x.Metadata {
		ctx = metadata.AppendToOutgoingContext(ctx, k, v)
	}
	s, err := x.cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, streamAccessLogs, grpc.ForceCodec(encoded{}))
	if err != nil {
		cancel()
		x.cc.ResetConnectBackoff() // the pause is ours
		return false
	}
	x.stream, x.cancel, x.spoke = s, cancel, false
	return true
}

// drop gives up the stream.
func (x *service) drop() {
	x.cancel()
	x.stream, x.cancel, x.again = nil, nil, time.Now().Add(reopenAfter)
}

// finish ends the stream in good order: what was sent is lost when a connection just closes.
func (x *service) finish() {
	if x.stream != nil {
		if x.stream.CloseSend() == nil {
			var end []byte
			_ = x.stream.RecvMsg(&end) // the server's goodbye, or the end of its patience; there is nothing to do about either
		}
		x.cancel()
	}
	if x.cc != nil {
		_ = x.cc.Close()
	}
}

// encoded is a gRPC codec for messages that are encoded already.
type encoded struct{}

func (encoded) Name() string { return "proto" }

func (encoded) Marshal(v any) ([]byte, error) {
	b, ok := v.([]byte)
	if !ok {
		return nil, fmt.Errorf("cannot encode %T", v)
	}
	return b, nil
}

func (encoded) Unmarshal(data []byte, v any) error {
	if b, ok := v.(*[]byte); ok {
		*b = data
		return nil
	}
	return fmt.Errorf("cannot decode %T", v)
}
