// SPDX-License-Identifier: Apache-2.0

// Command bench measures sidecar beside nginx, HAProxy, Envoy and Go's io.Copy on this machine and prints ratios.
//
//	go run ./integration/bench -rounds 9 -json bench.json -svg bench.svg
//	go run ./integration/bench -rounds 9 -scenarios 'h1-*,tcp-pingpong'
//
// Method: every proxy runs alone on core -proxy-cpu, the load generator and the backend on -load-cpu (and -backend-cpu, when there are three
// cores); one worker each; keep-alive on both sides, access log and statistics on, X-Forwarded-For, X-Forwarded-Proto and X-Request-Id added,
// routing by prefix. Rounds are interleaved: in each round every peer is measured once, the order rotates, and ratios are taken inside a
// round, because the machine changes between rounds. Absolute numbers hold for one machine and one hour; ratios are what counts.
// CPU is that of all threads of all processes of the proxy between the edges of the load generator's window. Latencies are compared only in
// the open loop, from the time a request was due. A peer that is not installed is left out with a line that says so.
package main
