// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const anyName = protoreflect.FullName("google.protobuf.Any")

// resolver answers for every type URL: those that are not linked in print as {"@type": URL, "value": base64}, because the walk before
// wrapped their bytes in a BytesValue, whose JSON form is just that.
type resolver struct{ *protoregistry.Types }

func (r resolver) FindMessageByURL(url string) (protoreflect.MessageType, error) {
	mt, err := r.Types.FindMessageByURL(url)
	if err != nil {
		return (*wrapperspb.BytesValue)(nil).ProtoReflect().Type(), nil
	}
	return mt, nil
}

// toJSON prints m with proto names; it cannot fail on unknown or malformed Any values at any depth.
func toJSON(m proto.Message) ([]byte, error) {
	if needsWrap(m.ProtoReflect(), 0) {
		m = proto.Clone(m)
		wrapUnknown(m.ProtoReflect(), 0)
	}
	b, err := protojson.MarshalOptions{UseProtoNames: true, Resolver: resolver{protoregistry.GlobalTypes}, AllowPartial: true}.Marshal(m)
	if err != nil {
		return nil, err
	}
	return indent(bytes.ReplaceAll(b, malformedJSON, nil)), nil
}

// malformedMark is put behind the URL of an Any that has a known type and malformed bytes, so that the resolver does not try to decode it; it
// is taken out of the text again. A control character cannot be part of a real URL.
const malformedMark = "\x01malformed"

var malformedJSON = []byte(`\u0001malformed`)

// maxAnyDepth bounds the nesting of Any inside Any.
const maxAnyDepth = 32

// openAny decodes an Any; nil when its type is not linked in or its bytes are malformed.
func openAny(m protoreflect.Message) proto.Message {
	a, ok := m.Interface().(*anypb.Any)
	if !ok {
		return nil
	}
	inner, err := a.UnmarshalNew()
	if err != nil {
		return nil
	}
	return inner
}

func needsWrap(m protoreflect.Message, depth int) bool {
	if m.Descriptor().FullName() == anyName {
		if m.Interface().(*anypb.Any).GetTypeUrl() == "" {
			return false
		}
		inner := openAny(m)
		return inner == nil || depth >= maxAnyDepth || needsWrap(inner.ProtoReflect(), depth+1)
	}
	found := false
	eachMessage(m, func(c protoreflect.Message) { found = found || needsWrap(c, depth) })
	return found
}

func wrapUnknown(m protoreflect.Message, depth int) {
	if m.Descriptor().FullName() != anyName {
		eachMessage(m, func(c protoreflect.Message) { wrapUnknown(c, depth) })
		return
	}
	a := m.Interface().(*anypb.Any)
	if a.GetTypeUrl() == "" {
		return
	}
	inner := openAny(m)
	if inner == nil || depth >= maxAnyDepth {
		if _, err := protoregistry.GlobalTypes.FindMessageByURL(a.GetTypeUrl()); err == nil {
			a.TypeUrl += malformedMark
		}
		if b, err := proto.Marshal(wrapperspb.Bytes(a.GetValue())); err == nil {
			a.Value = b
		}
		return
	}
	wrapUnknown(inner.ProtoReflect(), depth+1)
	if b, err := (proto.MarshalOptions{AllowPartial: true}).Marshal(inner); err == nil {
		a.Value = b
	}
}

// eachMessage calls fn for every message directly below m.
func eachMessage(m protoreflect.Message, fn func(protoreflect.Message)) {
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.IsMap():
			if fd.MapValue().Message() != nil {
				v.Map().Range(func(_ protoreflect.MapKey, x protoreflect.Value) bool { fn(x.Message()); return true })
			}
		case fd.IsList():
			if fd.Message() != nil {
				for i := range v.List().Len() {
					fn(v.List().Get(i).Message())
				}
			}
		case fd.Message() != nil:
			fn(v.Message())
		}
		return true
	})
}

// indent lays JSON out with one space a level, as Envoy does, whatever spaces protojson chose to put in.
func indent(b []byte) []byte {
	out := make([]byte, 0, len(b)*2)
	depth := 0
	newline := func() {
		out = append(out, '\n')
		for range depth {
			out = append(out, ' ')
		}
	}
	for i := 0; i < len(b); i++ {
		switch c := b[i]; c {
		case '"':
			j := i + 1
			for b[j] != '"' {
				if b[j] == '\\' {
					j++
				}
				j++
			}
			out = append(out, b[i:j+1]...)
			i = j
		case ' ', '\n', '\t', '\r':
		case '{', '[':
			out = append(out, c)
			j := i + 1
			for b[j] == ' ' {
				j++
			}
			if b[j] == '}' || b[j] == ']' {
				out = append(out, b[j])
				i = j
				continue
			}
			depth++
			newline()
		case '}', ']':
			depth--
			newline()
			out = append(out, c)
		case ',':
			out = append(out, c)
			newline()
		case ':':
			out = append(out, ": "...)
		default:
			out = append(out, c)
		}
	}
	return append(out, '\n')
}

func protoReply(m proto.Message) reply {
	b, err := toJSON(m)
	if err != nil {
		return bad(500, err.Error()+"\n")
	}
	return asJSON(b)
}

// certs serves /certs, whose shape is Envoy's; with verbose it also lists the secrets and what is wrong with them.
func (s *Server) certs(_ *http.Request, q query) reply {
	r := s.plainCerts()
	if !q.has("verbose") || s.cfg.Sources.Secrets == nil {
		return r
	}
	b, err := json.MarshalIndent(s.cfg.Sources.Secrets(), " ", " ")
	if err != nil {
		return bad(500, err.Error()+"\n")
	}
	plain := bytes.TrimSuffix(bytes.TrimSpace(r.body), []byte("\n}"))
	return asJSON(slices.Concat(plain, []byte(",\n \"secrets\": "), b, []byte("\n}\n")))
}

func (s *Server) plainCerts() reply {
	m := &adminv3.Certificates{}
	if s.cfg.Sources.Certs != nil {
		m = s.cfg.Sources.Certs()
	}
	// Empty lists are there, as Envoy prints them: scripts go through them.
	b, err := protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return bad(500, err.Error()+"\n")
	}
	return asJSON(indent(b))
}

func (s *Server) initDump(*http.Request, query) reply {
	m := &adminv3.UnreadyTargetsDumps{}
	if s.cfg.Sources.InitDump != nil {
		m = s.cfg.Sources.InitDump()
	}
	return protoReply(m)
}

func (s *Server) serverInfo(*http.Request, query) reply {
	m := &adminv3.ServerInfo{}
	if s.cfg.Sources.ServerInfo != nil {
		m = proto.Clone(s.cfg.Sources.ServerInfo()).(*adminv3.ServerInfo)
	}
	if s.cfg.Sources.State != nil {
		m.State = s.cfg.Sources.State()
	}
	b, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true, Resolver: resolver{protoregistry.GlobalTypes}}.Marshal(m)
	if err != nil {
		return protoReply(m) // a node with Any values that are not linked in
	}
	return asJSON(indent(b))
}

func addressText(a *corev3.Address) string {
	if p := a.GetPipe(); p != nil {
		return p.GetPath()
	}
	if i := a.GetEnvoyInternalAddress(); i != nil {
		return "envoy://" + i.GetServerListenerName() + "/" + i.GetEndpointId()
	}
	sa := a.GetSocketAddress()
	return net.JoinHostPort(sa.GetAddress(), strconv.FormatUint(uint64(sa.GetPortValue()), 10))
}

func (s *Server) listeners(_ *http.Request, q query) reply {
	m := &adminv3.Listeners{}
	if s.cfg.Sources.Listeners != nil {
		m = s.cfg.Sources.Listeners()
	}
	if f, _ := q.get("format"); f == "json" {
		return protoReply(m)
	}
	var b strings.Builder
	for _, l := range m.GetListenerStatuses() {
		for _, a := range append([]*corev3.Address{l.GetLocalAddress()}, l.GetAdditionalLocalAddresses()...) {
			b.WriteString(l.GetName() + "::" + addressText(a) + "\n")
		}
	}
	return ok(b.String())
}

func (s *Server) clusters(_ *http.Request, q query) reply {
	m := &adminv3.Clusters{}
	if s.cfg.Sources.Clusters != nil {
		m = s.cfg.Sources.Clusters()
	}
	if f, has := q.get("filter"); has && f != "" {
		re, err := regexp.Compile(f)
		if err != nil {
			return bad(400, "Invalid re2 regex: "+reError(err))
		}
		kept := &adminv3.Clusters{}
		for _, c := range m.GetClusterStatuses() {
			if re.MatchString(c.GetName()) {
				kept.ClusterStatuses = append(kept.ClusterStatuses, c)
			}
		}
		m = kept
	}
	if f, _ := q.get("format"); f == "json" {
		return protoReply(m)
	}
	var b []byte
	for _, c := range m.GetClusterStatuses() {
		b = clusterText(b, c)
	}
	return ok(string(b))
}

func clusterText(b []byte, c *adminv3.ClusterStatus) []byte {
	line := func(parts ...string) {
		b = append(append(b, c.GetName()...), "::"...)
		b = append(append(b, strings.Join(parts, "::")...), '\n')
	}
	u32 := func(v uint32) string { return strconv.FormatUint(uint64(v), 10) }
	line("observability_name", c.GetObservabilityName())
	for _, p := range []corev3.RoutingPriority{corev3.RoutingPriority_DEFAULT, corev3.RoutingPriority_HIGH} {
		name := map[corev3.RoutingPriority]string{corev3.RoutingPriority_DEFAULT: "default_priority", corev3.RoutingPriority_HIGH: "high_priority"}[p]
		for _, t := range c.GetCircuitBreakers().GetThresholds() {
			if t.GetPriority() == p {
				line(name, "max_connections", u32(t.GetMaxConnections().GetValue()))
				line(name, "max_pending_requests", u32(t.GetMaxPendingRequests().GetValue()))
				line(name, "max_requests", u32(t.GetMaxRequests().GetValue()))
				line(name, "max_retries", u32(t.GetMaxRetries().GetValue()))
			}
		}
	}
	line("added_via_api", strconv.FormatBool(c.GetAddedViaApi()))
	if n := c.GetEdsServiceName(); n != "" {
		line("eds_service_name", n)
	}
	for _, h := range c.GetHostStatuses() {
		at := addressText(h.GetAddress())
		for _, st := range sortedMetrics(h.GetStats()) {
			line(at, st.GetName(), strconv.FormatUint(st.GetValue(), 10))
		}
		line(at, "hostname", h.GetHostname())
		line(at, "health_flags", healthFlags(h.GetHealthStatus()))
		line(at, "weight", u32(h.GetWeight()))
		line(at, "region", h.GetLocality().GetRegion())
		line(at, "zone", h.GetLocality().GetZone())
		line(at, "sub_zone", h.GetLocality().GetSubZone())
		line(at, "canary", "false")
		line(at, "priority", u32(h.GetPriority()))
		rate := func(name string, set bool, v float64) {
			if !set {
				v = -1
			}
			line(at, name, strconv.FormatFloat(v, 'g', -1, 64))
		}
		rate("success_rate", h.GetSuccessRate() != nil, h.GetSuccessRate().GetValue())
		rate("local_origin_success_rate", h.GetLocalOriginSuccessRate() != nil, h.GetLocalOriginSuccessRate().GetValue())
	}
	return b
}

// healthFlags is Envoy's text of a host's health: "healthy", or every flag with a leading '/'.
func healthFlags(h *adminv3.HostHealthStatus) string {
	var b strings.Builder
	for _, f := range []struct {
		set  bool
		name string
	}{
		{h.GetFailedActiveHealthCheck(), "failed_active_hc"}, {h.GetFailedOutlierCheck(), "failed_outlier_check"},
		{h.GetEdsHealthStatus() == corev3.HealthStatus_UNHEALTHY, "failed_eds_health"},
		{h.GetFailedActiveDegradedCheck(), "degraded_active_hc"}, {h.GetEdsHealthStatus() == corev3.HealthStatus_DEGRADED, "degraded_eds_health"},
		{h.GetPendingDynamicRemoval(), "pending_dynamic_removal"}, {h.GetPendingActiveHc(), "pending_active_hc"},
		{h.GetExcludedViaImmediateHcFail(), "excluded_via_immediate_hc_fail"}, {h.GetActiveHcTimeout(), "active_hc_timeout"},
		{h.GetEdsHealthStatus() == corev3.HealthStatus_DRAINING, "eds_status_draining"},
	} {
		if f.set {
			b.WriteString("/" + f.name)
		}
	}
	if b.Len() == 0 {
		return "healthy"
	}
	return b.String()
}

var errMask = errors.New("mask does not fit")

// sortedMetrics is list by name: the text form of /clusters is sorted, the JSON form is not.
func sortedMetrics(list []*adminv3.SimpleMetric) []*adminv3.SimpleMetric {
	out := slices.Clone(list)
	slices.SortFunc(out, func(a, b *adminv3.SimpleMetric) int { return strings.Compare(a.GetName(), b.GetName()) })
	return out
}
