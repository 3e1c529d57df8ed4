// SPDX-License-Identifier: Apache-2.0

// Package archtest keeps the house in order: its tests walk the imports and the syntax of the whole module and fail on anything that the
// architecture does not allow. Deliberate exceptions are listed in rules_test.go, each with its reason; an exception that is not needed any more fails too.
package archtest
