// SPDX-License-Identifier: Apache-2.0

// Package lifecycle tests the life of the real program: command line, start, signals, drains, bad input, exit codes. Every test starts processes of
// its own on ports that the kernel picks; none needs root.
package lifecycle
