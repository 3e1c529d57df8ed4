// SPDX-License-Identifier: Apache-2.0

package http1

import (
	"bytes"

	"sidecar/dataplane/httpmsg"
)

// What Envoy counts of heads and trailers on the wire (%DOWNSTREAM_HEADER_BYTES_RECEIVED% and its like): neither first nor empty line, and of a field that was
// received the separator without blanks.

// ReceivedHead counts a head that was received. Call it before anything is changed.
func ReceivedHead(h *httpmsg.Head) uint64 {
	n := ReceivedTrailers(&h.Fields)
	if h.Status == 0 && h.HostCount > 0 {
		n += uint64(len("host:\r\n")) + uint64(h.Authority.Len)
	}
	return n
}

// ReceivedTrailers counts trailers that were received.
func ReceivedTrailers(f *httpmsg.Fields) (n uint64) {
	for i := range f.List {
		n += uint64(f.List[i].Name.Len) + uint64(f.List[i].Value.Len) + uint64(len(":\r\n"))
	}
	return n
}

// SentHead counts a head as AppendRequestHead and AppendResponseHead made it.
func SentHead(head []byte) uint64 {
	return uint64(max(len(head)-bytes.IndexByte(head, '\n')-len("\n\r\n"), 0))
}

// SentTrailers counts trailers as AppendLastChunk sends them.
func SentTrailers(f *httpmsg.Fields) (n uint64) {
	for i := range f.List {
		if l := &f.List[i]; !l.Dead && !forbiddenTrailer(l.ID) {
			n += uint64(l.Name.Len) + uint64(l.Value.Len) + uint64(len(": \r\n"))
		}
	}
	return n
}
