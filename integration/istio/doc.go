// SPDX-License-Identifier: Apache-2.0

// Package istio tests the running program with what a real istiod sent (testdata, see NOTICE there): as received, every resource is accepted or
// refused by name with the reason (testdata/golden); and without Istio's filters, TLS and HTTP/2 (see Strip), every listener serves traffic inside a
// network namespace with the interception rules of Istio, original destinations included.
//
// The namespace part needs root and iptables; without them it prints one line and is skipped.
package istio
