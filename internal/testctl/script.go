// SPDX-License-Identifier: Apache-2.0

package testctl

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"strings"
	"sync"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// Garbage is sent as it is instead of a protobuf message.
type Garbage []byte

// Script is a gRPC server that answers only what the test says. Streams of any method are accepted and handed out by Accept.
type Script struct {
	listener net.Listener
	grpc     *grpc.Server
	streams  chan *Conversation
	quit     chan struct{}
	once     sync.Once
	done     chan struct{}
}

// streamsMax bounds the streams that wait for Accept.
const streamsMax = 4096

// NewScript listens on host:port, "unix:PATH", or a free loopback port when listen is empty.
func NewScript(addr string) (*Script, error) {
	l, err := listen(addr)
	if err != nil {
		return nil, err
	}
	s := &Script{listener: l, streams: make(chan *Conversation, streamsMax), quit: make(chan struct{}), done: make(chan struct{})}
	s.grpc = grpc.NewServer(grpc.UnknownServiceHandler(s.handle), grpc.ForceServerCodecV2(codec{}),
		grpc.MaxRecvMsgSize(math.MaxInt32), grpc.MaxSendMsgSize(math.MaxInt32))
	go func() {
		defer close(s.done)
		_ = s.grpc.Serve(l)
	}()
	return s, nil
}

// Addr returns host:port, or the path of the socket.
func (s *Script) Addr() string { return s.listener.Addr().String() }

// Close cuts all connections.
func (s *Script) Close() {
	s.once.Do(func() { close(s.quit) })
	s.grpc.Stop()
	<-s.done
}

// Accept returns the next stream a client opened.
func (s *Script) Accept(ctx context.Context) (*Conversation, error) {
	select {
	case c := <-s.streams:
		return c, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("no stream: %w", ctx.Err())
	}
}

// Conversation is one stream. Recv and Send may be used from different goroutines. A stream that nobody reads from stays unread, so that
// a test can play a server that does not take requests.
type Conversation struct {
	// Method is the full gRPC method name.
	Method string
	// Delta tells the variant, from the method.
	Delta bool

	stream grpc.ServerStream
	end    chan error
	over   chan struct{}
	once   sync.Once
}

func (s *Script) handle(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	c := &Conversation{
		Method: method, Delta: strings.Contains(method, "/Delta"), stream: stream, end: make(chan error, 1), over: make(chan struct{}),
	}
	defer c.once.Do(func() { close(c.over) })
	select {
	case s.streams <- c:
	case <-s.quit:
		return errors.New("closing")
	}
	select {
	case err := <-c.end:
		return err
	case <-stream.Context().Done():
		return stream.Context().Err()
	case <-s.quit:
		return errors.New("closing")
	}
}

// Recv returns the next request of the client.
func (c *Conversation) Recv() (Request, error) {
	if c.Delta {
		m := &discoveryv3.DeltaDiscoveryRequest{}
		if err := c.stream.RecvMsg(m); err != nil {
			return Request{}, err
		}
		return deltaRecord(0, m), nil
	}
	m := &discoveryv3.DiscoveryRequest{}
	if err := c.stream.RecvMsg(m); err != nil {
		return Request{}, err
	}
	return sotwRecord(0, m), nil
}

// Send sends a DiscoveryResponse, a DeltaDiscoveryResponse, or Garbage.
func (c *Conversation) Send(m any) error { return c.stream.SendMsg(m) }

// End ends the stream with a status; nil is OK.
func (c *Conversation) End(err error) {
	select {
	case c.end <- err:
	default:
	}
}

// Gone is closed when the stream is over, whoever ended it.
func (c *Conversation) Gone() <-chan struct{} { return c.over }

// codec is the protobuf codec that also lets Garbage through.
type codec struct{}

var _ encoding.CodecV2 = codec{}

// Name implements encoding.CodecV2.
func (codec) Name() string { return "proto" }

// Marshal implements encoding.CodecV2.
func (codec) Marshal(v any) (mem.BufferSlice, error) {
	if g, ok := v.(Garbage); ok {
		return mem.BufferSlice{mem.SliceBuffer(g)}, nil
	}
	m, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("cannot send a %T", v)
	}
	b, err := proto.Marshal(m)
	return mem.BufferSlice{mem.SliceBuffer(b)}, err
}

// Unmarshal implements encoding.CodecV2.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(proto.Message)
	if !ok {
		return fmt.Errorf("cannot receive a %T", v)
	}
	return proto.Unmarshal(data.Materialize(), m)
}
