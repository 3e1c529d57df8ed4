// SPDX-License-Identifier: Apache-2.0

// Package http2 is HTTP/2 (RFC 9113, with the extended CONNECT of RFC 8441) as a pure machine: a Conn is one connection in either role. It does no I/O, reads
// no clock and no randomness of its own, and does not care where the input is cut: any split gives the same events.
//
// Input is pulled: Next takes bytes and fills at most one Event. Output is appended to a buffer that the owner writes once per turn (Pending, Sent). Nothing calls
// back: a stream that was refused credit comes out of NextWritable when there is some again, and what is due in time comes from Deadline.
//
// The machine holds no payload. A Data event is a view of the input; the owner forwards or keeps it, and returns its window with Consumed when the
// bytes have left for the other side. Heads are decoded into the owner's arena. What a Conn does hold is bounded: a header block that is split over frames by
// Options.MaxHeaderBytes and a frame, output by Options.OutputLimit plus what the flood limits allow, streams by Options.MaxConcurrentStreams.
//
// An owner drives a connection like this, with its own input, and once per turn its own output:
//
//	for {
//		ev.Head = … // server: an empty head for the next request
//		n, st := c.Next(in, now, &ev)
//		in = in[n:]
//		if st != Got {
//			break // NeedMore: read on; Blocked: write first; Failed: write, Release every stream (Oldest), close, Free
//		}
//		… // by ev.Kind; a stream that is over for the owner is released
//	}
//	for s := c.NextWritable(); s != nil; s = c.NextWritable() {
//		… // SendData until it takes less than it is given
//	}
//	if connection holds no output {
//		p := c.Pending()
//		connection.Send(p)
//		c.Sent(len(p))
//	}
//	arm the timer for c.Deadline(); when it fires: c.OnTime(now), and as above with no input
//
// Messages are of the version-neutral form of httpmsg, with Envoy's conventions: cookie crumbs are joined, Host is Authority, an extended CONNECT is a GET with
// Upgrade set, its 200 a 101.
package http2
