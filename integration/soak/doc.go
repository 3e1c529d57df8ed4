// SPDX-License-Identifier: Apache-2.0

// Package soak drives the real sidecar process with seeded random traffic from ordinary and from hostile peers, and checks every byte.
//
//	go test ./integration/soak                              # a few seconds
//	SOAK=60s go test ./integration/soak -v                  # longer
//	SOAK_SEED=7 SOAK=20s go test ./integration/soak         # the traffic of one seed again
//	SOAK_BIN=./sidecar go test ./integration/soak           # a binary that is built already
//	SOAK_PORTS=29000-29499 SOAK_CLIENTS=24                  # defaults
//
// One test runs with a static configuration; in the other clusters, hosts, routes and listeners change several times a second by watched files. Among
// the clients are vandals, who send what two readers could understand differently; a backend that sees what they hide fails the run.
//
// Every request carries its own script: what the backend does with it, and what the client must see. Bodies are functions of the request's id, so
// that both ends check each byte without sharing memory. The seed fixes the scripts of every client; how they interleave is up to the machine.
package soak
