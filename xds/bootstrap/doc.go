// SPDX-License-Identifier: Apache-2.0

// Package bootstrap reads the file people already give to Envoy: an envoy.config.bootstrap.v3.Bootstrap as YAML or JSON, merged with
// --config-yaml, overridden by command-line flags, checked field by field.
//
// Reading is tolerant where Envoy is (snake and camel case, trailing commas, `!ignore` keys, quoted numbers, enum names in any case) and
// exact where Envoy is: plain `n`, `y`, `yes`, `on`, `off` in YAML are booleans, numbers in node.metadata of a YAML file that are not
// 32-bit integers become strings. Every error of the file is reported, each with its field path. An extension whose message is not linked
// in is kept as a TypedStruct, so that its compiler can name and refuse it.
//
// What is set and not honoured is refused with its path, or listed in Config.Warnings where it only advises, tunes, or waits for a later
// issue without harm.
//
// Owner: internal/app, before anything else runs. Limits: a file of 64 MiB, nesting of 100.
package bootstrap
