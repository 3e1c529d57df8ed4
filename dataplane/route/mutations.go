// SPDX-License-Identifier: Apache-2.0

package route

import (
	"strings"

	"sidecar/dataplane/httpmsg"
	"sidecar/internal/telemetry/accesslog"
)

// Mutations are the header mutations of one level (weighted cluster, route, virtual host, table). Immutable.
type Mutations struct {
	Request, Response HeaderOps
}

// AppendAction is envoy.config.core.v3.HeaderValueOption.append_action.
type AppendAction uint8

// The actions, numbered as in Envoy's API.
const (
	AppendIfExistsOrAdd AppendAction = iota
	AddIfAbsent
	OverwriteIfExistsOrAdd
	OverwriteIfExists
)

// HeaderOps are the header mutations of one level in one direction. Immutable. The zero value does nothing.
type HeaderOps struct {
	Remove []httpmsg.Key
	Add    []HeaderOp
}

// HeaderOp adds or replaces one header.
type HeaderOp struct {
	Key       httpmsg.Key
	Literal   string            // the value when Format is nil
	Format    *accesslog.Format // a value with operators
	Action    AppendAction
	KeepEmpty bool // keep_empty_value: without it an empty value does nothing
	Join      bool // the header is one that Envoy keeps as a single line; see NewHeaderOp
}

// NewHeaderOp starts an operation on a request or response header; the caller sets value and action.
func NewHeaderOp(name string, response bool) HeaderOp {
	k := httpmsg.KeyOf(name)
	list := joinedRequest
	if response {
		list = joinedResponse
	}
	return HeaderOp{Key: k, Join: list[k.Name]}
}

// joinedRequest and joinedResponse are the headers that Envoy keeps as one line: what is appended goes behind a comma, not on a line of its own.
// Found by asking the binary.
var (
	joinedRequest = nameSet("x-forwarded-for via content-type x-forwarded-host x-forwarded-proto x-forwarded-port x-forwarded-client-cert " +
		"x-request-id user-agent accept accept-encoding authorization cache-control content-encoding referer origin x-client-trace-id " +
		"x-envoy-external-address grpc-timeout grpc-accept-encoding x-envoy-attempt-count if-match if-none-match if-modified-since " +
		"if-unmodified-since if-range proxy-status access-control-request-method access-control-request-headers " +
		"access-control-request-private-network pragma expect x-envoy-force-trace x-envoy-expected-rq-timeout-ms x-envoy-original-path " +
		"x-envoy-original-host x-envoy-decorator-operation x-envoy-internal x-envoy-ip-tags x-envoy-downstream-service-cluster " +
		"x-envoy-downstream-service-node x-envoy-original-url te")
	joinedResponse = nameSet("via location content-type date cache-control content-encoding etag x-envoy-decorator-operation grpc-status " +
		"grpc-message last-modified age access-control-allow-origin access-control-allow-headers access-control-allow-methods " +
		"access-control-expose-headers access-control-max-age access-control-allow-credentials x-envoy-degraded x-envoy-attempt-count vary " +
		"proxy-status x-envoy-ratelimited x-envoy-immediate-health-check-fail x-envoy-upstream-canary x-envoy-upstream-service-time expires " +
		"x-envoy-upstream-healthchecked-cluster x-request-id server")
)

func nameSet(list string) map[string]bool {
	m := map[string]bool{}
	for _, n := range strings.Fields(list) {
		m[n] = true
	}
	return m
}

// stackOps is how many operator values of one level are kept on the stack; more allocate.
const stackOps = 16

// empty reports that there is nothing to do.
func (o *HeaderOps) empty() bool { return len(o.Remove) == 0 && len(o.Add) == 0 }

// Apply removes, then overwrites, then adds. All values are computed from the head as it is after the removals, before anything is added.
func (o *HeaderOps) Apply(h *httpmsg.Head, rec *accesslog.Record) {
	for i := range o.Remove {
		h.Remove(o.Remove[i])
	}
	if len(o.Add) == 0 {
		return
	}
	var stack [stackOps]pendingOp
	todo := stack[:0]
	for i := range o.Add {
		op := &o.Add[i]
		p := pendingOp{op: op}
		if op.Format != nil {
			b := h.A.Tail()
			at := len(b)
			b = op.Format.AppendHeader(b, rec)
			oneLine(b[at:])
			p.value = h.A.Take(b)
		} else {
			p.value = h.A.PutString(op.Literal)
		}
		if p.value.Len == 0 && !op.KeepEmpty {
			continue
		}
		present := op.Action != AppendIfExistsOrAdd && op.Action != OverwriteIfExistsOrAdd && h.FindKey(op.Key, 0) >= 0
		if op.Action == AddIfAbsent && present || op.Action == OverwriteIfExists && !present {
			continue
		}
		todo = append(todo, p)
	}
	for _, p := range todo {
		if p.op.Action == OverwriteIfExists || p.op.Action == OverwriteIfExistsOrAdd {
			h.SetSpan(p.op.Key, p.value)
		}
	}
	for _, p := range todo {
		if p.op.Action == AppendIfExistsOrAdd || p.op.Action == AddIfAbsent {
			appendField(h, p.op.Key, p.value, p.op.Join)
		}
	}
}

// oneLine makes line ends and NUL blanks (RFC 9110 section 5.5). Header values were checked when they came in, but some operators print what a peer
// sent by other means, such as the TLVs of the PROXY protocol.
func oneLine(v []byte) {
	for i, c := range v {
		if c == '\r' || c == '\n' || c == 0 {
			v[i] = ' '
		}
	}
}

type pendingOp struct {
	op    *HeaderOp
	value httpmsg.Span
}

// appendField adds a field line, or with join puts the value behind a comma into the line that is there.
func appendField(h *httpmsg.Head, k httpmsg.Key, v httpmsg.Span, join bool) {
	if join {
		if i := h.FindKey(k, 0); i >= 0 {
			b := append(h.A.Tail(), h.Value(i)...)
			b = append(b, ',')
			b = append(b, h.A.Bytes(v)...)
			h.List[i].Value = h.A.Take(b)
			return
		}
	}
	h.AddSpan(k, v)
}

// JoinRepeated joins the lines of a request header that occurs more than once into one comma-separated line, for the headers that Envoy keeps as
// a single line; cookies and all others stay as they are. Matching, mutations and logs expect it to have run once after decoding.
func JoinRepeated(h *httpmsg.Head) {
	if h.Distinct() {
		return
	}
	var seen [4]uint64 // bit per well-known name
	for i := range h.List {
		f := &h.List[i]
		if f.Dead || f.Name.Len == 0 {
			continue
		}
		if f.ID == httpmsg.IDOther {
			if joinedOther(h.A.Bytes(f.Name)) {
				joinInto(h, i)
			}
			continue
		}
		w, bit := &seen[f.ID>>6], uint64(1)<<(f.ID&63)
		if *w&bit != 0 && joinedIDs[f.ID] {
			joinInto(h, i)
		}
		*w |= bit
	}
}

// joinedOther tells whether a name without a number is one of joinedRequest; the first letter rules out most.
func joinedOther(name []byte) bool {
	switch name[0] {
	case 'a', 'g', 'i', 'p', 'x':
		return joinedRequest[string(name)]
	}
	return false
}

// joinInto moves the value of field i into the first field of that name, if that is another one.
func joinInto(h *httpmsg.Head, i int) {
	f := &h.List[i]
	for j := range h.List[:i] {
		first := &h.List[j]
		if first.Dead || first.ID != f.ID || string(h.A.Bytes(first.Name)) != string(h.A.Bytes(f.Name)) {
			continue
		}
		b := append(h.A.Tail(), h.A.Bytes(first.Value)...)
		b = append(b, ',')
		b = append(b, h.A.Bytes(f.Value)...)
		first.Value = h.A.Take(b)
		f.Dead = true
		return
	}
}

// joinedIDs is joinedRequest by number.
var joinedIDs = func() (t [256]bool) {
	for n := range joinedRequest {
		t[httpmsg.Lookup(n)] = true
	}
	t[httpmsg.IDOther] = false
	return t
}()
