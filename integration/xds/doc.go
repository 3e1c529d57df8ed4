// SPDX-License-Identifier: Apache-2.0

// Package xds tests the running program against control planes: a scripted one that tells every request apart and can lie, flood, stall and send
// garbage, and a real go-control-plane server under load. Both protocol variants. The same script can be played to the real Envoy: with
// XDS_ORACLE=1 in the environment every test of behaviour that is meant to be equal runs against the envoy binary in PATH instead.
//
// Owner: tests only. Ports 27000-27999 on loopback.
package xds
