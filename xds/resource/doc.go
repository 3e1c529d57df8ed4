// SPDX-License-Identifier: Apache-2.0

// Package resource turns what a control plane sent into typed, validated, named messages with a content hash, one resource at a time and
// in isolation, so that one bad resource never costs its siblings.
//
// Stages: Peek finds the name without decoding; Decode unwraps, checks the size, unmarshals and runs the generated validation with every
// violation reported by field path. Compilation (package compile) comes after. Every failure is an *Error that carries type, name, path
// and reason; text from the network can make a resource fail but never panic.
//
// Owner: control tower. All functions are pure and safe for concurrent use.
package resource
