// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"

	"sidecar/dataplane/httpmsg"
)

// opcode says what one operator prints.
type opcode uint8

const (
	opLiteral opcode = iota
	opAbsent         // always absent: QUIC, tracing without a tracer
	opConst          // text known at compile time
	opReq
	opResp
	opTrailer
	opStartTime
	opEmitTime
	opBytesIn
	opBytesOut
	opCode
	opCodeDetails
	opTermination
	opProtocol
	opUpProtocol
	opFlags
	opFlagsLong
	opDuration // between two time points
	opLegacyDuration
	opPoolReady
	opAddr
	opUpHostName
	opUpHostNameNoPort
	opUpConnID
	opConnID
	opUpCluster
	opUpClusterRaw
	opAttempts
	opTried
	opTriedNoPort
	opTriedNames
	opTriedNamesNoPort
	opTriedConns
	opUpFailure
	opDownFailure
	opUpClose
	opDownClose
	opUpDetected
	opDownDetected
	opSNI
	opRouteName
	opVCluster
	opMeta
	opFilterState
	opUpFilterState
	opTunnelState
	opGrpcMessages
	opGrpc
	opLogType
	opFilterChain
	opStreamID
	opUniqueID
	opPath
	opQueryParam
	opQueryParams
	opReplyBody
	opHeadBytesReq
	opHeadBytesResp
	opTrailerBytes
	opUpWireIn
	opUpWireOut
	opDownWireIn
	opDownWireOut
	opUpHeadIn
	opUpHeadOut
	opUpPlainIn
	opUpPlainOut
	opDownHeadIn
	opDownHeadOut
	opDownPlainIn
	opDownPlainOut
	opJA3
	opListenerName
	opZero // a number that is always 0 here: kernel counters that Envoy reads for QUIC
	opTLS
	opHandshake
	opCoalesce
)

// op is one step of a compiled format. Immutable.
type op struct {
	code opcode
	sub  uint8 // meaning depends on code
	sub2 uint8
	max  int // truncation of text, -1 = none
	text string
	a, b headerName
	path []string
	time *timeFormat
	ops  []op // opCoalesce
}

type opDef struct {
	shape  int
	length bool
	make   func(c command) (op, error)
}

func plain(code opcode, sub ...uint8) opDef {
	return opDef{shape: bare, make: func(command) (op, error) {
		o := op{code: code, max: -1}
		if len(sub) > 0 {
			o.sub = sub[0]
		}
		if len(sub) > 1 {
			o.sub2 = sub[1]
		}
		return o, nil
	}}
}

// The address of an opAddr (sub) and its part (sub2).
const (
	addrRemote uint8 = iota
	addrDirectRemote
	addrLocal
	addrDirectLocal
	addrUpHost
	addrUpLocal
	addrUpRemote
)

const (
	partAll uint8 = iota
	partIP
	partPort
	partEndpointID
	partMasked // op.max holds the prefix length
)

// The legacy durations (sub).
const (
	durTotal uint8 = iota
	durRequest
	durRequestTx
	durResponse
	durResponseTx
)

// The metadata sources (sub).
const (
	metaDynamic uint8 = iota
	metaCluster
	metaRoute
	metaHost
	metaListener
	metaChain
	metaVHost
)

// The time points of COMMON_DURATION.
const (
	pointNone uint8 = iota
	pointDownRxBeg
	pointDownRxEnd
	pointUpConnBeg
	pointUpConnEnd
	pointUpTLSEnd
	pointUpTxBeg
	pointUpTxEnd
	pointUpRxBeg
	pointUpRxEnd
	pointDownTxBeg
	pointDownTxEnd
)

var points = map[string]uint8{"DS_RX_BEG": pointDownRxBeg, "DS_RX_END": pointDownRxEnd, "US_CX_BEG": pointUpConnBeg, "US_CX_END": pointUpConnEnd,
	"US_HS_END": pointUpTLSEnd, "US_TX_BEG": pointUpTxBeg, "US_TX_END": pointUpTxEnd, "US_RX_BEG": pointUpRxBeg, "US_RX_END": pointUpRxEnd,
	"DS_TX_BEG": pointDownTxBeg, "DS_TX_END": pointDownTxEnd}

// The values that are absent without QUIC or a tracer, and what crypto/tls does not tell.
var absentOps = []string{"DOWNSTREAM_TLS_SESSION_ID", "UPSTREAM_TLS_SESSION_ID", "ROUNDTRIP_DURATION", "TLS_JA4_FINGERPRINT", "TRACE_ID", "SPAN_ID"}

// The endpoint ids of internal listeners: empty text for every other address.
var emptyOps = []string{"CUSTOM_FLAGS", "DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID", "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_ENDPOINT_ID"}

// refusedOps are operators that Envoy knows and that cannot be filled here; they are refused by name.
var refusedOps = map[string]string{
	"CEL":       "CEL expressions are not supported",
	"TYPED_CEL": "CEL expressions are not supported",

	"ROUTE_RESOLUTION_COUNT":   "route resolutions are not counted",
	"ROUTE_RESOLUTION_TIME_US": "route resolutions are not timed",
}

// defs are all operators. Filled once at start, read-only afterwards.
var defs = buildDefs()

func buildDefs() map[string]opDef {
	d := map[string]opDef{
		"BYTES_RECEIVED": plain(opBytesIn), "BYTES_SENT": plain(opBytesOut), "RESPONSE_CODE": plain(opCode),
		"CONNECTION_TERMINATION_DETAILS": plain(opTermination), "PROTOCOL": plain(opProtocol), "UPSTREAM_PROTOCOL": plain(opUpProtocol),
		"RESPONSE_FLAGS": plain(opFlags), "RESPONSE_FLAGS_LONG": plain(opFlagsLong),
		"DURATION": plain(opLegacyDuration, durTotal), "REQUEST_DURATION": plain(opLegacyDuration, durRequest),
		"REQUEST_TX_DURATION": plain(opLegacyDuration, durRequestTx), "RESPONSE_DURATION": plain(opLegacyDuration, durResponse),
		"RESPONSE_TX_DURATION": plain(opLegacyDuration, durResponseTx), "UPSTREAM_CONNECTION_POOL_READY_DURATION": plain(opPoolReady),
		"UPSTREAM_HOST_NAME": plain(opUpHostName), "UPSTREAM_HOST_NAME_WITHOUT_PORT": plain(opUpHostNameNoPort),
		"UPSTREAM_CONNECTION_ID": plain(opUpConnID), "CONNECTION_ID": plain(opConnID), "UPSTREAM_CLUSTER": plain(opUpCluster),
		"UPSTREAM_CLUSTER_RAW": plain(opUpClusterRaw), "UPSTREAM_REQUEST_ATTEMPT_COUNT": plain(opAttempts),
		"UPSTREAM_HOSTS_ATTEMPTED": plain(opTried), "UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT": plain(opTriedNoPort),
		"UPSTREAM_HOST_NAMES_ATTEMPTED": plain(opTriedNames), "UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT": plain(opTriedNamesNoPort),
		"UPSTREAM_CONNECTION_IDS_ATTEMPTED": plain(opTriedConns), "UPSTREAM_TRANSPORT_FAILURE_REASON": plain(opUpFailure),
		"DOWNSTREAM_TRANSPORT_FAILURE_REASON": plain(opDownFailure), "UPSTREAM_LOCAL_CLOSE_REASON": plain(opUpClose),
		"DOWNSTREAM_LOCAL_CLOSE_REASON": plain(opDownClose), "UPSTREAM_DETECTED_CLOSE_TYPE": plain(opUpDetected),
		"DOWNSTREAM_DETECTED_CLOSE_TYPE": plain(opDownDetected), "ROUTE_NAME": plain(opRouteName), "VIRTUAL_CLUSTER_NAME": plain(opVCluster),
		"GRPC_STATUS_NUMBER": plain(opGrpc, 2), "ACCESS_LOG_TYPE": plain(opLogType), "FILTER_CHAIN_NAME": plain(opFilterChain),
		"STREAM_ID": plain(opStreamID), "UNIQUE_ID": plain(opUniqueID), "LOCAL_REPLY_BODY": plain(opReplyBody),
		"REQUEST_HEADERS_BYTES": plain(opHeadBytesReq), "RESPONSE_HEADERS_BYTES": plain(opHeadBytesResp),
		"RESPONSE_TRAILERS_BYTES": plain(opTrailerBytes), "UPSTREAM_WIRE_BYTES_RECEIVED": plain(opUpWireIn),
		"UPSTREAM_WIRE_BYTES_SENT": plain(opUpWireOut), "DOWNSTREAM_WIRE_BYTES_RECEIVED": plain(opDownWireIn),
		"DOWNSTREAM_WIRE_BYTES_SENT": plain(opDownWireOut), "UPSTREAM_HEADER_BYTES_RECEIVED": plain(opUpHeadIn),
		"UPSTREAM_HEADER_BYTES_SENT": plain(opUpHeadOut), "UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED": plain(opUpPlainIn),
		"UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT": plain(opUpPlainOut), "DOWNSTREAM_HEADER_BYTES_RECEIVED": plain(opDownHeadIn),
		"DOWNSTREAM_HEADER_BYTES_SENT": plain(opDownHeadOut), "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED": plain(opDownPlainIn),
		"DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT": plain(opDownPlainOut), "TLS_JA3_FINGERPRINT": plain(opJA3),
		"LISTENER_NAME": plain(opListenerName), "DOWNSTREAM_CX_RTT": plain(opZero), "BYTES_RETRANSMITTED": plain(opZero),
		"PACKETS_RETRANSMITTED": plain(opZero), "UPSTREAM_REMOTE_ADDRESS_ENDPOINT_ID": plain(opAddr, addrUpRemote, partEndpointID),
		"HOSTNAME": {shape: bare, make: hostname},

		"REQ": {paramsRequired, true, headerOp(opReq)}, "RESP": {paramsRequired, true, headerOp(opResp)},
		"TRAILER":        {paramsRequired, true, headerOp(opTrailer)},
		"REQUEST_HEADER": {paramsRequired, true, headerOp(opReq)}, "RESPONSE_HEADER": {paramsRequired, true, headerOp(opResp)},
		"RESPONSE_TRAILER": {paramsRequired, true, headerOp(opTrailer)}, "STREAM_INFO_REQ": {paramsRequired, true, headerOp(opReq)},
		"START_TIME": {paramsOptional, false, timeOp(opStartTime, false)}, "START_TIME_LOCAL": {paramsOptional, false, timeOp(opStartTime, true)},
		"EMIT_TIME": {paramsOptional, false, timeOp(opEmitTime, false)}, "EMIT_TIME_LOCAL": {paramsOptional, false, timeOp(opEmitTime, true)},
		"RESPONSE_CODE_DETAILS": {paramsOptional, false, detailsOp}, "COMMON_DURATION": {paramsRequired, false, durationOp},
		"DYNAMIC_METADATA": {paramsRequired, true, metaOp(metaDynamic)}, "CLUSTER_METADATA": {paramsRequired, true, metaOp(metaCluster)},
		"UPSTREAM_METADATA": {paramsRequired, true, metaOp(metaHost)}, "METADATA": {paramsRequired, true, metadataOp},
		"FILTER_STATE": {paramsRaw, true, stateOp(opFilterState)}, "UPSTREAM_FILTER_STATE": {paramsRaw, true, stateOp(opUpFilterState)},
		"ENVIRONMENT": {paramsRequired, true, environmentOp}, "GRPC_STATUS": {paramsOptional, false, grpcOp},
		"REQUESTED_SERVER_NAME": {paramsOptional, false, serverNameOp}, "PATH": {paramsOptional, true, pathOp},
		"QUERY_PARAM": {paramsRequired, true, queryParamOp}, "QUERY_PARAMS": {paramsOptional, true, queryParamsOp},
	}
	addr := func(name string, which uint8) {
		d[name+"_ADDRESS"] = plain(opAddr, which, partAll)
		d[name+"_ADDRESS_WITHOUT_PORT"] = opDef{paramsOptional, false, maskedOp(which)}
		d[name+"_PORT"] = plain(opAddr, which, partPort)
	}
	addr("DOWNSTREAM_REMOTE", addrRemote)
	addr("DOWNSTREAM_DIRECT_REMOTE", addrDirectRemote)
	addr("DOWNSTREAM_LOCAL", addrLocal)
	addr("DOWNSTREAM_DIRECT_LOCAL", addrDirectLocal)
	addr("UPSTREAM_REMOTE", addrUpRemote)
	addr("UPSTREAM_LOCAL", addrUpLocal)
	d["UPSTREAM_HOST"] = plain(opAddr, addrUpHost, partAll)
	for _, n := range absentOps {
		d[n] = plain(opAbsent)
	}
	for _, n := range emptyOps {
		d[n] = opDef{shape: bare, make: constant("")}
	}
	addTLS(d)
	return d
}

func compileCommand(c command, opts Options) (op, error) {
	switch {
	case c.name == "COALESCE":
		return coalesceOp(c)
	case c.name == "REQ_WITHOUT_QUERY" && opts.ReqWithoutQuery:
		if !c.has {
			return op{}, fmt.Errorf("%s requires parameters", c.name)
		}
		o, err := headerOp(opReq)(c)
		o.sub = 1
		return o, err
	}
	if why, ok := refusedOps[c.name]; ok {
		return op{}, fmt.Errorf("operator %s is not supported: %s", c.name, why)
	}
	d, ok := defs[c.name]
	if !ok {
		return op{}, fmt.Errorf("not supported field in StreamInfo: %s", c.name)
	}
	if err := checkShape(c, &d); err != nil {
		return op{}, err
	}
	return d.make(c)
}

func constant(s string) func(command) (op, error) {
	return func(command) (op, error) { return op{code: opConst, text: s, max: -1}, nil }
}

func hostname(command) (op, error) {
	h, err := os.Hostname()
	if err != nil {
		h = "-"
	}
	return op{code: opConst, text: h, max: -1}, nil
}

// headerOp reads NAME or NAME?ALTERNATIVE.
func headerOp(code opcode) func(command) (op, error) {
	return func(c command) (op, error) {
		main, alt, _ := strings.Cut(c.params, "?")
		if strings.Contains(alt, "?") {
			return op{}, fmt.Errorf("more than 1 alternative header specified in token: %s", c.params)
		}
		if !headerNameOK(main) || !headerNameOK(alt) {
			return op{}, errHeaderChars
		}
		return op{code: code, max: c.max, a: nameOf(code, main), b: nameOf(code, alt)}, nil
	}
}

// headerName is a header or pseudo-header to print; the zero value is none.
type headerName struct {
	key    httpmsg.Key
	pseudo pseudo
}

// pseudo is where the value of a pseudo-header lies.
type pseudo uint8

const (
	ordinary pseudo = iota
	pseudoMethod
	pseudoPath
	pseudoAuthority
	pseudoScheme
	pseudoStatus
	pseudoNone // a pseudo-header that this head does not have
)

// nameOf resolves a header name for the head that code prints.
func nameOf(code opcode, name string) headerName {
	n := headerName{key: key(name)}
	if n.key.Name == "" || n.key.Name[0] != ':' || code == opTrailer {
		return n
	}
	n.pseudo = pseudoNone
	switch {
	case code == opResp && n.key.Name == ":status":
		n.pseudo = pseudoStatus
	case code == opResp:
	case n.key.Name == ":method":
		n.pseudo = pseudoMethod
	case n.key.Name == ":path":
		n.pseudo = pseudoPath
	case n.key.Name == ":authority":
		n.pseudo = pseudoAuthority
	case n.key.Name == ":scheme":
		n.pseudo = pseudoScheme
	}
	return n
}

func key(name string) httpmsg.Key {
	name = strings.ToLower(name)
	if name == "host" {
		name = ":authority" // Host is no field but the authority, as in Envoy
	}
	return httpmsg.Key{Name: name, ID: httpmsg.Lookup(name)}
}

// headerNameOK allows the token characters of RFC 9110 section 5.6.2 after an optional ':'.
func headerNameOK(s string) bool {
	for _, c := range []byte(strings.TrimPrefix(s, ":")) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0 {
			continue
		}
		return false
	}
	return true
}

func timeOp(code opcode, local bool) func(command) (op, error) {
	return func(c command) (op, error) {
		f, err := compileTime(c.params, local)
		return op{code: code, max: -1, time: f}, err
	}
}

func detailsOp(c command) (op, error) {
	o := op{code: opCodeDetails, max: -1}
	if c.params == "ALLOW_WHITESPACES" {
		o.sub = 1
	}
	return o, nil
}

func durationOp(c command) (op, error) {
	p := strings.Split(c.params, ":")
	if len(p) < 2 || len(p) > 3 {
		return op{}, fmt.Errorf("invalid common duration configuration: %s", c.params)
	}
	o := op{code: opDuration, max: 1e6, sub: points[p[0]], sub2: points[p[1]]}
	if len(p) == 3 {
		switch p[2] {
		case "ms":
		case "us":
			o.max = 1e3
		case "ns":
			o.max = 1
		default:
			return op{}, fmt.Errorf("invalid common duration precision: %s", p[2])
		}
	}
	return o, nil
}

func maskedOp(which uint8) func(command) (op, error) {
	return func(c command) (op, error) {
		o := op{code: opAddr, sub: which, sub2: partIP, max: -1}
		if n, err := strconv.ParseUint(c.params, 10, 8); err == nil && n <= 128 {
			o.sub2, o.max = partMasked, int(n)
		}
		return o, nil
	}
}

func metaOp(source uint8) func(command) (op, error) {
	return func(c command) (op, error) {
		return op{code: opMeta, sub: source, max: c.max, path: strings.Split(c.params, ":")}, nil
	}
}

func metadataOp(c command) (op, error) {
	kind, rest, _ := strings.Cut(c.params, ":")
	source, ok := map[string]uint8{"DYNAMIC": metaDynamic, "CLUSTER": metaCluster, "ROUTE": metaRoute, "UPSTREAM_HOST": metaHost,
		"LISTENER": metaListener, "LISTENER_FILTER_CHAIN": metaChain, "VIRTUAL_HOST": metaVHost}[kind]
	if !ok {
		return op{}, fmt.Errorf("%s is not supported type of metadata", kind)
	}
	return op{code: opMeta, sub: source, max: c.max, path: strings.Split(rest, ":")}, nil
}

// Forms of a filter state value (sub).
const (
	stateTyped uint8 = iota
	statePlain
	stateField
)

func stateOp(code opcode) func(command) (op, error) {
	return func(c command) (op, error) {
		p := strings.SplitN(c.params, ":", 3)
		o := op{code: code, max: c.max, text: p[0]}
		if p[0] == "" {
			return o, fmt.Errorf("invalid filter state configuration, key cannot be empty")
		}
		if code == opFilterState && p[0] == GrpcStatsState {
			o.code = opGrpcMessages
		}
		if code == opFilterState && (p[0] == TunnelHeadState || p[0] == TunnelTrailersState) {
			o.code = opTunnelState
		}
		if len(p) == 1 {
			return o, nil
		}
		switch p[1] {
		case "", "TYPED":
		case "PLAIN":
			o.sub = statePlain
		case "FIELD":
			o.sub = stateField
		default:
			return o, fmt.Errorf("invalid filter state serialize type, only support PLAIN/TYPED/FIELD")
		}
		if (o.sub == stateField) != (len(p) == 3 && p[2] != "") {
			return o, fmt.Errorf("invalid filter state serialize type, FIELD should be used with the field name")
		}
		return o, nil
	}
}

func environmentOp(c command) (op, error) {
	v, ok := os.LookupEnv(c.params)
	if !ok {
		v = "-"
	} else if c.max >= 0 && c.max < len(v) {
		v = v[:c.max]
	}
	return op{code: opConst, text: v, max: -1}, nil
}

func grpcOp(c command) (op, error) {
	i, ok := map[string]uint8{"": 0, "CAMEL_STRING": 0, "SNAKE_STRING": 1, "NUMBER": 2}[c.params]
	if !ok {
		return op{}, fmt.Errorf("GRPC_STATUS only supports CAMEL_STRING, SNAKE_STRING or NUMBER, not %s", c.params)
	}
	return op{code: opGrpc, sub: i, max: -1}, nil
}

// Choices of PATH, QUERY_PARAMS and REQUESTED_SERVER_NAME.
const (
	fromOrigOrPlain uint8 = iota
	fromPlain
	fromOrig
)

func choice(c command, name, value string, names ...string) (uint8, error) {
	if value == "" {
		return 0, nil
	}
	for i, n := range names {
		if n == value {
			return uint8(i), nil
		}
	}
	return 0, fmt.Errorf("invalid %s option of %s: '%s', only '%s' are allowed", name, c.name, value, strings.Join(names, "'/'"))
}

func serverNameOp(c command) (op, error) {
	first, second, _ := strings.Cut(c.params, ":")
	a, err := choice(c, "fallback", first, "SNI_ONLY", "SNI_FIRST", "HOST_FIRST")
	if err != nil {
		return op{}, err
	}
	b, err := choice(c, "host", second, "ORIG_OR_HOST", "HOST", "ORIG")
	return op{code: opSNI, sub: a, sub2: b, max: -1}, err
}

func pathOp(c command) (op, error) {
	first, second, _ := strings.Cut(c.params, ":")
	a, err := choice(c, "query", first, "WQ", "NQ")
	if err != nil {
		return op{}, err
	}
	b, err := choice(c, "path", second, "ORIG_OR_PATH", "PATH", "ORIG")
	return op{code: opPath, sub: a, sub2: b, max: c.max}, err
}

func queryParamOp(c command) (op, error) {
	return op{code: opQueryParam, text: c.params, max: c.max}, nil
}

func queryParamsOp(c command) (op, error) {
	a, err := choice(c, "query", c.params, "ORIG", "DECODED")
	return op{code: opQueryParams, sub: a, max: c.max}, err
}

// coalesceOp reads {"operators": ["NAME", {"command": "NAME", "param": "…", "max_length": N}, …]}: the first that is not empty is printed.
func coalesceOp(c command) (op, error) {
	if !c.has {
		return op{}, fmt.Errorf("COALESCE requires parameters")
	}
	var cfg struct {
		Operators *[]json.RawMessage `json:"operators"`
	}
	if err := json.Unmarshal([]byte(c.params), &cfg); err != nil {
		return op{}, fmt.Errorf("COALESCE: failed to parse JSON configuration: %w", err)
	}
	if cfg.Operators == nil {
		return op{}, fmt.Errorf("COALESCE: JSON configuration must contain 'operators' array")
	}
	if len(*cfg.Operators) == 0 {
		return op{}, fmt.Errorf("COALESCE: 'operators' array must not be empty")
	}
	o := op{code: opCoalesce, max: c.max}
	for i, raw := range *cfg.Operators {
		sub, err := coalesceEntry(raw)
		if err != nil {
			return op{}, fmt.Errorf("COALESCE: failed to parse operator at index %d: %w", i, err)
		}
		o.ops = append(o.ops, sub)
	}
	return o, nil
}

func coalesceEntry(raw json.RawMessage) (op, error) {
	c := command{max: -1}
	if json.Unmarshal(raw, &c.name) == nil {
		return coalesceCommand(c)
	}
	var e struct {
		Command   *string `json:"command"`
		Param     *string `json:"param"`
		MaxLength *int64  `json:"max_length"`
	}
	if raw[0] != '{' {
		return op{}, fmt.Errorf("operator entry must be either a string (command name) or an object with 'command' field")
	}
	if err := json.Unmarshal(raw, &e); err != nil {
		return op{}, err
	}
	if e.Command == nil {
		return op{}, fmt.Errorf("operator object must have 'command' field")
	}
	c.name = *e.Command
	if e.Param != nil {
		c.params, c.has = *e.Param, *e.Param != ""
	}
	if e.MaxLength != nil {
		if *e.MaxLength <= 0 {
			return op{}, fmt.Errorf("'max_length' must be a positive integer")
		}
		c.max = int(*e.MaxLength)
	}
	return coalesceCommand(c)
}

func coalesceCommand(c command) (op, error) {
	if c.name == "COALESCE" {
		return op{}, fmt.Errorf("COALESCE inside COALESCE is not supported")
	}
	if _, known := defs[c.name]; !known && refusedOps[c.name] == "" {
		return op{}, fmt.Errorf("unknown command: '%s'", c.name)
	}
	return compileCommand(c, Options{})
}
