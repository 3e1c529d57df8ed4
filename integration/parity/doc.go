// SPDX-License-Identifier: Apache-2.0

// Package parity puts one Envoy bootstrap and one list of requests through the real Envoy and through sidecar and compares everything a
// client, a backend, an operator or a dashboard can see: status, header fields, bodies, how connections end, what the backend received,
// access-log lines, and the full set of counters and gauges that moved.
//
// Cases are data: cases/PART/NAME.yaml holds one bootstrap and the cases that share it; cases/PART/NAME.golden beside it holds what
// Envoy 1.40.0 answered. The comparison needs no Envoy: it runs sidecar against the recorded answers. Recording needs one:
//
//	go run ./integration/parity/cmd/parity -record -envoy PATH -case 'http1/*'
//	go run ./integration/parity/cmd/parity -ours PATH -case 'routing/*'        # against the goldens
//	go run ./integration/parity/cmd/parity -live -envoy PATH -ours PATH         # against a live Envoy
//	go test ./integration/parity                                                # the goldens, one subtest per case
//
// # The file
//
// A group names listeners and clusters in a short form that Bootstrap expands (or gives a complete `raw` bootstrap), and lists cases. Text
// that goes on the wire (send, body, backend replies) uses backslash escapes (\r \n \t \\ \0 \xHH), so every byte can be written.
// Placeholders, valid anywhere in the bootstrap and in wire text: ${port:NAME} is the port of listener or backend NAME, ${addr:NAME} is
// 127.0.0.1:port, ${admin} is the admin port, ${dir} is the scratch directory of the run; ${pem:NAME}, ${key:NAME} and ${crl:NAME} are files
// that hold a certificate of the harness (pkiSpecs) with its chain, its key, and an authority's revocation list; ${hash:NAME} and ${spki:NAME}
// are its hashes.
//
// # HTTP/2 and TLS
//
// A client connection with `h2: true` speaks HTTP/2: `req` opens a stream, `frames` sends any frame, well-formed or not. A backend speaks HTTP/2
// to whoever begins with its preface. Both ends show a connection as its streams by number: fields, content joined, END_STREAM or RST_STREAM with
// its code, and then GOAWAY. SETTINGS, PING and WINDOW_UPDATE are left out unless `show` names them. How an end compresses heads and when it
// returns windows is its own business: statistics that count bytes of such a connection are compared without their numbers ("moved").
//
// `tls` on a client connection, `backend_tls` on the group and `tls` on listeners and clusters put TLS on either side, with certificates that the
// harness makes.
//
// # Isolation
//
// One process serves all cases of a group, one after the other. At the end of a case the harness closes every client connection, takes
// the statistics, then closes every backend connection and waits until the proxy's connection gauges are back to zero, so that no pooled
// connection leaks into the next case. Run order is file order, and a run of a single case gives the same answer.
package parity
