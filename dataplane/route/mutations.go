// SPDX-License-Identifier: Apache-2.0

package route

import (
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
}

// stackOps is how many operator values of one level are kept on the stack; more allocate.
const stackOps = 16

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
			p.value = h.A.Take(op.Format.AppendHeader(h.A.Tail(), rec))
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
			appendField(h, p.op.Key, p.value)
		}
	}
}

type pendingOp struct {
	op    *HeaderOp
	value httpmsg.Span
}

// appendField adds a field line; the fields that Envoy keeps as one line get the value behind a comma instead.
func appendField(h *httpmsg.Head, k httpmsg.Key, v httpmsg.Span) {
	if singleLine(k.ID) {
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

// singleLine tells which well-known headers Envoy keeps as one comma-joined line.
func singleLine(id httpmsg.ID) bool {
	switch id {
	case httpmsg.IDForwardedFor, httpmsg.IDVia, httpmsg.IDLocation, httpmsg.IDContentType, httpmsg.IDForwardedHost, httpmsg.IDForwardedProto,
		httpmsg.IDRequestID, httpmsg.IDUserAgent, httpmsg.IDServer, httpmsg.IDDate:
		return true
	}
	return false
}
