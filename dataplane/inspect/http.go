// SPDX-License-Identifier: Apache-2.0

package inspect

import (
	"bytes"

	"sidecar/dataplane/httpmsg"
)

// MaxRequestLine bounds what HTTP looks at, as in Envoy's http_inspector.
const MaxRequestLine = 8192

// Preface is the HTTP/2 client connection preface (RFC 9113 section 3.4).
const Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// HTTP recognises the first request line (ended by CRLF or LF) or the HTTP/2 preface. version is meaningful with Match; it decides the application
// protocol: http/1.0, http/1.1 or h2c.
func HTTP(prefix []byte) (version httpmsg.Version, v Verdict) {
	n := min(len(prefix), len(Preface))
	if string(prefix[:n]) == Preface[:n] {
		if n == len(Preface) {
			return httpmsg.HTTP2, Match
		}
		return 0, NeedMore
	}
	line := prefix[:min(len(prefix), MaxRequestLine)]
	end := bytes.IndexByte(line, '\n')
	if end >= 0 {
		line = line[:end]
	}
	sp := bytes.IndexByte(line, ' ')
	if sp < 0 {
		const longest = len("UNSUBSCRIBE")
		if end >= 0 || len(line) > longest {
			return 0, NoMatch
		}
		for _, c := range line {
			if c < 'A' || c > 'Z' {
				return 0, NoMatch
			}
		}
		return 0, NeedMore
	}
	if m := line[:sp]; httpmsg.ParseMethod(m) == httpmsg.MethodOther && !httpmsg.KnownMethod(m) {
		return 0, NoMatch
	}
	if end < 0 {
		if len(prefix) >= MaxRequestLine {
			return 0, NoMatch
		}
		return 0, NeedMore
	}
	line = bytes.TrimSuffix(line, []byte{'\r'})
	last := bytes.LastIndexByte(line, ' ')
	if last == sp {
		return 0, NoMatch
	}
	switch string(line[last+1:]) {
	case "HTTP/1.1":
		return httpmsg.HTTP11, Match
	case "HTTP/1.0":
		return httpmsg.HTTP10, Match
	}
	return 0, NoMatch
}
