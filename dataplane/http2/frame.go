// SPDX-License-Identifier: Apache-2.0

package http2

import "encoding/binary"

// Code is an error code (RFC 9113 section 7).
type Code uint32

// The error codes.
const (
	CodeNo Code = iota
	CodeProtocol
	CodeInternal
	CodeFlowControl
	CodeSettingsTimeout
	CodeStreamClosed
	CodeFrameSize
	CodeRefusedStream
	CodeCancel
	CodeCompression
	CodeConnect
	CodeEnhanceYourCalm
	CodeInadequateSecurity
	CodeHTTP11Required
)

var codeNames = [...]string{"NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED", "FRAME_SIZE_ERROR",
	"REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED"}

// String returns the name of RFC 9113; unknown codes, which mean INTERNAL_ERROR, have none.
func (c Code) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return "UNKNOWN"
}

// frameType is the type of a frame (RFC 9113 section 6).
type frameType uint8

const (
	ftData frameType = iota
	ftHeaders
	ftPriority
	ftRstStream
	ftSettings
	ftPushPromise
	ftPing
	ftGoaway
	ftWindowUpdate
	ftContinuation
)

const (
	flagEndStream  = 0x1
	flagAck        = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20
)

// settingID is the identifier of a setting (RFC 9113 section 6.5.2, RFC 8441 section 3).
type settingID uint16

const (
	setHeaderTableSize      settingID = 1
	setEnablePush           settingID = 2
	setMaxConcurrentStreams settingID = 3
	setInitialWindowSize    settingID = 4
	setMaxFrameSize         settingID = 5
	setMaxHeaderListSize    settingID = 6
	setEnableConnect        settingID = 8
)

const (
	frameHeader = 9

	// maxStreamID is the last stream identifier, and what the GOAWAY of a graceful shutdown says first.
	maxStreamID = 1<<31 - 1

	// maxWindow is the largest window (RFC 9113 section 6.9.1).
	maxWindow = 1<<31 - 1

	// initialWindow is the size of all windows before SETTINGS (section 6.9.2).
	initialWindow = 1<<16 - 1
)

// preface is what a client sends first (section 3.4).
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// header is a frame header (section 4.1).
type header struct {
	length uint32
	typ    frameType
	flags  byte
	id     uint32
}

func parseHeader(b []byte) header {
	_ = b[8]
	return header{
		length: uint32(b[0])<<16 | uint32(b[1])<<8 | uint32(b[2]), typ: frameType(b[3]), flags: b[4],
		id: binary.BigEndian.Uint32(b[5:]) & maxStreamID,
	}
}

func appendHeader(b []byte, length int, t frameType, flags byte, id uint32) []byte {
	return append(b, byte(length>>16), byte(length>>8), byte(length), byte(t), flags, byte(id>>24), byte(id>>16), byte(id>>8), byte(id))
}

func putLength(b []byte, n int) { b[0], b[1], b[2] = byte(n>>16), byte(n>>8), byte(n) }
