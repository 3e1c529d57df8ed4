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
// 127.0.0.1:port, ${admin} is the admin port, ${dir} is the scratch directory of the run.
//
// # Isolation
//
// One process serves all cases of a group, one after the other. At the end of a case the harness closes every client connection, takes
// the statistics, then closes every backend connection and waits until the proxy's connection gauges are back to zero, so that no pooled
// connection leaks into the next case. Run order is file order, and a run of a single case gives the same answer.
package parity
