// SPDX-License-Identifier: Apache-2.0

package accesslog

import "sidecar/dataplane/httpmsg"

// TunnelHeadState and TunnelTrailersState are the filter state objects of tcp_proxy with propagate_response_headers and propagate_response_trailers.
// They have a typed form only, an envoy.config.core.v3.HeaderMap.
const (
	TunnelHeadState     = "envoy.tcp_proxy.propagate_response_headers"
	TunnelTrailersState = "envoy.tcp_proxy.propagate_response_trailers"
)

// TunnelAnswer is what those objects hold of the answer to a tunnel's request; nil is an object that is not there.
type TunnelAnswer struct{ Head, Trailers []StateField }

// StateField is one field of them.
type StateField struct{ Name, Value string }

// HeadFields copies a response head, which is bounded by the codec's limits.
func HeadFields(h *httpmsg.Head) []StateField {
	status := string([]byte{byte('0' + h.Status/100%10), byte('0' + h.Status/10%10), byte('0' + h.Status%10)})
	return append([]StateField{{":status", status}}, TrailerFields(&h.Fields)...)
}

// TrailerFields copies trailers.
func TrailerFields(f *httpmsg.Fields) []StateField {
	out := make([]StateField, 0, len(f.List))
	for i := range f.List {
		if !f.List[i].Dead {
			out = append(out, StateField{string(f.Name(i)), string(f.Value(i))})
		}
	}
	return out
}

// of is the object that an operator or a gRPC logger names.
func (t *TunnelAnswer) of(name string) []StateField {
	switch {
	case t == nil:
		return nil
	case name == TunnelHeadState:
		return t.Head
	}
	return t.Trailers
}

// tunnel prints one of the objects.
func (o *op) tunnel(b []byte, t *TunnelAnswer, typed bool) ([]byte, kind) {
	fields := t.of(o.text)
	if fields == nil || o.sub != stateTyped {
		return b, absent
	}
	from := len(b)
	b = append(b, `{"headers":[`...)
	for i, f := range fields {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendQuoted(append(b, `{"key":`...), f.Name), `,"value":`...)
		b = append(appendQuoted(b, f.Value), '}')
	}
	b = append(b, `]}`...)
	if typed {
		return b, raw
	}
	return o.cut(b, from), text
}

// tunnelState writes a map entry of name and Any for one of the objects.
func (e *encoder) tunnelState(field int, name string, fields []StateField) {
	entry := e.open(field)
	e.string(1, name)
	object := e.open(2)
	e.string(1, "type.googleapis.com/envoy.config.core.v3.HeaderMap")
	value := e.open(2)
	for _, f := range fields {
		h := e.open(1)
		e.string(1, f.Name)
		e.string(2, f.Value)
		e.close(h)
	}
	e.close(value)
	e.close(object)
	e.close(entry)
}
