// SPDX-License-Identifier: Apache-2.0

package ads

import "time"

// Event is an input of Session.Step: Opened, Closed, Response, Verdict, Release, Subscribe, Unsubscribe, Flush or Tick.
type Event interface{ event() }

// Opened: the stream is up and may carry requests.
type Opened struct{}

// Closed: the stream ended, or could not be opened. Every cause is treated the same, the gRPC status OK included.
type Closed struct{ Err error }

// Raw is one resource as it came, undecoded.
type Raw struct {
	// Name under which the protocol knows the resource: the outer name in delta, the name inside the message in SotW ("" when the bytes
	// are too broken to tell).
	Name string
	// Aliases are other names that the resource answers to (delta only).
	Aliases []string
	// Version of the resource; "" in SotW and from servers that keep none.
	Version string
	// TypeURL of the Any.
	TypeURL string
	// Body is the value of the Any. The session neither reads nor keeps it beyond the batch.
	Body []byte
	// TTL after which the resource expires unless it is refreshed; 0 = never.
	TTL time.Duration
	// HasBody is false for a heartbeat: a resource without content that only refreshes the TTL.
	HasBody bool
	// Broken: the bytes are so malformed that the name could not be read (Name is "" then, in SotW). Nothing is removed for its absence from a
	// full state that has such a resource: it may be any of them.
	Broken bool
}

// Response: the server sent a DiscoveryResponse or DeltaDiscoveryResponse.
type Response struct {
	TypeURL string
	// Version is version_info in SotW, system_version_info in delta.
	Version   string
	Nonce     string
	Resources []Raw
	// Removed is removed_resources (delta only).
	Removed []string
	// Now is the time of receipt, on the clock of Tick; TTLs count from here.
	Now time.Duration
}

// Rejection is one refused resource.
type Rejection struct {
	// Name as in Raw; "" for an unnamed one.
	Name string
	// Text goes into the NACK; it should name type, resource and field path.
	Text string
}

// Verdict ends a batch: everything not listed in Rejected was validated and applied.
type Verdict struct {
	Batch    BatchID
	Rejected []Rejection
	// Hold withholds the answer until Release (or until a later verdict of the type without Hold): the CDS rule while clusters warm.
	// The batch is applied and the next response may come meanwhile.
	Hold bool
}

// Release sends the answers that verdicts with Hold kept back for a type.
type Release struct{ TypeURL string }

// Subscribe adds to what is asked for. Changes are gathered and sent with the next Flush, Verdict, Release or Opened, in one request per
// type; while any batch has no verdict yet they wait for it.
type Subscribe struct {
	TypeURL string
	Names   []string
	// Wildcard asks for all resources of the type.
	Wildcard bool
	// Again asks also for names that are asked for already: a delta server answers each time.
	Again bool
}

// Unsubscribe takes names (or the wildcard) back. The resources are forgotten at once.
type Unsubscribe struct {
	TypeURL  string
	Names    []string
	Wildcard bool
}

// Flush sends the gathered subscription changes.
type Flush struct{}

// Tick tells the time (since any fixed origin); resources whose TTL is over expire. See Session.Deadline.
type Tick struct{ Now time.Duration }

func (Opened) event()      {}
func (Closed) event()      {}
func (Response) event()    {}
func (Verdict) event()     {}
func (Release) event()     {}
func (Subscribe) event()   {}
func (Unsubscribe) event() {}
func (Flush) event()       {}
func (Tick) event()        {}

// Action is an output of Session.Step: Send, Deliver, Read, Reconnect or Expired. Actions are to be carried out in order.
type Action interface{ action() }

// Send one request on the open stream.
type Send struct {
	TypeURL string
	// Node: the message carries the node (first one of the stream; every one with Config.NodeInEvery).
	Node bool
	// Names is the full list of a SotW request, sorted; empty = wildcard (or nothing, after names were sent on this stream).
	Names []string
	// Add and Remove are resource_names_subscribe and _unsubscribe of a delta request, sorted.
	Add, Remove []string
	// Initial is initial_resource_versions: only in a type's first delta request of a stream.
	Initial map[string]string
	// Version is version_info of a SotW request: the last accepted one.
	Version string
	// Nonce of the answered response; "" in a spontaneous delta request and in the first request of a stream.
	Nonce string
	// Nack makes it a NACK; Error is its text, never empty then.
	Nack  bool
	Error string
}

// BatchID identifies a delivered response until its verdict.
type BatchID uint64

// Deliver hands a batch to the caller, who must answer with one Verdict.
type Deliver struct {
	Batch   BatchID
	TypeURL string
	// Version is the response's version_info or system_version_info.
	Version string
	Nonce   string
	// Full: a SotW response of a full-state type; everything not in it is in Removed.
	Full bool
	// Changed are the resources to decode and apply, in the order received.
	Changed []Raw
	// Removed are names that are gone: delta's removed_resources, or absent from a full-state response. For a type whose resources live
	// and die with a parent (EDS, RDS) the caller ignores them while the parent lives (17).
	Removed []string
	// Refreshed are names whose TTL a heartbeat renewed; nothing to apply.
	Refreshed []string
	// Rejected are resources that the session itself refused (duplicate names, no body); they will be in the NACK whatever the verdict.
	Rejected []Rejection
}

// Read: the last response was dealt with (verdict given, or dropped); the transport may read the next one from the stream.
type Read struct{}

// Reconnect: open a new stream after the pause.
type Reconnect struct{ After time.Duration }

// Expired: the TTL of a resource ran out; it is forgotten.
type Expired struct{ TypeURL, Name string }

func (Send) action()      {}
func (Deliver) action()   {}
func (Read) action()      {}
func (Reconnect) action() {}
func (Expired) action()   {}
